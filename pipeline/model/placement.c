#include "model/placement.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/forward.h"

static const char *const names[QS_N_PLACEMENTS] = {
    [QS_PLACE_DEVICE] = "device", [QS_PLACE_SPLIT] = "split", [QS_PLACE_HOST] = "host",
    [QS_PLACE_STREAM] = "stream", [QS_PLACE_NONE] = "none",
};

const char *qs_placement_name(qs_placement_kind kind) { return names[kind]; }

static size_t bits_to_bytes(double weights, double bits) { return (size_t)ceil(weights * bits / 8.0); }

static size_t f32_bytes(int64_t n) { return (size_t)n * sizeof(float); }

void qs_placement_weights_free(qs_placement_weights *weights)
{
    qs_mem_free(weights->layers);
    *weights = (qs_placement_weights){0};
}

static double linear_weights(const qs_model_config *c)
{
    int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    return (double)c->d_model * (double)(2 * q + 2 * kv + 3 * c->d_ff);
}

/* Layers [first, first + n) of the configuration. */
static size_t layers_bytes(const qs_model_config *c, const qs_placement_request *r, const qs_placement_weights *weights,
                           int64_t first, int64_t n)
{
    size_t bytes = (size_t)n * qs_block_vector_bytes(c);
    if (weights == NULL) return bytes + (size_t)n * bits_to_bytes(linear_weights(c), r->linear_bits);
    for (int64_t i = first; i < first + n; i++) bytes += weights->layers[r->first_layer + i];
    return bytes;
}

static size_t staging_bytes(const qs_model_config *c)
{
    int64_t q = c->n_heads * c->head_dim, widest = c->d_ff > q ? c->d_ff : q;
    return f32_bytes(c->d_model * widest);
}

static void part_bytes(qs_placement *p, const qs_model_config *c, const qs_placement_request *r)
{
    int64_t n_rows = r->n_ctx > r->batch ? r->n_ctx : r->batch, n = c->n_layers > 0 ? c->n_layers : 1;
    size_t table = bits_to_bytes((double)c->n_vocab * (double)c->d_model, r->dense_bits), norm = f32_bytes(c->d_model);
    p->n_layers = c->n_layers;
    p->block_bytes = layers_bytes(c, r, r->device, 0, c->n_layers) / (size_t)n;
    p->host_block_bytes = layers_bytes(c, r, r->host, 0, c->n_layers) / (size_t)n;
    p->kv_bytes = f32_bytes(2 * r->batch * r->n_ctx * c->n_kv_heads * c->head_dim);
    p->embed_bytes = c->tied_head ? 0 : table;
    p->head_bytes = (r->device != NULL ? r->device->head : table) + norm;
    p->host_head_bytes = (r->host != NULL ? r->host->head : table) + norm;
    p->logits_bytes = f32_bytes((1 + r->n_more_logits) * r->batch * c->n_vocab);
    p->scratch_bytes = qs_scratch_bytes(c, n_rows) + qs_decoder_input_bytes(c, r->batch, r->n_ctx);
    p->staging_bytes = staging_bytes(c);
    p->workspace_bytes = r->device != NULL ? r->device->workspace : 0;
    p->head_workspace_bytes = r->device != NULL ? r->device->head_workspace : 0;
}

/* What lies where when the first n layers are on the device; the head joins them when all of them are. */
static void place(qs_placement *p, const qs_model_config *c, const qs_placement_request *r, int64_t n_device_layers)
{
    int64_t n = n_device_layers, n_host = p->n_layers - n;
    bool head_on_device = n == p->n_layers;
    p->n_device_layers = n;
    p->device_bytes = 0;
    if (n > 0)
        p->device_bytes = layers_bytes(c, r, r->device, 0, n) + (size_t)n * p->kv_bytes + p->scratch_bytes +
                          p->workspace_bytes;
    p->host_bytes = layers_bytes(c, r, r->host, n, n_host) + (size_t)n_host * p->kv_bytes + p->embed_bytes;
    if (head_on_device) p->device_bytes += p->head_bytes + p->logits_bytes + p->head_workspace_bytes;
    else p->host_bytes += p->host_head_bytes + p->logits_bytes + p->scratch_bytes;
    p->kind = head_on_device ? QS_PLACE_DEVICE : n > 0 ? QS_PLACE_SPLIT : QS_PLACE_HOST;
}

