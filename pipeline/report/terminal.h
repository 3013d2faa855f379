/* The report for people: one table, what failed and by how much, what was not measured, the recommendation. */
#ifndef QS_REPORT_TERMINAL_H
#define QS_REPORT_TERMINAL_H

#include "report/controls.h"
#include "report/selection.h"

typedef struct qs_terminal_options {
    bool color;    /* the caller knows whether the stream is a terminal */
    bool markdown; /* tables and lists in Markdown */
} qs_terminal_options;

QS_MUST_CHECK qs_err qs_terminal_print(FILE *stream, const qs_sweep *sweep, const qs_selection *selection,
                                       const qs_control controls[QS_N_CONTROLS],
                                       const qs_terminal_options *options);

/* Adds "rtn-b2-g64-sym fails 1 of 6 measured gates: ppl_ratio is 5.31, above 1.15 by 4.16 (362 %)."; nothing
 * when it does not fail. */
void qs_terminal_failure(qs_sentence *text, const qs_sweep_config *config);

/* Adds "3 of 8 configurations pass the gates that were measured (of each: 7; not measured: 25)." */
void qs_terminal_headline(qs_sentence *text, const qs_sweep *sweep);
/* What a race read and left out, or nothing. */
void qs_terminal_race(qs_sentence *text, const qs_sweep *sweep);

#endif
