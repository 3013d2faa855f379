#include "metric/wording_entropy.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "metric/bootstrap.h"
#include "metric/entropy_curve.h"

enum { N_RESAMPLES = 1000 };

/* ---- along answers ---- */

qs_err qs_wordings_watch_init(qs_wordings_watch *out, int64_t n_prompts, int64_t n_steps)
{
    *out = (qs_wordings_watch){.n_prompts = n_prompts, .n_steps = n_steps};
    return QS_NEW(out->entropy, n_prompts * n_steps, "entropies of answers");
}

void qs_wordings_watch_fini(qs_wordings_watch *w)
{
    qs_mem_free(w->entropy);
    *w = (qs_wordings_watch){0};
}

/* The step that chooses to end an answer is behind its last token and may be one too many. */
static qs_err see_prompt(void *context, int64_t prompt, int64_t step, const qs_generate_look *look)
{
    qs_wordings_watch *w = context;
    if (!isfinite(look->lse))
        return qs_fail(QS_E_NUMERIC, "answer to prompt %lld, step %lld: the probabilities are not finite",
                       (long long)prompt, (long long)step);
    if (step < w->n_steps) w->entropy[prompt * w->n_steps + step] = look->entropy;
    return QS_OK;
}

static qs_err see_question_run(void *context, int64_t i, int64_t step, const qs_generate_look *look)
{
    qs_question_run run = qs_questions_run(i);
    return run.seed == QS_GREEDY ? see_prompt(context, run.prompt, step, look) : QS_OK;
}

qs_generate_watch qs_wordings_watch_of(qs_wordings_watch *w) { return (qs_generate_watch){see_question_run, w, true}; }

/* of [n_prompts]: what was generated for each prompt. */
static qs_err take_answers(qs_wordings *out, const qs_wordings_watch *w, const qs_generation *const *of)
{
    qs_err err;
    *out = (qs_wordings){.n_prompts = w->n_prompts, .n_steps = 1};
    for (int64_t i = 0; i < out->n_prompts; i++)
        if (of[i]->n_tokens > out->n_steps) out->n_steps = of[i]->n_tokens;
    QS_TRY(QS_NEW(out->tokens, out->n_prompts * out->n_steps, "answers"));
    QS_TRY(QS_NEW(out->entropy, out->n_prompts * out->n_steps, "entropies of answers"));
    for (int64_t i = 0; i < out->n_prompts; i++)
        for (int64_t t = 0; t < out->n_steps; t++) {
            bool there = t < of[i]->n_tokens;
            out->tokens[i * out->n_steps + t] = there ? of[i]->tokens[t] : -1;
            out->entropy[i * out->n_steps + t] = there ? w->entropy[i * w->n_steps + t] : NAN;
        }
out:
    if (err != QS_OK) qs_wordings_free(out);
    return err;
}

qs_err qs_wordings_take(qs_wordings *out, const qs_wordings_watch *w, const qs_generation *generations)
{
    const qs_generation **greedy = NULL;
    int64_t n_runs = w->n_prompts / QS_WORDINGS * QS_RUNS_PER_ITEM;
    qs_err err = QS_NEW(greedy, w->n_prompts, "answers");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        if (run.seed == QS_GREEDY) greedy[run.prompt] = &generations[i];
    }
    err = take_answers(out, w, greedy);
    qs_mem_free(greedy);
    return err;
}

int64_t qs_wordings_length(const qs_wordings *w, int64_t prompt)
{
    int64_t n = 0;
    while (n < w->n_steps && w->tokens[prompt * w->n_steps + n] >= 0) n++;
    return n;
}

static qs_err check_answers(const qs_wordings *reference, int64_t n_prompts, int64_t n_vocab)
{
    if (reference->n_prompts < n_prompts)
        return qs_fail(QS_E_INPUT, "follow answers: the reference has %lld, of %lld prompts",
                       (long long)reference->n_prompts, (long long)n_prompts);
    for (int64_t i = 0; i < n_prompts * reference->n_steps; i++)
        if (reference->tokens[i] < -1 || reference->tokens[i] >= n_vocab)
            return qs_fail(QS_E_INPUT, "follow answers: %d is no token", reference->tokens[i]);
    return QS_OK;
}

