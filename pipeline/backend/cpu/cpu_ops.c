/* Ops of the CPU backend: rows and tiles of the kernels handed to the team. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

/* Elements that are worth waking another thread for: about ten microseconds of work. */
enum { N_ELEMENTS_MIN = 16384 };

static int64_t rows_min(int64_t elements_per_row)
{
    return elements_per_row >= N_ELEMENTS_MIN ? 1 : N_ELEMENTS_MIN / elements_per_row;
}

/* ---- embed ---- */

qs_err qs_cpu_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out)
{
    (void)backend;
    for (int64_t i = 0; i < n; i++) memcpy(out + i * d, table + tokens[i] * d, (size_t)d * sizeof *out);
    return QS_OK;
}

/* ---- rmsnorm ---- */

typedef struct rmsnorm_job {
    const qs_cpu_kernels *kernels;
    const float *x, *weight;
    int64_t d;
    double eps;
    float *out;
} rmsnorm_job;

static void rmsnorm_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const rmsnorm_job *job = context;
    for (int64_t i = first; i < last; i++)
        job->kernels->rmsnorm.run(job->x + i * job->d, job->weight, job->d, job->eps, job->out + i * job->d);
}

qs_err qs_cpu_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                      float *out)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    rmsnorm_job job = {&cpu->kernels, x, weight, d, eps, out};
    qs_team_run(cpu->team, n, rows_min(d), rmsnorm_rows, &job);
    return QS_OK;
}

/* ---- rope ---- */

typedef struct rope_job {
    const qs_cpu *cpu;
    float *x;
    const int32_t *positions;
    int64_t n_heads, head_dim;
} rope_job;

/* Angles are rounded to f32 before cosine and sine, as models are trained and run elsewhere. */
static void fill_rope_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const qs_cpu *cpu = context;
    const float *inv_freq = cpu->rope_inv_freq.data;
    float *cosines = cpu->rope_cosines.data, *sines = cpu->rope_sines.data;
    for (int64_t position = first; position < last; position++) {
        for (int64_t i = 0; i < cpu->rope_half; i++) {
            double angle = (double)((float)position * inv_freq[i]);
            cosines[position * cpu->rope_half + i] = (float)cos(angle);
            sines[position * cpu->rope_half + i] = (float)sin(angle);
        }
    }
}

static qs_err prepare_rope(qs_cpu *cpu, const float *inv_freq, int64_t half, int64_t n_positions)
{
    enum { N_POSITIONS_MIN = 512 };
    qs_err err = QS_OK;
    size_t freq_bytes = (size_t)half * sizeof *inv_freq;
    bool same = cpu->rope_half == half && cpu->rope_n > 0 &&
                memcmp(cpu->rope_inv_freq.data, inv_freq, freq_bytes) == 0;
    if (same && n_positions <= cpu->rope_n) return QS_OK;
    int64_t n = same ? cpu->rope_n : N_POSITIONS_MIN;
    while (n < n_positions) n *= 2;
    cpu->rope_n = 0;
    QS_TRY(qs_cpu_reserve(cpu, &cpu->rope_inv_freq, freq_bytes, "rotary frequencies"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->rope_cosines, (size_t)n * freq_bytes, "rotary cosines"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->rope_sines, (size_t)n * freq_bytes, "rotary sines"));
    memcpy(cpu->rope_inv_freq.data, inv_freq, freq_bytes);
    cpu->rope_half = half;
    qs_team_run(cpu->team, n, rows_min(half * 16), fill_rope_rows, cpu);
    cpu->rope_n = n;
out:
    return err;
}

static void rope_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const rope_job *job = context;
    const qs_cpu *cpu = job->cpu;
    for (int64_t i = first; i < last; i++) {
        int64_t offset = (int64_t)job->positions[i] * cpu->rope_half;
        cpu->kernels.rope.run(job->x + i * job->n_heads * job->head_dim,
                              (const float *)cpu->rope_cosines.data + offset,
                              (const float *)cpu->rope_sines.data + offset, job->n_heads, job->head_dim);
    }
}

qs_err qs_cpu_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                   int64_t n_heads, int64_t head_dim)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    int64_t n_positions = 0;
    for (int64_t i = 0; i < n; i++)
        if (positions[i] >= n_positions) n_positions = (int64_t)positions[i] + 1;
    qs_err err = prepare_rope(cpu, inv_freq, head_dim / 2, n_positions);
    if (err != QS_OK) return err;
    rope_job job = {cpu, x, positions, n_heads, head_dim};
    qs_team_run(cpu->team, n, rows_min(n_heads * head_dim), rope_rows, &job);
    return QS_OK;
}

/* ---- attention ---- */

