/* Statistics over rows of logits: one block per row, f32 exponentials, f64 sums, one pass over the row.
 *
 * Every thread keeps the largest logit it has met and its sums relative to that one; when a larger one comes, the
 * sums are scaled down, and the same rule joins threads at the end. A thread takes groups of four neighbours, so
 * which elements are added in which order depends on the index alone: neither on the alignment of a row nor on the
 * number of rows. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"

namespace {

enum { THREADS = 512, WARPS = THREADS / 32, GROUP = 4, GROUPS_AHEAD = 4, NO_INDEX = 0x7fffffff };

/* Sums over some of a row's logits x, with m the largest of them: total = sum exp(x - m), weighted =
 * sum exp(x - m) (x - m). Logits of -inf count as nothing. */
struct row_sums {
    float max;
    int32_t index; /* the lowest that holds max */
    double total, weighted;
};

/* The same sums relative to a larger maximum. */
__device__ __forceinline__ void raise_max(row_sums *s, float max)
{
    if (s->total != 0.0) { /* else there is nothing to scale, and the old maximum may be -inf */
        double down = (double)s->max - (double)max, factor = exp(down);
        s->weighted = (s->weighted + s->total * down) * factor;
        s->total *= factor;
    }
    s->max = max;
}

__device__ __forceinline__ void add_group(row_sums *s, const float x[GROUP], int64_t first, bool want_entropy)
{
    float largest = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (largest > s->max) {
        int at = x[0] == largest ? 0 : x[1] == largest ? 1 : x[2] == largest ? 2 : 3;
        raise_max(s, largest);
        s->index = (int32_t)first + at;
    }
    float p[GROUP], shifted[GROUP];
    for (int i = 0; i < GROUP; i++) {
        bool nothing = x[i] == -INFINITY;
        shifted[i] = nothing ? 0.0f : x[i] - s->max;
        p[i] = nothing ? 0.0f : expf(shifted[i]);
    }
    /* Four terms of one sign fit in f32; a NaN passes through. */
    s->total += (double)((p[0] + p[1]) + (p[2] + p[3]));
    if (want_entropy)
        s->weighted += (double)((p[0] * shifted[0] + p[1] * shifted[1]) + (p[2] * shifted[2] + p[3] * shifted[3]));
}

__device__ __forceinline__ void join(row_sums *s, row_sums other)
{
    if (other.max > s->max || (other.max == s->max && other.index < s->index)) s->index = other.index;
    float max = fmaxf(s->max, other.max);
    raise_max(s, max);
    raise_max(&other, max);
    s->total += other.total;
    s->weighted += other.weighted;
}

/* The sums of the block in thread 0, joined in a fixed order. */
__device__ __forceinline__ void join_block(row_sums *s)
{
    __shared__ row_sums of_warp[WARPS];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) {
        row_sums other;
        other.max = __shfl_down_sync(0xffffffffu, s->max, step);
        other.index = __shfl_down_sync(0xffffffffu, s->index, step);
        other.total = __shfl_down_sync(0xffffffffu, s->total, step);
        other.weighted = __shfl_down_sync(0xffffffffu, s->weighted, step);
        if (lane < step) join(s, other);
    }
    if (lane == 0) of_warp[warp] = *s;
    __syncthreads();
    if (threadIdx.x == 0)
        for (int w = 1; w < WARPS; w++) join(s, of_warp[w]);
}

/* Elements first .. first + 3 of a row, -inf behind its end. */
__device__ __forceinline__ void load_group(const float *row, int64_t n_vocab, int64_t first, bool aligned,
                                           float x[GROUP])
{
    if (aligned && first + GROUP <= n_vocab) {
        float4 v = *reinterpret_cast<const float4 *>(row + first);
        x[0] = v.x;
        x[1] = v.y;
        x[2] = v.z;
        x[3] = v.w;
    } else {
        for (int i = 0; i < GROUP; i++) x[i] = first + i < n_vocab ? row[first + i] : -INFINITY;
    }
}

__device__ __forceinline__ bool is_aligned(const float *row) { return (reinterpret_cast<uintptr_t>(row) & 15) == 0; }

