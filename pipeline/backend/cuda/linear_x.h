/* x for products of few rows (linear_few.cu, linear_mixed.cu): B fragments as lanes read them, and one row that a team
 * of warps splits into terms, normalised or coded on the way (.cu files only). */
#ifndef QS_BACKEND_CUDA_LINEAR_X_H
#define QS_BACKEND_CUDA_LINEAR_X_H

#include "backend/cuda/coding.h"
#include "backend/cuda/linear_ring.h"
#include "backend/cuda/norm.h"
#include "backend/cuda/terms.h"

namespace {

/* Where a lane finds its B fragments of a chunk: rows of terms in shared memory, or fragments as they are
 * (qs_cu_prepare_x) in global memory, which the L1 cache keeps for the other tiles. */
struct lane_x {
    const uint16_t *row;    /* shared */
    const uint4 *fragments; /* global */
    int column, n_columns;
};

/* SPARE: lanes of columns that are not there load nothing of x in shared memory, and have what they have in b. */
template <int COLUMNS, bool OWN, bool SPARE = false>
__device__ __forceinline__ void load_x(uint32_t (&b)[COLUMNS][8], const lane_x &x, int chunk)
{
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        uint4 low = SPARE ? qs_anything() : make_uint4(0, 0, 0, 0), high = SPARE ? qs_anything() : low;
        const uint4 *from = OWN ? reinterpret_cast<const uint4 *>(x.row + chunk * QS_CU_CHUNK)
                                : x.fragments + (chunk * COLUMNS + c) * 64;
        if ((OWN && !SPARE) || 8 * c + x.column < x.n_columns) low = from[0], high = from[OWN ? 1 : 32];
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
    }
}

/* Of x, or of the weights of its norm. */
template <bool PERM> __device__ __forceinline__ float4 quad_of(const job &j, const float *x, int column)
{
    if (!PERM || j.perm == nullptr) return *reinterpret_cast<const float4 *>(x + column);
    int4 from = *reinterpret_cast<const int4 *>(j.perm + column);
    return make_float4(x[from.x], x[from.y], x[from.z], x[from.w]);
}

/* What a team of warps tells each other of the row that it splits. */
struct row_notes {
    float maxima[32], segments[OWN_NORM_COLUMNS_MAX / 128];
    qs_cu_extent extents[32];
    float down; /* undoes the row's scale */
};

/* KEPT: quads of a row that a thread of the team keeps. */
template <bool PERM, int KEPT, class TEAM_OF>
__device__ __forceinline__ void take_quads(const job &j, const float *x, float4 (&v)[KEPT], const TEAM_OF &team)
{
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int column = 4 * ((int)threadIdx.x + i * team.n_threads());
        v[i] = column < j.n_in ? quad_of<PERM>(j, x, column) : make_float4(0, 0, 0, 0);
    }
}

/* A thread's part of the row before its norm: sums of squares to the notes; returns the largest product with a
 * weight. */
template <int KEPT, class TEAM_OF>
__device__ __forceinline__ float weigh_quads(const float4 (&v)[KEPT], const float4 (&weights)[KEPT], row_notes &notes,
                                             const TEAM_OF &team)
{
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = (int)threadIdx.x + i * team.n_threads();
        float sum = qs_cu_segment_sum(v[i]);
        if (threadIdx.x % 32 == 0) notes.segments[quad / 32] = sum;
        largest = fmaxf(largest, qs_cu_largest(qs_cu_normed(v[i], 1.0f, weights[i])));
    }
    return largest;
}

/* Behind a barrier after weigh_quads; returns the factor. */
template <int KEPT>
__device__ __forceinline__ float normalise(const job &j, float4 (&v)[KEPT], const float4 (&weights)[KEPT],
                                           const row_notes &notes)
{
    int n_quads = (j.x_stride - X_PAD) / 4;
    float factor = qs_cu_norm_factor(notes.segments, (n_quads + 31) / 32, j.n_in, j.norm_eps);
#pragma unroll
    for (int i = 0; i < KEPT; i++) v[i] = qs_cu_normed(v[i], factor, weights[i]);
    return factor;
}

/* A span's sums of x (linear_turns.h), in the unit that they are added in. For whole warps; sums [n_spans]. */
template <class WORK>
__device__ __forceinline__ void put_span_sums(float2 *sums, int quad, const uint16_t (&term)[2][4])
{
    enum { QUADS = WORK::SPAN * QS_CU_CHUNK / 4 };
    float of[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        float sum = (qs_f32_of_f16(term[k][0]) + qs_f32_of_f16(term[k][1])) +
                    (qs_f32_of_f16(term[k][2]) + qs_f32_of_f16(term[k][3]));
#pragma unroll
        for (int d = QUADS / 2; d > 0; d /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, d);
        of[k] = WORK::SUM_UNIT * sum;
    }
    if (quad % QUADS == 0) sums[quad / QUADS] = make_float2(of[0], of[1]);
}

