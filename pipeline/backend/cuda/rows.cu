/* Ops that work row by row or element by element. In decoding each of them handles a few thousand numbers, so
 * what counts is the way from launch to result: one pass over memory, all loads at once, as few barriers as
 * can be. */
#include "backend/cuda/device.h"
#include "backend/cuda/gate.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/norm.h"

namespace {

constexpr int THREADS = 256;

bool is_aligned16(const void *pointer) { return (uintptr_t)pointer % 16 == 0; }

unsigned n_blocks_of(int64_t n, int64_t per_block) { return (unsigned)((n + per_block - 1) / per_block); }

/* ---- gather ---- */

template <typename T>
__global__ void __launch_bounds__(THREADS)
    gather_rows(const T *table, const int32_t *tokens, int64_t width, T *out)
{
    const T *from = table + (int64_t)tokens[blockIdx.x] * width;
    T *to = out + (int64_t)blockIdx.x * width;
    for (int64_t i = threadIdx.x; i < width; i += THREADS) to[i] = from[i];
}

/* ---- rmsnorm ---- */

constexpr int NORM_WARPS_MAX = 16;

/* Where normed rows go: as they are, or rounded to bf16 where `rounded` is given. */
struct normed_rows {
    float *out;
    uint16_t *rounded;
};

__device__ __forceinline__ void put_normed(const normed_rows &to, int64_t vector, float4 v)
{
    if (to.rounded != nullptr)
        reinterpret_cast<uint2 *>(to.rounded)[vector] = make_uint2(qs_bf16x2_of_f32(v.x, v.y),
                                                                   qs_bf16x2_of_f32(v.z, v.w));
    else reinterpret_cast<float4 *>(to.out)[vector] = v;
}

/* One row of n_vectors float4 per block, held in registers between the sum and the product. */
template <int N>
__global__ void __launch_bounds__(32 * NORM_WARPS_MAX)
    rmsnorm_block(const float4 *x, const float4 *weight, int n_vectors, float eps, normed_rows to)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    int64_t row = (int64_t)blockIdx.x * n_vectors;
    __shared__ float segments[N * NORM_WARPS_MAX];
    float4 values[N], weights[N];
    int n_warps = (int)blockDim.x / 32;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int at = i * (int)blockDim.x + (int)threadIdx.x;
        bool inside = at < n_vectors;
        values[i] = inside ? x[row + at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        weights[i] = inside ? weight[at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sum = qs_cu_segment_sum(values[i]);
        if (threadIdx.x % 32 == 0) segments[i * n_warps + (int)threadIdx.x / 32] = sum;
    }
    __syncthreads();
    float factor = qs_cu_norm_factor(segments, N * n_warps, 4 * n_vectors, eps);
#pragma unroll
    for (int i = 0; i < N; i++) {
        int at = i * (int)blockDim.x + (int)threadIdx.x;
        if (at < n_vectors) put_normed(to, row + at, qs_cu_normed(values[i], factor, weights[i]));
    }
}

/* Short rows, as the norms of single heads: one warp each, no barrier. */
constexpr int HEAD_WARPS = 4, HEAD_VECTORS_MAX = 64;

__global__ void __launch_bounds__(32 * HEAD_WARPS)
    rmsnorm_warp(const float4 *x, const float4 *weight, int64_t n, int n_vectors, float eps, normed_rows to)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    constexpr int N = HEAD_VECTORS_MAX / 32;
    int lane = (int)threadIdx.x % 32;
    int64_t row = (int64_t)blockIdx.x * HEAD_WARPS + threadIdx.x / 32;
    if (row >= n) return; /* a whole warp */
    float4 values[N];
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        int at = i * 32 + lane;
        values[i] = at < n_vectors ? x[row * n_vectors + at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        sum += qs_cu_segment_sum(values[i]);
    }
    float factor = 1.0f / sqrtf(sum / (float)(4 * n_vectors) + eps);
#pragma unroll
    for (int i = 0; i < N; i++) {
        int at = i * 32 + lane;
        if (at < n_vectors) put_normed(to, row * n_vectors + at, qs_cu_normed(values[i], factor, weight[at]));
    }
}

