/* Selection: which passing configuration to ship. Chosen on one half of the evaluation windows and confirmed
 * once on the other: the best of many noisy figures is better than it really is, and the half that did not
 * choose shows by how much (docs/gates.md). */
#ifndef QS_REPORT_SELECTION_H
#define QS_REPORT_SELECTION_H

#include "report/pareto.h"
#include "report/sweep.h"
#include "report/text_table.h"

enum { QS_COST_QUALITY, QS_COST_BPW, QS_COST_LATENCY };

typedef struct qs_selection_point {
    const qs_sweep_config *config;
    bool halved;                                /* the two estimates below exist */
    qs_estimate select, confirm;                /* ppl_ratio on the even and on the odd windows */
    qs_verdict select_verdict, confirm_verdict; /* with ppl_ratio replaced by the half's */
} qs_selection_point;

typedef struct qs_selection {
    int64_t n;
    qs_selection_point *points; /* [n], one for each configuration besides the reference */
    qs_pareto_point *front;     /* [n] */
    bool used[QS_PARETO_DIMS];  /* dimensions that were compared */
    int64_t chosen;             /* index, or -1 */
    bool confirmed;
    qs_sentence reason; /* one sentence: why this one, or why none */
} qs_selection;

QS_MUST_CHECK qs_err qs_selection_make(qs_selection *out, const qs_sweep *sweep, const qs_budgets *budgets,
                                       uint64_t seed);
void qs_selection_free(qs_selection *selection);

/* ppl over the reference's on the windows of one parity (0 even, 1 odd), with its interval. *present is false
 * when either has no NLL or there is no such window. */
QS_MUST_CHECK qs_err qs_selection_half(const qs_config_row *config, const qs_config_row *reference,
                                       int parity, uint64_t seed, qs_estimate *out, bool *present);

#endif
