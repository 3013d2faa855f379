/* y = x W^T for few rows of x where columns of a matrix have codes of several widths (EXL2; the layout is in
 * kernels.h): the kernel of linear_few.cu, whose warps find in each piece how wide its codes are. All lanes of a warp
 * go the same way, once a piece.
 *
 * A weight is f16(scale (code - middle)), as its definition has it: one multiplication of pairs, which is no more than
 * scaling sums per group of 32 columns would take, and groups may begin at any of them. Slices are cut so that each has
 * about the same number of bytes, since the widest codes come first and memory is what bounds the kernel. One row of x
 * is put in order by the blocks that split it, so that a permutation costs no launch. */
#include "backend/cuda/linear_parts.h"

namespace {

static_assert((int)SLICES == (int)QS_CU_MIXED_SLICES, "plans are cut for this kernel");

/* A piece in a ring: words of a block or half of one, scales of four groups, and its row of the plan. */
enum { MIXED_WORDS = 64, MIXED_SCALES = 8, MIXED_AT = MIXED_WORDS + MIXED_SCALES, MIXED_VECTORS = MIXED_AT + 1 };

/* Fills a warp's ring. */
template <int TILES> struct mixed_feeder {
    const uint4 *words;       /* of the item's first tile: the lane's */
    const char *scales;       /* of the same: the lane's half of a group */
    const qs_cu_mixed_piece *piece;
    int n_left, tile_vectors, n_groups; /* pieces of the slice in this item */
    int item;
    int4 head;
    int group; /* of the lane */

    __device__ __forceinline__ void look(int lane)
    {
        head = *reinterpret_cast<const int4 *>(piece);
        group = piece->group[lane / 2 % 4];
    }
    __device__ __forceinline__ void find(const job &j, int slice, int item_step, int lane)
    {
        for (; item < j.n_items; item += item_step) {
            place p = place_of<TILES>(j, item);
            const qs_cu_linear &l = j.linears[p.which];
            int first = l.plan->first[slice];
            n_left = l.plan->first[slice + 1] - first;
            if (n_left == 0) continue;
            tile_vectors = l.plan->tile_vectors;
            n_groups = l.plan->n_groups;
            words = reinterpret_cast<const uint4 *>(l.words) + (int64_t)p.tile * tile_vectors + lane;
            scales = reinterpret_cast<const char *>(l.scales) + (int64_t)p.tile * n_groups * 32 + lane % 2 * 16;
            piece = qs_pieces_of(l.plan) + first;
            look(lane);
            return;
        }
    }
    __device__ __forceinline__ void start(const job &j, int first_item, int slice, int item_step, int lane)
    {
        item = first_item;
        find(j, slice, item_step, lane);
    }
    __device__ __forceinline__ void feed(const job &j, uint4 *slot, int slice, int item_step, int lane)
    {
        if (item < j.n_items) {
            const int bits = head.y, n_words = bits <= 4 ? 16 * bits : 8 * bits;
#pragma unroll
            for (int r = 0; r < TILES; r++) {
                const uint4 *from = words + r * tile_vectors + head.x;
                uint4 *to = slot + r * MIXED_VECTORS + lane;
                qs_copy_async16(to, from); /* 32 there always are */
                if (lane + 32 < n_words) qs_copy_async16(to + 32, from + 32);
                if (lane < (bits <= 4 ? 8 : 4))
                    qs_copy_async16(to + MIXED_WORDS, scales + (int64_t)(r * n_groups + group) * 32);
            }
            if (lane == 8) qs_copy_async16(slot + MIXED_AT, piece);
            piece++;
            if (--n_left == 0) {
                item += item_step;
                find(j, slice, item_step, lane);
            } else {
                look(lane);
            }
        }
        qs_copy_async_commit();
    }
};

/* A piece with codes of one width. */
template <int FORMAT> struct mixed_part {
    using unpacker = qs_unpacker<FORMAT>;
    enum { WORDS = unpacker::WORDS, CHUNKS = WORDS <= 4 ? QS_CU_PIECE_CHUNKS : 1, VECTORS = MIXED_VECTORS, SPARE = 0 };

    template <int COLUMNS>
    static __device__ __forceinline__ void add_chunk(float (&total)[COLUMNS][4], const uint4 *tile, const uint32_t *,
                                                     int h, const uint32_t (&b)[COLUMNS][8], int lane)
    {
        constexpr uint32_t middle = 1u << (unpacker::BITS - 1), minus_zero = 0x80008000u;
        const uint32_t *scales = reinterpret_cast<const uint32_t *>(tile + MIXED_WORDS) + h * 16 + lane / 4;
        uint32_t words[WORDS];
        unpacker unpack;
        unpack.set_zeros(middle, middle);
        qs_take_words<WORDS>(words, tile + h * WORDS * 8, lane);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint32_t pair = scales[8 * i], low = qs_pair_of_low(pair), high = qs_pair_of_high(pair);
#pragma unroll
            for (int k = 2 * i; k < 2 * i + 2; k++) {
                uint32_t a[4];
                unpack.step(words, k, a);
#pragma unroll
                for (int r = 0; r < 4; r++) a[r] = qs_f16x2_fma(a[r], r % 2 == 0 ? low : high, minus_zero);
#pragma unroll
                for (int c = 0; c < COLUMNS; c++) multiply<false>(total[c], a, &b[c][2 * k]);
            }
        }
    }
};

