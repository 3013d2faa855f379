/* What both kernels of second moments (stats.cu, gram_wgmma.cu) do first: columns are scaled by a power of
 * two that brings their largest value to [2^13, 2^14), and every value is split into two f16 terms (.cu files
 * only). */
#ifndef QS_BACKEND_CUDA_GRAM_PARTS_H
#define QS_BACKEND_CUDA_GRAM_PARTS_H

#include "backend/cuda/device.h"

namespace {

enum {
    GRAM_PASS_ROWS = 8192, /* bounds the workspace */
    GRAM_PARTS = 32,       /* row ranges whose maxima are taken in parallel */
    GRAM_COLUMN_THREADS = 256,
};

/* Of the columns, at the end of the workspace. */
struct gram_scales {
    double *unscale; /* [columns]: takes the scale out of a product */
    float2 *scale;   /* [columns]: two factors, since 2^exponent may not fit in f32 */
    float *maxima;   /* [GRAM_PARTS][columns] */
};

inline int64_t pass_rows(int64_t n) { return n < GRAM_PASS_ROWS ? n : (int64_t)GRAM_PASS_ROWS; }

inline size_t gram_scales_bytes(int64_t n_columns)
{
    return (size_t)n_columns * (sizeof(double) + sizeof(float2) + GRAM_PARTS * sizeof(float));
}

/* `at` is aligned to 16 bytes. */
inline gram_scales gram_scales_at(void *at, int64_t n_columns)
{
    gram_scales s;
    s.unscale = static_cast<double *>(at);
    s.scale = reinterpret_cast<float2 *>(s.unscale + n_columns);
    s.maxima = reinterpret_cast<float *>(s.scale + n_columns);
    return s;
}

__global__ void column_maxima(const float *x, int64_t n, int64_t d, int64_t n_columns, float *maxima)
{
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t first = n * blockIdx.y / GRAM_PARTS, last = n * (blockIdx.y + 1) / GRAM_PARTS;
    if (column >= n_columns) return;
    float largest = 0.0f;
    if (column < d) {
#pragma unroll 8
        for (int64_t r = first; r < last; r++) largest = fmaxf(largest, fabsf(x[r * d + column]));
    }
    maxima[blockIdx.y * n_columns + column] = largest;
}

__global__ void column_scales(const float *maxima, int64_t n_columns, float2 *scale, double *unscale)
{
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= n_columns) return;
    float largest = 0.0f;
    for (int part = 0; part < GRAM_PARTS; part++) largest = fmaxf(largest, maxima[part * n_columns + column]);
    int exponent = 0; /* largest = fraction * 2^exponent, fraction in [1/2, 1) */
    if (largest > 0.0f && largest <= FLT_MAX) (void)frexpf(largest, &exponent);
    int shift = 14 - exponent;
    scale[column] = make_float2((float)ldexp(1.0, shift / 2), (float)ldexp(1.0, shift - shift / 2));
    unscale[column] = ldexp(1.0, -shift);
}

/* Fills the scales of x [n, d]; columns from d on are zeros. */
inline void find_scales(void *stream, const float *x, int64_t n, int64_t d, int64_t n_columns,
                        const gram_scales &s)
{
    unsigned blocks = (unsigned)((n_columns + GRAM_COLUMN_THREADS - 1) / GRAM_COLUMN_THREADS);
    QS_LAUNCH(column_maxima, dim3(blocks, GRAM_PARTS), dim3(GRAM_COLUMN_THREADS), 0, stream, x, n, d, n_columns,
              s.maxima);
    QS_LAUNCH(column_scales, dim3(blocks), dim3(GRAM_COLUMN_THREADS), 0, stream, s.maxima, n_columns, s.scale,
              s.unscale);
}

/* high is a number of f16, low is not rounded yet. */
__device__ __forceinline__ void split_value(float x, float2 scale, float *high, float *low)
{
    float scaled = x * scale.x * scale.y;
    *high = qs_f32_of_f16(qs_f16_of_f32(scaled));
    *low = scaled - *high; /* exact */
}

/* sum += term; returns what that lost. */
__device__ __forceinline__ float add_term(float *sum, float term)
{
    float next = *sum + term, rest = term - (next - *sum);
    *sum = next;
    return rest;
}

}

#endif
