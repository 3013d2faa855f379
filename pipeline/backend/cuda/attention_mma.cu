/* Causal attention of whole windows on the tensor cores, for heads of up to 128 numbers: those of fewer than
 * 64 or 128 are filled up with zeros on the chip.
 *
 * A 16-bit number is too coarse for either product, so every operand is two: its rounding and the rounding of
 * the error of that, and three of the four products of terms are added up in f32. With f16, 22 bits together,
 * the result is as good as one in f32; but f16 ends at 65504, and small values lose bits. A block that meets
 * such numbers sees it in its result and starts again with bf16 (WIDE): 16 bits together, in any range.
 *
 * Where results in 16 bits are good enough (QS_COMPUTE_BF16) there is one term of f16, and a third of the products. */
#include "backend/cuda/attention_tiles.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;

/* Shared memory is laid out in units of 8 bytes a term, each the registers that a lane needs of B for one step of
 * 16 products: {first term: b[0], b[1]; second term: b[0], b[1]}. The order of the products within a step is free
 * as long as A has the same, so a lane's share is four neighbouring numbers: of a key's row, or of a column of
 * four neighbouring keys. Lanes are spread over all banks: those that load together, 8 of two terms and 16 of one,
 * by strides that are odd multiples of 4 or 2 units and of 4; of keys in one term, which are two to a lane's four
 * rows, by turning rows about (swizzle). */
template <int TERMS> struct unit_type {
    using type = uint4;
};
template <> struct unit_type<1> {
    using type = uint2;
};
template <int D, int TERMS> struct tiles {
    using unit = typename unit_type<TERMS>::type;
    static constexpr int WARPS = 8, THREADS = 32 * WARPS, ROWS = 16 * WARPS, KEYS = 4096 / D;
    static constexpr int VECTORS = D / 4, K_STRIDE = TERMS == 2 ? VECTORS + 4 : VECTORS;
    static constexpr int V_STRIDE = D + (TERMS == 2 ? 2 : 4);
    static constexpr int K_UNITS = KEYS * K_STRIDE, UNITS = K_UNITS + KEYS / 4 * V_STRIDE;
    static constexpr int SCORES = KEYS / 8, STEPS = D / 16, COLUMNS = D / 8; /* by 8 keys, 16 and 8 numbers */

    /* What the vectors of a key's row are turned by: another for each of the rows that are read together. */
    static __device__ __forceinline__ int swizzle(int row) { return TERMS == 2 ? 0 : 4 * (row % 2 + row / 4 % 2 * 2); }
};

/* Values are scaled by this, which moves the range of f16 to where values are found. */
template <bool WIDE> constexpr float VALUE_SCALE = WIDE ? 1.0f : 16.0f;
/* Largest result of a block below which the steps of f16 (2^-24) come into sight. */
constexpr float SMALL_RESULT = 0x1p-12f;

template <bool WIDE>
__device__ __forceinline__ void split(float a, float b, uint32_t &first, uint32_t &second)
{
    if (WIDE) {
        first = qs_bf16x2_of_f32(a, b);
        second = qs_bf16x2_of_f32(a - __uint_as_float(first << 16), b - __uint_as_float(first & 0xffff0000u));
    } else {
        first = qs_f16x2_of_f32(a, b);
        second =
            qs_f16x2_of_f32(a - qs_f32_of_f16((uint16_t)first), b - qs_f32_of_f16((uint16_t)(first >> 16)));
    }
}

template <bool WIDE> __device__ __forceinline__ void set_unit(uint4 &unit, float a, float b, float c, float d)
{
    split<WIDE>(a, b, unit.x, unit.z);
    split<WIDE>(c, d, unit.y, unit.w);
}
template <bool WIDE> __device__ __forceinline__ void set_unit(uint2 &unit, float a, float b, float c, float d)
{
    unit = make_uint2(qs_f16x2_of_f32(a, b), qs_f16x2_of_f32(c, d));
}

template <bool WIDE>
__device__ __forceinline__ void mma(float c[4], const uint32_t a[4], uint32_t b_low, uint32_t b_high)
{
    const uint32_t b[2] = {b_low, b_high};
    if (WIDE)
        qs_mma_bf16(c, a, b);
    else
        qs_mma_f16(c, a, b);
}

