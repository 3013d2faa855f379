/* AWQ (Lin et al. 2023): channels whose inputs are large are scaled up before they are coded and their inputs
 * down, so that rounding costs them less. The scaling is folded into what makes the inputs (quant/fold.h).
 * Inputs and their second moments are those of the full-precision model. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "quant/awq_search.h"

/* Specs that search alike find the same columns; those that follow may take them over. */
static bool searches_alike(const qs_quant_task *a, const qs_quant_task *b)
{
    const qs_spec *s = a->spec, *t = b->spec;
    return !a->given && !b->given && a->job->factors == b->job->factors && s->bits == t->bits &&
           s->group_size == t->group_size && s->sym == t->sym && s->weight_stats == t->weight_stats;
}

/* The second moments of the scaled inputs: columns divide both sides of H. */
static qs_err scaled_factors(qs_factor_cache **out, qs_workspace *workspace, const qs_awq_site *site)
{
    const qs_quant_task *task = &site->tasks[0];
    int64_t n = task->job->n_in, at = 0;
    float *packed;
    qs_err err = qs_workspace_host(workspace, QS_HOST_SCALES, n * (n + 1) / 2 * (int64_t)sizeof *packed,
                                   &packed);
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            packed[at++] = site->h[i * n + j] / task->columns[i] / task->columns[j];
    return qs_factor_cache_create(out, workspace, packed, n, 1, task->job->name);
}

/* Codes the folded weights: rounds them, or lets GPTQ do it. */
static qs_err code(qs_workspace *workspace, const qs_awq_site *site, const qs_quant_job *jobs)
{
    const qs_spec *spec = site->tasks[0].spec;
    qs_factor_cache *factors = NULL;
    qs_quant_task *tasks = NULL;
    qs_quant_job *own_jobs = NULL;
    char text[QS_SPEC_TEXT_BYTES];
    qs_spec by_gptq;
    qs_err err;
    QS_TRY(QS_NEW(tasks, site->n, "AWQ tasks"));
    QS_TRY(QS_NEW(own_jobs, site->n, "AWQ tasks"));
    (void)snprintf(text, sizeof text, "gptq:bits=%" PRId64 ",group=%" PRId64 ",sym=%d", spec->bits,
                   spec->group_size, spec->sym);
    QS_TRY(qs_spec_parse(&by_gptq, text));
    if (spec->then_gptq) QS_TRY(scaled_factors(&factors, workspace, site));
    for (int64_t m = 0; m < site->n; m++) {
        own_jobs[m] = jobs[m];
        own_jobs[m].factors = factors;
        tasks[m] = (qs_quant_task){
            .spec = spec->then_gptq ? &by_gptq : spec, .job = &own_jobs[m], .out = site->tasks[m].out};
    }
    qs_workspace_forget_weights(workspace); /* the same memory held another spec's */
    QS_TRY((spec->then_gptq ? &qs_method_gptq : &qs_method_rtn)->solve(workspace, tasks, site->n));
    qs_workspace_forget_weights(workspace);
out:
    qs_factor_cache_destroy(factors);
    qs_mem_free(tasks);
    qs_mem_free(own_jobs);
    return err;
}

/* The columns are found. */
static qs_err solve_site(qs_workspace *workspace, const qs_awq_site *site)
{
    qs_quant_job *jobs = NULL;
    int64_t n_weights = 0;
    float *folded;
    qs_err err;
    for (int64_t m = 0; m < site->n; m++) n_weights += site->tasks[m].job->n_out * site->tasks[m].job->n_in;
    QS_TRY(QS_NEW(jobs, site->n, "AWQ tasks"));
    QS_TRY(qs_workspace_host(workspace, QS_HOST_FOLDED, n_weights * (int64_t)sizeof *folded, &folded));
    for (int64_t m = 0; m < site->n; m++) {
        const qs_quant_task *task = &site->tasks[m];
        bool clip = task->given ? task->clip : task->spec->clip;
        QS_TRY(qs_awq_fold_weights(workspace, task, site->h, clip, folded));
        jobs[m] = *task->job;
        jobs[m].weights = folded;
        folded += task->job->n_out * task->job->n_in;
    }
    QS_TRY(code(workspace, site, jobs));
out:
    qs_mem_free(jobs);
    return err;
}

/* The columns of a task that was solved before and searches alike, or NULL. */
static const float *known_columns(const qs_quant_task *tasks, const qs_quant_task *first,
                                  const qs_quant_task *task)
{
    for (const qs_quant_task *t = tasks; t < first; t++)
        if (searches_alike(t, task) && t->columns != task->columns) return t->columns;
    return NULL;
}

static qs_err solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_quant_task *some = NULL;
    bool *done = NULL;
    qs_err err;
    QS_TRY(QS_NEW(some, n_tasks, "AWQ tasks"));
    QS_TRY(QS_NEW(done, n_tasks, "AWQ tasks"));
    for (int64_t i = 0; i < n_tasks; i++) {
        qs_awq_site site = {.tasks = some};
        if (done[i]) continue;
        for (int64_t j = i; j < n_tasks; j++) {
            if (tasks[j].columns != tasks[i].columns) continue;
            some[site.n++] = tasks[j];
            done[j] = true;
        }
        QS_TRY(qs_factor_h_host(some[0].job->factors, &site.h));
        const float *known = known_columns(tasks, &tasks[i], &tasks[i]);
        if (known != NULL)
            memcpy(some[0].columns, known, (size_t)some[0].job->n_in * sizeof *known);
        else if (!some[0].given)
            QS_TRY(qs_awq_find_columns(workspace, &site, some[0].columns));
        QS_TRY(solve_site(workspace, &site));
    }
out:
    qs_mem_free(some);
    qs_mem_free(done);
    return err;
}

const qs_method qs_method_awq = {
    .name = "awq",
    .summary = "channels scaled by the size of their inputs, rounded to nearest or coded by GPTQ",
    .needs = QS_NEED_GRAM | QS_NEED_ABS,
    .folds = true,
    .solve = solve,
};
