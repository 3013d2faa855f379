/* How much the error of a matrix matters: against the whole model run with the matrices of a half of a layer in
 * place of its own, nothing shared between streams, and against single layers run by themselves. */
#include "tests/model_fixtures.h"
#include "tests/scratch.h"

#include "quant/sensitivity.h"

enum { N_WINDOWS = 2, N_CTX = N_TOKENS / N_WINDOWS, N_LAYERS = 2, N_MATRICES = N_LAYERS * QS_N_LINEARS };

/* The model's weights but for some matrices of a layer. */
typedef struct replaced {
    const qs_model *model;
    const qs_packed *packed; /* [QS_N_LINEARS] of the layer */
    int64_t layer;           /* -1 = none is replaced */
    bool which[QS_N_LINEARS];
    float *weights;
} replaced;

static bool of_attention(int role) { return role <= QS_ROLE_O; }

static qs_err get_replaced(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    replaced *r = context;
    qs_tensor_info info = qs_model_info(r->model, role, layer);
    *desc = (qs_matrix_desc){.format = QS_MATRIX_F32, .n_out = info.n_out, .n_in = info.n_in, .dense = r->weights};
    if (layer != r->layer || !r->which[role]) return qs_model_read_f32(r->model, role, layer, r->weights);
    qs_packed_dequant_rows(&r->packed[role], 0, info.n_out, r->weights);
    return QS_OK;
}

