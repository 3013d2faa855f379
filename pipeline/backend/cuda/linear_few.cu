/* y = x W^T for few rows of x on the tensor cores: weights are read once, in their stored form, and become A fragments
 * in registers (unpack.h); the rows of x are the columns of B. Scales meet the f32 sums once per group.
 *
 * A block stays on its multiprocessor and goes through groups of row tiles; its warps share the columns of each, chunk by
 * chunk, and add up at the end of a group, always in the same order, whatever the number of rows. Loads of weights run
 * several chunks ahead of their use and straight on from one group into the next, so memory never waits for sums.
 *
 * What bounds it (H200, int4): 36 codes per clock and multiprocessor arrive from memory at 4.5 TB/s; unpacking takes about
 * 1.5 instructions per code of 3.5 that can be issued; products up to 32 columns fit beside that. With many columns
 * every group reads all of x again through the L2 cache: tiles per group are what keeps that below the weights.
 *
 * Steps on the way (7 linears of an 8B layer, 4 bits, group 128, 1 row, H200; memory alone takes 25 us):
 *   a block per tile, loads when needed                     87 us
 *   scales ahead, two tiles a block                         80 us
 *   blocks that stay, one of 16 warps a multiprocessor      89 us: 166 instructions a chunk, too few warps to hide them
 *   addresses stepped, zero points a template, two blocks   docs/gpu.md */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/unpack.h"

namespace {

/* The columns of a matrix are always shared by the warps of a block, chunk by chunk in turn, whatever else changes: that
 * fixes the order of summation. More of them would meet at a barrier more often, fewer would leave short matrices to few. */
enum { PLAYERS = 8, X_PAD = 8 /* elements between rows in shared memory, for other banks in neighbouring columns */,
       QS_CU_OWN_COLUMNS = 8192 /* beyond that splitting x in every block takes longer than a launch */ };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int first_group[QS_CU_LINEARS_MAX]; /* of each linear; a group of tiles is what a block computes at a time */
    int n_groups_of_tiles, n_linears;
    int n_chunks, n_groups;
    uint32_t group_magic; /* group of k-step s: __umulhi(2 s, group_magic) */
    const uint16_t *x_terms;
    const float *x_scale; /* [n] */
    const float *x;       /* [n_in], where blocks split it for themselves */
    int n_in, n, n_terms; /* n rows of x; a row's terms are neighbouring columns of B */
};

/* ---- weights ---- */

/* What a lane holds of a tile and chunk: words, and for each of the chunk's groups scales and zero points of rows g and
 * g + 8. Loaded chunks ahead of their use: all come from memory. */
template <int FORMAT, int STEPS, bool ZEROS> struct piece {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, GROUPS = 4 / STEPS, CODED = qs_unpacker<FORMAT>::CODED };
    uint32_t words[WORDS], scales[CODED ? GROUPS : 1], zeros[ZEROS ? GROUPS : 1];
};

/* Where a warp finds a tile: its lane's words and group entries of the first chunk and group. */
struct tile_at {
    const uint32_t *words, *scales;
    const uint16_t *zeros;
};

template <int FORMAT, int STEPS, bool ZEROS>
__device__ __forceinline__ void load_piece(piece<FORMAT, STEPS, ZEROS> &p, const tile_at &tile, const uint32_t *words,
                                           const job &j, int chunk, int lane)
{
    qs_load_words<piece<FORMAT, STEPS, ZEROS>::WORDS>(p.words, words, lane);
#pragma unroll
    for (int i = 0; i < (qs_unpacker<FORMAT>::CODED ? 4 / STEPS : 0); i++) {
        int group = (int)__umulhi(2u * (uint32_t)(4 * chunk + STEPS * i), j.group_magic);
        group = min(group, j.n_groups - 1); /* columns of padding: x is 0 there */
        p.scales[i] = __ldg(tile.scales + group * 8);
        if (ZEROS) p.zeros[i] = __ldg(tile.zeros + group * 8);
    }
}

/* ---- activations ---- */

/* Where a lane's columns of B, 8 c + g, begin. Columns behind the last are read from the last one: their sums are not
 * used. */
