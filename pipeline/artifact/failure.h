/* What is kept of a point that failed: "<id>.quant.failed" or "<id>.eval.failed", beside where its artifact
 * would be. A small JSON document {"id", "stage", "status", "error"}; sealing the artifact removes it. */
#ifndef QS_ARTIFACT_FAILURE_H
#define QS_ARTIFACT_FAILURE_H

#include <stdbool.h>

#include "base/file.h"

typedef struct qs_failure {
    qs_err status;
    char error[QS_ERROR_TEXT_BYTES];
} qs_failure;

/* Whether a code speaks of one point (its data, its spec), so that the others can go on; memory, disk,
 * devices and the command line concern all of them. */
bool qs_failure_is_of_point(qs_err code);

/* Keeps `code` and this thread's error text, and warns of them. artifact_path ends in ".h5". */
QS_MUST_CHECK qs_err qs_failure_record(const char *artifact_path, const char *id, qs_err code);
/* A no-op when there is none. */
void qs_failure_clear(const char *artifact_path);
/* False when there is none, or none that can be read. */
bool qs_failure_read(qs_failure *out, const char *artifact_path);

#endif
