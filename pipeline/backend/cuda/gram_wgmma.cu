/* Second moments x^T x by products of warpgroups (wgmma.h): what stats.cu does, for devices that have them.
 *
 * The terms are those of stats.cu, and so are their errors relative to sqrt(G_ii G_jj): 2^-22 for what low
 * low would add, 2^-22 for the rounding of low, 2^-23 for compensated sums. The f32 sums of 64 rows lose
 * less, since the eight products with a low term come first, while the running sum is about 2^-11 of what it
 * will be: four are left, behind which it is 1/4 .. 4/4 of the last, 2.5 units of the last place at most,
 * 3e-7, and 1.1e-7 on average. All together these are 9e-7.
 *
 * What bounds it: three products over the upper triangle of tiles, 1.5 n d^2 (1 + 1/n_tiles) multiplications,
 * at the rate of bf16; before that x is read twice and the terms are written once, and behind it gram is read
 * and written. Two blocks that share a side bring it to both, so a multiprocessor asks the L2 cache for 48
 * KiB every 1536 clocks of its tensor cores (64 KiB alone). At d = 4096 there are 264 pairs of tiles, four
 * for every pair of 132 multiprocessors. */
#include "backend/cuda/cluster.h"
#include "backend/cuda/gram_parts.h"
#include "backend/cuda/kernels.h"

namespace {

/* A tile of the result is 128 x 128; each of two warpgroups has 64 rows of it, a third one starts copies.
 * Terms lie as wgmma reads them, [stage of 64 rows of x][tile of 128 columns][high, low][128 columns][64
 * rows], swizzled, so a side of a tile is one bulk copy a stage. Columns of x are rows there: products of
 * operands whose sums run along their rows need no transposing. */
enum {
    TILE = 128,
    STAGE_ROWS = 64,                 /* copied together, and promoted together */
    SLOTS = 3,                       /* stages in shared memory */
    STEP = 16,                       /* rows of a product */
    TERM = TILE * STAGE_ROWS,        /* elements */
    SIDE = 2 * TERM, SLOT = 2 * SIDE,
    CONSUMERS = 2, THREADS = (1 + CONSUMERS) * 128,
    SUMS = 64,                       /* of a thread */
    SHARED_BYTES = SLOTS * SLOT * 2 + 2 * SLOTS * 8 + 1024, /* and barriers, and room to align */
    BAND = 4,                        /* pairs of rows of tiles */
    PREFETCH_STAGES = 8,             /* before the end the result is brought to the L2 cache */
    PRODUCER_REGISTERS = 56, CONSUMER_REGISTERS = 224,
    SPLIT_THREADS = 256,
};

struct gram_job {
    const uint16_t *terms;
    const double *unscale;
    double *gram;
    int64_t d;
    int n_stages, n_pairs, n_items; /* n_pairs: of tiles, in a row of them */
};

int64_t n_pairs_of(int64_t d) { return (d + 2 * TILE - 1) / (2 * TILE); }
int64_t n_stages_of(int64_t n) { return (n + STAGE_ROWS - 1) / STAGE_ROWS; }
int64_t n_terms_of(int64_t n, int64_t n_pairs) { return n_stages_of(pass_rows(n)) * n_pairs * 2 * SIDE; }

/* ---- terms ---- */

/* Eight rows of one column: 16 bytes of each term. */
__device__ __forceinline__ void split_eight(const float value[8], float2 scale, uint4 *high, uint4 *low)
{
    uint32_t h[4], l[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        float first_high, first_low, second_high, second_low;
        split_value(value[2 * k], scale, &first_high, &first_low);
        split_value(value[2 * k + 1], scale, &second_high, &second_low);
        h[k] = qs_f16x2_of_f32(first_high, second_high);
        l[k] = qs_f16x2_of_f32(first_low, second_low);
    }
    *high = make_uint4(h[0], h[1], h[2], h[3]);
    *low = make_uint4(l[0], l[1], l[2], l[3]);
}

/* A block takes a tile's columns of one stage, which are turned in shared memory. The last rows, which
 * column_maxima has read last, go first. */
__global__ void __launch_bounds__(SPLIT_THREADS) split_tiles(const float *__restrict__ x, int64_t n, int64_t d,
                                                            const float2 *__restrict__ scale,
                                                            uint16_t *__restrict__ terms)
{
    enum {
        APART = SPLIT_THREADS / TILE,     /* a thread's pieces of 8 rows */
        PIECES = STAGE_ROWS / 8 / APART,
        VECTORS = SIDE / 8,               /* of 16 bytes */
    };
    __shared__ uint4 turned[VECTORS];
    const int within = (int)threadIdx.x % TILE, first = (int)threadIdx.x / TILE;
    const int64_t stage = (int64_t)gridDim.y - 1 - blockIdx.y, column = (int64_t)blockIdx.x * TILE + within;
    const float2 factors = scale[column];
    float value[PIECES][8];
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int k = 0; k < 8; k++) {
            int64_t row = stage * STAGE_ROWS + (first + i * APART) * 8 + k;
            value[i][k] = row < n && column < d ? x[row * d + column] : 0.0f;
        }
#pragma unroll
    for (int i = 0; i < PIECES; i++) {
        int to = qs_tile_at(within, (first + i * APART) * 8) / 8;
        split_eight(value[i], factors, &turned[to], &turned[to + VECTORS / 2]);
    }
    __syncthreads();
    uint4 *out = reinterpret_cast<uint4 *>(terms + (stage * gridDim.x + blockIdx.x) * SIDE);
#pragma unroll
    for (int i = 0; i < VECTORS; i += SPLIT_THREADS) out[i + threadIdx.x] = turned[i + threadIdx.x];
}

