/* y = x W^T for many rows of x on the tensor cores of sm_90a, from weights as they are stored.
 *
 * The words of a warp's lanes are unpacked to A fragments in registers, with the group's scale in them: that is how wgmma
 * takes A too. Rows of x, rounded to 16 bits, are columns of B in shared memory, and D is a tile of y^T: ROWS rows of W by
 * N rows of x, the rows of W shared out to two warpgroups. One warp more brings both operands by bulk copies, a chunk of
 * 64 columns at a time, into a ring of stages. A product is under way while the next weights are unpacked.
 *
 * As many tiles as there are blocks are computed at a time. What is left over at the end is cut into ranges of chunks of
 * equal length, one a block; a tile that several blocks have parts of is added up by the one that comes last, in the order
 * of the parts, so that results do not depend on which that is. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"
#include "backend/cuda/wgmma.h"

namespace {

enum { GROUP = 128 /* threads of a warpgroup */, N_GROUPS = 2, CONSUMERS = N_GROUPS * GROUP, THREADS = CONSUMERS + GROUP,
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
    int n_rounds;         /* whole tiles of each block */
    int first_split, n_ranges, n_split_chunks; /* tiles from first_split on are split */
    float values[16];                          /* of a table */
    float *parts;
    unsigned *n_arrived;  /* [range] of the parts of the tile that begins there; 0 between launches */
};

/* What one kernel is for: BLOCKS blocks of 64 rows of W a warpgroup, N rows of x, STEPS k-steps to a group. */
template <int FORMAT_, int STEPS_, bool ZEROS_, int BLOCKS_, int N_> struct form {
    enum {
        FORMAT = FORMAT_, STEPS = STEPS_, ZEROS = ZEROS_, BLOCKS = BLOCKS_, N = N_,
        TABLE = FORMAT >= QS_CU_TABLE, BF16 = FORMAT == QS_CU_BF16 || FORMAT == QS_CU_TABLE_BF16,
        CODED = qs_unpacker<FORMAT>::CODED, WORDS = qs_unpacker<FORMAT>::WORDS,
        ROWS = N_GROUPS * BLOCKS * 64, TILES = ROWS / QS_CU_TILE_ROWS, TILE_BYTES = WORDS * 128,
        X_BYTES = N * X_ROW_BYTES, STAGE_BYTES = X_BYTES + TILES * TILE_BYTES,
        FIT = RING_BYTES / STAGE_BYTES, STAGES = FIT > STAGES_MAX ? STAGES_MAX : FIT,
        SHARED_BYTES = ALIGNMENT + STAGES * STAGE_BYTES,
        PART_FLOATS = ROWS * N, CHUNK_GROUPS = CODED ? 4 / STEPS : 0,
    };
    static_assert(TILES < 32, "a lane a copy");
};

struct barriers {
    uint64_t full[STAGES_MAX], empty[STAGES_MAX], together;
};

#ifdef QS_WGMMA

/* A part of a tile, or all of it. */
struct segment {
    int strip, column;     /* of the tile */
    int chunk, end;
    int first, part, last; /* ranges that have parts of it, and this one's */
};

/* The segments of a block, in their order. */
struct walk {
    int round, at, end; /* chunks of the block's range */

    __device__ __forceinline__ explicit walk(const job &j) : round(0)
    {
        int64_t total = j.n_split_chunks, r = blockIdx.x;
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
        int tile;
        *s = {0, 0, 0, j.n_chunks, 0, 0, 0};
        if (round < j.n_rounds) {
            tile = round++ * (int)gridDim.x + (int)blockIdx.x;
        } else {
            if (at >= end) return false;
            int of = at / j.n_chunks;
            tile = j.first_split + of;
            s->chunk = at % j.n_chunks;
            s->end = min(j.n_chunks, s->chunk + end - at);
            s->part = (int)blockIdx.x;
            s->first = range_of(j, (int64_t)of * j.n_chunks);
            s->last = range_of(j, (int64_t)(of + 1) * j.n_chunks - 1);
            at += s->end - s->chunk;
        }
        s->strip = tile / j.n_columns;
        s->column = tile % j.n_columns;
        return true;
    }
};

/* The linear that a strip is of, its tiles of 16 rows, and the strip's first. */
struct place {
    const qs_cu_linear *linear;
    int n_tiles, tile;
};
template <class F> __device__ __forceinline__ place place_of(const job &j, int strip)
{
    int which = 0;
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && strip >= j.first_strip[i]) which = i;
    return {&j.linears[which], j.n_tiles[which], (strip - j.first_strip[which]) * F::TILES};
}

