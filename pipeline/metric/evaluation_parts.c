#include "metric/evaluation_parts.h"

#include "base/clock.h"
#include "base/mem.h"
#include "metric/answer_metrics.h"
#include "metric/fix_arms.h"
#include "metric/probe.h"
#include "metric/rerank.h"
#include "metric/resonance.h"
#include "metric/semantics.h"
#include "metric/wording_entropy.h"

enum { CONTROL_ITEMS = 2, CONTROL_BATCH = 3 };

/* ---- deploying ---- */

qs_deployed qs_deployed_reference(const qs_evaluation *e)
{
    return (qs_deployed){.model = e->model, .reference = true, .size = qs_quant_size_of(NULL, e->model)};
}

qs_deployed qs_deployed_candidate(const qs_evaluation *e, const qs_candidate *candidate)
{
    if (candidate == NULL) return qs_deployed_reference(e);
    return (qs_deployed){.model = qs_candidate_model(candidate, e->model),
                         .source = qs_candidate_source(candidate),
                         .size = qs_candidate_size(candidate, e->model)};
}

static qs_err deploy(const qs_evaluation *e, qs_deployment *out, const qs_deployed *what, int64_t batch, int64_t n_ctx,
                     bool exact, int64_t n_more_logits)
{
    qs_deployment_options options = {
        .backend = e->options.backend != NULL ? e->options.backend : qs_backend_name(e->backend),
        .device = e->options.device,
        .map = e->options.map,
        .n_threads = qs_backend_n_threads(e->backend),
        .n_ctx_cap = n_ctx,
        .batch = batch,
        .expected_bytes = (size_t)what->size.bytes,
        .exact = exact,
        .n_more_logits = n_more_logits,
    };
    return qs_deployment_create(out, what->model, what->reference ? NULL : &what->source, &options);
}

qs_err qs_deploy(const qs_evaluation *e, qs_deployment *out, const qs_deployed *what, int64_t batch, int64_t n_ctx)
{
    enum { KEPT_LOGITS = 2 }; /* of prompts, and of the reference beside */
    return deploy(e, out, what, batch, n_ctx, e->options.compute == QS_COMPUTE_F32, KEPT_LOGITS);
}

qs_err qs_deploy_timed(const qs_evaluation *e, qs_deployment *out, const qs_deployed *what, int64_t n_ctx)
{
    return deploy(e, out, what, 1, n_ctx, false, 0);
}

static qs_err put_metric(void *context, const qs_metric *metric, const qs_estimate *estimate)
{
    return qs_metric_put(context, metric, estimate);
}

/* ---- answers ---- */

/* Re-ranks by what is deployed. */
typedef struct rerank_context {
    const qs_evaluation *e;
    const qs_deployed *what;
    int64_t batch;
} rerank_context;

static qs_err rerank(void *context, const qs_rerank_pair *pairs, int64_t n_pairs, double *scores)
{
    const rerank_context *c = context;
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(c->e->model);
    qs_deployment deployment = {0};
    qs_rerank_plan plan;
    qs_err err;
    QS_TRY(qs_rerank_plan_make(&plan, tokenizer, pairs, n_pairs));
    QS_TRY(qs_deploy(c->e, &deployment, c->what, c->batch, plan.n_ctx));
    QS_TRY(qs_rerank_run(&plan, deployment.decoder, tokenizer, scores));
out:
    qs_rerank_plan_free(&plan);
    qs_deployment_destroy(&deployment);
    return err;
}

static qs_err answer(const qs_evaluation *e, const qs_deployed *what, const qs_questions *questions, int64_t batch,
                     const qs_generate_watch *watch, qs_answers *answers)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(e->model);
    qs_deployment deployment = {0};
    rerank_context context = {e, what, batch};
    qs_reranker reranker = {.context = &context, .score = rerank};
    qs_err err;
    QS_TRY(qs_answers_prepare(answers, questions, &e->frame, tokenizer,
                              questions->options.rerank ? &reranker : NULL));
    QS_TRY(qs_deploy(e, &deployment, what, batch, answers->prompts.n_ctx));
    QS_TRY(qs_answers_generate(answers, questions, tokenizer, deployment.decoder, e->options.seed, watch));
