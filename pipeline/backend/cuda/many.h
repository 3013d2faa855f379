/* Rows of x for linear_many.cu that go through an rmsnorm first (prepare_many.cu; the rest of it is in kernels.h). */
#ifndef QS_BACKEND_CUDA_MANY_H
#define QS_BACKEND_CUDA_MANY_H

#include "backend/cuda/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* qs_cu_rmsnorm by norm [n_in] and then qs_cu_prepare_many, bit for bit, in one launch. n_in is a multiple of 4 up to
 * QS_CU_NORMED_MAX; x and norm are aligned to 16 bytes. */
enum { QS_CU_NORMED_MAX = 16384 };
int qs_cu_prepare_normed(void *stream, const float *x, const float *norm, float eps, int64_t n, int64_t n_in, bool bf16,
                         const qs_cu_many_x *out);

#ifdef __cplusplus
}
#endif

#endif
