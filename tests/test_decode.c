/* Decoding with a KV cache against the windowed forward: same logits, same first choice, whatever shares the
 * batch; packed codes against the same weights de-quantised; no allocation per token. */
#include "model_fixtures.h"

static const char *const backends[] = {"cpu", "reference"};

static qs_decoder *decoder_open(const fixture *f, qs_backend *backend, const qs_linear_source *source, int64_t batch,
                                qs_dtype dense)
{
    qs_decoder *decoder = NULL;
    qs_decoder_options options = {.batch = batch, .n_ctx_cap = N_TOKENS,
                                  .block = {.compute = QS_COMPUTE_F32, .dense_dtype = dense}};
    must(qs_decoder_create(&decoder, backend, f->model, source, &options));
    return decoder;
}

/* Logits [N_TOKENS - n_prompt + 1, n_vocab] from position n_prompt - 1 on, the prompt in one go and the rest
 * token by token; n_prompt 0 feeds every token by itself and gives N_TOKENS rows. */
static float *decode(const fixture *f, qs_decoder *decoder, int64_t n_prompt)
{
    int64_t n_vocab = f->config->n_vocab, n_rows = 0;
    float *logits = floats(N_TOKENS * n_vocab);
    if (n_prompt > 0) must(qs_decoder_prefill(decoder, 0, f->tokens, n_prompt, logits + n_rows++ * n_vocab));
    for (int64_t i = n_prompt; i < N_TOKENS; i++)
        must(qs_decoder_step(decoder, f->tokens + i, logits + n_rows++ * n_vocab));
    return logits;
}

static void check_rows(const char *what, const float *got, const float *expected, int64_t n_rows, int64_t n_vocab,
                       double tolerance)
{
    double diff = max_abs_diff(got, expected, n_rows * n_vocab);
    if (diff > tolerance) fail_msg("%s: logits differ by %g, tolerance %g", what, diff, tolerance);
    for (int64_t row = 0; row < n_rows; row++)
        assert_int_equal(argmax(got + row * n_vocab, n_vocab), argmax(expected + row * n_vocab, n_vocab));
}

/* Every architecture, from the first token on and after a prompt: logits to 1e-4, the same first choice at
 * every position. Weights in f32, then in f16 (exact on these models). */
static void test_matches_forward(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        int64_t n_vocab = f.config->n_vocab;
        float *hidden = floats(N_TOKENS * f.config->d_model), *expected = floats(N_TOKENS * n_vocab);
        for (size_t b = 0; b < 2 * (sizeof backends / sizeof *backends); b++) {
            qs_backend *backend = backend_open(backends[b / 2], 2);
            must(qs_forward_hidden(backend, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
            must(qs_forward_logits(backend, f.model, QS_COMPUTE_F32, hidden, N_TOKENS, expected));
            qs_decoder *decoder = decoder_open(&f, backend, NULL, 1, b % 2 == 0 ? QS_F32 : QS_F16);
            float *all = decode(&f, decoder, 0);
            check_rows(fixture_names[i], all, expected, N_TOKENS, n_vocab, 1e-4);
            check_rows(fixture_names[i], all, f.logits, N_TOKENS, n_vocab, 2e-3);
            float *after = decode(&f, decoder, 19); /* also: a prefill starts the sequence afresh */
            check_rows(fixture_names[i], after, expected + 18 * n_vocab, N_TOKENS - 18, n_vocab, 1e-4);
            qs_mem_free(all);
            qs_mem_free(after);
            qs_decoder_destroy(decoder);
            qs_backend_destroy(backend);
        }
        qs_mem_free(hidden);
        qs_mem_free(expected);
        fixture_close(&f);
    }
}

/* Sequence 0 decoded alone and in batches of 2 to 8 beside others of other lengths: the same bits. */
static void check_batches(const fixture *f, qs_backend *backend, const qs_linear_source *source)
{
    enum { N_PROMPT = 9, N_STEPS = 6 };
    int64_t n_vocab = f->config->n_vocab;
    float *alone = floats((N_STEPS + 1) * n_vocab), *batched = floats(QS_GEMV_MAX_ROWS * n_vocab);
    for (int64_t batch = 1; batch <= QS_GEMV_MAX_ROWS; batch++) {
        qs_decoder *decoder = decoder_open(f, backend, source, batch, QS_F16);
        int64_t at = batch / 2; /* where the sequence sits */
        int32_t tokens[QS_GEMV_MAX_ROWS];
        for (int64_t i = 0; i < batch; i++)
            must(qs_decoder_prefill(decoder, i, f->tokens + (i == at ? 0 : i), i == at ? N_PROMPT : 3 + i, batched));
        for (int64_t step = 0; step < N_STEPS; step++) {
            for (int64_t i = 0; i < batch; i++) tokens[i] = f->tokens[i == at ? N_PROMPT + step : 20 + i];
            must(qs_decoder_step(decoder, tokens, batched));
            if (batch == 1) memcpy(alone + step * n_vocab, batched, (size_t)n_vocab * sizeof *alone);
            assert_memory_equal(alone + step * n_vocab, batched + at * n_vocab, (size_t)n_vocab * sizeof *alone);
        }
        qs_decoder_destroy(decoder);
    }
    qs_mem_free(alone);
    qs_mem_free(batched);
}

static void test_batch_composition(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm2", "mistral", "qwen2"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture f = fixture_open(names[i]);
        made_up packed;
        made_up_create(&packed, f.model, (made_up_options){.bits = 4, .group_size = 16, .zeros = true});
        qs_backend *backend = backend_open("cpu", 2);
        check_batches(&f, backend, NULL);
        check_batches(&f, backend, &packed.packed_source);
        qs_backend_destroy(backend);
        made_up_free(&packed);
        fixture_close(&f);
    }
}

