/* Weight matrices of the CUDA backend: what is kept of them, and the choice between few and many rows. */
#include "backend/cuda/gpu_matrix.h"
#include "base/dtype.h"
#include "base/mem.h"

static void release_stored(qs_gpu *gpu, qs_gpu_stored *s, qs_gpu_use use)
{
    qs_gpu_release(gpu, &s->words, use);
    qs_gpu_release(gpu, &s->scales, use);
    qs_gpu_release(gpu, &s->zeros, use);
    qs_gpu_release(gpu, &s->perm, use);
    qs_gpu_release(gpu, &s->plan, use);
}

void qs_gpu_matrix_destroy(qs_matrix *matrix)
{
    qs_gpu_matrix *self = matrix->state;
    if (self == NULL) return;
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    release_stored(gpu, &self->stored, QS_GPU_WEIGHTS);
    qs_gpu_release(gpu, &self->absmax, QS_GPU_WEIGHTS);
    qs_gpu_release(gpu, &self->dense, QS_GPU_WEIGHTS);
    qs_mem_free(self);
    matrix->state = NULL;
}

static bool is_coded(const qs_gpu_matrix *m) { return !m->is_f32 && qs_cu_is_coded(m->shape.format); }
static bool is_mixed(const qs_gpu_matrix *m) { return !m->is_f32 && m->shape.format == QS_CU_MIXED; }

qs_cu_linear qs_gpu_linear_from(const qs_matrix *matrix, const qs_gpu_stored *s)
{
    const qs_gpu_matrix *self = matrix->state;
    return (qs_cu_linear){.words = s->words.data, .scales = is_coded(self) ? s->scales.data : NULL,
                          .zeros = self->has_zeros ? s->zeros.data : NULL, .plan = s->plan.data, .n_out = matrix->n_out,
                          .absmax = self->format == QS_PACKED_INT8 ? self->absmax.data : NULL};
}

/* ---- contents ---- */

/* Bytes to the device and there, by a kernel, into place: `raw` keeps them in between. */
static qs_err upload_raw(qs_backend *backend, const void *src, size_t bytes, void **raw)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->raw, bytes, QS_GPU_WORKSPACE, "weights on their way"));
    QS_TRY(qs_gpu_upload(backend, gpu->raw.data, src, bytes));
    *raw = gpu->raw.data;
out:
    return err;
}

qs_err qs_gpu_store_words(qs_backend *backend, const qs_gpu_matrix *self, qs_gpu_stored *s, int64_t n_out,
                          const void *rows, int64_t row_bytes)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    int64_t step = qs_gpu_piece_rows(row_bytes);
    void *raw;
    qs_err err = QS_OK;
    for (int64_t row = 0; row < n_out; row += step) {
        int64_t n = n_out - row < step ? n_out - row : step;
        uint32_t *words = (uint32_t *)s->words.data + row / QS_CU_TILE_ROWS * self->tile_words;
        QS_TRY(upload_raw(backend, (const char *)rows + row * row_bytes, (size_t)(n * row_bytes), &raw));
        int status = is_mixed(self) ? qs_cu_lay_out_mixed(gpu->stream, s->plan.data, n, self->shape.n_in, raw,
                                                          row_bytes, words)
                                    : qs_cu_lay_out(gpu->stream, &self->shape, n, raw, row_bytes, words);
        QS_TRY(qs_gpu_check(gpu, status, "lay out weights"));
    }
out:
    return err;
}

static qs_err store_scales(qs_backend *backend, const qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_err err;
    size_t n = (size_t)(packed->n_out * packed->n_groups), scale_bytes = n * sizeof *packed->scales;
    size_t zero_bytes = packed->zeros != NULL ? n : 0;
    char *raw;
    QS_TRY(qs_gpu_reserve(gpu, &gpu->raw, scale_bytes + zero_bytes, QS_GPU_WORKSPACE, "scales on their way"));
    raw = gpu->raw.data;
    QS_TRY(qs_gpu_upload(backend, raw, packed->scales, scale_bytes));
    if (zero_bytes > 0) QS_TRY(qs_gpu_upload(backend, raw + scale_bytes, packed->zeros, zero_bytes));
    QS_TRY(qs_gpu_check(gpu, qs_cu_lay_out_scales(gpu->stream, packed->n_out, packed->n_groups,
                                                  (const uint16_t *)(void *)raw,
                                                  zero_bytes > 0 ? (const uint8_t *)raw + scale_bytes : NULL,
                                                  1 << (packed->bits - 1), s->scales.data,
                                                  self->has_zeros ? s->zeros.data : NULL), "lay out scales"));
out:
    return err;
}

