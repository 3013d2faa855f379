/* Products of one row of x (linear_few.cu, linear_mixed.cu), several behind each other in one launch: a chain. Blocks
 * split the row for themselves, normalised or not, and meet at a barrier of the grid before a product that takes what one
 * before it has left. A warp's ring runs on from the weights of one product into those of the next, so memory is busy
 * while blocks meet: that is what a chain gains (.cu files only). */
#ifndef QS_BACKEND_CUDA_LINEAR_ROW_H
#define QS_BACKEND_CUDA_LINEAR_ROW_H

#include "backend/cuda/linear_parts.h"
#include "backend/cuda/norm.h"

namespace {

struct chain {
    job jobs[QS_CU_CHAIN_MAX];
    int n_jobs;
    unsigned long long *counter; /* of qs_grid_sync, with more than one job */
};

/* ---- activations ---- */

/* Of x, or of the weights of its norm. Past the L1 cache, which does not see what other blocks have left since. */
template <bool PERM> __device__ __forceinline__ float4 quad_of(const job &j, const float *x, int column)
{
    if (!PERM || j.perm == nullptr) return __ldcg(reinterpret_cast<const float4 *>(x + column));
    int4 from = *reinterpret_cast<const int4 *>(j.perm + column);
    return make_float4(__ldcg(x + from.x), __ldcg(x + from.y), __ldcg(x + from.z), __ldcg(x + from.w));
}

enum { OWN_KEPT = QS_CU_OWN_COLUMNS_MAX / (4 * OWN_TEAMS * TEAM), /* quads of x that a thread keeps */
       NORM_KEPT = 2 /* and of a row that is normalised */ };

/* What a block's warps tell each other of the row that it splits. */
struct row_notes {
    float maxima[OWN_TEAMS * SLICES], segments[NORM_KEPT * OWN_TEAMS * SLICES];
    unsigned long long target; /* of the next barrier of the grid */
    float down;                /* undoes the row's scale */
    float padding[1];          /* to a multiple of 16 bytes */
};
static_assert(sizeof(row_notes) % 16 == 0, "behind it lie vectors");

/* A thread's part of the row before its norm: sums of squares to the notes; returns the largest product with a weight. */
__device__ __forceinline__ float weigh_quads(const float4 (&v)[OWN_KEPT], const float4 (&weights)[NORM_KEPT],
                                             row_notes &notes)
{
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
        int quad = (int)threadIdx.x + i * (int)blockDim.x;
        float sum = qs_cu_segment_sum(v[i]);
        if (threadIdx.x % 32 == 0) notes.segments[quad / 32] = sum;
        largest = fmaxf(largest, qs_cu_largest(qs_cu_normed(v[i], 1.0f, weights[i])));
    }
    return largest;
}

/* The only row of x as terms in shared memory, at [k-step's place] as in qs_cu_prepare_x, which does the same to more
 * rows. meanwhile(): what is done when x has been asked for. */
