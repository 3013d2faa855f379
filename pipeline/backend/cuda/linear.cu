/* Weights into and out of the layout of the small-batch kernels (kernels.h), activations into terms, and products of
 * plain f32 weights. */
#include "backend/cuda/coding.h"
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.h"
#include "backend/cuda/terms.h"
#include "backend/cuda/unpack.h"

namespace {

enum { THREADS = 256 };

int blocks_for(int64_t n) { return (int)((n + THREADS - 1) / THREADS); }

/* lane_words[word] |= v, without an index that is known at run time alone. */
__device__ __forceinline__ void put_bits(uint32_t lane_words[8], int word, uint32_t v)
{
    for (int w = 0; w < 8; w++)
        if (w == word) lane_words[w] |= v;
}

/* Pair p of a lane's 16 into its words (kernels.h). */
__device__ __forceinline__ void put_pair(int bits, int p, uint32_t pair, uint32_t lane_words[8])
{
    int per_word = 16 / bits, i = (p - 12) / 2, odd = p % 2;
    if (bits % 2 == 1 && p == 15) {
        for (int b = 0; b < bits; b++) put_bits(lane_words, b, (pair >> b & 0x00010001u) << 15);
    } else if (bits == 6 && p >= 12) {
        put_bits(lane_words, 3 * i + 2 * odd, (pair & 0x000f000fu) << 12);
        put_bits(lane_words, 3 * i + 1, (pair >> 4 & 0x00030003u) << (12 + 2 * odd));
    } else {
        put_bits(lane_words, p / per_word, pair << (p % per_word * bits));
    }
}

/* The code that begins at a bit of a row's stream, least significant bit first. */
__device__ __forceinline__ uint32_t code_at(const uint8_t *row, int64_t row_bytes, int64_t first_bit, int bits)
{
    int64_t at = first_bit / 8;
    int shift = (int)(first_bit % 8);
    uint32_t v = row[at];
    if (at + 1 < row_bytes) v |= (uint32_t)row[at + 1] << 8;
    return v >> shift & ((1u << bits) - 1);
}

struct position {
    int64_t tile, chunk;
    int lane;
};

/* Lane-chunks are numbered [tile][chunk][lane]. */
__device__ __forceinline__ position position_of(int64_t i, int64_t n_chunks)
{
    position p;
    p.lane = (int)(i % 32);
    p.chunk = i / 32 % n_chunks;
    p.tile = i / 32 / n_chunks;
    return p;
}

__device__ __forceinline__ int64_t row_of(const position &p, int pair)
{
    return p.tile * QS_CU_TILE_ROWS + p.lane / 4 + 8 * (pair & 1);
}

__device__ __forceinline__ int64_t column_of(const position &p, int pair)
{
    return p.chunk * QS_CU_CHUNK + 16 * (pair >> 2) + 4 * (p.lane % 4) + 2 * (pair >> 1 & 1);
}

/* Word w of a lane lies at this offset from the words of its tile and chunk. */
__device__ __forceinline__ int64_t word_offset(int n_words, int lane, int w)
{
    int v = n_words % 4 == 0 ? 4 : n_words % 2 == 0 ? 2 : 1;
    return (w / v * 32 + lane) * v + w % v;
}

__device__ __forceinline__ void store_words(const uint32_t lane_words[8], int n_words, int lane, uint32_t *to)
{
    for (int w = 0; w < 8; w++)
        if (w < n_words) to[word_offset(n_words, lane, w)] = lane_words[w];
}

__global__ void lay_out_codes(int bits, int64_t n_out, int64_t n_in, int64_t n_tiles, int64_t n_chunks,
                              const uint8_t *rows, int64_t row_bytes, int n_words, uint32_t *words)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_tiles * n_chunks * 32) return;
    position at = position_of(i, n_chunks);
    uint32_t lane_words[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int p = 0; p < 16; p++) {
        int64_t row = row_of(at, p), column = column_of(at, p);
        uint32_t low = 0, high = 0;
        if (row < n_out && column < n_in) low = code_at(rows + row * row_bytes, row_bytes, column * bits, bits);
        if (row < n_out && column + 1 < n_in)
            high = code_at(rows + row * row_bytes, row_bytes, (column + 1) * bits, bits);
        put_pair(bits, p, low | high << 16, lane_words);
    }
    store_words(lane_words, n_words, at.lane, words + (at.tile * n_chunks + at.chunk) * n_words * 32);
}

