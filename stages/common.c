#include "stages/common.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "quant/spec.h"

qs_err stage_print_json(json_t *root)
{
    const size_t look = JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6);
    bool failed = root == NULL || json_dumpf(root, stdout, look) != 0 || putchar('\n') == EOF;
    json_decref(root);
    return failed ? qs_fail(QS_E_RESOURCE, "print JSON: out of memory, or stdout cannot be written") : QS_OK;
}

stage_list stage_list_begin(const qs_common_args *common)
{
    return (stage_list){.root = common->json ? json_object() : NULL};
}

void stage_list_add(stage_list *list, const char *section, const char *name, const char *unit, const char *text)
{
    char key[32];
    bool first = list->section == NULL || strcmp(list->section, section) != 0;
    list->section = section;
    if (list->root == NULL) {
        if (first) (void)printf("%s\n", section);
        (void)printf("  %-20s %s%s%s\n", name, unit != NULL ? unit : "", unit != NULL ? " " : "", text);
        return;
    }
    (void)snprintf(key, sizeof key, "%.*s", (int)strcspn(section, " "), section);
    if (first) (void)json_object_set_new(list->root, key, json_array());
    json_t *row = json_pack("{s:s, s:s}", "name", name, "text", text);
    if (unit != NULL) (void)json_object_set_new(row, "unit", json_string(unit));
    (void)json_array_append_new(json_object_get(list->root, key), row);
}

qs_err stage_list_end(stage_list *list) { return list->root != NULL ? stage_print_json(list->root) : QS_OK; }

qs_err stage_list_specs(const qs_common_args *common)
{
    if (common->json) return stage_print_json(qs_spec_keys_json());
    qs_spec_print_keys(stdout);
    return QS_OK;
}

size_t stage_block_bytes(const qs_model *model, size_t *widest)
{
    size_t block = 0;
    *widest = 0;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        size_t bytes = (size_t)info.n_out * (size_t)info.n_in * sizeof(float);
        block += bytes;
        if (bytes > *widest) *widest = bytes;
    }
    return block;
}

static qs_err too_small(const stage_need *need, size_t room)
{
    char weights[QS_MEM_TEXT_BYTES], rest[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
    (void)qs_mem_format(weights, need->weights_bytes);
    (void)qs_mem_format(rest, need->rest_bytes + need->states_bytes);
    return qs_fail(QS_E_RESOURCE, "%s on the GPU: a block and what goes with it take %s, states and results %s, and %s "
                   "are free there; use --device-map cpu, shorter windows or fewer of them, or a larger --vram-budget",
                   need->what, weights, rest, qs_mem_format(have, room));
}

qs_err stage_backend_create(qs_backend **out, const qs_common_args *common, int n_threads, const qs_device_map *map,
                            const stage_need *need)
{
    qs_backend *backend = NULL;
    qs_backend_memory memory;
    bool any = strcmp(common->backend, "auto") == 0, cuda = strcmp(common->backend, "cuda") == 0;
    bool cpu = map->fixed && map->n_layers == 0 && (any || cuda);
    qs_err err;
    *out = NULL;
    QS_TRY(qs_backend_create(&backend, cpu ? "cpu" : common->backend, common->device, n_threads));
    if (!qs_backend_has_device(backend)) {
        if (map->fixed && map->n_layers > 0)
            err = qs_fail(QS_E_UNSUPPORTED, "--device-map %lld:layers: there is no GPU to put them on (%s)",
                          (long long)map->n_layers, qs_backend_describe(backend));
        else if (map->budget_bytes > 0 && !cpu)
            qs_log_warn("no GPU here: --vram-budget limits nothing");
        goto out;
    }
    if (map->budget_bytes > 0) QS_TRY(qs_backend_set_budget(backend, map->budget_bytes));
    qs_backend_get_memory(backend, &memory);
    if (need->weights_bytes + need->rest_bytes + need->states_bytes <= memory.free_bytes) goto out;
    err = too_small(need, memory.free_bytes);
    if (!any) goto out;
    qs_log_warn("%s", qs_error_text());
    qs_log_warn("plan: %s on the CPU", need->what);
    qs_backend_destroy(backend);
    backend = NULL;
    QS_TRY(qs_backend_create(&backend, "cpu", 0, n_threads));
out:
    if (err == QS_OK) *out = backend;
    else qs_backend_destroy(backend);
    return err;
}

size_t stage_begin_work(void)
{
    qs_mem_reset_peak(); /* of measuring this machine's rate, for the plan */
    return qs_mem_bytes();
}

/* " (+12 %)"; nothing where so little was planned that what is left out of plans is more. */
static const char *difference(char text[24], double value, double planned, double planned_min)
{
    text[0] = '\0';
    if (planned >= planned_min && planned > 0.0)
        (void)snprintf(text, 24, " (%+.0f %%)", 100.0 * (value / planned - 1.0));
    return text;
}

void stage_tell_estimate(const char *what, double seconds, double planned_seconds, size_t held_bytes,
                         size_t planned_bytes, const qs_foretold *foretold)
{
    const double planned_min = 0.5;
    char planned[QS_MEM_TEXT_BYTES], peak[QS_MEM_TEXT_BYTES], time_off[24], memory_off[24];
    size_t bytes = qs_mem_bytes_peak() - held_bytes;
    if (seconds < 0.1 || planned_seconds <= 0.0) return;
    if (foretold != NULL && foretold->foretold_s > 0.0)
        qs_log_info("%s after the first: %.1f s, foretold by it %.1f%s", what, seconds - foretold->first_s,
                    foretold->foretold_s,
                    difference(time_off, seconds - foretold->first_s, foretold->foretold_s, planned_min));
    qs_log_info("%s against its plan: %.1f s of %.1f%s; memory %s of %s%s", what, seconds, planned_seconds,
                difference(time_off, seconds, planned_seconds, planned_min), qs_mem_format(peak, bytes),
                qs_mem_format(planned, planned_bytes),
                difference(memory_off, (double)bytes, (double)planned_bytes, 0.0));
}
