/* GPTQ (Frantar et al. 2022): columns are coded one by one and those still to come take up the error.
 *
 * Second moments are those of the full-precision model, shared by every point of a grid. The scale of a group
 * is searched when its turn comes (search=1), on the values its columns have by then, with errors weighted by
 * the damped diagonal of H. */
#include <string.h>

#include "base/mem.h"
#include "quant/methods.h"
#include "quant/order.h"
#include "quant/solver.h"

/* What a task needs besides its matrix; tasks with the same input and order share it. */
typedef struct visit {
    const int32_t *order;       /* NULL = natural */
    const float *column_weight; /* in the order of visits, or by column for static scales */
    const float *u;             /* NULL = no damping made H positive definite */
    double damping_used;
} visit;

static bool has_static_scales(const qs_quant_task *task)
{
    return qs_spec_static_scales(task->spec, task->job->n_in);
}

static bool shares_visit(const qs_quant_task *a, const qs_quant_task *b)
{
    const qs_spec *s = a->spec, *t = b->spec;
    if (a->job->factors != b->job->factors || s->damping != t->damping || s->act_order != t->act_order ||
        s->group_aware != t->group_aware || has_static_scales(a) != has_static_scales(b))
        return false;
    return !s->group_aware || s->group_size == t->group_size;
}

static qs_err plan_visit(visit *out, const qs_quant_task *task, int32_t *order, float *column_weight)
{
    const qs_spec *spec = task->spec;
    qs_factor_cache *factors = task->job->factors;
    const float *diag = qs_factor_diag(factors);
    int64_t n_in = task->job->n_in;
    qs_err err;
    if (spec->act_order)
        QS_TRY(qs_order_act(diag, n_in, order));
    else if (spec->group_aware)
        QS_TRY(qs_order_group_aware(diag, n_in, spec->group_size, order));
    else
        order = NULL;
    QS_TRY(qs_factor_get(factors, order, spec->damping, &out->u, &out->damping_used));
    float shift = (float)(out->damping_used * qs_factor_diag_mean(factors));
    bool by_column = has_static_scales(task) || order == NULL;
    for (int64_t i = 0; i < n_in; i++) column_weight[i] = diag[by_column ? i : order[i]] + shift;
    out->order = order;
    out->column_weight = column_weight;
out:
    return err;
}

static qs_err make_packed(const qs_quant_task *task, const visit *v, bool follow_order)
{
    const qs_spec *spec = task->spec;
    qs_packed *packed = &task->out->packed;
    int64_t n_in = task->job->n_in;
    qs_err err;
    QS_TRY(qs_packed_shape(packed, (int)spec->bits, task->job->n_out, n_in, spec->group_size));
    QS_TRY(qs_packed_alloc(packed, !spec->sym, follow_order));
    if (follow_order) memcpy(packed->perm, v->order, (size_t)n_in * sizeof *packed->perm);
out:
    return err;
}

static qs_err prepare(qs_solver_task *out, const qs_quant_task *task, const visit *v)
{
    const qs_spec *spec = task->spec;
    /* With static scales act-order needs no permutation: every column knows its scale. */
    bool follow_order = qs_spec_has_perm(spec, task->job->n_in) && v->u != NULL;
    qs_err err = make_packed(task, v, follow_order);
    if (err != QS_OK) return err;
    *out = (qs_solver_task){
        .weights = task->job->weights,
        .packed = &task->out->packed,
        .rule = {.bits = (int)spec->bits, .sym = spec->sym, .search = spec->search},
        .order = v->u != NULL ? v->order : NULL,
        .u = v->u,
        .column_weight = v->u != NULL ? v->column_weight : NULL,
        .sums = &task->out->known,
        .static_scales = has_static_scales(task),
        .follow_order = follow_order,
    };
    task->out->damping = v->u != NULL ? v->damping_used : 0;
    task->out->fallback = v->u == NULL;
    return QS_OK;
}

/* All at once: each thread finds a tile to work on. */
static qs_err solve_together(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_solver_task *solver_tasks = NULL;
    visit *visits = NULL;
    int32_t *orders;
    float *weights;
    int64_t n_columns = 0, used = 0;
    qs_err err;
    QS_TRY(QS_NEW(solver_tasks, n_tasks, "GPTQ tasks"));
    QS_TRY(QS_NEW(visits, n_tasks, "GPTQ tasks"));
    for (int64_t i = 0; i < n_tasks; i++) n_columns += tasks[i].job->n_in;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_ORDERS, n_columns * (int64_t)sizeof *orders, &orders));
    QS_TRY(qs_workspace_host(workspace, QS_HOST_COLUMN_WEIGHTS, n_columns * (int64_t)sizeof *weights,
                             &weights));
    for (int64_t i = 0; i < n_tasks; i++) {
        int64_t like = 0;
        while (like < i && !shares_visit(&tasks[like], &tasks[i])) like++;
        if (like < i) {
            visits[i] = visits[like];
        } else {
            QS_TRY(plan_visit(&visits[i], &tasks[i], orders + used, weights + used));
            used += tasks[i].job->n_in;
        }
        QS_TRY(prepare(&solver_tasks[i], &tasks[i], &visits[i]));
    }
    QS_TRY(qs_solver_run(workspace, solver_tasks, n_tasks));
out:
    qs_mem_free(solver_tasks);
    qs_mem_free(visits);
    return err;
}

/* A device solves one matrix at a time anyway, and its memory may hold few factors: tasks of one factor
 * together. */
static qs_err solve_by_factor(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_quant_task *some = NULL;
    bool *done = NULL;
    qs_err err;
    QS_TRY(QS_NEW(some, n_tasks, "GPTQ tasks"));
    QS_TRY(QS_NEW(done, n_tasks, "GPTQ tasks"));
    for (int64_t i = 0; i < n_tasks; i++) {
        int64_t n = 0;
        if (done[i]) continue;
        for (int64_t j = i; j < n_tasks; j++) {
            if (done[j] || !shares_visit(&tasks[i], &tasks[j])) continue;
            some[n++] = tasks[j];
            done[j] = true;
        }
        QS_TRY(solve_together(workspace, some, n));
        qs_factor_cache_forget(tasks[i].job->factors);
    }
out:
    qs_mem_free(some);
    qs_mem_free(done);
    return err;
}

static qs_err solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    bool on_device = qs_backend_solver(qs_workspace_backend(workspace)) != NULL;
    return on_device ? solve_by_factor(workspace, tasks, n_tasks) : solve_together(workspace, tasks, n_tasks);
}

/* Widths, and groups unless the spec fixes one. */
static int64_t options(const qs_spec *spec, qs_spec *out)
{
    static const int64_t widths[] = {2, 3, 4, 8}, groups[] = {128, 64, 32};
    int64_t n = 0;
    for (size_t b = 0; b < sizeof widths / sizeof *widths; b++)
        for (size_t g = 0; g < sizeof groups / sizeof *groups; g++) {
            if (spec->group_size != 0 && g > 0) break;
            out[n] = *spec;
            out[n].bpw = 0;
            out[n].bits = widths[b];
            out[n++].group_size = spec->group_size != 0 ? spec->group_size : groups[g];
        }
    return n;
}

const qs_method qs_method_gptq = {
    .name = "gptq",
    .summary = "column by column with error compensation through the inverse second moments",
    .needs = QS_NEED_GRAM,
    .options = options,
    .solve = solve,
};
