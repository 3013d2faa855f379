#include "quant/solver.h"

#include <string.h>

#include "backend/solver_ops.h"
#include "base/dtype.h"
#include "quant/tile.h"

enum {
    R = QS_TILE_ROWS,
    PANEL = 512, /* columns: 128 KiB of a tile and 1 MiB of U stay in a core's cache */
    RUN = 64,    /* columns brought up to date at a time where groups do not say so */
    BLOCK = 16,  /* columns whose errors meet directly, one after the other */
    ROWS = 16,   /* whose codes are gathered together */
};

/* A task on its way through the panels. */
typedef struct progress {
    const qs_solver_task *task;
    int64_t n_in, n_tiles, panel; /* panel: columns per panel, whole groups */
    int64_t first;                /* of the current panel; n_in = done */
    float *live; /* [panel, n_tiles * 64] host: the current panel; NULL while there is only one */
    float *trailing;              /* [n_in - panel, n_tiles * 64] device: columns after the first panel */
    uint8_t *codes;               /* [n_tiles, n_in, 64] or NULL: in the thread's scratch */
    double *forms;                /* [n_tiles], see qs_solver_task.form */
} progress;

typedef struct item {
    progress *of;
    int64_t tile;
} item;

/* Scratch of one thread. */
typedef struct lane {
    float *x;           /* [panel, 64] */
    float *scale, *zero; /* [n_groups or 1, 64] */
    int32_t *group;     /* [n_in] of each visit */
    uint8_t *codes;     /* [n_in, 64] */
    uint8_t *rows;      /* [ROWS, n_in] */
} lane;

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t columns_of_panel(int64_t n_in, int64_t group, bool static_scales)
{
    if (static_scales || group < 1) return min64(PANEL, n_in);
    return min64(group >= PANEL ? group : PANEL / group * group, n_in);
}

static int64_t panel_columns(const qs_solver_task *task)
{
    return columns_of_panel(task->packed->n_in, task->packed->group_size, task->static_scales);
}

/* Most columns of one task that a thread holds at a time: a panel, or a whole group before it. */
static int64_t lane_columns(const qs_solver_task *task)
{
    int64_t panel = panel_columns(task), group = task->packed->group_size;
    return task->static_scales && group > panel ? group : panel;
}

static int64_t column_of(const qs_solver_task *task, int64_t visit)
{
    return task->order != NULL ? task->order[visit] : visit;
}

/* x[n][64 of width] = columns first .. first + n of the tile's rows, transposed; rows beyond the matrix are
 * 0. */
static void gather(const qs_solver_task *task, int64_t tile, int64_t first, int64_t n, bool ordered, float *x,
                   int64_t width)
{
    const int32_t *order = ordered && task->order != NULL ? task->order + first : NULL;
    qs_tile_gather(task->weights, task->packed->n_out, task->packed->n_in, tile, order, first, n, x, width);
}

static void put_scales(qs_packed *packed, int64_t tile, int64_t group, const float *scale, const float *zero)
{
    int64_t n_rows = min64(R, packed->n_out - tile * R);
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t at = (tile * R + r) * packed->n_groups + group;
        packed->scales[at] = qs_f16_from_f32(scale[r]);
        if (packed->zeros != NULL) packed->zeros[at] = (uint8_t)zero[r];
    }
}

/* Reads back what put_scales stored: scales are exact in f16. */
static void get_scales(const qs_packed *packed, int64_t tile, int64_t group, float *scale, float *zero)
{
    int64_t n_rows = min64(R, packed->n_out - tile * R);
    for (int64_t r = 0; r < R; r++) {
        int64_t at = (tile * R + min64(r, n_rows - 1)) * packed->n_groups + group;
        scale[r] = qs_f32_from_f16(packed->scales[at]);
        zero[r] = packed->zeros != NULL ? packed->zeros[at] : (float)(1 << (packed->bits - 1));
    }
}

