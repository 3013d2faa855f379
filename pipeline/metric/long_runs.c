#include "metric/long_runs.h"

#include <math.h>

#include "base/mem.h"

/* A few runs side by side. */
typedef struct group {
    qs_long_runs *out;
    const qs_token_list *prompts; /* of the first run */
    int64_t first, n, batch, n_vocab;
    qs_backend *backend;   /* the decoder's, whose device pointers the next are, [batch, n_vocab] each */
    const float *logits;   /* of the decoder's last step, or prompt_logits */
    float *prompt_logits;  /* behind the prompts */
    float *logits_f;       /* the reference's */
    int32_t tokens[QS_LONG_BATCH];
    int32_t end; /* never chosen */
} group;

static size_t logits_bytes(const group *g, int64_t n_rows) { return (size_t)(n_rows * g->n_vocab) * sizeof(float); }

static qs_err group_init(group *g, qs_long_runs *out, const qs_decoder *decoder, int32_t end,
                         bool candidate)
{
    qs_err err;
    *g = (group){.out = out, .batch = qs_decoder_batch(decoder), .n_vocab = qs_decoder_n_vocab(decoder),
                 .end = end};
    g->logits = qs_decoder_logits(decoder, &g->backend);
    if (g->batch > QS_LONG_BATCH)
        return qs_fail(QS_E_USAGE, "write long texts: batch %lld, at most %d", (long long)g->batch, QS_LONG_BATCH);
    QS_TRY(qs_backend_alloc(g->backend, &g->prompt_logits, logits_bytes(g, g->batch), "logits of prompts"));
    if (candidate) QS_TRY(qs_backend_alloc(g->backend, &g->logits_f, logits_bytes(g, g->batch), "logits"));
out:
    return err;
}

static void group_fini(group *g)
{
    if (g->backend == NULL) return;
    qs_backend_free(g->backend, g->prompt_logits);
    qs_backend_free(g->backend, g->logits_f);
}

static qs_err runs_alloc(qs_long_runs *out, int64_t n, int64_t n_steps, bool candidate)
{
    qs_err err;
    *out = (qs_long_runs){.n = n, .n_steps = n_steps};
    QS_TRY(QS_NEW(out->tokens, n * n_steps, "long texts"));
    QS_TRY(QS_NEW(out->entropy, n * n_steps, "entropies"));
    if (candidate) QS_TRY(QS_NEW(out->kld, n * n_steps, "KL divergences"));
    if (candidate) QS_TRY(QS_NEW(out->free_entropy, n * n_steps, "entropies"));
out:
    return err;
}

/* ---- steps ---- */

/* logits of this group's prompts, on its backend. */
static qs_err prefill(const group *g, qs_decoder *decoder, float *logits)
{
    qs_backend *from;
    const float *row = qs_decoder_logits(decoder, &from);
    qs_err err = QS_OK;
    for (int64_t i = 0; i < g->n; i++) {
        QS_TRY(qs_decoder_prefill(decoder, i, g->prompts[i].ids, g->prompts[i].n, NULL));
        QS_TRY(qs_backend_bring(g->backend, logits + i * g->n_vocab, from, row, logits_bytes(g, 1)));
    }
out:
    return err;
}

/* Sequences without a run stay empty. */
static qs_err step(group *g, qs_decoder *decoder)
{
    qs_err err = QS_OK;
    for (int64_t i = g->n; i < g->batch; i++) {
        g->tokens[i] = 0;
        QS_TRY(qs_decoder_continue(decoder, i, i, 0));
    }
    QS_TRY(qs_decoder_step(decoder, g->tokens, NULL));
out:
    return err;
}

/* values[run, t] of this group's runs from values by row. */
static void scatter(const group *g, const float *rows, int64_t t, float *values)
{
    for (int64_t i = 0; i < g->n; i++) values[(g->first + i) * g->out->n_steps + t] = rows[i];
}

