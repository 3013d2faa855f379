/* The row kernels in vectors; included by row_kernels_avx512.c and row_kernels_avx2.c. */
#ifndef QS_TRAIN_ROW_KERNELS_SIMD_H
#define QS_TRAIN_ROW_KERNELS_SIMD_H

#include <math.h>

#include "backend/cpu/simd.h"
#include "train/row_kernels.h"

#if defined(__AVX512F__)
QS_INLINE vf v_sqrt(vf a) { return _mm512_sqrt_ps(a); }
#else
QS_INLINE vf v_sqrt(vf a) { return _mm256_sqrt_ps(a); }
#endif

/* Lanes of a run that may end inside a vector: the whole vectors first, then the rest, by the same
 * expressions. */
QS_INLINE vf load_n(const float *p, int64_t n) { return n >= V_LANES ? v_load(p) : v_load_part(p, n); }
QS_INLINE void store_n(float *p, vf x, int64_t n)
{
    if (n >= V_LANES)
        v_store(p, x);
    else
        v_store_part(p, x, n);
}

static float rmsnorm(const float *x, const float *gain, int64_t d, double eps, float *out)
{
    vf sums[4] = {v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f)};
    int64_t i = 0;
    for (; i + 4 * V_LANES <= d; i += 4 * V_LANES) {
        QS_UNROLL for (int s = 0; s < 4; s++)
        {
            vf value = v_load(x + i + s * V_LANES);
            sums[s] = v_fma(value, value, sums[s]);
        }
    }
    for (; i < d; i += V_LANES) {
        vf value = load_n(x + i, d - i);
        sums[0] = v_fma(value, value, sums[0]);
    }
    float sum = v_sum(v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])));
    float f = (float)(1.0 / sqrt((double)sum / (double)d + eps));
    vf factor = v_set(f);
    for (i = 0; i < d; i += V_LANES)
        store_n(out + i, v_mul(v_mul(load_n(x + i, d - i), factor), load_n(gain + i, d - i)), d - i);
    return f;
}

static void rmsnorm_back(const float *dy, const float *x, const float *gain, float f, int64_t d, float *dx,
                         float *dgain)
{
    vf dots[2] = {v_set(0.0f), v_set(0.0f)};
    int64_t i = 0;
    for (; i + 2 * V_LANES <= d; i += 2 * V_LANES) {
        QS_UNROLL for (int s = 0; s < 2; s++)
        {
            int64_t j = i + s * V_LANES;
            dots[s] = v_fma(v_mul(v_load(dy + j), v_load(gain + j)), v_load(x + j), dots[s]);
        }
    }
    for (; i < d; i += V_LANES)
        dots[0] = v_fma(v_mul(load_n(dy + i, d - i), load_n(gain + i, d - i)), load_n(x + i, d - i), dots[0]);
    vf along = v_set((float)((double)v_sum(v_add(dots[0], dots[1])) / (double)d * f * f)), factor = v_set(f);
    for (i = 0; i < d; i += V_LANES) {
        int64_t n = d - i;
        vf y = load_n(dy + i, n), value = load_n(x + i, n);
        vf through = v_fnma(value, along, v_mul(y, load_n(gain + i, n)));
        store_n(dx + i, v_fma(factor, through, load_n(dx + i, n)), n);
        store_n(dgain + i, v_fma(v_mul(y, factor), value, load_n(dgain + i, n)), n);
    }
}

static void rope(float *x, const float *cosines, const float *sines, float sign, float scale, int64_t n_heads,
                 int64_t head_dim)
{
    int64_t half = head_dim / 2;
    vf factor = v_set(scale), turn = v_set(sign * scale);
    for (int64_t i = 0; i < half; i += V_LANES) {
        int64_t n = half - i;
        vf c = v_mul(load_n(cosines + i, n), factor), s = v_mul(load_n(sines + i, n), turn);
        for (int64_t h = 0; h < n_heads; h++) {
            float *low = x + h * head_dim + i, *high = low + half;
            vf a = load_n(low, n), b = load_n(high, n);
            store_n(low, v_fnma(b, s, v_mul(a, c)), n);
            store_n(high, v_fma(a, s, v_mul(b, c)), n);
        }
    }
}