out:
    qs_deployment_destroy(&deployment);
    return err;
}

void qs_answered_free(qs_answered *a)
{
    qs_answers_free(&a->answers);
    qs_semantics_free(&a->semantics);
}

static qs_err read_answered(qs_answered *out, const qs_artifact *artifact)
{
    qs_err err = qs_answers_read(&out->answers, artifact);
    return err != QS_OK ? err : qs_semantics_read(&out->semantics, artifact);
}

qs_err qs_answered_metrics(const qs_evaluation *e, const qs_eval_point *point, const qs_questions *questions,
                           const qs_answered *own, const qs_answered *reference, qs_quality_part part,
                           qs_metric_sink put, void *context)
{
    qs_answer_input input = {.questions = questions,
                             .answers = &own->answers,
                             .reference = reference != NULL ? &reference->answers : NULL,
                             .tasks = point->tasks,
                             .part = part,
                             .seed = e->options.seed};
    qs_err err = qs_answer_measure(&input, put, context);
    if (err != QS_OK || (point->tasks & QS_TASK_SEMANTIC) == 0) return err;
    qs_semantic_input semantic = {.own = &own->semantics,
                                  .reference = reference != NULL ? &reference->semantics : NULL,
                                  .answers = &own->answers,
                                  .reference_answers = input.reference,
                                  .part = part,
                                  .seed = e->options.seed};
    return qs_semantic_metrics(&semantic, put, context);
}

static qs_err answer_and_measure(const qs_evaluation *e, const qs_deployed *what, const qs_questions *questions,
                                 int64_t batch, const qs_generate_watch *watch, qs_answered *out)
{
    qs_err err = answer(e, what, questions, batch, watch, &out->answers);
    return err != QS_OK ? err : qs_semantics_measure(&out->semantics, &e->frame, questions, &out->answers);
}

static qs_err put_answer_control(const qs_evaluation *e, const qs_eval_point *point, const qs_answered *first,
                                 qs_artifact *artifact)
{
    qs_questions some = *e->options.questions;
    qs_answered again = {0};
    qs_deployed what = qs_deployed_reference(e);
    qs_err err;
    qs_questions_limit(&some, CONTROL_ITEMS);
    QS_TRY(answer_and_measure(e, &what, &some, CONTROL_BATCH, NULL, &again));
    QS_TRY(qs_answered_metrics(e, point, &some, &again, first, QS_QUALITY_PAIRED, put_metric, artifact));
out:
    qs_answered_free(&again);
    return err;
}

static qs_err probe(const qs_evaluation *e, const qs_deployed *what, const qs_questions *questions,
                    const qs_answered *own, qs_artifact *artifact)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(e->model);
    qs_deployment deployment = {0};
    qs_probe probe;
    qs_err err;
    QS_TRY(qs_probe_prepare(&probe, questions, own->answers.rankings, tokenizer, questions->options.n_probe));
    QS_TRY(qs_deploy(e, &deployment, what, QS_ANSWER_BATCH, probe.prompts.n_ctx));
    QS_TRY(qs_probe_run(&probe, questions, &e->frame, tokenizer, deployment.decoder));
    QS_TRY(qs_probe_put(&probe, e->options.seed, artifact));
out:
    qs_deployment_destroy(&deployment);
    qs_probe_free(&probe);
    return err;
}

/* ---- entropy of answers, wording by wording ---- */

