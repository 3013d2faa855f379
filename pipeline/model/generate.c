#include "model/generate.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/sampler.h"

const char *qs_stop_name(qs_stop stop)
{
    static const char *const names[QS_N_STOPS] = {
        [QS_STOP_EOS] = "eos", [QS_STOP_LINE] = "line", [QS_STOP_LIMIT] = "limit", [QS_STOP_NONFINITE] = "nonfinite"};
    return names[stop];
}

/* One of the decoder's sequences. */
typedef struct slot {
    int64_t run;          /* that it works on; -1 = idle */
    int64_t prompt;       /* that its cache begins with; -1 = none */
    float *prompt_logits; /* [n_vocab] of the prompt's last token */
} slot;

typedef struct generator {
    const qs_generate_job *job;
    qs_generation *out;
    int64_t batch, n_vocab, next_run;
    slot *slots;         /* [batch] */
    float *prompt_logits; /* [batch, n_vocab] */
    float *logits;       /* [batch, n_vocab] */
    int32_t *tokens;     /* [batch] fed in the next step */
    uint8_t *ends_line;  /* [n_vocab]; NULL when lines do not matter */
    int32_t eos;
} generator;

/* ---- set-up ---- */

static qs_err find_line_ends(generator *g)
{
    const qs_tokenizer *tokenizer = g->job->tokenizer;
    int64_t n_known = qs_tokenizer_n_vocab(tokenizer);
    qs_err err;
    QS_TRY(QS_NEW(g->ends_line, g->n_vocab, "tokens that end a line"));
    for (int32_t i = 0; i < g->n_vocab && i < n_known; i++) {
        char *text;
        QS_TRY(qs_tokenizer_decode(tokenizer, &i, 1, false, &text));
        g->ends_line[i] = strchr(text, '\n') != NULL;
        qs_mem_free(text);
    }
out:
    return err;
}

static qs_err check_job(const qs_generate_job *job)
{
    int64_t n_ctx = qs_decoder_n_ctx(job->decoder);
    for (int64_t i = 0; i < job->n_prompts; i++)
        if (job->prompts[i].n < 1 || job->prompts[i].n + job->n_tokens_max > n_ctx)
            return qs_fail(QS_E_USAGE, "generate: prompt %lld of %lld tokens and up to %lld behind it do not fit %lld",
                           (long long)i, (long long)job->prompts[i].n, (long long)job->n_tokens_max, (long long)n_ctx);
    for (int64_t i = 0; i < job->n_runs; i++)
        if (job->runs[i].forced != NULL && (job->runs[i].forced->n < 1 || job->runs[i].forced->n > job->n_tokens_max))
            return qs_fail(QS_E_USAGE, "generate: run %lld is to take %lld tokens, of 1 to %lld", (long long)i,
                           (long long)job->runs[i].forced->n, (long long)job->n_tokens_max);
    return QS_OK;
}

static qs_err generator_init(generator *g, const qs_generate_job *job, qs_generation *out)
{
    qs_err err;
    *g = (generator){.job = job, .out = out, .batch = qs_decoder_batch(job->decoder),
                     .n_vocab = qs_decoder_n_vocab(job->decoder), .eos = qs_tokenizer_eos(job->tokenizer)};
    QS_TRY(check_job(job));
    QS_TRY(QS_NEW(g->slots, g->batch, "sequences"));
    QS_TRY(QS_NEW(g->prompt_logits, g->batch * g->n_vocab, "logits of prompts"));
    QS_TRY(QS_NEW(g->logits, g->batch * g->n_vocab, "logits"));
    QS_TRY(QS_NEW(g->tokens, g->batch, "tokens"));
    if (job->ending == QS_ENDS_LINE) QS_TRY(find_line_ends(g));
    for (int64_t i = 0; i < g->batch; i++)
        g->slots[i] = (slot){.run = -1, .prompt = -1, .prompt_logits = g->prompt_logits + i * g->n_vocab};
    for (int64_t i = 0; i < job->n_runs; i++)
        QS_TRY(QS_NEW(out[i].tokens, job->n_tokens_max, "generated tokens"));
out:
    return err;
}

static void generator_fini(generator *g)
{
    qs_mem_free(g->slots);
    qs_mem_free(g->prompt_logits);
    qs_mem_free(g->logits);
    qs_mem_free(g->tokens);
    qs_mem_free(g->ends_line);
}

/* ---- runs ---- */

static void finish(slot *s, qs_generation *generation, qs_stop stop)
{
    generation->stop = stop;
    s->run = -1;
}

/* What is forced ends by itself alone. */
static void take_forced(generator *g, int64_t at, const qs_token_list *forced)
{
    slot *s = &g->slots[at];
    qs_generation *generation = &g->out[s->run];
    int32_t token = forced->ids[generation->n_tokens];
    generation->tokens[generation->n_tokens++] = g->tokens[at] = token;
    if (generation->n_tokens == forced->n) finish(s, generation, QS_STOP_LIMIT);
}

