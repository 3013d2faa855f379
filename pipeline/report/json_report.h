/* The report for programs: the same facts as the tables and the terminal, as one JSON object. */
#ifndef QS_REPORT_JSON_REPORT_H
#define QS_REPORT_JSON_REPORT_H

#include "report/controls.h"
#include "report/selection.h"

QS_MUST_CHECK qs_err qs_json_report_print(FILE *stream, const qs_sweep *sweep, const qs_selection *selection,
                                          const qs_control controls[QS_N_CONTROLS]);

#endif