/* Rows of any length and place, read twice. */
__global__ void __launch_bounds__(THREADS)
    rmsnorm_any(const float *x, const float *weight, int64_t d, float eps, normed_rows to)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    const float *row = x + (int64_t)blockIdx.x * d;
    int64_t first = (int64_t)blockIdx.x * d;
    __shared__ float sums[THREADS / 32];
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < d; i += THREADS) sum += row[i] * row[i];
    sum = qs_cu_warp_sum(sum);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    float factor = qs_cu_norm_factor(sums, THREADS / 32, (int)d, eps);
    for (int64_t i = threadIdx.x; i < d; i += THREADS) {
        float v = row[i] * factor * weight[i];
        if (to.rounded != nullptr) to.rounded[first + i] = qs_bf16_of_f32(v);
        else to.out[first + i] = v;
    }
}

/* ---- rope ---- */

/* Threads (pair, head): a thread computes the angle of its pair once for all the heads that it rotates. The
 * angle is rounded to f32 before sine and cosine, as the CPU does and as models are trained. */
__global__ void __launch_bounds__(THREADS)
    rope(float *x, const int32_t *positions, const float *inv_freq, int n_heads, int half)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    float *row = x + (int64_t)blockIdx.x * n_heads * half * 2;
    float position = (float)positions[blockIdx.x];
    int head_step = (int)(gridDim.y * blockDim.y);
    for (int i = (int)threadIdx.x; i < half; i += (int)blockDim.x) {
        float sine, cosine;
        sincosf(position * inv_freq[i], &sine, &cosine);
        for (int head = (int)(blockIdx.y * blockDim.y + threadIdx.y); head < n_heads; head += head_step) {
            float *low = row + (int64_t)head * half * 2 + i, *high = low + half;
            float a = *low, b = *high;
            *low = a * cosine - b * sine;
            *high = b * cosine + a * sine;
        }
    }
}

/* ---- elementwise: n_vectors threads take four elements each, a few more take one each ---- */

__device__ __forceinline__ float4 silu_mul_of(float4 gate, float4 up)
{
    return make_float4(qs_cu_silu_mul_of(gate.x, up.x), qs_cu_silu_mul_of(gate.y, up.y),
                       qs_cu_silu_mul_of(gate.z, up.z), qs_cu_silu_mul_of(gate.w, up.w));
}

__global__ void __launch_bounds__(THREADS)
    silu_mul(const float *gate, const float *up, int64_t n_vectors, int64_t n, float *out)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n_vectors) {
        reinterpret_cast<float4 *>(out)[i] = silu_mul_of(reinterpret_cast<const float4 *>(gate)[i],
                                                         reinterpret_cast<const float4 *>(up)[i]);
    } else if (i + 3 * n_vectors < n) {
        int64_t at = i + 3 * n_vectors;
        out[at] = qs_cu_silu_mul_of(gate[at], up[at]);
    }
}

__global__ void __launch_bounds__(THREADS) add(float *x, const float *y, int64_t n_vectors, int64_t n)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n_vectors) {
        float4 a = reinterpret_cast<const float4 *>(x)[i], b = reinterpret_cast<const float4 *>(y)[i];
        reinterpret_cast<float4 *>(x)[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    } else if (i + 3 * n_vectors < n) {
        x[i + 3 * n_vectors] += y[i + 3 * n_vectors];
    }
}

