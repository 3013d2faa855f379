/* Products of few rows whose pieces are all alike (linear_few.cu, linear_few_low.cu, linear_few_tables.cu, which share
 * the formats between them so that they compile side by side): what a piece holds, and which kernel takes a product
 * (.cu files only). */
#ifndef QS_BACKEND_CUDA_LINEAR_ALIKE_H
#define QS_BACKEND_CUDA_LINEAR_ALIKE_H

#include "backend/cuda/linear_row.h"

/* What qs_cu_linear_few is asked for. */
struct qs_cu_few {
    void *stream;
    const qs_cu_linear_shape *shape;
    const qs_cu_linear *linears;
    int n_linears;
    const float *x;
    const int32_t *perm;
    const qs_cu_x *terms;
    int n_sms;
    size_t shared_bytes;
    bool soon;
    qs_cu_one_row one_row;
};
extern "C" int qs_cu_few_low(const qs_cu_few *few);    /* 2 and 3 bits */
extern "C" int qs_cu_few_tables(const qs_cu_few *few); /* tables, and 8 bits */

namespace {

template <int FORMAT>
constexpr bool IS_BF16 = FORMAT == QS_CU_BF16 || FORMAT == QS_CU_TABLE_BF16 || FORMAT == QS_PAIRS_BF16;

/* One k-step: the weights of a table that are not rounded come in two terms. */
template <int FORMAT, int COLUMNS>
__device__ __forceinline__ void add_step(float (&sum)[COLUMNS][4], const qs_unpacker<FORMAT> &unpack,
                                         const uint32_t *words, int k, const uint32_t (&b)[COLUMNS][8])
{
    uint32_t a[4], rest[4];
    if constexpr (FORMAT == QS_CU_TABLE_F32) unpack.step(words, k, a, rest);
    else unpack.step(words, k, a);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        multiply<IS_BF16<FORMAT>>(sum[c], a, &b[c][2 * k]);
        if (FORMAT == QS_CU_TABLE_F32) multiply<IS_BF16<FORMAT>>(sum[c], rest, &b[c][2 * k]);
    }
}

/* Readies the unpacker for group i of a chunk, and scale for its sums of rows g and g + 8. meta says where the group's
 * scales and zero points lie. */
template <int FORMAT, int STEPS, bool ZEROS, class META>
__device__ __forceinline__ void take_group(qs_unpacker<FORMAT> &unpack, float scale[2], const META &meta,
                                           const uint32_t *table, int group, int lane)
{
    using part = piece<FORMAT, STEPS, ZEROS>;
    constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
    int at = lane / 4;
    if constexpr (part::TABLE) {
        float2 pair = reinterpret_cast<const float2 *>(meta.scales(group))[at];
        unpack.table = table;
        if constexpr (FORMAT == QS_PAIRS_BF16) {
            unpack.table = table + lane;
            unpack.absmax[0] = qs_bf16x2_of_f32(pair.x, pair.x);
            unpack.absmax[1] = qs_bf16x2_of_f32(pair.y, pair.y);
        } else if constexpr (FORMAT == QS_CU_TABLE_F32) {
            scale[0] = pair.x / QS_TABLE_UP, scale[1] = pair.y / QS_TABLE_UP;
        } else {
            unpack.absmax[0] = pair.x, unpack.absmax[1] = pair.y;
        }
    } else if constexpr (part::CODED) {
        uint32_t pair = reinterpret_cast<const uint32_t *>(meta.scales(group))[at];
        scale[0] = qs_f32_of_f16((uint16_t)(pair & 0xffff));
        scale[1] = qs_f32_of_f16((uint16_t)(pair >> 16));
        if constexpr (ZEROS) {
            uint32_t zeros = meta.zeros(group)[at];
            unpack.set_zeros(zeros & 0xff, zeros >> 8);
        } else {
            unpack.set_zeros(middle, middle);
        }
    }
}

