/* The work of products of few rows (linear_few.cu, linear_mixed.cu), how it is cut, and the rings that bring a warp its
 * weights (.cu files only).
 *
 *   item   neighbouring tiles of 16 rows of a matrix, one or two: what a team computes at a time
 *   team   SLICES warps, which share the columns; a block has several
 *   slice  a warp's share of the columns; sums of a team's warps are added in the order of their slices
 *   piece  what a warp multiplies at a step: of its item the codes of one or two chunks of 64 columns, and their scales
 *   ring   a warp's pieces in shared memory, copied there while it multiplies those before them */
#ifndef QS_BACKEND_CUDA_LINEAR_RING_H
#define QS_BACKEND_CUDA_LINEAR_RING_H

#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"

namespace {

enum { SLICES = 8, TEAM = SLICES * 32 /* threads */,
       OWN_NORM_COLUMNS_MAX = 8192 /* of a row that blocks normalise and split for themselves */,
       X_PAD = 8 /* elements between rows in shared memory: other banks */ };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int first_item[QS_CU_LINEARS_MAX]; /* of each linear; an item is a group of tiles that a team computes at a time */
    int n_items, n_linears;
    int n_chunks, n_pieces, slice_pieces; /* pieces of a row of tiles, and of a slice */
    int n_groups;
    uint32_t group_magic; /* group of k-step s: __umulhi(2 s, group_magic) */
    const uint16_t *terms;
    const float *scale; /* [n] */
    const float *x;     /* [n_in], where blocks split it for themselves */
    const float *norm;  /* and normalise it, with these weights [n_in]; or NULL */
    float norm_eps;
    const int32_t *perm;
    int n_in, x_stride; /* elements between rows of terms in shared memory */
    int n, n_terms;     /* rows of x; a row's terms are neighbouring columns of B */
    int n_columns, width; /* n n_terms; of a row in the table of sums, odd for the sake of its banks */
    int batch;          /* items of a team between two additions */
    int rounding;       /* of bias and y */
    bool is_coded;      /* x becomes codes of int8 (coding.h) */
    float threshold;    /* of outliers then */
    float values[16];   /* of a table */
};

/* ---- weights ---- */

/* A piece of a tile as it lies in a ring, in vectors of 16 bytes: the words of CHUNKS chunks, then scales and
 * zero points [groups][8 pairs]. */
template <int FORMAT, int STEPS, bool ZEROS> struct piece {
    enum {
        WORDS = qs_unpacker<FORMAT>::WORDS, CODED = qs_unpacker<FORMAT>::CODED, TABLE = FORMAT >= QS_CU_TABLE,
        PAIRS_VECTORS = TABLE ? 4 : 2, /* the scales of a group */
        CHUNKS = WORDS <= 4 ? QS_CU_PIECE_CHUNKS : 1,
        CHUNK_GROUPS = CODED ? 4 / STEPS : 0, GROUPS = CHUNKS * CHUNK_GROUPS,
        CHUNK_VECTORS = WORDS * 8, WORD_VECTORS = CHUNKS * CHUNK_VECTORS,
        SCALE_VECTORS = PAIRS_VECTORS * GROUPS, ZERO_VECTORS = ZEROS ? GROUPS : 0,
        META_VECTORS = SCALE_VECTORS + ZERO_VECTORS,
        VECTORS = WORD_VECTORS + META_VECTORS,
    };
    static_assert(META_VECTORS <= 32, "one copy of a warp");
};

/* How the work is cut for COLUMNS groups of eight columns of B: as many warps as have registers, so that they hide each
 * other's waits, and from two groups on two tiles that share what is read of x. OWN: one row of x that blocks split for
 * themselves. A block takes more than half of a multiprocessor, so that none gets two while another waits. */
template <int COLUMNS, class WORK, bool OWN> struct cut {
    enum {
        VECTORS = WORK::VECTORS,
        TILES = COLUMNS == 1 ? 1 : 2,
        TEAMS = OWN ? (int)WORK::OWN_TEAMS : COLUMNS == 1 ? 3 : 2, /* at most */
        ROWS = TILES * QS_CU_TILE_ROWS,
        SLOT = TILES * VECTORS,
        BUDGET = OWN && TEAMS == 2 ? 4700 : COLUMNS == 1 ? 6200 : 8600, /* bytes of a ring */
        FIT = BUDGET / (SLOT * 16), DEPTH = FIT < 2 ? 2 : FIT > 8 ? 8 : FIT,
        SUMS = OWN ? 512 : COLUMNS == 1 ? 2304 : SLICES * ROWS * (8 * COLUMNS + 1), /* floats of a team's table */
    };
};

/* A group of tiles of one of the linears. */
struct place {
    int which, tile;
};

