/* What qs_round_to does, on the device (.cu files only). */
#ifndef QS_BACKEND_CUDA_ROUNDING_H
#define QS_BACKEND_CUDA_ROUNDING_H

#include "backend/cuda/device.h"
#include "backend/formats.h"

/* Within the finite numbers of f16; NaN stays NaN. */
__device__ __forceinline__ float qs_cu_saturated(float x)
{
    const float largest = 65504.0f;
    return x > largest ? largest : x < -largest ? -largest : x;
}

__device__ __forceinline__ float qs_cu_round_to(float x, int rounding)
{
    if (rounding == QS_ROUND_BF16) return qs_f32_of_bf16(qs_bf16_of_f32(x));
    if (rounding == QS_ROUND_F16) return qs_f32_of_f16(qs_f16_of_f32(qs_cu_saturated(x)));
    return x;
}

#endif