static void logits_of(qs_backend *backend, const fixture *f, replaced *r, float *logits)
{
    float *hidden = floats(N_TOKENS * f->config->d_model);
    const qs_linear_source source = {.get = get_replaced, .context = r};
    OK(qs_forward_hidden(backend, f->model, &source, QS_COMPUTE_F32, f->tokens, N_WINDOWS, N_CTX, NULL, hidden));
    OK(qs_forward_logits(backend, f->model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
    qs_mem_free(hidden);
}

/* Mean over tokens of sum p (ln p - ln q), from the definition. */
static double divergence_of(const float *p, const float *q, int64_t n_vocab)
{
    double sum = 0;
    for (int64_t t = 0; t < N_TOKENS; t++, p += n_vocab, q += n_vocab) {
        double p_sum = 0, q_sum = 0;
        for (int64_t v = 0; v < n_vocab; v++) {
            p_sum += exp((double)p[v]);
            q_sum += exp((double)q[v]);
        }
        for (int64_t v = 0; v < n_vocab; v++)
            sum += exp((double)p[v]) / p_sum * ((double)p[v] - log(p_sum) - (double)q[v] + log(q_sum));
    }
    return sum / N_TOKENS;
}

static void measure(const fixture *f, const made_up *m, int n_threads, double *divergence)
{
    qs_backend *backend = backend_open("cpu", n_threads);
    qs_sensitivity *s;
    OK(qs_sensitivity_create(&s, backend, f->model, f->tokens, N_WINDOWS, N_CTX));
    FAILS(QS_E_USAGE, qs_sensitivity_finish(s, divergence));
    for (int64_t layer = 0; layer < N_LAYERS; layer++) {
        const qs_packed *perturbed[QS_N_LINEARS];
        for (int role = 0; role < QS_N_LINEARS; role++) perturbed[role] = &m->packed[layer * QS_N_LINEARS + role];
        FAILS(QS_E_USAGE, qs_sensitivity_layer(s, layer + 1, perturbed));
        OK(qs_sensitivity_layer(s, layer, perturbed));
    }
    OK(qs_sensitivity_finish(s, divergence));
    qs_sensitivity_destroy(s);
    qs_backend_destroy(backend);
}

/* hidden [N_TOKENS, d_model] through a layer. */
static void run_layer(qs_backend *backend, const fixture *f, replaced *r, int64_t layer, float *hidden)
{
    const qs_block_options options = {.uses = QS_USE_GEMM, .dense_dtype = QS_F32};
    const qs_linear_source source = {.get = get_replaced, .context = r};
    qs_block *block;
    qs_scratch *scratch;
    OK(qs_scratch_create(&scratch, backend, f->model, N_TOKENS));
    OK(qs_block_create(&block, backend, f->model, &source, layer, &options));
    OK(qs_block_forward(block, scratch, hidden, N_WINDOWS, N_CTX, NULL));
    qs_block_destroy(block);
    qs_scratch_destroy(scratch);
}

/* Behind its layer, of each matrix alone: error[N_MATRICES], means over tokens of |a - b|^2 / |b|^2. */
static void local_errors(qs_backend *backend, const fixture *f, const made_up *m, double *error)
{
    const int64_t d = f->config->d_model;
    float *before = floats(N_TOKENS * d), *after = floats(N_TOKENS * d), *own = floats(N_TOKENS * d);
    replaced r = {.model = f->model, .layer = -1, .weights = floats(256 * 256)};
    OK(qs_forward_embed(backend, f->model, f->tokens, N_TOKENS, before));
    for (int64_t layer = 0; layer < N_LAYERS; layer++) {
        r.layer = -1;
        memcpy(after, before, (size_t)(N_TOKENS * d) * sizeof *after);
        run_layer(backend, f, &r, layer, after);
        for (int role = 0; role < QS_N_LINEARS; role++) {
            double *to = &error[layer * QS_N_LINEARS + role];
            r = (replaced){.model = f->model,
                           .packed = &m->packed[layer * QS_N_LINEARS],
                           .layer = layer,
                           .weights = r.weights};
            r.which[role] = true;
            memcpy(own, before, (size_t)(N_TOKENS * d) * sizeof *own);
            run_layer(backend, f, &r, layer, own);
            *to = 0;
            for (int64_t t = 0; t < N_TOKENS; t++) {
                double off = 0, size = 0;
                for (int64_t i = t * d; i < (t + 1) * d; i++) {
                    off += pow((double)own[i] - (double)after[i], 2);
                    size += pow((double)after[i], 2);
                }
                *to += off / size / N_TOKENS;
            }
        }
        memcpy(before, after, (size_t)(N_TOKENS * d) * sizeof *after);
    }
    qs_mem_free(before);
    qs_mem_free(after);
    qs_mem_free(own);
    qs_mem_free(r.weights);
}

static void test_against_whole_model(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen2");
    int64_t n_vocab = f.config->n_vocab;
    qs_backend *backend = backend_open("cpu", 2);
    made_up m;
    double divergence[N_MATRICES], again[N_MATRICES], error[N_MATRICES];
    float *reference = floats(N_TOKENS * n_vocab), *logits = floats(N_TOKENS * n_vocab);
    replaced r = {.model = f.model, .layer = -1, .weights = floats(256 * 256)};
    assert_int_equal(f.config->n_layers, N_LAYERS);
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32});
    measure(&f, &m, 2, divergence);
    measure(&f, &m, 3, again);
    assert_memory_equal(divergence, again, sizeof again); /* whatever the number of threads */
    logits_of(backend, &f, &r, reference);
    local_errors(backend, &f, &m, error);
    for (int half = 0; half < 2 * N_LAYERS; half++) {
        double given = 0, errors = 0;
        r.layer = half / 2;
        r.packed = &m.packed[r.layer * QS_N_LINEARS];
        for (int role = 0; role < QS_N_LINEARS; role++) {
            r.which[role] = of_attention(role) == (half % 2 == 0);
            if (!r.which[role]) continue;
            given += divergence[r.layer * QS_N_LINEARS + role];
            errors += error[r.layer * QS_N_LINEARS + role];
        }
        logits_of(backend, &f, &r, logits);
        double wanted = divergence_of(reference, logits, n_vocab);
        assert_true(wanted > 1e-4 && fabs(given - wanted) < 1e-3 * wanted);
        for (int role = 0; role < QS_N_LINEARS; role++) {
            int64_t k = r.layer * QS_N_LINEARS + role;
            if (r.which[role]) assert_true(fabs(divergence[k] / given - error[k] / errors) < 1e-4);
        }
    }
    assert_true(qs_sensitivity_bytes(f.config, N_TOKENS) >= (1 + 2 * N_LAYERS) * N_TOKENS * 64 * sizeof(float));
    made_up_free(&m);
    qs_mem_free(reference);
    qs_mem_free(logits);
    qs_mem_free(r.weights);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_whole_model)};
    return cmocka_run_group_tests_name("sensitivity", tests, NULL, NULL);
}