/* A code of one unit of a mixed row as one of `bits` bits, around their middle. */
__device__ __forceinline__ uint32_t mixed_code_at(const uint8_t *row, int64_t row_bytes, const qs_cu_mixed_unit *units,
                                                  int64_t column, int bits)
{
    qs_cu_mixed_unit unit = units[column / QS_CU_UNIT];
    uint32_t code = code_at(row, row_bytes, unit.at + column % QS_CU_UNIT * unit.bits, unit.bits);
    return code + (1u << (bits - 1)) - (1u << (unit.bits - 1));
}

__global__ void lay_out_mixed(const qs_cu_mixed_plan *plan, int64_t n_out, int64_t n_in, int64_t n_tiles,
                              int64_t n_chunks, const uint8_t *rows, int64_t row_bytes, uint32_t *words)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_tiles * n_chunks * 32) return;
    position at = position_of(i, n_chunks);
    const qs_cu_mixed_piece *piece = qs_piece_at(plan, (int)at.chunk);
    const qs_cu_mixed_unit *units = reinterpret_cast<const qs_cu_mixed_unit *>(qs_pieces_of(plan) + plan->n_pieces);
    int bits = piece->bits, within = (int)at.chunk - piece->chunk;
    if (within >= qs_chunks_of(piece)) return;
    uint32_t lane_words[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int p = 0; p < 16; p++) {
        int64_t row = row_of(at, p), column = column_of(at, p);
        uint32_t low = 0, high = 0;
        if (row < n_out && column < n_in) { /* a multiple of QS_CU_UNIT */
            low = mixed_code_at(rows + row * row_bytes, row_bytes, units, column, bits);
            high = mixed_code_at(rows + row * row_bytes, row_bytes, units, column + 1, bits);
        }
        put_pair(bits, p, low | high << 16, lane_words);
    }
    store_words(lane_words, bits, at.lane, words + (at.tile * plan->tile_vectors + piece->at) * 4 + within * bits * 32);
}

__global__ void lay_out_dense(int64_t n_out, int64_t n_in, int64_t n_tiles, int64_t n_chunks, const uint16_t *rows,
                              uint32_t *words)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_tiles * n_chunks * 32) return;
    position at = position_of(i, n_chunks);
    uint32_t *to = words + (at.tile * n_chunks + at.chunk) * 16 * 32;
    for (int p = 0; p < 16; p++) {
        int64_t row = row_of(at, p), column = column_of(at, p);
        uint32_t low = row < n_out && column < n_in ? rows[row * n_in + column] : 0;
        uint32_t high = row < n_out && column + 1 < n_in ? rows[row * n_in + column + 1] : 0;
        to[word_offset(16, at.lane, p)] = low | high << 16;
    }
}

__global__ void lay_out_scales(int64_t n_out, int64_t n_groups, int64_t n_pairs, const uint16_t *scales,
                               const uint8_t *zeros, int middle, uint32_t *scale_pairs, uint16_t *zero_pairs)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n_pairs) return;
    int64_t tile = i / 8 / n_groups, group = i / 8 % n_groups, low = tile * QS_CU_TILE_ROWS + i % 8, high = low + 8;
    uint32_t a = low < n_out ? scales[low * n_groups + group] : 0,
             b = high < n_out ? scales[high * n_groups + group] : 0;
    scale_pairs[i] = a | b << 16;
    if (zero_pairs == nullptr) return;
    a = zeros == nullptr ? (uint32_t)middle : low < n_out ? zeros[low * n_groups + group] : 0;
    b = zeros == nullptr ? (uint32_t)middle : high < n_out ? zeros[high * n_groups + group] : 0;
    zero_pairs[i] = (uint16_t)(a | b << 8);
}

/* ---- activations ---- */

/* KEPT: quads that a thread keeps between the maximum and the split, 16,384 columns in all. */
enum { PREPARE_THREADS = 1024, KEPT = 4 };

