/* Quantising on the GPU: the host's side of backend/solver_ops.h. */
#include <string.h>

#include "backend/cuda/gpu.h"
#include "backend/solver_ops.h"
#include "base/mem.h"
#include "base/minmax.h"

enum { ALIGN = 256, STRIP = QS_GPU_FORM_STRIP };

void *qs_gpu_cut(qs_gpu_cutter *cutter, int64_t n, size_t size)
{
    void *part = cutter->at != NULL ? cutter->at + cutter->bytes : NULL;
    cutter->bytes += ((size_t)n * size + ALIGN - 1) / ALIGN * ALIGN;
    return part;
}

/* ---- solving ---- */

typedef struct solving {
    const qs_solve_job *job;
    int64_t n_out, n_in, width;
    qs_cu_scale_rule rule;
    float *live, *scale, *zero;
    uint8_t *codes, *packed, *zeros;
    uint16_t *scales;
    int32_t *order, *position, *group; /* position: the visit of each stored column */
    float *column_weight;
} solving;

static size_t cut_solving(solving *s, const qs_solve_job *job, void *workspace)
{
    const qs_packed *p = job->packed;
    int64_t n_in = p->n_in, width = (p->n_out + QS_CU_SOLVE_ROWS - 1) / QS_CU_SOLVE_ROWS * QS_CU_SOLVE_ROWS;
    qs_gpu_cutter c = {.at = workspace};
    *s = (solving){.job = job,
                   .n_out = p->n_out,
                   .n_in = n_in,
                   .width = width,
                   .rule = {.bits = p->bits, .sym = job->sym, .search = job->search}};
    s->live = qs_gpu_cut(&c, n_in * width, sizeof *s->live);
    s->scale = qs_gpu_cut(&c, p->n_groups * width, sizeof *s->scale);
    s->zero = qs_gpu_cut(&c, p->n_groups * width, sizeof *s->zero);
    s->codes = qs_gpu_cut(&c, n_in * width, sizeof *s->codes);
    s->packed = qs_gpu_cut(&c, p->n_out * p->row_bytes, sizeof *s->packed);
    s->scales = qs_gpu_cut(&c, p->n_out * p->n_groups, sizeof *s->scales);
    s->zeros = qs_gpu_cut(&c, p->n_out * p->n_groups, sizeof *s->zeros);
    s->order = qs_gpu_cut(&c, n_in, sizeof *s->order);
    s->position = qs_gpu_cut(&c, n_in, sizeof *s->position);
    s->group = qs_gpu_cut(&c, n_in, sizeof *s->group);
    s->column_weight = qs_gpu_cut(&c, n_in, sizeof *s->column_weight);
    return c.bytes;
}

static size_t solve_bytes(const qs_solve_job *job)
{
    solving s;
    return cut_solving(&s, job, NULL);
}

/* Order, its inverse, and the group of each visit. */
static qs_err upload_order(qs_backend *backend, solving *s)
{
    const qs_solve_job *job = s->job;
    size_t bytes = (size_t)s->n_in * sizeof(int32_t);
    int32_t *group = NULL, *position;
    qs_err err;
    QS_TRY(QS_NEW(group, 2 * s->n_in, "column order"));
    position = group + s->n_in;
    for (int64_t i = 0; i < s->n_in; i++) {
        int64_t column = job->order != NULL ? job->order[i] : i;
        group[i] = (int32_t)((job->follow_order ? i : column) / job->packed->group_size);
        position[column] = (int32_t)i;
    }
    QS_TRY(qs_backend_upload(backend, s->group, group, bytes));
    QS_TRY(qs_backend_upload(backend, s->position, position, bytes));
    if (job->order != NULL)
        QS_TRY(qs_backend_upload(backend, s->order, job->order, bytes));
    else
        s->order = NULL;
    if (job->column_weight != NULL)
        QS_TRY(qs_backend_upload(backend, s->column_weight, job->column_weight, bytes));
    else
        s->column_weight = NULL;
out:
    qs_mem_free(group);
    return err;
}

/* Groups that a panel can hold are found a scale in it, wider ones at their start. */
static bool is_narrow(const qs_solve_job *job)
{
    return !job->static_scales && job->packed->group_size <= QS_CU_PANEL;
}

