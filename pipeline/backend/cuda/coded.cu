/* Around products of NF4, FP4 and int8 that do not do it themselves: inputs rounded, or coded in 8 bits (coding.h);
 * results scaled and rounded. int8's products go through the kernels of integers: codes are whole numbers that 16 bits
 * hold, so they are exact, and so are their sums up to 2^24. */
#include "backend/cuda/coding.h"
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/rounding.h"
#include "backend/cuda/terms.h"

namespace {

enum { THREADS = 256, CODE_THREADS = 512 };

__global__ void round_values(const float *x, int64_t n, int rounding, float *out)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (i < n) out[i] = qs_cu_round_to(x[i], rounding);
}

/* A row a block. */
__global__ void __launch_bounds__(CODE_THREADS) code_rows(const float *rows, int n_in, float threshold, float *codes,
                                                          float *scale)
{
    __shared__ qs_cu_extent notes[CODE_THREADS / 32];
    const int64_t row = blockIdx.x;
    const float *x = rows + row * n_in;
    qs_cu_extent extent = {0.0f, 0.0f};
    qs_wait_for_previous();
    qs_let_next_begin();
    for (int j = (int)threadIdx.x; j < n_in; j += CODE_THREADS) qs_cu_extend(extent, threshold, x[j]);
    qs_cu_coding coding = qs_cu_coding_of(qs_cu_extent_of_block(extent, notes), threshold);
    for (int j = (int)threadIdx.x; j < n_in; j += CODE_THREADS) codes[row * n_in + j] = qs_cu_code_of(coding, x[j]);
    if (threadIdx.x == 0) scale[row] = coding.scale;
}

/* Terms of twice 8 bits: whole numbers up to 256 are the first alone. */
__global__ void split_bf16(const float *x, int64_t n, uint16_t *first, uint16_t *second)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (i < n) qs_cu_split(x[i], true, &first[i], &second[i]);
}

struct finishing {
    qs_cu_finish f;
    int64_t first_block[QS_CU_LINEARS_MAX];
};

__global__ void __launch_bounds__(THREADS) finish_rows(finishing j)
{
    const qs_cu_finish &f = j.f;
    int which = 0;
#pragma unroll
    for (int i = 1; i < QS_CU_LINEARS_MAX; i++)
        if (i < f.n_parts && (int64_t)blockIdx.x >= j.first_block[i]) which = i;
    const qs_cu_finish_part &part = f.parts[which];
    int64_t at = ((int64_t)blockIdx.x - j.first_block[which]) * THREADS + threadIdx.x;
    qs_wait_for_previous();
    qs_let_next_begin();
    if (at >= f.n * part.n_out) return;
    int64_t row = at / part.n_out, out = at % part.n_out;
    float v = part.product[at];
    if (f.scale != nullptr) v = qs_cu_decode_sum(v, f.scale[row], part.absmax[out]);
    if (part.bias != nullptr) v += qs_cu_round_to(part.bias[out], f.compute);
    v = qs_cu_round_to(v, f.compute);
    part.y[at] = part.add ? part.y[at] + v : v;
}

unsigned blocks_for(int64_t n) { return (unsigned)((n + THREADS - 1) / THREADS); }

} // namespace

extern "C" int qs_cu_round(void *stream, const float *x, int64_t n, qs_rounding rounding, float *out)
{
    QS_LAUNCH_SOON(round_values, dim3(blocks_for(n)), dim3(THREADS), 0, stream, x, n, (int)rounding, out);
    return qs_launch_status();
}

extern "C" int qs_cu_code_rows(void *stream, const float *x, int64_t n, int64_t n_in, float threshold, float *codes,
                               float *scale)
{
    QS_LAUNCH_SOON(code_rows, dim3((unsigned)n), dim3(CODE_THREADS), 0, stream, x, (int)n_in, threshold, codes, scale);
    return qs_launch_status();
}

extern "C" int qs_cu_split_bf16(void *stream, const float *x, int64_t n, uint16_t *first, uint16_t *second)
{
    QS_LAUNCH_SOON(split_bf16, dim3(blocks_for(n)), dim3(THREADS), 0, stream, x, n, first, second);
    return qs_launch_status();
}

extern "C" int qs_cu_finish_rows(void *stream, const qs_cu_finish *finish)
{
    finishing j = {};
    int64_t n_blocks = 0;
    j.f = *finish;
    for (int i = 0; i < finish->n_parts; i++) {
        j.first_block[i] = n_blocks;
        n_blocks += blocks_for(finish->n * finish->parts[i].n_out);
    }
    QS_LAUNCH_SOON(finish_rows, dim3((unsigned)n_blocks), dim3(THREADS), 0, stream, j);
    return qs_launch_status();
}
