/* One row of x on Hopper (linear_few.cu): weights come by bulk copies, which take no instruction of the warps that
 * multiply (.cu files only).
 *
 *   run     chunks of a slice that lie one behind the other: what a warp multiplies at a step
 *   stage   the runs of a team's eight slices of a tile, and their scales
 *   ring    a team's stages in shared memory, as many as fit, filled by a warp of its own
 *
 * Slices, and the order of their chunks, are those of the other kernels, so results are the same bits.
 *
 * Where the time goes (H100, 8B layer, int4, group 128, four launches of 50.7 us; by marks of %globaltimer, and by
 * compiling parts of the kernel out): memory alone 36; without products 44.2; without copies 37.5; without both 15.4,
 * which is launches, x and sums. Of a launch 0.25 until blocks begin when those before end, 1 until the first stage is
 * there, 1 to 1.5 from the last stage to the last sum, 0.5 to 0.75 from there to the block's end. x is there 1 to 3 us
 * after the kernel before has ended, that of q, k, v up to 5, since it stands behind copies. Of gate and up some
 * multiprocessors are done 8 to 11 us before others, and then fill their rings for the next. Tried, in us a layer at 4
 * bits: one team and two kernels on a multiprocessor, of which the second fills its ring while the first ends 69; both
 * teams so, in 56 registers a thread, 52 to 53; one team alone 66; three teams 56; runs of 2 chunks 68, of 8 chunks 55;
 * slices that take turns, so that one copy brings a stage, 52 (41.6 without products); a ring for each warp, which
 * fills it itself, 57, and then asks the L2 cache for the next product's first stages 59; products of a layer in one
 * launch, the ring running on over barriers of the grid, 57.5; rings of 4 stages a team 51, of 2 stages 55. */
#ifndef QS_BACKEND_CUDA_LINEAR_ROW_H
#define QS_BACKEND_CUDA_LINEAR_ROW_H

#include "backend/cuda/linear_parts.h"
#include "backend/cuda/wgmma.h"

