/* Weight matrices of the CPU backend: what is kept of them, and the choice between few and many rows. */
#include <string.h>

#include "backend/cpu/cpu_matrix.h"
#include "backend/cpu/panels.h"
#include "base/mem.h"

enum { PAD_COLUMNS = 32 }; /* the longest chunk of any panel */

void qs_cpu_matrix_destroy(qs_matrix *matrix)
{
    qs_cpu_matrix *self = matrix->state;
    if (self == NULL) return;
    qs_cpu *cpu = qs_cpu_of(matrix->backend);
    qs_cpu_buffer *buffers[] = {&self->weights, &self->scales, &self->zeros, &self->perm, &self->pack_data};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) qs_cpu_release(cpu, buffers[i]);
    qs_mem_free(self);
    matrix->state = NULL;
}

/* ---- how much is kept ---- */

static size_t element_bytes(qs_matrix_format format) { return format == QS_MATRIX_F32 ? 4 : 2; }

static void int_sizes(const qs_cpu *cpu, const qs_packed *packed, qs_cpu_sizes *out)
{
    bool wants_panels = cpu->kernels.gemv_int[qs_code_width(packed->bits)].wants_panels;
    qs_panels panels;
    qs_panels_shape(&panels, packed);
    size_t n_groups = wants_panels ? qs_panels_group_count(&panels) : (size_t)(packed->n_out * packed->n_groups);
    out->weights = wants_panels ? qs_panels_code_bytes(&panels) : (size_t)(packed->n_out * packed->row_bytes);
    out->scales = n_groups * sizeof *packed->scales;
    out->zeros = packed->zeros != NULL ? n_groups : 0;
    out->perm = packed->perm != NULL ? (size_t)packed->n_in * sizeof *packed->perm : 0;
}

static qs_cpu_sizes sizes_of(const qs_cpu *cpu, const qs_matrix_desc *desc, unsigned uses, qs_compute compute)
{
    qs_cpu_sizes sizes = {0};
    if (qs_cpu_is_format(desc) && desc->packed->format == QS_PACKED_EXL2)
        qs_cpu_exl2_sizes(cpu, desc->packed, uses, &sizes);
    else if (qs_cpu_is_format(desc))
        qs_cpu_format_sizes(cpu, desc->packed, uses, &sizes);
    else if ((uses & QS_USE_GEMV) != 0 && desc->format == QS_MATRIX_INT)
        int_sizes(cpu, desc->packed, &sizes);
    else if ((uses & QS_USE_GEMV) != 0)
        sizes.weights = (size_t)desc->n_out * (size_t)desc->n_in * element_bytes(desc->format);
    if ((uses & QS_USE_GEMM) != 0) sizes.pack = cpu->engine->pack_bytes(cpu->gemm, desc->n_out, desc->n_in, compute);
    return sizes;
}

qs_err qs_cpu_matrix_need(qs_need *out, const qs_backend *backend, const qs_matrix_desc *desc, unsigned uses,
                          qs_compute compute, int64_t n_rows)
{
    qs_cpu_sizes sizes = sizes_of(qs_cpu_of(backend), desc, uses, compute);
    (void)n_rows;
    out->own_bytes = sizes.weights + sizes.scales + sizes.zeros + sizes.perm + sizes.pack;
    return QS_OK;
}

static qs_err reserve(qs_cpu *cpu, qs_cpu_matrix *self, const qs_cpu_sizes *sizes)
{
    qs_err err;
    QS_TRY(qs_cpu_reserve(cpu, &self->weights, sizes->weights, "weights"));
    QS_TRY(qs_cpu_reserve(cpu, &self->scales, sizes->scales, "scales"));
    QS_TRY(qs_cpu_reserve(cpu, &self->zeros, sizes->zeros, "zero points"));
    QS_TRY(qs_cpu_reserve(cpu, &self->perm, sizes->perm, "permutation"));
    QS_TRY(qs_cpu_reserve(cpu, &self->pack_data, sizes->pack, "packed weights"));
out:
    return err;
}

/* ---- many rows: an f32 copy, block of rows by block of rows, goes into the engine's pack ---- */

