#include "quant/solver.h"

#include <string.h>

#include "backend/solver_ops.h"
#include "base/dtype.h"
#include "base/minmax.h"
#include "quant/tile.h"

enum {
    R = QS_TILE_ROWS,
    PANEL = 512, /* columns, of matrices that are not one panel: 128 KiB of a tile and 1 MiB of U */
    RUN = 64,    /* columns brought up to date at a time where groups do not say so */
    BLOCK = 16,  /* columns whose errors meet directly, one after the other */
    ROWS = 16,   /* whose codes are gathered together */
};

/* A task on its way through the panels. */
typedef struct progress {
    const qs_solver_task *task;
    int64_t n_in, n_tiles, panel; /* panel: columns per panel, whole groups */
    int64_t first;                /* of the current panel; n_in = done */
    float *live;                  /* [n_in, n_tiles * 64] errors of the panels before `first`, and columns from there
                                     on as those have left them; NULL with one panel only */
    uint8_t *codes;               /* [n_tiles, n_in, 64] or NULL: in the thread's scratch */
    qs_error_sums *sums;          /* [n_tiles] */
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

/* whole: columns that are one panel. */
static int64_t columns_of_panel(int64_t n_in, int64_t group, bool static_scales, int64_t whole)
{
    if (n_in <= whole) return n_in;
    if (static_scales || group < 1) return qs_min64(PANEL, n_in);
    return qs_min64(group >= PANEL ? group : PANEL / group * group, n_in);
}

/* Most columns of one task that a thread holds at a time: a panel, or a whole group before it. */
static int64_t lane_columns(const progress *p)
{
    int64_t group = p->task->packed->group_size;
    return p->task->static_scales && group > p->panel ? group : p->panel;
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
    int64_t n_rows = qs_min64(R, packed->n_out - tile * R);
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t at = (tile * R + r) * packed->n_groups + group;
        packed->scales[at] = qs_f16_from_f32(scale[r]);
        if (packed->zeros != NULL) packed->zeros[at] = (uint8_t)zero[r];
    }
}

/* Reads back what put_scales stored: scales are exact in f16. */
static void get_scales(const qs_packed *packed, int64_t tile, int64_t group, float *scale, float *zero)
{
    int64_t n_rows = qs_min64(R, packed->n_out - tile * R);
    for (int64_t r = 0; r < R; r++) {
        int64_t at = (tile * R + qs_min64(r, n_rows - 1)) * packed->n_groups + group;
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
        int64_t first = g * packed->group_size, n = qs_min64(packed->group_size, packed->n_in - first);
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
        end = qs_min64(a + (task->static_scales ? RUN : group), last);
        float *run = l->x + (a - first) * R;
        if (u != NULL && a > first) ops->update(run, end - a, l->x, a - first, u + first * n_in + a, n_in);
        if (!task->static_scales) {
            ops->scales(&task->rule, run, end - a, weight != NULL ? weight + a : NULL, l->scale, l->zero);
            put_scales(task->packed, tile, (task->follow_order ? a : column_of(task, a)) / group, l->scale,
                       l->zero);
        }
        for (int64_t b = a; b < end; b = stop) {
            stop = qs_min64(b + BLOCK, end);
            float *block = l->x + (b - first) * R;
            if (u != NULL && b > a) ops->update(block, stop - b, run, b - a, u + a * n_in + b, n_in);
            ops->code(block, stop - b, task->packed->bits, l->scale, l->zero,
                      task->static_scales ? l->group + b : NULL, u != NULL ? u + b * n_in + b : NULL, n_in,
                      codes + b * R);
        }
    }
}

/* Of n values, a multiple of 16; in f64, sixteen sums side by side, so that the order is fixed. */
static double sum_of_squares(const float *x, int64_t n)
{
    typedef double doubles __attribute__((vector_size(64)));
    typedef float floats __attribute__((vector_size(32)));
    doubles a = {0}, b = {0};
    double sum = 0;
    for (int64_t i = 0; i < n; i += 16) {
        floats low, high;
        memcpy(&low, x + i, sizeof low);
        memcpy(&high, x + i + 8, sizeof high);
        doubles v = __builtin_convertvector(low, doubles), w = __builtin_convertvector(high, doubles);
        a += v * v;
        b += w * w;
    }
    for (int k = 0; k < 8; k++) sum += a[k];
    for (int k = 0; k < 8; k++) sum += b[k];
    return sum;
}

