/* Backend: the one seam between what is computed and where.
 *
 * Callers hold device pointers from qs_backend_alloc and never follow them; they move data with
 * upload/download and compute with the ops below. The CPU backend's device is host memory. Its plain-C
 * reference fills the whole table and defines what is correct; fast entries chosen by CPU detection (and a
 * GPU backend) override entries. A missing op is an error at creation, never a quiet detour.
 *
 * Shapes are row-major. Every op gives bit-identical results for any thread count.
 * Kernels do not allocate: scratch is the backend's, and grows when a matrix is created or before an op starts. */
#ifndef QS_BACKEND_BACKEND_H
#define QS_BACKEND_BACKEND_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "backend/packed.h"
#include "backend/sampler.h"
#include "base/dtype.h"
#include "base/error.h"

typedef struct qs_backend qs_backend;

/* `name`: "auto" (best available; says why in qs_backend_describe), "cpu", "cuda", or, for tests,
 * "reference" (the plain C entries only) and "cpu-avx2" (no newer instructions). QS_E_UNSUPPORTED when it is
 * not there. n_threads 0 = OpenMP's default. */
QS_MUST_CHECK qs_err qs_backend_create(qs_backend **out, const char *name, int64_t device, int n_threads);
void qs_backend_destroy(qs_backend *backend);

const char *qs_backend_name(const qs_backend *backend);     /* "cpu" */
const char *qs_backend_device(const qs_backend *backend);   /* CPU or GPU model */
const char *qs_backend_describe(const qs_backend *backend); /* kernels chosen: "avx512 + oneDNN 2.6.3" and why */
int qs_backend_n_threads(const qs_backend *backend);
/* True when the ops run on a device of their own, beside the host's memory. */
bool qs_backend_has_device(const qs_backend *backend);
/* Rows that a matrix prepared for GEMV alone takes at once. */
int64_t qs_backend_gemv_rows(const qs_backend *backend);

/* ---- memory ---- */
QS_MUST_CHECK qs_err qs_backend_alloc(qs_backend *backend, void *out_pointer, size_t bytes, const char *what);
void qs_backend_free(qs_backend *backend, void *pointer);
QS_MUST_CHECK qs_err qs_backend_upload(qs_backend *backend, void *dst, const void *src, size_t bytes);
QS_MUST_CHECK qs_err qs_backend_download(qs_backend *backend, void *dst, const void *src, size_t bytes);
/* Device to device; the ranges do not overlap. */
QS_MUST_CHECK qs_err qs_backend_copy(qs_backend *backend, void *dst, const void *src, size_t bytes);
/* From a device pointer of another backend, after its ops: within a device, from one to another, from or to the host.
 * Done when it returns. */
QS_MUST_CHECK qs_err qs_backend_bring(qs_backend *backend, void *dst, qs_backend *from, const void *src, size_t bytes);
QS_MUST_CHECK qs_err qs_backend_sync(qs_backend *backend);

/* Loading beside computing: what is uploaded, and matrices that are updated, between begin and end (which is called in
 * any case) may run beside the ops that were called since the mark. They wait for everything before the mark, and ops
 * after the end wait for them; a backend without streams runs everything in the order of the calls. */
typedef enum qs_load_step { QS_LOAD_MARK, QS_LOAD_BEGIN, QS_LOAD_END } qs_load_step;
QS_MUST_CHECK qs_err qs_backend_load_beside(qs_backend *backend, qs_load_step step);

typedef struct qs_backend_memory {
    size_t total_bytes, free_bytes;   /* of the device */
    size_t used_bytes, peak_bytes;    /* held by this backend: buffers, matrices, scratch */
    /* Parts of used_bytes, where the backend tells them apart, and what the device's driver took for itself. */
    size_t buffer_bytes, weight_bytes, workspace_bytes, context_bytes;
} qs_backend_memory;
void qs_backend_get_memory(const qs_backend *backend, qs_backend_memory *memory);
/* Most bytes that the backend may hold on its device from now on; 0 = all there are. Only for backends with a device
 * (QS_E_UNSUPPORTED). */