/* ---- the warp that brings operands ---- */

template <class F> __device__ __forceinline__ void bring(const job &j, char *ring, barriers *b)
{
    int lane = (int)threadIdx.x % 32, round = 0;
    segment s;
    for (walk w(j); w.next(j, &s);) {
        place p = place_of<F>(j, s.strip);
        int n_tiles = min(p.n_tiles - p.tile, (int)F::TILES);
        const char *words = reinterpret_cast<const char *>(p.linear->words) +
                            (int64_t)(p.tile + lane) * j.n_chunks * F::TILE_BYTES;
        for (int chunk = s.chunk; chunk < s.end; chunk++, round++) {
            int stage = round % F::STAGES;
            char *slot = ring + stage * F::STAGE_BYTES;
            if (round >= F::STAGES) qs_barrier_wait(&b->empty[stage], (uint32_t)(round / F::STAGES + 1) & 1);
            if (lane == 0) qs_barrier_expect(&b->full[stage], (uint32_t)(F::X_BYTES + n_tiles * F::TILE_BYTES));
            __syncwarp();
            if (lane == F::TILES)
                qs_copy_bulk(slot, j.x + ((int64_t)chunk * j.x_rows + s.column * F::N) * X_ROW_BYTES, F::X_BYTES,
                             &b->full[stage]);
            else if (lane < n_tiles)
                qs_copy_bulk(slot + F::X_BYTES + lane * F::TILE_BYTES, words + (int64_t)chunk * F::TILE_BYTES,
                             F::TILE_BYTES, &b->full[stage]);
        }
    }
}

/* ---- weights ---- */

/* Scales and zero points of rows g and g + 8 of a warp's tiles, for each group of a chunk; of tables the largest magnitudes
 * of row g and of row g + 8. */
template <class F> struct metas {
    enum { GROUPS = F::CODED ? F::CHUNK_GROUPS : 1 };
    uint32_t scale[F::BLOCKS][GROUPS], zeros[F::BLOCKS][GROUPS];

    /* tile: the warp's in the first block of rows. Behind the last column x is 0. */
    __device__ __forceinline__ void load(const job &j, const qs_cu_linear *l, int tile, int n_tiles, int chunk, int g)
    {
        if constexpr (F::CODED) {
#pragma unroll
            for (int i = 0; i < F::CHUNK_GROUPS; i++) {
                int group = min((int)__umulhi(2u * (uint32_t)(4 * chunk + i * F::STEPS), j.group_magic), j.n_groups - 1);
#pragma unroll
                for (int b = 0; b < F::BLOCKS; b++) {
                    int64_t at = ((int64_t)min(tile + 4 * b, n_tiles - 1) * j.n_groups + group) * 8 + g;
                    if constexpr (F::TABLE) {
                    uint2 pair = reinterpret_cast<const uint2 *>(l->scales)[at];
                    scale[b][i] = pair.x, zeros[b][i] = pair.y;
                    continue;
                }
                scale[b][i] = l->scales[at];
                    zeros[b][i] = F::ZEROS ? l->zeros[at] : 0;
                }
            }
        }
    }
};

/* A lane's words of a chunk, or of one k-step where they are not packed. */
template <class F> struct lane_words {
    uint32_t words[F::CODED ? F::WORDS : 4];

    __device__ __forceinline__ void load(const char *tile, int s, int lane)
    {
        qs_take_words<F::CODED ? F::WORDS : 4>(words, reinterpret_cast<const uint4 *>(tile) + s * 32, lane);
    }
};

/* The A fragment of k-step s; weights are f16 numbers, rounded once from code - zero point times the scale, or what their
 * format says of a table. */
template <class F>
__device__ __forceinline__ void fragment_of(const lane_words<F> &words, const metas<F> &meta, const uint32_t *table, int block,
                                            int s, uint32_t (&a)[4])
{
    if constexpr (!F::CODED) {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = words.words[r];
    } else if constexpr (F::TABLE) {
        qs_unpacker<F::FORMAT> unpack;
        unpack.table = table;
        unpack.absmax[0] = __uint_as_float(meta.scale[block][s / F::STEPS]);
        unpack.absmax[1] = __uint_as_float(meta.zeros[block][s / F::STEPS]);
        unpack.step(words.words, s, a);
    } else {
        constexpr uint32_t middle = 1u << (qs_unpacker<F::FORMAT>::BITS - 1), minus_zero = 0x80008000u;
        qs_unpacker<F::FORMAT> unpack;
        uint32_t zeros = meta.zeros[block][s / F::STEPS], scale = meta.scale[block][s / F::STEPS];
        if (F::ZEROS) unpack.set_zeros(zeros & 0xff, zeros >> 8);
        else unpack.set_zeros(middle, middle);
        unpack.step(words.words, s, a);
        uint32_t low = qs_pair_of_low(scale), high = qs_pair_of_high(scale);
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = qs_f16x2_fma(a[r], r % 2 == 0 ? low : high, minus_zero);
    }
}