QS_INLINE vf sigmoid(vf x) { return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x)))); }

static void swiglu(const float *gate, const float *up, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i += V_LANES) {
        vf g = load_n(gate + i, n - i);
        store_n(out + i, v_mul(v_mul(g, sigmoid(g)), load_n(up + i, n - i)), n - i);
    }
}

static void swiglu_back(const float *gate, const float *up, const float *dout, int64_t n, float *dgate,
                        float *dup)
{
    const vf one = v_set(1.0f);
    for (int64_t i = 0; i < n; i += V_LANES) {
        int64_t rest = n - i;
        vf g = load_n(gate + i, rest), d = load_n(dout + i, rest), s = sigmoid(g);
        vf slope = v_mul(s, v_fma(g, v_sub(one, s), one));
        store_n(dup + i, v_mul(d, v_mul(g, s)), rest);
        store_n(dgate + i, v_mul(v_mul(d, load_n(up + i, rest)), slope), rest);
    }
}

/* Lanes behind n hold what no comparison picks. */
QS_INLINE vf load_or_lowest(const float *p, int64_t n)
{
    if (n >= V_LANES) return v_load(p);
    float lanes[V_LANES];
    for (int i = 0; i < V_LANES; i++) lanes[i] = i < n ? p[i] : -INFINITY;
    return v_load(lanes);
}

QS_INLINE float largest_of(const float *x, int64_t n)
{
    vf largest[2] = {v_set(-INFINITY), v_set(-INFINITY)};
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        largest[0] = v_max(v_load(x + i), largest[0]);
        largest[1] = v_max(v_load(x + i + V_LANES), largest[1]);
    }
    for (; i < n; i += V_LANES) largest[0] = v_max(load_or_lowest(x + i, n - i), largest[0]);
    return v_largest(v_max(largest[0], largest[1]));
}

/* x = e^(x - largest); returns the sum. */
QS_INLINE float exponentials(float *x, int64_t n, float largest)
{
    vf sums[2] = {v_set(0.0f), v_set(0.0f)}, shift = v_set(largest);
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        QS_UNROLL for (int s = 0; s < 2; s++)
        {
            vf e = v_exp(v_sub(v_load(x + i + s * V_LANES), shift));
            v_store(x + i + s * V_LANES, e);
            sums[s] = v_add(sums[s], e);
        }
    }
    for (; i < n; i += V_LANES) {
        int64_t rest = n - i;
        vf e = v_exp(v_sub(load_n(x + i, rest), shift));
        if (rest < V_LANES) e = v_keep_first(e, rest);
        store_n(x + i, e, rest);
        sums[0] = v_add(sums[0], e);
    }
    return v_sum(v_add(sums[0], sums[1]));
}

QS_INLINE void multiply(float *x, int64_t n, float by)
{
    vf factor = v_set(by);
    for (int64_t i = 0; i < n; i += V_LANES) store_n(x + i, v_mul(load_n(x + i, n - i), factor), n - i);
}

static void softmax(float *x, int64_t n_seen, int64_t n)
{
    float sum = exponentials(x, n_seen, largest_of(x, n_seen));
    multiply(x, n_seen, 1.0f / sum);
    memset(x + n_seen, 0, (size_t)(n - n_seen) * sizeof *x);
}

