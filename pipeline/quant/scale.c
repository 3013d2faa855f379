#include "quant/scale.h"

#include <math.h>

#include "base/dtype.h"

static float round_scale(float scale)
{
    if (!(scale < QS_SCALE_MAX)) return QS_SCALE_MAX;
    float rounded = qs_f32_from_f16(qs_f16_from_f32(scale));
    return rounded < QS_SCALE_MIN ? QS_SCALE_MIN : rounded;
}

static float clamp(float x, float low, float high)
{
    x = x > low ? x : low;
    return x < high ? x : high;
}

float qs_scale_code(float x, float scale, float zero, int bits)
{
    float maxq = (float)((1 << bits) - 1);
    return rintf(clamp(x / scale, -zero, maxq - zero));
}

void qs_scale_find(const qs_scale_rule *rule, const float *x, int64_t n, int64_t stride,
                   const float *column_weight, float *scale, float *zero)
{
    float maxq = (float)((1 << rule->bits) - 1), low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i * stride] < low ? x[i * stride] : low;
        high = x[i * stride] > high ? x[i * stride] : high;
    }
    if (rule->sym) {
        high = high > -low ? high : -low;
        low = -high;
    }
    if (low == high) { /* both are 0 */
        low = -1;
        high = 1;
    }
    float best = INFINITY, base = (high - low) / maxq;
    *scale = 1; /* where no error is finite, as in the kernels */
    *zero = 0;
    for (int step = 0; step < (rule->search ? QS_SCALE_STEPS : 1); step++) {
        float factor = rule->search ? qs_scale_factor(step) : 1.0f;
        float s = round_scale(factor * base);
        float z = rule->sym ? (maxq + 1) / 2 : rintf(clamp(-(factor * low) / s, 0, maxq));
        float error = 0;
        for (int64_t i = 0; rule->search && i < n; i++) {
            float e = x[i * stride] - s * rintf(clamp(x[i * stride] / s, -z, maxq - z));
            error += (column_weight != NULL ? column_weight[i] : 1.0f) * e * e;
        }
        if (!(error < best)) continue;
        best = error;
        *scale = s;
        *zero = z;
    }
}
