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
 *   a block per tile, loads when needed      int4, 7 linears of an 8B layer, 1 row, H200: 87 us
 *   scales ahead, two tiles a block          80 us: the memory idles between the blocks of a multiprocessor
 *   this form                                docs/gpu.md */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/unpack.h"

namespace {

/* The columns of a matrix are always shared by this many warps, chunk by chunk in turn, whatever else changes: that fixes
 * the order of summation. A block of fewer warps lets each play several of them one after the other. */
enum { PLAYERS = 16 };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int first_group[QS_CU_LINEARS_MAX]; /* of each linear; a group is what a block computes at a time */
    int n_groups_of_tiles, n_linears, n_chunks, n_groups, group_size, group_shift; /* shift < 0: group_size is no power of two */
    const uint16_t *x_terms;
    const float *x_scale; /* [n_chunks, n] */
    int n, n_terms;       /* rows of x; a row's terms are neighbouring columns of B */
};

__device__ __forceinline__ int group_of(const job &j, int column)
{
    return j.group_shift >= 0 ? column >> j.group_shift : column / j.group_size;
}

/* x as a block reads it: terms and scales in global memory, or copied to shared memory when there is room. */
struct activations {
    const uint16_t *terms; /* rows `stride` elements apart */
    const float *scale;
    int stride;
};

enum { X_PAD = 8 /* elements between rows in shared memory, so that neighbouring columns lie in other banks */ };

/* B fragments of one chunk for the columns 8 i + g: [k-step][2 words], zeros for columns that are not there. */
__device__ __forceinline__ void load_x(uint32_t b[8], const job &j, const activations &x, int chunk, int column, int t)
{
    uint4 low = make_uint4(0, 0, 0, 0), high = low;
    if (column < j.n * j.n_terms) {
        const uint4 *p = reinterpret_cast<const uint4 *>(x.terms + column * x.stride + chunk * QS_CU_CHUNK + 16 * t);
        low = p[0];
        high = p[1];
    }
    b[0] = low.x, b[1] = low.y, b[2] = low.z, b[3] = low.w;
    b[4] = high.x, b[5] = high.y, b[6] = high.z, b[7] = high.w;
}

/* Scale of the chunk of the row of x that column `column` of B is a term of; columns behind the last get 0. */
__device__ __forceinline__ float x_scale_of(const job &j, const activations &x, int chunk, int column)
{
    int row = j.n_terms == 2 ? column >> 1 : column;
    return row < j.n ? x.scale[chunk * j.n + row] : 0.0f;
}

/* Bytes of shared memory for x. */
size_t x_bytes(const job *j)
{
    return (size_t)(j->n * j->n_terms) * (size_t)(j->n_chunks * QS_CU_CHUNK + X_PAD) * sizeof(uint16_t) +
           (size_t)(j->n_chunks * j->n) * sizeof(float);
}

__device__ __forceinline__ activations copy_x(const job &j, uint16_t *shared)
{
    int n_rows = j.n * j.n_terms, n_vectors = j.n_chunks * (QS_CU_CHUNK / 8), stride = j.n_chunks * QS_CU_CHUNK + X_PAD;
    float *scale = reinterpret_cast<float *>(shared + n_rows * stride);
    for (int i = threadIdx.x; i < n_rows * n_vectors; i += blockDim.x) {
        int row = i / n_vectors, at = i % n_vectors;
        reinterpret_cast<uint4 *>(shared + row * stride)[at] = reinterpret_cast<const uint4 *>(j.x_terms)[i];
    }
    for (int i = threadIdx.x; i < j.n_chunks * j.n; i += blockDim.x) scale[i] = j.x_scale[i];
    __syncthreads();
    activations x = {shared, scale, stride};
    return x;
}

template <int FORMAT> __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (FORMAT == QS_CU_BF16) qs_mma_bf16(c, a, b);
    else qs_mma_f16(c, a, b);
}

/* What a lane holds of a tile and chunk: words, and for each of the chunk's groups scales and zero points of rows g and
 * g + 8. Loaded chunks ahead of their use: both come from memory. */
template <int FORMAT, int STEPS> struct piece {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, GROUPS = 4 / STEPS, CODED = qs_unpacker<FORMAT>::CODED };
    uint32_t words[WORDS], scales[CODED ? GROUPS : 1], zeros[CODED ? GROUPS : 1];

    __device__ __forceinline__ void load(const job &j, const qs_cu_linear &l, int64_t tile, int chunk, int lane)
    {
        qs_load_words<WORDS>(words, l.words + (tile * j.n_chunks + chunk) * WORDS * 32, lane);
#pragma unroll
        for (int i = 0; i < (CODED ? GROUPS : 0); i++) {
            int group = group_of(j, chunk * QS_CU_CHUNK + 16 * STEPS * i);
            group = group < j.n_groups ? group : j.n_groups - 1; /* columns of padding: x is 0 there */
            int64_t at = (tile * j.n_groups + group) * 8 + lane / 4;
            constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
            scales[i] = __ldg(l.scales + at);
            zeros[i] = l.zeros != nullptr ? __ldg(l.zeros + at) : middle | middle << 8;
        }
    }
};

