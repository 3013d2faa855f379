/* Progress with ETA on stderr for work over 2 s: one rewritten line on a terminal, a line a minute in a
 * log, nothing under --quiet. */
#ifndef QS_BASE_PROGRESS_H
#define QS_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct qs_progress {
    const char *label;
    int64_t n_total;
    double started, shown; /* seconds, monotonic */
    bool terminal, visible;
} qs_progress;

void qs_progress_start(qs_progress *progress, const char *label, int64_t n_total);
void qs_progress_update(qs_progress *progress, int64_t n_done);
void qs_progress_finish(qs_progress *progress); /* clears a terminal line, if one was shown */

#endif