/* The temperature that has the effect of multiplying the logits by exp(-clamp * sigma), sigma over the vocabulary. */
static double clamped(double temperature, double clamp, const float *logits, int64_t n)
{
    double sum = 0.0, squares = 0.0;
    if (clamp == 0.0 || temperature <= 0.0) return temperature;
    for (int64_t i = 0; i < n; i++) sum += (double)logits[i];
    for (int64_t i = 0; i < n; i++)
        squares += ((double)logits[i] - sum / (double)n) * ((double)logits[i] - sum / (double)n);
    return temperature / exp(-clamp * sqrt(squares / (double)n));
}

/* The next token of a run from its logits, and whether it was the last. */
static qs_err choose(generator *g, int64_t at, const float *logits)
{
    const qs_generate_job *job = g->job;
    slot *s = &g->slots[at];
    const qs_generate_run *run = &job->runs[s->run];
    qs_generation *generation = &g->out[s->run];
    if (job->watch.see != NULL) {
        qs_err err = job->watch.see(job->watch.context, s->run, generation->n_tokens, logits);
        if (err != QS_OK) return err;
    }
    if (run->forced != NULL) {
        take_forced(g, at, run->forced);
        return QS_OK;
    }
    int32_t banned = job->ending == QS_ENDS_NEVER ? g->eos : -1;
    double temperature = clamped(run->temperature, run->clamp, logits, g->n_vocab);
    int32_t token = qs_sample(logits, g->n_vocab, temperature, run->key, generation->n_tokens, banned);
    if (token < 0) {
        finish(s, generation, QS_STOP_NONFINITE);
    } else if (token == g->eos) {
        finish(s, generation, QS_STOP_EOS);
    } else {
        generation->tokens[generation->n_tokens++] = g->tokens[at] = token;
        if (g->ends_line != NULL && g->ends_line[token] != 0) finish(s, generation, QS_STOP_LINE);
        else if (generation->n_tokens == job->n_tokens_max) finish(s, generation, QS_STOP_LIMIT);
    }
    return QS_OK;
}

/* Puts a prompt in front of a sequence: from another that has it, or computed. */
static qs_err put_prompt(generator *g, int64_t at, int64_t prompt)
{
    const qs_token_list *tokens = &g->job->prompts[prompt];
    slot *s = &g->slots[at];
    qs_err err;
    for (int64_t i = 0; i < g->batch; i++) {
        if (g->slots[i].prompt != prompt) continue;
        QS_TRY(qs_decoder_continue(g->job->decoder, i, at, tokens->n));
        if (i != at) memcpy(s->prompt_logits, g->slots[i].prompt_logits, (size_t)g->n_vocab * sizeof *s->prompt_logits);
        s->prompt = prompt;
        goto out;
    }
    QS_TRY(qs_decoder_prefill(g->job->decoder, at, tokens->ids, tokens->n, s->prompt_logits));
    s->prompt = prompt;
out:
    return err;
}

/* Gives an idle sequence the next runs until one of them has more than its first token to do. */
static qs_err refill(generator *g, int64_t at)
{
    qs_err err = QS_OK;
    while (g->slots[at].run < 0 && g->next_run < g->job->n_runs) {
        int64_t run = g->next_run++;
        QS_TRY(put_prompt(g, at, g->job->runs[run].prompt));
        g->slots[at].run = run;
        QS_TRY(choose(g, at, g->slots[at].prompt_logits));
    }
out:
    return err;
}

/* An idle sequence is stepped too; what it is fed lies behind its prompt, or at the start of an empty cache. */
static qs_err rest(generator *g, int64_t at)
{
    const slot *s = &g->slots[at];
    g->tokens[at] = 0;
    return qs_decoder_continue(g->job->decoder, at, at, s->prompt >= 0 ? g->job->prompts[s->prompt].n : 0);
}

qs_err qs_generate(const qs_generate_job *job, qs_generation *out)
{
    generator g;
    qs_err err;
    QS_TRY(generator_init(&g, job, out));
    for (;;) {
        int64_t n_busy = 0;
        for (int64_t i = 0; i < g.batch; i++) {
            QS_TRY(refill(&g, i));
            if (g.slots[i].run < 0) QS_TRY(rest(&g, i));
            else n_busy++;
        }
        if (n_busy == 0) break;
        QS_TRY(qs_decoder_step(job->decoder, g.tokens, g.logits));
        for (int64_t i = 0; i < g.batch; i++)
            if (g.slots[i].run >= 0) QS_TRY(choose(&g, i, g.logits + i * g.n_vocab));
    }
out:
    generator_fini(&g);
    return qs_context(err, "generate");
}

void qs_generations_free(qs_generation *generations, int64_t n)
{
    for (int64_t i = 0; generations != NULL && i < n; i++) qs_mem_free(generations[i].tokens);
    qs_mem_free(generations);
}
