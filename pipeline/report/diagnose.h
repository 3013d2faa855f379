/* Which rows of report/rules.c a configuration's figures match, with the figures and the next command. */
#ifndef QS_REPORT_DIAGNOSE_H
#define QS_REPORT_DIAGNOSE_H

#include "report/rules.h"
#include "report/selection.h"
#include "report/sweep.h"
#include "report/text_table.h"

/* Rules that fire, in the order of the table, into out[QS_RULES_MAX]; returns how many. */
int qs_diagnose(const qs_sweep *sweep, const qs_sweep_config *config, const qs_rule *out[QS_RULES_MAX]);

/* The row of the page that a configuration's method belongs to ("B5"), else the first one; text[bytes]. */
void qs_diagnosis_row(const qs_rule *rule, const char *method, char *text, size_t bytes);

/* Adds "json_ok 0.31 (budget >= 0.99, reference 1)": what made the rule fire. */
void qs_diagnosis_evidence(qs_sentence *text, const qs_sweep *sweep, const qs_sweep_config *config,
                           const qs_rule *rule);

/* Adds the command, with what the configuration and its evaluation say in place of the words in braces. */
void qs_diagnosis_next(qs_sentence *text, const qs_sweep_config *config, const qs_rule *rule);

/* Adds what is wrong with a configuration, in plain sentences: the first rule with its figures, cause, fix and
 * command, then the names of the others, which may follow from it. Nothing when no rule fires. */
void qs_diagnosis_tell(qs_sentence *text, const qs_sweep *sweep, const qs_sweep_config *config);

/* Whether the report speaks of it: something failed, or the reference misses gates by itself. */
bool qs_diagnosis_wanted(const qs_sweep_config *config);

/* diagnosis.csv: every rule of every configuration that fires, also where gates only warn. */
QS_MUST_CHECK qs_err qs_write_diagnosis(FILE *stream, const qs_sweep *sweep, const qs_selection *selection);

#endif
