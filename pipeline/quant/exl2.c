/* EXL2 (ExLlamaV2): GPTQ with groups of several widths along falling diag(H), and scales of a group that are sixteen
 * squares times one number for all rows (backend/packed.h).
 *
 * That number ties the rows of a group together, so a group is the step of this solver: all tiles of all tasks bring
 * its columns up to date; each rates the candidates for the number on its rows; the best one is chosen over the sums;
 * all tiles code. Candidates are the scale that gives the widest row's largest weight the top code, and multiples of
 * that by min-max; with each, every row has the best of its codes. Errors are squared and weighted by the damped
 * diagonal of H, as GPTQ's are (quant/scale.h). A weight's own rounding to f16 is not fed back: it is 2^-12 of the
 * weight at most. */
#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "quant/methods.h"
#include "quant/mix.h"
#include "quant/order.h"
#include "quant/tile.h"

enum {
    R = QS_TILE_ROWS,
    BLOCK = 16,       /* columns whose errors meet directly */
    N_CANDIDATES = 8, /* of the group's number: the exact one and seven multiples */
    N_LEVELS = 6,     /* codes of a row's scale that are tried with each, downwards from the first that min-max needs */
};
static const double batch_bytes_max = 512e6;                /* of matrices on their way */
static const float candidate_first = 1.06f, candidate_ratio = 0.93f;
static const float scale_high = 1.12f, scale_low = 0.4f; /* what a row may get, of its min-max scale */
static const float scale_max_min = 0x1p-16f;                /* a 256th of it is the smallest f16 */

/* A task on its way through its groups. */
typedef struct progress {
    const qs_quant_task *task;
    qs_packed *packed;
    const float *u, *column_weight; /* in the order of visits */
    const int32_t *order;
    int64_t n_tiles, group;
    float *x;        /* [n_tiles, n_in, 64] */
    uint8_t *codes;  /* [n_tiles, n_in, 64] */
    float *range;    /* [n_tiles, 64] largest magnitude of the group in each row */
    double *sums;    /* [n_tiles, N_CANDIDATES] */
    float widest;    /* of these */
    uint16_t chosen; /* scale_max of the group */
} progress;

typedef struct item {
    progress *of;
    int64_t tile;
} item;

typedef struct step {
    const qs_tile_ops *ops;
    const item *items;
    uint8_t *rows; /* [n_threads, widest n_in] */
    int64_t row_bytes;
} step;

static int group_bits(const progress *p) { return p->packed->groups[p->group].bits; }

/* Of min-max, with the range on both sides of 0. */
static float min_max_scale(const progress *p, float range) { return range * 2.0f / (float)((1 << group_bits(p)) - 1); }

static uint16_t candidate(const progress *p, int index)
{
    float scale = p->widest / (float)((1 << (group_bits(p) - 1)) - 1);
    if (index > 0) {
        scale = min_max_scale(p, p->widest) * candidate_first;
        for (; index > 1; index--) scale *= candidate_ratio;
    }
    scale = scale > scale_max_min ? scale : scale_max_min;
    return qs_f16_from_f32(scale < QS_SCALE_MAX ? scale : QS_SCALE_MAX);
}

/* ---- what all tiles do ---- */

static void fill_tiles(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const step *work = context;
    for (int64_t i = first; i < last; i++) {
        const progress *p = work->items[i].of;
        int64_t n_in = p->packed->n_in, tile = work->items[i].tile;
        qs_tile_gather(p->task->job->weights, p->packed->n_out, n_in, tile, p->order, 0, n_in, p->x + tile * n_in * R,
                       R);
    }
}

/* The group's columns take up the errors of those before them. */
static void update_tiles(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const step *work = context;
    for (int64_t i = first; i < last; i++) {
        const progress *p = work->items[i].of;
        int64_t n_in = p->packed->n_in, a = p->packed->groups[p->group].first;
        int64_t n = qs_packed_group_end(p->packed, p->group) - a;
        float *x = p->x + work->items[i].tile * n_in * R, *range = p->range + work->items[i].tile * R;
        if (p->u != NULL && a > 0) work->ops->update(x + a * R, n, x, a, p->u + a, n_in);
        memset(range, 0, R * sizeof *range);
        for (int64_t j = a * R; j < (a + n) * R; j += R)
            for (int64_t r = 0; r < R; r++) range[r] = fmaxf(range[r], fabsf(x[j + r]));
    }
}

