/* Decoding and scoring on a GPU, or on the CPU that pretends to be one: against the CPU and transformers, recordings,
 * batches, the split between device and host. Skipped where backend "cuda" cannot be made. */
#include "cuda_model.h"

#include "backend/backend_impl.h"
#include "stat/stats.h"

enum { N_STEPS = 5, N_PROMPT = 9 };
static const double limit = 2e-3;

typedef struct form {
    const qs_linear_source *source;
    qs_dtype dense;
    qs_compute compute;
    int64_t batch;
    const qs_decoder_part *parts;
    int64_t n_parts;
} form;

static qs_err decoder_create(qs_decoder **out, const fixture *f, qs_backend *backend, form how)
{
    qs_decoder_options options = {.batch = how.batch > 0 ? how.batch : 1, .n_ctx_cap = N_TOKENS,
                                  .block = {.compute = how.compute, .dense_dtype = how.dense},
                                  .parts = how.parts, .n_parts = how.n_parts};
    return qs_decoder_create(out, backend, f->model, how.source, &options);
}

/* Prompt, then steps: logits [N_STEPS + 1, n_vocab] of sequence 0. */
static float *decode(const fixture *f, qs_backend *backend, form how)
{
    int64_t n_vocab = f->config->n_vocab, batch = how.batch > 0 ? how.batch : 1;
    qs_decoder *decoder = NULL;
    float *logits = floats((N_STEPS + batch) * n_vocab);
    must(decoder_create(&decoder, f, backend, how));
    for (int64_t i = batch - 1; i >= 0; i--)
        must(qs_decoder_prefill(decoder, i, f->tokens + i, N_PROMPT, logits));
    for (int64_t step = 0; step < N_STEPS; step++) {
        int32_t tokens[64];
        for (int64_t i = 0; i < batch; i++) tokens[i] = f->tokens[N_PROMPT + step + i];
        must(qs_decoder_step(decoder, tokens, logits + (step + 1) * n_vocab));
    }
    qs_decoder_destroy(decoder);
    return logits;
}

static void check_logits(const char *what, const fixture *f, const float *got, const float *expected)
{
    int64_t n_vocab = f->config->n_vocab;
    double diff = max_abs_diff(got, expected, (N_STEPS + 1) * n_vocab);
    if (!(diff <= limit)) fail_msg("%s: logits differ by %g, limit %g", what, diff, limit);
    for (int64_t row = 0; row <= N_STEPS; row++)
        assert_int_equal(argmax(got + row * n_vocab, n_vocab), argmax(expected + row * n_vocab, n_vocab));
}

/* Hidden states and logits of every architecture against transformers. */
static void test_golden(void **state)
{
    (void)state;
    qs_backend *backend = cuda_open();
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        int64_t n_hidden = N_TOKENS * f.config->d_model, n_logits = N_TOKENS * f.config->n_vocab;
        float *hidden = floats(n_hidden), *logits = floats(n_logits);
        must(qs_forward_hidden(backend, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
        must(qs_forward_logits(backend, f.model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
        double a = max_abs_diff(hidden, f.hidden, n_hidden), b = max_abs_diff(logits, f.logits, n_logits);
        print_message("%-8s max abs difference: hidden %.1e, logits %.1e\n", fixture_names[i], a, b);
        assert_true(a <= limit);
        assert_true(b <= limit);
        qs_mem_free(hidden);
        qs_mem_free(logits);
        fixture_close(&f);
    }
    qs_backend_destroy(backend);
}

/* Every architecture in f16 and 4 bits; what f32 and bf16 change is the products alone, which two show. */
static void test_decodes_like_cpu(void **state)
{
    (void)state;
    static const struct {
        qs_dtype dense;
        bool packed, everywhere;
    } forms[] = {{QS_F16, false, true}, {QS_F16, true, true}, {QS_F32, false, false}, {QS_BF16, false, false}};
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2);
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        bool all = strcmp(fixture_names[i], "llama2") == 0 || strcmp(fixture_names[i], "qwen3") == 0;
        if (SANITIZED && !all) {
            fixture_close(&f);
            continue;
        }
        made_up m;
        made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32, .zeros = true});
        for (size_t t = 0; t < sizeof forms / sizeof *forms; t++) {
            if (!all && !forms[t].everywhere) continue;
            form how = {.dense = forms[t].dense, .source = forms[t].packed ? &m.packed_source : NULL};
            float *got = decode(&f, cuda, how), *expected = decode(&f, cpu, how);
            check_logits(fixture_names[i], &f, got, expected);
            qs_mem_free(got);
            qs_mem_free(expected);
        }
        made_up_free(&m);
        fixture_close(&f);
    }
    qs_backend_destroy(cuda);
    qs_backend_destroy(cpu);
}

