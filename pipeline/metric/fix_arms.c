#include "metric/fix_arms.h"

#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "metric/bridge.h"
#include "metric/delta_s.h"
#include "metric/resonance.h"
#include "metric/semantics.h"

/* ---- metrics of an arm ---- */

typedef struct arm {
    qs_artifact *artifact;
    const qs_fix *fix;
    char said[1024];
} arm;

static qs_err put_leaf(const arm *a, const char *metric, const char *leaf, double value)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "/fixes/%s/%s/@%s", a->fix->name, metric, leaf);
    return err == QS_OK ? qs_artifact_put_real(a->artifact, path, value) : err;
}

static qs_err put_metric(void *context, const qs_metric *metric, const qs_estimate *after)
{
    arm *a = context;
    qs_estimate before;
    bool present;
    qs_err err;
    QS_TRY(put_leaf(a, metric->name, "value", after->value));
    QS_TRY(put_leaf(a, metric->name, "lo", after->lo));
    QS_TRY(put_leaf(a, metric->name, "hi", after->hi));
    QS_TRY(qs_metric_get(a->artifact, metric, &before, &present));
    if (!present || !qs_fix_aims_at(a->fix, metric->name) || before.value == after->value) goto out;
    size_t used = strlen(a->said);
    (void)snprintf(a->said + used, sizeof a->said - used, "%s%s %.3f -> %.3f", used > 0 ? ", " : "", metric->name,
                   before.value, after->value);
out:
    return err;
}

/* ---- answers of an arm ---- */

static qs_err answer(const qs_evaluation *e, const qs_deployed *what, const qs_questions *q, const qs_ranking *rankings,
                     qs_answers *out)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(e->model);
    qs_deployment deployment = {0};
    qs_err err;
    QS_TRY(qs_answers_prepare_ranked(out, q, rankings, tokenizer));
    QS_TRY(qs_deploy(e, &deployment, what, QS_ANSWER_BATCH, out->prompts.n_ctx));
    QS_TRY(qs_answers_generate(out, q, tokenizer, deployment.decoder, e->options.seed, NULL));
out:
    qs_deployment_destroy(&deployment);
    return err;
}

/* ΔS of a path: of the question and the snippet that the answer cites first; 1 where it cites none. */
static double distance(const qs_gold_frame *f, const qs_answers *a, int64_t i)
{
    if (a->rows[i].n_known == 0) return 1.0;
    const float *snippet = qs_retriever_vectors(f->retriever) + a->rows[i].selected * f->dim;
    return qs_delta_s(snippet, f->asked + qs_questions_run(i).prompt * f->dim, f->dim);
}

/* Takes over the runs of `other` whose weight exp(-ΔS) is larger. */
static void keep_nearer(const qs_gold_frame *f, qs_answers *best, qs_answers *other)
{
    for (int64_t i = 0; i < best->n_runs; i++) {
        if (!(distance(f, other, i) < distance(f, best, i))) continue;
        char *held = best->texts[i];
        best->texts[i] = other->texts[i];
        other->texts[i] = held;
        best->rows[i] = other->rows[i];
        best->coverage[i] = other->coverage[i];
    }
}

/* The first k of each ranking in reverse. */
static void reverse(qs_ranking *rankings, int64_t n, int64_t k)
{
    for (int64_t p = 0; p < n; p++) {
        int64_t last = (k < rankings[p].n ? k : rankings[p].n) - 1;
        for (int64_t i = 0; i < last - i; i++) {
            qs_hit held = rankings[p].hits[i];
            rankings[p].hits[i] = rankings[p].hits[last - i];
            rankings[p].hits[last - i] = held;
        }
    }
}