/* ---- tiles ---- */

/* Two blocks share an item: two neighbouring tiles of a row of tiles, or two on the diagonal, which have
 * nothing in common. Items go band after band of 2 BAND rows of tiles, in a band pair after pair of columns
 * of tiles, so what runs at the same time needs few different columns of x. */
struct gram_tile {
    int row, column; /* < 0: none */
    bool together;   /* the blocks of the item share the row */
};

/* Items of a band of q pairs of rows: a triangle, to the right of it a rectangle, and the diagonal's odd
 * tiles. */
__host__ __device__ inline int triangle_items(int q) { return q * q; }
__host__ __device__ inline int rectangle_items(int q, int pairs_left) { return (pairs_left - q) * 2 * q; }
__host__ __device__ inline int diagonal_items(int q) { return (q + 1) / 2; }
__host__ __device__ inline int band_items(int pairs_left)
{
    int q = pairs_left < BAND ? pairs_left : (int)BAND;
    return triangle_items(q) + rectangle_items(q, pairs_left) + diagonal_items(q);
}

int n_items_of(int n_pairs)
{
    int n = 0;
    for (int left = n_pairs; left > 0; left -= BAND) n += band_items(left);
    return n;
}

#ifdef QS_WGMMA

/* half: which of the item's two tiles. */
__device__ __forceinline__ gram_tile tile_of(int item, int half, int n_pairs)
{
    int left = n_pairs;
    for (int n; item >= (n = band_items(left)); left -= BAND) item -= n;
    int q = left < BAND ? left : (int)BAND, first = n_pairs - left, triangle = triangle_items(q);
    gram_tile tile;
    tile.together = true;
    if (item < triangle) {
        int pair = 0;
        for (; item >= 2 * pair + 1; pair++) item -= 2 * pair + 1;
        tile.row = 2 * first + item;
        tile.column = 2 * (first + pair) + half;
    } else if (item < triangle + rectangle_items(q, left)) {
        item -= triangle;
        tile.row = 2 * first + item % (2 * q);
        tile.column = 2 * (first + q + item / (2 * q)) + half;
    } else {
        int pair = 2 * (item - triangle - rectangle_items(q, left)) + half;
        tile.row = tile.column = pair < q ? 2 * (first + pair) + 1 : -1;
        tile.together = false;
    }
    return tile;
}

/* Whether none of a tile is in the matrix. Its block goes along, since the other one of the cluster waits
 * for it. */
__device__ __forceinline__ bool is_idle(const gram_tile &tile, int64_t d)
{
    return tile.row < 0 || (int64_t)tile.column * TILE >= d;
}

struct gram_ring { /* in shared memory */
    uint16_t *slots; /* [SLOTS][row side, column side][SIDE] */
    uint64_t *full, *empty;
};

/* A stage further in the ring. */
__device__ __forceinline__ void advance(int *slot, uint32_t *parity)
{
    *slot = *slot + 1 == SLOTS ? 0 : *slot + 1;
    *parity ^= *slot == 0 ? 1u : 0u;
}

