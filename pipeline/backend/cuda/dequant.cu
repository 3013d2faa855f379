/* Stored weights to dense rows, for products of many rows of x. A warp unpacks a tile and chunk with its lanes holding
 * what they hold in the small-batch kernel: four neighbouring columns of a row in each k-step. Rows of bf16 are written
 * from there, where two lanes exchange halves so that each has 16 bytes; all others go through shared memory. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;
enum { CHUNKS = 4, THREADS = CHUNKS * 32, WIDTH = CHUNKS * QS_CU_CHUNK, STRIDE = WIDTH + 4, ROWS = QS_CU_TILE_ROWS };

struct job {
    qs_cu_linear linear;
    const int32_t *perm;
    void *out; /* [n_out, n_in] */
    int64_t n_in;
    int n_chunks, n_groups, group_size;
    bool to_bf16, whole; /* whole: rows of the output can be written 16 bytes at a time */
    bool narrow;         /* groups may change within a chunk */
    bool soon;           /* words are read before the kernel ahead of it ends */
    int rounding;        /* of weights from a table */
    float values[16];
};

/* A chunk's weights as a lane has them: of k-step s and row g + 8 r, four columns. */
typedef float4 lane_weights[4][2];

template <int FORMAT> __device__ __forceinline__ float value_of(uint32_t half)
{
    return FORMAT == QS_CU_BF16 ? qs_f32_of_bf16((uint16_t)half) : qs_f32_of_f16((uint16_t)half);
}

/* Scales and zero points of rows g and g + 8 for one k-step. */
template <int FORMAT>
__device__ __forceinline__ void load_group(const job &j, int64_t tile, int column, int g, qs_unpacker<FORMAT> &unpack,
                                           float scale[2])
{
    scale[0] = scale[1] = 1.0f;
    if (!qs_unpacker<FORMAT>::CODED) return;
    constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
    int group = min(column / j.group_size, j.n_groups - 1);
    int64_t at = (tile * j.n_groups + group) * 8 + g;
    uint32_t pair = j.linear.scales[at], zeros = j.linear.zeros != nullptr ? j.linear.zeros[at] : middle | middle << 8;
    scale[0] = qs_f32_of_f16((uint16_t)(pair & 0xffff));
    scale[1] = qs_f32_of_f16((uint16_t)(pair >> 16));
    unpack.set_zeros(zeros & 0xff, zeros >> 8);
}

/* Of a table: one k-step's weights of rows g and g + 8. One kernel serves all roundings. */
__device__ __forceinline__ void look_up(const job &j, int64_t tile, int column, int g, uint32_t word,
                                        const uint32_t *table, float4 v[2])
{
    int group = min(column / j.group_size, j.n_groups - 1);
    float2 absmax = reinterpret_cast<const float2 *>(j.linear.scales)[(tile * j.n_groups + group) * 8 + g];
    qs_table_offsets at(word);
    float w[4][2];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float value = __uint_as_float(at.entry(table, i / 2, i % 2)) * (i / 2 % 2 == 0 ? absmax.x : absmax.y);
        w[i / 2][i % 2] = qs_cu_round_to(value, j.rounding);
    }
    v[0] = make_float4(w[0][0], w[0][1], w[2][0], w[2][1]);
    v[1] = make_float4(w[1][0], w[1][1], w[3][0], w[3][1]);
}

/* The same of the other formats. */
template <int FORMAT>
__device__ __forceinline__ void unpack_step(const qs_unpacker<FORMAT> &unpack, const float scale[2],
                                            const uint32_t *words, int s, float4 v[2])
{
    uint32_t a[4];
    unpack.step(words, s, a);
#pragma unroll
    for (int r = 0; r < 2; r++)
        v[r] = make_float4(scale[r] * value_of<FORMAT>(a[r] & 0xffff), scale[r] * value_of<FORMAT>(a[r] >> 16),
                           scale[r] * value_of<FORMAT>(a[r + 2] & 0xffff), scale[r] * value_of<FORMAT>(a[r + 2] >> 16));
}

