#include "report/fix_table.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "report/tables.h"

bool qs_fix_counts(const qs_fix_change *changes, int64_t n)
{
    bool improves = false;
    for (int64_t i = 0; i < n; i++) {
        const qs_fix_change *c = &changes[i];
        bool triggers = c->missed && c->aimed;
        if (triggers && qs_fix_improves(c->lower_is_better, c->before, c->after)) improves = true;
        else if (qs_fix_worsens(c->lower_is_better, c->before, c->after)) return false;
    }
    return improves;
}

/* Several budgets of one metric make one change. */
static qs_fix_change *find_change(qs_fix_change *changes, int64_t n, const char *metric)
{
    for (int64_t i = 0; i < n; i++)
        if (strcmp(changes[i].metric, metric) == 0) return &changes[i];
    return NULL;
}

qs_err qs_fix_changes_read(const qs_sweep_config *config, const qs_artifact *artifact, const qs_fix *fix,
                           qs_fix_change *changes, int64_t *n)
{
    *n = 0;
    for (int64_t i = 0; i < config->judgement.n_gates; i++) {
        const qs_gate *gate = &config->judgement.gates[i];
        char path[QS_PATH_BYTES];
        double after;
        qs_err err = qs_path_format(path, "/fixes/%s/%s/@value", fix->name, gate->metric);
        if (err != QS_OK) return err;
        if (gate->verdict == QS_VERDICT_NOT_EVALUABLE || !qs_artifact_has(artifact, path)) continue;
        err = qs_artifact_get_real(artifact, path, &after);
        if (err != QS_OK) return err;
        qs_fix_change *change = find_change(changes, *n, gate->metric);
        if (change == NULL) {
            change = &changes[(*n)++];
            *change = (qs_fix_change){.metric = gate->metric, .lower_is_better = gate->part->upper,
                                      .aimed = qs_fix_aims_at(fix, gate->metric), .before = gate->estimate.value,
                                      .after = after};
        }
        change->missed = change->missed || gate->verdict != QS_VERDICT_PASS;
    }
    return QS_OK;
}

static qs_err write_changes(qs_csv_writer *w, const char *id, const qs_fix *fix, const qs_fix_change *changes,
                            int64_t n)
{
    bool counts = qs_fix_counts(changes, n);
    for (int64_t i = 0; i < n; i++) {
        const qs_fix_change *c = &changes[i];
        qs_table_put_text(w, id);
        qs_csv_put_text(w, fix->name);
        qs_csv_put_text(w, c->metric);
        qs_csv_put_real(w, c->before);
        qs_csv_put_real(w, c->after);
        qs_csv_put_text(w, c->missed && c->aimed ? "yes" : "no");
        qs_csv_put_text(w, qs_fix_improves(c->lower_is_better, c->before, c->after)  ? "better"
                           : qs_fix_worsens(c->lower_is_better, c->before, c->after) ? "worse"
                                                                                     : "same");
        qs_csv_put_text(w, counts ? "yes" : "no");
        qs_err err = qs_csv_end_row(w);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

static qs_err write_config(qs_csv_writer *w, const qs_sweep_config *config)
{
    qs_artifact *artifact = NULL;
    qs_fix_change *changes = NULL;
    int64_t n;
    qs_err err;
    QS_TRY(qs_artifact_open(&artifact, config->row.path, QS_KIND_EVAL));
    QS_TRY(QS_NEW(changes, config->judgement.n_gates, "changes of gates"));
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++) {
        QS_TRY(qs_fix_changes_read(config, artifact, fix, changes, &n));
        QS_TRY(write_changes(w, config->row.id, fix, changes, n));
    }
out:
    qs_mem_free(changes);
    qs_artifact_close(artifact);
    return qs_context(err, "fixes of %s", config->row.path);
}

qs_err qs_write_fixes(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    qs_csv_writer w;
    qs_err err = QS_OK;
    (void)selection;
    qs_columns_begin(&w, stream, qs_fixes_columns, false);
    for (int64_t i = 0; i < sweep->n && err == QS_OK; i++) err = write_config(&w, &sweep->configs[i]);
    return err;
}