void qs_placement_take(qs_placement *out, const qs_model_config *left, const qs_placement_request *request,
                       const qs_device_map *map, int64_t i, int64_t limit)
{
    qs_placement_request roomy = *request;
    int64_t n = qs_device_map_layers(map, i);
    roomy.host_bytes = SIZE_MAX;
    if (!map->fixed) {
        qs_placement_plan(out, left, &roomy);
        n = out->n_device_layers;
    }
    qs_placement_fix(out, left, &roomy, n < limit ? n : limit);
}

bool qs_placement_fits(const qs_placement *placement, const qs_placement_request *request)
{
    return placement->device_bytes <= request->device_bytes && placement->host_bytes <= request->host_bytes;
}

void qs_placement_fix(qs_placement *out, const qs_model_config *config, const qs_placement_request *request,
                      int64_t n_device_layers)
{
    *out = (qs_placement){0};
    part_bytes(out, config, request);
    place(out, config, request, n_device_layers);
}

void qs_placement_plan(qs_placement *out, const qs_model_config *config, const qs_placement_request *request)
{
    qs_placement *p = out;
    *p = (qs_placement){0};
    part_bytes(p, config, request);
    /* From most on the device to least; the first that fits both budgets is the fastest. */
    for (int64_t n = p->n_layers; n >= 0; n--) {
        place(p, config, request, n);
        if (qs_placement_fits(p, request)) return;
    }
    p->n_device_layers = 0;
    p->device_bytes = 0;
    p->host_bytes = p->host_block_bytes + p->staging_bytes + p->scratch_bytes + p->host_head_bytes + p->logits_bytes;
    p->kind = p->host_bytes <= request->host_bytes ? QS_PLACE_STREAM : QS_PLACE_NONE;
}

int qs_placement_parts(qs_placement_part parts[QS_PLACEMENT_PARTS_MAX], const qs_placement *placement)
{
    const qs_placement *p = placement;
    int64_t n_host = p->n_layers - p->n_device_layers;
    bool resident = p->kind < QS_PLACE_STREAM, whole = p->kind == QS_PLACE_DEVICE;
    const char *head = whole ? "device" : "host";
    const qs_placement_part all[] = {
        {"layers", p->n_device_layers, p->block_bytes, "device"},
        {"their KV caches", p->n_device_layers, p->kv_bytes, "device"},
        {"layers", n_host, p->host_block_bytes, resident ? "host" : "streamed through the host"},
        {resident ? "their KV caches" : "largest linear in f32", resident ? n_host : 1,
         resident ? p->kv_bytes : p->staging_bytes, "host"},
        {"embedding", 1, p->embed_bytes, resident ? "host" : "read row by row from the file"},
        {"head and final norm", 1, whole ? p->head_bytes : p->host_head_bytes, head},
        {"logits", 1, p->logits_bytes, head},
        {"activations", 1, p->scratch_bytes, p->kind == QS_PLACE_SPLIT ? "device and host" : head},
        {"workspace of kernels", p->n_device_layers > 0 ? 1 : 0,
         p->workspace_bytes + (whole ? p->head_workspace_bytes : 0), "device"},
    };
    _Static_assert(sizeof all / sizeof *all == QS_PLACEMENT_PARTS_MAX, "a place for every part");
    int n = 0;
    for (int i = 0; i < QS_PLACEMENT_PARTS_MAX; i++)
        if (all[i].n > 0 && all[i].bytes > 0) parts[n++] = all[i];
    return n;
}

static void print_sum(FILE *stream, const char *where, size_t bytes, size_t budget_bytes)
{
    char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
    (void)fprintf(stream, "  %-6s needs %-10s of %s\n", where, qs_mem_format(need, bytes),
                  qs_mem_format(have, budget_bytes));
}

void qs_placement_print(const qs_placement *placement, const qs_placement_request *request, FILE *stream)
{
    qs_placement_part parts[QS_PLACEMENT_PARTS_MAX];
    char text[QS_MEM_TEXT_BYTES];
    int n = qs_placement_parts(parts, placement);
    (void)fprintf(stream, "placement: %s\n", names[placement->kind]);
    for (int i = 0; i < n; i++)
        (void)fprintf(stream, "  %-22s %5lld x %-10s %s\n", parts[i].name, (long long)parts[i].n,
                      qs_mem_format(text, parts[i].bytes), parts[i].where);
    print_sum(stream, "device", placement->device_bytes, request->device_bytes);
    print_sum(stream, "host", placement->host_bytes, request->host_bytes);
}

