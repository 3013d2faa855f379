/* The model on a GPU, or on the CPU that pretends to be one: decoding, recordings, the split between device and host,
 * budgets, and what happens when memory runs out or the device is lost. Skipped where backend "cuda" cannot be made. */
#include "model_fixtures.h"

#include <unistd.h>

#include "backend/backend_impl.h"
#include "backend/cuda/runtime.h"
#include "base/log.h"
#include "metric/evaluation.h"
#include "metric/memory.h"
#include "scratch.h"
#include "stat/stats.h"

/* Only the runtime that pretends has them. */
#pragma weak qs_rt_simt_fail_malloc
#pragma weak qs_rt_simt_fail_launch

enum { N_STEPS = 10, N_PROMPT = 9 };
static const double limit = 2e-3;

static qs_backend *cuda_open(void)
{
    qs_backend *backend = NULL;
    if (qs_backend_create(&backend, "cuda", 0, 2) != QS_OK) {
        print_message("skipped: %s\n", qs_error_text());
        skip();
    }
    return backend;
}

static void need_shim(void)
{
    if (qs_rt_simt_fail_malloc != NULL) return;
    print_message("skipped: failures can be provoked on the pretended device alone\n");
    skip();
}

typedef struct form {
    const qs_linear_source *source;
    qs_dtype dense;
    qs_compute compute;
    int64_t batch;
    qs_backend *host;
    int64_t n_device_layers;
} form;

