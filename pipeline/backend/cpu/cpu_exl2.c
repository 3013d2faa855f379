/* EXL2 on the CPU, few rows: the groups of a width become panels as those of integers are (kernels.h), so that
 * the same kernels multiply them, one segment after the other. A row's scales are f16 numbers whatever four
 * bits they were stored in. Codes of 5 and 6 bits lie in panels of 3 and 4 bits and others of 2. The weights'
 * own rounding to f16 (packed.h) is left out, as in the runtime's kernels for few rows: at most 2^-12 of a
 * weight. What does not fit panels goes to the plain kernel. */
#include <string.h>

#include "backend/cpu/cpu_matrix.h"
#include "backend/cpu/panels.h"
#include "base/dtype.h"

enum { LOW_BITS = 2, LOW_STEPS = 1 << LOW_BITS };
static const float scale_split_max = 65504.0f / LOW_STEPS; /* four times that is the largest f16 */

static bool is_split(int bits) { return bits == 5 || bits == 6; }

static int part_bits(int bits, qs_cpu_part part)
{
    return part == QS_PART_WHOLE ? bits : part == QS_PART_LOW ? LOW_BITS : bits - LOW_BITS;
}

static int64_t group_columns(const qs_packed *packed, int64_t group)
{
    return qs_packed_group_end(packed, group) - packed->groups[group].first;
}

/* Appends the segment of groups [g, last); false when there are too many. */
static bool add_segment(const qs_packed *packed, qs_cpu_segment *segments, int *n, int64_t g, int64_t last,
                        qs_cpu_part part)
{
    qs_packed own = {.bits = part_bits(packed->groups[g].bits, part),
                     .n_out = packed->n_out,
                     .n_in = qs_packed_group_end(packed, last - 1) - packed->groups[g].first,
                     .group_size = group_columns(packed, g),
                     .n_groups = last - g};
    if (*n == QS_CPU_SEGMENTS_MAX) return false;
    segments[*n] = (qs_cpu_segment){.first = packed->groups[g].first, .group = g, .part = part};
    qs_panels_shape(&segments[(*n)++].panels, &own);
    return true;
}

/* Number of segments, or 0 when there are too many, or scales that cannot be multiplied by four; scales that are not
 * there can. */
static int find_segments(const qs_packed *packed, qs_cpu_segment *segments)
{
    int n = 0;
    for (int64_t g = 0; packed->scale_max != NULL && g < packed->n_groups; g++)
        if (is_split(packed->groups[g].bits) && qs_exl2_scale(packed->scale_max[g], 15) > scale_split_max) return 0;
    for (int64_t g = 0, last; g < packed->n_groups; g = last) {
        int64_t size = group_columns(packed, g);
        for (last = g + 1; last < packed->n_groups && packed->groups[last].bits == packed->groups[g].bits; last++) {
            if (group_columns(packed, last - 1) != size || group_columns(packed, last) > size) break;
        }
        bool split = is_split(packed->groups[g].bits);
        if (!add_segment(packed, segments, &n, g, last, split ? QS_PART_HIGH : QS_PART_WHOLE)) return 0;
        if (split && !add_segment(packed, segments, &n, g, last, QS_PART_LOW)) return 0;
    }
    return n;
}

typedef struct filling {
    const qs_packed *packed;
    const qs_cpu_matrix *self;
    uint8_t *codes; /* [n_threads, 2, n_in]: of a row, and the part of a segment */
} filling;

static void fill_segment(const filling *work, const qs_cpu_segment *segment, int64_t row, const uint8_t *codes,
                         uint8_t *part)
{
    const qs_packed *packed = work->packed;
    const qs_panels *panels = &segment->panels;
    const float times = segment->part == QS_PART_HIGH ? LOW_STEPS : 1;
    if (segment->part != QS_PART_WHOLE) {
        for (int64_t j = 0; j < panels->n_in; j++)
            part[j] = (uint8_t)(segment->part == QS_PART_LOW ? codes[j] % LOW_STEPS : codes[j] / LOW_STEPS);
        codes = part;
    }
    qs_panels_fill_row(panels, row, codes);
    for (int64_t g = 0; g < panels->n_groups; g++) {
        int64_t from = segment->group + g;
        float scale = qs_exl2_scale(packed->scale_max[from], packed->scale_codes[row * packed->n_groups + from]);
        panels->scales[(row / QS_PANEL_ROWS * panels->n_groups + g) * QS_PANEL_ROWS + row % QS_PANEL_ROWS] =
            qs_f16_from_f32(scale * times);
    }
}