/* One piece against COLUMNS columns of 8; STEPS k-steps lie in one group. */
template <int FORMAT, int COLUMNS, int STEPS>
__device__ __forceinline__ void add_piece(float (&total)[COLUMNS][4], const piece<FORMAT, STEPS> &p,
                                          const uint32_t (&b)[COLUMNS][8], const float (&x_scale)[COLUMNS][2])
{
#pragma unroll
    for (int i = 0; i < 4 / STEPS; i++) {
        qs_unpacker<FORMAT> unpack;
        float scale[2] = {1.0f, 1.0f}, sum[COLUMNS][4];
        if (qs_unpacker<FORMAT>::CODED) {
            scale[0] = qs_f32_of_f16((uint16_t)(p.scales[i] & 0xffff));
            scale[1] = qs_f32_of_f16((uint16_t)(p.scales[i] >> 16));
            unpack.set_zeros(p.zeros[i] & 0xff, p.zeros[i] >> 8);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sum[c][0] = sum[c][1] = sum[c][2] = sum[c][3] = 0.0f;
#pragma unroll
        for (int k = i * STEPS; k < (i + 1) * STEPS; k++) {
            uint32_t a[4];
            unpack.step(p.words, k, a);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) multiply<FORMAT>(sum[c], a, &b[c][2 * k]);
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            total[c][0] = fmaf(scale[0] * x_scale[c][0], sum[c][0], total[c][0]);
            total[c][1] = fmaf(scale[0] * x_scale[c][1], sum[c][1], total[c][1]);
            total[c][2] = fmaf(scale[1] * x_scale[c][0], sum[c][2], total[c][2]);
            total[c][3] = fmaf(scale[1] * x_scale[c][1], sum[c][3], total[c][3]);
        }
    }
}

/* One chunk of TILES row tiles. */
template <int FORMAT, int COLUMNS, int TILES, int STEPS>
__device__ __forceinline__ void add_chunk(float (&total)[TILES][COLUMNS][4], const piece<FORMAT, STEPS> (&pieces)[TILES],
                                          const job &j, const activations &x, int chunk, int g, int t)
{
    uint32_t b[COLUMNS][8];
    float x_scale[COLUMNS][2];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        load_x(b[c], j, x, chunk, 8 * c + g, t);
        x_scale[c][0] = x_scale_of(j, x, chunk, 8 * c + 2 * t);
        x_scale[c][1] = j.n_terms == 2 ? x_scale[c][0] : x_scale_of(j, x, chunk, 8 * c + 2 * t + 1);
    }
#pragma unroll
    for (int r = 0; r < TILES; r++) add_piece<FORMAT, COLUMNS, STEPS>(total[r], pieces[r], b, x_scale);
}

/* How a launch goes: blocks that fit the device at once, and its shared memory for one. */
struct how {
    int n_blocks;
    size_t shared_bytes;
    bool soon;
};

/* Where the players leave their sums: [player][row of the tiles][column]. */
template <int COLUMNS, int TILES> struct table {
    enum { WIDTH = 8 * COLUMNS, ROWS = TILES * QS_CU_TILE_ROWS, SIZE = ROWS * WIDTH, BYTES = PLAYERS * SIZE * 4 };
};

template <int COLUMNS, int TILES>
__device__ __forceinline__ void leave_sums(const float (&total)[TILES][COLUMNS][4], float *sums, int g, int t)
{
    enum { WIDTH = table<COLUMNS, TILES>::WIDTH };
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            float *at = sums + (r * QS_CU_TILE_ROWS + g) * WIDTH + 8 * c + 2 * t;
            at[0] = total[r][c][0], at[1] = total[r][c][1];
            at[8 * WIDTH] = total[r][c][2], at[8 * WIDTH + 1] = total[r][c][3];
        }
}

