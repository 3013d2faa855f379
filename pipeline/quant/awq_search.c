#include "quant/awq_search.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/minmax.h"
#include "quant/awq_tile.h"

enum {
    R = QS_TILE_ROWS,
    N_RATIOS = 20,
    N_CANDIDATES = 2 * N_RATIOS, /* identity, x^r without r = 0, x^r / w^(1-r) */
    SCREEN_ROWS = 160,           /* about as many rows of a site choose them */
    AT_ONCE = 8,                 /* candidates that a thread tries on one tile */
};

/* ---- candidates ---- */

typedef struct weighing {
    const qs_awq_site *site;
    double *mean; /* [n_in] */
} weighing;

/* Groups first .. last: the mean size of a column's weights, each in units of the largest of its group. */
static void weigh_groups(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const weighing *work = context;
    const qs_quant_task *tasks = work->site->tasks;
    int64_t n_in = tasks[0].job->n_in, size = tasks[0].spec->group_size, n_rows = 0;
    size = size > 0 ? size : n_in;
    for (int64_t m = 0; m < work->site->n; m++) n_rows += tasks[m].job->n_out;
    for (int64_t g = first; g < last; g++) {
        int64_t from = g * size, to = qs_min64(from + size, n_in);
        for (int64_t j = from; j < to; j++) work->mean[j] = 0;
        for (int64_t m = 0; m < work->site->n; m++) {
            for (int64_t r = 0; r < tasks[m].job->n_out; r++) {
                const float *w = tasks[m].job->weights + r * n_in;
                float most = 0;
                for (int64_t j = from; j < to; j++) most = fmaxf(most, fabsf(w[j]));
                double unit = 1 / ((double)most + 1e-6);
                for (int64_t j = from; j < to; j++) work->mean[j] += fabs((double)w[j]) * unit;
            }
        }
        for (int64_t j = from; j < to; j++) work->mean[j] /= (double)n_rows;
    }
}

/* Tied columns get their mean. sums: scratch [2 * n]. */
static void average_tied(const int32_t *tied, int64_t n, double *mean, double *sums)
{
    if (tied == NULL) return;
    double *counts = sums + n;
    memset(sums, 0, (size_t)(2 * n) * sizeof *sums);
    for (int64_t j = 0; j < n; j++) {
        sums[tied[j]] += mean[j];
        counts[tied[j]] += 1;
    }
    for (int64_t j = 0; j < n; j++) mean[j] = sums[tied[j]] / counts[tied[j]];
}

/* s = x^r, or x^r / w^(1-r) when w is given, around 1. */
static void fill_candidate(const double *x, const double *w, double r, int64_t n, float *s)
{
    double low = INFINITY, high = 0;
    for (int64_t j = 0; j < n; j++) {
        double value = pow(x[j], r);
        if (w != NULL) value /= pow(w[j], 1 - r) + 1e-4;
        s[j] = (float)fmax(value, 1e-4);
        low = fmin(low, s[j]);
        high = fmax(high, s[j]);
    }
    double unit = 1 / sqrt(low * high);
    for (int64_t j = 0; j < n; j++) {
        s[j] = (float)(s[j] * unit);
        if (!isfinite(s[j]) || !(s[j] > 0)) s[j] = 1;
    }
}

static int64_t fill_candidates(const qs_awq_site *site, const double *x, const double *w, float *scales)
{
    int64_t n_in = site->tasks[0].job->n_in, n = 0;
    for (int64_t j = 0; j < n_in; j++) scales[j] = 1;
    for (int r = 1; r < N_RATIOS; r++)
        fill_candidate(x, NULL, (double)r / N_RATIOS, n_in, scales + ++n * n_in);
    for (int r = 0; r < N_RATIOS && site->tasks[0].spec->weight_stats; r++)
        fill_candidate(x, w, (double)r / N_RATIOS, n_in, scales + ++n * n_in);
    return n + 1;
}

/* ---- their losses ---- */

/* Some candidates on one tile. */
typedef struct item {
    const qs_quant_task *task;
    int64_t first; /* row */
    int64_t from, to;
} item;

