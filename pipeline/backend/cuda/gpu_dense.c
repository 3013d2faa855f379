/* Many rows by dense weights: stored ones are made dense first, and then there is one large product. */
#include "backend/cuda/blas.h"
#include "backend/cuda/gpu_matrix.h"

size_t qs_gpu_dense_bytes(int64_t n_out, int64_t n_in, qs_compute compute)
{
    return (size_t)n_out * (size_t)n_in * (compute == QS_COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float));
}

bool qs_gpu_is_prepared(const qs_gpu_prepared *a, const qs_gpu_prepared *b)
{
    return a->is_there == b->is_there && a->bf16 == b->bf16 && a->has_perm == b->has_perm &&
           a->is_coded == b->is_coded && a->threshold == b->threshold &&
           a->perm_id.low == b->perm_id.low && a->perm_id.high == b->perm_id.high;
}

/* Weights that are made dense in passing stay in the order in which they are stored: writing a row of them to the
 * places of a permutation touches 32 bytes for each 2, and there are more weights than numbers in x. */
bool qs_gpu_permutes_x(const qs_matrix *matrix)
{
    const qs_gpu_matrix *self = matrix->state;
    return self->has_perm && matrix->compute == QS_COMPUTE_BF16 && (matrix->uses & QS_USE_GEMM) == 0;
}

qs_err qs_gpu_dequantise(const qs_matrix *matrix, const qs_gpu_stored *s, bool in_order, bool soon, void *out)
{
    const qs_gpu_matrix *self = matrix->state;
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    bool bf16 = matrix->compute == QS_COMPUTE_BF16;
    qs_cu_linear linear = qs_gpu_linear_from(matrix, s);
    const int32_t *perm = self->has_perm && in_order ? s->perm.data : NULL;
    return qs_gpu_check(gpu, qs_cu_dequant(gpu->stream, &self->shape, &linear, perm, bf16, soon, out),
                        "de-quantise weights");
}

/* Dense weights in the precision of the products: kept, or made in passing. */
static qs_err dense_of(qs_gpu *gpu, const qs_matrix *matrix, const void **out)
{
    const qs_gpu_matrix *self = matrix->state;
    qs_err err = QS_OK;
    if ((matrix->uses & QS_USE_GEMM) != 0) {
        *out = self->dense.data;
    } else if (self->is_f32 && matrix->compute == QS_COMPUTE_F32) {
        *out = self->stored.words.data;
    } else {
        QS_TRY(qs_gpu_reserve(gpu, &gpu->dense, qs_gpu_dense_bytes(matrix->n_out, matrix->n_in, matrix->compute),
                              QS_GPU_WORKSPACE, "de-quantised weights"));
        bool soon = qs_gpu_take_soon(gpu);
        if (self->is_f32)
            QS_TRY(qs_gpu_check(gpu,
                                qs_cu_f32_to_bf16(gpu->stream, self->stored.words.data,
                                                  matrix->n_out * matrix->n_in, gpu->dense.data),
                                "round weights"));
        else
            QS_TRY(qs_gpu_dequantise(matrix, &self->stored, !qs_gpu_permutes_x(matrix), soon, gpu->dense.data));
        *out = gpu->dense.data;
    }
out:
    return err;
}

static qs_err reserve_rounded(qs_gpu *gpu, int64_t n_values)
{
    return qs_gpu_reserve(gpu, &gpu->x_bf16, (size_t)n_values * sizeof(uint16_t), QS_GPU_WORKSPACE, "activations");
}

qs_err qs_gpu_norm_rounded(qs_gpu *gpu, const qs_linear_with *with, const float *x, int64_t n, int64_t d,
                           qs_gpu_prepared *rounded)
{
    qs_err err;
    *rounded = (qs_gpu_prepared){.is_there = true, .bf16 = true};
    QS_TRY(reserve_rounded(gpu, n * d));
    int status = qs_cu_rmsnorm_bf16(gpu->stream, x, with->norm, n, d, (float)with->norm_eps, gpu->x_bf16.data);
    QS_TRY(qs_gpu_check(gpu, status, "run rmsnorm"));
out:
    return err;
}