/* A chunk of a mixed piece; weights are f16 numbers. */
template <int FORMAT>
__device__ __forceinline__ void unpack_part(const job &j, int64_t tile, const qs_cu_mixed_piece *piece, int within,
                                            int lane, lane_weights v)
{
    using unpacker = qs_unpacker<FORMAT>;
    enum { WORDS = unpacker::WORDS };
    constexpr uint32_t middle = 1u << (unpacker::BITS - 1), minus_zero = 0x80008000u;
    const qs_cu_mixed_plan *plan = j.linear.plan;
    uint32_t words[WORDS];
    unpacker unpack;
    unpack.set_zeros(middle, middle);
    qs_load_words<WORDS>(words, j.linear.words + (tile * plan->tile_vectors + piece->at) * 4 + within * WORDS * 32,
                         lane);
#pragma unroll
    for (int s = 0; s < 4; s++) {
        int group = piece->group[2 * within + s / 2];
        uint32_t a[4], pair = j.linear.scales[(tile * plan->n_groups + group) * 8 + lane / 4];
        unpack.step(words, s, a);
#pragma unroll
        for (int r = 0; r < 4; r++)
            a[r] = qs_f16x2_fma(a[r], r % 2 == 0 ? qs_pair_of_low(pair) : qs_pair_of_high(pair), minus_zero);
#pragma unroll
        for (int r = 0; r < 2; r++)
            v[s][r] = make_float4(value_of<FORMAT>(a[r] & 0xffff), value_of<FORMAT>(a[r] >> 16),
                                  value_of<FORMAT>(a[r + 2] & 0xffff), value_of<FORMAT>(a[r + 2] >> 16));
    }
}

__device__ __forceinline__ void unpack_mixed(const job &j, int64_t tile, int chunk, int lane, lane_weights v)
{
    const qs_cu_mixed_piece *piece = qs_piece_at(j.linear.plan, chunk);
    int within = chunk - piece->chunk;
    switch (piece->bits) {
    case 2: return unpack_part<QS_CU_INT2>(j, tile, piece, within, lane, v);
    case 3: return unpack_part<QS_CU_INT3>(j, tile, piece, within, lane, v);
    case 4: return unpack_part<QS_CU_INT4>(j, tile, piece, within, lane, v);
    case 5: return unpack_part<QS_CU_INT5>(j, tile, piece, within, lane, v);
    case 6: return unpack_part<QS_CU_INT6>(j, tile, piece, within, lane, v);
    default: return unpack_part<QS_CU_INT8>(j, tile, piece, within, lane, v);
    }
}

/* A lane's words of some chunks in a row, all asked for before the first is used: 64 bytes of them where they are
 * that many. Mixed pieces are asked for one by one. */
template <int FORMAT> struct lane_words {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, N = WORDS >= 16 ? 1 : WORDS >= 8 ? 2 : 4 };
    uint32_t words[N][WORDS];
    __device__ __forceinline__ void load(const job &j, int64_t tile, int chunk, int n, int lane)
    {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < n)
                qs_load_words<WORDS>(words[i], j.linear.words + (tile * j.n_chunks + chunk + i) * WORDS * 32, lane);
    }
};
template <> struct lane_words<QS_CU_MIXED> {
    enum { N = 1 };
    __device__ __forceinline__ void load(const job &, int64_t, int, int, int) {}
};

/* Chunk i of those. */
template <int FORMAT>
__device__ __forceinline__ void unpack_chunk(const job &j, int64_t tile, int chunk, int lane, const uint32_t *table,
                                             const lane_words<FORMAT> &from, int i, lane_weights v)
{
    if constexpr (FORMAT == QS_CU_MIXED) {
        unpack_mixed(j, tile, chunk, lane, v);
    } else if constexpr (FORMAT >= QS_CU_TABLE) {
#pragma unroll
        for (int s = 0; s < 4; s++)
            look_up(j, tile, chunk * QS_CU_CHUNK + 16 * s, lane / 4, from.words[i][s], table, v[s]);
    } else {
        qs_unpacker<FORMAT> unpack;
        float scale[2];
#pragma unroll
        for (int s = 0; s < 4; s++) {
            if (s == 0 || j.narrow)
                load_group<FORMAT>(j, tile, chunk * QS_CU_CHUNK + 16 * s, lane / 4, unpack, scale);
            unpack_step<FORMAT>(unpack, scale, from.words[i], s, v[s]);
        }
    }
}

