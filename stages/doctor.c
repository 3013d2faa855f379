/* qsweep-doctor: what runs here. Exit status 0 when a sweep of the given model can run on this machine. */
#include <stdio.h>
#include <string.h>

#include "backend/clocks.h"
#include "backend/self_test.h"
#include "base/args.h"
#include "base/clock.h"
#include "base/mem.h"
#include "model/chat_prompt.h"
#include "model/model_record.h"
#include "model/placement.h"
#include "quant/quant_run.h"
#include "quant/quant_size.h"
#include "stages/common.h"
#include "stat/stats.h"

typedef struct options {
    qs_common_args common;
    const char *model, *spec, *device_map, *vram_budget;
    qs_device_map map;
    int64_t n_ctx, n_samples, seqlen;
    bool self_test;
    int n_threads;
} options;

enum { SCRATCH_ROWS = 2048 };

static void print_cpu_features(void)
{
    (void)printf("cpu features       %s%s%s%s%s\n", __builtin_cpu_supports("avx2") ? "avx2 " : "",
                 __builtin_cpu_supports("fma") ? "fma " : "", __builtin_cpu_supports("avx512f") ? "avx512f " : "",
                 __builtin_cpu_supports("avx512vnni") ? "avx512vnni " : "",
                 __builtin_cpu_supports("avx512bf16") ? "avx512bf16 " : "");
}

static void print_device(const options *opt, const qs_backend *backend)
{
    char clocks[QS_CLOCKS_TEXT_BYTES], total[QS_MEM_TEXT_BYTES], room[QS_MEM_TEXT_BYTES], own[QS_MEM_TEXT_BYTES];
    qs_backend_memory memory;
    if (!qs_backend_has_device(backend)) return;
    qs_backend_get_memory(backend, &memory);
    (void)printf("device memory      %s, %s usable%s, %s taken by the driver\n",
                 qs_mem_format(total, memory.total_bytes), qs_mem_format(room, memory.free_bytes),
                 opt->map.budget_bytes > 0 ? " within the budget" : "",
                 qs_mem_format(own, memory.context_bytes));
    if (qs_clocks_read(clocks, opt->common.device)) (void)printf("device clocks      %s\n", clocks);
}

static qs_err print_machine(const options *opt, qs_backend **backend)
{
    static const stage_need nothing = {.what = "doctor"};
    char total[QS_MEM_TEXT_BYTES];
    qs_err err = stage_backend_create(backend, &opt->common, opt->n_threads, &opt->map, &nothing);
    if (err != QS_OK) return err;
    qs_backend_peaks peaks;
    err = qs_backend_measure_peaks(*backend, QS_PEAKS_ALL, &peaks);
    if (err != QS_OK) return err;
    (void)printf("qsweep             %s\n", QS_VERSION);
    (void)printf("backend            %s on %s, %d threads\n", qs_backend_name(*backend), qs_backend_device(*backend),
                 qs_backend_n_threads(*backend));
    (void)printf("kernels            %s\n", qs_backend_describe(*backend));
    print_cpu_features();
    (void)printf("measured           f32 GEMM %.0f GFLOP/s, bf16 GEMM %.0f GFLOP/s, memory read %.1f GB/s\n",
                 peaks.gemm_f32_flops * 1e-9, peaks.gemm_bf16_flops * 1e-9, peaks.read_bytes * 1e-9);
    (void)printf("memory available   %s\n", qs_mem_format(total, qs_mem_available_bytes()));
    print_device(opt, *backend);
    return QS_OK;
}

static qs_err print_model(const qs_model *model)
{
    char chat[QS_CHAT_TEXT_BYTES];
    const qs_model_config *c = qs_model_get_config(model);
    qs_storage storage;
    bool lattice = qs_model_is_lattice(model, &storage);
    (void)printf("\nmodel              %s\n", qs_model_path(model));
    (void)printf("architecture       %s, %lld layers, d_model %lld, d_ff %lld, heads %lld/%lld of %lld, "
                 "vocabulary %lld%s\n",
                 c->architecture, (long long)c->n_layers, (long long)c->d_model, (long long)c->d_ff,
                 (long long)c->n_heads, (long long)c->n_kv_heads, (long long)c->head_dim,
                 (long long)c->n_vocab, c->tied_head ? ", tied head" : "");
    (void)printf("weights            %.1f M in the linears, %.1f M in all, stored as %s\n",
                 (double)qs_model_n_linear_weights(model) * 1e-6, (double)qs_model_n_weights(model) * 1e-6,
                 qs_storage_name(storage));
    if (lattice)
        (void)printf("lattice            the weights already sit on a %s grid: degradation against this "
                     "reference is understated\n",
                     qs_storage_name(storage));
    (void)printf("tokenizer          %s\n",
                 qs_model_get_tokenizer(model) != NULL ? "found" : "none: text stages cannot run");
    qs_err err = qs_model_describe_chat(chat, model);
    if (err == QS_OK) (void)printf("chat template      %s (evaluate --chat)\n", chat);
    return err;
}

