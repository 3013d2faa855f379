/* Products of dense matrices where cuBLAS is not: tiles of 128 x 128 per block, sums in f32. An element of the result
 * is summed in one order whatever the size of the matrix around it. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"

namespace {

/* ---- f32 ---- */

/* 256 threads with 8 x 8 sums each; a thread's columns (and rows) are two runs of four that lie 64 apart, so that the
 * 16-byte loads of neighbours from shared memory touch different banks. */
enum { TILE = 128, DEPTH = 16, THREADS = 256, SIDE = 8, RUN = 4, RUN_DISTANCE = TILE / 2, PAD = 4 };

/* op(M) of a side: element (i, l), l along the sum, is data[i * stride_i + l * stride_l]; one stride is 1. */
struct operand {
    const float *data;
    int64_t n, stride_i, stride_l;
};

/* DEPTH terms of TILE rows of the operand from (first, l0) on into to[l][i], zeros outside. Neighbouring threads read
 * neighbouring addresses whichever stride is 1. */
__device__ __forceinline__ void load_tile(const operand &side, int64_t first, int64_t l0, int64_t k,
                                          float to[DEPTH][TILE + PAD])
{
#pragma unroll
    for (int step = 0; step < TILE * DEPTH / THREADS; step++) {
        int at = step * THREADS + (int)threadIdx.x;
        int l = side.stride_l == 1 ? at % DEPTH : at / TILE, i = side.stride_l == 1 ? at / DEPTH : at % TILE;
        bool inside = first + i < side.n && l0 + l < k;
        to[l][i] = inside ? side.data[(first + i) * side.stride_i + (l0 + l) * side.stride_l] : 0.0f;
    }
}

/* The thread's eight values of a row of the tile. */
__device__ __forceinline__ void take_runs(const float *row, int at, float values[SIDE])
{
#pragma unroll
    for (int run = 0; run < 2; run++) {
        float4 v = *reinterpret_cast<const float4 *>(row + run * RUN_DISTANCE + at * RUN);
        values[run * RUN] = v.x;
        values[run * RUN + 1] = v.y;
        values[run * RUN + 2] = v.z;
        values[run * RUN + 3] = v.w;
    }
}

__device__ __forceinline__ int64_t run_index(int at, int k) { return k / RUN * RUN_DISTANCE + at * RUN + k % RUN; }

__device__ __forceinline__ void multiply(const float (*rows)[TILE + PAD], const float (*columns)[TILE + PAD],
                                         int at_row, int at_column, float sums[SIDE][SIDE])
{
#pragma unroll
    for (int l = 0; l < DEPTH; l++) {
        float x[SIDE], y[SIDE];
        take_runs(rows[l], at_row, x);
        take_runs(columns[l], at_column, y);
#pragma unroll
        for (int i = 0; i < SIDE; i++)
#pragma unroll
            for (int j = 0; j < SIDE; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
    }
}

__global__ void __launch_bounds__(THREADS) gemm_tile(operand a, operand b, int64_t k, float alpha, float beta,
                                                     float *c, int64_t ldc)
{
    __shared__ __align__(16) float rows[DEPTH][TILE + PAD], columns[DEPTH][TILE + PAD];
    int64_t row = (int64_t)blockIdx.y * TILE, column = (int64_t)blockIdx.x * TILE;
    int at_row = (int)threadIdx.x / 16, at_column = (int)threadIdx.x % 16;
    float sums[SIDE][SIDE] = {};
    bool idle = row + run_index(at_row, 0) >= a.n || column + run_index(at_column, 0) >= b.n;
    for (int64_t l0 = 0; l0 < k; l0 += DEPTH) {
        load_tile(a, row, l0, k, rows);
        load_tile(b, column, l0, k, columns);
        __syncthreads();
        if (!idle) multiply(rows, columns, at_row, at_column, sums);
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < SIDE; i++)
#pragma unroll
        for (int j = 0; j < SIDE; j++) {
            int64_t r = row + run_index(at_row, i), s = column + run_index(at_column, j);
            if (r >= a.n || s >= b.n) continue;
            float *to = c + r * ldc + s;
            /* beta = 0 must not read C: it may be fresh memory. */
            *to = beta == 0.0f ? alpha * sums[i][j] : fmaf(alpha, sums[i][j], beta * *to);
        }
}

/* ---- bf16 on the tensor cores ---- */

/* Eight warps of 64 x 32 each; 32 terms at a time, two buffers. Rows in shared memory are 40 elements apart, so that
 * the eight rows of a fragment begin in different banks. */
enum { HALF_DEPTH = 32, HALF_STRIDE = 40, WARP_M = 4, WARP_N = 4, VECTOR = 8 /* elements in 16 bytes */ };

/* HALF_DEPTH terms of TILE rows of a matrix [n, k]; whole 16-byte vectors inside the matrix in the background, the rest
 * element by element. `vectors`: rows are aligned for that. */
__device__ __forceinline__ void load_half_tile(const uint16_t *data, int64_t n, int64_t k, int64_t first, int64_t l0,
                                               bool vectors, uint16_t (*to)[HALF_STRIDE])
{
#pragma unroll
    for (int step = 0; step < TILE * HALF_DEPTH / VECTOR / THREADS; step++) {
        int at = step * THREADS + (int)threadIdx.x, row_vectors = HALF_DEPTH / VECTOR;
        int i = at / row_vectors, l = at % row_vectors * VECTOR;
        const uint16_t *from = data + (first + i) * k + l0 + l;
        if (vectors && first + i < n && l0 + l + VECTOR <= k) {
            qs_copy_async16(&to[i][l], from);
        } else {
            for (int e = 0; e < VECTOR; e++) to[i][l + e] = first + i < n && l0 + l + e < k ? from[e] : (uint16_t)0;
        }
    }
}

__device__ __forceinline__ uint32_t pair_at(const uint16_t *p) { return *reinterpret_cast<const uint32_t *>(p); }

/* One buffer's worth of a warp's products; mma tiles that begin behind the last row are left out. */
__device__ __forceinline__ void multiply_half(const uint16_t (*rows)[HALF_STRIDE],
                                              const uint16_t (*columns)[HALF_STRIDE], int lane, int64_t n_rows,
                                              float acc[WARP_M][WARP_N][4])
{
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int l = 0; l < HALF_DEPTH; l += 16) {
        uint32_t b[WARP_N][2];
#pragma unroll
        for (int j = 0; j < WARP_N; j++) {
            b[j][0] = pair_at(&columns[j * 8 + g][l + 2 * t]);
            b[j][1] = pair_at(&columns[j * 8 + g][l + 2 * t + 8]);
        }
#pragma unroll
        for (int i = 0; i < WARP_M; i++) {
            if (i * 16 >= n_rows) continue;
            uint32_t a[4] = {pair_at(&rows[i * 16 + g][l + 2 * t]), pair_at(&rows[i * 16 + g + 8][l + 2 * t]),
                             pair_at(&rows[i * 16 + g][l + 2 * t + 8]), pair_at(&rows[i * 16 + g + 8][l + 2 * t + 8])};
#pragma unroll
            for (int j = 0; j < WARP_N; j++) qs_mma_bf16(acc[i][j], a, b[j]);
        }
    }
}