static void fill_rows(void *context, int64_t first, int64_t last, int thread)
{
    const filling *work = context;
    int64_t n_in = work->packed->n_in;
    uint8_t *codes = work->codes + thread * 2 * n_in;
    for (int64_t row = first; row < last; row++) {
        qs_packed_get_row(work->packed, row, codes);
        for (int s = 0; s < work->self->n_segments; s++)
            fill_segment(work, &work->self->segments[s], row, codes + work->self->segments[s].first, codes + n_in);
    }
}

static void segment_sizes(const qs_cpu_segment *segments, int n_segments, qs_cpu_sizes *out)
{
    for (int s = 0; s < n_segments; s++) {
        size_t n_groups = qs_panels_group_count(&segments[s].panels);
        out->weights += qs_panels_code_bytes(&segments[s].panels);
        out->scales += n_groups * sizeof(uint16_t);
        if (segments[s].part == QS_PART_LOW && n_groups > out->zeros) out->zeros = n_groups; /* the same for all */
    }
}

static size_t group_bytes(const qs_packed *packed) { return (size_t)packed->n_groups * sizeof *packed->groups; }

void qs_cpu_exl2_sizes(const qs_cpu *cpu, const qs_packed *packed, unsigned uses, qs_cpu_sizes *out)
{
    qs_cpu_segment segments[QS_CPU_SEGMENTS_MAX];
    bool wants_panels = cpu->kernels.gemv_format[QS_PACKED_EXL2].wants_panels;
    if ((uses & QS_USE_GEMV) == 0) return;
    int n_segments = wants_panels ? find_segments(packed, segments) : 0;
    out->perm = (size_t)packed->n_in * sizeof *packed->perm;
    if (n_segments > 0) {
        segment_sizes(segments, n_segments, out);
        return;
    }
    out->weights = (size_t)(packed->n_out * packed->row_bytes);
    out->zeros = (size_t)(packed->n_out * packed->n_groups);
    out->scales = group_bytes(packed) + (size_t)packed->n_groups * sizeof *packed->scale_max;
}

static qs_err update_segments(qs_cpu *cpu, qs_cpu_matrix *self, const qs_packed *packed)
{
    qs_cpu_sizes sizes = {0};
    int64_t n_sums = 0;
    qs_err err;
    segment_sizes(self->segments, self->n_segments, &sizes);
    for (int s = 0; s < self->n_segments; s++) {
        qs_cpu_segment *segment = &self->segments[s];
        if (segment->part != QS_PART_LOW) continue;
        segment->sums = n_sums;
        n_sums += QS_GEMV_MAX_ROWS * segment->panels.n_groups;
    }
    filling work = {.packed = packed, .self = self};
    QS_TRY(qs_cpu_reserve(cpu, &cpu->unpacked, (size_t)(qs_team_n_threads(cpu->team) * 2 * packed->n_in),
                          "unpacked codes"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->x_sums, (size_t)n_sums * sizeof(float), "sums of activations"));
    QS_TRY(qs_cpu_reserve(cpu, &cpu->part, (size_t)(QS_GEMV_MAX_ROWS * packed->n_out) * sizeof(float), "partial sums"));
    work.codes = cpu->unpacked.data;
    memset(self->weights.data, 0, sizes.weights); /* rows behind n_out */
    memset(self->scales.data, 0, sizes.scales);
    if (sizes.zeros > 0) memset(self->zeros.data, 0, sizes.zeros);
    uint32_t *codes = self->weights.data;
    uint16_t *scales = self->scales.data;
    for (int s = 0; s < self->n_segments; s++) {
        qs_panels *panels = &self->segments[s].panels;
        panels->codes = codes;
        panels->scales = scales;
        panels->zeros = self->segments[s].part == QS_PART_LOW ? self->zeros.data : NULL;
        codes += qs_panels_code_bytes(panels) / sizeof *codes;
        scales += qs_panels_group_count(panels);
    }
    qs_team_run(cpu->team, packed->n_out, 16, fill_rows, &work);
out:
    return err;
}

/* The plain kernel's view: everything as it is, groups and their scales in one buffer. */
static void update_plain(qs_cpu_matrix *self, const qs_packed *packed)
{
    self->packed.codes = self->weights.data;
    self->packed.scale_codes = self->zeros.data;
    self->packed.groups = self->scales.data;
    self->packed.scale_max = (uint16_t *)(void *)(self->packed.groups + packed->n_groups);
    memcpy(self->packed.codes, packed->codes, (size_t)(packed->n_out * packed->row_bytes));
    memcpy(self->packed.scale_codes, packed->scale_codes, (size_t)(packed->n_out * packed->n_groups));
    memcpy(self->packed.groups, packed->groups, group_bytes(packed));
    memcpy(self->packed.scale_max, packed->scale_max, (size_t)packed->n_groups * sizeof *packed->scale_max);
}