/* Four blocks of 8 columns at once, so that products that wait for one another are four apart. */
template <bool WIDE>
__device__ __forceinline__ void mma_terms(float (*c)[4], const uint32_t first[4], const uint32_t second[4],
                                          const uint4 b[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) mma<WIDE>(c[i], second, b[i].x, b[i].y);
#pragma unroll
    for (int i = 0; i < 4; i++) mma<WIDE>(c[i], first, b[i].z, b[i].w);
#pragma unroll
    for (int i = 0; i < 4; i++) mma<WIDE>(c[i], first, b[i].x, b[i].y);
}
template <bool WIDE>
__device__ __forceinline__ void mma_terms(float (*c)[4], const uint32_t first[4], const uint32_t[4], const uint2 b[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) mma<WIDE>(c[i], first, b[i].x, b[i].y);
}

/* A thread's part of a tile on its way to shared memory: a square of 4 keys and 4 columns. `rows` points at
 * the part's first row, which is row `row` of the window; zeros from row n_rows on. */
__device__ __forceinline__ void load_square(float4 square[4], const float *rows, int64_t stride, int row,
                                            int n_rows)
{
#pragma unroll
    for (int i = 0; i < 4; i++)
        square[i] = row + i < n_rows ? *reinterpret_cast<const float4 *>(rows + i * stride)
                                     : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

template <int D, bool WIDE, int TERMS>
__device__ __forceinline__ void store_keys(const float4 square[4], typename tiles<D, TERMS>::unit *tile)
{
    using cut = tiles<D, TERMS>;
    int row = (int)threadIdx.x / cut::VECTORS * 4, vector = (int)threadIdx.x % cut::VECTORS;
#pragma unroll
    for (int i = 0; i < 4; i++)
        set_unit<WIDE>(tile[(row + i) * cut::K_STRIDE + (vector ^ cut::swizzle(row + i))], square[i].x, square[i].y,
                       square[i].z, square[i].w);
}

/* Column d of the values lies at unit d % 4 * (D / 4) + d / 4, so that lanes write and read neighbouring
 * units. */
template <int D, bool WIDE, int TERMS>
__device__ __forceinline__ void store_values(const float4 square[4], typename tiles<D, TERMS>::unit *tile)
{
    using cut = tiles<D, TERMS>;
    constexpr float SCALE = VALUE_SCALE<WIDE>;
    typename cut::unit *to = tile + cut::K_UNITS + (int)threadIdx.x / cut::VECTORS * cut::V_STRIDE +
                (int)threadIdx.x % cut::VECTORS;
    float4 v[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] =
            make_float4(square[i].x * SCALE, square[i].y * SCALE, square[i].z * SCALE, square[i].w * SCALE);
    set_unit<WIDE>(to[0], v[0].x, v[1].x, v[2].x, v[3].x);
    set_unit<WIDE>(to[cut::VECTORS], v[0].y, v[1].y, v[2].y, v[3].y);
    set_unit<WIDE>(to[2 * cut::VECTORS], v[0].z, v[1].z, v[2].z, v[3].z);
    set_unit<WIDE>(to[3 * cut::VECTORS], v[0].w, v[1].w, v[2].w, v[3].w);
}

__device__ __forceinline__ float4 row_or_zero(const float *rows, int64_t stride, int row, int n_rows,
                                              int column)
{
    return row < n_rows ? *reinterpret_cast<const float4 *>(rows + row * stride + column)
                        : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

/* What a warp holds: 16 queries as A of the first product, sums of values, and per lane rows g and g + 8 of
 * the running maximum and of the weights' sum over the lane's own keys. */
template <int D> struct warp_state {
    uint32_t q_first[tiles<D, 2>::STEPS][4], q_second[tiles<D, 2>::STEPS][4];
    float sums[tiles<D, 2>::COLUMNS][4], running_max[2], running_sum[2];
};

template <int D, bool WIDE>
__device__ __forceinline__ void start_warp(warp_state<D> &state, const qs_cu_attention_args &args,
                                           const qs_cu_head_place &place, int row, int t)
{
    const float *q = args.q + place.q_offset;
    float scale = QS_CU_LOG2_E / sqrtf((float)args.head_dim);
#pragma unroll
    for (int step = 0; step < tiles<D, 2>::STEPS; step++) {
        int column = 16 * step + 4 * t, n_rows = column < args.head_dim ? args.n_ctx : 0;
        float4 a = row_or_zero(q, place.q_stride, row, n_rows, column);
        float4 b = row_or_zero(q, place.q_stride, row + 8, n_rows, column);
        split<WIDE>(a.x * scale, a.y * scale, state.q_first[step][0], state.q_second[step][0]);
        split<WIDE>(b.x * scale, b.y * scale, state.q_first[step][1], state.q_second[step][1]);
        split<WIDE>(a.z * scale, a.w * scale, state.q_first[step][2], state.q_second[step][2]);
        split<WIDE>(b.z * scale, b.w * scale, state.q_first[step][3], state.q_second[step][3]);
    }
#pragma unroll
    for (int i = 0; i < tiles<D, 2>::COLUMNS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) state.sums[i][j] = 0.0f;
    state.running_max[0] = state.running_max[1] = -FLT_MAX;
    state.running_sum[0] = state.running_sum[1] = 0.0f;
}

/* Scores of 16 queries and a tile of keys. Column n of block j is the tile's key
 * 16 (j / 2) + 4 (n / 2) + 2 (j % 2) + n % 2, so that a lane holds four neighbours, as the second product
 * wants. */
template <int D, bool WIDE, int TERMS>
__device__ __forceinline__ void score_tile(float scores[tiles<D, TERMS>::SCORES][4], const warp_state<D> &state,
                                           const typename tiles<D, TERMS>::unit *tile, int g, int t)
{
    using cut = tiles<D, TERMS>;
    const int row = 4 * (g / 2) + g % 2, turned = cut::swizzle(row); /* that of the rows 2 and 16 below, too */
    const typename cut::unit *k = tile + row * cut::K_STRIDE + t;
#pragma unroll
    for (int j = 0; j < cut::SCORES; j++)
#pragma unroll
        for (int i = 0; i < 4; i++) scores[j][i] = 0.0f;
#pragma unroll
    for (int step = 0; step < cut::STEPS; step++) {
#pragma unroll
        for (int j = 0; j < cut::SCORES; j += 4) {
            typename cut::unit b[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                b[i] = k[(16 * ((j + i) / 2) + 2 * (i % 2)) * cut::K_STRIDE + (4 * step ^ turned)];
            mma_terms<WIDE>(scores + j, state.q_first[step], state.q_second[step], b);
        }
    }
}

/* Hides what lies after the query or before its window. `row` is the first of the lane's two. */
template <int D>
__device__ __forceinline__ void mask_tile(float scores[tiles<D, 2>::SCORES][4], const qs_cu_attention_args &args,
                                          int row, int key, int t)
{
#pragma unroll
    for (int j = 0; j < tiles<D, 2>::SCORES; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int this_row = row + i / 2 * 8, this_key = key + 16 * (j / 2) + 4 * t + 2 * (j % 2) + i % 2;
            if (this_key > this_row || this_key < qs_cu_first_key(args, this_row)) scores[j][i] = -INFINITY;
        }
    }
}

/* Scores to weights relative to the new running maximum, and what was summed before brought to it. */
template <int D>
__device__ __forceinline__ void weigh_tile(float scores[tiles<D, 2>::SCORES][4], warp_state<D> &state)
{
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float new_max = state.running_max[half];
#pragma unroll
        for (int j = 0; j < tiles<D, 2>::SCORES; j++)
            new_max = fmaxf(new_max, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
        new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, 1));
        new_max = fmaxf(new_max, __shfl_xor_sync(ALL_LANES, new_max, 2));
        factor[half] = exp2f(state.running_max[half] - new_max);
        state.running_max[half] = new_max;
        float sum = 0.0f;
#pragma unroll
        for (int j = 0; j < tiles<D, 2>::SCORES; j++) {
            scores[j][2 * half] = exp2f(scores[j][2 * half] - new_max);
            scores[j][2 * half + 1] = exp2f(scores[j][2 * half + 1] - new_max);
            sum += scores[j][2 * half] + scores[j][2 * half + 1];
        }
        state.running_sum[half] = state.running_sum[half] * factor[half] + sum;
    }
    /* After the first tiles the maximum seldom moves. */
    if (!__any_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < tiles<D, 2>::COLUMNS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) state.sums[i][j] *= factor[j / 2];
}

