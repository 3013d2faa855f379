/* CUDA C on the CPU: what device.h gives the .cu files where no CUDA compiler is at work. Every CUDA thread is a
 * fiber; simt_engine.cpp runs them, and simt_math.h holds the arithmetic. The toolkit's headers are not needed.
 *
 * What the engine checks beyond results: a warp primitive or a barrier that threads reach at different places ends
 * the program with the place in the source; shared memory and shuffles from lanes outside the mask hold bytes 0xFF
 * (a NaN in every float format) until they are written; a copy in the background arrives no sooner than it is waited
 * for; threads, warps and blocks run first to last or last to first, so that a missing barrier shows in one of them. */
#ifndef QS_BACKEND_CUDA_SIMT_H
#define QS_BACKEND_CUDA_SIMT_H

#include <stddef.h>
#include <string.h>

#include <type_traits>

/* ---- words of the dialect ---- */
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __grid_constant__
#define __forceinline__ inline /* forced, it costs four times the time to compile, and the tests run no faster */
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* A block runs on one thread of the operating system, so what belongs to a block may belong to that thread. The
 * engine finds these variables by their being local to functions. */
#define __shared__ static thread_local

/* ---- vectors, aligned as on a GPU, so that UBSan reports a misaligned access ---- */
struct alignas(8) uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(16) double2 { double x, y; };
struct alignas(4) ushort2 { unsigned short x, y; };
struct alignas(8) ushort4 { unsigned short x, y, z, w; };
struct alignas(4) uchar4 { unsigned char x, y, z, w; };
struct alignas(4) char4 { signed char x, y, z, w; };
static inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
static inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static inline int2 make_int2(int x, int y) { return {x, y}; }
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float3 make_float3(float x, float y, float z) { return {x, y, z}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static inline double2 make_double2(double x, double y) { return {x, y}; }
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* ---- the engine ---- */
struct qs_simt_block {
    dim3 size, grid;
    uint3 index;
    void *dynamic_shared;
};
struct qs_simt_thread {
    uint3 index;
    unsigned lane;
    const qs_simt_block *block;
};
struct qs_simt_place { /* in the source, for messages */
    const char *file;
    int line;
};
struct qs_simt_launch_config {
    dim3 grid, block;
    size_t shared_bytes;
    void *stream;
    const char *name;
    const void *kernel;
};

extern "C" {
extern __thread const qs_simt_thread *qs_simt_self; /* the CUDA thread that runs here */

/* All threads of the block; returns how many came with a predicate other than 0, and how many came. */
int qs_simt_barrier(int predicate, int *n_threads, qs_simt_place place);
/* All lanes of `mask` that still run. */
void qs_simt_shuffle(unsigned mask, unsigned source, const void *in, void *out, size_t bytes, qs_simt_place place);
unsigned qs_simt_vote(unsigned mask, int predicate, qs_simt_place place);
/* All 32 lanes. */
void qs_simt_mma(float *c, const uint32_t *a, const uint32_t *b, int bf16, qs_simt_place place);

void qs_simt_copy(void *shared, uint4 value, qs_simt_place place);
void qs_simt_copy_commit(void);
void qs_simt_copy_wait(int n_pending);

/* Keeps `bytes` of arguments and calls run(arguments) once for every thread, when the stream comes to it. */
void qs_simt_launch(const qs_simt_launch_config *config, void (*run)(const void *arguments), const void *arguments,
                    size_t bytes);
int qs_simt_launch_status(void); /* of the launches since the last call */
int qs_simt_allow_shared(const void *kernel, size_t bytes);
}

/* A default argument is evaluated where the call stands, so this is the caller's place in the kernel. */
#define QS_SIMT_PLACE                                                  \
    qs_simt_place                                                      \
    {                                                                  \
        file, line                                                     \
    }
#define QS_SIMT_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

#define threadIdx (qs_simt_self->index)
#define blockIdx (qs_simt_self->block->index)
#define blockDim (qs_simt_self->block->size)
#define gridDim (qs_simt_self->block->grid)
#define warpSize 32

/* ---- barriers and warp primitives ---- */
static inline void __syncthreads(QS_SIMT_CALLER) { (void)qs_simt_barrier(0, NULL, QS_SIMT_PLACE); }
static inline int __syncthreads_count(int predicate, QS_SIMT_CALLER)
{
    return qs_simt_barrier(predicate, NULL, QS_SIMT_PLACE);
}
static inline int __syncthreads_or(int predicate, QS_SIMT_CALLER)
{
    return qs_simt_barrier(predicate, NULL, QS_SIMT_PLACE) != 0;
}
static inline int __syncthreads_and(int predicate, QS_SIMT_CALLER)
{
    int n_threads;
    int n_true = qs_simt_barrier(predicate, &n_threads, QS_SIMT_PLACE);
    return n_true == n_threads;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, QS_SIMT_CALLER)
{
    (void)qs_simt_vote(mask, 0, QS_SIMT_PLACE);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, QS_SIMT_CALLER)
{
    return qs_simt_vote(mask, predicate, QS_SIMT_PLACE);
}
static inline int __any_sync(unsigned mask, int predicate, QS_SIMT_CALLER)
{
    return qs_simt_vote(mask, predicate, QS_SIMT_PLACE) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, QS_SIMT_CALLER)
{
    return qs_simt_vote(mask, !predicate, QS_SIMT_PLACE) == 0;
}

template <typename T> static inline T qs_simt_shuffled(unsigned mask, T value, unsigned source, qs_simt_place place)
{
    static_assert(std::is_arithmetic<T>::value && sizeof(T) >= 4, "a GPU shuffles 32-bit and 64-bit numbers");
    T result;
    qs_simt_shuffle(mask, source, &value, &result, sizeof value, place);
    return result;
}
/* Within segments of `width` lanes; a source outside of the segment is the lane itself. */
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, QS_SIMT_CALLER)
{
    unsigned first = qs_simt_self->lane & ~(unsigned)(width - 1);
    return qs_simt_shuffled(mask, value, first + ((unsigned)source & (unsigned)(width - 1)), QS_SIMT_PLACE);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, QS_SIMT_CALLER)
{
    unsigned lane = qs_simt_self->lane, source = lane ^ (unsigned)bits;
    bool reachable = source <= (lane | (unsigned)(width - 1)) && source < 32;
    return qs_simt_shuffled(mask, value, reachable ? source : lane, QS_SIMT_PLACE);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, QS_SIMT_CALLER)
{
    unsigned lane = qs_simt_self->lane, last = lane | (unsigned)(width - 1);
    return qs_simt_shuffled(mask, value, delta <= last - lane ? lane + delta : lane, QS_SIMT_PLACE);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, QS_SIMT_CALLER)
{
    unsigned lane = qs_simt_self->lane, first = lane & ~(unsigned)(width - 1);
    return qs_simt_shuffled(mask, value, delta <= lane - first ? lane - delta : lane, QS_SIMT_PLACE);
}