/* The first n prompts once more, by the same or another configuration, in some batch. */
static qs_err follow_answers(const qs_evaluation *e, const qs_deployed *what, const qs_prompts *prompts,
                             int64_t n, int64_t batch, const qs_wordings *reference, qs_wordings *out)
{
    qs_deployment deployment = {0};
    qs_err err;
    QS_TRY(qs_deploy(e, &deployment, what, batch, prompts->n_ctx));
    QS_TRY(qs_wordings_follow(out, deployment.decoder, qs_model_get_tokenizer(e->model), prompts->lists, n,
                              reference));
out:
    qs_deployment_destroy(&deployment);
    return err;
}

/* Of the reference itself; its first items are the control, as everywhere. */
static qs_err own_wordings(const qs_evaluation *e, const qs_deployed *what, const qs_answers *answers,
                           const qs_wordings_watch *watch, qs_artifact *artifact)
{
    int64_t n_prompts = answers->prompts.n, n_control = CONTROL_ITEMS * QS_WORDINGS;
    qs_wordings own = {0}, again = {0};
    qs_err err;
    QS_TRY(qs_wordings_take(&own, watch, answers->generations));
    QS_TRY(follow_answers(e, what, &answers->prompts, n_prompts < n_control ? n_prompts : n_control, CONTROL_BATCH,
                          &own, &again));
    QS_TRY(qs_wordings_put(artifact, &own, NULL));
    QS_TRY(qs_wordings_metrics(&again, &own, e->options.seed, put_metric, artifact));
out:
    qs_wordings_free(&own);
    qs_wordings_free(&again);
    return err;
}

/* Of a candidate, over the reference's prompts. */
static qs_err followed_wordings(const qs_evaluation *e, const qs_deployed *what, const qs_answers *reference,
                                qs_artifact *artifact)
{
    qs_prompts prompts = {0};
    qs_wordings own = {0}, other = {0};
    int32_t *stable = NULL;
    qs_err err;
    if (!qs_artifact_has(e->baseline.artifact, "/wordings/tokens")) return QS_OK;
    QS_TRY(qs_questions_prompts(&prompts, e->options.questions, qs_model_get_tokenizer(e->model), reference->ranked));
    QS_TRY(qs_wordings_read(&other, e->baseline.artifact));
    QS_TRY(follow_answers(e, what, &prompts, prompts.n, QS_ANSWER_BATCH, &other, &own));
    QS_TRY(QS_NEW(stable, own.n_prompts, "verdicts"));
    QS_TRY(qs_wordings_stable(&own, &other, stable));
    QS_TRY(qs_wordings_put(artifact, &own, stable));
    QS_TRY(qs_wordings_metrics(&own, &other, e->options.seed, put_metric, artifact));
out:
    qs_prompts_free(&prompts);
    qs_wordings_free(&own);
    qs_wordings_free(&other);
    qs_mem_free(stable);
    return err;
}

/* ---- all about questions ---- */

/* One frame for all, or, where the encoder is the model under test, that of this point. */
static qs_err need_frame(qs_evaluation *e, const qs_deployed *what)
{
    const qs_questions *q = e->options.questions;
    qs_err err;
    if (e->frame.retriever != NULL && !qs_encoder_follows(q->encoder)) return QS_OK;
    qs_gold_frame_destroy(&e->frame);
    qs_encoder_destroy(e->own_encoder);
    e->own_encoder = NULL;
    if (!what->reference) QS_TRY(qs_encoder_follow(&e->own_encoder, q->encoder, what->model, &what->source));
    err = qs_gold_frame_create(&e->frame, q, e->own_encoder != NULL ? e->own_encoder : q->encoder);
out:
    return err;
}

