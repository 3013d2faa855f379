/* Deployments and evaluation on a GPU, or on the CPU that pretends to be one: budgets, maps, memory by its parts, and
 * what happens when memory runs out or the device is lost. Skipped where backend "cuda" cannot be made. */
#include "cuda_model.h"
#include "metric_of.h"

#include <unistd.h>

#include "base/log.h"
#include "metric/evaluation.h"
#include "metric/memory.h"
#include "quant/quant_file.h"
#include "scratch.h"

enum { N_PROMPT = 9 };

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
    must(qs_backend_alloc(one, &buffer, 256 << 20, "test"));
    must(qs_backend_create(&two, "cuda", 0, 2));
    qs_backend_get_memory(two, &memory);
    assert_true(memory.context_bytes < context + (192 << 20));
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

/* Two devices, each too small for the model: layers on both, then on the host, and each keeps its budget. Maps that
 * name both are kept, and one that names a device too many is refused. */
static void test_two_devices(void **state)
{
    (void)state;
    qs_backend_destroy(shim_open());
    fixture f = fixture_open("llama2");
    qs_deployment deployment;
    qs_deployment_options options = deployment_options();
    must(qs_deployment_create(&deployment, f.model, NULL, &options));
    use_deployment(&f, &deployment);
    const qs_vram_use whole = deployment.use.vram;
    assert_null(deployment.more[0]);
    qs_deployment_destroy(&deployment);

    qs_rt_simt_set_devices(2);
    size_t held = whole.peak_bytes - whole.context_bytes;
    bool seen_both = false;
    for (int i = 9; i > 3; i -= 2) {
        options.map = (qs_device_map){.budget_bytes = held * (size_t)i / 10 + 1};
        must(qs_deployment_create(&deployment, f.model, NULL, &options));
        use_deployment(&f, &deployment);
        print_message("budget %zu: %lld and %lld layers on two devices\n", options.map.budget_bytes,
                      (long long)deployment.layers[0], (long long)deployment.layers[1]);
        seen_both = seen_both || (deployment.layers[0] > 0 && deployment.layers[1] > 0);
        assert_true(deployment.use.vram.peak_bytes - deployment.use.vram.context_bytes <= 2 * options.map.budget_bytes);
        qs_deployment_destroy(&deployment);
    }
    assert_true(seen_both);
    int64_t n_layers = f.config->n_layers;
    options.map = (qs_device_map){.fixed = true, .n_devices = 2, .layers = {1, n_layers - 1}, .n_layers = n_layers};
    must(qs_deployment_create(&deployment, f.model, NULL, &options));
    use_deployment(&f, &deployment);
    assert_true(deployment.layers[0] == 1 && deployment.layers[1] == n_layers - 1);
    assert_null(deployment.host);
    assert_int_equal(deployment.use.vram.kv_bytes, whole.kv_bytes);
    qs_deployment_destroy(&deployment);
    qs_rt_simt_set_devices(1);
    assert_int_equal(qs_deployment_create(&deployment, f.model, NULL, &options), QS_E_UNSUPPORTED);
    fixture_close(&f);
}

/* ---- failures ---- */

/* The k-th allocation and all after it fail, for every k: an error with a text, nothing left behind (the sanitizer
 * build watches), and the next attempt works. */