static qs_err store_perm(qs_backend *backend, qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    size_t bytes = (size_t)packed->n_in * sizeof *packed->perm;
    if (!self->has_perm) return QS_OK;
    self->perm_id = qs_hash(packed->perm, bytes);
    return qs_gpu_upload(backend, s->perm.data, packed->perm, bytes);
}

/* 65504 is the largest number of f16. Bits of numbers that are not negative are in the order of the numbers. */
static bool fits_f16(const qs_packed *packed)
{
    uint16_t largest = 0;
    for (int64_t i = 0; i < packed->n_out * packed->n_groups; i++) {
        uint16_t magnitude = packed->scales[i] & 0x7fff;
        largest = magnitude > largest ? magnitude : largest;
    }
    return qs_f32_from_f16(largest) * (float)((1 << packed->bits) - 1) <= 65504.0f;
}

static qs_err store_int(qs_backend *backend, qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s)
{
    qs_err err;
    self->fits_f16 = fits_f16(packed);
    QS_TRY(qs_gpu_store_words(backend, self, s, packed->n_out, packed->codes, packed->row_bytes));
    QS_TRY(store_scales(backend, self, packed, s));
    QS_TRY(store_perm(backend, self, packed, s));
out:
    return err;
}

static qs_err store_mixed(qs_backend *backend, qs_gpu_matrix *self, const qs_packed *packed, qs_gpu_stored *s,
                          size_t plan_bytes)
{
    qs_cu_mixed_plan *plan = NULL;
    qs_packed scales = {.n_out = packed->n_out, .n_groups = packed->n_groups, .bits = QS_EXL2_BITS_MAX};
    qs_err err;
    QS_TRY(qs_gpu_plan_mixed(packed, &plan));
    QS_TRY(qs_gpu_mixed_scales(packed, &scales.scales));
    QS_TRY(qs_gpu_upload(backend, s->plan.data, plan, plan_bytes));
    QS_TRY(qs_gpu_store_words(backend, self, s, packed->n_out, packed->codes, packed->row_bytes));
    QS_TRY(store_scales(backend, self, &scales, s));
    QS_TRY(store_perm(backend, self, packed, s));
out:
    qs_mem_free(plan);
    qs_mem_free(scales.scales);
    return err;
}

static qs_err set_format(qs_gpu_matrix *self, const qs_matrix_desc *desc)
{
    static const qs_cu_format coded[] = {[2] = QS_CU_INT2, [3] = QS_CU_INT3, [4] = QS_CU_INT4, [8] = QS_CU_INT8};
    const qs_packed *packed = desc->packed;
    if (desc->format != QS_MATRIX_INT) {
        self->shape.format = desc->format == QS_MATRIX_BF16 ? QS_CU_BF16 : QS_CU_F16;
        return QS_OK;
    }
    if (packed->format == QS_PACKED_EXL2) {
        self->shape.format = QS_CU_MIXED;
        self->has_perm = true;
        return QS_OK;
    }
    if (packed->format != QS_PACKED_INT) return qs_gpu_format_shape(self, packed);
    self->shape.format = coded[packed->bits];
    self->shape.group_size = packed->group_size;
    self->has_zeros = packed->zeros != NULL || qs_cu_needs_zeros(&self->shape);
    self->has_perm = packed->perm != NULL;
    if (packed->group_size % 16 != 0 && packed->group_size < desc->n_in)
        return qs_fail(QS_E_UNSUPPORTED, "create matrix: groups of %lld; the CUDA backend takes multiples of 16 and "
                       "whole rows; use --backend cpu", (long long)packed->group_size);
    return QS_OK;
}

qs_err qs_gpu_matrix_shape(qs_gpu_matrix *self, const qs_matrix_desc *desc)
{
    self->is_f32 = desc->format == QS_MATRIX_F32;
    self->has_zeros = self->has_perm = false;
    self->fits_f16 = true;
    self->format = QS_PACKED_INT;
    self->compute = QS_ROUND_F32;
    self->threshold = 0.0f;
    self->shape = (qs_cu_linear_shape){.n_in = desc->n_in, .group_size = desc->n_in};
    qs_err err = set_format(self, desc);
    if (err != QS_OK) return err;
    if (is_mixed(self)) (void)qs_gpu_mixed_plan_bytes(desc->packed, &self->tile_words);
    else self->tile_words = qs_cu_n_chunks(desc->n_in) * 32 * qs_cu_words(self->shape.format);
    return QS_OK;
}

