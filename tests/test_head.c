/* The output head as one more EXL2 matrix (exl2:head=): solved with the second moments of its own input, in the
 * artifact, in front of logits by every path, in the sizes, and with a rotated stream (checklist E0, A20). */
static const char *const point_texts[] = {"exl2:bpw=7.5,head=16", "exl2:bpw=7.5,head=8", "exl2:bpw=7.5,head=6",
                                          "exl2:bpw=7.5,head=4", "exl2:bpw=7.5,head=2", "exl2:bpw=7.5,head=4,rotate=1"};
enum { N_POINTS = sizeof point_texts / sizeof *point_texts, H16 = 0, H4 = 3, H2 = 4, ROTATED = 5 };

#include "tests/point_fixture.h"

#include "tests/described.h"

#include "metric/memory.h"
#include "metric/score.h"
#include "model/turned.h"
#include "stat/stats.h"

/* The head's input: of the fixture's tokens. */
static qs_err get_head_gram(void *context, const float **packed, int64_t *n_tokens)
{
    (void)context;
    int64_t d = f.config->d_model;
    float *to = room;
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = i; j < d; j++, to++) {
            double sum = 0;
            for (int64_t t = 0; t < N_TOKENS; t++) sum += (double)f.hidden[t * d + i] * (double)f.hidden[t * d + j];
            *to = (float)sum;
        }
    *packed = room;
    *n_tokens = N_TOKENS;
    return QS_OK;
}

static const qs_gram_source grams = {.get = get_gram, .get_head = get_head_gram};

static int start(void **state) { return points_start(state, &grams); }

/* Final hidden states [N_TOKENS, d_model] of a point. */
static float *hidden_of(qs_quant_file *file)
{
    qs_linear_source source = qs_quant_file_source(file);
    float *hidden = floats(N_TOKENS * f.config->d_model);
    OK(qs_forward_hidden(backend, qs_quant_file_model(file), &source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS,
                         NULL, hidden));
    return hidden;
}

/* What the definition of packed.h makes of them. */
static float *defined_logits(const qs_packed *head, const float *hidden)
{
    float *w = floats(head->n_out * head->n_in), *logits = floats(N_TOKENS * head->n_out);
    qs_packed_dequant_rows(head, 0, head->n_out, w);
    for (int64_t t = 0; t < N_TOKENS; t++)
        for (int64_t o = 0; o < head->n_out; o++) {
            double sum = 0;
            for (int64_t j = 0; j < head->n_in; j++)
                sum += (double)w[o * head->n_in + j] * (double)hidden[t * head->n_in + j];
            logits[t * head->n_out + o] = (float)sum;
        }
    qs_mem_free(w);
    return logits;
}

/* Scored from whole windows and decoded token by token, logits are the head's; fewer bits are further from those of the
 * head as it was. The head of a rotated point is in the rotated basis, and as good. */
