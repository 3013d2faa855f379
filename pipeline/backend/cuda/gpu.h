/* The state of the CUDA backend, shared by the C files of this directory. */
#ifndef QS_BACKEND_CUDA_GPU_H
#define QS_BACKEND_CUDA_GPU_H

#include "backend/backend_impl.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"
#include "backend/solver_ops.h"

/* What device memory is held for. */
typedef enum qs_gpu_use { QS_GPU_BUFFERS, QS_GPU_WEIGHTS, QS_GPU_WORKSPACE, QS_N_GPU_USES } qs_gpu_use;

/* Device memory that grows and is kept; contents are lost when it grows. */
typedef struct qs_gpu_buffer {
    void *data;
    size_t bytes;
} qs_gpu_buffer;

typedef struct qs_blas qs_blas; /* blas.h */

typedef struct qs_gpu {
    qs_rt_device device;
    int ordinal; /* its number */
    void *stream, *load_stream; /* the second one for loading beside computing; swapped while that is done */
    void *load_event;           /* the mark, and afterwards the end of loading */
    bool loading;
    qs_blas *blas;
    size_t used_bytes[QS_N_GPU_USES], peak_bytes, budget_bytes; /* 0 = all that the device has */
    size_t context_bytes; /* taken from the device before the first allocation of ours */
    bool recording;
    qs_cu_one_row one_row;
    bool weights_are_fresh; /* a kernel that is still on the stream may be writing weights */
    int64_t scratch_moves; /* qs_backend points here: recordings made before the last one are void */

    qs_gpu_buffer x_terms, x_scale; /* activations as the tensor cores take them */
    qs_gpu_buffer dense;            /* a matrix de-quantised for many rows */
    qs_gpu_buffer x_bf16;           /* activations for many rows */
    qs_gpu_buffer attention, turns; /* partial sums of decoding, and how many of them are there: 0 between kernels */
    qs_gpu_buffer raw;              /* weights as uploaded, before they are laid out */
    qs_gpu_buffer stage[5];         /* words, scales, zeros, perm, plan of a matrix that is kept only as dense rows */
    qs_gpu_buffer small;            /* host arguments and results of an op */
    qs_gpu_buffer gram;             /* split terms of second moments */
    qs_gpu_buffer coded, coded_scale; /* activations as NF4, FP4 and int8 take them (coded.cu) */
    qs_gpu_buffer product;          /* what is finished before it is added */
    qs_gpu_buffer many_x, many_scale, many_parts, many_arrived; /* of linear_many.cu */
    void *pinned;                   /* page-locked, QS_GPU_PINNED_BYTES: both halves of a stream of uploads */
    void *pinned_free[2];           /* events: the half may be written again */
    int pinned_half;                /* written last */

    qs_gpu_buffer *blocks;          /* [n_blocks] handed out by qs_gpu_alloc */
    int64_t n_blocks, n_blocks_max;
} qs_gpu;

enum { QS_GPU_PINNED_BYTES = 32 << 20 };

/* Where each of those buffers stands in a qs_need. */
typedef enum qs_gpu_scratch {
    QS_GPU_X_TERMS, QS_GPU_X_SCALE, QS_GPU_DENSE, QS_GPU_X_BF16, QS_GPU_ATTENTION, QS_GPU_TURNS, QS_GPU_RAW,
    QS_GPU_STAGE, QS_GPU_SMALL = QS_GPU_STAGE + 5, QS_GPU_CODED, QS_GPU_CODED_SCALE, QS_GPU_PRODUCT, QS_GPU_MANY_X,
    QS_GPU_MANY_SCALE, QS_GPU_MANY_PARTS, QS_GPU_MANY_ARRIVED, QS_N_GPU_SCRATCH
} qs_gpu_scratch;
_Static_assert((int)QS_N_GPU_SCRATCH <= (int)QS_NEED_SHARED, "a plan has room for all scratch");

/* Every entry begins with this, so that what it does is done on the backend's device. A failure shows in the call that
 * follows. */
static inline qs_gpu *qs_gpu_of(const qs_backend *backend)
{
    qs_gpu *gpu = backend->state;
    if (gpu != NULL) (void)qs_rt_use(gpu->ordinal);
    return gpu;
}

/* Turns a code of the runtime into an error: QS_OK; out of memory QS_E_RESOURCE; else QS_E_DEVICE. */
QS_MUST_CHECK qs_err qs_gpu_check(const qs_gpu *gpu, int code, const char *what);

/* Device memory within the budget, counted under its use. A failure says what is held, what was asked for and what to
 * do. `bytes` must be handed back at release. */
QS_MUST_CHECK qs_err qs_gpu_take(qs_gpu *gpu, void *out_pointer, size_t bytes, qs_gpu_use use, const char *what);
void qs_gpu_give(qs_gpu *gpu, void *pointer, size_t bytes, qs_gpu_use use);
QS_MUST_CHECK qs_err qs_gpu_reserve(qs_gpu *gpu, qs_gpu_buffer *buffer, size_t bytes, qs_gpu_use use,
                                    const char *what);
