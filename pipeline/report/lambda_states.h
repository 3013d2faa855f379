/* States of single runs as an eval artifact holds them: what items.csv and the page tell of λ
 * (docs/lambda.md). */
#ifndef QS_REPORT_LAMBDA_STATES_H
#define QS_REPORT_LAMBDA_STATES_H

#include "metric/lines.h"
#include "metric/probe.h"
#include "metric/semantics.h"

typedef struct qs_lambda_states {
    int64_t n_items;
    int32_t *runs; /* [n_items, QS_LAMBDA_RUNS] qs_lambda; -1 = none: an item without an anchor */
    qs_lines qids; /* of the items */
    int64_t n_probed;
    int32_t *probe; /* [n_probed, QS_PROBE_KS, QS_PROBE_HEADERS], the first items; NULL without --probe */
} qs_lambda_states;

/* Leaves all at zero where the artifact holds no states. QS_E_INPUT for another shape or what is no state.
 * Free also after failure. */
QS_MUST_CHECK qs_err qs_lambda_states_read(qs_lambda_states *out, const qs_artifact *artifact);
void qs_lambda_states_free(qs_lambda_states *states);

/* The state of a run of the questions (metric/questions.h), or -1: greedy runs and the question itself have
 * none. */
int qs_lambda_states_of_run(const qs_lambda_states *states, int64_t item, int64_t wording, int64_t seed);

#endif