qs_err qs_cpu_exl2_update(qs_matrix *matrix, const qs_packed *packed)
{
    qs_cpu_matrix *self = matrix->state;
    qs_cpu *cpu = qs_cpu_of(matrix->backend);
    const qs_gemv_kernel *kernel = &cpu->kernels.gemv_format[QS_PACKED_EXL2];
    qs_err err = QS_OK;
    self->packed = (qs_packed){.format = QS_PACKED_EXL2, .n_out = packed->n_out, .n_in = packed->n_in,
                               .n_groups = packed->n_groups, .row_bytes = packed->row_bytes};
    self->n_segments = 0;
    if ((matrix->uses & QS_USE_GEMV) == 0) goto out;
    if (kernel->wants_panels) self->n_segments = find_segments(packed, self->segments);
    memcpy(self->perm.data, packed->perm, (size_t)packed->n_in * sizeof *packed->perm);
    self->packed.perm = self->perm.data;
    QS_TRY(qs_cpu_reserve(cpu, &cpu->x, (size_t)(QS_GEMV_MAX_ROWS * packed->n_in) * sizeof(float), "activations"));
    if (self->n_segments > 0) {
        matrix->kernel = kernel->name;
        QS_TRY(update_segments(cpu, self, packed));
    } else {
        self->run = qs_ref_gemv_exl2;
        matrix->kernel = "gemv_exl2_reference";
        update_plain(self, packed);
    }
out:
    return err;
}

typedef struct multiplying {
    const qs_cpu *cpu;
    const qs_cpu_matrix *self;
    qs_gemv_job job;
} multiplying;

/* Rows of whole panels: y of the first segment, and what each further one adds. */
static void multiply_panels(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const multiplying *work = context;
    int64_t begin = first * QS_PANEL_ROWS, n_out = work->job.n_out;
    int64_t end = last * QS_PANEL_ROWS < n_out ? last * QS_PANEL_ROWS : n_out;
    for (int s = 0; s < work->self->n_segments; s++) {
        const qs_cpu_segment *segment = &work->self->segments[s];
        qs_gemv_job part = work->job;
        part.n_in = segment->panels.n_in;
        part.x += segment->first * part.n;
        part.panels = &segment->panels;
        part.x_sums = (const float *)work->cpu->x_sums.data + segment->sums;
        if (s > 0) {
            part.bias = NULL;
            part.y = work->cpu->part.data;
        }
        work->cpu->kernels.gemv_int[qs_code_width(segment->panels.bits)].run(&part, begin, end);
        for (int64_t r = 0; s > 0 && r < part.n; r++)
            for (int64_t o = begin; o < end; o++) work->job.y[r * n_out + o] += part.y[r * n_out + o];
    }
}

/* Sums of x [n_in, n] over the groups whose low bits stand around no middle. */
static void sum_groups(const qs_cpu *cpu, const qs_cpu_matrix *self, const float *x, int64_t n)
{
    for (int s = 0; s < self->n_segments; s++) {
        const qs_cpu_segment *segment = &self->segments[s];
        const qs_panels *panels = &segment->panels;
        float *sums = (float *)cpu->x_sums.data + segment->sums;
        if (segment->part != QS_PART_LOW) continue;
        memset(sums, 0, (size_t)(n * panels->n_groups) * sizeof *sums);
        for (int64_t j = 0; j < panels->n_in; j++)
            for (int64_t r = 0; r < n; r++)
                sums[r * panels->n_groups + j / panels->group_size] += x[(segment->first + j) * n + r];
    }
}

void qs_cpu_exl2_few(qs_cpu *cpu, const qs_linear_job *job, const float *x, int64_t n)
{
    enum { CHUNK_BYTES = 16384 }; /* weights worth a chunk of their own: about a microsecond */
    const qs_cpu_matrix *self = job->matrix->state;
    const qs_packed *packed = &self->packed;
    bool panels = self->n_segments > 0;
    float *stored = cpu->x.data;
    int64_t n_in = packed->n_in, row_step = panels ? 1 : n_in, column_step = panels ? n : 1;
    for (int64_t r = 0; r < n; r++)
        for (int64_t j = 0; j < n_in; j++) stored[r * row_step + j * column_step] = x[r * n_in + packed->perm[j]];
    multiplying work = {.cpu = cpu, .self = self,
                        .job = {.n = n, .n_out = packed->n_out, .n_in = n_in, .x = stored, .x_stride = n_in,
                                .bias = job->bias, .y = job->y, .packed = packed}};
    if (!panels) {
        qs_cpu_run_gemv(cpu, self, &work.job);
        return;
    }
    sum_groups(cpu, self, stored, n);
    int64_t n_items = (packed->n_out + QS_PANEL_ROWS - 1) / QS_PANEL_ROWS;
    qs_team_run(cpu->team, n_items, CHUNK_BYTES / ((int64_t)self->weights.bytes / n_items + 1) + 1, multiply_panels,
                &work);
}