/* The first n_prompts prompts, each along its answer. An empty answer's run takes a token that is not looked at. */
static qs_err follow(qs_wordings *out, qs_wordings_watch *w, qs_decoder *decoder, const qs_tokenizer *tokenizer,
                     const qs_token_list *prompts)
{
    static int32_t nothing;
    int64_t n = out->n_prompts;
    qs_generate_run *runs = NULL;
    qs_generation *generations = NULL;
    qs_token_list *answers = NULL;
    qs_err err;
    QS_TRY(QS_NEW(runs, n, "runs"));
    QS_TRY(QS_NEW(generations, n, "answers"));
    QS_TRY(QS_NEW(answers, n, "answers"));
    for (int64_t i = 0; i < n; i++) {
        int64_t length = qs_wordings_length(out, i);
        answers[i] = (qs_token_list){.ids = length > 0 ? out->tokens + i * out->n_steps : &nothing,
                                     .n = length > 0 ? length : 1};
        runs[i] = (qs_generate_run){.prompt = i, .forced = &answers[i]};
    }
    qs_generate_job job = {.decoder = decoder, .tokenizer = tokenizer, .prompts = prompts, .n_prompts = n,
                           .runs = runs, .n_runs = n, .n_tokens_max = out->n_steps, .ending = QS_ENDS_LINE,
                           .watch = {see_prompt, w, true}};
    QS_TRY(qs_generate(&job, generations));
out:
    qs_generations_free(generations, n);
    qs_mem_free(runs);
    qs_mem_free(answers);
    return err;
}

qs_err qs_wordings_follow(qs_wordings *out, qs_decoder *decoder, const qs_tokenizer *tokenizer,
                          const qs_token_list *prompts, int64_t n_prompts, const qs_wordings *reference)
{
    int64_t n = n_prompts * reference->n_steps;
    qs_wordings_watch watch = {0};
    qs_err err;
    *out = (qs_wordings){.n_prompts = n_prompts, .n_steps = reference->n_steps};
    QS_TRY(check_answers(reference, n_prompts, qs_decoder_n_vocab(decoder)));
    QS_TRY(QS_NEW(out->tokens, n, "answers"));
    memcpy(out->tokens, reference->tokens, (size_t)n * sizeof *out->tokens);
    QS_TRY(qs_wordings_watch_init(&watch, n_prompts, out->n_steps));
    QS_TRY(follow(out, &watch, decoder, tokenizer, prompts));
    out->entropy = watch.entropy;
    watch.entropy = NULL;
    for (int64_t i = 0; i < n; i++)
        if (out->tokens[i] < 0) out->entropy[i] = NAN;
out:
    qs_wordings_watch_fini(&watch);
    if (err != QS_OK) qs_wordings_free(out);
    return qs_context(err, "entropy of answers");
}

void qs_wordings_free(qs_wordings *w)
{
    qs_mem_free(w->tokens);
    qs_mem_free(w->entropy);
    *w = (qs_wordings){0};
}

/* ---- curves ---- */

double qs_wordings_mean(const qs_wordings *w, int64_t prompt)
{
    int64_t n = qs_wordings_length(w, prompt);
    double sum = 0.0;
    for (int64_t t = 0; t < n; t++) sum += (double)w->entropy[prompt * w->n_steps + t];
    return n > 0 ? sum / (double)n : NAN;
}

int64_t qs_wordings_reach(const qs_wordings *w, int64_t wording)
{
    int64_t n_items = w->n_prompts / QS_WORDINGS;
    for (int64_t steps = w->n_steps; steps > 0; steps--) {
        int64_t n = 0;
        for (int64_t item = 0; item < n_items; item++)
            n += w->tokens[(item * QS_WORDINGS + wording) * w->n_steps + steps - 1] >= 0;
        if (2 * n >= n_items && n > 0) return steps;
    }
    return 0;
}