/* 16-bit products, as deployments use them, stay near enough to be the same model. */
static void test_16_bit_products(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open();
    fixture f = fixture_open("smollm2");
    float *exact = decode(&f, cuda, (form){.dense = QS_F16});
    float *rounded = decode(&f, cuda, (form){.dense = QS_F16, .compute = QS_COMPUTE_BF16});
    double sum = 0.0, norm = 0.0;
    for (int64_t i = 0; i < (N_STEPS + 1) * f.config->n_vocab; i++) {
        double diff = (double)rounded[i] - (double)exact[i];
        sum += diff * diff;
        norm += (double)exact[i] * (double)exact[i];
    }
    print_message("relative error of the logits: %.1e\n", sqrt(sum / norm));
    assert_true(sqrt(sum / norm) < 0.02);
    qs_mem_free(exact);
    qs_mem_free(rounded);
    qs_backend_destroy(cuda);
    fixture_close(&f);
}

/* The most probable token, found where the logits are. */
static void test_argmax(void **state)
{
    (void)state;
    enum { BATCH = 3 };
    qs_backend *backends[] = {cuda_open(), backend_open("cpu", 2)};
    fixture f = fixture_open("qwen3");
    float *logits = floats(BATCH * f.config->n_vocab);
    for (size_t b = 0; b < 2; b++) {
        qs_decoder *decoders[2];
        form how = {.dense = QS_F16, .batch = BATCH};
        for (size_t i = 0; i < 2; i++) must(decoder_create(&decoders[i], &f, backends[b], how));
        for (int step = 0; step < 5; step++) {
            int32_t next[BATCH];
            must(qs_decoder_step(decoders[0], f.tokens + step, logits));
            must(qs_decoder_step(decoders[1], f.tokens + step, NULL));
            choose_greedily(decoders[1], BATCH, next);
            for (int i = 0; i < BATCH; i++)
                assert_int_equal(next[i], argmax(logits + i * f.config->n_vocab, f.config->n_vocab));
        }
        for (size_t i = 0; i < 2; i++) qs_decoder_destroy(decoders[i]);
        qs_backend_destroy(backends[b]);
    }
    qs_mem_free(logits);
    fixture_close(&f);
}

/* Played steps give the bits of steps run op by op, also after others have made the backend move its scratch. */
static void test_recordings(void **state)
{
    (void)state;
    static const char *const names[] = {"llama2", "qwen3"};
    qs_backend *cuda = cuda_open();
    assert_true(qs_backend_can_record(cuda));
    for (size_t i = SANITIZED; i < sizeof names / sizeof *names; i++) {
        fixture f = fixture_open(names[i]);
        size_t bytes = (size_t)((N_STEPS + 1) * f.config->n_vocab) * sizeof(float);
        cuda->can_record = false;
        float *plain = decode(&f, cuda, (form){.dense = QS_F16});
        cuda->can_record = true;
        float *played = decode(&f, cuda, (form){.dense = QS_F16});
        assert_memory_equal(plain, played, bytes);

        qs_decoder *decoder = NULL;
        qs_backend *fresh = cuda_open();
        must(decoder_create(&decoder, &f, fresh, (form){.dense = QS_F16}));
        must(qs_decoder_prefill(decoder, 0, f.tokens, N_PROMPT, played));
        for (int64_t step = 0; step < N_STEPS; step++) {
            float *row = played + (step + 1) * f.config->n_vocab;
            must(qs_decoder_step(decoder, f.tokens + N_PROMPT + step, row));
            if (step == 1) qs_mem_free(decode(&f, fresh, (form){.dense = QS_F16, .batch = 4}));
            if (step == 3)
                must(qs_forward_hidden(fresh, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, f.hidden));
        }
        assert_memory_equal(plain, played, bytes);
        qs_decoder_destroy(decoder);
        qs_backend_destroy(fresh);
        qs_mem_free(plain);
        qs_mem_free(played);
        fixture_close(&f);
    }
    qs_backend_destroy(cuda);
}

/* A row does not depend on what shares the batch. */
static void test_batches(void **state)
{
    (void)state;
    static const int64_t batches[] = {3, 13};
    qs_backend *cuda = cuda_open();
    fixture f = fixture_open("mistral");
    made_up m;
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 16, .zeros = true});
    for (size_t s = SANITIZED; s < 2; s++) {
        form how = {.dense = QS_F16, .source = s == 0 ? NULL : &m.packed_source};
        float *alone = decode(&f, cuda, how);
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            if (batches[b] > qs_backend_gemv_rows(cuda)) continue;
            how.batch = batches[b];
            float *shared = decode(&f, cuda, how);
            assert_memory_equal(alone, shared, (size_t)((N_STEPS + 1) * f.config->n_vocab) * sizeof *alone);
            qs_mem_free(shared);
        }
        qs_mem_free(alone);
    }
    made_up_free(&m);
    qs_backend_destroy(cuda);
    fixture_close(&f);
}

/* Every number of layers on the device gives the unsplit model's logits; none and all are no special case. */
static void test_split(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "qwen2", "smollm2"};
    qs_backend *cuda = cuda_open(), *host = backend_open("cpu", 2);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture f = fixture_open(names[i]);
        made_up m;
        made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32});
        for (size_t s = SANITIZED; s < 2; s++) {
            form how = {.dense = QS_F16, .source = s == 0 ? NULL : &m.packed_source};
            float *whole = decode(&f, host, how);
            for (int64_t n = 0; n <= f.config->n_layers; n++) {
                const qs_decoder_part parts[] = {{cuda, n}, {host, f.config->n_layers - n}};
                how.parts = parts;
                how.n_parts = 2;
                how.batch = n % 2 == 0 ? 1 : 3;
                float *split = decode(&f, cuda, how);
                check_logits(names[i], &f, split, whole);
                qs_mem_free(split);
            }
            qs_mem_free(whole);
        }
        made_up_free(&m);
        fixture_close(&f);
    }
    qs_backend_destroy(cuda);
    qs_backend_destroy(host);
}

