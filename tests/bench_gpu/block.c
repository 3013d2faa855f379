/* A decoder block made of the backend's ops, in the order of model/block_forward.c. */
#include <math.h>

#include "base/mem.h"
#include "tests/bench_gpu/bench_cuda.h"

static qs_err upload_tables(bench_activations *a)
{
    qs_err err = QS_OK;
    bench *b = a->b;
    int64_t half = b->shape.head_dim / 2;
    float *inv_freq = NULL;
    int32_t *positions = NULL;
    QS_TRY(QS_NEW(inv_freq, half, "rotary frequencies"));
    QS_TRY(QS_NEW(positions, a->rows, "positions"));
    for (int64_t i = 0; i < half; i++) inv_freq[i] = (float)pow(500000.0, -2.0 * (double)i / (double)(2 * half));
    for (int64_t i = 0; i < a->rows; i++) positions[i] = (int32_t)(a->cap > 0 ? b->shape.position : i);
    QS_TRY(qs_backend_alloc(b->backend, &a->inv_freq, (size_t)half * sizeof *inv_freq, "rotary frequencies"));
    QS_TRY(qs_backend_upload(b->backend, a->inv_freq, inv_freq, (size_t)half * sizeof *inv_freq));
    QS_TRY(qs_backend_alloc(b->backend, &a->positions, (size_t)a->rows * sizeof *positions, "positions"));
    QS_TRY(qs_backend_upload(b->backend, a->positions, positions, (size_t)a->rows * sizeof *positions));
out:
    qs_mem_free(inv_freq);
    qs_mem_free(positions);
    return err;
}

qs_err bench_activations_create(bench_activations *out, bench *b, int64_t rows, int64_t cap)
{
    qs_err err = QS_OK;
    const bench_shape *s = &b->shape;
    int64_t heads = s->n_heads * s->head_dim, kv = s->n_kv_heads * s->head_dim;
    *out = (bench_activations){.b = b, .rows = rows, .cap = cap};
    QS_TRY(bench_normal(b, &out->hidden, rows * s->d_model, 1.0f, "hidden states"));
    QS_TRY(bench_normal(b, &out->x, rows * s->d_model, 1.0f, "activations"));
    QS_TRY(bench_normal(b, &out->y, rows * s->d_model, 1.0f, "activations"));
    QS_TRY(bench_normal(b, &out->q, rows * heads, 1.0f, "queries"));
    QS_TRY(bench_normal(b, &out->k, rows * kv, 1.0f, "keys"));
    QS_TRY(bench_normal(b, &out->v, rows * kv, 1.0f, "values"));
    QS_TRY(bench_normal(b, &out->attended, rows * heads, 1.0f, "attention"));
    QS_TRY(bench_normal(b, &out->gate, rows * s->d_ff, 1.0f, "gate"));
    QS_TRY(bench_normal(b, &out->up, rows * s->d_ff, 1.0f, "up"));
    QS_TRY(bench_normal(b, &out->norm, s->d_model, 1.0f, "norm"));
    if (cap > 0) QS_TRY(bench_normal(b, &out->caches, 2 * s->n_layers * rows * cap * kv, 1.0f, "KV cache"));
    QS_TRY(upload_tables(out));
out:
    return err;
}

void bench_activations_destroy(bench_activations *a)
{
    if (a->b == NULL) return;
    float *floats[] = {a->hidden, a->x,  a->y,    a->q,        a->k,     a->v,
                       a->attended, a->gate, a->up, a->norm, a->inv_freq, a->caches};
    for (size_t i = 0; i < sizeof floats / sizeof *floats; i++) qs_backend_free(a->b->backend, floats[i]);
    qs_backend_free(a->b->backend, a->positions);
    *a = (bench_activations){0};
}

/* ---- products ---- */

/* Calls that follow each other: of few rows one op, as a decoder issues them. */
enum { CHAIN_MAX = 4, SHARED_MAX = 3 };
typedef struct chain {
    bench_activations *a;
    const bench_layers *layers;
    int64_t n;
    qs_linear_call calls[CHAIN_MAX];
    qs_linear_with withs[CHAIN_MAX];
    qs_linear_job jobs[CHAIN_MAX][SHARED_MAX];
} chain;

