/* Blocks of a cluster and warpgroups with roles, for kernels that use wgmma.h (.cu files only).
 *
 * Two neighbouring blocks, the first even, are a cluster: a copy may go to both, and each may arrive at the
 * other's barriers. What has its like in the other block lies in dynamic shared memory. */
#ifndef QS_BACKEND_CUDA_CLUSTER_H
#define QS_BACKEND_CUDA_CLUSTER_H

#include "backend/cuda/wgmma.h"

enum { QS_CLUSTER = 2 }; /* blocks */

#ifdef __CUDACC__

template <typename... P>
static inline void qs_launch_clusters(bool soon, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                      void *stream, typename qs_same<P>::type... args)
{
    cudaLaunchAttribute attributes[2] = {{}, qs_soon()};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = QS_CLUSTER;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    qs_launch_with(attributes, soon ? 2 : 1, kernel, grid, block, shared_bytes, stream, args...);
}
/* grid.x is a multiple of QS_CLUSTER. The second as QS_LAUNCH_SOON, of a kernel for devices with clusters alone. */
#define QS_LAUNCH_CLUSTERS(kernel, grid, block, shared_bytes, stream, ...) \
    qs_launch_clusters(false, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)
#define QS_LAUNCH_CLUSTERS_SOON(kernel, grid, block, shared_bytes, stream, ...) \
    qs_launch_clusters(true, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

#ifdef QS_WGMMA

/* ---- clusters ---- */

/* Every thread of both blocks. A block may be copied to, and may end, only after one. */
__device__ __forceinline__ void qs_cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
/* qs_copy_bulk to the same place of both blocks, each of which counts the bytes off its own barrier. */
__device__ __forceinline__ void qs_copy_bulk_to_all(void *shared, const void *global, uint32_t bytes,
                                                    uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
                 "[%0], [%1], %2, [%3], %4;"
                 :: "r"(qs_shared_address(shared)), "l"(global), "r"(bytes), "r"(qs_shared_address(barrier)),
                 "h"((uint16_t)3) : "memory");
}
/* Arrives at the barrier of each block: called by a whole warp, one arrival of it at each. What the warp has
 * read of shared memory it has read with wgmma, and waited for. */
__device__ __forceinline__ void qs_barrier_arrive_at_all(uint64_t *barrier)
{
    if (threadIdx.x % 32 < QS_CLUSTER)
        asm volatile("{\n"
                     ".reg .b32 there;\n"
                     "mapa.shared::cluster.u32 there, %0, %1;\n"
                     "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                     "}" :: "r"(qs_shared_address(barrier)), "r"(threadIdx.x % 32) : "memory");
}

/* ---- warpgroups ---- */

/* What is done to d stays where it is in the program: in front of the qs_wgmma_fence or behind the
 * qs_wgmma_wait that is beside this. */
template <int N> __device__ __forceinline__ void qs_settle(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i]));
}
/* Two warpgroups take turns: one waits at its own number (1 or 2), the other lets it go on. Nothing but speed
 * depends on it. */
__device__ __forceinline__ void qs_wait_for_turn(int number)
{
    asm volatile("bar.sync %0, 256;" :: "r"(number) : "memory");
}
__device__ __forceinline__ void qs_give_turn(int number)
{
    asm volatile("bar.arrive %0, 256;" :: "r"(number) : "memory");
}

/* ---- */

/* Into the L2 cache: both are multiples of 16. */
__device__ __forceinline__ void qs_prefetch_bulk(const void *global, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(global), "r"(bytes) : "memory");
}

#endif

#else

#define QS_LAUNCH_CLUSTERS(kernel, grid, block, shared_bytes, stream, ...)              \
    (qs_simt_form_clusters(reinterpret_cast<const void *>(kernel), QS_CLUSTER),          \
     QS_LAUNCH(kernel, grid, block, shared_bytes, stream, __VA_ARGS__))
#define QS_LAUNCH_CLUSTERS_SOON QS_LAUNCH_CLUSTERS
static inline void qs_cluster_sync(QS_SIMT_CALLER) { qs_simt_cluster_barrier(QS_SIMT_PLACE); }
static inline void qs_copy_bulk_to_all(void *shared, const void *global, uint32_t bytes, uint64_t *barrier,
                                       QS_SIMT_CALLER)
{
    for (unsigned b = 0; b < QS_CLUSTER; b++)
        qs_simt_copy_bulk(qs_simt_in_block(shared, b, QS_SIMT_PLACE), global, bytes,
                          static_cast<uint64_t *>(qs_simt_in_block(barrier, b, QS_SIMT_PLACE)), QS_SIMT_PLACE);
}
static inline void qs_barrier_arrive_at_all(uint64_t *barrier, QS_SIMT_CALLER)
{
    unsigned lane = qs_simt_self->lane;
    if (lane < QS_CLUSTER)
        qs_simt_mbarrier_arrive(static_cast<uint64_t *>(qs_simt_in_block(barrier, lane, QS_SIMT_PLACE)), 0,
                                QS_SIMT_PLACE);
}
template <int N> static inline void qs_settle(float (&)[N]) {}
static inline void qs_wait_for_turn(int) {}
static inline void qs_give_turn(int) {}
static inline void qs_prefetch_bulk(const void *, uint32_t) {}

#endif

#endif
