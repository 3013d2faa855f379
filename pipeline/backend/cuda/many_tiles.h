/* Tiles of linear_many.cu, and how blocks share them (that file alone includes this).
 *
 * A team is a block, or a cluster of blocks that have the same rows of W and neighbouring tiles of rows of x; an item
 * is what it computes at a time. Each team has as many whole items as the others. What is left over at the end is cut
 * into ranges of chunks of equal length, one a team; a tile that several blocks have parts of is added up by the one
 * that comes last, in the order of the parts, so that results do not depend on which that is.
 *
 * A strip of a gate and what it gates has half its rows from each, every other block of 64: a thread's sums are of
 * the same rows of both. */
#ifndef QS_BACKEND_CUDA_MANY_TILES_H
#define QS_BACKEND_CUDA_MANY_TILES_H

#include "backend/cuda/cluster.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"

namespace {

enum { GROUP = 128 /* threads of a warpgroup */, N_GROUPS = 2,
       CONSUMERS = N_GROUPS * GROUP, THREADS = CONSUMERS + GROUP,
       CONSUMER_REGISTERS = 232, PRODUCER_REGISTERS = 40,
       RING_BYTES = 200 << 10, STAGES_MAX = 8, ALIGNMENT = 1024, PART_CHUNKS = 4 /* of a range at least */,
       X_ROW_BYTES = QS_CU_CHUNK * 2 };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int n_tiles[QS_CU_LINEARS_MAX], first_strip[QS_CU_LINEARS_MAX]; /* of 16 rows; in strips of ROWS rows of W */
    int n_linears;
    int n_chunks, n_groups;
    uint32_t group_magic; /* group of k-step s: __umulhi(2 s, group_magic) */
    const char *x;        /* [chunk][row][64], swizzled: qs_cu_prepare_many */
    const float *scale;   /* [n] */
    int n, x_rows;        /* rows of x, and rows that there is room for */
    int n_columns;        /* tiles of y^T beside each other */
    int n_rounds;         /* whole items of each team */
    int first_split, n_ranges, n_split_chunks; /* items from first_split on are split */
    float values[16];                          /* of a table */
    float *parts;
    unsigned *n_arrived;  /* [range] of the parts of the tile that begins there; 0 between launches */
};

struct barriers {
    uint64_t full[STAGES_MAX], empty[STAGES_MAX], together;
};

/* What one kernel is for: BLOCKS blocks of 64 rows of W a warpgroup, N rows of x, STEPS k-steps to a group, TEAM thread
 * blocks that share what they read of W. */
template <int FORMAT_, int STEPS_, bool ZEROS_, int BLOCKS_, int N_, int TEAM_> struct form {
    enum {
        FORMAT = FORMAT_, STEPS = STEPS_, ZEROS = ZEROS_, BLOCKS = BLOCKS_, N = N_, TEAM = TEAM_,
        TABLE = FORMAT >= QS_CU_TABLE, CODES = FORMAT == QS_CU_INT8 /* perhaps int8 of packed.h */,
        BF16 = FORMAT == QS_CU_BF16 || FORMAT == QS_CU_TABLE_BF16,
        CODED = qs_unpacker<FORMAT>::CODED, WORDS = qs_unpacker<FORMAT>::WORDS,
        ROWS = N_GROUPS * BLOCKS * 64, TILES = ROWS / QS_CU_TILE_ROWS, TILE_BYTES = WORDS * 128,
        X_BYTES = N * X_ROW_BYTES, STAGE_BYTES = X_BYTES + TILES * TILE_BYTES,
        FIT = RING_BYTES / STAGE_BYTES, STAGES = FIT > STAGES_MAX ? STAGES_MAX : FIT,
        SHARED_BYTES = ALIGNMENT + STAGES * STAGE_BYTES + (int)sizeof(barriers),
        PART_FLOATS = ROWS * N, CHUNK_GROUPS = CODED ? 4 / STEPS : 0,
    };
    static_assert(TILES < 32 && TILES / TEAM % 4 == 0, "a lane a copy, as many in each warp");
    static_assert(BLOCKS == 2, "a block of a gate and one of what it gates");
    static_assert(TEAM == 1 || (int)TEAM == (int)QS_CLUSTER, "a block, or a cluster");
};

#ifdef QS_WGMMA

