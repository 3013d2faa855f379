/* Choosing the next token from logits. Random numbers are counted, not drawn one after another: the noise of a token is
 * a function of (key, step, token), so that a reference and a candidate with the same key are shaken alike and differ
 * only where their logits do. */
#ifndef QS_BACKEND_SAMPLER_H
#define QS_BACKEND_SAMPLER_H

#include <stdint.h>

/* -ln(-ln u) of the largest u below 1 that 53 bits hold is 36.74. */
#define QS_SAMPLE_NOISE_MAX 36.75

/* How a row of logits becomes a token. */
typedef struct qs_sample_rule {
    double temperature; /* 0 = greedy */
    double clamp;       /* logits are multiplied by exp(-clamp * their standard deviation) first; 0 = as they are */
    uint64_t key;       /* of the random numbers */
    int64_t step;
    int32_t banned;     /* never chosen; -1 = none */
} qs_sample_rule;

/* A draw from softmax(logits / temperature) by the Gumbel-max rule (Gumbel 1954; Maddison, Tarlow, Minka 2014): the
 * token with the largest logit / temperature + noise. Temperature 0 is greedy: the largest logit, lowest id among
 * equals. `banned` is never chosen; -1 = none. Gives -1 when a logit is not finite. logits [n_vocab]. */
int32_t qs_sample(const float *logits, int64_t n_vocab, double temperature, uint64_t key, int64_t step,
                  int32_t banned);

/* The same by a rule: what every backend's op gives for a row. */
int32_t qs_sample_by(const float *logits, int64_t n_vocab, const qs_sample_rule *rule);

#endif