/* Scales of all groups from the weights as given, once per tile. */
static void find_static_scales(const qs_tile_ops *ops, const qs_solver_task *task, int64_t tile,
                               const lane *l)
{
    const qs_packed *packed = task->packed;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        int64_t first = g * packed->group_size, n = min64(packed->group_size, packed->n_in - first);
        gather(task, tile, first, n, false, l->x, R);
        ops->scales(&task->rule, l->x, n, task->column_weight != NULL ? task->column_weight + first : NULL,
                    l->scale, l->zero);
        put_scales(task->packed, tile, g, l->scale, l->zero);
    }
}

static void load_static_scales(const qs_solver_task *task, int64_t tile, const lane *l)
{
    const qs_packed *packed = task->packed;
    for (int64_t g = 0; g < packed->n_groups; g++)
        get_scales(packed, tile, g, l->scale + g * R, l->zero + g * R);
    for (int64_t i = 0; i < packed->n_in; i++)
        l->group[i] = (int32_t)(column_of(task, i) / packed->group_size);
}

/* Columns first .. last of the order, live in l->x: codes go to codes[visit][64], errors replace columns. */
static void solve_panel(const qs_tile_ops *ops, const qs_solver_task *task, int64_t tile, int64_t first,
                        int64_t last, const lane *l, uint8_t *codes)
{
    int64_t n_in = task->packed->n_in, group = task->packed->group_size, end, stop;
    const float *u = task->u, *weight = task->column_weight;
    for (int64_t a = first; a < last; a = end) {
        end = min64(a + (task->static_scales ? RUN : group), last);
        float *run = l->x + (a - first) * R;
        if (u != NULL && a > first) ops->update(run, end - a, l->x, a - first, u + first * n_in + a, n_in);
        if (!task->static_scales) {
            ops->scales(&task->rule, run, end - a, weight != NULL ? weight + a : NULL, l->scale, l->zero);
            put_scales(task->packed, tile, (task->follow_order ? a : column_of(task, a)) / group, l->scale,
                       l->zero);
        }
        for (int64_t b = a; b < end; b = stop) {
            stop = min64(b + BLOCK, end);
            float *block = l->x + (b - first) * R;
            if (u != NULL && b > a) ops->update(block, stop - b, run, b - a, u + a * n_in + b, n_in);
            ops->code(block, stop - b, task->packed->bits, l->scale, l->zero,
                      task->static_scales ? l->group + b : NULL, u != NULL ? u + b * n_in + b : NULL, n_in,
                      codes + b * R);
        }
    }
}

static void emit_rows(const qs_solver_task *task, int64_t tile, const uint8_t *codes, uint8_t *rows)
{
    qs_packed *packed = task->packed;
    int64_t n_in = packed->n_in, n_rows = min64(R, packed->n_out - tile * R);
    for (int64_t part = 0; part < n_rows; part += ROWS) {
        for (int64_t i = 0; i < n_in; i++) {
            uint8_t *column = rows + (task->follow_order ? i : column_of(task, i));
            for (int64_t r = 0; r < ROWS; r++) column[r * n_in] = codes[i * R + part + r];
        }
        for (int64_t r = part; r < min64(part + ROWS, n_rows); r++)
            qs_packed_set_row(packed, tile * R + r, rows + (r - part) * n_in);
    }
}

/* Of all errors of a tile's panel; in f64, sixteen sums side by side, so that the order is fixed. */
static double sum_of_squares(const float *x, int64_t n)
{
    double part[16] = {0}, sum = 0;
    for (int64_t i = 0; i < n; i += 16)
        for (int k = 0; k < 16; k++) part[k] += (double)x[i + k] * (double)x[i + k];
    for (int k = 0; k < 16; k++) sum += part[k];
    return sum;
}

