#include "quant/methods.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "quant/loss.h"

const qs_method *const qs_methods[] = {&qs_method_rtn, &qs_method_gptq, &qs_method_awq, &qs_method_nf4,
                                       &qs_method_fp4, &qs_method_int8, &qs_method_exl2, NULL};

const qs_method *qs_method_find(const char *name)
{
    for (int i = 0; qs_methods[i] != NULL; i++)
        if (strcmp(qs_methods[i]->name, name) == 0) return qs_methods[i];
    return NULL;
}

static qs_err check(const qs_quant_task *task)
{
    const qs_quant_job *job = task->job;
    qs_err err = qs_spec_check_row(task->spec, job->n_in, job->name);
    if (err != QS_OK) return err;
    if (task->spec->bpw > 0)
        return qs_fail(QS_E_USAGE, "quantize %s with %s: a budget is shared out among all matrices first", job->name,
                       task->spec->id);
    if ((task->spec->method->needs & QS_NEED_GRAM) != 0 && job->factors == NULL)
        return qs_fail(QS_E_INPUT,
                       "quantize %s with %s: the method needs second moments; give a calibration file",
                       job->name, task->spec->id);
    if ((task->spec->method->needs & QS_NEED_ABS) != 0 && job->abs_mean == NULL)
        return qs_fail(QS_E_INPUT, "quantize %s with %s: the method needs the inputs' mean size", job->name,
                       task->spec->id);
    if (task->spec->method->folds && task->columns == NULL)
        return qs_fail(QS_E_USAGE, "quantize %s with %s: the method folds scalings and needs a place for them",
                       job->name, task->spec->id);
    return QS_OK;
}

static qs_err check_weights(qs_workspace *workspace, const qs_quant_job *job)
{
    int64_t at =
        qs_workspace_find_nonfinite(qs_workspace_team(workspace), job->weights, job->n_out * job->n_in);
    if (at >= 0)
        return qs_fail(QS_E_NUMERIC, "quantize %s: weight [%" PRId64 ", %" PRId64 "] is not finite",
                       job->name, at / job->n_in, at % job->n_in);
    return QS_OK;
}

/* Tasks of one method together, in their order. */
static qs_err solve_method(qs_workspace *workspace, const qs_method *method, const qs_quant_task *tasks,
                           int64_t n_tasks, qs_quant_task *chosen)
{
    int64_t n = 0;
    for (int64_t i = 0; i < n_tasks; i++)
        if (tasks[i].spec->method == method) chosen[n++] = tasks[i];
    return n > 0 ? method->solve(workspace, chosen, n) : QS_OK;
}

qs_err qs_quant_solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_quant_task *chosen = NULL;
    qs_err err;
    qs_workspace_forget_weights(workspace);
    for (int64_t i = 0; i < n_tasks; i++) *tasks[i].out = (qs_quant_result){0};
    for (int64_t i = 0; i < n_tasks; i++) {
        QS_TRY(check(&tasks[i]));
        if (i == 0 || tasks[i].job != tasks[i - 1].job) QS_TRY(check_weights(workspace, tasks[i].job));
    }
    QS_TRY(QS_NEW(chosen, n_tasks, "tasks"));
    for (int m = 0; qs_methods[m] != NULL; m++)
        QS_TRY(solve_method(workspace, qs_methods[m], tasks, n_tasks, chosen));
    QS_TRY(qs_loss_measure(workspace, tasks, n_tasks));
out:
    qs_workspace_forget_weights(workspace);
    qs_mem_free(chosen);
    for (int64_t i = 0; err != QS_OK && i < n_tasks; i++) {
        qs_packed_free(&tasks[i].out->packed);
        *tasks[i].out = (qs_quant_result){0};
    }
    return err;
}