/* Of x, or with GATED of silu(x) up. */
template <bool GATED>
__global__ void __launch_bounds__(THREADS)
    to_bf16(const float *x, const float *up, int64_t n_vectors, int64_t n, uint16_t *out)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n_vectors) {
        float4 v = reinterpret_cast<const float4 *>(x)[i];
        if (GATED) v = silu_mul_of(v, reinterpret_cast<const float4 *>(up)[i]);
        reinterpret_cast<uint2 *>(out)[i] =
            make_uint2(qs_bf16x2_of_f32(v.x, v.y), qs_bf16x2_of_f32(v.z, v.w));
    } else if (i + 3 * n_vectors < n) {
        int64_t at = i + 3 * n_vectors;
        out[at] = qs_bf16_of_f32(GATED ? qs_cu_silu_mul_of(x[at], up[at]) : x[at]);
    }
}

__global__ void __launch_bounds__(THREADS)
    permuted_bf16(const float *x, int64_t d, const int32_t *perm, uint16_t *out)
{
    qs_wait_for_previous();
    qs_let_next_begin();
    const float *row = x + blockIdx.x * d;
    uint16_t *to = out + blockIdx.x * d;
    for (int64_t j = threadIdx.x; j < d; j += THREADS) to[j] = qs_bf16_of_f32(row[perm[j]]);
}

/* Blocks for n elements of which n_vectors * 4 go four to a thread. */
unsigned elementwise_blocks(int64_t n_vectors, int64_t n) { return n_blocks_of(n - 3 * n_vectors, THREADS); }

template <int N>
void launch_rmsnorm_block(void *stream, const float *x, const float *weight, int64_t n, int64_t n_vectors,
                          float eps, const normed_rows &to)
{
    unsigned n_threads = n_blocks_of(n_vectors, 32 * N) * 32;
    QS_LAUNCH_SOON(rmsnorm_block<N>, (unsigned)n, n_threads, 0, stream, reinterpret_cast<const float4 *>(x),
              reinterpret_cast<const float4 *>(weight), (int)n_vectors, eps, to);
}

int launch_rmsnorm(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps,
                   const normed_rows &to)
{
    constexpr int64_t PER_BLOCK = 32 * NORM_WARPS_MAX;
    if (n == 0) return 0;
    int64_t n_vectors = d / 4;
    bool whole = d % 4 == 0 && is_aligned16(x) && is_aligned16(weight) && is_aligned16(to.out) &&
                 is_aligned16(to.rounded);
    if (!whole || n_vectors > 8 * PER_BLOCK)
        QS_LAUNCH_SOON(rmsnorm_any, (unsigned)n, THREADS, 0, stream, x, weight, d, eps, to);
    else if (n_vectors <= HEAD_VECTORS_MAX)
        QS_LAUNCH_SOON(rmsnorm_warp, n_blocks_of(n, HEAD_WARPS), 32 * HEAD_WARPS, 0, stream,
                  reinterpret_cast<const float4 *>(x), reinterpret_cast<const float4 *>(weight), n,
                  (int)n_vectors, eps, to);
    else if (n_vectors <= PER_BLOCK)
        launch_rmsnorm_block<1>(stream, x, weight, n, n_vectors, eps, to);
    else if (n_vectors <= 2 * PER_BLOCK)
        launch_rmsnorm_block<2>(stream, x, weight, n, n_vectors, eps, to);
    else if (n_vectors <= 4 * PER_BLOCK)
        launch_rmsnorm_block<4>(stream, x, weight, n, n_vectors, eps, to);
    else
        launch_rmsnorm_block<8>(stream, x, weight, n, n_vectors, eps, to);
    return qs_launch_status();
}

} // namespace

extern "C" int qs_cu_gather_rows(void *stream, const float *table, const int32_t *tokens, int64_t n,
                                 int64_t d, float *out)
{
    if (n == 0) return 0;
    if (d % 4 == 0 && is_aligned16(table) && is_aligned16(out))
        QS_LAUNCH(gather_rows<float4>, (unsigned)n, THREADS, 0, stream,
                  reinterpret_cast<const float4 *>(table), tokens, d / 4, reinterpret_cast<float4 *>(out));
    else
        QS_LAUNCH(gather_rows<float>, (unsigned)n, THREADS, 0, stream, table, tokens, d, out);
    return qs_launch_status();
}