template <int COLUMNS> struct lane_x {
    const uint16_t *terms;
    int column[COLUMNS];
};

template <int COLUMNS>
__device__ __forceinline__ lane_x<COLUMNS> lane_of(const job &j, const uint16_t *terms, int stride, int lane)
{
    lane_x<COLUMNS> x;
    x.terms = terms;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) x.column[c] = min(8 * c + lane / 4, j.n * j.n_terms - 1) * stride + 16 * (lane % 4);
    return x;
}

/* Bytes of shared memory for x, a multiple of 16. */
size_t x_bytes(const job *j)
{
    return (size_t)(j->n * j->n_terms) * (size_t)(j->n_chunks * QS_CU_CHUNK + X_PAD) * sizeof(uint16_t);
}

/* Terms, rows `stride` elements apart. */
__device__ __forceinline__ void copy_x(const job &j, uint16_t *shared, int stride)
{
    int n_rows = j.n * j.n_terms, n_vectors = j.n_chunks * (QS_CU_CHUNK / 8);
    for (int i = threadIdx.x; i < n_rows * n_vectors; i += PLAYERS * 32) {
        int row = i / n_vectors, at = i % n_vectors;
        reinterpret_cast<uint4 *>(shared + row * stride)[at] = reinterpret_cast<const uint4 *>(j.x_terms)[i];
    }
    __syncthreads();
}

/* The same from x itself, a row of it, as qs_cu_prepare_x does: a lane takes columns 4 l .. + 3 of two chunks of a warp.
 * Returns what undoes the scale. */
template <bool BF16> __device__ __forceinline__ float split_x(const job &j, uint16_t *shared, int stride)
{
    enum { MOST = QS_CU_OWN_COLUMNS / (PLAYERS * 2 * QS_CU_CHUNK) }; /* loads of a lane, all under way at once */
    __shared__ float largest_of[PLAYERS];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float v[MOST][4], largest = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int column = (i * PLAYERS + warp) * 2 * QS_CU_CHUNK + 4 * lane;
        float4 f = column < j.n_in ? *reinterpret_cast<const float4 *>(j.x + column) : make_float4(0, 0, 0, 0);
        v[i][0] = f.x, v[i][1] = f.y, v[i][2] = f.z, v[i][3] = f.w;
    }
#pragma unroll
    for (int i = 0; i < MOST; i++)
        largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v[i][0]), fabsf(v[i][1]))), fmaxf(fabsf(v[i][2]), fabsf(v[i][3])));
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (lane == 0) largest_of[warp] = largest;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < PLAYERS; w++) largest = fmaxf(largest, largest_of[w]);
    qs_cu_power power = qs_cu_power_of(largest);
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int chunk = (i * PLAYERS + warp) * 2 + lane / 16;
        if (chunk >= j.n_chunks) break;
        uint16_t term[2][4];
#pragma unroll
        for (int e = 0; e < 4; e++) qs_cu_split(v[i][e] * power.up, BF16, &term[0][e], &term[1][e]);
        uint16_t *to = shared + chunk * QS_CU_CHUNK + 16 * (lane % 4) + 4 * (lane % 16 / 4);
#pragma unroll
        for (int k = 0; k < 2; k++)
            if (k < j.n_terms)
                *reinterpret_cast<uint2 *>(to + k * stride) = make_uint2((uint32_t)term[k][0] | (uint32_t)term[k][1] << 16,
                                                                         (uint32_t)term[k][2] | (uint32_t)term[k][3] << 16);
    }
    __syncthreads();
    return power.down;
}

/* ---- products ---- */

template <int FORMAT> __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (FORMAT == QS_CU_BF16) qs_mma_bf16(c, a, b);
    else qs_mma_f16(c, a, b);
}