QS_MUST_CHECK qs_err qs_backend_set_budget(qs_backend *backend, size_t bytes);

/* ---- recordings: a sequence of ops that runs many times with the same pointers and sizes ----
 * Between start and stop ops are kept instead of run; a play runs them all, reading what the device pointers hold by
 * then. Ops that read host memory or return results to it, allocations, uploads and downloads are no part of a
 * recording (QS_E_USAGE); run the sequence once before, so that scratch has its size. QS_E_UNSUPPORTED where a backend
 * has no use for it: run the ops themselves. */
typedef struct qs_recording qs_recording;
bool qs_backend_can_record(const qs_backend *backend);
QS_MUST_CHECK qs_err qs_backend_record_start(qs_backend *backend);
/* After a failed op in between: pass out = NULL, which ends and drops it. */
QS_MUST_CHECK qs_err qs_backend_record_stop(qs_backend *backend, qs_recording **out);
QS_MUST_CHECK qs_err qs_recording_play(qs_recording *recording);
/* False once scratch that its ops use has moved, because other ops needed more: record again before the next play. */
bool qs_recording_is_valid(const qs_recording *recording);
void qs_recording_destroy(qs_recording *recording);

/* ---- matrices ---- */
typedef enum qs_matrix_format {
    QS_MATRIX_F32, QS_MATRIX_F16, QS_MATRIX_BF16, /* dense [n_out, n_in] */
    QS_MATRIX_INT,                                /* qs_packed */
} qs_matrix_format;

typedef enum qs_compute { QS_COMPUTE_F32, QS_COMPUTE_BF16 } qs_compute; /* of large products; sums are f32 */
const char *qs_compute_name(qs_compute compute); /* "f32", "bf16" */
/* The argument of --compute. QS_E_USAGE. */
QS_MUST_CHECK qs_err qs_compute_parse(qs_compute *out, const char *text);

/* What the matrix will be multiplied with: GEMM = many rows at once (a de-quantised, pre-packed copy is
 * made), GEMV = few rows, up to qs_backend_gemv_rows, on the packed codes or 16-bit weights themselves. */
typedef enum qs_matrix_use { QS_USE_GEMM = 1, QS_USE_GEMV = 2 } qs_matrix_use;
enum { QS_GEMV_MAX_ROWS = 8 }; /* of the CPU, and the fewest that any backend takes */

typedef struct qs_matrix_desc {
    qs_matrix_format format;
    int64_t n_out, n_in;
    const void *dense;       /* host [n_out, n_in] in `format`; borrowed during creation only */
    const qs_packed *packed; /* for QS_MATRIX_INT; borrowed during creation only */
} qs_matrix_desc;

typedef struct qs_matrix qs_matrix;
QS_MUST_CHECK qs_err qs_matrix_create(qs_matrix **out, qs_backend *backend, const qs_matrix_desc *desc,
                                      unsigned uses, qs_compute compute);
/* Replaces the contents, same shape and uses, any format: re-uses the memory, for block streaming. */
QS_MUST_CHECK qs_err qs_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc);
void qs_matrix_destroy(qs_matrix *matrix);
size_t qs_matrix_bytes(const qs_matrix *matrix);
/* What a plan has to count: bytes of the things themselves, and scratch that all of them share, buffer by buffer as
 * much as the one that asks for most. */
enum { QS_NEED_SHARED = 24 };
typedef struct qs_need {
    size_t own_bytes, shared_bytes[QS_NEED_SHARED];
} qs_need;
void qs_need_add(qs_need *sum, const qs_need *more); /* of the same backend */
size_t qs_need_scratch(const qs_need *need);         /* all that is shared, together */
/* Of a matrix before it is created, and of products of it with up to n_rows rows. own_bytes are what qs_matrix_bytes
 * will be of it, exactly, for any desc that qs_matrix_create takes. The desc may also be without contents: of dense
 * nothing is looked at, of packed the numbers, EXL2's groups, and whether zeros, perm and absmax_codes are NULL. What
 * depends on scales (EXL2 on the CPU) is then as with scales that f16 holds four times. Scratch is an upper bound;
 * the CPU, whose memory has no budget, counts none. Errors as of qs_matrix_create. */