/* The accumulators of the scores are, as they lie, A of the second product. */
template <int D, bool WIDE, int TERMS>
__device__ __forceinline__ void add_values(warp_state<D> &state, const float scores[tiles<D, TERMS>::SCORES][4],
                                           const typename tiles<D, TERMS>::unit *tile, int g, int t)
{
    using cut = tiles<D, TERMS>;
    const typename cut::unit *v = tile + cut::K_UNITS + t * cut::V_STRIDE + g;
#pragma unroll
    for (int step = 0; step < cut::SCORES / 2; step++) {
        uint32_t first[4], second[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            split<WIDE>(scores[2 * step + i / 2][i % 2 * 2], scores[2 * step + i / 2][i % 2 * 2 + 1],
                        first[i], second[i]);
#pragma unroll
        for (int column = 0; column < cut::COLUMNS; column += 4) {
            typename cut::unit b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) b[i] = v[4 * step * cut::V_STRIDE + (column + i) * 8];
            mma_terms<WIDE>(state.sums + column, first, second, b);
        }
    }
}

/* Sums to results; rows behind the window's end, which may have seen nothing, to zeros. */
template <int D, bool WIDE> __device__ __forceinline__ void divide(warp_state<D> &state, int row, int n_ctx)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float total = state.running_sum[half];
        total += __shfl_xor_sync(ALL_LANES, total, 1);
        total += __shfl_xor_sync(ALL_LANES, total, 2);
        float factor = row + half * 8 < n_ctx ? 1.0f / (total * VALUE_SCALE<WIDE>) : 0.0f;
