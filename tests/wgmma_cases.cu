/* Kernels of test_cuda_wgmma.c: products of a warpgroup, barriers and bulk copies (wgmma.h), one at a time. */
#include "backend/cuda/wgmma.h"
#include "tests/wgmma_cases.h"

namespace {

enum { K = 64, ROWS = 64 };

#ifdef QS_WGMMA
/* A tile of 64 columns in shared memory from rows of global memory. */
__device__ void put_tile(uint16_t *tile, const uint16_t *rows, int n_rows, int stride)
{
    for (int i = (int)threadIdx.x; i < n_rows * 64; i += 128)
        tile[qs_tile_at(i / 64, i % 64)] = rows[i / 64 * stride + i % 64];
}

template <int N, bool BF16, bool REGISTERS, int A_MN, int B_MN>
__device__ void multiply(float (&d)[N / 2], const uint16_t *a, const uint16_t *a_tile, const uint16_t *b_tile)
{
    int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    const uint32_t *pairs = reinterpret_cast<const uint32_t *>(a) + (16 * warp + g) * (K / 2) + t;
    uint64_t b = B_MN ? qs_tile_mn(b_tile, K * 128) : qs_tile_k(b_tile),
             at = A_MN ? qs_tile_mn(a_tile, K * 128) : qs_tile_k(a_tile);
    qs_wgmma_fence();
#pragma unroll
    for (int s = 0; s < K / 16; s++) {
        uint64_t b_step = B_MN ? qs_tile_rows(b, 16 * s) : qs_tile_step(b, s);
        if (REGISTERS) {
            uint32_t part[4] = {pairs[8 * s], pairs[8 * (K / 2) + 8 * s], pairs[8 * s + 4],
                                pairs[8 * (K / 2) + 8 * s + 4]};
            qs_wgmma_fence();
            qs_wgmma<BF16, B_MN>(d, part, b_step);
        } else
            qs_wgmma<BF16, A_MN, B_MN>(d, A_MN ? qs_tile_rows(at, 16 * s) : qs_tile_step(at, s), b_step);
    }
    qs_wgmma_commit();
    qs_wgmma_wait<0>();
}
#endif

template <int N, bool BF16, bool REGISTERS, int A_MN, int B_MN>
__global__ void __launch_bounds__(128) wgmma(const uint16_t *a, const uint16_t *b, float *c)
{
#ifdef QS_WGMMA
    QS_DYNAMIC_SHARED(unsigned char, shared);
    uint16_t *a_tile = reinterpret_cast<uint16_t *>(shared + (1024 - qs_shared_address(shared) % 1024) % 1024);
    uint16_t *b_tile = a_tile + ROWS * K;
    int warp = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    float d[N / 2];
    put_tile(a_tile, a, 64, 64);
    if (!B_MN) put_tile(b_tile, b, N, K);
    for (int i = 0; B_MN && i < N; i += 64) put_tile(b_tile + i * K, b + i, K, N);
    for (int i = 0; i < N / 2; i++)
        d[i] = c[(16 * warp + g + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2];
    qs_fence_async();
    __syncthreads();
    multiply<N, BF16, REGISTERS, A_MN, B_MN>(d, a, a_tile, b_tile);
    for (int i = 0; i < N / 2; i++)
        c[(16 * warp + g + i / 2 % 2 * 8) * N + i / 4 * 8 + 2 * t + i % 2] = d[i];
#endif
}

__global__ void ring(const uint32_t *x, int n_rounds, uint32_t *out)
{
#ifdef QS_WGMMA
    __shared__ __align__(16) uint32_t slots[2][32];
    __shared__ uint64_t full[2], empty[2];
    int lane = (int)threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) qs_barrier_init(&full[i], 1), qs_barrier_init(&empty[i], 32);
        qs_barrier_ready();
    }
    __syncthreads();
    for (int i = 0; i < n_rounds; i++) {
        uint32_t parity = (uint32_t)(i / 2 % 2);
        if (threadIdx.x >= 32) {
            if (lane != 0) return;
            qs_barrier_wait(&empty[i % 2], parity ^ 1); /* the phase before the first has passed */
            qs_barrier_expect(&full[i % 2], sizeof slots[0]);
            qs_copy_bulk(slots[i % 2], x + 32 * i, sizeof slots[0], &full[i % 2]);
        } else {
            qs_barrier_wait(&full[i % 2], parity);
            out[32 * i + lane] = slots[i % 2][lane];
            qs_barrier_arrive(&empty[i % 2]);
        }
    }
#endif
}

template <int N, bool BF16, bool REGISTERS, int A_MN, int B_MN>
int launch(void *stream, const uint16_t *a, const uint16_t *b, float *c)
{
    size_t bytes = 1024 + (ROWS + N) * K * sizeof(uint16_t);
    int status = qs_allow_shared(wgmma<N, BF16, REGISTERS, A_MN, B_MN>, bytes);
    if (status != 0) return status;
    QS_LAUNCH((wgmma<N, BF16, REGISTERS, A_MN, B_MN>), 1, 128, bytes, stream, a, b, c);
    return qs_launch_status();
}

template <int N, bool BF16>
int launch_form(void *stream, qs_case_wgmma_form form, const uint16_t *a, const uint16_t *b, float *c)
{
    if (form.registers)
        return form.b_mn ? launch<N, BF16, true, 0, 1>(stream, a, b, c) : launch<N, BF16, true, 0, 0>(stream, a, b, c);
    if (form.a_mn)
        return form.b_mn ? launch<N, BF16, false, 1, 1>(stream, a, b, c)
                         : launch<N, BF16, false, 1, 0>(stream, a, b, c);
    return form.b_mn ? launch<N, BF16, false, 0, 1>(stream, a, b, c) : launch<N, BF16, false, 0, 0>(stream, a, b, c);
}

template <bool BF16>
int launch_size(void *stream, int n, qs_case_wgmma_form form, const uint16_t *a, const uint16_t *b, float *c)
{
    switch (n) {
    case 64: return launch_form<64, BF16>(stream, form, a, b, c);
    case 128: return launch_form<128, BF16>(stream, form, a, b, c);
    default: return launch_form<256, BF16>(stream, form, a, b, c);
    }
}

} // namespace

int qs_case_wgmma(void *stream, int n, qs_case_wgmma_form form, const uint16_t *a, const uint16_t *b, float *c)
{
    return form.bf16 ? launch_size<true>(stream, n, form, a, b, c) : launch_size<false>(stream, n, form, a, b, c);
}

int qs_case_ring(void *stream, const uint32_t *x, int n_rounds, uint32_t *out)
{
    QS_LAUNCH(ring, 1, 64, 0, stream, x, n_rounds, out);
    return qs_launch_status();
}