static void test_allocation_failures(void **state)
{
    (void)state;
    qs_backend_destroy(shim_open());
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
/* ---- evaluation ---- */

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

/* Evaluates the reference, and points beside it; 0 or the error. */
static qs_err evaluate_points(sweep *s, qs_backend *backend, const char *name, const char *const *points,
                              int64_t n_points, unsigned tasks, char dir[QS_PATH_BYTES])
{
    qs_evaluation e;
    must(qs_path_format(dir, "%s/%s", scratch_dir, name));
    qs_eval_options options = {
        .windows = &s->windows, .tasks = tasks, .seed = 1, .out_dir = dir,
        .latency = {.n_prompt = 8, .n_warmups = 1, .n_prefills = 3, .n_rounds = 4, .round_tokens = 2},
    };
    must(qs_evaluation_create(&e, backend, s->model, points, n_points, &options));
    qs_err err = qs_evaluation_run(&e);
    qs_evaluation_destroy(&e);
    return err;
}

static qs_err evaluate(sweep *s, qs_backend *backend, const char *name, unsigned tasks, char path[QS_PATH_BYTES])
{
    char dir[QS_PATH_BYTES];
    qs_err err = evaluate_points(s, backend, name, NULL, 0, tasks, dir);
    must(qs_path_format(path, "%s/fp.eval.h5", dir));
    return err;
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

/* Quantised without calibration, on the host. */
static void quantize(sweep *s, qs_backend *backend, const qs_spec *spec, char path[QS_PATH_BYTES])
{
    qs_quant_inputs inputs = {.model = s->model};
    qs_quant_writer *writer;
    must(qs_quant_path(path, scratch_dir, spec));
    must(qs_quant_writer_create(&writer, path, &inputs, spec, qs_quant_linear_bits(spec, s->model)));
    for (int64_t layer = 0; layer < qs_model_get_config(s->model)->n_layers; layer++) {
        qs_quant_layer quant;
        must(qs_quantize_layer(s->model, backend, layer, NULL, spec, 1, &quant));
        must(qs_quant_writer_add(writer, layer, &quant));
        qs_quant_layer_free(&quant);
    }
    must(qs_quant_writer_finish(writer, 0.5, NULL));
}

/* ---- plans ---- */

/* Deploys and uses it, at the first try; *held is what the device holds beside what its backend began with. */
static void deploy_within(const fixture *f, const qs_linear_source *source, const qs_deployment_options *options,
                          int64_t n_layers, qs_deployment *deployment)
{
    must(qs_deployment_create(deployment, f->model, source, options));
    assert_int_equal(deployment->n_loads, 1);
    assert_int_equal(deployment->placement.n_device_layers, n_layers);
    use_deployment(f, deployment);
    if (options->map.budget_bytes > 0)
        assert_true(deployment->use.vram.peak_bytes - deployment->use.vram.context_bytes <= options->map.budget_bytes);
}

/* A plan's figure is what the device then holds, scratch aside, which is no more than planned; as a budget it is loaded
 * at the first try, and a byte less loses a layer; so on, down to the last. */
static void check_plans(const fixture *f, const qs_linear_source *source, const char *name, bool exact)
{
    qs_deployment deployment;
    qs_deployment_options options = deployment_options();
    options.exact = exact;
    must(qs_deployment_create(&deployment, f->model, source, &options));
    size_t own_bytes = deployment.use.before_bytes, planned = deployment.placement.device_bytes + own_bytes;
    qs_deployment_destroy(&deployment);
    for (int64_t n = f->config->n_layers; n > 0; n--) {
        qs_backend_memory memory;
        options.map.budget_bytes = planned;
        deploy_within(f, source, &options, n, &deployment);
        const qs_placement *p = &deployment.placement;
        size_t scratch = p->workspace_bytes + (p->kind == QS_PLACE_DEVICE ? p->head_workspace_bytes : 0);
        qs_backend_get_memory(deployment.backend, &memory);
        assert_int_equal(p->device_bytes + own_bytes, planned);
        assert_int_equal(memory.weight_bytes + memory.buffer_bytes + scratch, p->device_bytes);
        assert_true(memory.workspace_bytes <= own_bytes + scratch);
        print_message("%s%s: %lld layers in %zu bytes, %zu of them weights, %zu of %zu bytes of scratch\n", name,
                      exact ? " in f32" : "", (long long)n, planned, memory.weight_bytes,
                      memory.workspace_bytes - own_bytes, scratch);
        qs_deployment_destroy(&deployment);
        options.map.budget_bytes--;
        deploy_within(f, source, &options, n - 1, &deployment);
        planned = deployment.placement.device_bytes + own_bytes;
        qs_deployment_destroy(&deployment);
    }
}

/* Codes of one width and ones whose widths differ from matrix to matrix, whose source describes nothing. */
static void test_plans(void **state)
{
    (void)state;
    qs_backend_destroy(cuda_open());
    fixture f = fixture_open("llama2");
    made_up m;
    check_plans(&f, NULL, "f16", false);
    check_plans(&f, NULL, "f16", true);
    made_up_create(&m, f.model, (made_up_options){.bits = 4, .group_size = 32, .zeros = true, .perm = true});
    check_plans(&f, &m.packed_source, "4 bits", false);
    made_up_free(&m);
    fixture_close(&f);
}

/* Of points in files, which are described and not read: every format that needs no calibration. */
static void test_plans_of_points(void **state)
{
    (void)state;
    static const char *const texts[] = {"nf4", "int8", "rtn:bits=3,group=-1", "fp4:block=64,dq=0,compute=fp16",
                                        "rtn:bits=2,group=16,sym=0"};
    enum { N_POINTS = SANITIZED ? 2 : sizeof texts / sizeof *texts };
    qs_backend_destroy(cuda_open());
    qs_backend *cpu = backend_open("cpu", 2);
    char path[QS_PATH_BYTES];
    int32_t tokens[N_TOKENS];
    sweep s;
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (i * 37 + 5) % 384;
    sweep_open(&s);
    const fixture f = {.model = s.model, .config = qs_model_get_config(s.model), .tokens = tokens};
    for (int i = 0; i < N_POINTS; i++) {
        qs_spec spec;
        qs_quant_file *file;
        must(qs_spec_parse(&spec, texts[i]));
        quantize(&s, cpu, &spec, path);
        must(qs_quant_file_open(&file, path, s.model));
        qs_linear_source source = qs_quant_file_source(file);
        check_plans(&f, &source, spec.id, false);
        qs_quant_file_close(file);
    }
    sweep_close(&s);
    qs_backend_destroy(cpu);
}

/* Points of bitsandbytes' formats: their perplexity is the CPU's, and they decode. */
static void test_points_of_formats(void **state)
{
    (void)state;
    enum { N_POINTS = SANITIZED ? 1 : 2 };
    static const char *const texts[] = {"nf4", "int8"};
    qs_backend *cuda = cuda_open(), *cpu = backend_open("cpu", 2);
    char paths[N_POINTS][QS_PATH_BYTES], dirs[2][QS_PATH_BYTES], path[QS_PATH_BYTES];
    const char *points[N_POINTS];
    qs_spec specs[N_POINTS];
    sweep s;
    sweep_open(&s);
    for (int i = 0; i < N_POINTS; i++) {
        must(qs_spec_parse(&specs[i], texts[i]));
        quantize(&s, cpu, &specs[i], paths[i]);
        points[i] = paths[i];
    }
    must(evaluate_points(&s, cuda, "cuda", points, N_POINTS, QS_TASK_PPL | QS_TASK_LATENCY, dirs[0]));
    must(evaluate_points(&s, cpu, "cpu", points, N_POINTS, QS_TASK_PPL, dirs[1]));
    for (int i = 0; i < N_POINTS; i++) {
        double ppl[2];
        for (int k = 0; k < 2; k++) {
            must(qs_path_format(path, "%s/%s.eval.h5", dirs[k], specs[i].id));
            ppl[k] = metric_of(path, "ppl");
            if (k == 0) assert_true(metric_of(path, "decode_ms_tok_p50") > 0.0);
        }
        print_message("%s: ppl %.9g on the device, %.9g on the CPU\n", specs[i].id, ppl[0], ppl[1]);
        assert_true(fabs(ppl[0] - ppl[1]) <= 1e-3 * ppl[1]);
    }
    sweep_close(&s);
    qs_backend_destroy(cuda);
    qs_backend_destroy(cpu);
}

/* The device is lost somewhere in the middle: exit status 7 and no artifact, whole or in parts. */
static void test_lost_device(void **state)
{
    (void)state;
    qs_backend *cuda = shim_open();
    sweep s;
    char path[QS_PATH_BYTES];
    sweep_open(&s);
    for (int64_t k = 0; k < 1000; k = (SANITIZED ? 10 : 3) * k + 1) {
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
        cmocka_unit_test(test_budgets),             cmocka_unit_test(test_context),
        cmocka_unit_test(test_maps),                cmocka_unit_test(test_two_devices),
        cmocka_unit_test(test_plans),               cmocka_unit_test(test_plans_of_points),
        cmocka_unit_test(test_allocation_failures),
        cmocka_unit_test(test_evaluation),          cmocka_unit_test(test_points_of_formats),
        cmocka_unit_test(test_lost_device),
    };
    qs_log_set_level(QS_LOG_WARN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
