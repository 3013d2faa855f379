/* Large matrix products of the CUDA backend: cuBLAS where it can be loaded, else the kernels of gemm.cu. The library
 * is looked for at run time (libcublas.so.13, .12): it is large, and a program linked with it would not start without
 * it. */
#ifndef QS_BACKEND_CUDA_BLAS_H
#define QS_BACKEND_CUDA_BLAS_H

#include "backend/cuda/gpu.h"

/* `describe` gets "cuBLAS 13.0.2" or why it is not used. Needs gpu->device and gpu->stream. */
QS_MUST_CHECK qs_err qs_blas_create(qs_blas **out, qs_gpu *gpu, char *describe, size_t describe_bytes);
void qs_blas_destroy(qs_blas *blas, qs_gpu *gpu);
const char *qs_blas_from(const qs_blas *blas); /* "cuBLAS" or "gemm.cu" */

/* As qs_op_gemm: f32 throughout, no tensor-core rounding. */
QS_MUST_CHECK qs_err qs_blas_gemm(qs_blas *blas, qs_gpu *gpu, bool trans_a, bool trans_b, int64_t m, int64_t n,
                                  int64_t k, float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                                  float beta, float *c, int64_t ldc);
/* c[m, n] f32 = a[m, k] b[n, k]^T + beta c, of bf16 elements, sums in f32. */
QS_MUST_CHECK qs_err qs_blas_gemm_bf16(qs_blas *blas, qs_gpu *gpu, int64_t m, int64_t n, int64_t k, const uint16_t *a,
                                       const uint16_t *b, float beta, float *c);

#endif