/* A gate and what it gates take turns. */
template <int TILES> __device__ __forceinline__ place place_of(const job &j, int item)
{
    place p = {0, item};
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && item >= j.first_item[i]) p = {i, item - j.first_item[i]};
    if (j.linears[0].gates) p = {item % 2, item / 2};
    p.tile *= TILES;
    return p;
}

/* The first item of a block, and how far a team's are behind those of the block's first; each takes every n_teams
 * gridDim.x-th. A gate and what it gates go to neighbours, which have their sums at the same time. */
__device__ __forceinline__ int first_item_of(const job &j)
{
    return j.linears[0].gates ? 2 * (int)blockIdx.x : (int)blockIdx.x;
}
__device__ __forceinline__ int team_offset(const job &j, int team)
{
    return j.linears[0].gates ? team / 2 * 2 * (int)gridDim.x + team % 2 : team * (int)gridDim.x;
}

/* Pieces of a slice: as many of every item, if not all are there. */
__device__ __forceinline__ int pieces_of(const job &j, int slice)
{
    return max(min(j.slice_pieces, j.n_pieces - slice * j.slice_pieces), 0);
}

/* Fills a warp's ring: where its next piece comes from. What the loop over pieces adds to is kept, not worked out anew:
 * it is a fifth of the instructions that a warp has for a piece of 4-bit codes. */
template <int FORMAT, int STEPS, bool ZEROS, int TILES> struct even_feeder {
    using part = piece<FORMAT, STEPS, ZEROS>;
    const char *words, *meta; /* of the lane: of the next piece; of its vector of the first group */
    uint32_t at;              /* twice the k-step at which the lane's group of the next piece begins */
    int item, step, n_steps;

    static __device__ __forceinline__ bool has_scale(int lane) { return !ZEROS || lane < part::SCALE_VECTORS; }
    static __device__ __forceinline__ uint32_t group_bytes(int lane)
    {
        return has_scale(lane) ? 16 * part::PAIRS_VECTORS : 16;
    }

    __device__ __forceinline__ void find(const job &j, int slice, int lane)
    {
        if (item >= j.n_items) return;
        place p = place_of<TILES>(j, item);
        const qs_cu_linear &l = j.linears[p.which];
        int64_t tile = p.tile, chunk = (int64_t)slice * j.slice_pieces * part::CHUNKS;
        words = reinterpret_cast<const char *>(l.words) +
                ((tile * j.n_chunks + chunk) * part::CHUNK_VECTORS + lane) * (int64_t)sizeof(uint4);
        bool is_scale = has_scale(lane);
        int group = is_scale ? lane / part::PAIRS_VECTORS : lane - part::SCALE_VECTORS; /* of the piece's */
        meta = reinterpret_cast<const char *>(is_scale ? (const void *)l.scales : (const void *)l.zeros) +
               tile * j.n_groups * group_bytes(lane) + (is_scale ? lane % part::PAIRS_VECTORS * 16 : 0);
        at = 2 * (uint32_t)(4 * (int)chunk + STEPS * group);
        step = 0;
    }
    __device__ __forceinline__ void start(const job &j, int first_item, int slice, int, int lane)
    {
        n_steps = pieces_of(j, slice);
        item = n_steps > 0 ? first_item : j.n_items;
        find(j, slice, lane);
    }
    /* Starts the copies of a piece of TILES tiles; a group of copies is counted even when nothing is left. */
    __device__ __forceinline__ void feed(const job &j, uint4 *slot, int slice, int item_step, int lane)
    {
        if (item < j.n_items) {
            int group = 0;
            if (part::META_VECTORS > 0)
                group = min((int)__umulhi(at, j.group_magic), j.n_groups - 1); /* behind the last: x is 0 */
#pragma unroll
            for (int r = 0; r < TILES; r++) {
                const char *from = words + r * j.n_chunks * (part::CHUNK_VECTORS * (int64_t)sizeof(uint4));
                uint4 *to = slot + r * part::VECTORS + lane;
#pragma unroll
                for (int i = 0; i < part::WORD_VECTORS; i += 32)
                    if (i + 32 <= part::WORD_VECTORS || i + lane < part::WORD_VECTORS)
                        qs_copy_async16(to + i, from + i * sizeof(uint4));
                if (lane < part::META_VECTORS)
                    qs_copy_async16(to + part::WORD_VECTORS,
                                    meta + (uint32_t)(r * j.n_groups + group) * group_bytes(lane));
            }
            words += part::WORD_VECTORS * sizeof(uint4);
            at += 2 * 4 * part::CHUNKS;
            if (++step == n_steps) {
                item += item_step;
                find(j, slice, lane);
            }
        }
        qs_copy_async_commit();
    }
};

} // namespace

#endif
