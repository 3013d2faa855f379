/* Products of many rows straight from stored weights (linear_many.cu), where the device has such kernels. Elsewhere,
 * for what they do not take, and for so many rows that a dense copy is soon paid for, weights are made dense first
 * (gpu_dense.c). */
#include <stdlib.h>

#include "backend/cuda/gpu_matrix.h"

enum { STORED_ROWS_MAX = 512 /* measured: docs/gpu.md */ };

/* Dense products of int8 with outliers take two terms of bf16, so they are never the faster ones. */
static int64_t rows_max_of(const qs_gpu_matrix *self)
{
    return self->format == QS_PACKED_INT8 && self->threshold > 0.0f ? INT64_MAX : STORED_ROWS_MAX;
}

/* Kernels for few rows and, behind them, for many. */
static const char *const kernels[] = {
    [QS_CU_INT2] = "linear_int2_mma, wgmma", [QS_CU_INT3] = "linear_int3_mma, wgmma",
    [QS_CU_INT4] = "linear_int4_mma, wgmma", [QS_CU_INT8] = "linear_int8_mma, wgmma",
    [QS_CU_F16] = "linear_f16_mma, wgmma",   [QS_CU_BF16] = "linear_bf16_mma, wgmma",
    [QS_CU_TABLE_BF16] = "linear_table_bf16_mma, wgmma",
};

const char *qs_gpu_many_kernel(const qs_gpu *gpu, const qs_gpu_matrix *self, unsigned uses, qs_compute compute,
                               int64_t *rows_max)
{
    /* Dense weights, where they are kept, are for windows of many thousand rows. */
    bool is_stored = uses == QS_USE_GEMV && !self->is_f32;
    *rows_max = 0;
    if (!gpu->device.has_wgmma || !is_stored || compute != QS_COMPUTE_BF16 || !self->fits_f16) return NULL;
    if (!qs_cu_many_takes(&self->shape)) return NULL;
    const char *asked = getenv("QS_MANY_ROWS"); /* to measure and to test both ways */
    *rows_max = asked != NULL ? strtoll(asked, NULL, 10) : rows_max_of(self);
    return *rows_max > 0 ? kernels[self->shape.format] : NULL;
}

bool qs_gpu_takes_stored(const qs_matrix *matrix, int64_t n)
{
    const qs_gpu_matrix *self = matrix->state;
    return !qs_gpu_takes_few(matrix, n) && n <= self->stored_rows;
}

void qs_gpu_many_need(qs_need *out, const qs_gpu *gpu, int64_t n, int64_t n_in)
{
    size_t n_sms = (size_t)gpu->device.n_sms;
    out->shared_bytes[QS_GPU_MANY_X] =
        (size_t)(qs_cu_many_rows(n) * qs_cu_n_chunks(n_in) * QS_CU_CHUNK) * sizeof(uint16_t);
    out->shared_bytes[QS_GPU_MANY_SCALE] = (size_t)n * sizeof(float);
    out->shared_bytes[QS_GPU_MANY_PARTS] = 2 * n_sms * QS_CU_MANY_PART * sizeof(float);
    out->shared_bytes[QS_GPU_MANY_ARRIVED] = n_sms * sizeof(unsigned);
}

/* Scratch, whose counts begin as zeros and are that again after each launch. */
static qs_err reserve(qs_gpu *gpu, int64_t n, int64_t n_in)
{
    bool is_first = gpu->many_arrived.bytes == 0;
    qs_need need = {0};
    const size_t *bytes = need.shared_bytes;
    qs_err err;
    qs_gpu_many_need(&need, gpu, n, n_in);
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_x, bytes[QS_GPU_MANY_X], QS_GPU_WORKSPACE, "activations"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_scale, bytes[QS_GPU_MANY_SCALE], QS_GPU_WORKSPACE, "activations"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_parts, bytes[QS_GPU_MANY_PARTS], QS_GPU_WORKSPACE, "parts of products"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->many_arrived, bytes[QS_GPU_MANY_ARRIVED], QS_GPU_WORKSPACE, "parts of products"));
    if (is_first)
        QS_TRY(qs_gpu_check(gpu, qs_rt_fill_zero(gpu->many_arrived.data, gpu->many_arrived.bytes, gpu->stream),
                            "clear memory"));