/* As terms at [k-step's place], as in qs_cu_prepare_x, which does the same to more rows; behind them sums of spans. */
template <class WORK, int KEPT, class TEAM_OF>
__device__ __forceinline__ void put_quads(const job &j, const float4 (&v)[KEPT], float up, uint16_t *shared,
                                          const TEAM_OF &team)
{
    int n_quads = (j.x_stride - X_PAD) / 4;
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = (int)threadIdx.x + i * team.n_threads();
        if (quad >= n_quads) break; /* whole warps, since rows are filled up to whole pieces */
        uint16_t term[2][4];
        qs_cu_split_four(v[i], up, WORK::BF16, term);
        if constexpr (WORK::SPAN > 0)
            put_span_sums<WORK>(reinterpret_cast<float2 *>(shared + j.n_terms * j.x_stride), quad, term);
        uint16_t *to = shared + quad / 16 * QS_CU_CHUNK + 16 * (quad % 4) + 4 * (quad % 16 / 4);
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (k < j.n_terms) *reinterpret_cast<uint2 *>(to + k * j.x_stride) = qs_cu_pack_four(term[k]);
    }
}

/* The only row of x as terms in shared memory. */
template <class WORK, bool NORMED, int KEPT, class TEAM_OF>
__device__ __forceinline__ void split_x(const job &j, uint16_t *shared, row_notes &notes, TEAM_OF &team)
{
    float largest = 0.0f;
    float4 v[KEPT], weights[KEPT];
    take_quads<WORK::PERM>(j, j.x, v, team);
    if (NORMED) {
        take_quads<WORK::PERM>(j, j.norm, weights, team);
        largest = weigh_quads(v, weights, notes, team);
    } else {
#pragma unroll
        for (int i = 0; i < KEPT; i++) largest = fmaxf(largest, qs_cu_largest(v[i]));
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (threadIdx.x % 32 == 0) notes.maxima[threadIdx.x / 32] = largest;
    team.sync();
    largest = (int)threadIdx.x % 32 < team.n_threads() / 32 ? notes.maxima[threadIdx.x % 32] : 0.0f;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (NORMED) largest *= normalise(j, v, weights, notes);
    qs_cu_power power = qs_cu_power_of(largest);
    if (threadIdx.x == 0) notes.down = power.down;
    put_quads<WORK>(j, v, power.up, shared, team);
    team.sync();
}

/* The same as codes of int8. */
template <class WORK, bool NORMED, int KEPT, class TEAM_OF>
__device__ __forceinline__ void code_x(const job &j, uint16_t *shared, row_notes &notes, TEAM_OF &team)
{
    qs_cu_extent extent = {0.0f, 0.0f};
    float4 v[KEPT], weights[KEPT];
    take_quads<WORK::PERM>(j, j.x, v, team);
    if (NORMED) {
        take_quads<WORK::PERM>(j, j.norm, weights, team);
        (void)weigh_quads(v, weights, notes, team);
        team.sync();
        (void)normalise(j, v, weights, notes);
    }
#pragma unroll
    for (int i = 0; i < KEPT; i++) qs_cu_extend(extent, j.threshold, v[i]);
    extent = qs_cu_extent_of_team(extent, notes.extents, team);
    qs_cu_coding coding = qs_cu_coding_of(extent, j.threshold);
    qs_cu_power power = qs_cu_power_of(__fmul_rn(extent.all, coding.factor));
#pragma unroll
    for (int i = 0; i < KEPT; i++) v[i] = qs_cu_code_of(coding, v[i]);
    if (threadIdx.x == 0) notes.down = coding.scale * power.down;
    put_quads<WORK>(j, v, power.up, shared, team);
    team.sync();
}

/* Which of them the job asks for; THREADS: of the team at most. */
template <class WORK, int THREADS, class TEAM_OF>
__device__ __forceinline__ void take_x(const job &j, uint16_t *shared, row_notes &notes, TEAM_OF &team)
{
    enum { KEPT = QS_CU_OWN_COLUMNS_MAX / (4 * THREADS), NORMED = OWN_NORM_COLUMNS_MAX / (4 * THREADS) };
    if (WORK::CODES && j.is_coded) {
        if (j.norm != nullptr) code_x<WORK, true, NORMED>(j, shared, notes, team);
        else code_x<WORK, false, KEPT>(j, shared, notes, team);
    } else {
        if (j.norm != nullptr) split_x<WORK, true, NORMED>(j, shared, notes, team);
        else split_x<WORK, false, KEPT>(j, shared, notes, team);
    }
}

} // namespace

#endif
