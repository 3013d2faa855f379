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
 * Steps on the way, in us for the 7 linears of an 8B layer at 4 bits, group 128, on an H200 (memory alone takes 25):
 *                                                                            1 row   8 rows   32 rows
 *   a block per tile, loads when needed                                          87       70       197
 *   scales ahead, two tiles a block                                              80       90       257
 *   blocks that stay, one of 16 warps a multiprocessor                           89      103       303
 *   addresses stepped, zero points a template, 32 warps                          63       70       263
 *   this form: two buffers of sums, one row split by the blocks themselves       61       70       217
 *   the same with 8 warps to a block and fewer instructions                      66       70       194
 * f16 takes 109 us at 1 row, 88 % of the read bandwidth: what is left at 4 bits is not memory (docs/limits.md). */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/unpack.h"

namespace {

/* The columns of a matrix are always shared by this many warps, chunk by chunk in turn, whatever else changes: that fixes
 * the order of summation. A block of fewer warps lets each play several of them one after the other. */
enum { PLAYERS = 16, X_PAD = 8 /* elements between rows in shared memory, for other banks in neighbouring columns */ };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int first_group[QS_CU_LINEARS_MAX]; /* of each linear; a group of tiles is what a block computes at a time */
    int n_groups_of_tiles, n_linears;
    int n_chunks, n_groups;
    uint32_t group_magic; /* group of k-step s: __umulhi(2 s, group_magic) */
    const uint16_t *x_terms;
    const float *x_scale; /* [n_chunks, x_stride] */
    const float *x;       /* [n_in], where blocks split it for themselves */
    int n_in;
    int n, n_terms, x_stride; /* rows of x; a row's terms are neighbouring columns of B */
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

/* x as a lane reads it: its columns of B are 8 c + g, the scales that it needs those of columns 8 c + 2t and the next.
 * Columns behind the last are read from the last one: their sums are not used. */
template <int COLUMNS> struct lane_x {
    const uint16_t *terms;
    const float *scale;
    int column[COLUMNS]; /* offsets of the lane's columns */
    int second, scale_stride, scale_step;
};

template <int COLUMNS>
__device__ __forceinline__ lane_x<COLUMNS> lane_of(const job &j, const uint16_t *terms, const float *scale, int stride,
                                                   int lane)
{
    lane_x<COLUMNS> x;
    int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) x.column[c] = min(8 * c + g, j.n * j.n_terms - 1) * stride + 16 * t;
    x.terms = terms;
    x.second = j.n_terms == 2 ? 0 : 1;
    x.scale = scale + (j.n_terms == 2 ? t : 2 * t);
    x.scale_step = j.n_terms == 2 ? 4 : 8;
    x.scale_stride = j.x_stride;
    return x;
}

/* Bytes of shared memory for x. */
size_t x_bytes(const job *j)
{
    return (size_t)(j->n * j->n_terms) * (size_t)(j->n_chunks * QS_CU_CHUNK + X_PAD) * sizeof(uint16_t) +
           (size_t)(j->n_chunks * j->x_stride) * sizeof(float);
}

/* Terms, rows `stride` elements apart, and scales behind them. */
__device__ __forceinline__ void copy_x(const job &j, uint16_t *shared, float *scale, int stride)
{
    int n_rows = j.n * j.n_terms, n_vectors = j.n_chunks * (QS_CU_CHUNK / 8);
    for (int i = threadIdx.x; i < n_rows * n_vectors; i += blockDim.x) {
        int row = i / n_vectors, at = i % n_vectors;
        reinterpret_cast<uint4 *>(shared + row * stride)[at] = reinterpret_cast<const uint4 *>(j.x_terms)[i];
    }
    for (int i = threadIdx.x; i < j.n_chunks * j.x_stride; i += blockDim.x) scale[i] = j.x_scale[i];
    __syncthreads();
}

