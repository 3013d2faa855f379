#include "report/lambda_states.h"

#include "base/mem.h"

static qs_err read_probe(qs_lambda_states *out, const qs_artifact *artifact)
{
    qs_dataset_info info;
    qs_err err;
    QS_TRY(qs_artifact_info(artifact, "/probe/states", &info));
    if (info.rank != 3 || info.dims[0] > out->n_items || info.dims[1] != QS_PROBE_KS ||
        info.dims[2] != QS_PROBE_HEADERS)
        return qs_fail(QS_E_INPUT, "read /probe/states: it has not the shape of states; re-run %s",
                       qs_artifact_kind_stage(QS_KIND_EVAL));
    QS_TRY(QS_NEW(out->probe, info.n, "states of the probe"));
    QS_TRY(qs_artifact_read(artifact, "/probe/states", QS_I32, out->probe, info.n));
    for (int64_t i = 0; i < info.n; i++)
        if (out->probe[i] < -1 || out->probe[i] >= QS_N_LAMBDAS)
            return qs_fail(QS_E_INPUT, "read /probe/states: %d is no state; re-run %s", out->probe[i],
                           qs_artifact_kind_stage(QS_KIND_EVAL));
    out->n_probed = info.dims[0];
out:
    return err;
}

qs_err qs_lambda_states_read(qs_lambda_states *out, const qs_artifact *artifact)
{
    qs_semantics semantics = {0};
    qs_err err = QS_OK;
    *out = (qs_lambda_states){0};
    if (!qs_artifact_has(artifact, "/semantic/lambda")) return QS_OK;
    QS_TRY(qs_semantics_read(&semantics, artifact));
    QS_TRY(qs_lines_read(&out->qids, artifact, "/qa/qids", semantics.n_items));
    out->n_items = semantics.n_items;
    out->runs = semantics.states;
    semantics.states = NULL;
    if (qs_artifact_has(artifact, "/probe/states")) QS_TRY(read_probe(out, artifact));
out:
    qs_semantics_free(&semantics);
    return err;
}

void qs_lambda_states_free(qs_lambda_states *states)
{
    qs_mem_free(states->runs);
    qs_mem_free(states->probe);
    qs_lines_free(&states->qids);
    *states = (qs_lambda_states){0};
}

int qs_lambda_states_of_run(const qs_lambda_states *states, int64_t item, int64_t wording, int64_t seed)
{
    if (item >= states->n_items || wording < 1 || seed < 0) return -1;
    return states->runs[item * QS_LAMBDA_RUNS + (wording - 1) * QS_SEEDS + seed];
}
