/* Row statistics of logits in vectors: f32 exponentials, f64 sums. The maths is with ref_logits.c. */
#ifndef QS_BACKEND_CPU_LOGITS_SIMD_H
#define QS_BACKEND_CPU_LOGITS_SIMD_H

#include <math.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

static float row_max_simd(const float *x, int64_t n)
{
    vf largest[4] = {v_set(-INFINITY), v_set(-INFINITY), v_set(-INFINITY), v_set(-INFINITY)};
    int64_t i = 0;
    for (; i + 4 * V_LANES <= n; i += 4 * V_LANES)
        for (int s = 0; s < 4; s++) largest[s] = v_max(largest[s], v_load(x + i + s * V_LANES));
    float result = v_largest(v_max(v_max(largest[0], largest[1]), v_max(largest[2], largest[3])));
    for (; i < n; i++)
        if (x[i] > result) result = x[i];
    return result;
}

/* Lowest index that holds the value; 0 when a NaN hides it. */
static int64_t find_simd(const float *x, int64_t n, float value)
{
    vf wanted = v_set(value);
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) {
        uint32_t bits = v_equal_bits(v_load(x + i), wanted);
        if (bits != 0) return i + __builtin_ctz(bits);
    }
    for (; i < n; i++)
        if (x[i] == value) return i;
    return 0;
}

/* Adds exp(shifted) and, when wanted, exp(shifted) * shifted; -inf counts as 0 in both. */
QS_INLINE void add_exponentials(vf shifted, vf p, bool want_entropy, vd *total, vd *weighted)
{
    vd wide = vd_from(p);
    *total = vd_add(*total, wide);
    if (want_entropy) *weighted = vd_fma(wide, vd_from(v_max(v_set(-200.0f), shifted)), *weighted);
}

static void logit_stats_simd(const float *logits, int64_t n_vocab, bool want_entropy, qs_logit_row *out)
{
    float max = row_max_simd(logits, n_vocab);
    vf vmax = v_set(max);
    vd total = vd_zero(), weighted = vd_zero();
    int64_t i = 0;
    for (; i + V_LANES <= n_vocab; i += V_LANES) {
        vf shifted = v_sub(v_load(logits + i), vmax);
        add_exponentials(shifted, v_exp(shifted), want_entropy, &total, &weighted);
    }
    if (i < n_vocab) {
        vf shifted = v_sub(v_load_part(logits + i, n_vocab - i), vmax);
        shifted = v_keep_first(shifted, n_vocab - i);
        add_exponentials(shifted, v_keep_first(v_exp(shifted), n_vocab - i), want_entropy, &total, &weighted);
    }
    double sum = vd_sum(total), log_sum = log(sum);
    *out = (qs_logit_row){.lse = (double)max + log_sum,
                          .entropy = log_sum - vd_sum(weighted) / sum,
                          .argmax = (int32_t)find_simd(logits, n_vocab, max)};
}

/* p (x_f - x_q - shift), nothing where p = 0 (there x_f, or both, may be -inf). The lse is subtracted in two
 * parts, so that p is as good as its exponential. */
QS_INLINE vd kld_terms(vf f, vf q, vf lse_high, vf lse_low, vd shift, vd sum)
{
    vf zero = v_set(0.0f), p = v_exp(v_sub(v_sub(f, lse_high), lse_low));
    vf apart = v_where_le(p, zero, zero, v_sub(f, q));
    return vd_fma(vd_from(p), vd_sub(vd_from(apart), shift), sum);
}

static double kld_simd(const float *logits_f, double lse_f, const float *logits_q, double lse_q, int64_t n_vocab)
{
    float lse_high = (float)lse_f;
    vf high = v_set(lse_high), low = v_set((float)(lse_f - (double)lse_high));
    vd shift = vd_set(lse_f - lse_q), sum = vd_zero();
    int64_t i = 0;
    for (; i + V_LANES <= n_vocab; i += V_LANES)
        sum = kld_terms(v_load(logits_f + i), v_load(logits_q + i), high, low, shift, sum);
    double total = vd_sum(sum);
    if (i < n_vocab) {
        /* Lanes behind the row get a logit whose p is 0. */
        float f[V_LANES], q[V_LANES];
        for (int64_t lane = 0; lane < V_LANES; lane++) {
            f[lane] = i + lane < n_vocab ? logits_f[i + lane] : -INFINITY;
            q[lane] = i + lane < n_vocab ? logits_q[i + lane] : -INFINITY;
        }
        total += vd_sum(kld_terms(v_load(f), v_load(q), high, low, shift, vd_zero()));
    }
    return total < 0.0 ? 0.0 : total;
}

#endif
