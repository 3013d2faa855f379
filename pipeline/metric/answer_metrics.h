/* Metrics of a configuration's answers, by themselves and beside the reference's (docs/answers.md). All are of the
 * greedy runs, a question's wordings being one independent unit; runs with seeds are for lambda. */
#ifndef QS_METRIC_ANSWER_METRICS_H
#define QS_METRIC_ANSWER_METRICS_H

#include "metric/answers.h"
#include "metric/quality.h"

typedef struct qs_answer_input {
    const qs_questions *questions; /* the items of `answers` */
    const qs_answers *answers;
    const qs_answers *reference; /* its first items are the same; NULL with QS_QUALITY_OWN */
    unsigned tasks;
    qs_quality_part part;
    uint64_t seed;
} qs_answer_input;

/* Calls `put` with each metric that is asked for and defined. QS_E_INPUT when the reference has fewer runs. */
QS_MUST_CHECK qs_err qs_answer_measure(const qs_answer_input *input, qs_metric_sink put, void *context);

#endif
