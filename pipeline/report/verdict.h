/* Verdicts: every gate of a configuration's profile held against what was measured (docs/gates.md).
 *
 * The verdict compares the point estimate with the budget; `decided` tells whether the whole 95 % interval
 * gives the same verdict, and n_more about how many more samples would make it so. */
#ifndef QS_REPORT_VERDICT_H
#define QS_REPORT_VERDICT_H

#include "data/budgets.h"
#include "report/config_row.h"

/* In order of severity. */
typedef enum qs_verdict {
    QS_VERDICT_PASS,
    QS_VERDICT_WARN,          /* a budget of level warn is missed */
    QS_VERDICT_REVIEW,        /* between budget and certain failure: a person decides */
    QS_VERDICT_NOT_EVALUABLE, /* what the gate needs was not measured */
    QS_VERDICT_BASELINE_FAIL, /* missed, and the reference misses it too: quantisation is not the cause */
    QS_VERDICT_FAIL,
    QS_N_VERDICTS
} qs_verdict;

const char *qs_verdict_name(qs_verdict verdict); /* "NOT_EVALUABLE" */

enum { QS_NEVER = -1 };

typedef struct qs_gate {
    const qs_budget *budget;
    const qs_budget_part *part; /* of a joint gate: the one that decides its verdict */
    const char *metric;   /* what was compared; differs from part->metric where a stand-in was measured */
    qs_estimate estimate; /* NaN when not evaluable */
    qs_verdict verdict;
    bool decided;
    int64_t n_more; /* when not decided: about how many more samples would do; QS_NEVER when none would */
} qs_gate;

typedef struct qs_judgement {
    int64_t n_gates;
    qs_gate *gates; /* [n_gates], in the order of the budgets file */
    int64_t n_by_verdict[QS_N_VERDICTS];
    int64_t n_measured;
    qs_verdict measured; /* the worst of the gates that were measured; NOT_EVALUABLE when none was */
    qs_verdict worst;    /* of all gates */
} qs_judgement;

/* Where one metric is replaced by another estimate of it: a verdict on part of the data. */
typedef struct qs_override {
    const char *metric;
    qs_estimate estimate;
} qs_override;

/* `reference` may be NULL (then nothing is BASELINE_FAIL), and so may `override`. The budgets and the row
 * must outlive the judgement. */
QS_MUST_CHECK qs_err qs_judge(qs_judgement *out, const qs_budgets *budgets, const qs_config_row *config,
                              const qs_config_row *reference, const qs_override *override);
void qs_judgement_free(qs_judgement *judgement);

/* Whether a configuration passes. Gates that were not measured cannot fail it, unless `strict`: then only
 * PASS and WARN on every gate of the profile pass. */
bool qs_judgement_passes(const qs_judgement *judgement, bool strict);

/* The verdict of the summary: `measured`, or `worst` when strict. */
qs_verdict qs_judgement_verdict(const qs_judgement *judgement, bool strict);

/* One comparison: the verdict of an estimate, without stand-ins and reference. */
QS_MUST_CHECK qs_err qs_gate_judge(qs_gate *out, const qs_budget *budget, const qs_measure *measure,
                                   bool reference_fails);

#endif
