/* The second search of AWQ: where to cut the range of each group. */
#include "base/minmax.h"
#include "quant/awq_search.h"
#include "quant/awq_tile.h"

#include <math.h>

enum { R = QS_TILE_ROWS, N_STEPS = 20, N_CUTS = 10 };

typedef struct folding {
    const qs_tile_ops *ops;
    const qs_quant_task *task;
    const float *h;
    bool clip, round;
    float *folded;
    const qs_awq_lane *lanes;
} folding;

static void cut(const float *x, int64_t n, const float *limit, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        for (int k = 0; k < R; k++) {
            float v = x[i * R + k];
            v = v > limit[k] ? limit[k] : v;
            out[i * R + k] = v < -limit[k] ? -limit[k] : v;
        }
    }
}

/* l->clipped of columns first .. first + n. */
static void clip_group(const folding *work, const qs_awq_rows *rows, int64_t first, int64_t n,
                       const qs_awq_lane *l)
{
    const qs_spec *spec = work->task->spec;
    int64_t n_in = work->task->job->n_in;
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym};
    const float *x = l->x + first * R;
    float most[R] = {0}, limit[R], best_limit[R];
    double form[R], best[R];
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < R; k++) most[k] = fmaxf(most[k], fabsf(x[i * R + k]));
    for (int step = 0; step < N_CUTS; step++) {
        for (int k = 0; k < R; k++) limit[k] = most[k] * (1 - (float)step / N_STEPS);
        cut(x, n, limit, l->e);
        qs_awq_round(work->ops, &rule, l->e, n, l->clipped + first * R, l->codes);
        /* What was cut off is an error too: e = x - Q(cut x) = (x - cut x) + (cut x - Q(cut x)). */
        for (int64_t i = 0; i < n * R; i++) l->e[i] = x[i] - l->e[i] + l->clipped[first * R + i];
        qs_awq_unscale(rows, first, n, l->e);
        qs_awq_forms(work->ops, work->h + first * n_in + first, n_in, l->e, n, l->product, form);
        for (int k = 0; k < R; k++) {
            if (step > 0 && !(form[k] < best[k])) continue;
            best[k] = form[k];
            best_limit[k] = limit[k];
        }
    }
    cut(x, n, best_limit, l->clipped + first * R);
}

/* Losses of the rows when l->clipped is coded. */
static void clipped_losses(const folding *work, const qs_awq_rows *rows, const qs_awq_lane *l, double *form)
{
    const qs_spec *spec = work->task->spec;
    int64_t n_in = work->task->job->n_in, group = spec->group_size > 0 ? spec->group_size : n_in;
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym};
    for (int64_t g = 0; g < n_in; g += group)
        qs_awq_round(work->ops, &rule, l->clipped + g * R, qs_min64(group, n_in - g), l->e + g * R, l->codes);
    for (int64_t i = 0; i < n_in * R; i++) l->e[i] += l->x[i] - l->clipped[i];
    qs_awq_unscale(rows, 0, n_in, l->e);
    qs_awq_forms(work->ops, work->h, n_in, l->e, n_in, l->product, form);
}

/* l->x becomes l->clipped for the rows that gain by it. */
static void clip_rows(const folding *work, const qs_awq_rows *rows, const qs_awq_lane *l)
{
    int64_t n_in = work->task->job->n_in, group = work->task->spec->group_size;
    double plain[R], clipped[R];
    group = group > 0 ? group : n_in;
    for (int64_t g = 0; g < n_in; g += group) clip_group(work, rows, g, qs_min64(group, n_in - g), l);
    clipped_losses(work, rows, l, clipped);
    qs_awq_row_losses(work->ops, rows, work->h, l->x, l, plain);
    for (int64_t j = 0; j < n_in; j++)
        for (int k = 0; k < R; k++)
            if (clipped[k] < plain[k]) l->x[j * R + k] = l->clipped[j * R + k];
}

/* l->x becomes what its codes mean to inputs that are not scaled. */
static void round_rows(const folding *work, const qs_awq_rows *rows, const qs_awq_lane *l)
{
    const qs_spec *spec = work->task->spec;
    int64_t n_in = work->task->job->n_in, group = spec->group_size > 0 ? spec->group_size : n_in;
    qs_scale_rule rule = {.bits = (int)spec->bits, .sym = spec->sym};
    for (int64_t g = 0; g < n_in; g += group)
        qs_awq_round(work->ops, &rule, l->x + g * R, qs_min64(group, n_in - g), l->e + g * R, l->codes);
    for (int64_t i = 0; i < n_in * R; i++) l->x[i] -= l->e[i];
    qs_awq_unscale(rows, 0, n_in, l->x);
}

static void fold_tiles(void *context, int64_t first, int64_t last, int thread)
{
    const folding *work = context;
    const qs_quant_job *job = work->task->job;
    const qs_awq_lane *l = &work->lanes[thread];
    for (int64_t tile = first; tile < last; tile++) {
        qs_awq_rows rows = {
            .task = work->task, .columns = work->task->columns, .first = tile * R, .stride = 1};
        qs_awq_gather(&rows, l->e);
        qs_awq_scale(&rows, l->e, l->x);
        if (work->clip) clip_rows(work, &rows, l);
        if (work->round) round_rows(work, &rows, l);
        for (int64_t k = 0; k < R && rows.first + k < job->n_out; k++)
            for (int64_t j = 0; j < job->n_in; j++)
                work->folded[(rows.first + k) * job->n_in + j] = l->x[j * R + k];
    }
}

static qs_err fold(qs_workspace *workspace, folding *work)
{
    qs_awq_lane *lanes;
    qs_err err = qs_awq_lanes(&lanes, workspace, work->task->job->n_in);
    if (err != QS_OK) return err;
    work->ops = qs_tile_best();
    work->lanes = lanes;
    qs_team_run(qs_workspace_team(workspace), (work->task->job->n_out + R - 1) / R, 1, fold_tiles, work);
    return QS_OK;
}

static qs_err fold_on_device(qs_workspace *workspace, const qs_quant_task *task, bool clip, float *folded)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    qs_scaling_job job;
    void *scratch;
    qs_err err = qs_awq_device_job(&job, &scratch, workspace, task);
    if (err != QS_OK) return err;
    return qs_backend_solver(backend)->scale_columns(backend, &job, task->columns, clip, scratch, folded);
}

qs_err qs_awq_fold_weights(qs_workspace *workspace, const qs_quant_task *task, const float *h, bool clip,
                           float *folded)
{
    if (qs_backend_solver(qs_workspace_backend(workspace)) != NULL)
        return fold_on_device(workspace, task, clip, folded);
    return fold(workspace, &(folding){.task = task, .h = h, .clip = clip, .folded = folded});
}

qs_err qs_awq_round_weights(qs_workspace *workspace, const qs_quant_task *task, const float *h, bool clip,
                            float *rounded)
{
    return fold(workspace, &(folding){.task = task, .h = h, .clip = clip, .round = true, .folded = rounded});
}