typedef struct pack_job {
    const qs_cpu *cpu;
    const qs_matrix_desc *desc;
    const qs_gemm_pack *pack;
} pack_job;

static void pack_blocks(void *context, int64_t first, int64_t last, int thread)
{
    const pack_job *job = context;
    const qs_matrix_desc *desc = job->desc;
    float *scratch = (float *)job->cpu->rows.data + thread * QS_PACK_ROWS * desc->n_in;
    for (int64_t block = first; block < last; block++) {
        int64_t row = block * QS_PACK_ROWS;
        int64_t n_rows = desc->n_out - row < QS_PACK_ROWS ? desc->n_out - row : QS_PACK_ROWS;
        const float *rows = scratch;
        if (qs_cpu_is_format(desc))
            qs_cpu_format_rows(job->cpu, desc->packed, row, n_rows, scratch);
        else if (desc->format == QS_MATRIX_INT)
            job->cpu->kernels.dequant.run(desc->packed, row, n_rows, scratch);
        else if (desc->format == QS_MATRIX_F16)
            qs_f32_from_f16_array(scratch, (const uint16_t *)desc->dense + row * desc->n_in, n_rows * desc->n_in);
        else if (desc->format == QS_MATRIX_BF16)
            qs_f32_from_bf16_array(scratch, (const uint16_t *)desc->dense + row * desc->n_in, n_rows * desc->n_in);
        else
            rows = (const float *)desc->dense + row * desc->n_in;
        job->cpu->engine->pack_rows(job->cpu->gemm, job->pack, row, n_rows, rows);
    }
}

static qs_err update_pack(qs_matrix *matrix, const qs_matrix_desc *desc)
{
    qs_cpu_matrix *self = matrix->state;
    qs_cpu *cpu = qs_cpu_of(matrix->backend);
    qs_err err = QS_OK;
    size_t scratch_bytes = (size_t)matrix->backend->n_threads * QS_PACK_ROWS * (size_t)desc->n_in * sizeof(float);
    QS_TRY(qs_cpu_reserve(cpu, &cpu->rows, scratch_bytes, "rows to pack"));
    self->pack = (qs_gemm_pack){desc->n_out, desc->n_in, matrix->compute, self->pack_data.data};
    pack_job job = {cpu, desc, &self->pack};
    qs_team_run(cpu->team, (desc->n_out + QS_PACK_ROWS - 1) / QS_PACK_ROWS, 1, pack_blocks, &job);
out:
    return err;
}

/* ---- few rows: the weights in their own format ---- */

typedef struct panels_job {
    const qs_panels *panels;
    const qs_packed *packed;
} panels_job;

static void fill_panels(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const panels_job *job = context;
    qs_panels_fill(job->panels, job->packed, first, last);
}

static qs_err update_int(qs_matrix *matrix, const qs_packed *packed)
{
    qs_cpu_matrix *self = matrix->state;
    qs_cpu *cpu = qs_cpu_of(matrix->backend);
    qs_err err = QS_OK;
    int width = qs_code_width(packed->bits);
    bool panels = cpu->kernels.gemv_int[width].wants_panels;
    self->wants_panels = panels;
    qs_panels_shape(&self->panels, packed);
    self->packed = *packed;
    self->packed.codes = self->weights.data;
    self->packed.scales = self->scales.data;
    self->packed.zeros = packed->zeros == NULL ? NULL : self->zeros.data;
    self->packed.perm = packed->perm == NULL ? NULL : self->perm.data;
    if (packed->perm != NULL) memcpy(self->packed.perm, packed->perm, (size_t)packed->n_in * sizeof *packed->perm);
    if (panels) {
        self->panels.codes = self->weights.data;
        self->panels.scales = self->scales.data;
        self->panels.zeros = self->packed.zeros;
        panels_job job = {&self->panels, packed};
        qs_team_run(cpu->team, (packed->n_out + QS_PANEL_ROWS - 1) / QS_PANEL_ROWS, 4, fill_panels, &job);
    } else {
        size_t n_scales = (size_t)(packed->n_out * packed->n_groups);
        memcpy(self->packed.codes, packed->codes, (size_t)(packed->n_out * packed->row_bytes));
        memcpy(self->packed.scales, packed->scales, n_scales * sizeof *packed->scales);
        if (packed->zeros != NULL) memcpy(self->packed.zeros, packed->zeros, n_scales);
    }
    int64_t padded = (packed->n_in + PAD_COLUMNS - 1) / PAD_COLUMNS * PAD_COLUMNS;
    QS_TRY(qs_cpu_reserve(cpu, &cpu->x, (size_t)(QS_GEMV_MAX_ROWS * padded) * sizeof(float), "activations"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->x_row, (size_t)padded * sizeof(float), "activations"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->x_sums, (size_t)(QS_GEMV_MAX_ROWS * packed->n_groups) * sizeof(float),
                          "sums of activations"));
    self->run = cpu->kernels.gemv_int[width].run;
    matrix->kernel = cpu->kernels.gemv_int[width].name;
out:
    return err;
}

