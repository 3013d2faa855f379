/* Plain C of the statistics over rows of logits, all in f64. */
#include <math.h>

#include "backend/cpu/kernels.h"

/* With m the largest logit and S = sum exp(x - m): lse = m + ln S, and since ln p = x - lse,
 * -sum p ln p = ln S - sum exp(x - m) (x - m) / S. A logit of -inf has p ln p = 0. */
void qs_ref_logit_stats(const float *logits, int64_t n_vocab, bool want_entropy, qs_logit_row *out)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best]) best = i;
    double max = (double)logits[best], total = 0.0, weighted = 0.0;
    for (int64_t i = 0; i < n_vocab; i++) {
        double shifted = (double)logits[i] - max, p = exp(shifted);
        total += p;
        if (want_entropy && p != 0.0) weighted += p * shifted;
    }
    *out = (qs_logit_row){.lse = max + log(total), .entropy = log(total) - weighted / total,
                          .argmax = (int32_t)best};
}

/* ln p_f - ln p_q = (x_f - x_q) - (lse_f - lse_q): the logits are subtracted first, so that the result of
 * nearly equal rows is not the rounding of their lse. A token with p_f = 0 adds nothing. */
double qs_ref_kld(const float *logits_f, double lse_f, const float *logits_q, double lse_q, int64_t n_vocab)
{
    double sum = 0.0, shift = lse_f - lse_q;
    for (int64_t i = 0; i < n_vocab; i++) {
        double p = exp((double)logits_f[i] - lse_f);
        if (p != 0.0) sum += p * ((double)logits_f[i] - (double)logits_q[i] - shift);
    }
    return sum < 0.0 ? 0.0 : sum;
}
