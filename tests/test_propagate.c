/* Calibration through quantised layers: the second moments of a layer are those of the stream that the quantised layers
 * before it make, also where that stream is rotated and where bits were shared out first (docs/quantisers.md). */
#include "tests/model_fixtures.h"
#include "tests/scratch.h"

#include "model/turned.h"
#include "quant/propagate.h"
#include "quant/quant_size.h"
#include "quant/turned_grams.h"

enum { N_LAYERS = 2, D = 64, N_PACKED = D * (D + 1) / 2 };

static fixture f;
static qs_backend *backend;

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    f = fixture_open("qwen2");
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    assert_true(f.config->n_layers == N_LAYERS && f.config->d_model == D);
    return 0;
}

static int stop(void **state)
{
    qs_backend_destroy(backend);
    fixture_close(&f);
    return scratch_remove(state);
}

/* What a propagation leaves: layers as they were quantised, and second moments of the input of q, k and v. */
typedef struct run {
    qs_quant_layer layers[N_LAYERS];
    float grams[N_LAYERS][N_PACKED];
} run;

static void keep(run *r, qs_collector *collector, int64_t layer)
{
    const float *packed;
    OK(qs_collector_gram(collector, layer, QS_SITE_QKV, &packed));
    memcpy(r->grams[layer], packed, sizeof r->grams[layer]);
}

/* As stages/calibrate.c does it, with the fixture's tokens as one window. */
static void propagate(run *r, const qs_spec *spec)
{
    const qs_block_options options = {.uses = QS_USE_GEMM, .dense_dtype = QS_F32};
    qs_collector collector;
    qs_propagation *p;
    qs_block *block;
    qs_scratch *scratch;
    float *hidden = floats(N_TOKENS * D), *probe = floats(N_TOKENS * D);
    OK(qs_propagation_check(f.model, spec));
    OK(qs_collector_init(&collector, backend, f.config));
    OK(qs_propagation_create(&p, backend, f.model, spec, &collector, f.tokens, 1, N_TOKENS));
    OK(qs_scratch_create(&scratch, backend, f.model, N_TOKENS));
    OK(qs_block_create(&block, backend, f.model, NULL, 0, &options));
    qs_tap tap = qs_collector_tap(&collector);
    assert_int_equal(qs_propagation_measures(p), spec->bpw > 0);
    OK(qs_forward_embed(backend, f.model, f.tokens, N_TOKENS, hidden));
    for (int64_t layer = 0; qs_propagation_measures(p) && layer < N_LAYERS; layer++) {
        OK(qs_collector_clear(&collector));
        OK(qs_block_load(block, NULL, layer));
        OK(qs_block_forward(block, scratch, hidden, 1, N_TOKENS, &tap));
        OK(qs_propagation_measure(p, layer));
    }
    OK(qs_propagation_share(p));
    OK(qs_propagation_embed(p, f.tokens, N_TOKENS, hidden));
    for (int64_t layer = 0; layer < N_LAYERS; layer++) {
        OK(qs_collector_clear(&collector));
        OK(qs_block_load(block, NULL, layer));
        OK(qs_propagation_probe(p, hidden, N_TOKENS, probe));
        OK(qs_block_forward(block, scratch, probe, 1, N_TOKENS, &tap));
        OK(qs_propagation_layer(p, layer, &r->layers[layer]));
        keep(r, &collector, layer);
        qs_linear_source source = qs_quant_layer_source(&r->layers[layer]);
        OK(qs_block_load(block, &source, layer));
        OK(qs_block_forward(block, scratch, hidden, 1, N_TOKENS, NULL));
    }
    qs_block_destroy(block);
    qs_scratch_destroy(scratch);
    qs_propagation_destroy(p);
    qs_collector_fini(&collector);
    qs_mem_free(hidden);
    qs_mem_free(probe);
}

/* ---- the same from the quantised layers alone ---- */

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_linear_source source = qs_quant_layer_source(&((run *)context)->layers[layer]);
    return source.get(source.context, layer, role, desc);
}

static qs_err get_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    qs_linear_source source = qs_quant_layer_source(&((run *)context)->layers[layer]);
    return source.get_vector(source.context, layer, role, n, dst, found);
}

static double seen[N_LAYERS][N_PACKED];

static qs_err see(void *context, int64_t layer, qs_site site, const float *x, int64_t n, int64_t width)
{
    (void)context;
    if (site != QS_SITE_QKV) return QS_OK;
    for (int64_t i = 0, at = 0; i < width; i++)
        for (int64_t j = i; j < width; j++, at++)
            for (int64_t t = 0; t < n; t++) seen[layer][at] += (double)x[t * width + i] * (double)x[t * width + j];
    return QS_OK;
}