/* Columns of the panel that starts at `first`. */
static int64_t panel_columns(const solving *s, int64_t first)
{
    int64_t group = s->job->packed->group_size,
            padded = (group + QS_CU_BLOCK - 1) / QS_CU_BLOCK * QS_CU_BLOCK;
    int64_t rest = s->n_in - first;
    if (is_narrow(s->job)) return qs_min64(QS_CU_PANEL / padded * group, rest);
    if (s->job->static_scales) return qs_min64(QS_CU_PANEL, rest);
    return qs_min64(qs_min64(QS_CU_PANEL, group - first % group), rest);
}

/* The scale of the wide group that begins with visit `first`, from what its columns are by now. */
static qs_err find_wide(qs_backend *backend, const solving *s, int64_t first)
{
    const qs_solve_job *job = s->job;
    int64_t group_size = job->packed->group_size, n = qs_min64(group_size, s->n_in - first);
    int64_t column = job->follow_order || job->order == NULL ? first : job->order[first];
    int64_t at = column / group_size * s->width;
    return qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_solve_scales(qs_gpu_of(backend)->stream, &s->rule, s->live + first * s->width,
                                           NULL, s->width, n, n,
                                           s->column_weight != NULL ? s->column_weight + first : NULL,
                                           s->scale + at, s->zero + at),
                        "find scales");
}

/* Columns first .. first + n; without a factor in panels of n_panel. */
static qs_err solve_columns(qs_backend *backend, const solving *s, int64_t first, int64_t n, int64_t n_panel)
{
    qs_cu_panel panel = {
        .rule = s->rule,
        .n_panel = (int)n_panel,
        .group_size = is_narrow(s->job) ? (int)s->job->packed->group_size : 0,
        .n = n,
        .width = s->width,
        .live = s->live + first * s->width,
        .u = s->job->u != NULL ? s->job->u + first * s->n_in + first : NULL,
        .ldu = s->n_in,
        .column_weight = s->column_weight != NULL ? s->column_weight + first : NULL,
        .group = s->group + first,
        .scale = s->scale,
        .zero = s->zero,
        .codes = s->codes + first * s->width,
    };
    return qs_gpu_check(qs_gpu_of(backend), qs_cu_solve_panels(qs_gpu_of(backend)->stream, &panel),
                        "solve columns");
}

/* Round to nearest: panels do not meet, so all are solved at once. */
static qs_err round_columns(qs_backend *backend, const solving *s)
{
    int64_t group = s->job->packed->group_size;
    qs_err err = QS_OK;
    for (int64_t first = 0; !s->job->static_scales && !is_narrow(s->job) && first < s->n_in; first += group)
        QS_TRY(find_wide(backend, s, first));
    QS_TRY(solve_columns(backend, s, 0, s->n_in, is_narrow(s->job) ? panel_columns(s, 0) : QS_CU_PANEL));
out:
    return err;
}

static qs_err compensate_columns(qs_backend *backend, const solving *s)
{
    bool wide = !s->job->static_scales && !is_narrow(s->job);
    int64_t width = s->width, n_in = s->n_in;
    qs_err err = QS_OK;
    for (int64_t first = 0, n; first < n_in; first += n) {
        n = panel_columns(s, first);
        if (wide && first % s->job->packed->group_size == 0) QS_TRY(find_wide(backend, s, first));
        QS_TRY(solve_columns(backend, s, first, n, n));
        int64_t next = first + n;
        if (next < n_in)
            QS_TRY(qs_op_gemm(backend, true, false, n_in - next, width, n, -1,
                              s->job->u + first * n_in + next, n_in, s->live + first * width, width, 1,
                              s->live + next * width, width));
    }
out:
    return err;
}

/* Packs the codes and brings the result to the host. */
static qs_err take_packed(qs_backend *backend, const solving *s)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    qs_packed *p = s->job->packed;
    size_t n_scales = (size_t)(p->n_out * p->n_groups);
    qs_err err;
    QS_TRY(qs_gpu_check(gpu,
                        qs_cu_solve_pack(gpu->stream, s->codes, s->job->follow_order ? NULL : s->position,
                                         p->n_out, p->n_in, s->width, p->bits, p->row_bytes, s->packed),
                        "pack codes"));
    QS_TRY(qs_gpu_check(gpu,
                        qs_cu_solve_store_scales(gpu->stream, s->scale, s->zero, p->n_out, p->n_groups,
                                                 s->width, s->scales, p->zeros != NULL ? s->zeros : NULL),
                        "pack scales"));
    QS_TRY(qs_backend_download(backend, p->codes, s->packed, (size_t)(p->n_out * p->row_bytes)));
    QS_TRY(qs_backend_download(backend, p->scales, s->scales, n_scales * sizeof *p->scales));
    if (p->zeros != NULL) QS_TRY(qs_backend_download(backend, p->zeros, s->zeros, n_scales));
