/* y = x W^T for few rows of x on the tensor cores: weights are read once, in their stored form, and become A
 * fragments in registers (unpack.h); the rows of x are the columns of B. Scales meet the f32 sums of a chunk or
 * group.
 *
 * The columns of a matrix are cut into SLICES runs, one a warp. Eight warps make a team; it goes through groups of
 * row tiles, and its warps' sums of a tile are added in the order of the slices, whatever else changes: number of
 * rows, tiles at a time, blocks. Each warp has a ring of pieces in shared memory that it alone fills and empties,
 * by copies in the background that run on from one tile into the next, so warps meet only where sums are added,
 * once for many tiles. The ring is filled before the kernel waits for the one before it.
 *
 * What bounds it (H100, 8B layer, int4): the 36 us that memory takes are 71,000 cycles; a scheduler has 202 pieces
 * of 2,048 codes to do in them, each 160 instructions, 72 of them to unpack. What is left at one row is the same
 * from 4 bits on, 20 us for the four launches of a layer (4 bits: 36 us of memory, 56 in all; 8 bits 71 and 91; f16
 * 139 and 160; 2 bits 18 and 48): x after the kernel before, the first pieces, the last sums. At 16 and 32 rows
 * every tile reads all of x again through the L2.
 *
 * Steps on the way, in us for the 7 linears of an 8B layer at 4 bits, group 128, on an H100 (memory alone takes 36):
 *                                                                              1 row   8 rows   16 rows   32 rows
 *   rings, 16 warps; the kernel behind begins at once and two share an SM         67       90        77       131
 *   it begins when the one before has ended; x of many rows loaded ahead          57       63        73       131
 *   the same with one block to an SM                                              54       63        74       132
 *   this form: 32 warps at one row, 24 to 8, two tiles of 16 warps at 32          56       64        73       109
 * The kernel before this one loaded weights into registers and had 16 warps add up at every tile (H200, memory 25
 * us: 61 us at 1 row, 217 at 32). More warps at one row cost 4 bits 2 us and gain f16 16. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/linear_ring.h"
#include "backend/cuda/rounding.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/unpack.h"

namespace {

template <int FORMAT> constexpr bool IS_BF16 = FORMAT == QS_CU_BF16 || FORMAT == QS_CU_TABLE_BF16;

/* ---- activations ---- */

/* Where a lane finds its B fragments of a chunk: rows of terms in shared memory, or fragments as they are
 * (qs_cu_prepare_x) in global memory, which the L1 cache keeps for the other tiles. */
struct lane_x {
    const uint16_t *row;    /* shared */
    const uint4 *fragments; /* global */
    int column, n_columns;
};

template <int COLUMNS, bool OWN>
__device__ __forceinline__ void load_x(uint32_t (&b)[COLUMNS][8], const lane_x &x, int chunk)
{
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        uint4 low = make_uint4(0, 0, 0, 0), high = low;
        const uint4 *from = OWN ? reinterpret_cast<const uint4 *>(x.row + chunk * QS_CU_CHUNK)
                                : x.fragments + (chunk * COLUMNS + c) * 64;
        if (OWN || 8 * c + x.column < x.n_columns) low = from[0], high = from[OWN ? 1 : 32];
        b[c][0] = low.x, b[c][1] = low.y, b[c][2] = low.z, b[c][3] = low.w;
        b[c][4] = high.x, b[c][5] = high.y, b[c][6] = high.z, b[c][7] = high.w;
    }
}

/* The only row of x as terms in shared memory, at [k-step's place] as in qs_cu_prepare_x; returns what its scale
 * undoes. */
template <bool BF16> __device__ __forceinline__ float split_x(const job &j, uint16_t *shared, float *maxima)
{
    enum { KEPT = QS_CU_OWN_COLUMNS_MAX / (4 * OWN_TEAMS * TEAM) };
    int n_quads = (j.x_stride - X_PAD) / 4, n_threads = blockDim.x;
    float largest = 0.0f;
    float4 v[KEPT];
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int column = 4 * ((int)threadIdx.x + i * n_threads);
        v[i] = column < j.n_in ? *reinterpret_cast<const float4 *>(j.x + column) : make_float4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < KEPT; i++)
        largest = fmaxf(fmaxf(largest, fmaxf(fabsf(v[i].x), fabsf(v[i].y))), fmaxf(fabsf(v[i].z), fabsf(v[i].w)));
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = largest;
    __syncthreads();
    largest = (int)threadIdx.x % 32 < n_threads / 32 ? maxima[threadIdx.x % 32] : 0.0f;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    qs_cu_power power = qs_cu_power_of(largest);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
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
    return power.down;
}

