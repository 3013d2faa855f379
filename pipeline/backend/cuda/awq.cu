/* What AWQ's searches (quant/awq_search.h) do with whole matrices on the GPU: scale columns, round to nearest, cut the
 * ranges of groups. The products with second moments between them are qs_op_gemm's (gpu_awq.c).
 *
 * A warp has one group of one row: its range comes from a shuffle, and nothing meets another warp's. Bound by memory:
 * a weight is read twice from the cache and its error written once. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/scales.h"

namespace {

constexpr unsigned ALL_LANES = 0xffffffffu;
enum { WARPS = 8, THREADS = WARPS * 32 };

unsigned ceil_div(int64_t a, int64_t b) { return (unsigned)((a + b - 1) / b); }

/* The group of a warp: columns first .. last of row `row` of x. */
struct place {
    int64_t row, first, last;
};

__device__ __forceinline__ bool find_place(const qs_cu_scaled &s, place *p)
{
    p->row = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    p->first = (int64_t)blockIdx.y * s.group_size;
    p->last = p->first + s.group_size < s.n_in ? p->first + s.group_size : s.n_in;
    return p->row < s.n;
}

/* Smallest and largest weight of the group together with 0, in all lanes. */
__device__ __forceinline__ void find_range(const float *x, const place &p, float *low, float *high)
{
    *low = *high = 0.0f;
    for (int64_t j = p.first + threadIdx.x % 32; j < p.last; j += 32) {
        *low = fminf(*low, x[j]);
        *high = fmaxf(*high, x[j]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        *low = fminf(*low, __shfl_xor_sync(ALL_LANES, *low, distance));
        *high = fmaxf(*high, __shfl_xor_sync(ALL_LANES, *high, distance));
    }
}

__device__ __forceinline__ float limit_of(float low, float high, int step)
{
    return fmaxf(-low, high) * (1.0f - (float)step / QS_CU_CUT_STEPS);
}

__global__ void __launch_bounds__(THREADS) scale_kernel(qs_cu_scaled s, const float *weights, float *x)
{
    int64_t row = blockIdx.x, j = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (j >= s.n_in) return;
    float divisor = s.rows != NULL ? s.rows[row * s.stride] : 1.0f;
    x[row * s.n_in + j] = weights[row * s.stride * s.n_in + j] * s.columns[j] / divisor;
}

__global__ void __launch_bounds__(THREADS)
    errors_kernel(qs_cu_scaled s, const float *x, int step, const uint8_t *cuts, float *errors)
{
    place p;
    float low, high, scale, zero;
    if (!find_place(s, &p)) return;
    const float *row = x + p.row * s.n_in;
    find_range(row, p, &low, &high);
    float limit = limit_of(low, high, cuts != NULL ? cuts[blockIdx.y * s.n + p.row] : step);
    low = fmaxf(low, -limit);
    high = fminf(high, limit);
    qs_cu_settle_range(s.sym, &low, &high);
    float maxq = (float)((1 << s.bits) - 1), factor = s.rows != NULL ? s.rows[p.row * s.stride] : 1.0f;
    qs_cu_scale_of(low, (high - low) / maxq, maxq, s.sym, 1.0f, &scale, &zero);
    for (int64_t j = p.first + threadIdx.x % 32; j < p.last; j += 32) {
        float cut = fmaxf(fminf(row[j], limit), -limit);
        float q = rintf(fminf(fmaxf(cut / scale, -zero), maxq - zero));
        float error = row[j] - cut + fmaf(-scale, q, cut); /* what was cut off is an error too */
        errors[p.row * s.n_in + j] = error * (1.0f / s.columns[j] * factor);
    }
}

__global__ void __launch_bounds__(THREADS)
    take_less_kernel(const double *form, int64_t n, int step, double *best, uint8_t *cuts)
{
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= n || (step > 0 && !(form[i] < best[i]))) return;
    best[i] = form[i];
    cuts[i] = (uint8_t)step;
}

__global__ void __launch_bounds__(THREADS)
    cut_kernel(qs_cu_scaled s, const uint8_t *cuts, const double *cut, const double *whole, float *x)
{
    place p;
    float low, high;
    if (!find_place(s, &p) || !(cut[p.row] < whole[p.row])) return;
    float *row = x + p.row * s.n_in;
    find_range(row, p, &low, &high);
    float limit = limit_of(low, high, cuts[blockIdx.y * s.n + p.row]);
    for (int64_t j = p.first + threadIdx.x % 32; j < p.last; j += 32) row[j] = fmaxf(fminf(row[j], limit), -limit);
}

dim3 warps_of(const qs_cu_scaled *s) { return dim3(ceil_div(s->n, WARPS), ceil_div(s->n_in, s->group_size)); }

}

extern "C" int qs_cu_awq_scale(void *stream, const qs_cu_scaled *scaled, const float *weights, float *x)
{
    QS_LAUNCH(scale_kernel, dim3((unsigned)scaled->n, ceil_div(scaled->n_in, THREADS)), dim3(THREADS), 0, stream,
              *scaled, weights, x);
    return qs_launch_status();
}

extern "C" int qs_cu_awq_errors(void *stream, const qs_cu_scaled *scaled, const float *x, int step,
                                const uint8_t *cuts, float *errors)
{
    QS_LAUNCH(errors_kernel, warps_of(scaled), dim3(THREADS), 0, stream, *scaled, x, step, cuts, errors);
    return qs_launch_status();
}

extern "C" int qs_cu_awq_take_less(void *stream, const double *form, int64_t n, int step, double *best, uint8_t *cuts)
{
    QS_LAUNCH(take_less_kernel, dim3(ceil_div(n, THREADS)), dim3(THREADS), 0, stream, form, n, step, best, cuts);
    return qs_launch_status();
}

extern "C" int qs_cu_awq_cut(void *stream, const qs_cu_scaled *scaled, const uint8_t *cuts, const double *cut,
                             const double *whole, float *x)
{
    QS_LAUNCH(cut_kernel, warps_of(scaled), dim3(THREADS), 0, stream, *scaled, cuts, cut, whole, x);
    return qs_launch_status();
}
