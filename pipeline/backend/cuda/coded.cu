/* Around the products of NF4, FP4 and int8: inputs rounded, or coded in 8 bits with their outliers aside; results
 * scaled, completed by the outliers' products, and rounded. int8's products of codes go through the kernels of
 * integers: codes are whole numbers that 16 bits hold, so they are exact, and so are their sums up to 2^24. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/rounding.h"

namespace {

enum { THREADS = 256, CODE_THREADS = 512 };
constexpr unsigned ALL_LANES = 0xffffffffu;

__global__ void round_values(const float *x, int64_t n, int rounding, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (i < n) out[i] = qs_cu_round_to(x[i], rounding);
}

/* ---- inputs of int8 ---- */

struct coding {
    const float *x;
    int n_in, n_words;
    float threshold;
    float *codes, *scale;
    uint32_t *outliers;
};

__device__ __forceinline__ bool is_outlier(float threshold, float rounded)
{
    return threshold > 0.0f && fabsf(rounded) >= threshold;
}

/* A row a block: its largest magnitude among those that are no outliers, then codes and a bit for each outlier. */
__global__ void __launch_bounds__(CODE_THREADS) code_rows(coding c)
{
    __shared__ float maxima[CODE_THREADS / 32];
    const int64_t row = blockIdx.x;
    const float *x = c.x + row * c.n_in;
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    float largest = 0.0f;
    int broken = 0;
    qs_wait_for_previous();
    qs_let_next_begin();
    for (int j = (int)threadIdx.x; j < c.n_in; j += CODE_THREADS) {
        float rounded = qs_cu_round_to(x[j], QS_ROUND_F16);
        broken |= !(fabsf(x[j]) <= FLT_MAX);
        if (!is_outlier(c.threshold, rounded)) largest = fmaxf(largest, fabsf(rounded));
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(ALL_LANES, largest, d));
    if (lane == 0) maxima[warp] = largest;
    broken = __syncthreads_or(broken);
    for (int i = 0; i < CODE_THREADS / 32; i++) largest = fmaxf(largest, maxima[i]);
    float factor = largest > 0.0f ? __fmul_rn(__fdiv_rn(1.0f, largest), 127.0f) : 0.0f;
    for (int j = (int)threadIdx.x; j < c.n_words * 32; j += CODE_THREADS) { /* whole warps */
        float rounded = j < c.n_in ? qs_cu_round_to(x[j], QS_ROUND_F16) : 0.0f;
        bool is_out = !broken && is_outlier(c.threshold, rounded);
        unsigned bits = __ballot_sync(ALL_LANES, is_out);
        if (lane == 0) c.outliers[row * c.n_words + j / 32] = bits;
        if (j < c.n_in) c.codes[row * c.n_in + j] = broken || is_out ? 0.0f : rintf(__fmul_rn(rounded, factor));
    }
    if (threadIdx.x == 0) c.scale[row] = broken ? NAN : largest;
}

/* ---- results ---- */

enum { MARKS = THREADS, LISTED = 32 * MARKS /* columns whose outliers are listed at a time */, AHEAD = 8 };

struct finishing {
    qs_cu_finish f;
    int n_words, n_chunks; /* of outliers, of a row of x */
    int first_block[QS_CU_LINEARS_MAX], blocks_of_row;
};

/* Outliers of up to LISTED columns of a row of x, in ascending order. */
struct outlier_list {
    uint16_t column[LISTED], x[LISTED]; /* from the first column on; f16 */
    int counts[THREADS / 32], n;
};

/* Of the columns from 32 first_word on; the whole block. */
__device__ __forceinline__ void list_outliers(const finishing &j, int64_t row, int first_word, outlier_list &list)
{
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32, word = first_word + (int)threadIdx.x;
    uint32_t marks = word < j.n_words ? j.f.outliers[row * j.n_words + word] : 0;
    int n = __popc(marks), before = n;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        int other = __shfl_up_sync(ALL_LANES, before, (unsigned)d);
        if (lane >= d) before += other;
    }
    __syncthreads(); /* nobody reads the last list any more */
    if (lane == 31) list.counts[warp] = before;
    __syncthreads();
    int at = before - n, all = 0;
    for (int i = 0; i < THREADS / 32; i++) {
        if (i < warp) at += list.counts[i];
        all += list.counts[i];
    }
    for (uint32_t rest = marks; rest != 0; rest &= rest - 1, at++) {
        int column = 32 * (int)threadIdx.x + __ffs((int)rest) - 1;
        list.column[at] = (uint16_t)column;
        list.x[at] = qs_f16_of_f32(j.f.x[row * j.f.n_in + 32 * first_word + column]);
    }
    if (threadIdx.x == 0) list.n = all;
    __syncthreads();
}

/* Codes of a row of weights in the layout of kernels.h. */
struct code_row {
    const uint32_t *words; /* of its tile */
    int word, shift;       /* what the row adds to a place */

