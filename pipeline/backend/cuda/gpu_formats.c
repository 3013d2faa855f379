/* NF4, FP4 and int8 matrices of the CUDA backend (packed.h says what they mean).
 *
 * Codes lie as integers do and go through the same kernels. Those for few rows round or code x, and round results,
 * themselves; around products of many rows inputs are rounded or coded first and results finished after (coded.cu).
 * What is an outlier is decided as cpu_formats.c does: by single inputs. */
#include "backend/cuda/gpu_matrix.h"
#include "base/mem.h"

/* ---- contents ---- */

qs_err qs_gpu_format_shape(qs_gpu_matrix *self, const qs_packed *packed)
{
    self->format = packed->format;
    self->compute = packed->compute;
    self->threshold = packed->threshold;
    if (packed->format == QS_PACKED_INT8) {
        self->shape.format = QS_CU_INT8;
        return QS_OK;
    }
    const qs_format *format = &qs_formats[packed->format];
    if (format->values == NULL)
        return qs_fail(QS_E_UNSUPPORTED, "create matrix: the CUDA backend has no kernels for %s; use --backend cpu",
                       format->name);
    /* Blocks run on over the ends of rows. In groups of the largest power of two that divides both, every group lies in
     * one row and in one block. */
    int64_t group = packed->n_in & -packed->n_in;
    self->shape.group_size = group < packed->group_size ? group : packed->group_size;
    self->shape.format = (qs_cu_format)(QS_CU_TABLE + packed->compute);
    self->shape.values = format->values;
    if (group < 32)
        return qs_fail(QS_E_UNSUPPORTED,
                       "create matrix: %s in rows of %lld columns; the CUDA backend takes multiples of "
                       "32; use --backend cpu", format->name, (long long)packed->n_in);
    return QS_OK;
}

/* Largest magnitudes of blocks in f32 beside the groups of each row, in pairs as scales are; double-quantised ones are
 * what they mean from here on. */
static qs_err store_maxima(qs_backend *backend, const qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    int64_t n_groups = packed->n_in / self->shape.group_size, n_tiles = qs_cu_n_tiles(packed->n_out);
    int64_t n = n_tiles * n_groups * QS_CU_TILE_ROWS;
    float *pairs = NULL;
    qs_err err;
    QS_TRY(QS_NEW(pairs, n, "largest magnitudes on their way"));
    for (int64_t i = 0; i < n; i++) {
        int64_t group = i / QS_CU_TILE_ROWS % n_groups, in_tile = i % QS_CU_TILE_ROWS;
        int64_t row = i / (QS_CU_TILE_ROWS * n_groups) * QS_CU_TILE_ROWS + in_tile / 2 + in_tile % 2 * 8;
        int64_t block = (row * packed->n_in + group * self->shape.group_size) / packed->group_size;
        if (row < packed->n_out) pairs[i] = qs_packed_absmax(packed, block);
    }
    QS_TRY(qs_gpu_upload(backend, s->scales.data, pairs, (size_t)n * sizeof *pairs));
out:
    qs_mem_free(pairs);
    return err;
}

/* To the kernels of integers rows have the scale 1. */
static qs_err store_rows8(qs_backend *backend, const qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    int64_t n = qs_cu_n_tiles(packed->n_out) * 8;
    size_t maxima_bytes = (size_t)packed->n_out * sizeof *packed->absmax;
    uint32_t *ones = NULL;
    qs_err err;
    QS_TRY(QS_NEW(ones, n, "scales on their way"));
    for (int64_t i = 0; i < n; i++) ones[i] = 0x3C003C00u;
    QS_TRY(qs_gpu_upload(backend, s->scales.data, ones, (size_t)n * sizeof *ones));
    QS_TRY(qs_gpu_upload(backend, self->absmax.data, packed->absmax, maxima_bytes));
out:
    qs_mem_free(ones);
    return err;
}

qs_err qs_gpu_format_store(qs_backend *backend, const qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    qs_err err = qs_gpu_store_words(backend, self, s, packed->n_out, packed->codes, packed->row_bytes);
    if (err != QS_OK) return err;
    return packed->format == QS_PACKED_INT8 ? store_rows8(backend, self, packed, s)
                                            : store_maxima(backend, self, packed, s);
}

/* ---- products ---- */

static qs_err reserve_inputs(qs_gpu *gpu, const qs_gpu_matrix *self, int64_t n)
{
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->coded, (size_t)(n * self->shape.n_in) * sizeof(float), QS_GPU_WORKSPACE,
                          "activations"));
    if (self->format == QS_PACKED_INT8)
        QS_TRY(qs_gpu_reserve(gpu, &gpu->coded_scale, (size_t)n * sizeof(float), QS_GPU_WORKSPACE, "activations"));
out:
    return err;
}

static qs_err reserve_product(qs_gpu *gpu, int64_t n_values)
{
    return qs_gpu_reserve(gpu, &gpu->product, (size_t)n_values * sizeof(float), QS_GPU_WORKSPACE, "products");
}

