#include "quant/loss.h"

#include <math.h>
#include <string.h>

#include "backend/solver_ops.h"
#include "base/mem.h"
#include "base/minmax.h"
#include "quant/tile.h"

enum {
    R = QS_TILE_ROWS,
    ROWS = 16,  /* rows transposed together */
};
static const double least_rest = 0.05; /* of a form that the solver found, without what damping added */

/* Sum of squares, and tr(E H E^T), of one tile of rows or of all; 0 without H. */
typedef struct sums {
    double squares, form;
} sums;

/* A tile of W - Q, or of W when packed is NULL. */
typedef struct item {
    const qs_quant_job *job;
    const qs_packed *packed;
    const float *columns, *rows; /* of the task, or NULL */
    const float *h;              /* [n_in, n_in]; NULL without second moments */
    int64_t tile;
    sums found;
} item;

/* Scratch of one thread. */
typedef struct lane {
    float *e;    /* [n_in, 64] */
    float *rows; /* [ROWS, n_in] */
    float *product; /* [QS_LOSS_STRIP, 64] */
} lane;

/* In f64, eight sums side by side: the order is fixed, whatever the compiler makes of it. */
static double dot(const float *a, const float *b, int64_t n)
{
    double part[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++) part[k] += (double)a[i + k] * (double)b[i + k];
    for (; i < n; i++) part[0] += (double)a[i] * (double)b[i];
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

/* A row of Q as it counts beside W. */
static void unfold(const item *it, int64_t r, float *row)
{
    if (it->columns == NULL || it->packed == NULL) return;
    float factor = it->rows != NULL ? it->rows[r] : 1;
    for (int64_t j = 0; j < it->job->n_in; j++) row[j] = row[j] * factor / it->columns[j];
}

static void subtract_row(const item *it, int64_t r, float *row)
{
    int64_t n_in = it->job->n_in;
    const float *w = it->job->weights + r * n_in;
    if (it->packed != NULL)
        qs_packed_dequant_rows(it->packed, r, 1, row);
    else
        memset(row, 0, (size_t)n_in * sizeof *row);
    unfold(it, r, row);
    for (int64_t j = 0; j < n_in; j++) row[j] = w[j] - row[j];
}

/* Squares alone, without second moments. */
static sums sum_errors(const item *it, const lane *l)
{
    int64_t n_in = it->job->n_in, first = it->tile * R, last = qs_min64(first + R, it->job->n_out);
    sums found = {0};
    for (int64_t r = first; r < last; r++) {
        subtract_row(it, r, l->rows);
        found.squares += dot(l->rows, l->rows, n_in);
    }
    return found;
}

/* l->e = the tile, transposed; rows beyond the matrix are 0. */
static double fill_errors(const item *it, const lane *l)
{
    int64_t n_in = it->job->n_in, n_rows = qs_min64(R, it->job->n_out - it->tile * R);
    double squares = 0;
    for (int64_t part = 0; part < R; part += ROWS) {
        int64_t n = qs_min64(ROWS, n_rows - part);
        if (n < ROWS) memset(l->rows, 0, (size_t)(ROWS * n_in) * sizeof *l->rows);
        for (int64_t r = 0; r < n; r++) {
            subtract_row(it, it->tile * R + part + r, l->rows + r * n_in);
            squares += dot(l->rows + r * n_in, l->rows + r * n_in, n_in);
        }
        for (int64_t j = 0; j < n_in; j++)
            for (int64_t r = 0; r < ROWS; r++) l->e[j * R + part + r] = l->rows[r * n_in + j];
    }
    return squares;
}

void qs_loss_strip(const qs_tile_ops *ops, const float *h, int64_t n_in, const float *e, int64_t first,
                   int64_t width, float *product)
{
    memset(product, 0, QS_LOSS_STRIP * R * sizeof *product);
    ops->update(product, width, e, first, h + first, n_in);
    for (int64_t i = 0; i < width * R; i++) product[i] *= 2;
    ops->update(product, width, e + first * R, width, h + first * n_in + first, n_in);
}

/* tr(E H E^T), strip by strip of columns. */
static double quadratic(const qs_tile_ops *ops, const item *it, const lane *l)
{
    int64_t n_in = it->job->n_in;
    double form = 0;
    for (int64_t first = 0; first < n_in; first += QS_LOSS_STRIP) {
        int64_t width = qs_min64(QS_LOSS_STRIP, n_in - first);
        qs_loss_strip(ops, it->h, n_in, l->e, first, width, l->product);
        form -= dot(l->product, l->e + first * R, width * R);
    }
    return form;
}

typedef struct measuring {
    const qs_tile_ops *ops;
    item *items;
    const lane *lanes; /* of each thread */
} measuring;

static void measure_items(void *context, int64_t first, int64_t last, int thread)
{
    const measuring *work = context;
    for (int64_t i = first; i < last; i++) {
        item *it = &work->items[i];
        if (it->h == NULL) {
            it->found = sum_errors(it, &work->lanes[thread]);
            continue;
        }
        it->found.squares = fill_errors(it, &work->lanes[thread]);
        it->found.form = quadratic(work->ops, it, &work->lanes[thread]);
    }
}

static qs_err make_lanes(lane **out, qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks,
                         int n_threads)
{
    int64_t n_in = 0, head = (n_threads * (int64_t)sizeof(lane) + 63) / 64 * 64;
    for (int64_t i = 0; i < n_tasks; i++) n_in = n_in > tasks[i].job->n_in ? n_in : tasks[i].job->n_in;
    int64_t floats = n_in * (R + ROWS) + QS_LOSS_STRIP * R;
    char *at;
    qs_err err = qs_workspace_host(workspace, QS_HOST_LANES,
                                   head + n_threads * floats * (int64_t)sizeof(float), &at);
    if (err != QS_OK) return err;
    *out = (lane *)(void *)at;
    float *data = (float *)(void *)(at + head);
    for (int t = 0; t < n_threads; t++, data += floats)
        (*out)[t] = (lane){.e = data, .rows = data + n_in * R, .product = data + n_in * (R + ROWS)};
    return QS_OK;
}

/* What was folded has a form in other units, and dead inputs add to it what is not theirs. */
static bool form_known(const qs_quant_task *task)
{
    if (!(task->out->known.form > 0) || task->columns != NULL) return false;
    return !qs_factor_has_dead(task->job->factors);
}

/* Adds one matrix's tiles to the list: of its errors, or of its own weights. */
static int64_t add_items(item *items, int64_t n, const qs_quant_task *task, bool errors, const float *h)
{
    item first = {.job = task->job, .h = h};
    if (errors) {
        first.packed = &task->out->packed;
        first.columns = task->columns;
        first.rows = task->rows;
    }
    for (; first.tile * R < task->job->n_out; first.tile++) items[n++] = first;
    return n;
}

static sums total(const item *items, int64_t n_out)
{
    sums all = {0};
    for (int64_t tile = 0; tile * R < n_out; tile++) {
        all.squares += items[tile].found.squares;
        all.form += items[tile].found.form;
    }
    return all;
}

/* Rounding can leave a tiny negative value where the truth is 0. */
static double ratio(double part, double whole) { return part > 0 ? part / whole : part <= 0 ? 0 : part; }

static qs_err set_result(const qs_quant_task *task, sums part, sums whole)
{
    qs_quant_result *result = task->out;
    result->weight_error = sqrt(ratio(part.squares, whole.squares));
    result->loss =
        task->job->factors != NULL ? ratio(part.form, whole.form) : ratio(part.squares, whole.squares);
    if (!isfinite(result->loss) || !isfinite(result->weight_error))
        return qs_fail(QS_E_NUMERIC, "quantize %s with %s: the error is not finite", task->job->name,
                       task->spec->id);
    return QS_OK;
}

/* What the solver found, without what damping added to H. False when so little is left that the difference of the two
 * says nothing. */
static bool take_known(const qs_quant_task *task, sums *part)
{
    const qs_error_sums *known = &task->out->known;
    double added = qs_factor_diag_mean(task->job->factors) * task->out->damping * known->squares;
    *part = (sums){.squares = known->squares, .form = known->form - added};
    return part->form > least_rest * known->form;
}

/* The items stand in the order of the tasks, a job's own weights before its first task. Tasks whose known form says
 * nothing lose it. */
static qs_err take_results(const item *items, const qs_quant_task *tasks, int64_t n_tasks)
{
    sums whole = {0}, part;
    for (int64_t i = 0; i < n_tasks; i++) {
        const qs_quant_job *job = tasks[i].job;
        int64_t n_tiles = (job->n_out + R - 1) / R;
        if (i == 0 || job != tasks[i - 1].job) {
            whole = total(items, job->n_out);
            items += n_tiles;
        }
        if (form_known(&tasks[i])) {
            if (!take_known(&tasks[i], &part)) tasks[i].out->known.form = 0;
        } else {
            part = total(items, job->n_out);
            items += n_tiles;
        }
        qs_err err = set_result(&tasks[i], part, whole);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

typedef struct subtracting {
    const qs_quant_job *job;
    const qs_packed *packed;
    float *e; /* [n_out, n_in] */
} subtracting;

static void subtract_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const subtracting *work = context;
    int64_t n_in = work->job->n_in;
    qs_packed_dequant_rows(work->packed, first, last - first, work->e + first * n_in);
    for (int64_t i = first * n_in; i < last * n_in; i++) work->e[i] = work->job->weights[i] - work->e[i];
}

/* Of formats that the device does not know: W - Q from the host. */
static qs_err upload_errors(qs_workspace *workspace, const qs_quant_job *job, const qs_packed *packed,
                            const float **out)
{
    subtracting work = {.job = job, .packed = packed};
    int64_t bytes = job->n_out * job->n_in * (int64_t)sizeof *work.e;
    float *device;
    qs_err err;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_PANELS, bytes, &work.e));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_ERRORS, bytes, &device));
    qs_team_run(qs_workspace_team(workspace), job->n_out, ROWS, subtract_rows, &work);
    QS_TRY(qs_backend_upload(qs_workspace_backend(workspace), device, work.e, (size_t)bytes));
    *out = device;
