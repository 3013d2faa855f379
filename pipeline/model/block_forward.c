/* The decoder block: h += o(attention(rope(q(x)), rope(k(x)), v(x))), x = rmsnorm(h); then
 * h += down(silu(gate(y)) * up(y)), y = rmsnorm(h). (Touvron et al. 2023; Qwen3's norm of q and k per head.) */
#include "base/mem.h"
#include "base/minmax.h"
#include "model/block.h"
#include "model/block_impl.h"

/* The MLP treats rows apart from each other, so its two wide buffers need not be as long as a window. */
enum { MLP_ROWS = 512, ALIGN_FLOATS = QS_MEM_ALIGN / (int)sizeof(float) };

struct qs_scratch {
    qs_backend *backend;
    int64_t n_rows, mlp_rows;
    float *buffer;          /* device; everything below lies in it */
    float *x;               /* [n_rows, d_model] */
    float *q, *k, *v;       /* [n_rows, heads * head_dim] */
    float *attended;        /* [n_rows, n_heads * head_dim] */
    float *gate, *up;       /* [mlp_rows, d_ff], in the place of q .. attended */
    float *inv_freq;        /* [head_dim / 2] */
    int32_t *positions;     /* device [n_rows]: 0 .. positions_period - 1, again and again */
    int64_t positions_period;
};

/* Floats of each part, rounded up to whole cache lines. */
typedef struct layout {
    int64_t x, q, kv, mlp, shared, inv_freq, positions, total;
} layout;

