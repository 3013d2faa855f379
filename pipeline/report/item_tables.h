/* Tables of single answers and steps, read from the eval artifacts while they are written (docs/columns.md). */
#ifndef QS_REPORT_ITEM_TABLES_H
#define QS_REPORT_ITEM_TABLES_H

#include "report/selection.h"

QS_MUST_CHECK qs_err qs_write_items(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);
QS_MUST_CHECK qs_err qs_write_entropy(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);
/* JSON Lines. */
QS_MUST_CHECK qs_err qs_write_trace(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);

#endif
