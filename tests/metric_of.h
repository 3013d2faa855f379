/* A metric of an eval artifact, for the tests that evaluate. Include after cuda_model.h. */
#ifndef TESTS_METRIC_OF_H
#define TESTS_METRIC_OF_H

#include "metric/eval_file.h"
#include "metric/metrics.h"

static inline double metric_of(const char *path, const char *name)
{
    qs_artifact *artifact;
    qs_estimate estimate = {0};
    bool present = false;
    must(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    must(qs_metric_get(artifact, qs_metric_find(name), &estimate, &present));
    if (!present) fail_msg("%s: %s is missing", path, name);
    qs_artifact_close(artifact);
    return estimate.value;
}

#endif