/* The best codes of a tile's rows for a scale_max, with the sum of their errors. */
static double choose_levels(const qs_tile_ops *ops, const progress *p, int64_t tile, uint16_t scale_max, float *scale,
                            uint8_t *level)
{
    int64_t a = p->packed->groups[p->group].first, n = qs_packed_group_end(p->packed, p->group) - a;
    const float *x = p->x + (tile * p->packed->n_in + a) * R, *range = p->range + tile * R;
    float levels[16], best[R], tried[R], error[R];
    int high[R];
    for (int l = 0; l < 16; l++) levels[l] = qs_exl2_scale(scale_max, l);
    for (int64_t r = 0; r < R; r++) {
        for (high[r] = 0; high[r] < 15 && levels[high[r]] < scale_high * min_max_scale(p, range[r]);) high[r]++;
        best[r] = INFINITY;
    }
    for (int down = 0; down < N_LEVELS; down++) {
        for (int64_t r = 0; r < R; r++) tried[r] = levels[high[r] > down ? high[r] - down : 0];
        ops->errors(x, n, p->column_weight != NULL ? p->column_weight + a : NULL, group_bits(p), tried, error);
        for (int64_t r = 0; r < R; r++) {
            bool allowed = down == 0 || (high[r] >= down && tried[r] > scale_low * min_max_scale(p, range[r]));
            if (!allowed || !(error[r] < best[r])) continue;
            best[r] = error[r];
            scale[r] = tried[r];
            level[r] = (uint8_t)(high[r] - down);
        }
    }
    double sum = 0;
    for (int64_t r = 0; r < R; r++) sum += (double)best[r];
    return sum;
}

static void rate_tiles(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const step *work = context;
    float scale[R] = {0};
    uint8_t level[R] = {0};
    for (int64_t i = first; i < last; i++) {
        const progress *p = work->items[i].of;
        for (int c = 0; c < N_CANDIDATES; c++)
            p->sums[work->items[i].tile * N_CANDIDATES + c] =
                choose_levels(work->ops, p, work->items[i].tile, candidate(p, c), scale, level);
    }
}

static void code_tile(const qs_tile_ops *ops, const progress *p, int64_t tile)
{
    const qs_packed *packed = p->packed;
    int64_t n_in = packed->n_in, a = packed->groups[p->group].first, end = qs_packed_group_end(packed, p->group);
    float *x = p->x + tile * n_in * R, scale[R] = {0}, zero[R];
    uint8_t *codes = p->codes + tile * n_in * R, level[R] = {0};
    (void)choose_levels(ops, p, tile, p->chosen, scale, level);
    for (int64_t r = 0; r < R; r++) {
        zero[r] = (float)(1 << (group_bits(p) - 1));
        if (tile * R + r < packed->n_out) packed->scale_codes[(tile * R + r) * packed->n_groups + p->group] = level[r];
    }
    for (int64_t b = a, stop; b < end; b = stop) {
        stop = b + BLOCK < end ? b + BLOCK : end;
        if (p->u != NULL && b > a) ops->update(x + b * R, stop - b, x + a * R, b - a, p->u + a * n_in + b, n_in);
        ops->code(x + b * R, stop - b, group_bits(p), scale, zero, NULL, p->u != NULL ? p->u + b * n_in + b : NULL,
                  n_in, codes + b * R);
    }
}

/* Codes, and rows once they are complete. */
static void code_tiles(void *context, int64_t first, int64_t last, int thread)
{
    const step *work = context;
    uint8_t *row = work->rows + thread * work->row_bytes;
    for (int64_t i = first; i < last; i++) {
        const progress *p = work->items[i].of;
        int64_t n_in = p->packed->n_in, tile = work->items[i].tile;
        code_tile(work->ops, p, tile);
        if (p->group + 1 < p->packed->n_groups) continue;
        for (int64_t r = 0; r < R && tile * R + r < p->packed->n_out; r++) {
            for (int64_t j = 0; j < n_in; j++) row[j] = p->codes[(tile * n_in + j) * R + r];
            qs_packed_set_row(p->packed, tile * R + r, row);
        }
    }
}

/* ---- what is done between ---- */