__global__ void __launch_bounds__(THREADS) gemm_bf16_tile(int64_t m, int64_t n, int64_t k, const uint16_t *a,
                                                          const uint16_t *b, bool vectors, float beta, float *c)
{
    __shared__ __align__(16) uint16_t rows[2][TILE][HALF_STRIDE], columns[2][TILE][HALF_STRIDE];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int warp_row = warp / 4 * WARP_M * 16, warp_column = warp % 4 * WARP_N * 8;
    int64_t row = (int64_t)blockIdx.y * TILE, column = (int64_t)blockIdx.x * TILE;
    float acc[WARP_M][WARP_N][4] = {};
    bool idle = column + warp_column >= n;
    load_half_tile(a, m, k, row, 0, vectors, rows[0]);
    load_half_tile(b, n, k, column, 0, vectors, columns[0]);
    qs_copy_async_commit();
    for (int64_t l0 = 0, buffer = 0; l0 < k; l0 += HALF_DEPTH, buffer ^= 1) {
        qs_copy_async_wait<0>();
        __syncthreads(); /* this buffer is there for all, and nobody reads the other any more */
        if (l0 + HALF_DEPTH < k) {
            load_half_tile(a, m, k, row, l0 + HALF_DEPTH, vectors, rows[buffer ^ 1]);
            load_half_tile(b, n, k, column, l0 + HALF_DEPTH, vectors, columns[buffer ^ 1]);
        }
        qs_copy_async_commit();
        if (!idle)
            multiply_half(rows[buffer] + warp_row, columns[buffer] + warp_column, lane, m - row - warp_row, acc);
    }
#pragma unroll
    for (int i = 0; i < WARP_M; i++)
#pragma unroll
        for (int j = 0; j < WARP_N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int64_t r = row + warp_row + i * 16 + lane / 4 + e / 2 * 8;
                int64_t s = column + warp_column + j * 8 + lane % 4 * 2 + e % 2;
                if (r < m && s < n) c[r * n + s] = beta == 0.0f ? acc[i][j][e] : fmaf(beta, c[r * n + s], acc[i][j][e]);
            }
}

dim3 tiles_of(int64_t m, int64_t n)
{
    return dim3((unsigned)((n + TILE - 1) / TILE), (unsigned)((m + TILE - 1) / TILE));
}

} // namespace

extern "C" int qs_cu_gemm(void *stream, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                          const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc)
{
    operand left, right;
    left.data = a;
    left.n = m;
    left.stride_i = trans_a ? 1 : lda;
    left.stride_l = trans_a ? lda : 1;
    right.data = b;
    right.n = n;
    right.stride_i = trans_b ? ldb : 1;
    right.stride_l = trans_b ? 1 : ldb;
    QS_LAUNCH(gemm_tile, tiles_of(m, n), dim3(THREADS), 0, stream, left, right, k, alpha, beta, c, ldc);
    return qs_launch_status();
}

extern "C" int qs_cu_gemm_bf16(void *stream, int64_t m, int64_t n, int64_t k, const uint16_t *a, const uint16_t *b,
                               float beta, float *c)
{
    bool vectors = k % VECTOR == 0 && ((reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b)) & 15) == 0;
    QS_LAUNCH(gemm_bf16_tile, tiles_of(m, n), dim3(THREADS), 0, stream, m, n, k, a, b, vectors, beta, c);
    return qs_launch_status();
}
