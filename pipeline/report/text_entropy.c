#include "report/text_entropy.h"

#include "base/mem.h"

qs_err qs_text_entropy(const qs_artifact *artifact, double **mean, int64_t *n)
{
    qs_dataset_info info;
    float *entropy = NULL;
    qs_err err = QS_OK;
    *mean = NULL;
    *n = 0;
    if (!qs_artifact_has(artifact, "/tokens/entropy")) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, "/tokens/entropy", &info));
    if (info.rank != 2 || info.dims[0] < 1) return QS_OK;
    QS_TRY(QS_NEW(entropy, info.n, "entropies"));
    QS_TRY(QS_NEW(*mean, info.dims[1], "mean entropies"));
    QS_TRY(qs_artifact_read(artifact, "/tokens/entropy", QS_F32, entropy, info.n));
    for (int64_t i = 0; i < info.n; i++) (*mean)[i % info.dims[1]] += (double)entropy[i] / (double)info.dims[0];
    *n = info.dims[1];
out:
    qs_mem_free(entropy);
    return err;
}