static void find_widest(progress *p)
{
    float range = 0;
    for (int64_t i = 0; i < p->n_tiles * R; i++) range = fmaxf(range, p->range[i]);
    p->widest = range > 0 ? range : 1.0f;
}

static void choose_scale(progress *p)
{
    double best = INFINITY;
    for (int c = 0; c < N_CANDIDATES; c++) {
        double sum = 0;
        for (int64_t tile = 0; tile < p->n_tiles; tile++) sum += p->sums[tile * N_CANDIDATES + c];
        if (!(sum < best)) continue;
        best = sum;
        p->chosen = candidate(p, c);
    }
    p->packed->scale_max[p->group] = p->chosen;
}

static int64_t list_items(progress *batch, int64_t n, item *items)
{
    int64_t n_items = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t tile = 0; batch[i].group < batch[i].packed->n_groups && tile < batch[i].n_tiles; tile++)
            items[n_items++] = (item){&batch[i], tile};
    return n_items;
}

static void run_batch(qs_team *team, progress *batch, int64_t n, item *items, step *work)
{
    int64_t n_items = list_items(batch, n, items);
    work->items = items;
    qs_team_run(team, n_items, 1, fill_tiles, work);
    for (; n_items > 0; n_items = list_items(batch, n, items)) {
        qs_team_run(team, n_items, 1, update_tiles, work);
        for (int64_t i = 0; i < n_items; i++)
            if (items[i].tile == 0) find_widest(items[i].of);
        qs_team_run(team, n_items, 1, rate_tiles, work);
        for (int64_t i = 0; i < n_items; i++)
            if (items[i].tile == 0) choose_scale(items[i].of);
        qs_team_run(team, n_items, 1, code_tiles, work);
        for (int64_t i = 0; i < n_items; i++)
            if (items[i].tile == 0) items[i].of->group++;
    }
}

/* ---- memory ---- */

static int64_t n_tiles(const qs_quant_task *task) { return (task->job->n_out + R - 1) / R; }

/* Of one task: x, range, sums and codes, in whole cache lines. */
static int64_t task_bytes(const qs_quant_task *task)
{
    int64_t tiles = n_tiles(task), cells = tiles * task->job->n_in * R;
    return cells * 5 + tiles * R * (int64_t)sizeof(float) + tiles * N_CANDIDATES * (int64_t)sizeof(double);
}

static char *place(progress *p, char *at)
{
    int64_t cells = p->n_tiles * p->packed->n_in * R;
    p->x = (float *)(void *)at;
    p->range = p->x + cells;
    p->sums = (double *)(void *)(p->range + p->n_tiles * R);
    p->codes = (uint8_t *)(p->sums + p->n_tiles * N_CANDIDATES);
    return at + task_bytes(p->task);
}

/* ---- factors ---- */

/* What tasks with one factor share. */
typedef struct visit {
    int32_t *order;       /* [n_in] */
    float *column_weight; /* [n_in] */
    const float *u;       /* NULL = no damping made H positive definite */
    double damping;
} visit;

/* U on the host, wherever it was made. */
static qs_err host_factor(qs_workspace *workspace, int64_t n_in, const float **u)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    float *copy;
    if (*u == NULL || qs_backend_solver(backend) == NULL) return QS_OK;
    qs_err err;
    int64_t bytes = n_in * n_in * (int64_t)sizeof *copy;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_FACTOR, bytes, &copy));
    QS_TRY(qs_backend_download(backend, copy, *u, (size_t)bytes));
    *u = copy;
out:
    return err;
}

static qs_err plan_visit(qs_workspace *workspace, visit *out, const qs_quant_task *task)
{
    qs_factor_cache *factors = task->job->factors;
    const float *diag = qs_factor_diag(factors);
    int64_t n_in = task->job->n_in;
    qs_err err;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_ORDERS, n_in * (int64_t)sizeof *out->order, &out->order));
    QS_TRY(qs_workspace_host(workspace, QS_HOST_COLUMN_WEIGHTS, n_in * (int64_t)sizeof *out->column_weight,
                             &out->column_weight));
    QS_TRY(qs_order_act(diag, n_in, out->order));
    QS_TRY(qs_factor_get(factors, out->order, task->spec->damping, &out->u, &out->damping));
    QS_TRY(host_factor(workspace, n_in, &out->u));
    float shift = (float)(out->damping * qs_factor_diag_mean(factors));
    for (int64_t i = 0; i < n_in; i++) out->column_weight[i] = diag[out->order[i]] + shift;
