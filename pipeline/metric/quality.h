/* Language-model quality of one point from its scores per position, paired with the reference's
 * (docs/perplexity.md). */
#ifndef QS_METRIC_QUALITY_H
#define QS_METRIC_QUALITY_H

#include "metric/bootstrap.h"
#include "metric/score.h"
#include "metric/windows.h"

/* Metrics of the point by itself, and those that compare it with the reference. */
typedef enum qs_quality_part {
    QS_QUALITY_OWN = 1,
    QS_QUALITY_PAIRED = 2,
    QS_QUALITY_ALL = 3
} qs_quality_part;

typedef struct qs_quality_input {
    const qs_windows *windows;
    const qs_token_scores *scores;    /* of the point; with kld when QS_TASK_KLD is among the tasks */
    const qs_token_scores *reference; /* nll and argmax are used */
    unsigned tasks;
    qs_quality_part part;
    uint64_t seed;
} qs_quality_input;

/* Measures every metric of the tasks that this input allows and calls `put` with each, in the order of
 * qs_metrics. A metric that is not defined for the data (a relative loss of nothing) is left out. */
typedef qs_err (*qs_metric_sink)(void *context, const qs_metric *metric, const qs_estimate *estimate);
QS_MUST_CHECK qs_err qs_quality_measure(const qs_quality_input *input, qs_metric_sink put, void *context);

/* Sums over the scored positions of one window, of which these metrics are functions. */
enum { QS_QUALITY_SUMS = 9 };
void qs_quality_sum_window(const qs_quality_input *input, int64_t window, double sums[QS_QUALITY_SUMS]);

/* Metrics that lie above this limit exactly where a mean over windows lies above 0; and the number of one
 * window that is to be averaged for it: of ppl_ratio the mean difference of its NLL less the limit's
 * logarithm. */
bool qs_quality_is_mean(const char *metric, double limit);
double qs_quality_excess(const char *metric, double limit, const double sums[QS_QUALITY_SUMS]);

#endif
