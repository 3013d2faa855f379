/* report.html: one file that says what to ship and why, with nothing fetched from anywhere. It works without script
 * (sorting and filters need it), in light and dark, on paper and on a narrow screen. Each figure names the table
 * beside it that holds its numbers. */
#ifndef QS_REPORT_PAGE_H
#define QS_REPORT_PAGE_H

#include "report/selection.h"

/* Errors: QS_E_RESOURCE. What cannot be read of an artifact any more is left out and said. */
QS_MUST_CHECK qs_err qs_write_page(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);

#endif