namespace {

enum { ROW_TEAMS = 2, ROW_CONSUMERS = ROW_TEAMS * TEAM, ROW_THREADS = ROW_CONSUMERS + ROW_TEAMS * 32,
       ROW_STAGES_MAX = 16, ROW_SUMS = 1024 /* floats of a team's table */ };

template <class WORK> struct row_shape {
    enum {
        RUN = WORK::WORDS <= 4 ? 4 : WORK::WORDS <= 8 ? 2 : 1, /* chunks */
        CHUNK_GROUPS = WORK::CODED ? 4 / WORK::GROUP_STEPS : 1,
        CHUNK_BYTES = WORK::WORDS * 128, RUN_BYTES = RUN * CHUNK_BYTES, WORD_BYTES = SLICES * RUN_BYTES,
        /* Of a group. */
        SCALE_BYTES = WORK::CODED ? 16 * WORK::PAIRS_VECTORS : 0, ZERO_BYTES = WORK::HAS_ZEROS ? 16 : 0,
    };
};

/* A stage has words of all runs, then scales, then zero points, of run_groups groups a run at most. */
struct row_ring {
    int stage_bytes, n_stages;
    int slice_chunks, tile_stages, run_groups;
    bool is_even; /* all runs begin with a group, so their chunks' groups are the same of them */
};

struct row_barriers {
    uint64_t full[ROW_TEAMS][ROW_STAGES_MAX], empty[ROW_TEAMS][ROW_STAGES_MAX], together;
};

#ifdef QS_WGMMA

/* The warps that multiply. */
struct row_consumers {
    uint64_t *together;
    uint32_t parity;
    __device__ __forceinline__ int n_threads(void) const { return ROW_CONSUMERS; }
    __device__ __forceinline__ void sync(void) { qs_meet<ROW_CONSUMERS>(together, parity); }
};

/* For a whole block; ends with a barrier. */
__device__ __forceinline__ void ready_row_barriers(row_barriers &barriers, int n_stages)
{
    if (threadIdx.x == 0) {
        for (int t = 0; t < ROW_TEAMS; t++)
            for (int i = 0; i < n_stages; i++) {
                qs_barrier_init(&barriers.full[t][i], 1);
                qs_barrier_init(&barriers.empty[t][i], SLICES);
            }
        qs_barrier_init(&barriers.together, ROW_CONSUMERS / 32);
        qs_barrier_ready();
    }
    __syncthreads();
}

/* A place in a ring, and the parity of its phase. */
struct row_slot {
    int at;
    uint32_t parity;
    __device__ __forceinline__ void next(int n_stages)
    {
        if (++at == n_stages) at = 0, parity ^= 1u;
    }
};

/* Group of a k-step; behind the last x is 0. */
__device__ __forceinline__ int row_group_of(const job &j, int step)
{
    return min((int)__umulhi(2u * (uint32_t)step, j.group_magic), j.n_groups - 1);
}

/* What a run holds: chunks from `chunk` on, groups from `group` on. */
struct row_run {
    int chunk, n_chunks, group, n_groups;
};
template <class WORK> __device__ __forceinline__ row_run row_run_of(const job &j, const row_ring &r, int slice, int run)
{
    enum { RUN = row_shape<WORK>::RUN };
    row_run of;
    int end = min((slice + 1) * r.slice_chunks, j.n_chunks);
    of.chunk = slice * r.slice_chunks + run * RUN;
    of.n_chunks = max(min((int)RUN, end - of.chunk), 0);
    of.group = row_group_of(j, 4 * of.chunk);
    of.n_groups = of.n_chunks > 0 ? row_group_of(j, 4 * (of.chunk + of.n_chunks) - 1) - of.group + 1 : 0;
    return of;
}

/* A lane's copy for each stage: words, scales or zero points of one slice. */
template <class WORK> struct row_copy {
    using shape = row_shape<WORK>;
    int slice, part; /* 0 words, 1 scales, 2 zero points, 3 nothing */

    __device__ __forceinline__ explicit row_copy(int lane) : slice(lane % SLICES), part(lane / SLICES) {}
    __device__ __forceinline__ const char *of_tile(const job &j, const qs_cu_linear &l, int tile) const
    {
        int64_t groups = (int64_t)tile * j.n_groups;
        if (part == 0) return reinterpret_cast<const char *>(l.words) + (int64_t)tile * j.n_chunks * shape::CHUNK_BYTES;
        if (part == 1) return reinterpret_cast<const char *>(l.scales) + groups * shape::SCALE_BYTES;
        return reinterpret_cast<const char *>(l.zeros) + groups * shape::ZERO_BYTES;
    }
    __device__ __forceinline__ uint32_t bytes(const row_run &run) const
    {
        if (part == 0) return (uint32_t)(run.n_chunks * shape::CHUNK_BYTES);
        return (uint32_t)(part == 1 ? run.n_groups * shape::SCALE_BYTES : part == 2 ? run.n_groups * shape::ZERO_BYTES
                                                                                    : 0);
    }
    __device__ __forceinline__ int64_t from(const row_run &run) const
    {
        if (part == 0) return (int64_t)run.chunk * shape::CHUNK_BYTES;
        return (int64_t)run.group * (part == 1 ? (int)shape::SCALE_BYTES : (int)shape::ZERO_BYTES);
    }
    __device__ __forceinline__ int to(const row_ring &r) const
    {
        if (part == 0) return slice * shape::RUN_BYTES;
        if (part == 1) return shape::WORD_BYTES + slice * r.run_groups * shape::SCALE_BYTES;
        return shape::WORD_BYTES + r.run_groups * (SLICES * shape::SCALE_BYTES + slice * shape::ZERO_BYTES);
    }
};

/* A warp that brings a team its tiles. */
template <class WORK>
__device__ __forceinline__ void fill_ring(const job &j, const row_ring &r, int team, int lane, char *ring,
                                          uint64_t *full, uint64_t *empty)
{
    const row_copy<WORK> copy(lane);
    const int to = copy.to(r);
    row_slot slot = {0, 1};
    for (int base = first_item_of(j); base < j.n_items; base += ROW_TEAMS * (int)gridDim.x) {
        int item = base + team_offset(j, team);
        if (item >= j.n_items) continue;
        place p = place_of<1>(j, item);
        const char *tile = copy.of_tile(j, j.linears[p.which], p.tile);
        for (int i = 0; i < r.tile_stages; i++) {
            row_run run = row_run_of<WORK>(j, r, copy.slice, i);
            uint32_t bytes = copy.bytes(run), all = bytes;
#pragma unroll
            for (int d = 16; d > 0; d /= 2) all += __shfl_xor_sync(0xffffffffu, all, d);
            if (lane == 0) {
                qs_barrier_wait(&empty[slot.at], slot.parity);
                qs_barrier_expect(&full[slot.at], all);
            }
            __syncwarp();
            if (bytes > 0)
                qs_copy_bulk_once(ring + slot.at * r.stage_bytes + to, tile + copy.from(run), bytes, &full[slot.at]);
            slot.next(r.n_stages);
        }
    }
}

/* Where a stage has scales and zero points of a chunk's groups. */
template <class WORK> struct row_meta {
    const char *scales_at, *zeros_at; /* of the run */
    const int *group;                 /* within it */
    __device__ __forceinline__ const uint4 *scales(int i) const
    {
        return reinterpret_cast<const uint4 *>(scales_at) + group[i] * WORK::PAIRS_VECTORS;
    }
    __device__ __forceinline__ const uint16_t *zeros(int i) const
    {
        return reinterpret_cast<const uint16_t *>(zeros_at) + group[i] * 8;
    }
};

/* A warp's way through the stages of a tile. */
template <class WORK> struct row_walker {
    using shape = row_shape<WORK>;
    enum { RUN = shape::RUN, CHUNK_GROUPS = shape::CHUNK_GROUPS };
    lane_x x; /* from the slice's first chunk on */
    int slice, lane, words_at, scales_at, zeros_at; /* of the slice in a stage */
    int group[RUN][CHUNK_GROUPS]; /* of the run's chunks, in it */

    __device__ __forceinline__ void find_groups(const job &j, int chunk)
    {
        int first = row_group_of(j, 4 * chunk);
#pragma unroll
        for (int h = 0; h < RUN; h++)
#pragma unroll
            for (int i = 0; i < CHUNK_GROUPS; i++)
                group[h][i] = row_group_of(j, 4 * (chunk + h) + i * WORK::GROUP_STEPS) - first;
    }
    __device__ __forceinline__ void start(const job &j, const row_ring &r, const uint16_t *terms, int of_slice,
                                          int of_lane)
    {
        slice = of_slice, lane = of_lane;
        x.column = lane / 4;
        x.n_columns = j.n_columns;
        x.row = terms + min(x.column, j.n_columns - 1) * j.x_stride + 16 * (lane % 4) +
                slice * r.slice_chunks * QS_CU_CHUNK;
        words_at = slice * shape::RUN_BYTES;
        scales_at = shape::WORD_BYTES + slice * r.run_groups * shape::SCALE_BYTES;
        zeros_at = shape::WORD_BYTES + r.run_groups * (SLICES * shape::SCALE_BYTES + slice * shape::ZERO_BYTES);
        if (WORK::CODED) find_groups(j, slice * r.slice_chunks);
    }
    __device__ __forceinline__ void add_chunk(float (&total)[1][4], const char *stage, const uint32_t *table, int chunk,
                                              int h)
    {
        row_meta<WORK> meta = {stage + scales_at, stage + zeros_at, group[h]};
        uint32_t b[1][8];
        load_x<1, true, true>(b, x, chunk + h);
        WORK::template add_words<1>(total, reinterpret_cast<const uint4 *>(stage + words_at + h * shape::CHUNK_BYTES),
                                    meta, table, b, lane);
    }
    __device__ __forceinline__ void add(float (&total)[1][4], const job &j, const row_ring &r, const char *stage,
                                        const uint32_t *table, int run)
    {
        int n = min(r.slice_chunks, j.n_chunks - slice * r.slice_chunks) - run * RUN;
        if (WORK::CODED && !r.is_even) find_groups(j, slice * r.slice_chunks + run * RUN);
        if (n >= RUN) {
#pragma unroll
            for (int h = 0; h < RUN; h++) add_chunk(total, stage, table, run * RUN, h);
        } else {
#pragma unroll
            for (int h = 0; h < RUN - 1; h++)
                if (h < n) add_chunk(total, stage, table, run * RUN, h);
        }
    }
};

#endif

/* How weights come and meet x: work, what they are like; ring, what is the same of all stages. */
template <class WORK> struct by_runs {
    using work = WORK;
    using ring = row_ring;
#ifdef QS_WGMMA
    using walker = row_walker<WORK>;
    static __device__ __forceinline__ void fill(const job &j, const row_ring &r, int team, int lane, char *ring,
                                                uint64_t *full, uint64_t *empty)
    {
        fill_ring<WORK>(j, r, team, lane, ring, full, empty);
    }
    static __device__ __forceinline__ void end_tile(float (&)[1][4]) {}
#endif
};

template <class WAY> __global__ void __launch_bounds__(ROW_THREADS, 1) linear_row(job j, typename WAY::ring r)
{
#ifdef QS_WGMMA
    using WORK = typename WAY::work;
    QS_DYNAMIC_SHARED(uint4, shared);
    __shared__ row_notes notes;
    __shared__ row_barriers barriers;
    __shared__ __align__(256) uint32_t table[WORK::TABLE ? WORK::TABLE_WORDS : 1]; /* qs_table_entry */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    char *rings = reinterpret_cast<char *>(shared);
    float *tables = reinterpret_cast<float *>(rings + ROW_TEAMS * r.n_stages * r.stage_bytes);
    ready_row_barriers(barriers, r.n_stages);
    if (warp >= ROW_CONSUMERS / 32) {
        /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
        int team = warp - ROW_CONSUMERS / 32;
        WAY::fill(j, r, team, lane, rings + team * r.n_stages * r.stage_bytes, barriers.full[team],
                  barriers.empty[team]);
        return;
    }
    const int slice = warp % SLICES, team = warp / SLICES, item_step = ROW_TEAMS * (int)gridDim.x;
    const char *ring = rings + team * r.n_stages * r.stage_bytes;
    uint16_t *terms = reinterpret_cast<uint16_t *>(tables + ROW_TEAMS * ROW_SUMS);
    row_consumers consumers = {&barriers.together, 0};
    WORK::put_table(j, table);
    qs_wait_for_previous();
    qs_let_next_begin();
    take_x<WORK, ROW_CONSUMERS>(j, terms, notes, consumers); /* ends with a barrier */
    typename WAY::walker walk;
    walk.start(j, r, terms, slice, lane);
    row_slot slot = {0, 0};
    int kept = 0, first = first_item_of(j); /* items since the last addition; of these */
    for (int base = first; base < j.n_items; base += item_step) {
        if (base + team_offset(j, team) < j.n_items) {
            float total[1][1][4] = {};
#pragma unroll 1
            for (int stage = 0; stage < r.tile_stages; stage++) {
                qs_barrier_wait(&barriers.full[team][slot.at], slot.parity);
                walk.add(total[0], j, r, ring + slot.at * r.stage_bytes, table, stage);
                __syncwarp();
                if (lane == 0) qs_barrier_arrive(&barriers.empty[team][slot.at]);
                slot.next(r.n_stages);
            }
            WAY::end_tile(total[0]);
            leave_sums<1, 1>(j, total, tables + team * ROW_SUMS + (kept * SLICES + slice) * QS_CU_TILE_ROWS * j.width,
                             lane);
        }
        bool is_last = base + item_step >= j.n_items;
        if (++kept < j.batch && !is_last) continue;
        consumers.sync();
        finish_items<1, WORK::ROUNDS>(j, tables, ROW_SUMS, ROW_TEAMS, kept, first, item_step, &notes.down);
        if (!is_last) consumers.sync();
        kept = 0;
        first = base + item_step;
    }
#endif
}

/* How many stages of so many bytes fit beside x and what else a block has, if at least so many do. */
template <class WORK> int row_stages(const how *h, size_t x_bytes, int stage_bytes, int at_least)
{
    enum { STATIC_BYTES = 4096, TABLE_BYTES = WORK::TABLE_WORDS * sizeof(uint32_t) };
    size_t taken = STATIC_BYTES + TABLE_BYTES + x_bytes + ROW_TEAMS * ROW_SUMS * sizeof(float);
    int64_t n = h->shared_bytes > taken ? (int64_t)(h->shared_bytes - taken) / (ROW_TEAMS * stage_bytes) : 0;
    return n < at_least ? 0 : n > ROW_STAGES_MAX ? (int)ROW_STAGES_MAX : (int)n;
}

template <class WAY> int launch_by(void *stream, job *j, const how *h, const typename WAY::ring &r, size_t x_bytes)
{
    size_t bytes = (size_t)ROW_TEAMS * r.n_stages * r.stage_bytes + ROW_TEAMS * ROW_SUMS * sizeof(float) + x_bytes;
    size_t half = h->shared_bytes / 2;
    if (bytes <= half) bytes = half + SYSTEM_BYTES;
    int n_blocks = count_items<1>(j, h, ROW_TEAMS, ROW_SUMS);
    int status = qs_allow_shared(linear_row<WAY>, bytes);
    if (status != 0) return status;
    if (h->soon) QS_LAUNCH_SOON((linear_row<WAY>), dim3(n_blocks), dim3(ROW_THREADS), bytes, stream, *j, r);
    else QS_LAUNCH((linear_row<WAY>), dim3(n_blocks), dim3(ROW_THREADS), bytes, stream, *j, r);
    return qs_launch_status();
}

/* As many stages as fit; none if not even two do. */
template <class WORK> row_ring row_ring_of(const job *j, const how *h, size_t x_bytes)
{
    using shape = row_shape<WORK>;
    int64_t columns = (int64_t)shape::RUN * QS_CU_CHUNK, size = h->group_size;
    int n_pieces = (j->n_chunks + WORK::CHUNKS - 1) / WORK::CHUNKS;
    row_ring r = {};
    r.slice_chunks = (n_pieces + SLICES - 1) / SLICES * WORK::CHUNKS;
    r.tile_stages = (r.slice_chunks + shape::RUN - 1) / shape::RUN;
    r.is_even = j->n_groups == 1 || (columns % size == 0 && (int64_t)r.slice_chunks * QS_CU_CHUNK % size == 0);
    r.run_groups = (int)(r.is_even ? (columns + size - 1) / size : columns / size + 2);
    if (r.run_groups > j->n_groups) r.run_groups = j->n_groups;
    r.stage_bytes = shape::WORD_BYTES + SLICES * r.run_groups * (shape::SCALE_BYTES + shape::ZERO_BYTES);
    r.stage_bytes = (r.stage_bytes + 127) / 128 * 128;
    r.n_stages = row_stages<WORK>(h, x_bytes, r.stage_bytes, 2);
    return r;
}

/* Launches it where it can be, which *done says. */
template <class WORK> int launch_row(void *stream, job *j, const how *h, bool *done)
{
    size_t x_bytes = own_bytes(j);
    row_ring r = {};
    if (h->one_row != QS_CU_ROW_ASYNC && takes_own<WORK>(j, h, 1, 1)) r = row_ring_of<WORK>(j, h, x_bytes);
    *done = r.n_stages > 0;
    return *done ? launch_by<by_runs<WORK>>(stream, j, h, r, x_bytes) : 0;
}

} // namespace

#endif