/* One piece against COLUMNS columns of 8; STEPS k-steps lie in one group. */
template <int FORMAT, int COLUMNS, int STEPS, bool ZEROS>
__device__ __forceinline__ void add_piece(float (&total)[COLUMNS][4], const piece<FORMAT, STEPS, ZEROS> &p,
                                          const uint32_t (&b)[COLUMNS][8])
{
    constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
#pragma unroll
    for (int i = 0; i < 4 / STEPS; i++) {
        qs_unpacker<FORMAT> unpack;
        float scale[2] = {1.0f, 1.0f}, sum[COLUMNS][4] = {};
        if (qs_unpacker<FORMAT>::CODED) {
            scale[0] = qs_f32_of_f16((uint16_t)(p.scales[i] & 0xffff));
            scale[1] = qs_f32_of_f16((uint16_t)(p.scales[i] >> 16));
            if (ZEROS) unpack.set_zeros(p.zeros[i] & 0xff, p.zeros[i] >> 8);
            else unpack.set_zeros(middle, middle);
        }
#pragma unroll
        for (int k = i * STEPS; k < (i + 1) * STEPS; k++) {
            uint32_t a[4];
            unpack.step(p.words, k, a);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) multiply<FORMAT>(sum[c], a, &b[c][2 * k]);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int e = 0; e < 4; e++) total[c][e] = fmaf(scale[e / 2], sum[c][e], total[c][e]);
        }
    }
}

/* One chunk of TILES row tiles. */
template <int FORMAT, int COLUMNS, int TILES, int STEPS, bool ZEROS>
__device__ __forceinline__ void add_chunk(float (&total)[TILES][COLUMNS][4],
                                          const piece<FORMAT, STEPS, ZEROS> (&pieces)[TILES], const lane_x<COLUMNS> &x,
                                          int chunk)
{
    uint32_t b[COLUMNS][8];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const uint4 *p = reinterpret_cast<const uint4 *>(x.terms + x.column[c] + chunk * QS_CU_CHUNK);
        uint4 low = p[0], high = p[1];
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
    }
#pragma unroll
    for (int r = 0; r < TILES; r++) add_piece<FORMAT, COLUMNS, STEPS, ZEROS>(total[r], pieces[r], b);
}

/* Where the players leave their sums: [player][row of the tiles][column]. */
template <int COLUMNS, int TILES> struct table {
    enum { WIDTH = 8 * COLUMNS, ROWS = TILES * QS_CU_TILE_ROWS, SIZE = ROWS * WIDTH, FLOATS = PLAYERS * SIZE,
           BYTES = 2 * FLOATS * 4 /* one is written while the other is read */ };
};

template <int COLUMNS, int TILES>
__device__ __forceinline__ void leave_sums(const float (&total)[TILES][COLUMNS][4], float *sums, int lane)
{
    enum { WIDTH = table<COLUMNS, TILES>::WIDTH };
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float *at = sums + (r * QS_CU_TILE_ROWS + lane / 4) * WIDTH + 8 * c + 2 * (lane % 4);
            at[0] = total[r][c][0], at[1] = total[r][c][1];
            at[8 * WIDTH] = total[r][c][2], at[8 * WIDTH + 1] = total[r][c][3];
        }
}

/* A group of tiles of one of the linears. */
struct place {
    int which, tile;
};

template <int TILES> __device__ __forceinline__ place place_of(const job &j, int group)
{
    place p = {0, group};
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && group >= j.first_group[i]) p = {i, group - j.first_group[i]};
    p.tile *= TILES;
    return p;
}

/* Sums of the players, in their order, terms of a row of x together, scale of the row and bias; out to y. own_scale: of
 * the one row that the block split itself, else 0. With few outputs one warp does
 * it, `turn` says which, while the others go on. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void finish(const job &j, const place &p, const float *sums, int turn, float own_scale)
{
    enum { WIDTH = table<COLUMNS, TILES>::WIDTH, ROWS = table<COLUMNS, TILES>::ROWS };
    const qs_cu_linear &l = j.linears[p.which];
    for (int e = (int)(threadIdx.x + 32u * (uint32_t)turn) % (PLAYERS * 32); e < ROWS * j.n; e += PLAYERS * 32) {
        int x_row = e / ROWS, row = e % ROWS;
        int64_t out = (int64_t)p.tile * QS_CU_TILE_ROWS + row;
        if (out >= l.n_out) continue;
        const float *at = sums + row * WIDTH + x_row * j.n_terms;
        float y = 0.0f;
#pragma unroll
        for (int w = 0; w < PLAYERS; w++, at += ROWS * WIDTH) y += j.n_terms == 2 ? at[0] + at[1] : at[0];
        float *to = l.y + x_row * l.n_out + out;
        y *= own_scale != 0.0f ? own_scale : j.x_scale[x_row];
        if (l.bias != nullptr) y += l.bias[out];
        *to = l.add ? *to + y : y;
    }
}

/* ---- the kernel ---- */