static qs_err check_finite(const group *g, const double *lse, int64_t t)
{
    for (int64_t i = 0; i < g->n; i++)
        if (!isfinite(lse[i]))
            return qs_fail(QS_E_NUMERIC, "long text %lld, step %lld: the probabilities are not finite",
                           (long long)(g->first + i), (long long)t);
    return QS_OK;
}

/* Entropies of g->logits at step t into `entropy`, and with kld their divergence from g->logits_f. */
static qs_err measure(group *g, int64_t t, float *entropy, float *kld)
{
    double lse[QS_LONG_BATCH], lse_f[QS_LONG_BATCH];
    float rows[QS_LONG_BATCH];
    qs_err err;
    qs_logit_stats stats = {.lse = lse, .entropy = rows};
    QS_TRY(qs_op_logit_stats(g->backend, g->logits, NULL, g->n, g->n_vocab, &stats));
    QS_TRY(check_finite(g, lse, t));
    scatter(g, rows, t, entropy);
    if (kld == NULL) goto out;
    stats = (qs_logit_stats){.lse = lse_f};
    QS_TRY(qs_op_logit_stats(g->backend, g->logits_f, NULL, g->n, g->n_vocab, &stats));
    QS_TRY(check_finite(g, lse_f, t));
    QS_TRY(qs_op_kld(g->backend, g->logits_f, lse_f, g->logits, lse, g->n, g->n_vocab, rows));
    scatter(g, rows, t, kld);
out:
    return err;
}

static qs_err own_step(group *g, qs_decoder *decoder)
{
    qs_err err;
    QS_TRY(step(g, decoder));
    g->logits = qs_decoder_logits(decoder, &g->backend);
out:
    return err;
}

static qs_err reference_step(group *g, qs_decoder *decoder)
{
    qs_backend *from;
    const float *logits = qs_decoder_logits(decoder, &from);
    qs_err err;
    QS_TRY(step(g, decoder));
    QS_TRY(qs_backend_bring(g->backend, g->logits_f, from, logits, logits_bytes(g, g->n)));
out:
    return err;
}

/* The configuration's own text from the prompts on. */
static qs_err write_text(group *g, qs_decoder *decoder, float *entropy)
{
    qs_sample_rule rules[QS_LONG_BATCH];
    qs_err err = QS_OK;
    int64_t n_steps = g->out->n_steps;
    for (int64_t i = 0; i < g->n; i++) rules[i] = (qs_sample_rule){.banned = g->end};
    g->logits = g->prompt_logits;
    for (int64_t t = 0; t < n_steps; t++) {
        QS_TRY(measure(g, t, entropy, NULL));
        QS_TRY(qs_op_sample(g->backend, g->logits, rules, g->n, g->n_vocab, g->tokens));
        for (int64_t i = 0; i < g->n; i++) g->out->tokens[(g->first + i) * n_steps + t] = g->tokens[i];
        if (t + 1 < n_steps) QS_TRY(own_step(g, decoder));
    }
out:
    return err;
}

static qs_err follow_text(group *g, qs_decoder *decoder, qs_decoder *reference_decoder, const qs_long_runs *reference)
{
    qs_err err = QS_OK;
    int64_t n_steps = g->out->n_steps;
    QS_TRY(prefill(g, reference_decoder, g->logits_f));
    g->logits = g->prompt_logits;
    for (int64_t t = 0; t < n_steps; t++) {
        QS_TRY(measure(g, t, g->out->entropy, g->out->kld));
        for (int64_t i = 0; i < g->n; i++) g->tokens[i] = reference->tokens[(g->first + i) * n_steps + t];
        if (t + 1 == n_steps) break;
        QS_TRY(own_step(g, decoder));
        QS_TRY(reference_step(g, reference_decoder));
    }
out:
    return err;
}

/* ---- all runs ---- */