struct rows_of_x {
    const float *x;
    const int32_t *perm;
    int n_in, n_quads; /* of a row, filled up with zeros */
    bool bf16, whole;  /* whole: four values can be read at once */
    int n_terms, n_column_groups;
    uint16_t *terms;
    float *scale;
    const float *norm; /* [n_in] or NULL; then n_quads is at most KEPT PREPARE_THREADS */
    float norm_eps;
    float threshold; /* of rows that are coded */
};

/* Of a row of x, or of the weights of its norm. */
__device__ __forceinline__ float4 quad_at(const rows_of_x &r, const float *x, int quad)
{
    if (r.whole && 4 * quad < r.n_in) return reinterpret_cast<const float4 *>(x)[quad];
    float v[4];
    for (int i = 0; i < 4; i++) {
        int column = 4 * quad + i;
        v[i] = column < r.n_in ? x[r.perm != nullptr ? r.perm[column] : column] : 0.0f;
    }
    return make_float4(v[0], v[1], v[2], v[3]);
}

/* Four neighbouring columns: k-step s and t of a chunk. */
__device__ __forceinline__ void store_terms(const rows_of_x &r, int64_t row, int quad, float4 v, float up)
{
    uint16_t term[2][4];
    int chunk = quad / 16, s = quad % 16 / 4, t = quad % 4;
    qs_cu_split_four(v, up, r.bf16, term);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        int column = (int)row * r.n_terms + k, lane = column % 8 * 4 + t;
        int64_t at = (((int64_t)chunk * r.n_column_groups + column / 8) * 2 + s / 2) * 32 + lane;
        if (k < r.n_terms) *reinterpret_cast<uint2 *>(r.terms + at * 8 + s % 2 * 4) = qs_cu_pack_four(term[k]);
    }
}

__device__ __forceinline__ void keep_row(const rows_of_x &r, const float *x, float4 (&kept)[KEPT])
{
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = (int)threadIdx.x + i * (int)blockDim.x;
        kept[i] = quad < r.n_quads ? quad_at(r, x, quad) : make_float4(0, 0, 0, 0);
    }
}

/* Sums of squares of a row's segments, of the quads that are kept. */
__device__ __forceinline__ void note_segments(const float4 (&kept)[KEPT], float *segments)
{
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        float sum = qs_cu_segment_sum(kept[i]);
        if (threadIdx.x % 32 == 0) segments[(i * blockDim.x + threadIdx.x) / 32] = sum;
    }
}

/* A row a block. */
__global__ void __launch_bounds__(PREPARE_THREADS) prepare_x(rows_of_x r)
{
    __shared__ float maxima[PREPARE_THREADS / 32], segments[KEPT * PREPARE_THREADS / 32];
    int64_t row = blockIdx.x;
    int thread = threadIdx.x, n_threads = blockDim.x;
    const float *x = r.x + row * r.n_in;
    float4 kept[KEPT], weights[KEPT];
    bool is_normed = r.norm != nullptr;
    float largest = 0.0f;
    qs_wait_for_previous();
    qs_let_next_begin();
    keep_row(r, x, kept);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = thread + i * n_threads;
        weights[i] = is_normed && quad < r.n_quads ? quad_at(r, r.norm, quad) : make_float4(1, 1, 1, 1);
        largest = fmaxf(largest, qs_cu_largest(qs_cu_normed(kept[i], 1.0f, weights[i])));
    }
    if (is_normed) note_segments(kept, segments);
    for (int quad = thread + KEPT * n_threads; quad < r.n_quads; quad += n_threads)
        largest = fmaxf(largest, qs_cu_largest(quad_at(r, x, quad)));
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, d));
    if (thread % 32 == 0) maxima[thread / 32] = largest;
    __syncthreads();
    for (int i = 0; i < n_threads / 32; i++) largest = fmaxf(largest, maxima[i]);
    float factor = is_normed ? qs_cu_norm_factor(segments, (r.n_quads + 31) / 32, r.n_in, r.norm_eps) : 1.0f;
    qs_cu_power power = qs_cu_power_of(largest * factor);
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = thread + i * n_threads;
        if (quad < r.n_quads) store_terms(r, row, quad, qs_cu_normed(kept[i], factor, weights[i]), power.up);
    }
    for (int quad = thread + KEPT * n_threads; quad < r.n_quads; quad += n_threads)
        store_terms(r, row, quad, quad_at(r, x, quad), power.up);
    if (thread == 0) r.scale[row] = power.down;
}