/* 64 registers to a thread and 32 warps on a multiprocessor for one group of columns; 128 and 16 for two. */
template <int FORMAT, int COLUMNS, int STEPS> struct layout {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, TILES = COLUMNS == 1 ? 1 : 2,
           BLOCKS = COLUMNS == 1 ? 4 : 2, MOST = 16 / (WORDS * TILES),
           AHEAD = MOST >= 4 && STEPS == 4 ? 4 : MOST >= 2 ? 2 : 1 };
};

template <int FORMAT, int TILES>
__device__ __forceinline__ void find_tiles(tile_at (&tiles)[TILES], const job &j, const place &p, int lane)
{
    const qs_cu_linear &l = j.linears[p.which];
#pragma unroll
    for (int r = 0; r < TILES; r++) {
        uint32_t tile = (uint32_t)(p.tile + r), entry = tile * (uint32_t)(j.n_groups * 8) + (uint32_t)lane / 4;
        tiles[r].words = l.words + (uint64_t)(tile * (uint32_t)j.n_chunks) * (qs_unpacker<FORMAT>::WORDS * 32);
        tiles[r].scales = l.scales + entry;
        tiles[r].zeros = l.zeros + entry;
    }
}

/* Where x comes from: terms in global memory; the same copied to shared memory; or x itself, split by every block. */
enum source { TERMS, COPIED, OWN };

template <int FORMAT, int COLUMNS, int STEPS, bool ZEROS, source FROM>
__global__ void __launch_bounds__(PLAYERS * 32, layout<FORMAT, COLUMNS, STEPS>::BLOCKS) linear_few(job j)
{
    using cut = layout<FORMAT, COLUMNS, STEPS>;
    enum { AHEAD = cut::AHEAD, TILES = cut::TILES, SIZE = table<COLUMNS, TILES>::SIZE, FLOATS = table<COLUMNS, TILES>::FLOATS,
           CHUNK_WORDS = cut::WORDS * 32, STRIDE = PLAYERS * CHUNK_WORDS };
    QS_DYNAMIC_SHARED(float, sums);
    const int lane = threadIdx.x % 32, player = threadIdx.x / 32;
    /* Chunks of a player, rounded up, so that the pipeline's slots keep their places from one group to the next. */
    const int n_steps = ((j.n_chunks + PLAYERS - 1) / PLAYERS + AHEAD - 1) / AHEAD * AHEAD;
    piece<FORMAT, STEPS, ZEROS> next[AHEAD][TILES];
    tile_at tiles[TILES];
    int group = blockIdx.x;
    place now = place_of<TILES>(j, group);
    find_tiles<FORMAT, TILES>(tiles, j, now, lane);
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
#pragma unroll
        for (int r = 0; r < TILES; r++)
            if (player + a * PLAYERS < j.n_chunks)
                load_piece<FORMAT, STEPS, ZEROS>(next[a][r], tiles[r], tiles[r].words + player * CHUNK_WORDS + a * STRIDE, j,
                                                 player + a * PLAYERS, lane);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    lane_x<COLUMNS> x = lane_of<COLUMNS>(j, j.x_terms, j.n_chunks * QS_CU_CHUNK, lane);
    float own_scale = 0.0f;
    if (FROM != TERMS) {
        int stride = j.n_chunks * QS_CU_CHUNK + X_PAD;
        uint16_t *terms = reinterpret_cast<uint16_t *>(sums + 2 * FLOATS);
        if (FROM == OWN) own_scale = split_x<FORMAT == QS_CU_BF16>(j, terms, stride);
        else copy_x(j, terms, stride);
        x = lane_of<COLUMNS>(j, terms, stride, lane);
    }
    for (int round = 0; group < j.n_groups_of_tiles; round++, group += gridDim.x) {
        bool is_last = group + (int)gridDim.x >= j.n_groups_of_tiles;
        place then = is_last ? now : place_of<TILES>(j, group + (int)gridDim.x);
        float total[TILES][COLUMNS][4] = {};
#pragma unroll 1
        for (int step = 0; step < n_steps; step += AHEAD) {
            /* The loads go AHEAD chunks before the products, at the end of a group into the next one. */
            int ahead = player + (step + AHEAD) * PLAYERS;
            if (step + AHEAD >= n_steps) {
                ahead = is_last ? j.n_chunks : player;
                find_tiles<FORMAT, TILES>(tiles, j, then, lane);
            }
            const int64_t from = (int64_t)ahead * CHUNK_WORDS;
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                const int chunk = player + (step + a) * PLAYERS;
                if (chunk < j.n_chunks) add_chunk<FORMAT, COLUMNS, TILES, STEPS, ZEROS>(total, next[a], x, chunk);
#pragma unroll
                for (int r = 0; r < TILES; r++)
                    if (ahead + a * PLAYERS < j.n_chunks)
                        load_piece<FORMAT, STEPS, ZEROS>(next[a][r], tiles[r], tiles[r].words + from + a * STRIDE, j,
                                                         ahead + a * PLAYERS, lane);
            }
        }
        /* The sums of two groups before have been read by all that passed the last barrier. */
        float *here = sums + round % 2 * FLOATS;
        leave_sums<COLUMNS, TILES>(total, here + player * SIZE, lane);
        __syncthreads();
        finish<COLUMNS, TILES>(j, now, here, round, own_scale);
        now = then;
    }
}

