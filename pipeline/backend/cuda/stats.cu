/* Statistics of activations x [n, d]: second moments x^T x, sums and maxima of magnitudes.
 *
 * Second moments on the tensor cores. Every column is scaled by a power of two that brings its largest value to
 * [2^13, 2^14), and every value is split into two f16 terms, high + low, that together hold 22 or more of its 24 bits.
 * The product of two columns is high high + high low + low high with f32 sums, which are promoted into pairs of f32
 * (compensated summation) every 64 rows. Errors relative to sqrt(G_ii G_jj), by Cauchy and Schwarz:
 *
 *   low low is left out      at most 2^-22, 4e-8 on the diagonal for random digits
 *   low is rounded           at most 2 * 2^-23, about 1e-8 for random digits, of random sign
 *   f32 sums                 tensor cores cut off digits instead of rounding: a unit of the last place of the running
 *                            sum per instruction at most, half of one on average. Over the 12 instructions of 64
 *                            rows the running sum is 5.5 / 12 of the last one, which makes 2.5e-7 on the diagonal
 *                            on average and 6.6e-7 at most
 *   compensated sums         at most 2^-23; much less, since the correction is added at the end
 *
 * Added up these are 1.3e-6, which takes every digit that is cut off to be the largest there is. The worst entry of
 * random activations is 3e-7 to 5e-7 away, whatever n is. */
#include "backend/cuda/device.h"
#include "backend/cuda/gram_parts.h"
#include "backend/cuda/kernels.h"