/* One tile through the current panel; without compensation through all panels, which do not meet. */
static void solve_item(const qs_tile_ops *ops, const item *it, const lane *l)
{
    const progress *p = it->of;
    const qs_solver_task *task = p->task;
    int64_t width = p->n_tiles * R, tile = it->tile, n_in = p->n_in;
    uint8_t *codes = p->codes != NULL ? p->codes + tile * n_in * R : l->codes;
    if (task->static_scales) {
        if (p->first == 0) find_static_scales(ops, task, tile, l);
        load_static_scales(task, tile, l);
    }
    int64_t last = p->first;
    do {
        int64_t first = last, n = min64(p->panel, n_in - first);
        last = first + n;
        if (first == 0 || task->u == NULL)
            gather(task, tile, first, n, true, l->x, R);
        else
            for (int64_t i = 0; i < n; i++)
                memcpy(l->x + i * R, p->live + i * width + tile * R, R * sizeof *l->x);
        solve_panel(ops, task, tile, first, last, l, codes);
        if (task->u != NULL && task->form != NULL) p->forms[tile] += sum_of_squares(l->x, n * R);
    } while (task->u == NULL && last < n_in);
    if (last == n_in)
        emit_rows(task, tile, codes, l->rows);
    else
        for (int64_t i = 0; i < last - p->first; i++)
            memcpy(p->live + i * width + tile * R, l->x + i * R, R * sizeof *l->x);
}

typedef struct transposing {
    const progress *of;
    int64_t first, n; /* columns */
} transposing;

static void transpose_tiles(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const transposing *work = context;
    const progress *p = work->of;
    for (int64_t tile = first; tile < last; tile++)
        gather(p->task, tile, work->first, work->n, true, p->live + tile * R, p->n_tiles * R);
}

/* Columns after the first panel, transposed and in order, to the device. */
static qs_err upload_trailing(qs_workspace *workspace, progress *p)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    int64_t width = p->n_tiles * R;
    for (int64_t first = p->panel; first < p->n_in; first += p->panel) {
        int64_t n = min64(p->panel, p->n_in - first);
        qs_team_run(qs_workspace_team(workspace), p->n_tiles, 1, transpose_tiles,
                    &(transposing){p, first, n});
        qs_err err = qs_backend_upload(backend, p->trailing + (first - p->panel) * width, p->live,
                                       (size_t)(n * width) * sizeof *p->live);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* After a panel: the columns still to come take up its errors, and the next panel comes back. */
static qs_err next_panel(qs_workspace *workspace, progress *p)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    int64_t first = p->first, n = min64(p->panel, p->n_in - first), width = p->n_tiles * R,
            rest = p->n_in - first - n;
    p->first += n;
    if (rest == 0 || p->task->u == NULL) {
        p->first = p->n_in;
        return QS_OK;
    }
    float *errors, *u, *trailing = p->trailing + (p->first - p->panel) * width;
    qs_err err;
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_PANEL, n * width * (int64_t)sizeof *errors, &errors));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_FACTOR, n * p->n_in * (int64_t)sizeof *u, &u));
    QS_TRY(qs_backend_upload(backend, errors, p->live, (size_t)(n * width) * sizeof *errors));
    QS_TRY(qs_backend_upload(backend, u, p->task->u + first * p->n_in, (size_t)(n * p->n_in) * sizeof *u));
    QS_TRY(qs_op_gemm(backend, true, false, rest, width, n, -1, u + p->first, p->n_in, errors, width, 1,
                      trailing, width));
    QS_TRY(qs_backend_download(backend, p->live, trailing,
                               (size_t)(min64(p->panel, rest) * width) * sizeof *p->live));
out:
    return err;
}

