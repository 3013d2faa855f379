#include "model/generate.h"

#include <string.h>

#include "base/mem.h"

const char *qs_stop_name(qs_stop stop)
{
    static const char *const names[QS_N_STOPS] = {
        [QS_STOP_EOS] = "eos", [QS_STOP_LINE] = "line", [QS_STOP_LIMIT] = "limit", [QS_STOP_NONFINITE] = "nonfinite"};
    return names[stop];
}

/* One of the decoder's sequences. */
typedef struct slot {
    int64_t run;    /* that it works on; -1 = idle */
    int64_t prompt; /* that its cache begins with; -1 = none */
} slot;

/* What a step says about its rows, host [batch] each. */
typedef struct rows {
    qs_sample_rule *rules;
    int32_t *tokens, *targets; /* chosen; those that nll is of */
    double *lse;
    float *nll, *entropy;
} rows;

typedef struct generator {
    const qs_generate_job *job;
    qs_generation *out;
    int64_t batch, n_vocab, next_run;
    slot *slots;          /* [batch] */
    qs_backend *backend;  /* where the logits are */
    const float *logits;  /* device [batch, n_vocab] of the last step or, in its first row, prompt */
    float *prompt_logits; /* device [batch, n_vocab] of the prompts' last tokens */
    rows rows;
    int32_t *tokens;      /* [batch] fed in the next step */
    uint8_t *ends_line;   /* [n_vocab]; NULL when lines do not matter */
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

static size_t row_bytes(const generator *g) { return (size_t)g->n_vocab * sizeof(float); }

static qs_err rows_init(rows *r, int64_t batch)
{
    qs_err err;
    QS_TRY(QS_NEW(r->rules, batch, "rules"));
    QS_TRY(QS_NEW(r->tokens, batch, "tokens"));
    QS_TRY(QS_NEW(r->targets, batch, "tokens"));
    QS_TRY(QS_NEW(r->lse, batch, "statistics"));
    QS_TRY(QS_NEW(r->nll, batch, "statistics"));
    QS_TRY(QS_NEW(r->entropy, batch, "statistics"));
out:
    return err;
}

static void rows_fini(rows *r)
{
    qs_mem_free(r->rules);
    qs_mem_free(r->tokens);
    qs_mem_free(r->targets);
    qs_mem_free(r->lse);
    qs_mem_free(r->nll);
    qs_mem_free(r->entropy);
}

static qs_err generator_init(generator *g, const qs_generate_job *job, qs_generation *out)
{
    qs_err err;
    *g = (generator){.job = job, .out = out, .batch = qs_decoder_batch(job->decoder),
                     .n_vocab = qs_decoder_n_vocab(job->decoder), .eos = qs_tokenizer_eos(job->tokenizer)};
    g->logits = qs_decoder_logits(job->decoder, &g->backend);
    QS_TRY(check_job(job));
    QS_TRY(QS_NEW(g->slots, g->batch, "sequences"));
    QS_TRY(qs_backend_alloc(g->backend, &g->prompt_logits, (size_t)g->batch * row_bytes(g), "logits of prompts"));
    QS_TRY(rows_init(&g->rows, g->batch));
    QS_TRY(QS_NEW(g->tokens, g->batch, "tokens"));
    if (job->ending == QS_ENDS_LINE) QS_TRY(find_line_ends(g));
    for (int64_t i = 0; i < g->batch; i++) g->slots[i] = (slot){.run = -1, .prompt = -1};
    for (int64_t i = 0; i < job->n_runs; i++)
        QS_TRY(QS_NEW(out[i].tokens, job->n_tokens_max, "generated tokens"));
out:
    return err;
}

static void generator_fini(generator *g)
{
    if (g->backend != NULL) qs_backend_free(g->backend, g->prompt_logits);
    rows_fini(&g->rows);
    qs_mem_free(g->slots);
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
static void take_forced(generator *g, int64_t at, int32_t token)
{
    slot *s = &g->slots[at];
    qs_generation *generation = &g->out[s->run];
    generation->tokens[generation->n_tokens++] = g->tokens[at] = token;
    if (generation->n_tokens == g->job->runs[s->run].forced->n) finish(s, generation, QS_STOP_LIMIT);
}

static bool ends_text(const generator *g, int32_t token)
{
    bool ends = token == g->eos;
    for (int32_t i = 0; i < g->job->stops.n; i++) ends = ends || token == g->job->stops.ids[i];
    return ends;
}

/* The next token of a run, and whether it was the last. */
static void take(generator *g, int64_t at, int32_t token)
{
    const qs_generate_job *job = g->job;
    slot *s = &g->slots[at];
    qs_generation *generation = &g->out[s->run];
    if (job->runs[s->run].forced != NULL) {
        take_forced(g, at, token);
    } else if (token < 0) {
        finish(s, generation, QS_STOP_NONFINITE);
    } else if (ends_text(g, token)) {
        finish(s, generation, QS_STOP_EOS);
    } else {
        generation->tokens[generation->n_tokens++] = g->tokens[at] = token;
        if (g->ends_line != NULL && g->ends_line[token] != 0) finish(s, generation, QS_STOP_LINE);
        else if (generation->n_tokens == job->n_tokens_max) finish(s, generation, QS_STOP_LIMIT);
    }
}

/* g->rows.tokens [n] of the sequences from `first` on, whose logits are these; of idle ones it does not matter
 * which. */
static qs_err choose(generator *g, int64_t first, int64_t n, const float *logits)
{
    const qs_generate_job *job = g->job;
    int64_t n_free = 0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++) {
        const slot *s = &g->slots[first + i];
        const qs_generate_run *run = s->run >= 0 ? &job->runs[s->run] : NULL;
        g->rows.rules[i] = (qs_sample_rule){.banned = -1};
        if (run == NULL || run->forced != NULL) continue;
        n_free++;
        g->rows.rules[i] = (qs_sample_rule){.temperature = run->temperature, .clamp = run->clamp, .key = run->key,
                                            .step = g->out[s->run].n_tokens,
                                            .banned = job->ending == QS_ENDS_NEVER ? g->eos : -1};
    }
    if (n_free > 0) QS_TRY(qs_op_sample(g->backend, logits, g->rows.rules, n, g->n_vocab, g->rows.tokens));
    for (int64_t i = 0; i < n; i++) {
        const slot *s = &g->slots[first + i];
        const qs_token_list *forced = s->run >= 0 ? job->runs[s->run].forced : NULL;
        if (forced != NULL) g->rows.tokens[i] = forced->ids[g->out[s->run].n_tokens];
    }
out:
    return err;
}

static qs_err look(generator *g, int64_t first, int64_t n, const float *logits)
{
    const qs_generate_job *job = g->job;
    const rows *r = &g->rows;
    qs_logit_stats stats = {.lse = r->lse, .nll = r->nll, .entropy = job->watch.want_entropy ? r->entropy : NULL};
    qs_err err = QS_OK;
    if (job->watch.see == NULL) return QS_OK;
    for (int64_t i = 0; i < n; i++) r->targets[i] = g->slots[first + i].run >= 0 && r->tokens[i] > 0 ? r->tokens[i] : 0;
    QS_TRY(qs_op_logit_stats(g->backend, logits, r->targets, n, g->n_vocab, &stats));
    for (int64_t i = 0; i < n; i++) {
        const slot *s = &g->slots[first + i];
        qs_generate_look seen = {.lse = r->lse[i], .nll = r->nll[i], .entropy = r->entropy[i]};
        if (s->run >= 0) QS_TRY(job->watch.see(job->watch.context, s->run, g->out[s->run].n_tokens, &seen));
    }
out:
    return err;
}

/* A step of the n sequences from `first` on, whose logits [n, n_vocab] (device) these are. */
static qs_err advance(generator *g, int64_t first, int64_t n, const float *logits)
{
    qs_err err;
    QS_TRY(choose(g, first, n, logits));
    QS_TRY(look(g, first, n, logits));
    for (int64_t i = 0; i < n; i++)
        if (g->slots[first + i].run >= 0) take(g, first + i, g->rows.tokens[i]);
out:
    return err;
}

/* Puts a prompt in front of a sequence: from another that has it, or computed. */
static qs_err put_prompt(generator *g, int64_t at, int64_t prompt)
{
    const qs_token_list *tokens = &g->job->prompts[prompt];
    float *own = g->prompt_logits + at * g->n_vocab;
    qs_err err;
    for (int64_t i = 0; i < g->batch; i++) {
        if (g->slots[i].prompt != prompt) continue;
        QS_TRY(qs_decoder_continue(g->job->decoder, i, at, tokens->n));
        if (i != at) QS_TRY(qs_backend_copy(g->backend, own, g->prompt_logits + i * g->n_vocab, row_bytes(g)));
        g->slots[at].prompt = prompt;
        goto out;
    }
    QS_TRY(qs_decoder_prefill(g->job->decoder, at, tokens->ids, tokens->n, NULL));
    QS_TRY(qs_backend_copy(g->backend, own, g->logits, row_bytes(g)));
    g->slots[at].prompt = prompt;
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
        QS_TRY(advance(g, at, 1, g->prompt_logits + at * g->n_vocab));
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
        QS_TRY(qs_decoder_step(job->decoder, g.tokens, NULL));
        QS_TRY(advance(&g, 0, g.batch, g.logits));
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