extern "C" int qs_cu_rmsnorm(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps,
                             float *out)
{
    return launch_rmsnorm(stream, x, weight, n, d, eps, {out, nullptr});
}

extern "C" int qs_cu_rmsnorm_bf16(void *stream, const float *x, const float *weight, int64_t n, int64_t d, float eps,
                                  uint16_t *out)
{
    return launch_rmsnorm(stream, x, weight, n, d, eps, {nullptr, out});
}

extern "C" int qs_cu_rope(void *stream, float *x, const int32_t *positions, const float *inv_freq, int64_t n,
                          int64_t n_heads, int64_t head_dim)
{
    /* With few rows every head gets its own threads; with many, a thread's angle serves several heads. */
    constexpr int64_t MANY_ROWS = 64, HEADS_PER_THREAD = 4;
    int64_t half = head_dim / 2;
    if (n == 0 || half == 0) return 0;
    unsigned width = half < THREADS ? (unsigned)half : THREADS;
    dim3 block(width, THREADS / width);
    unsigned n_parts = n_blocks_of(n_heads, (int64_t)block.y * (n < MANY_ROWS ? 1 : HEADS_PER_THREAD));
    QS_LAUNCH_SOON(rope, dim3((unsigned)n, n_parts), block, 0, stream, x, positions, inv_freq, (int)n_heads,
              (int)half);
    return qs_launch_status();
}

extern "C" int qs_cu_silu_mul(void *stream, const float *gate, const float *up, int64_t n, float *out)
{
    if (n == 0) return 0;
    int64_t n_vectors = is_aligned16(gate) && is_aligned16(up) && is_aligned16(out) ? n / 4 : 0;
    QS_LAUNCH_SOON(silu_mul, elementwise_blocks(n_vectors, n), THREADS, 0, stream, gate, up, n_vectors, n, out);
    return qs_launch_status();
}

extern "C" int qs_cu_add(void *stream, float *x, const float *y, int64_t n)
{
    if (n == 0) return 0;
    int64_t n_vectors = is_aligned16(x) && is_aligned16(y) ? n / 4 : 0;
    QS_LAUNCH_SOON(add, elementwise_blocks(n_vectors, n), THREADS, 0, stream, x, y, n_vectors, n);
    return qs_launch_status();
}

extern "C" int qs_cu_f32_to_bf16(void *stream, const float *x, int64_t n, uint16_t *out)
{
    if (n == 0) return 0;
    int64_t n_vectors = is_aligned16(x) && (uintptr_t)out % 8 == 0 ? n / 4 : 0;
    QS_LAUNCH_SOON(to_bf16<false>, elementwise_blocks(n_vectors, n), THREADS, 0, stream, x, nullptr, n_vectors, n, out);
    return qs_launch_status();
}

extern "C" int qs_cu_silu_mul_bf16(void *stream, const float *gate, const float *up, int64_t n, uint16_t *out)
{
    if (n == 0) return 0;
    int64_t n_vectors = is_aligned16(gate) && is_aligned16(up) && (uintptr_t)out % 8 == 0 ? n / 4 : 0;
    QS_LAUNCH_SOON(to_bf16<true>, elementwise_blocks(n_vectors, n), THREADS, 0, stream, gate, up, n_vectors, n, out);
    return qs_launch_status();
}

extern "C" int qs_cu_permuted_bf16(void *stream, const float *x, int64_t n, int64_t d, const int32_t *perm,
                                   uint16_t *out)
{
    if (n == 0 || d == 0) return 0;
    QS_LAUNCH_SOON(permuted_bf16, dim3((unsigned)n), THREADS, 0, stream, x, d, perm, out);
    return qs_launch_status();
}