/* The table as the unpackers take it; read behind the next barrier. */
template <int FORMAT> __device__ __forceinline__ void put_table(const job &j, uint32_t *table)
{
    if (FORMAT == QS_PAIRS_BF16) {
        enum { TABLE_WARPS = 2 * SLICES };
        for (int e = threadIdx.x / 32; e < 256; e += TABLE_WARPS)
            table[32 * e + (int)threadIdx.x % 32] = qs_bf16x2_of_f32(j.values[e % 16], j.values[e / 16]);
        return;
    }
    if (FORMAT < QS_CU_TABLE || threadIdx.x >= 16) return;
    float value = j.values[threadIdx.x];
    uint16_t term[2];
    qs_cu_split(value * QS_TABLE_UP, false, &term[0], &term[1]);
    table[threadIdx.x] = FORMAT == QS_CU_TABLE_F32 ? (uint32_t)term[0] | (uint32_t)term[1] << 16
                                                   : __float_as_uint(value);
}

/* Of a chunk of a piece in a ring. */
template <class PART> struct piece_meta {
    const uint4 *behind; /* the words */
    int first;           /* group of the chunk */
    __device__ __forceinline__ const uint4 *scales(int i) const { return behind + (first + i) * PART::PAIRS_VECTORS; }
    __device__ __forceinline__ const uint16_t *zeros(int i) const
    {
        return reinterpret_cast<const uint16_t *>(behind + PART::SCALE_VECTORS) + (first + i) * 8;
    }
};

/* Pieces that are all alike, STEPS k-steps to a group. */
template <int FORMAT, int STEPS, bool ZEROS> struct alike : piece<FORMAT, STEPS, ZEROS> {
    using part = piece<FORMAT, STEPS, ZEROS>;
    static constexpr bool BF16 = IS_BF16<FORMAT>, PERM = false, CODES = FORMAT == QS_CU_INT8,
                          ROUNDS = CODES || part::TABLE;
    static constexpr int SPAN = 0;
    enum { TABLE_WORDS = FORMAT == QS_PAIRS_BF16 ? 256 * 32 : part::TABLE ? 16 : 0, GROUP_STEPS = STEPS,
           HAS_ZEROS = ZEROS, OWN_TEAMS = FORMAT == QS_PAIRS_BF16 ? 2 : 4,
           SPARE = FORMAT == QS_PAIRS_BF16 };
    template <int TILES> using feeder = even_feeder<FORMAT, STEPS, ZEROS, TILES>;

    static __device__ __forceinline__ void put_table(const job &j, uint32_t *table) { ::put_table<FORMAT>(j, table); }

    /* Chunk h of a tile's piece against COLUMNS columns of 8. */
    template <int COLUMNS>
    static __device__ __forceinline__ void add_chunk(float (&total)[COLUMNS][4], const uint4 *tile,
                                                     const uint32_t *table, int h, const uint32_t (&b)[COLUMNS][8],
                                                     int lane)
    {
        piece_meta<part> meta = {tile + part::WORD_VECTORS, h * part::CHUNK_GROUPS};
        add_words(total, tile + h * part::CHUNK_VECTORS, meta, table, b, lane);
    }
    /* The same of the chunk whose words these are. */
    template <int COLUMNS, class META>
    static __device__ __forceinline__ void add_words(float (&total)[COLUMNS][4], const uint4 *from, const META &meta,
                                                     const uint32_t *table, const uint32_t (&b)[COLUMNS][8], int lane)
    {
        uint32_t words[part::WORDS];
        qs_take_words<part::WORDS>(words, from, lane);
#pragma unroll
        for (int i = 0; i < 4 / STEPS; i++) {
            qs_unpacker<FORMAT> unpack;
            float scale[2] = {1.0f, 1.0f}, sum[COLUMNS][4] = {};
            take_group<FORMAT, STEPS, ZEROS>(unpack, scale, meta, table, i, lane);
#pragma unroll
            for (int k = i * STEPS; k < (i + 1) * STEPS; k++) add_step<FORMAT, COLUMNS>(sum, unpack, words, k, b);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++)
#pragma unroll
                for (int e = 0; e < 4; e++) total[c][e] = fmaf(scale[e / 2], sum[c][e], total[c][e]);
        }
    }

    template <int COLUMNS, int TILES, bool OWN> struct walker {
        uint32_t b[COLUMNS][8];
        lane_x x; /* from the slice's first piece on */
        int n_steps;

        __device__ __forceinline__ void start(const job &j, const lane_x &of, int slice)
        {
            int first = min(slice * j.slice_pieces, j.n_pieces - 1) * part::CHUNKS;
            x = of;
            if (OWN) x.row += first * QS_CU_CHUNK;
            else x.fragments += first * COLUMNS * 64;
            n_steps = pieces_of(j, slice);
            if (!OWN) load_x<COLUMNS, OWN>(b, x, 0);
        }
        __device__ __forceinline__ int enter(const job &, int, int) { return n_steps; }
        __device__ __forceinline__ void add(float (&total)[TILES][COLUMNS][4], const job &, const uint4 *slot,
                                            const uint32_t *table, int step, int lane)
        {
            int then = step + 1 < n_steps ? step + 1 : 0;
            add_piece<alike, COLUMNS, TILES, OWN>(total, slot, table, x, step * part::CHUNKS, then * part::CHUNKS, b,
                                                  lane);
        }
    };
};