template <bool BF16, bool PERM, class MEANWHILE>
__device__ __forceinline__ void split_x(const job &j, uint16_t *shared, row_notes &notes, MEANWHILE meanwhile)
{
    int n_quads = (j.x_stride - X_PAD) / 4, n_threads = blockDim.x;
    bool is_normed = j.norm != nullptr;
    float largest = 0.0f;
    float4 v[OWN_KEPT], weights[NORM_KEPT];
#pragma unroll
    for (int i = 0; i < OWN_KEPT; i++) {
        int column = 4 * ((int)threadIdx.x + i * n_threads);
        v[i] = column < j.n_in ? quad_of<PERM>(j, j.x, column) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < NORM_KEPT; i++) {
        int column = 4 * ((int)threadIdx.x + i * n_threads);
        weights[i] = is_normed && column < j.n_in ? quad_of<PERM>(j, j.norm, column) : make_float4(0, 0, 0, 0);
    }
    meanwhile();
    if (is_normed) {
        largest = weigh_quads(v, weights, notes);
    } else {
#pragma unroll
        for (int i = 0; i < OWN_KEPT; i++) largest = fmaxf(largest, qs_cu_largest(v[i]));
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (threadIdx.x % 32 == 0) notes.maxima[threadIdx.x / 32] = largest;
    __syncthreads();
    largest = (int)threadIdx.x % 32 < n_threads / 32 ? notes.maxima[threadIdx.x % 32] : 0.0f;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (is_normed) {
        float factor = qs_cu_norm_factor(notes.segments, (n_quads + 31) / 32, j.n_in, j.norm_eps);
#pragma unroll
        for (int i = 0; i < NORM_KEPT; i++) v[i] = qs_cu_normed(v[i], factor, weights[i]);
        largest *= factor;
    }
    qs_cu_power power = qs_cu_power_of(largest);
    if (threadIdx.x == 0) notes.down = power.down;
#pragma unroll
    for (int i = 0; i < OWN_KEPT; i++) {
        int quad = (int)threadIdx.x + i * n_threads;
        if (quad >= n_quads) break;
        uint16_t term[2][4];
        qs_cu_split_four(v[i], power.up, BF16, term);
        uint16_t *to = shared + quad / 16 * QS_CU_CHUNK + 16 * (quad % 4) + 4 * (quad % 16 / 4);
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (k < j.n_terms) *reinterpret_cast<uint2 *>(to + k * j.x_stride) = qs_cu_pack_four(term[k]);
    }
    __syncthreads();
}

/* ---- the kernel ---- */

/* Fills a warp's ring with its weights of all jobs, one after the other. Of jobs whose x is not there yet it asks for a few
 * pieces only: x would have to wait behind them. */
template <class FEEDER> struct chain_feeder {
    FEEDER of;
    int at, current;    /* jobs: fed, multiplied */
    int n_ahead, owed;  /* pieces of later jobs than that; that were left for later */

    __device__ __forceinline__ void begin(const chain &c, const worker &w)
    {
        const job &j = c.jobs[at];
        of.start(j, first_item_of(j) + team_offset(j, w.team), w.slice, w.item_step, w.lane);
    }
    __device__ __forceinline__ void skip_ended(const chain &c, const worker &w)
    {
        while (at + 1 < c.n_jobs && of.item >= c.jobs[at].n_items) {
            at++;
            begin(c, w);
        }
    }
    __device__ __forceinline__ void start(const chain &c, const worker &w)
    {
        at = n_ahead = owed = 0;
        current = -1;
        begin(c, w);
        skip_ended(c, w);
    }
    template <class RING> __device__ __forceinline__ void feed(const chain &c, const worker &w, RING &ring)
    {
        if (at > current && n_ahead++ >= c.jobs[0].ahead) {
            owed++;
            qs_copy_async_commit(); /* counted all the same */
            return;
        }
        of.feed(c.jobs[at], ring.fill(), w.slice, w.item_step, w.lane);
        skip_ended(c, w);
    }
    /* x of the next job has been asked for. */
    template <class RING> __device__ __forceinline__ void go_on(const chain &c, const worker &w, RING &ring)
    {
        int n = owed;
        current++;
        n_ahead = owed = 0;
        for (int i = 0; i < n; i++) feed(c, w, ring);
    }
};

enum { TABLE_ROOM = 2 * 256 }; /* qs_table_entry: 64 bytes at a multiple of 256 */

template <class WORK> __global__ void __launch_bounds__(OWN_TEAMS *TEAM, 1) linear_row(const __grid_constant__ chain c)
{
    using shape = cut<1, WORK::VECTORS, true>;
    enum { DEPTH = shape::DEPTH, SLOT = shape::SLOT, SUMS = shape::SUMS };
    QS_DYNAMIC_SHARED(uint4, shared); /* all of it, since blocks run side by side: rings, sums, notes, table, terms */
    const worker w;
    warp_ring<SLOT, DEPTH> ring(shared + w.warp * DEPTH * SLOT);
    float *tables = reinterpret_cast<float *>(shared + w.n_teams * SLICES * DEPTH * SLOT);
    row_notes &notes = *reinterpret_cast<row_notes *>(tables + w.n_teams * SUMS);
    char *room = reinterpret_cast<char *>(&notes + 1);
    uint16_t *terms = reinterpret_cast<uint16_t *>(room + (WORK::TABLE ? (int)TABLE_ROOM : 0));
    uint32_t *table = reinterpret_cast<uint32_t *>(room + (256 - (uint32_t)reinterpret_cast<uintptr_t>(room) % 256));
    WORK::put_table(c.jobs[0], table);
    chain_feeder<typename WORK::template feeder<1>> next;
    next.start(c, w);
    for (int i = 0; i < DEPTH - 1; i++) next.feed(c, w, ring);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    if (c.n_jobs > 1) qs_grid_begin(c.counter, &notes.target);
#pragma unroll 1
    for (int k = 0; k < c.n_jobs; k++) {
        const job &j = c.jobs[k];
        lane_x x = {};
        if (k > 0) qs_grid_sync(c.counter, &notes.target);
        split_x<WORK::BF16 != 0, WORK::PERM != 0>(j, terms, notes, [&]() { next.go_on(c, w, ring); });
        x.column = w.lane / 4;
        x.n_columns = j.n_columns;
        x.row = terms + min(x.column, j.n_columns - 1) * j.x_stride + 16 * (w.lane % 4);
        multiply_items<WORK, 1, true>(j, w, ring, tables, table, x, &notes.down,
                                      [&]() { next.feed(c, w, ring); });
    }
}

/* ---- launch ---- */

/* Whether blocks of n_teams can split a job's row for themselves. */
template <class WORK> bool takes_row(const job *j, int n_teams)
{
    int64_t n_in_max = (int64_t)n_teams * TEAM * 4 * (j->norm != nullptr ? (int)NORM_KEPT : (int)OWN_KEPT);
    bool is_aligned = (reinterpret_cast<uintptr_t>(j->x) | reinterpret_cast<uintptr_t>(j->norm)) % 16 == 0;
    return j->n == 1 && (WORK::PERM || j->perm == nullptr) && j->n_in % 4 == 0 && j->n_in <= n_in_max && is_aligned;
}

/* Beside rings and sums; jobs take turns. */
template <class WORK> size_t row_bytes(const chain *c)
{
    size_t most = 0;
    for (int k = 0; k < c->n_jobs; k++) {
        size_t bytes = (size_t)(c->jobs[k].n_terms * c->jobs[k].x_stride) * sizeof(uint16_t);
        most = bytes > most ? bytes : most;
    }
    return most + sizeof(row_notes) + (WORK::TABLE ? (size_t)TABLE_ROOM : 0);
}

/* QS_CU_NOT_TAKEN: nothing was launched. */
template <class WORK> int launch_row(void *stream, chain *c, const how *h)
{
    size_t x_bytes = row_bytes<WORK>(c);
    int n_teams = teams_of<1, WORK::VECTORS, true>(h, x_bytes), n_blocks = h->n_sms;
    for (int k = 0; k < c->n_jobs; k++) {
        bool parts_gate = c->jobs[k].linears[0].gates && n_teams % 2 != 0; /* which is a launch of its own then */
        if (!takes_row<WORK>(&c->jobs[k], n_teams) || (c->n_jobs > 1 && parts_gate)) return QS_CU_NOT_TAKEN;
    }
    for (int k = 0; k < c->n_jobs; k++) cut_items<WORK, 1, true>(&c->jobs[k], n_teams);
    if (c->n_jobs == 1 && c->jobs[0].n_items < n_blocks) n_blocks = c->jobs[0].n_items;
    size_t bytes = more_than_half(bytes_of<1, WORK::VECTORS, true>(n_teams, x_bytes), h);
    int status = qs_allow_shared(linear_row<WORK>, bytes);
    if (status != 0) return status;
    QS_TOGETHER(linear_row<WORK>, c->n_jobs > 1 ? n_blocks : 1);
    if (h->soon) QS_LAUNCH_SOON(linear_row<WORK>, dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *c);
    else QS_LAUNCH(linear_row<WORK>, dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *c);
    return qs_launch_status();
}

/* What one launch takes: the chain of `how`, or else n rows of x. FULL: all the kernels; else those for 8 and 16 columns,
 * for forms that are rare. */
template <class WORK, bool FULL = true> int launch(void *stream, job *j, const how *h)
{
    int n_columns = j->n * j->n_terms;
    if constexpr (FULL) {
        chain single = {};
        single.jobs[0] = *j;
        single.n_jobs = 1;
        if (h->products != nullptr || j->n == 1) {
            int status = launch_row<WORK>(stream, h->products != nullptr ? h->products : &single, h);
            if (status != QS_CU_NOT_TAKEN || h->products != nullptr) {
                j->linears[0].gates = j->linears[0].gates && single.jobs[0].linears[0].gates;
                return status;
            }
        }
    } else if (h->products != nullptr) {
        return QS_CU_NOT_TAKEN;
    }
    int status = qs_cu_prepare_x(stream, h->x, j->n_in, h->perm, h->is_bf16, h->terms);
    if (status != 0) return status;
    if (n_columns <= 8) return launch_prepared<WORK, 1>(stream, j, h);
    if constexpr (FULL)
        if (n_columns > 16) return launch_prepared<WORK, 4>(stream, j, h);
    return launch_prepared<WORK, 2>(stream, j, h);
}

/* What a job has of its shape. */
inline void describe(job *j, int64_t n_in, const qs_cu_linear *linears, int n_linears)
{
    j->n_in = (int)n_in;
    j->n_linears = n_linears;
    j->x_stride = (int)qs_cu_x_width(n_in) + X_PAD;
    j->n_chunks = (int)qs_cu_n_chunks(n_in);
    for (int i = 0; i < n_linears; i++) j->linears[i] = linears[i];
}

/* All rows of x: run(stream, job, how) for as many of them at a time as a launch takes. `j` holds what is said of the
 * columns. */
template <class RUN> int for_rows(void *stream, job *j, how h, const qs_cu_x *terms, RUN run)
{
    /* More rows take a launch more; where shared memory does not hold sums of 32 columns beside rings, half as many. */
    enum { WIDE_BYTES = 110 << 10 };
    int rows_max = (h.shared_bytes >= WIDE_BYTES && !h.is_rare ? 32 : 16) / terms->n_terms;
    const job whole = *j;
    const float *x = h.x;
    bool soon = h.soon;
    j->perm = h.perm;
    j->terms = terms->terms;
    j->scale = terms->scale;
    j->norm = terms->norm;
    j->norm_eps = terms->norm_eps;
    j->n_terms = terms->n_terms;
    for (int64_t first = 0; first < terms->n; first += rows_max) {
        qs_cu_x part = *terms;
        part.n = terms->n - first < rows_max ? terms->n - first : rows_max;
        h.x = x + first * j->n_in;
        h.terms = &part;
        h.soon = soon || first > 0;
        j->x = h.x;
        j->n = (int)part.n;
        for (int i = 0; i < j->n_linears; i++) {
            j->linears[i] = whole.linears[i];
            j->linears[i].y += first * whole.linears[i].n_out;
        }
        int status = run(stream, j, &h);
        if (status == 0 && whole.linears[0].gates && !j->linears[0].gates)
            status = qs_cu_silu_mul(stream, j->linears[0].y, j->linears[1].y, part.n * j->linears[0].n_out,
                                    j->linears[0].y);
        if (status != 0) return status;
    }
    return 0;
}

/* A product of a chain; `j` holds what is said of the columns. */
inline void describe_row(job *j, const qs_cu_product *p, int n_terms)
{
    j->x = p->x;
    j->norm = p->norm;
    j->norm_eps = p->norm_eps;
    j->perm = p->perm;
    j->n = 1;
    j->n_terms = n_terms;
}

} // namespace

#endif