QS_MUST_CHECK qs_err qs_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                                    qs_compute compute, int64_t n_rows);
const char *qs_matrix_kernel(const qs_matrix *matrix); /* name of the GEMV kernel, "gemv_int4_avx512" */

/* y[n, n_out] = x[n, n_in] W^T (+ bias[n_out]; NULL = none). Chooses GEMV when prepared and n is small. */
QS_MUST_CHECK qs_err qs_op_linear(qs_backend *backend, const qs_matrix *matrix, const float *x, int64_t n,
                                  const float *bias, float *y);

/* Matrices that share their input, as q, k and v do. */
typedef struct qs_linear_job {
    const qs_matrix *matrix;
    const float *bias; /* [n_out] or NULL */
    float *y;          /* [n, n_out] */
    bool add;          /* y += instead of y =: the sum is rounded once, then added */
} qs_linear_job;
/* The same as qs_op_linear of each, in one launch where the backend can. All have the same n_in. */
QS_MUST_CHECK qs_err qs_op_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x,
                                   int64_t n);

/* What is done before and behind such products, in the same launch where the backend can. */
typedef struct qs_linear_with {
    const float *norm; /* [n_in] or NULL: qs_op_rmsnorm(x) is multiplied; uploaded or copied, never an op's output */
    double norm_eps;
    float *normed;     /* [n, n_in], with norm: scratch; may be x, if what x holds is of no use afterwards */
    bool is_gated; /* of two jobs without add: the first y becomes silu(first y) * second y, the second is scratch */
    /* With is_gated, or NULL: set where the op leaves that to the op that takes the result, and both y are what the
     * products gave. */
    bool *leaves_gate;
    float *gate; /* with up and without norm, or NULL: x itself, and silu(x) * up is multiplied; then x is scratch */
    const float *up; /* [n, n_in] */
} qs_linear_with;
QS_MUST_CHECK qs_err qs_op_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs,
                                        int64_t n_jobs, const float *x, int64_t n);

/* ---- ops; pointers are device pointers ---- */
/* out[n, d] = table rows of host tokens[n]; table [n_vocab, d] f32. */
QS_MUST_CHECK qs_err qs_op_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n,
                                 int64_t d, float *out);
/* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * weight; rows of d. out may equal x. */
QS_MUST_CHECK qs_err qs_op_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d,
                                   double eps, float *out);
/* In place on x [n, n_heads, head_dim]: rotate halves (i, i + head_dim/2) by position * inv_freq[i].
 * positions [n] >= 0. */
QS_MUST_CHECK qs_err qs_op_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq,
                                int64_t n, int64_t n_heads, int64_t head_dim);

enum { QS_ATTENTION_HEAD_DIM_MAX = 256 };
typedef struct qs_attention_shape {
    int64_t n_heads, n_kv_heads, head_dim; /* head_dim up to QS_ATTENTION_HEAD_DIM_MAX */
    int64_t window; /* sliding window in tokens; 0 = all */
    qs_compute compute; /* of whole windows: QS_COMPUTE_BF16 = factors of 16 bits will do, sums are f32 */
} qs_attention_shape;
/* Scratch of decoding so many sequences: of qs_op_attention_decode, and of the ops that answer to the host from their
 * logits (logit_stats, sample, kld). */
void qs_decoding_need(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                      int64_t n_ctx_cap);
/* Causal within each window: q, out [n_windows, n_ctx, n_heads * head_dim], k, v [.., n_kv_heads * head_dim];
 * scores scaled by 1 / sqrt(head_dim), softmax in f32. */
QS_MUST_CHECK qs_err qs_op_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q,
                                     const float *k, const float *v, int64_t n_windows, int64_t n_ctx, float *out);
