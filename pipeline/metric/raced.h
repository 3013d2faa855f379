/* What a race leaves in an eval artifact (metric/race.h). A point that stopped early holds the windows that it
 * was read on, in the order of the text, and no others: its tokens are not those of the whole text, so no
 * evaluation of the whole takes it for current. A point that went to the end is whole, and says that it
 * raced. */
#ifndef QS_METRIC_RACED_H
#define QS_METRIC_RACED_H

#include "metric/eval_file.h"
#include "metric/race.h"

typedef struct qs_raced {
    bool raced;            /* the artifact is of a race */
    int64_t n_windows;     /* those it was read on */
    int64_t n_windows_all; /* those that there were */
    qs_race_decision decision;
    char missed[QS_BUDGET_NAME_BYTES]; /* the metric for which it was dropped; "" = none */
    qs_digest tokens;      /* of the ids of all windows */
    qs_digest rules;       /* qs_race_digest */
} qs_raced;

QS_MUST_CHECK qs_err qs_raced_put(qs_artifact *artifact, const qs_raced *raced);
/* QS_E_INPUT for counts that cannot be and decisions that there are not. */
QS_MUST_CHECK qs_err qs_raced_get(const qs_artifact *artifact, qs_raced *out);
/* Whether figures are means over a part of the windows. */
bool qs_raced_is_partial(const qs_raced *raced);

/* The part of an evaluation that a race ended early saw: its windows, and the scores of the point and of the reference
 * there. Free also after failure. */
typedef struct qs_raced_part {
    qs_windows windows;
    qs_token_scores scores, reference;
} qs_raced_part;

/* Of the first n windows of an order. scores and reference may be NULL: then windows alone. */
QS_MUST_CHECK qs_err qs_raced_part_make(qs_raced_part *out, const qs_windows *windows, const qs_token_scores *scores,
                                        const qs_token_scores *reference, const int64_t *order, int64_t n);
void qs_raced_part_free(qs_raced_part *part);

#endif
