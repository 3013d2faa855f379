/* Tensor cores of sm_90a: products of a warpgroup (wgmma) with operands in shared memory, barriers in shared memory
 * (mbarrier), and bulk copies that complete on them (.cu files only). simt_async.h has the twins.
 *
 * This code exists for sm_90a alone: a kernel that uses it has its body within #ifdef QS_WGMMA, and its launcher is
 * called only where qs_rt_device.has_wgmma (runtime.h) says that such code runs.
 *
 * A warpgroup is four warps, the first a multiple of four; all of it calls what is named qs_wgmma. The matrices of one
 * call are D[64, N] f32 += A[64, 16] B[16, N], of f16 or bf16. Warp w of the group has rows 16 w .. 16 w + 15: with
 * g = lane / 4, t = lane % 4,
 *   A in registers   a[0 .. 3] as of mma.m16n8k16 (device.h)
 *   D                d[4 j], d[4 j + 1] (row g, columns 8 j + 2 t and the next), d[4 j + 2], d[4 j + 3] (row g + 8)
 * In shared memory rows of 64 elements (128 bytes) lie one behind the other, eight of them are a block of 1024 bytes
 * that begins at a multiple of 1024, and within a row the 16-byte pieces are swizzled: piece p of row r is at
 * p ^ (r % 8).
 *   K-major          a row is 64 k of one m (or n): qs_tile_k. k-step s of such a row: qs_tile_step(tile, s).
 *   MN-major         a row is 64 m (or n) of one k: qs_tile_mn; further m lie `next_bytes` behind. k-step s begins 2048
 *                    bytes, two blocks, later: qs_tile_rows(tile, 16 s).
 *
 * Order: registers are written, qs_wgmma_fence, qs_wgmma ..., qs_wgmma_commit; the registers of D and A, and shared
 * memory of the operands, may be touched again after a qs_wgmma_wait that covers the group. Shared memory that was
 * written by ordinary stores or cp.async needs qs_fence_async in each writing thread before the barrier in front of
 * qs_wgmma. */
#ifndef QS_BACKEND_CUDA_WGMMA_H
#define QS_BACKEND_CUDA_WGMMA_H

#include "backend/cuda/device.h"

#ifdef __CUDACC__

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define QS_WGMMA
#endif

__device__ __forceinline__ uint32_t qs_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

#ifdef QS_WGMMA

/* ---- barriers and copies ---- */

/* One thread readies barriers, then calls qs_barrier_ready, then the block synchronises. */
__device__ __forceinline__ void qs_barrier_init(uint64_t *barrier, int n_arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                 :: "r"(qs_shared_address(barrier)), "r"(n_arrivals) : "memory");
}
__device__ __forceinline__ void qs_barrier_ready(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void qs_barrier_arrive(uint64_t *barrier)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}"
                 :: "r"(qs_shared_address(barrier)) : "memory");
}
/* Arrives, and lets the phase wait for so many bytes of bulk copies. */
__device__ __forceinline__ void qs_barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}"
                 :: "r"(qs_shared_address(barrier)), "r"(bytes) : "memory");
}
/* Until the phase of this parity has passed; the first phase has parity 0. */
__device__ __forceinline__ void qs_barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred passed;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 passed, [%0], %1;\n"
                 "@passed bra done;\n"
                 "bra again;\n"
                 "done:\n"
                 "}" :: "r"(qs_shared_address(barrier)), "r"(parity) : "memory");
}
/* The first N_THREADS of a block, whole warps, wait for each other at the hardware's barrier 1. The arguments, a
 * barrier for one arrival of each warp and the parity of its phase, are the twin's. */
template <int N_THREADS> __device__ __forceinline__ void qs_meet(uint64_t *, uint32_t &)
{
    asm volatile("bar.sync 1, %0;" :: "n"(N_THREADS) : "memory");
}
/* Both ends and `bytes` are multiples of 16; counted off the barrier when it has arrived. */
__device__ __forceinline__ void qs_copy_bulk(void *shared, const void *global, uint32_t bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(qs_shared_address(shared)), "l"(global), "r"(bytes), "r"(qs_shared_address(barrier))
                 : "memory");
}
/* The same of what is read once: the L2 cache gives it up first. */
__device__ __forceinline__ void qs_copy_bulk_once(void *shared, const void *global, uint32_t bytes, uint64_t *barrier)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;"
                 :: "r"(qs_shared_address(shared)), "l"(global), "r"(bytes), "r"(qs_shared_address(barrier)),
                    "l"(policy) : "memory");
}
__device__ __forceinline__ void qs_fence_async(void) { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/* Registers of each thread of the calling warpgroup from here on, a multiple of 8. The kernel's launch bounds say that
 * a multiprocessor has one block, and each role is a branch of one if. */
template <int N> __device__ __forceinline__ void qs_take_registers(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N));
}
template <int N> __device__ __forceinline__ void qs_give_registers(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N));
}

/* ---- operands in shared memory ---- */

