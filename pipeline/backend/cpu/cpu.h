/* The state of the CPU backend, shared by the files of this directory. */
#ifndef QS_BACKEND_CPU_CPU_H
#define QS_BACKEND_CPU_CPU_H

#include "backend/backend_impl.h"
#include "backend/cpu/arena.h"
#include "backend/cpu/gemm.h"
#include "backend/cpu/kernels.h"
#include "base/team.h"

/* Memory that grows and is kept: growing happens before any thread works. */
typedef struct qs_cpu_buffer {
    void *data;
    size_t bytes;
} qs_cpu_buffer; /* in the arena */

typedef struct qs_cpu {
    qs_team *team;
    qs_cpu_kernels kernels;
    const qs_gemm_engine *engine;
    void *gemm; /* the engine's own state */
    qs_arena *arena;
    size_t used_bytes, peak_bytes; /* of buffers handed out; the arena's and the engine's come on top */

    qs_cpu_buffer rows;   /* [n_threads, QS_PACK_ROWS, n_in] f32: rows on their way into a pack */
    qs_cpu_buffer x;      /* [QS_GEMV_MAX_ROWS, padded n_in] f32: permuted and padded activations */
    qs_cpu_buffer x_row;  /* [padded n_in] f32: one row of them in stored order */
    qs_cpu_buffer x_sums; /* [QS_GEMV_MAX_ROWS, n_groups] f32 */
    qs_cpu_buffer part;   /* [QS_GEMV_MAX_ROWS, n_out] f32: what one segment of EXL2 adds */
    qs_cpu_buffer unpacked; /* [n_threads, n_in] u8: codes on their way into panels */
    qs_cpu_buffer addend; /* [rows, n_out] f32: a product on its way to being added */
    /* Inputs as a format wants them, kept for the matrices that share them (cpu_formats.c). */
    qs_cpu_buffer coded;    /* [rows, padded n_in] f32 */
    qs_cpu_buffer codes16;  /* [QS_GEMV_MAX_ROWS, padded n_in] i16: the same, of int8 */
    qs_cpu_buffer scales;   /* [rows] f32, of int8 */
    qs_cpu_buffer outliers; /* [n_threads, n_in] u8: columns that hold one, of int8 */
    qs_cpu_buffer columns;  /* [64, n_out] f32: their weights */
    struct {
        const float *x; /* NULL = nothing */
        bool few;
        int64_t stride;
        qs_packed_format format;
        qs_rounding compute;
        float threshold;
        int64_t n_outliers;
    } kept;

    /* Cosines and sines of position * inv_freq, for positions [0, rope_n): the layers of a model and the
     * windows of a batch all ask for the same ones. */
    qs_cpu_buffer rope_inv_freq, rope_cosines, rope_sines;
    int64_t rope_n, rope_half;
} qs_cpu;

static inline qs_cpu *qs_cpu_of(const qs_backend *backend) { return backend->state; }

/* Makes the buffer at least `bytes` large; its contents are undefined when it grows. */
QS_MUST_CHECK qs_err qs_cpu_reserve(qs_cpu *cpu, qs_cpu_buffer *buffer, size_t bytes, const char *what);
void qs_cpu_release(qs_cpu *cpu, qs_cpu_buffer *buffer);

/* cpu_matrix.c and cpu_formats.c (cpu_matrix.h) */
qs_err qs_cpu_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc);
void qs_cpu_matrix_destroy(qs_matrix *matrix);
qs_err qs_cpu_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                          qs_compute compute, int64_t n_rows);
qs_err qs_cpu_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n);
qs_err qs_cpu_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                           const float *x, int64_t n);

/* cpu_ops.c */
qs_err qs_cpu_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out);
qs_err qs_cpu_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                      float *out);
qs_err qs_cpu_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                   int64_t n_heads, int64_t head_dim);
qs_err qs_cpu_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                        const float *v, int64_t n_windows, int64_t n_ctx, float *out);
qs_err qs_cpu_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                               const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                               const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out);
qs_err qs_cpu_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out);
qs_err qs_cpu_add(qs_backend *backend, float *x, const float *y, int64_t n);
qs_err qs_cpu_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram);
qs_err qs_cpu_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max);
qs_err qs_cpu_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                          int64_t n_vocab, const qs_logit_stats *out);
qs_err qs_cpu_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                     int32_t *tokens);
qs_err qs_cpu_kld(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                  const double *lse_q, int64_t n, int64_t n_vocab, float *kld);
qs_err qs_cpu_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* cpu_peaks.c */
qs_err qs_cpu_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks);

#endif