out:
    return err;
}

/* The task's errors, or without `errors` its weights. */
static qs_err sum_on_device(qs_workspace *workspace, const qs_quant_task *task, bool errors, sums *out)
{
    const qs_quant_job *job = task->job;
    const qs_packed *packed = errors ? &task->out->packed : NULL;
    qs_backend *backend = qs_workspace_backend(workspace);
    const qs_solver_ops *solver = qs_backend_solver(backend);
    bool known = packed == NULL || packed->format == QS_PACKED_INT;
    qs_loss_job loss = {.n_out = job->n_out, .n_in = job->n_in, .packed = known ? packed : NULL,
                        .h = job->factors != NULL ? qs_factor_h(job->factors) : NULL};
    if (errors && task->columns != NULL) { /* methods that fold have codes that the device knows */
        loss.columns = task->columns;
        loss.rows = task->rows;
    }
    void *scratch;
    qs_err err;
    if (known)
        QS_TRY(qs_workspace_weights(workspace, job->weights, job->n_out * job->n_in, &loss.weights));
    else
        QS_TRY(upload_errors(workspace, job, packed, &loss.weights));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_SOLVER, (int64_t)solver->loss_bytes(&loss), &scratch));
    QS_TRY(solver->loss(backend, &loss, scratch, &out->squares, &out->form));
