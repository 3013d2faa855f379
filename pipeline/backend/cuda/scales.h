/* Scale and zero point of a group's range, as quant/scale.h defines them (.cu files only). */
#ifndef QS_BACKEND_CUDA_SCALES_H
#define QS_BACKEND_CUDA_SCALES_H

#include "backend/cuda/device.h"
#include "backend/scale_steps.h"

/* The range of a group together with 0 becomes the one that codes cover. */
__device__ __forceinline__ void qs_cu_settle_range(bool sym, float *low, float *high)
{
    if (sym) {
        *high = fmaxf(*high, -*low);
        *low = -*high;
    }
    if (!(*low < *high)) { /* both are 0 */
        *low = -1.0f;
        *high = 1.0f;
    }
}

/* Of `factor` times a range from `low` on whose steps are `base` wide; exact in f16. */
__device__ __forceinline__ void qs_cu_scale_of(float low, float base, float maxq, bool sym, float factor, float *scale,
                                               float *zero)
{
    float rounded = qs_f32_of_f16(qs_f16_of_f32(fminf(factor * base, QS_SCALE_MAX)));
    *scale = fmaxf(rounded, QS_SCALE_MIN);
    *zero = sym ? (maxq + 1.0f) / 2.0f : rintf(fminf(fmaxf(-(factor * low) / *scale, 0.0f), maxq));
}

#endif
