/* NF4, FP4 and int8 matrices of the CPU backend (packed.h says what they mean).
 *
 * Few rows go to a kernel on the codes themselves, many to the engine for dense products. Around both, inputs are
 * rounded or coded first and results rounded after. int8 decides by single inputs what is an outlier, not, like
 * bitsandbytes, by columns over all rows of a call: so a row's result does not depend on the rows beside it, and
 * decoding gives what scoring gave. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu_matrix.h"

enum {
    COLUMNS = 64, /* of weights that outliers meet, held at a time */
    RUN = 512,    /* rows of the output whose weights are gathered together */
};

/* ---- contents ---- */

/* Rows then begin at multiples of 32 of the flattened matrix, and so do blocks. */
static bool fits_chunks(const qs_packed *packed) { return packed->n_in % QS_CHUNK_HALF == 0; }

static int64_t n_chunks(const qs_packed *packed)
{
    return (packed->n_in + QS_CHUNK_COLUMNS - 1) / QS_CHUNK_COLUMNS;
}

static int64_t row8_bytes(const qs_packed *packed)
{
    return (packed->n_in + QS_INT8_PAD - 1) / QS_INT8_PAD * QS_INT8_PAD;
}

typedef struct filling {
    const qs_packed *packed;
    void *dst;
} filling;

static void fill_chunks(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const filling *work = context;
    const qs_packed *packed = work->packed;
    int64_t n = n_chunks(packed);
    for (int64_t o = first; o < last; o++) {
        const uint8_t *codes = packed->codes + o * packed->row_bytes;
        uint32_t *words = (uint32_t *)work->dst + o * n * QS_CHUNK_WORDS;
        memset(words, 0, (size_t)(n * QS_CHUNK_WORDS) * sizeof *words);
        for (int64_t j = 0; j < packed->n_in; j++) {
            uint32_t code = (codes[j / 2] >> (j % 2 * 4)) & 15;
            words[j / QS_CHUNK_COLUMNS * QS_CHUNK_WORDS + j % 8] |= code << (j % QS_CHUNK_COLUMNS / 8 * 4);
        }
    }
}

static void fill_rows8(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const filling *work = context;
    const qs_packed *packed = work->packed;
    int64_t stride = row8_bytes(packed);
    for (int64_t o = first; o < last; o++) {
        int8_t *row = (int8_t *)work->dst + o * stride;
        for (int64_t j = 0; j < packed->n_in; j++)
            row[j] = (int8_t)(packed->codes[o * packed->row_bytes + j] - QS_INT8_MIDDLE);
        memset(row + packed->n_in, 0, (size_t)(stride - packed->n_in));
    }
}

static void copy_absmax(qs_cpu_matrix *self, const qs_packed *packed)
{
    bool nested = packed->absmax_codes != NULL;
    int64_t n = nested ? qs_packed_n_nested(packed) : packed->n_absmax;
    memcpy(self->scales.data, nested ? packed->nested_absmax : packed->absmax, (size_t)n * sizeof(float));
    self->packed.absmax = nested ? NULL : self->scales.data;
    self->packed.nested_absmax = nested ? self->scales.data : NULL;
    if (!nested) return;
    memcpy(self->zeros.data, packed->absmax_codes, (size_t)packed->n_absmax);
    self->packed.absmax_codes = self->zeros.data;
}

static bool wants_chunks(const qs_cpu *cpu, const qs_packed *packed)
{
    return cpu->kernels.gemv_format[packed->format].wants_panels &&
           (packed->format == QS_PACKED_INT8 || fits_chunks(packed));
}

