/* Long generations: the reference's own text over the long-form prompts of a gold set, a candidate's probabilities
 * along that text (teacher-forced, so that both are paired step by step) and the text that the candidate writes by
 * itself (docs/entropy.md: entropy curves, first divergence, cumulative KL). Greedy, and the token that ends texts
 * (`end`, -1 = none) is not chosen. */
#ifndef QS_METRIC_LONG_RUNS_H
#define QS_METRIC_LONG_RUNS_H

#include "artifact/artifact.h"
#include "metric/lines.h"
#include "metric/questions.h"

enum { QS_LONG_BATCH = 8 };

typedef struct qs_long_runs {
    int64_t n, n_steps;
    int32_t *tokens;     /* [n, n_steps] what the configuration wrote */
    float *entropy;      /* [n, n_steps] nats, along the reference's text */
    float *kld;          /* [n, n_steps] KL(reference || this) along it; NULL for the reference */
    float *free_entropy; /* [n, n_steps] along its own text; NULL for the reference, whose text is its own */
} qs_long_runs;

/* The reference writes. prompts [n]; the decoder works on at most QS_LONG_BATCH sequences, each with room for a prompt
 * and n_steps tokens. QS_E_NUMERIC names run and step. */
QS_MUST_CHECK qs_err qs_long_write(qs_long_runs *out, qs_decoder *decoder, int32_t end,
                                   const qs_token_list *prompts, int64_t n, int64_t n_steps);

/* The candidate follows the reference's text for its first n runs beside the reference's own decoder, which must have
 * the same batch, then writes. */
QS_MUST_CHECK qs_err qs_long_follow(qs_long_runs *out, qs_decoder *decoder, qs_decoder *reference_decoder, int32_t end,
                                    const qs_token_list *prompts, int64_t n,
                                    const qs_long_runs *reference);
void qs_long_free(qs_long_runs *runs);

/* /longform of an eval artifact. */
QS_MUST_CHECK qs_err qs_long_put(qs_artifact *artifact, const qs_questions *questions, const qs_long_runs *runs);
QS_MUST_CHECK qs_err qs_long_read(qs_long_runs *out, const qs_artifact *artifact);

#endif