/* ---- launch ---- */

/* How a launch goes: multiprocessors of the device, shared memory that a block may have, x and its scratch. */
struct how {
    int n_sms;
    size_t shared_bytes;
    bool soon, is_bf16;
    const float *x;
    const int32_t *perm;
    const qs_cu_x *terms;
};

template <int FORMAT, int COLUMNS, int STEPS, bool ZEROS, source FROM>
int launch_from(void *stream, const job *j, int n_blocks, size_t shared_bytes, bool soon)
{
    if (shared_bytes > (48 << 10)) {
        int status = qs_allow_shared(linear_few<FORMAT, COLUMNS, STEPS, ZEROS, FROM>, shared_bytes);
        if (status != 0) return status;
    }
    if (soon)
        QS_LAUNCH_SOON((linear_few<FORMAT, COLUMNS, STEPS, ZEROS, FROM>), dim3(n_blocks), dim3(PLAYERS * 32), shared_bytes,
                       stream, *j);
    else
        QS_LAUNCH((linear_few<FORMAT, COLUMNS, STEPS, ZEROS, FROM>), dim3(n_blocks), dim3(PLAYERS * 32), shared_bytes, stream,
                  *j);
    return qs_launch_status();
}

template <int FORMAT, int COLUMNS, int STEPS, bool ZEROS> int launch(void *stream, job *j, const how *h)
{
    using cut = layout<FORMAT, COLUMNS, STEPS>;
    constexpr size_t SUMS = table<COLUMNS, cut::TILES>::BYTES;
    int n_groups = 0, n_blocks = h->n_sms * cut::BLOCKS;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_group[i] = n_groups;
        n_groups += (int)(qs_cu_n_tiles(j->linears[i].n_out) / cut::TILES);
    }
    j->n_groups_of_tiles = n_groups;
    n_blocks = n_groups < n_blocks ? n_groups : n_blocks;
    size_t bytes = SUMS + x_bytes(j);
    bool fits = bytes <= h->shared_bytes / cut::BLOCKS - 1024; /* a kilobyte of each block belongs to the system */
    if constexpr (COLUMNS == 1)
        if (fits && j->n == 1 && h->perm == nullptr && j->n_in % 4 == 0 && j->n_in <= QS_CU_OWN_COLUMNS &&
            reinterpret_cast<uintptr_t>(h->x) % 16 == 0)
            return launch_from<FORMAT, COLUMNS, STEPS, ZEROS, OWN>(stream, j, n_blocks, bytes, h->soon);
    int status = qs_cu_prepare_x(stream, h->x, j->n_in, h->perm, h->is_bf16, h->terms);
    if (status != 0) return status;
    if (fits) return launch_from<FORMAT, COLUMNS, STEPS, ZEROS, COPIED>(stream, j, n_blocks, bytes, h->soon);
    return launch_from<FORMAT, COLUMNS, STEPS, ZEROS, TERMS>(stream, j, n_blocks, SUMS, h->soon);
}

