/* The output head, for specs that quantise it. */
#include "base/mem.h"
#include "quant/quant_run_impl.h"

/* All specs that quantise the head solve it together, with its weights in memory for as long as that takes. */
static qs_err solve_head(qs_quantizer *q, const qs_spec *specs, qs_quant_task *tasks, int64_t n_tasks)
{
    qs_tensor_info info = qs_model_info(q->model, QS_ROLE_HEAD, 0);
    qs_quant_job job = {.name = qs_role_name(QS_ROLE_HEAD), .n_out = info.n_out, .n_in = info.n_in,
                        .backend = q->backend};
    const float *gram;
    float *weights = NULL;
    int64_t n_tokens;
    qs_err err;
    if (q->grams->get_head == NULL)
        return qs_fail(QS_E_USAGE, "%s needs the second moments of the head's input; re-run qsweep-calibrate",
                       specs[0].id);
    QS_TRY(q->grams->get_head(q->grams->context, &gram, &n_tokens));
    QS_TRY(qs_site_load_moments(q->loader, info.n_in, gram, n_tokens, job.name, &job.factors));
    QS_TRY(QS_NEW(weights, info.n_out * info.n_in, "weights of the head"));
    QS_TRY(qs_model_read_f32(q->model, QS_ROLE_HEAD, 0, weights));
    job.weights = weights;
    for (int64_t i = 0; i < n_tasks; i++) {
        tasks[i].spec = &specs[i];
        tasks[i].job = &job;
    }
    err = qs_quant_solve(q->workspace, tasks, n_tasks);
out:
    qs_mem_free(weights);
    return err;
}

qs_err qs_quantizer_head(qs_quantizer *quantizer, qs_quant_result *out)
{
    qs_spec *specs = NULL;
    int64_t n = 0;
    qs_err err;
    QS_TRY(QS_NEW(specs, quantizer->n_specs, "specs of the head"));
    for (int64_t i = 0; i < quantizer->n_specs; i++) {
        out[i] = (qs_quant_result){0};
        if (!qs_spec_head(&quantizer->specs[i], &specs[n])) continue;
        quantizer->tasks[n++] = (qs_quant_task){.out = &out[i]};
    }
    if (n > 0) QS_TRY(solve_head(quantizer, specs, quantizer->tasks, n));
out:
    qs_mem_free(specs);
    return err;
}