/* ---- sums ---- */

/* All consumers; `turn` counts the calls. */
__device__ __forceinline__ void meet(barriers *b, int *turn)
{
    qs_barrier_arrive(&b->together);
    qs_barrier_wait(&b->together, (uint32_t)(*turn)++ & 1);
}

/* Where a thread's sums of a tile go. */
template <class F> struct target {
    float *y; /* of its first row of x and of W */
    const float *scale, *bias;
    int64_t n_out;
    int n_rows, n_outs; /* that are there from the first on */
    bool add;

    __device__ __forceinline__ target(const job &j, const segment &s, const place &p)
    {
        int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
        int out = (p.tile + warp / 4 * 4 * F::BLOCKS + warp % 4) * QS_CU_TILE_ROWS + g, row = s.column * F::N + 2 * t;
        n_out = p.linear->n_out;
        y = p.linear->y + row * n_out + out;
        scale = j.scale + row;
        bias = p.linear->bias != nullptr ? p.linear->bias + out : nullptr;
        n_rows = j.n - row;
        n_outs = (int)n_out - out;
        add = p.linear->add;
    }
    /* Four sums: two rows of x, 8 quad and the next, of each of two rows of W, those of a block and 8 behind. */
    __device__ __forceinline__ void store(int block, int quad, const float4 &v) const
    {
        const float sums[2][2] = {{v.x, v.z}, {v.y, v.w}};
#pragma unroll
        for (int e = 0; e < 2; e++) {
            if (8 * quad + e >= n_rows) continue;
            float factor = scale[8 * quad + e], *to = y + (8 * quad + e) * n_out;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int out = 64 * block + 8 * h;
                if (out >= n_outs) continue;
                float value = fmaf(sums[e][h], factor, bias != nullptr ? bias[out] : 0.0f);
                to[out] = add ? to[out] + value : value;
            }
        }
    }
};

/* Where a thread's sums of a part lie: [quad][thread]. The first part of a tile is the last of its range's. */
template <class F> __device__ __forceinline__ float4 *part_of(const job &j, const segment &s, int part)
{
    return reinterpret_cast<float4 *>(j.parts) + (int64_t)(2 * part + (part == s.first)) * (F::PART_FLOATS / 4) + threadIdx.x;
}

/* Leaves a part of a tile. The block that is the last to do so adds up all of them. */
template <class F>
__device__ __forceinline__ void add_parts(const job &j, const segment &s, const place &p,
                                          const float (&sum)[F::BLOCKS][F::N / 2], barriers *b, int *turn,
                                          unsigned *shared_count)
{
    enum { QUADS = F::N / 8 };
    int n_parts = s.last - s.first + 1;
    float4 *own = part_of<F>(j, s, s.part);
#pragma unroll
    for (int i = 0; i < F::BLOCKS * QUADS; i++) {
        const float *v = &sum[i / QUADS][i % QUADS * 4];
        own[i * CONSUMERS] = make_float4(v[0], v[1], v[2], v[3]);
    }
    __threadfence();
    meet(b, turn);
    if (threadIdx.x == 0) {
        *shared_count = atomicAdd(&j.n_arrived[s.first], 1u);
        if (*shared_count == (unsigned)(n_parts - 1)) j.n_arrived[s.first] = 0;
        __threadfence();
    }
    meet(b, turn);
    if (*shared_count != (unsigned)(n_parts - 1)) return;
    target<F> to(j, s, p);
#pragma unroll 4
    for (int i = 0; i < F::BLOCKS * QUADS; i++) {
        float4 total = make_float4(0, 0, 0, 0);
        for (int part = s.first; part <= s.last; part++) {
            float4 term = __ldcg(part_of<F>(j, s, part) + i * CONSUMERS);
            total.x += term.x, total.y += term.y, total.z += term.z, total.w += term.w;
        }
        to.store(i / QUADS, i % QUADS, total);
    }
}