static void test_logits(void **state)
{
    (void)state;
    int64_t n_vocab = f.config->n_vocab, n_logits = N_TOKENS * n_vocab;
    double largest = largest_logit(), off[N_POINTS] = {0};
    for (int i = 1; i < N_POINTS; i++) {
        qs_quant_file *file = open_point(i);
        qs_linear_source source = qs_quant_file_source(file);
        const qs_model *model = qs_quant_file_model(file);
        qs_matrix_desc desc;
        qs_matrix *head;
        qs_scorer *scorer;
        qs_decoder *decoder;
        const qs_decoder_options options = {.batch = 1, .n_ctx_cap = N_TOKENS, .block = {.dense_dtype = QS_F16}};
        for (int64_t layer = 0; layer < f.config->n_layers; layer++)
            for (qs_role role = 0; role < QS_N_LINEARS; role++) assert_described(&source, layer, role);
        assert_described(&source, 0, QS_ROLE_HEAD);
        OK(source.get_head(source.context, &desc));
        assert_true(desc.n_out == n_vocab && desc.n_in == f.config->d_model);
        float *hidden = hidden_of(file), *wanted = defined_logits(desc.packed, hidden), *logits = floats(n_logits);
        OK(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
        off[i] = max_abs_diff(wanted, logits, n_logits) / largest;
        OK(qs_scorer_create(&scorer, backend, f.model, QS_COMPUTE_F32));
        OK(qs_scorer_make_head(&head, backend, model, &source, QS_COMPUTE_F32));
        OK(qs_scorer_logits(scorer, head, hidden, N_TOKENS, logits));
        assert_true(max_abs_diff(logits, wanted, n_logits) < 1e-4 * largest);
        OK(qs_decoder_create(&decoder, backend, model, &source, &options));
        OK(qs_decoder_prefill(decoder, 0, f.tokens, N_TOKENS - 1, logits));
        OK(qs_decoder_step(decoder, f.tokens + N_TOKENS - 1, logits));
        assert_true(max_abs_diff(logits, wanted + (N_TOKENS - 1) * n_vocab, n_vocab) < 1e-2 * largest);
        print_message("%-24s logits off by %.1e\n", specs[i].id, off[i]);
        qs_decoder_destroy(decoder);
        qs_matrix_destroy(head);
        qs_scorer_destroy(scorer);
        qs_mem_free(hidden);
        qs_mem_free(wanted);
        qs_mem_free(logits);
        qs_quant_file_close(file);
    }
    assert_true(off[1] < 0.01 && off[H4] > 4 * off[1] && off[H2] > 3 * off[H4]);
    assert_true(off[ROTATED] < 2 * off[H4]);
}

/* The blocks are those of the point without; the head is what the solver makes of it alone, better than rounding, and
 * the same for any number of threads. */
static void test_solved(void **state)
{
    (void)state;
    qs_quant_file *with = open_point(H4), *without = open_point(H16);
    qs_linear_source a = qs_quant_file_source(with), b = qs_quant_file_source(without);
    qs_matrix_desc own, other;
    double loss;
    assert_null(b.get_head);
    OK(a.get(a.context, 1, QS_ROLE_DOWN, &own));
    OK(b.get(b.context, 1, QS_ROLE_DOWN, &other));
    assert_memory_equal(own.packed->codes, other.packed->codes, (size_t)(own.packed->n_out * own.packed->row_bytes));
    OK(qs_artifact_get_real(qs_quant_file_artifact(with), QS_QUANT_HEAD "/@loss", &loss));
    OK(a.get_head(a.context, &own));

    qs_workspace *workspace;
    qs_factor_cache *factors;
    qs_quant_result alone, rounded;
    qs_spec spec, rtn;
    const float *gram;
    int64_t n_tokens, n = own.n_out * own.n_in;
    float *weights = floats(n);
    OK(qs_spec_parse(&rtn, "rtn:bits=4,group=32"));
    assert_true(qs_spec_head(&specs[H4], &spec) && !qs_spec_head(&specs[H16], &rtn));
    OK(qs_spec_parse(&rtn, "rtn:bits=4,group=32"));
    OK(get_head_gram(NULL, &gram, &n_tokens));
    OK(qs_workspace_create(&workspace, backend));
    OK(qs_factor_cache_create(&factors, workspace, gram, own.n_in, n_tokens, "head"));
    OK(qs_model_read_f32(f.model, QS_ROLE_HEAD, 0, weights));
    qs_quant_job job = {.name = "head", .weights = weights, .n_out = own.n_out, .n_in = own.n_in, .factors = factors};
    qs_quant_task tasks[] = {{.spec = &spec, .job = &job, .out = &alone}, {.spec = &rtn, .job = &job, .out = &rounded}};
    OK(qs_quant_solve(workspace, tasks, 2));
    assert_memory_equal(alone.packed.codes, own.packed->codes, (size_t)(own.n_out * own.packed->row_bytes));
    assert_memory_equal(alone.packed.scale_max, own.packed->scale_max, (size_t)own.packed->n_groups * 2);
    assert_true(alone.loss == loss && loss > 0 && loss < 0.5 * rounded.loss);
    qs_packed_free(&alone.packed);
    qs_packed_free(&rounded.packed);
    qs_factor_cache_destroy(factors);
    qs_workspace_destroy(workspace);
    qs_mem_free(weights);
    qs_quant_file_close(with);
    qs_quant_file_close(without);

    qs_backend *three;
    qs_quant_inputs inputs = {.model = f.model};
    qs_quant_point again[2];
    qs_spec some[] = {specs[ROTATED], specs[H4]};
    scratch_path dir;
    OK(qs_dir_create(scratch(dir, "again")));
    OK(qs_backend_create(&three, "cpu", 0, 3));
    OK(qs_quant_points_find(again, dir, &inputs, some, 2));
    OK(qs_quant_points_run(again, 2, &inputs, three, &grams, NULL));
    qs_backend_destroy(three);
    assert_memory_equal(&again[0].digest, &points[ROTATED].digest, sizeof again[0].digest);
    assert_memory_equal(&again[1].digest, &points[H4].digest, sizeof again[1].digest);
}

/* By hand: 320 x 64 in 32 columns of 6 and 32 of 4 bits; the embedding stays as it was, in f16. bpw is of the
 * blocks. */
static void test_size(void **state)
{
    (void)state;
    const int64_t head_bits = 320 * (32 * 6 + 32 * 4 + 2 * 4) + 2 * 48 + 64 * 32;
    qs_quant_file *with = open_point(H4), *without = open_point(H16);
    qs_quant_size size = qs_quant_file_size(with), plain = qs_quant_file_size(without);
    assert_int_equal(size.bytes - plain.bytes, head_bits / 8);
    assert_true(size.bpw == plain.bpw && size.bpw_total > plain.bpw_total);
    assert_int_equal(qs_quant_head_bits(&specs[H4], f.model), head_bits);
    assert_int_equal(qs_quant_head_bits(&specs[ROTATED], f.model), head_bits);
    assert_int_equal(qs_quant_head_bits(&specs[H16], f.model), 0);
    assert_int_equal(qs_quant_head_bits(NULL, f.model), 0);
    /* deployed: the embedding counts beside it */
    qs_linear_source source = qs_quant_file_source(with);
    qs_deployment deployment;
    qs_deployment_options options = {.backend = "cpu",
                                     .n_threads = 1,
                                     .n_ctx_cap = 4,
                                     .expected_bytes = (size_t)size.bytes};
    OK(qs_deployment_create(&deployment, f.model, &source, &options));
    double held = (double)deployment.use.measured_bytes, expected = (double)size.bytes;
    assert_true(fabs(held - expected) < 0.1 * expected);
    assert_int_equal(deployment.use.n_quantised, f.config->n_layers * QS_N_LINEARS);
    qs_deployment_destroy(&deployment);
    qs_quant_file_close(with);
    qs_quant_file_close(without);
    /* planned before, too */
    qs_quant_cost a = qs_quant_cost_of(f.model, 2, true, &specs[H16], 1),
                  b = qs_quant_cost_of(f.model, 2, true, &specs[H4], 1);
    assert_true(b.bytes >= a.bytes + 320 * 64 * 9 && b.multiply_adds > a.multiply_adds);
}

static void test_refused(void **state)
{
    (void)state;
    qs_quantizer *quantizer;
    qs_quant_result heads[1];
    qs_quant_writer *writer;
    qs_quant_layer layer;
    scratch_path path;
    qs_spec bad;
    qs_quant_inputs inputs = {.model = f.model};
    const qs_gram_source no_head = {.get = get_gram};
    FAILS(QS_E_USAGE, qs_spec_parse(&bad, "exl2:bpw=4,head=7"));
    TEXT_HOLDS("head=7", "2 3 4 5 6 8 16");
    OK(qs_quantizer_create(&quantizer, f.model, backend, &no_head, &specs[H4], 1));
    FAILS(QS_E_USAGE, qs_quantizer_head(quantizer, heads));
    TEXT_HOLDS("exl2-7.50bpw-h4", "re-run qsweep-calibrate");
    assert_null(heads[0].packed.codes);
    qs_quantizer_destroy(quantizer);
    /* an artifact without it is not published */
    qs_quant_file *file = open_point(H16);
    OK(qs_quant_writer_create(&writer, scratch(path, "part.quant.h5"), &inputs, &specs[H4], 1));
    for (int64_t l = 0; l < f.config->n_layers; l++) {
        qs_linear_source source = qs_quant_file_source(file);
        layer = (qs_quant_layer){0};
        for (int role = 0; role < QS_N_LINEARS; role++) {
            qs_matrix_desc desc;
            OK(source.get(source.context, l, (qs_role)role, &desc));
            layer.linears[role].packed = *desc.packed; /* borrowed */
        }
        OK(qs_quant_writer_add(writer, l, &layer));
    }
    FAILS(QS_E_INPUT, qs_quant_writer_finish(writer, 1, NULL));
    TEXT_HOLDS("the head is missing");
    assert_false(qs_file_exists(path));
    qs_quant_file_close(file);
}

/* Calibration banks the head's input beside the sites of the last layer: sums over all rows, in parts or at once. */
static void test_statistics(void **state)
{
    (void)state;
    enum { ROWS = 2048 + 700 };
    int64_t d = f.config->d_model, n = d * (d + 1) / 2;
    float *x = floats(ROWS * d), *stored = floats(n), mean[64];
    qs_collector collector;
    qs_artifact *artifact;
    qs_digest digest;
    scratch_path path;
    int64_t n_tokens;
    for (int64_t i = 0; i < ROWS * d; i++) x[i] = (float)qs_rng_normal(3, (uint64_t)i) * (float)(1 + i % d);
    OK(qs_artifact_create(&artifact, scratch(path, "calib.h5"), QS_KIND_CALIB));
    OK(qs_collector_init(&collector, backend, f.config));
    OK(qs_collector_write_head(&collector, x, ROWS, artifact));
    OK(qs_artifact_seal(artifact, &digest));
    qs_collector_fini(&collector);
    OK(qs_artifact_open(&artifact, path, QS_KIND_CALIB));
    OK(qs_artifact_read(artifact, QS_CALIB_HEAD "/gram", QS_F32, stored, n));
    OK(qs_artifact_read(artifact, QS_CALIB_HEAD "/abs_mean", QS_F32, mean, d));
    OK(qs_artifact_get_int(artifact, QS_CALIB_HEAD "/@n_tokens", &n_tokens));
    qs_artifact_close(artifact);
    assert_int_equal(n_tokens, ROWS);
    for (int64_t i = 0, at = 0; i < d; i++) {
        double sum = 0;
        for (int64_t t = 0; t < ROWS; t++) sum += fabs((double)x[t * d + i]);
        assert_true(fabs((double)mean[i] - sum / ROWS) < 1e-5 * sum / ROWS);
        for (int64_t j = i; j < d; j++, at++) {
            double wanted = 0, size = 0;
            for (int64_t t = 0; t < ROWS; t++) {
                wanted += (double)x[t * d + i] * (double)x[t * d + j];
                size += fabs((double)x[t * d + i] * (double)x[t * d + j]);
            }
            assert_true(fabs((double)stored[at] - wanted) < 1e-6 * size);
        }
    }
    qs_mem_free(x);
    qs_mem_free(stored);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits),  cmocka_unit_test(test_solved),     cmocka_unit_test(test_size),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_statistics),
    };
    return cmocka_run_group_tests_name("head", tests, start, points_stop);
}
