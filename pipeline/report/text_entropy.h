/* Entropy along held-out text. */
#ifndef QS_REPORT_TEXT_ENTROPY_H
#define QS_REPORT_TEXT_ENTROPY_H

#include "artifact/artifact.h"

/* *mean [*n], freed with qs_mem_free: at each scored position the mean over the windows of an eval artifact, nats.
 * NULL and 0 when it holds none. */
QS_MUST_CHECK qs_err qs_text_entropy(const qs_artifact *artifact, double **mean, int64_t *n);

#endif