namespace {

/* Row and column of the item-th tile of the upper triangle. */
__device__ __forceinline__ void triangle_tile(int64_t item, int64_t n_tiles, int64_t *row, int64_t *column)
{
    int64_t i = 0;
    while (item >= n_tiles - i) item -= n_tiles - i++;
    *row = i;
    *column = i + item;
}

/* ---- second moments on the tensor cores ---- */

/* Terms lie as the fragments of mma.m16n8k16 do: a unit is 8 columns of 16 rows of x, and lane 4 g + t holds, of column
 * g, rows 2t, 2t+1, 2t+8, 2t+9 of the high term and the same of the low one in 16 bytes. That is a B fragment as it
 * stands, and two units are an A fragment. A tile of the result is 128 x 128, of a warp 64 x 32. */
enum {
    GRAM_TILE = 128, GRAM_UNIT = 8, GRAM_TILE_UNITS = GRAM_TILE / GRAM_UNIT,
    GRAM_STEP = 16,                              /* rows of a unit */
    GRAM_STAGE_STEPS = 2, GRAM_STAGES = 3,       /* steps copied together; stages in shared memory */
    GRAM_PROMOTE_STAGES = 2,
    GRAM_THREADS = 256, GRAM_WARP_M = 4, GRAM_WARP_N = 4, /* mma tiles of a warp */
    GRAM_OPERAND = GRAM_TILE_UNITS * 32,         /* 16-byte vectors of one step of one side */
    GRAM_STAGE = 2 * GRAM_STAGE_STEPS * GRAM_OPERAND,
    SPLIT_STEPS = 4,                             /* steps that a warp of split_columns splits */
};
static_assert(GRAM_STAGE_STEPS * GRAM_STEP * GRAM_PROMOTE_STAGES == 64, "the error bound above is of 64 rows");

/* Where things lie in the workspace. */
struct gram_workspace {
    uint4 *terms; /* [n_steps][n_units][32] */
    gram_scales scales;
};

int64_t padded_columns(int64_t d) { return (d + GRAM_TILE - 1) / GRAM_TILE * GRAM_TILE; }
int64_t padded_steps(int64_t n)
{
    int64_t stage_rows = GRAM_STAGE_STEPS * GRAM_STEP;
    return (n + stage_rows - 1) / stage_rows * GRAM_STAGE_STEPS;
}

/* One warp per unit, SPLIT_STEPS steps. */
__global__ void split_columns(const float *__restrict__ x, int64_t n, int64_t d, int64_t n_units, int64_t n_steps,
                              const float2 *scale, uint4 *__restrict__ terms)
{
    int lane = (int)threadIdx.x % 32, t = lane % 4;
    int64_t unit = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (unit >= n_units) return;
    int64_t column = unit * GRAM_UNIT + lane / 4;
    float2 factors = scale[column];
    for (int i = 0; i < SPLIT_STEPS; i++) {
        int64_t step = (int64_t)blockIdx.y * SPLIT_STEPS + i;
        if (step >= n_steps) return;
        float high[4], low[4];
        for (int k = 0; k < 4; k++) {
            int64_t row = step * GRAM_STEP + 2 * t + k % 2 + k / 2 * 8;
            float value = row < n && column < d ? x[row * d + column] : 0.0f;
            split_value(value, factors, &high[k], &low[k]);
        }
        uint4 v;
        v.x = qs_f16x2_of_f32(high[0], high[1]);
        v.y = qs_f16x2_of_f32(high[2], high[3]);
        v.z = qs_f16x2_of_f32(low[0], low[1]);
        v.w = qs_f16x2_of_f32(low[2], low[3]);
        terms[(step * n_units + unit) * 32 + lane] = v;
    }
}

/* Starts the copy of one stage of both sides: [side][step][GRAM_OPERAND]. rows, columns and stage begin with the
 * thread's own vector. */
__device__ __forceinline__ void load_stage(const uint4 *rows, const uint4 *columns, int64_t step_vectors,
                                           uint4 *stage)
{
#pragma unroll
    for (int step = 0; step < GRAM_STAGE_STEPS; step++)
#pragma unroll
        for (int at = 0; at < GRAM_OPERAND; at += GRAM_THREADS) {
            qs_copy_async16(stage + step * GRAM_OPERAND + at, rows + step * step_vectors + at);
            qs_copy_async16(stage + (GRAM_STAGE_STEPS + step) * GRAM_OPERAND + at,
                            columns + step * step_vectors + at);
        }
}

/* The three products of a step. Neighbouring instructions have different sums, so that they overlap. An A fragment must
 * lie in four registers in a row, which two loads cannot give: `nothing` is 0, but the compiler does not know, and so
 * makes the fragment once instead of copying it for every product. */
__device__ __forceinline__ void multiply_step(const uint4 *rows, const uint4 *columns, uint32_t nothing,
                                              float acc[GRAM_WARP_M][GRAM_WARP_N][4])
{
    uint32_t b_high[GRAM_WARP_N][2], b_low[GRAM_WARP_N][2];
#pragma unroll
    for (int j = 0; j < GRAM_WARP_N; j++) {
        uint4 v = columns[j * 32];
        b_high[j][0] = v.x;
        b_high[j][1] = v.y;
        b_low[j][0] = v.z;
        b_low[j][1] = v.w;
    }
#pragma unroll
    for (int i = 0; i < GRAM_WARP_M; i++) {
        uint4 v = rows[2 * i * 32], w = rows[(2 * i + 1) * 32];
        uint32_t a_high[4] = {v.x ^ nothing, w.x ^ nothing, v.y ^ nothing, w.y ^ nothing};
        uint32_t a_low[4] = {v.z ^ nothing, w.z ^ nothing, v.w ^ nothing, w.w ^ nothing};
#pragma unroll
        for (int j = 0; j < GRAM_WARP_N; j++) qs_mma_f16(acc[i][j], a_high, b_low[j]);
#pragma unroll
        for (int j = 0; j < GRAM_WARP_N; j++) qs_mma_f16(acc[i][j], a_low, b_high[j]);
#pragma unroll
        for (int j = 0; j < GRAM_WARP_N; j++) qs_mma_f16(acc[i][j], a_high, b_high[j]);
    }
}

/* What the sums have lost, as pairs of bf16: it is 2^-24 of them, so eight bits of it are enough, and registers are
 * dear. */
typedef uint32_t gram_rest[GRAM_WARP_M][GRAM_WARP_N][2];
__device__ __forceinline__ float low_of(uint32_t pair) { return qs_f32_of_bf16((uint16_t)pair); }
__device__ __forceinline__ float high_of(uint32_t pair) { return qs_f32_of_bf16((uint16_t)(pair >> 16)); }

/* sum += acc, acc = 0 */
__device__ __forceinline__ void promote(float acc[GRAM_WARP_M][GRAM_WARP_N][4], float sum[GRAM_WARP_M][GRAM_WARP_N][4],
                                        gram_rest rest)
{
#pragma unroll
    for (int i = 0; i < GRAM_WARP_M; i++)
#pragma unroll
        for (int j = 0; j < GRAM_WARP_N; j++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                float *term = &acc[i][j][2 * k], *to = &sum[i][j][2 * k];
                float low = add_term(&to[0], term[0] + low_of(rest[i][j][k]));
                float high = add_term(&to[1], term[1] + high_of(rest[i][j][k]));
                rest[i][j][k] = qs_bf16x2_of_f32(low, high);
                term[0] = term[1] = 0.0f;
            }
}

__device__ __forceinline__ void store_tile(const float sum[GRAM_WARP_M][GRAM_WARP_N][4], const gram_rest rest,
                                           int64_t row, int64_t column, int64_t d, const double *unscale, double *gram)
{
#pragma unroll
    for (int i = 0; i < GRAM_WARP_M; i++)
#pragma unroll
        for (int j = 0; j < GRAM_WARP_N; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                int64_t r = row + i * 16 + k / 2 * 8, c = column + j * 8 + k % 2;
                if (r > c || c >= d) continue;
                float lost = k % 2 == 0 ? low_of(rest[i][j][k / 2]) : high_of(rest[i][j][k / 2]);
                gram[r * d + c] += ((double)sum[i][j][k] + (double)lost) * unscale[r] * unscale[c];
            }
}

__global__ void __launch_bounds__(GRAM_THREADS, 1) gram_tile(gram_workspace ws, int n_stages, int64_t d,
                                                             int64_t n_tiles, double *gram)
{
    QS_DYNAMIC_SHARED(uint4, shared);
    int lane = (int)threadIdx.x % 32, warp_row = (int)threadIdx.x / 128, warp_column = (int)threadIdx.x / 32 % 4;
    int64_t tile_row, tile_column, step_vectors = n_tiles * GRAM_OPERAND;
    triangle_tile(blockIdx.x, n_tiles, &tile_row, &tile_column);
    const uint4 *next = ws.terms + tile_row * GRAM_OPERAND + threadIdx.x; /* of the next stage to copy */
    const int64_t across = (tile_column - tile_row) * GRAM_OPERAND;
    int64_t row = tile_row * GRAM_TILE + warp_row * GRAM_WARP_M * 16;
    int64_t column = tile_column * GRAM_TILE + warp_column * GRAM_WARP_N * 8;
    bool idle = row >= column + GRAM_WARP_N * 8 || row >= d || column >= d; /* under the diagonal, or outside */
    float acc[GRAM_WARP_M][GRAM_WARP_N][4] = {}, sum[GRAM_WARP_M][GRAM_WARP_N][4] = {};
    gram_rest rest = {};
    for (int s = 0; s < GRAM_STAGES - 1; s++) {
        if (s < n_stages) load_stage(next, next + across, step_vectors, shared + s * GRAM_STAGE + threadIdx.x);
        qs_copy_async_commit();
        next += GRAM_STAGE_STEPS * step_vectors;
    }
    const int row_at = warp_row * GRAM_WARP_M * 2 * 32 + lane;
    const int column_at = GRAM_STAGE_STEPS * GRAM_OPERAND + warp_column * GRAM_WARP_N * 32 + lane;
    const uint32_t nothing = n_stages < 0 ? 1 : 0;
    int slot = 0, free_slot = (GRAM_STAGES - 1) * GRAM_STAGE;
    for (int s = 0; s < n_stages; s++) {
        qs_copy_async_wait<GRAM_STAGES - 2>();
        __syncthreads(); /* stage s is there for all, and nobody reads stage s - 1 any more */
        if (s + GRAM_STAGES - 1 < n_stages)
            load_stage(next, next + across, step_vectors, shared + free_slot + threadIdx.x);
        qs_copy_async_commit();
        next += GRAM_STAGE_STEPS * step_vectors;
#pragma unroll
        for (int k = 0; k < GRAM_STAGE_STEPS && !idle; k++)
            multiply_step(shared + slot + row_at + k * GRAM_OPERAND, shared + slot + column_at + k * GRAM_OPERAND,
                          nothing, acc);
        /* The two warps that share a scheduler promote in turns, so that one feeds the tensor core meanwhile. */
        if ((s + warp_row) % GRAM_PROMOTE_STAGES != 0) promote(acc, sum, rest);
        free_slot = slot;
        slot = slot == (GRAM_STAGES - 1) * GRAM_STAGE ? 0 : slot + GRAM_STAGE;
    }
    promote(acc, sum, rest);
    if (!idle) store_tile(sum, rest, row + lane / 4, column + lane % 4 * 2, d, ws.scales.unscale, gram);
}

int gram_pass(void *stream, const float *x, int64_t n, int64_t d, double *gram, const gram_workspace &ws)
{
    enum { THREADS = 256, WARPS = THREADS / 32 };
    int64_t n_columns = padded_columns(d), n_units = n_columns / GRAM_UNIT, n_steps = padded_steps(n);
    int64_t n_tiles = n_columns / GRAM_TILE;
    size_t shared_bytes = GRAM_STAGES * GRAM_STAGE * sizeof(uint4);
    find_scales(stream, x, n, d, n_columns, ws.scales);
    QS_LAUNCH(split_columns,
              dim3((unsigned)((n_units + WARPS - 1) / WARPS), (unsigned)((n_steps + SPLIT_STEPS - 1) / SPLIT_STEPS)),
              dim3(THREADS), 0, stream, x, n, d, n_units, n_steps, ws.scales.scale, ws.terms);
    int code = qs_allow_shared(gram_tile, shared_bytes);
    if (code != 0) return code;
    QS_LAUNCH(gram_tile, dim3((unsigned)(n_tiles * (n_tiles + 1) / 2)), dim3(GRAM_THREADS), shared_bytes, stream, ws,
              (int)(n_steps / GRAM_STAGE_STEPS), d, n_tiles, gram);
    return qs_launch_status();
}

/* ---- magnitudes ---- */

/* A block takes 8 columns, 32 bytes of each row; 32 threads share a column. */
enum { ABS_COLUMNS = 8, ABS_LANES = 32, ABS_THREADS = ABS_COLUMNS * ABS_LANES, ABS_AHEAD = 8 };

__global__ void __launch_bounds__(ABS_THREADS) abs_columns(const float *x, int64_t n, int64_t d, double *abs_sum,
                                                           float *abs_max)
{
    __shared__ double sums[ABS_LANES][ABS_COLUMNS];
    __shared__ float maxima[ABS_LANES][ABS_COLUMNS];
    int at = (int)threadIdx.x % ABS_COLUMNS, part = (int)threadIdx.x / ABS_COLUMNS;
    int64_t column = (int64_t)blockIdx.x * ABS_COLUMNS + at;
    double sum = 0.0;
    float largest = 0.0f;
    for (int64_t row = part; column < d && row < n; row += ABS_AHEAD * ABS_LANES) {
        float magnitude[ABS_AHEAD];
#pragma unroll
        for (int u = 0; u < ABS_AHEAD; u++) {
            int64_t r = row + u * ABS_LANES;
            magnitude[u] = r < n ? fabsf(x[r * d + column]) : 0.0f;
        }
#pragma unroll
        for (int u = 0; u < ABS_AHEAD; u++) {
            sum += (double)magnitude[u];
            largest = fmaxf(largest, magnitude[u]); /* a NaN shows in the sum */
        }
    }
    sums[part][at] = sum;
    maxima[part][at] = largest;
    __syncthreads();
    if (part != 0 || column >= d) return;
    for (int p = 1; p < ABS_LANES; p++) {
        sum += sums[p][at];
        largest = fmaxf(largest, maxima[p][at]);
    }
    abs_sum[column] += sum;
    abs_max[column] = fmaxf(abs_max[column], largest);
}

} // namespace