void qs_cpu_format_sizes(const qs_cpu *cpu, const qs_packed *packed, unsigned uses, qs_cpu_sizes *out)
{
    bool nested = packed->absmax_codes != NULL, is_int8 = packed->format == QS_PACKED_INT8;
    int64_t row_bytes = packed->row_bytes, n = nested ? qs_packed_n_nested(packed) : packed->n_absmax;
    if (!is_int8 && (uses & QS_USE_GEMV) == 0) return;
    if (is_int8) row_bytes = row8_bytes(packed);
    else if (wants_chunks(cpu, packed)) row_bytes = n_chunks(packed) * QS_CHUNK_WORDS * (int64_t)sizeof(uint32_t);
    out->weights = (size_t)(packed->n_out * row_bytes);
    out->scales = (size_t)n * sizeof(float);
    out->zeros = nested ? (size_t)packed->n_absmax : 0;
}

void qs_cpu_format_update(qs_matrix *matrix, const qs_packed *packed)
{
    qs_cpu_matrix *self = matrix->state;
    qs_cpu *cpu = qs_cpu_of(matrix->backend);
    const qs_gemv_kernel *kernel = &cpu->kernels.gemv_format[packed->format];
    filling work = {.packed = packed};
    self->packed = *packed;
    self->packed.codes = NULL;
    bool is_int8 = packed->format == QS_PACKED_INT8;
    if (!is_int8 && (matrix->uses & QS_USE_GEMV) == 0) return;
    self->wants_panels = wants_chunks(cpu, packed);
    if (!is_int8 && kernel->wants_panels && !self->wants_panels) {
        qs_cpu_kernels plain;
        qs_kernels_fill_ref(&plain);
        self->run = plain.gemv_format[packed->format].run;
        matrix->kernel = plain.gemv_format[packed->format].name;
    } else {
        self->run = kernel->run;
        matrix->kernel = kernel->name;
    }
    work.dst = self->weights.data;
    if (is_int8)
        qs_team_run(cpu->team, packed->n_out, 16, fill_rows8, &work);
    else if (self->wants_panels)
        qs_team_run(cpu->team, packed->n_out, 16, fill_chunks, &work);
    else
        memcpy(work.dst, packed->codes, (size_t)(packed->n_out * packed->row_bytes));
    if (!is_int8 && !self->wants_panels) self->packed.codes = self->weights.data;
    copy_absmax(self, packed);
}

void qs_cpu_format_rows(const qs_cpu *cpu, const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst)
{
    if (packed->format != QS_PACKED_INT8) {
        cpu->kernels.dequant.run(packed, first_row, n_rows, dst);
        return;
    }
    const uint8_t *codes = packed->codes + first_row * packed->row_bytes;
    for (int64_t i = 0; i < n_rows * packed->n_in; i++) dst[i] = (float)(codes[i] - QS_INT8_MIDDLE);
}

/* ---- inputs ---- */

void qs_cpu_format_forget(qs_cpu *cpu) { cpu->kept.x = NULL; }

typedef struct coding {
    qs_cpu *cpu;
    const qs_packed *packed;
    const float *x;
    int64_t stride; /* of coded rows */
    bool few;
} coding;

static void code_rows(void *context, int64_t first, int64_t last, int thread)
{
    const coding *work = context;
    const qs_cpu_kernels *kernels = &work->cpu->kernels;
    int64_t n_in = work->packed->n_in;
    for (int64_t r = first; r < last; r++) {
        float *row = (float *)work->cpu->coded.data + r * work->stride;
        const float *x = work->x + r * n_in;
        memset(row + n_in, 0, (size_t)(work->stride - n_in) * sizeof *row);
        if (work->packed->format != QS_PACKED_INT8) {
            kernels->round.run(x, NULL, n_in, work->packed->compute, row);
            continue;
        }
        uint8_t *outlier = (uint8_t *)work->cpu->outliers.data + thread * n_in;
        ((float *)work->cpu->scales.data)[r] = kernels->code_row.run(x, n_in, work->packed->threshold, row, outlier);
        int16_t *codes = (int16_t *)work->cpu->codes16.data + r * work->stride;
        for (int64_t j = 0; work->few && j < work->stride; j++) codes[j] = (int16_t)row[j];
    }
}

