/* Kernels of test_simt.c and test_simt_runtime.c: each uses one thing that the twin of CUDA provides. */
#include "backend/cuda/wgmma.h"
#include "tests/simt_cases.h"

namespace {

template <bool BARRIERS> __global__ void __launch_bounds__(256) block_sum(const float *x, float *out)
{
    __shared__ float sums[256];
    unsigned t = threadIdx.x;
    sums[t] = x[(size_t)blockIdx.x * 256 + t];
    if (BARRIERS) __syncthreads();
    for (unsigned step = 128; step > 0; step >>= 1) {
        if (t < step) sums[t] += sums[t + step];
        if (BARRIERS) __syncthreads();
    }
    if (t == 0) out[blockIdx.x] = sums[0];
}

__global__ void __launch_bounds__(256) grid_sum(const float *x, float *partial, unsigned *count, float *out)
{
    __shared__ float sums[8];
    __shared__ bool is_last;
    float sum = x[(size_t)blockIdx.x * 256 + threadIdx.x];
    for (int bits = 16; bits > 0; bits >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, bits);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        sum = 0;
        for (int i = 0; i < 8; i++) sum += sums[i];
        partial[blockIdx.x] = sum;
        __threadfence();
        is_last = atomicAdd(count, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last || threadIdx.x != 0) return;
    sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += __ldcg(&partial[b]);
    *out = sum;
}

__global__ void shuffle(int kind, int argument, int width, const int *in, int *out)
{
    int lane = (int)threadIdx.x, value = in[lane];
    if (kind == QS_CASE_SHFL) value = __shfl_sync(0xffffffffu, value, argument, width);
    if (kind == QS_CASE_SHFL_XOR) value = __shfl_xor_sync(0xffffffffu, value, argument, width);
    if (kind == QS_CASE_SHFL_DOWN) value = __shfl_down_sync(0xffffffffu, value, (unsigned)argument, width);
    if (kind == QS_CASE_SHFL_UP) value = __shfl_up_sync(0xffffffffu, value, (unsigned)argument, width);
    /* Two halves of the warp on their own, one of them twice; lane 3 asks for what is outside. */
    if (kind == QS_CASE_SHFL_OUTSIDE && lane < 16) value = __shfl_sync(0xffffu, value, lane == 3 ? 20 : 1);
    if (kind == QS_CASE_SHFL_OUTSIDE && lane >= 16) {
        value = __shfl_xor_sync(0xffff0000u, value, 1);
        value = __shfl_xor_sync(0xffff0000u, value, 2);
    }
    out[lane] = value;
}

__global__ void shuffle_f64(const double *in, double *out)
{
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, in[threadIdx.x], 5);
}

__global__ void vote(int kind, int n_running, const int *predicate, unsigned *out)
{
    int t = (int)threadIdx.x, p = predicate[t];
    if (t >= n_running) return;
    unsigned answer = 0;
    if (kind == QS_CASE_BALLOT) answer = __ballot_sync(0xffffffffu, p);
    if (kind == QS_CASE_ANY) answer = (unsigned)__any_sync(0xffffffffu, p);
    if (kind == QS_CASE_ALL) answer = (unsigned)__all_sync(0xffffffffu, p);
    if (kind == QS_CASE_BLOCK_COUNT) answer = (unsigned)__syncthreads_count(p);
    if (kind == QS_CASE_BLOCK_OR) answer = (unsigned)(__syncthreads_or(p) != 0);
    if (kind == QS_CASE_BLOCK_AND) answer = (unsigned)(__syncthreads_and(p) != 0);
    out[t] = answer;
}

template <bool BF16> __global__ void mma(const uint16_t *a, const uint16_t *b, float *c)
{
    unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const uint32_t *a_pairs = reinterpret_cast<const uint32_t *>(a), *b_pairs = reinterpret_cast<const uint32_t *>(b);
    uint32_t a_part[4] = {a_pairs[g * 8 + t], a_pairs[(g + 8) * 8 + t], a_pairs[g * 8 + t + 4],
                          a_pairs[(g + 8) * 8 + t + 4]};
    uint32_t b_part[2] = {b_pairs[g * 8 + t], b_pairs[g * 8 + t + 4]};
    float *rows[2] = {c + g * 8 + 2 * t, c + (g + 8) * 8 + 2 * t};
    float c_part[4] = {rows[0][0], rows[0][1], rows[1][0], rows[1][1]};
    if (BF16)
        qs_mma_bf16(c_part, a_part, b_part);
    else
        qs_mma_f16(c_part, a_part, b_part);
    for (int i = 0; i < 4; i++) rows[i / 2][i % 2] = c_part[i];
}

__global__ void f32_of_half(bool bf16, const uint16_t *h, int n, float *x)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] = bf16 ? qs_f32_of_bf16(h[i]) : qs_f32_of_f16(h[i]);
}

