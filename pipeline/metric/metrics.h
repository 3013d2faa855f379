/* Metrics as rows: what each number is called, where it lives in an eval artifact, and which way is better.
 * evaluate measures them, report prints them; --list, docs/columns.md and the CSV headers come from here. */
#ifndef QS_METRIC_METRICS_H
#define QS_METRIC_METRICS_H

#include <stdbool.h>
#include <stdio.h>

#include "artifact/artifact.h"

typedef enum qs_better { QS_BETTER_LOWER, QS_BETTER_HIGHER, QS_BETTER_NONE } qs_better;

typedef enum qs_task {
    QS_TASK_NONE = 0, /* always */
    QS_TASK_PPL = 1, QS_TASK_KLD = 2, QS_TASK_LATENCY = 4, QS_TASK_MEMORY = 8,
    QS_TASK_SEMANTIC = 16, QS_TASK_JSON = 32, QS_TASK_ENTROPY = 64, QS_TASK_PROBE = 128
} qs_task;

typedef struct qs_metric {
    const char *name; /* group under /metrics, or under /timing when it varies from run to run */
    const char *unit;
    qs_better better;
    qs_task task; /* the --tasks entry that measures it */
    bool timing;
    bool needs_reference; /* compares with the reference */
    const char *text;
} qs_metric;

extern const qs_metric qs_metrics[]; /* ends with name == NULL */
const qs_metric *qs_metric_find(const char *name);

/* A value with its 95 % confidence interval; lo = hi = value when it has none. n = independent units. */
typedef struct qs_estimate {
    double value, lo, hi;
    int64_t n;
} qs_estimate;

QS_MUST_CHECK qs_err qs_metric_put(qs_artifact *artifact, const qs_metric *metric,
                                   const qs_estimate *estimate);
/* *present is false when the artifact does not hold the metric. */
QS_MUST_CHECK qs_err qs_metric_get(const qs_artifact *artifact, const qs_metric *metric,
                                   qs_estimate *estimate, bool *present);

/* A table of rows that end with name == NULL. */
void qs_metrics_print_markdown(FILE *stream, const qs_metric *metrics);

#endif
