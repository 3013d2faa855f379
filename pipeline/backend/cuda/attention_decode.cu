/* Attention of decoding: one query row per sequence against its cache, which is read once: all the cost.
 *
 * A block takes one sequence, one key/value head with the query heads that share it, and one part of the
 * keys; four warps per block, and 16 or 32 lanes (a "team") per key, so that a load of a warp covers whole
 * rows. Teams walk through the part on their own, with their own running maximum, and meet at its end; a
 * second kernel joins the parts. The grid is fixed by the shape and the capacity of the cache, so a recorded
 * launch serves all positions; how long the parts are follows from the sequence's own position. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int WARPS = 4, THREADS = 32 * WARPS, COMBINE_THREADS = 256;
constexpr int SPLITS_MAX = 128;
/* Blocks of a step with one sequence: about four per multiprocessor of a large GPU, which is what it takes to
 * keep enough loads under way. */
constexpr int64_t BLOCKS_WANTED = 512;

/* How a block is cut for heads of up to DIM numbers, G query heads at a time. Keys per team and step are what
 * the registers hold beside G queries and G sums. */
template <int DIM, int G> struct layout {
    static constexpr int LANES = DIM == 64 ? 16 : 32, TEAMS = THREADS / LANES, VECTORS = DIM / (4 * LANES);
    static constexpr int KEYS = G * VECTORS == 16 ? 2 : 4, LANES_PER_KEY = LANES / KEYS, UNIT = TEAMS * KEYS;
    static constexpr int BLOCKS_PER_SM = G * VECTORS == 16 ? 2 : G * VECTORS == 8 ? 3 : 4;
};

/* Query heads that a block takes at once: 1, 4, 8 or this. */
constexpr int heads_max(int dim) { return dim == 256 ? 8 : 16; }

struct decode_args {
    const float *q, *k, *v; /* of this step */
    float *k_cache, *v_cache, *out;
    const int32_t *positions;
    float *partial; /* [batch, n_heads, n_splits, head_dim rounded up to 4] */
    float2 *stats;  /* [batch, n_heads, n_splits]: running maximum (base 2), sum */
    int n_heads, n_kv_heads, head_dim, window, n_ctx_cap;
    int n_chunks; /* of the query heads of a key/value head */
    int unit, n_splits;
};

struct key_range {
    int begin, end, n_splits; /* n_splits: parts that are not empty */
};

/* The keys of one part; nothing for a position outside of the cache. */
__device__ __forceinline__ key_range keys_of_split(const decode_args &args, int position, int split)
{
    if (position < 0 || position >= args.n_ctx_cap) return {0, 0, 0};
    int first = args.window > 0 && position >= args.window ? position - args.window + 1 : 0;
    int n_keys = position + 1 - first;
    int per_split = (n_keys + args.n_splits - 1) / args.n_splits;
    per_split = (per_split + args.unit - 1) / args.unit * args.unit;
    int begin = first + split * per_split;
    return {begin, min(begin + per_split, position + 1), (n_keys + per_split - 1) / per_split};
}

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

/* The rows of KEYS keys. This step's row comes from where it was made, as the cache may not hold it yet; it
 * also stands for rows that do not count, so that loads need no branches. */
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

