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

/* n linears that follow each other, all with input x. */
static qs_err multiply_with(bench_activations *a, const bench_layers *layers, int64_t layer, int first, int64_t n,
                            const float *x, float *const *y, const qs_linear_with *with)
{
    qs_linear_job jobs[BENCH_N_LINEARS];
    qs_matrix *const *linears = layers->linears + layer % layers->n * BENCH_N_LINEARS;
    for (int64_t i = 0; i < n; i++)
        jobs[i] = (qs_linear_job){.matrix = linears[first + i], .y = y[i], .add = y[i] == a->hidden};
    return qs_op_linears_with(a->b->backend, with, jobs, n, x, a->rows);
}

static qs_err multiply(bench_activations *a, const bench_layers *layers, int64_t layer, int first, const float *x,
                       float *y)
{
    return multiply_with(a, layers, layer, first, 1, x, &y, &(qs_linear_with){0});
}

/* Of a block: x is normalised before. */
static qs_linear_with in_block(const bench_activations *a, bool is_whole)
{
    return (qs_linear_with){.norm = is_whole ? a->norm : NULL, .norm_eps = 1e-5, .normed = a->x};
}

static qs_err multiply_qkv(bench_activations *a, const bench_layers *layers, int64_t layer, const float *x,
                           bool is_whole)
{
    qs_linear_with with = in_block(a, is_whole);
    return multiply_with(a, layers, layer, BENCH_Q, 3, x, (float *[]){a->q, a->k, a->v}, &with);
}

static qs_err multiply_gate_up(bench_activations *a, const bench_layers *layers, int64_t layer, const float *x,
                               bool is_whole, bool *gate_is_left)
{
    qs_linear_with with = in_block(a, is_whole);
    with.is_gated = is_whole;
    with.leaves_gate = gate_is_left;
    return multiply_with(a, layers, layer, BENCH_GATE, 2, x, (float *[]){a->gate, a->up}, &with);
}

qs_err bench_linears(bench_activations *a, const bench_layers *layers, int64_t layer)
{
    qs_err err = QS_OK;
    QS_TRY(multiply_qkv(a, layers, layer, a->x, false));
    QS_TRY(multiply(a, layers, layer, BENCH_O, a->attended, a->y));
    QS_TRY(multiply_gate_up(a, layers, layer, a->x, false, NULL));
    QS_TRY(multiply(a, layers, layer, BENCH_DOWN, a->gate, a->y));
out:
    return err;
}

/* ---- block ---- */

static qs_err attend(bench_activations *a, qs_compute compute, int64_t layer)
{
    const bench_shape *s = &a->b->shape;
    qs_attention_shape shape = {.n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim,
                                .compute = compute};
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

qs_err bench_block(bench_activations *a, const bench_layers *layers, int64_t layer)
{
    qs_err err = QS_OK;
    QS_TRY(multiply_qkv(a, layers, layer, a->hidden, true));
    QS_TRY(attend(a, layers->compute, layer));
    QS_TRY(multiply(a, layers, layer, BENCH_O, a->attended, a->hidden));
    bool gate_is_left = false;
    QS_TRY(multiply_gate_up(a, layers, layer, a->hidden, true, &gate_is_left));
    qs_linear_with gate = {.gate = a->gate, .up = a->up};
    if (!gate_is_left) gate = (qs_linear_with){0};
    QS_TRY(multiply_with(a, layers, layer, BENCH_DOWN, 1, a->gate, &a->hidden, &gate));
out:
    return err;
}
