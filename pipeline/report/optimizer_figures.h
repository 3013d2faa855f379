/* The figures of an optimizer comparison (qsweep-train --compare), as measures of the configurations whose
 * profile gates them: bitsandbytes, whose page makes the demand (checklist B4, B6). */
#ifndef QS_REPORT_OPTIMIZER_FIGURES_H
#define QS_REPORT_OPTIMIZER_FIGURES_H

#include "report/config_row.h"

typedef struct qs_optimizer_figures {
    char path[QS_PATH_BYTES]; /* "" = none */
    qs_digest digest;
    int64_t n;
    qs_measure *measures; /* [n] */
} qs_optimizer_figures;

/* Errors: QS_E_INPUT names file and cause; a second comparison with other content is one. */
QS_MUST_CHECK qs_err qs_optimizer_figures_load(qs_optimizer_figures *figures, const char *path);
void qs_optimizer_figures_free(qs_optimizer_figures *figures);

/* Adds them to a configuration of the bitsandbytes family; others are left alone. */
QS_MUST_CHECK qs_err qs_optimizer_figures_add(const qs_optimizer_figures *figures, qs_config_row *row);

#endif