/* What store_tile will add to. */
__device__ __forceinline__ void prefetch_result(const gram_job &job, const gram_tile &tile)
{
    int64_t row = (int64_t)tile.row * TILE, column = (int64_t)tile.column * TILE;
    if (is_idle(tile, job.d) || job.d % 2 != 0) return;
    int64_t n_rows = job.d - row < TILE ? job.d - row : (int64_t)TILE;
    int64_t n = job.d - column < TILE ? job.d - column : (int64_t)TILE;
    for (int64_t r = 0; r < n_rows; r++)
        qs_prefetch_bulk(job.gram + (row + r) * job.d + column, (uint32_t)n * (uint32_t)sizeof(double));
}

/* One thread. A tile on the diagonal has one side. */
__device__ __forceinline__ void copy_tiles(const gram_job &job, const gram_ring &ring)
{
    const int half = (int)blockIdx.x % 2;
    const int64_t stride = (int64_t)job.n_pairs * 2 * SIDE;
    const int prefetch_stage = job.n_stages > PREFETCH_STAGES ? job.n_stages - PREFETCH_STAGES : 0;
    int slot = 0;
    uint32_t parity = 1;
    for (int item = (int)blockIdx.x / 2; item < job.n_items; item += (int)gridDim.x / 2) {
        const gram_tile tile = tile_of(item, half, job.n_pairs);
        const bool diagonal = tile.row == tile.column;
        const uint16_t *rows = job.terms + (int64_t)(tile.row < 0 ? 0 : tile.row) * SIDE;
        const uint16_t *columns = job.terms + (int64_t)(tile.column < 0 ? 0 : tile.column) * SIDE;
        for (int s = 0; s < job.n_stages; s++) {
            uint64_t *full = &ring.full[slot];
            uint16_t *to = ring.slots + slot * SLOT;
            qs_barrier_wait(&ring.empty[slot], parity);
            qs_barrier_expect(full, (diagonal ? SIDE : SLOT) * 2);
            if (tile.together) /* each block brings half of the rows' side to both */
                qs_copy_bulk_to_all(to + half * TERM, rows + half * TERM, TERM * 2, full);
            else
                qs_copy_bulk(to, rows, SIDE * 2, full);
            if (!diagonal) qs_copy_bulk(to + SIDE, columns, SIDE * 2, full);
            rows += stride;
            columns += stride;
            advance(&slot, &parity);
            if (s == prefetch_stage) prefetch_result(job, tile);
        }
    }
}

/* The three products of a stage: first those with a low term, whose sums are so small that what is cut off
 * them is nothing. The first one starts the sums: clearing them would take longer than the other warpgroup's
 * products last. */
__device__ __forceinline__ void multiply_stage(float (&acc)[SUMS], const uint16_t *rows,
                                               const uint16_t *columns)
{
    const uint64_t a = qs_tile_k(rows), b = qs_tile_k(columns);
    const uint64_t a_low = qs_tile_rows(a, TILE), b_low = qs_tile_rows(b, TILE);
#pragma unroll
    for (int k = 0; k < STAGE_ROWS / STEP; k++) {
        qs_wgmma<false>(acc, qs_tile_step(a, k), qs_tile_step(b_low, k), k > 0);
        qs_wgmma<false>(acc, qs_tile_step(a_low, k), qs_tile_step(b, k));
    }
#pragma unroll
    for (int k = 0; k < STAGE_ROWS / STEP; k++) qs_wgmma<false>(acc, qs_tile_step(a, k), qs_tile_step(b, k));
}

/* Two neighbours of a row of gram: whether there is a first and a second, and whether they lie in one
 * vector. */
struct gram_pair {
    double *at;
    bool first, second, vector;
};

__device__ __forceinline__ gram_pair pair_at(const gram_job &job, int64_t row, int64_t column)
{
    gram_pair p;
    p.at = job.gram + row * job.d + column;
    p.first = row <= column && column < job.d;
    p.second = row <= column + 1 && column + 1 < job.d;
    p.vector = p.first && p.second && job.d % 2 == 0;
    return p;
}
__device__ __forceinline__ double2 load_pair(const gram_pair &p)
{
    if (p.vector) return *reinterpret_cast<const double2 *>(p.at);
    double2 v;
    v.x = p.first ? p.at[0] : 0.0;
    v.y = p.second ? p.at[1] : 0.0;
    return v;
}
__device__ __forceinline__ void store_pair(const gram_pair &p, double2 v)
{
    if (p.vector) {
        *reinterpret_cast<double2 *>(p.at) = v;
        return;
    }
    if (p.first) p.at[0] = v.x;
    if (p.second) p.at[1] = v.y;
}

/* The same where all of a tile is in the upper triangle and d is even. */
__device__ __forceinline__ double2 *vector_at(const gram_job &job, int64_t row, int64_t column)
{
    return reinterpret_cast<double2 *>(job.gram + row * job.d + column);
}

