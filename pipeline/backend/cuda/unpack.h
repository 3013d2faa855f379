/* A lane's words of a chunk (kernels.h) and what they mean: pairs of f16 or bf16 as A fragments (.cu files only).
 *
 * Bits put under the exponent of 1024 are 1024 + code, exactly, and one subtraction (or multiplication and subtraction,
 * when the code sits k bits higher) leaves code - zero, exactly. */
#ifndef QS_BACKEND_CUDA_UNPACK_H
#define QS_BACKEND_CUDA_UNPACK_H

#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/rounding.h"

/* The f16 pair -(1024 / 2^k + zero). */
template <int K> __device__ __forceinline__ uint32_t qs_offset_of(uint32_t zero)
{
    uint32_t half = ((25u - K) << 10) | (zero << K);
    return (half | half << 16) ^ 0x80008000u;
}

/* Pairs whose codes begin at bit K of each half, less the zero point. */
template <int BITS, int K> __device__ __forceinline__ uint32_t qs_take(uint32_t word, uint32_t offset)
{
    constexpr uint32_t mask = ((1u << BITS) - 1) << K, one = (15u - K) << 10;
    uint32_t v = qs_and_or(word, mask | mask << 16, 0x64006400u);
    if (K == 0) return qs_f16x2_sub(v, offset ^ 0x80008000u);
    return qs_f16x2_fma(v, one | one << 16, offset);
}

template <int FORMAT> struct qs_unpacker;

template <> struct qs_unpacker<QS_CU_INT4> {
    enum { WORDS = 4, BITS = 4, CODED = 1 };
    uint32_t offset[2][2]; /* [row half][k] */
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = qs_offset_of<0>(low), offset[0][1] = qs_offset_of<4>(low);
        offset[1][0] = qs_offset_of<0>(high), offset[1][1] = qs_offset_of<4>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[s], v = w >> 8;
        a[0] = qs_take<4, 0>(w, offset[0][0]);
        a[1] = qs_take<4, 4>(w, offset[1][1]);
        a[2] = qs_take<4, 0>(v, offset[0][0]);
        a[3] = qs_take<4, 4>(v, offset[1][1]);
    }
};

template <> struct qs_unpacker<QS_CU_INT8> {
    enum { WORDS = 8, BITS = 8, CODED = 1 };
    uint32_t offset[2];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0] = qs_offset_of<0>(low);
        offset[1] = qs_offset_of<0>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[2 * s], v = words[2 * s + 1];
        a[0] = qs_take<8, 0>(w, offset[0]);
        a[1] = qs_take<8, 0>(w >> 8, offset[1]);
        a[2] = qs_take<8, 0>(v, offset[0]);
        a[3] = qs_take<8, 0>(v >> 8, offset[1]);
    }
};

template <> struct qs_unpacker<QS_CU_INT2> {
    enum { WORDS = 2, BITS = 2, CODED = 1 };
    uint32_t offset[2][5];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = qs_offset_of<0>(low), offset[0][1] = qs_offset_of<2>(low), offset[0][2] = qs_offset_of<4>(low);
        offset[0][3] = qs_offset_of<6>(low), offset[0][4] = qs_offset_of<8>(low);
        offset[1][0] = qs_offset_of<0>(high), offset[1][1] = qs_offset_of<2>(high),
        offset[1][2] = qs_offset_of<4>(high);
        offset[1][3] = qs_offset_of<6>(high), offset[1][4] = qs_offset_of<8>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[s >> 1], v = w >> 10;
        if ((s & 1) == 0) {
            a[0] = qs_take<2, 0>(w, offset[0][0]);
            a[1] = qs_take<2, 2>(w, offset[1][1]);
            a[2] = qs_take<2, 4>(w, offset[0][2]);
            a[3] = qs_take<2, 6>(w, offset[1][3]);
        } else {
            a[0] = qs_take<2, 8>(w, offset[0][4]);
            a[1] = qs_take<2, 0>(v, offset[1][0]);
            a[2] = qs_take<2, 2>(v, offset[0][1]);
            a[3] = qs_take<2, 4>(v, offset[1][2]);
        }
    }
};

