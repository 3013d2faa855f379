/* What the .cu files stand on: the same source is compiled by nvcc for a GPU and by g++ for the CPU (simt.h).
 *
 *   QS_LAUNCH((kernel<8, true>), grid, block, shared_bytes, stream, args...)   instead of <<< >>>
 *   QS_DYNAMIC_SHARED(float, tile);                                            instead of extern __shared__
 *   return qs_launch_status();                                                 after the launches
 *
 * 16-bit numbers are uint16_t in memory and uint32_t pairs in registers (low half first), so that neither side
 * needs the other's types. Tensor-core instructions have a twin in simt.h that exchanges fragments between the
 * lanes of a warp, so fragment layouts are tested too. */
#ifndef QS_BACKEND_CUDA_DEVICE_H
#define QS_BACKEND_CUDA_DEVICE_H

#include <float.h>
#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

template <typename T> struct qs_same {
    typedef T type; /* keeps a parameter out of the deduction of its type */
};
#define QS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    kernel<<<(grid), (block), (shared_bytes), (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define QS_DYNAMIC_SHARED(T, name)                                \
    extern __shared__ __align__(16) unsigned char qs_dynamic_shared_[]; \
    T *name = reinterpret_cast<T *>(qs_dynamic_shared_)
static inline int qs_launch_status(void) { return (int)cudaGetLastError(); }

template <typename... P>
static inline void qs_launch_with(cudaLaunchAttribute *attributes, unsigned n_attributes, void (*kernel)(P...),
                                  dim3 grid, dim3 block, size_t shared_bytes, void *stream,
                                  typename qs_same<P>::type... args)
{
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = (cudaStream_t)stream;
    config.attrs = attributes;
    config.numAttrs = n_attributes;
    (void)cudaLaunchKernelEx(&config, kernel, args...);
}

static inline cudaLaunchAttribute qs_soon(void)
{
    cudaLaunchAttribute soon = {};
    soon.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    soon.val.programmaticStreamSerializationAllowed = 1;
    return soon;
}

/* QS_LAUNCH_SOON: a launch that may begin while the kernel before it on the stream still runs (programmatic
 * dependent launch, sm_90 on), which hides the gap between kernels of microseconds. Every thread of such a
 * kernel calls qs_wait_for_previous before it reads or writes anything that earlier kernels touch, and may
 * call qs_let_next_begin after that: then whatever ran earlier is done before the next kernel's first
 * instruction, and at most two kernels share the device. (Called earlier, three would, and whichever
 * multiprocessor is left first gets two blocks of the third.) */
__device__ __forceinline__ void qs_wait_for_previous(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void qs_let_next_begin(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
template <typename... P>
static inline void qs_launch_soon(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, void *stream,
                                  typename qs_same<P>::type... args)
{
    /* Code that was compiled for older devices has no wait in it, whatever it runs on. */
    static int can_wait = -1;
    if (can_wait < 0) {
        cudaFuncAttributes attributes;
        can_wait = cudaFuncGetAttributes(&attributes, (const void *)kernel) == cudaSuccess &&
                   attributes.ptxVersion >= 90;
    }
    cudaLaunchAttribute soon = qs_soon();
    qs_launch_with(&soon, can_wait ? 1 : 0, kernel, grid, block, shared_bytes, stream, args...);
}
#define QS_LAUNCH_SOON(kernel, grid, block, shared_bytes, stream, ...) \
    qs_launch_soon(kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)
/* More than 48 KiB of dynamic shared memory must be asked for, once per kernel. */
template <typename F> static inline int qs_allow_shared(F *kernel, size_t bytes)
{
    return (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

__device__ __forceinline__ float qs_f32_of_f16(uint16_t h) { return __half2float(__ushort_as_half(h)); }
__device__ __forceinline__ uint16_t qs_f16_of_f32(float x) { return __half_as_ushort(__float2half_rn(x)); }
__device__ __forceinline__ float qs_f32_of_bf16(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
__device__ __forceinline__ uint16_t qs_bf16_of_f32(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
__device__ __forceinline__ uint32_t qs_f16x2_of_f32(float low, float high)
{
    __half2 h = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&h);
}
__device__ __forceinline__ uint32_t qs_bf16x2_of_f32(float low, float high)
{
    __nv_bfloat162 h = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&h);
}
/* Within 2 units in the last place. */
__device__ __forceinline__ float qs_quotient(float a, float b) { return __fdividef(a, b); }
/* On pairs of f16, each rounded once. */
__device__ __forceinline__ uint32_t qs_f16x2_sub(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("sub.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}
__device__ __forceinline__ uint32_t qs_f16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}
/* (a & mask) | bits in one instruction. */
__device__ __forceinline__ uint32_t qs_and_or(uint32_t a, uint32_t mask, uint32_t bits)
{
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(a), "r"(mask), "r"(bits));
    return r;
}

/* Whatever the registers hold. */
__device__ __forceinline__ uint4 qs_anything(void)
{
    uint4 v;
    asm("" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w));
    return v;
}
/* On pairs of bf16, each rounded once. */
__device__ __forceinline__ uint32_t qs_bf16x2_mul(uint32_t a, uint32_t b)
{
    uint32_t r;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
#endif
    return r;
}
/* table[32 k] in shared memory, where k is byte K of `bytes`: one instruction for the address. */
template <int K> __device__ __forceinline__ uint32_t qs_row_entry(const uint32_t *table, uint32_t bytes)
{
    uint32_t v, at = __dp4a(bytes, 128u << 8 * K, (uint32_t)__cvta_generic_to_shared(table));
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

/* Entry at byte k of `offsets`, in bytes, of a table in shared memory that lies at a multiple of 256: the offset takes
 * the place of the address's lowest byte, in one instruction. k is a constant after unrolling. */
__device__ __forceinline__ uint32_t qs_table_entry(const uint32_t *table, uint32_t offsets, int k)
{
    uint32_t v, at = __byte_perm(offsets, (uint32_t)__cvta_generic_to_shared(table), 0x7650 + k);
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

/* c[16, 8] += a[16, 16] b[16, 8] of one warp (PTX mma.m16n8k16, sums in f32). With g = lane / 4, t = lane % 4:
 *   a[0] (row g, columns 2t, 2t+1)  a[1] (row g+8, same)  a[2] (row g, columns 2t+8, 2t+9)  a[3] (row g+8, same)
 *   b[0] (rows 2t, 2t+1 of column g)  b[1] (rows 2t+8, 2t+9)
 *   c[0], c[1] (row g, columns 2t, 2t+1)  c[2], c[3] (row g+8) */
__device__ __forceinline__ void qs_mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void qs_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* 16 bytes that are read once: past the L1 cache. */
__device__ __forceinline__ uint4 qs_load_stream(const uint4 *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
__device__ __forceinline__ uint2 qs_load_stream(const uint2 *p)
{
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}
__device__ __forceinline__ uint32_t qs_load_stream(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

/* Copies 16 bytes to shared memory in the background; groups are waited for in order. */
__device__ __forceinline__ void qs_copy_async16(void *shared, const void *global)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(at), "l"(global));
}
__device__ __forceinline__ void qs_copy_async_commit(void) { asm volatile("cp.async.commit_group;"); }
template <int N> __device__ __forceinline__ void qs_copy_async_wait(void) /* all but the N newest groups are there */
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

#else
#include "backend/cuda/simt.h" /* the same names, on the CPU, where kernels run one after the other */
static inline void qs_wait_for_previous(void) {}
static inline void qs_let_next_begin(void) {}
#define QS_LAUNCH_SOON QS_LAUNCH
#endif

#endif