typedef struct attention_context {
    const qs_cpu_kernels *kernels;
    qs_attention_job job;
    int64_t n_blocks; /* of query rows */
} attention_context;

static void attention_items(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const attention_context *c = context;
    int64_t n_heads = c->job.shape.n_heads;
    for (int64_t item = first; item < last; item++) {
        int64_t block = item % c->n_blocks, head = item / c->n_blocks % n_heads;
        int64_t row = block * QS_ATTENTION_ROWS;
        int64_t row_end = row + QS_ATTENTION_ROWS < c->job.n_ctx ? row + QS_ATTENTION_ROWS : c->job.n_ctx;
        c->kernels->attention.run(&c->job, item / c->n_blocks / n_heads, head, row, row_end);
    }
}

qs_err qs_cpu_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                        const float *v, int64_t n_windows, int64_t n_ctx, float *out)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    attention_context c = {.kernels = &cpu->kernels,
                           .job = {.shape = *shape, .q = q, .k = k, .v = v, .out = out, .n_ctx = n_ctx},
                           .n_blocks = (n_ctx + QS_ATTENTION_ROWS - 1) / QS_ATTENTION_ROWS};
    qs_team_run(cpu->team, n_windows * shape->n_heads * c.n_blocks, 1, attention_items, &c);
    return QS_OK;
}

static void attention_decode_items(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const attention_context *c = context;
    int64_t n_heads = c->job.shape.n_heads;
    for (int64_t item = first; item < last; item++)
        c->kernels->attention_decode.run(&c->job, item / n_heads, item % n_heads);
}

qs_err qs_cpu_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                               const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                               const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out)
{
    qs_err err = QS_OK;
    qs_cpu *cpu = qs_cpu_of(backend);
    int64_t kv_width = shape->n_kv_heads * shape->head_dim, longest = 0;
    if (inv_freq != NULL) {
        QS_TRY(qs_cpu_rope(backend, q, positions, inv_freq, batch, shape->n_heads, shape->head_dim));
        QS_TRY(qs_cpu_rope(backend, k, positions, inv_freq, batch, shape->n_kv_heads, shape->head_dim));
    }
    for (int64_t b = 0; b < batch; b++) {
        int64_t row = (b * n_ctx_cap + positions[b]) * kv_width;
        memcpy(k_cache + row, k + b * kv_width, (size_t)kv_width * sizeof *k);
        memcpy(v_cache + row, v + b * kv_width, (size_t)kv_width * sizeof *v);
        if (positions[b] > longest) longest = positions[b];
    }
    attention_context c = {.kernels = &cpu->kernels,
                           .job = {.shape = *shape, .q = q, .k = k_cache, .v = v_cache, .out = out,
                                   .n_ctx = n_ctx_cap, .positions = positions}};
    int64_t chunk_min = rows_min((longest + 1) * shape->head_dim);
    qs_team_run(cpu->team, batch * shape->n_heads, chunk_min, attention_decode_items, &c);
out:
    return err;
}

/* ---- elementwise ---- */

/* Elements come in blocks, so that vectors never share a cache line between threads. */
enum { BLOCK = 1024 };

typedef struct elementwise_job {
    const qs_cpu_kernels *kernels;
    const float *a, *b;
    float *out;
    int64_t n;
} elementwise_job;

static void silu_mul_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const elementwise_job *job = context;
    int64_t i = first * BLOCK, end = last * BLOCK < job->n ? last * BLOCK : job->n;
    job->kernels->silu_mul.run(job->a + i, job->b + i, end - i, job->out + i);
}

qs_err qs_cpu_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    elementwise_job job = {&cpu->kernels, gate, up, out, n};
    qs_team_run(cpu->team, (n + BLOCK - 1) / BLOCK, N_ELEMENTS_MIN / BLOCK, silu_mul_blocks, &job);
    return QS_OK;
}

static void add_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const elementwise_job *job = context;
    int64_t i = first * BLOCK, end = last * BLOCK < job->n ? last * BLOCK : job->n;
    job->kernels->add.run(job->out + i, job->b + i, end - i);
}

qs_err qs_cpu_add(qs_backend *backend, float *x, const float *y, int64_t n)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    elementwise_job job = {&cpu->kernels, x, y, x, n};
    qs_team_run(cpu->team, (n + BLOCK - 1) / BLOCK, 4 * N_ELEMENTS_MIN / BLOCK, add_blocks, &job);
    return QS_OK;
}

/* ---- statistics ---- */

typedef struct gram_job {
    const qs_cpu_kernels *kernels;
    const float *x;
    int64_t n, d, n_blocks; /* blocks along a side */
    double *gram;
} gram_job;