/* Every width, symmetric and not, ragged groups, permuted columns: decoding on the codes agrees with the
 * forward of the de-quantised weights. */
static void test_packed(void **state)
{
    (void)state;
    static const made_up_options cases[] = {
        {.bits = 2, .group_size = 16, .zeros = true},
        {.bits = 3, .group_size = 32},
        {.bits = 3, .group_size = 48, .zeros = true, .perm = true},
        {.bits = 4, .group_size = 32},
        {.bits = 4, .group_size = 40, .zeros = true},
        {.bits = 4, .group_size = -1, .perm = true},
        {.bits = 8, .group_size = 32, .zeros = true, .perm = true},
    };
    fixture f = fixture_open("smollm2");
    int64_t n_vocab = f.config->n_vocab;
    float *hidden = floats(N_TOKENS * f.config->d_model), *expected = floats(N_TOKENS * n_vocab);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made_up m;
        made_up_create(&m, f.model, cases[i]);
        for (size_t b = 0; b < sizeof backends / sizeof *backends; b++) {
            qs_backend *backend = backend_open(backends[b], 2);
            must(qs_forward_hidden(backend, f.model, &m.dense_source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL,
                                   hidden));
            must(qs_forward_logits(backend, f.model, QS_COMPUTE_F32, hidden, N_TOKENS, expected));
            qs_decoder *decoder = decoder_open(&f, backend, &m.packed_source, 1, QS_F32);
            float *got = decode(&f, decoder, 0);
            double diff = max_abs_diff(got, expected, N_TOKENS * n_vocab);
            print_message("int%d group %lld%s%s %-9s: %.1e\n", cases[i].bits, (long long)cases[i].group_size,
                          cases[i].zeros ? " zeros" : "", cases[i].perm ? " perm" : "", backends[b], diff);
            check_rows("packed", got, expected, N_TOKENS, n_vocab, 2e-4);
            qs_mem_free(got);
            qs_decoder_destroy(decoder);
            qs_backend_destroy(backend);
        }
        made_up_free(&m);
    }
    qs_mem_free(hidden);
    qs_mem_free(expected);
    fixture_close(&f);
}

