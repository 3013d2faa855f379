/* The ops between the products, by themselves: at the shapes of a decoding step and of a prompt. */
#include <string.h>

#include "base/mem.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { CALLS = 32, SCORED_ROWS = 64 };
#define EPS 1e-5

typedef struct subject {
    bench_activations activations;
    float *gated;          /* device [rows, d_ff] */
    float *logits, *other; /* device [SCORED_ROWS, n_vocab] */
    int32_t *tokens;       /* host [SCORED_ROWS] */
    double *lse;
    float *scores;
} subject;

static qs_err rmsnorm(subject *s)
{
    bench_activations *a = &s->activations;
    return qs_op_rmsnorm(a->b->backend, a->hidden, a->norm, a->rows, a->b->shape.d_model, EPS, a->x);
}

static qs_err rope_q(subject *s)
{
    bench_activations *a = &s->activations;
    return qs_op_rope(a->b->backend, a->q, a->positions, a->inv_freq, a->rows, a->b->shape.n_heads,
                      a->b->shape.head_dim);
}

static qs_err rope_k(subject *s)
{
    bench_activations *a = &s->activations;
    return qs_op_rope(a->b->backend, a->k, a->positions, a->inv_freq, a->rows, a->b->shape.n_kv_heads,
                      a->b->shape.head_dim);
}

