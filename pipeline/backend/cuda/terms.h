/* Activations as terms of 16 bits: a power of two for a row, and the split of a number (.cu files only). */
#ifndef QS_BACKEND_CUDA_TERMS_H
#define QS_BACKEND_CUDA_TERMS_H

#include "backend/cuda/device.h"

typedef struct qs_cu_power {
    float up, down; /* up brings the largest value to [2^13, 2^14); down = 1 / up */
} qs_cu_power;

/* NaN does not reach `largest` but stays in the values; an infinite one is left as it is. */
__device__ __forceinline__ qs_cu_power qs_cu_power_of(float largest)
{
    int exponent = largest > 0.0f && largest <= FLT_MAX ? (int)(__float_as_uint(largest) >> 23) - 127 : 13;
    exponent = exponent < -100 ? -100 : exponent;
    qs_cu_power power;
    power.up = __uint_as_float((uint32_t)(127 + 13 - exponent) << 23);
    power.down = __uint_as_float((uint32_t)(127 - 13 + exponent) << 23);
    return power;
}

/* x ~ first + second, each rounded to 16 bits. */
__device__ __forceinline__ void qs_cu_split(float x, bool bf16, uint16_t *first, uint16_t *second)
{
    *first = bf16 ? qs_bf16_of_f32(x) : qs_f16_of_f32(x);
    float rest = x - (bf16 ? qs_f32_of_bf16(*first) : qs_f32_of_f16(*first));
    *second = bf16 ? qs_bf16_of_f32(rest) : qs_f16_of_f32(rest);
}

/* Four of a row, times `up`. */
__device__ __forceinline__ void qs_cu_split_four(float4 v, float up, bool bf16, uint16_t term[2][4])
{
    qs_cu_split(v.x * up, bf16, &term[0][0], &term[1][0]);
    qs_cu_split(v.y * up, bf16, &term[0][1], &term[1][1]);
    qs_cu_split(v.z * up, bf16, &term[0][2], &term[1][2]);
    qs_cu_split(v.w * up, bf16, &term[0][3], &term[1][3]);
}
__device__ __forceinline__ uint2 qs_cu_pack_four(const uint16_t v[4])
{
    return make_uint2((uint32_t)v[0] | (uint32_t)v[1] << 16, (uint32_t)v[2] | (uint32_t)v[3] << 16);
}

#endif