out:
    return err;
}

static qs_err solve(qs_backend *backend, const qs_solve_job *job, void *workspace)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    solving s;
    qs_err err;
    (void)cut_solving(&s, job, workspace);
    QS_TRY(upload_order(backend, &s));
    QS_TRY(qs_gpu_check(gpu, qs_cu_solve_gather(gpu->stream, job->weights, s.n_out, s.n_in, s.order, s.width, s.live),
                        "lay out weights"));
    if (job->static_scales)
        QS_TRY(qs_gpu_check(gpu,
                            qs_cu_solve_scales(gpu->stream, &s.rule, s.live, s.position, s.width, s.n_in,
                                               job->packed->group_size, s.column_weight, s.scale, s.zero),
                            "find scales"));
    QS_TRY(job->u != NULL ? compensate_columns(backend, &s) : round_columns(backend, &s));
    QS_TRY(take_packed(backend, &s));
out:
    return err;
}

/* ---- loss ---- */

typedef struct measuring {
    float *errors, *product;
    double *squares, *form; /* of each row */
    uint8_t *codes, *zeros;
    uint16_t *scales;
    int32_t *perm;
    float *columns, *rows;
} measuring;

static size_t cut_measuring(measuring *m, const qs_loss_job *job, void *workspace)
{
    const qs_packed *p = job->packed;
    qs_gpu_cutter c = {.at = workspace};
    *m = (measuring){0};
    m->squares = qs_gpu_cut(&c, 2 * job->n_out, sizeof *m->squares);
    m->form = m->squares != NULL ? m->squares + job->n_out : NULL;
    if (job->h != NULL) m->product = qs_gpu_cut(&c, job->n_out * qs_min64(STRIP, job->n_in), sizeof *m->product);
    if (p == NULL) return c.bytes;
    m->errors = qs_gpu_cut(&c, job->n_out * job->n_in, sizeof *m->errors);
    m->codes = qs_gpu_cut(&c, p->n_out * p->row_bytes, sizeof *m->codes);
    m->scales = qs_gpu_cut(&c, p->n_out * p->n_groups, sizeof *m->scales);
    if (p->zeros != NULL) m->zeros = qs_gpu_cut(&c, p->n_out * p->n_groups, sizeof *m->zeros);
    if (p->perm != NULL) m->perm = qs_gpu_cut(&c, p->n_in, sizeof *m->perm);
    if (job->columns != NULL) m->columns = qs_gpu_cut(&c, job->n_in, sizeof *m->columns);
    if (job->rows != NULL) m->rows = qs_gpu_cut(&c, job->n_out, sizeof *m->rows);
    return c.bytes;
}

static size_t loss_bytes(const qs_loss_job *job)
{
    measuring m;
    return cut_measuring(&m, job, NULL);
}

/* m->errors = W - Q. */
static qs_err fill_errors(qs_backend *backend, const qs_loss_job *job, const measuring *m)
{
    const qs_packed *p = job->packed;
    size_t n_scales = (size_t)(p->n_out * p->n_groups);
    qs_cu_packed device = {.bits = p->bits,
                           .n_out = p->n_out,
                           .n_in = p->n_in,
                           .group_size = p->group_size,
                           .n_groups = p->n_groups,
                           .row_bytes = p->row_bytes,
                           .codes = m->codes,
                           .scales = m->scales,
                           .zeros = m->zeros,
                           .perm = m->perm,
                           .columns = m->columns,
                           .rows = m->rows};
    qs_err err;
    QS_TRY(qs_backend_upload(backend, m->codes, p->codes, (size_t)(p->n_out * p->row_bytes)));
    QS_TRY(qs_backend_upload(backend, m->scales, p->scales, n_scales * sizeof *p->scales));
    if (p->zeros != NULL) QS_TRY(qs_backend_upload(backend, m->zeros, p->zeros, n_scales));
    if (p->perm != NULL)
        QS_TRY(qs_backend_upload(backend, m->perm, p->perm, (size_t)p->n_in * sizeof *p->perm));
    if (job->columns != NULL)
        QS_TRY(qs_backend_upload(backend, m->columns, job->columns, (size_t)job->n_in * sizeof *m->columns));
    if (job->rows != NULL) QS_TRY(qs_backend_upload(backend, m->rows, job->rows, (size_t)job->n_out * sizeof *m->rows));
    QS_TRY(qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_quant_errors(qs_gpu_of(backend)->stream, job->weights, &device, m->errors),
                        "compare weights"));
