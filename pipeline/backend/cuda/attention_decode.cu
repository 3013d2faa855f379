/* Attention of decoding: one query row per sequence against its cache, which is read once: all the cost. Rotating
 * queries and keys, writing the caches and joining the parts are done on the way, so it is one launch.
 *
 * A block takes one sequence, one key/value head with the query heads that share it, and one part of the
 * keys; 16 or 32 lanes (a "team") per key, so that a load of a warp covers whole rows. Teams walk through the
 * part on their own, with their own running maximum, and meet at its end. The block that ends as the last of
 * its head's parts joins them all, in their order, so it does not matter which block that is. The grid is fixed
 * by the shape and the capacity of the cache, so a recorded launch serves all positions; how long the parts are
 * follows from the sequence's own position. */
#include "backend/cuda/attention_team.h"
#include "backend/cuda/kernels.h"

namespace {

constexpr int SPLITS_MAX = 128;
/* Warps of a step with one sequence: as many as a large GPU holds at a time, which is what it takes to keep enough
 * loads under way. */
constexpr int64_t WARPS_WANTED = 2048;

/* Query heads that a block takes at once: 1, 4, 8 or this. */
constexpr int heads_max(int dim) { return dim == 256 ? 8 : 16; }

struct decode_args {
    const float *q, *k, *v; /* of this step */
    const float *inv_freq;  /* [head_dim / 2] or NULL: q and k are rotated */
    float *k_cache, *v_cache, *out;
    const int32_t *positions;
    float *partial; /* [batch, n_heads, n_splits, head_dim rounded up to 4] */
    float2 *stats;  /* [batch, n_heads, n_splits]: running maximum (base 2), sum */
    unsigned *turns; /* [batch, n_kv_heads, n_chunks]: parts that have ended; 0 between launches */
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

/* ---- heads rotated ---- */

/* What turns the thread's pair of numbers (i, i + head_dim / 2), i = thread % (DIM / 2). The angle is rounded to f32
 * before sine and cosine, as the CPU does and as models are trained. */
struct rotation {
    float sine, cosine;
};

template <int DIM> __device__ __forceinline__ rotation rotation_of(const decode_args &args, int position)
{
    rotation r = {0.0f, 1.0f};
    int pair = (int)threadIdx.x % (DIM / 2);
    if (args.inv_freq != nullptr && pair < args.head_dim / 2)
        sincosf((float)position * args.inv_freq[pair], &r.sine, &r.cosine);
    return r;
}

/* The block's query heads and, where it is wanted, this step's key behind them: turned[G]. Numbers behind a head's end
 * become zeros. */
template <int DIM, int G>
__device__ __forceinline__ void turn_heads(const decode_args &args, const rotation &r, const float *q, const float *k,
                                           int n_heads_here, bool with_key, float (*turned)[DIM])
{
    constexpr int PAIRS = DIM / 2, STEP = layout<DIM, G>::THREADS / PAIRS, N = (G + STEP) / STEP;
    int pair = (int)threadIdx.x % PAIRS, first = (int)threadIdx.x / PAIRS;
    int head_dim = args.head_dim, half = (head_dim + 1) / 2; /* odd ones are not rotated */
    bool has_low = pair < half, has_high = has_low && pair + half < head_dim;
    float low[N], high[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        int head = first + i * STEP;
        const float *from = head < n_heads_here ? q + (int64_t)head * head_dim : k;
        low[i] = has_low ? from[pair] : 0.0f;
        high[i] = has_high ? from[pair + half] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        int head = first + i * STEP;
        if (head > n_heads_here || (head == n_heads_here && !with_key)) continue;
        float *to = turned[head < n_heads_here ? head : G];
        bool turns = args.inv_freq != nullptr && has_high;
        to[has_low ? pair : 2 * pair] = turns ? low[i] * r.cosine - high[i] * r.sine : low[i];
        to[has_low ? pair + half : 2 * pair + 1] = turns ? high[i] * r.cosine + low[i] * r.sine : high[i];
    }
}

/* ---- parts ---- */

/* A block's shared memory: what its teams found, later the factors of parts and their sums. */
template <int DIM, int G> struct pool {
    using cut = layout<DIM, G>;
    static constexpr int TEAMS = cut::TEAMS * G * DIM, PARTS = G * SPLITS_MAX + 4 * cut::THREADS;
    static constexpr int FLOATS = TEAMS > PARTS ? TEAMS : PARTS;
};

/* What the teams found, joined: the result where there is one part, else a part's. `row` counts the heads of all
 * sequences. */
template <int DIM, int G>
__device__ __forceinline__ void join_teams(const decode_args &args, team_state<DIM, G> &state, int team, int lane,
                                           int64_t row, int n_heads_here, bool is_whole, float *shared)
{
    using cut = layout<DIM, G>;
    float(*numbers)[G][DIM] = reinterpret_cast<float(*)[G][DIM]>(shared);
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
    for (int i = (int)threadIdx.x; i < n_heads_here * DIM; i += cut::THREADS) {
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
        if (!is_whole) args.partial[at * width + dim] = number;
        else if (dim < args.head_dim) args.out[(row + g) * args.head_dim + dim] = number / total;
        if (!is_whole && dim == 0) args.stats[at] = make_float2(max_all, total);
    }
}

/* Whether all other parts of the block's heads have ended and what they wrote is there. */
__device__ __forceinline__ bool is_last_part(unsigned *turn, int n_parts)
{
    __shared__ bool is_last;
    __threadfence(); /* the thread's results before its block's turn */
    __syncthreads();
    if (threadIdx.x == 0) is_last = atomicInc(turn, (unsigned)(n_parts - 1)) == (unsigned)(n_parts - 1);
    __syncthreads();
    if (is_last) __threadfence();
    return is_last;
}

/* One head's parts by one warp: their factors, and what the sum is to be divided by behind them. */
__device__ __forceinline__ void weigh_parts(const float2 *stats, int n_parts, float *factors, float *total_of)
{
    constexpr int PER_LANE = SPLITS_MAX / 32;
    int lane = (int)threadIdx.x % 32;
    float2 own[PER_LANE];
    float max_all = -FLT_MAX, total = 0.0f;
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        own[i] = i * 32 + lane < n_parts ? stats[i * 32 + lane] : make_float2(-FLT_MAX, 0.0f);
        max_all = fmaxf(max_all, own[i].x);
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        max_all = fmaxf(max_all, __shfl_xor_sync(ALL_LANES, max_all, distance));
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
        float factor = exp2f(own[i].x - max_all);
        total += factor * own[i].y;
        if (i * 32 + lane < n_parts) factors[i * 32 + lane] = factor;
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(ALL_LANES, total, distance);
    if (lane == 0) *total_of = total;
}

/* The parts of n_heads_here heads from `row` on, joined. A thread has four numbers of every STEP-th part. */
template <int DIM, int G>
__device__ __forceinline__ void join_parts(const decode_args &args, int n_parts, int64_t row, int n_heads_here,
                                           float *shared)
{
    using cut = layout<DIM, G>;
    constexpr int COLUMNS = DIM / 4, ROWS = cut::THREADS / COLUMNS, HEADS = G < ROWS ? G : ROWS, STEP = ROWS / HEADS;
    constexpr int AHEAD = 16; /* loads under way */
    __shared__ float totals[G];
    float *factors = shared, *sums = shared + G * SPLITS_MAX; /* [G, SPLITS_MAX], [HEADS, STEP, DIM] */
    int warp = (int)threadIdx.x / 32, n_vectors = (args.head_dim + 3) / 4;
    int column = (int)threadIdx.x % COLUMNS, of_row = (int)threadIdx.x / COLUMNS;
    int head = of_row % HEADS, first = of_row / HEADS;
    for (int g = 0; g < n_heads_here; g += HEADS) {
        bool works = g + head < n_heads_here && column < n_vectors;
        const float4 *partial = reinterpret_cast<const float4 *>(args.partial) +
                                (row + g + head) * args.n_splits * n_vectors + column;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int from = first, round = 0; round == 0 || from < n_parts; from += AHEAD * STEP, round++) {
            float4 held[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int part = from + i * STEP;
                held[i] = works && part < n_parts ? partial[(int64_t)part * n_vectors]
                                                  : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            }
            if (g == 0 && round == 0) {
                for (int h = warp; h < n_heads_here; h += cut::WARPS)
                    weigh_parts(args.stats + (row + h) * args.n_splits, n_parts, factors + h * SPLITS_MAX, &totals[h]);
                __syncthreads();
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int part = from + i * STEP;
                float factor = works && part < n_parts ? factors[(g + head) * SPLITS_MAX + part] : 0.0f;
                sum = make_float4(fmaf(factor, held[i].x, sum.x), fmaf(factor, held[i].y, sum.y),
                                  fmaf(factor, held[i].z, sum.z), fmaf(factor, held[i].w, sum.w));
            }
        }
        if (g > 0) __syncthreads(); /* the sums of the heads before have been read */
        *reinterpret_cast<float4 *>(&sums[((head * STEP + first) * COLUMNS + column) * 4]) = sum;
        __syncthreads();
        for (int i = (int)threadIdx.x; i < HEADS * DIM; i += cut::THREADS) {
            int h = i / DIM, dim = i % DIM;
            if (g + h >= n_heads_here || dim >= args.head_dim) continue;
            float number = 0.0f;
#pragma unroll
            for (int s = 0; s < STEP; s++) number += sums[(h * STEP + s) * DIM + dim];
            args.out[(row + g + h) * args.head_dim + dim] = number / totals[g + h];
        }
    }
}

template <int DIM, int G, bool ALIGNED>
__global__ void __launch_bounds__(layout<DIM, G>::THREADS, layout<DIM, G>::BLOCKS_PER_SM) attend(decode_args args)
{
    using cut = layout<DIM, G>;
    __shared__ __align__(16) float weights[cut::TEAMS][cut::KEYS * G], turned[G + 1][DIM];
    __shared__ __align__(16) float shared[pool<DIM, G>::FLOATS];
    int sequence = (int)blockIdx.z;
    int kv_head = (int)blockIdx.y / args.n_chunks, chunk = (int)blockIdx.y % args.n_chunks;
    /* Positions and frequencies are no kernel's output (kernels.h). */
    int position = args.positions[sequence], head_dim = args.head_dim;
    key_range range = keys_of_split(args, position, (int)blockIdx.x);
    rotation turn = rotation_of<DIM>(args, position);
    qs_wait_for_previous();
    qs_let_next_begin();
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
    bool is_newest = range.end == position + 1, is_whole = range.n_splits == 1;

    team_state<DIM, G> state;
    int key = range.begin + team * cut::KEYS;
    load_keys<DIM, G, ALIGNED>(state, kv, key, lane);
    load_values<DIM, G, ALIGNED>(state, kv, key, lane);
    turn_heads<DIM, G>(args, turn, args.q + row * head_dim, kv.k_fresh, n_heads_here, is_newest, turned);
    __syncthreads();
    start<DIM, G>(state, turned, n_heads_here, head_dim, lane);
    if (is_newest && chunk == 0) { /* nobody reads this row of the caches in this step */
        for (int i = (int)threadIdx.x; i < head_dim; i += cut::THREADS) {
            args.k_cache[cached + position * stride + i] = turned[G][i];
            args.v_cache[cached + position * stride + i] = kv.v_fresh[i];
        }
    }
    for (int base = range.begin; base < range.end; base += cut::UNIT, key += cut::UNIT) {
        take_fresh_key<DIM, G>(state, turned[G], key, position, lane);
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
    join_teams<DIM, G>(args, state, team, lane, row, n_heads_here, is_whole, shared);
    if (!is_whole && is_last_part(args.turns + (int64_t)sequence * gridDim.y + blockIdx.y, range.n_splits))
        join_parts<DIM, G>(args, range.n_splits, row, n_heads_here, shared);
}

/* ---- the plan and the launches ---- */

struct decode_plan {
    int dim, heads; /* of the kernel: head_dim rounded up, query heads at a time */
    int n_chunks, unit, n_splits;
};

struct block_size {
    int unit, warps;
};

template <int DIM> block_size size_of(int heads)
{
    if (heads == 1) return {layout<DIM, 1>::UNIT, layout<DIM, 1>::WARPS};
    if (heads == 4) return {layout<DIM, 4>::UNIT, layout<DIM, 4>::WARPS};
    if (heads == 8) return {layout<DIM, 8>::UNIT, layout<DIM, 8>::WARPS};
    return {layout<DIM, heads_max(DIM)>::UNIT, layout<DIM, heads_max(DIM)>::WARPS};
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
    block_size size = plan.dim == 64    ? size_of<64>(plan.heads)
                      : plan.dim == 128 ? size_of<128>(plan.heads)
                                        : size_of<256>(plan.heads);
    plan.unit = size.unit;
    int64_t n_blocks = shape->n_kv_heads * plan.n_chunks, n_units = (n_ctx_cap + plan.unit - 1) / plan.unit;
    int64_t n_splits = (WARPS_WANTED / size.warps + n_blocks - 1) / n_blocks;
    n_splits = n_splits < n_units ? n_splits : n_units;
    plan.n_splits = (int)(n_splits < SPLITS_MAX ? n_splits : SPLITS_MAX);
    return plan;
}

template <int DIM, int G, bool ALIGNED> void launch(void *stream, const decode_args &args, int64_t batch)
{
    dim3 grid((unsigned)args.n_splits, (unsigned)(args.n_kv_heads * args.n_chunks), (unsigned)batch);
    QS_LAUNCH_SOON((attend<DIM, G, ALIGNED>), grid, (layout<DIM, G>::THREADS), 0, stream, args);
}

template <int DIM> void launch_heads(void *stream, const decode_args &args, int heads, int64_t batch)
{
    if (args.head_dim % 4 != 0)
        launch<DIM, 4, false>(stream, args, batch);
    else if (heads == 1)
        launch<DIM, 1, true>(stream, args, batch);
    else if (heads == 4)
        launch<DIM, 4, true>(stream, args, batch);
    else if (heads == 8)
        launch<DIM, 8, true>(stream, args, batch);
    else
        launch<DIM, heads_max(DIM), true>(stream, args, batch);
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

extern "C" int qs_cu_attention_decode(void *stream, const qs_cu_attention_shape *shape, const qs_cu_decode *d)
{
    if (d->batch == 0 || d->n_ctx_cap == 0) return 0;
    decode_plan plan = plan_of(shape, d->n_ctx_cap);
    float *partial = static_cast<float *>(d->workspace);
    decode_args args;
    args.q = d->q;
    args.k = d->k;
    args.v = d->v;
    args.inv_freq = d->inv_freq;
    args.k_cache = d->k_cache;
    args.v_cache = d->v_cache;
    args.out = d->out;
    args.positions = d->positions;
    args.partial = partial;
    args.stats = reinterpret_cast<float2 *>(partial + partial_floats(shape, d->batch, plan.n_splits));
    args.turns = d->turns;
    args.n_heads = (int)shape->n_heads;
    args.n_kv_heads = (int)shape->n_kv_heads;
    args.head_dim = (int)shape->head_dim;
    args.window = (int)shape->window;
    args.n_ctx_cap = (int)d->n_ctx_cap;
    args.n_chunks = plan.n_chunks;
    args.unit = plan.unit;
    args.n_splits = plan.n_splits;
    if (plan.dim == 64)
        launch_heads<64>(stream, args, plan.heads, d->batch);
    else if (plan.dim == 128)
        launch_heads<128>(stream, args, plan.heads, d->batch);
    else
        launch_heads<256>(stream, args, plan.heads, d->batch);
    return qs_launch_status();
}