/* The same of rows that are coded for int8. */
__global__ void __launch_bounds__(PREPARE_THREADS) prepare_coded(rows_of_x r)
{
    __shared__ float segments[KEPT * PREPARE_THREADS / 32];
    __shared__ qs_cu_extent notes[PREPARE_THREADS / 32];
    int64_t row = blockIdx.x;
    int thread = threadIdx.x, n_threads = blockDim.x;
    const float *x = r.x + row * r.n_in;
    float4 kept[KEPT];
    qs_cu_extent extent = {0.0f, 0.0f};
    qs_wait_for_previous();
    qs_let_next_begin();
    keep_row(r, x, kept);
    if (r.norm != nullptr) {
        note_segments(kept, segments);
        __syncthreads();
        float factor = qs_cu_norm_factor(segments, (r.n_quads + 31) / 32, r.n_in, r.norm_eps);
#pragma unroll
        for (int i = 0; i < KEPT; i++) {
            int quad = thread + i * n_threads;
            if (quad < r.n_quads) kept[i] = qs_cu_normed(kept[i], factor, quad_at(r, r.norm, quad));
        }
    }
#pragma unroll
    for (int i = 0; i < KEPT; i++) qs_cu_extend(extent, r.threshold, kept[i]);
    for (int quad = thread + KEPT * n_threads; quad < r.n_quads; quad += n_threads)
        qs_cu_extend(extent, r.threshold, quad_at(r, x, quad));
    extent = qs_cu_extent_of_block(extent, notes);
    qs_cu_coding coding = qs_cu_coding_of(extent, r.threshold);
    qs_cu_power power = qs_cu_power_of(__fmul_rn(extent.all, coding.factor));
#pragma unroll
    for (int i = 0; i < KEPT; i++) {
        int quad = thread + i * n_threads;
        if (quad < r.n_quads) store_terms(r, row, quad, qs_cu_code_of(coding, kept[i]), power.up);
    }
    for (int quad = thread + KEPT * n_threads; quad < r.n_quads; quad += n_threads)
        store_terms(r, row, quad, qs_cu_code_of(coding, quad_at(r, x, quad)), power.up);
    if (thread == 0) r.scale[row] = coding.scale * power.down;
}

/* ---- f32 weights ---- */

enum { F32_ROWS = 4 };

/* A warp per output row; F32_ROWS rows of x at a time share what it reads. */
__global__ void linear_f32(const float *w, int64_t n_out, int64_t n_in, const float *x, int64_t n, const float *bias,
                           bool add, float *y)
{
    int64_t row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
    int lane = threadIdx.x % 32;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (row >= n_out) return;
    for (int64_t first = 0; first < n; first += F32_ROWS) {
        float sum[F32_ROWS] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int64_t j = lane; j < n_in; j += 32) {
            float element = w[row * n_in + j];
#pragma unroll
            for (int r = 0; r < F32_ROWS; r++)
                if (first + r < n) sum[r] = fmaf(element, x[(first + r) * n_in + j], sum[r]);
        }
#pragma unroll
        for (int r = 0; r < F32_ROWS; r++) {
            for (int d = 16; d > 0; d /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], d);
            if (lane != 0 || first + r >= n) continue;
            float *to = y + (first + r) * n_out + row;
            if (bias != nullptr) sum[r] += bias[row];
            *to = add ? *to + sum[r] : sum[r];
        }
    }
}

__global__ void add_bias(float *y, const float *bias, int64_t n, int64_t n_out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (i < n * n_out) y[i] += bias[i % n_out];
}

int bits_of(qs_cu_format format)
{
    static const int bits[] = {2, 3, 4, 5, 6, 8, 16, 16, 0, 4, 4, 4};
    return bits[format];
}

} // namespace

