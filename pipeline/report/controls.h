/* Negative controls: what must come out in a certain way whatever the model is. When one fails, the sweep
 * measured something else than it says, and no verdict of it can be trusted (docs/gates.md). */
#ifndef QS_REPORT_CONTROLS_H
#define QS_REPORT_CONTROLS_H

#include "report/sweep.h"

typedef enum qs_control_status { QS_CONTROL_OK, QS_CONTROL_FAILED, QS_CONTROL_NOT_RUN } qs_control_status;

enum { QS_CONTROL_TEXT_BYTES = 256 };

typedef struct qs_control {
    const char *name;
    qs_control_status status;
    char text[QS_CONTROL_TEXT_BYTES]; /* what was found, or why it could not be run */
} qs_control;

enum { QS_N_CONTROLS = 4 };

const char *qs_control_status_name(qs_control_status status); /* "ok", "FAILED", "not run" */

/* Fills all of them; returns false when one failed. */
bool qs_controls_run(const qs_sweep *sweep, qs_control controls[QS_N_CONTROLS]);

#endif