out:
    return err;
}

/* How matrices of a form want x. */
static qs_gpu_prepared wanted_by(const qs_gpu_matrix *self)
{
    qs_gpu_prepared wanted = {.is_there = true, .has_perm = self->has_perm, .is_coded = self->format == QS_PACKED_INT8,
                              .threshold = self->threshold};
    wanted.bf16 = self->shape.format == QS_CU_BF16 || self->shape.format == QS_CU_TABLE_BF16;
    if (self->has_perm) wanted.perm_id = self->perm_id;
    return wanted;
}

static qs_cu_many_x place_of_x(const qs_gpu *gpu, const qs_gpu_prepared *wanted)
{
    return (qs_cu_many_x){.x = gpu->many_x.data, .scale = gpu->many_scale.data, .is_coded = wanted->is_coded,
                          .threshold = wanted->threshold};
}

bool qs_gpu_takes_normed(const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    const qs_matrix *first = jobs[0].matrix;
    qs_gpu_prepared wanted = wanted_by(first->state);
    if (first->n_in % 4 != 0 || first->n_in > QS_CU_NORMED_MAX || (uintptr_t)x % 16 != 0) return false;
    for (int64_t i = 0; i < n_jobs; i++) {
        const qs_gpu_matrix *self = jobs[i].matrix->state;
        qs_gpu_prepared own = wanted_by(self);
        if (self->has_perm || !qs_gpu_is_prepared(&own, &wanted)) return false;
        if (!qs_gpu_takes_stored(jobs[i].matrix, n)) return false;
    }
    return true;
}

qs_err qs_gpu_prepare_normed(qs_gpu *gpu, const qs_linear_with *with, const qs_matrix *first, const float *x, int64_t n,
                             qs_gpu_prepared *prepared)
{
    qs_err err;
    *prepared = wanted_by(first->state);
    QS_TRY(reserve(gpu, n, first->n_in));
    qs_cu_many_x rounded = place_of_x(gpu, prepared);
    QS_TRY(qs_gpu_check(gpu, qs_cu_prepare_normed(gpu->stream, x, with->norm, (float)with->norm_eps, n, first->n_in,
                                                  prepared->bf16, &rounded), "round activations"));
out:
    return err;
}

qs_err qs_gpu_run_stored(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, bool is_gated, const float *x,
                         int64_t n, qs_gpu_prepared *prepared)
{
    const qs_matrix *first = jobs[0].matrix;
    const qs_gpu_matrix *self = first->state;
    qs_gpu_prepared wanted = wanted_by(self);
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    qs_err err;
    QS_TRY(reserve(gpu, n, first->n_in));
    qs_cu_many_x rounded = place_of_x(gpu, &wanted);
    qs_cu_many_scratch scratch = {.parts = gpu->many_parts.data, .n_arrived = gpu->many_arrived.data};
    if (!qs_gpu_is_prepared(prepared, &wanted))
        QS_TRY(qs_gpu_check(gpu,
                            qs_cu_prepare_many(gpu->stream, x, n, first->n_in,
                                               self->has_perm ? self->stored.perm.data : NULL, wanted.bf16, &rounded),
                            "round activations"));
    *prepared = wanted;
    for (int64_t i = 0; i < n_jobs; i++) linears[i] = qs_gpu_linear_of(&jobs[i]);
    linears[0].gates = is_gated;
    gpu->weights_are_fresh = false;
    QS_TRY(qs_gpu_check(gpu, qs_cu_linear_many(gpu->stream, &self->shape, linears, (int)n_jobs, n, &rounded, &scratch,
                                               gpu->device.n_sms), "run linear"));
out:
    return err;
}
