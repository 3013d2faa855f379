/* Products of many rows straight from stored weights (linear_many.cu), where the device has such kernels and they are asked
 * for (gpu_trial.c). Elsewhere, and for what they do not take, weights are made dense first (gpu_dense.c). */
#include "backend/cuda/gpu_matrix.h"

/* Kernels for few rows and, behind them, for many. */
static const char *const kernels[] = {
    [QS_CU_INT2] = "linear_int2_mma, wgmma", [QS_CU_INT3] = "linear_int3_mma, wgmma", [QS_CU_INT4] = "linear_int4_mma, wgmma",
    [QS_CU_INT8] = "linear_int8_mma, wgmma", [QS_CU_F16] = "linear_f16_mma, wgmma",   [QS_CU_BF16] = "linear_bf16_mma, wgmma",
    [QS_CU_TABLE_BF16] = "linear_table_bf16_mma, wgmma",
};

const char *qs_gpu_many_kernel(const qs_matrix *matrix)
{
    const qs_gpu_matrix *self = matrix->state;
    const qs_gpu *gpu = matrix->backend->state;
    /* Dense weights, where they are kept, are for windows of many thousand rows. */
    bool is_stored = matrix->uses == QS_USE_GEMV && !self->is_f32;
    if (!gpu->device.has_wgmma || !qs_gpu_on_trial("linear_wgmma")) return NULL;
    if (!is_stored || matrix->compute != QS_COMPUTE_BF16 || !self->fits_f16) return NULL;
    return qs_cu_many_takes(&self->shape) ? kernels[self->shape.format] : NULL;
}

/* Scratch, whose counts begin as zeros and are that again after each launch. */
static qs_err reserve(qs_gpu *gpu, int64_t n, int64_t n_in)
{
    size_t n_sms = (size_t)gpu->device.n_sms;
    size_t x_bytes = (size_t)(qs_cu_many_rows(n) * qs_cu_n_chunks(n_in) * QS_CU_CHUNK) * sizeof(uint16_t);
    bool is_first = gpu->many_arrived.bytes == 0;
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_x, x_bytes, QS_GPU_WORKSPACE, "activations"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_scale, (size_t)n * sizeof(float), QS_GPU_WORKSPACE, "activations"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_parts, 2 * n_sms * QS_CU_MANY_PART * sizeof(float), QS_GPU_WORKSPACE,
                          "parts of products"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_arrived, n_sms * sizeof(unsigned), QS_GPU_WORKSPACE, "parts of products"));
    if (is_first)
        QS_TRY(qs_gpu_check(gpu, qs_rt_fill_zero(gpu->many_arrived.data, n_sms * sizeof(unsigned), gpu->stream),
                            "clear memory"));
out:
    return err;
}

qs_err qs_gpu_run_stored(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n,
                         qs_gpu_prepared *prepared)
{
    const qs_matrix *first = jobs[0].matrix;
    const qs_gpu_matrix *self = first->state;
    qs_gpu_prepared wanted = {.is_there = true, .has_perm = self->has_perm};
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    qs_err err;
    wanted.bf16 = self->shape.format == QS_CU_BF16 || self->shape.format == QS_CU_TABLE_BF16;
    if (self->has_perm) wanted.perm_id = self->perm_id;
    QS_TRY(reserve(gpu, n, first->n_in));
    qs_cu_many_x rounded = {.x = gpu->many_x.data, .scale = gpu->many_scale.data};
    qs_cu_many_scratch scratch = {.parts = gpu->many_parts.data, .n_arrived = gpu->many_arrived.data};
    bool is_same = prepared->is_there && prepared->bf16 == wanted.bf16 && prepared->has_perm == wanted.has_perm &&
                   prepared->perm_id.low == wanted.perm_id.low && prepared->perm_id.high == wanted.perm_id.high;
    if (!is_same)
        QS_TRY(qs_gpu_check(gpu, qs_cu_prepare_many(gpu->stream, x, n, first->n_in,
                                                    self->has_perm ? self->stored.perm.data : NULL, wanted.bf16, &rounded),
                            "round activations"));
    *prepared = wanted;
    for (int64_t i = 0; i < n_jobs; i++) linears[i] = qs_gpu_linear_of(&jobs[i]);
    gpu->weights_are_fresh = false;
    QS_TRY(qs_gpu_check(gpu, qs_cu_linear_many(gpu->stream, &self->shape, linears, (int)n_jobs, n, &rounded, &scratch,
                                               gpu->device.n_sms), "run linear"));
out:
    return err;
}