qs_err qs_evaluate_answers(qs_evaluation *e, const qs_eval_point *point, const qs_candidate *candidate,
                           qs_artifact *artifact)
{
    qs_questions served;
    const qs_questions *questions = &served;
    qs_answered own = {0}, reference = {0};
    double started = qs_clock_seconds();
    bool watches = candidate == NULL && (point->tasks & QS_TASK_ENTROPY) != 0;
    qs_wordings_watch watch = {0};
    const qs_generate_watch see = qs_wordings_watch_of(&watch);
    qs_deployed what = qs_deployed_candidate(e, candidate);
    qs_quality_part part = candidate != NULL ? QS_QUALITY_ALL : QS_QUALITY_OWN;
    qs_err err;
    if ((point->tasks & (QS_TASKS_ANSWERS | QS_TASK_PROBE)) == 0) return QS_OK;
    served = *e->options.questions;
    if (candidate != NULL) served.serving = e->options.serving;
    QS_TRY(need_frame(e, &what));
    if (candidate != NULL) QS_TRY(read_answered(&reference, e->baseline.artifact));
    if (watches) QS_TRY(qs_wordings_watch_init(&watch, questions->n_prompts, qs_questions_tokens_max(questions)));
    QS_TRY(answer_and_measure(e, &what, questions, QS_ANSWER_BATCH, watches ? &see : NULL, &own));
    QS_TRY(qs_answers_put(artifact, questions, &own.answers));
    QS_TRY(qs_semantics_put(artifact, &e->frame, &own.semantics));
    QS_TRY(qs_answered_metrics(e, point, questions, &own, candidate != NULL ? &reference : NULL, part, put_metric,
                               artifact));
    if (candidate == NULL) QS_TRY(put_answer_control(e, point, &own, artifact));
    if (candidate != NULL) QS_TRY(qs_fix_arms_run(e, point, &what, questions, &own.answers, &reference, artifact));
    if ((point->tasks & QS_TASK_PROBE) != 0) QS_TRY(probe(e, &what, questions, &own, artifact));
    if (watches) QS_TRY(own_wordings(e, &what, &own.answers, &watch, artifact));
    else if ((point->tasks & QS_TASK_ENTROPY) != 0)
        QS_TRY(followed_wordings(e, &what, &reference.answers, artifact));
    QS_TRY(qs_artifact_put_real(artifact, "/timing/@answers_s", qs_clock_seconds() - started));
out:
    qs_wordings_watch_fini(&watch);
    qs_answered_free(&own);
    qs_answered_free(&reference);
    return qs_context(err, "answer questions");
}

/* ---- entropy ---- */

static int32_t end_of_texts(const qs_evaluation *e)
{
    return qs_chat_end(&e->options.questions->chat, qs_model_get_tokenizer(e->model));
}

/* The texts of a candidate, deployed beside the reference. */
static qs_err follow(const qs_evaluation *e, const qs_deployed *what, const qs_prompts *p, int64_t n, int64_t batch,
                     const qs_long_runs *reference, qs_long_runs *out)
{
    qs_deployment own = {0}, other = {0};
    qs_deployed reference_model = qs_deployed_reference(e);
    qs_err err;
    QS_TRY(qs_deploy(e, &own, what, batch, p->n_ctx));
    QS_TRY(qs_deploy(e, &other, &reference_model, batch, p->n_ctx));
    QS_TRY(qs_long_follow(out, own.decoder, other.decoder, end_of_texts(e), p->lists, n, reference));
out:
    qs_deployment_destroy(&own);
    qs_deployment_destroy(&other);
    return err;
}

static qs_err write_reference(const qs_evaluation *e, const qs_prompts *p, qs_long_runs *out)
{
    qs_deployment deployment = {0};
    qs_deployed what = qs_deployed_reference(e);
    qs_err err;
    QS_TRY(qs_deploy(e, &deployment, &what, QS_LONG_BATCH, p->n_ctx));
    QS_TRY(qs_long_write(out, deployment.decoder, end_of_texts(e), p->lists, p->n,
                         e->options.questions->options.n_long_tokens));
out:
    qs_deployment_destroy(&deployment);
    return err;
}

