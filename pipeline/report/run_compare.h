/* Two runs of one grid side by side: what became better or worse beyond noise, gate by gate. */
#ifndef QS_REPORT_RUN_COMPARE_H
#define QS_REPORT_RUN_COMPARE_H

#include "base/json.h"
#include "report/sweep.h"

typedef enum qs_change_kind { QS_CHANGE_SAME, QS_CHANGE_BETTER, QS_CHANGE_WORSE } qs_change_kind;

/* The figure of one gate of one configuration in both runs. */
typedef struct qs_run_change {
    const qs_sweep_config *before, *after;
    const qs_gate *was, *is;
    qs_change_kind kind;
} qs_run_change;

typedef struct qs_run_changes {
    int64_t n, n_better, n_worse, n_only_before, n_only_after; /* the last two: configurations */
    qs_run_change *changes; /* [n] */
} qs_run_changes;

/* Beyond noise: two independent estimates whose difference is more than the root of the summed squares of their half
 * intervals; any difference of facts, which have no interval. `lower_is_better` as the budget says. */
qs_change_kind qs_change_of(const qs_estimate *before, const qs_estimate *after, bool lower_is_better);

/* Gates that both runs measured of configurations that both hold; one for each metric. QS_E_INPUT when the runs
 * measured another model, other tokens or by another protocol. Both sweeps must outlive the result. */
QS_MUST_CHECK qs_err qs_runs_compare(qs_run_changes *out, const qs_sweep *before, const qs_sweep *after);
void qs_run_changes_free(qs_run_changes *changes);

/* For people: what changed, in a table, and a sentence. */
QS_MUST_CHECK qs_err qs_run_changes_print(FILE *stream, const qs_run_changes *changes, bool markdown);
/* The same as a document, every gate that was compared; NULL when memory runs out. */
json_t *qs_run_changes_json(const qs_run_changes *changes);
/* compare.csv: every gate that was compared. */
QS_MUST_CHECK qs_err qs_run_changes_write(FILE *stream, const qs_run_changes *changes);

#endif