out:
    return err;
}

static qs_err measure_on_device(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    sums whole = {0}, part = {0};
    const qs_quant_job *job = NULL;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_tasks; i++) {
        if (job != tasks[i].job) QS_TRY(sum_on_device(workspace, &tasks[i], false, &whole));
        job = tasks[i].job;
        QS_TRY(sum_on_device(workspace, &tasks[i], true, &part));
        QS_TRY(set_result(&tasks[i], part, whole));
    }
out:
    return err;
}

static qs_err measure_tiles(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_team *team = qs_workspace_team(workspace);
    int64_t n_items = 0, n = 0;
    const float *h = NULL;
    item *items;
    lane *lanes;
    qs_err err;
    for (int64_t i = 0; i < n_tasks; i++) n_items += 2 * ((tasks[i].job->n_out + R - 1) / R);
    QS_TRY(qs_workspace_host(workspace, QS_HOST_ITEMS, n_items * (int64_t)sizeof *items, &items));
    QS_TRY(make_lanes(&lanes, workspace, tasks, n_tasks, qs_team_n_threads(team)));
    for (int64_t i = 0; i < n_tasks; i++) {
        h = NULL;
        if (tasks[i].job->factors != NULL) QS_TRY(qs_factor_h_host(tasks[i].job->factors, &h));
        if (i == 0 || tasks[i].job != tasks[i - 1].job) n = add_items(items, n, &tasks[i], false, h);
        if (!form_known(&tasks[i])) n = add_items(items, n, &tasks[i], true, h);
    }
    measuring work = {.ops = qs_tile_best(), .items = items, .lanes = lanes};
    qs_team_run(team, n, 1, measure_items, &work);
    QS_TRY(take_results(items, tasks, n_tasks));
out:
    return err;
}

/* Forms that the solver found serve where they can; the others are measured with the second moments. */
static qs_err measure_on_host(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_quant_task *again = NULL;
    int64_t n = 0, n_known = 0;
    qs_err err;
    QS_TRY(QS_NEW(again, n_tasks, "tasks"));
    for (int64_t i = 0; i < n_tasks; i++)
        if (form_known(&tasks[i])) again[n_known++] = tasks[i];
    QS_TRY(measure_tiles(workspace, tasks, n_tasks));
    for (int64_t i = 0; i < n_known; i++)
        if (!form_known(&again[i])) again[n++] = again[i];
    if (n > 0) QS_TRY(measure_tiles(workspace, again, n));
out:
    qs_mem_free(again);
    return err;
}

qs_err qs_loss_measure(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    if (qs_backend_solver(qs_workspace_backend(workspace)) == NULL)
        return measure_on_host(workspace, tasks, n_tasks);
    return measure_on_device(workspace, tasks, n_tasks);
}
