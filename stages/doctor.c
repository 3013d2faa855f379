/* qsweep-doctor: what runs here. Exit status 0 when a sweep of the given model can run on this machine. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/clocks.h"
#include "backend/self_test.h"
#include "base/args.h"
#include "base/clock.h"
#include "base/mem.h"
#include "model/chat_prompt.h"
#include "model/model_record.h"
#include "model/resident.h"
#include "quant/quant_run.h"
#include "quant/mix.h"
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

/* What is found is said twice: as text, which goes nowhere under --json, and as a document, which --json alone
 * prints. */
typedef struct findings {
    FILE *text;
    json_t *root;
} findings;

static void put(json_t *object, const char *key, json_t *value) { (void)json_object_set_new(object, key, value); }
static json_t *bytes_json(size_t bytes) { return json_integer((json_int_t)bytes); }

static void print_cpu_features(const findings *f)
{
    const struct {
        const char *name;
        bool there; /* the builtin takes literals alone */
    } features[] = {{"avx2", __builtin_cpu_supports("avx2")},
                    {"fma", __builtin_cpu_supports("fma")},
                    {"avx512f", __builtin_cpu_supports("avx512f")},
                    {"avx512vnni", __builtin_cpu_supports("avx512vnni")},
                    {"avx512bf16", __builtin_cpu_supports("avx512bf16")}};
    json_t *list = json_array();
    (void)fprintf(f->text, "cpu features       ");
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        if (!features[i].there) continue;
        (void)fprintf(f->text, "%s ", features[i].name);
        (void)json_array_append_new(list, json_string(features[i].name));
    }
    (void)fprintf(f->text, "\n");
    put(f->root, "cpu_features", list);
}

static void print_device(const options *opt, const findings *f, const qs_backend *backend)
{
    char clocks[QS_CLOCKS_TEXT_BYTES], total[QS_MEM_TEXT_BYTES], room[QS_MEM_TEXT_BYTES], own[QS_MEM_TEXT_BYTES];
    qs_backend_memory memory;
    if (!qs_backend_has_device(backend)) return;
    qs_backend_get_memory(backend, &memory);
    put(f->root, "device_memory",
        json_pack("{s:o, s:o, s:o}", "total_bytes", bytes_json(memory.total_bytes), "free_bytes",
                  bytes_json(memory.free_bytes), "context_bytes", bytes_json(memory.context_bytes)));
    (void)fprintf(f->text, "device memory      %s, %s usable%s, %s taken by the driver\n",
                 qs_mem_format(total, memory.total_bytes), qs_mem_format(room, memory.free_bytes),
                 opt->map.budget_bytes > 0 ? " within the budget" : "",
                 qs_mem_format(own, memory.context_bytes));
    if (!qs_clocks_read(clocks, opt->common.device)) return;
    (void)fprintf(f->text, "device clocks      %s\n", clocks);
    put(f->root, "device_clocks", json_string(clocks));
}

static qs_err print_machine(const options *opt, const findings *f, qs_backend **backend)
{
    static const stage_need nothing = {.what = "doctor"};
    char total[QS_MEM_TEXT_BYTES];
    qs_err err = stage_backend_create(backend, &opt->common, opt->n_threads, &opt->map, &nothing);
    if (err != QS_OK) return err;
    qs_backend_peaks peaks;
    err = qs_backend_measure_peaks(*backend, QS_PEAKS_ALL, &peaks);
    if (err != QS_OK) return err;
    (void)fprintf(f->text, "qsweep             %s\n", QS_VERSION);
    (void)fprintf(f->text, "backend            %s on %s, %d threads\n", qs_backend_name(*backend),
                  qs_backend_device(*backend), qs_backend_n_threads(*backend));
    (void)fprintf(f->text, "kernels            %s\n", qs_backend_describe(*backend));
    print_cpu_features(f);
    (void)fprintf(f->text, "measured           f32 GEMM %.0f GFLOP/s, bf16 GEMM %.0f GFLOP/s, memory read %.1f GB/s\n",
                 peaks.gemm_f32_flops * 1e-9, peaks.gemm_bf16_flops * 1e-9, peaks.read_bytes * 1e-9);
    size_t available = qs_mem_available_bytes();
    (void)fprintf(f->text, "memory available   %s\n", qs_mem_format(total, available));
    put(f->root, "version", json_string(QS_VERSION));
    put(f->root, "backend", json_string(qs_backend_name(*backend)));
    put(f->root, "device", json_string(qs_backend_device(*backend)));
    put(f->root, "n_threads", json_integer(qs_backend_n_threads(*backend)));
    put(f->root, "kernels", json_string(qs_backend_describe(*backend)));
    put(f->root, "gemm_f32_flops", json_real(peaks.gemm_f32_flops));
    put(f->root, "gemm_bf16_flops", json_real(peaks.gemm_bf16_flops));
    put(f->root, "read_bytes_per_s", json_real(peaks.read_bytes));
    put(f->root, "available_bytes", bytes_json(available));
    print_device(opt, f, *backend);
    return QS_OK;
}

