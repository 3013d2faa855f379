/* Where long texts go: the distance of what is written so far to what it is about, every 8 tokens, its rolling mean
 * (E_resonance), and when a text is lost (docs/entropy.md; checklist G4, A9, B8, E9). */
#ifndef QS_METRIC_RESONANCE_H
#define QS_METRIC_RESONANCE_H

#include "metric/long_runs.h"
#include "metric/quality.h"
#include "rag/encoder.h"

enum { QS_RESONANCE_TOKENS = 8, QS_MTTF_TOKENS = 40 };

typedef struct qs_resonance {
    int64_t n, n_steps, n_tokens; /* n_steps = n_tokens / 8 */
    double *delta;                /* [n, n_steps] ΔS(text so far, question and snippets) */
    int32_t *states;              /* [n, n_steps] qs_lambda of each step (metric/lambda.h), never of contradictions */
} qs_resonance;

/* What a long-form question is about: the question and the snippets that it is to be answered from; from malloc,
 * NULL without memory. */
char *qs_resonance_subject(const qs_questions *questions, int64_t longform);

/* Of the texts that were written freely; the first runs->n long-form questions. Errors of encoder and tokenizer. */
QS_MUST_CHECK qs_err qs_resonance_measure(qs_resonance *out, qs_encoder *encoder, const qs_questions *questions,
                                          const qs_tokenizer *tokenizer, const qs_long_runs *runs);
void qs_resonance_free(qs_resonance *resonance);

/* Takes over the texts of `other`, of equal sizes, that end nearer to what they are about; how many. */
int64_t qs_resonance_take_nearer(qs_resonance *resonance, const qs_resonance *other);

/* Tokens until a text is lost: the end of the first of three steps in a row with delta of .85 and more; n_tokens =
 * never. delta [n_steps]. */
int64_t qs_resonance_lost(const double *delta, int64_t n_steps, int64_t n_tokens);

/* /longform/delta and /longform/lambda of an eval artifact. */
QS_MUST_CHECK qs_err qs_resonance_put(qs_artifact *artifact, const qs_resonance *resonance);

/* Metrics of a configuration's texts beside the reference's, whose first texts are the same; reference NULL with
 * QS_QUALITY_OWN. */
QS_MUST_CHECK qs_err qs_resonance_metrics(const qs_resonance *own, const qs_resonance *reference, qs_quality_part part,
                                          uint64_t seed, qs_metric_sink put, void *context);

#endif
