#include "metric/latency.h"

#include "base/clock.h"
#include "base/mem.h"
#include "metric/bootstrap.h"

int64_t qs_latency_ctx(const qs_latency_options *options)
{
    return options->n_prompt + (options->n_warmups + options->n_rounds) * options->round_tokens;
}

void qs_latency_free(qs_latency *latency)
{
    qs_mem_free(latency->prefill_s);
    qs_mem_free(latency->decode_ms);
    qs_mem_free(latency->reference_decode_ms);
    *latency = (qs_latency){0};
}

/* A decoder on its way through the tokens. */
typedef struct runner {
    qs_decoder *decoder;
    const int32_t *tokens;
    int64_t n_tokens, position;
    float *logits;
} runner;

static qs_err prefill(runner *r, int64_t n_prompt, const int32_t *prompt, double *seconds)
{
    double started = qs_clock_seconds();
    qs_err err = qs_decoder_prefill(r->decoder, 0, prompt, n_prompt, r->logits);
    *seconds = qs_clock_seconds() - started;
    r->position = n_prompt;
    return err;
}

static qs_err decode_round(runner *r, int64_t n, double *ms)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++) {
        int32_t token = r->tokens[r->position++ % r->n_tokens];
        double started = qs_clock_seconds();
        QS_TRY(qs_decoder_step(r->decoder, &token, r->logits));
        ms[i] = 1e3 * (qs_clock_seconds() - started);
    }
out:
    return err;
}

static qs_err measure_prefill(qs_latency *out, runner *r, const int32_t *prompt)
{
    const qs_latency_options *o = &out->options;
    double seconds;
    qs_err err = QS_OK;
    for (int64_t i = -o->n_warmups; i < o->n_prefills; i++) {
        QS_TRY(prefill(r, o->n_prompt, prompt, &seconds));
        if (i >= 0) out->prefill_s[i] = seconds;
    }
out:
    return err;
}

static qs_err measure_decode(qs_latency *out, runner *candidate, runner *reference, const int32_t *prompt)
{
    const qs_latency_options *o = &out->options;
    runner *pair[] = {candidate, reference};
    double *times[] = {out->decode_ms, out->reference_decode_ms}, seconds;
    qs_err err = QS_OK;
    for (int p = 0; p < 2; p++)
        if (pair[p]->decoder != NULL) QS_TRY(prefill(pair[p], o->n_prompt, prompt, &seconds));
    for (int64_t round = -o->n_warmups; round < o->n_rounds; round++)
        for (int p = 0; p < 2; p++) {
            int side = (round & 1) != 0 ? 1 - p : p;
            if (pair[side]->decoder == NULL) continue;
            /* Warm-up rounds leave their times where the first round overwrites them. */
            QS_TRY(decode_round(pair[side], o->round_tokens,
                                times[side] + (round < 0 ? 0 : round) * o->round_tokens));
        }
out:
    return err;
}

qs_err qs_latency_measure(qs_latency *out, qs_decoder *decoder, qs_decoder *reference, int64_t n_vocab,
                          const int32_t *tokens, int64_t n_tokens, const qs_latency_options *options)
{
    int32_t *prompt = NULL;
    float *logits = NULL;
    qs_err err;
    *out = (qs_latency){.options = *options};
    QS_TRY(QS_NEW(prompt, options->n_prompt, "prompt"));
    QS_TRY(QS_NEW(logits, n_vocab, "logits"));
    QS_TRY(QS_NEW(out->prefill_s, options->n_prefills, "times of prompts"));
    QS_TRY(QS_NEW(out->decode_ms, options->n_rounds * options->round_tokens, "times of tokens"));
    if (reference != NULL)
        QS_TRY(QS_NEW(out->reference_decode_ms, options->n_rounds * options->round_tokens, "times of tokens"));
    for (int64_t i = 0; i < options->n_prompt; i++) prompt[i] = tokens[i % n_tokens];
    runner candidate = {.decoder = decoder, .tokens = tokens, .n_tokens = n_tokens, .logits = logits};
    runner other = {.decoder = reference, .tokens = tokens, .n_tokens = n_tokens, .logits = logits};
    QS_TRY(measure_prefill(out, &candidate, prompt));
    QS_TRY(measure_decode(out, &candidate, &other, prompt));
out:
    qs_mem_free(prompt);
    qs_mem_free(logits);
    if (err != QS_OK) qs_latency_free(out);
    return err;
}

/* ---- into the artifact ---- */

static qs_err put(qs_artifact *artifact, const char *name, const qs_estimate *estimate)
{
    return qs_metric_put(artifact, qs_metric_find(name), estimate);
}

/* numerator / x, which turns the interval around. */
static qs_estimate rate_of(const qs_estimate *x, double numerator)
{
    return (qs_estimate){
        .value = numerator / x->value, .lo = numerator / x->hi, .hi = numerator / x->lo, .n = x->n};
}

static qs_err put_samples(qs_artifact *artifact, const qs_latency *latency, int64_t n)
{
    qs_err err;
    QS_TRY(qs_artifact_put(artifact, "/timing/decode_ms", QS_F64, 1, &n, latency->decode_ms));
    if (latency->reference_decode_ms != NULL)
        QS_TRY(qs_artifact_put(artifact, "/timing/reference_decode_ms", QS_F64, 1, &n,
                               latency->reference_decode_ms));
out:
    return err;
}

qs_err qs_latency_put(qs_artifact *artifact, const qs_latency *latency, uint64_t seed)
{
    static const struct {
        const char *name;
        double f;
    } quantiles[] = {{"decode_ms_tok_p50", 0.50}, {"decode_ms_tok_p90", 0.90}, {"decode_ms_tok_p95", 0.95}};
    const qs_latency_options *o = &latency->options;
    int64_t n_samples = o->n_rounds * o->round_tokens;
    qs_bootstrap bootstrap = {.seed = seed};
    qs_estimate estimate;
    qs_err err;
    QS_TRY(qs_bootstrap_quantile(&bootstrap, latency->prefill_s, o->n_prefills, 1, 0.5, &estimate));
    estimate = rate_of(&estimate, (double)o->n_prompt);
    QS_TRY(put(artifact, "prefill_tok_s", &estimate));
    for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
        QS_TRY(qs_bootstrap_quantile(&bootstrap, latency->decode_ms, o->n_rounds, o->round_tokens,
                                     quantiles[i].f, &estimate));
        estimate.n = n_samples;
        QS_TRY(put(artifact, quantiles[i].name, &estimate));
        if (quantiles[i].f != 0.5) continue;
        estimate = rate_of(&estimate, 1e3);
        QS_TRY(put(artifact, "decode_tok_s", &estimate));
    }
    if (latency->reference_decode_ms != NULL) {
        QS_TRY(qs_bootstrap_median_gain(&bootstrap, latency->reference_decode_ms, latency->decode_ms,
                                        o->n_rounds, o->round_tokens, &estimate));
        estimate.n = n_samples;
        QS_TRY(put(artifact, "latency_gain_pct", &estimate));
    }
    QS_TRY(put_samples(artifact, latency, n_samples));
out:
    return err;
}