/* Cuts the slot into one lane per thread. */
static qs_err make_lanes(lane **out, qs_workspace *workspace, const progress *batch, int64_t n, int n_threads)
{
    int64_t columns = 1, groups = 1, n_in = 1;
    for (int64_t i = 0; i < n; i++) {
        const qs_solver_task *task = batch[i].task;
        columns = columns > lane_columns(task) ? columns : lane_columns(task);
        n_in = n_in > batch[i].n_in ? n_in : batch[i].n_in;
        if (task->static_scales) groups = groups > task->packed->n_groups ? groups : task->packed->n_groups;
    }
    int64_t floats = (columns + 2 * groups) * R * (int64_t)sizeof(float);
    int64_t bytes = (floats + n_in * (int64_t)sizeof(int32_t) + n_in * R + ROWS * n_in + 4095) / 4096 * 4096;
    int64_t head = (n_threads * (int64_t)sizeof(lane) + 4095) / 4096 * 4096;
    char *at;
    qs_err err = qs_workspace_host(workspace, QS_HOST_LANES, head + bytes * n_threads, &at);
    lane *lanes = *out = (lane *)(void *)at;
    at += head;
    for (int t = 0; err == QS_OK && t < n_threads; t++, at += bytes) {
        lanes[t].x = (float *)(void *)at;
        lanes[t].scale = lanes[t].x + columns * R;
        lanes[t].zero = lanes[t].scale + groups * R;
        lanes[t].group = (int32_t *)(void *)(at + floats);
        lanes[t].codes = (uint8_t *)(lanes[t].group + n_in);
        lanes[t].rows = lanes[t].codes + n_in * R;
    }
    return err;
}

/* What a task keeps between panels: live panel and codes on the host, trailing columns on the device. */
typedef struct kept {
    int64_t host_bytes, device_bytes;
} kept;

static kept kept_of(int64_t n_in, int64_t width, int64_t panel)
{
    if (panel >= n_in) return (kept){0, 0};
    return (kept){.host_bytes = panel * width * (int64_t)sizeof(float) + n_in * width,
                  .device_bytes = (n_in - panel) * width * (int64_t)sizeof(float)};
}

static int64_t whole_tiles(int64_t n_out) { return (n_out + R - 1) / R * R; }

static kept kept_by(const qs_solver_task *task)
{
    if (task->u == NULL) return (kept){0, 0};
    return kept_of(task->packed->n_in, whole_tiles(task->packed->n_out), panel_columns(task));
}

qs_solver_need qs_solver_need_of(int64_t n_out, int64_t n_in, int64_t group_size, bool static_scales)
{
    int64_t width = whole_tiles(n_out), panel = columns_of_panel(n_in, group_size, static_scales);
    kept k = kept_of(n_in, width, panel);
    if (panel >= n_in) return (qs_solver_need){0, 0};
    return (qs_solver_need){.kept_bytes = k.host_bytes + k.device_bytes,
                            .shared_bytes = panel * (width + n_in) * (int64_t)sizeof(float)};
}

/* forms: zeros, one for each tile of all tasks. */
static qs_err start_batch(qs_workspace *workspace, const qs_solver_task *tasks, int64_t n, progress *batch, double *forms)
{
    kept all = {0, 0};
    char *host = NULL, *device = NULL;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++) {
        kept k = kept_by(&tasks[i]);
        all = (kept){all.host_bytes + k.host_bytes, all.device_bytes + k.device_bytes};
    }
    if (all.host_bytes > 0) {
        QS_TRY(qs_workspace_host(workspace, QS_HOST_PANELS, all.host_bytes, &host));
        QS_TRY(qs_workspace_device(workspace, QS_DEVICE_TRAILING, all.device_bytes, &device));
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t n_tiles = (tasks[i].packed->n_out + R - 1) / R, panel = panel_columns(&tasks[i]);
        batch[i] = (progress){
            .task = &tasks[i], .n_in = tasks[i].packed->n_in, .n_tiles = n_tiles, .panel = panel, .forms = forms};
        forms += n_tiles;
        kept k = kept_by(&tasks[i]);
        if (k.host_bytes == 0) continue;
        batch[i].live = (float *)(void *)host;
        batch[i].codes = (uint8_t *)(batch[i].live + panel * n_tiles * R);
        batch[i].trailing = (float *)(void *)device;
        host += k.host_bytes;
        device += k.device_bytes;
        QS_TRY(upload_trailing(workspace, &batch[i]));
    }
out:
    return err;
}

