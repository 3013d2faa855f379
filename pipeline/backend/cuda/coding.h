/* Rows of x for int8 (packed.h, .cu files only): what is below the threshold becomes a code, a whole number; what is
 * not is brought to the codes' unit and stays a fraction. One sum of both times a row's codes of weights then has one
 * scale, and outliers, however many, cost nothing. Their weights are not rounded to f16 as the definition has it, but
 * the outliers are, as terms: either way 2^-12 of their products. */
#ifndef QS_BACKEND_CUDA_CODING_H
#define QS_BACKEND_CUDA_CODING_H

#include "backend/cuda/device.h"
#include "backend/cuda/rounding.h"

/* Largest magnitudes of a row in f16: of what is no outlier, and of all, infinite where x is not finite. */
struct qs_cu_extent {
    float coded, all;
};

__device__ __forceinline__ bool qs_cu_is_outlier(float threshold, float rounded)
{
    return threshold > 0.0f && fabsf(rounded) >= threshold;
}

__device__ __forceinline__ void qs_cu_extend(qs_cu_extent &extent, float threshold, float x)
{
    float rounded = qs_cu_round_to(x, QS_ROUND_F16);
    if (!(fabsf(x) <= FLT_MAX)) extent.all = INFINITY;
    extent.all = fmaxf(extent.all, fabsf(rounded));
    if (!qs_cu_is_outlier(threshold, rounded)) extent.coded = fmaxf(extent.coded, fabsf(rounded));
}
__device__ __forceinline__ void qs_cu_extend(qs_cu_extent &extent, float threshold, float4 x)
{
    qs_cu_extend(extent, threshold, x.x);
    qs_cu_extend(extent, threshold, x.y);
    qs_cu_extend(extent, threshold, x.z);
    qs_cu_extend(extent, threshold, x.w);
}

__device__ __forceinline__ qs_cu_extent qs_cu_extent_of_warp(qs_cu_extent extent)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
        extent.coded = fmaxf(extent.coded, __shfl_xor_sync(0xffffffffu, extent.coded, d));
        extent.all = fmaxf(extent.all, __shfl_xor_sync(0xffffffffu, extent.all, d));
    }
    return extent;
}
/* All of a block's threads, from the first on, that work on a row together. */
struct qs_whole_block {
    __device__ __forceinline__ int n_threads(void) const { return (int)blockDim.x; }
    __device__ __forceinline__ void sync(void) { __syncthreads(); }
};

/* Every thread of the team; notes [warps] in shared memory. */
template <class TEAM>
__device__ __forceinline__ qs_cu_extent qs_cu_extent_of_team(qs_cu_extent extent, qs_cu_extent *notes, TEAM &team)
{
    int lane = (int)threadIdx.x % 32, n_warps = team.n_threads() / 32;
    extent = qs_cu_extent_of_warp(extent);
    if (lane == 0) notes[threadIdx.x / 32] = extent;
    team.sync();
    return qs_cu_extent_of_warp(notes[lane < n_warps ? lane : 0]);
}

__device__ __forceinline__ qs_cu_extent qs_cu_extent_of_block(qs_cu_extent extent, qs_cu_extent *notes)
{
    qs_whole_block block;
    return qs_cu_extent_of_team(extent, notes, block);
}

struct qs_cu_coding {
    float threshold, factor; /* of numbers before they are rounded */
    float scale;             /* 127 units; NaN in a row that is not finite */
};

__device__ __forceinline__ qs_cu_coding qs_cu_coding_of(qs_cu_extent extent, float threshold)
{
    qs_cu_coding coding = {threshold, 1.0f, 127.0f}; /* outliers and zeros alone */
    if (extent.coded > 0.0f) {
        coding.factor = __fmul_rn(__fdiv_rn(1.0f, extent.coded), 127.0f);
        coding.scale = extent.coded;
    }
    if (!(extent.all <= FLT_MAX)) coding.scale = NAN;
    return coding;
}

__device__ __forceinline__ float qs_cu_code_of(const qs_cu_coding &coding, float x)
{
    float rounded = qs_cu_round_to(x, QS_ROUND_F16), scaled = __fmul_rn(rounded, coding.factor);
    return qs_cu_is_outlier(coding.threshold, rounded) ? scaled : rintf(scaled);
}
__device__ __forceinline__ float4 qs_cu_code_of(const qs_cu_coding &coding, float4 x)
{
    return make_float4(qs_cu_code_of(coding, x.x), qs_cu_code_of(coding, x.y), qs_cu_code_of(coding, x.z),
                       qs_cu_code_of(coding, x.w));
}

/* A sum of products of such a row with codes of a row of weights, whose largest magnitude is absmax. */
__device__ __forceinline__ float qs_cu_decode_sum(float sum, float scale, float absmax)
{
    return __fmul_rn(__fmul_rn(sum, __fmul_rn(scale, absmax)), 1.0f / (127.0f * 127.0f));
}

#endif