/* Long texts of a point: its own, and what they are compared with, which is the control's for the reference. */
static qs_err long_texts(const qs_evaluation *e, const qs_candidate *candidate, const qs_prompts *p,
                         qs_long_runs *own, qs_long_runs *paired, qs_long_runs *reference)
{
    qs_deployed what = qs_deployed_candidate(e, candidate);
    int64_t n_control = p->n < CONTROL_ITEMS ? p->n : CONTROL_ITEMS;
    qs_err err;
    if (candidate != NULL) {
        QS_TRY(qs_long_read(reference, e->baseline.artifact));
        QS_TRY(follow(e, &what, p, p->n, QS_LONG_BATCH, reference, own));
    } else {
        QS_TRY(write_reference(e, p, own));
        QS_TRY(follow(e, &what, p, n_control, CONTROL_BATCH, own, paired));
    }
out:
    return err;
}

/* Distances of long texts, own beside those of the reference or of the control. */
static qs_err put_resonance(const qs_evaluation *e, const qs_long_runs *runs, const qs_long_runs *reference,
                            qs_quality_part part, qs_artifact *artifact)
{
    const qs_questions *q = e->options.questions;
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(e->model);
    qs_resonance own = {0}, other = {0};
    qs_err err;
    QS_TRY(qs_resonance_measure(&own, q->encoder, q, tokenizer, runs));
    if (reference != NULL) QS_TRY(qs_resonance_measure(&other, q->encoder, q, tokenizer, reference));
    if (part == QS_QUALITY_OWN) QS_TRY(qs_resonance_put(artifact, &own));
    QS_TRY(qs_resonance_metrics(&own, reference != NULL ? &other : NULL, part, e->options.seed, put_metric, artifact));
out:
    qs_resonance_free(&own);
    qs_resonance_free(&other);
    return err;
}

qs_err qs_evaluate_entropy(qs_evaluation *e, const qs_eval_point *point, const qs_candidate *candidate,
                           const qs_curve_pair *text, qs_artifact *artifact)
{
    const qs_questions *q = e->options.questions;
    qs_prompts prompts = {0};
    qs_long_runs own = {0}, control = {0}, reference = {0};
    qs_entropy_input input = {.text = *text, .part = QS_QUALITY_PAIRED, .seed = e->options.seed};
    double started = qs_clock_seconds();
    qs_err err = QS_OK;
    if ((point->tasks & QS_TASK_ENTROPY) == 0) return QS_OK;
    if (q != NULL && q->n_longforms > 0) {
        QS_TRY(qs_questions_long_prompts(&prompts, q, qs_model_get_tokenizer(e->model), QS_ORDER_GIVEN,
                                         q->options.n_long_tokens));
        QS_TRY(long_texts(e, candidate, &prompts, &own, &control, &reference));
        QS_TRY(qs_long_put(artifact, q, &own));
        input.runs = candidate != NULL ? &own : &control;
        input.reference = candidate != NULL ? &reference : &own;
        QS_TRY(put_resonance(e, input.runs, input.reference, QS_QUALITY_PAIRED, artifact));
        QS_TRY(put_resonance(e, &own, NULL, QS_QUALITY_OWN, artifact));
    }
    if (candidate != NULL && reference.n > 0) {
        qs_deployed what = qs_deployed_candidate(e, candidate);
        QS_TRY(qs_fix_arms_long(e, point, &what, &prompts, &own, &reference, artifact));
    }
    QS_TRY(qs_entropy_measure(&input, put_metric, artifact));
    input = (qs_entropy_input){.runs = own.n > 0 ? &own : NULL, .part = QS_QUALITY_OWN, .seed = e->options.seed};
    QS_TRY(qs_entropy_measure(&input, put_metric, artifact));
    QS_TRY(qs_artifact_put_real(artifact, "/timing/@entropy_s", qs_clock_seconds() - started));
out:
    qs_prompts_free(&prompts);
    qs_long_free(&own);
    qs_long_free(&control);
    qs_long_free(&reference);
    return qs_context(err, "measure entropy");
}
