/* What the kernels of few rows of x share (linear_few.cu, linear_mixed.cu): x as B fragments, products of a piece,
 * sums, the way of a warp through its pieces, and the kernel and launches for rows that are readied before; one row alone
 * has linear_row.h (.cu files only). */
#ifndef QS_BACKEND_CUDA_LINEAR_PARTS_H
#define QS_BACKEND_CUDA_LINEAR_PARTS_H

#include <stdlib.h>

#include "backend/cuda/device.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/linear_ring.h"
#include "backend/cuda/rounding.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/unpack.h"

namespace {

/* ---- activations ---- */

/* Where a lane finds its B fragments of a chunk: rows of terms in shared memory, or fragments as they are
 * (qs_cu_prepare_x) in global memory, which the L1 cache keeps for the other tiles. */
struct lane_x {
    const uint16_t *row;    /* shared */
    const uint4 *fragments; /* global */
    int column, n_columns;
};

template <int COLUMNS, bool OWN>
__device__ __forceinline__ void load_x(uint32_t (&b)[COLUMNS][8], const lane_x &x, int chunk)
{
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        const uint4 *from = OWN ? reinterpret_cast<const uint4 *>(x.row + chunk * QS_CU_CHUNK)
                                : x.fragments + (chunk * COLUMNS + c) * 64;
        if (OWN || 8 * c + x.column < x.n_columns) low = from[0], high = from[OWN ? 1 : 32];
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
    }
}

/* ---- products ---- */

template <bool BF16> __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (BF16) qs_mma_bf16(c, a, b);
    else qs_mma_f16(c, a, b);
}

/* A piece from its first chunk on. b: B fragments of that chunk; those of chunk `then` on return, unless they come from
 * shared memory. */
template <class PART, int COLUMNS, int TILES, bool OWN>
__device__ __forceinline__ void add_piece(float (&total)[TILES][COLUMNS][4], const uint4 *slot, const uint32_t *table,
                                          const lane_x &x, int chunk, int then, uint32_t (&b)[COLUMNS][8], int lane)
{
#pragma unroll
    for (int h = 0; h < PART::CHUNKS; h++) {
        uint32_t ahead[COLUMNS][8];
        if (OWN) load_x<COLUMNS, OWN>(b, x, chunk + h);
        else load_x<COLUMNS, OWN>(ahead, x, h + 1 < PART::CHUNKS ? chunk + h + 1 : then);
#pragma unroll
        for (int r = 0; r < TILES; r++)
            PART::template add_chunk<COLUMNS>(total[r], slot + r * PART::VECTORS, table, h, b, lane);
#pragma unroll
        for (int i = 0; i < (OWN ? 0 : 8 * COLUMNS); i++) b[i / 8][i % 8] = ahead[i / 8][i % 8];
    }
}

/* ---- sums ---- */

/* Where the warps of a team leave what they have of an item: [slice][row][width]. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void leave_sums(const job &j, const float (&total)[TILES][COLUMNS][4], float *sums, int lane)
{
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int column = 8 * c + 2 * (lane % 4) + e % 2, row = r * QS_CU_TILE_ROWS + lane / 4 + e / 2 * 8;
                if (column < j.n_columns) sums[row * j.width + column] = total[r][c][e];
            }
}

/* Slices in their order, terms of a row of x together, and bias. e counts rows of the item and, above those, rows of x;
 * out: row of the matrix. */
template <int TILES, bool TABLE>
__device__ __forceinline__ float sum_up(const job &j, const qs_cu_linear &l, const float *sums, const float *scale, int e,
                                        int64_t out)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    int x_row = e / ROWS;
    const float *at = sums + e % ROWS * j.width + x_row * j.n_terms;
    float y = 0.0f;
#pragma unroll
    for (int s = 0; s < SLICES; s++, at += ROWS * j.width) y += j.n_terms == 2 ? at[0] + at[1] : at[0];
    y *= scale[x_row];
    if (l.bias != nullptr) y += TABLE ? qs_cu_round_to(l.bias[out], j.rounding) : l.bias[out];
    return TABLE ? qs_cu_round_to(y, j.rounding) : y;
}

/* Out to y. gated_sums: of what the item gates, if it does. */
template <int TILES, bool TABLE>
__device__ __forceinline__ void finish(const job &j, int item, const float *sums, const float *gated_sums,
                                       const float *scale, int e)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    place p = place_of<TILES>(j, item);
    const qs_cu_linear &l = j.linears[p.which];
    int64_t out = (int64_t)p.tile * QS_CU_TILE_ROWS + e % ROWS;
    if (out >= l.n_out) return;
    float y = sum_up<TILES, TABLE>(j, l, sums, scale, e, out);
    if (l.gates) y = qs_cu_silu_mul_of(y, sum_up<TILES, TABLE>(j, j.linears[1], gated_sums, scale, e, out));
    float *to = l.y + e / ROWS * l.n_out + out;
    *to = l.add ? __ldcg(to) + y : y; /* an earlier product of the launch may have left it (linear_row.h) */
}

