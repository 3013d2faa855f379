/* Causal attention of whole windows: one block per tile of queries, keys in tiles with a running maximum, so
 * that scores never leave the chip. A window's result depends on nothing but the window. Heads of up to 128
 * numbers, a multiple of 4, which almost all models have, run on the tensor cores (attention_mma.cu); this is
 * the way for all others, in f32. */
#include "backend/cuda/attention_tiles.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;

/* Heads of up to D numbers. A thread scores 4 queries with 2 keys and sums the values of the same 4 queries
 * in D / 16 columns; the 16 threads of 4 queries are half a warp. */
template <int D> struct blocks {
    static constexpr int ROWS = D == 256 ? 32 : 64, KEYS = 32, THREADS = ROWS * 4, VECTORS = D / 64;
    static constexpr int STRIDE = D + 4, WEIGHT_STRIDE = ROWS + 4; /* 4 more: lanes read different banks */
    static constexpr int Q_FLOATS = ROWS * STRIDE, KV_FLOATS = KEYS * STRIDE;
    static constexpr int SHARED_BYTES = 4 * (Q_FLOATS + KV_FLOATS + KEYS * WEIGHT_STRIDE);
};

/* Rows row .. row + N_ROWS - 1 to shared memory, zeros behind the last row and the last number. */
template <int D, int N_ROWS>
__device__ __forceinline__ void fill_rows(float *to, const float *from, int64_t stride, int row, int n_rows,
                                          int head_dim, float scale)
{
    using cut = blocks<D>;
    bool aligned = head_dim % 4 == 0;
    for (int i = (int)threadIdx.x; i < N_ROWS * (D / 4); i += cut::THREADS) {
        int r = i / (D / 4), column = i % (D / 4) * 4;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float *at = from + (row + r) * stride + column;
        if (row + r < n_rows && column < head_dim) {
            if (aligned) {
                v = *reinterpret_cast<const float4 *>(at);
            } else { /* an even number of numbers */
                v.x = at[0];
                v.y = at[1];
                if (column + 2 < head_dim) v.z = at[2];
                if (column + 2 < head_dim) v.w = at[3];
            }
        }
        *reinterpret_cast<float4 *>(to + r * cut::STRIDE + column) =
            make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
    }
}

template <int D>
__device__ __forceinline__ void score_block(float scores[4][2], const float *q, const float *k)
{
    constexpr int STRIDE = blocks<D>::STRIDE;
#pragma unroll
    for (int i = 0; i < 4; i++) scores[i][0] = scores[i][1] = 0.0f;
#pragma unroll 4
    for (int column = 0; column < D; column += 4) {
        float4 keys[2];
#pragma unroll
        for (int j = 0; j < 2; j++) keys[j] = *reinterpret_cast<const float4 *>(k + 16 * j * STRIDE + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 query = *reinterpret_cast<const float4 *>(q + i * STRIDE + column);
#pragma unroll
            for (int j = 0; j < 2; j++)
                scores[i][j] = fmaf(query.x, keys[j].x,
                                    fmaf(query.y, keys[j].y,
                                         fmaf(query.z, keys[j].z, fmaf(query.w, keys[j].w, scores[i][j]))));
        }
    }
}

/* Scores to weights in shared memory; `row` and `key` are the thread's first. */
template <int D>
__device__ __forceinline__ void weigh_block(float scores[4][2], float (*sums)[4 * blocks<D>::VECTORS],
                                            float *running_max, float *running_sum,
                                            const qs_cu_attention_args &args, int row, int key,
                                            float *weights)
{
    using cut = blocks<D>;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float new_max = running_max[i];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int this_key = key + 16 * j;
            if (this_key > row + i || this_key < qs_cu_first_key(args, row + i)) scores[i][j] = -INFINITY;
            new_max = fmaxf(new_max, scores[i][j]);
        }
#pragma unroll
        for (int distance = 8; distance > 0; distance /= 2)
            new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, distance));
        float factor = exp2f(running_max[i] - new_max);
        running_max[i] = new_max;
#pragma unroll
        for (int j = 0; j < 2; j++) scores[i][j] = exp2f(scores[i][j] - new_max);
        running_sum[i] = running_sum[i] * factor + (scores[i][0] + scores[i][1]);
#pragma unroll
        for (int c = 0; c < 4 * cut::VECTORS; c++) sums[i][c] *= factor;
    }
#pragma unroll
    for (int j = 0; j < 2; j++)
        *reinterpret_cast<float4 *>(weights + 16 * j * cut::WEIGHT_STRIDE) =
            make_float4(scores[0][j], scores[1][j], scores[2][j], scores[3][j]);
}

