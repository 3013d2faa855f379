/* What the kernels of few rows of x share (linear_few.cu, linear_mixed.cu, linear_row.h): products of a piece, sums,
 * the way of a warp through its pieces, and launches (.cu files only). */
#ifndef QS_BACKEND_CUDA_LINEAR_PARTS_H
#define QS_BACKEND_CUDA_LINEAR_PARTS_H

#include "backend/cuda/coding.h"
#include "backend/cuda/device.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/linear_ring.h"
#include "backend/cuda/linear_x.h"
#include "backend/cuda/rounding.h"

namespace {

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
        if (OWN) load_x<COLUMNS, OWN, (bool)PART::SPARE>(b, x, chunk + h);
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
template <int TILES, bool ROUNDS>
__device__ __forceinline__ float sum_up(const job &j, const qs_cu_linear &l, const float *sums, const float *scale,
                                        int e, int64_t out)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    int x_row = e / ROWS;
    const float *at = sums + e % ROWS * j.width + x_row * j.n_terms;
    float y = 0.0f;
#pragma unroll
    for (int s = 0; s < SLICES; s++, at += ROWS * j.width) y += j.n_terms == 2 ? at[0] + at[1] : at[0];
    if (ROUNDS && l.absmax != nullptr) y = qs_cu_decode_sum(y, scale[x_row], l.absmax[out]);
    else y *= scale[x_row];
    if (l.bias != nullptr) y += ROUNDS ? qs_cu_round_to(l.bias[out], j.rounding) : l.bias[out];
    return ROUNDS ? qs_cu_round_to(y, j.rounding) : y;
}

/* Out to y. gated_sums: of what the item gates, if it does. */
template <int TILES, bool ROUNDS>
__device__ __forceinline__ void finish(const job &j, int item, const float *sums, const float *gated_sums,
                                       const float *scale, int e)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    place p = place_of<TILES>(j, item);
    const qs_cu_linear &l = j.linears[p.which];
    int64_t out = (int64_t)p.tile * QS_CU_TILE_ROWS + e % ROWS;
    if (out >= l.n_out) return;
    float y = sum_up<TILES, ROUNDS>(j, l, sums, scale, e, out);
    if (l.gates) y = qs_cu_silu_mul_of(y, sum_up<TILES, ROUNDS>(j, j.linears[1], gated_sums, scale, e, out));
    float *to = l.y + e / ROWS * l.n_out + out;
    *to = l.add ? *to + y : y;
}

/* A team's share: results of the `kept` items of each of n_teams from item `first` on; n_sums floats of a team's
 * table. */
template <int TILES, bool ROUNDS>
__device__ __forceinline__ void finish_items(const job &j, const float *tables, int n_sums, int n_teams, int kept,
                                             int first, int item_step, const float *scale)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int n_parts = (ROWS * j.n + 31) / 32; /* a warp's share of an item's results */
    for (int task = warp; task < kept * n_teams * n_parts; task += n_teams * SLICES) {
        int which = task / n_parts, e = task % n_parts * 32 + lane;
        int turn = which / n_teams, of = which % n_teams, done = first + turn * item_step + team_offset(j, of);
        if (done >= j.n_items || e >= ROWS * j.n || (j.linears[0].gates && of % 2 != 0)) continue;
        const float *sums = tables + of * n_sums + turn * SLICES * ROWS * j.width;
        finish<TILES, ROUNDS>(j, done, sums, sums + n_sums, scale, e);
    }
}

/* ---- the kernel ---- */

/* WORK: what pieces are like. It has VECTORS of a piece's place in a ring; BF16, elements of both factors; PERM,
 * whether a row of x that blocks split for themselves may have to be put in order; CODES, whether it may have to be
 * coded; SPAN, chunks of which sums lie behind it, in SUM_UNIT, or 0; ROUNDS, whether results are rounded; TABLE and
 * put_table, whether weights are looked up in 16 words, and where they are written; feeder<TILES>, which fills rings;
 * and walker<COLUMNS, TILES, OWN>, which takes a warp through the pieces of an item in the order that they were fed in.
 */