extern "C" int qs_cu_lay_out(void *stream, const qs_cu_linear_shape *shape, int64_t n_out, const void *rows,
                             int64_t row_bytes, uint32_t *words)
{
    int64_t n_tiles = qs_cu_n_tiles(n_out), n_chunks = qs_cu_n_chunks(shape->n_in);
    int n_blocks = blocks_for(n_tiles * n_chunks * 32), bits = bits_of(shape->format);
    if (bits == 16)
        QS_LAUNCH(lay_out_dense, dim3(n_blocks), dim3(THREADS), 0, stream, n_out, shape->n_in, n_tiles, n_chunks,
                  static_cast<const uint16_t *>(rows), words);
    else
        QS_LAUNCH(lay_out_codes, dim3(n_blocks), dim3(THREADS), 0, stream, bits, n_out, shape->n_in, n_tiles, n_chunks,
                  static_cast<const uint8_t *>(rows), row_bytes, qs_cu_words(shape->format), words);
    return qs_launch_status();
}

extern "C" int qs_cu_lay_out_mixed(void *stream, const qs_cu_mixed_plan *plan, int64_t n_out, int64_t n_in,
                                   const void *rows, int64_t row_bytes, uint32_t *words)
{
    int64_t n_tiles = qs_cu_n_tiles(n_out), n_chunks = qs_cu_x_width(n_in) / QS_CU_CHUNK;
    QS_LAUNCH(lay_out_mixed, dim3(blocks_for(n_tiles * n_chunks * 32)), dim3(THREADS), 0, stream, plan, n_out, n_in,
              n_tiles, n_chunks, static_cast<const uint8_t *>(rows), row_bytes, words);
    return qs_launch_status();
}

extern "C" int qs_cu_lay_out_scales(void *stream, int64_t n_out, int64_t n_groups, const uint16_t *scales,
                                    const uint8_t *zeros, int middle, uint32_t *scale_pairs,
                                    uint16_t *zero_pairs)
{
    int64_t n_pairs = qs_cu_n_tiles(n_out) * n_groups * 8;
    QS_LAUNCH(lay_out_scales, dim3(blocks_for(n_pairs)), dim3(THREADS), 0, stream, n_out, n_groups, n_pairs, scales,
              zeros, middle, scale_pairs, zero_pairs);
    return qs_launch_status();
}

extern "C" int qs_cu_prepare_x(void *stream, const float *x, int64_t n_in, const int32_t *perm, bool bf16,
                               const qs_cu_x *out)
{
    rows_of_x rows = {};
    rows.x = x;
    rows.perm = perm;
    rows.n_in = (int)n_in;
    rows.n_quads = (int)(qs_cu_x_width(n_in) / 4);
    rows.bf16 = bf16;
    rows.whole = perm == nullptr && n_in % 4 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0 &&
                 reinterpret_cast<uintptr_t>(out->norm) % 16 == 0;
    rows.norm = out->norm;
    rows.norm_eps = out->norm_eps;
    rows.n_terms = out->n_terms;
    rows.n_column_groups = qs_cu_x_groups(out->n * out->n_terms);
    rows.terms = out->terms;
    rows.scale = out->scale;
    int n_threads = rows.n_quads < PREPARE_THREADS ? (rows.n_quads + 31) / 32 * 32 : (int)PREPARE_THREADS;
    rows.threshold = out->threshold;
    QS_LAUNCH_SOON(out->is_coded ? prepare_coded : prepare_x, dim3((unsigned)out->n), dim3(n_threads), 0, stream, rows);
    return qs_launch_status();
}

extern "C" int qs_cu_linear_f32(void *stream, const float *w, int64_t n_out, int64_t n_in, const float *x, int64_t n,
                                const float *bias, bool add, float *y)
{
    QS_LAUNCH_SOON(linear_f32, dim3(blocks_for(n_out * 32)), dim3(THREADS), 0, stream, w, n_out, n_in, x, n, bias, add,
                   y);
    return qs_launch_status();
}

extern "C" int qs_cu_add_bias(void *stream, float *y, const float *bias, int64_t n, int64_t n_out)
{
    QS_LAUNCH_SOON(add_bias, dim3(blocks_for(n * n_out)), dim3(THREADS), 0, stream, y, bias, n, n_out);
    return qs_launch_status();
}