/* Decoding: one query row per sequence. k, v are this step's rows [batch, n_kv_heads * head_dim], written into
 * the caches [batch, n_ctx_cap, n_kv_heads * head_dim] at positions[batch] before attending 0..position. With inv_freq
 * q and k are first rotated as by qs_op_rope, and hold nothing of use afterwards; NULL = they are. The caller sees to
 * it that positions lie in 0 .. n_ctx_cap - 1: they are on the device, and nothing here looks at them. Positions and
 * inv_freq are uploaded or copied, never an op's output. */
QS_MUST_CHECK qs_err qs_op_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                                            const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                                            const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out);
/* out = silu(gate) * up, elementwise; out may equal gate. */
QS_MUST_CHECK qs_err qs_op_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out);
/* x += y */
QS_MUST_CHECK qs_err qs_op_add(qs_backend *backend, float *x, const float *y, int64_t n);

/* gram[d, d] (f64, upper triangle valid) += x^T x for x [n, d]. Relative error against f64 below 1e-6. */
QS_MUST_CHECK qs_err qs_op_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram);
/* abs_sum[d] (f64) += sum |x|, abs_max[d] = max(abs_max, |x|). */
QS_MUST_CHECK qs_err qs_op_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum,
                                     float *abs_max);

/* Row statistics of logits [n, n_vocab] (natural log, f32 exponentials, f64 sums). Host outputs, each [n];
 * NULL where not wanted. targets: host [n]. */
typedef struct qs_logit_stats {
    double *lse;     /* log sum exp */
    float *nll;      /* lse - logit[target] */
    int32_t *argmax; /* lowest index among equals */
    float *entropy;  /* -sum p ln p */
} qs_logit_stats;
QS_MUST_CHECK qs_err qs_op_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                                       int64_t n_vocab, const qs_logit_stats *out);
/* tokens[n] (host) from logits [n, n_vocab] by rules[n] (host), as qs_sample_by gives them row by row: -1 where a logit
 * is not finite. A device's logarithms may round otherwise than the host's, which decides between two tokens only if
 * their scores are equal to some 1e-15 of their size. */
QS_MUST_CHECK qs_err qs_op_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n,
                                  int64_t n_vocab, int32_t *tokens);
/* kld[n] = sum p_f (ln p_f - ln p_q) over the full vocabulary, from logits and their lse; never below 0
 * by more than rounding, clamped at 0. Host output. */
QS_MUST_CHECK qs_err qs_op_kld(qs_backend *backend, const float *logits_f, const double *lse_f,
                               const float *logits_q, const double *lse_q, int64_t n, int64_t n_vocab, float *kld);

/* C[m, n] = alpha op(A) op(B) + beta C, row-major with leading dimensions; for the solvers. */
QS_MUST_CHECK qs_err qs_op_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                                float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                                float *c, int64_t ldc);

/* Quantising where the data is (backend/solver_ops.h); NULL where pipeline/quant does it on the host. */
typedef struct qs_solver_ops qs_solver_ops;
const qs_solver_ops *qs_backend_solver(const qs_backend *backend);

/* Measured ceilings of this device, for benchmarks and cost estimates: those that `which` asks for, a quarter of a
 * second each, and for the bandwidth as long again to fill memory of twice the last cache; 0 for the others. */
enum { QS_PEAK_F32 = 1, QS_PEAK_BF16 = 2, QS_PEAK_READ = 4, QS_PEAKS_ALL = 7 };
typedef struct qs_backend_peaks {
    double gemm_f32_flops, gemm_bf16_flops; /* per second */
    double read_bytes;                      /* per second, streaming reads of a buffer beyond the caches */
} qs_backend_peaks;
QS_MUST_CHECK qs_err qs_backend_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks);

/* Calls `visit` for each op: its name, and where it comes from (reference, avx2, avx512, oneDNN, a file of kernels). */
typedef void (*qs_op_visit)(void *context, const char *op, const char *from);
void qs_backend_list_ops(const qs_backend *backend, qs_op_visit visit, void *context);

#endif