static void print_op(void *context, const char *op, const char *from)
{
    const findings *f = context;
    (void)fprintf(f->text, "%-19s %s\n", op, from);
    (void)json_array_append_new(json_object_get(f->root, "ops"), json_pack("{s:s, s:s}", "name", op, "from", from));
}

static void print_trial(void *context, const qs_self_test_row *row)
{
    const findings *f = context;
    (void)fprintf(f->text, "  %-29s difference %.1e, limit %.1e  %s\n", row->op, row->difference, row->limit,
                  row->ok ? "ok" : "WRONG");
    json_t *trial = json_pack("{s:s, s:f, s:b}", "name", row->op, "limit", row->limit, "ok", (int)row->ok);
    put(trial, "difference", isfinite(row->difference) ? json_real(row->difference) : json_null());
    (void)json_array_append_new(json_object_get(f->root, "self_test"), trial);
}

static qs_err print_ops(const options *opt, findings *f, qs_backend *backend)
{
    if (opt->common.list) {
        put(f->root, "ops", json_array());
        qs_backend_list_ops(backend, print_op, f);
    }
    if (!opt->self_test) return QS_OK;
    (void)fprintf(f->text, "\nself-test against the plain C reference:\n");
    put(f->root, "self_test", json_array());
    return qs_backend_self_test(backend, print_trial, f);
}

static qs_err print_model(const findings *f, const qs_model *model)
{
    char chat[QS_CHAT_TEXT_BYTES];
    const qs_model_config *c = qs_model_get_config(model);
    qs_storage storage;
    bool lattice = qs_model_is_lattice(model, &storage);
    (void)fprintf(f->text, "\nmodel              %s\n", qs_model_path(model));
    (void)fprintf(f->text, "architecture       %s, %lld layers, d_model %lld, d_ff %lld, heads %lld/%lld of %lld, "
                 "vocabulary %lld%s\n",
                 c->architecture, (long long)c->n_layers, (long long)c->d_model, (long long)c->d_ff,
                 (long long)c->n_heads, (long long)c->n_kv_heads, (long long)c->head_dim,
                 (long long)c->n_vocab, c->tied_head ? ", tied head" : "");
    (void)fprintf(f->text, "weights            %.1f M in the linears, %.1f M in all, stored as %s\n",
                 (double)qs_model_n_linear_weights(model) * 1e-6, (double)qs_model_n_weights(model) * 1e-6,
                 qs_storage_name(storage));
    if (lattice)
        (void)fprintf(f->text, "lattice            the weights already sit on a %s grid: degradation against this "
                     "reference is understated\n",
                     qs_storage_name(storage));
    (void)fprintf(f->text, "tokenizer          %s\n",
                 qs_model_get_tokenizer(model) != NULL ? "found" : "none: text stages cannot run");
    qs_err err = qs_model_describe_chat(chat, model);
    if (err != QS_OK) return err;
    (void)fprintf(f->text, "chat template      %s (evaluate --chat)\n", chat);
    json_t *facts =
        json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:b}", "path", qs_json_text(qs_model_path(model)), "architecture",
                  c->architecture, "n_layers", (json_int_t)c->n_layers, "d_model", (json_int_t)c->d_model, "d_ff",
                  (json_int_t)c->d_ff, "n_vocab", (json_int_t)c->n_vocab, "tied_head", (int)c->tied_head);
    put(facts, "n_heads", json_integer(c->n_heads));
    put(facts, "n_kv_heads", json_integer(c->n_kv_heads));
    put(facts, "head_dim", json_integer(c->head_dim));
    put(facts, "n_weights", json_integer(qs_model_n_linear_weights(model)));
    put(facts, "n_weights_total", json_integer(qs_model_n_weights(model)));
    put(facts, "storage", json_string(qs_storage_name(storage)));
    put(facts, "lattice", json_boolean(lattice));
    put(facts, "tokenizer", json_boolean(qs_model_get_tokenizer(model) != NULL));
    put(facts, "chat", json_string(chat));
    put(f->root, "model", facts);
    return QS_OK;
}