/* Gathers the threads' marks in the first one's and counts them. */
static int64_t count_outliers(const qs_cpu *cpu, int n_threads, int64_t n_in)
{
    uint8_t *all = cpu->outliers.data;
    int64_t n = 0;
    for (int t = 1; t < n_threads; t++)
        for (int64_t j = 0; j < n_in; j++) all[j] |= all[t * n_in + j];
    for (int64_t j = 0; j < n_in; j++) n += all[j];
    return n;
}

/* x as the format wants it in cpu->coded, with rows `kept.stride` apart; what is there already stays. */
static qs_err code_inputs(qs_cpu *cpu, const qs_packed *packed, const float *x, int64_t n, bool few)
{
    int n_threads = qs_team_n_threads(cpu->team);
    int64_t pad = !few ? 1 : packed->format == QS_PACKED_INT8 ? QS_INT8_PAD : QS_CHUNK_COLUMNS, n_in = packed->n_in;
    coding work = {cpu, packed, x, (n_in + pad - 1) / pad * pad, few};
    qs_err err = QS_OK;
    if (cpu->kept.x == x && cpu->kept.few == few && cpu->kept.stride == work.stride &&
        cpu->kept.compute == packed->compute &&
        (cpu->kept.format == QS_PACKED_INT8) == (packed->format == QS_PACKED_INT8) &&
        cpu->kept.threshold == packed->threshold)
        return QS_OK;
    cpu->kept.x = NULL;
    QS_TRY(qs_cpu_reserve(cpu, &cpu->coded, (size_t)(n * work.stride) * sizeof(float), "activations"));
    if (packed->format == QS_PACKED_INT8) {
        QS_TRY(qs_cpu_reserve(cpu, &cpu->scales, (size_t)n * sizeof(float), "scales of activations"));
        QS_TRY(qs_cpu_reserve(cpu, &cpu->outliers, (size_t)(n_threads * n_in), "outlier columns"));
        memset(cpu->outliers.data, 0, (size_t)(n_threads * n_in));
        size_t code_bytes = few ? (size_t)(n * work.stride) * sizeof(int16_t) : 0;
        QS_TRY(qs_cpu_reserve(cpu, &cpu->codes16, code_bytes, "codes of activations"));
    }
    qs_team_run(cpu->team, n, 1, code_rows, &work);
    cpu->kept.x = x;
    cpu->kept.few = few;
    cpu->kept.stride = work.stride;
    cpu->kept.format = packed->format;
    cpu->kept.compute = packed->compute;
    cpu->kept.threshold = packed->threshold;
    cpu->kept.n_outliers = packed->format == QS_PACKED_INT8 ? count_outliers(cpu, n_threads, n_in) : 0;
out:
    return err;
}

/* ---- results ---- */

typedef struct finishing {
    const qs_cpu *cpu;
    const qs_cpu_matrix *self;
    const qs_linear_job *job;
    const float *x; /* as it came */
    int64_t n_out, n_in;
    int64_t columns[COLUMNS]; /* that outliers stand in */
    int n_columns;
} finishing;

static void round_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const finishing *work = context;
    for (int64_t r = first; r < last; r++) {
        float *y = work->job->y + r * work->n_out;
        work->cpu->kernels.round.run(y, work->job->bias, work->n_out, work->self->packed.compute, y);
    }
}

static void scale_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const finishing *work = context;
    for (int64_t r = first; r < last; r++) {
        float *y = work->job->y + r * work->n_out, scale = ((const float *)work->cpu->scales.data)[r];
        for (int64_t o = 0; o < work->n_out; o++) y[o] = qs_int8_product(y[o], scale, work->self->packed.absmax[o]);
    }
}