void qs_wordings_curve(const qs_wordings *w, int64_t n_items, int64_t wording, const int32_t *counts,
                       int64_t n_steps, double *mean)
{
    for (int64_t t = 0; t < n_steps; t++) {
        double sum = 0.0, n = 0.0;
        for (int64_t item = 0; item < n_items; item++) {
            int64_t at = (item * QS_WORDINGS + wording) * w->n_steps + t;
            double count = counts != NULL ? counts[item] : 1.0;
            if (count == 0.0 || w->tokens[at] < 0) continue;
            sum += count * (double)w->entropy[at];
            n += count;
        }
        mean[t] = n > 0.0 ? sum / n : t > 0 ? mean[t - 1] : 0.0;
    }
}

qs_err qs_wordings_stable(const qs_wordings *own, const qs_wordings *reference, int32_t *stable)
{
    double *room = NULL;
    qs_err err = QS_NEW(room, 4 * own->n_steps, "curves");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < own->n_prompts; i++) {
        int64_t n = qs_wordings_length(own, i), at = i * own->n_steps;
        for (int64_t t = 0; t < n; t++) {
            room[t] = (double)reference->entropy[at + t];
            room[n + t] = (double)own->entropy[at + t];
        }
        stable[i] = n == 0 ? -1
                           : qs_curve_compare(&(qs_curve_side){.entropy = room},
                                              &(qs_curve_side){.entropy = room + n}, n, room + 2 * n)
                                 .stable;
    }
    qs_mem_free(room);
    return QS_OK;
}

/* ---- metrics ---- */

typedef struct compared {
    const qs_wordings *own, *reference;
    int64_t wording, n_steps;
    double *f, *q, *scratch; /* [n_steps], [n_steps], [2 n_steps] */
} compared;

static qs_curve_check check(const compared *c, const int32_t *counts)
{
    int64_t n_items = c->own->n_prompts / QS_WORDINGS;
    qs_wordings_curve(c->reference, n_items, c->wording, counts, c->n_steps, c->f);
    qs_wordings_curve(c->own, n_items, c->wording, counts, c->n_steps, c->q);
    return qs_curve_compare(&(qs_curve_side){.entropy = c->f}, &(qs_curve_side){.entropy = c->q}, c->n_steps,
                            c->scratch);
}

static double is_stable(const void *context, const int32_t *counts) { return check(context, counts).stable; }
static double rms_of(const void *context, const int32_t *counts) { return check(context, counts).rms; }

static qs_err check_pair(const qs_wordings *own, const qs_wordings *reference)
{
    if (reference->n_prompts >= own->n_prompts && reference->n_steps == own->n_steps) return QS_OK;
    return qs_fail(QS_E_INPUT,
                   "compare entropies of answers: %lld prompts of up to %lld tokens, the reference has %lld of %lld",
                   (long long)own->n_prompts, (long long)own->n_steps, (long long)reference->n_prompts,
                   (long long)reference->n_steps);
}

/* Each bound by itself: all paraphrases must be stable, so the worst one speaks. */
static void take_lower(qs_estimate *worst, const qs_estimate *e)
{
    if (worst->n == 0) *worst = *e;
    worst->value = fmin(worst->value, e->value);
    worst->lo = fmin(worst->lo, e->lo);
    worst->hi = fmin(worst->hi, e->hi);
}

static void take_higher(qs_estimate *worst, const qs_estimate *e)
{
    if (worst->n == 0) *worst = *e;
    worst->value = fmax(worst->value, e->value);
    worst->lo = fmax(worst->lo, e->lo);
    worst->hi = fmax(worst->hi, e->hi);
}

