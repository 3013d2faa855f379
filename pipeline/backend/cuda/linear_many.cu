/* y = x W^T for many rows of x on the tensor cores of sm_90a, from weights as they are stored.
 *
 * The words of a warp's lanes are unpacked to A fragments in registers, with the group's scale in them: that is how
 * wgmma takes A too. Rows of x, rounded to 16 bits, are columns of B in shared memory, and D is a tile of y^T: ROWS
 * rows of W by N rows of x, the rows of W shared out to two warpgroups. The warps of a third bring both operands by
 * bulk copies, a chunk of 64 columns at a time, into a ring of stages. A product is under way while the next weights
 * are unpacked. How blocks share tiles: many_tiles.h. */
#include "backend/cuda/coding.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/many_tiles.h"

namespace {

#ifdef QS_WGMMA

/* ---- the warps that bring operands ---- */

/* Each block of a team brings its share of the tiles of W to all of them. A copy takes its warp some hundred cycles to
 * give out, so that all four warps of the group take part; weights are on their way before x is there. */
template <class F> __device__ __forceinline__ void bring(const job &j, char *ring, barriers *b)
{
    enum { SHARE = F::TILES / F::TEAM, WARPS = GROUP / 32, X_WARP = WARPS - 1 };
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32 % WARPS, own = lane * WARPS + warp, round = 0;
    int tile = (int)blockIdx.x % F::TEAM * SHARE + own, block = tile / 4 % F::BLOCKS;
    bool brings_x = warp == X_WARP && lane == SHARE / WARPS;
    segment s;
    if (warp == X_WARP) qs_wait_for_previous();
    for (walk<F> w(j); w.next(j, &s);) {
        place p = place_of<F>(j, s.strip);
        int in_linear = p.tile_of<F>(tile / (4 * F::BLOCKS), tile % 4, block);
        int n_tiles = p.gates ? F::BLOCKS * min(p.n_tiles - p.tile, (int)(F::TILES / F::BLOCKS))
                              : min(p.n_tiles - p.tile, (int)F::TILES);
        bool brings_tile = own < SHARE && in_linear < p.n_tiles;
        const char *words = reinterpret_cast<const char *>(p.linear_of(block)->words) +
                            (int64_t)in_linear * j.n_chunks * F::TILE_BYTES;
        for (int chunk = s.chunk; chunk < s.end; chunk++, round++) {
            int stage = round % F::STAGES;
            char *slot = ring + stage * F::STAGE_BYTES;
            if (round >= F::STAGES) qs_barrier_wait(&b->empty[stage], (uint32_t)(round / F::STAGES + 1) & 1);
            if (warp == 0 && lane == 0)
                qs_barrier_expect(&b->full[stage], (uint32_t)(F::X_BYTES + n_tiles * F::TILE_BYTES));
            __syncwarp();
            char *to = slot + F::X_BYTES + tile * F::TILE_BYTES;
            const char *from = words + (int64_t)chunk * F::TILE_BYTES;
            if (brings_x)
                qs_copy_bulk(slot, j.x + ((int64_t)chunk * j.x_rows + s.column * F::N) * X_ROW_BYTES, F::X_BYTES,
                             &b->full[stage]);
            else if (brings_tile)
                F::TEAM > 1 ? qs_copy_bulk_to_all(to, from, F::TILE_BYTES, &b->full[stage])
                            : qs_copy_bulk(to, from, F::TILE_BYTES, &b->full[stage]);
        }
    }
}

/* ---- weights ---- */

/* Scales and zero points of rows g and g + 8 of a warp's tiles, for each group of a chunk; of tables the largest
 * magnitudes of row g and of row g + 8. */
template <class F> struct metas {
    enum { GROUPS = F::CODED ? F::CHUNK_GROUPS : 1 };
    uint32_t scale[F::BLOCKS][GROUPS], zeros[F::BLOCKS][GROUPS];

    /* Behind the last column x is 0. */
    __device__ __forceinline__ void load(const job &j, const place &p, int warp, int chunk, int g)
    {
        if constexpr (F::CODED) {
#pragma unroll
            for (int i = 0; i < F::CHUNK_GROUPS; i++) {
                int group = min((int)__umulhi(2u * (uint32_t)(4 * chunk + i * F::STEPS), j.group_magic),
                                j.n_groups - 1);
#pragma unroll
                for (int b = 0; b < F::BLOCKS; b++) {
                    int tile = min(p.tile_of<F>(warp / 4, warp % 4, b), p.n_tiles - 1);
                    int64_t at = ((int64_t)tile * j.n_groups + group) * 8 + g;
                    const qs_cu_linear *l = p.linear_of(b);
                    if constexpr (F::TABLE) {
                        uint2 pair = reinterpret_cast<const uint2 *>(l->scales)[at];
                        scale[b][i] = pair.x, zeros[b][i] = pair.y;
                    } else {
                        scale[b][i] = l->scales[at];
                        zeros[b][i] = F::ZEROS ? l->zeros[at] : 0;
                    }
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

/* The A fragment of k-step s; weights are f16 numbers, rounded once from code - zero point times the scale, or what
 * their format says of a table. */
template <class F>
__device__ __forceinline__ void fragment_of(const lane_words<F> &words, const metas<F> &meta, const uint32_t *table,
                                            int block, int s, uint32_t (&a)[4])
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

/* What becomes of the sums of a row of W. */
template <class F> struct ending {
    float bias, absmax; /* rounded; 0 where there is none */

    __device__ __forceinline__ void load(const qs_cu_linear *l, int out, bool is_there)
    {
        bias = is_there && l->bias != nullptr ? l->bias[out] : 0.0f;
        absmax = F::CODES && is_there && l->absmax != nullptr ? l->absmax[out] : 0.0f;
        bool is_coded = F::CODES && l->absmax != nullptr;
        bias = qs_cu_round_to(bias, F::TABLE ? QS_ROUND_BF16 : is_coded ? QS_ROUND_F16 : QS_ROUND_F32);
    }
    __device__ __forceinline__ float of(float sum, float scale, bool is_coded) const
    {
        if (F::CODES && is_coded) return qs_cu_round_to(qs_cu_decode_sum(sum, scale, absmax) + bias, QS_ROUND_F16);
        return qs_cu_round_to(fmaf(sum, scale, bias), F::TABLE ? QS_ROUND_BF16 : QS_ROUND_F32);
    }
};

/* Where a thread's sums of a tile go. */
template <class F> struct target {
    enum { QUADS = F::N / 8, AHEAD = 4 /* rows of y that are loaded before the first is stored */ };
    const qs_cu_linear *linear;
    float *y; /* of its first row of x and of W */
    int64_t n_out; /* the linear's, as `add`: behind a store they would be read again */
    const float *scale;
    int out, n_rows; /* rows of x that are there from the first on */
    bool add, gates, is_coded;

    __device__ __forceinline__ target(const job &j, const segment &s, const place &p)
    {
        int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
        int row = s.column * F::N + 2 * t;
        linear = p.linear;
        out = p.tile_of<F>(warp / 4, warp % 4, 0) * QS_CU_TILE_ROWS + g;
        n_out = linear->n_out;
        add = linear->add;
        y = linear->y + row * n_out + out;
        scale = j.scale + row;
        n_rows = j.n - row;
        gates = p.gates;
        is_coded = F::CODES && linear->absmax != nullptr;
    }
    /* A quad's four sums of a block are of rows 8 quad and 8 quad + 1 of x, each of two rows of W, 8 apart. */
    static __device__ __forceinline__ int row_of(int at) { return at / 2 * 8 + at % 2; }
    static __device__ __forceinline__ int out_of(int o) { return o / 2 * 64 + o % 2 * 8; }
    static __device__ __forceinline__ float sum_of(const float (&sum)[F::BLOCKS][F::N / 2], int block, int at, int o)
    {
        return sum[block][at / 2 * 4 + o % 2 * 2 + at % 2];
    }
    __device__ __forceinline__ bool has_out(int o) const { return out + out_of(o) < n_out; }
    __device__ __forceinline__ float *place_of_row(int at) const { return y + row_of(at) * n_out; }

    /* Scales of all rows are asked for before the first sum is stored, behind which no load may move. */
    __device__ __forceinline__ void store(const float (&sum)[F::BLOCKS][F::N / 2]) const
    {
        float factor[2 * QUADS];
#pragma unroll
        for (int at = 0; at < 2 * QUADS; at++) factor[at] = row_of(at) < n_rows ? scale[row_of(at)] : 0.0f;
        if (gates) store_gated(sum, factor);
        else store_plain(sum, factor);
    }
    __device__ __forceinline__ void store_plain(const float (&sum)[F::BLOCKS][F::N / 2],
                                                const float (&factor)[2 * QUADS]) const
    {
        enum { OUTS = 2 * F::BLOCKS };
        ending<F> end[OUTS];
#pragma unroll
        for (int o = 0; o < OUTS; o++) end[o].load(linear, out + out_of(o), has_out(o));
#pragma unroll
        for (int first = 0; first < 2 * QUADS; first += AHEAD) {
            float before[AHEAD][OUTS] = {}, *row[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int x_row = row_of(first + i);
                row[i] = place_of_row(first + i);
#pragma unroll
                for (int o = 0; o < OUTS; o++)
                    if (add && x_row < n_rows && has_out(o)) before[i][o] = row[i][out_of(o)];
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++)
#pragma unroll
                for (int o = 0; o < OUTS; o++) {
                    float value = end[o].of(sum_of(sum, o / 2, first + i, o), factor[first + i], is_coded);
                    if (row_of(first + i) < n_rows && has_out(o))
                        row[i][out_of(o)] = add ? before[i][o] + value : value;
                }
        }
    }
    /* Sums of the first block are those of the gate. */
    __device__ __forceinline__ void store_gated(const float (&sum)[F::BLOCKS][F::N / 2],
                                                const float (&factor)[2 * QUADS]) const
    {
        ending<F> end[2][2]; /* [row of W][gate, gated] */
#pragma unroll
        for (int o = 0; o < 4; o++) end[o / 2][o % 2].load(linear + o % 2, out + out_of(o / 2), has_out(o / 2));
#pragma unroll
        for (int at = 0; at < 2 * QUADS; at++) {
            float *row = place_of_row(at);
#pragma unroll
            for (int o = 0; o < 2; o++) {
                float gate = end[o][0].of(sum_of(sum, 0, at, o), factor[at], is_coded);
                float gated = end[o][1].of(sum_of(sum, 1, at, o), factor[at], is_coded);
                if (row_of(at) < n_rows && has_out(o)) row[out_of(o)] = qs_cu_silu_mul_of(gate, gated);
            }
        }
    }
};

/* Where a thread's sums of a part lie: [quad][thread]. The first part of a tile is the last of its range's. */
template <class F> __device__ __forceinline__ float4 *part_of(const job &j, const segment &s, int part)
{
    int64_t at = (2 * part + (part == s.first)) * F::TEAM + (int)blockIdx.x % F::TEAM;
    return reinterpret_cast<float4 *>(j.parts) + at * (F::PART_FLOATS / 4) + threadIdx.x;
}

/* Leaves a part of a tile. In the block that is the last to do so, sum becomes the sum of all of them. */
template <class F>
__device__ __forceinline__ bool add_parts(const job &j, const segment &s, float (&sum)[F::BLOCKS][F::N / 2],
                                          barriers *b, int *turn, unsigned *shared_count)
{
    enum { QUADS = F::N / 8, N_QUADS = F::BLOCKS * QUADS, AHEAD = 8 };
    unsigned before_last = (unsigned)(s.last - s.first);
    float4 *own = part_of<F>(j, s, s.part);
#pragma unroll
    for (int i = 0; i < N_QUADS; i++) {
        const float *v = &sum[i / QUADS][i % QUADS * 4];
        own[i * CONSUMERS] = make_float4(v[0], v[1], v[2], v[3]);
    }
    __threadfence();
    meet(b, turn);
    if (threadIdx.x == 0) {
        unsigned *n_arrived = &j.n_arrived[s.first * F::TEAM + (int)blockIdx.x % F::TEAM];
        *shared_count = atomicAdd(n_arrived, 1u);
        if (*shared_count == before_last) *n_arrived = 0;
        __threadfence();
    }
    meet(b, turn);
    if (*shared_count != before_last) return false;
#pragma unroll
    for (int i = 0; i < F::BLOCKS * (F::N / 2); i++) sum[i / (F::N / 2)][i % (F::N / 2)] = 0.0f;
#pragma unroll 1
    for (int part = s.first; part <= s.last; part++) {
        const float4 *from = part_of<F>(j, s, part);
#pragma unroll
        for (int first = 0; first < N_QUADS; first += AHEAD) {
            float4 term[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) term[i] = __ldcg(from + (first + i) * CONSUMERS);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                float *v = &sum[(first + i) / QUADS][(first + i) % QUADS * 4];
                v[0] += term[i].x, v[1] += term[i].y, v[2] += term[i].z, v[3] += term[i].w;
            }
        }
    }
    return true;
}

/* ---- the warpgroups that multiply ---- */

/* What a warp has of the chunks of a segment: scales of a chunk and the next, words of it, and fragments, which are
 * made while the products before theirs are under way. Those of a k-step have registers of their own, so that three
 * k-steps' may be about. */
template <class F> struct operands {
    enum { METAS = F::CHUNK_GROUPS > 2 ? 1 : 2 /* chunks; groups of 16 leave no registers for two */ };
    metas<F> meta[METAS]; /* [chunk % METAS from the segment's first on] */
    lane_words<F> words[F::BLOCKS];
    uint32_t a[4][F::BLOCKS][4];

    __device__ __forceinline__ void take_words(const char *tile, int lane)
    {
#pragma unroll
        for (int i = 0; F::CODED && i < F::BLOCKS; i++) words[i].load(tile + 4 * i * F::TILE_BYTES, 0, lane);
    }
    /* tile: in shared memory. */
    __device__ __forceinline__ void make_step(int half, int k, const char *tile, int lane, const uint32_t *table)
    {
#pragma unroll
        for (int i = 0; i < F::BLOCKS; i++) {
            if (!F::CODED) words[i].load(tile + 4 * i * F::TILE_BYTES, k, lane);
            fragment_of<F>(words[i], meta[half % METAS], table, i, k, a[k][i]);
        }
    }
};

/* A place in the ring and the parity of its phase. */
template <class F> struct place_in_ring {
    int stage;
    uint32_t parity;
    __device__ __forceinline__ place_in_ring next(void) const
    {
        return stage + 1 == F::STAGES ? place_in_ring{0, parity ^ 1u} : place_in_ring{stage + 1, parity};
    }
    __device__ __forceinline__ int before(void) const { return (stage == 0 ? (int)F::STAGES : stage) - 1; }
};

/* A warp needs a stage no more: all that bring to it are told. */
template <class F> __device__ __forceinline__ void let_go(uint64_t *empty)
{
    if (F::TEAM > 1) qs_barrier_arrive_at_all(empty);
    else if (threadIdx.x % 32 == 0) qs_barrier_arrive(empty);
}

template <class F>
__device__ __forceinline__ void multiply(const job &j, char *ring, barriers *b, unsigned *shared_count,
                                         const uint32_t *table)
{
    enum { AHEAD = F::CODED ? 1 : 2 /* k-steps that fragments are made before their products */ };
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, turn = 0;
    int own_tile = warp / 4 * 4 * F::BLOCKS + warp % 4; /* of the strip's */
    const char *own = ring + F::X_BYTES + own_tile * F::TILE_BYTES;
    float sum[F::BLOCKS][F::N / 2];
    place_in_ring<F> at = {0, 0};
    segment s;
    qs_wait_for_previous(); /* parts and y */
    for (walk<F> w(j); w.next(j, &s);) {
        place p = place_of<F>(j, s.strip);
        operands<F> o;
        auto load_meta = [&](int half, int chunk) {
            o.meta[half % operands<F>::METAS].load(j, p, warp, chunk, g);
        };
#pragma unroll
        for (int i = 0; i < operands<F>::METAS; i++) load_meta(i, s.chunk + i);
#pragma unroll
        for (int i = 0; i < F::BLOCKS * (F::N / 2); i++) sum[i / (F::N / 2)][i % (F::N / 2)] = 0.0f;
        qs_barrier_wait(&b->full[at.stage], at.parity);
        o.take_words(own + at.stage * F::STAGE_BYTES, lane);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) o.make_step(0, k, own + at.stage * F::STAGE_BYTES, lane, table);
#pragma unroll 1
        for (int chunk = s.chunk; chunk < s.end; chunk += 2) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                if (chunk + half >= s.end) break;
                bool is_last = chunk + half + 1 == s.end;
                place_in_ring<F> next = at.next();
                const char *tile = own + at.stage * F::STAGE_BYTES, *next_tile = own + next.stage * F::STAGE_BYTES;
                uint64_t x = qs_tile_k(ring + at.stage * F::STAGE_BYTES);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    qs_wgmma_fence();
#pragma unroll
                    for (int i = 0; i < F::BLOCKS; i++) qs_wgmma<F::BF16 != 0>(sum[i], o.a[k][i], qs_tile_step(x, k));
                    qs_wgmma_commit();
                    if (k < 4 - AHEAD) o.make_step(half, k + AHEAD, tile, lane, table);
                    else if (!is_last) o.make_step(1 - half, k + AHEAD - 4, next_tile, lane, table);
                    if (k == 2 && !is_last) o.take_words(next_tile, lane);
                    if (k == 2) load_meta(half, chunk + half + operands<F>::METAS);
                    qs_wgmma_wait<1>(); /* one is under way while the next is unpacked */
                    if (k == 0 && chunk + half > s.chunk) let_go<F>(&b->empty[at.before()]);
                    if (k == 1 && !is_last) qs_barrier_wait(&b->full[next.stage], next.parity);
                }
                at = next;
            }
        }
        qs_wgmma_wait<0>();
        let_go<F>(&b->empty[at.before()]);
        if (s.first != s.last && !add_parts<F>(j, s, sum, b, &turn, shared_count)) continue;
        target<F>(j, s, p).store(sum);
    }
}

#endif

template <class F> __global__ void __launch_bounds__(THREADS, 1) linear_many(const __grid_constant__ job j)
{
#ifdef QS_WGMMA
    QS_DYNAMIC_SHARED(char, shared);
    __shared__ unsigned shared_count;
    __shared__ __align__(256) uint32_t table[16]; /* qs_table_entry */
    if (F::TABLE && threadIdx.x < 16) table[threadIdx.x] = __float_as_uint(j.values[threadIdx.x]);
    char *ring = shared + (ALIGNMENT - qs_shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    barriers *b = reinterpret_cast<barriers *>(ring + F::STAGES * F::STAGE_BYTES);
    if (threadIdx.x == 0) {
        for (int i = 0; i < F::STAGES; i++) {
            qs_barrier_init(&b->full[i], 1);
            qs_barrier_init(&b->empty[i], F::TEAM * CONSUMERS / 32);
        }
        qs_barrier_init(&b->together, CONSUMERS);
        qs_barrier_ready();
    }
    if (F::TEAM > 1) qs_cluster_sync();
    else __syncthreads();
    if (threadIdx.x >= CONSUMERS) {
        qs_give_registers<PRODUCER_REGISTERS>();
        bring<F>(j, ring, b);
    } else {
        qs_take_registers<CONSUMER_REGISTERS>();
        multiply<F>(j, ring, b, &shared_count, table);
    }
    if (F::TEAM > 1) {
        __syncwarp();
        qs_cluster_sync();
    }
#endif
}

/* ---- launch ---- */

template <class F> int launch(void *stream, job *j, int n_sms)
{
    int n_blocks = share_out<F>(j, n_sms);
    int status = qs_allow_shared(linear_many<F>, F::SHARED_BYTES);
    if (status != 0) return status;
    dim3 grid((unsigned)n_blocks), block(THREADS);
    /* Between new weights and this came at least the launch that prepared x, which waited for them. */
    if (F::TEAM > 1) QS_LAUNCH_CLUSTERS_SOON(linear_many<F>, grid, block, F::SHARED_BYTES, stream, *j);
    else QS_LAUNCH_SOON(linear_many<F>, grid, block, F::SHARED_BYTES, stream, *j);
    return qs_launch_status();
}

/* Two blocks share W of the commonest forms where tiles of rows of x are in pairs. */
template <int FORMAT, int STEPS = 4, bool ZEROS = false> int launch_form(void *stream, job *j, int n_sms)
{
    enum { BLOCKS = 2, N = 128 };
    j->n_columns = (j->n + N - 1) / N;
    if constexpr (!qs_unpacker<FORMAT>::CODED || (FORMAT == QS_CU_INT4 && STEPS == 4))
        if (j->n_columns % QS_CLUSTER == 0 && n_sms >= QS_CLUSTER)
            return launch<form<FORMAT, STEPS, ZEROS, BLOCKS, N, QS_CLUSTER>>(stream, j, n_sms);
    return launch<form<FORMAT, STEPS, ZEROS, BLOCKS, N, 1>>(stream, j, n_sms);
}

/* Groups of whole chunks. */
template <int FORMAT> int launch_chunks(void *stream, job *j, int n_sms)
{
    return j->linears[0].zeros != nullptr ? launch_form<FORMAT, 4, true>(stream, j, n_sms)
                                          : launch_form<FORMAT, 4, false>(stream, j, n_sms);
}

} // namespace

extern "C" int qs_cu_linear_many(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears,
                                 int n_linears, int64_t n, const qs_cu_many_x *x, const qs_cu_many_scratch *scratch,
                                 int n_sms)
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