#pragma unroll
        for (int i = 0; i < tiles<D, 2>::COLUMNS; i++) {
            state.sums[i][2 * half] *= factor;
            state.sums[i][2 * half + 1] *= factor;
        }
    }
}

/* Whether f16 was wide enough for the block's numbers. */
template <int D> __device__ __forceinline__ bool is_good(const warp_state<D> &state)
{
    float largest = 0.0f, check = 0.0f;
#pragma unroll
    for (int i = 0; i < tiles<D, 2>::COLUMNS; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            largest = fmaxf(largest, fabsf(state.sums[i][j]));
            check += state.sums[i][j] * 0.0f; /* a NaN if not finite */
        }
    }
    bool any_large = __syncthreads_or(largest >= SMALL_RESULT), any_bad = __syncthreads_or(check != 0.0f);
    return any_large && !any_bad;
}

/* Lane (g, t) holds columns 4 (8 m + 2t) .. + 7 of rows g and g + 8, for each m. */
template <int D>
__device__ __forceinline__ void write(const warp_state<D> &state, const qs_cu_attention_args &args,
                                      const qs_cu_head_place &place, int row, int t)
{
    constexpr int BLOCKS = tiles<D, 2>::COLUMNS / 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (row + half * 8 >= args.n_ctx) continue;
        float *to = args.out + place.q_offset + (row + half * 8) * place.q_stride;
#pragma unroll
        for (int m = 0; m < BLOCKS; m++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int at = 2 * half + i, column = 32 * m + 8 * t + 4 * i;
                if (column < args.head_dim)
                    *reinterpret_cast<float4 *>(to + column) =
                        make_float4(state.sums[m][at], state.sums[BLOCKS + m][at],
                                    state.sums[2 * BLOCKS + m][at], state.sums[3 * BLOCKS + m][at]);
            }
        }
    }
}

