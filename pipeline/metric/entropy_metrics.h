/* Metrics of entropy curves and long texts (metrics.md §3). The gate looks at two curves, each the mean of its
 * sequences step by step: held-out text, and the reference's own long texts. Of long texts the mean of what repeats
 * itself is looked at too, in what each of both writes freely. */
#ifndef QS_METRIC_ENTROPY_METRICS_H
#define QS_METRIC_ENTROPY_METRICS_H

#include "metric/long_runs.h"
#include "metric/quality.h"

/* Entropies of n sequences of n_steps steps, of a configuration and, the same steps, of the reference. */
typedef struct qs_curve_pair {
    int64_t n, n_steps;
    const float *entropy, *reference; /* [n, n_steps] */
    /* [n, n_steps]: qs_curve_repetitions of what each writes freely; NULL = none */
    const double *again, *reference_again;
} qs_curve_pair;

typedef struct qs_entropy_input {
    qs_curve_pair text;            /* n = 0: none */
    const qs_long_runs *runs;      /* NULL = none */
    const qs_long_runs *reference; /* its first runs are the same; NULL with QS_QUALITY_OWN */
    qs_quality_part part;
    uint64_t seed;
} qs_entropy_input;

QS_MUST_CHECK qs_err qs_entropy_measure(const qs_entropy_input *input, qs_metric_sink put, void *context);

#endif
