/* AWQ's searches on the GPU: the host's side of the last rows of backend/solver_ops.h. */
#include "backend/cuda/gpu.h"

#include "base/mem.h"
#include "base/minmax.h"

enum { N_CUTS = 10 }; /* 1, 0.95 ... 0.55 of a group's largest weight */

typedef struct scaling {
    const qs_scaling_job *job;
    qs_cu_scaled scaled;
    int64_t n_groups;
    float *columns, *rows;
    float *x, *errors;    /* [n_out, n_in] */
    float *product;       /* [n_out, a strip or a group of columns] */
    double *forms;        /* [2, n_out] of whole rows, cut and not */
    double *group, *best; /* [n_groups, n_out] */
    uint8_t *cuts;        /* the same */
} scaling;

static size_t cut_scaling(scaling *s, const qs_scaling_job *job, void *workspace)
{
    int64_t n_out = job->n_out, n_in = job->n_in, strip = qs_min64(QS_GPU_FORM_STRIP, n_in);
    qs_gpu_cutter c = {.at = workspace};
    *s = (scaling){.job = job, .n_groups = (n_in + job->group_size - 1) / job->group_size};
    s->columns = qs_gpu_cut(&c, n_in, sizeof *s->columns);
    s->rows = qs_gpu_cut(&c, n_out, sizeof *s->rows);
    s->x = qs_gpu_cut(&c, n_out * n_in, sizeof *s->x);
    s->errors = qs_gpu_cut(&c, n_out * n_in, sizeof *s->errors);
    s->product = qs_gpu_cut(&c, n_out * (strip > job->group_size ? strip : job->group_size), sizeof *s->product);
    s->forms = qs_gpu_cut(&c, 2 * n_out, sizeof *s->forms);
    s->group = qs_gpu_cut(&c, s->n_groups * n_out, sizeof *s->group);
    s->best = qs_gpu_cut(&c, s->n_groups * n_out, sizeof *s->best);
    s->cuts = qs_gpu_cut(&c, s->n_groups * n_out, sizeof *s->cuts);
    return c.bytes;
}

size_t qs_gpu_scaling_bytes(const qs_scaling_job *job)
{
    scaling s;
    return cut_scaling(&s, job, NULL);
}

/* s->x = every stride-th row of the matrix, scaled. */
static qs_err scale(qs_backend *backend, scaling *s, const float *columns, int64_t stride)
{
    const qs_scaling_job *job = s->job;
    qs_err err;
    s->scaled = (qs_cu_scaled){.bits = job->bits,
                               .sym = job->sym,
                               .n = (job->n_out + stride - 1) / stride,
                               .n_in = job->n_in,
                               .group_size = job->group_size,
                               .stride = stride,
                               .columns = s->columns,
                               .rows = job->rows != NULL ? s->rows : NULL};
    QS_TRY(qs_backend_upload(backend, s->columns, columns, (size_t)job->n_in * sizeof *columns));
    if (job->rows != NULL)
        QS_TRY(qs_backend_upload(backend, s->rows, job->rows, (size_t)job->n_out * sizeof *job->rows));
    err = qs_gpu_check(qs_gpu_of(backend),
                       qs_cu_awq_scale(qs_gpu_of(backend)->stream, &s->scaled, job->weights, s->x), "scale columns");
out:
    return err;
}

/* s->errors, all groups cut at `step` or each at its own. */
static qs_err find_errors(qs_backend *backend, const scaling *s, int step, const uint8_t *cuts)
{
    return qs_gpu_check(qs_gpu_of(backend),
                        qs_cu_awq_errors(qs_gpu_of(backend)->stream, &s->scaled, s->x, step, cuts, s->errors),
                        "round scaled weights");
}

static qs_err find_forms(qs_backend *backend, const scaling *s, double *forms)
{
    return qs_gpu_row_forms(backend, s->errors, s->scaled.n, s->scaled.n_in, s->job->h, s->product, forms);
}

qs_err qs_gpu_scaling_loss(qs_backend *backend, const qs_scaling_job *job, const float *columns, int64_t stride,
                           void *workspace, double *loss)
{
    scaling s;
    double *forms = NULL;
    qs_err err;
    (void)cut_scaling(&s, job, workspace);
    QS_TRY(QS_NEW(forms, job->n_out, "losses of rows"));
    QS_TRY(scale(backend, &s, columns, stride));
    QS_TRY(find_errors(backend, &s, 0, NULL));
    QS_TRY(find_forms(backend, &s, s.forms));
    QS_TRY(qs_backend_download(backend, forms, s.forms, (size_t)s.scaled.n * sizeof *forms));
    *loss = 0;
    for (int64_t i = 0; i < s.scaled.n; i++) *loss += forms[i];
out:
    qs_mem_free(forms);
    return err;
}

/* s->group = the forms of the errors within each group. */
static qs_err find_group_forms(qs_backend *backend, const scaling *s)
{
    const qs_scaling_job *job = s->job;
    int64_t n = s->scaled.n, n_in = job->n_in;
    qs_err err = QS_OK;
    for (int64_t g = 0; g < s->n_groups; g++) {
        int64_t first = g * job->group_size, width = qs_min64(job->group_size, n_in - first);
        const float *e = s->errors + first, *h = job->h + first * n_in + first;
        QS_TRY(qs_op_gemm(backend, false, false, n, width, width, 1, e, n_in, h, n_in, 0, s->product, width));
        QS_TRY(qs_gpu_check(qs_gpu_of(backend),
                            qs_cu_row_dots(qs_gpu_of(backend)->stream, s->product, width, e, n_in, n, width, false,
                                           s->group + g * n),
                            "measure groups"));
    }
out:
    return err;
}

/* Each group's cut by the loss within it, then each row's by its whole loss. */
static qs_err cut_ranges(qs_backend *backend, const scaling *s)
{
    qs_gpu *gpu = qs_gpu_of(backend);
    int64_t n = s->scaled.n;
    double *cut = s->forms, *whole = s->forms + n;
    qs_err err = QS_OK;
    for (int step = 0; step < N_CUTS; step++) {
        QS_TRY(find_errors(backend, s, step, NULL));
        QS_TRY(find_group_forms(backend, s));
        QS_TRY(qs_gpu_check(gpu, qs_cu_awq_take_less(gpu->stream, s->group, s->n_groups * n, step, s->best, s->cuts),
                            "choose cuts"));
    }
    QS_TRY(find_errors(backend, s, 0, s->cuts));
    QS_TRY(find_forms(backend, s, cut));
    QS_TRY(find_errors(backend, s, 0, NULL));
    QS_TRY(find_forms(backend, s, whole));
    err = qs_gpu_check(gpu, qs_cu_awq_cut(gpu->stream, &s->scaled, s->cuts, cut, whole, s->x), "cut ranges");
out:
    return err;
}

qs_err qs_gpu_scale_columns(qs_backend *backend, const qs_scaling_job *job, const float *columns, bool clip,
                            void *workspace, float *scaled)
{
    scaling s;
    qs_err err;
    (void)cut_scaling(&s, job, workspace);
    QS_TRY(scale(backend, &s, columns, 1));
    if (clip) QS_TRY(cut_ranges(backend, &s));
    QS_TRY(qs_backend_download(backend, scaled, s.x, (size_t)(job->n_out * job->n_in) * sizeof *scaled));
out:
    return err;
}
