/* y = x W^T for few rows of x on the tensor cores: weights are read once, in their stored form, and become A fragments
 * in registers; the rows of x are the columns of B.
 *
 * A block computes tiles of 16 output rows; its warps share the columns chunk by chunk and add up at the end, always
 * in the same order, whatever the number of rows. Codes turn into f16 by the exponent trick: bits put under the
 * exponent of 1024 are 1024 + code, exactly, and one subtraction (or multiplication and subtraction, when the code sits
 * k bits higher) leaves code - zero, exactly. Scales meet the f32 sums once per group.
 *
 * What bounds it (H200, int4): 36 codes per clock and multiprocessor arrive from memory at 4.2 TB/s; unpacking takes about
 * 1.2 instructions per code of 3.5 that can be issued; products up to 32 columns fit beside that. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/terms.h"

namespace {

enum { WARPS = 8 };

struct job {
    qs_cu_linear linears[QS_CU_LINEARS_MAX];
    int first_block[QS_CU_LINEARS_MAX]; /* of each linear */
    int n_linears, n_in, n_chunks, n_groups, group_size, group_shift; /* shift < 0: group_size is no power of two */
    const uint16_t *x_terms; /* in global memory, or NULL: every block makes its own from x */
    const float *x_scale;
    const float *x;          /* [n, n_in] */
    const int32_t *perm;
    bool soon;
    int n, n_terms; /* rows of x; a row's terms are neighbouring columns of B */
};

/* Activations as the products read them: rows of terms `stride` elements apart, scales [n, n_chunks]. */
struct activations {
    const uint16_t *terms;
    const float *scale;
    int64_t stride;
};

/* ---- unpacking: lane's words of a chunk to 16 pairs of f16 ---- */

/* The f16 pair -(1024 / 2^k + zero). */
template <int K> __device__ __forceinline__ uint32_t offset_of(uint32_t zero)
{
    uint32_t half = ((25u - K) << 10) | (zero << K);
    return (half | half << 16) ^ 0x80008000u;
}

/* Pairs whose codes begin at bit K of each half, less the zero point. */
template <int BITS, int K> __device__ __forceinline__ uint32_t take(uint32_t word, uint32_t offset)
{
    constexpr uint32_t mask = ((1u << BITS) - 1) << K, one = (15u - K) << 10;
    uint32_t v = qs_and_or(word, mask | mask << 16, 0x64006400u);
    if (K == 0) return qs_f16x2_sub(v, offset ^ 0x80008000u);
    return qs_f16x2_fma(v, one | one << 16, offset);
}

template <int FORMAT> struct unpacker;

template <> struct unpacker<QS_CU_INT4> {
    enum { WORDS = 4, BITS = 4, CODED = 1 };
    uint32_t offset[2][2]; /* [row half][k] */
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = offset_of<0>(low), offset[0][1] = offset_of<4>(low);
        offset[1][0] = offset_of<0>(high), offset[1][1] = offset_of<4>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[s], v = w >> 8;
        a[0] = take<4, 0>(w, offset[0][0]);
        a[1] = take<4, 4>(w, offset[1][1]);
        a[2] = take<4, 0>(v, offset[0][0]);
        a[3] = take<4, 4>(v, offset[1][1]);
    }
};

template <> struct unpacker<QS_CU_INT8> {
    enum { WORDS = 8, BITS = 8, CODED = 1 };
    uint32_t offset[2];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0] = offset_of<0>(low);
        offset[1] = offset_of<0>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[2 * s], v = words[2 * s + 1];
        a[0] = take<8, 0>(w, offset[0]);
        a[1] = take<8, 0>(w >> 8, offset[1]);
        a[2] = take<8, 0>(v, offset[0]);
        a[3] = take<8, 0>(v >> 8, offset[1]);
    }
};

