/* Around the products of NF4, FP4 and int8: inputs rounded, or coded in 8 bits with their outliers aside; results
 * scaled, completed by the outliers' products, and rounded. int8's products of codes go through the kernels of
 * integers: codes are whole numbers that 16 bits hold, so they are exact, and so are their sums up to 2^24. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/rounding.h"

namespace {

enum { THREADS = 256, SHARE = 4 /* results of a thread */, CODE_THREADS = 512 };
constexpr unsigned ALL_LANES = 0xffffffffu;

__global__ void round_values(const float *x, int64_t n, int rounding, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
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

struct finishing {
    qs_cu_finish f;
    int n_words, n_chunks; /* of outliers, of a row of x */
    unsigned blocks_of_row;
};

/* Code of a weight in the layout of kernels.h. */
__device__ __forceinline__ int code_at(const finishing &j, int64_t out, int column)
{
    int64_t tile = out / QS_CU_TILE_ROWS, chunk = column / QS_CU_CHUNK;
    int row = (int)(out % QS_CU_TILE_ROWS), in_chunk = column % QS_CU_CHUNK, in_step = in_chunk % 16;
    int pair = 4 * (in_chunk / 16) + row / 8 + in_step % 4 / 2 * 2, lane = row % 8 * 4 + in_step / 4, word = pair / 2;
    int64_t at = (tile * j.n_chunks + chunk) * 256 + (word / 4 * 32 + lane) * 4 + word % 4;
    return (int)(j.f.words[at] >> (8 * (pair % 2) + 16 * (column % 2)) & 0xff) - 128;
}

/* Outliers of a row in ascending order of their columns, each against its weights in 16 bits. */
__device__ __forceinline__ void add_outliers(const finishing &j, int64_t row, const int64_t *out, const float *absmax,
                                             float *v)
{
    const uint4 *marks = reinterpret_cast<const uint4 *>(j.f.outliers + row * j.n_words);
    for (int i = 0; i < j.n_words / 4; i++) {
        uint4 four = marks[i];
        if ((four.x | four.y | four.z | four.w) == 0) continue;
        const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int k = 0; k < 4; k++)
            for (uint32_t rest = words[k]; rest != 0; rest &= rest - 1) {
                int column = 128 * i + 32 * k + __ffs((int)rest) - 1;
                float x = qs_cu_round_to(j.f.x[row * j.f.n_in + column], QS_ROUND_F16);
#pragma unroll
                for (int s = 0; s < SHARE; s++) {
                    if (out[s] >= j.f.n_out) continue;
                    float w = __fmul_rn(__fmul_rn((float)code_at(j, out[s], column), absmax[s]), 1.0f / 127.0f);
                    v[s] = fmaf(x, qs_cu_round_to(w, QS_ROUND_F16), v[s]);
                }
            }
    }
}

__global__ void __launch_bounds__(THREADS) finish_rows(finishing j)
{
    const qs_cu_finish &f = j.f;
    int64_t row = blockIdx.x / j.blocks_of_row, first = (int64_t)(blockIdx.x % j.blocks_of_row) * THREADS * SHARE;
    int64_t out[SHARE];
    float v[SHARE] = {}, absmax[SHARE] = {};
#pragma unroll
    for (int s = 0; s < SHARE; s++) {
        out[s] = first + s * THREADS + threadIdx.x;
        if (out[s] >= f.n_out) continue;
        v[s] = f.product[row * f.n_out + out[s]];
        if (f.x == nullptr) continue;
        absmax[s] = f.absmax[out[s]];
        v[s] = __fmul_rn(__fmul_rn(v[s], __fmul_rn(f.scale[row], absmax[s])), 1.0f / (127.0f * 127.0f));
    }
    if (f.x != nullptr) add_outliers(j, row, out, absmax, v);
#pragma unroll
    for (int s = 0; s < SHARE; s++) {
        if (out[s] >= f.n_out) continue;
        float *y = f.y + row * f.n_out + out[s];
        if (f.bias != nullptr) v[s] += qs_cu_round_to(f.bias[out[s]], f.compute);
        v[s] = qs_cu_round_to(v[s], f.compute);
        *y = f.add ? *y + v[s] : v[s];
    }
}

} // namespace

extern "C" int qs_cu_round(void *stream, const float *x, int64_t n, qs_rounding rounding, float *out)
{
    QS_LAUNCH(round_values, dim3((unsigned)((n + THREADS - 1) / THREADS)), dim3(THREADS), 0, stream, x, n,
              (int)rounding, out);
    return qs_launch_status();
}

extern "C" int qs_cu_code_rows(void *stream, const float *x, int64_t n, int64_t n_in, float threshold, float *codes,
                               float *scale, uint32_t *outliers)
{
    coding c = {x, (int)n_in, (int)qs_cu_outlier_words(n_in), threshold, codes, scale, outliers};
    QS_LAUNCH(code_rows, dim3((unsigned)n), dim3(CODE_THREADS), 0, stream, c);
    return qs_launch_status();
}

extern "C" int qs_cu_finish_rows(void *stream, const qs_cu_finish *finish)
{
    finishing j = {};
    j.f = *finish;
    j.n_words = (int)qs_cu_outlier_words(finish->n_in);
    j.n_chunks = (int)qs_cu_n_chunks(finish->n_in);
    j.blocks_of_row = (unsigned)((finish->n_out + THREADS * SHARE - 1) / (THREADS * SHARE));
    QS_LAUNCH(finish_rows, dim3((unsigned)finish->n * j.blocks_of_row), dim3(THREADS), 0, stream, j);
    return qs_launch_status();
}