static qs_err reserve_stored(qs_gpu *gpu, qs_gpu_stored *s, const qs_gpu_sizes *sizes)
{
    qs_gpu_use use = sizes->keeps ? QS_GPU_WEIGHTS : QS_GPU_WORKSPACE;
    qs_err err;
    QS_TRY(qs_gpu_reserve(gpu, &s->words, sizes->words, use, "weights"));
    QS_TRY(qs_gpu_reserve(gpu, &s->scales, sizes->scales, use, "scales"));
    QS_TRY(qs_gpu_reserve(gpu, &s->zeros, sizes->zeros, use, "zero points"));
    QS_TRY(qs_gpu_reserve(gpu, &s->perm, sizes->perm, use, "permutation"));
    QS_TRY(qs_gpu_reserve(gpu, &s->plan, sizes->plan, use, "plan of mixed widths"));
out:
    return err;
}

static qs_err update_f32(qs_matrix *matrix, const qs_matrix_desc *desc, const qs_gpu_sizes *sizes)
{
    qs_gpu_matrix *self = matrix->state;
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    int64_t n = desc->n_out * desc->n_in;
    size_t bytes = (size_t)n * sizeof(float);
    void *raw;
    qs_err err = QS_OK;
    if (sizes->words > 0) {
        QS_TRY(qs_gpu_reserve(gpu, &self->stored.words, sizes->words, QS_GPU_WEIGHTS, "weights"));
        QS_TRY(qs_gpu_upload(matrix->backend, self->stored.words.data, desc->dense, bytes));
    }
    if (sizes->dense == 0) goto out;
    QS_TRY(qs_gpu_reserve(gpu, &self->dense, sizes->dense, QS_GPU_WEIGHTS, "weights"));
    if (matrix->compute == QS_COMPUTE_F32) {
        QS_TRY(qs_gpu_upload(matrix->backend, self->dense.data, desc->dense, bytes));
    } else {
        enum { PIECE = QS_GPU_RAW_BYTES / sizeof(float) };
        for (int64_t at = 0; at < n; at += PIECE) {
            int64_t n_piece = n - at < PIECE ? n - at : PIECE;
            QS_TRY(upload_raw(matrix->backend, (const float *)desc->dense + at, (size_t)n_piece * sizeof(float), &raw));
            QS_TRY(qs_gpu_check(gpu, qs_cu_f32_to_bf16(gpu->stream, raw, n_piece, (uint16_t *)self->dense.data + at),
                                "round weights"));
        }
    }
out:
    return err;
}

/* Coded and 16-bit matrices: into the layout, kept or in passing, and from there into dense rows. */
static qs_err update_stored(qs_matrix *matrix, const qs_matrix_desc *desc, const qs_gpu_sizes *sizes)
{
    qs_gpu_matrix *self = matrix->state;
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    qs_err err;
    qs_gpu_stored passing = {.words = gpu->stage[0], .scales = gpu->stage[1], .zeros = gpu->stage[2],
                             .perm = gpu->stage[3], .plan = gpu->stage[4]};
    qs_gpu_stored *s = sizes->keeps ? &self->stored : &passing;
    QS_TRY(reserve_stored(gpu, s, sizes));
    QS_TRY(qs_gpu_reserve(gpu, &self->absmax, sizes->absmax, QS_GPU_WEIGHTS, "largest magnitudes"));
    if (is_mixed(self)) {
        QS_TRY(store_mixed(matrix->backend, self, desc->packed, s, sizes->plan));
    } else if (self->format != QS_PACKED_INT) {
        QS_TRY(qs_gpu_format_store(matrix->backend, self, desc->packed, s));
    } else if (desc->format == QS_MATRIX_INT) {
        QS_TRY(store_int(matrix->backend, self, desc->packed, s));
    } else {
        int64_t row_bytes = desc->n_in * (int64_t)sizeof(uint16_t);
        QS_TRY(qs_gpu_store_words(matrix->backend, self, s, desc->n_out, desc->dense, row_bytes));
    }
    if (sizes->dense > 0) {
        QS_TRY(qs_gpu_reserve(gpu, &self->dense, sizes->dense, QS_GPU_WEIGHTS, "weights"));
        QS_TRY(qs_gpu_dequantise(matrix, s, true, false, self->dense.data));
    }
out:
    if (!sizes->keeps) {
        gpu->stage[0] = passing.words;
        gpu->stage[1] = passing.scales;
        gpu->stage[2] = passing.zeros;
        gpu->stage[3] = passing.perm;
        gpu->stage[4] = passing.plan;
    }
    return err;
}