/* Sums of the players, in their order, terms of a row of x together, and bias; out to y. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void finish(const job &j, const qs_cu_linear &l, int64_t tile, const float *sums)
{
    enum { WIDTH = table<COLUMNS, TILES>::WIDTH, ROWS = table<COLUMNS, TILES>::ROWS };
    for (int e = threadIdx.x; e < ROWS * j.n; e += blockDim.x) {
        int x_row = e / ROWS, row = e % ROWS;
        int64_t out = tile * QS_CU_TILE_ROWS + row;
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

/* Pieces on their way to each warp: registers bound them, and scales of small groups take theirs too. */
template <int FORMAT, int COLUMNS, int TILES, int STEPS> struct pipeline {
    enum { WORDS = qs_unpacker<FORMAT>::WORDS, ROOM = COLUMNS == 1 ? 32 : 16, MOST = ROOM / (WORDS * TILES),
           LIMIT = STEPS == 4 ? 8 : STEPS == 2 ? 4 : 2,
           AHEAD = MOST >= 8 && LIMIT >= 8 ? 8 : MOST >= 4 && LIMIT >= 4 ? 4 : MOST >= 2 ? 2 : 1 };
};

/* A group of tiles of one of the linears. */
struct place {
    qs_cu_linear linear;
    int64_t tile;
};

template <int TILES> __device__ __forceinline__ place place_of(const job &j, int group)
{
    int which = 0;
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && group >= j.first_group[i]) which = i;
    place p;
    p.linear = j.linears[which];
    p.tile = (int64_t)(group - j.first_group[which]) * TILES;
    return p;
}

template <int FORMAT, int COLUMNS, int TILES, int STEPS, int WARPS, bool SHARED_X>
__global__ void __launch_bounds__(WARPS * 32, 1) linear_few(job j)
{
    enum { AHEAD = pipeline<FORMAT, COLUMNS, TILES, STEPS>::AHEAD, TURNS = PLAYERS / WARPS,
           SIZE = table<COLUMNS, TILES>::SIZE };
    QS_DYNAMIC_SHARED(float, sums);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    /* Chunks of a player, rounded up, so that the pipeline's slots keep their places from one player to the next. */
    const int n_steps = ((j.n_chunks + PLAYERS - 1) / PLAYERS + AHEAD - 1) / AHEAD * AHEAD;
    piece<FORMAT, STEPS> next[AHEAD][TILES];
    int group = blockIdx.x;
    place now = place_of<TILES>(j, group);
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
#pragma unroll
        for (int r = 0; r < TILES; r++)
            if (warp + a * PLAYERS < j.n_chunks) next[a][r].load(j, now.linear, now.tile + r, warp + a * PLAYERS, lane);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    activations x = {j.x_terms, j.x_scale, j.n_chunks * QS_CU_CHUNK};
    if (SHARED_X) x = copy_x(j, reinterpret_cast<uint16_t *>(sums + PLAYERS * SIZE));
    for (; group < j.n_groups_of_tiles; group += gridDim.x) {
        bool is_last = group + (int)gridDim.x >= j.n_groups_of_tiles;
        place after = is_last ? now : place_of<TILES>(j, group + (int)gridDim.x);
#pragma unroll 1
        for (int turn = 0; turn < TURNS; turn++) {
            int player = warp + turn * WARPS;
            /* Whose chunks follow this player's: the warp's next player, or its first one in the next group. */
            bool stays = turn + 1 < TURNS, goes_on = stays || !is_last;
            const place &then = stays ? now : after;
            int then_player = stays ? player + WARPS : warp;
            float total[TILES][COLUMNS][4] = {};
#pragma unroll 1
            for (int step = 0; step < n_steps; step += AHEAD) {
                bool same = step + AHEAD < n_steps;
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    int chunk = player + (step + a) * PLAYERS;
                    int ahead = same ? chunk + AHEAD * PLAYERS : then_player + a * PLAYERS;
                    piece<FORMAT, STEPS> pieces[TILES];
#pragma unroll
                    for (int r = 0; r < TILES; r++) {
                        pieces[r] = next[a][r];
                        if ((same || goes_on) && ahead < j.n_chunks)
                            next[a][r].load(j, same ? now.linear : then.linear, (same ? now.tile : then.tile) + r, ahead,
                                            lane);
                    }
                    if (chunk < j.n_chunks) add_chunk<FORMAT, COLUMNS, TILES, STEPS>(total, pieces, j, x, chunk, g, t);
                }
            }
            if (turn == 0) __syncthreads(); /* the sums of the group before have been read */
            leave_sums<COLUMNS, TILES>(total, sums + player * SIZE, g, t);
        }
        __syncthreads();
        finish<COLUMNS, TILES>(j, now.linear, now.tile, sums);
        now = after;
    }
}

/* ---- launch ---- */