out:
    return err;
}

/* Strip by strip of columns. H is symmetric: what is left of the diagonal block counts twice. */
qs_err qs_gpu_row_forms(qs_backend *backend, const float *e, int64_t n_rows, int64_t n, const float *h, float *product,
                        double *forms)
{
    qs_err err = QS_OK;
    for (int64_t first = 0; first < n; first += STRIP) {
        int64_t width = qs_min64(STRIP, n - first);
        const float *strip = h + first;
        if (first > 0)
            QS_TRY(qs_op_gemm(backend, false, false, n_rows, width, first, 2, e, n, strip, n, 0, product, width));
        QS_TRY(qs_op_gemm(backend, false, false, n_rows, width, width, 1, e + first, n, strip + first * n, n,
                          first > 0 ? 1 : 0, product, width));
        QS_TRY(qs_gpu_check(qs_gpu_of(backend),
                            qs_cu_row_dots(qs_gpu_of(backend)->stream, product, width, e + first, n, n_rows, width,
                                           first > 0, forms),
                            "measure errors"));
    }
out:
    return err;
}

static qs_err loss(qs_backend *backend, const qs_loss_job *job, void *workspace, double *squares,
                   double *form)
{
    measuring m;
    const float *e = job->weights;
    double *rows = NULL;
    qs_err err;
    (void)cut_measuring(&m, job, workspace);
    QS_TRY(QS_NEW(rows, 2 * job->n_out, "errors of rows"));
    if (job->packed != NULL) {
        QS_TRY(fill_errors(backend, job, &m));
        e = m.errors;
    }
    QS_TRY(qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_row_dots(qs_gpu_of(backend)->stream, e, job->n_in, e, job->n_in, job->n_out,
                                       job->n_in, false, m.squares),
                        "measure errors"));
    if (job->h != NULL)
        QS_TRY(qs_gpu_row_forms(backend, e, job->n_out, job->n_in, job->h, m.product, m.form));
    QS_TRY(qs_backend_download(backend, rows, m.squares,
                               (size_t)((job->h != NULL ? 2 : 1) * job->n_out) * sizeof *rows));
    *squares = *form = 0;
    for (int64_t i = 0; i < job->n_out; i++) {
        *squares += rows[i];
        *form += rows[job->n_out + i];
    }
out:
    qs_mem_free(rows);
    return err;
}

/* ---- second moments ---- */

static qs_err unpack_moments(qs_backend *backend, const float *packed, int64_t n, float factor, float *h)
{
    return qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_unpack_moments(qs_gpu_of(backend)->stream, packed, n, factor, h),
                        "unpack second moments");
}

static qs_err order_moments(qs_backend *backend, const float *h, const int32_t *order, int64_t n,
                            double shift, double dead, float *a, float *u)
{
    return qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_order_moments(qs_gpu_of(backend)->stream, h, order, n, shift, dead, a, u),
                        "order second moments");
}

static qs_err factor_leaf(qs_backend *backend, const float *a, float *u, int64_t ld, int64_t n,
                          int32_t *status)
{
    return qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_factor_leaf(qs_gpu_of(backend)->stream, a, u, ld, n, status),
                        "factor second moments");
}

static qs_err check_factor(qs_backend *backend, const float *u, int64_t n, int32_t *status)
{
    return qs_gpu_check(qs_gpu_of(backend), qs_cu_check_factor(qs_gpu_of(backend)->stream, u, n, status),
                        "check factor");
}

const qs_solver_ops qs_gpu_solver = {
    .solve_bytes = solve_bytes,
    .solve = solve,
    .loss_bytes = loss_bytes,
    .loss = loss,
    .scaling_bytes = qs_gpu_scaling_bytes,
    .scaling_loss = qs_gpu_scaling_loss,
    .scale_columns = qs_gpu_scale_columns,
    .unpack_moments = unpack_moments,
    .order_moments = order_moments,
    .factor_leaf = factor_leaf,
    .check_factor = check_factor,
};
