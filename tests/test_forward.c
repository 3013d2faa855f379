/* The windowed forward: logits of every architecture against transformers (fp32), independence of threads and
 * of scratch size, taps, streaming memory. */
#include "model_fixtures.h"

static const char *const backends[] = {"cpu", "reference"};

/* Final hidden states [N_TOKENS, d_model] and logits [N_TOKENS, n_vocab] as one array, hidden first. */
static float *run(const fixture *f, const char *backend_name, int n_threads, qs_compute compute)
{
    int64_t d = f->config->d_model;
    float *out = floats(N_TOKENS * (d + f->config->n_vocab));
    qs_backend *backend = backend_open(backend_name, n_threads);
    must(qs_forward_hidden(backend, f->model, NULL, compute, f->tokens, 1, N_TOKENS, NULL, out));
    must(qs_forward_logits(backend, f->model, compute, out, N_TOKENS, out + N_TOKENS * d));
    qs_backend_destroy(backend);
    return out;
}

/* Max abs difference to transformers <= 2e-3 on every architecture; 1 and 2 threads give the same bits. */
static void test_golden(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        int64_t n_hidden = N_TOKENS * f.config->d_model, n_logits = N_TOKENS * f.config->n_vocab;
        for (size_t b = 0; b < sizeof backends / sizeof *backends; b++) {
            float *one = run(&f, backends[b], 1, QS_COMPUTE_F32), *two = run(&f, backends[b], 2, QS_COMPUTE_F32);
            double hidden = max_abs_diff(one, f.hidden, n_hidden);
            double logits = max_abs_diff(one + n_hidden, f.logits, n_logits);
            print_message("%-8s %-9s max abs difference: hidden %.1e, logits %.1e\n", fixture_names[i], backends[b],
                          hidden, logits);
            assert_true(hidden <= 2e-3);
            assert_true(logits <= 2e-3);
            assert_memory_equal(one, two, (size_t)(n_hidden + n_logits) * sizeof *one);
            qs_mem_free(one);
            qs_mem_free(two);
        }
        fixture_close(&f);
    }
}

/* Products in bf16 keep the first choice nearly everywhere and stay within bf16's own error. */
static void test_bf16(void **state)
{
    (void)state;
    fixture f = fixture_open("smollm2");
    int64_t n_hidden = N_TOKENS * f.config->d_model, n_vocab = f.config->n_vocab;
    float *out = run(&f, "cpu", 2, QS_COMPUTE_BF16);
    double sum = 0.0, norm = 0.0;
    for (int64_t i = 0; i < N_TOKENS * n_vocab; i++) {
        double diff = (double)out[n_hidden + i] - (double)f.logits[i];
        sum += diff * diff;
        norm += (double)f.logits[i] * (double)f.logits[i];
    }
    print_message("bf16 relative error of the logits: %.1e\n", sqrt(sum / norm));
    assert_true(sqrt(sum / norm) < 0.02);
    qs_mem_free(out);
    fixture_close(&f);
}

typedef struct windows {
    int64_t n_windows, n_ctx, n_rows; /* of the scratch */
} windows;

/* Residual stream after layer 0 and 1, on the host. */
static float *run_windows(const fixture *f, qs_backend *backend, windows w, const qs_tap *tap)
{
    int64_t n = w.n_windows * w.n_ctx, d = f->config->d_model;
    float *out = floats(n * d), *hidden = NULL;
    qs_block *block = NULL;
    qs_scratch *scratch = NULL;
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    must(qs_backend_alloc(backend, &hidden, (size_t)(n * d) * sizeof *hidden, "test"));
    must(qs_scratch_create(&scratch, backend, f->model, w.n_rows));
    must(qs_block_create(&block, backend, f->model, NULL, 0, &options));
    must(qs_forward_embed(backend, f->model, f->tokens, n, hidden));
    must(qs_block_forward(block, scratch, hidden, w.n_windows, w.n_ctx, tap));
    must(qs_block_load(block, NULL, 1));
    must(qs_block_forward(block, scratch, hidden, w.n_windows, w.n_ctx, tap));
    must(qs_backend_download(backend, out, hidden, (size_t)(n * d) * sizeof *hidden));
    qs_block_destroy(block);
    qs_scratch_destroy(scratch);
    qs_backend_free(backend, hidden);
    return out;
}

/* A scratch of one window, of two and of all: the same numbers, up to the GEMM's freedom to sum a product of
 * another height in another order (none on the reference). */