/* Of W - Q of one row, whose codes are as they are stored. */
static double row_squares(const qs_solver_task *task, int64_t row, const uint8_t *codes)
{
    enum { CHUNK = 128 };
    const qs_packed *packed = task->packed;
    const float *w = task->weights + row * packed->n_in;
    const int32_t *order = task->follow_order ? task->order : NULL;
    float e[CHUNK];
    double sum = 0;
    for (int64_t g = 0, first = 0, end, n; g < packed->n_groups; g++) {
        int64_t at = row * packed->n_groups + g;
        float scale = qs_f32_from_f16(packed->scales[at]);
        int zero = packed->zeros != NULL ? packed->zeros[at] : 1 << (packed->bits - 1);
        for (end = qs_min64(first + packed->group_size, packed->n_in); first < end; first += n) {
            n = qs_min64(CHUNK, end - first);
            for (int64_t j = 0; j < n && order != NULL; j++) e[j] = w[order[first + j]];
            if (order == NULL) memcpy(e, w + first, (size_t)n * sizeof *e);
            int64_t i = 0;
            for (; i + 16 <= n; i += 16)
                for (int k = 0; k < 16; k++) e[i + k] -= scale * (float)(codes[first + i + k] - zero);
            for (; i < n; i++) e[i] -= scale * (float)(codes[first + i] - zero);
            for (; i % 16 != 0; i++) e[i] = 0;
            sum += sum_of_squares(e, (n + 15) / 16 * 16);
        }
    }
    return sum;
}

/* The codes of a tile, [n_in, 64], into the matrix. */
static void emit_rows(const item *it, const uint8_t *codes, uint8_t *rows)
{
    const qs_solver_task *task = it->of->task;
    qs_packed *packed = task->packed;
    int64_t n_in = packed->n_in, n_rows = qs_min64(R, packed->n_out - it->tile * R);
    for (int64_t part = 0; part < n_rows; part += ROWS) {
        for (int64_t i = 0; i < n_in; i++) {
            uint8_t *column = rows + (task->follow_order ? i : column_of(task, i));
            for (int64_t r = 0; r < ROWS; r++) column[r * n_in] = codes[i * R + part + r];
        }
        for (int64_t r = 0; r < qs_min64(ROWS, n_rows - part); r++) {
            int64_t row = it->tile * R + part + r;
            qs_packed_set_row(packed, row, rows + r * n_in);
            if (task->sums != NULL) it->of->sums[it->tile].squares += row_squares(task, row, rows + r * n_in);
        }
    }
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
        int64_t first = last, n = qs_min64(p->panel, n_in - first);
        last = first + n;
        if (p->live == NULL)
            gather(task, tile, first, n, true, l->x, R);
        else
            for (int64_t i = 0; i < n; i++)
                memcpy(l->x + i * R, p->live + (first + i) * width + tile * R, R * sizeof *l->x);
        solve_panel(ops, task, tile, first, last, l, codes);
        if (task->u != NULL && task->sums != NULL) p->sums[tile].form += sum_of_squares(l->x, n * R);
    } while (task->u == NULL && last < n_in);
    if (last == n_in)
        emit_rows(it, codes, l->rows);
    else
        for (int64_t i = 0; i < last - p->first; i++)
            memcpy(p->live + (p->first + i) * width + tile * R, l->x + i * R, R * sizeof *l->x);
}

/* All columns, transposed and in order. */
static void fill_live(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const progress *p = context;
    for (int64_t tile = first; tile < last; tile++)
        gather(p->task, tile, 0, p->n_in, true, p->live + tile * R, p->n_tiles * R);
}

/* After a panel: the columns still to come take up its errors. */
static qs_err next_panel(qs_workspace *workspace, progress *p)
{
    int64_t n_in = p->n_in, first = p->first, next = qs_min64(first + p->panel, n_in), width = p->n_tiles * R;
    p->first = p->task->u != NULL ? next : n_in;
    if (p->first == n_in) return QS_OK;
    return qs_op_gemm(qs_workspace_backend(workspace), true, false, n_in - next, width, next - first, -1,
                      p->task->u + first * n_in + next, n_in, p->live + first * width, width, 1,
                      p->live + next * width, width);
}