template <> struct unpacker<QS_CU_INT2> {
    enum { WORDS = 2, BITS = 2, CODED = 1 };
    uint32_t offset[2][5];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = offset_of<0>(low), offset[0][1] = offset_of<2>(low), offset[0][2] = offset_of<4>(low);
        offset[0][3] = offset_of<6>(low), offset[0][4] = offset_of<8>(low);
        offset[1][0] = offset_of<0>(high), offset[1][1] = offset_of<2>(high), offset[1][2] = offset_of<4>(high);
        offset[1][3] = offset_of<6>(high), offset[1][4] = offset_of<8>(high);
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
        uint32_t w = words[s >> 1], v = w >> 10;
        if ((s & 1) == 0) {
            a[0] = take<2, 0>(w, offset[0][0]);
            a[1] = take<2, 2>(w, offset[1][1]);
            a[2] = take<2, 4>(w, offset[0][2]);
            a[3] = take<2, 6>(w, offset[1][3]);
        } else {
            a[0] = take<2, 8>(w, offset[0][4]);
            a[1] = take<2, 0>(v, offset[1][0]);
            a[2] = take<2, 2>(v, offset[0][1]);
            a[3] = take<2, 4>(v, offset[1][2]);
        }
    }
};

template <> struct unpacker<QS_CU_INT3> {
    enum { WORDS = 3, BITS = 3, CODED = 1 };
    uint32_t offset[2][3];
    __device__ __forceinline__ void set_zeros(uint32_t low, uint32_t high)
    {
        offset[0][0] = offset_of<0>(low), offset[0][1] = offset_of<3>(low), offset[0][2] = offset_of<6>(low);
        offset[1][0] = offset_of<0>(high), offset[1][1] = offset_of<3>(high), offset[1][2] = offset_of<6>(high);
    }
    /* Pair p of the 16, p a constant after unrolling. */
    __device__ __forceinline__ uint32_t pair(const uint32_t *words, int p) const
    {
        const uint32_t *o = offset[p & 1];
        if (p == 15) {
            uint32_t code = (words[0] >> 15 & 0x00010001u) | (words[1] >> 14 & 0x00020002u) |
                            (words[2] >> 13 & 0x00040004u);
            return take<3, 0>(code, o[0]);
        }
        uint32_t w = words[p / 5];
        switch (p % 5) {
        case 0: return take<3, 0>(w, o[0]);
        case 1: return take<3, 3>(w, o[1]);
        case 2: return take<3, 6>(w, o[2]);
        case 3: return take<3, 0>(w >> 9, o[0]);
        default: return take<3, 3>(w >> 9, o[1]);
        }
    }
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = pair(words, 4 * s + r);
    }
};

struct dense_unpacker {
    enum { WORDS = 16, BITS = 16, CODED = 0 };
    __device__ __forceinline__ void set_zeros(uint32_t, uint32_t) {}
    __device__ __forceinline__ void step(const uint32_t *words, int s, uint32_t a[4]) const
    {
#pragma unroll
        for (int r = 0; r < 4; r++) a[r] = words[4 * s + r];
    }
};
template <> struct unpacker<QS_CU_F16> : dense_unpacker {};
template <> struct unpacker<QS_CU_BF16> : dense_unpacker {};

/* ---- loads ---- */

/* words: of a tile and chunk; each lane takes its own. */
template <int WORDS> __device__ __forceinline__ void load_words(uint32_t *dst, const uint32_t *words, int lane)
{
    if (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++) {
            uint4 v = qs_load_stream(reinterpret_cast<const uint4 *>(words) + i * 32 + lane);
            dst[4 * i] = v.x, dst[4 * i + 1] = v.y, dst[4 * i + 2] = v.z, dst[4 * i + 3] = v.w;
        }
    } else if (WORDS == 2) {
        uint2 v = qs_load_stream(reinterpret_cast<const uint2 *>(words) + lane);
        dst[0] = v.x, dst[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++) dst[i] = qs_load_stream(words + i * 32 + lane);
    }
}

__device__ __forceinline__ int group_of(const job &j, int column)
{
    return j.group_shift >= 0 ? column >> j.group_shift : column / j.group_size;
}