template <class F>
__device__ __forceinline__ void store(const job &j, const segment &s, const place &p, const float (&sum)[F::BLOCKS][F::N / 2])
{
    enum { QUADS = F::N / 8 };
    target<F> to(j, s, p);
#pragma unroll
    for (int i = 0; i < F::BLOCKS * QUADS; i++) {
        const float *v = &sum[i / QUADS][i % QUADS * 4];
        to.store(i / QUADS, i % QUADS, make_float4(v[0], v[1], v[2], v[3]));
    }
}

/* ---- the warpgroups that multiply ---- */

template <class F>
__device__ __forceinline__ void multiply(const job &j, char *ring, barriers *b, unsigned *shared_count, const uint32_t *table)
{
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, round = 0, turn = 0;
    int own_tile = warp / 4 * 4 * F::BLOCKS + warp % 4; /* of the strip's */
    segment s;
    for (walk w(j); w.next(j, &s);) {
        place p = place_of<F>(j, s.strip);
        float sum[F::BLOCKS][F::N / 2];
        metas<F> meta;
#pragma unroll
        for (int i = 0; i < F::BLOCKS * F::N / 2; i++) sum[i / (F::N / 2)][i % (F::N / 2)] = 0.0f;
        meta.load(j, p.linear, p.tile + own_tile, p.n_tiles, s.chunk, g);
#pragma unroll 1
        for (int chunk = s.chunk; chunk < s.end; chunk++, round++) {
            int stage = round % F::STAGES;
            const char *slot = ring + stage * F::STAGE_BYTES, *own = slot + F::X_BYTES + own_tile * F::TILE_BYTES;
            uint64_t x = qs_tile_k(slot);
            metas<F> next = meta;
            if (chunk + 1 < s.end) next.load(j, p.linear, p.tile + own_tile, p.n_tiles, chunk + 1, g);
            qs_barrier_wait(&b->full[stage], (uint32_t)(round / F::STAGES) & 1);
            lane_words<F> words[F::BLOCKS];
#pragma unroll
            for (int i = 0; F::CODED && i < F::BLOCKS; i++) words[i].load(own + 4 * i * F::TILE_BYTES, 0, lane);
#pragma unroll
            for (int k = 0; k < 4; k++) {
                uint32_t a[F::BLOCKS][4];
#pragma unroll
                for (int i = 0; i < F::BLOCKS; i++) {
                    if (!F::CODED) words[i].load(own + 4 * i * F::TILE_BYTES, k, lane);
                    fragment_of<F>(words[i], meta, table, i, k, a[i]);
                }
                qs_wgmma_fence();
#pragma unroll
                for (int i = 0; i < F::BLOCKS; i++) qs_wgmma<F::BF16 != 0>(sum[i], a[i], qs_tile_step(x, k));
                qs_wgmma_commit();
                qs_wgmma_wait<1>(); /* one is under way while the next is unpacked */
                if (k == 0 && chunk > s.chunk && lane == 0)
                    qs_barrier_arrive(&b->empty[(round + F::STAGES - 1) % F::STAGES]);
            }
            meta = next;
        }
        qs_wgmma_wait<0>();
        if (lane == 0) qs_barrier_arrive(&b->empty[(round + F::STAGES - 1) % F::STAGES]);
        if (s.first == s.last) store<F>(j, s, p, sum);
        else add_parts<F>(j, s, p, sum, b, &turn, shared_count);
    }
}

#endif

template <class F> __global__ void __launch_bounds__(THREADS, 1) linear_many(const __grid_constant__ job j)
{
#ifdef QS_WGMMA
    QS_DYNAMIC_SHARED(char, shared);
    __shared__ barriers b;
    __shared__ unsigned shared_count;
    __shared__ __align__(256) uint32_t table[16]; /* qs_table_entry */
    if (F::TABLE && threadIdx.x < 16) table[threadIdx.x] = __float_as_uint(j.values[threadIdx.x]);
    char *ring = shared + (ALIGNMENT - qs_shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    if (threadIdx.x == 0) {
        for (int i = 0; i < F::STAGES; i++) {
            qs_barrier_init(&b.full[i], 1);
            qs_barrier_init(&b.empty[i], CONSUMERS / 32);
        }
        qs_barrier_init(&b.together, CONSUMERS);
        qs_barrier_ready();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        qs_give_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x < CONSUMERS + 32) bring<F>(j, ring, &b);
    } else {
        qs_take_registers<CONSUMER_REGISTERS>();
        multiply<F>(j, ring, &b, &shared_count, table);
    }
#endif
}