/* ---- what device.h adds, in its order ---- */
static inline void qs_mma_f16(float c[4], const uint32_t a[4], const uint32_t b[2], QS_SIMT_CALLER)
{
    qs_simt_mma(c, a, b, 0, QS_SIMT_PLACE);
}
static inline void qs_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2], QS_SIMT_CALLER)
{
    qs_simt_mma(c, a, b, 1, QS_SIMT_PLACE);
}
static inline uint4 qs_anything(void) { return uint4{0xffffffffu, 0xffffffffu, 0xffffffffu, 0xffffffffu}; }
static inline uint4 qs_load_stream(const uint4 *p) { return *p; }
static inline uint2 qs_load_stream(const uint2 *p) { return *p; }
static inline uint32_t qs_load_stream(const uint32_t *p) { return *p; }
static inline uint32_t qs_table_entry(const uint32_t *table, uint32_t offsets, int k)
{
    return table[(offsets >> (8 * k) & 0xffu) / sizeof *table];
}
template <int K> static inline uint32_t qs_row_entry(const uint32_t *table, uint32_t bytes)
{
    return table[32 * (bytes >> (8 * K) & 0xffu)];
}
static inline void qs_copy_async16(void *shared, const void *global, QS_SIMT_CALLER)
{
    /* Read here and now, so that a sanitizer names this place. */
    qs_simt_copy(shared, *static_cast<const uint4 *>(global), QS_SIMT_PLACE);
}
static inline void qs_copy_async_commit(void) { qs_simt_copy_commit(); }
template <int N> static inline void qs_copy_async_wait(void) { qs_simt_copy_wait(N); }

/* ---- launches ---- */
namespace {
template <typename F> struct qs_simt_call;
/* A kernel with its launch configuration: calling it converts the arguments to the kernel's parameters, as a launch
 * does, and hands them over by value. */
template <typename... P> struct qs_simt_call<void (*)(P...)> {
    void (*kernel)(P...);
    qs_simt_launch_config config;
    void operator()(P... arguments) const
    {
        auto call = [kernel = kernel, arguments...] { kernel(arguments...); };
        using call_type = decltype(call);
        static_assert(std::is_trivially_copyable<call_type>::value, "arguments of kernels are copied as bytes");
        qs_simt_launch(
            &config, [](const void *kept) { (*static_cast<const call_type *>(kept))(); }, &call, sizeof call);
    }
};
template <typename... P>
inline qs_simt_call<void (*)(P...)> qs_simt_call_of(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                                                    void *stream, const char *name)
{
    return {kernel, {grid, block, shared_bytes, stream, name, reinterpret_cast<const void *>(kernel)}};
}
}

#define QS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    qs_simt_call_of(kernel, grid, block, shared_bytes, stream, #kernel)(__VA_ARGS__)
#define QS_DYNAMIC_SHARED(T, name) T *name = static_cast<T *>(qs_simt_self->block->dynamic_shared)
static inline int qs_launch_status(void) { return qs_simt_launch_status(); }
template <typename... P> static inline int qs_allow_shared(void (*kernel)(P...), size_t bytes)
{
    return qs_simt_allow_shared(reinterpret_cast<const void *>(kernel), bytes);
}

#include "backend/cuda/simt_math.h"

#endif
