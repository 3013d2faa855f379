#include "model/placement.h"

#include <math.h>

#include "base/mem.h"
#include "model/block.h"

static const char *const names[QS_N_PLACEMENTS] = {
    [QS_PLACE_DEVICE] = "device", [QS_PLACE_SPLIT] = "split", [QS_PLACE_HOST] = "host",
    [QS_PLACE_STREAM] = "stream", [QS_PLACE_NONE] = "none",
};

const char *qs_placement_name(qs_placement_kind kind) { return names[kind]; }

static size_t bits_to_bytes(double weights, double bits) { return (size_t)ceil(weights * bits / 8.0); }

static size_t f32_bytes(int64_t n) { return (size_t)n * sizeof(float); }

static size_t block_bytes(const qs_model_config *c, double linear_bits)
{
    int64_t q = c->n_heads * c->head_dim, kv = c->n_kv_heads * c->head_dim;
    double weights = (double)c->d_model * (double)(2 * q + 2 * kv + 3 * c->d_ff);
    int64_t vectors = 2 * c->d_model;
    if (c->qkv_bias) vectors += q + 2 * kv;
    if (c->o_bias) vectors += c->d_model;
    if (c->qk_norm) vectors += 2 * c->head_dim;
    return bits_to_bytes(weights, linear_bits) + f32_bytes(vectors);
}

static size_t staging_bytes(const qs_model_config *c)
{
    int64_t q = c->n_heads * c->head_dim, widest = c->d_ff > q ? c->d_ff : q;
    return f32_bytes(c->d_model * widest);
}

static void part_bytes(qs_placement *p, const qs_model_config *c, const qs_placement_request *r)
{
    int64_t n_rows = r->n_ctx > r->batch ? r->n_ctx : r->batch;
    size_t table = bits_to_bytes((double)c->n_vocab * (double)c->d_model, r->dense_bits);
    p->n_layers = c->n_layers;
    p->block_bytes = block_bytes(c, r->linear_bits);
    p->kv_bytes = f32_bytes(2 * r->batch * r->n_ctx * c->n_kv_heads * c->head_dim);
    p->embed_bytes = c->tied_head ? 0 : table;
    p->head_bytes = table + f32_bytes(c->d_model);
    p->scratch_bytes = qs_scratch_bytes(c, n_rows) + f32_bytes(n_rows * c->d_model + r->batch * c->n_vocab);
    p->staging_bytes = staging_bytes(c);
}

/* What lies where when the first n layers are on the device; the head joins them when all of them are. */
static void place(qs_placement *p, int64_t n_device_layers)
{
    size_t layer = p->block_bytes + p->kv_bytes, n = (size_t)n_device_layers;
    bool head_on_device = n_device_layers == p->n_layers;
    p->n_device_layers = n_device_layers;
    p->device_bytes = n > 0 ? n * layer + p->scratch_bytes : 0;
    p->host_bytes = ((size_t)p->n_layers - n) * layer + p->embed_bytes;
    if (head_on_device) p->device_bytes += p->head_bytes;
    else p->host_bytes += p->head_bytes + p->scratch_bytes;
}

void qs_placement_plan(qs_placement *out, const qs_model_config *config, const qs_placement_request *request)
{
    qs_placement *p = out;
    *p = (qs_placement){0};
    part_bytes(p, config, request);
    /* From most on the device to least; the first that fits both budgets is the fastest. */
    for (int64_t n = p->n_layers; n >= 0; n--) {
        place(p, n);
        if (p->device_bytes > request->device_bytes || p->host_bytes > request->host_bytes) continue;
        p->kind = n == p->n_layers ? QS_PLACE_DEVICE : n > 0 ? QS_PLACE_SPLIT : QS_PLACE_HOST;
        return;
    }
    p->n_device_layers = 0;
    p->device_bytes = 0;
    p->host_bytes = p->block_bytes + p->staging_bytes + p->scratch_bytes + p->head_bytes;
    p->kind = p->host_bytes <= request->host_bytes ? QS_PLACE_STREAM : QS_PLACE_NONE;
}

static void print_part(FILE *stream, const char *part, int64_t n, size_t each_bytes, const char *where)
{
    char text[QS_MEM_TEXT_BYTES];
    if (n > 0 && each_bytes > 0)
        (void)fprintf(stream, "  %-22s %5lld x %-10s %s\n", part, (long long)n, qs_mem_format(text, each_bytes), where);
}

static void print_sum(FILE *stream, const char *where, size_t bytes, size_t budget_bytes)
{
    char need[QS_MEM_TEXT_BYTES], have[QS_MEM_TEXT_BYTES];
    (void)fprintf(stream, "  %-6s needs %-10s of %s\n", where, qs_mem_format(need, bytes),
                  qs_mem_format(have, budget_bytes));
}

void qs_placement_print(const qs_placement *placement, const qs_placement_request *request, FILE *stream)
{
    const qs_placement *p = placement;
    int64_t n_host = p->n_layers - p->n_device_layers;
    bool resident = p->kind < QS_PLACE_STREAM;
    const char *rest = resident ? "host" : "streamed through the host";
    const char *head = p->kind == QS_PLACE_DEVICE ? "device" : "host";
    (void)fprintf(stream, "placement: %s\n", names[p->kind]);
    print_part(stream, "layers", p->n_device_layers, p->block_bytes, "device");
    print_part(stream, "their KV caches", p->n_device_layers, p->kv_bytes, "device");
    print_part(stream, "layers", n_host, p->block_bytes, rest);
    if (resident) print_part(stream, "their KV caches", n_host, p->kv_bytes, "host");
    else print_part(stream, "largest linear in f32", 1, p->staging_bytes, "host");
    print_part(stream, "embedding", 1, p->embed_bytes, resident ? "host" : "read row by row from the file");
    print_part(stream, "head and final norm", 1, p->head_bytes, head);
    print_part(stream, "activations", 1, p->scratch_bytes,
               p->kind == QS_PLACE_SPLIT ? "device and host" : head);
    print_sum(stream, "device", p->device_bytes, request->device_bytes);
    print_sum(stream, "host", p->host_bytes, request->host_bytes);
}