static qs_err decoder_create(qs_decoder **out, const fixture *f, qs_backend *backend, form how)
{
    qs_decoder_options options = {.batch = how.batch > 0 ? how.batch : 1, .n_ctx_cap = N_TOKENS,
                                  .block = {.compute = how.compute, .dense_dtype = how.dense},
                                  .host = how.host, .n_device_layers = how.n_device_layers};
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

static void test_decodes_like_cpu(void **state)
{
    (void)state;
    static const qs_dtype types[] = {QS_F32, QS_F16, QS_BF16};
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2);
    for (size_t i = 0; i < N_FIXTURES; i++) {
        fixture f = fixture_open(fixture_names[i]);
        made_up m;
        made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32, .zeros = true});
        for (size_t t = 0; t < 4; t++) {
            form how = {.dense = t < 3 ? types[t] : QS_F16, .source = t < 3 ? NULL : &m.packed_source};
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
        for (size_t i = 0; i < 2; i++) must(decoder_create(&decoders[i], &f, backends[b], (form){.dense = QS_F16, .batch = BATCH}));
        for (int step = 0; step < 5; step++) {
            int32_t next[BATCH];
            must(qs_decoder_step(decoders[0], f.tokens + step, logits));
            must(qs_decoder_step_argmax(decoders[1], f.tokens + step, next));
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
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
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
            if (step == 3) qs_mem_free(decode(&f, fresh, (form){.dense = QS_F16, .batch = 4}));
            if (step == 5) must(qs_forward_hidden(fresh, f.model, NULL, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, f.hidden));
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
    static const int64_t batches[] = {2, 5, 8, 13};
    qs_backend *cuda = cuda_open();
    fixture f = fixture_open("mistral");
    made_up m;
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 16, .zeros = true});
    for (size_t s = 0; s < 2; s++) {
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
        for (size_t s = 0; s < 2; s++) {
            form how = {.dense = QS_F16, .source = s == 0 ? NULL : &m.packed_source};
            float *whole = decode(&f, host, how);
            for (int64_t n = 0; n <= f.config->n_layers; n++) {
                how.host = host;
                how.n_device_layers = n;
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

/* ---- deployments ---- */

static qs_deployment_options deployment_options(void)
{
    return (qs_deployment_options){.backend = "cuda", .n_threads = 2, .n_ctx_cap = N_TOKENS};
}

static void use_deployment(const fixture *f, qs_deployment *deployment)
{
    float *logits = floats(f->config->n_vocab);
    must(qs_decoder_prefill(deployment->decoder, 0, f->tokens, N_PROMPT, logits));
    for (int step = 0; step < 4; step++)
        must(qs_decoder_step(deployment->decoder, f->tokens + N_PROMPT + step, logits));
    assert_true(isfinite(logits[0]));
    qs_mem_free(logits);
    qs_deployment_measure(deployment);
}

/* The parts add up, and a budget that shrinks moves layers to the host and is kept. */
static void test_budgets(void **state)
{
    (void)state;
    qs_backend_destroy(cuda_open());
    fixture f = fixture_open("llama2");
    qs_deployment deployment;
    qs_deployment_options options = deployment_options();
    must(qs_deployment_create(&deployment, f.model, NULL, &options));
    use_deployment(&f, &deployment);
    const qs_vram_use whole = deployment.use.vram;
    assert_int_equal(deployment.placement.kind, QS_PLACE_DEVICE);
    assert_null(deployment.host);
    assert_true(whole.before_bytes >= whole.context_bytes && whole.before_bytes < whole.after_load_bytes);
    assert_true(whole.after_load_bytes <= whole.peak_bytes);
    assert_true(whole.weights_bytes > 0 && whole.kv_bytes > 0);
    assert_true(whole.weights_bytes + whole.kv_bytes + whole.workspace_bytes + whole.context_bytes <= whole.peak_bytes);
    size_t held = whole.peak_bytes - whole.context_bytes;
    qs_deployment_destroy(&deployment);

    int64_t last = f.config->n_layers;
    for (int i = 9; i >= 0; i--) {
        options.map.budget_bytes = held * (size_t)i / 10 + 1;
        must(qs_deployment_create(&deployment, f.model, NULL, &options));
        use_deployment(&f, &deployment);
        print_message("budget %zu: %lld layers on the device, peak %zu\n", options.map.budget_bytes,
                      (long long)deployment.placement.n_device_layers,
                      deployment.use.vram.peak_bytes - deployment.use.vram.context_bytes);
        assert_true(deployment.placement.n_device_layers <= last);
        if (deployment.placement.n_device_layers > 0)
            assert_true(deployment.use.vram.peak_bytes - deployment.use.vram.context_bytes <= options.map.budget_bytes);
        last = deployment.placement.n_device_layers;
        qs_deployment_destroy(&deployment);
    }
    assert_int_equal(last, 0);
    fixture_close(&f);
}

/* What another model of the same process holds is not taken for the driver's own. */
static void test_context(void **state)
{
    (void)state;
    qs_backend *one = cuda_open(), *two = NULL;
    qs_backend_memory memory;
    void *buffer = NULL;
    qs_backend_get_memory(one, &memory);
    size_t context = memory.context_bytes;
    must(qs_backend_alloc(one, &buffer, 64 << 20, "test"));
    must(qs_backend_create(&two, "cuda", 0, 2));
    qs_backend_get_memory(two, &memory);
    assert_true(memory.context_bytes < context + (32 << 20));
    qs_backend_free(one, buffer);
    qs_backend_destroy(one);
    qs_backend_destroy(two);
}

/* A map that leaves no choice is an error that names one that would fit; a map is kept where it fits. */
static void test_maps(void **state)
{
    (void)state;
    qs_backend_destroy(cuda_open());
    fixture f = fixture_open("llama2");
    qs_deployment deployment;
    qs_deployment_options options = deployment_options();
    for (int64_t n = 0; n <= f.config->n_layers; n++) {
        options.map = (qs_device_map){.fixed = true, .n_layers = n};
        must(qs_deployment_create(&deployment, f.model, NULL, &options));
        assert_int_equal(qs_backend_has_device(deployment.backend), n > 0);
        if (n > 0) assert_int_equal(deployment.placement.n_device_layers, n);
        use_deployment(&f, &deployment);
        qs_deployment_destroy(&deployment);
    }
    options.map = (qs_device_map){.fixed = true, .n_layers = f.config->n_layers, .budget_bytes = 4096};
    assert_int_equal(qs_deployment_create(&deployment, f.model, NULL, &options), QS_E_RESOURCE);
    print_message("%s\n", qs_error_text());
    assert_non_null(strstr(qs_error_text(), "--device-map cpu"));
    options.map = (qs_device_map){.fixed = true, .n_layers = f.config->n_layers + 1};
    assert_int_equal(qs_deployment_create(&deployment, f.model, NULL, &options), QS_E_USAGE);
    fixture_close(&f);
}

/* ---- failures ---- */

/* The k-th allocation and all after it fail, for every k: an error with a text, nothing left behind (the sanitizer
 * build watches), and the next attempt works. */
static void test_allocation_failures(void **state)
{
    (void)state;
    qs_backend_destroy(cuda_open());
    need_shim();
    fixture f = fixture_open("qwen2");
    qs_deployment deployment;
    qs_deployment_options options = deployment_options();
    float *logits = floats(f.config->n_vocab);
    options.map = (qs_device_map){.fixed = true, .n_layers = f.config->n_layers};
    size_t before = qs_mem_bytes();
    int64_t k = 0, n_failed = 0;
    for (bool done = false; !done; k++) {
        qs_rt_simt_fail_malloc(k, QS_RT_OUT_OF_MEMORY);
        qs_err err = qs_deployment_create(&deployment, f.model, NULL, &options);
        if (err == QS_OK) err = qs_decoder_prefill(deployment.decoder, 0, f.tokens, N_PROMPT, logits);
        for (int step = 0; step < 3 && err == QS_OK; step++)
            err = qs_decoder_step(deployment.decoder, f.tokens + step, logits);
        if (err != QS_OK) {
            assert_int_equal(err, QS_E_RESOURCE);
            assert_true(strlen(qs_error_text()) > 20);
            n_failed++;
        }
        done = err == QS_OK;
        qs_rt_simt_fail_malloc(0, QS_RT_OK);
        qs_deployment_destroy(&deployment);
        assert_int_equal(qs_mem_bytes(), before);
    }
    print_message("%lld allocations failed one after the other\n", (long long)n_failed);
    assert_true(n_failed > 10);

    /* Left the choice, the same ends on the host, and the plan says so. */
    options.map = (qs_device_map){0};
    must(qs_backend_create(&deployment.backend, "cuda", 0, 2)); /* what a backend itself takes must be there */
    qs_backend_destroy(deployment.backend);
    qs_rt_simt_fail_malloc(n_failed / 2, QS_RT_OUT_OF_MEMORY);
    must(qs_deployment_create(&deployment, f.model, NULL, &options));
    qs_rt_simt_fail_malloc(0, QS_RT_OK);
    assert_true(deployment.placement.n_device_layers < f.config->n_layers);
    qs_deployment_destroy(&deployment);
    qs_mem_free(logits);
    fixture_close(&f);
}

/* A kernel that cannot be started is a device error at once, in plain steps and in played ones. */
static void test_launch_failures(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open();
    if (qs_rt_simt_fail_malloc == NULL) qs_backend_destroy(cuda);
    need_shim();
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

/* ---- scoring and statistics ---- */

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

enum { N_CTX = 48, N_WINDOWS = 5 };

typedef struct sweep {
    qs_model *model;
    qs_windows windows;
} sweep;

static void sweep_open(sweep *s)
{
    const qs_protocol *protocol;
    int32_t tokens[N_CTX * N_WINDOWS];
    for (int i = 0; i < N_CTX * N_WINDOWS; i++) tokens[i] = (i * 37 + i / 7) % 384;
    must(qs_model_open(&s->model, "tests/fixtures/tiny"));
    must(qs_protocol_find(&protocol, "hf"));
    must(qs_windows_cut(&s->windows, protocol, tokens, N_CTX * N_WINDOWS, N_CTX, 0, -1));
    assert_int_equal(scratch_create(NULL), 0);
}

static void sweep_close(sweep *s)
{
    assert_int_equal(scratch_remove(NULL), 0);
    qs_windows_free(&s->windows);
    qs_model_close(s->model);
}

/* Evaluates the reference; 0 or the error. */
static qs_err evaluate(sweep *s, qs_backend *backend, const char *name, unsigned tasks, char path[QS_PATH_BYTES])
{
    qs_evaluation e;
    char dir[QS_PATH_BYTES];
    must(qs_path_format(dir, "%s/%s", scratch_dir, name));
    must(qs_path_format(path, "%s/fp.eval.h5", dir));
    qs_eval_options options = {
        .windows = &s->windows, .tasks = tasks, .seed = 1, .out_dir = dir,
        .latency = {.n_prompt = 8, .n_warmups = 1, .n_prefills = 3, .n_rounds = 4, .round_tokens = 2},
    };
    must(qs_evaluation_create(&e, backend, s->model, NULL, 0, &options));
    qs_err err = qs_evaluation_run(&e);
    qs_evaluation_destroy(&e);
    return err;
}

static double metric_of(const char *path, const char *name)
{
    qs_artifact *artifact;
    qs_estimate estimate = {0};
    bool present = false;
    must(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    must(qs_metric_get(artifact, qs_metric_find(name), &estimate, &present));
    if (!present) fail_msg("%s: %s is missing", path, name);
    qs_artifact_close(artifact);
    return estimate.value;
}

static void test_evaluation(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2);
    char paths[2][QS_PATH_BYTES];
    sweep s;
    sweep_open(&s);
    must(evaluate(&s, cuda, "cuda", QS_TASK_PPL | QS_TASK_KLD | QS_TASK_LATENCY | QS_TASK_MEMORY, paths[0]));
    must(evaluate(&s, cpu, "cpu", QS_TASK_PPL | QS_TASK_KLD, paths[1]));
    double got = metric_of(paths[0], "ppl"), expected = metric_of(paths[1], "ppl");
    print_message("ppl %.9g on the device, %.9g on the CPU; KLD of the control %.2e\n", got, expected,
                  metric_of(paths[0], "kld_max"));
    assert_true(fabs(got - expected) <= 1e-4 * expected);
    assert_true(metric_of(paths[0], "vram_peak") >= metric_of(paths[0], "vram_after_load"));
    assert_true(metric_of(paths[0], "decode_ms_tok_p50") > 0.0);
    sweep_close(&s);
    qs_backend_destroy(cuda);
    qs_backend_destroy(cpu);
}

/* The device is lost somewhere in the middle: exit status 7 and no artifact, whole or in parts. */
static void test_lost_device(void **state)
{
    (void)state;
    qs_backend *cuda = cuda_open();
    if (qs_rt_simt_fail_malloc == NULL) qs_backend_destroy(cuda);
    need_shim();
    sweep s;
    char path[QS_PATH_BYTES];
    sweep_open(&s);
    for (int64_t k = 0; k < 1000; k = 3 * k + 1) {
        qs_rt_simt_fail_launch(k, QS_RT_LAUNCH_FAILURE);
        qs_err err = evaluate(&s, cuda, "lost", QS_TASK_PPL | QS_TASK_KLD | QS_TASK_LATENCY, path);
        qs_rt_simt_fail_launch(0, QS_RT_OK);
        if (err == QS_OK) break;
        assert_int_equal(err, QS_E_DEVICE);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    must(evaluate(&s, cuda, "lost", QS_TASK_PPL, path));
    assert_int_equal(access(path, F_OK), 0);
    sweep_close(&s);
    qs_backend_destroy(cuda);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),         cmocka_unit_test(test_decodes_like_cpu),
        cmocka_unit_test(test_16_bit_products), cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_recordings),     cmocka_unit_test(test_batches),
        cmocka_unit_test(test_split),          cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_context),        cmocka_unit_test(test_maps),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_launch_failures), cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_evaluation),     cmocka_unit_test(test_lost_device),
    };
    qs_log_set_level(QS_LOG_WARN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