/* Linears that follow each other, all with input x; onto the residual stream what goes there. */
static void append(chain *c, int64_t layer, int first, int64_t n, const float *x, float *const *y)
{
    qs_matrix *const *linears = c->layers->linears + layer % c->layers->n * BENCH_N_LINEARS;
    for (int64_t i = 0; i < n; i++)
        c->jobs[c->n][i] = (qs_linear_job){.matrix = linears[first + i], .y = y[i], .add = y[i] == c->a->hidden};
    c->calls[c->n] = (qs_linear_call){.jobs = c->jobs[c->n], .n_jobs = n, .x = x};
    c->n++;
}

/* With a norm before them, and a gate behind them or not. */
static void append_normed(chain *c, int64_t layer, int first, int64_t n, const float *x, float *const *y, bool is_gated)
{
    qs_linear_with *with = &c->withs[c->n];
    *with = (qs_linear_with){.norm = c->a->norm, .norm_eps = 1e-5, .normed = c->a->x, .is_gated = is_gated};
    append(c, layer, first, n, x, y);
    c->calls[c->n - 1].with = with;
}

static qs_err issue(const chain *c)
{
    qs_err err = QS_OK;
    qs_backend *backend = c->a->b->backend;
    int64_t step = c->a->rows <= BENCH_FEW_ROWS ? c->n : 1;
    for (int64_t i = 0; i < c->n; i += step) QS_TRY(qs_op_linears_chain(backend, c->calls + i, step, c->a->rows));
out:
    return err;
}

qs_err bench_linears(bench_activations *a, const bench_layers *layers, int64_t layer)
{
    chain c = {.a = a, .layers = layers};
    append(&c, layer, BENCH_O, 1, a->attended, &a->y);
    append(&c, layer, BENCH_GATE, 2, a->y, (float *[]){a->gate, a->up});
    append(&c, layer, BENCH_DOWN, 1, a->gate, &a->y);
    append(&c, layer, BENCH_Q, 3, a->y, (float *[]){a->q, a->k, a->v});
    return issue(&c);
}

/* ---- block ---- */

static qs_err attend(bench_activations *a, int64_t layer)
{
    const bench_shape *s = &a->b->shape;
    qs_attention_shape shape = {.n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
    qs_backend *backend = a->b->backend;
    if (a->cap > 0) {
        int64_t cache = a->rows * a->cap * s->n_kv_heads * s->head_dim;
        float *k_cache = a->caches + 2 * layer * cache;
        return qs_op_attention_decode(backend, &shape, a->q, a->k, a->v, a->inv_freq, k_cache, k_cache + cache,
                                      a->positions, a->rows, a->cap, a->attended);
    }
    qs_err err = QS_OK;
    QS_TRY(qs_op_rope(backend, a->q, a->positions, a->inv_freq, a->rows, s->n_heads, s->head_dim));
    QS_TRY(qs_op_rope(backend, a->k, a->positions, a->inv_freq, a->rows, s->n_kv_heads, s->head_dim));
    QS_TRY(qs_op_attention(backend, &shape, a->q, a->k, a->v, 1, a->rows, a->attended));
out:
    return err;
}

static void append_qkv(chain *c, int64_t layer)
{
    bench_activations *a = c->a;
    append_normed(c, layer, BENCH_Q, 3, a->hidden, (float *[]){a->q, a->k, a->v}, false);
}

qs_err bench_block(bench_activations *a, const bench_layers *layers, int64_t layer, const qs_linear_call *last)
{
    qs_err err = QS_OK;
    chain before = {.a = a, .layers = layers}, behind = before;
    bool decodes = a->cap > 0, is_last = layer + 1 == a->b->shape.n_layers;
    if (!decodes || layer == 0) append_qkv(&before, layer);
    QS_TRY(issue(&before));
    QS_TRY(attend(a, layer));
    append(&behind, layer, BENCH_O, 1, a->attended, &a->hidden);
    append_normed(&behind, layer, BENCH_GATE, 2, a->hidden, (float *[]){a->gate, a->up}, true);
    append(&behind, layer, BENCH_DOWN, 1, a->gate, &a->hidden);
    if (decodes && !is_last) append_qkv(&behind, layer + 1);
    if (decodes && is_last) behind.calls[behind.n++] = *last;
    QS_TRY(issue(&behind));
out:
    return err;
}