template <int FORMAT, int STEPS, bool ZEROS> int launch_columns(void *stream, job *j, const how *h)
{
    if (j->n * j->n_terms <= 8) return launch<FORMAT, 1, STEPS, ZEROS>(stream, j, h);
    return launch<FORMAT, 2, STEPS, ZEROS>(stream, j, h);
}

/* Without zero points there is a kernel for groups of whole chunks only (qs_cu_needs_zeros). */
template <int FORMAT> int launch_steps(void *stream, job *j, const how *h, int64_t group_size)
{
    if (j->n_groups == 1 || group_size % QS_CU_CHUNK == 0)
        return j->linears[0].zeros != nullptr ? launch_columns<FORMAT, 4, true>(stream, j, h)
                                              : launch_columns<FORMAT, 4, false>(stream, j, h);
    if (group_size % 32 == 0) return launch_columns<FORMAT, 2, true>(stream, j, h);
    return launch_columns<FORMAT, 1, true>(stream, j, h);
}

int run(void *stream, job *j, const how *h, qs_cu_format format, int64_t group_size)
{
    switch (format) {
    case QS_CU_INT2: return launch_steps<QS_CU_INT2>(stream, j, h, group_size);
    case QS_CU_INT3: return launch_steps<QS_CU_INT3>(stream, j, h, group_size);
    case QS_CU_INT4: return launch_steps<QS_CU_INT4>(stream, j, h, group_size);
    case QS_CU_INT8: return launch_steps<QS_CU_INT8>(stream, j, h, group_size);
    case QS_CU_F16: return launch_columns<QS_CU_F16, 4, false>(stream, j, h);
    default: return launch_columns<QS_CU_BF16, 4, false>(stream, j, h);
    }
}

} // namespace

extern "C" int qs_cu_linear_few(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears,
                                int n_linears, const float *x, const int32_t *perm, const qs_cu_x *terms,
                                int n_sms, size_t shared_bytes, bool soon)
{
    enum { COLUMNS_MAX = 16 }; /* more rows take a launch more: their sums would not fit the registers */
    int rows_max = COLUMNS_MAX / terms->n_terms;
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    job j = {};
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    uint32_t group_steps = (uint32_t)((group_size + 15) / 16);
    j.group_magic = j.n_groups == 1 ? 0 : ((1u << 31) + group_steps - 1) / group_steps;
    j.n_linears = n_linears;
    j.n_in = (int)shape->n_in;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.x_terms = terms->terms;
    j.x_scale = terms->scale;
    j.n_terms = terms->n_terms;
    for (int64_t first = 0; first < terms->n; first += rows_max) {
        qs_cu_x part = *terms;
        part.n = terms->n - first < rows_max ? terms->n - first : rows_max;
        how h = {n_sms, shared_bytes, soon || first > 0, shape->format == QS_CU_BF16, x + first * shape->n_in, perm, &part};
        j.x = h.x;
        j.n = (int)part.n;
        for (int i = 0; i < n_linears; i++) {
            j.linears[i] = linears[i];
            j.linears[i].y += first * linears[i].n_out;
        }
        int status = run(stream, &j, &h, shape->format, group_size);
        if (status != 0) return status;
    }
    return 0;
}