/* The table into shared memory. */
template <int FORMAT> __device__ __forceinline__ void share_table(const job &j, uint32_t *table)
{
    if (FORMAT < QS_CU_TABLE) return;
    if (threadIdx.x < 16) table[threadIdx.x] = __float_as_uint(j.values[threadIdx.x]);
    __syncthreads();
}

/* ---- rows of bf16, 16 bytes at a time ---- */

/* Columns 16 s + 4 t to 16 s + 4 t + 7 of s = 2 k, t for even t; of s = 2 k + 1, t - 1 for odd t. */
__device__ __forceinline__ uint4 pair_up(const lane_weights v, int k, int r, bool odd)
{
    uint2 first = make_uint2(qs_bf16x2_of_f32(v[2 * k][r].x, v[2 * k][r].y),
                             qs_bf16x2_of_f32(v[2 * k][r].z, v[2 * k][r].w));
    uint2 second = make_uint2(qs_bf16x2_of_f32(v[2 * k + 1][r].x, v[2 * k + 1][r].y),
                              qs_bf16x2_of_f32(v[2 * k + 1][r].z, v[2 * k + 1][r].w));
    uint32_t x = __shfl_xor_sync(ALL_LANES, odd ? first.x : second.x, 1);
    uint32_t y = __shfl_xor_sync(ALL_LANES, odd ? first.y : second.y, 1);
    return odd ? make_uint4(x, y, second.x, second.y) : make_uint4(first.x, first.y, x, y);
}

__device__ __forceinline__ void store_chunk(const job &j, int64_t first_row, int first_column, int lane,
                                            const lane_weights v)
{
    bool odd = lane % 2 != 0;
    int64_t row = first_row + lane / 4;
    int column = first_column + (odd ? 16 : 0) + lane % 4 / 2 * 8;
    uint16_t *out = static_cast<uint16_t *>(j.out) + row * j.n_in + column;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint4 pair = pair_up(v, k, r, odd);
            if (row + 8 * r < j.linear.n_out && column + 32 * k < j.n_in)
                *reinterpret_cast<uint4 *>(out + 8 * r * j.n_in + 32 * k) = pair;
        }
}

template <int FORMAT> __global__ void __launch_bounds__(THREADS) dequant_bf16(job j)
{
    __shared__ __align__(256) uint32_t table[16]; /* qs_table_entry */
    enum { N = lane_words<FORMAT>::N };
    int64_t tile = blockIdx.y;
    int lane = (int)threadIdx.x % 32, chunk = ((int)blockIdx.x * CHUNKS + (int)threadIdx.x / 32) * N;
    int n = min((int)N, j.n_chunks - chunk);
    lane_words<FORMAT> words;
    share_table<FORMAT>(j, table);
    words.load(j, tile, chunk, n, lane);
    qs_wait_for_previous(); /* a product may still read what was there before */
#pragma unroll
    for (int i = 0; i < N; i++) {
        lane_weights v;
        if (i >= n) return;
        unpack_chunk<FORMAT>(j, tile, chunk + i, lane, table, words, i, v);
        store_chunk(j, tile * ROWS, (chunk + i) * QS_CU_CHUNK, lane, v);
    }
}

/* ---- all others ---- */

/* Four columns of a row. */
__device__ __forceinline__ void store_four(const job &j, int64_t row, int column, float4 v)
{
    int64_t at = row * j.n_in + column;
    if (j.whole && column + 4 <= j.n_in) {
        if (j.to_bf16)
            *reinterpret_cast<uint2 *>(static_cast<uint16_t *>(j.out) + at) =
                make_uint2(qs_bf16x2_of_f32(v.x, v.y), qs_bf16x2_of_f32(v.z, v.w));
        else
            *reinterpret_cast<float4 *>(static_cast<float *>(j.out) + at) = v;
        return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (column + i >= j.n_in) return;
        int64_t to = row * j.n_in + (j.perm != nullptr ? j.perm[column + i] : column + i);
        if (j.to_bf16) static_cast<uint16_t *>(j.out)[to] = qs_bf16_of_f32(values[i]);
        else static_cast<float *>(j.out)[to] = values[i];
    }
}