/* ---- products ---- */

template <int FORMAT> __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (IS_BF16<FORMAT>) qs_mma_bf16(c, a, b);
    else qs_mma_f16(c, a, b);
}

/* A lane's words of a chunk in a ring. */
template <int WORDS> __device__ __forceinline__ void take_words(uint32_t *dst, const uint4 *words, int lane)
{
    if (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            uint4 v = words[i * 32 + lane];
            dst[4 * i] = v.x, dst[4 * i + 1] = v.y, dst[4 * i + 2] = v.z, dst[4 * i + 3] = v.w;
        }
    } else if (WORDS == 2) {
        uint2 v = reinterpret_cast<const uint2 *>(words)[lane];
        dst[0] = v.x, dst[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++) dst[i] = reinterpret_cast<const uint32_t *>(words)[i * 32 + lane];
    }
}

/* One k-step: the weights of a table that are not rounded come in two terms. */
template <int FORMAT, int COLUMNS>
__device__ __forceinline__ void add_step(float (&sum)[COLUMNS][4], const qs_unpacker<FORMAT> &unpack,
                                         const uint32_t *words, int k, const uint32_t (&b)[COLUMNS][8])
{
    uint32_t a[4], rest[4];
    if constexpr (FORMAT == QS_CU_TABLE_F32) unpack.step(words, k, a, rest);
    else unpack.step(words, k, a);
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        multiply<FORMAT>(sum[c], a, &b[c][2 * k]);
        if (FORMAT == QS_CU_TABLE_F32) multiply<FORMAT>(sum[c], rest, &b[c][2 * k]);
    }
}

/* Readies the unpacker for group i of chunk h, and scale for its sums of rows g and g + 8. meta: behind the words. */
template <int FORMAT, int STEPS, bool ZEROS>
__device__ __forceinline__ void take_group(qs_unpacker<FORMAT> &unpack, float scale[2], const uint4 *meta,
                                           const uint32_t *table, int group, int lane)
{
    using part = piece<FORMAT, STEPS, ZEROS>;
    constexpr uint32_t middle = 1u << (qs_unpacker<FORMAT>::BITS - 1);
    int at = group * 8 + lane / 4;
    if constexpr (part::TABLE) {
        float2 pair = reinterpret_cast<const float2 *>(meta)[at];
        unpack.table = table;
        if constexpr (FORMAT == QS_CU_TABLE_F32) scale[0] = pair.x / QS_TABLE_UP, scale[1] = pair.y / QS_TABLE_UP;
        else unpack.absmax[0] = pair.x, unpack.absmax[1] = pair.y;
    } else if constexpr (part::CODED) {
        uint32_t pair = reinterpret_cast<const uint32_t *>(meta)[at];
        scale[0] = qs_f32_of_f16((uint16_t)(pair & 0xffff));
        scale[1] = qs_f32_of_f16((uint16_t)(pair >> 16));
        const uint16_t *zeros = reinterpret_cast<const uint16_t *>(meta + part::SCALE_VECTORS);
        if (ZEROS) unpack.set_zeros(zeros[at] & 0xff, zeros[at] >> 8);
        else unpack.set_zeros(middle, middle);
    }
}

/* Chunk h of a tile's piece against COLUMNS columns of 8; STEPS k-steps lie in one group. */
template <int FORMAT, int STEPS, bool ZEROS, int COLUMNS>
__device__ __forceinline__ void add_chunk(float (&total)[COLUMNS][4], const uint4 *tile, const uint32_t *table, int h,
                                          const uint32_t (&b)[COLUMNS][8], int lane)
{
    using part = piece<FORMAT, STEPS, ZEROS>;
    uint32_t words[part::WORDS];
    take_words<part::WORDS>(words, tile + h * part::CHUNK_VECTORS, lane);
#pragma unroll
    for (int i = 0; i < 4 / STEPS; i++) {
        qs_unpacker<FORMAT> unpack;
        float scale[2] = {1.0f, 1.0f}, sum[COLUMNS][4] = {};
        take_group<FORMAT, STEPS, ZEROS>(unpack, scale, tile + part::WORD_VECTORS, table, h * part::CHUNK_GROUPS + i,
                                         lane);
#pragma unroll
        for (int k = i * STEPS; k < (i + 1) * STEPS; k++) add_step<FORMAT, COLUMNS>(sum, unpack, words, k, b);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) total[c][e] = fmaf(scale[e / 2], sum[c][e], total[c][e]);
    }
}