/* gram += the tile's sums; sum and rest are a thread's as wgmma.h says, row and column its first. Some are
 * loaded before the first of them is stored. */
template <bool WHOLE>
__device__ __forceinline__ void store_tile(const gram_job &job, const float (&sum)[SUMS],
                                           const float (&rest)[SUMS], int64_t row, int64_t column)
{
    enum { AHEAD = 8 }; /* pairs: two rows of half as many columns */
    const double unscale_row[2] = {job.unscale[row], job.unscale[row + 8]};
#pragma unroll
    for (int first = 0; first < SUMS / 2; first += AHEAD) {
        double2 v[AHEAD], unscale[AHEAD / 2];
#pragma unroll
        for (int i = 0; i < AHEAD / 2; i++)
            unscale[i] = *reinterpret_cast<const double2 *>(job.unscale + column + (first / 2 + i) * 8);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            v[i] = WHOLE ? *vector_at(job, row + (first + i) % 2 * 8, column + (first + i) / 2 * 8)
                              : load_pair(pair_at(job, row + (first + i) % 2 * 8, column + (first + i) / 2 * 8));
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int at = 2 * (first + i), half = (first + i) % 2;
            v[i].x += ((double)sum[at] + (double)rest[at]) * unscale_row[half] * unscale[i / 2].x;
            v[i].y += ((double)sum[at + 1] + (double)rest[at + 1]) * unscale_row[half] * unscale[i / 2].y;
            if (WHOLE) *vector_at(job, row + half * 8, column + (first + i) / 2 * 8) = v[i];
            else store_pair(pair_at(job, row + half * 8, column + (first + i) / 2 * 8), v[i]);
        }
    }
}

/* Takes the stages of an idle tile and lets them go. */
__device__ __forceinline__ void pass_by(const gram_job &job, const gram_ring &ring, int *slot, uint32_t *parity)
{
    for (int s = 0; s < job.n_stages; s++) {
        qs_barrier_wait(&ring.full[*slot], *parity);
        __syncwarp(); /* a lane that lags would not know one phase from the next but one */
        qs_barrier_arrive_at_all(&ring.empty[*slot]);
        advance(slot, parity);
    }
}

struct gram_place { /* of a warpgroup in the ring */
    int slot;
    uint32_t parity;
};

/* acc = the products of a stage. */
__device__ __forceinline__ void multiply_next(const gram_ring &ring, gram_place *at, float (&acc)[SUMS], int group,
                                              int columns_at)
{
    const uint16_t *stage = ring.slots + at->slot * SLOT;
    qs_barrier_wait(&ring.full[at->slot], at->parity);
    qs_wait_for_turn(1 + group);
    qs_settle(acc);
    qs_wgmma_fence();
    multiply_stage(acc, stage + group * (TERM / 2), stage + columns_at);
    qs_wgmma_commit();
    qs_give_turn(2 - group);
    qs_wgmma_wait<0>();
    qs_settle(acc);
    qs_barrier_arrive_at_all(&ring.empty[at->slot]);
    advance(&at->slot, &at->parity);
}

/* sum and rest are added to acc, which is the sum from here on, and rest what that lost: sums that stay where
 * they are would have to be moved there. */
__device__ __forceinline__ void promote(float (&acc)[SUMS], const float (&sum)[SUMS], float (&rest)[SUMS])
{
#pragma unroll
    for (int i = 0; i < SUMS; i++) {
        const float term = acc[i] + rest[i];
        acc[i] = sum[i];
        rest[i] = add_term(&acc[i], term);
    }
}

/* A warpgroup. While one of the two promotes its sums the other one's products run: they take turns, since
 * side by side both would promote at the same time. */
