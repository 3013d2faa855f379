/* Evaluation of whole points on the tiny model (docs/gates.md: negative controls;
 * checklist B7: savings visible; E4: latency against the reference). */
#include "model_files.h"

#include <math.h>

#include "base/log.h"
#include "metric/evaluation.h"
#include "metric/machine_lock.h"

#define TINY "tests/fixtures/tiny"
enum { N_CTX = 48, N_WINDOWS = 11 };

typedef struct bench {
    const char *dir;
    qs_model *model;
    qs_backend *backend;
    qs_windows windows;
    char quants[3][QS_PATH_BYTES]; /* 8 bits, 4 bits, 2 bits */
    const char *paths[3];
} bench;

static const char *const specs[] = {"rtn:bits=8,group=32,sym=0", "rtn:bits=4,group=32,sym=0",
                                    "rtn:bits=2,group=32,sym=0"};

static void quantize(bench *b, const char *text, char path[QS_PATH_BYTES])
{
    qs_spec spec;
    qs_quant_writer *writer;
    qs_quant_inputs inputs = {.model = b->model};
    assert_ok(qs_spec_parse(&spec, text));
    assert_ok(qs_quant_path(path, b->dir, &spec));
    assert_ok(qs_quant_writer_create(&writer, path, &inputs, &spec,
                              qs_quant_linear_bits(&spec, b->model)));
    for (int64_t layer = 0; layer < qs_model_get_config(b->model)->n_layers; layer++) {
        qs_quant_layer quant;
        assert_ok(qs_quantize_layer(b->model, b->backend, layer, NULL, &spec, 1, &quant));
        assert_ok(qs_quant_writer_add(writer, layer, &quant));
        qs_quant_layer_free(&quant);
    }
    assert_ok(qs_quant_writer_finish(writer, 0.5, NULL));
}

/* A directory with artifacts and, perhaps, the lock that stays in it. */
static void remove_out(const char *dir)
{
    char path[QS_PATH_BYTES];
    assert_ok(qs_machine_lock_path(path, dir));
    (void)remove(path);
    remove_dir(dir);
}

static int setup(void **state)
{
    static char dir[QS_PATH_BYTES];
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    qs_log_set_level(QS_LOG_WARN);
    b->dir = make_dir(dir);
    assert_ok(qs_model_open(&b->model, TINY));
    assert_ok(qs_backend_create(&b->backend, "cpu", 0, 2));
    int32_t tokens[N_CTX * N_WINDOWS];
    for (int i = 0; i < N_CTX * N_WINDOWS; i++) tokens[i] = (i * 37 + i / 7) % 384;
    const qs_protocol *protocol;
    assert_ok(qs_protocol_find(&protocol, "hf"));
    assert_ok(qs_windows_cut(&b->windows, protocol, tokens, N_CTX * N_WINDOWS, N_CTX, 0, -1));
    for (int i = 0; i < 3; i++) {
        quantize(b, specs[i], b->quants[i]);
        b->paths[i] = b->quants[i];
    }
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    qs_windows_free(&b->windows);
    qs_backend_destroy(b->backend);
    qs_model_close(b->model);
    remove_out(b->dir);
    free(b);
    return 0;
}

static qs_eval_options options_of(const bench *b, const char *out_dir)
{
    return (qs_eval_options){
        .windows = &b->windows,
        .tasks = QS_TASKS_QUALITY,
        .seed = 1,
        .out_dir = out_dir,
        .latency = {.n_prompt = 8, .n_warmups = 1, .n_prefills = 3, .n_rounds = 4, .round_tokens = 2},
    };
}

/* Runs and gives the number of points that were evaluated. */
static int64_t evaluate(bench *b, const qs_eval_options *options, int64_t first, int64_t n)
{
    qs_evaluation e;
    qs_evaluation_cost cost;
    assert_ok(qs_evaluation_create(&e, b->backend, b->model, b->paths + first, n, options));
    qs_evaluation_plan(&e, &cost);
    assert_ok(qs_evaluation_run(&e));
    for (int64_t i = 0; i < n; i++) assert_true(e.points[i].current);
    qs_evaluation_destroy(&e);
    return cost.n_todo;
}

static char *sub_dir(const bench *b, const char *name, char path[QS_PATH_BYTES])
{
    assert_ok(qs_path_format(path, "%s/%s", b->dir, name));
    return path;
}