/* 1 and 2 threads, the same bits, on packed codes and on 16-bit weights. */
static void test_threads(void **state)
{
    (void)state;
    fixture f = fixture_open("qwen3");
    made_up m;
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32});
    const qs_linear_source *sources[] = {NULL, &m.packed_source};
    for (size_t s = 0; s < 2; s++) {
        float *logits[2];
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            qs_backend *backend = backend_open("cpu", n_threads);
            qs_decoder *decoder = decoder_open(&f, backend, sources[s], 1, QS_BF16);
            logits[n_threads - 1] = decode(&f, decoder, 11);
            qs_decoder_destroy(decoder);
            qs_backend_destroy(backend);
        }
        assert_memory_equal(logits[0], logits[1], (size_t)((N_TOKENS - 10) * f.config->n_vocab) * sizeof **logits);
        qs_mem_free(logits[0]);
        qs_mem_free(logits[1]);
    }
    made_up_free(&m);
    fixture_close(&f);
}

/* Nothing is allocated per token; the bytes that the decoder names are the bytes that it holds. */
static void test_memory(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    const qs_model_config *c = f.config;
    made_up m;
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32});
    qs_backend *backend = backend_open("cpu", 2);
    size_t sizes[2];
    const qs_linear_source *sources[] = {NULL, &m.packed_source};
    for (size_t s = 0; s < 2; s++) { /* once for what the backend keeps for itself */
        qs_decoder *decoder = decoder_open(&f, backend, sources[s], 2, QS_F16);
        must(qs_decoder_prefill(decoder, 0, f.tokens, 20, f.logits));
        qs_decoder_destroy(decoder);
    }
    for (size_t s = 0; s < 2; s++) {
        size_t before = qs_mem_bytes(), weights = 0, kv = 0;
        qs_decoder *decoder = decoder_open(&f, backend, sources[s], 2, QS_F16);
        size_t held = qs_mem_bytes() - before;
        qs_decoder_bytes(decoder, &weights, &kv);
        assert_int_equal(kv, 2 * (size_t)(2 * N_TOKENS * c->n_layers * c->n_kv_heads * c->head_dim) * sizeof(float));
        size_t embedding = qs_model_info(f.model, QS_ROLE_EMBED, 0).bytes; /* stays in the mapped file */
        size_t rest = qs_scratch_bytes(c, N_TOKENS) + (size_t)(N_TOKENS * c->d_model + 2 * c->n_vocab) * sizeof(float);
        /* Weights may lie in an arena of the backend's, which counts apart. */
        size_t without = kv + rest, with = without + weights - embedding;
        print_message("decoder holds %zu bytes, computed %zu to %zu\n", held, without, with);
        assert_true(held >= without && held <= with + with / 20 + 8192);
        float *logits = floats(2 * c->n_vocab);
        must(qs_decoder_prefill(decoder, 0, f.tokens, 8, logits));
        must(qs_decoder_step(decoder, f.tokens + 8, logits));
        size_t now = qs_mem_bytes();
        qs_mem_reset_peak();
        must(qs_decoder_prefill(decoder, 1, f.tokens, 20, logits));
        for (int i = 0; i < 4; i++) must(qs_decoder_step(decoder, f.tokens + 8, logits));
        assert_int_equal(qs_mem_bytes_peak(), now);
        sizes[s] = weights;
        qs_mem_free(logits);
        qs_decoder_destroy(decoder);
        assert_int_equal(qs_mem_bytes(), before);
    }
    assert_true(sizes[1] < sizes[0]); /* 4-bit codes take less than f16 */
    qs_backend_destroy(backend);
    made_up_free(&m);
    fixture_close(&f);
}

/* A model split over two backends gives the bits of one in whole, wherever the seam is; the most probable tokens are
 * those of the logits. */