static qs_attention_shape attention_shape(const bench_shape *s)
{
    return (qs_attention_shape){.n_heads = s->n_heads, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
}

static qs_err attention(subject *s)
{
    bench_activations *a = &s->activations;
    qs_attention_shape shape = attention_shape(&a->b->shape);
    return qs_op_attention(a->b->backend, &shape, a->q, a->k, a->v, 1, a->rows, a->attended);
}

static qs_err attention_in_16_bits(subject *s)
{
    bench_activations *a = &s->activations;
    qs_attention_shape shape = attention_shape(&a->b->shape);
    shape.compute = QS_COMPUTE_BF16;
    return qs_op_attention(a->b->backend, &shape, a->q, a->k, a->v, 1, a->rows, a->attended);
}

static qs_err attention_decode(subject *s)
{
    bench_activations *a = &s->activations;
    qs_attention_shape shape = attention_shape(&a->b->shape);
    float *v_cache = a->caches + a->rows * a->cap * shape.n_kv_heads * shape.head_dim;
    return qs_op_attention_decode(a->b->backend, &shape, a->q, a->k, a->v, a->inv_freq, a->caches, v_cache,
                                  a->positions, a->rows, a->cap, a->attended);
}

static qs_err silu_mul(subject *s)
{
    bench_activations *a = &s->activations;
    return qs_op_silu_mul(a->b->backend, a->gate, a->up, a->rows * a->b->shape.d_ff, s->gated);
}

static qs_err add(subject *s)
{
    bench_activations *a = &s->activations;
    return qs_op_add(a->b->backend, a->hidden, a->y, a->rows * a->b->shape.d_model);
}

static qs_err logit_stats(subject *s)
{
    const bench *b = s->activations.b;
    qs_logit_stats out = {.lse = s->lse, .nll = s->scores};
    return qs_op_logit_stats(b->backend, s->logits, s->tokens, SCORED_ROWS, b->shape.n_vocab, &out);
}

static qs_err kld(subject *s)
{
    const bench *b = s->activations.b;
    return qs_op_kld(b->backend, s->logits, s->lse, s->other, s->lse, SCORED_ROWS, b->shape.n_vocab, s->scores);
}

/* Floats that a call reads and writes. */
static double rows_of_model(const bench_activations *a) { return (double)(a->rows * a->b->shape.d_model); }
static double two_rows(const bench_activations *a) { return 2.0 * rows_of_model(a); }
static double three_rows(const bench_activations *a) { return 3.0 * rows_of_model(a); }
static double queries(const bench_activations *a)
{
    return 2.0 * (double)(a->rows * a->b->shape.n_heads * a->b->shape.head_dim);
}
static double keys(const bench_activations *a)
{
    return 2.0 * (double)(a->rows * a->b->shape.n_kv_heads * a->b->shape.head_dim);
}
static double cached(const bench_activations *a) { return keys(a) * (double)(a->b->shape.position + 1); }
static double three_wide_rows(const bench_activations *a) { return 3.0 * (double)(a->rows * a->b->shape.d_ff); }
static double scored(const bench_activations *a) { return (double)SCORED_ROWS * (double)a->b->shape.n_vocab; }
static double scored_twice(const bench_activations *a) { return 2.0 * scored(a); }
static double none(const bench_activations *a)
{
    (void)a;
    return 0.0;
}

static const struct op {
    const char *name;
    qs_err (*call)(subject *s);
    double (*floats)(const bench_activations *a);
    bool decode, prompt, to_host;
} ops[] = {
    {"rmsnorm", rmsnorm, two_rows, true, true, false},
    {"rope_q", rope_q, queries, true, true, false},
    {"rope_k", rope_k, keys, true, true, false},
    {"attention_decode", attention_decode, cached, true, false, false},
    {"attention", attention, none, false, true, false},
    {"attention_16", attention_in_16_bits, none, false, true, false},
    {"silu_mul", silu_mul, three_wide_rows, true, true, false},
    {"add", add, three_rows, true, true, false},
    {"logit_stats", logit_stats, scored, false, false, true},
    {"kld", kld, scored_twice, false, false, true},
};

typedef struct calls {
    subject *subject;
    qs_err (*call)(subject *s);
    int64_t n;
} calls;

static qs_err run_calls(void *context)
{
    qs_err err = QS_OK;
    const calls *c = context;
    for (int64_t i = 0; i < c->n; i++) QS_TRY(c->call(c->subject));
out:
    return err;
}

static qs_err measure(bench *b, subject *s, const struct op *op, int64_t rows)
{
    bench_activations *a = &s->activations;
    calls c = {s, op->call, op->to_host ? 1 : CALLS};
    double n = (double)rows;
    bench_row row = {.part = "ops", .name = op->name, .format = "f32", .rows = rows, .error = -1,
                     .bytes = op->floats(a) * sizeof(float)};
    if (op->call == attention || op->call == attention_in_16_bits)
        row.flops = 2.0 * (double)(b->shape.n_heads * b->shape.head_dim) * n * (n + 1.0);
    qs_err err = bench_measure(b, run_calls, &c, !op->to_host, (double)c.n, &row.time);
    if (err == QS_OK) bench_print(b, &row);
    return err;
}

static qs_err measure_shape(bench *b, int64_t rows, int64_t cap)
{
    qs_err err = QS_OK;
    subject s = {0};
    bench one_layer = *b;
    one_layer.shape.n_layers = 1; /* as much cache as is used */
    QS_TRY(bench_activations_create(&s.activations, &one_layer, rows, cap));
    QS_TRY(qs_backend_alloc(b->backend, &s.gated, (size_t)(rows * b->shape.d_ff) * sizeof *s.gated, "gated"));
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (cap > 0 ? ops[i].decode : ops[i].prompt) QS_TRY(measure(b, &s, &ops[i], rows));
out:
    qs_backend_free(b->backend, s.gated);
    bench_activations_destroy(&s.activations);
    return err;
}

static qs_err measure_scores(bench *b)
{
    qs_err err = QS_OK;
    subject s = {.activations = {.b = b}};
    int64_t n = SCORED_ROWS * b->shape.n_vocab;
    QS_TRY(bench_normal(b, &s.logits, n, 3.0f, "logits"));
    QS_TRY(bench_normal(b, &s.other, n, 3.1f, "logits"));
    QS_TRY(QS_NEW(s.tokens, SCORED_ROWS, "tokens"));
    QS_TRY(QS_NEW(s.lse, SCORED_ROWS, "scores"));
    QS_TRY(QS_NEW(s.scores, SCORED_ROWS, "scores"));
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i].to_host) QS_TRY(measure(b, &s, &ops[i], SCORED_ROWS));
out:
    qs_backend_free(b->backend, s.logits);
    qs_backend_free(b->backend, s.other);
    qs_mem_free(s.tokens);
    qs_mem_free(s.lse);
    qs_mem_free(s.scores);
    return err;
}

qs_err bench_part_ops(bench *b)
{
    qs_err err = QS_OK;
    int64_t cap = b->shape.position + 1, most = bench_few_rows(b);
    QS_TRY(measure_shape(b, 1, cap));
    QS_TRY(measure_shape(b, most, cap));
    QS_TRY(measure_shape(b, b->shape.prompts[0], 0));
    QS_TRY(measure_scores(b));
out:
    return err;
}