void qs_gpu_release(qs_gpu *gpu, qs_gpu_buffer *buffer, qs_gpu_use use);

/* gpu_memory.c */
size_t qs_gpu_held_by_all(int ordinal); /* on one device */
qs_err qs_gpu_alloc(qs_backend *backend, void **out, size_t bytes, const char *what);
void qs_gpu_free(qs_backend *backend, void *pointer);
qs_err qs_gpu_upload(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_download(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_copy(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_sync(qs_backend *backend);
qs_err qs_gpu_load_beside(qs_backend *backend, qs_load_step step);
void qs_gpu_get_memory(const qs_backend *backend, qs_backend_memory *memory);

/* gpu_matrix.c */
qs_err qs_gpu_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc);
void qs_gpu_matrix_destroy(qs_matrix *matrix);
qs_err qs_gpu_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n);
qs_err qs_gpu_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                           const float *x, int64_t n);

/* gpu_need.c */
qs_err qs_gpu_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                          qs_compute compute, int64_t n_rows);

/* gpu_exl2.c: bytes of a plan, from the groups; words of a tile. */
size_t qs_gpu_mixed_plan_bytes(const qs_packed *packed, int64_t *tile_words);
/* Both into memory that the caller frees. The plan with all that lies behind its head; scales [n_out, n_groups]. */
QS_MUST_CHECK qs_err qs_gpu_plan_mixed(const qs_packed *packed, qs_cu_mixed_plan **out);
QS_MUST_CHECK qs_err qs_gpu_mixed_scales(const qs_packed *packed, uint16_t **out);

/* gpu_ops.c */
void qs_gpu_decoding_need(qs_need *out, const qs_backend *backend, const qs_attention_shape *shape, int64_t batch,
                          int64_t n_ctx_cap);
qs_err qs_gpu_embed(qs_backend *backend, const float *table, const int32_t *tokens, int64_t n, int64_t d, float *out);
qs_err qs_gpu_rmsnorm(qs_backend *backend, const float *x, const float *weight, int64_t n, int64_t d, double eps,
                      float *out);
qs_err qs_gpu_rope(qs_backend *backend, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                   int64_t n_heads, int64_t head_dim);
qs_err qs_gpu_attention(qs_backend *backend, const qs_attention_shape *shape, const float *q, const float *k,
                        const float *v, int64_t n_windows, int64_t n_ctx, float *out);
qs_err qs_gpu_attention_decode(qs_backend *backend, const qs_attention_shape *shape, float *q, float *k,
                               const float *v, const float *inv_freq, float *k_cache, float *v_cache,
                               const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out);
qs_err qs_gpu_silu_mul(qs_backend *backend, const float *gate, const float *up, int64_t n, float *out);
qs_err qs_gpu_add(qs_backend *backend, float *x, const float *y, int64_t n);
qs_err qs_gpu_gram(qs_backend *backend, const float *x, int64_t n, int64_t d, double *gram);
qs_err qs_gpu_abs_stats(qs_backend *backend, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max);
qs_err qs_gpu_logit_stats(qs_backend *backend, const float *logits, const int32_t *targets, int64_t n,
                          int64_t n_vocab, const qs_logit_stats *out);
qs_err qs_gpu_sample(qs_backend *backend, const float *logits, const qs_sample_rule *rules, int64_t n, int64_t n_vocab,
                     int32_t *tokens);
qs_err qs_gpu_kld(qs_backend *backend, const float *logits_f, const double *lse_f, const float *logits_q,
                  const double *lse_q, int64_t n, int64_t n_vocab, float *kld);
qs_err qs_gpu_gemm(qs_backend *backend, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);

/* gpu_peaks.c */
qs_err qs_gpu_measure_peaks(qs_backend *backend, unsigned which, qs_backend_peaks *peaks);

/* gpu_solver.c */
enum { QS_GPU_FORM_STRIP = 1024 }; /* columns of E H held at a time */
extern const qs_solver_ops qs_gpu_solver;
/* forms[n_rows] (f64) = e H e^T of each row of e [n_rows, n]; product holds n_rows * min(QS_GPU_FORM_STRIP, n). */
qs_err qs_gpu_row_forms(qs_backend *backend, const float *e, int64_t n_rows, int64_t n, const float *h, float *product,
                        double *forms);
/* Cuts a workspace; from NULL it only adds up the bytes. */
typedef struct qs_gpu_cutter {
    char *at;
    size_t bytes;
} qs_gpu_cutter;
void *qs_gpu_cut(qs_gpu_cutter *cutter, int64_t n, size_t size);

/* gpu_awq.c; the contracts are those of backend/solver_ops.h */
size_t qs_gpu_scaling_bytes(const qs_scaling_job *job);
qs_err qs_gpu_scaling_loss(qs_backend *backend, const qs_scaling_job *job, const float *columns, int64_t stride,
                           void *workspace, double *loss);
qs_err qs_gpu_scale_columns(qs_backend *backend, const qs_scaling_job *job, const float *columns, bool clip,
                            void *workspace, float *scaled);

#endif