static qs_artifact *open_eval(const char *dir, const char *id)
{
    char path[QS_PATH_BYTES];
    qs_artifact *artifact;
    assert_ok(qs_path_format(path, "%s/%s.eval.h5", dir, id));
    assert_ok(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    return artifact;
}

static qs_digest digest_of(const char *dir, const char *id)
{
    qs_artifact *artifact = open_eval(dir, id);
    qs_digest digest = qs_artifact_digest(artifact);
    qs_artifact_close(artifact);
    return digest;
}

static qs_estimate metric(const char *dir, const char *id, const char *name)
{
    qs_artifact *artifact = open_eval(dir, id);
    qs_estimate estimate;
    bool present;
    assert_ok(qs_metric_get(artifact, qs_metric_find(name), &estimate, &present));
    if (!present) fail_msg("%s has no %s", id, name);
    qs_artifact_close(artifact);
    return estimate;
}

static const char *const ids[] = {"rtn-b8-g32-asym", "rtn-b4-g32-asym", "rtn-b2-g32-asym"};

/* The reference against itself, measured by a second pass; then 8 bits close, 2 bits worse. */
static void test_reference_and_three_points(void **state)
{
    bench *b = *state;
    char dir[QS_PATH_BYTES];
    qs_eval_options options = options_of(b, sub_dir(b, "three", dir));
    assert_int_equal(evaluate(b, &options, 0, 3), 4);
    assert_true(metric(dir, "fp", "kld_max").value < 1e-7);
    assert_true(metric(dir, "fp", "ppl_ratio").value == 1.0);
    assert_true(metric(dir, "fp", "top1_agree").value == 1.0);
    assert_true(metric(dir, "fp", "dp_rms").value == 0.0);
    double kld[3];
    for (int i = 0; i < 3; i++) {
        kld[i] = metric(dir, ids[i], "kld_mean").value;
        qs_estimate ratio = metric(dir, ids[i], "ppl_ratio");
        assert_true(ratio.lo <= ratio.value && ratio.value <= ratio.hi && ratio.n == N_WINDOWS);
        double ppl = metric(dir, ids[i], "ppl").value, ppl_f = metric(dir, "fp", "ppl").value;
        assert_true(fabs(ppl / ppl_f / ratio.value - 1.0) < 1e-6);
    }
    assert_true(kld[0] > 0.0 && kld[0] < 1e-3);
    assert_true(kld[1] > 10.0 * kld[0]);
    assert_true(kld[2] > 5.0 * kld[1]);
    assert_true(metric(dir, ids[0], "top1_agree").value > metric(dir, ids[2], "top1_agree").value);
    /* run again: everything is current; another seed changes intervals, so nothing is */
    assert_int_equal(evaluate(b, &options, 0, 3), 0);
    options.seed = 2;
    assert_int_equal(evaluate(b, &options, 0, 3), 4);
    remove_out(dir);
}

/* A later point that uses the stored reference equals one that was evaluated together with it, bit for bit;
 * so do batches of windows and single points when memory is short, and one thread. */
static void test_reuse_and_batches_are_bitwise(void **state)
{
    bench *b = *state;
    char joint[QS_PATH_BYTES], later[QS_PATH_BYTES], tight[QS_PATH_BYTES], single[QS_PATH_BYTES];
    qs_eval_options options = options_of(b, sub_dir(b, "joint", joint));
    assert_int_equal(evaluate(b, &options, 0, 2), 3);
    options.out_dir = sub_dir(b, "later", later);
    assert_int_equal(evaluate(b, &options, 0, 0), 1);
    assert_int_equal(evaluate(b, &options, 0, 2), 2);
    options.out_dir = sub_dir(b, "tight", tight);
    options.budget_bytes = 1;
    assert_int_equal(evaluate(b, &options, 0, 2), 3);
    qs_backend *two = b->backend;
    assert_ok(qs_backend_create(&b->backend, "cpu", 0, 1));
    options.out_dir = sub_dir(b, "single", single);
    assert_int_equal(evaluate(b, &options, 0, 2), 3);
    qs_backend_destroy(b->backend);
    b->backend = two;
    for (int i = -1; i < 2; i++) {
        const char *id = i < 0 ? "fp" : ids[i];
        qs_digest digest = digest_of(joint, id),
                  others[] = {digest_of(later, id), digest_of(tight, id), digest_of(single, id)};
        for (int k = 0; k < 3; k++) assert_memory_equal(&digest, &others[k], sizeof digest);
    }
    remove_out(joint);
    remove_out(later);
    remove_out(tight);
    remove_out(single);
}

static void refuse_baseline(const bench *b, const qs_eval_options *options, const char *what)
{
    qs_evaluation e;
    assert_fails(qs_evaluation_create(&e, b->backend, b->model, b->paths, 1, options), QS_E_INPUT, what);
}

/* A baseline of other tokens, protocol, precision or model is refused by name, and so is one that is none. */
static void test_refuses_baselines(void **state)
{
    bench *b = *state;
    char dir[QS_PATH_BYTES], fp[QS_PATH_BYTES], other_dir[QS_PATH_BYTES], point[QS_PATH_BYTES];
    qs_eval_options options = options_of(b, sub_dir(b, "base", dir));
    assert_int_equal(evaluate(b, &options, 0, 1), 2);
    assert_ok(qs_path_format(fp, "%s/fp.eval.h5", dir));
    assert_ok(qs_path_format(point, "%s/%s.eval.h5", dir, ids[0]));
    options.baseline = fp;
    options.out_dir = sub_dir(b, "other", other_dir);
    assert_int_equal(evaluate(b, &options, 0, 1), 1);

    qs_windows windows = b->windows, *taken = &windows;
    options.windows = taken;
    windows.n_windows = N_WINDOWS - 1;
    refuse_baseline(b, &options, "the tokens");
    windows = b->windows;
    assert_ok(qs_protocol_find(&windows.protocol, "llamacpp"));
    refuse_baseline(b, &options, "the protocol");
    windows = b->windows;
    options.compute = QS_COMPUTE_BF16;
    refuse_baseline(b, &options, "the precision");
    options.compute = QS_COMPUTE_F32;
    options.baseline = point;
    refuse_baseline(b, &options, "not of the reference");
    options.baseline = b->paths[0];
    refuse_baseline(b, &options, "kind");
    options.baseline = fp;
    qs_model *own = b->model;
    assert_ok(qs_model_open(&b->model, MODELS "llama2"));
    refuse_baseline(b, &options, "another model");
    qs_model_close(b->model);
    b->model = own;

    qs_evaluation e;
    assert_fails(qs_evaluation_create(&e, b->backend, b->model, NULL, 0, &options), QS_E_USAGE,
                 "nothing to do");
    const char *twice[] = {b->paths[0], b->paths[0]};
    assert_fails(qs_evaluation_create(&e, b->backend, b->model, twice, 2, &options), QS_E_USAGE, "same id");
    remove_out(dir);
    remove_out(other_dir);
}

/* Latency and memory on packed weights; a stale or partial artifact is completed and keeps what it had. */
static void test_deployed(void **state)
{
    bench *b = *state;
    char dir[QS_PATH_BYTES];
    qs_eval_options options = options_of(b, sub_dir(b, "deployed", dir));
    options.tasks = QS_TASK_PPL;
    assert_int_equal(evaluate(b, &options, 1, 1), 2);
    options.tasks = QS_TASK_LATENCY | QS_TASK_MEMORY;
    assert_int_equal(evaluate(b, &options, 1, 1), 2);
    assert_int_equal(evaluate(b, &options, 1, 1), 0);
    assert_true(metric(dir, ids[1], "ppl").value > 1.0);
    qs_estimate p50 = metric(dir, ids[1], "decode_ms_tok_p50"),
                gain = metric(dir, ids[1], "latency_gain_pct");
    assert_true(p50.value > 0.0 && p50.lo <= p50.value && p50.value <= p50.hi && p50.n == 8);
    assert_true(gain.lo <= gain.value && gain.value <= gain.hi && gain.hi < 100.0);
    assert_true(metric(dir, ids[1], "prefill_tok_s").value > 0.0);
    double expected = metric(dir, ids[1], "bytes_expected").value,
           measured = metric(dir, ids[1], "bytes_measured").value;
    assert_true(fabs(measured - expected) <= 0.1 * expected);
    assert_true(metric(dir, ids[1], "savings_visible").value == 1.0);
    assert_true(measured < metric(dir, "fp", "bytes_measured").value);
    assert_true(metric(dir, ids[1], "mem_peak").value >= metric(dir, ids[1], "mem_after_load").value);
    assert_true(metric(dir, ids[1], "mem_after_load").value >=
                metric(dir, ids[1], "mem_before").value + measured);
    /* Reference and point hold the same but for their weights: what is saved in these is saved in memory. */
    double saved = metric(dir, "fp", "bytes_measured").value - measured,
           freed = metric(dir, "fp", "mem_after_load").value - metric(dir, ids[1], "mem_after_load").value;
    assert_true(saved > 50e3 && fabs(freed - saved) < 0.10 * saved);
    qs_artifact *artifact = open_eval(dir, ids[1]);
    double loss[14], quantize_s;
    assert_ok(qs_artifact_read(artifact, "/layers/loss", QS_F64, loss, 14));
    for (int i = 0; i < 14; i++) assert_true(loss[i] > 0.0 && loss[i] < 0.1);
    assert_ok(qs_artifact_get_real(artifact, "/timing/@quantize_s", &quantize_s));
    assert_true(quantize_s == 0.5);
    qs_artifact_close(artifact);
    remove_out(dir);
}

/* The dumped logits are those that the scores came from. */
static void test_dumps(void **state)
{
    bench *b = *state;
    char dir[QS_PATH_BYTES];
    qs_eval_options options = options_of(b, sub_dir(b, "dumps", dir));
    options.dumps = QS_DUMP_TOKENS | QS_DUMP_LOGITS | QS_DUMP_HIDDEN;
    assert_int_equal(evaluate(b, &options, 2, 1), 2);
    for (int k = 0; k < 2; k++) {
        qs_artifact *artifact = open_eval(dir, k == 0 ? "fp" : ids[2]);
        enum { V = 384, D = 64, N = N_WINDOWS * N_CTX };
        float *logits, *hidden, *nll;
        int32_t *tokens;
        assert_ok(QS_NEW(logits, N * V, "logits"));
        assert_ok(QS_NEW(hidden, N * D, "hidden"));
        assert_ok(QS_NEW(nll, N_WINDOWS * (N_CTX - 1), "nll"));
        assert_ok(QS_NEW(tokens, N, "tokens"));
        assert_ok(qs_artifact_read(artifact, "/dump/logits", QS_F32, logits, N * V));
        assert_ok(qs_artifact_read(artifact, "/dump/hidden", QS_F32, hidden, N * D));
        assert_ok(qs_artifact_read(artifact, "/dump/tokens", QS_I32, tokens, N));
        assert_ok(qs_artifact_read(artifact, "/tokens/nll", QS_F32, nll, N_WINDOWS * (N_CTX - 1)));
        assert_memory_equal(tokens, b->windows.ids, N * sizeof *tokens);
        for (int w = 0; w < N_WINDOWS; w++)
            for (int i = 0; i < N_CTX - 1; i++) {
                const float *row = logits + (w * N_CTX + i) * V;
                double sum = 0;
                for (int t = 0; t < V; t++) sum += exp((double)row[t]);
                double expected = log(sum) - (double)row[tokens[w * N_CTX + i + 1]];
                assert_true(fabs(expected - (double)nll[w * (N_CTX - 1) + i]) < 2e-5);
            }
        qs_mem_free(logits);
        qs_mem_free(hidden);
        qs_mem_free(nll);
        qs_mem_free(tokens);
        qs_artifact_close(artifact);
    }
    remove_out(dir);
}

/* Plans: chunks never depend on the budget, batches are whole chunks, and streams share what there is. */
static void test_plan(void **state)
{
    bench *b = *state;
    const qs_model_config *config = qs_model_get_config(b->model);
    qs_pass_plan rich, poor, long_ctx;
    qs_pass_plan_make(&rich, config, 512, 100, 8, (size_t)1 << 40);
    assert_int_equal(rich.n_streams, 8);
    assert_int_equal(rich.batch_windows, 100);
    assert_int_equal(rich.chunk_windows, 4);
    qs_pass_plan_make(&poor, config, 512, 100, 8, 3 * (size_t)(16384 * config->d_model) * sizeof(float));
    assert_int_equal(poor.n_streams, 3);
    assert_int_equal(poor.batch_windows, 32);
    assert_int_equal(poor.chunk_windows, 4);
    qs_pass_plan_make(&poor, config, 512, 100, 8, 0);
    assert_int_equal(poor.n_streams, 1);
    assert_int_equal(poor.batch_windows, 4);
    qs_pass_plan_make(&long_ctx, config, 4096, 3, 2, (size_t)1 << 40);
    assert_int_equal(long_ctx.chunk_windows, 1);
    assert_int_equal(long_ctx.batch_windows, 3);
}

/* Computing shares the directory, measuring time owns it. */
static void test_machine_lock(void **state)
{
    bench *b = *state;
    qs_machine_lock one, two;
    assert_ok(qs_machine_lock_open(&one, b->dir));
    assert_ok(qs_machine_lock_open(&two, b->dir));
    assert_ok(qs_machine_lock_share(&one));
    assert_ok(qs_machine_lock_share(&two));
    qs_machine_lock_release(&two);
    assert_ok(qs_machine_lock_own(&one));
    qs_machine_lock_close(&one);
    assert_ok(qs_machine_lock_own(&two));
    qs_machine_lock_close(&two);
    assert_fails(qs_machine_lock_open(&one, "/nonexistent/dir"), QS_E_RESOURCE, ".latency.");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_machine_lock),
        cmocka_unit_test(test_reference_and_three_points),
        cmocka_unit_test(test_reuse_and_batches_are_bitwise),
        cmocka_unit_test(test_refuses_baselines),
        cmocka_unit_test(test_deployed),
        cmocka_unit_test(test_dumps),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