static int64_t padded(int64_t n) { return (n + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS; }

static layout lay_out(const qs_model_config *config, int64_t n_rows)
{
    layout l = {
        .x = padded(n_rows * config->d_model),
        .q = padded(n_rows * config->n_heads * config->head_dim),
        .kv = padded(n_rows * config->n_kv_heads * config->head_dim),
        .mlp = padded(qs_min64(n_rows, MLP_ROWS) * config->d_ff),
        .inv_freq = padded(config->head_dim / 2),
        .positions = padded(n_rows),
    };
    int64_t attention = 2 * l.q + 2 * l.kv, mlp = 2 * l.mlp;
    l.shared = attention > mlp ? attention : mlp;
    l.total = l.x + l.shared + l.inv_freq + l.positions;
    return l;
}

size_t qs_scratch_bytes(const qs_model_config *config, int64_t n_rows)
{
    return (size_t)lay_out(config, n_rows).total * sizeof(float);
}

static qs_err upload_inv_freq(qs_scratch *scratch, const qs_model *model, int64_t n)
{
    qs_err err = QS_OK;
    float *inv_freq = NULL;
    QS_TRY(QS_NEW(inv_freq, n, "rotary frequencies"));
    qs_model_rope_frequencies(model, inv_freq);
    QS_TRY(qs_backend_upload(scratch->backend, scratch->inv_freq, inv_freq, (size_t)n * sizeof *inv_freq));
out:
    qs_mem_free(inv_freq);
    return err;
}

qs_err qs_scratch_create(qs_scratch **out, qs_backend *backend, const qs_model *model, int64_t n_rows)
{
    qs_err err = QS_OK;
    qs_scratch *s = NULL;
    *out = NULL;
    if (n_rows < 1) return qs_fail(QS_E_USAGE, "create scratch: %lld rows", (long long)n_rows);
    const qs_model_config *config = qs_model_get_config(model);
    layout l = lay_out(config, n_rows);
    QS_TRY(QS_NEW(s, 1, "scratch"));
    s->backend = backend;
    s->n_rows = n_rows;
    s->mlp_rows = qs_min64(n_rows, MLP_ROWS);
    QS_TRY(qs_backend_alloc(backend, &s->buffer, (size_t)l.total * sizeof(float), "activations of a block"));
    s->x = s->buffer;
    s->q = s->x + l.x;
    s->k = s->q + l.q;
    s->v = s->k + l.kv;
    s->attended = s->v + l.kv;
    s->gate = s->q;
    s->up = s->gate + l.mlp;
    s->inv_freq = s->q + l.shared;
    s->positions = (int32_t *)(void *)(s->inv_freq + l.inv_freq);
    QS_TRY(upload_inv_freq(s, model, config->head_dim / 2));
    *out = s;
    s = NULL;
out:
    qs_scratch_destroy(s);
    return err;
}

/* Positions that start anew every `period` rows; uploaded when the period changes. */
static qs_err set_positions(qs_scratch *scratch, int64_t period)
{
    qs_err err = QS_OK;
    int32_t *positions = NULL;
    if (scratch->positions_period == period) return QS_OK;
    QS_TRY(QS_NEW(positions, scratch->n_rows, "positions"));
    for (int64_t row = 0; row < scratch->n_rows; row++) positions[row] = (int32_t)(row % period);
    QS_TRY(qs_backend_upload(scratch->backend, scratch->positions, positions,
                             (size_t)scratch->n_rows * sizeof *positions));
    scratch->positions_period = period;
out:
    qs_mem_free(positions);
    return err;
}

void qs_scratch_destroy(qs_scratch *scratch)
{
    if (scratch == NULL) return;
    qs_backend_free(scratch->backend, scratch->buffer);
    qs_mem_free(scratch);
}

/* A product of the block: which matrix, and where its result goes. */
typedef struct product {
    qs_role role;
    float *y;
    bool add; /* to what y holds */
} product;

/* Blocks that hold packed codes alone take as many rows at a time as the backend does. */
static int64_t rows_at_once(const qs_block *block, int64_t n)
{
    bool any = (block->options.uses & QS_USE_GEMM) != 0;
    return any ? n : qs_min64(n, qs_backend_gemv_rows(block->backend));
}

/* y[n, n_out] = x W^T + bias of linears that share their input, with what is around them (NULL = nothing). */
static qs_err linears(const qs_block *block, const qs_linear_with *with, const product *products, int64_t n_products,
                      const float *x, int64_t n)
{
    /* 0, which is the role of a linear, stands for "has no bias". */
    static const qs_role biases[QS_N_LINEARS] = {
        [QS_ROLE_Q] = QS_ROLE_Q_BIAS, [QS_ROLE_K] = QS_ROLE_K_BIAS,
        [QS_ROLE_V] = QS_ROLE_V_BIAS, [QS_ROLE_O] = QS_ROLE_O_BIAS,
    };
    qs_linear_job jobs[QS_N_LINEARS];
    qs_err err = QS_OK;
    int64_t step = rows_at_once(block, n);
    for (int64_t row = 0; row < n; row += step) {
        for (int64_t i = 0; i < n_products; i++) {
            qs_role role = products[i].role;
            jobs[i] = (qs_linear_job){
                .matrix = block->linears[role],
                .bias = biases[role] != 0 ? qs_block_vector(block, biases[role]) : NULL,
                .y = products[i].y + row * block->n_out[role],
                .add = products[i].add,
            };
        }
        const float *rows = x + row * block->n_in[products[0].role];
        if (with != NULL)
            QS_TRY(qs_op_linears_with(block->backend, with, jobs, n_products, rows, qs_min64(n - row, step)));
        else
            QS_TRY(qs_op_linears(block->backend, jobs, n_products, rows, qs_min64(n - row, step)));
    }
out:
    return err;
}

/* Onto the residual stream. */
static qs_err add_linear(const qs_block *block, qs_role role, const float *x, int64_t n, float *hidden)
{
    return linears(block, NULL, &(product){role, hidden, true}, 1, x, n);
}

static qs_err see(const qs_tap *tap, const qs_block *block, qs_site site, const float *x, int64_t n)
{
    if (tap == NULL) return QS_OK;
    return tap->see(tap->context, block->layer, site, x, n,
                    qs_site_width(qs_model_get_config(block->model), site));
}

/* Products of rmsnorm(hidden), the first of them behind a gate or not. */
typedef struct normed_products {
    qs_role norm;
    qs_site site; /* of what they share */
    int64_t n;
    product products[3];
    bool is_gated; /* the first y becomes silu(first y) * second y, unless that is left */
} normed_products;

/* One op, where nobody looks on and all rows go at once. */
static qs_err norm_linears(const qs_block *block, qs_scratch *s, const normed_products *p, const float *hidden,
                           int64_t n, const qs_tap *tap, bool *leaves_gate)
{
    qs_err err = QS_OK;
    const qs_model_config *c = qs_model_get_config(block->model);
    const float *norm = qs_block_vector(block, p->norm);
    float *y = p->products[0].y;
    qs_linear_with with = {.norm = norm, .norm_eps = c->norm_eps, .normed = s->x, .is_gated = p->is_gated,
                           .leaves_gate = leaves_gate};
    if (tap == NULL && rows_at_once(block, n) == n) return linears(block, &with, p->products, p->n, hidden, n);
    QS_TRY(qs_op_rmsnorm(block->backend, hidden, norm, n, c->d_model, c->norm_eps, s->x));
    QS_TRY(see(tap, block, p->site, s->x, n));
    QS_TRY(linears(block, NULL, p->products, p->n, s->x, n));
    if (p->is_gated)
        QS_TRY(qs_op_silu_mul(block->backend, y, p->products[1].y, n * block->n_out[p->products[0].role], y));
out:
    return err;
}

/* Queries into scratch->q, keys and values into k and v, of n rows of the residual stream. */
static qs_err project(const qs_block *block, qs_scratch *s, const float *hidden, int64_t n, float *k, float *v,
                      const qs_tap *tap)
{
    qs_err err = QS_OK;
    qs_backend *backend = block->backend;
    const qs_model_config *c = qs_model_get_config(block->model);
    const float *q_norm = qs_block_vector(block, QS_ROLE_Q_NORM), *k_norm = qs_block_vector(block, QS_ROLE_K_NORM);
    const normed_products qkv = {
        .norm = QS_ROLE_ATTN_NORM,
        .site = QS_SITE_QKV,
        .n = 3,
        .products = {{QS_ROLE_Q, s->q, false}, {QS_ROLE_K, k, false}, {QS_ROLE_V, v, false}},
    };
    QS_TRY(norm_linears(block, s, &qkv, hidden, n, tap, NULL));
    if (q_norm != NULL) QS_TRY(qs_op_rmsnorm(backend, s->q, q_norm, n * c->n_heads, c->head_dim, c->norm_eps, s->q));
    if (k_norm != NULL) QS_TRY(qs_op_rmsnorm(backend, k, k_norm, n * c->n_kv_heads, c->head_dim, c->norm_eps, k));
out:
    return err;
}

/* Queries in scratch->q, and keys. */
static qs_err rotate(const qs_block *block, qs_scratch *s, int64_t n, float *k)
{
    qs_err err = QS_OK;
    const qs_model_config *c = qs_model_get_config(block->model);
    QS_TRY(qs_op_rope(block->backend, s->q, s->positions, s->inv_freq, n, c->n_heads, c->head_dim));
    QS_TRY(qs_op_rope(block->backend, k, s->positions, s->inv_freq, n, c->n_kv_heads, c->head_dim));
out:
    return err;
}

static qs_err mlp(const qs_block *block, qs_scratch *s, float *hidden, int64_t n, const qs_tap *tap)
{
    qs_err err = QS_OK;
    const normed_products gate_up = {
        .norm = QS_ROLE_MLP_NORM,
        .site = QS_SITE_GATE_UP,
        .n = 2,
        .products = {{QS_ROLE_GATE, s->gate, false}, {QS_ROLE_UP, s->up, false}},
        .is_gated = true,
    };
    bool gate_is_left = false;
    QS_TRY(norm_linears(block, s, &gate_up, hidden, n, tap, &gate_is_left));
    qs_linear_with gate = {.gate = s->gate, .up = s->up};
    if (gate_is_left) return linears(block, &gate, &(product){QS_ROLE_DOWN, hidden, true}, 1, s->gate, n);
    QS_TRY(see(tap, block, QS_SITE_DOWN, s->gate, n));
    QS_TRY(add_linear(block, QS_ROLE_DOWN, s->gate, n, hidden));
out:
    return err;
}

/* From scratch->attended to the block's output. */
static qs_err finish(const qs_block *block, qs_scratch *s, float *hidden, int64_t n, const qs_tap *tap)
{
    qs_err err = QS_OK;
    int64_t d_model = qs_model_get_config(block->model)->d_model;
    QS_TRY(see(tap, block, QS_SITE_O, s->attended, n));
    QS_TRY(add_linear(block, QS_ROLE_O, s->attended, n, hidden));
    for (int64_t row = 0; row < n; row += s->mlp_rows)
        QS_TRY(mlp(block, s, hidden + row * d_model, qs_min64(n - row, s->mlp_rows), tap));
out:
    return err;
}

static qs_attention_shape attention_shape(const qs_block *block)
{
    const qs_model_config *c = qs_model_get_config(block->model);
    return (qs_attention_shape){.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim,
                                .window = c->sliding_window, .compute = block->options.compute};
}

static qs_err check_rows(const qs_scratch *scratch, int64_t n, const char *what)
{
    if (n >= 1 && n <= scratch->n_rows) return QS_OK;
    return qs_fail(QS_E_USAGE, "run block: %s of %lld tokens, and the scratch holds 1 to %lld", what, (long long)n,
                   (long long)scratch->n_rows);
}

qs_err qs_block_forward(const qs_block *block, qs_scratch *scratch, float *hidden, int64_t n_windows,
                        int64_t n_ctx, const qs_tap *tap)
{
    qs_err err = QS_OK;
    QS_TRY(check_rows(scratch, n_ctx, "a window"));
    qs_attention_shape shape = attention_shape(block);
    int64_t d_model = qs_model_get_config(block->model)->d_model;
    int64_t step = qs_min64(scratch->n_rows / n_ctx, n_windows);
    QS_TRY(set_positions(scratch, n_ctx));
    for (int64_t first = 0; first < n_windows; first += step) {
        int64_t n = qs_min64(n_windows - first, step);
        float *h = hidden + first * n_ctx * d_model;
        QS_TRY(project(block, scratch, h, n * n_ctx, scratch->k, scratch->v, tap));
        QS_TRY(rotate(block, scratch, n * n_ctx, scratch->k));
        QS_TRY(qs_op_attention(block->backend, &shape, scratch->q, scratch->k, scratch->v, n, n_ctx,
                               scratch->attended));
        QS_TRY(finish(block, scratch, h, n * n_ctx, tap));
    }
out:
    return err;
}

qs_err qs_block_decode(const qs_block *block, qs_scratch *scratch, float *hidden, qs_kv *kv,
                       const int32_t *positions)
{
    qs_err err = QS_OK;
    QS_TRY(check_rows(scratch, kv->batch, "a batch"));
    qs_attention_shape shape = attention_shape(block);
    QS_TRY(project(block, scratch, hidden, kv->batch, scratch->k, scratch->v, NULL));
    QS_TRY(qs_op_attention_decode(block->backend, &shape, scratch->q, scratch->k, scratch->v, scratch->inv_freq, kv->k,
                                  kv->v, positions, kv->batch, kv->n_ctx_cap, scratch->attended));
    QS_TRY(finish(block, scratch, hidden, kv->batch, NULL));
out:
    return err;
}

qs_err qs_block_prefill(const qs_block *block, qs_scratch *scratch, float *hidden, qs_kv *kv, int64_t index,
                        int64_t n_ctx)
{
    qs_err err = QS_OK;
    QS_TRY(check_rows(scratch, n_ctx, "a prompt"));
    if (index < 0 || index >= kv->batch || n_ctx > kv->n_ctx_cap)
        return qs_fail(QS_E_USAGE, "prefill sequence %lld with %lld tokens: the cache holds %lld of %lld",
                       (long long)index, (long long)n_ctx, (long long)kv->batch, (long long)kv->n_ctx_cap);
    qs_attention_shape shape = attention_shape(block);
    /* Keys and values are made where they stay: a sequence's part of the cache is laid out like rows. */
    int64_t offset = index * kv->n_ctx_cap * shape.n_kv_heads * shape.head_dim;
    float *k = kv->k + offset, *v = kv->v + offset;
    QS_TRY(set_positions(scratch, scratch->n_rows));
    QS_TRY(project(block, scratch, hidden, n_ctx, k, v, NULL));
    QS_TRY(rotate(block, scratch, n_ctx, k));
    QS_TRY(qs_op_attention(block->backend, &shape, scratch->q, k, v, 1, n_ctx, scratch->attended));
    QS_TRY(finish(block, scratch, hidden, n_ctx, NULL));
out:
    return err;
}
