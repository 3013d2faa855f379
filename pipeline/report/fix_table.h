/* fixes.csv: what each fix that an evaluation tried (--fix) made of the gates, and whether it counts
 * (docs/fixes.md). */
#ifndef QS_REPORT_FIX_TABLE_H
#define QS_REPORT_FIX_TABLE_H

#include "metric/fixes.h"
#include "report/selection.h"

/* One gate's figure before and after. */
typedef struct qs_fix_change {
    const char *metric;
    bool lower_is_better, missed, aimed; /* missed before; a gate that the fix is meant for */
    double before, after;
} qs_fix_change;

/* A fix counts when a gate that it is meant for and that was missed improves, and no other gate worsens by more
 * than 3 %. */
bool qs_fix_counts(const qs_fix_change *changes, int64_t n);

/* What a fix made of a configuration's measured gates: changes [n_gates of the judgement], of which *n are filled,
 * none where it was not tried. */
QS_MUST_CHECK qs_err qs_fix_changes_read(const qs_sweep_config *config, const qs_artifact *artifact, const qs_fix *fix,
                                         qs_fix_change *changes, int64_t *n);

QS_MUST_CHECK qs_err qs_write_fixes(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);

#endif