/* ---- launch ---- */

/* Tiles, and how blocks share them. */
template <class F> int share_out(job *j, int n_sms)
{
    int n_strips = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->n_tiles[i] = (int)qs_cu_n_tiles(j->linears[i].n_out);
        j->first_strip[i] = n_strips;
        n_strips += (int)((j->linears[i].n_out + F::ROWS - 1) / F::ROWS);
    }
    j->n_columns = (j->n + F::N - 1) / F::N;
    int n_tiles = n_strips * j->n_columns;
    int64_t n_chunks = (int64_t)n_tiles * j->n_chunks, most = (n_chunks + PART_CHUNKS - 1) / PART_CHUNKS;
    int n_blocks = (int)(most < n_sms ? most : n_sms);
    j->n_rounds = n_tiles / n_blocks;
    j->first_split = j->n_rounds * n_blocks;
    j->n_split_chunks = (n_tiles - j->first_split) * j->n_chunks;
    int n_ranges = (j->n_split_chunks + PART_CHUNKS - 1) / PART_CHUNKS;
    j->n_ranges = n_ranges < n_blocks ? n_ranges : n_blocks;
    return n_blocks;
}

template <class F> int launch(void *stream, job *j, int n_sms)
{
    int n_blocks = share_out<F>(j, n_sms);
    int status = qs_allow_shared(linear_many<F>, F::SHARED_BYTES);
    if (status != 0) return status;
    QS_LAUNCH(linear_many<F>, dim3((unsigned)n_blocks), dim3(THREADS), F::SHARED_BYTES, stream, *j);
    return qs_launch_status();
}

template <int FORMAT, int STEPS = 4, bool ZEROS = false> int launch_form(void *stream, job *j, int n_sms)
{
    enum { BLOCKS = 2, N = 128 };
    return launch<form<FORMAT, STEPS, ZEROS, BLOCKS, N>>(stream, j, n_sms);
}

/* Groups of whole chunks. */
template <int FORMAT> int launch_chunks(void *stream, job *j, int n_sms)
{
    return j->linears[0].zeros != nullptr ? launch_form<FORMAT, 4, true>(stream, j, n_sms)
                                          : launch_form<FORMAT, 4, false>(stream, j, n_sms);
}

} // namespace

extern "C" int qs_cu_linear_many(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears, int n_linears,
                                 int64_t n, const qs_cu_many_x *x, const qs_cu_many_scratch *scratch, int n_sms)
{
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    uint32_t group_steps = (uint32_t)((group_size + 15) / 16);
    job j = {};
    for (int i = 0; i < n_linears; i++) j.linears[i] = linears[i];
    j.n_linears = n_linears;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_magic = j.n_groups == 1 ? 0 : ((1u << 31) + group_steps - 1) / group_steps;
    j.x = reinterpret_cast<const char *>(x->x);
    j.scale = x->scale;
    j.n = (int)n;
    j.x_rows = (int)qs_cu_many_rows(n);
    for (int i = 0; i < 16; i++) j.values[i] = shape->values != nullptr ? shape->values[i] : 0.0f;
    j.parts = scratch->parts;
    j.n_arrived = scratch->n_arrived;
    bool has_whole_chunks = j.n_groups == 1 || group_size % QS_CU_CHUNK == 0;
    switch (shape->format) {
    case QS_CU_INT2: return launch_chunks<QS_CU_INT2>(stream, &j, n_sms);
    case QS_CU_INT3: return launch_chunks<QS_CU_INT3>(stream, &j, n_sms);
    case QS_CU_INT8: return launch_chunks<QS_CU_INT8>(stream, &j, n_sms);
    case QS_CU_TABLE_BF16: return launch_form<QS_CU_TABLE_BF16>(stream, &j, n_sms);
    case QS_CU_F16: return launch_form<QS_CU_F16>(stream, &j, n_sms);
    case QS_CU_BF16: return launch_form<QS_CU_BF16>(stream, &j, n_sms);
    default: break;
    }
    if (has_whole_chunks) return launch_chunks<QS_CU_INT4>(stream, &j, n_sms);
    return group_size % 32 == 0 ? launch_form<QS_CU_INT4, 2, true>(stream, &j, n_sms)
                                : launch_form<QS_CU_INT4, 1, true>(stream, &j, n_sms);
}