/* B fragments of one chunk for the columns 8 i + g: [k-step][2 words], zeros for columns that are not there. */
__device__ __forceinline__ void load_x(uint32_t b[8], const job &j, const activations &x, int chunk, int column, int t)
{
    if (column < j.n * j.n_terms) {
        const uint4 *p = reinterpret_cast<const uint4 *>(x.terms + column * x.stride + chunk * QS_CU_CHUNK + 16 * t);
        uint4 low = p[0], high = p[1];
        b[0] = low.x, b[1] = low.y, b[2] = low.z, b[3] = low.w;
        b[4] = high.x, b[5] = high.y, b[6] = high.z, b[7] = high.w;
    } else {
#pragma unroll
        for (int i = 0; i < 8; i++) b[i] = 0;
    }
}

template <int FORMAT> __device__ __forceinline__ void multiply(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (FORMAT == QS_CU_BF16) qs_mma_bf16(c, a, b);
    else qs_mma_f16(c, a, b);
}

/* Scales of rows g and g + 8, and zero points into the unpacker. */
template <int FORMAT>
__device__ __forceinline__ void load_group(const qs_cu_linear &l, int64_t at, unpacker<FORMAT> &unpack, float scale[2])
{
    constexpr uint32_t middle = 1u << (unpacker<FORMAT>::BITS - 1);
    if (!unpacker<FORMAT>::CODED) {
        scale[0] = scale[1] = 1.0f;
        return;
    }
    uint32_t pair = __ldg(l.scales + at);
    scale[0] = qs_f32_of_f16((uint16_t)(pair & 0xffff));
    scale[1] = qs_f32_of_f16((uint16_t)(pair >> 16));
    uint32_t z = l.zeros != nullptr ? __ldg(l.zeros + at) : middle | middle << 8;
    unpack.set_zeros(z & 0xff, z >> 8);
}

/* Scale of the chunk of the row of x that column `column` of B is a term of; columns behind the last get 0. */
__device__ __forceinline__ float x_scale_of(const job &j, const activations &x, int chunk, int column)
{
    int row = j.n_terms == 2 ? column >> 1 : column;
    return row < j.n ? x.scale[(int64_t)row * j.n_chunks + chunk] : 0.0f;
}

/* One chunk of TILES row tiles against COLUMNS columns of 8; STEPS k-steps lie in one group. */
template <int FORMAT, int COLUMNS, int TILES, int STEPS>
__device__ __forceinline__ void add_chunk(float (&total)[TILES][COLUMNS][4],
                                          const uint32_t (&words)[TILES][unpacker<FORMAT>::WORDS], const job &j,
                                          const activations &x, const qs_cu_linear &l, int tile, int chunk, int g,
                                          int t)
{
    uint32_t b[COLUMNS][8];
    float x_scale[COLUMNS][2];
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        load_x(b[i], j, x, chunk, 8 * i + g, t);
        x_scale[i][0] = x_scale_of(j, x, chunk, 8 * i + 2 * t);
        x_scale[i][1] = j.n_terms == 2 ? x_scale[i][0] : x_scale_of(j, x, chunk, 8 * i + 2 * t + 1);
    }
#pragma unroll
    for (int s = 0; s < 4; s += STEPS) {
        int group = group_of(j, chunk * QS_CU_CHUNK + 16 * s);
        if (group >= j.n_groups) group = j.n_groups - 1; /* columns of padding: x is 0 there */
#pragma unroll
        for (int r = 0; r < TILES; r++) {
            unpacker<FORMAT> unpack;
            float scale[2], sum[COLUMNS][4];
            load_group<FORMAT>(l, ((int64_t)(tile + r) * j.n_groups + group) * 8 + g, unpack, scale);
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0.0f;
#pragma unroll
            for (int k = s; k < s + STEPS; k++) {
                uint32_t a[4];
                unpack.step(words[r], k, a);
#pragma unroll
                for (int i = 0; i < COLUMNS; i++) multiply<FORMAT>(sum[i], a, &b[i][2 * k]);
            }
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) {
                total[r][i][0] = fmaf(scale[0] * x_scale[i][0], sum[i][0], total[r][i][0]);
                total[r][i][1] = fmaf(scale[0] * x_scale[i][1], sum[i][1], total[r][i][1]);
                total[r][i][2] = fmaf(scale[1] * x_scale[i][0], sum[i][2], total[r][i][2]);
                total[r][i][3] = fmaf(scale[1] * x_scale[i][1], sum[i][3], total[r][i][3]);
            }
        }
    }
}