static qs_err measure_paraphrase(compared *c, const qs_bootstrap *options, qs_estimate *stable,
                                 qs_estimate *rms)
{
    int64_t n_items = c->own->n_prompts / QS_WORDINGS;
    double *room = NULL;
    qs_err err;
    QS_TRY(QS_NEW(room, 4 * c->n_steps, "mean curves"));
    c->f = room;
    c->q = room + c->n_steps;
    c->scratch = room + 2 * c->n_steps;
    QS_TRY(qs_bootstrap_run(options, is_stable, c, n_items, stable));
    QS_TRY(qs_bootstrap_run(options, rms_of, c, n_items, rms));
out:
    qs_mem_free(room);
    return err;
}

qs_err qs_wordings_metrics(const qs_wordings *own, const qs_wordings *reference, uint64_t seed,
                           qs_metric_sink put, void *context)
{
    qs_bootstrap options = {.seed = seed, .n_resamples = N_RESAMPLES};
    qs_estimate worst = {0}, worst_rms = {0};
    qs_err err = check_pair(own, reference);
    for (int64_t wording = 1; wording < QS_WORDINGS && err == QS_OK; wording++) {
        compared c = {.own = own,
                      .reference = reference,
                      .wording = wording,
                      .n_steps = qs_wordings_reach(own, wording)};
        qs_estimate stable, rms;
        char name[32];
        if (c.n_steps == 0) continue; /* the reference answers nothing */
        QS_TRY(measure_paraphrase(&c, &options, &stable, &rms));
        (void)snprintf(name, sizeof name, "entropy_paraphrase_%d", (int)wording);
        QS_TRY(put(context, qs_metric_find(name), &stable));
        take_lower(&worst, &stable);
        take_higher(&worst_rms, &rms);
    }
    if (err != QS_OK || worst.n == 0) goto out;
    QS_TRY(put(context, qs_metric_find("entropy_paraphrases"), &worst));
    QS_TRY(put(context, qs_metric_find("entropy_paraphrases_rms"), &worst_rms));
out:
    return err;
}

/* ---- artifacts ---- */

qs_err qs_wordings_put(qs_artifact *artifact, const qs_wordings *w, const int32_t *stable)
{
    const int64_t dims[] = {w->n_prompts, w->n_steps};
    qs_err err;
    QS_TRY(qs_artifact_put(artifact, "/wordings/tokens", QS_I32, 2, dims, w->tokens));
    QS_TRY(qs_artifact_put(artifact, "/wordings/entropy", QS_F32, 2, dims, w->entropy));
    if (stable != NULL)
        QS_TRY(qs_artifact_put(artifact, "/wordings/stable", QS_I32, 1, &w->n_prompts, stable));
out:
    return err;
}

qs_err qs_wordings_read(qs_wordings *out, const qs_artifact *artifact)
{
    qs_dataset_info tokens, entropy;
    qs_err err;
    *out = (qs_wordings){0};
    QS_TRY(qs_artifact_info(artifact, "/wordings/tokens", &tokens));
    QS_TRY(qs_artifact_info(artifact, "/wordings/entropy", &entropy));
    if (tokens.rank != 2 || tokens.dims[0] % QS_WORDINGS != 0 || tokens.dims[1] < 1 || entropy.rank != 2 ||
        entropy.dims[0] != tokens.dims[0] || entropy.dims[1] != tokens.dims[1])
        return qs_fail(QS_E_INPUT, "read /wordings: it has not the shape of answers to wordings; re-run %s",
                       qs_artifact_kind_stage(QS_KIND_EVAL));
    out->n_prompts = tokens.dims[0];
    out->n_steps = tokens.dims[1];
    QS_TRY(QS_NEW(out->tokens, tokens.n, "answers"));
    QS_TRY(QS_NEW(out->entropy, tokens.n, "entropies of answers"));
    QS_TRY(qs_artifact_read(artifact, "/wordings/tokens", QS_I32, out->tokens, tokens.n));
    QS_TRY(qs_artifact_read(artifact, "/wordings/entropy", QS_F32, out->entropy, tokens.n));
out:
    if (err != QS_OK) qs_wordings_free(out);
    return err;
}