static void update_dense(qs_matrix *matrix, const qs_matrix_desc *desc)
{
    qs_cpu_matrix *self = matrix->state;
    const qs_gemv_kernel *kernel = &qs_cpu_of(matrix->backend)->kernels.gemv_dense[desc->format];
    memcpy(self->weights.data, desc->dense, (size_t)desc->n_out * (size_t)desc->n_in * element_bytes(desc->format));
    self->run = kernel->run;
    matrix->kernel = kernel->name;
}

qs_err qs_cpu_matrix_update(qs_matrix *matrix, const qs_matrix_desc *desc)
{
    qs_err err = QS_OK;
    qs_cpu_matrix *self = matrix->state;
    if (self == NULL) {
        QS_TRY(QS_NEW(self, 1, "matrix of the CPU backend"));
        matrix->state = self;
    }
    self->packed = (qs_packed){0};
    const qs_cpu_sizes sizes = sizes_of(qs_cpu_of(matrix->backend), desc, matrix->uses, matrix->compute);
    QS_TRY(reserve(qs_cpu_of(matrix->backend), self, &sizes));
    if (qs_cpu_is_format(desc) && desc->packed->format == QS_PACKED_EXL2)
        QS_TRY(qs_cpu_exl2_update(matrix, desc->packed));
    else if (qs_cpu_is_format(desc))
        qs_cpu_format_update(matrix, desc->packed);
    else if ((matrix->uses & QS_USE_GEMV) != 0 && desc->format == QS_MATRIX_INT)
        QS_TRY(update_int(matrix, desc->packed));
    else if ((matrix->uses & QS_USE_GEMV) != 0)
        update_dense(matrix, desc);
    if ((matrix->uses & QS_USE_GEMM) != 0) QS_TRY(update_pack(matrix, desc));
    self->format = desc->format;
    matrix->bytes =
        self->weights.bytes + self->scales.bytes + self->zeros.bytes + self->perm.bytes + self->pack_data.bytes;
out:
    return err;
}

/* ---- products ---- */

/* Stored column order; for panels the rows of x interleaved, so that a kernel reads them with one pointer, and
 * zeros up to whole chunks. */
static void arrange_x(qs_cpu *cpu, const qs_cpu_matrix *self, const float *x, qs_gemv_job *job)
{
    const int32_t *perm = self->packed.perm;
    int64_t n = job->n, n_in = job->n_in, padded = (n_in + PAD_COLUMNS - 1) / PAD_COLUMNS * PAD_COLUMNS;
    if (perm == NULL && (!self->wants_panels || (n == 1 && padded == n_in))) return;
    float *copy = cpu->x.data;
    int64_t row_step = self->wants_panels ? 1 : n_in, column_step = self->wants_panels ? n : 1;
    for (int64_t r = 0; r < n; r++)
        for (int64_t j = 0; j < n_in; j++)
            copy[r * row_step + j * column_step] = x[r * n_in + (perm == NULL ? j : perm[j])];
    if (self->wants_panels) memset(copy + n * n_in, 0, (size_t)(n * (padded - n_in)) * sizeof *copy);
    job->x = copy;
}

