/* A weight matrix of the CUDA backend: what is kept of it. gpu_matrix.c serves dense matrices and codes of integers,
 * and chooses between few and many rows; gpu_formats.c serves the other formats around that. */
#ifndef QS_BACKEND_CUDA_GPU_MATRIX_H
#define QS_BACKEND_CUDA_GPU_MATRIX_H

#include "backend/cuda/gpu.h"
#include "base/hash.h"

/* A matrix as stored: in the layout of the small-batch kernels, or f32 as it is. `scales` holds scales, or largest
 * magnitudes of NF4 and FP4; `zeros` zero points; `plan` that of EXL2. */
typedef struct qs_gpu_stored {
    qs_gpu_buffer words, scales, zeros, perm, plan;
} qs_gpu_stored;

typedef struct qs_gpu_matrix {
    bool is_f32, has_zeros, has_perm;
    bool fits_f16;           /* code less zero point, times the scale, is finite in f16 */
    int64_t stored_rows;     /* more than few and up to so many are multiplied by what is stored; 0: none */
    qs_packed_format format; /* QS_PACKED_INT for dense matrices and EXL2 too, which go the same ways */
    qs_rounding compute;     /* of the format */
    float threshold;         /* of int8 */
    qs_cu_linear_shape shape;
    int64_t tile_words;      /* of 16 rows */
    qs_digest perm_id;       /* equal for equal permutations */
    qs_gpu_stored stored;    /* with QS_USE_GEMV */
    qs_gpu_buffer absmax;    /* [n_out] of int8 */
    qs_gpu_buffer dense;     /* with QS_USE_GEMM: [n_out, n_in] f32, or bf16 under QS_COMPUTE_BF16 */
} qs_gpu_matrix;

/* Sets all that follows from the description, the place of contents excepted. QS_E_UNSUPPORTED names what there are no
 * kernels for. gpu_matrix.c. */
QS_MUST_CHECK qs_err qs_gpu_matrix_shape(qs_gpu_matrix *self, const qs_matrix_desc *desc);

/* ---- gpu_need.c: how much of what ---- */
/* Bytes of a matrix as stored, which is kept or passes through the backend's stage on its way to dense rows; all zeros
 * where it does neither; and of what is kept in any case. */
typedef struct qs_gpu_sizes {
    size_t words, scales, zeros, perm, plan, absmax, dense;
    bool keeps;
} qs_gpu_sizes;
qs_gpu_sizes qs_gpu_sizes_of(const qs_gpu_matrix *self, const qs_matrix_desc *desc, unsigned uses, qs_compute compute);
/* Weights go to the device through a buffer, a piece of the matrix at a time, so that a head does not take its size
 * twice: rows of a piece. */
enum { QS_GPU_RAW_BYTES = 32 << 20 };
int64_t qs_gpu_piece_rows(int64_t row_bytes);
/* Activations of few rows, which need their place before a recording starts. */
void qs_gpu_terms_need(qs_need *out, int64_t n_in);

/* ---- gpu_matrix.c ---- */
/* A run of products of one input, as many as one launch serves; scratch is reserved. with: NULL = nothing else. */
QS_MUST_CHECK qs_err qs_gpu_run_few(qs_gpu *gpu, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                                    const float *x, int64_t n);
/* What the kernels take of a matrix, which may lie elsewhere than where it is kept, and of a job. */
qs_cu_linear qs_gpu_linear_from(const qs_matrix *matrix, const qs_gpu_stored *s);
qs_cu_linear qs_gpu_linear_of(const qs_linear_job *job);
bool qs_gpu_takes_few(const qs_matrix *matrix, int64_t n);
/* Whether a launch may read weights before the kernel ahead of it ends; from here on that has begun. */
bool qs_gpu_take_soon(qs_gpu *gpu);
/* Into s->words, which are there. */
QS_MUST_CHECK qs_err qs_gpu_store_words(qs_backend *backend, const qs_gpu_matrix *self, qs_gpu_stored *s, int64_t n_out,
                                        const void *rows, int64_t row_bytes);

