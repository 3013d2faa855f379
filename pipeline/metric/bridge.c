#include "metric/bridge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metric/delta_s.h"
#include "metric/resonance.h"

static const double lost = 0.85;
enum { LOST_STEPS = 3 };

/* One text being written. */
typedef struct writer {
    qs_encoder *encoder;
    const qs_tokenizer *tokenizer;
    int32_t end; /* the token that ends texts */
    qs_decoder *decoder;
    const qs_token_list *prompt;
    int64_t n_steps, n; /* tokens wanted and written */
    int32_t *tokens;    /* [n_steps] */
    float *vectors;     /* [2, dim] of the subject and of the text so far */
    qs_token_list bridge;
    int64_t n_bridges;
} writer;

/* A line that quotes the first snippet and cites it, in the form of the prompt. */
static qs_err make_bridge(writer *w, const qs_questions *q, int64_t longform)
{
    const qs_gold_snippet *s = &q->set.snippets[q->set.longforms[longform].snippets[0]];
    char *text = NULL;
    size_t bytes = strlen(s->text) + strlen(s->id) + 8;
    qs_err err;
    w->bridge.n = 0;
    QS_TRY(qs_mem_alloc(&text, bytes, "bridge line"));
    (void)snprintf(text, bytes, "\n%s [%s]\n", s->text, s->id);
    QS_TRY(qs_tokenizer_encode(w->tokenizer, text, strlen(text), false, &w->bridge));
out:
    qs_mem_free(text);
    return err;
}

/* Appends a token and brings the decoder's logits up to date, unless it was the last. */
static qs_err take(writer *w, int32_t token)
{
    w->tokens[w->n++] = token;
    return w->n < w->n_steps ? qs_decoder_step(w->decoder, &token, NULL) : QS_OK;
}

/* Distance of the text so far. */
static qs_err measure(writer *w, double *delta)
{
    int64_t dim = qs_encoder_dim(w->encoder);
    char *text = NULL;
    qs_err err;
    QS_TRY(qs_tokenizer_decode(w->tokenizer, w->tokens, w->n, true, &text));
    QS_TRY(qs_encoder_encode(w->encoder, (const char *const *)&text, 1, w->vectors + dim));
    *delta = qs_delta_s(w->vectors + dim, w->vectors, dim);
out:
    qs_mem_free(text);
    return err;
}

/* Back to n tokens, and over the bridge as far as it fits. */
static qs_err cross(writer *w, int64_t n)
{
    qs_err err;
    w->n = n;
    /* All but the last token kept: feeding that one gives the logits behind it. */
    QS_TRY(qs_decoder_continue(w->decoder, 0, 0, w->prompt->n + w->n - 1));
    QS_TRY(qs_decoder_step(w->decoder, &w->tokens[w->n - 1], NULL));
    for (int64_t i = 0; i < w->bridge.n && w->n < w->n_steps; i++) QS_TRY(take(w, w->bridge.ids[i]));
    w->n_bridges++;
out:
    return err;
}

/* Steps in a row at which the text was lost. */
typedef struct streak {
    int64_t n, ends[LOST_STEPS]; /* tokens written at the end of each */
    double delta[LOST_STEPS];
} streak;

static int64_t best_end(const streak *s)
{
    int64_t best = 0;
    for (int64_t i = 1; i < s->n; i++)
        if (s->delta[i] < s->delta[best]) best = i;
    return s->ends[best];
}

/* The most probable token that does not end the text. */
static qs_err choose(const writer *w, int32_t *token)
{
    qs_sample_rule rule = {.banned = w->end};
    qs_backend *backend;
    const float *logits = qs_decoder_logits(w->decoder, &backend);
    qs_err err;
    QS_TRY(qs_op_sample(backend, logits, &rule, 1, qs_decoder_n_vocab(w->decoder), token));
    if (*token < 0) err = qs_fail(QS_E_NUMERIC, "write over a bridge: a logit is not finite");
out:
    return err;
}

static qs_err write_one(writer *w)
{
    qs_err err;
    int32_t token;
    streak s = {0};
    w->n = w->n_bridges = 0;
    QS_TRY(qs_decoder_prefill(w->decoder, 0, w->prompt->ids, w->prompt->n, NULL));
    while (w->n < w->n_steps) {
        QS_TRY(choose(w, &token));
        QS_TRY(take(w, token));
        if (w->n % QS_RESONANCE_TOKENS != 0 || w->n == w->n_steps || w->n_bridges == QS_BRIDGES_MAX) continue;
        QS_TRY(measure(w, &s.delta[s.n]));
        s.ends[s.n] = w->n;
        s.n = s.delta[s.n] >= lost ? s.n + 1 : 0;
        if (s.n < LOST_STEPS) continue;
        QS_TRY(cross(w, best_end(&s)));
        s.n = 0;
    }
out:
    return err;
}

qs_err qs_bridge_write(qs_long_runs *out, qs_encoder *encoder, const qs_questions *q,
                       const qs_tokenizer *tokenizer, qs_decoder *decoder, const qs_token_list *prompts,
                       int64_t n, int64_t n_steps, int64_t *n_bridges)
{
    writer w = {.encoder = encoder, .tokenizer = tokenizer, .end = qs_chat_end(&q->chat, tokenizer),
                .decoder = decoder, .n_steps = n_steps};
    qs_err err;
    *out = (qs_long_runs){.n = n, .n_steps = n_steps};
    *n_bridges = 0;
    QS_TRY(QS_NEW(out->tokens, n * n_steps, "long texts"));
    QS_TRY(QS_NEW(w.vectors, 2 * qs_encoder_dim(encoder), "vectors of a long text"));
    for (int64_t i = 0; i < n; i++) {
        char *subject = qs_resonance_subject(q, i);
        if (subject == NULL) err = qs_fail(QS_E_RESOURCE, "read long texts: out of memory");
        if (err == QS_OK) err = qs_encoder_encode(encoder, (const char *const *)&subject, 1, w.vectors);
        free(subject);
        QS_TRY(err);
        w.prompt = &prompts[i];
        w.tokens = out->tokens + i * n_steps;
        QS_TRY(make_bridge(&w, q, i));
        QS_TRY(write_one(&w));
        *n_bridges += w.n_bridges;
    }
out:
    qs_mem_free(w.vectors);
    qs_token_list_free(&w.bridge);
    if (err != QS_OK) qs_long_free(out);
    return qs_context(err, "fix bbcr");
}