static qs_err get_kept(void *context, int64_t layer, qs_site site, const float **packed, int64_t *n_tokens)
{
    (void)site;
    *packed = ((run *)context)->grams[layer];
    *n_tokens = N_TOKENS;
    return QS_OK;
}

static double distance(const float *a, const double *b)
{
    double off = 0, size = 0;
    for (int64_t i = 0; i < N_PACKED; i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        size += b[i] * b[i];
    }
    return sqrt(off / size);
}

static void free_layers(run *r)
{
    for (int l = 0; l < N_LAYERS; l++) qs_quant_layer_free(&r->layers[l]);
}

static void test_stream(void **state)
{
    (void)state;
    static const char *const texts[] = {"gptq:bits=3,group=32", "gptq:bits=3,group=32,rotate=1", "gptq:bpw=3.9",
                                        "exl2:bpw=4,rotate=1"};
    static run r;
    float *hidden = floats(N_TOKENS * D);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        qs_spec spec;
        qs_model *model = f.model;
        qs_turned_grams *turned = NULL;
        qs_tap tap = {.see = see};
        OK(qs_spec_parse(&spec, texts[i]));
        propagate(&r, &spec);
        qs_gram_source grams = {.get = get_kept, .context = &r}, origin = grams;
        if (spec.rotate) {
            OK(qs_model_turn(f.model, &model));
            OK(qs_turned_grams_create(&turned, model, &origin));
            grams = qs_turned_grams_source(turned);
        }
        qs_linear_source source = {.get = get_linear, .get_vector = get_vector, .context = &r,
                                   .outer = spec.rotate ? model : NULL};
        memset(seen, 0, sizeof seen);
        OK(qs_forward_hidden(backend, model, &source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, &tap, hidden));
        for (int64_t layer = 0; layer < N_LAYERS; layer++) {
            const float *packed;
            int64_t n_tokens;
            OK(grams.get(grams.context, layer, QS_SITE_QKV, &packed, &n_tokens));
            double off = distance(packed, seen[layer]);
            print_message("%-30s layer %d: off by %.1e\n", spec.id, (int)layer, off);
            assert_true(off < 1e-5);
        }
        qs_turned_grams_destroy(turned);
        free_layers(&r);
    }
    qs_mem_free(hidden);
}

/* A budget is spent, and unevenly where that pays. */
static void test_budget(void **state)
{
    (void)state;
    static run r;
    qs_spec spec;
    int64_t bits = 0, narrowest = 8, widest = 0;
    OK(qs_spec_parse(&spec, "gptq:bpw=4.1"));
    propagate(&r, &spec);
    for (int i = 0; i < N_LAYERS * QS_N_LINEARS; i++) {
        const qs_packed *p = &r.layers[i / QS_N_LINEARS].linears[i % QS_N_LINEARS].packed;
        bits += qs_packed_stored_bits(p);
        narrowest = p->bits < narrowest ? p->bits : narrowest;
        widest = p->bits > widest ? p->bits : widest;
    }
    double bpw = qs_quant_size_of_bits(bits, 0, f.model).bpw;
    assert_true(bpw <= 4.1 && bpw > 3.7 && narrowest < widest);
    free_layers(&r);
    OK(qs_spec_parse(&spec, "gptq:bpw=2"));
    FAILS(QS_E_USAGE, qs_propagation_check(f.model, &spec));
    TEXT_HOLDS("cannot be reached");
}

/* The probe is the model's own stream: turned there and back again. */
static void test_probe(void **state)
{
    (void)state;
    float *hidden = floats(N_TOKENS * D), *probe = floats(N_TOKENS * D), *own = floats(N_TOKENS * D);
    qs_collector collector;
    qs_propagation *p;
    qs_spec spec;
    OK(qs_spec_parse(&spec, "rtn:bits=4,group=32,rotate=1"));
    OK(qs_collector_init(&collector, backend, f.config));
    OK(qs_propagation_create(&p, backend, f.model, &spec, &collector, f.tokens, 1, N_TOKENS));
    OK(qs_propagation_embed(p, f.tokens, N_TOKENS, hidden));
    OK(qs_propagation_probe(p, hidden, N_TOKENS, probe));
    OK(qs_forward_embed(backend, f.model, f.tokens, N_TOKENS, own));
    assert_true(max_abs_diff(hidden, own, N_TOKENS * D) > 1e-2);
    assert_true(max_abs_diff(probe, own, N_TOKENS * D) < 1e-6);
    qs_propagation_destroy(p);
    qs_collector_fini(&collector);
    qs_mem_free(hidden);
    qs_mem_free(probe);
    qs_mem_free(own);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stream), cmocka_unit_test(test_budget),
                                       cmocka_unit_test(test_probe)};
    return cmocka_run_group_tests_name("propagate", tests, start, stop);
}
