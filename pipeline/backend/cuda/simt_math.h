/* The arithmetic of CUDA C on the CPU: bits of floats, 16-bit floats, integer intrinsics, atomics. Part of simt.h. */
#ifndef QS_BACKEND_CUDA_SIMT_MATH_H
#define QS_BACKEND_CUDA_SIMT_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

/* ---- bits ---- */
template <typename To, typename From> static inline To qs_simt_bits(From value)
{
    static_assert(sizeof(To) == sizeof(From), "bits are kept");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}
static inline unsigned __float_as_uint(float x) { return qs_simt_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return qs_simt_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return qs_simt_bits<float>(x); }
static inline float __int_as_float(int x) { return qs_simt_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return qs_simt_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return qs_simt_bits<double>(x); }

/* ---- 16-bit floats; a NaN made by a conversion is 0x7fff, as on a GPU ---- */
static inline float qs_f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent != 0) return __uint_as_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
    return __uint_as_float(sign | __float_as_uint((float)mantissa * 0x1p-24f));
}
static inline uint16_t qs_f16_of_f32(float x)
{
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* from 65520 on: infinity */
    if (magnitude >= 0x38800000u) {
        uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
        return (uint16_t)(sign | (rounded >> 13));
    }
    /* Below 2^-14 the steps are 2^-24, which is the last place of a float near one half. */
    float stepped = __uint_as_float(magnitude) + 0.5f;
    return (uint16_t)(sign | (uint16_t)(__float_as_uint(stepped) - 0x3f000000u));
}
static inline float qs_f32_of_bf16(uint16_t h) { return __uint_as_float((uint32_t)h << 16); }
static inline uint16_t qs_bf16_of_f32(float x)
{
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
static inline uint32_t qs_f16x2_of_f32(float low, float high)
{
    return qs_f16_of_f32(low) | (uint32_t)qs_f16_of_f32(high) << 16;
}
static inline uint32_t qs_bf16x2_of_f32(float low, float high)
{
    return qs_bf16_of_f32(low) | (uint32_t)qs_bf16_of_f32(high) << 16;
}

/* Rounded once: the float in between is rounded to odd, which the second rounding cannot mistake for a tie. */
static inline uint16_t qs_simt_f16_of_f64(double x)
{
    float y = (float)x;
    if (!isnan(x) && fabs(x) < 131072.0 && (double)y != x) {
        if (fabs((double)y) > fabs(x)) y = nextafterf(y, 0.0f);
        y = __uint_as_float(__float_as_uint(y) | 1u);
    }
    return qs_f16_of_f32(y);
}
/* Sums and products of two halves are exact in f64. So is a product plus a half wherever the rest of the sum can
 * move the rounding to 11 bits. */
static inline uint32_t qs_f16x2_sub(uint32_t a, uint32_t b)
{
    double low = (double)qs_f32_of_f16((uint16_t)a) - (double)qs_f32_of_f16((uint16_t)b);
    double high = (double)qs_f32_of_f16((uint16_t)(a >> 16)) - (double)qs_f32_of_f16((uint16_t)(b >> 16));
    return qs_simt_f16_of_f64(low) | (uint32_t)qs_simt_f16_of_f64(high) << 16;
}
static inline uint16_t qs_simt_f16_fma(uint32_t a, uint32_t b, uint32_t c)
{
    double product = (double)qs_f32_of_f16((uint16_t)a) * (double)qs_f32_of_f16((uint16_t)b);
    return qs_simt_f16_of_f64(product + (double)qs_f32_of_f16((uint16_t)c));
}
static inline float qs_quotient(float a, float b) { return a / b; }
static inline uint32_t qs_bf16x2_mul(uint32_t a, uint32_t b)
{
    return qs_bf16x2_of_f32(qs_f32_of_bf16((uint16_t)a) * qs_f32_of_bf16((uint16_t)b),
                            qs_f32_of_bf16((uint16_t)(a >> 16)) * qs_f32_of_bf16((uint16_t)(b >> 16)));
}
static inline uint32_t qs_f16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return qs_simt_f16_fma(a, b, c) | (uint32_t)qs_simt_f16_fma(a >> 16, b >> 16, c >> 16) << 16;
}
static inline uint32_t qs_and_or(uint32_t a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }

/* ---- floats ---- */
static inline float qs_simt_rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double qs_simt_rsqrt(double x) { return 1.0 / sqrt(x); }
#define rsqrtf qs_simt_rsqrtf /* newer C libraries have functions of these names */
#define rsqrt qs_simt_rsqrt
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
/* To the nearest integer, ties to even; outside of the range the nearest end, a NaN gives 0. */
static inline int __float2int_rn(float x)
{
    if (isnan(x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    return x < -2147483648.0f ? INT32_MIN : (int)lrintf(x);
}
static inline unsigned __float2uint_rn(float x)
{
    if (!(x > 0.0f)) return 0;
    return x >= 4294967296.0f ? UINT32_MAX : (unsigned)llrintf(x);
}

/* CUDA's min and max take numbers of two types; of a NaN and a number they return the number. */
template <typename A, typename B> static inline typename std::common_type<A, B>::type min(A a, B b)
{
    using T = typename std::common_type<A, B>::type;
    return (T)a < (T)b || (std::is_floating_point<T>::value && b != b) ? (T)a : (T)b;
}
template <typename A, typename B> static inline typename std::common_type<A, B>::type max(A a, B b)
{
    using T = typename std::common_type<A, B>::type;
    return (T)a > (T)b || (std::is_floating_point<T>::value && b != b) ? (T)a : (T)b;
}

/* ---- integers ---- */
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
/* Four bytes of (b, a), each chosen by a digit of the selector; digit bit 3 spreads the byte's sign. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned digit = (selector >> (4 * i)) & 15u, byte = (unsigned)(bytes >> (8 * (digit & 7u))) & 255u;
        if ((digit & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
        result |= byte << (8 * i);
    }
    return result;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31u));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)((((uint64_t)high << 32 | low) << (shift & 31u)) >> 32);
}

/* ---- memory ---- */
template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p)
{
    __asm__ volatile("" ::: "memory"); /* read now, whatever was read before */
    return *p;
}
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T value) { *p = value; }
static inline void __threadfence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline void __threadfence_block(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

/* Blocks run at the same time, so atomics are atomic. Each returns what was there before. */
template <typename T, typename F> static inline T qs_simt_atomic(T *p, F next)
{
    T old, updated;
    __atomic_load(p, &old, __ATOMIC_SEQ_CST);
    do updated = next(old);
    while (!__atomic_compare_exchange(p, &old, &updated, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}
template <typename T> struct qs_simt_same { /* keeps the second argument from taking part in deduction */
    using type = T;
};
template <typename T> static inline T atomicAdd(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T old) { return (T)(old + value); });
}
template <typename T> static inline T atomicMax(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T old) { return old > value ? old : value; });
}
template <typename T> static inline T atomicMin(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T old) { return old < value ? old : value; });
}
template <typename T> static inline T atomicExch(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T) { return value; });
}
template <typename T> static inline T atomicOr(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T old) { return old | value; });
}
template <typename T> static inline T atomicAnd(T *p, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [value](T old) { return old & value; });
}
template <typename T>
static inline T atomicCAS(T *p, typename qs_simt_same<T>::type expected, typename qs_simt_same<T>::type value)
{
    return qs_simt_atomic(p, [expected, value](T old) { return old == expected ? value : old; });
}
static inline unsigned atomicInc(unsigned *p, unsigned last)
{
    return qs_simt_atomic(p, [last](unsigned old) { return old >= last ? 0u : old + 1u; });
}

#endif