/* b: B fragments of the piece's first chunk; those of the next piece's on return, unless they come from shared
 * memory. */
template <int FORMAT, int STEPS, bool ZEROS, int COLUMNS, int TILES, bool OWN>
__device__ __forceinline__ void add_piece(float (&total)[TILES][COLUMNS][4], const uint4 *slot, const uint32_t *table,
                                          const lane_x &x, int at, int next, uint32_t (&b)[COLUMNS][8], int lane)
{
    using part = piece<FORMAT, STEPS, ZEROS>;
#pragma unroll
    for (int h = 0; h < part::CHUNKS; h++) {
        uint32_t ahead[COLUMNS][8];
        if (OWN) load_x<COLUMNS, OWN>(b, x, at * part::CHUNKS + h);
        else load_x<COLUMNS, OWN>(ahead, x, h + 1 < part::CHUNKS ? at * part::CHUNKS + h + 1 : next * part::CHUNKS);
#pragma unroll
        for (int r = 0; r < TILES; r++)
            add_chunk<FORMAT, STEPS, ZEROS, COLUMNS>(total[r], slot + r * part::VECTORS, table, h, b, lane);
#pragma unroll
        for (int i = 0; i < (OWN ? 0 : 8 * COLUMNS); i++) b[i / 8][i % 8] = ahead[i / 8][i % 8];
    }
}

/* ---- sums ---- */

/* Where the warps of a team leave what they have of an item: [slice][row][width]. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void leave_sums(const job &j, const float (&total)[TILES][COLUMNS][4], float *sums, int lane)
{
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int column = 8 * c + 2 * (lane % 4) + e % 2, row = r * QS_CU_TILE_ROWS + lane / 4 + e / 2 * 8;
                if (column < j.n_columns) sums[row * j.width + column] = total[r][c][e];
            }
}

/* Slices in their order, terms of a row of x together, and bias; out to y. e counts rows of the item and, above those,
 * rows of x. */
template <int TILES, bool TABLE>
__device__ __forceinline__ void finish(const job &j, int item, const float *sums, const float *scale, int e)
{
    enum { ROWS = TILES * QS_CU_TILE_ROWS };
    place p = place_of<TILES>(j, item);
    const qs_cu_linear &l = j.linears[p.which];
    int x_row = e / ROWS, row = e % ROWS;
    int64_t out = (int64_t)p.tile * QS_CU_TILE_ROWS + row;
    if (out >= l.n_out) return;
    const float *at = sums + row * j.width + x_row * j.n_terms;
    float y = 0.0f;
#pragma unroll
    for (int s = 0; s < SLICES; s++, at += ROWS * j.width) y += j.n_terms == 2 ? at[0] + at[1] : at[0];
    y *= scale[x_row];
    float *to = l.y + x_row * l.n_out + out;
    if (l.bias != nullptr) y += TABLE ? qs_cu_round_to(l.bias[out], j.rounding) : l.bias[out];
    if (TABLE) y = qs_cu_round_to(y, j.rounding);
    *to = l.add ? *to + y : y;
}

/* ---- the kernel ---- */

/* The table as the unpackers take it; read behind the next barrier. */
template <int FORMAT> __device__ __forceinline__ void put_table(const job &j, uint32_t *table)
{
    if (FORMAT < QS_CU_TABLE || threadIdx.x >= 16) return;
    float value = j.values[threadIdx.x];
    uint16_t term[2];
    qs_cu_split(value * QS_TABLE_UP, false, &term[0], &term[1]);
    table[threadIdx.x] = FORMAT == QS_CU_TABLE_F32 ? (uint32_t)term[0] | (uint32_t)term[1] << 16
                                                   : __float_as_uint(value);
}