static qs_err reserve_terms(qs_gpu *gpu, int64_t n_in)
{
    qs_need need = {0};
    qs_err err;
    qs_gpu_terms_need(&need, n_in);
    QS_TRY(qs_gpu_reserve(gpu, &gpu->x_terms, need.shared_bytes[QS_GPU_X_TERMS], QS_GPU_WORKSPACE, "activations"));
    QS_TRY(qs_gpu_reserve(gpu, &gpu->x_scale, need.shared_bytes[QS_GPU_X_SCALE], QS_GPU_WORKSPACE, "activations"));
out:
    return err;
}

qs_err qs_gpu_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc)
{
    static const char *const kernels[] = {
        [QS_CU_INT2] = "linear_int2_mma", [QS_CU_INT3] = "linear_int3_mma", [QS_CU_INT4] = "linear_int4_mma",
        [QS_CU_INT8] = "linear_int8_mma", [QS_CU_F16] = "linear_f16_mma",   [QS_CU_BF16] = "linear_bf16_mma",
        [QS_CU_MIXED] = "linear_exl2_mma", [QS_CU_TABLE_F32] = "linear_table_mma",
        [QS_CU_TABLE_BF16] = "linear_table_bf16_mma", [QS_CU_TABLE_F16] = "linear_table_f16_mma",
    };
    qs_err err = QS_OK;
    qs_gpu_matrix *self = matrix->state;
    if (self == NULL) {
        QS_TRY(QS_NEW(self, 1, "matrix of the CUDA backend"));
        matrix->state = self;
    }
    qs_gpu *gpu = qs_gpu_of(matrix->backend);
    QS_TRY(qs_gpu_matrix_shape(self, desc));
    const qs_gpu_sizes sizes = qs_gpu_sizes_of(self, desc, matrix->uses, matrix->compute);
    gpu->weights_are_fresh = true;
    QS_TRY(self->is_f32 ? update_f32(matrix, desc, &sizes) : update_stored(matrix, desc, &sizes));
    const char *many_kernel = qs_gpu_many_kernel(gpu, self, matrix->uses, matrix->compute, &self->stored_rows);
    if ((matrix->uses & QS_USE_GEMV) != 0) {
        QS_TRY(reserve_terms(gpu, desc->n_in));
        QS_TRY(qs_gpu_format_reserve(gpu, matrix));
        matrix->kernel = self->is_f32 ? "linear_f32" : kernels[self->shape.format];
        if (many_kernel != NULL) matrix->kernel = many_kernel;
    }
    const qs_gpu_stored *s = &self->stored;
    matrix->bytes = s->words.bytes + s->scales.bytes + s->zeros.bytes + s->perm.bytes + s->plan.bytes +
                    self->absmax.bytes + self->dense.bytes;
out:
    return err;
}

/* ---- products ---- */

bool qs_gpu_takes_few(const qs_matrix *matrix, int64_t n)
{
    const qs_gpu_matrix *self = matrix->state;
    return (matrix->uses & QS_USE_GEMV) != 0 && !self->is_f32 && n <= QS_CU_ROWS_MAX;
}

/* Matrices that one launch serves: the same form of weights, and x in the same order. */
static bool fits_beside(const qs_matrix *a, const qs_matrix *b)
{
    const qs_gpu_matrix *m = a->state, *o = b->state;
    bool same_order = m->has_perm == o->has_perm && (!m->has_perm || (m->perm_id.low == o->perm_id.low &&
                                                                      m->perm_id.high == o->perm_id.high));
    return m->shape.format == o->shape.format && m->shape.group_size == o->shape.group_size && same_order &&
           m->has_zeros == o->has_zeros && m->is_f32 == o->is_f32 && a->compute == b->compute &&
           m->format == o->format && m->threshold == o->threshold;
}

/* Terms of x: those of integers carry what f32 holds unless products are to be of 16 bits; a table says it itself, and
 * codes of int8 need one. */
static int n_terms_of(const qs_matrix *matrix)
{
    const qs_gpu_matrix *self = matrix->state;
    if (self->format != QS_PACKED_INT) return self->shape.format == QS_CU_TABLE_F32 ? 2 : 1;
    return matrix->compute == QS_COMPUTE_BF16 ? 1 : 2;
}