    __device__ __forceinline__ code_row(const uint32_t *all, int n_chunks, int64_t out)
    {
        int row = (int)(out % QS_CU_TILE_ROWS);
        words = all + out / QS_CU_TILE_ROWS * n_chunks * 256;
        word = row % 8 * 4;
        shift = 8 * (row / 8);
    }
    __device__ __forceinline__ int at(int column) const
    {
        int in_step = column % 16, pair = 4 * (column % QS_CU_CHUNK / 16) + in_step % 4 / 2 * 2; /* of row 0 */
        int lane = word + in_step / 4, n = column / QS_CU_CHUNK * 256 + (pair / 8 * 32 + lane) * 4 + pair / 2 % 4;
        return (int)(words[n] >> (shift + 16 * (column % 2)) & 0xff) - 128;
    }
};

/* A row's outliers one after the other, each against its weight in 16 bits; weights are asked for some at a time. */
__device__ __forceinline__ float add_outliers(const outlier_list &list, int first, const code_row &codes, float absmax,
                                              float v)
{
    for (int i = 0; i < list.n; i += AHEAD) {
        int code[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++) code[k] = i + k < list.n ? codes.at(first + list.column[i + k]) : 0;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (i + k >= list.n) break;
            float w = __fmul_rn(__fmul_rn((float)code[k], absmax), 1.0f / 127.0f);
            v = fmaf(qs_f32_of_f16(list.x[i + k]), qs_cu_round_to(w, QS_ROUND_F16), v);
        }
    }
    return v;
}

/* THREADS SHARE results of a row a block. */
template <int SHARE> __global__ void __launch_bounds__(THREADS) finish_rows(finishing j)
{
    __shared__ outlier_list list;
    const qs_cu_finish &f = j.f;
    int64_t row = blockIdx.x / j.blocks_of_row;
    int block = (int)(blockIdx.x % j.blocks_of_row), which = 0;
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < f.n_parts && block >= j.first_block[i]) which = i;
    const qs_cu_finish_part &part = f.parts[which];
    int64_t first = (int64_t)(block - j.first_block[which]) * THREADS * SHARE + threadIdx.x;
    float v[SHARE], absmax[SHARE];
    qs_wait_for_previous();
    qs_let_next_begin();
#pragma unroll
    for (int s = 0; s < SHARE; s++) {
        int64_t out = first + s * THREADS;
        v[s] = out < part.n_out ? part.product[row * part.n_out + out] : 0.0f;
        absmax[s] = 0.0f;
        if (f.x == nullptr || out >= part.n_out) continue;
        absmax[s] = part.absmax[out];
        v[s] = __fmul_rn(__fmul_rn(v[s], __fmul_rn(f.scale[row], absmax[s])), 1.0f / (127.0f * 127.0f));
    }
    for (int word = 0; f.x != nullptr && word < j.n_words; word += MARKS) {
        list_outliers(j, row, word, list);
#pragma unroll
        for (int s = 0; s < SHARE; s++)
            if (first + s * THREADS < part.n_out)
                v[s] = add_outliers(list, 32 * word, code_row(part.words, j.n_chunks, first + s * THREADS), absmax[s], v[s]);
    }
#pragma unroll
    for (int s = 0; s < SHARE; s++) {
        int64_t out = first + s * THREADS;
        if (out >= part.n_out) continue;
        float *y = part.y + row * part.n_out + out;
        if (part.bias != nullptr) v[s] += qs_cu_round_to(part.bias[out], f.compute);
        v[s] = qs_cu_round_to(v[s], f.compute);
        *y = part.add ? *y + v[s] : v[s];
    }
}

template <int SHARE> int finish_by(void *stream, finishing *j)
{
    j->blocks_of_row = 0;
    for (int i = 0; i < j->f.n_parts; i++) {
        j->first_block[i] = j->blocks_of_row;
        j->blocks_of_row += (int)((j->f.parts[i].n_out + THREADS * SHARE - 1) / (THREADS * SHARE));
    }
    QS_LAUNCH_SOON(finish_rows<SHARE>, dim3((unsigned)(j->f.n * j->blocks_of_row)), dim3(THREADS), 0, stream, *j);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_round(void *stream, const float *x, int64_t n, qs_rounding rounding, float *out)
{
    QS_LAUNCH_SOON(round_values, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, stream, x, n,
              (int)rounding, out);
    return qs_launch_status();
}

extern "C" int qs_cu_code_rows(void *stream, const float *x, int64_t n, int64_t n_in, float threshold, float *codes,
                               float *scale, uint32_t *outliers)
{
    coding c = {x, (int)n_in, (int)qs_cu_outlier_words(n_in), threshold, codes, scale, outliers};
    QS_LAUNCH_SOON(code_rows, dim3((unsigned)n), dim3(CODE_THREADS), 0, stream, c);
    return qs_launch_status();
}

extern "C" int qs_cu_finish_rows(void *stream, const qs_cu_finish *finish)
{
    finishing j = {};
    j.f = *finish;
    j.n_words = (int)qs_cu_outlier_words(finish->n_in);
    j.n_chunks = (int)qs_cu_n_chunks(finish->n_in);
    /* Few rows: as many blocks as there can be; many: the outliers of a row are listed less often. */
    return finish->n <= QS_CU_ROWS_MAX ? finish_by<1>(stream, &j) : finish_by<4>(stream, &j);
}
