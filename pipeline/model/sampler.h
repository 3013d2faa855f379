/* Choosing the next token from logits. Random numbers are counted, not drawn one after another: the noise of a token is
 * a function of (key, step, token), so that a reference and a candidate with the same key are shaken alike and differ
 * only where their logits do. */
#ifndef QS_MODEL_SAMPLER_H
#define QS_MODEL_SAMPLER_H

#include <stdint.h>

/* A draw from softmax(logits / temperature) by the Gumbel-max rule (Gumbel 1954; Maddison, Tarlow, Minka 2014): the
 * token with the largest logit / temperature + noise. Temperature 0 is greedy: the largest logit, lowest id among
 * equals. `banned` is never chosen; -1 = none. Gives -1 when a logit is not finite. logits [n_vocab]. */
int32_t qs_sample(const float *logits, int64_t n_vocab, double temperature, uint64_t key, int64_t step,
                  int32_t banned);

#endif