qs_cu_linear qs_gpu_linear_of(const qs_linear_job *job)
{
    const qs_gpu_matrix *m = job->matrix->state;
    qs_cu_linear linear = qs_gpu_linear_from(job->matrix, &m->stored);
    linear.bias = job->bias;
    linear.y = job->y;
    linear.add = job->add;
    return linear;
}

bool qs_gpu_take_soon(qs_gpu *gpu)
{
    bool soon = !gpu->weights_are_fresh;
    gpu->weights_are_fresh = false;
    return soon;
}

qs_err qs_gpu_run_few(qs_gpu *gpu, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                      const float *x, int64_t n)
{
    const qs_matrix *first = jobs[0].matrix;
    const qs_gpu_matrix *self = first->state;
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    qs_cu_x terms = {.terms = gpu->x_terms.data, .scale = gpu->x_scale.data, .n = n,
                     .n_terms = n_terms_of(first), .is_coded = self->format == QS_PACKED_INT8,
                     .threshold = self->threshold, .rounds_factors = first->compute == QS_COMPUTE_BF16};
    if (with != NULL) terms.norm = with->norm;
    if (with != NULL) terms.norm_eps = (float)with->norm_eps;
    for (int64_t i = 0; i < n_jobs; i++) linears[i] = qs_gpu_linear_of(&jobs[i]);
    linears[0].gates = with != NULL && with->is_gated;
    const int32_t *perm = self->has_perm ? self->stored.perm.data : NULL;
    bool soon = qs_gpu_take_soon(gpu);
    int n_sms = gpu->device.n_sms;
    size_t shared_bytes = gpu->device.shared_bytes_max;
    int status = is_mixed(self) ? qs_cu_linear_mixed(gpu->stream, first->n_in, linears, (int)n_jobs, x, perm, &terms,
                                                     n_sms, shared_bytes, soon)
                                : qs_cu_linear_few(gpu->stream, &self->shape, linears, (int)n_jobs, x, perm, &terms,
                                                   n_sms, shared_bytes, soon, gpu->one_row);
    return qs_gpu_check(gpu, status, "run linear");
}

static qs_err run_f32(qs_gpu *gpu, const qs_linear_job *job, const float *x, int64_t n)
{
    const qs_matrix *m = job->matrix;
    const qs_gpu_matrix *self = m->state;
    return qs_gpu_check(gpu, qs_cu_linear_f32(gpu->stream, self->stored.words.data, m->n_out, m->n_in, x, n, job->bias,
                                              job->add, job->y), "run linear");
}

/* Rows of plain f32 weights that have a kernel of their own. */
static bool is_few_f32(const qs_matrix *matrix, int64_t n)
{
    const qs_gpu_matrix *self = matrix->state;
    return (matrix->uses & QS_USE_GEMV) != 0 && self->is_f32 && n <= QS_GEMV_MAX_ROWS;
}

/* Whether all products are of dense weights in bf16, so that nothing but x rounded to that is looked at. */
static bool take_rounded(const qs_linear_job *jobs, int64_t n_jobs, int64_t n)
{
    for (int64_t i = 0; i < n_jobs; i++) {
        const qs_matrix *m = jobs[i].matrix;
        const qs_gpu_matrix *self = m->state;
        if (m->compute != QS_COMPUTE_BF16 || self->format != QS_PACKED_INT || qs_gpu_takes_few(m, n)) return false;
        if (qs_gpu_takes_stored(m, n) || is_few_f32(m, n) || qs_gpu_permutes_x(m)) return false;
    }
    return true;
}

/* rounded, prepared: what of x lies in scratch from the norm before, for dense and for stored weights. */
static qs_err run_linears(qs_gpu *gpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n,
                          qs_gpu_prepared rounded, qs_gpu_prepared prepared)
{
    qs_err err = QS_OK;
    for (int64_t i = 0, end; i < n_jobs; i = end) {
        const qs_matrix *m = jobs[i].matrix;
        const qs_gpu_matrix *self = m->state;
        bool few = qs_gpu_takes_few(m, n), stored = qs_gpu_takes_stored(m, n);
        bool together = few || stored || self->format != QS_PACKED_INT;
        end = i + 1;
        while (together && end < n_jobs && end - i < QS_CU_LINEARS_MAX &&
               qs_gpu_takes_few(jobs[end].matrix, n) == few && fits_beside(m, jobs[end].matrix) &&
               qs_gpu_takes_stored(jobs[end].matrix, n) == stored)
            end++;
        if (stored) {
            QS_TRY(qs_gpu_run_stored(gpu, jobs + i, end - i, false, x, n, &prepared));
        } else if (self->format != QS_PACKED_INT) {
            QS_TRY(qs_gpu_format_linears(gpu, jobs + i, end - i, x, n));
            rounded.is_there = prepared.is_there = false; /* its own x may lie there now */
        } else if (few) {
            QS_TRY(qs_gpu_run_few(gpu, NULL, jobs + i, end - i, x, n));
        } else if (is_few_f32(m, n)) {
            QS_TRY(run_f32(gpu, &jobs[i], x, n));
        } else {
            QS_TRY(qs_gpu_run_many(gpu, &jobs[i], x, n, &rounded));
        }
    }
out:
    return err;
}