/* Peak memory of each stage: streams plus one block plus what the stage itself holds. */
static size_t print_stage_memory(const options *opt, const findings *f, const qs_model *model)
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
    static const char *const stages[] = {"calibrate", "quantize", "evaluate"};
    json_t *peaks = json_object();
    size_t most = 0;
    (void)fprintf(f->text, "\nestimated peak memory per stage (%lld x %lld tokens):\n", (long long)opt->n_samples,
                 (long long)opt->seqlen);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[QS_MEM_TEXT_BYTES];
        (void)fprintf(f->text, "  %-18s %s\n", names[i], qs_mem_format(text, rows[i]));
        put(peaks, stages[i], bytes_json(rows[i]));
        if (rows[i] > most) most = rows[i];
    }
    put(f->root, "peak_bytes", peaks);
    return most;
}

/* ---- placement ---- */

/* Matrices of a point that need not have been made. */
typedef struct planned_point {
    const qs_spec *spec; /* NULL = the reference */
    const qs_model *model;
    qs_packed packed;
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
} planned_point;

static qs_err describe(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    planned_point *point = context;
    qs_tensor_info info = qs_model_info(point->model, role, layer);
    qs_spec head;
    const qs_spec *spec = point->spec;
    if (spec != NULL && role == QS_ROLE_HEAD) spec = qs_spec_head(spec, &head) ? &head : NULL;
    *desc = (qs_matrix_desc){.format = spec != NULL ? QS_MATRIX_INT : QS_MATRIX_F16, .n_out = info.n_out,
                             .n_in = info.n_in, .packed = &point->packed};
    return spec != NULL ? qs_quant_describe(spec, info.n_out, info.n_in, point->groups, &point->packed) : QS_OK;
}

/* As a timed deployment is made, which is what --device-map and --vram-budget are for. */
static qs_err plan_weights(qs_placement_weights *out, const qs_backend *backend, planned_point *point,
                           const qs_placement_request *request)
{
    const qs_resident_source source = {.describe = describe, .context = point};
    const qs_decoder_options decoder = {.batch = request->batch, .n_ctx_cap = request->n_ctx,
                                        .block = {.compute = QS_COMPUTE_BF16, .dense_dtype = QS_F16}};
    return qs_resident_plan(out, backend, qs_model_get_config(point->model), &source, &decoder);
}

/* Both sides' weights, which the caller frees. */
static qs_err plan_sides(const options *opt, const qs_backend *backend, planned_point *point,
                         qs_placement_request *request, qs_placement_weights sides[2])
{
    qs_backend *host = NULL;
    qs_backend_memory memory;
    qs_err err;
    if (!qs_backend_has_device(backend)) {
        request->host = &sides[1];
        return plan_weights(&sides[1], backend, point, request);
    }
    qs_backend_get_memory(backend, &memory);
    request->device_bytes = memory.free_bytes;
    QS_TRY(qs_backend_create(&host, "cpu", 0, opt->n_threads));
    QS_TRY(plan_weights(&sides[0], backend, point, request));
    QS_TRY(plan_weights(&sides[1], host, point, request));
    request->device = &sides[0];
    request->host = &sides[1];
out:
    qs_backend_destroy(host);
    return err;
}