typedef struct rating {
    const qs_tile_ops *ops;
    const float *h, *scales;
    const int64_t *which;
    int64_t stride;
    item *items;
    double (*losses)[AT_ONCE]; /* of each item */
    const qs_awq_lane *lanes;
} rating;

static void rate_items(void *context, int64_t first, int64_t last, int thread)
{
    const rating *work = context;
    const qs_awq_lane *l = &work->lanes[thread];
    double form[R];
    for (int64_t i = first; i < last; i++) {
        const item *it = &work->items[i];
        qs_awq_rows rows = {.task = it->task, .first = it->first, .stride = work->stride};
        qs_awq_gather(&rows, l->clipped);
        for (int64_t c = it->from; c < it->to; c++) {
            double *loss = &work->losses[i][c - it->from];
            rows.columns = work->scales + work->which[c] * it->task->job->n_in;
            qs_awq_scale(&rows, l->clipped, l->x);
            qs_awq_row_losses(work->ops, &rows, work->h, l->x, l, form);
            *loss = 0;
            for (int k = 0; k < R; k++) *loss += form[k];
        }
    }
}

static void list_items(item *items, const qs_awq_site *site, int64_t n, int64_t stride)
{
    int64_t at = 0;
    for (int64_t c = 0; c < n; c += AT_ONCE)
        for (int64_t m = 0; m < site->n; m++)
            for (int64_t r = 0; r < site->tasks[m].job->n_out; r += R * stride)
                items[at++] = (item){&site->tasks[m], r, c, qs_min64(c + AT_ONCE, n)};
}

static qs_err rate_on_device(qs_workspace *workspace, const qs_awq_site *site, const float *scales,
                             const int64_t *which, int64_t n, int64_t stride, double *losses)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    qs_err err = QS_OK;
    memset(losses, 0, (size_t)n * sizeof *losses);
    for (int64_t m = 0; m < site->n; m++) {
        qs_scaling_job job;
        void *scratch;
        QS_TRY(qs_awq_device_job(&job, &scratch, workspace, &site->tasks[m]));
        for (int64_t c = 0; c < n; c++) {
            double loss;
            QS_TRY(qs_backend_solver(backend)->scaling_loss(backend, &job, scales + which[c] * job.n_in, stride,
                                                            scratch, &loss));
            losses[c] += loss;
        }
    }
out:
    return err;
}

/* losses[i] of scales + which[i] * n_in, over every stride-th row of each matrix. */
static qs_err rate(qs_workspace *workspace, const qs_awq_site *site, const float *scales,
                   const int64_t *which, int64_t n, int64_t stride, double *losses)
{
    if (qs_backend_solver(qs_workspace_backend(workspace)) != NULL)
        return rate_on_device(workspace, site, scales, which, n, stride, losses);
    int64_t n_tiles = 0;
    rating work = {.ops = qs_tile_best(), .h = site->h, .scales = scales, .which = which, .stride = stride};
    qs_awq_lane *lanes;
    char *at;
    qs_err err;
    for (int64_t m = 0; m < site->n; m++)
        n_tiles += (site->tasks[m].job->n_out + R * stride - 1) / (R * stride);
    int64_t n_items = (n + AT_ONCE - 1) / AT_ONCE * n_tiles, bytes = n_items * (int64_t)sizeof *work.losses;
    QS_TRY(qs_awq_lanes(&lanes, workspace, site->tasks[0].job->n_in));
    QS_TRY(qs_workspace_host(workspace, QS_HOST_ITEMS, bytes + n_items * (int64_t)sizeof *work.items, &at));
    work.losses = (double(*)[AT_ONCE])(void *)at;
    work.items = (item *)(void *)(at + bytes);
    work.lanes = lanes;
    list_items(work.items, site, n, stride);
    qs_team_run(qs_workspace_team(workspace), n_items, 1, rate_items, &work);
    memset(losses, 0, (size_t)n * sizeof *losses);
    for (int64_t i = 0; i < n_items; i++)
        for (int64_t c = work.items[i].from; c < work.items[i].to; c++)
            losses[c] += work.losses[i][c - work.items[i].from];
out:
    return err;
}

