/* What a team of lanes does in attention of decoding: rows of keys and values into registers, scores, weights, sums
 * (attention_decode.cu only). */
#ifndef QS_BACKEND_CUDA_ATTENTION_TEAM_H
#define QS_BACKEND_CUDA_ATTENTION_TEAM_H

#include "backend/cuda/device.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;

/* How a block is cut for heads of up to DIM numbers, G query heads at a time. Keys per team and step are what
 * the registers hold beside G queries and G sums. */
template <int DIM, int G> struct layout {
    static constexpr int LANES = DIM == 64 ? 16 : 32, VECTORS = DIM / (4 * LANES), WIDTH = G * VECTORS;
    static constexpr int WARPS = WIDTH <= 4 ? 8 : 4, THREADS = 32 * WARPS, TEAMS = THREADS / LANES;
    static constexpr int KEYS = WIDTH == 16 ? 2 : 4, LANES_PER_KEY = LANES / KEYS, UNIT = TEAMS * KEYS;
    static constexpr int BLOCKS_PER_SM = WIDTH == 8 ? 3 : 2;
};

/* Four numbers of a row from `dim` on. Rows of a multiple of 4 numbers are aligned, and a lane behind the
 * row's end reads its beginning, which costs nothing and changes nothing: its query is 0, its sums are not
 * written. */
template <bool ALIGNED> __device__ __forceinline__ float4 load_four(const float *row, int dim, int head_dim)
{
    if (ALIGNED) return *reinterpret_cast<const float4 *>(row + (dim < head_dim ? dim : 0));
    float4 r = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (dim < head_dim) r.x = row[dim];
    if (dim + 1 < head_dim) r.y = row[dim + 1];
    if (dim + 2 < head_dim) r.z = row[dim + 2];
    if (dim + 3 < head_dim) r.w = row[dim + 3];
    return r;
}