/* ---- the kernel ---- */

/* WORK: what pieces are like. It has VECTORS of a piece's place in a ring; BF16, elements of both factors; PERM, whether
 * a row of x that blocks split for themselves may have to be put in order; TABLE and put_table, whether weights are looked
 * up in 16 words, and where they are written; feeder<TILES>, which fills rings; and walker<COLUMNS, TILES, OWN>, which takes a
 * warp through the pieces of an item in the order that they were fed in. */

/* A warp's ring: the slot that is multiplied next, and the one that is filled next. */
template <int SLOT, int DEPTH> struct warp_ring {
    uint4 *slots;
    int full, empty;

    __device__ __forceinline__ explicit warp_ring(uint4 *at) : slots(at), full(0), empty(0) {}
    __device__ __forceinline__ const uint4 *take()
    {
        const uint4 *slot = slots + full * SLOT;
        full = full + 1 == DEPTH ? 0 : full + 1;
        return slot;
    }
    __device__ __forceinline__ uint4 *fill()
    {
        uint4 *slot = slots + empty * SLOT;
        empty = empty + 1 == DEPTH ? 0 : empty + 1;
        return slot;
    }
};

/* A thread's place among the others. */
struct worker {
    int lane, warp, slice, team, n_teams, item_step;

    __device__ __forceinline__ worker()
        : lane(threadIdx.x % 32), warp(threadIdx.x / 32), slice(warp % SLICES), team(warp / SLICES),
          n_teams(blockDim.x / TEAM), item_step(n_teams * (int)gridDim.x)
    {
    }
};

/* The block's items of a job, their weights from the rings, which feed() fills on. tables: sums of the teams. */
template <class WORK, int COLUMNS, bool OWN, class RING, class FEED>
__device__ __forceinline__ void multiply_items(const job &j, const worker &w, RING &ring, float *tables,
                                               const uint32_t *table, const lane_x &x, const float *scale, FEED feed)
{
    using shape = cut<COLUMNS, WORK::VECTORS, OWN>;
    enum { TILES = shape::TILES, ROWS = shape::ROWS, DEPTH = shape::DEPTH, SUMS = shape::SUMS };
    typename WORK::template walker<COLUMNS, TILES, OWN> walk;
    walk.start(j, x, w.slice);
    int kept = 0, first = first_item_of(j); /* items since the last addition; of these items */
    for (int base = first; base < j.n_items; base += w.item_step) {
        int item = base + team_offset(j, w.team);
        if (item < j.n_items) {
            float total[TILES][COLUMNS][4] = {};
            int n_steps = walk.enter(j, x, w.slice, item);
#pragma unroll 1
            for (int step = 0; step < n_steps; step++) {
                qs_copy_async_wait<DEPTH - 2>();
                __syncwarp(); /* copies of all lanes are there, and all have read what is written next */
                feed();
                walk.add(total, j, ring.take(), table, x, w.slice, step, w.lane);
            }
            leave_sums<COLUMNS, TILES>(j, total, tables + w.team * SUMS + (kept * SLICES + w.slice) * ROWS * j.width, w.lane);
        }
        bool is_last = base + w.item_step >= j.n_items;
        if (++kept < j.batch && !is_last) continue;
        __syncthreads();
        int n_parts = (ROWS * j.n + 31) / 32; /* a warp's share of an item's results */
        for (int task = w.warp; task < kept * w.n_teams * n_parts; task += w.n_teams * SLICES) {
            int which = task / n_parts, e = task % n_parts * 32 + w.lane;
            int turn = which / w.n_teams, of = which % w.n_teams, done = first + turn * w.item_step + team_offset(j, of);
            if (done >= j.n_items || e >= ROWS * j.n || (j.linears[0].gates && of % 2 != 0)) continue;
            const float *sums = tables + of * SUMS + turn * SLICES * ROWS * j.width;
            finish<TILES, WORK::TABLE != 0>(j, done, sums, sums + SUMS, scale, e);
        }
        if (!is_last) __syncthreads();
        kept = 0;
        first = base + w.item_step;
    }
}

