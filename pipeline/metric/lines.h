/* Texts in artifacts: a dataset of bytes that holds lines, none of which has a line end or a NUL in it. */
#ifndef QS_METRIC_LINES_H
#define QS_METRIC_LINES_H

#include "artifact/artifact.h"

/* line(context, i) for 0 <= i < n, borrowed. */
typedef const char *(*qs_line_of)(const void *context, int64_t i);
QS_MUST_CHECK qs_err qs_lines_put(qs_artifact *artifact, const char *path, int64_t n, qs_line_of line,
                                  const void *context);

/* lines [n] point into blob. */
typedef struct qs_lines {
    int64_t n;
    char *blob;
    char **lines;
} qs_lines;
/* QS_E_INPUT when there are not n_expected of them (-1 = any number). */
QS_MUST_CHECK qs_err qs_lines_read(qs_lines *out, const qs_artifact *artifact, const char *path,
                                   int64_t n_expected);
void qs_lines_free(qs_lines *lines);

#endif