/* The identity, then the best others in the order of their losses. Returns how many. */
static int64_t choose_finalists(const double *losses, int64_t n, int64_t *finalists)
{
    int64_t n_finalists = 1;
    finalists[0] = 0;
    while (n_finalists < QS_AWQ_FINALISTS) {
        int64_t best = -1;
        for (int64_t c = 1; c < n; c++) {
            bool taken = false;
            for (int64_t f = 1; f < n_finalists; f++) taken |= finalists[f] == c;
            if (!taken && isfinite(losses[c]) && (best < 0 || losses[c] < losses[best])) best = c;
        }
        if (best < 0) break;
        finalists[n_finalists++] = best;
    }
    return n_finalists;
}

/* scales [n][n_in] of all candidates, in the workspace. */
static qs_err make_candidates(qs_workspace *workspace, const qs_awq_site *site, float **scales, int64_t *n)
{
    const qs_quant_job *job = site->tasks[0].job;
    int64_t n_in = job->n_in, size = site->tasks[0].spec->group_size;
    int64_t n_groups = size > 0 ? (n_in + size - 1) / size : 1;
    double *x = NULL;
    qs_err err;
    QS_TRY(QS_NEW(x, 4 * n_in, "scale search"));
    double *w = x + n_in, *sums = x + 2 * n_in;
    for (int64_t j = 0; j < n_in; j++) x[j] = job->abs_mean[j];
    weighing work = {site, w};
    qs_team_run(qs_workspace_team(workspace), n_groups, 1, weigh_groups, &work);
    average_tied(job->tied, n_in, x, sums);
    average_tied(job->tied, n_in, w, sums);
    QS_TRY(qs_workspace_host(workspace, QS_HOST_SCALES, N_CANDIDATES * n_in * (int64_t)sizeof **scales, scales));
    *n = fill_candidates(site, x, w, *scales);
out:
    qs_mem_free(x);
    return err;
}

/* The finalists, in which[*n_left]; where there are many rows some of them decide. */
static qs_err screen(qs_workspace *workspace, const qs_awq_site *site, const float *scales, int64_t n,
                     int64_t *which, int64_t *n_left)
{
    int64_t n_rows = 0;
    double losses[N_CANDIDATES];
    for (int64_t c = 0; c < n; c++) which[c] = c;
    for (int64_t m = 0; m < site->n; m++) n_rows += site->tasks[m].job->n_out;
    int64_t stride = n_rows >= 2 * SCREEN_ROWS ? n_rows / SCREEN_ROWS : 1;
    qs_err err = rate(workspace, site, scales, which, n, stride, losses);
    *n_left = choose_finalists(losses, n, which);
    return err;
}

qs_err qs_awq_find_columns(qs_workspace *workspace, const qs_awq_site *site, float *columns)
{
    int64_t n_in = site->tasks[0].job->n_in, which[N_CANDIDATES], n, best = 0;
    double losses[N_CANDIDATES];
    float *scales;
    qs_err err;
    QS_TRY(make_candidates(workspace, site, &scales, &n));
    QS_TRY(screen(workspace, site, scales, n, which, &n));
    QS_TRY(rate(workspace, site, scales, which, n, 1, losses));
    for (int64_t c = 1; c < n; c++) /* a loss that is not finite never wins */
        if (losses[c] < losses[best]) best = c;
    memcpy(columns, scales + which[best] * n_in, (size_t)n_in * sizeof *columns);
out:
    return err;
}

qs_err qs_awq_find_finalists(qs_workspace *workspace, const qs_awq_site *site, float *columns, int64_t *n)
{
    int64_t n_in = site->tasks[0].job->n_in, which[N_CANDIDATES], n_all;
    float *scales;
    qs_err err;
    QS_TRY(make_candidates(workspace, site, &scales, &n_all));
    QS_TRY(screen(workspace, site, scales, n_all, which, n));
    for (int64_t c = 0; c < *n; c++)
        memcpy(columns + c * n_in, scales + which[c] * n_in, (size_t)n_in * sizeof *columns);
out:
    return err;
}