/* The block's queries and all that they see. */
template <int D, bool WIDE, int TERMS>
__device__ __forceinline__ void attend(warp_state<D> &state, const qs_cu_attention_args &args,
                                       const qs_cu_head_place &place, void *memory, int block_row)
{
    using cut = tiles<D, TERMS>;
    typename cut::unit *shared = static_cast<typename cut::unit *>(memory);
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int warp_row = block_row + (int)threadIdx.x / 32 * 16, end = min(block_row + cut::ROWS, args.n_ctx);
    int key = qs_cu_first_key(args, block_row) / cut::KEYS * cut::KEYS;
    /* The thread's square. */
    int row = key + (int)threadIdx.x / cut::VECTORS * 4, column = (int)threadIdx.x % cut::VECTORS * 4;
    int n_rows = column < args.head_dim ? args.n_ctx : 0;
    int64_t at = place.kv_offset + row * place.kv_stride + column;
    float4 square[4];
    load_square(square, args.k + at, place.kv_stride, row, n_rows);
    start_warp<D, WIDE>(state, args, place, warp_row + g, t);
    store_keys<D, WIDE, TERMS>(square, shared);
    load_square(square, args.v + at, place.kv_stride, row, n_rows);
    store_values<D, WIDE, TERMS>(square, shared);
    for (int turn = 0; key < end; turn ^= 1) {
        __syncthreads(); /* this tile is there, and nobody reads the one before any more */
        const typename cut::unit *tile = shared + turn * cut::UNITS;
        typename cut::unit *next = shared + (turn ^ 1) * cut::UNITS;
        int last_key = key + cut::KEYS - 1;
        bool more = last_key + 1 < end;
        bool counts = key <= warp_row + 15 && last_key >= qs_cu_first_key(args, warp_row);
        float scores[cut::SCORES][4];
        row += cut::KEYS;
        at += cut::KEYS * place.kv_stride;
        if (more) load_square(square, args.k + at, place.kv_stride, row, n_rows);
        if (counts) score_tile<D, WIDE, TERMS>(scores, state, tile, g, t);
        if (more) store_keys<D, WIDE, TERMS>(square, next);
        if (more) load_square(square, args.v + at, place.kv_stride, row, n_rows);
        if (counts) {
            if (last_key > warp_row || key < qs_cu_first_key(args, warp_row + 15))
                mask_tile<D>(scores, args, warp_row + g, key, t);
            weigh_tile<D>(scores, state);
            add_values<D, WIDE, TERMS>(state, scores, tile, g, t);
        }
        if (more) store_values<D, WIDE, TERMS>(square, next);
        key = last_key + 1;
    }
    divide<D, WIDE>(state, warp_row + g, args.n_ctx);
}

template <int D, int TERMS>
__global__ void __launch_bounds__(tiles<D, TERMS>::THREADS, 1) attend_mma(qs_cu_attention_args args)
{
    QS_DYNAMIC_SHARED(uint4, shared);
    qs_cu_head_place place = qs_cu_head_place_of(args);
    int block_row = qs_cu_first_row_of_block(tiles<D, TERMS>::ROWS);
    warp_state<D> state;
    attend<D, false, TERMS>(state, args, place, shared, block_row);
    if (!is_good<D>(state)) attend<D, true, 2>(state, args, place, shared, block_row);
    int lane = (int)threadIdx.x % 32, row = block_row + (int)threadIdx.x / 32 * 16 + lane / 4;
    write<D>(state, args, place, row, lane % 4);
}

template <int D, int TERMS>
int launch_mma(void *stream, const qs_cu_attention_args &args, int64_t n_heads, int64_t n_windows)
{
    using cut = tiles<D, 2>; /* a block may have to start again in two terms */
    /* One tile is read while the next is written. */
    const size_t shared_bytes = 2 * sizeof(typename cut::unit) * cut::UNITS;
    int code = qs_allow_shared(attend_mma<D, TERMS>, shared_bytes);
    if (code != 0) return code;
    dim3 grid((unsigned)n_heads, (unsigned)((args.n_ctx + cut::ROWS - 1) / cut::ROWS), (unsigned)n_windows);
    QS_LAUNCH((attend_mma<D, TERMS>), grid, cut::THREADS, shared_bytes, stream, args);
    return qs_launch_status();
}

template <int D>
int launch_for(void *stream, const qs_cu_attention_args &args, int64_t n_heads, int64_t n_windows, bool in_16_bits)
{
    return in_16_bits ? launch_mma<D, 1>(stream, args, n_heads, n_windows)
                      : launch_mma<D, 2>(stream, args, n_heads, n_windows);
}

} // namespace

extern "C" int qs_cu_attention_mma(void *stream, const qs_cu_attention_args *args, int64_t n_heads,
                                   int64_t n_windows, bool in_16_bits)
{
    return args->head_dim <= 64 ? launch_for<64>(stream, *args, n_heads, n_windows, in_16_bits)
                                : launch_for<128>(stream, *args, n_heads, n_windows, in_16_bits);
}