template <int D>
__device__ __forceinline__ void add_block(float (*sums)[4 * blocks<D>::VECTORS], const float *weights,
                                          const float *v)
{
    using cut = blocks<D>;
#pragma unroll 4
    for (int key = 0; key < cut::KEYS; key++) {
        float4 weight = *reinterpret_cast<const float4 *>(weights + key * cut::WEIGHT_STRIDE);
        const float of_row[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
        for (int c = 0; c < cut::VECTORS; c++) {
            float4 value = *reinterpret_cast<const float4 *>(v + key * cut::STRIDE + 64 * c);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[i][4 * c] = fmaf(of_row[i], value.x, sums[i][4 * c]);
                sums[i][4 * c + 1] = fmaf(of_row[i], value.y, sums[i][4 * c + 1]);
                sums[i][4 * c + 2] = fmaf(of_row[i], value.z, sums[i][4 * c + 2]);
                sums[i][4 * c + 3] = fmaf(of_row[i], value.w, sums[i][4 * c + 3]);
            }
        }
    }
}

template <int D> __global__ void __launch_bounds__(blocks<D>::THREADS) attend_simt(qs_cu_attention_args args)
{
    using cut = blocks<D>;
    QS_DYNAMIC_SHARED(float, q_tile);
    float *kv_tile = q_tile + cut::Q_FLOATS, *weights = kv_tile + cut::KV_FLOATS;
    qs_cu_head_place place = qs_cu_head_place_of(args);
    int block_row = qs_cu_first_row_of_block(cut::ROWS), end = min(block_row + cut::ROWS, args.n_ctx);
    int rows = (int)threadIdx.x / 16 * 4, column = (int)threadIdx.x % 16; /* of the thread */
    const float *k = args.k + place.kv_offset, *v = args.v + place.kv_offset;

    float sums[4][4 * cut::VECTORS], running_max[4], running_sum[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        running_max[i] = -FLT_MAX;
        running_sum[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < 4 * cut::VECTORS; c++) sums[i][c] = 0.0f;
    }
    fill_rows<D, cut::ROWS>(q_tile, args.q + place.q_offset, place.q_stride, block_row, args.n_ctx,
                            args.head_dim, QS_CU_LOG2_E / sqrtf((float)args.head_dim));
    for (int key = qs_cu_first_key(args, block_row) / cut::KEYS * cut::KEYS; key < end; key += cut::KEYS) {
        __syncthreads(); /* the values of the tile before have been read */
        fill_rows<D, cut::KEYS>(kv_tile, k, place.kv_stride, key, args.n_ctx, args.head_dim, 1.0f);
        __syncthreads();
        float scores[4][2];
        score_block<D>(scores, q_tile + rows * cut::STRIDE, kv_tile + column * cut::STRIDE);
        weigh_block<D>(scores, sums, running_max, running_sum, args, block_row + rows, key + column,
                       weights + column * cut::WEIGHT_STRIDE + rows);
        __syncthreads();
        fill_rows<D, cut::KEYS>(kv_tile, v, place.kv_stride, key, args.n_ctx, args.head_dim, 1.0f);
        __syncthreads();
        add_block<D>(sums, weights + rows, kv_tile + 4 * column);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int distance = 8; distance > 0; distance /= 2)
            running_sum[i] += __shfl_xor_sync(ALL_LANES, running_sum[i], distance);
        float *out = args.out + place.q_offset + (block_row + rows + i) * place.q_stride;
#pragma unroll
        for (int c = 0; c < 4 * cut::VECTORS; c++) {
            int dim = c / 4 * 64 + 4 * column + c % 4;
            if (block_row + rows + i < args.n_ctx && dim < args.head_dim)
                out[dim] = sums[i][c] / running_sum[i];
        }
    }
}

template <int D>
int launch_simt(void *stream, const qs_cu_attention_args &args, int64_t n_heads, int64_t n_windows)
{
    using cut = blocks<D>;
    int code = qs_allow_shared(attend_simt<D>, cut::SHARED_BYTES);
    if (code != 0) return code;
    dim3 grid((unsigned)n_heads, (unsigned)((args.n_ctx + cut::ROWS - 1) / cut::ROWS), (unsigned)n_windows);
    QS_LAUNCH(attend_simt<D>, grid, cut::THREADS, cut::SHARED_BYTES, stream, args);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_attention(void *stream, const qs_cu_attention_shape *shape, const float *q,
                               const float *k, const float *v, int64_t n_windows, int64_t n_ctx, float *out)
{
    if (n_windows == 0 || n_ctx == 0) return 0;
    qs_cu_attention_args args = {
        q, k, v, out, (int)shape->n_kv_heads, (int)shape->head_dim, (int)shape->window, (int)n_ctx};
    if (shape->head_dim <= 128 && shape->head_dim % 4 == 0)
        return qs_cu_attention_mma(stream, &args, shape->n_heads, n_windows, shape->in_16_bits);
    return shape->head_dim <= 128 ? launch_simt<128>(stream, args, shape->n_heads, n_windows)
                                  : launch_simt<256>(stream, args, shape->n_heads, n_windows);
}