qs_err qs_long_write(qs_long_runs *out, qs_decoder *decoder, int32_t end,
                     const qs_token_list *prompts, int64_t n, int64_t n_steps)
{
    group g;
    qs_err err;
    QS_TRY(group_init(&g, out, decoder, end, false));
    QS_TRY(runs_alloc(out, n, n_steps, false));
    for (g.first = 0; g.first < n; g.first += g.batch) {
        g.n = n - g.first < g.batch ? n - g.first : g.batch;
        g.prompts = prompts + g.first;
        QS_TRY(prefill(&g, decoder, g.prompt_logits));
        QS_TRY(write_text(&g, decoder, out->entropy));
    }
out:
    group_fini(&g);
    return err;
}

qs_err qs_long_follow(qs_long_runs *out, qs_decoder *decoder, qs_decoder *reference_decoder, int32_t end,
                      const qs_token_list *prompts, int64_t n,
                      const qs_long_runs *reference)
{
    group g;
    qs_err err;
    QS_TRY(group_init(&g, out, decoder, end, true));
    QS_TRY(runs_alloc(out, n, reference->n_steps, true));
    for (g.first = 0; g.first < n; g.first += g.batch) {
        g.n = n - g.first < g.batch ? n - g.first : g.batch;
        g.prompts = prompts + g.first;
        QS_TRY(prefill(&g, decoder, g.prompt_logits));
        QS_TRY(follow_text(&g, decoder, reference_decoder, reference));
        for (int64_t i = 0; i < g.n; i++) QS_TRY(qs_decoder_continue(decoder, i, i, g.prompts[i].n));
        QS_TRY(write_text(&g, decoder, out->free_entropy));
    }
out:
    group_fini(&g);
    return err;
}

void qs_long_free(qs_long_runs *runs)
{
    qs_mem_free(runs->tokens);
    qs_mem_free(runs->entropy);
    qs_mem_free(runs->kld);
    qs_mem_free(runs->free_entropy);
    *runs = (qs_long_runs){0};
}

/* ---- artifacts ---- */

static const char *qid_of(const void *context, int64_t i)
{
    return ((const qs_questions *)context)->set.longforms[i].qid;
}

qs_err qs_long_put(qs_artifact *artifact, const qs_questions *questions, const qs_long_runs *runs)
{
    const int64_t dims[] = {runs->n, runs->n_steps};
    qs_err err;
    QS_TRY(qs_lines_put(artifact, "/longform/qids", runs->n, qid_of, questions));
    QS_TRY(qs_artifact_put(artifact, "/longform/tokens", QS_I32, 2, dims, runs->tokens));
    QS_TRY(qs_artifact_put(artifact, "/longform/entropy", QS_F32, 2, dims, runs->entropy));
    if (runs->kld == NULL) goto out;
    QS_TRY(qs_artifact_put(artifact, "/longform/kld", QS_F32, 2, dims, runs->kld));
    QS_TRY(qs_artifact_put(artifact, "/longform/free_entropy", QS_F32, 2, dims, runs->free_entropy));
out:
    return err;
}

qs_err qs_long_read(qs_long_runs *out, const qs_artifact *artifact)
{
    qs_dataset_info info;
    qs_err err;
    *out = (qs_long_runs){0};
    QS_TRY(qs_artifact_info(artifact, "/longform/tokens", &info));
    if (info.rank != 2) return qs_fail(QS_E_INPUT, "read /longform/tokens: it is no matrix; re-run %s",
                                       qs_artifact_kind_stage(QS_KIND_EVAL));
    QS_TRY(runs_alloc(out, info.dims[0], info.dims[1], qs_artifact_has(artifact, "/longform/kld")));
    QS_TRY(qs_artifact_read(artifact, "/longform/tokens", QS_I32, out->tokens, info.n));
    QS_TRY(qs_artifact_read(artifact, "/longform/entropy", QS_F32, out->entropy, info.n));
    if (out->kld == NULL) goto out;
    QS_TRY(qs_artifact_read(artifact, "/longform/kld", QS_F32, out->kld, info.n));
    QS_TRY(qs_artifact_read(artifact, "/longform/free_entropy", QS_F32, out->free_entropy, info.n));
out:
    if (err != QS_OK) qs_long_free(out);
    return err;
}