/* Sums of the warps, in their order, terms of a row of x together, and bias; out to y. */
template <int COLUMNS, int TILES>
__device__ __forceinline__ void finish(const float (&total)[TILES][COLUMNS][4], const job &j, const qs_cu_linear &l,
                                       int tile, float *sums)
{
    enum { WIDTH = 8 * COLUMNS, ROWS = TILES * QS_CU_TILE_ROWS, SIZE = ROWS * WIDTH };
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            float *at = sums + warp * SIZE + (r * QS_CU_TILE_ROWS + g) * WIDTH + 8 * i + 2 * t;
            at[0] = total[r][i][0], at[1] = total[r][i][1];
            at[8 * WIDTH] = total[r][i][2], at[8 * WIDTH + 1] = total[r][i][3];
        }
    __syncthreads();
    for (int e = threadIdx.x; e < ROWS * j.n; e += WARPS * 32) {
        int x_row = e / ROWS, row = e % ROWS;
        int64_t out = (int64_t)tile * QS_CU_TILE_ROWS + row;
        if (out >= l.n_out) continue;
        const float *at = sums + row * WIDTH + x_row * j.n_terms;
        float y = 0.0f;
        for (int w = 0; w < WARPS; w++, at += SIZE) y += j.n_terms == 2 ? at[0] + at[1] : at[0];
        float *to = l.y + x_row * l.n_out + out;
        if (l.bias != nullptr) y += l.bias[out];
        *to = l.add ? *to + y : y;
    }
}

/* ---- activations made by each block for itself: saves a launch where x is short ---- */

enum { X_PAD = 8 /* elements between rows of terms, so that neighbouring columns lie in other banks */,
       AT_ONCE = 7 /* loads in flight: two rounds for 14,336 columns */ };

__host__ __device__ __forceinline__ int64_t own_stride(int64_t n_chunks) { return n_chunks * QS_CU_CHUNK + X_PAD; }

/* Half a warp per chunk, a lane four columns 16 s + 4 t .. + 3: the same numbers as qs_cu_prepare_x makes. */
template <bool BF16>
__device__ __forceinline__ void store_terms_of(const float v[4], const job &j, int row, int chunk, int lane, uint16_t *terms,
                                            float *scale)
{
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int d = 8; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    qs_cu_power power = qs_cu_power_of(largest);
    if (chunk >= j.n_chunks) return;
    int at = chunk * QS_CU_CHUNK + 16 * (lane % 4) + 4 * (lane % 16 / 4);
    uint16_t term[2][4];
#pragma unroll
    for (int i = 0; i < 4; i++) qs_cu_split(v[i] * power.up, BF16, &term[0][i], &term[1][i]);
    for (int k = 0; k < j.n_terms; k++) {
        uint2 pairs;
        pairs.x = (uint32_t)term[k][0] | (uint32_t)term[k][1] << 16;
        pairs.y = (uint32_t)term[k][2] | (uint32_t)term[k][3] << 16;
        *reinterpret_cast<uint2 *>(terms + (row * j.n_terms + k) * own_stride(j.n_chunks) + at) = pairs;
    }
    if (lane % 16 == 0) scale[row * j.n_chunks + chunk] = power.down;
}