/* The same from x itself, a row of it: half a warp per chunk, a lane columns 16 s + 4 t .. + 3. As qs_cu_prepare_x does. */
template <bool BF16>
__device__ __forceinline__ void split_chunk(const float v[4], const job &j, int chunk, int lane, uint16_t *shared,
                                            float *scale, int stride)
{
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int d = 8; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (chunk >= j.n_chunks) return;
    qs_cu_power power = qs_cu_power_of(largest);
    uint16_t term[2][4];
#pragma unroll
    for (int i = 0; i < 4; i++) qs_cu_split(v[i] * power.up, BF16, &term[0][i], &term[1][i]);
    uint16_t *to = shared + chunk * QS_CU_CHUNK + 16 * (lane % 4) + 4 * (lane % 16 / 4);
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (k < j.n_terms)
            *reinterpret_cast<uint2 *>(to + k * stride) =
                make_uint2((uint32_t)term[k][0] | (uint32_t)term[k][1] << 16, (uint32_t)term[k][2] | (uint32_t)term[k][3] << 16);
    if (lane % 16 == 0) scale[chunk * j.x_stride] = power.down;
}

template <bool BF16> __device__ __forceinline__ void split_x(const job &j, uint16_t *shared, float *scale, int stride)
{
    enum { AT_ONCE = 4 }; /* loads under way: 8,192 columns */
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int first = 2 * warp; first < j.n_chunks; first += 2 * AT_ONCE * PLAYERS) {
        float v[AT_ONCE][4];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int column = (first + 2 * i * PLAYERS) * QS_CU_CHUNK + 4 * lane;
            float4 f = column < j.n_in ? *reinterpret_cast<const float4 *>(j.x + column) : make_float4(0, 0, 0, 0);
            v[i][0] = f.x, v[i][1] = f.y, v[i][2] = f.z, v[i][3] = f.w;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            split_chunk<BF16>(v[i], j, first + 2 * i * PLAYERS + lane / 16, lane, shared, scale, stride);
    }
    __syncthreads();
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
                                          const uint32_t (&b)[COLUMNS][8], const float (&x_scale)[COLUMNS][2])
{
    constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
#pragma unroll
    for (int i = 0; i < 4 / STEPS; i++) {
        qs_unpacker<FORMAT> unpack;
        float scale[2] = {1.0f, 1.0f}, sum[COLUMNS][4] = {}, other[COLUMNS][4] = {};
        if (qs_unpacker<FORMAT>::CODED) {
            scale[0] = qs_f32_of_f16((uint16_t)(p.scales[i] & 0xffff));
            scale[1] = qs_f32_of_f16((uint16_t)(p.scales[i] >> 16));
            if (ZEROS) unpack.set_zeros(p.zeros[i] & 0xff, p.zeros[i] >> 8);
            else unpack.set_zeros(middle, middle);
        }
        /* Two chains of products: one waits for the tensor cores half as long. */
#pragma unroll
        for (int k = i * STEPS; k < (i + 1) * STEPS; k++) {
            uint32_t a[4];
            unpack.step(p.words, k, a);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) multiply<FORMAT>(k % 2 == 0 ? sum[c] : other[c], a, &b[c][2 * k]);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int e = 0; e < 4; e++) sum[c][e] += other[c][e];
            total[c][0] = fmaf(scale[0] * x_scale[c][0], sum[c][0], total[c][0]);
            total[c][1] = fmaf(scale[0] * x_scale[c][1], sum[c][1], total[c][1]);
            total[c][2] = fmaf(scale[1] * x_scale[c][0], sum[c][2], total[c][2]);
            total[c][3] = fmaf(scale[1] * x_scale[c][1], sum[c][3], total[c][3]);
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
    float x_scale[COLUMNS][2];
    const float *scale = x.scale + chunk * x.scale_stride;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const uint4 *p = reinterpret_cast<const uint4 *>(x.terms + x.column[c] + chunk * QS_CU_CHUNK);
        uint4 low = p[0], high = p[1];
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
        x_scale[c][0] = scale[c * x.scale_step];
        x_scale[c][1] = scale[c * x.scale_step + x.second];
    }