/* Group sums of x, which zero points need: taken from stored order before the rows are interleaved, or from x
 * itself when its order is the stored one. */
static void sum_x(qs_cpu *cpu, const qs_cpu_matrix *self, const float *x, qs_gemv_job *job)
{
    const qs_packed *packed = &self->packed;
    float *sums = cpu->x_sums.data;
    for (int64_t r = 0; r < job->n; r++) {
        const float *row = x + r * job->n_in;
        if (packed->perm != NULL) {
            float *stored = cpu->x_row.data;
            for (int64_t j = 0; j < job->n_in; j++) stored[j] = row[packed->perm[j]];
            row = stored;
        }
        cpu->kernels.sum_groups.run(row, job->n_in, packed->group_size, sums + r * packed->n_groups);
    }
    job->x_sums = sums;
}

enum { CHUNK_BYTES = 16384 }; /* weights worth a chunk of their own: about a microsecond */

typedef struct gemv_context {
    qs_gemv_run run;
    qs_gemv_job job;
} gemv_context;

static void gemv_items(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const gemv_context *c = context;
    int64_t end = last * QS_PANEL_ROWS < c->job.n_out ? last * QS_PANEL_ROWS : c->job.n_out;
    c->run(&c->job, first * QS_PANEL_ROWS, end);
}

void qs_cpu_run_gemv(qs_cpu *cpu, const qs_cpu_matrix *self, const qs_gemv_job *job)
{
    gemv_context c = {.run = self->run, .job = *job};
    int64_t n_items = (job->n_out + QS_PANEL_ROWS - 1) / QS_PANEL_ROWS;
    int64_t item_bytes = (int64_t)self->weights.bytes / n_items + 1;
    qs_team_run(cpu->team, n_items, CHUNK_BYTES / item_bytes + 1, gemv_items, &c);
}

static qs_gemv_job gemv_of(const qs_linear_job *job, const float *x, int64_t n)
{
    const qs_matrix *matrix = job->matrix;
    const qs_cpu_matrix *self = matrix->state;
    return (qs_gemv_job){.n = n, .n_out = matrix->n_out, .n_in = matrix->n_in, .x = x, .x_stride = matrix->n_in,
                         .bias = job->bias, .y = job->y, .dense = self->weights.data, .packed = &self->packed,
                         .panels = &self->panels};
}

static void arrange(qs_cpu *cpu, const qs_cpu_matrix *self, const float *x, qs_gemv_job *job)
{
    if (self->format != QS_MATRIX_INT) return;
    arrange_x(cpu, self, x, job);
    if (self->wants_panels && self->packed.zeros != NULL) sum_x(cpu, self, x, job);
}

static qs_err run_linear(qs_cpu *cpu, const qs_linear_job *job, const float *x, int64_t n)
{
    const qs_matrix *matrix = job->matrix;
    const qs_cpu_matrix *self = matrix->state;
    bool is_exl2 = self->format == QS_MATRIX_INT && self->packed.format == QS_PACKED_EXL2;
    if (self->format == QS_MATRIX_INT && self->packed.format != QS_PACKED_INT && !is_exl2)
        return qs_cpu_format_linear(cpu, job, x, n);
    if (!qs_cpu_is_few(matrix, n)) return cpu->engine->multiply(cpu->gemm, &self->pack, x, n, job->bias, job->y);
    if (is_exl2) {
        qs_cpu_exl2_few(cpu, job, x, n);
        return QS_OK;
    }
    qs_gemv_job gemv = gemv_of(job, x, n);
    arrange(cpu, self, x, &gemv);
    qs_cpu_run_gemv(cpu, self, &gemv);
    return QS_OK;
}

/* ---- several matrices in one region of the team ---- */

enum { FUSED_MAX = 8 };

typedef struct fused {
    int64_t n_parts, ends[FUSED_MAX]; /* items up to and with each part */
    gemv_context parts[FUSED_MAX];
} fused;