template <class WORK, int COLUMNS, bool OWN>
__global__ void __launch_bounds__(cut<COLUMNS, WORK, OWN>::TEAMS *TEAM, 1) linear_few(job j)
{
    using shape = cut<COLUMNS, WORK, OWN>;
    enum { TILES = shape::TILES, ROWS = shape::ROWS, DEPTH = shape::DEPTH, SLOT = shape::SLOT, SUMS = shape::SUMS };
    QS_DYNAMIC_SHARED(uint4, shared);
    __shared__ row_notes notes;
    __shared__ __align__(256) uint32_t table[WORK::TABLE ? WORK::TABLE_WORDS : 1]; /* qs_table_entry */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slice = warp % SLICES, team = warp / SLICES;
    const int n_teams = blockDim.x / TEAM, item_step = n_teams * (int)gridDim.x;
    uint4 *ring = shared + warp * DEPTH * SLOT;
    float *tables = reinterpret_cast<float *>(shared + n_teams * SLICES * DEPTH * SLOT);
    WORK::put_table(j, table);
    typename WORK::template feeder<TILES> next;
    next.start(j, first_item_of(j) + team_offset(j, team), slice, item_step, lane);
    for (int i = 0; i < DEPTH - 1; i++) next.feed(j, ring + i * SLOT, slice, item_step, lane);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    lane_x x = {};
    const float *scale = j.scale;
    x.column = lane / 4;
    x.n_columns = j.n_columns;
    if (OWN) {
        uint16_t *terms = reinterpret_cast<uint16_t *>(tables + n_teams * SUMS);
        qs_whole_block block;
        take_x<WORK, shape::TEAMS * TEAM>(j, terms, notes, block);
        scale = &notes.down;
        x.row = terms + min(x.column, j.n_columns - 1) * j.x_stride + 16 * (lane % 4);
    } else {
        x.fragments = reinterpret_cast<const uint4 *>(j.terms) + lane;
    }
    if (WORK::TABLE && !OWN) __syncthreads(); /* take_x ends with one */
    typename WORK::template walker<COLUMNS, TILES, OWN> walk;
    walk.start(j, x, slice);
    int full = 0, empty = (DEPTH - 1) * SLOT;      /* slots, in vectors */
    int kept = 0, first = first_item_of(j);        /* items since the last addition; of these */
    for (int base = first; base < j.n_items; base += item_step) {
        int item = base + team_offset(j, team);
        if (item < j.n_items) {
            float total[TILES][COLUMNS][4] = {};
            int n_steps = walk.enter(j, slice, item);
#pragma unroll 1
            for (int step = 0; step < n_steps; step++) {
                qs_copy_async_wait<DEPTH - 2>();
                __syncwarp(); /* copies of all lanes are there, and all have read what is written next */
                next.feed(j, ring + empty, slice, item_step, lane);
                walk.add(total, j, ring + full, table, step, lane);
                empty = full;
                full = full == (DEPTH - 1) * SLOT ? 0 : full + SLOT;
            }
            leave_sums<COLUMNS, TILES>(j, total, tables + team * SUMS + (kept * SLICES + slice) * ROWS * j.width, lane);
        }
        bool is_last = base + item_step >= j.n_items;
        if (++kept < j.batch && !is_last) continue;
        __syncthreads();
        finish_items<TILES, WORK::ROUNDS>(j, tables, SUMS, n_teams, kept, first, item_step, scale);
        if (!is_last) __syncthreads();
        kept = 0;
        first = base + item_step;
    }
}

/* ---- launch ---- */

/* How a launch goes: multiprocessors of the device, shared memory that a block may have, x and its scratch. */
struct how {
    int n_sms;
    size_t shared_bytes;
    bool soon, is_bf16, is_rare; /* rare: without kernels for one row and for 32 columns */
    qs_cu_one_row one_row;
    int64_t group_size;
    const float *x;
    const int32_t *perm;
    const qs_cu_x *terms;
};

enum { SYSTEM_BYTES = 1024 /* of each block's shared memory */ };

/* Shared memory of a block of n_teams. */
template <class WORK, int COLUMNS, bool OWN> size_t bytes_of(int n_teams, size_t x_bytes)
{
    using shape = cut<COLUMNS, WORK, OWN>;
    return n_teams * (SLICES * shape::DEPTH * shape::SLOT * sizeof(uint4) + shape::SUMS * sizeof(float)) + x_bytes;
}

/* As many teams as fit; 0 = not even one. */
template <class WORK, int COLUMNS, bool OWN> int teams_of(const how *h, size_t x_bytes)
{
    enum { TABLE_BYTES = WORK::TABLE_WORDS * sizeof(uint32_t) };
    int n = cut<COLUMNS, WORK, OWN>::TEAMS;
    while (n > 0 && bytes_of<WORK, COLUMNS, OWN>(n, x_bytes) + TABLE_BYTES > h->shared_bytes - SYSTEM_BYTES) n--;
    return n;
}

/* Says in j what is to do; n_sums floats of a team's table. Returns the number of blocks. */
template <int TILES> int count_items(job *j, const how *h, int n_teams, int n_sums)
{
    j->n_items = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_item[i] = j->n_items;
        j->n_items += (int)(qs_cu_n_tiles(j->linears[i].n_out) / TILES);
    }
    if (n_teams % 2 != 0) j->linears[0].gates = false; /* for_rows sees to it */
    j->n_columns = j->n * j->n_terms;
    j->width = j->n_columns | 1;
    j->batch = n_sums / (SLICES * TILES * QS_CU_TILE_ROWS * j->width);
    return j->n_items < h->n_sms ? j->n_items : h->n_sms;
}