/* A part of a tile, or all of it. */
struct segment {
    int strip, column;     /* of the tile */
    int chunk, end;
    int first, part, last; /* ranges that have parts of it, and this one's */
};

/* The segments of a block, in their order; those of a team are of the same strips and chunks. */
template <class F> struct walk {
    int round, at, end; /* chunks of the team's range */

    __device__ __forceinline__ explicit walk(const job &j) : round(0)
    {
        int64_t total = j.n_split_chunks, r = blockIdx.x / F::TEAM;
        at = (int)(r < j.n_ranges ? r * total / j.n_ranges : 0);
        end = (int)(r < j.n_ranges ? (r + 1) * total / j.n_ranges : 0);
    }
    /* The range that has a chunk of the split ones. */
    static __device__ __forceinline__ int range_of(const job &j, int64_t chunk)
    {
        return (int)(((chunk + 1) * j.n_ranges - 1) / j.n_split_chunks);
    }
    __device__ __forceinline__ bool next(const job &j, segment *s)
    {
        int item, team = (int)blockIdx.x / F::TEAM, n_columns = j.n_columns / F::TEAM;
        *s = {0, 0, 0, j.n_chunks, 0, 0, 0};
        if (round < j.n_rounds) {
            item = round++ * ((int)gridDim.x / F::TEAM) + team;
        } else {
            if (at >= end) return false;
            int of = at / j.n_chunks;
            item = j.first_split + of;
            s->chunk = at % j.n_chunks;
            s->end = min(j.n_chunks, s->chunk + end - at);
            s->part = team;
            s->first = range_of(j, (int64_t)of * j.n_chunks);
            s->last = range_of(j, (int64_t)(of + 1) * j.n_chunks - 1);
            at += s->end - s->chunk;
        }
        s->strip = item / n_columns;
        s->column = item % n_columns * F::TEAM + (int)blockIdx.x % F::TEAM;
        return true;
    }
};

/* The linear that a strip is of, its tiles of 16 rows, and the strip's first. gates: of the linear and the one behind
 * it. */
struct place {
    const qs_cu_linear *linear;
    int n_tiles, tile;
    bool gates;

    /* The tile that a warp of a group has in a block of 64 rows, and whose it is. */
    template <class F> __device__ __forceinline__ int tile_of(int group, int warp, int block) const
    {
        return tile + (gates ? 4 * group : 4 * (group * F::BLOCKS + block)) + warp;
    }
    __device__ __forceinline__ const qs_cu_linear *linear_of(int block) const { return linear + (gates ? block : 0); }
};
template <class F> __device__ __forceinline__ place place_of(const job &j, int strip)
{
    int which = 0;
    if (j.linears[0].gates) return {&j.linears[0], j.n_tiles[0], strip * (int)(F::TILES / F::BLOCKS), true};
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && strip >= j.first_strip[i]) which = i;
    return {&j.linears[which], j.n_tiles[which], (strip - j.first_strip[which]) * (int)F::TILES, false};
}

#endif

/* Items, and how teams share them. Returns how many blocks there are. */
template <class F> int share_out(job *j, int n_sms)
{
    int n_strips = 0, n_linears = j->linears[0].gates ? 1 : j->n_linears;
    int64_t rows = j->linears[0].gates ? F::ROWS / F::BLOCKS : F::ROWS; /* of each linear in a strip */
    for (int i = 0; i < n_linears; i++) {
        j->n_tiles[i] = (int)qs_cu_n_tiles(j->linears[i].n_out);
        j->first_strip[i] = n_strips;
        n_strips += (int)((j->linears[i].n_out + rows - 1) / rows);
    }
    int n_items = n_strips * (j->n_columns / F::TEAM), n_teams = n_sms / F::TEAM;
    int64_t n_chunks = (int64_t)n_items * j->n_chunks, most = (n_chunks + PART_CHUNKS - 1) / PART_CHUNKS;
    n_teams = (int)(most < n_teams ? most : n_teams);
    j->n_rounds = n_items / n_teams;
    j->first_split = j->n_rounds * n_teams;
    j->n_split_chunks = (n_items - j->first_split) * j->n_chunks;
    int n_ranges = (j->n_split_chunks + PART_CHUNKS - 1) / PART_CHUNKS;
    j->n_ranges = n_ranges < n_teams ? n_ranges : n_teams;
    return n_teams * F::TEAM;
}

} // namespace

#endif