/* Few rows of x are rounded or coded on the way, but f16 is no form that x of NF4 and FP4 is kept in. */
bool qs_gpu_rounds_few_rows(const qs_gpu_matrix *self)
{
    return qs_cu_is_table(self->shape.format) && self->compute == QS_ROUND_F16;
}

qs_err qs_gpu_format_reserve(qs_gpu *gpu, const qs_matrix *matrix)
{
    const qs_gpu_matrix *self = matrix->state;
    return qs_gpu_rounds_few_rows(self) ? reserve_inputs(gpu, self, QS_CU_ROWS_MAX) : QS_OK;
}

/* x as the format wants it, in gpu->coded. */
static qs_err code_inputs(qs_gpu *gpu, const qs_gpu_matrix *self, const float *x, int64_t n)
{
    int64_t n_in = self->shape.n_in;
    qs_err err;
    QS_TRY(reserve_inputs(gpu, self, n));
    if (self->format == QS_PACKED_INT8)
        QS_TRY(qs_gpu_check(gpu, qs_cu_code_rows(gpu->stream, x, n, n_in, self->threshold, gpu->coded.data,
                                                 gpu->coded_scale.data), "code activations"));
    else
        QS_TRY(qs_gpu_check(gpu, qs_cu_round(gpu->stream, x, n * n_in, self->compute, gpu->coded.data),
                            "round activations"));
out:
    return err;
}

static qs_err finish(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const qs_linear_job *plain,
                     int64_t n)
{
    const qs_gpu_matrix *first = jobs[0].matrix->state;
    qs_cu_finish f = {.compute = first->compute, .n = n, .n_parts = (int)n_jobs};
    if (first->format == QS_PACKED_INT8) f.scale = gpu->coded_scale.data;
    for (int64_t i = 0; i < n_jobs; i++) {
        const qs_gpu_matrix *self = jobs[i].matrix->state;
        f.parts[i] = (qs_cu_finish_part){.n_out = jobs[i].matrix->n_out, .product = plain[i].y, .bias = jobs[i].bias,
                                         .absmax = self->absmax.data, .y = jobs[i].y, .add = jobs[i].add};
    }
    return qs_gpu_check(gpu, qs_cu_finish_rows(gpu->stream, &f), "finish products");
}

/* Products without bias, in y itself or, to be added, in scratch. */
static qs_err lay_aside(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, int64_t n, qs_linear_job *plain)
{
    int64_t n_values = 0;
    for (int64_t i = 0; i < n_jobs; i++) n_values += jobs[i].add ? n * jobs[i].matrix->n_out : 0;
    qs_err err = n_values > 0 ? reserve_product(gpu, n_values) : QS_OK;
    float *at = gpu->product.data;
    for (int64_t i = 0; i < n_jobs; i++) {
        plain[i] = (qs_linear_job){.matrix = jobs[i].matrix, .y = jobs[i].add ? at : jobs[i].y};
        if (jobs[i].add) at += n * jobs[i].matrix->n_out;
    }
    return err;
}

/* Many rows by dense weights. */
static qs_err run_finished(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    const qs_gpu_matrix *self = jobs[0].matrix->state;
    qs_linear_job plain[QS_CU_LINEARS_MAX];
    qs_gpu_prepared rounded = {0};
    qs_err err;
    /* Products of many rows in bf16 begin with rounding to it. */
    bool as_it_is = self->compute == QS_ROUND_BF16 && jobs[0].matrix->compute == QS_COMPUTE_BF16;
    if (!as_it_is) QS_TRY(code_inputs(gpu, self, x, n));
    const float *coded = as_it_is ? x : gpu->coded.data;
    QS_TRY(lay_aside(gpu, jobs, n_jobs, n, plain));
    for (int64_t i = 0; i < n_jobs; i++) QS_TRY(qs_gpu_run_many(gpu, &plain[i], coded, n, &rounded));
    QS_TRY(finish(gpu, jobs, n_jobs, plain, n));
out:
    return err;
}

qs_err qs_gpu_format_linears(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    const qs_gpu_matrix *self = jobs[0].matrix->state;
    bool rounds = qs_gpu_rounds_few_rows(self);
    qs_gpu_prepared rounded = {0};
    qs_err err = QS_OK;
    if (qs_gpu_takes_few(jobs[0].matrix, n)) {
        if (rounds) QS_TRY(code_inputs(gpu, self, x, n));
        return qs_gpu_run_few(gpu, NULL, jobs, n_jobs, rounds ? gpu->coded.data : x, n);
    }
    if (self->compute != QS_ROUND_F32) return run_finished(gpu, jobs, n_jobs, x, n);
    for (int64_t i = 0; i < n_jobs; i++) QS_TRY(qs_gpu_run_many(gpu, &jobs[i], x, n, &rounded));
out:
    return err;
}