/* Peak memory of each stage: streams plus one block plus what the stage itself holds. */
static size_t print_stage_memory(const options *opt, const qs_model *model)
{
    const qs_model_config *c = qs_model_get_config(model);
    size_t widest, block = stage_block_bytes(model, &widest);
    size_t d_widest = 0;
    for (int site = 0; site < QS_N_SITES; site++) {
        size_t d = (size_t)qs_site_width(c, (qs_site)site);
        if (d > d_widest) d_widest = d;
    }
    size_t head = (size_t)c->n_vocab * (size_t)c->d_model * sizeof(float);
    size_t stream = (size_t)(opt->n_samples * opt->seqlen) * (size_t)c->d_model * sizeof(float);
    size_t rows[] = {
        stream + qs_collector_bytes(c) + qs_scratch_bytes(c, SCRATCH_ROWS) + 2 * block,
        block + 4 * d_widest * d_widest * sizeof(float) + 3 * widest,
        2 * stream + 2 * block + 2 * head + qs_scratch_bytes(c, SCRATCH_ROWS),
    };
    static const char *const names[] = {"calibrate", "quantize, a point", "evaluate, a point"};
    size_t most = 0;
    (void)printf("\nestimated peak memory per stage (%lld x %lld tokens):\n", (long long)opt->n_samples,
                 (long long)opt->seqlen);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[QS_MEM_TEXT_BYTES];
        (void)printf("  %-18s %s\n", names[i], qs_mem_format(text, rows[i]));
        if (rows[i] > most) most = rows[i];
    }
    return most;
}

/* The plan by itself, or the one that --device-map asks for. */
static qs_err plan_placement(const options *opt, const qs_backend *backend, const qs_model_config *config,
                             qs_placement_request *request, qs_placement *placement)
{
    qs_backend_memory memory = {0};
    if (qs_backend_has_device(backend)) qs_backend_get_memory(backend, &memory);
    request->device_bytes = memory.free_bytes;
    request->with_workspace = true;
    qs_placement_plan(placement, config, request);
    if (!opt->map.fixed) return QS_OK;
    if (opt->map.n_devices > 1) return QS_OK; /* print_devices has it */
    if (opt->map.n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map %lld:layers: the model has %lld", (long long)opt->map.n_layers,
                       (long long)config->n_layers);
    qs_placement_fix(placement, config, request, opt->map.n_layers);
    if (qs_placement_fits(placement, request)) return QS_OK;
    qs_placement_print(placement, request, stdout);
    return qs_placement_context(qs_fail(QS_E_RESOURCE, "place model as asked: the plan above does not fit"),
                                config, request, opt->map.n_layers);
}

/* Which layers each GPU takes when the first does not take them all. */
static qs_err print_devices(const options *opt, const qs_model_config *config, const qs_placement_request *request)
{
    qs_model_config left = *config;
    qs_backend *backend = NULL;
    qs_err err = QS_OK;
    if (opt->map.n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map with %lld layers: the model has %lld", (long long)opt->map.n_layers,
                       (long long)config->n_layers);
    (void)printf("\nover several GPUs:\n");
    for (int64_t i = 0; i < QS_DEVICES_MAX && left.n_layers > 0; i++) {
        qs_placement_request own = *request;
        qs_backend_memory memory;
        qs_placement p;
        char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
        if (opt->map.fixed && i >= opt->map.n_devices) break;
        err = qs_backend_create(&backend, "cuda", opt->common.device + i, opt->n_threads);
        if (err == QS_E_UNSUPPORTED && !opt->map.fixed) err = QS_OK;
        if (err != QS_OK || backend == NULL) break;
        if (opt->map.budget_bytes > 0) QS_TRY(qs_backend_set_budget(backend, opt->map.budget_bytes));
        qs_backend_get_memory(backend, &memory);
        own.device_bytes = memory.free_bytes;
        qs_placement_take(&p, &left, &own, &opt->map, i, left.n_layers);
        (void)printf("  device %lld: %lld layers%s, needs %s of %s\n", (long long)(opt->common.device + i),
                     (long long)p.n_device_layers, p.n_device_layers == p.n_layers ? ", final norm and head" : "",
                     qs_mem_format(need, p.device_bytes), qs_mem_format(have, own.device_bytes));
        if (p.device_bytes > own.device_bytes)
            QS_TRY(qs_fail(QS_E_RESOURCE, "place model as asked: device %lld has no room for %lld layers; give it fewer, "
                           "or --device-map auto", (long long)(opt->common.device + i), (long long)p.n_device_layers));
        left.n_layers -= p.n_device_layers;
        qs_backend_destroy(backend);
        backend = NULL;
    }
    if (err == QS_OK && left.n_layers > 0)
        (void)printf("  host: %lld layers, final norm and head\n", (long long)left.n_layers);
out:
    qs_backend_destroy(backend);
    return err;
}