static void test_split(void **state)
{
    (void)state;
    enum { BATCH = 3, N_PROMPT = 21 };
    fixture f = fixture_open("mistral");
    qs_backend *backend = backend_open("cpu", 2), *host = backend_open("cpu", 1);
    int64_t n_vocab = f.config->n_vocab;
    size_t bytes = (size_t)(BATCH * n_vocab) * sizeof(float);
    float *whole = floats(BATCH * n_vocab), *split = floats(BATCH * n_vocab);
    for (int64_t seam = 0; seam <= f.config->n_layers; seam++) {
        qs_decoder *decoders[2];
        qs_decoder_options options = {.batch = BATCH, .n_ctx_cap = N_TOKENS, .block = {.dense_dtype = QS_F16}};
        must(qs_decoder_create(&decoders[0], backend, f.model, NULL, &options));
        const qs_decoder_part parts[] = {
            {backend, seam / 2}, {host, seam - seam / 2}, {backend, f.config->n_layers - seam}};
        options.parts = parts;
        options.n_parts = 3;
        must(qs_decoder_create(&decoders[1], backend, f.model, NULL, &options));
        for (int64_t i = 0; i < BATCH; i++) {
            must(qs_decoder_prefill(decoders[0], i, f.tokens + i, N_PROMPT - 9 * i, whole));
            must(qs_decoder_prefill(decoders[1], i, f.tokens + i, N_PROMPT - 9 * i, split));
            assert_memory_equal(whole, split, (size_t)n_vocab * sizeof *whole);
        }
        for (int step = 0; step < 4; step++) {
            must(qs_decoder_step(decoders[0], f.tokens + step, whole));
            must(qs_decoder_step(decoders[1], f.tokens + step, split));
            assert_memory_equal(whole, split, bytes);
        }
        int32_t next[BATCH];
        must(qs_decoder_step(decoders[0], f.tokens, whole));
        must(qs_decoder_step(decoders[1], f.tokens, NULL));
        choose_greedily(decoders[1], BATCH, next);
        for (int64_t i = 0; i < BATCH; i++) assert_int_equal(next[i], argmax(whole + i * n_vocab, n_vocab));
        qs_decoder_destroy(decoders[0]);
        qs_decoder_destroy(decoders[1]);
    }
    qs_decoder *decoder;
    const qs_decoder_part parts[] = {{backend, 1}, {host, f.config->n_layers}};
    qs_decoder_options options = {.batch = 1, .n_ctx_cap = 8, .block = {.dense_dtype = QS_F16}, .parts = parts,
                                  .n_parts = 2};
    assert_int_equal(qs_decoder_create(&decoder, backend, f.model, NULL, &options), QS_E_USAGE);
    qs_mem_free(whole);
    qs_mem_free(split);
    qs_backend_destroy(backend);
    qs_backend_destroy(host);
    fixture_close(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    fixture f = fixture_open("llama2");
    qs_backend *backend = backend_open("cpu", 1);
    qs_decoder *decoder = NULL;
    qs_decoder_options options = {.batch = QS_GEMV_MAX_ROWS + 1, .n_ctx_cap = 8, .block = {.dense_dtype = QS_F32}};
    assert_int_equal(qs_decoder_create(&decoder, backend, f.model, NULL, &options), QS_E_USAGE);
    assert_null(decoder);
    options.batch = 1;
    must(qs_decoder_create(&decoder, backend, f.model, NULL, &options));
    float *logits = floats(f.config->n_vocab);
    assert_int_equal(qs_decoder_prefill(decoder, 0, f.tokens, 9, logits), QS_E_USAGE);
    assert_int_equal(qs_decoder_prefill(decoder, 1, f.tokens, 8, logits), QS_E_USAGE);
    assert_int_equal(qs_decoder_prefill(decoder, 0, f.tokens, 0, logits), QS_E_USAGE);
    must(qs_decoder_prefill(decoder, 0, f.tokens, 7, logits));
    int32_t token = -1;
    assert_int_equal(qs_decoder_step(decoder, &token, logits), QS_E_INPUT);
    must(qs_decoder_step(decoder, f.tokens, logits));
    assert_int_equal(qs_decoder_step(decoder, f.tokens, logits), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "filled"));
    qs_mem_free(logits);
    qs_decoder_destroy(decoder);
    qs_backend_destroy(backend);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matches_forward), cmocka_unit_test(test_batch_composition),
        cmocka_unit_test(test_packed),          cmocka_unit_test(test_threads),
        cmocka_unit_test(test_memory),          cmocka_unit_test(test_split),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