#pragma unroll
    for (int r = 0; r < TILES; r++) add_piece<FORMAT, COLUMNS, STEPS, ZEROS>(total[r], pieces[r], b, x_scale);
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

/* Sums of the players, in their order, terms of a row of x together, and bias; out to y. With few outputs one warp does
 * it, `turn` says which, while the others go on. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void finish(const job &j, const place &p, const float *sums, int turn)
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
        if (l.bias != nullptr) y += l.bias[out];
        *to = l.add ? *to + y : y;
    }
}

/* ---- the kernel ---- */

/* Two blocks of 16 warps with 64 registers to a thread for one group of columns; else one of up to 128. */
template <int FORMAT, int COLUMNS, int STEPS> struct layout {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, TILES = COLUMNS == 1 ? 1 : 2,
           BLOCKS = COLUMNS == 1 ? 2 : 1, MOST = 16 / (WORDS * TILES),
           AHEAD = MOST >= 4 && STEPS == 4 ? 4 : MOST >= 2 ? 2 : 1 };
};

template <int FORMAT, int TILES>
__device__ __forceinline__ void find_tiles(tile_at (&tiles)[TILES], const job &j, const place &p, int lane)
{
    const qs_cu_linear &l = j.linears[p.which];
#pragma unroll
    for (int r = 0; r < TILES; r++) {
        int64_t tile = p.tile + r, entry = tile * j.n_groups * 8 + lane / 4;
        tiles[r].words = l.words + tile * j.n_chunks * (qs_unpacker<FORMAT>::WORDS * 32);
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
    lane_x<COLUMNS> x;
    if (FROM != TERMS) {
        int stride = j.n_chunks * QS_CU_CHUNK + X_PAD;
        uint16_t *terms = reinterpret_cast<uint16_t *>(sums + 2 * FLOATS);
        float *scale = reinterpret_cast<float *>(terms + j.n * j.n_terms * stride);
        if (FROM == OWN) split_x<FORMAT == QS_CU_BF16>(j, terms, scale, stride);
        else copy_x(j, terms, scale, stride);
        x = lane_of<COLUMNS>(j, terms, scale, stride, lane);
    } else {
        x = lane_of<COLUMNS>(j, j.x_terms, j.x_scale, j.n_chunks * QS_CU_CHUNK, lane);
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
                piece<FORMAT, STEPS, ZEROS> pieces[TILES];
#pragma unroll
                for (int r = 0; r < TILES; r++) {
                    pieces[r] = next[a][r];
                    if (ahead + a * PLAYERS < j.n_chunks)
                        load_piece<FORMAT, STEPS, ZEROS>(next[a][r], tiles[r], tiles[r].words + from + a * STRIDE, j,
                                                         ahead + a * PLAYERS, lane);
                }
                if (chunk < j.n_chunks) add_chunk<FORMAT, COLUMNS, TILES, STEPS, ZEROS>(total, pieces, x, chunk);
            }
        }
        /* The sums of two groups before have been read by all that passed the last barrier. */
        float *here = sums + round % 2 * FLOATS;
        leave_sums<COLUMNS, TILES>(total, here + player * SIZE, lane);
        __syncthreads();
        finish<COLUMNS, TILES>(j, now, here, round);
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
    enum { OWN_COLUMNS_MAX = 8192 }; /* beyond that splitting x in every block takes longer than a launch */
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
        if (fits && j->n == 1 && h->perm == nullptr && j->n_in % 4 == 0 && j->n_in <= OWN_COLUMNS_MAX &&
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
        j.x_stride = (int)qs_cu_x_stride(part.n);
        for (int i = 0; i < n_linears; i++) {
            j.linears[i] = linears[i];
            j.linears[i].y += first * linears[i].n_out;
        }
        int status = run(stream, &j, &h, shape->format, group_size);
        if (status != 0) return status;
    }
    return 0;
}