static void softmax_back(const float *p, float *dp, int64_t n)
{
    vf dots[2] = {v_set(0.0f), v_set(0.0f)};
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        dots[0] = v_fma(v_load(p + i), v_load(dp + i), dots[0]);
        dots[1] = v_fma(v_load(p + i + V_LANES), v_load(dp + i + V_LANES), dots[1]);
    }
    for (; i < n; i += V_LANES) dots[0] = v_fma(load_n(p + i, n - i), load_n(dp + i, n - i), dots[0]);
    vf dot = v_set(v_sum(v_add(dots[0], dots[1])));
    for (i = 0; i < n; i += V_LANES)
        store_n(dp + i, v_mul(load_n(p + i, n - i), v_sub(load_n(dp + i, n - i), dot)), n - i);
}

static qs_token_loss cross_entropy(float *logits, int64_t n, int32_t target, float scale)
{
    float largest = largest_of(logits, n), at_target = logits[target];
    float sum = exponentials(logits, n, largest);
    multiply(logits, n, scale / sum);
    logits[target] -= scale;
    return (qs_token_loss){.nll = log((double)sum) + ((double)largest - at_target),
                           .is_largest = at_target == largest};
}

static void add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i += V_LANES)
        store_n(x + i, v_add(load_n(x + i, n - i), load_n(y + i, n - i)), n - i);
}

static void to_bf16(const float *x, int64_t n, uint16_t *out)
{
    for (int64_t i = 0; i < n; i += V_LANES) {
        int64_t rest = n - i < V_LANES ? n - i : V_LANES;
        v_store_bf16(out + i, load_n(x + i, n - i), rest);
    }
}

static double sum_squares(const float *x, int64_t n)
{
    vd sums[2] = {vd_zero(), vd_zero()};
    int64_t i = 0;
    for (; i + 2 * V_LANES <= n; i += 2 * V_LANES) {
        vd a = vd_from(v_load(x + i)), b = vd_from(v_load(x + i + V_LANES));
        sums[0] = vd_fma(a, a, sums[0]);
        sums[1] = vd_fma(b, b, sums[1]);
    }
    for (; i < n; i += V_LANES) {
        vd a = vd_from(load_n(x + i, n - i));
        sums[0] = vd_fma(a, a, sums[0]);
    }
    return vd_sum(vd_add(sums[0], sums[1]));
}

static void adam_moments(const qs_adam_step *step, int64_t n, const float *gradient, float *m, float *v)
{
    vf clip = v_set(step->clip), b1 = v_set(step->beta1), b2 = v_set(step->beta2);
    vf rest1 = v_set(step->rest1), rest2 = v_set(step->rest2);
    for (int64_t i = 0; i < n; i += V_LANES) {
        int64_t rest = n - i;
        vf g = v_mul(clip, load_n(gradient + i, rest));
        store_n(m + i, v_fma(b1, load_n(m + i, rest), v_mul(rest1, g)), rest);
        store_n(v + i, v_fma(b2, load_n(v + i, rest), v_mul(rest2, v_mul(g, g))), rest);
    }
}

static void adam_apply(const qs_adam_step *step, bool decays, int64_t n, const float *m, const float *v,
                       float *p)
{
    vf eps = v_set(step->eps), size = v_set(step->step_size), keep = v_set(decays ? step->keep : 1.0f);
    for (int64_t i = 0; i < n; i += V_LANES) {
        int64_t rest = n - i;
        vf update = v_div(load_n(m + i, rest), v_add(v_sqrt(load_n(v + i, rest)), eps));
        store_n(p + i, v_fnma(size, update, v_mul(keep, load_n(p + i, rest))), rest);
    }
}

#define QS_TRAIN_KERNELS_SIMD(name)                                                                          \
    (qs_train_kernels)                                                                                       \
    {                                                                                                        \
        .from = (name), .rmsnorm = rmsnorm, .rmsnorm_back = rmsnorm_back, .rope = rope, .swiglu = swiglu,    \
        .swiglu_back = swiglu_back, .softmax = softmax, .softmax_back = softmax_back,                        \
        .cross_entropy = cross_entropy, .add = add, .to_bf16 = to_bf16, .sum_squares = sum_squares,          \
        .adam_moments = adam_moments, .adam_apply = adam_apply                                               \
    }

#endif