template <int FORMAT, int COLUMNS, int TILES, int STEPS, int WARPS, bool SHARED_X>
int launch_at(void *stream, const job *j, int n_blocks, size_t shared_bytes, bool soon)
{
    if (shared_bytes > (48 << 10)) {
        int status = qs_allow_shared(linear_few<FORMAT, COLUMNS, TILES, STEPS, WARPS, SHARED_X>, shared_bytes);
        if (status != 0) return status;
    }
    if (soon)
        QS_LAUNCH_SOON((linear_few<FORMAT, COLUMNS, TILES, STEPS, WARPS, SHARED_X>), dim3(n_blocks), dim3(WARPS * 32),
                       shared_bytes, stream, *j);
    else
        QS_LAUNCH((linear_few<FORMAT, COLUMNS, TILES, STEPS, WARPS, SHARED_X>), dim3(n_blocks), dim3(WARPS * 32),
                  shared_bytes, stream, *j);
    return qs_launch_status();
}

template <int FORMAT, int COLUMNS, int TILES, int STEPS, int WARPS> int launch(void *stream, job *j, const how *h)
{
    constexpr size_t SUMS = table<COLUMNS, TILES>::BYTES;
    int n_groups = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_group[i] = n_groups;
        n_groups += (int)((qs_cu_n_tiles(j->linears[i].n_out) + TILES - 1) / TILES);
    }
    j->n_groups_of_tiles = n_groups;
    int n_blocks = n_groups < h->n_blocks ? n_groups : h->n_blocks;
    if constexpr (COLUMNS <= 2) { /* more columns rarely fit */
        size_t bytes = SUMS + x_bytes(j);
        if (bytes <= h->shared_bytes)
            return launch_at<FORMAT, COLUMNS, TILES, STEPS, WARPS, true>(stream, j, n_blocks, bytes, h->soon);
    }
    return launch_at<FORMAT, COLUMNS, TILES, STEPS, WARPS, false>(stream, j, n_blocks, SUMS, h->soon);
}

/* Four tiles at a time only where every linear has whole fours and there are groups enough to go round. */
bool is_tall(const job *j, const how *h)
{
    int64_t n_tiles = 0;
    for (int i = 0; i < j->n_linears; i++) {
        if (qs_cu_n_tiles(j->linears[i].n_out) % 4 != 0) return false;
        n_tiles += qs_cu_n_tiles(j->linears[i].n_out);
    }
    return n_tiles >= 12 * h->n_blocks;
}

template <int FORMAT, int STEPS> int launch_columns(void *stream, job *j, const how *h)
{
    int n = j->n * j->n_terms;
    if (n <= 8) return launch<FORMAT, 1, 1, STEPS, 16>(stream, j, h);
    if (n <= 16) return launch<FORMAT, 2, 2, STEPS, STEPS == 4 ? 16 : 8>(stream, j, h);
    if (n <= 32)
        return is_tall(j, h) ? launch<FORMAT, 4, 4, STEPS, 8>(stream, j, h) : launch<FORMAT, 4, 2, STEPS, 8>(stream, j, h);
    return launch<FORMAT, 8, 1, STEPS, 8>(stream, j, h);
}

template <int FORMAT> int launch_steps(void *stream, job *j, const how *h)
{
    if (j->n_groups == 1 || j->group_size % QS_CU_CHUNK == 0) return launch_columns<FORMAT, 4>(stream, j, h);
    if (j->group_size % 32 == 0) return launch_columns<FORMAT, 2>(stream, j, h);
    return launch_columns<FORMAT, 1>(stream, j, h);
}

int shift_of(int64_t size)
{
    for (int shift = 0; shift < 31; shift++)
        if (size == (int64_t)1 << shift) return shift;
    return -1;
}

} // namespace

extern "C" int qs_cu_linear_few(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears,
                                int n_linears, const float *x, const int32_t *perm, const qs_cu_x *terms,
                                int n_blocks, size_t shared_bytes, bool soon)
{
    how h = {n_blocks, shared_bytes, soon};
    int status = qs_cu_prepare_x(stream, x, shape->n_in, perm, shape->format == QS_CU_BF16, terms);
    if (status != 0) return status;
    job j = {};
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_size = (int)group_size;
    j.group_shift = j.n_groups == 1 ? 30 : shift_of(group_size);
    j.n_linears = n_linears;
    for (int i = 0; i < n_linears; i++) j.linears[i] = linears[i];
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.x_terms = terms->terms;
    j.x_scale = terms->scale;
    j.n = (int)terms->n;
    j.n_terms = terms->n_terms;
    switch (shape->format) {
    case QS_CU_INT2: return launch_steps<QS_CU_INT2>(stream, &j, &h);
    case QS_CU_INT3: return launch_steps<QS_CU_INT3>(stream, &j, &h);
    case QS_CU_INT4: return launch_steps<QS_CU_INT4>(stream, &j, &h);
    case QS_CU_INT8: return launch_steps<QS_CU_INT8>(stream, &j, &h);
    case QS_CU_F16: return launch_columns<QS_CU_F16, 4>(stream, &j, &h);
    default: return launch_columns<QS_CU_BF16, 4>(stream, &j, &h);
    }
}
