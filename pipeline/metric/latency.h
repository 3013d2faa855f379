/* Speed of a deployed point: batch 1, packed kernels, warm, monotonic clock. The candidate's and the
 * reference's decoding alternate in short runs of tokens within one process, each going first in every other
 * round, so that whatever else the machine does hits both. */
#ifndef QS_METRIC_LATENCY_H
#define QS_METRIC_LATENCY_H

#include "metric/metrics.h"
#include "model/forward.h"

typedef struct qs_latency_options {
    int64_t n_prompt;   /* tokens of the prompt */
    int64_t n_warmups;  /* prompts, and rounds of decoding, that are not counted */
    int64_t n_prefills; /* timed prompts */
    int64_t n_rounds;   /* timed rounds of decoding, of round_tokens tokens each */
    int64_t round_tokens;
} qs_latency_options;
#define QS_LATENCY_DEFAULTS                                                                                  \
    {                                                                                                        \
        .n_prompt = 64, .n_warmups = 3, .n_prefills = 30, .n_rounds = 12, .round_tokens = 8                  \
    }

/* Room that a decoder needs for a measurement. */
int64_t qs_latency_ctx(const qs_latency_options *options);

typedef struct qs_latency {
    qs_latency_options options;
    double *prefill_s;           /* [n_prefills] */
    double *decode_ms;           /* [n_rounds, round_tokens] */
    double *reference_decode_ms; /* the same; NULL without a reference */
} qs_latency;

/* tokens [n_tokens]: the prompt and what is decoded after it come from here, around and around. `reference`
 * may be NULL. */
QS_MUST_CHECK qs_err qs_latency_measure(qs_latency *out, qs_decoder *decoder, qs_decoder *reference,
                                        int64_t n_vocab, const int32_t *tokens, int64_t n_tokens,
                                        const qs_latency_options *options);
void qs_latency_free(qs_latency *latency);

/* Metrics with their intervals (blocks are the rounds) and the samples, under /timing. */
QS_MUST_CHECK qs_err qs_latency_put(qs_artifact *artifact, const qs_latency *latency, uint64_t seed);

#endif