/* As ranked, in reverse, by section and id. */
static qs_err answer_in_orders(const qs_evaluation *e, const qs_deployed *what, const qs_questions *q,
                               qs_ranking *rankings, qs_answers *out)
{
    qs_questions asked = *q;
    qs_answers other = {0};
    qs_err err;
    QS_TRY(answer(e, what, q, rankings, out));
    for (qs_snippet_order order = QS_ORDER_GIVEN + 1; order < QS_N_ORDERS; order++) {
        if (order == QS_ORDER_REVERSED) reverse(rankings, q->n_prompts, q->options.k);
        asked.serving.by_place = order == QS_ORDER_PLACE;
        QS_TRY(answer(e, what, &asked, rankings, &other));
        keep_nearer(&e->frame, out, &other);
        qs_answers_free(&other);
    }
out:
    qs_answers_free(&other);
    return err;
}

static qs_err run_arm(const qs_evaluation *e, const qs_eval_point *point, const qs_deployed *what,
                      const qs_questions *q, const qs_answers *own, const qs_answered *reference, arm *a)
{
    qs_questions asked = *q;
    qs_ranking *rankings = NULL;
    qs_answered made = {0};
    qs_fix_context context = {q, &e->frame, own->rankings, reference->answers.rankings};
    qs_err err;
    QS_TRY(QS_NEW(rankings, q->n_prompts, "rankings"));
    memcpy(rankings, own->rankings, (size_t)q->n_prompts * sizeof *rankings);
    if (a->fix->serve != NULL) a->fix->serve(&asked.serving);
    if (a->fix->rank != NULL) a->fix->rank(&context, rankings);
    if (a->fix->orders) QS_TRY(answer_in_orders(e, what, &asked, rankings, &made.answers));
    else QS_TRY(answer(e, what, &asked, rankings, &made.answers));
    QS_TRY(qs_semantics_measure(&made.semantics, &e->frame, &asked, &made.answers));
    QS_TRY(qs_answered_metrics(e, point, &asked, &made, reference, QS_QUALITY_ALL, put_metric, a));
    qs_log_info("%s, fix %s: %s", point->id, a->fix->name,
                a->said[0] != '\0' ? a->said : "no change of what it is for");
out:
    qs_answered_free(&made);
    qs_mem_free(rankings);
    return qs_context(err, "fix %s", a->fix->name);
}

/* ---- other weights ---- */

/* Every metric of the twin is one of the arm. */
static qs_err take_over(const qs_eval_point *point, arm *a)
{
    qs_artifact *twin = NULL;
    qs_err err;
    if (point->twin_path[0] == '\0') return QS_OK;
    QS_TRY(qs_artifact_open(&twin, point->twin_path, QS_KIND_EVAL));
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++) {
        qs_estimate estimate;
        bool present;
        QS_TRY(qs_metric_get(twin, metric, &estimate, &present));
        if (present) QS_TRY(put_metric(a, metric, &estimate));
    }
    qs_log_info("%s, fix %s: %s", point->id, a->fix->name,
                a->said[0] != '\0' ? a->said : "no change of what it is for");
out:
    qs_artifact_close(twin);
    return qs_context(err, "fix %s", a->fix->name);
}

qs_err qs_fix_arms_run(const qs_evaluation *e, const qs_eval_point *point, const qs_deployed *what,
                       const qs_questions *q, const qs_answers *own, const qs_answered *reference,
                       qs_artifact *artifact)
{
    qs_err err = QS_OK;
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++) {
        arm a = {.artifact = artifact, .fix = fix};
        if ((e->options.fixes & (1u << (fix - qs_fixes))) == 0 || fix->long_texts) continue;
        if (fix->requantises) QS_TRY(take_over(point, &a));
        else QS_TRY(run_arm(e, point, what, q, own, reference, &a));
    }
out:
    return err;
}

/* ---- long texts ---- */

/* What an arm's texts are made from. */
typedef struct long_job {
    const qs_evaluation *e;
    const qs_deployed *what;
    const qs_prompts *prompts;
    const qs_long_runs *own, *reference;
} long_job;