qs_err qs_gpu_gate_rounded(qs_gpu *gpu, const qs_linear_with *with, const float *x, int64_t n, int64_t d,
                           qs_gpu_prepared *rounded)
{
    qs_err err;
    *rounded = (qs_gpu_prepared){.is_there = true, .bf16 = true};
    QS_TRY(reserve_rounded(gpu, n * d));
    QS_TRY(qs_gpu_check(gpu, qs_cu_silu_mul_bf16(gpu->stream, x, with->up, n * d, gpu->x_bf16.data), "run silu_mul"));
out:
    return err;
}

/* x in gpu->x_bf16 as the matrix wants it. */
static qs_err round_x(qs_gpu *gpu, const qs_matrix *m, const float *x, int64_t n, qs_gpu_prepared *rounded)
{
    const qs_gpu_matrix *self = m->state;
    qs_gpu_prepared wanted = {.is_there = true, .bf16 = true, .has_perm = qs_gpu_permutes_x(m)};
    qs_err err = QS_OK;
    if (wanted.has_perm) wanted.perm_id = self->perm_id;
    if (qs_gpu_is_prepared(rounded, &wanted)) return QS_OK;
    QS_TRY(reserve_rounded(gpu, n * m->n_in));
    int status = wanted.has_perm
                     ? qs_cu_permuted_bf16(gpu->stream, x, n, m->n_in, self->stored.perm.data, gpu->x_bf16.data)
                     : qs_cu_f32_to_bf16(gpu->stream, x, n * m->n_in, gpu->x_bf16.data);
    QS_TRY(qs_gpu_check(gpu, status, "round activations"));
    *rounded = wanted;
out:
    return err;
}

/* Outliers of int8 are no whole numbers: they have more than the eight bits of bf16. */
int qs_gpu_n_dense_terms(const qs_gpu_matrix *self, qs_compute compute)
{
    return compute == QS_COMPUTE_BF16 && self->format == QS_PACKED_INT8 && self->threshold > 0.0f ? 2 : 1;
}

/* Both terms of x, the second behind the first. */
static qs_err split_x(qs_gpu *gpu, const float *x, int64_t n_values, qs_gpu_prepared *rounded)
{
    qs_err err = QS_OK;
    if (rounded->is_there) return QS_OK;
    QS_TRY(reserve_rounded(gpu, 2 * n_values));
    uint16_t *terms = gpu->x_bf16.data;
    QS_TRY(qs_gpu_check(gpu, qs_cu_split_bf16(gpu->stream, x, n_values, terms, terms + n_values), "round activations"));
    *rounded = (qs_gpu_prepared){.is_there = true, .bf16 = true};
out:
    return err;
}

/* y = x W^T + beta y of the terms that lie in gpu->x_bf16. */
static qs_err multiply_terms(qs_gpu *gpu, const qs_matrix *m, const void *w, int64_t n, int n_terms, float beta,
                             float *y)
{
    const uint16_t *terms = gpu->x_bf16.data;
    qs_err err = QS_OK;
    for (int t = 0; t < n_terms; t++)
        QS_TRY(qs_blas_gemm_bf16(gpu->blas, gpu, n, m->n_out, m->n_in, terms + t * n * m->n_in, w,
                                 t == 0 ? beta : 1.0f, y));
out:
    return err;
}

qs_err qs_gpu_run_many(qs_gpu *gpu, const qs_linear_job *job, const float *x, int64_t n, qs_gpu_prepared *rounded)
{
    const qs_matrix *m = job->matrix;
    const float beta = job->add ? 1.0f : 0.0f;
    const int n_terms = qs_gpu_n_dense_terms(m->state, m->compute);
    const void *w;
    qs_err err;
    if (n_terms == 2) QS_TRY(split_x(gpu, x, n * m->n_in, rounded));
    else if (m->compute == QS_COMPUTE_BF16) QS_TRY(round_x(gpu, m, x, n, rounded));
    QS_TRY(dense_of(gpu, m, &w));
    if (m->compute == QS_COMPUTE_BF16)
        QS_TRY(multiply_terms(gpu, m, w, n, n_terms, beta, job->y));
    else
        QS_TRY(qs_blas_gemm(gpu->blas, gpu, false, true, n, m->n_out, m->n_in, 1.0f, x, m->n_in, w, m->n_in, beta,
                            job->y, m->n_out));
    if (job->bias != NULL)
        QS_TRY(qs_gpu_check(gpu, qs_cu_add_bias(gpu->stream, job->y, job->bias, n, m->n_out), "add bias"));
out:
    return err;
}