static void print_placement(const findings *f, const char *config, const qs_placement *placement,
                            const qs_placement_request *request)
{
    qs_placement_part parts[QS_PLACEMENT_PARTS_MAX];
    json_t *list = json_array();
    int n = qs_placement_parts(parts, placement);
    for (int i = 0; i < n; i++)
        (void)json_array_append_new(list, json_pack("{s:s, s:I, s:o, s:s}", "name", parts[i].name, "n",
                                                    (json_int_t)parts[i].n, "bytes", bytes_json(parts[i].bytes),
                                                    "where", parts[i].where));
    qs_placement_print(placement, request, f->text);
    put(f->root, "placement",
        json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "config", config, "kind",
                  qs_placement_name(placement->kind), "n_ctx", (json_int_t)request->n_ctx, "n_layers",
                  (json_int_t)placement->n_layers, "n_device_layers", (json_int_t)placement->n_device_layers, "parts",
                  list, "device_bytes", bytes_json(placement->device_bytes), "device_free_bytes",
                  bytes_json(request->device_bytes), "host_bytes", bytes_json(placement->host_bytes),
                  "host_free_bytes", bytes_json(request->host_bytes)));
}

/* The plan by itself, or the one that --device-map asks for. */
static qs_err plan_placement(const options *opt, const findings *f, const char *id, const qs_model_config *config,
                             const qs_placement_request *request, qs_placement *placement)
{
    qs_placement_plan(placement, config, request);
    if (!opt->map.fixed) return QS_OK;
    if (opt->map.n_devices > 1) return QS_OK; /* print_devices has it */
    if (opt->map.n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map %lld:layers: the model has %lld", (long long)opt->map.n_layers,
                       (long long)config->n_layers);
    qs_placement_fix(placement, config, request, opt->map.n_layers);
    if (qs_placement_fits(placement, request)) return QS_OK;
    print_placement(f, id, placement, request);
    return qs_placement_context(qs_fail(QS_E_RESOURCE, "place model as asked: the plan above does not fit"),
                                config, request, opt->map.n_layers);
}

/* Which layers each GPU takes when the first does not take them all. */
static qs_err print_devices(const options *opt, const findings *f, planned_point *point,
                            const qs_placement_request *request)
{
    const qs_model_config *config = qs_model_get_config(point->model);
    qs_model_config left = *config;
    qs_placement_weights weights = {0};
    qs_backend *backend = NULL;
    qs_err err = QS_OK;
    if (opt->map.n_layers > config->n_layers)
        return qs_fail(QS_E_USAGE, "--device-map with %lld layers: the model has %lld", (long long)opt->map.n_layers,
                       (long long)config->n_layers);
    (void)fprintf(f->text, "\nover several GPUs:\n");
    put(f->root, "devices", json_array());
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
        QS_TRY(plan_weights(&weights, backend, point, &own));
        own.device = &weights;
        own.first_layer = config->n_layers - left.n_layers;
        qs_placement_take(&p, &left, &own, &opt->map, i, left.n_layers);
        (void)fprintf(f->text, "  device %lld: %lld layers%s, needs %s of %s\n", (long long)(opt->common.device + i),
                     (long long)p.n_device_layers, p.n_device_layers == p.n_layers ? ", final norm and head" : "",
                     qs_mem_format(need, p.device_bytes), qs_mem_format(have, own.device_bytes));
        (void)json_array_append_new(
            json_object_get(f->root, "devices"),
            json_pack("{s:I, s:I, s:b, s:o, s:o}", "device", (json_int_t)(opt->common.device + i), "n_layers",
                      (json_int_t)p.n_device_layers, "head", (int)(p.n_device_layers == p.n_layers), "bytes",
                      bytes_json(p.device_bytes), "free_bytes", bytes_json(own.device_bytes)));
        if (p.device_bytes > own.device_bytes)
            QS_TRY(qs_fail(QS_E_RESOURCE,
                           "place model as asked: device %lld has no room for %lld layers; give it fewer, "
                           "or --device-map auto", (long long)(opt->common.device + i), (long long)p.n_device_layers));
        left.n_layers -= p.n_device_layers;
        qs_placement_weights_free(&weights);
        qs_backend_destroy(backend);
        backend = NULL;
    }
    if (err == QS_OK && left.n_layers > 0)
        (void)fprintf(f->text, "  host: %lld layers, final norm and head\n", (long long)left.n_layers);
    put(f->root, "n_host_layers", json_integer(left.n_layers));