__global__ void __launch_bounds__(THREADS) logit_stats_row(const float *logits, const int32_t *targets,
                                                           int64_t n_vocab, double *lse, float *nll, int32_t *argmax,
                                                           float *entropy)
{
    const float *row = logits + (int64_t)blockIdx.x * n_vocab;
    bool aligned = is_aligned(row), want_entropy = entropy != nullptr;
    row_sums s;
    s.max = -INFINITY;
    s.index = NO_INDEX;
    s.total = s.weighted = 0.0;
    for (int64_t first = (int64_t)threadIdx.x * GROUP; first < n_vocab; first += GROUPS_AHEAD * THREADS * GROUP) {
        float x[GROUPS_AHEAD][GROUP];
#pragma unroll
        for (int u = 0; u < GROUPS_AHEAD; u++) load_group(row, n_vocab, first + u * THREADS * GROUP, aligned, x[u]);
#pragma unroll
        for (int u = 0; u < GROUPS_AHEAD; u++) add_group(&s, x[u], first + u * THREADS * GROUP, want_entropy);
    }
    join_block(&s);
    if (threadIdx.x != 0) return;
    double log_total = log(s.total), log_sum = (double)s.max + log_total;
    if (lse != nullptr) lse[blockIdx.x] = log_sum;
    if (nll != nullptr) nll[blockIdx.x] = (float)(log_sum - (double)row[targets[blockIdx.x]]);
    if (argmax != nullptr) argmax[blockIdx.x] = s.index == NO_INDEX ? 0 : s.index;
    if (want_entropy) entropy[blockIdx.x] = (float)(log_total - s.weighted / s.total);
}

/* The sum of the block in thread 0, added in a fixed order. */
__device__ __forceinline__ double sum_block(double sum)
{
    __shared__ double of_warp[WARPS];
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
    if (lane == 0) of_warp[warp] = sum;
    __syncthreads();
    for (int w = 1; threadIdx.x == 0 && w < WARPS; w++) sum += of_warp[w];
    return sum;
}

/* sum p (x_f - x_q - shift) over a group, nothing where p = 0 (there x_f, or both, may be -inf). The lse is subtracted
 * in two parts, so that p is as good as its exponential. */
__device__ __forceinline__ double kld_group(const float f[GROUP], const float q[GROUP], float lse_high, float lse_low,
                                            double shift)
{
    double sum = 0.0;
    for (int i = 0; i < GROUP; i++) {
        float p = expf((f[i] - lse_high) - lse_low);
        if (p != 0.0f) sum += (double)p * ((double)(f[i] - q[i]) - shift);
    }
    return sum;
}

__global__ void __launch_bounds__(THREADS) kld_row(const float *logits_f, const double *lse_f, const float *logits_q,
                                                   const double *lse_q, int64_t n_vocab, float *kld)
{
    const float *row_f = logits_f + (int64_t)blockIdx.x * n_vocab, *row_q = logits_q + (int64_t)blockIdx.x * n_vocab;
    bool aligned = is_aligned(row_f) && is_aligned(row_q);
    double shift = lse_f[blockIdx.x] - lse_q[blockIdx.x], sum = 0.0;
    float lse_high = (float)lse_f[blockIdx.x], lse_low = (float)(lse_f[blockIdx.x] - (double)lse_high);
    for (int64_t first = (int64_t)threadIdx.x * GROUP; first < n_vocab; first += 2 * THREADS * GROUP) {
        float f[2][GROUP], q[2][GROUP];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            load_group(row_f, n_vocab, first + u * THREADS * GROUP, aligned, f[u]);
            load_group(row_q, n_vocab, first + u * THREADS * GROUP, aligned, q[u]);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) sum += kld_group(f[u], q[u], lse_high, lse_low, shift);
    }
    sum = sum_block(sum);
    if (threadIdx.x == 0) kld[blockIdx.x] = sum < 0.0 ? 0.0f : (float)sum;
}

} // namespace

extern "C" int qs_cu_logit_stats(void *stream, const float *logits, const int32_t *targets, int64_t n,
                                 int64_t n_vocab, double *lse, float *nll, int32_t *argmax, float *entropy)
{
    QS_LAUNCH(logit_stats_row, dim3((unsigned)n), dim3(THREADS), 0, stream, logits, targets, n_vocab, lse, nll, argmax,
              entropy);
    return qs_launch_status();
}

extern "C" int qs_cu_kld(void *stream, const float *logits_f, const double *lse_f, const float *logits_q,
                         const double *lse_q, int64_t n, int64_t n_vocab, float *kld)
{
    QS_LAUNCH(kld_row, dim3((unsigned)n), dim3(THREADS), 0, stream, logits_f, lse_f, logits_q, lse_q, n_vocab, kld);
    return qs_launch_status();
}