/* Rows of x that were readied before (qs_cu_prepare_x). */
template <class WORK, int COLUMNS>
__global__ void __launch_bounds__(cut<COLUMNS, 1, false>::TEAMS *TEAM, 1) linear_few(job j)
{
    using shape = cut<COLUMNS, WORK::VECTORS, false>;
    enum { TILES = shape::TILES, DEPTH = shape::DEPTH, SLOT = shape::SLOT };
    QS_DYNAMIC_SHARED(uint4, shared);
    __shared__ __align__(WORK::TABLE ? 256 : 4) uint32_t table[WORK::TABLE ? 16 : 1]; /* qs_table_entry */
    const worker w;
    warp_ring<SLOT, DEPTH> ring(shared + w.warp * DEPTH * SLOT);
    float *tables = reinterpret_cast<float *>(shared + w.n_teams * SLICES * DEPTH * SLOT);
    WORK::put_table(j, table);
    typename WORK::template feeder<TILES> next;
    next.start(j, first_item_of(j) + team_offset(j, w.team), w.slice, w.item_step, w.lane);
    auto feed = [&]() { next.feed(j, ring.fill(), w.slice, w.item_step, w.lane); };
    for (int i = 0; i < j.ahead; i++) feed();
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    lane_x x = {};
    x.column = w.lane / 4;
    x.n_columns = j.n_columns;
    x.fragments = reinterpret_cast<const uint4 *>(j.terms) + w.lane;
    if (WORK::TABLE) __syncthreads();
    for (int i = j.ahead; i < DEPTH - 1; i++) feed();
    multiply_items<WORK, COLUMNS, false>(j, w, ring, tables, table, x, j.scale, feed);
}

/* ---- launch ---- */

struct chain; /* linear_row.h */
/* How a launch goes: multiprocessors of the device, shared memory that a block may have, x and its scratch. */
struct how {
    int n_sms;
    size_t shared_bytes;
    bool soon, is_bf16, is_rare; /* rare: without kernels for one row and for 32 columns */
    const float *x;
    const int32_t *perm;
    const qs_cu_x *terms;
    chain *products; /* instead of x, perm and terms; or NULL */
};

enum { SYSTEM_BYTES = 1024 /* of each block's shared memory */ };

/* Shared memory of a block of n_teams. */
template <int COLUMNS, int VECTORS, bool OWN> size_t bytes_of(int n_teams, size_t x_bytes)
{
    using shape = cut<COLUMNS, VECTORS, OWN>;
    return n_teams * (SLICES * shape::DEPTH * shape::SLOT * sizeof(uint4) + shape::SUMS * sizeof(float)) + x_bytes;
}

/* As many teams as fit; 0 = not even one. */
template <int COLUMNS, int VECTORS, bool OWN> int teams_of(const how *h, size_t x_bytes)
{
    int n = cut<COLUMNS, VECTORS, OWN>::TEAMS;
    while (n > 0 && bytes_of<COLUMNS, VECTORS, OWN>(n, x_bytes) > h->shared_bytes - SYSTEM_BYTES) n--;
    return n;
}

/* What a job says of its items; n_teams to a block. */
template <class WORK, int COLUMNS, bool OWN> void cut_items(job *j, int n_teams)
{
    using shape = cut<COLUMNS, WORK::VECTORS, OWN>;
    const char *asked = getenv(OWN ? "QS_ROW_AHEAD" : "QS_ROWS_AHEAD");
    j->ahead = asked != nullptr && atoi(asked) < shape::DEPTH - 1 ? atoi(asked) : shape::DEPTH - 1;
    j->n_items = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_item[i] = j->n_items;
        j->n_items += (int)(qs_cu_n_tiles(j->linears[i].n_out) / shape::TILES);
    }
    if (n_teams % 2 != 0) j->linears[0].gates = false; /* for_rows sees to it */
    j->n_columns = j->n * j->n_terms;
    j->width = j->n_columns | 1;
    j->batch = shape::SUMS / (SLICES * shape::ROWS * j->width);
    j->n_pieces = (j->n_chunks + WORK::CHUNKS - 1) / WORK::CHUNKS;
    j->slice_pieces = (j->n_pieces + SLICES - 1) / SLICES;
}

/* A block takes more than half of a multiprocessor. */
inline size_t more_than_half(size_t bytes, const how *h)
{
    size_t half = h->shared_bytes / 2;
    return bytes <= half ? half + SYSTEM_BYTES : bytes;
}

template <class WORK, int COLUMNS> int launch_prepared(void *stream, job *j, const how *h)
{
    int n_teams = teams_of<COLUMNS, WORK::VECTORS, false>(h, 0);
    size_t bytes = more_than_half(bytes_of<COLUMNS, WORK::VECTORS, false>(n_teams, 0), h);
    cut_items<WORK, COLUMNS, false>(j, n_teams);
    int n_blocks = j->n_items < h->n_sms ? j->n_items : h->n_sms;
    int status = qs_allow_shared(linear_few<WORK, COLUMNS>, bytes);
    if (status != 0) return status;
    if (h->soon)
        QS_LAUNCH_SOON((linear_few<WORK, COLUMNS>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *j);
    else
        QS_LAUNCH((linear_few<WORK, COLUMNS>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *j);
    return qs_launch_status();
}

} // namespace

#endif