__device__ __forceinline__ void load_columns(float v[4], const job &j, int row, int column)
{
    const float *x = j.x + (int64_t)row * j.n_in;
    if (j.perm == nullptr && column + 4 <= j.n_in && j.n_in % 4 == 0) {
        float4 f = *reinterpret_cast<const float4 *>(x + column);
        v[0] = f.x, v[1] = f.y, v[2] = f.z, v[3] = f.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = column + i < j.n_in ? x[j.perm != nullptr ? j.perm[column + i] : column + i] : 0.0f;
}

template <bool BF16> __device__ __forceinline__ void make_terms(const job &j, uint16_t *terms, float *scale)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int n_pairs = (j.n_chunks + 1) / 2;
    for (int row = 0; row < j.n; row++)
        for (int first = warp; first < n_pairs; first += AT_ONCE * WARPS) {
            float v[AT_ONCE][4];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                int pair = first + i * WARPS;
                if (pair < n_pairs) load_columns(v[i], j, row, pair * 2 * QS_CU_CHUNK + 4 * lane);
            }
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                int pair = first + i * WARPS;
                if (pair >= n_pairs) break;
                int chunk = 2 * pair + lane / 16;
                /* An odd last chunk: the other half of the warp works on zeros behind the row and stores nothing. */
                store_terms_of<BF16>(v[i], j, row, chunk, lane, terms, scale);
            }
        }
}

template <int FORMAT, int COLUMNS, int TILES, int STEPS, bool OWN>
__global__ void __launch_bounds__(WARPS * 32) linear_few(job j)
{
    /* Chunks on their way to each warp: 16 registers of weights. */
    enum { WORDS = unpacker<FORMAT>::WORDS, MOST = WORDS <= 4 ? 4 : WORDS <= 8 ? 2 : 1,
           AHEAD = TILES > 1 && MOST > 1 ? MOST / 2 : MOST };
    __shared__ float sums[WARPS * TILES * QS_CU_TILE_ROWS * 8 * COLUMNS];
    int which = 0;
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < j.n_linears && (int)blockIdx.x >= j.first_block[i]) which = i;
    const qs_cu_linear l = j.linears[which];
    int tile = ((int)blockIdx.x - j.first_block[which]) * TILES;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int64_t chunk_words = (int64_t)WORDS * 32, tile_words = j.n_chunks * chunk_words;
    const uint32_t *base = l.words + tile * tile_words;
    float total[TILES][COLUMNS][4] = {};
    uint32_t next[AHEAD][TILES][WORDS];
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
#pragma unroll
        for (int r = 0; r < TILES; r++)
            if (warp + a * WARPS < j.n_chunks)
                load_words<WORDS>(next[a][r], base + r * tile_words + (warp + a * WARPS) * chunk_words, lane);
    /* Weights are no kernel's output here (gpu_matrix.c sees to that); all else is. */
    qs_wait_for_previous();
    qs_let_next_begin();
    activations x = {j.x_terms, j.x_scale, (int64_t)j.n_chunks * QS_CU_CHUNK};
    if (OWN) {
        QS_DYNAMIC_SHARED(uint16_t, terms);
        x.stride = own_stride(j.n_chunks);
        float *scale = reinterpret_cast<float *>(terms + j.n * j.n_terms * x.stride);
        make_terms<FORMAT == QS_CU_BF16>(j, terms, scale);
        __syncthreads();
        x.terms = terms;
        x.scale = scale;
    }
    for (int chunk = warp; chunk < j.n_chunks; chunk += AHEAD * WARPS) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            int now = chunk + a * WARPS, later = now + AHEAD * WARPS;
            if (now >= j.n_chunks) break;
            uint32_t words[TILES][WORDS];
#pragma unroll
            for (int r = 0; r < TILES; r++) {
#pragma unroll
                for (int i = 0; i < WORDS; i++) words[r][i] = next[a][r][i];
                if (later < j.n_chunks)
                    load_words<WORDS>(next[a][r], base + r * tile_words + later * chunk_words, lane);
            }
            add_chunk<FORMAT, COLUMNS, TILES, STEPS>(total, words, j, x, l, tile, now, g, t);
        }
    }
    finish<COLUMNS, TILES>(total, j, l, tile, sums);
}

/* ---- launch ---- */

/* Dynamic shared memory of blocks that make their own terms; 0 = too much, they are made once for all. */
size_t own_bytes(const job *j)
{
    enum { MOST = 64 << 10 }; /* leaves room for three blocks on a multiprocessor of 228 KiB */
    size_t bytes = (size_t)(j->n * j->n_terms * own_stride(j->n_chunks)) * sizeof(uint16_t) +
                   (size_t)(j->n * j->n_chunks) * sizeof(float);
    return bytes <= MOST ? bytes : 0;
}