/* Matrix descriptors: the 14-bit fields are counts of 16 bytes; 128-byte swizzle is mode 1 of the last two bits. */
__device__ __forceinline__ uint64_t qs_tile_of(const void *shared, uint32_t leading_bytes, uint32_t stride_bytes)
{
    return (uint64_t)(qs_shared_address(shared) >> 4 & 0x3fffu) | (uint64_t)(leading_bytes >> 4) << 16 |
           (uint64_t)(stride_bytes >> 4) << 32 | 1ull << 62;
}

/* ---- products ---- */

__device__ __forceinline__ void qs_wgmma_fence(void) { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void qs_wgmma_commit(void) { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void qs_wgmma_wait(void) /* for all but the N newest groups */
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

#define QS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define QS_D16(i) QS_D4(i), QS_D4(i + 4), QS_D4(i + 8), QS_D4(i + 12)
#define QS_D32(i) QS_D16(i), QS_D16(i + 16)
#define QS_D64(i) QS_D32(i), QS_D32(i + 32)
#define QS_D128(i) QS_D64(i), QS_D64(i + 64)
#define QS_R16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define QS_R32 QS_R16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define QS_R64 QS_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54," \
    "%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define QS_R128 QS_R64 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86," \
    "%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111," \
    "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define QS_WGMMA_HEAD(ADD) "{\n.reg .pred add;\nsetp.ne.b32 add, " ADD ", 0;\nwgmma.mma_async.sync.aligned.m64n"
#define QS_WGMMA_REGISTERS(TYPE, N, HALF, A0, A1, A2, A3, B, T)                                                        \
    asm volatile(QS_WGMMA_HEAD("1") #N "k16.f32." TYPE "." TYPE " {" QS_R##HALF "}, "                                  \
                 "{%" #A0 ",%" #A1 ",%" #A2 ",%" #A3 "}, %" #B ", add, 1, 1, %" #T ";\n}"                             \
                 : QS_D##HALF(0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(B_MN))
#define QS_WGMMA_SHARED(TYPE, N, HALF, A, B, TA, TB, ADD)                                                              \
    asm volatile(QS_WGMMA_HEAD("%" #ADD) #N "k16.f32." TYPE "." TYPE " {" QS_R##HALF "}, "                             \
                 "%" #A ", %" #B ", add, 1, 1, %" #TA ", %" #TB ";\n}"                                                \
                 : QS_D##HALF(0) : "l"(a), "l"(b), "n"(A_MN), "n"(B_MN), "r"((int)add))

/* The second form can leave out D: D = A B where not `add`. b, and a of that form: qs_tile_k, or qs_tile_mn where B_MN
 * (A_MN) is 1. N is twice the number of a thread's results; I0 .. number the operands behind those. */
#define QS_WGMMA_SIZE(N, HALF, I0, I1, I2, I3, I4, I5)                                                                 \
    template <bool BF16, int B_MN = 0>                                                                                \
    __device__ __forceinline__ void qs_wgmma(float (&d)[HALF], const uint32_t (&a)[4], uint64_t b)                     \
    {                                                                                                                 \
        if (BF16) QS_WGMMA_REGISTERS("bf16", N, HALF, I0, I1, I2, I3, I4, I5);                                         \
        else QS_WGMMA_REGISTERS("f16", N, HALF, I0, I1, I2, I3, I4, I5);                                               \
    }                                                                                                                 \
    template <bool BF16, int A_MN = 0, int B_MN = 0>                                                                  \
    __device__ __forceinline__ void qs_wgmma(float (&d)[HALF], uint64_t a, uint64_t b, bool add = true)                \
    {                                                                                                                 \
        if (BF16) QS_WGMMA_SHARED("bf16", N, HALF, I0, I1, I2, I3, I4);                                                \
        else QS_WGMMA_SHARED("f16", N, HALF, I0, I1, I2, I3, I4);                                                      \
    }
QS_WGMMA_SIZE(32, 16, 16, 17, 18, 19, 20, 21)
QS_WGMMA_SIZE(64, 32, 32, 33, 34, 35, 36, 37)
QS_WGMMA_SIZE(128, 64, 64, 65, 66, 67, 68, 69)
QS_WGMMA_SIZE(256, 128, 128, 129, 130, 131, 132, 133)

#endif

#else
#define QS_WGMMA
#include "backend/cuda/simt_async.h" /* the same names */
#endif

#ifdef QS_WGMMA

__device__ __forceinline__ uint64_t qs_tile_k(const void *shared) { return qs_tile_of(shared, 16, 1024); }
__device__ __forceinline__ uint64_t qs_tile_mn(const void *shared, uint32_t next_bytes)
{
    return qs_tile_of(shared, next_bytes, 1024);
}
/* K-major: the same rows from element 16 s on. */
__device__ __forceinline__ uint64_t qs_tile_step(uint64_t tile, int s) { return tile + (uint64_t)(2 * s); }
/* Either: from row `rows` on, a multiple of 8. */
__device__ __forceinline__ uint64_t qs_tile_rows(uint64_t tile, int rows) { return tile + (uint64_t)(8 * rows); }

#endif

/* Where element (row, column < 64) of a tile lies, in elements. */
__device__ __forceinline__ int qs_tile_at(int row, int column)
{
    return row * 64 + ((column / 8 ^ row % 8) * 8) + column % 8;
}

#endif
