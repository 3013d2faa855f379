/* Progress with ETA on stderr for work over 2 s: one rewritten line on a terminal, a line a minute in a
 * log, nothing under --quiet. */
#ifndef QS_BASE_PROGRESS_H
#define QS_BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { QS_PROGRESS_NOTE_BYTES = 96 };

typedef struct qs_progress {
    const char *label;
    int64_t n_total;
    double started, shown; /* seconds, monotonic */
    bool terminal, visible;
    char note[QS_PROGRESS_NOTE_BYTES]; /* "" = none */
} qs_progress;

/* What the first piece of work took, and by that what the rest should take; 0 = not foretold. */
typedef struct qs_foretold {
    double first_s, foretold_s;
} qs_foretold;

void qs_progress_start(qs_progress *progress, const char *label, int64_t n_total);
/* What the next lines say behind the counts: a loss, a rate. */
void qs_progress_note(qs_progress *progress, const char *fmt, ...) QS_PRINTF(2, 3);
void qs_progress_update(qs_progress *progress, int64_t n_done);
void qs_progress_finish(qs_progress *progress); /* clears a terminal line, if one was shown */

#endif
