/* Stored weights to dense rows, for products of many rows of x. A warp unpacks a tile and chunk with its lanes holding
 * what they hold in the small-batch kernel; shared memory turns that into rows, so that stores are whole lines. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"

namespace {

enum { CHUNKS = 4, THREADS = CHUNKS * 32, WIDTH = CHUNKS * QS_CU_CHUNK, STRIDE = WIDTH + 4, ROWS = QS_CU_TILE_ROWS };

struct job {
    qs_cu_linear linear;
    const int32_t *perm;
    void *out;
    int n_in, n_chunks, n_groups, group_size;
    bool to_bf16, whole; /* whole: rows of the output can be written 16 bytes at a time */
    int rounding;        /* of weights from a table */
    float values[16];
};

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
__device__ __forceinline__ void unpack_step(const job &j, int64_t tile, int column, int g, const uint32_t *words, int s,
                                            float4 v[2])
{
    qs_unpacker<FORMAT> unpack;
    float scale[2];
    uint32_t a[4];
    load_group<FORMAT>(j, tile, column, g, unpack, scale);
    unpack.step(words, s, a);
#pragma unroll
    for (int r = 0; r < 2; r++)
        v[r] = make_float4(scale[r] * value_of<FORMAT>(a[r] & 0xffff), scale[r] * value_of<FORMAT>(a[r] >> 16),
                           scale[r] * value_of<FORMAT>(a[r + 2] & 0xffff), scale[r] * value_of<FORMAT>(a[r + 2] >> 16));
}

/* Rows g and g + 8 of k-step s. */
__device__ __forceinline__ void put_step(const float4 v[2], int s, int lane, float *rows)
{
#pragma unroll
    for (int r = 0; r < 2; r++)
        *reinterpret_cast<float4 *>(rows + (lane / 4 + 8 * r) * STRIDE + 16 * s + 4 * (lane % 4)) = v[r];
}

/* A chunk of a mixed piece; weights are f16 numbers. */
template <int FORMAT>
__device__ __forceinline__ void unpack_part(const job &j, int64_t tile, const qs_cu_mixed_piece *piece, int within,
                                            int lane, float *rows)
{
    using unpacker = qs_unpacker<FORMAT>;
    enum { WORDS = unpacker::WORDS };
    constexpr uint32_t middle = 1u << (unpacker::BITS - 1), minus_zero = 0x80008000u;
    const qs_cu_mixed_plan *plan = j.linear.plan;
    uint32_t words[WORDS];
    unpacker unpack;
    unpack.set_zeros(middle, middle);
    qs_load_words<WORDS>(words, j.linear.words + (tile * plan->tile_vectors + piece->at) * 4 + within * WORDS * 32, lane);
#pragma unroll
    for (int s = 0; s < 4; s++) {
        int group = piece->group[2 * within + s / 2];
        uint32_t a[4], pair = j.linear.scales[(tile * plan->n_groups + group) * 8 + lane / 4];
        float4 v[2];
        unpack.step(words, s, a);
#pragma unroll
        for (int r = 0; r < 4; r++)
            a[r] = qs_f16x2_fma(a[r], r % 2 == 0 ? qs_pair_of_low(pair) : qs_pair_of_high(pair), minus_zero);
#pragma unroll
        for (int r = 0; r < 2; r++)
            v[r] = make_float4(value_of<FORMAT>(a[r] & 0xffff), value_of<FORMAT>(a[r] >> 16),
                               value_of<FORMAT>(a[r + 2] & 0xffff), value_of<FORMAT>(a[r + 2] >> 16));
        put_step(v, s, lane, rows);
    }
}

__device__ __forceinline__ void unpack_mixed(const job &j, int64_t tile, int chunk, int lane, float *rows)
{
    const qs_cu_mixed_piece *piece = qs_piece_at(j.linear.plan, chunk);
    int within = chunk - piece->chunk;
    switch (piece->bits) {
    case 2: return unpack_part<QS_CU_INT2>(j, tile, piece, within, lane, rows);
    case 3: return unpack_part<QS_CU_INT3>(j, tile, piece, within, lane, rows);
    case 4: return unpack_part<QS_CU_INT4>(j, tile, piece, within, lane, rows);
    case 5: return unpack_part<QS_CU_INT5>(j, tile, piece, within, lane, rows);
    case 6: return unpack_part<QS_CU_INT6>(j, tile, piece, within, lane, rows);
    default: return unpack_part<QS_CU_INT8>(j, tile, piece, within, lane, rows);
    }
}

template <int FORMAT>
__device__ __forceinline__ void unpack_chunk(const job &j, int64_t tile, int chunk, int lane, const uint32_t *table,
                                             float *rows)
{
    enum { WORDS = qs_unpacker<FORMAT>::WORDS };
    uint32_t words[WORDS];
    int g = lane / 4;
    qs_load_words<WORDS>(words, j.linear.words + (tile * j.n_chunks + chunk) * WORDS * 32, lane);
#pragma unroll
    for (int s = 0; s < 4; s++) {
        float4 v[2];
        int column = chunk * QS_CU_CHUNK + 16 * s;
        if constexpr (FORMAT >= QS_CU_TABLE) look_up(j, tile, column, g, words[s], table, v);
        else unpack_step<FORMAT>(j, tile, column, g, words, s, v);
        put_step(v, s, lane, rows);
    }
}

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
    int chunk = (int)blockIdx.x * CHUNKS + (int)threadIdx.x / 32, first_column = (int)blockIdx.x * WIDTH;
    if (FORMAT >= QS_CU_TABLE) {
        if (threadIdx.x < 16) table[threadIdx.x] = __float_as_uint(j.values[threadIdx.x]);
        __syncthreads();
    }
    if constexpr (FORMAT == QS_CU_MIXED) {
        if (chunk < j.n_chunks) unpack_mixed(j, tile, chunk, (int)threadIdx.x % 32, rows + threadIdx.x / 32 * QS_CU_CHUNK);
    } else if (chunk < j.n_chunks)
        unpack_chunk<FORMAT>(j, tile, chunk, (int)threadIdx.x % 32, table, rows + threadIdx.x / 32 * QS_CU_CHUNK);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < ROWS * WIDTH / 4; i += THREADS) {
        int row = i / (WIDTH / 4), column = i % (WIDTH / 4) * 4;
        int64_t out = tile * ROWS + row;
        if (out < j.linear.n_out && first_column + column < j.n_in)
            store_four(j, out, first_column + column, *reinterpret_cast<const float4 *>(rows + row * STRIDE + column));
    }
}

template <int FORMAT> int launch(void *stream, const job &j)
{
    dim3 grid((unsigned)((j.n_chunks + CHUNKS - 1) / CHUNKS), (unsigned)((j.linear.n_out + ROWS - 1) / ROWS));
    QS_LAUNCH(dequant<FORMAT>, grid, dim3(THREADS), 0, stream, j);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_dequant(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linear,
                             const int32_t *perm, bool to_bf16, void *out)
{
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    job j = {};
    j.linear = *linear;
    j.perm = perm;
    j.out = out;
    j.n_in = (int)shape->n_in;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_size = (int)group_size;
    j.to_bf16 = to_bf16;
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
