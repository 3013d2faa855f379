#include "backend/sampler.h"

#include <math.h>
#include <stdbool.h>

#include "base/rng.h"

static bool all_finite(const float *logits, int64_t n)
{
    /* x - x is 0 for a finite x and NaN for any other, and a sum keeps a NaN. */
    float sum = 0.0f;
    for (int64_t i = 0; i < n; i++) sum += logits[i] - logits[i];
    return sum == 0.0f;
}

static int32_t largest(const float *logits, int64_t n, int32_t banned)
{
    int32_t best = -1;
    for (int64_t i = 0; i < n; i++)
        if (i != banned && (best < 0 || logits[i] > logits[best])) best = (int32_t)i;
    return best;
}

static double noisy(const float *logits, int32_t token, double temperature, uint64_t key)
{
    return (double)logits[token] / temperature - log(-log(qs_rng_unit(key, (uint64_t)token)));
}

int32_t qs_sample(const float *logits, int64_t n_vocab, double temperature, uint64_t key, int64_t step,
                  int32_t banned)
{
    if (!all_finite(logits, n_vocab)) return -1;
    int32_t best = largest(logits, n_vocab, banned);
    if (temperature <= 0.0 || best < 0) return best;
    uint64_t step_key = qs_rng_u64(key, (uint64_t)step);
    double best_score = noisy(logits, best, temperature, step_key);
    /* A token that the largest noise does not lift above the best so far needs none computed. */
    for (int32_t i = 0; i < n_vocab; i++) {
        if (i == banned || (double)logits[i] / temperature + QS_SAMPLE_NOISE_MAX < best_score) continue;
        double score = noisy(logits, i, temperature, step_key);
        if (score > best_score) {
            best_score = score;
            best = i;
        }
    }
    return best;
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

int32_t qs_sample_by(const float *logits, int64_t n_vocab, const qs_sample_rule *rule)
{
    double temperature = clamped(rule->temperature, rule->clamp, logits, n_vocab);
    return qs_sample(logits, n_vocab, temperature, rule->key, rule->step, rule->banned);
}