/* Weights of the columns, rounded to 16 bits, in runs of rows of the output. */
static void gather_columns(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const finishing *work = context;
    const qs_packed *packed = &work->self->packed;
    const int8_t *rows = work->self->weights.data;
    int64_t stride = row8_bytes(packed), begin = first * RUN, end = last * RUN < work->n_out ? last * RUN : work->n_out;
    for (int c = 0; c < work->n_columns; c++) {
        float *column = (float *)work->cpu->columns.data + c * work->n_out;
        for (int64_t o = begin; o < end; o++)
            column[o] = qs_int8_weight((uint8_t)(rows[o * stride + work->columns[c]] + QS_INT8_MIDDLE),
                                       packed->absmax[o]);
        work->cpu->kernels.round.run(column + begin, NULL, end - begin, packed->compute, column + begin);
    }
}

static void add_outliers(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const finishing *work = context;
    const qs_packed *packed = &work->self->packed;
    for (int64_t r = first; r < last; r++)
        for (int c = 0; c < work->n_columns; c++) {
            float x = qs_round_to(work->x[r * work->n_in + work->columns[c]], packed->compute);
            if (!(fabsf(x) >= packed->threshold)) continue;
            const float *column = (const float *)work->cpu->columns.data + c * work->n_out;
            work->cpu->kernels.add_scaled.run(x, column, work->n_out, work->job->y + r * work->n_out);
        }
}

/* Outliers in ascending order of their columns, some columns at a time. */
static qs_err multiply_outliers(qs_cpu *cpu, finishing *work, int64_t n)
{
    const uint8_t *marks = cpu->outliers.data;
    qs_err err;
    QS_TRY(qs_cpu_reserve(cpu, &cpu->columns, (size_t)(COLUMNS * work->n_out) * sizeof(float), "outlier weights"));
    for (int64_t j = 0; j < work->n_in; j++) {
        if (marks[j]) work->columns[work->n_columns++] = j;
        if (work->n_columns == 0 || (j + 1 < work->n_in && work->n_columns < COLUMNS)) continue;
        qs_team_run(cpu->team, (work->n_out + RUN - 1) / RUN, 4, gather_columns, work);
        qs_team_run(cpu->team, n, 1, add_outliers, work);
        work->n_columns = 0;
    }
out:
    return err;
}

qs_err qs_cpu_format_linear(qs_cpu *cpu, const qs_linear_job *job, const float *x, int64_t n)
{
    const qs_matrix *matrix = job->matrix;
    qs_cpu_matrix *self = matrix->state;
    const qs_packed *packed = &self->packed;
    bool few = qs_cpu_is_few(matrix, n), is_int8 = packed->format == QS_PACKED_INT8;
    const float *bias = packed->compute == QS_ROUND_F32 ? job->bias : NULL; /* else rounded, and added at the end */
    finishing finish = {.cpu = cpu, .self = self, .job = job, .x = x, .n_out = matrix->n_out, .n_in = matrix->n_in};
    qs_err err = QS_OK;
    if (few || packed->compute != QS_ROUND_F32) QS_TRY(code_inputs(cpu, packed, x, n, few));
    if (few) {
        qs_gemv_job gemv = {.n = n, .n_out = matrix->n_out, .n_in = matrix->n_in, .x = cpu->coded.data,
                            .x_stride = cpu->kept.stride, .bias = bias, .y = job->y, .packed = packed,
                            .chunks = self->weights.data, .n_chunks = n_chunks(packed), .rows8 = self->weights.data,
                            .row8_bytes = row8_bytes(packed), .x8 = cpu->codes16.data, .x_scales = cpu->scales.data};
        qs_cpu_run_gemv(cpu, self, &gemv);
    } else {
        const float *coded = packed->compute == QS_ROUND_F32 ? x : cpu->coded.data;
        QS_TRY(cpu->engine->multiply(cpu->gemm, &self->pack, coded, n, bias, job->y));
        if (is_int8) qs_team_run(cpu->team, n, 1, scale_rows, &finish);
    }
    if (is_int8 && cpu->kept.n_outliers > 0) QS_TRY(multiply_outliers(cpu, &finish, n));
    if (packed->compute != QS_ROUND_F32) qs_team_run(cpu->team, n, 1, round_rows, &finish);
out:
    return err;
}
