/* rmsnorm in pieces, for a kernel of its own and for those that normalise a row on the way (.cu files only).
 *
 * The squares of a row are added in one order, whatever the number of threads: of 4 neighbours, of the 32 such quads of
 * a warp (a segment), of every 32nd segment, of those 32 sums. A row filled up with zeros gives the same bits. */
#ifndef QS_BACKEND_CUDA_NORM_H
#define QS_BACKEND_CUDA_NORM_H

#include "backend/cuda/device.h"

__device__ __forceinline__ float qs_cu_warp_sum(float x)
{
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

__device__ __forceinline__ float qs_cu_largest(float4 v)
{
    return fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w)));
}

/* The sum of the squares of a segment, of which each lane has a quad. */
__device__ __forceinline__ float qs_cu_segment_sum(float4 v)
{
    return qs_cu_warp_sum(fmaf(v.x, v.x, v.y * v.y) + fmaf(v.z, v.z, v.w * v.w));
}

/* What a row of d numbers is to be multiplied with, from the sums of its segments in shared memory; for every lane. */
__device__ __forceinline__ float qs_cu_norm_factor(const float *segments, int n_segments, int d, float eps)
{
    float sum = 0.0f;
    for (int i = (int)threadIdx.x % 32; i < n_segments; i += 32) sum += segments[i];
    return 1.0f / sqrtf(qs_cu_warp_sum(sum) / (float)d + eps);
}

__device__ __forceinline__ float4 qs_cu_normed(float4 x, float factor, float4 weight)
{
    return make_float4(x.x * factor * weight.x, x.y * factor * weight.y, x.z * factor * weight.z,
                       x.w * factor * weight.w);
}

#endif