out:
    return err;
}

static qs_err start(progress *p, const qs_quant_task *task, const visit *v)
{
    const qs_quant_job *job = task->job;
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
    int64_t n_groups = qs_mix_groups(task->spec->mix, job->n_in, groups);
    qs_packed *packed = &task->out->packed;
    qs_err err;
    QS_TRY(qs_packed_shape_exl2(packed, job->n_out, job->n_in, groups, n_groups));
    QS_TRY(qs_packed_alloc_exl2(packed, groups));
    memcpy(packed->perm, v->order, (size_t)job->n_in * sizeof *packed->perm);
    *p = (progress){.task = task, .packed = packed, .u = v->u, .order = v->order, .n_tiles = n_tiles(task),
                    .column_weight = v->u != NULL ? v->column_weight : NULL};
    task->out->damping = v->u != NULL ? v->damping : 0;
    task->out->fallback = v->u == NULL;
out:
    return err;
}

/* Tasks that share a factor, as many at a time as memory allows. */
static qs_err solve_shared(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks, const visit *v)
{
    qs_team *team = qs_workspace_team(workspace);
    step work = {.ops = qs_tile_best(), .row_bytes = tasks[0].job->n_in};
    qs_err err = QS_OK;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_LANES, work.row_bytes * qs_team_n_threads(team), &work.rows));
    for (int64_t first = 0, n; first < n_tasks; first += n) {
        int64_t bytes = 0, n_items = 0;
        progress *batch;
        char *memory;
        for (n = 0; first + n < n_tasks; n++) {
            if (n > 0 && (double)(bytes + task_bytes(&tasks[first + n])) > batch_bytes_max) break;
            bytes += task_bytes(&tasks[first + n]);
            n_items += n_tiles(&tasks[first + n]);
        }
        QS_TRY(qs_workspace_host(workspace, QS_HOST_PANELS, bytes, &memory));
        QS_TRY(qs_workspace_host(workspace, QS_HOST_ITEMS,
                                 n * (int64_t)sizeof *batch + n_items * (int64_t)sizeof(item), &batch));
        for (int64_t i = 0; i < n; i++) {
            QS_TRY(start(&batch[i], &tasks[first + i], v));
            memory = place(&batch[i], memory);
        }
        run_batch(team, batch, n, (item *)(void *)(batch + n), &work);
    }
out:
    return err;
}

static bool shares_factor(const qs_quant_task *a, const qs_quant_task *b)
{
    return a->job->factors == b->job->factors && a->spec->damping == b->spec->damping;
}

static qs_err solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_quant_task *some = NULL;
    bool *done = NULL;
    qs_err err;
    QS_TRY(QS_NEW(some, n_tasks, "EXL2 tasks"));
    QS_TRY(QS_NEW(done, n_tasks, "EXL2 tasks"));
    for (int64_t i = 0; i < n_tasks; i++) {
        int64_t n = 0;
        visit v;
        for (int64_t j = i; j < n_tasks && !done[i]; j++) {
            if (done[j] || !shares_factor(&tasks[i], &tasks[j])) continue;
            some[n++] = tasks[j];
        }
        if (n == 0) continue;
        for (int64_t j = i; j < n_tasks; j++) done[j] = done[j] || shares_factor(&tasks[i], &tasks[j]);
        QS_TRY(plan_visit(workspace, &v, &tasks[i]));
        QS_TRY(solve_shared(workspace, some, n, &v));
    }
out:
    qs_mem_free(some);
    qs_mem_free(done);
    return err;
}

static int64_t options(const qs_spec *spec, qs_spec *out)
{
    for (int64_t i = 0; i < qs_n_mixes; i++) {
        out[i] = *spec;
        out[i].bpw = 0;
        out[i].mix = &qs_mixes[i];
    }
    return qs_n_mixes;
}

const qs_method qs_method_exl2 = {
    .name = "exl2",
    .summary = "GPTQ with widths that differ between matrices and along columns, to a given mean of bits",
    .needs = QS_NEED_GRAM,
    .format = QS_PACKED_EXL2,
    .options = options,
    .solve = solve,
};
