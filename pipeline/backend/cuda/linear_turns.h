/* One row of x times codes of 4 bits on Hopper, where slices take turns (.cu files only): linear_row.h with fewer
 * copies and fewer instructions.
 *
 *   span    columns of a warp that have one scale and one sum of x: two chunks, or one where groups are no multiples
 *           of two
 *   stage   STAGE_CHUNKS chunks of a tile, one behind the other, that a copy brings; warp s has chunks 2 s and 2 s + 1
 *           of every sixteen, which are a round
 *
 * Zero points are not taken from codes, which stay what they are: the integers below 16 in the low bits of an f16 are
 * its subnormals q 2^-24, those four bits higher q 2^-20, exactly, and tensor cores multiply them so. What zero points
 * come to is a sum of x of each span, z sum(x), with which the span's accumulators begin. Sums of x are of what x is
 * rounded to, in f32. So a chunk costs a warp 46 instructions instead of 73 to 94 (counted in the machine code of
 * sm_90a, group 128 without zero points).
 *
 * A producer has no more than FLIGHT stages under way: enough for the bandwidth that a multiprocessor has, and x, which
 * comes when the kernel before has ended, does not stand behind more.
 *
 * Results are those of linear_row.h but for the order of their sums. It has not run on a GPU, and is chosen by
 * QS_BULK_ROWS=2 alone (docs/limits.md). */
#ifndef QS_BACKEND_CUDA_LINEAR_TURNS_H
#define QS_BACKEND_CUDA_LINEAR_TURNS_H

#include "backend/cuda/linear_alike.h"