/* By both forms of the conversion, which must agree. */
__global__ void half_of_f32(bool bf16, const float *x, int n, uint16_t *h)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    uint16_t one = bf16 ? qs_bf16_of_f32(x[i]) : qs_f16_of_f32(x[i]);
    uint32_t two = bf16 ? qs_bf16x2_of_f32(x[i], 1.0f) : qs_f16x2_of_f32(x[i], 1.0f);
    uint32_t one_above = bf16 ? 0x3f800000u : 0x3c000000u;
    h[i] = two == (one | one_above) ? one : 0x1234;
}

__global__ void f16x2(const uint32_t *a, const uint32_t *b, const uint32_t *c, int n, uint32_t *fma, uint32_t *sub)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    fma[i] = qs_f16x2_fma(a[i], b[i], c[i]);
    sub[i] = qs_f16x2_sub(a[i], b[i]);
}

__global__ void intrinsics(int *out)
{
    float not_a_number = __uint_as_float(0x7fc00000u);
    out[0] = (int)__byte_perm(0x33221100u, 0x77665544u, 0x7531u);
    out[1] = (int)__byte_perm(0x80221100u, 0, 0xb083u);
    out[2] = __clz(0x00ffffff);
    out[3] = __clz(0);
    out[4] = __popc(0xf0f01u);
    out[5] = __float2int_rn(2.5f);
    out[6] = __float2int_rn(-3.5f);
    out[7] = __float2int_rn(1e20f);
    out[8] = min(-1, 2);
    out[9] = (int)max(not_a_number, 4.0f) + (int)min(5.0f, not_a_number);
    out[10] = (int)qs_and_or(0x12345678u, 0x0f0f0f0fu, 0x64006400u);
    out[11] = (int)__funnelshift_r(0x89abcdefu, 0x01234567u, 8);
    out[12] = __float_as_int(rsqrtf(4.0f));
    out[13] = (int)__umulhi(0x80000000u, 6);
    out[14] = (int)(__double_as_longlong(1.0) >> 52);
    out[15] = __float_as_int(__fmaf_rn(1.5f, 2.0f, 0.25f));
}

__global__ void atomics(int *sum, int *most, float *float_sum, double *double_sum)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(sum, i);
    atomicMax(most, i ^ 5);
    atomicAdd(float_sum, 1.0f);
    atomicAdd(double_sum, 0.5);
}

template <int N_PENDING> __global__ void copy(const uint32_t *in, uint32_t *out)
{
    __shared__ __align__(16) uint32_t tile[2 * 128];
    unsigned t = threadIdx.x;
    if (t < 64) {
        qs_copy_async16(&tile[4 * (t % 32) + 128 * (t / 32)], in + 4 * t);
        if (t < 32) qs_copy_async_commit();
        qs_copy_async_commit();
    }
    qs_copy_async_wait<N_PENDING>();
    __syncthreads();
    out[t] = tile[t];
    out[128 + t] = tile[128 + t];
}

__global__ void unwritten(uint32_t *out)
{
    QS_DYNAMIC_SHARED(uint32_t, dynamic_words);
    __shared__ uint32_t words[32];
    if (blockIdx.x == 0) {
        words[threadIdx.x] = dynamic_words[threadIdx.x] = threadIdx.x;
    } else {
        out[threadIdx.x] = words[threadIdx.x];
        out[32 + threadIdx.x] = dynamic_words[threadIdx.x];
    }
}

__global__ void scale(float *x, int n, qs_case_pair pair)
{
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] = x[i] * pair.factor + pair.summand;
}

__global__ void empty(void) {}

__global__ void mistake(int which, int *out)
{
    QS_DYNAMIC_SHARED(int, words);
    __shared__ __align__(16) int tile[8];
    __shared__ uint64_t barrier;
    int lane = (int)threadIdx.x, value = lane;
    switch (which) {
    case QS_CASE_ABSENT_LANE:
        if (lane != 7) value = __shfl_xor_sync(0xffffffffu, value, 1);
        __syncthreads();
        break;
    case QS_CASE_OTHER_MASK:
        value = (int)__ballot_sync(lane < 16 ? 0xffffu : 0xffffffffu, 1);
        __syncthreads();
        break;
    case QS_CASE_TWO_BARRIERS:
        if (lane < 5)
            __syncthreads();
        else
            __syncthreads();
        break;
    case QS_CASE_BARRIER_AND_VOTE:
        if (lane < 5)
            __syncthreads();
        else
            __syncwarp();
        break;
    case QS_CASE_OUTSIDE: value = __shfl_sync(0xfffffffeu, value, 2); break;
    case QS_CASE_MMA_HALF_WARP: {
        float c[4] = {};
        const uint32_t a[4] = {}, b[2] = {};
        if (lane < 16) return;
        qs_mma_f16(c, a, b);
        break;
    }
    case QS_CASE_BAD_COPY: qs_copy_async16(tile + 1, out + 4); break;
    case QS_CASE_OVERRUN: out[lane + 1] = value; break;
    case QS_CASE_DYNAMIC_OVERRUN: words[lane + 1] = value; break;
    case QS_CASE_LONELY_BARRIER:
        if (lane == 0) qs_barrier_init(&barrier, 33);
        __syncwarp();
        qs_barrier_arrive(&barrier);
        qs_barrier_wait(&barrier, 0);
        break;
    }
    if (which != QS_CASE_OVERRUN) out[lane] = value;
}

