/* Rows of x as B of a warpgroup's products (linear_many.cu): rounded to 16 bits or coded for int8, in tiles of 64
 * columns that lie in global memory as they will in shared memory, so that one bulk copy brings a tile. */
#include "backend/cuda/coding.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/wgmma.h"

namespace {

enum { PREPARE_THREADS = 256, KEPT = 4 /* k-steps that a thread keeps between the maximum and the rounding */ };

struct rows_of_x {
    const float *x;
    const int32_t *perm;
    const float *norm; /* or NULL; without perm, of rows that are kept */
    float eps;
    int n_in, n_steps; /* k-steps of a row, filled up with zeros to whole chunks */
    bool bf16, whole;  /* whole: four values can be read at once */
    float threshold;   /* of rows that are coded */
    int64_t x_rows;
    uint16_t *out;
    float *scale;
};

__device__ __forceinline__ void load_step(const rows_of_x &r, const float *x, int step, float v[16])
{
#pragma unroll
    for (int q = 0; q < 4; q++) {
        int column = 16 * step + 4 * q;
        if (r.whole && column < r.n_in) {
            float4 four = *reinterpret_cast<const float4 *>(x + column);
            v[4 * q] = four.x, v[4 * q + 1] = four.y, v[4 * q + 2] = four.z, v[4 * q + 3] = four.w;
            continue;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int at = column + i;
            v[4 * q + i] = at < r.n_in ? x[r.perm != nullptr ? r.perm[at] : at] : 0.0f;
        }
    }
}

/* Columns of a k-step in the order in which lanes have those of weights (kernels.h). */
__device__ __forceinline__ void store_step(const rows_of_x &r, int64_t row, int step, const float v[16], float up)
{
    uint32_t pairs[2][4];
#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float low = v[4 * t + 2 * h] * up, high = v[4 * t + 2 * h + 1] * up;
            pairs[h][t] = r.bf16 ? qs_bf16x2_of_f32(low, high) : qs_f16x2_of_f32(low, high);
        }
    uint16_t *to = r.out + step / 4 * r.x_rows * QS_CU_CHUNK;
#pragma unroll
    for (int h = 0; h < 2; h++)
        *reinterpret_cast<uint4 *>(to + row * QS_CU_CHUNK + qs_tile_at((int)(row % 8), 16 * (step % 4) + 8 * h) -
                                   row % 8 * QS_CU_CHUNK) =
            make_uint4(pairs[h][0], pairs[h][1], pairs[h][2], pairs[h][3]);
}

/* The norm of norm.h, a thread having four neighbouring quads of a segment: the same sums in the same order. */
__device__ __forceinline__ void normalise(const rows_of_x &r, float (&kept)[KEPT][16], float *segments)
{
    int thread = (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int step = thread + i * PREPARE_THREADS;
        if (i * PREPARE_THREADS >= r.n_steps) break;
        float sum[4];
#pragma unroll
        for (int q = 0; q < 4; q++) {
            const float *v = kept[i] + 4 * q;
            sum[q] = step < r.n_steps ? fmaf(v[0], v[0], v[1] * v[1]) + fmaf(v[2], v[2], v[3] * v[3]) : 0.0f;
            for (int d = 4; d > 0; d /= 2) sum[q] += __shfl_xor_sync(0xffffffffu, sum[q], d);
        }
        if (thread % 8 == 0) segments[step / 8] = (sum[0] + sum[2]) + (sum[1] + sum[3]);
    }
    __syncthreads();
    float factor = qs_cu_norm_factor(segments, (r.n_steps + 7) / 8, r.n_in, r.eps);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int step = thread + i * PREPARE_THREADS;
        if (step >= r.n_steps) break;
        float weight[16];
        load_step(r, r.norm, step, weight);
#pragma unroll
        for (int k = 0; k < 16; k++) kept[i][k] = kept[i][k] * factor * weight[k];
    }
}

