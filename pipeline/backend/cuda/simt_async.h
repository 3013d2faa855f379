/* The twins of wgmma.h: barriers in shared memory, bulk copies and products of a warpgroup on the CPU. Part of wgmma.h
 * where no CUDA compiler is at work.
 *
 * A bulk copy arrives when somebody looks at its barrier, and no sooner. A product is computed when a wait covers its
 * group, from what shared memory then holds and the registers held when it was issued; D is written then, and no
 * sooner. Operands are found by the descriptors' own fields and the swizzle of addresses, as the PTX manual has them.
 * Each warp computes its 16 rows for itself. */
#ifndef QS_BACKEND_CUDA_SIMT_ASYNC_H
#define QS_BACKEND_CUDA_SIMT_ASYNC_H

#include "backend/cuda/simt.h"

/* One lane's part of a product. */
struct qs_simt_product {
    float *d;
    const uint32_t *a; /* NULL: a_tile */
    uint64_t a_tile, b_tile;
    int n, bf16, a_mn, b_mn;
};

extern "C" {
void qs_simt_mbarrier_init(uint64_t *barrier, int n_arrivals);
void qs_simt_mbarrier_arrive(uint64_t *barrier, uint32_t bytes, qs_simt_place place);
void qs_simt_mbarrier_wait(uint64_t *barrier, uint32_t parity, qs_simt_place place);
void qs_simt_copy_bulk(void *shared, const void *global, uint32_t bytes, uint64_t *barrier, qs_simt_place place);
/* Clusters (cluster.h): launches of this kernel, from now on; all threads of all blocks; the same place of another. */
void qs_simt_form_clusters(const void *kernel, unsigned n_blocks);
void qs_simt_cluster_barrier(qs_simt_place place);
void *qs_simt_in_block(const void *shared, unsigned block, qs_simt_place place);
/* All 32 lanes. */
void qs_simt_wgmma(const qs_simt_product *product, qs_simt_place place);
void qs_simt_wgmma_commit(qs_simt_place place);
void qs_simt_wgmma_wait(int n_pending, qs_simt_place place);
}

/* Shared addresses are 18 bits here; the block's memory is smaller than that. */
static inline uint32_t qs_shared_address(const void *shared)
{
    return (uint32_t)(reinterpret_cast<uintptr_t>(shared) & 0x3ffffu);
}

static inline void qs_barrier_init(uint64_t *barrier, int n_arrivals) { qs_simt_mbarrier_init(barrier, n_arrivals); }
static inline void qs_barrier_ready(void) {}
static inline void qs_barrier_arrive(uint64_t *barrier, QS_SIMT_CALLER)
{
    qs_simt_mbarrier_arrive(barrier, 0, QS_SIMT_PLACE);
}
static inline void qs_barrier_expect(uint64_t *barrier, uint32_t bytes, QS_SIMT_CALLER)
{
    qs_simt_mbarrier_arrive(barrier, bytes, QS_SIMT_PLACE);
}
static inline void qs_barrier_wait(uint64_t *barrier, uint32_t parity, QS_SIMT_CALLER)
{
    qs_simt_mbarrier_wait(barrier, parity, QS_SIMT_PLACE);
}
template <int N_THREADS> static inline void qs_meet(uint64_t *barrier, uint32_t &parity, QS_SIMT_CALLER)
{
    (void)qs_simt_vote(0xffffffffu, 0, QS_SIMT_PLACE);
    if (qs_simt_self->lane == 0) qs_simt_mbarrier_arrive(barrier, 0, QS_SIMT_PLACE);
    qs_simt_mbarrier_wait(barrier, parity, QS_SIMT_PLACE);
    parity ^= 1u;
}
static inline void qs_copy_bulk(void *shared, const void *global, uint32_t bytes, uint64_t *barrier, QS_SIMT_CALLER)
{
    qs_simt_copy_bulk(shared, global, bytes, barrier, QS_SIMT_PLACE);
}
static inline void qs_copy_bulk_once(void *shared, const void *global, uint32_t bytes, uint64_t *barrier,
                                     QS_SIMT_CALLER)
{
    qs_simt_copy_bulk(shared, global, bytes, barrier, QS_SIMT_PLACE);
}
static inline void qs_fence_async(void) {}
template <int N> static inline void qs_take_registers(void) {}
template <int N> static inline void qs_give_registers(void) {}

static inline uint64_t qs_tile_of(const void *shared, uint32_t leading_bytes, uint32_t stride_bytes)
{
    return (uint64_t)(qs_shared_address(shared) >> 4 & 0x3fffu) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | 1ull << 62;
}

static inline void qs_wgmma_fence(QS_SIMT_CALLER) { (void)qs_simt_vote(0xffffffffu, 0, QS_SIMT_PLACE); }
static inline void qs_wgmma_commit(QS_SIMT_CALLER) { qs_simt_wgmma_commit(QS_SIMT_PLACE); }
template <int N> static inline void qs_wgmma_wait(QS_SIMT_CALLER) { qs_simt_wgmma_wait(N, QS_SIMT_PLACE); }

template <bool BF16, int B_MN = 0, int HALF>
static inline void qs_wgmma(float (&d)[HALF], const uint32_t (&a)[4], uint64_t b, QS_SIMT_CALLER)
{
    static_assert(HALF == 16 || HALF == 32 || HALF == 64 || HALF == 128, "the sizes of wgmma.h");
    const qs_simt_product product = {d, a, 0, b, 2 * HALF, BF16, 0, B_MN};
    qs_simt_wgmma(&product, QS_SIMT_PLACE);
}
template <bool BF16, int A_MN = 0, int B_MN = 0, int HALF>
static inline void qs_wgmma(float (&d)[HALF], uint64_t a, uint64_t b, bool add = true, QS_SIMT_CALLER)
{
    static_assert(HALF == 16 || HALF == 32 || HALF == 64 || HALF == 128, "the sizes of wgmma.h");
    for (int i = 0; i < (add ? 0 : HALF); i++) d[i] = 0.0f;
    const qs_simt_product product = {d, nullptr, a, b, 2 * HALF, BF16, A_MN, B_MN};
    qs_simt_wgmma(&product, QS_SIMT_PLACE);
}

#endif