/* Queries scaled so that weights are powers of 2. */
template <int DIM, int G, bool ALIGNED>
__device__ __forceinline__ void start(team_state<DIM, G> &state, const float *q, int n_heads_here,
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
            int dim = i * 4 * cut::LANES + 4 * lane;
            float4 v = load_four<ALIGNED>(q + (int64_t)min(g, n_heads_here - 1) * head_dim, dim, head_dim);
            bool counts = g < n_heads_here && dim < head_dim;
            state.queries[g][i] = make_float4(counts ? v.x * scale : 0.0f, counts ? v.y * scale : 0.0f,
                                              counts ? v.z * scale : 0.0f, counts ? v.w * scale : 0.0f);
            state.sums[g][i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
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

/* What the teams found, joined and written as the part's result. `row` counts the heads of all sequences. */
template <int DIM, int G>
__device__ __forceinline__ void join_teams(const decode_args &args, team_state<DIM, G> &state, int team,
                                           int lane, int64_t row, int n_heads_here)
{
    using cut = layout<DIM, G>;
    __shared__ __align__(16) float numbers[cut::TEAMS][G][DIM];
    __shared__ float max_of[cut::TEAMS][G], sum_of[cut::TEAMS][G];
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
        for (int distance = cut::LANES / 2; distance >= cut::LANES_PER_KEY; distance /= 2)
            state.running_sum[g] += __shfl_xor_sync(ALL_LANES, state.running_sum[g], distance);
        if (lane == 0) max_of[team][g] = state.running_max[g];
        if (lane == 0) sum_of[team][g] = state.running_sum[g];
#pragma unroll
        for (int i = 0; i < cut::VECTORS; i++)
            *reinterpret_cast<float4 *>(&numbers[team][g][i * 4 * cut::LANES + 4 * lane]) = state.sums[g][i];
    }
    __syncthreads();
    int width = (args.head_dim + 3) / 4 * 4;
    for (int i = (int)threadIdx.x; i < n_heads_here * DIM; i += THREADS) {
        int g = i / DIM, dim = i % DIM;
        if (dim >= width) continue;
        float max_all = -FLT_MAX, total = 0.0f, number = 0.0f;
#pragma unroll
        for (int t = 0; t < cut::TEAMS; t++) max_all = fmaxf(max_all, max_of[t][g]);
#pragma unroll
        for (int t = 0; t < cut::TEAMS; t++) {
            float factor = exp2f(max_of[t][g] - max_all);
            total += factor * sum_of[t][g];
            number += factor * numbers[t][g][dim];
        }
        int64_t at = (row + g) * args.n_splits + blockIdx.x;
        args.partial[at * width + dim] = number;
        if (dim == 0) args.stats[at] = make_float2(max_all, total);
    }
}

template <int DIM, int G, bool ALIGNED>
__global__ void __launch_bounds__(THREADS, layout<DIM, G>::BLOCKS_PER_SM) attend_part(decode_args args)
{
    using cut = layout<DIM, G>;
    __shared__ __align__(16) float weights[cut::TEAMS][cut::KEYS * G];
    qs_wait_for_previous();
    qs_let_next_begin();
    int sequence = (int)blockIdx.z;
    int kv_head = (int)blockIdx.y / args.n_chunks, chunk = (int)blockIdx.y % args.n_chunks;
    int position = args.positions[sequence], head_dim = args.head_dim;
    key_range range = keys_of_split(args, position, (int)blockIdx.x);
    if (range.begin >= range.end) return; /* the whole block */

    int lane = (int)threadIdx.x % cut::LANES, team = (int)threadIdx.x / cut::LANES;
    int64_t stride = (int64_t)args.n_kv_heads * head_dim, column = (int64_t)kv_head * head_dim;
    int64_t fresh = sequence * stride + column, cached = (int64_t)sequence * args.n_ctx_cap * stride + column;
    kv_rows kv;
    kv.k_cache = args.k_cache + cached;
    kv.v_cache = args.v_cache + cached;
    kv.k_fresh = args.k + fresh;
    kv.v_fresh = args.v + fresh;
    kv.stride = stride;
    kv.n_cached = min(range.end, position);
    kv.head_dim = head_dim;
    int heads_per_kv = args.n_heads / args.n_kv_heads, n_heads_here = min(G, heads_per_kv - chunk * G);
    int64_t row = (int64_t)sequence * args.n_heads + kv_head * heads_per_kv + chunk * G;

    team_state<DIM, G> state;
    int key = range.begin + team * cut::KEYS;
    load_keys<DIM, G, ALIGNED>(state, kv, key, lane);
    load_values<DIM, G, ALIGNED>(state, kv, key, lane);
    start<DIM, G, ALIGNED>(state, args.q + row * head_dim, n_heads_here, head_dim, lane);
    if (range.end == position + 1 && chunk == 0) { /* nobody reads this row of the caches in this step */
        for (int i = (int)threadIdx.x; i < head_dim; i += THREADS) {
            args.k_cache[cached + position * stride + i] = kv.k_fresh[i];
            args.v_cache[cached + position * stride + i] = kv.v_fresh[i];
        }
    }
    for (int base = range.begin; base < range.end; base += cut::UNIT, key += cut::UNIT) {
#pragma unroll
        for (int g = 0; g < G; g++)
            score<DIM, G>(state, g, key + lane / cut::LANES_PER_KEY < range.end, lane, weights[team]);
        __syncwarp();
        /* The next step's rows are under way while this step's are used. */
        load_keys<DIM, G, ALIGNED>(state, kv, key + cut::UNIT, lane);
        add_values<DIM, G>(state, weights[team]);
        load_values<DIM, G, ALIGNED>(state, kv, key + cut::UNIT, lane);
        __syncwarp(); /* the weights have been read */
    }
    join_teams<DIM, G>(args, state, team, lane, row, n_heads_here);
}

/* ---- the parts of a query head joined ---- */

/* Every warp finds the maximum and the total for itself; the factors of the parts go to shared memory. */
__device__ __forceinline__ float part_factors(const float2 *stats, int n_splits, float *factors)
{
    constexpr int PER_LANE = SPLITS_MAX / 32;
    int lane = (int)threadIdx.x % 32;
    float2 own[PER_LANE];
    float max_all = -FLT_MAX, total = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        own[i] = i * 32 + lane < n_splits ? stats[i * 32 + lane] : make_float2(-FLT_MAX, 0.0f);
        max_all = fmaxf(max_all, own[i].x);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        max_all = fmaxf(max_all, __shfl_xor_sync(ALL_LANES, max_all, distance));
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        float factor = exp2f(own[i].x - max_all);
        total += factor * own[i].y;
        if (threadIdx.x < 32) factors[i * 32 + lane] = factor;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(ALL_LANES, total, distance);
    return total;
}

__global__ void __launch_bounds__(COMBINE_THREADS) join_parts(decode_args args)
{
    constexpr int AHEAD = 8; /* loads under way */
    __shared__ float factors[SPLITS_MAX];
    __shared__ float4 sums[COMBINE_THREADS];
    qs_wait_for_previous();
    qs_let_next_begin();
    int head = (int)blockIdx.x, sequence = (int)blockIdx.y;
    key_range range = keys_of_split(args, args.positions[sequence], 0);
    if (range.n_splits == 0) return; /* the whole block */
    int n_vectors = (args.head_dim + 3) / 4, n_rows = COMBINE_THREADS / n_vectors;
    int column = (int)threadIdx.x % n_vectors, first = (int)threadIdx.x / n_vectors;
    if (first >= n_rows) first = range.n_splits; /* a thread without work */
    int64_t row = (int64_t)sequence * args.n_heads + head;
    const float4 *partial =
        reinterpret_cast<const float4 *>(args.partial) + row * args.n_splits * n_vectors + column;

    float4 held[AHEAD], sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    float total = 0.0f;
    for (int from = first, round = 0; round == 0 || from < range.n_splits; from += AHEAD * n_rows, round++) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int split = from + i * n_rows;
            held[i] = split < range.n_splits ? partial[(int64_t)split * n_vectors]
                                             : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
        if (round == 0) {
            total = part_factors(args.stats + row * args.n_splits, range.n_splits, factors);
            __syncthreads();
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            int split = from + i * n_rows;
            float factor = split < range.n_splits ? factors[split] : 0.0f;
            sum = make_float4(fmaf(factor, held[i].x, sum.x), fmaf(factor, held[i].y, sum.y),
                              fmaf(factor, held[i].z, sum.z), fmaf(factor, held[i].w, sum.w));
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    const float *numbers = reinterpret_cast<const float *>(sums);
    for (int i = (int)threadIdx.x; i < args.head_dim; i += COMBINE_THREADS) {
        float number = 0.0f;
        for (int r = 0; r < n_rows; r++) number += numbers[r * n_vectors * 4 + i];
        args.out[row * args.head_dim + i] = number / total;
    }
}

/* ---- the plan and the launches ---- */

struct decode_plan {
    int dim, heads; /* of the kernel: head_dim rounded up, query heads at a time */
    int n_chunks, unit, n_splits;
};

template <int DIM> int unit_of(int heads)
{
    if (heads == 1) return layout<DIM, 1>::UNIT;
    if (heads == 4) return layout<DIM, 4>::UNIT;
    return heads == 8 ? layout<DIM, 8>::UNIT : layout<DIM, heads_max(DIM)>::UNIT;
}

decode_plan plan_of(const qs_cu_attention_shape *shape, int64_t n_ctx_cap)
{
    decode_plan plan;
    int64_t heads_per_kv = shape->n_heads / shape->n_kv_heads;
    plan.dim = shape->head_dim <= 64 ? 64 : shape->head_dim <= 128 ? 128 : 256;
    plan.heads = heads_per_kv == 1 ? 1 : heads_per_kv <= 4 ? 4 : heads_per_kv <= 8 ? 8 : heads_max(plan.dim);
    if (shape->head_dim % 4 != 0)
        plan.heads = 4; /* rows out of line with 16 bytes are rare, one kernel serves them */
    plan.n_chunks = (int)((heads_per_kv + plan.heads - 1) / plan.heads);
    plan.unit = unit_of<256>(plan.heads);
    if (plan.dim == 64) plan.unit = unit_of<64>(plan.heads);
    if (plan.dim == 128) plan.unit = unit_of<128>(plan.heads);
    int64_t n_blocks = shape->n_kv_heads * plan.n_chunks, n_units = (n_ctx_cap + plan.unit - 1) / plan.unit;
    int64_t n_splits = (BLOCKS_WANTED + n_blocks - 1) / n_blocks;
    n_splits = n_splits < n_units ? n_splits : n_units;
    plan.n_splits = (int)(n_splits < SPLITS_MAX ? n_splits : SPLITS_MAX);
    return plan;
}

template <int DIM, int G, bool ALIGNED> void launch_part(void *stream, const decode_args &args, int64_t batch)
{
    dim3 grid((unsigned)args.n_splits, (unsigned)(args.n_kv_heads * args.n_chunks), (unsigned)batch);
    QS_LAUNCH_SOON((attend_part<DIM, G, ALIGNED>), grid, THREADS, 0, stream, args);
}

template <int DIM> void launch_heads(void *stream, const decode_args &args, int heads, int64_t batch)
{
    if (args.head_dim % 4 != 0)
        launch_part<DIM, 4, false>(stream, args, batch);
    else if (heads == 1)
        launch_part<DIM, 1, true>(stream, args, batch);
    else if (heads == 4)
        launch_part<DIM, 4, true>(stream, args, batch);
    else if (heads == 8)
        launch_part<DIM, 8, true>(stream, args, batch);
    else
        launch_part<DIM, heads_max(DIM), true>(stream, args, batch);
}

int64_t partial_floats(const qs_cu_attention_shape *shape, int64_t batch, int n_splits)
{
    return batch * shape->n_heads * n_splits * ((shape->head_dim + 3) / 4 * 4);
}

} // namespace

extern "C" size_t qs_cu_attention_decode_bytes(const qs_cu_attention_shape *shape, int64_t batch,
                                               int64_t n_ctx_cap)
{
    int n_splits = plan_of(shape, n_ctx_cap).n_splits;
    return (size_t)partial_floats(shape, batch, n_splits) * sizeof(float) +
           (size_t)(batch * shape->n_heads * n_splits) * sizeof(float2);
}

extern "C" int qs_cu_attention_decode(void *stream, const qs_cu_attention_shape *shape, const float *q,
                                      const float *k, const float *v, float *k_cache, float *v_cache,
                                      const int32_t *positions, int64_t batch, int64_t n_ctx_cap, float *out,
                                      void *workspace)
{
    if (batch == 0 || n_ctx_cap == 0) return 0;
    decode_plan plan = plan_of(shape, n_ctx_cap);
    float *partial = static_cast<float *>(workspace);
    decode_args args;
    args.q = q;
    args.k = k;
    args.v = v;
    args.k_cache = k_cache;
    args.v_cache = v_cache;
    args.out = out;
    args.positions = positions;
    args.partial = partial;
    args.stats = reinterpret_cast<float2 *>(partial + partial_floats(shape, batch, plan.n_splits));
    args.n_heads = (int)shape->n_heads;
    args.n_kv_heads = (int)shape->n_kv_heads;
    args.head_dim = (int)shape->head_dim;
    args.window = (int)shape->window;
    args.n_ctx_cap = (int)n_ctx_cap;
    args.n_chunks = plan.n_chunks;
    args.unit = plan.unit;
    args.n_splits = plan.n_splits;
    if (plan.dim == 64)
        launch_heads<64>(stream, args, plan.heads, batch);
    else if (plan.dim == 128)
        launch_heads<128>(stream, args, plan.heads, batch);
    else
        launch_heads<256>(stream, args, plan.heads, batch);
    QS_LAUNCH_SOON(join_parts, dim3((unsigned)shape->n_heads, (unsigned)batch), COMBINE_THREADS, 0, stream, args);
    return qs_launch_status();
}