/* What a row is multiplied with, or coded by, before it is rounded. */
template <bool CODES> struct row_scale {
    float largest = 0.0f;
    qs_cu_extent extent = {0.0f, 0.0f};
    qs_cu_coding coding = {};
    qs_cu_power power = {};

    __device__ __forceinline__ void see(float threshold, const float v[16])
    {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (CODES) qs_cu_extend(extent, threshold, v[i]);
            else largest = fmaxf(largest, fabsf(v[i]));
        }
    }
    /* Once, by the whole block. */
    __device__ __forceinline__ void settle(float threshold)
    {
        __shared__ float maxima[PREPARE_THREADS / 32];
        __shared__ qs_cu_extent notes[PREPARE_THREADS / 32];
        if (CODES) {
            extent = qs_cu_extent_of_block(extent, notes);
            coding = qs_cu_coding_of(extent, threshold);
            largest = __fmul_rn(extent.all, coding.factor);
        } else {
            for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
            if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = largest;
            __syncthreads();
            for (int i = 0; i < PREPARE_THREADS / 32; i++) largest = fmaxf(largest, maxima[i]);
        }
        power = qs_cu_power_of(largest);
    }
    __device__ __forceinline__ void store(const rows_of_x &r, int64_t row, int step, float v[16]) const
    {
#pragma unroll
        for (int i = 0; CODES && i < 16; i++) v[i] = qs_cu_code_of(coding, v[i]);
        store_step(r, row, step, v, power.up);
    }
    __device__ __forceinline__ float down(void) const { return CODES ? coding.scale * power.down : power.down; }
};

/* A row a block. */
template <bool CODES> __global__ void __launch_bounds__(PREPARE_THREADS) prepare_many(rows_of_x r)
{
    __shared__ float segments[KEPT * PREPARE_THREADS / 8];
    int64_t row = blockIdx.x;
    const float *x = r.x + row * r.n_in;
    int thread = (int)threadIdx.x;
    float kept[KEPT][16];
    row_scale<CODES> scale;
    qs_wait_for_previous();
    qs_let_next_begin();
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int step = thread + i * PREPARE_THREADS;
        if (step >= r.n_steps) break;
        load_step(r, x, step, kept[i]);
    }
    if (r.norm != nullptr) normalise(r, kept, segments);
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        if (thread + i * PREPARE_THREADS < r.n_steps) scale.see(r.threshold, kept[i]);
    for (int step = thread + KEPT * PREPARE_THREADS; step < r.n_steps; step += PREPARE_THREADS) {
        float v[16];
        load_step(r, x, step, v);
        scale.see(r.threshold, v);
    }
    scale.settle(r.threshold);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int step = thread + i * PREPARE_THREADS;
        if (step < r.n_steps) scale.store(r, row, step, kept[i]);
    }
    for (int step = thread + KEPT * PREPARE_THREADS; step < r.n_steps; step += PREPARE_THREADS) {
        float v[16];
        load_step(r, x, step, v);
        scale.store(r, row, step, v);
    }
    if (thread == 0) r.scale[row] = scale.down();
}

int launch(void *stream, const rows_of_x &with, const float *x, int64_t n, int64_t n_in, bool bf16,
           const qs_cu_many_x *out)
{
    rows_of_x r = with;
    r.x = x;
    r.n_in = (int)n_in;
    r.n_steps = (int)qs_cu_n_chunks(n_in) * 4;
    r.bf16 = bf16;
    r.whole = r.perm == nullptr && n_in % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
    r.x_rows = qs_cu_many_rows(n);
    r.out = out->x;
    r.scale = out->scale;
    r.threshold = out->threshold;
    if (out->is_coded) QS_LAUNCH_SOON(prepare_many<true>, dim3((unsigned)n), dim3(PREPARE_THREADS), 0, stream, r);
    else QS_LAUNCH_SOON(prepare_many<false>, dim3((unsigned)n), dim3(PREPARE_THREADS), 0, stream, r);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_prepare_many(void *stream, const float *x, int64_t n, int64_t n_in, const int32_t *perm, bool bf16,
                                  const qs_cu_many_x *out)
{
    rows_of_x r = {};
    r.perm = perm;
    return launch(stream, r, x, n, n_in, bf16, out);
}

extern "C" int qs_cu_prepare_normed(void *stream, const float *x, const float *norm, float eps, int64_t n, int64_t n_in,
                                    bool bf16, const qs_cu_many_x *out)
{
    static_assert(QS_CU_NORMED_MAX <= KEPT * PREPARE_THREADS * 16, "rows that are kept");
    rows_of_x r = {};
    r.norm = norm;
    r.eps = eps;
    return launch(stream, r, x, n, n_in, bf16, out);
}