int grid_for(int n) { return (n + 255) / 256; }

} // namespace

int qs_case_block_sum(void *stream, const float *x, int n_blocks, bool with_barriers, float *out)
{
    if (with_barriers)
        QS_LAUNCH((block_sum<true>), n_blocks, 256, 0, stream, x, out);
    else
        QS_LAUNCH((block_sum<false>), n_blocks, 256, 0, stream, x, out);
    return qs_launch_status();
}

int qs_case_grid_sum(void *stream, const float *x, int n_blocks, float *partial, unsigned *count, float *out)
{
    QS_LAUNCH(grid_sum, n_blocks, 256, 0, stream, x, partial, count, out);
    return qs_launch_status();
}

int qs_case_shuffle(void *stream, int kind, int argument, int width, const int *in, int *out)
{
    QS_LAUNCH(shuffle, 1, 32, 0, stream, kind, argument, width, in, out);
    return qs_launch_status();
}

int qs_case_shuffle_f64(void *stream, const double *in, double *out)
{
    QS_LAUNCH(shuffle_f64, 1, 32, 0, stream, in, out);
    return qs_launch_status();
}

int qs_case_vote(void *stream, int kind, int n_threads, int n_running, const int *predicate, unsigned *out)
{
    QS_LAUNCH(vote, 1, n_threads, 0, stream, kind, n_running, predicate, out);
    return qs_launch_status();
}

int qs_case_mma(void *stream, bool bf16, const uint16_t *a, const uint16_t *b, float *c)
{
    if (bf16)
        QS_LAUNCH((mma<true>), 1, 32, 0, stream, a, b, c);
    else
        QS_LAUNCH((mma<false>), 1, 32, 0, stream, a, b, c);
    return qs_launch_status();
}

int qs_case_f32_of_half(void *stream, bool bf16, const uint16_t *h, int n, float *x)
{
    QS_LAUNCH(f32_of_half, grid_for(n), 256, 0, stream, bf16, h, n, x);
    return qs_launch_status();
}

int qs_case_half_of_f32(void *stream, bool bf16, const float *x, int n, uint16_t *h)
{
    QS_LAUNCH(half_of_f32, grid_for(n), 256, 0, stream, bf16, x, n, h);
    return qs_launch_status();
}

int qs_case_f16x2(void *stream, const uint32_t *a, const uint32_t *b, const uint32_t *c, int n, uint32_t *fma,
                  uint32_t *sub)
{
    QS_LAUNCH(f16x2, grid_for(n), 256, 0, stream, a, b, c, n, fma, sub);
    return qs_launch_status();
}

int qs_case_intrinsics(void *stream, int *out)
{
    QS_LAUNCH(intrinsics, 1, 1, 0, stream, out);
    return qs_launch_status();
}

int qs_case_atomics(void *stream, int n_blocks, int *sum, int *most, float *float_sum, double *double_sum)
{
    QS_LAUNCH(atomics, n_blocks, 256, 0, stream, sum, most, float_sum, double_sum);
    return qs_launch_status();
}

int qs_case_copy(void *stream, const uint32_t *in, int n_pending, uint32_t *out)
{
    if (n_pending == 0)
        QS_LAUNCH((copy<0>), 1, 128, 0, stream, in, out);
    else
        QS_LAUNCH((copy<1>), 1, 128, 0, stream, in, out);
    return qs_launch_status();
}

int qs_case_unwritten(void *stream, uint32_t *out)
{
    QS_LAUNCH(unwritten, 2, 32, 128, stream, out);
    return qs_launch_status();
}

int qs_case_scale(void *stream, float *x, int n, qs_case_pair pair)
{
    QS_LAUNCH(scale, grid_for(n), 256, 0, stream, x, n, pair);
    return qs_launch_status();
}

int qs_case_empty(void *stream, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y,
                  size_t shared_bytes)
{
    QS_LAUNCH(empty, dim3(grid_x, grid_y), dim3(block_x, block_y), shared_bytes, stream);
    return qs_launch_status();
}

int qs_case_empty_allow(size_t shared_bytes) { return qs_allow_shared(empty, shared_bytes); }

int qs_case_mistake(void *stream, int which, int *out)
{
    QS_LAUNCH(mistake, 1, 32, 32 * sizeof(int), stream, which, out);
    return qs_launch_status();
}