/* Row and column of the item-th block of the upper triangle. */
static void gram_block_of(int64_t n_blocks, int64_t item, int64_t *row, int64_t *column)
{
    int64_t i = 0;
    while (item >= n_blocks - i) item -= n_blocks - i++;
    *row = i;
    *column = i + item;
}

static void gram_blocks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const gram_job *job = context;
    for (int64_t item = first; item < last; item++) {
        int64_t row, column;
        gram_block_of(job->n_blocks, item, &row, &column);
        job->kernels->gram.run(job->x, job->n, job->d, row * QS_GRAM_BLOCK, column * QS_GRAM_BLOCK, job->gram);
    }
}

qs_err qs_cpu_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    gram_job job = {&cpu->kernels, x, n, d, (d + QS_GRAM_BLOCK - 1) / QS_GRAM_BLOCK, gram};
    qs_team_run(cpu->team, job.n_blocks * (job.n_blocks + 1) / 2, 1, gram_blocks, &job);
    return QS_OK;
}

enum { ABS_COLUMNS = 64 };

typedef struct abs_job {
    const qs_cpu_kernels *kernels;
    const float *x;
    int64_t n, d;
    double *abs_sum;
    float *abs_max;
} abs_job;

static void abs_columns(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const abs_job *job = context;
    int64_t end = last * ABS_COLUMNS < job->d ? last * ABS_COLUMNS : job->d;
    job->kernels->abs_stats.run(job->x, job->n, job->d, first * ABS_COLUMNS, end, job->abs_sum, job->abs_max);
}

qs_err qs_cpu_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    abs_job job = {&cpu->kernels, x, n, d, abs_sum, abs_max};
    qs_team_run(cpu->team, (d + ABS_COLUMNS - 1) / ABS_COLUMNS, rows_min(n * ABS_COLUMNS), abs_columns, &job);
    return QS_OK;
}

/* ---- logits ---- */

typedef struct logit_job {
    const qs_cpu_kernels *kernels;
    const float *logits, *other;
    const double *lse, *other_lse;
    const int32_t *targets;
    int64_t n_vocab;
    const qs_logit_stats *out;
    float *kld;
} logit_job;

static void logit_stats_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const logit_job *job = context;
    const qs_logit_stats *out = job->out;
    for (int64_t i = first; i < last; i++) {
        const float *row = job->logits + i * job->n_vocab;
        qs_logit_row stats;
        job->kernels->logit_stats.run(row, job->n_vocab, out->entropy != NULL, &stats);
        if (out->lse != NULL) out->lse[i] = stats.lse;
        if (out->nll != NULL) out->nll[i] = (float)(stats.lse - (double)row[job->targets[i]]);
        if (out->argmax != NULL) out->argmax[i] = stats.argmax;
        if (out->entropy != NULL) out->entropy[i] = (float)stats.entropy;
    }
}

qs_err qs_cpu_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                          int64_t n_vocab, const qs_logit_stats *out)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    logit_job job = {.kernels = &cpu->kernels, .logits = logits, .targets = targets, .n_vocab = n_vocab, .out = out};
    qs_team_run(cpu->team, n, rows_min(n_vocab), logit_stats_rows, &job);
    return QS_OK;
}

typedef struct sample_job {
    const float *logits;
    const qs_sample_rule *rules;
    int64_t n_vocab;
    int32_t *tokens;
} sample_job;

static void sample_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const sample_job *job = context;
    for (int64_t i = first; i < last; i++)
        job->tokens[i] = qs_sample_by(job->logits + i * job->n_vocab, job->n_vocab, &job->rules[i]);
}

qs_err qs_cpu_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                     int32_t *tokens)
{
    sample_job job = {.logits = logits, .rules = rules, .n_vocab = n_vocab, .tokens = tokens};
    qs_team_run(qs_cpu_of(backend)->team, n, rows_min(n_vocab), sample_rows, &job);
    return QS_OK;
}

static void kld_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const logit_job *job = context;
    for (int64_t i = first; i < last; i++)
        job->kld[i] = (float)job->kernels->kld.run(job->logits + i * job->n_vocab, job->lse[i],
                                                   job->other + i * job->n_vocab, job->other_lse[i], job->n_vocab);
}

qs_err qs_cpu_kld(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                  const double *lse_q, int64_t n, int64_t n_vocab, float *kld)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    logit_job job = {.kernels = &cpu->kernels, .logits = logits_f, .other = logits_q, .lse = lse_f,
                     .other_lse = lse_q, .n_vocab = n_vocab, .kld = kld};
    qs_team_run(cpu->team, n, rows_min(n_vocab), kld_rows, &job);
    return QS_OK;
}

qs_err qs_cpu_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    qs_cpu *cpu = qs_cpu_of(backend);
    return cpu->engine->gemm(cpu->gemm, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
