#include "metric/resonance.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metric/delta_s.h"
#include "metric/lambda.h"

static const double lost = 0.85;
enum { LOST_STEPS = 3 };

/* ---- distances ---- */

char *qs_resonance_subject(const qs_questions *q, int64_t index)
{
    const qs_gold_longform *longform = &q->set.longforms[index];
    char *text = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    if (stream == NULL) return NULL;
    (void)fprintf(stream, "%s", longform->question);
    for (int64_t i = 0; i < longform->n_snippets; i++)
        (void)fprintf(stream, "\n%s", q->set.snippets[longform->snippets[i]].text);
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

/* Vectors of the subject and of the text after every step: vectors [1 + n_steps, dim]. */
static qs_err encode_run(qs_encoder *encoder, const qs_questions *q, const qs_tokenizer *tokenizer,
                         const qs_long_runs *runs, int64_t run, int64_t n_steps, float *vectors)
{
    char **texts = NULL, *subject = qs_resonance_subject(q, run);
    qs_err err;
    if (subject == NULL) return qs_fail(QS_E_RESOURCE, "read long texts: out of memory");
    QS_TRY(QS_NEW(texts, 1 + n_steps, "texts so far"));
    for (int64_t step = 0; step < n_steps; step++)
        QS_TRY(qs_tokenizer_decode(tokenizer, runs->tokens + run * runs->n_steps,
                                   (step + 1) * QS_RESONANCE_TOKENS, true, &texts[1 + step]));
    texts[0] = subject;
    err = qs_encoder_encode(encoder, (const char *const *)texts, 1 + n_steps, vectors);
out:
    for (int64_t step = 0; texts != NULL && step < n_steps; step++) qs_mem_free(texts[1 + step]);
    qs_mem_free((void *)texts);
    free(subject);
    return err;
}

qs_err qs_resonance_measure(qs_resonance *out, qs_encoder *encoder, const qs_questions *q,
                            const qs_tokenizer *tokenizer, const qs_long_runs *runs)
{
    int64_t dim = qs_encoder_dim(encoder), n_steps = runs->n_steps / QS_RESONANCE_TOKENS;
    float *vectors = NULL;
    double *e = NULL;
    qs_lambda *states = NULL;
    qs_err err;
    *out = (qs_resonance){.n = runs->n, .n_steps = n_steps, .n_tokens = runs->n_steps};
    QS_TRY(QS_NEW(out->delta, runs->n * n_steps, "distances of long texts"));
    QS_TRY(QS_NEW(vectors, (1 + n_steps) * dim, "vectors of long texts"));
    QS_TRY(QS_NEW(out->states, runs->n * n_steps, "states of long texts"));
    QS_TRY(QS_NEW(e, n_steps, "resonance of a text"));
    QS_TRY(QS_NEW(states, n_steps, "states of a text"));
    for (int64_t run = 0; run < runs->n; run++) {
        double *delta = out->delta + run * n_steps;
        QS_TRY(encode_run(encoder, q, tokenizer, runs, run, n_steps, vectors));
        for (int64_t step = 0; step < n_steps; step++)
            delta[step] = qs_delta_s(vectors + (1 + step) * dim, vectors, dim);
        qs_e_resonance(delta, n_steps, e);
        qs_lambda_of_steps(delta, e, NULL, n_steps, states);
        for (int64_t step = 0; step < n_steps; step++) out->states[run * n_steps + step] = (int32_t)states[step];
    }
out:
    qs_mem_free(vectors);
    qs_mem_free(e);
    qs_mem_free(states);
    if (err != QS_OK) qs_resonance_free(out);
    return err;
}

void qs_resonance_free(qs_resonance *resonance)
{
    qs_mem_free(resonance->delta);
    qs_mem_free(resonance->states);
    *resonance = (qs_resonance){0};
}

qs_err qs_resonance_put(qs_artifact *artifact, const qs_resonance *r)
{
    const int64_t dims[] = {r->n, r->n_steps};
    qs_err err = QS_OK;
    if (r->n_steps == 0) return QS_OK;
    QS_TRY(qs_artifact_put(artifact, "/longform/delta", QS_F64, 2, dims, r->delta));
    QS_TRY(qs_artifact_put(artifact, "/longform/lambda", QS_I32, 2, dims, r->states));
out:
    return err;
}

int64_t qs_resonance_take_nearer(qs_resonance *r, const qs_resonance *other)
{
    int64_t n_taken = 0, last = r->n_steps - 1;
    for (int64_t run = 0; run < r->n && last >= 0; run++) {
        int64_t at = run * r->n_steps;
        if (!(other->delta[at + last] < r->delta[at + last])) continue;
        memcpy(r->delta + at, other->delta + at, (size_t)r->n_steps * sizeof *r->delta);
        memcpy(r->states + at, other->states + at, (size_t)r->n_steps * sizeof *r->states);
        n_taken++;
    }
    return n_taken;
}

int64_t qs_resonance_lost(const double *delta, int64_t n_steps, int64_t n_tokens)
{
    int64_t run = 0;
    for (int64_t step = 0; step < n_steps; step++) {
        run = delta[step] >= lost ? run + 1 : 0;
        if (run == LOST_STEPS) return (step - LOST_STEPS + 2) * QS_RESONANCE_TOKENS;
    }
    return n_tokens;
}

/* ---- metrics ---- */

enum { RUNS, RESONANCE, DRIFT, EXCESS, LOST_Q, LOST_F, CONVERGENT, CHAOTIC, N_SUMS };

static double resonance(const double *s) { return s[RESONANCE] / s[RUNS]; }
static double drift(const double *s) { return s[DRIFT] / s[RUNS]; }
static double excess(const double *s) { return s[EXCESS] / s[RUNS]; }
static double mttf(const double *s) { return s[LOST_Q] / s[RUNS]; }
static double convergent(const double *s) { return s[CONVERGENT] / s[RUNS]; }
static double chaotic(const double *s) { return s[CHAOTIC] / s[RUNS]; }
/* At least 40 tokens, or as many as the reference: whichever is easier. */
static double margin(const double *s)
{
    return fmax(s[LOST_Q] / s[RUNS] - QS_MTTF_TOKENS, (s[LOST_Q] - s[LOST_F]) / s[RUNS]);
}

static const struct {
    const char *name;
    double (*of)(const double *sums);
} rows[] = {
    {"e_resonance", resonance}, {"e_resonance_drift", drift}, {"e_resonance_slope_excess", excess},
    {"mttf", mttf},             {"mttf_margin", margin},
    {"lambda_step_conv", convergent}, {"lambda_step_chaotic", chaotic},
};

/* room [2 n_steps] */
static void sum_run(const qs_resonance *q, const qs_resonance *f, int64_t run, double *s, double *room)
{
    int64_t n = q->n_steps;
    const double *delta_q = q->delta + run * n, *delta_f = f != NULL ? f->delta + run * n : NULL;
    double *e_q = room, *e_f = room + n;
    s[RUNS] = 1;
    qs_e_resonance(delta_q, n, e_q);
    for (int64_t step = 0; step < n; step++) s[RESONANCE] += e_q[step] / (double)n;
    s[LOST_Q] = (double)qs_resonance_lost(delta_q, n, q->n_tokens);
    for (int64_t step = 0; step < n && q->states != NULL; step++) {
        int32_t state = q->states[run * n + step];
        s[CONVERGENT] += (state == QS_LAMBDA_CONVERGENT) / (double)n;
        s[CHAOTIC] += (state == QS_LAMBDA_CHAOTIC) / (double)n;
    }
    if (f == NULL) return;
    qs_e_resonance(delta_f, n, e_f);
    s[DRIFT] = qs_e_resonance_drift(e_f, n, e_q, n);
    s[EXCESS] = qs_e_resonance_slope_excess(qs_slope(e_f, n), qs_slope(e_q, n));
    s[LOST_F] = (double)qs_resonance_lost(delta_f, n, f->n_tokens);
}

qs_err qs_resonance_metrics(const qs_resonance *own, const qs_resonance *reference, qs_quality_part part, uint64_t seed,
                            qs_metric_sink put, void *context)
{
    qs_bootstrap options = {.seed = seed};
    double *sums = NULL, *room = NULL;
    qs_err err = QS_OK;
    if (own->n_steps == 0) return QS_OK;
    if (reference != NULL && (reference->n < own->n || reference->n_steps != own->n_steps))
        return qs_fail(QS_E_INPUT, "compare long texts: %lld of %lld steps, the reference has %lld of %lld",
                       (long long)own->n, (long long)own->n_steps, (long long)reference->n,
                       (long long)reference->n_steps);
    QS_TRY(QS_NEW(sums, own->n * N_SUMS, "sums of long texts"));
    QS_TRY(QS_NEW(room, 2 * own->n_steps, "resonances"));
    for (int64_t i = 0; i < own->n; i++) sum_run(own, reference, i, sums + i * N_SUMS, room);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const qs_metric *metric = qs_metric_find(rows[i].name);
        qs_quality_part wanted = metric->needs_reference ? QS_QUALITY_PAIRED : QS_QUALITY_OWN;
        qs_estimate estimate;
        if ((wanted & part) == 0) continue;
        QS_TRY(qs_bootstrap_sums(&options, sums, own->n, N_SUMS, rows[i].of, &estimate));
        QS_TRY(put(context, metric, &estimate));
    }
out:
    qs_mem_free(sums);
    qs_mem_free(room);
    return err;
}
