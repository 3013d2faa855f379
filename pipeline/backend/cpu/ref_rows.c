/* Plain C of the ops that work row by row. Sums are f64, results f32. */
#include <math.h>

#include "backend/cpu/kernels.h"

void qs_ref_rmsnorm(const float *x, const float *weight, int64_t d, double eps, float *out)
{
    double sum = 0.0;
    for (int64_t i = 0; i < d; i++) sum += (double)x[i] * (double)x[i];
    double factor = 1.0 / sqrt(sum / (double)d + eps);
    for (int64_t i = 0; i < d; i++) out[i] = (float)((double)x[i] * factor * (double)weight[i]);
}

/* (a, b) -> (a cos - b sin, b cos + a sin) on the pair (i, i + head_dim / 2). */
void qs_ref_rope(float *x, const float *cosines, const float *sines, int64_t n_heads, int64_t head_dim)
{
    int64_t half = head_dim / 2;
    for (int64_t h = 0; h < n_heads; h++) {
        float *low = x + h * head_dim, *high = low + half;
        for (int64_t i = 0; i < half; i++) {
            double a = (double)low[i], b = (double)high[i];
            low[i] = (float)(a * (double)cosines[i] - b * (double)sines[i]);
            high[i] = (float)(b * (double)cosines[i] + a * (double)sines[i]);
        }
    }
}

void qs_ref_silu_mul(const float *gate, const float *up, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)((double)gate[i] / (1.0 + exp(-(double)gate[i])) * (double)up[i]);
}

void qs_ref_add(float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

void qs_ref_abs_stats(const float *x, int64_t n, int64_t d, int64_t first, int64_t last, double *abs_sum,
                      float *abs_max)
{
    for (int64_t t = 0; t < n; t++) {
        for (int64_t i = first; i < last; i++) {
            float magnitude = fabsf(x[t * d + i]);
            abs_sum[i] += (double)magnitude;
            if (magnitude > abs_max[i]) abs_max[i] = magnitude; /* a NaN shows in the sum */
        }
    }
}