bool has_whole_chunks(const job *j, int64_t group_size) { return j->n_groups == 1 || group_size % QS_CU_CHUNK == 0; }

/* Launches what takes one row as it is, if something does, which *done says. */
template <class WORK> int launch_one(void *stream, job *j, const how *h, bool *done)
{
    int status = launch_row<WORK>(stream, j, h, done);
    return *done || status != 0 ? status : launch_own<WORK>(stream, j, h, done);
}

template <class WORK, bool FULL = true> int launch_alike(void *stream, job *j, const how *h)
{
    if constexpr (FULL) {
        bool done;
        int status = launch_row<WORK>(stream, j, h, &done);
        if (done || status != 0) return status;
    }
    return launch<WORK, FULL>(stream, j, h);
}

/* Without zero points there is a kernel for groups of whole chunks only (qs_cu_needs_zeros). */
template <int FORMAT> int launch_steps(void *stream, job *j, const how *h, int64_t group_size)
{
    if (has_whole_chunks(j, group_size))
        return j->linears[0].zeros != nullptr ? launch_alike<alike<FORMAT, 4, true>>(stream, j, h)
                                              : launch_alike<alike<FORMAT, 4, false>>(stream, j, h);
    if (group_size % 32 == 0) return launch_alike<alike<FORMAT, 2, true>>(stream, j, h);
    return launch_alike<alike<FORMAT, 1, true>>(stream, j, h);
}

/* bf16 is what is computed in by default. Other groups are blocks of 32, or in rows that are no multiple of 64. */
bool is_rare(const job *j, qs_cu_format format, int64_t group_size)
{
    return format >= QS_CU_TABLE && (format != QS_CU_TABLE_BF16 || !has_whole_chunks(j, group_size));
}

template <int FORMAT> int launch_table(void *stream, job *j, const how *h, int64_t group_size)
{
    if (FORMAT == QS_CU_TABLE_BF16 && j->n == 1 && has_whole_chunks(j, group_size) && h->terms->rounds_factors) {
        bool done;
        int status = launch_one<alike<QS_PAIRS_BF16, 4, false>>(stream, j, h, &done);
        if (done || status != 0) return status;
    }
    if (has_whole_chunks(j, group_size))
        return launch_alike<alike<FORMAT, 4, false>, FORMAT == QS_CU_TABLE_BF16>(stream, j, h);
    return launch_alike<alike<FORMAT, 2, false>, false>(stream, j, h);
}

/* All rows of x: run(stream, job, how, group size) for as many at a time as a launch takes. */
template <class RUN> int run_few(const qs_cu_few *few, RUN run)
{
    const qs_cu_linear_shape *shape = few->shape;
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    uint32_t group_steps = (uint32_t)((group_size + 15) / 16);
    bool is_bf16 = shape->format == QS_CU_BF16 || shape->format == QS_CU_TABLE_BF16;
    job j = {};
    j.n_in = (int)shape->n_in;
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_magic = j.n_groups == 1 ? 0 : ((1u << 31) + group_steps - 1) / group_steps;
    j.rounding = shape->format > QS_CU_TABLE ? (int)shape->format - QS_CU_TABLE : (int)QS_ROUND_F32;
    if (few->terms->is_coded) j.rounding = QS_ROUND_F16;
    for (int i = 0; i < 16; i++) j.values[i] = shape->values != nullptr ? shape->values[i] : 0.0f;
    how h = {few->n_sms, few->shared_bytes, few->soon, is_bf16, is_rare(&j, shape->format, group_size), few->one_row,
             group_size, few->x, few->perm, nullptr};
    return for_rows(few->stream, &j, h, few->linears, few->n_linears, few->terms,
                    [&](void *on, job *part, const how *how_part) { return run(on, part, how_part, group_size); });
}

} // namespace

#endif
