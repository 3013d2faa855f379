/* Running the arms of --fix, for evaluation_parts.c alone. */
#ifndef QS_METRIC_FIX_ARMS_H
#define QS_METRIC_FIX_ARMS_H

#include "metric/evaluation_parts.h"
#include "metric/fixes.h"

/* Every fix that the evaluation asks for, over answers own of a candidate, whose metrics the artifact holds
 * already: metrics of each arm go to /fixes/NAME, and its aims are said before and after. */
QS_MUST_CHECK qs_err qs_fix_arms_run(const qs_evaluation *evaluation, const qs_eval_point *point,
                                     const qs_deployed *what, const qs_questions *questions,
                                     const qs_answers *own, const qs_answered *reference,
                                     qs_artifact *artifact);

/* Fixes of long texts that are asked for: over prompts [n] of the texts own, whose distances are held against the
 * reference's texts. */
QS_MUST_CHECK qs_err qs_fix_arms_long(const qs_evaluation *evaluation, const qs_eval_point *point,
                                      const qs_deployed *what, const qs_prompts *prompts,
                                      const qs_long_runs *own, const qs_long_runs *reference,
                                      qs_artifact *artifact);

#endif