template <int FORMAT, int STEPS, bool ZEROS, int COLUMNS, bool OWN>
__global__ void __launch_bounds__(cut<COLUMNS, 1, OWN>::TEAMS *TEAM, 1) linear_few(job j)
{
    using part = piece<FORMAT, STEPS, ZEROS>;
    using shape = cut<COLUMNS, part::VECTORS, OWN>;
    enum { TILES = shape::TILES, ROWS = shape::ROWS, DEPTH = shape::DEPTH, SLOT = shape::SLOT, SUMS = shape::SUMS };
    QS_DYNAMIC_SHARED(uint4, shared);
    __shared__ float own[SLICES * shape::TEAMS + 1]; /* maxima of the warps, scale of the row */
    __shared__ uint32_t table[part::TABLE ? 16 : 1];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, slice = warp % SLICES, team = warp / SLICES;
    const int n_teams = blockDim.x / TEAM, item_step = n_teams * (int)gridDim.x;
    uint4 *ring = shared + warp * DEPTH * SLOT;
    float *tables = reinterpret_cast<float *>(shared + n_teams * SLICES * DEPTH * SLOT);
    put_table<FORMAT>(j, table);
    feeder<FORMAT, STEPS, ZEROS, TILES> next;
    next.start(j, (int)blockIdx.x + team * (int)gridDim.x, slice, lane);
    for (int i = 0; i < DEPTH - 1; i++) next.feed(j, ring + i * SLOT, slice, item_step, lane);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    lane_x x = {};
    const float *scale = j.scale;
    x.column = lane / 4;
    x.n_columns = j.n_columns;
    if (OWN) {
        uint16_t *terms = reinterpret_cast<uint16_t *>(tables + n_teams * SUMS);
        float down = split_x<IS_BF16<FORMAT>>(j, terms, own);
        if (threadIdx.x == 0) own[SLICES * shape::TEAMS] = down; /* read behind the next barrier */
        scale = own + SLICES * shape::TEAMS;
        x.row = terms + min(x.column, j.n_columns - 1) * j.x_stride + 16 * (lane % 4);
    } else {
        x.fragments = reinterpret_cast<const uint4 *>(j.terms) + lane;
    }
    if (part::TABLE && !OWN) __syncthreads(); /* split_x ends with one */
    uint32_t b[COLUMNS][8] = {};
    const int first_piece = min(slice * j.slice_pieces, j.n_pieces - 1);
    if (!OWN) load_x<COLUMNS, OWN>(b, x, first_piece * part::CHUNKS);
    int full = 0, empty = DEPTH - 1, kept = 0, first = blockIdx.x; /* slots; items since the last addition, and the first */
    for (int base = blockIdx.x; base < j.n_items; base += item_step) {
        int item = base + team * (int)gridDim.x;
        if (item < j.n_items) {
            float total[TILES][COLUMNS][4] = {};
#pragma unroll 1
            for (int step = 0; step < j.slice_pieces; step++) {
                qs_copy_async_wait<DEPTH - 2>();
                __syncwarp(); /* copies of all lanes are there, and all have read what is written next */
                next.feed(j, ring + empty * SLOT, slice, item_step, lane);
                int at = slice * j.slice_pieces + step;
                if (at < j.n_pieces) {
                    int then = step + 1 < j.slice_pieces && at + 1 < j.n_pieces ? at + 1 : first_piece;
                    add_piece<FORMAT, STEPS, ZEROS, COLUMNS, TILES, OWN>(total, ring + full * SLOT, table, x, at, then, b,
                                                                        lane);
                }
                empty = full;
                full = full + 1 == DEPTH ? 0 : full + 1;
            }
            leave_sums<COLUMNS, TILES>(j, total, tables + team * SUMS + (kept * SLICES + slice) * ROWS * j.width, lane);
        }
        bool is_last = base + item_step >= j.n_items;
        if (++kept < j.batch && !is_last) continue;
        __syncthreads();
        int n_parts = (ROWS * j.n + 31) / 32; /* a warp's share of an item's results */
        for (int task = warp; task < kept * n_teams * n_parts; task += n_teams * SLICES) {
            int which = task / n_parts, e = task % n_parts * 32 + lane;
            int turn = which / n_teams, of = which % n_teams, done = first + turn * item_step + of * (int)gridDim.x;
            if (done < j.n_items && e < ROWS * j.n)
                finish<TILES, part::TABLE != 0>(j, done, tables + of * SUMS + turn * SLICES * ROWS * j.width, scale, e);
        }
        if (!is_last) __syncthreads();
        kept = 0;
        first = base + item_step;
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

enum { SYSTEM_BYTES = 1024 /* of each block's shared memory */ };

/* Shared memory of a block of n_teams. */
template <int COLUMNS, int VECTORS, bool OWN> size_t bytes_of(int n_teams, size_t x_bytes)
{
    using shape = cut<COLUMNS, VECTORS, OWN>;
    return n_teams * (SLICES * shape::DEPTH * shape::SLOT * sizeof(uint4) + shape::SUMS * sizeof(float)) + x_bytes;
}

/* As many teams as fit; 0 = not even one. */
template <int COLUMNS, int VECTORS, bool OWN> int teams_of(const how *h, size_t x_bytes)
{
    int n = cut<COLUMNS, VECTORS, OWN>::TEAMS;
    while (n > 0 && bytes_of<COLUMNS, VECTORS, OWN>(n, x_bytes) > h->shared_bytes - SYSTEM_BYTES) n--;
    return n;
}

template <int FORMAT, int STEPS, bool ZEROS, int COLUMNS, bool OWN>
int launch_from(void *stream, job *j, const how *h, int n_teams, size_t x_bytes)
{
    enum { VECTORS = piece<FORMAT, STEPS, ZEROS>::VECTORS };
    using shape = cut<COLUMNS, VECTORS, OWN>;
    size_t bytes = bytes_of<COLUMNS, VECTORS, OWN>(n_teams, x_bytes), half = h->shared_bytes / 2;
    if (bytes <= half) bytes = half + SYSTEM_BYTES;
    int n_blocks = h->n_sms;
    j->n_items = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_item[i] = j->n_items;
        j->n_items += (int)(qs_cu_n_tiles(j->linears[i].n_out) / shape::TILES);
    }
    n_blocks = j->n_items < n_blocks ? j->n_items : n_blocks;
    j->n_columns = j->n * j->n_terms;
    j->width = j->n_columns | 1;
    j->batch = shape::SUMS / (SLICES * shape::ROWS * j->width);
    j->n_pieces = (j->n_chunks + piece<FORMAT, STEPS, ZEROS>::CHUNKS - 1) / piece<FORMAT, STEPS, ZEROS>::CHUNKS;
    j->slice_pieces = (j->n_pieces + SLICES - 1) / SLICES;
    int status = qs_allow_shared(linear_few<FORMAT, STEPS, ZEROS, COLUMNS, OWN>, bytes);
    if (status != 0) return status;
    if (h->soon)
        QS_LAUNCH_SOON((linear_few<FORMAT, STEPS, ZEROS, COLUMNS, OWN>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream,
                       *j);
    else
        QS_LAUNCH((linear_few<FORMAT, STEPS, ZEROS, COLUMNS, OWN>), dim3(n_blocks), dim3(n_teams * TEAM), bytes, stream, *j);
    return qs_launch_status();
}

/* FULL: all the kernels; else those for 8 and 16 columns, for forms that are rare. */
template <int FORMAT, int STEPS, bool ZEROS, bool FULL = true> int launch(void *stream, job *j, const how *h)
{
    enum { VECTORS = piece<FORMAT, STEPS, ZEROS>::VECTORS, TEAMS = cut<1, VECTORS, true>::TEAMS };
    int n_columns = j->n * j->n_terms;
    if constexpr (FULL) {
        size_t x_bytes = (size_t)(n_columns * j->x_stride) * sizeof(uint16_t);
        int n_teams = teams_of<1, VECTORS, true>(h, x_bytes);
        if (j->n == 1 && h->perm == nullptr && j->n_in % 4 == 0 &&
            j->n_in <= n_teams * (QS_CU_OWN_COLUMNS_MAX / TEAMS) && reinterpret_cast<uintptr_t>(h->x) % 16 == 0)
            return launch_from<FORMAT, STEPS, ZEROS, 1, true>(stream, j, h, n_teams, x_bytes);
    }
    int status = qs_cu_prepare_x(stream, h->x, j->n_in, h->perm, h->is_bf16, h->terms);
    if (status != 0) return status;
    if (n_columns <= 8)
        return launch_from<FORMAT, STEPS, ZEROS, 1, false>(stream, j, h, teams_of<1, VECTORS, false>(h, 0), 0);
    if constexpr (FULL)
        if (n_columns > 16)
            return launch_from<FORMAT, STEPS, ZEROS, 4, false>(stream, j, h, teams_of<4, VECTORS, false>(h, 0), 0);
    return launch_from<FORMAT, STEPS, ZEROS, 2, false>(stream, j, h, teams_of<2, VECTORS, false>(h, 0), 0);
}

bool has_whole_chunks(const job *j, int64_t group_size) { return j->n_groups == 1 || group_size % QS_CU_CHUNK == 0; }

/* Without zero points there is a kernel for groups of whole chunks only (qs_cu_needs_zeros). */
template <int FORMAT> int launch_steps(void *stream, job *j, const how *h, int64_t group_size)
{
    if (has_whole_chunks(j, group_size))
        return j->linears[0].zeros != nullptr ? launch<FORMAT, 4, true>(stream, j, h) : launch<FORMAT, 4, false>(stream, j, h);
    if (group_size % 32 == 0) return launch<FORMAT, 2, true>(stream, j, h);
    return launch<FORMAT, 1, true>(stream, j, h);
}

/* bf16 is what is computed in by default. Other groups are blocks of 32, or in rows that are no multiple of 64. */
bool is_rare(const job *j, qs_cu_format format, int64_t group_size)
{
    return format >= QS_CU_TABLE && (format != QS_CU_TABLE_BF16 || !has_whole_chunks(j, group_size));
}

template <int FORMAT> int launch_table(void *stream, job *j, const how *h, int64_t group_size)
{
    if (has_whole_chunks(j, group_size)) return launch<FORMAT, 4, false, FORMAT == QS_CU_TABLE_BF16>(stream, j, h);
    return launch<FORMAT, 2, false, false>(stream, j, h);
}

int run(void *stream, job *j, const how *h, qs_cu_format format, int64_t group_size)
{
    switch (format) {
    case QS_CU_TABLE_F32: return launch_table<QS_CU_TABLE_F32>(stream, j, h, group_size);
    case QS_CU_TABLE_BF16: return launch_table<QS_CU_TABLE_BF16>(stream, j, h, group_size);
    case QS_CU_TABLE_F16: return launch_table<QS_CU_TABLE_F16>(stream, j, h, group_size);
    case QS_CU_INT2: return launch_steps<QS_CU_INT2>(stream, j, h, group_size);
    case QS_CU_INT3: return launch_steps<QS_CU_INT3>(stream, j, h, group_size);
    case QS_CU_INT4: return launch_steps<QS_CU_INT4>(stream, j, h, group_size);
    case QS_CU_INT8: return launch_steps<QS_CU_INT8>(stream, j, h, group_size);
    case QS_CU_F16: return launch<QS_CU_F16, 4, false>(stream, j, h);
    default: return launch<QS_CU_BF16, 4, false>(stream, j, h);
    }
}

} // namespace

extern "C" int qs_cu_linear_few(void *stream, const qs_cu_linear_shape *shape, const qs_cu_linear *linears,
                                int n_linears, const float *x, const int32_t *perm, const qs_cu_x *terms,
                                int n_sms, size_t shared_bytes, bool soon)
{
    /* More rows take a launch more; where shared memory does not hold sums of 32 columns beside rings, half as many. */
    enum { WIDE_BYTES = 110 << 10 };
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    job j = {};
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    uint32_t group_steps = (uint32_t)((group_size + 15) / 16);
    j.group_magic = j.n_groups == 1 ? 0 : ((1u << 31) + group_steps - 1) / group_steps;
    j.n_linears = n_linears;
    j.n_in = (int)shape->n_in;
    j.x_stride = (int)qs_cu_x_width(shape->n_in) + X_PAD;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.terms = terms->terms;
    j.scale = terms->scale;
    j.n_terms = terms->n_terms;
    j.rounding = shape->format > QS_CU_TABLE ? (int)shape->format - QS_CU_TABLE : (int)QS_ROUND_F32;
    for (int i = 0; i < 16; i++) j.values[i] = shape->values != nullptr ? shape->values[i] : 0.0f;
    int n_columns_max = shared_bytes >= WIDE_BYTES && !is_rare(&j, shape->format, group_size) ? 32 : 16;
    int rows_max = n_columns_max / terms->n_terms;
    for (int64_t first = 0; first < terms->n; first += rows_max) {
        qs_cu_x part = *terms;
        part.n = terms->n - first < rows_max ? terms->n - first : rows_max;
        how h = {n_sms, shared_bytes, soon || first > 0,
                 shape->format == QS_CU_BF16 || shape->format == QS_CU_TABLE_BF16, x + first * shape->n_in, perm, &part};
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
