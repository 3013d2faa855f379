/* Parts of an evaluation that deploy a model and have it write: for evaluation_run.c alone. */
#ifndef QS_METRIC_EVALUATION_PARTS_H
#define QS_METRIC_EVALUATION_PARTS_H

#include "metric/entropy_metrics.h"
#include "metric/evaluation.h"
#include "metric/semantics.h"

/* What is deployed: a candidate, or the reference. */
typedef struct qs_deployed {
    const qs_model *model;
    qs_linear_source source;
    bool reference; /* it has no source */
    qs_quant_size size;
} qs_deployed;
qs_deployed qs_deployed_reference(const qs_evaluation *evaluation);
/* candidate NULL = the reference. */
qs_deployed qs_deployed_candidate(const qs_evaluation *evaluation, const qs_candidate *candidate);
/* `what` must outlive the call alone. Errors as qs_deployment_create. */
QS_MUST_CHECK qs_err qs_deploy(const qs_evaluation *evaluation, qs_deployment *out, const qs_deployed *what,
                               int64_t batch, int64_t n_ctx);
/* One sequence, in the arithmetic of a server: 16-bit activations on a GPU whatever --compute says. */
QS_MUST_CHECK qs_err qs_deploy_timed(const qs_evaluation *evaluation, qs_deployment *out, const qs_deployed *what,
                                     int64_t n_ctx);

/* What a point and, for the paired part, what it is compared with have answered. */
typedef struct qs_answered {
    qs_answers answers;
    qs_semantics semantics;
} qs_answered;
void qs_answered_free(qs_answered *answered);
/* Metrics that the point's tasks want. */
QS_MUST_CHECK qs_err qs_answered_metrics(const qs_evaluation *evaluation, const qs_eval_point *point,
                                         const qs_questions *questions, const qs_answered *own,
                                         const qs_answered *reference, qs_quality_part part, qs_metric_sink put,
                                         void *context);

/* Answers and their metrics, when the point's tasks want them; candidate NULL = the reference, to which a negative
 * control is added: its first items once more, in another batch, of which every difference must be 0. */
QS_MUST_CHECK qs_err qs_evaluate_answers(qs_evaluation *evaluation, const qs_eval_point *point,
                                         const qs_candidate *candidate, qs_artifact *artifact);

/* Entropy curves of held-out text (n = 0 where there is none) and of long texts, in the same way. */
QS_MUST_CHECK qs_err qs_evaluate_entropy(qs_evaluation *evaluation, const qs_eval_point *point,
                                         const qs_candidate *candidate, const qs_curve_pair *text,
                                         qs_artifact *artifact);

#endif
