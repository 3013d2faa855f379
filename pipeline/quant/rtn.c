/* Round to nearest: each weight gets the code next to it. Needs no calibration. */
#include "base/mem.h"
#include "quant/methods.h"
#include "quant/solver.h"

static qs_err solve(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    qs_solver_task *solver_tasks = NULL;
    qs_err err;
    QS_TRY(QS_NEW(solver_tasks, n_tasks, "RTN tasks"));
    for (int64_t i = 0; i < n_tasks; i++) {
        const qs_spec *spec = tasks[i].spec;
        const qs_quant_job *job = tasks[i].job;
        qs_packed *packed = &tasks[i].out->packed;
        QS_TRY(qs_packed_shape(packed, (int)spec->bits, job->n_out, job->n_in, spec->group_size));
        QS_TRY(qs_packed_alloc(packed, !spec->sym, false));
        solver_tasks[i] = (qs_solver_task){
            .weights = job->weights,
            .packed = packed,
            .rule = {.bits = (int)spec->bits, .sym = spec->sym, .search = spec->search},
            .static_scales = qs_spec_static_scales(spec, job->n_in),
        };
    }
    QS_TRY(qs_solver_run(workspace, solver_tasks, n_tasks));
out:
    qs_mem_free(solver_tasks);
    return err;
}

const qs_method qs_method_rtn = {
    .name = "rtn",
    .summary = "round to nearest, scales from the weights alone",
    .needs = 0,
    .solve = solve,
};
