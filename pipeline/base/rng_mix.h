/* The arithmetic of rng.h as inline functions that host and device share. */
#ifndef QS_BASE_RNG_MIX_H
#define QS_BASE_RNG_MIX_H

#include <stdint.h>

#ifdef __CUDACC__
#define QS_RNG_INLINE static __host__ __device__ inline
#else
#define QS_RNG_INLINE static inline
#endif

QS_RNG_INLINE uint64_t qs_rng_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

QS_RNG_INLINE uint64_t qs_rng_mix_u64(uint64_t key, uint64_t counter)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    return qs_rng_mix(qs_rng_mix(key + golden) ^ (counter * golden + golden));
}

QS_RNG_INLINE double qs_rng_mix_unit(uint64_t key, uint64_t counter)
{
    return (double)(qs_rng_mix_u64(key, counter) >> 11) * 1.1102230246251565e-16; /* 2^-53 */
}

#endif