template <> struct qs_unpacker<QS_CU_INT3> {
    enum { WORDS = 3, BITS = 3, CODED = 1 };
    uint32_t offset[2][3];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = qs_offset_of<0>(low), offset[0][1] = qs_offset_of<3>(low), offset[0][2] = qs_offset_of<6>(low);
        offset[1][0] = qs_offset_of<0>(high), offset[1][1] = qs_offset_of<3>(high),
        offset[1][2] = qs_offset_of<6>(high);
    }
    /* Pair p of the 16, p a constant after unrolling. */
    __device__ __forceinline__ uint32_t pair(const uint32_t *words, int p) const
    {
        const uint32_t *o = offset[p & 1];
        if (p == 15) {
            uint32_t code = (words[0] >> 15 & 0x00010001u) | (words[1] >> 14 & 0x00020002u) |
                            (words[2] >> 13 & 0x00040004u);
            return qs_take<3, 0>(code, o[0]);
        }
        uint32_t w = words[p / 5];
        switch (p % 5) {
        case 0: return qs_take<3, 0>(w, o[0]);
        case 1: return qs_take<3, 3>(w, o[1]);
        case 2: return qs_take<3, 6>(w, o[2]);
        case 3: return qs_take<3, 0>(w >> 9, o[0]);
        default: return qs_take<3, 3>(w >> 9, o[1]);
        }
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = pair(words, 4 * s + r);
    }
};

template <> struct qs_unpacker<QS_CU_INT5> {
    enum { WORDS = 5, BITS = 5, CODED = 1 };
    uint32_t offset[2][2];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = qs_offset_of<0>(low), offset[0][1] = qs_offset_of<5>(low);
        offset[1][0] = qs_offset_of<0>(high), offset[1][1] = qs_offset_of<5>(high);
    }
    __device__ __forceinline__ uint32_t pair(const uint32_t *words, int p) const
    {
        const uint32_t *o = offset[p & 1];
        if (p == 15) {
            uint32_t code = words[0] >> 15 & 0x00010001u;
#pragma unroll
            for (int i = 1; i < 5; i++) code = qs_and_or(words[i] >> (15 - i), 0x00010001u << i, code);
            return qs_take<5, 0>(code, o[0]);
        }
        uint32_t w = words[p / 3];
        switch (p % 3) {
        case 0: return qs_take<5, 0>(w, o[0]);
        case 1: return qs_take<5, 5>(w, o[1]);
        default: return qs_take<5, 0>(w >> 10, o[0]);
        }
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = pair(words, 4 * s + r);
    }
};

template <> struct qs_unpacker<QS_CU_INT6> {
    enum { WORDS = 6, BITS = 6, CODED = 1 };
    uint32_t offset[2];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0] = qs_offset_of<0>(low);
        offset[1] = qs_offset_of<0>(high);
    }
    __device__ __forceinline__ uint32_t pair(const uint32_t *words, int p) const
    {
        if (p < 12) return qs_take<6, 0>(p % 2 == 0 ? words[p / 2] : words[p / 2] >> 6, offset[p & 1]);
        const uint32_t *w = words + 3 * ((p - 12) / 2);
        int odd = p % 2;
        uint32_t code = qs_and_or(w[1] >> (8 + 2 * odd), 0x00300030u, w[2 * odd] >> 12 & 0x000f000fu);
        return qs_take<6, 0>(code, offset[p & 1]);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = pair(words, 4 * s + r);
    }
};

struct qs_dense_unpacker {
    enum { WORDS = 16, BITS = 16, CODED = 0 };
    __device__ __forceinline__ void set_zeros(uint32_t, uint32_t) {}
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = words[4 * s + r];
    }
};
template <> struct qs_unpacker<QS_CU_F16> : qs_dense_unpacker {};
template <> struct qs_unpacker<QS_CU_BF16> : qs_dense_unpacker {};

/* Codes that are looked up: 16 words in shared memory, of which no two lie in one bank. Bytes of `even` and `odd` are
 * offsets of pairs 0, 2 and 1, 3 of a k-step. */
struct qs_table_offsets {
    uint32_t even, odd;
    __device__ __forceinline__ explicit qs_table_offsets(uint32_t word)
        : even(word << 2 & 0x3c3c3c3cu), odd(word >> 2 & 0x3c3c3c3cu)
    {
    }
    /* Entry of pair r, low or high, r a constant after unrolling. */
    __device__ __forceinline__ uint32_t entry(const uint32_t *table, int r, int high) const
    {
        return qs_table_entry(table, (r & 1) != 0 ? odd : even, r / 2 + 2 * high);
    }
};

/* Entries are f32: times the largest magnitude of the block, then rounded. */
template <bool BF16> struct qs_rounded_unpacker {
    enum { WORDS = 4, BITS = 4, CODED = 1 };
    const uint32_t *table;
    float absmax[2]; /* [row half] */
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        qs_table_offsets at(words[s]);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float low = __uint_as_float(at.entry(table, r, 0)) * absmax[r & 1];
            float high = __uint_as_float(at.entry(table, r, 1)) * absmax[r & 1];
            a[r] = BF16 ? qs_bf16x2_of_f32(low, high)
                        : qs_f16x2_of_f32(qs_cu_saturated(low), qs_cu_saturated(high));
        }
    }
};
template <> struct qs_unpacker<QS_CU_TABLE_BF16> : qs_rounded_unpacker<true> {};
template <> struct qs_unpacker<QS_CU_TABLE_F16> : qs_rounded_unpacker<false> {};