__device__ __forceinline__ float dot_four(float4 a, float4 b, float sum)
{
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

/* Sums N values over the LANES lanes of a team. Each exchange halves the values that a lane still carries, so
 * the whole costs little more than N shuffles; lane l ends with the sum of value l / (LANES / N). */
template <int N, int LANES> __device__ __forceinline__ float team_sums(float values[N], int lane)
{
#pragma unroll
    for (int distance = LANES / 2, n = N; distance > 0; distance /= 2) {
        if (n > 1) {
            n /= 2;
            bool upper = lane & distance;
#pragma unroll
            for (int i = 0; i < n; i++) {
                float keep = upper ? values[i + n] : values[i], give = upper ? values[i] : values[i + n];
                values[i] = keep + __shfl_xor_sync(ALL_LANES, give, distance);
            }
        } else {
            values[0] += __shfl_xor_sync(ALL_LANES, values[0], distance);
        }
    }
    return values[0];
}

/* A step's place in the caches: the rows of one sequence and key/value head. */
struct kv_rows {
    const float *k_cache, *v_cache, *k_fresh, *v_fresh;
    int64_t stride;
    int n_cached; /* keys from here on are not read from the caches: this step's, and those of other parts */
    int head_dim;
};

/* What a team carries from step to step; lane l holds numbers 4l .. 4l + 3 of each LANES * 4. */
template <int DIM, int G> struct team_state {
    using cut = layout<DIM, G>;
    float4 keys[cut::KEYS][cut::VECTORS], values[cut::KEYS][cut::VECTORS];
    float4 queries[G][cut::VECTORS], sums[G][cut::VECTORS];
    float running_max[G], running_sum[G]; /* the sum over the keys that the lane has scored itself */
};

/* The rows of KEYS keys. This step's row comes from where it was made, as the cache may not hold it yet (its key is
 * rotated in between: take_fresh_key); it also stands for rows that do not count, so that loads need no branches. */
template <bool ALIGNED, int KEYS, int VECTORS, int LANES>
__device__ __forceinline__ void load_rows(float4 (&rows)[KEYS][VECTORS], const kv_rows &kv,
                                          const float *cache, const float *fresh, int key, int lane)
{
#pragma unroll
    for (int j = 0; j < KEYS; j++) {
        const float *row = key + j < kv.n_cached ? cache + (key + j) * kv.stride : fresh;
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            rows[j][i] = load_four<ALIGNED>(row, i * 4 * LANES + 4 * lane, kv.head_dim);
    }
}

template <int DIM, int G, bool ALIGNED>
__device__ __forceinline__ void load_keys(team_state<DIM, G> &state, const kv_rows &kv, int key, int lane)
{
    using cut = layout<DIM, G>;
    load_rows<ALIGNED, cut::KEYS, cut::VECTORS, cut::LANES>(state.keys, kv, kv.k_cache, kv.k_fresh, key,
                                                            lane);
}

template <int DIM, int G, bool ALIGNED>
__device__ __forceinline__ void load_values(team_state<DIM, G> &state, const kv_rows &kv, int key, int lane)
{
    using cut = layout<DIM, G>;
    load_rows<ALIGNED, cut::KEYS, cut::VECTORS, cut::LANES>(state.values, kv, kv.v_cache, kv.v_fresh, key,
                                                            lane);
}

/* Queries scaled so that weights are powers of 2. turned: rotated heads, filled up with zeros. */
template <int DIM, int G>
__device__ __forceinline__ void start(team_state<DIM, G> &state, const float (*turned)[DIM], int n_heads_here,
                                      int head_dim, int lane)
{
    using cut = layout<DIM, G>;
    float scale = 1.44269504f / sqrtf((float)head_dim);
#pragma unroll
    for (int g = 0; g < G; g++) {
        state.running_max[g] = -FLT_MAX;
        state.running_sum[g] = 0.0f;
#pragma unroll
        for (int i = 0; i < cut::VECTORS; i++) {
            float4 v = *reinterpret_cast<const float4 *>(&turned[g][i * 4 * cut::LANES + 4 * lane]);
            bool counts = g < n_heads_here;
            state.queries[g][i] = make_float4(counts ? v.x * scale : 0.0f, counts ? v.y * scale : 0.0f,
                                              counts ? v.z * scale : 0.0f, counts ? v.w * scale : 0.0f);
            state.sums[g][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
    }
}

/* This step's key in the place of the row that stood for it, where it is the team's. */
template <int DIM, int G>
__device__ __forceinline__ void take_fresh_key(team_state<DIM, G> &state, const float *turned, int key,
                                               int position, int lane)
{
    using cut = layout<DIM, G>;
#pragma unroll
    for (int j = 0; j < cut::KEYS; j++) {
        if (key + j != position) continue;
#pragma unroll
        for (int i = 0; i < cut::VECTORS; i++)
            state.keys[j][i] = *reinterpret_cast<const float4 *>(&turned[i * 4 * cut::LANES + 4 * lane]);
    }
}

/* Scores of one query head and the team's keys to weights, relative to the new running maximum. */
template <int DIM, int G>
__device__ __forceinline__ void score(team_state<DIM, G> &state, int g, bool own_key_counts, int lane,
                                      float *weights)
{
    using cut = layout<DIM, G>;
    float dots[cut::KEYS];
#pragma unroll
    for (int j = 0; j < cut::KEYS; j++) {
        dots[j] = 0.0f;
#pragma unroll
        for (int i = 0; i < cut::VECTORS; i++)
            dots[j] = dot_four(state.queries[g][i], state.keys[j][i], dots[j]);
    }
    float own = team_sums<cut::KEYS, cut::LANES>(dots, lane);
    if (!own_key_counts) own = -INFINITY;
    float new_max = own;
#pragma unroll
    for (int distance = cut::LANES / 2; distance >= cut::LANES_PER_KEY; distance /= 2)
        new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, distance));
    new_max = fmaxf(new_max, state.running_max[g]);
    float weight = exp2f(own - new_max), factor = exp2f(state.running_max[g] - new_max);
    state.running_max[g] = new_max;
    state.running_sum[g] = state.running_sum[g] * factor + weight;
    if (lane % cut::LANES_PER_KEY == 0) weights[lane / cut::LANES_PER_KEY * G + g] = weight;
#pragma unroll
    for (int i = 0; i < cut::VECTORS; i++) {
        float4 v = state.sums[g][i];
        state.sums[g][i] = make_float4(v.x * factor, v.y * factor, v.z * factor, v.w * factor);
    }
}

template <int DIM, int G>
__device__ __forceinline__ void add_values(team_state<DIM, G> &state, const float *weights)
{
    using cut = layout<DIM, G>;
#pragma unroll
    for (int j = 0; j < cut::KEYS; j++) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float weight = weights[j * G + g];
#pragma unroll
            for (int i = 0; i < cut::VECTORS; i++) {
                float4 v = state.values[j][i], sum = state.sums[g][i];
                state.sums[g][i] = make_float4(fmaf(weight, v.x, sum.x), fmaf(weight, v.y, sum.y),
                                               fmaf(weight, v.z, sum.z), fmaf(weight, v.w, sum.w));
            }
        }
    }
}

} // namespace

#endif