template <int FORMAT, int COLUMNS, int TILES, int STEPS, bool OWN> int launch(void *stream, job *j, size_t shared_bytes)
{
    int n_blocks = 0;
    for (int i = 0; i < j->n_linears; i++) {
        j->first_block[i] = n_blocks;
        n_blocks += (int)(qs_cu_n_tiles(j->linears[i].n_out) / TILES);
    }
    if (shared_bytes > (48 << 10)) {
        int status = qs_allow_shared(linear_few<FORMAT, COLUMNS, TILES, STEPS, OWN>, shared_bytes);
        if (status != 0) return status;
    }
    if (j->soon)
        QS_LAUNCH_SOON((linear_few<FORMAT, COLUMNS, TILES, STEPS, OWN>), dim3(n_blocks), dim3(WARPS * 32), shared_bytes,
                       stream, *j);
    else
        QS_LAUNCH((linear_few<FORMAT, COLUMNS, TILES, STEPS, OWN>), dim3(n_blocks), dim3(WARPS * 32), shared_bytes, stream,
                  *j);
    return qs_launch_status();
}

/* Two tiles at a time halve the traffic of x where that is what binds; more columns leave no registers for it. */
template <int FORMAT, int STEPS> int launch_columns(void *stream, job *j)
{
    int n = j->n * j->n_terms;
    if (j->x_terms == nullptr) return launch<FORMAT, 1, 1, STEPS, true>(stream, j, own_bytes(j));
    if (n <= 8) return launch<FORMAT, 1, 1, STEPS, false>(stream, j, 0);
    if (n <= 16) return launch<FORMAT, 2, 1, STEPS, false>(stream, j, 0);
    if (n <= 32) return launch<FORMAT, 4, 2, STEPS, false>(stream, j, 0);
    return launch<FORMAT, 8, 1, STEPS, false>(stream, j, 0);
}

template <int FORMAT> int launch_steps(void *stream, job *j)
{
    if (j->n_groups == 1 || j->group_size % QS_CU_CHUNK == 0) return launch_columns<FORMAT, 4>(stream, j);
    if (j->group_size % 32 == 0) return launch_columns<FORMAT, 2>(stream, j);
    return launch_columns<FORMAT, 1>(stream, j);
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
                                bool soon)
{
    job j = {};
    j.soon = soon;
    int64_t group_size = shape->group_size < shape->n_in ? shape->group_size : shape->n_in;
    j.n_groups = (int)((shape->n_in + group_size - 1) / group_size);
    j.group_size = (int)group_size;
    j.group_shift = j.n_groups == 1 ? 30 : shift_of(group_size);
    j.n_linears = n_linears;
    for (int i = 0; i < n_linears; i++) j.linears[i] = linears[i];
    j.n_in = (int)shape->n_in;
    j.n_chunks = (int)qs_cu_n_chunks(shape->n_in);
    j.x = x;
    j.perm = perm;
    j.n = (int)terms->n;
    j.n_terms = terms->n_terms;
    if (j.n * j.n_terms > 8 || own_bytes(&j) == 0) {
        int status = qs_cu_prepare_x(stream, x, shape->n_in, perm, shape->format == QS_CU_BF16, terms);
        if (status != 0) return status;
        j.x_terms = terms->terms;
        j.x_scale = terms->scale;
    }
    switch (shape->format) {
    case QS_CU_INT2: return launch_steps<QS_CU_INT2>(stream, &j);
    case QS_CU_INT3: return launch_steps<QS_CU_INT3>(stream, &j);
    case QS_CU_INT4: return launch_steps<QS_CU_INT4>(stream, &j);
    case QS_CU_INT8: return launch_steps<QS_CU_INT8>(stream, &j);
    case QS_CU_F16: return launch_columns<QS_CU_F16, 4>(stream, &j);
    default: return launch_columns<QS_CU_BF16, 4>(stream, &j);
    }
}