template <class WORK, int COLUMNS, bool OWN>
int launch_from(void *stream, job *j, const how *h, int n_teams, size_t x_bytes)
{
    using shape = cut<COLUMNS, WORK, OWN>;
    size_t bytes = bytes_of<WORK, COLUMNS, OWN>(n_teams, x_bytes), half = h->shared_bytes / 2;
    if (bytes <= half) bytes = half + SYSTEM_BYTES;
    int n_blocks = count_items<shape::TILES>(j, h, n_teams, shape::SUMS);
    j->n_pieces = (j->n_chunks + WORK::CHUNKS - 1) / WORK::CHUNKS;
    j->slice_pieces = (j->n_pieces + SLICES - 1) / SLICES;
    int status = qs_allow_shared(linear_few<WORK, COLUMNS, OWN>, bytes);
    if (status != 0) return status;
    if (h->soon)
        QS_LAUNCH_SOON((linear_few<WORK, COLUMNS, OWN>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream,
                       *j);
    else
        QS_LAUNCH((linear_few<WORK, COLUMNS, OWN>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *j);
    return qs_launch_status();
}

/* Whether a block of n_teams, of which each may have n_most, splits the only row of x for itself; its terms. */
template <class WORK> bool takes_own(const job *j, const how *h, int n_teams, int n_most)
{
    int64_t most = j->norm != nullptr ? (int)OWN_NORM_COLUMNS_MAX : (int)QS_CU_OWN_COLUMNS_MAX;
    bool is_aligned = (reinterpret_cast<uintptr_t>(h->x) | reinterpret_cast<uintptr_t>(j->norm)) % 16 == 0;
    return j->n == 1 && (WORK::PERM || h->perm == nullptr) && j->n_in % 4 == 0 && j->n_in <= most * n_teams / n_most &&
           is_aligned;
}
inline size_t own_bytes(const job *j) { return (size_t)(j->n * j->n_terms * j->x_stride) * sizeof(uint16_t); }

/* One row that blocks split for themselves, where that can be, which *done says. */
template <class WORK> int launch_own(void *stream, job *j, const how *h, bool *done)
{
    size_t x_bytes = own_bytes(j);
    int n_teams = teams_of<WORK, 1, true>(h, x_bytes);
    *done = takes_own<WORK>(j, h, n_teams, WORK::OWN_TEAMS);
    return *done ? launch_from<WORK, 1, true>(stream, j, h, n_teams, x_bytes) : 0;
}

/* n rows of x that one launch takes. FULL: all the kernels; else those for 8 and 16 columns, for forms that are
 * rare. */
template <class WORK, bool FULL = true> int launch(void *stream, job *j, const how *h)
{
    int n_columns = j->n * j->n_terms;
    if constexpr (FULL) {
        bool done;
        int status = launch_own<WORK>(stream, j, h, &done);
        if (done || status != 0) return status;
    }
    int status = qs_cu_prepare_x(stream, h->x, j->n_in, h->perm, h->is_bf16, h->terms);
    if (status != 0) return status;
    if (n_columns <= 8) return launch_from<WORK, 1, false>(stream, j, h, teams_of<WORK, 1, false>(h, 0), 0);
    if constexpr (FULL)
        if (n_columns > 16) return launch_from<WORK, 4, false>(stream, j, h, teams_of<WORK, 4, false>(h, 0), 0);
    return launch_from<WORK, 2, false>(stream, j, h, teams_of<WORK, 2, false>(h, 0), 0);
}

/* All rows of x: run(stream, job, how) for as many of them at a time as a launch takes. `j` holds what is said of the
 * columns. */
template <class RUN>
int for_rows(void *stream, job *j, how h, const qs_cu_linear *linears, int n_linears, const qs_cu_x *terms, RUN run)
{
    /* More rows take a launch more; where shared memory does not hold sums of 32 columns beside rings, half as many. */
    enum { WIDE_BYTES = 110 << 10 };
    int rows_max = (h.shared_bytes >= WIDE_BYTES && !h.is_rare ? 32 : 16) / terms->n_terms;
    const float *x = h.x;
    bool soon = h.soon;
    j->n_linears = n_linears;
    j->x_stride = (int)qs_cu_x_width(j->n_in) + X_PAD;
    j->n_chunks = (int)qs_cu_n_chunks(j->n_in);
    j->perm = h.perm;
    j->terms = terms->terms;
    j->scale = terms->scale;
    j->norm = terms->norm;
    j->norm_eps = terms->norm_eps;
    j->n_terms = terms->n_terms;
    j->is_coded = terms->is_coded;
    j->threshold = terms->threshold;
    for (int64_t first = 0; first < terms->n; first += rows_max) {
        qs_cu_x part = *terms;
        part.n = terms->n - first < rows_max ? terms->n - first : rows_max;
        h.x = x + first * j->n_in;
        h.terms = &part;
        h.soon = soon || first > 0;
        j->x = h.x;
        j->n = (int)part.n;
        for (int i = 0; i < n_linears; i++) {
            j->linears[i] = linears[i];
            j->linears[i].y += first * linears[i].n_out;
        }
        int status = run(stream, j, &h);
        if (status == 0 && linears[0].gates && !j->linears[0].gates)
            status = qs_cu_silu_mul(stream, j->linears[0].y, j->linears[1].y, part.n * linears[0].n_out,
                                    j->linears[0].y);
        if (status != 0) return status;
    }
    return 0;
}

} // namespace

#endif
