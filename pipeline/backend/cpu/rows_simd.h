/* Row ops in vectors; included by kernels_avx512.c and kernels_avx2.c, which give simd.h its lanes. */
#ifndef QS_BACKEND_CPU_ROWS_SIMD_H
#define QS_BACKEND_CPU_ROWS_SIMD_H

#include <math.h>

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

/* Four running sums hide the latency of the multiply-add. */
static void rmsnorm_simd(const float *x, const float *weight, int64_t d, double eps, float *out)
{
    vf sums[4] = {v_set(0.0f), v_set(0.0f), v_set(0.0f), v_set(0.0f)};
    int64_t i = 0;
    for (; i + 4 * V_LANES <= d; i += 4 * V_LANES) {
        for (int s = 0; s < 4; s++) {
            vf value = v_load(x + i + s * V_LANES);
            sums[s] = v_fma(value, value, sums[s]);
        }
    }
    for (; i < d; i += V_LANES) {
        vf value = d - i < V_LANES ? v_load_part(x + i, d - i) : v_load(x + i);
        sums[0] = v_fma(value, value, sums[0]);
    }
    float sum = v_sum(v_add(v_add(sums[0], sums[1]), v_add(sums[2], sums[3])));
    vf factor = v_set((float)(1.0 / sqrt((double)sum / (double)d + eps)));
    for (i = 0; i + V_LANES <= d; i += V_LANES)
        v_store(out + i, v_mul(v_mul(v_load(x + i), factor), v_load(weight + i)));
    if (i < d)
        v_store_part(out + i, v_mul(v_mul(v_load_part(x + i, d - i), factor), v_load_part(weight + i, d - i)), d - i);
}

static void rope_simd(float *x, const float *cosines, const float *sines, int64_t n_heads, int64_t head_dim)
{
    int64_t half = head_dim / 2;
    for (int64_t i = 0; i < half; i += V_LANES) {
        int64_t n = half - i < V_LANES ? half - i : V_LANES;
        bool whole = n == V_LANES;
        vf c = whole ? v_load(cosines + i) : v_load_part(cosines + i, n);
        vf s = whole ? v_load(sines + i) : v_load_part(sines + i, n);
        for (int64_t h = 0; h < n_heads; h++) {
            float *low = x + h * head_dim + i, *high = low + half;
            vf a = whole ? v_load(low) : v_load_part(low, n), b = whole ? v_load(high) : v_load_part(high, n);
            vf new_a = v_fnma(b, s, v_mul(a, c)), new_b = v_fma(a, s, v_mul(b, c));
            if (whole) {
                v_store(low, new_a);
                v_store(high, new_b);
            } else {
                v_store_part(low, new_a, n);
                v_store_part(high, new_b, n);
            }
        }
    }
}

QS_INLINE vf silu(vf gate)
{
    return v_div(gate, v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), gate))));
}

static void silu_mul_simd(const float *gate, const float *up, int64_t n, float *out)
{
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(out + i, v_mul(silu(v_load(gate + i)), v_load(up + i)));
    if (i < n) v_store_part(out + i, v_mul(silu(v_load_part(gate + i, n - i)), v_load_part(up + i, n - i)), n - i);
}

static void add_simd(float *x, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + V_LANES <= n; i += V_LANES) v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
    if (i < n) v_store_part(x + i, v_add(v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
}

/* Each column's sum runs over the tokens in order, four vectors of columns at a time. */
static void abs_stats_simd(const float *x, int64_t n, int64_t d, int64_t first, int64_t last, double *abs_sum,
                           float *abs_max)
{
    enum { N_VECTORS = 4 };
    int64_t i = first;
    for (; i + N_VECTORS * V_LANES <= last; i += N_VECTORS * V_LANES) {
        vd sums[N_VECTORS];
        vf largest[N_VECTORS];
        for (int s = 0; s < N_VECTORS; s++) {
            sums[s] = vd_load(abs_sum + i + s * V_LANES);
            largest[s] = v_load(abs_max + i + s * V_LANES);
        }
        for (int64_t t = 0; t < n; t++) {
            for (int s = 0; s < N_VECTORS; s++) {
                vf magnitude = v_abs(v_load(x + t * d + i + s * V_LANES));
                sums[s] = vd_add(sums[s], vd_from(magnitude));
                largest[s] = v_max(magnitude, largest[s]);
            }
        }
        for (int s = 0; s < N_VECTORS; s++) {
            vd_store(abs_sum + i + s * V_LANES, sums[s]);
            v_store(abs_max + i + s * V_LANES, largest[s]);
        }
    }
    if (i < last) qs_ref_abs_stats(x, n, d, i, last, abs_sum, abs_max);
}

#endif