__device__ __forceinline__ void multiply_tiles(const gram_job &job, const gram_ring &ring, int group)
{
    const int half = (int)blockIdx.x % 2, lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4;
    gram_place at = {0, 0};
    if (group == 1) qs_give_turn(1);
    for (int item = (int)blockIdx.x / 2; item < job.n_items; item += (int)gridDim.x / 2) {
        const gram_tile tile = tile_of(item, half, job.n_pairs);
        if (is_idle(tile, job.d)) {
            pass_by(job, ring, &at.slot, &at.parity);
            continue;
        }
        const bool diagonal = tile.row == tile.column;
        const int columns_at = diagonal ? 0 : (int)SIDE;
        float acc[SUMS], sum[SUMS], rest[SUMS];
#pragma unroll
        for (int i = 0; i < SUMS; i++) acc[i] = sum[i] = rest[i] = 0.0f;
        for (int s = 0; s < job.n_stages; s += 2) {
            multiply_next(ring, &at, acc, group, columns_at);
            promote(acc, sum, rest);
            if (s + 1 == job.n_stages) {
#pragma unroll
                for (int i = 0; i < SUMS; i++) sum[i] = acc[i];
                break;
            }
            multiply_next(ring, &at, sum, group, columns_at);
            promote(sum, acc, rest);
        }
        const int64_t row = (int64_t)tile.row * TILE + group * 64 + warp * 16 + lane / 4;
        const int64_t column = (int64_t)tile.column * TILE + lane % 4 * 2;
        if (!diagonal && job.d % 2 == 0 && ((int64_t)tile.column + 1) * TILE <= job.d)
            store_tile<true>(job, sum, rest, row, column);
        else
            store_tile<false>(job, sum, rest, row, column);
    }
    if (group == 0) qs_wait_for_turn(1); /* the last one given */
}

#endif

__global__ void __launch_bounds__(THREADS, 1) gram_tiles(gram_job job)
{
#ifdef QS_WGMMA
    QS_DYNAMIC_SHARED(unsigned char, shared);
    gram_ring ring;
    ring.slots = reinterpret_cast<uint16_t *>(shared + (1024 - qs_shared_address(shared) % 1024) % 1024);
    ring.full = reinterpret_cast<uint64_t *>(ring.slots + SLOTS * SLOT);
    ring.empty = ring.full + SLOTS;
    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; i++) {
            qs_barrier_init(&ring.full[i], 1);
            qs_barrier_init(&ring.empty[i], CONSUMERS * 4 * QS_CLUSTER); /* warps */
        }
        qs_barrier_ready();
    }
    __syncthreads();
    qs_cluster_sync();
    if (threadIdx.x < 128) {
        qs_give_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) copy_tiles(job, ring);
        __syncwarp();
    } else {
        qs_take_registers<CONSUMER_REGISTERS>();
        /* Taken from one lane, so that the compiler knows that descriptors are the same in all of a warp. */
        multiply_tiles(job, ring, __shfl_sync(0xffffffffu, (int)threadIdx.x / 128 - 1, 0));
    }
    qs_cluster_sync();
#endif
}

int gram_pass(void *stream, const float *x, int64_t n, int n_sms, const gram_job &job, uint16_t *terms,
              const gram_scales &scales)
{
    int n_blocks = 2 * (job.n_items < n_sms / 2 ? job.n_items : n_sms / 2 > 0 ? n_sms / 2 : 1);
    int64_t n_columns = (int64_t)job.n_pairs * 2 * TILE;
    find_scales(stream, x, n, job.d, n_columns, scales);
    QS_LAUNCH(split_tiles, dim3((unsigned)job.n_pairs * 2, (unsigned)job.n_stages), dim3(SPLIT_THREADS), 0,
              stream, x, n, job.d, scales.scale, terms);
    QS_LAUNCH_CLUSTERS(gram_tiles, dim3((unsigned)n_blocks), dim3(THREADS), SHARED_BYTES, stream, job);
    return qs_launch_status();
}

}

extern "C" size_t qs_cu_gram_wgmma_bytes(int64_t n, int64_t d)
{
    int64_t pairs = n_pairs_of(d);
    return (size_t)n_terms_of(n, pairs) * sizeof(uint16_t) + gram_scales_bytes(pairs * 2 * TILE);
}

extern "C" int qs_cu_gram_wgmma(void *stream, int n_sms, const float *x, int64_t n, int64_t d, double *gram,
                                void *workspace)
{
    int64_t pairs = n_pairs_of(d);
    uint16_t *terms = static_cast<uint16_t *>(workspace);
    gram_scales scales = gram_scales_at(terms + n_terms_of(n, pairs), pairs * 2 * TILE);
    int code = qs_allow_shared(gram_tiles, SHARED_BYTES);
    for (int64_t row = 0; code == 0 && row < n; row += GRAM_PASS_ROWS) {
        int64_t rows = pass_rows(n - row);
        gram_job job;
        job.terms = terms;
        job.unscale = scales.unscale;
        job.gram = gram;
        job.d = d;
        job.n_stages = (int)n_stages_of(rows);
        job.n_pairs = (int)pairs;
        job.n_items = n_items_of((int)pairs);
        code = gram_pass(stream, x + row * d, rows, n_sms, job, terms, scales);
    }
    return code;
}
