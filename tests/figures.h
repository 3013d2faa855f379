/* Catches what a family of metrics measures, to look it up by name. */
#ifndef QS_TESTS_FIGURES_H
#define QS_TESTS_FIGURES_H

#include "scratch.h"

#include "metric/metrics.h"

enum { FIGURES_MAX = 64 };
typedef struct figures {
    int n;
    const char *names[FIGURES_MAX];
    qs_estimate estimates[FIGURES_MAX];
} figures;

static inline qs_err take(void *context, const qs_metric *metric, const qs_estimate *estimate)
{
    figures *f = context;
    assert_non_null(metric);
    assert_true(f->n < FIGURES_MAX);
    f->names[f->n] = metric->name;
    f->estimates[f->n++] = *estimate;
    return QS_OK;
}

static inline const qs_estimate *figure(const figures *f, const char *name)
{
    for (int i = 0; i < f->n; i++)
        if (strcmp(f->names[i], name) == 0) return &f->estimates[i];
    fail_msg("%s was not measured", name);
    return NULL;
}

#endif