struct mixed {
    enum { VECTORS = MIXED_VECTORS, CHUNKS = 1, TABLE = 0, TABLE_WORDS = 0, SPAN = 0, OWN_TEAMS = 4 };
    static constexpr bool BF16 = false, PERM = true, CODES = false, ROUNDS = false;
    static __device__ __forceinline__ void put_table(const job &, uint32_t *) {}
    template <int TILES> using feeder = mixed_feeder<TILES>;

    template <int COLUMNS, int TILES, bool OWN> struct walker {
        uint32_t b[COLUMNS][8];
        lane_x x;
        int which;

        __device__ __forceinline__ void start(const job &, const lane_x &of, int)
        {
            x = of;
            which = -1;
        }
        __device__ __forceinline__ int enter(const job &j, int slice, int item)
        {
            place p = place_of<TILES>(j, item);
            const qs_cu_linear &l = j.linears[p.which];
            int first = l.plan->first[slice], n = l.plan->first[slice + 1] - first;
            if (!OWN && p.which != which && n > 0) load_x<COLUMNS, OWN>(b, x, qs_pieces_of(l.plan)[first].chunk);
            which = p.which;
            return n;
        }
        template <int FORMAT>
        __device__ __forceinline__ void add_part(float (&total)[TILES][COLUMNS][4], const uint4 *slot, int4 head,
                                                 int lane)
        {
            add_piece<mixed_part<FORMAT>, COLUMNS, TILES, OWN>(total, slot, nullptr, x, head.z, head.w, b, lane);
        }
        __device__ __forceinline__ void add(float (&total)[TILES][COLUMNS][4], const job &, const uint4 *slot,
                                            const uint32_t *, int, int lane)
        {
            int4 head = *reinterpret_cast<const int4 *>(slot + MIXED_AT);
            switch (head.y) {
            case 2: return add_part<QS_CU_INT2>(total, slot, head, lane);
            case 3: return add_part<QS_CU_INT3>(total, slot, head, lane);
            case 4: return add_part<QS_CU_INT4>(total, slot, head, lane);
            case 5: return add_part<QS_CU_INT5>(total, slot, head, lane);
            case 6: return add_part<QS_CU_INT6>(total, slot, head, lane);
            default: return add_part<QS_CU_INT8>(total, slot, head, lane);
            }
        }
    };
};

} // namespace

extern "C" int qs_cu_linear_mixed(void *stream, int64_t n_in, const qs_cu_linear *linears, int n_linears,
                                  const float *x, const int32_t *perm, const qs_cu_x *terms, int n_sms,
                                  size_t shared_bytes, bool soon)
{
    job j = {};
    how h = {n_sms, shared_bytes, soon, false, false, QS_CU_ROW_ASYNC, 0, x, perm, nullptr};
    j.n_in = (int)n_in;
    return for_rows(stream, &j, h, linears, n_linears, terms,
                    [](void *on, job *part, const how *how_part) { return launch<mixed>(on, part, how_part); });
}
