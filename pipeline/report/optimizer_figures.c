#include "report/optimizer_figures.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "data/budgets.h"

static qs_err read_measure(qs_measure *out, const qs_artifact *artifact, const char *name)
{
    const qs_metric metric = {.name = name};
    bool present;
    *out = (qs_measure){0};
    (void)snprintf(out->name, sizeof out->name, "%s", name);
    qs_err err = qs_metric_get(artifact, &metric, &out->estimate, &present);
    if (err == QS_OK && !present) err = qs_fail(QS_E_INPUT, "read /metrics/%s: it has no value", name);
    out->fact = out->estimate.lo == out->estimate.hi;
    return err;
}

qs_err qs_optimizer_figures_load(qs_optimizer_figures *figures, const char *path)
{
    qs_artifact *artifact = NULL;
    char **names = NULL;
    int64_t n = 0;
    qs_err err;
    QS_TRY(qs_artifact_open(&artifact, path, QS_KIND_OPTIM));
    qs_digest digest = qs_artifact_digest(artifact);
    if (figures->path[0] != '\0') {
        if (digest.low != figures->digest.low || digest.high != figures->digest.high)
            err = qs_fail(QS_E_INPUT,
                          "report %s and %s together: two comparisons of optimizers; give one of them",
                          figures->path, path);
        goto out;
    }
    QS_TRY(qs_artifact_list(artifact, "/metrics", &names, &n));
    QS_TRY(QS_NEW(figures->measures, n, "figures of the optimizer"));
    for (int64_t i = 0; i < n; i++) QS_TRY(read_measure(&figures->measures[i], artifact, names[i]));
    QS_TRY(qs_path_format(figures->path, "%s", path));
    figures->digest = digest;
    figures->n = n;
out:
    qs_dir_list_free(names, n);
    qs_artifact_close(artifact);
    return err;
}

void qs_optimizer_figures_free(qs_optimizer_figures *figures)
{
    qs_mem_free(figures->measures);
    *figures = (qs_optimizer_figures){0};
}

qs_err qs_optimizer_figures_add(const qs_optimizer_figures *figures, qs_config_row *row)
{
    qs_measure *measures;
    if (figures->n == 0 || row->reference || strcmp(qs_budgets_profile(row->method), "bnb") != 0)
        return QS_OK;
    qs_err err = QS_NEW(measures, row->n_measures + figures->n, "measures");
    if (err != QS_OK) return err;
    if (row->n_measures > 0) memcpy(measures, row->measures, (size_t)row->n_measures * sizeof *measures);
    memcpy(measures + row->n_measures, figures->measures, (size_t)figures->n * sizeof *measures);
    qs_mem_free(row->measures);
    row->measures = measures;
    row->n_measures += figures->n;
    return QS_OK;
}