out:
    qs_placement_weights_free(&weights);
    qs_backend_destroy(backend);
    return err;
}

static qs_err check_model(const options *opt, const findings *f, const qs_backend *backend, qs_model *model)
{
    const qs_model_config *c = qs_model_get_config(model);
    qs_spec spec;
    qs_placement_weights sides[2] = {{0}};
    planned_point point = {.model = model, .spec = opt->spec != NULL ? &spec : NULL};
    const char *id = "fp";
    qs_err err = QS_OK;
    if (opt->spec != NULL) {
        QS_TRY(qs_spec_parse(&spec, opt->spec));
        id = spec.id;
        for (int role = 0; role < QS_N_LINEARS; role++)
            QS_TRY(qs_spec_check_row(&spec, qs_model_info(model, (qs_role)role, 0).n_in, qs_role_name((qs_role)role)));
    }
    qs_placement placement;
    qs_placement_request request = {
        .linear_bits = 16.0,
        .dense_bits = 16.0,
        .batch = 1,
        .n_ctx = opt->n_ctx,
        .host_bytes = qs_mem_available_bytes(),
    };
    QS_TRY(plan_sides(opt, backend, &point, &request, sides));
    QS_TRY(plan_placement(opt, f, id, c, &request, &placement));
    (void)fprintf(f->text, "\nplacement of %s, %lld tokens of context:\n",
                  point.spec != NULL ? id : "the reference in f16", (long long)opt->n_ctx);
    print_placement(f, id, &placement, &request);
    if (qs_backend_has_device(backend) &&
        (opt->map.n_devices > 1 || (!opt->map.fixed && placement.kind != QS_PLACE_DEVICE)))
        QS_TRY(print_devices(opt, f, &point, &request));
    size_t most = print_stage_memory(opt, f, model);
    if (placement.kind == QS_PLACE_NONE || most > request.host_bytes) {
        char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
        err = qs_fail(QS_E_RESOURCE,
                      "a sweep needs about %s and %s are available; use fewer --samples or a larger machine",
                      qs_mem_format(need, most), qs_mem_format(have, request.host_bytes));
        goto out;
    }
    if (request.device_bytes > 0 && most > request.device_bytes)
        (void)fprintf(f->text, "\nthe GPU is smaller than the largest of these: with --backend auto such a stage runs "
                     "on the CPU\n");
    (void)fprintf(f->text, "\na sweep of this model can run here\n");
out:
    for (int i = 0; i < 2; i++) qs_placement_weights_free(&sides[i]);
    return err;
}

static qs_err find(const options *opt, findings *f)
{
    qs_backend *backend = NULL;
    qs_model *model = NULL;
    qs_spec spec;
    qs_err err;
    QS_TRY(print_machine(opt, f, &backend));
    QS_TRY(print_ops(opt, f, backend));
    if (opt->spec != NULL) QS_TRY(qs_spec_parse(&spec, opt->spec)); /* also where no model holds it against its rows */
    if (opt->model == NULL) goto out;
    QS_TRY(qs_model_open(&model, opt->model));
    QS_TRY(print_model(f, model));
    QS_TRY(check_model(opt, f, backend, model));
out:
    qs_model_close(model);
    qs_backend_destroy(backend);
    return err;
}

/* What was found before something failed is printed too. */
static qs_err run(const options *opt)
{
    findings f = {stdout, json_object()};
    if (opt->common.json && (f.text = fopen("/dev/null", "we")) == NULL) {
        json_decref(f.root);
        return qs_fail(QS_E_RESOURCE, "open /dev/null: %s", strerror(errno));
    }
    qs_err err = find(opt, &f);
    if (!opt->common.json) {
        json_decref(f.root);
        return err;
    }
    (void)fclose(f.text);
    put(f.root, "runs", json_boolean(err == QS_OK));
    if (err != QS_OK) put(f.root, "error", qs_json_text(qs_error_text()));
    qs_err printed = stage_print_json(f.root);
    return err != QS_OK ? err : printed;
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