/* ---- gpu_dense.c: many rows by dense weights ---- */
/* Of the whole matrix in the precision of its products. */
size_t qs_gpu_dense_bytes(int64_t n_out, int64_t n_in, qs_compute compute);
/* Terms of x in bf16. */
int qs_gpu_n_dense_terms(const qs_gpu_matrix *self, qs_compute compute);
/* The stored matrix as dense rows in the precision of its products, its columns in the order of x, or else in that in
 * which they are stored. soon: as of qs_cu_dequant. */
QS_MUST_CHECK qs_err qs_gpu_dequantise(const qs_matrix *matrix, const qs_gpu_stored *s, bool in_order, bool soon,
                                       void *out);
/* How x lies in the backend's scratch, from one run of products to the next of the same x. */
typedef struct qs_gpu_prepared {
    bool is_there, bf16, has_perm, is_coded;
    float threshold;
    qs_digest perm_id;
} qs_gpu_prepared;
bool qs_gpu_is_prepared(const qs_gpu_prepared *a, const qs_gpu_prepared *b);
/* One product of any number of rows. rounded: what gpu->x_bf16 holds of x. */
QS_MUST_CHECK qs_err qs_gpu_run_many(qs_gpu *gpu, const qs_linear_job *job, const float *x, int64_t n,
                                     qs_gpu_prepared *rounded);
/* rmsnorm of x [n, d], or silu(x) * up, into gpu->x_bf16. */
QS_MUST_CHECK qs_err qs_gpu_norm_rounded(qs_gpu *gpu, const qs_linear_with *with, const float *x, int64_t n, int64_t d,
                                         qs_gpu_prepared *rounded);
QS_MUST_CHECK qs_err qs_gpu_gate_rounded(qs_gpu *gpu, const qs_linear_with *with, const float *x, int64_t n, int64_t d,
                                         qs_gpu_prepared *rounded);
/* Whether such a product has x in the order of its stored columns, which an op before it cannot write. */
bool qs_gpu_permutes_x(const qs_matrix *matrix);

/* ---- gpu_many.c: many rows from stored weights ---- */
/* The name of the kernels of such a matrix, and how many rows they take; NULL and 0 where dense ones are for all. */
const char *qs_gpu_many_kernel(const qs_gpu *gpu, const qs_gpu_matrix *self, unsigned uses, qs_compute compute,
                               int64_t *rows_max);
/* Scratch of n rows of them. */
void qs_gpu_many_need(qs_need *out, const qs_gpu *gpu, int64_t n, int64_t n_in);
/* Whether it is them that multiply n rows. */
bool qs_gpu_takes_stored(const qs_matrix *matrix, int64_t n);
/* Whether an rmsnorm before all these products can write x as they want it, and the launch that does so. */
bool qs_gpu_takes_normed(const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n);
QS_MUST_CHECK qs_err qs_gpu_prepare_normed(qs_gpu *gpu, const qs_linear_with *with, const qs_matrix *first,
                                           const float *x, int64_t n, qs_gpu_prepared *prepared);
/* Products that one launch serves, of matrices that have such a kernel. is_gated: as in qs_linear_with. */
QS_MUST_CHECK qs_err qs_gpu_run_stored(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, bool is_gated,
                                       const float *x, int64_t n, qs_gpu_prepared *prepared);

/* ---- gpu_formats.c: NF4, FP4 and int8 ---- */
/* Sets the shape, or says by name what there are no kernels for (QS_E_UNSUPPORTED). */
QS_MUST_CHECK qs_err qs_gpu_format_shape(qs_gpu_matrix *self, const qs_packed *packed);
/* Into the parts of s, and absmax, which are there. */
QS_MUST_CHECK qs_err qs_gpu_format_store(qs_backend *backend, const qs_gpu_matrix *self, const qs_packed *packed,
                                         qs_gpu_stored *s);
/* Whether few rows of x are rounded by a kernel of their own. */
bool qs_gpu_rounds_few_rows(const qs_gpu_matrix *self);
/* Scratch of products of few rows, before a recording starts. */
QS_MUST_CHECK qs_err qs_gpu_format_reserve(qs_gpu *gpu, const qs_matrix *matrix);
/* Products whose matrices all have the first one's format, rounding and threshold. */
QS_MUST_CHECK qs_err qs_gpu_format_linears(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x,
                                           int64_t n);

#endif