static qs_err check_model(const options *opt, const qs_backend *backend, qs_model *model)
{
    const qs_model_config *c = qs_model_get_config(model);
    qs_spec spec;
    qs_quant_size size = qs_quant_size_of(NULL, model);
    qs_err err;
    if (opt->spec != NULL) {
        QS_TRY(qs_spec_parse(&spec, opt->spec));
        for (int role = 0; role < QS_N_LINEARS; role++)
            QS_TRY(qs_spec_check_row(&spec, qs_model_info(model, (qs_role)role, 0).n_in, qs_role_name((qs_role)role)));
        size = qs_quant_size_of(&spec, model);
    }
    qs_placement placement;
    qs_placement_request request = {
        .linear_bits = opt->spec != NULL ? size.bpw : 16.0,
        .dense_bits = 16.0,
        .batch = 1,
        .n_ctx = opt->n_ctx,
        .host_bytes = qs_mem_available_bytes(),
    };
    QS_TRY(plan_placement(opt, backend, c, &request, &placement));
    (void)printf("\nplacement of %s, %lld tokens of context:\n", opt->spec != NULL ? spec.id : "the reference in f16",
                 (long long)opt->n_ctx);
    qs_placement_print(&placement, &request, stdout);
    if (qs_backend_has_device(backend) && (opt->map.n_devices > 1 || (!opt->map.fixed && placement.kind != QS_PLACE_DEVICE)))
        QS_TRY(print_devices(opt, c, &request));
    size_t most = print_stage_memory(opt, model);
    if (placement.kind == QS_PLACE_NONE || most > request.host_bytes) {
        char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
        err = qs_fail(QS_E_RESOURCE,
                      "a sweep needs about %s and %s are available; use fewer --samples or a larger machine",
                      qs_mem_format(need, most), qs_mem_format(have, request.host_bytes));
        goto out;
    }
    if (request.device_bytes > 0 && most > request.device_bytes)
        (void)printf("\nthe GPU is smaller than the largest of these: with --backend auto such a stage runs "
                     "on the CPU\n");
    (void)printf("\na sweep of this model can run here\n");
out:
    return err;
}

static qs_err run(const options *opt)
{
    qs_backend *backend = NULL;
    qs_model *model = NULL;
    qs_err err;
    QS_TRY(print_machine(opt, &backend));
    if (opt->common.list) qs_backend_print_ops(backend, stdout);
    if (opt->self_test) {
        (void)printf("\nself-test against the plain C reference:\n");
        QS_TRY(qs_backend_self_test(backend, stdout));
    }
    if (opt->model == NULL) goto out;
    QS_TRY(qs_model_open(&model, opt->model));
    QS_TRY(print_model(model));
    QS_TRY(check_model(opt, backend, model));
out:
    qs_model_close(model);
    qs_backend_destroy(backend);
    return err;
}

int main(int argc, char **argv)
{
    options opt = {.common = QS_COMMON_DEFAULTS, .n_ctx = 2048, .n_samples = 128, .seqlen = 512,
                   .device_map = "auto"};
    qs_arg rows[] = {
        {"model", QS_ARG_STRING, &opt.model, "DIR|FILE.gguf", "also check this model", 0, 0, false},
        {"spec", QS_ARG_STRING, &opt.spec, "SPEC", "also check this point of the grid", 0, 0, false},
        {"ctx", QS_ARG_INT, &opt.n_ctx, "N", "tokens of context to place", 1, 1e7, false},
        {"samples", QS_ARG_INT, &opt.n_samples, "N", "calibration windows, for the memory of the stages", 1,
         1e6, false},
        {"seqlen", QS_ARG_INT, &opt.seqlen, "N", "tokens in a window", 2, 1e6, false},
        {"self-test", QS_ARG_FLAG, &opt.self_test, NULL, "run every op against the plain C reference", 0, 0,
         false},
        QS_ARGS_DEVICE_MAP(&opt.device_map, &opt.vram_budget),
        QS_ARGS_COMMON(&opt.common),
    };
    qs_args args = {.program = "qsweep-doctor", .summary = "check this machine, a model and a spec", .rows = rows};
    bool done;
    qs_err err = qs_args_parse(&args, argc, argv, stdout, &done);
    if (err == QS_OK && !done) {
        qs_args_apply_common(&opt.common, &opt.n_threads);
        err = qs_device_map_parse(&opt.map, opt.device_map, opt.vram_budget);
        if (err == QS_OK) err = run(&opt);
    }
    qs_args_free(&args);
    return qs_args_exit(err);
}