/* Over two devices, with and without layers on the host: the unsplit model's logits, bit for bit where every layer is
 * on a device, since kernels are the same. What one device does with another's memory, other than copy it, shows in the
 * sanitizer build; launches on another's stream are refused. */
static void test_two_devices(void **state)
{
    (void)state;
    qs_backend *one = shim_open(), *two = NULL, *host = backend_open("cpu", 2);
    fixture f = fixture_open("qwen3");
    int64_t n_layers = f.config->n_layers;
    qs_rt_simt_set_devices(2);
    must(qs_backend_create(&two, "cuda", 1, 2));
    qs_backend *third = NULL;
    assert_int_equal(qs_backend_create(&third, "cuda", 2, 2), QS_E_UNSUPPORTED);
    form how = {.dense = QS_F16, .batch = 2};
    float *whole = decode(&f, one, how);
    for (int64_t first = 0; first <= n_layers; first++) {
        const qs_decoder_part parts[] = {{one, first}, {two, n_layers - first}};
        how.parts = parts;
        how.n_parts = 2;
        float *split = decode(&f, one, how);
        assert_memory_equal(split, whole, (size_t)((N_STEPS + 1) * f.config->n_vocab) * sizeof *whole);
        qs_mem_free(split);
    }
    const qs_decoder_part three[] = {{two, 1}, {one, n_layers - 2}, {host, 1}};
    how.parts = three;
    how.n_parts = 3;
    float *split = decode(&f, one, how);
    check_logits("qwen3", &f, split, whole);
    qs_mem_free(split);
    qs_mem_free(whole);
    qs_backend_destroy(two);
    qs_backend_destroy(one);
    qs_backend_destroy(host);
    qs_rt_simt_set_devices(1);
    fixture_close(&f);
}

/* A kernel that cannot be started is a device error at once, in plain steps and in played ones. */
static void test_launch_failures(void **state)
{
    (void)state;
    qs_backend *cuda = shim_open();
    fixture f = fixture_open("llama3");
    qs_decoder *decoder = NULL;
    float *logits = floats(f.config->n_vocab);
    must(decoder_create(&decoder, &f, cuda, (form){.dense = QS_F16}));
    for (int step = 0; step < 4; step++) {
        for (int64_t k = 0; k < (step == 0 ? 7 : 1); k += 3) { /* a play is one launch */
            qs_rt_simt_fail_launch(k, QS_RT_LAUNCH_FAILURE);
            assert_int_equal(qs_decoder_step(decoder, f.tokens, logits), QS_E_DEVICE);
            qs_rt_simt_fail_launch(0, QS_RT_OK);
        }
        must(qs_decoder_step(decoder, f.tokens, logits));
    }
    qs_mem_free(logits);
    qs_decoder_destroy(decoder);
    qs_backend_destroy(cuda);
    fixture_close(&f);
}
/* Second moments, means and maxima of every site as on the CPU. */
static void test_statistics(void **state)
{
    (void)state;
    qs_backend *backends[] = {cuda_open(), backend_open("reference", 2)};
    fixture f = fixture_open("qwen3");
    qs_collector collectors[2];
    float *hidden = floats(N_TOKENS * f.config->d_model);
    for (int i = 0; i < 2; i++) {
        must(qs_collector_init(&collectors[i], backends[i], f.config));
        qs_tap tap = qs_collector_tap(&collectors[i]);
        must(qs_forward_hidden(backends[i], f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, &tap, hidden));
    }
    for (qs_site site = 0; site < QS_N_SITES; site++) {
        const float *got, *expected;
        int64_t d = collectors[0].sites[site].width;
        must(qs_collector_gram(&collectors[0], 0, site, &got));
        must(qs_collector_gram(&collectors[1], 0, site, &expected));
        double largest = 0.0;
        for (int64_t i = 0; i < d * (d + 1) / 2; i++) largest = fmax(largest, fabs((double)expected[i]));
        assert_true(max_abs_diff(got, expected, d * (d + 1) / 2) <= 1e-4 * largest);
        assert_int_equal(collectors[0].sites[site].n_tokens, collectors[1].sites[site].n_tokens);
    }
    for (int i = 0; i < 2; i++) {
        qs_collector_fini(&collectors[i]);
        qs_backend_destroy(backends[i]);
    }
    qs_mem_free(hidden);
    fixture_close(&f);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),          cmocka_unit_test(test_decodes_like_cpu),
        cmocka_unit_test(test_16_bit_products), cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_recordings),      cmocka_unit_test(test_batches),
        cmocka_unit_test(test_split),           cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_launch_failures), cmocka_unit_test(test_statistics),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
