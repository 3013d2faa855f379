#include "backend/cuda/blas.h"

#include <dlfcn.h>
#include <string.h>

#include "base/mem.h"

/* What is used of cuBLAS, by the values of its public interface (cublas_api.h, library_types.h). */
enum { OP_N = 0, OP_T = 1, TYPE_F32 = 0, TYPE_BF16 = 14, COMPUTE_F32 = 68, ALGO_DEFAULT = -1, MATH_DEFAULT = 0 };
/* Fixed, so that nothing is allocated while a recording runs; 32 MiB is what cuBLAS asks for on Hopper. */
enum { WORKSPACE_BYTES = 32 << 20 };

struct qs_blas {
    void *library; /* NULL: the kernels of gemm.cu */
    void *handle;
    void *workspace;
    int (*create)(void **handle);
    int (*destroy)(void *handle);
    int (*set_stream)(void *handle, void *stream);
    int (*set_workspace)(void *handle, void *workspace, size_t bytes);
    int (*set_math)(void *handle, int mode);
    int (*get_version)(void *handle, int *version);
    int (*sgemm)(void *handle, int op_a, int op_b, int m, int n, int k, const float *alpha, const float *a, int lda,
                 const float *b, int ldb, const float *beta, float *c, int ldc);
    int (*gemm_ex)(void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a, int type_a,
                   int lda, const void *b, int type_b, int ldb, const void *beta, void *c, int type_c, int ldc,
                   int compute, int algorithm);
};

static bool load_symbols(qs_blas *blas)
{
    const struct {
        const char *name;
        void *slot;
    } symbols[] = {
        {"cublasCreate_v2", &blas->create},
        {"cublasDestroy_v2", &blas->destroy},
        {"cublasSetStream_v2", &blas->set_stream},
        {"cublasSetWorkspace_v2", &blas->set_workspace},
        {"cublasSetMathMode", &blas->set_math},
        {"cublasGetVersion_v2", &blas->get_version},
        {"cublasSgemm_v2", &blas->sgemm},
        {"cublasGemmEx", &blas->gemm_ex},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(blas->library, symbols[i].name);
        if (symbol == NULL) return false;
        memcpy(symbols[i].slot, &symbol, sizeof symbol);
    }
    return true;
}

static void open_library(qs_blas *blas)
{
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so"};
    for (size_t i = 0; i < sizeof names / sizeof *names && blas->library == NULL; i++)
        blas->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (blas->library == NULL || load_symbols(blas)) return;
    (void)dlclose(blas->library);
    blas->library = NULL;
}

static qs_err check(int status, const char *what)
{
    if (status == 0) return QS_OK;
    return qs_fail(QS_E_DEVICE, "%s: cuBLAS answers with status %d; see the list of cublasStatus_t", what, status);
}

static qs_err start(qs_blas *blas, qs_gpu *gpu, char *describe, size_t describe_bytes)
{
    int version = 0;
    qs_err err;
    QS_TRY(check(blas->create(&blas->handle), "start cuBLAS"));
    QS_TRY(qs_gpu_take(gpu, &blas->workspace, WORKSPACE_BYTES, QS_GPU_WORKSPACE, "workspace of cuBLAS"));
    QS_TRY(check(blas->set_stream(blas->handle, gpu->stream), "start cuBLAS"));
    QS_TRY(check(blas->set_workspace(blas->handle, blas->workspace, WORKSPACE_BYTES), "start cuBLAS"));
    /* The default never rounds f32 operands; TF32 would have to be asked for. */
    QS_TRY(check(blas->set_math(blas->handle, MATH_DEFAULT), "start cuBLAS"));
    (void)blas->get_version(blas->handle, &version);
    (void)snprintf(describe, describe_bytes, "cuBLAS %d", version);
out:
    return err;
}

qs_err qs_blas_create(qs_blas **out, qs_gpu *gpu, char *describe, size_t describe_bytes)
{
    qs_blas *blas = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(blas, 1, "matrix products"));
    if (!gpu->device.emulated) open_library(blas);
    if (blas->library != NULL) QS_TRY(start(blas, gpu, describe, describe_bytes));
    else (void)snprintf(describe, describe_bytes, "own matrix products (no libcublas.so.13 or .12)");
    *out = blas;
    blas = NULL;
out:
    if (blas != NULL) qs_blas_destroy(blas, gpu);
    return err;
}

void qs_blas_destroy(qs_blas *blas, qs_gpu *gpu)
{
    if (blas == NULL) return;
    if (blas->handle != NULL) (void)blas->destroy(blas->handle);
    if (blas->workspace != NULL) qs_gpu_give(gpu, blas->workspace, WORKSPACE_BYTES, QS_GPU_WORKSPACE);
    if (blas->library != NULL) (void)dlclose(blas->library);
    qs_mem_free(blas);
}

const char *qs_blas_from(const qs_blas *blas) { return blas->library != NULL ? "cuBLAS" : "gemm.cu"; }

qs_err qs_blas_gemm(qs_blas *blas, qs_gpu *gpu, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k,
                    float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                    int64_t ldc)
{
    if (blas->library == NULL)
        return qs_gpu_check(
            gpu, qs_cu_gemm(gpu->stream, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), "run gemm");
    /* Row-major C = A B is column-major C^T = B^T A^T. */
    return check(blas->sgemm(blas->handle, trans_b ? OP_T : OP_N, trans_a ? OP_T : OP_N, (int)n, (int)m, (int)k, &alpha,
                             b, (int)ldb, a, (int)lda, &beta, c, (int)ldc), "run gemm");
}

qs_err qs_blas_gemm_bf16(qs_blas *blas, qs_gpu *gpu, int64_t m, int64_t n, int64_t k, const uint16_t *a,
                         const uint16_t *b, float beta, float *c)
{
    const float one = 1.0f;
    if (blas->library == NULL)
        return qs_gpu_check(gpu, qs_cu_gemm_bf16(gpu->stream, m, n, k, a, b, beta, c), "run gemm in bf16");
    return check(blas->gemm_ex(blas->handle, OP_T, OP_N, (int)n, (int)m, (int)k, &one, b, TYPE_BF16, (int)k, a,
                               TYPE_BF16, (int)k, &beta, c, TYPE_F32, (int)n, COMPUTE_F32, ALGO_DEFAULT),
                 "run gemm in bf16");
}