static void test_scratch_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        for (size_t b = 0; b < sizeof backends / sizeof *backends; b++) {
            qs_backend *backend = backend_open(backends[b], 2);
            float *all = run_windows(&f, backend, (windows){4, 8, 32}, NULL);
            float *one = run_windows(&f, backend, (windows){4, 8, 8}, NULL);
            float *odd = run_windows(&f, backend, (windows){4, 8, 29}, NULL);
            int64_t n = N_TOKENS * f.config->d_model;
            double tolerance = strcmp(backends[b], "reference") == 0 ? 0.0 : 2e-5;
            assert_true(max_abs_diff(all, one, n) <= tolerance);
            assert_true(max_abs_diff(all, odd, n) <= tolerance);
            qs_mem_free(all);
            qs_mem_free(one);
            qs_mem_free(odd);
            qs_backend_destroy(backend);
        }
        fixture_close(&f);
    }
}

/* Positions restart in each window and windows do not see each other: equal windows, equal outputs. */
static void test_windows_apart(void **state)
{
    (void)state;
    fixture f = fixture_open("llama3");
    int64_t d = f.config->d_model;
    memcpy(f.tokens + 16, f.tokens, 16 * sizeof *f.tokens);
    f.tokens[0] = f.tokens[0] == 5 ? 6 : 5; /* window 0 differs from window 1 in its first token alone */
    qs_backend *backend = backend_open("reference", 2);
    float *differ = run_windows(&f, backend, (windows){2, 16, 32}, NULL);
    f.tokens[0] = f.tokens[16];
    float *equal = run_windows(&f, backend, (windows){2, 16, 32}, NULL);
    assert_memory_equal(equal, equal + 16 * d, (size_t)(16 * d) * sizeof *equal);
    assert_memory_equal(differ + 16 * d, equal + 16 * d, (size_t)(16 * d) * sizeof *equal);
    assert_true(max_abs_diff(differ, equal, 16 * d) > 1e-3);
    qs_mem_free(differ);
    qs_mem_free(equal);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

typedef struct seen {
    qs_backend *backend;
    int64_t n_rows[2][QS_N_SITES], width[QS_N_SITES];
    float *first; /* the input of layer 0's q, k, v */
} seen;

static qs_err see(void *context, int64_t layer, qs_site site, const float *x, int64_t n, int64_t width)
{
    seen *s = context;
    s->n_rows[layer][site] += n;
    s->width[site] = width;
    if (layer != 0 || site != QS_SITE_QKV || s->first != NULL) return QS_OK;
    s->first = floats(n * width);
    return qs_backend_download(s->backend, s->first, x, (size_t)(n * width) * sizeof *x);
}

/* Every site is seen with every row once, and layer 0's is the norm of the embeddings. */
static void test_tap(void **state)
{
    (void)state;
    fixture f = fixture_open("mistral");
    const qs_model_config *c = f.config;
    seen s = {.backend = backend_open("cpu", 2)};
    qs_tap tap = {.see = see, .context = &s};
    float *out = run_windows(&f, s.backend, (windows){2, 16, 16}, &tap);
    for (qs_site site = 0; site < QS_N_SITES; site++) {
        assert_int_equal(s.n_rows[0][site], N_TOKENS);
        assert_int_equal(s.n_rows[1][site], N_TOKENS);
        assert_int_equal(s.width[site], qs_site_width(c, site));
    }
    assert_int_equal(qs_site_width(c, QS_SITE_O), c->n_heads * c->head_dim);
    assert_int_equal(qs_role_site(QS_ROLE_UP), QS_SITE_GATE_UP);
    assert_string_equal(qs_site_name(QS_SITE_DOWN), "down");

    float *embedding = floats(c->d_model), *weight = floats(c->d_model);
    must(qs_model_read_rows_f32(f.model, QS_ROLE_EMBED, 0, f.tokens[3], 1, embedding));
    must(qs_model_read_f32(f.model, QS_ROLE_ATTN_NORM, 0, weight));
    double sum = 0.0;
    for (int64_t i = 0; i < c->d_model; i++) sum += (double)embedding[i] * (double)embedding[i];
    double scale = 1.0 / sqrt(sum / (double)c->d_model + c->norm_eps);
    for (int64_t i = 0; i < c->d_model; i++)
        assert_true(fabs((double)embedding[i] * scale * (double)weight[i] -
                         (double)s.first[3 * c->d_model + i]) < 1e-5);
    qs_mem_free(embedding);
    qs_mem_free(weight);
    qs_mem_free(s.first);
    qs_mem_free(out);
    qs_backend_destroy(s.backend);
    fixture_close(&f);
}

/* One block at a time: the peak is hidden states + scratch + one block + the largest matrix on its way, and
 * loading a second layer takes no further byte. */
static void test_streaming_memory(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    const qs_model_config *c = f.config;
    qs_backend *backend = backend_open("cpu", 1);
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    qs_block *block = NULL;
    must(qs_block_create(&block, backend, f.model, NULL, 0, &options));
    size_t held = qs_mem_bytes(), block_bytes = qs_block_bytes(block);
    qs_mem_reset_peak();
    must(qs_block_load(block, NULL, 1));
    assert_int_equal(qs_mem_bytes(), held);
    assert_int_equal(qs_mem_bytes_peak(), held);
    qs_block_destroy(block);

    float *hidden = floats(N_TOKENS * c->d_model);
    /* Once for what the backend keeps for itself. */
    must(qs_forward_hidden(backend, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
    qs_backend_memory memory;
    qs_backend_get_memory(backend, &memory);
    size_t used = memory.used_bytes, before = qs_mem_bytes();
    qs_mem_reset_peak();
    must(qs_forward_hidden(backend, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
    size_t peak = qs_mem_bytes_peak() - before;
    size_t expected = (size_t)(N_TOKENS * c->d_model) * sizeof(float) + qs_scratch_bytes(c, N_TOKENS)
                      + (size_t)(c->d_ff * c->d_model) * sizeof(float) /* the largest linear, staged */
                      + 2 * (size_t)c->d_model * sizeof(float);        /* norms, staged */
    /* Matrices may lie in an arena of the backend's, which counts apart. */
    print_message("peak of a pass: %zu bytes, computed %zu and a block of %zu\n", peak, expected, block_bytes);
    assert_true(peak <= expected + block_bytes + expected / 20 + 2048);
    assert_true(peak >= expected);
    assert_int_equal(qs_mem_bytes(), before);
    qs_backend_get_memory(backend, &memory);
    assert_int_equal(memory.used_bytes, used);
    assert_true(memory.peak_bytes >= qs_scratch_bytes(c, N_TOKENS));
    qs_mem_free(hidden);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

static qs_err get_wrong_shape(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    (void)layer;
    (void)role;
    static const float weights[64 * 64];
    *desc = (qs_matrix_desc){.format = QS_MATRIX_F32, .n_out = 64, .n_in = *(const int64_t *)context, .dense = weights};
    return QS_OK;
}

/* What callers can get wrong is an error with a text, not a crash. */
static void test_refusals(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    qs_backend *backend = backend_open("cpu", 1);
    qs_block *block = NULL;
    qs_scratch *scratch = NULL;
    float *hidden = NULL;
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    int64_t n_in = 32;
    qs_linear_source wrong = {.get = get_wrong_shape, .context = &n_in};
    assert_int_equal(qs_block_create(&block, backend, f.model, &wrong, 0, &options), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "q_proj"));
    assert_null(block);
    assert_int_equal(qs_block_create(&block, backend, f.model, NULL, 2, &options), QS_E_USAGE);
    options.dense_dtype = QS_U8;
    assert_int_equal(qs_block_create(&block, backend, f.model, NULL, 0, &options), QS_E_USAGE);
    options.dense_dtype = QS_F32;
    must(qs_block_create(&block, backend, f.model, NULL, 0, &options));
    assert_int_equal(qs_scratch_create(&scratch, backend, f.model, 0), QS_E_USAGE);
    must(qs_scratch_create(&scratch, backend, f.model, 8));
    must(qs_backend_alloc(backend, &hidden, (size_t)(16 * f.config->d_model) * sizeof *hidden, "test"));
    assert_int_equal(qs_block_forward(block, scratch, hidden, 1, 9, NULL), QS_E_USAGE);
    int32_t token = (int32_t)f.config->n_vocab;
    assert_int_equal(qs_forward_embed(backend, f.model, &token, 1, hidden), QS_E_INPUT);
    assert_int_equal(qs_forward_hidden(backend, f.model, NULL, QS_COMPUTE_F32, f.tokens, 0, 8, NULL, f.hidden),
                     QS_E_USAGE);
    qs_backend_free(backend, hidden);
    qs_scratch_destroy(scratch);
    qs_block_destroy(block);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),       cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_scratch_rows), cmocka_unit_test(test_windows_apart),
        cmocka_unit_test(test_tap),          cmocka_unit_test(test_streaming_memory),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