/* Pairs of codes that are looked up at once: entry `low code + 16 high code` is both values in bf16; of 32 copies, each
 * in a bank of its own, the lane has one. Values times the block's largest magnitude, both rounded to bf16, rounded to
 * that: bitsandbytes' product of one row. */
#define QS_PAIRS_BF16 (QS_CU_TABLE_F16 + 1)
template <> struct qs_unpacker<QS_PAIRS_BF16> {
    enum { WORDS = 4, BITS = 4, CODED = 1 };
    const uint32_t *table; /* the lane's */
    uint32_t absmax[2];    /* [row half]: twice */
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        /* In the lower bytes the codes of pairs 0 and 2, and of 1 and 3. */
        uint32_t w = words[s], even = (w & 0x0f0f0f0fu) | (w >> 12 & 0xf0f0f0f0u),
                 odd = (w >> 4 & 0x0f0f0f0fu) | (w >> 16 & 0xf0f0f0f0u);
        a[0] = qs_bf16x2_mul(qs_row_entry<0>(table, even), absmax[0]);
        a[1] = qs_bf16x2_mul(qs_row_entry<0>(table, odd), absmax[1]);
        a[2] = qs_bf16x2_mul(qs_row_entry<1>(table, even), absmax[0]);
        a[3] = qs_bf16x2_mul(qs_row_entry<1>(table, odd), absmax[1]);
    }
};

/* Entries are a fraction times QS_TABLE_UP as two f16, the second in the upper half what the first one misses. */
#define QS_TABLE_UP 256.0f
template <> struct qs_unpacker<QS_CU_TABLE_F32> {
    enum { WORDS = 4, BITS = 4, CODED = 1 };
    const uint32_t *table;
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4], uint32_t rest[4]) const
    {
        qs_table_offsets at(words[s]);
#pragma unroll
        for (int r = 0; r < 4; r++) {
            uint32_t low = at.entry(table, r, 0), high = at.entry(table, r, 1);
            a[r] = __byte_perm(low, high, 0x5410);
            rest[r] = __byte_perm(low, high, 0x7632);
        }
    }
};

/* words: of a tile and chunk; each lane takes its own. */
template <int WORDS> __device__ __forceinline__ void qs_load_words(uint32_t *dst, const uint32_t *words, int lane)
{
    if (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            uint4 v = qs_load_stream(reinterpret_cast<const uint4 *>(words) + i * 32 + lane);
            dst[4 * i] = v.x, dst[4 * i + 1] = v.y, dst[4 * i + 2] = v.z, dst[4 * i + 3] = v.w;
        }
    } else if (WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 2; i++) {
            uint2 v = qs_load_stream(reinterpret_cast<const uint2 *>(words) + i * 32 + lane);
            dst[2 * i] = v.x, dst[2 * i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++) dst[i] = qs_load_stream(words + i * 32 + lane);
    }
}

/* The same from shared memory. */
template <int WORDS> __device__ __forceinline__ void qs_take_words(uint32_t *dst, const uint4 *words, int lane)
{
    if (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            uint4 v = words[i * 32 + lane];
            dst[4 * i] = v.x, dst[4 * i + 1] = v.y, dst[4 * i + 2] = v.z, dst[4 * i + 3] = v.w;
        }
    } else if (WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 2; i++) {
            uint2 v = reinterpret_cast<const uint2 *>(words)[i * 32 + lane];
            dst[2 * i] = v.x, dst[2 * i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++) dst[i] = reinterpret_cast<const uint32_t *>(words)[i * 32 + lane];
    }
}

/* ---- mixed matrices ---- */

__device__ __forceinline__ const qs_cu_mixed_piece *qs_pieces_of(const qs_cu_mixed_plan *plan)
{
    return reinterpret_cast<const qs_cu_mixed_piece *>(plan + 1);
}

__device__ __forceinline__ int qs_chunks_of(const qs_cu_mixed_piece *piece)
{
    return piece->bits <= 4 ? QS_CU_PIECE_CHUNKS : 1;
}

/* The piece that has a chunk; the last one for chunks behind it. */
__device__ __forceinline__ const qs_cu_mixed_piece *qs_piece_at(const qs_cu_mixed_plan *plan, int chunk)
{
    const qs_cu_mixed_piece *pieces = qs_pieces_of(plan);
    int low = 0, high = plan->n_pieces - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (pieces[middle].chunk <= chunk) low = middle;
        else high = middle - 1;
    }
    return pieces + low;
}

/* One half of a pair of f16 in both. */
__device__ __forceinline__ uint32_t qs_pair_of_low(uint32_t pair) { return (pair & 0xffffu) | pair << 16; }
__device__ __forceinline__ uint32_t qs_pair_of_high(uint32_t pair) { return pair >> 16 | (pair & 0xffff0000u); }

#endif