namespace {

template <int SPAN_CHUNKS, bool ZEROS> struct turns : alike<QS_CU_INT4, 4, ZEROS> {
    static constexpr int SPAN = SPAN_CHUNKS;
    static constexpr float SUM_UNIT = ZEROS ? -0x1p-24f : -8 * 0x1p-24f; /* of a zero point of 1, or the middle */
    enum { WARP_CHUNKS = 2 /* side by side */, ROUNDS_OF_STAGE = 2, ROUND_CHUNKS = SLICES * WARP_CHUNKS,
           STAGE_CHUNKS = ROUNDS_OF_STAGE * ROUND_CHUNKS, FLIGHT = 2,
           CHUNK_BYTES = 512, WORD_BYTES = STAGE_CHUNKS * CHUNK_BYTES, SCALE_BYTES = 32, ZERO_BYTES = ZEROS ? 16 : 0 };
};

/* A stage has words, then scales, then zero points, of n_groups groups at most. */
struct turns_ring {
    int stage_bytes, n_stages, tile_stages, n_groups;
    bool is_even; /* all stages begin with a group */
};

#ifdef QS_WGMMA

/* Brings a team its tiles; for one thread. */
template <class WORK>
__device__ __forceinline__ void fill_by_turns(const job &j, const turns_ring &r, int team, char *ring, uint64_t *full,
                                              uint64_t *empty)
{
    row_slot slot = {0, 1}, landed = {0, 0};
    int n_sent = 0;
    for (int base = first_item_of(j); base < j.n_items; base += ROW_TEAMS * (int)gridDim.x) {
        int item = base + team_offset(j, team);
        if (item >= j.n_items) continue;
        place p = place_of<1>(j, item);
        const qs_cu_linear &l = j.linears[p.which];
        const char *words = reinterpret_cast<const char *>(l.words) + (int64_t)p.tile * j.n_chunks * WORK::CHUNK_BYTES;
        int64_t groups = (int64_t)p.tile * j.n_groups;
        const char *scales = reinterpret_cast<const char *>(l.scales) + groups * WORK::SCALE_BYTES;
        const char *zeros = reinterpret_cast<const char *>(l.zeros) + groups * WORK::ZERO_BYTES;
        for (int chunk = 0; chunk < j.n_chunks; chunk += WORK::STAGE_CHUNKS) {
            int n = min((int)WORK::STAGE_CHUNKS, j.n_chunks - chunk);
            int group = row_group_of(j, 4 * chunk), n_groups = row_group_of(j, 4 * (chunk + n) - 1) - group + 1;
            uint32_t word_bytes = (uint32_t)(n * WORK::CHUNK_BYTES);
            uint32_t scale_bytes = (uint32_t)(n_groups * WORK::SCALE_BYTES);
            uint32_t zero_bytes = (uint32_t)(n_groups * WORK::ZERO_BYTES);
            char *to = ring + slot.at * r.stage_bytes;
            uint64_t *there = &full[slot.at];
            qs_barrier_wait(&empty[slot.at], slot.parity);
            if (n_sent++ >= WORK::FLIGHT) {
                qs_barrier_wait(&full[landed.at], landed.parity);
                landed.next(r.n_stages);
            }
            qs_barrier_expect(there, word_bytes + scale_bytes + zero_bytes);
            qs_copy_bulk_once(to, words + (int64_t)chunk * WORK::CHUNK_BYTES, word_bytes, there);
            to += WORK::WORD_BYTES;
            qs_copy_bulk_once(to, scales + (int64_t)group * WORK::SCALE_BYTES, scale_bytes, there);
            to += r.n_groups * WORK::SCALE_BYTES;
            if (WORK::ZERO_BYTES > 0)
                qs_copy_bulk_once(to, zeros + (int64_t)group * WORK::ZERO_BYTES, zero_bytes, there);
            slot.next(r.n_stages);
        }
    }
}

/* A warp's way through the stages of a tile. Of what it reads it keeps where its part begins; all else is a constant
 * away. */
template <class WORK> struct turns_walker {
    enum { ROUNDS = WORK::ROUNDS_OF_STAGE, SPANS = WORK::WARP_CHUNKS / WORK::SPAN /* of a round */,
           ROUND_BYTES = WORK::ROUND_CHUNKS * WORK::CHUNK_BYTES };
    const uint16_t *row; /* of x, the lane's part of the warp's first chunk */
    const float2 *sums;  /* of the warp's first span */
    int slice, words_at; /* the lane's words of the warp's first chunk in a stage */
    int scales_at[ROUNDS][SPANS], zeros_at[ROUNDS][SPANS]; /* the lane's of a span, in a stage */
    bool has_x;          /* the lane's column of B is there */

    __device__ __forceinline__ void find_groups(const job &j, const turns_ring &r, int chunk)
    {
        int first = row_group_of(j, 4 * chunk), pair = (int)threadIdx.x % 32 / 4;
#pragma unroll
        for (int d = 0; d < ROUNDS; d++)
#pragma unroll
            for (int i = 0; i < SPANS; i++) {
                int group = row_group_of(j, 4 * (chunk + chunk_of(d, i))) - first;
                scales_at[d][i] = WORK::WORD_BYTES + group * WORK::SCALE_BYTES + 4 * pair;
                zeros_at[d][i] = WORK::WORD_BYTES + r.n_groups * WORK::SCALE_BYTES + group * WORK::ZERO_BYTES +
                                 2 * pair;
            }
    }
    /* Where a span begins in its stage. */
    __device__ __forceinline__ int chunk_of(int d, int i) const
    {
        return d * WORK::ROUND_CHUNKS + slice * WORK::WARP_CHUNKS + i * WORK::SPAN;
    }
    __device__ __forceinline__ void start(const job &j, const turns_ring &r, const uint16_t *terms, int of_slice,
                                          int lane)
    {
        int column = lane / 4;
        slice = of_slice;
        has_x = column < j.n_columns;
        row = terms + (has_x ? column : 0) * j.x_stride + slice * WORK::WARP_CHUNKS * QS_CU_CHUNK + 16 * (lane % 4);
        sums = reinterpret_cast<const float2 *>(terms + j.n_terms * j.x_stride) + slice * SPANS;
        words_at = slice * WORK::WARP_CHUNKS * WORK::CHUNK_BYTES + lane * (int)sizeof(uint4);
        find_groups(j, r, 0);
    }
    /* Span i of N rounds from round d on, side by side; x and its sums from the stage on. */
    template <int N>
    __device__ __forceinline__ void add_spans(float (&total)[4], const char *stage, const uint16_t *x,
                                              const float2 *sum, int d, int i) const
    {
        uint4 words[N][WORK::SPAN];
        uint32_t scales[N];
        float c[N][4];
#pragma unroll
        for (int n = 0; n < N; n++) {
            float2 start = sum[(d + n) * (SLICES * SPANS) + i];
            const char *from = stage + words_at + (d + n) * ROUND_BYTES + i * (WORK::SPAN * WORK::CHUNK_BYTES);
#pragma unroll
            for (int h = 0; h < WORK::SPAN; h++)
                words[n][h] = *reinterpret_cast<const uint4 *>(from + h * WORK::CHUNK_BYTES);
            scales[n] = *reinterpret_cast<const uint32_t *>(stage + scales_at[d + n][i]);
            float low = 1.0f, high = 16.0f;
            if (WORK::ZERO_BYTES > 0) {
                uint32_t zeros = *reinterpret_cast<const uint16_t *>(stage + zeros_at[d + n][i]);
                low = (float)(zeros & 0xff), high = 16.0f * (float)(zeros >> 8);
            }
            c[n][0] = low * start.x, c[n][1] = low * start.y, c[n][2] = high * start.x, c[n][3] = high * start.y;
        }
#pragma unroll
        for (int h = 0; h < WORK::SPAN; h++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint4 b[N];
#pragma unroll
                for (int n = 0; n < N; n++) {
                    int at = (d + n) * WORK::ROUND_CHUNKS + i * WORK::SPAN + h;
                    b[n] = qs_anything(); /* columns that are not there multiply what they have */
                    if (has_x) b[n] = reinterpret_cast<const uint4 *>(x + at * QS_CU_CHUNK)[half];
                }
#pragma unroll
                for (int k = 0; k < 2; k++)
#pragma unroll
                    for (int n = 0; n < N; n++) {
                        const uint4 &w = words[n][h];
                        uint32_t first = half == 0 ? (k == 0 ? w.x : w.y) : k == 0 ? w.z : w.w, then = first >> 8;
                        uint32_t a[4] = {first & 0x000f000fu, first & 0x00f000f0u, then & 0x000f000fu,
                                         then & 0x00f000f0u};
                        uint32_t of[2] = {k == 0 ? b[n].x : b[n].z, k == 0 ? b[n].y : b[n].w};
                        qs_mma_f16(c[n], a, of);
                    }
            }
#pragma unroll
        for (int n = 0; n < N; n++) {
            float low = qs_f32_of_f16((uint16_t)(scales[n] & 0xffff));
            float high = qs_f32_of_f16((uint16_t)(scales[n] >> 16));
            total[0] = fmaf(low, c[n][0], total[0]), total[1] = fmaf(low, c[n][1], total[1]);
            total[2] = fmaf(high, c[n][2], total[2]), total[3] = fmaf(high, c[n][3], total[3]);
        }
    }
    /* The of_tile-th stage of a tile. */
    __device__ __forceinline__ void add(float (&total)[1][4], const job &j, const turns_ring &r, const char *stage,
                                        const uint32_t *, int of_tile)
    {
        const int chunk = of_tile * WORK::STAGE_CHUNKS;
        const uint16_t *x = row + chunk * QS_CU_CHUNK;
        const float2 *sum = sums + chunk / WORK::SPAN;
        if (!r.is_even) find_groups(j, r, chunk);
        if (chunk + WORK::STAGE_CHUNKS <= j.n_chunks) {
#pragma unroll
            for (int i = 0; i < SPANS; i++) add_spans<ROUNDS>(total[0], stage, x, sum, 0, i);
            return;
        }
#pragma unroll
        for (int d = 0; d < ROUNDS; d++)
#pragma unroll
            for (int i = 0; i < SPANS; i++) /* a second chunk that is not there meets zeros of x */
                if (chunk + chunk_of(d, i) < j.n_chunks) add_spans<1>(total[0], stage, x, sum, d, i);
    }
};

#endif

template <class WORK> struct by_turns {
    using work = WORK;
    using ring = turns_ring;
#ifdef QS_WGMMA
    using walker = turns_walker<WORK>;
    static __device__ __forceinline__ void fill(const job &j, const turns_ring &r, int team, int lane, char *ring,
                                                uint64_t *full, uint64_t *empty)
    {
        if (lane == 0) fill_by_turns<WORK>(j, r, team, ring, full, empty);
    }
    /* Out of the unit of codes. */
    static __device__ __forceinline__ void end_tile(float (&total)[1][4])
    {
#pragma unroll
        for (int e = 0; e < 4; e++) total[0][e] *= e < 2 ? 0x1p24f : 0x1p20f;
    }
#endif
};

/* As many stages as fit; none if not as many as are under way, and one more. */
template <class WORK> turns_ring turns_ring_of(const job *j, const how *h, size_t x_bytes)
{
    int64_t columns = (int64_t)WORK::STAGE_CHUNKS * QS_CU_CHUNK, size = h->group_size;
    turns_ring r = {};
    r.tile_stages = (j->n_chunks + WORK::STAGE_CHUNKS - 1) / WORK::STAGE_CHUNKS;
    r.is_even = j->n_groups == 1 || columns % size == 0;
    r.n_groups = (int)(r.is_even ? (columns + size - 1) / size : columns / size + 2);
    if (r.n_groups > j->n_groups) r.n_groups = j->n_groups;
    r.stage_bytes = (WORK::WORD_BYTES + r.n_groups * (WORK::SCALE_BYTES + WORK::ZERO_BYTES) + 127) / 128 * 128;
    r.n_stages = row_stages<WORK>(h, x_bytes, r.stage_bytes, WORK::FLIGHT + 1);
    return r;
}

template <class WORK> int launch_turns_of(void *stream, job *j, const how *h, bool *done)
{
    size_t x_bytes = own_bytes(j) + (size_t)qs_cu_x_width(j->n_in) / QS_CU_CHUNK / WORK::SPAN * sizeof(float2);
    turns_ring r = turns_ring_of<WORK>(j, h, x_bytes);
    *done = r.n_stages > 0;
    return *done ? launch_by<by_turns<WORK>>(stream, j, h, r, x_bytes) : 0;
}

template <int SPAN> int launch_turns_in_spans(void *stream, job *j, const how *h, bool *done)
{
    return j->linears[0].zeros != nullptr ? launch_turns_of<turns<SPAN, true>>(stream, j, h, done)
                                          : launch_turns_of<turns<SPAN, false>>(stream, j, h, done);
}

/* Launches it where it can be, which *done says. */
inline int launch_turns(void *stream, job *j, const how *h, bool *done)
{
    *done = false;
    if (h->one_row != QS_CU_ROW_TURNS || !has_whole_chunks(j, h->group_size)) return 0;
    if (!takes_own<turns<1, false>>(j, h, 1, 1)) return 0;
    return j->n_groups == 1 || h->group_size % (2 * QS_CU_CHUNK) == 0 ? launch_turns_in_spans<2>(stream, j, h, done)
                                                                      : launch_turns_in_spans<1>(stream, j, h, done);
}

} // namespace

#endif