qs_err qs_gpu_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    return run_linears(qs_gpu_of(backend), jobs, n_jobs, x, n, (qs_gpu_prepared){0}, (qs_gpu_prepared){0});
}

/* Whether all that is asked for fits the launch of few rows: one form of weights, x as it comes. */
static bool takes_with(const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs, int64_t n)
{
    const qs_matrix *first = jobs[0].matrix;
    if (with->norm != NULL && first->n_in > QS_CU_NORM_COLUMNS_MAX) return false;
    if (n_jobs > QS_CU_LINEARS_MAX || qs_gpu_rounds_few_rows(first->state)) return false;
    for (int64_t i = 0; i < n_jobs; i++)
        if (!qs_gpu_takes_few(jobs[i].matrix, n) || !fits_beside(first, jobs[i].matrix)) return false;
    return true;
}

/* Whether a gate and what it gates are one launch of many rows. */
static bool gates_stored(const qs_linear_with *with, const qs_linear_job *jobs, int64_t n)
{
    return with->is_gated && qs_gpu_takes_stored(jobs[0].matrix, n) && qs_gpu_takes_stored(jobs[1].matrix, n) &&
           fits_beside(jobs[0].matrix, jobs[1].matrix);
}

/* Of x that a gate is left of. */
static qs_err linears_behind_gate(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs,
                                  int64_t n_jobs, const float *x, int64_t n)
{
    qs_gpu_prepared rounded = {0};
    int64_t n_in = jobs[0].matrix->n_in;
    qs_err err;
    if (take_rounded(jobs, n_jobs, n)) QS_TRY(qs_gpu_gate_rounded(qs_gpu_of(backend), with, x, n, n_in, &rounded));
    else QS_TRY(qs_gpu_silu_mul(backend, x, with->up, n * n_in, with->gate));
    QS_TRY(run_linears(qs_gpu_of(backend), jobs, n_jobs, x, n, rounded, (qs_gpu_prepared){0}));
out:
    return err;
}

qs_err qs_gpu_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                           const float *x, int64_t n)
{
    const qs_matrix *first = jobs[0].matrix;
    qs_err err = QS_OK;
    if (with->up != NULL) return linears_behind_gate(backend, with, jobs, n_jobs, x, n);
    if (takes_with(with, jobs, n_jobs, n)) return qs_gpu_run_few(qs_gpu_of(backend), with, jobs, n_jobs, x, n);
    qs_gpu_prepared rounded = {0}, prepared = {0};
    if (with->norm != NULL && qs_gpu_takes_normed(jobs, n_jobs, x, n)) {
        QS_TRY(qs_gpu_prepare_normed(qs_gpu_of(backend), with, first, x, n, &prepared));
    } else if (with->norm != NULL && take_rounded(jobs, n_jobs, n)) {
        QS_TRY(qs_gpu_norm_rounded(qs_gpu_of(backend), with, x, n, first->n_in, &rounded));
    } else if (with->norm != NULL) {
        QS_TRY(qs_gpu_rmsnorm(backend, x, with->norm, n, first->n_in, with->norm_eps, with->normed));
        x = with->normed;
    }
    if (gates_stored(with, jobs, n)) return qs_gpu_run_stored(qs_gpu_of(backend), jobs, n_jobs, true, x, n, &prepared);
    QS_TRY(run_linears(qs_gpu_of(backend), jobs, n_jobs, x, n, rounded, prepared));
    /* Dense weights come next, too: what is rounded for them need not be written in f32 before. */
    bool leaves_gate = with->leaves_gate != NULL && take_rounded(jobs, n_jobs, n);
    if (leaves_gate) *with->leaves_gate = true;
    else if (with->is_gated) QS_TRY(qs_gpu_silu_mul(backend, jobs[0].y, jobs[1].y, n * first->n_out, jobs[0].y));
out:
    return err;
}