static void fused_items(void *context, int64_t first, int64_t last, int thread)
{
    fused *f = context;
    int64_t begin = 0;
    for (int64_t i = 0; i < f->n_parts; begin = f->ends[i++]) {
        int64_t from = first > begin ? first : begin, to = last < f->ends[i] ? last : f->ends[i];
        if (from < to) gemv_items(&f->parts[i], from - begin, to - begin, thread);
    }
}

/* Rows of x arranged for the first matrix serve them all: no permutation, the same layout, the same groups where sums
 * over them are needed. */
static bool can_fuse(const qs_linear_job *jobs, int64_t n_jobs, int64_t n)
{
    const qs_cpu_matrix *first = jobs[0].matrix->state;
    bool can = n_jobs > 1 && n_jobs <= FUSED_MAX;
    for (int64_t i = 0; can && i < n_jobs; i++) {
        const qs_cpu_matrix *self = jobs[i].matrix->state;
        can = !jobs[i].add && qs_cpu_is_few(jobs[i].matrix, n) && self->format == first->format;
        if (can && self->format == QS_MATRIX_INT)
            can = self->packed.format == QS_PACKED_INT && self->packed.perm == NULL &&
                  self->wants_panels == first->wants_panels && self->packed.group_size == first->packed.group_size &&
                  (self->packed.zeros != NULL) == (first->packed.zeros != NULL);
    }
    return can;
}

static void run_fused(qs_cpu *cpu, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    fused f = {.n_parts = n_jobs};
    qs_gemv_job shared = gemv_of(&jobs[0], x, n);
    int64_t n_items = 0, bytes = 0;
    arrange(cpu, jobs[0].matrix->state, x, &shared);
    for (int64_t i = 0; i < n_jobs; i++) {
        const qs_cpu_matrix *self = jobs[i].matrix->state;
        f.parts[i] = (gemv_context){.run = self->run, .job = gemv_of(&jobs[i], shared.x, n)};
        f.parts[i].job.x_sums = shared.x_sums;
        f.ends[i] = n_items += (jobs[i].matrix->n_out + QS_PANEL_ROWS - 1) / QS_PANEL_ROWS;
        bytes += (int64_t)self->weights.bytes;
    }
    qs_team_run(cpu->team, n_items, CHUNK_BYTES / (bytes / n_items + 1) + 1, fused_items, &f);
}

qs_err qs_cpu_linears(qs_backend *backend, const qs_linear_job *jobs, int64_t n_jobs, const float *x, int64_t n)
{
    qs_err err = QS_OK;
    qs_cpu *cpu = qs_cpu_of(backend);
    qs_cpu_format_forget(cpu);
    if (can_fuse(jobs, n_jobs, n)) {
        run_fused(cpu, jobs, n_jobs, x, n);
        return QS_OK;
    }
    for (int64_t i = 0; i < n_jobs; i++) {
        qs_linear_job job = jobs[i];
        int64_t n_values = n * job.matrix->n_out;
        if (job.add) {
            QS_TRY(qs_cpu_reserve(cpu, &cpu->addend, (size_t)n_values * sizeof(float), "products to be added"));
            job.y = cpu->addend.data;
        }
        QS_TRY(run_linear(cpu, &job, x, n));
        if (job.add) QS_TRY(qs_cpu_add(backend, jobs[i].y, job.y, n_values));
    }
out:
    return err;
}

qs_err qs_cpu_linears_with(qs_backend *backend, const qs_linear_with *with, const qs_linear_job *jobs, int64_t n_jobs,
                           const float *x, int64_t n)
{
    qs_err err = QS_OK;
    int64_t n_out = jobs[0].matrix->n_out;
    if (with->norm != NULL) {
        QS_TRY(qs_cpu_rmsnorm(backend, x, with->norm, n, jobs[0].matrix->n_in, with->norm_eps, with->normed));
        x = with->normed;
    }
    if (with->up != NULL) QS_TRY(qs_cpu_silu_mul(backend, x, with->up, n * jobs[0].matrix->n_in, with->gate));
    QS_TRY(qs_cpu_linears(backend, jobs, n_jobs, x, n));
    if (with->is_gated) QS_TRY(qs_cpu_silu_mul(backend, jobs[0].y, jobs[1].y, n * n_out, jobs[0].y));
out:
    return err;
}