template <int FORMAT> __global__ void __launch_bounds__(THREADS) dequant(job j)
{
    __shared__ __align__(16) float rows[ROWS * STRIDE];
    __shared__ __align__(256) uint32_t table[16]; /* qs_table_entry */
    int64_t tile = blockIdx.y;
    int lane = (int)threadIdx.x % 32, first_column = (int)blockIdx.x * WIDTH;
    int chunk = (int)blockIdx.x * CHUNKS + (int)threadIdx.x / 32;
    share_table<FORMAT>(j, table);
    if (chunk < j.n_chunks) {
        lane_words<FORMAT> words;
        lane_weights v;
        float *to = rows + lane / 4 * STRIDE + (int)threadIdx.x / 32 * QS_CU_CHUNK + 4 * (lane % 4);
        words.load(j, tile, chunk, 1, lane);
        unpack_chunk<FORMAT>(j, tile, chunk, lane, table, words, 0, v);
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int r = 0; r < 2; r++) *reinterpret_cast<float4 *>(to + 8 * r * STRIDE + 16 * s) = v[s][r];
    }
    __syncthreads();
    qs_wait_for_previous();
    for (int i = (int)threadIdx.x; i < ROWS * WIDTH / 4; i += THREADS) {
        int row = i / (WIDTH / 4), column = i % (WIDTH / 4) * 4;
        int64_t out = tile * ROWS + row;
        if (out < j.linear.n_out && first_column + column < j.n_in)
            store_four(j, out, first_column + column, *reinterpret_cast<const float4 *>(rows + row * STRIDE + column));
    }
}

template <int FORMAT> int launch(void *stream, const job &j)
{
    bool direct = j.to_bf16 && j.whole && j.n_in % 8 == 0;
    int step = direct ? CHUNKS * (int)lane_words<FORMAT>::N : (int)CHUNKS;
    dim3 grid((unsigned)((j.n_chunks + step - 1) / step), (unsigned)((j.linear.n_out + ROWS - 1) / ROWS));
    void (*kernel)(job) = direct ? dequant_bf16<FORMAT> : dequant<FORMAT>;
    if (j.soon) QS_LAUNCH_SOON(kernel, grid, dim3(THREADS), 0, stream, j);
    else QS_LAUNCH(kernel, grid, dim3(THREADS), 0, stream, j);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_dequant(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linear,
                             const int32_t *perm, bool to_bf16, bool soon, void *out)
{
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    job j = {};
    j.linear = *linear;
    j.perm = perm;
    j.out = out;
    j.n_in = shape->n_in;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_size = (int)group_size;
    j.to_bf16 = to_bf16;
    j.soon = soon;
    j.narrow = group_size % QS_CU_CHUNK != 0;
    j.whole = perm == nullptr && shape->n_in % 4 == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
    if (shape->format >= QS_CU_TABLE) {
        j.rounding = (int)shape->format - QS_CU_TABLE;
        for (int i = 0; i < 16; i++) j.values[i] = shape->values[i];
        return launch<QS_CU_TABLE>(stream, j);
    }
    switch (shape->format) {
    case QS_CU_INT2: return launch<QS_CU_INT2>(stream, j);
    case QS_CU_INT3: return launch<QS_CU_INT3>(stream, j);
    case QS_CU_INT4: return launch<QS_CU_INT4>(stream, j);
    case QS_CU_INT8: return launch<QS_CU_INT8>(stream, j);
    case QS_CU_F16: return launch<QS_CU_F16>(stream, j);
    case QS_CU_MIXED: return launch<QS_CU_MIXED>(stream, j);
    default: return launch<QS_CU_BF16>(stream, j);
    }
}