/* Cuts the slot into one lane per thread. */
static qs_err make_lanes(lane **out, qs_workspace *workspace, const progress *batch, int64_t n, int n_threads)
{
    int64_t columns = 1, groups = 1, n_in = 1;
    for (int64_t i = 0; i < n; i++) {
        const qs_solver_task *task = batch[i].task;
        columns = columns > lane_columns(&batch[i]) ? columns : lane_columns(&batch[i]);
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

static int64_t kept_bytes(int64_t n_out, int64_t n_in, int64_t panel)
{
    if (panel >= n_in) return 0;
    return n_in * ((n_out + R - 1) / R * R) * (int64_t)(sizeof(float) + sizeof(uint8_t));
}

int64_t qs_solver_kept_bytes(int64_t n_out, int64_t n_in, int64_t group_size, bool static_scales)
{
    return kept_bytes(n_out, n_in, columns_of_panel(n_in, group_size, static_scales, QS_WHOLE_PANEL));
}

static int64_t panel_of(const qs_solver_task *task, int64_t whole)
{
    const qs_packed *packed = task->packed;
    return columns_of_panel(packed->n_in, packed->group_size, task->static_scales, whole);
}

/* What a task keeps between panels. */
static int64_t kept_by(const qs_solver_task *task, int64_t whole)
{
    return task->u != NULL ? kept_bytes(task->packed->n_out, task->packed->n_in, panel_of(task, whole)) : 0;
}

/* sums: zeros, one for each tile of all tasks. */
static qs_err start_batch(qs_workspace *workspace, const qs_solver_task *tasks, int64_t n, progress *batch,
                          qs_error_sums *sums)
{
    int64_t bytes = 0, whole = qs_workspace_whole_panel(workspace);
    char *at = NULL;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++) bytes += kept_by(&tasks[i], whole);
    if (bytes > 0) QS_TRY(qs_workspace_host(workspace, QS_HOST_PANELS, bytes, &at));
    for (int64_t i = 0; i < n; i++) {
        progress *p = &batch[i];
        int64_t n_tiles = (tasks[i].packed->n_out + R - 1) / R, kept = kept_by(&tasks[i], whole);
        *p = (progress){.task = &tasks[i], .n_in = tasks[i].packed->n_in, .n_tiles = n_tiles,
                        .panel = panel_of(&tasks[i], whole), .sums = sums};
        sums += n_tiles;
        if (kept == 0) continue;
        p->live = (float *)(void *)at;
        p->codes = (uint8_t *)(p->live + p->n_in * n_tiles * R);
        at += kept;
        qs_team_run(qs_workspace_team(workspace), n_tiles, 1, fill_live, p);
    }
out:
    return err;
}

static void put_sums(const progress *p)
{
    qs_error_sums all = {0};
    if (p->task->sums == NULL) return;
    for (int64_t tile = 0; tile < p->n_tiles; tile++) {
        all.form += p->sums[tile].form;
        all.squares += p->sums[tile].squares;
    }
    *p->task->sums = all;
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
    for (int64_t i = 0; i < n; i++) put_sums(&batch[i]);
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
            bytes += kept_by(task, qs_workspace_whole_panel(workspace));
            if (n > 0 && bytes > QS_SOLVER_BATCH_BYTES) break;
            n_items += (task->packed->n_out + R - 1) / R;
        }
        progress *batch;
        int64_t per_item = (int64_t)(sizeof(item) + sizeof(qs_error_sums));
        QS_TRY(qs_workspace_host(workspace, QS_HOST_ITEMS, n * (int64_t)sizeof *batch + n_items * per_item, &batch));
        item *items = (item *)(void *)(batch + n);
        qs_error_sums *sums = (qs_error_sums *)(void *)(items + n_items);
        memset(sums, 0, (size_t)n_items * sizeof *sums);
        QS_TRY(start_batch(workspace, tasks + first, n, batch, sums));
        QS_TRY(run_batch(workspace, batch, n, items));
    }
out:
    return err;
}