void qs_placement_log(const qs_placement *placement, const qs_placement_request *request)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *stream = open_memstream(&text, &bytes);
    if (stream == NULL) return;
    qs_placement_print(placement, request, stream);
    if (fclose(stream) == 0)
        for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
            qs_log_info("%.*s", (int)(end - line), line);
    free(text);
}

char *qs_placement_format(char text[QS_PLACEMENT_TEXT_BYTES], const qs_placement *placement)
{
    const qs_placement *p = placement;
    char device[QS_MEM_TEXT_BYTES], host[QS_MEM_TEXT_BYTES];
    (void)qs_mem_format(device, p->device_bytes);
    (void)qs_mem_format(host, p->host_bytes);
    if (p->n_device_layers == p->n_layers)
        (void)snprintf(text, QS_PLACEMENT_TEXT_BYTES, "all %lld layers, norm and head on the device (%s)",
                       (long long)p->n_layers, device);
    else if (p->n_device_layers == 0)
        (void)snprintf(text, QS_PLACEMENT_TEXT_BYTES, "everything on the host (%s)", host);
    else
        (void)snprintf(text, QS_PLACEMENT_TEXT_BYTES,
                       "%lld of %lld layers on the device (%s), %lld, norm and head on the host (%s)",
                       (long long)p->n_device_layers, (long long)p->n_layers, device,
                       (long long)(p->n_layers - p->n_device_layers), host);
    return text;
}

qs_err qs_placement_context(qs_err code, const qs_model_config *config, const qs_placement_request *request,
                            int64_t n_tried)
{
    qs_placement p;
    char text[QS_PLACEMENT_TEXT_BYTES], map[32] = "cpu";
    if (code != QS_E_RESOURCE || n_tried < 1) return code;
    qs_placement_plan(&p, config, request);
    if (p.kind >= QS_PLACE_STREAM || p.n_device_layers >= n_tried)
        qs_placement_fix(&p, config, request, p.kind >= QS_PLACE_STREAM ? 0 : n_tried - 1);
    if (p.n_device_layers > 0) (void)snprintf(map, sizeof map, "%lld:layers", (long long)p.n_device_layers);
    return qs_context(code, "place %lld of %lld layers on the device, where --device-map %s (%s) would fit",
                      (long long)n_tried, (long long)config->n_layers, map, qs_placement_format(text, &p));
}

/* ---- what the user asks for ---- */

static qs_err parse_budget(size_t *out, const char *text)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        value *= pow(1024.0, (double)(unit - units + 1));
        end++;
    }
    if (errno != 0 || end == text || *end != '\0' || !(value >= 1.0 && value < 9e15))
        return qs_fail(QS_E_USAGE, "--vram-budget %s: it is a number of bytes, with K, M, G or T behind if that helps",
                       text);
    *out = (size_t)value;
    return QS_OK;
}

int64_t qs_device_map_layers(const qs_device_map *map, int64_t i)
{
    if (map->n_devices <= 1) return i == 0 ? map->n_layers : 0;
    return i < map->n_devices ? map->layers[i] : 0;
}

/* "20:layers" or "20:layers,12:layers". */
static bool parse_layers(qs_device_map *out, const char *map)
{
    static const char unit[] = ":layers";
    for (const char *at = map; out->n_devices < QS_DEVICES_MAX; at++) {
        char *end;
        errno = 0;
        int64_t n = strtoll(at, &end, 10);
        if (errno != 0 || n < 0 || n > INT32_MAX || end == at || strncmp(end, unit, sizeof unit - 1) != 0) return false;
        out->layers[out->n_devices++] = n;
        out->n_layers += n;
        at = end + sizeof unit - 1;
        if (*at != ',') return *at == '\0';
    }
    return false;
}

qs_err qs_device_map_parse(qs_device_map *out, const char *map, const char *budget)
{
    *out = (qs_device_map){.fixed = strcmp(map, "auto") != 0};
    if (out->fixed && strcmp(map, "cpu") != 0 && !parse_layers(out, map))
        return qs_fail(QS_E_USAGE, "--device-map %s: it is auto, cpu or N:layers, such as 20:layers, or "
                       "20:layers,12:layers for two of up to %d GPUs", map, QS_DEVICES_MAX);
    return budget != NULL ? parse_budget(&out->budget_bytes, budget) : QS_OK;
}
