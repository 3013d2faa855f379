/* The state of the CUDA backend, shared by the C files of this directory. */
#ifndef QS_BACKEND_CUDA_GPU_H
#define QS_BACKEND_CUDA_GPU_H

#include "backend/backend_impl.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"

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
    void *stream;
    qs_blas *blas;
    size_t used_bytes[QS_N_GPU_USES], peak_bytes, budget_bytes; /* 0 = all that the device has */
    size_t context_bytes; /* taken from the device before the first allocation of ours */
    bool recording;

    qs_gpu_buffer x_terms, x_scale; /* activations as the tensor cores take them */
    qs_gpu_buffer dense;            /* a matrix de-quantised for many rows */
    qs_gpu_buffer x_bf16;           /* activations for many rows */
    qs_gpu_buffer attention;        /* partial sums of decoding */
    qs_gpu_buffer small;            /* host arguments and results of an op */
    qs_gpu_buffer gram;             /* partial second moments */
    void *pinned;                   /* page-locked, QS_GPU_PINNED_BYTES: both halves of a stream of uploads */
    void *pinned_free[2];           /* events: the half may be written again */
} qs_gpu;

enum { QS_GPU_PINNED_BYTES = 32 << 20 };

static inline qs_gpu *qs_gpu_of(const qs_backend *backend) { return backend->state; }

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
qs_err qs_gpu_alloc(qs_backend *backend, void **out, size_t bytes, const char *what);
void qs_gpu_free(qs_backend *backend, void *pointer);
qs_err qs_gpu_upload(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_download(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_copy(qs_backend *backend, void *dst, const void *src, size_t bytes);
qs_err qs_gpu_sync(qs_backend *backend);
void qs_gpu_get_memory(const qs_backend *backend, qs_backend_memory *memory);

/* gpu_matrix.c */
qs_err qs_gpu_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc);
void qs_gpu_matrix_destroy(qs_matrix *matrix);
qs_err qs_gpu_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n);

/* gpu_ops.c */
extern const qs_backend_ops qs_cuda_backend;

#endif