static void put_form(const progress *p)
{
    if (p->task->form == NULL || p->task->u == NULL) return;
    *p->task->form = 0;
    for (int64_t tile = 0; tile < p->n_tiles; tile++) *p->task->form += p->forms[tile];
}

typedef struct solving {
    const qs_tile_ops *ops;
    const item *items;
    const lane *lanes; /* of each thread */
} solving;

static void solve_items(void *context, int64_t first, int64_t last, int thread)
{
    const solving *work = context;
    for (int64_t i = first; i < last; i++) solve_item(work->ops, &work->items[i], &work->lanes[thread]);
}

static qs_err run_batch(qs_workspace *workspace, progress *batch, int64_t n, item *items)
{
    qs_team *team = qs_workspace_team(workspace);
    lane *lanes;
    qs_err err;
    QS_TRY(make_lanes(&lanes, workspace, batch, n, qs_team_n_threads(team)));
    solving work = {.ops = qs_tile_best(), .items = items, .lanes = lanes};
    for (;;) {
        int64_t n_items = 0;
        for (int64_t i = 0; i < n; i++)
            for (int64_t tile = 0; batch[i].first < batch[i].n_in && tile < batch[i].n_tiles; tile++)
                items[n_items++] = (item){&batch[i], tile};
        if (n_items == 0) break;
        qs_team_run(team, n_items, 1, solve_items, &work);
        for (int64_t i = 0; i < n; i++)
            if (batch[i].first < batch[i].n_in) QS_TRY(next_panel(workspace, &batch[i]));
    }
    for (int64_t i = 0; i < n; i++) put_form(&batch[i]);
out:
    return err;
}

static qs_err solve_on_device(qs_workspace *workspace, const qs_solver_ops *solver,
                              const qs_solver_task *task)
{
    qs_packed *packed = task->packed;
    qs_solve_job job = {.packed = packed,
                        .sym = task->rule.sym,
                        .search = task->rule.search,
                        .order = task->order,
                        .u = task->u,
                        .column_weight = task->column_weight,
                        .static_scales = task->static_scales,
                        .follow_order = task->follow_order};
    void *scratch;
    qs_err err;
    QS_TRY(qs_workspace_weights(workspace, task->weights, packed->n_out * packed->n_in, &job.weights));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_SOLVER, (int64_t)solver->solve_bytes(&job), &scratch));
    QS_TRY(solver->solve(qs_workspace_backend(workspace), &job, scratch));
out:
    return err;
}

qs_err qs_solver_run(qs_workspace *workspace, const qs_solver_task *tasks, int64_t n_tasks)
{
    const qs_solver_ops *solver = qs_backend_solver(qs_workspace_backend(workspace));
    qs_err err = QS_OK;
    for (int64_t i = 0; solver != NULL && i < n_tasks; i++)
        QS_TRY(solve_on_device(workspace, solver, &tasks[i]));
    if (solver != NULL) goto out;
    for (int64_t first = 0, n; first < n_tasks; first += n) {
        int64_t bytes = 0, n_items = 0;
        for (n = 0; first + n < n_tasks; n++) {
            const qs_solver_task *task = &tasks[first + n];
            bytes += kept_by(task).host_bytes + kept_by(task).device_bytes;
            if (n > 0 && bytes > QS_SOLVER_BATCH_BYTES) break;
            n_items += (task->packed->n_out + R - 1) / R;
        }
        progress *batch;
        QS_TRY(qs_workspace_host(workspace, QS_HOST_ITEMS,
                                 n * (int64_t)sizeof *batch + n_items * (int64_t)(sizeof(item) + sizeof(double)), &batch));
        item *items = (item *)(void *)(batch + n);
        double *forms = (double *)(void *)(items + n_items);
        memset(forms, 0, (size_t)n_items * sizeof *forms);
        QS_TRY(start_batch(workspace, tasks + first, n, batch, forms));
        QS_TRY(run_batch(workspace, batch, n, items));
    }
out:
    return err;
}