extern "C" size_t qs_cu_gram_bytes(int64_t n, int64_t d)
{
    int64_t columns = padded_columns(d);
    int64_t terms = padded_steps(pass_rows(n)) * (columns / GRAM_UNIT) * 32 * (int64_t)sizeof(uint4);
    return (size_t)terms + gram_scales_bytes(columns);
}

extern "C" int qs_cu_gram(void *stream, const float *x, int64_t n, int64_t d, double *gram, void *workspace)
{
    int64_t columns = padded_columns(d);
    gram_workspace ws;
    ws.terms = static_cast<uint4 *>(workspace);
    ws.scales = gram_scales_at(ws.terms + padded_steps(pass_rows(n)) * (columns / GRAM_UNIT) * 32, columns);
    int code = 0;
    for (int64_t row = 0; code == 0 && row < n; row += GRAM_PASS_ROWS)
        code = gram_pass(stream, x + row * d, pass_rows(n - row), d, gram, ws);
    return code;
}

extern "C" int qs_cu_abs_stats(void *stream, const float *x, int64_t n, int64_t d, double *abs_sum, float *abs_max)
{
    QS_LAUNCH(abs_columns, dim3((unsigned)((d + ABS_COLUMNS - 1) / ABS_COLUMNS)), dim3(ABS_THREADS), 0, stream, x, n, d,
              abs_sum, abs_max);
    return qs_launch_status();
}