/* bbcr. */
static qs_err write_bridges(const long_job *j, qs_resonance *out, char told[64])
{
    const qs_questions *q = j->e->options.questions;
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(j->e->model);
    qs_deployment deployment = {0};
    qs_long_runs made = {0};
    int64_t n_bridges;
    qs_err err;
    QS_TRY(qs_deploy(j->e, &deployment, j->what, 1, j->prompts->n_ctx));
    QS_TRY(qs_bridge_write(&made, q->encoder, q, tokenizer, deployment.decoder, j->prompts->lists, j->reference->n,
                           j->reference->n_steps, &n_bridges));
    QS_TRY(qs_resonance_measure(out, q->encoder, q, tokenizer, &made));
    (void)snprintf(told, 64, "%lld bridges in %lld texts", (long long)n_bridges, (long long)made.n);
out:
    qs_long_free(&made);
    qs_deployment_destroy(&deployment);
    return err;
}

static qs_err write_in_order(const long_job *j, qs_snippet_order order, qs_resonance *out)
{
    const qs_questions *q = j->e->options.questions;
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(j->e->model);
    qs_prompts prompts = {0};
    qs_deployment deployment = {0};
    qs_long_runs made = {0};
    qs_err err;
    QS_TRY(qs_questions_long_prompts(&prompts, q, tokenizer, order, j->reference->n_steps));
    QS_TRY(qs_deploy(j->e, &deployment, j->what, QS_LONG_BATCH, prompts.n_ctx));
    QS_TRY(qs_long_write(&made, deployment.decoder, qs_chat_end(&q->chat, tokenizer), prompts.lists, j->reference->n,
                         j->reference->n_steps));
    QS_TRY(qs_resonance_measure(out, q->encoder, q, tokenizer, &made));
out:
    qs_prompts_free(&prompts);
    qs_long_free(&made);
    qs_deployment_destroy(&deployment);
    return err;
}

/* bbpf: of every text the order whose weight exp(-ΔS), ΔS of the whole text, is largest. */
static qs_err write_in_orders(const long_job *j, qs_resonance *out, char told[64])
{
    const qs_questions *q = j->e->options.questions;
    qs_resonance other = {0};
    int64_t n_other = 0;
    qs_err err;
    QS_TRY(qs_resonance_measure(out, q->encoder, q, qs_model_get_tokenizer(j->e->model), j->own));
    for (qs_snippet_order order = QS_ORDER_GIVEN + 1; order < QS_N_ORDERS; order++) {
        QS_TRY(write_in_order(j, order, &other));
        n_other += qs_resonance_take_nearer(out, &other);
        qs_resonance_free(&other);
    }
    (void)snprintf(told, 64, "%lld times another order of %lld texts", (long long)n_other, (long long)out->n);
out:
    qs_resonance_free(&other);
    return err;
}

qs_err qs_fix_arms_long(const qs_evaluation *e, const qs_eval_point *point, const qs_deployed *what,
                        const qs_prompts *prompts, const qs_long_runs *own, const qs_long_runs *reference,
                        qs_artifact *artifact)
{
    const qs_questions *q = e->options.questions;
    const long_job j = {e, what, prompts, own, reference};
    qs_resonance theirs = {0}, made = {0};
    qs_err err = QS_OK;
    for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++) {
        arm a = {.artifact = artifact, .fix = fix};
        char told[64];
        if ((e->options.fixes & (1u << (fix - qs_fixes))) == 0 || !(fix->long_texts || fix->orders)) continue;
        if (theirs.delta == NULL)
            QS_TRY(qs_resonance_measure(&theirs, q->encoder, q, qs_model_get_tokenizer(e->model), reference));
        QS_TRY(fix->orders ? write_in_orders(&j, &made, told) : write_bridges(&j, &made, told));
        QS_TRY(qs_resonance_metrics(&made, &theirs, QS_QUALITY_ALL, e->options.seed, put_metric, &a));
        qs_log_info("%s, fix %s: %s%s%s", point->id, fix->name, told, a.said[0] != '\0' ? "; " : "", a.said);
        qs_resonance_free(&made);
    }
out:
    qs_resonance_free(&made);
    qs_resonance_free(&theirs);
    return err;
}
