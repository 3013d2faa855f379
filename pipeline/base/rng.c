#include "base/rng.h"

#include <math.h>

#include "base/rng_mix.h"

uint64_t qs_rng_u64(uint64_t key, uint64_t counter) { return qs_rng_mix_u64(key, counter); }

double qs_rng_unit(uint64_t key, uint64_t counter) { return qs_rng_mix_unit(key, counter); }

int64_t qs_rng_below(uint64_t key, uint64_t counter, int64_t n)
{
    /* Multiply-shift: the bias is n / 2^64, far below anything this project can resolve. */
    return (int64_t)(((unsigned __int128)qs_rng_u64(key, counter) * (uint64_t)n) >> 64);
}

double qs_rng_normal(uint64_t key, uint64_t counter)
{
    const double two_pi = 6.283185307179586;
    double u = 1.0 - qs_rng_unit(key, 2 * counter); /* (0, 1]: log stays finite */
    double v = qs_rng_unit(key, 2 * counter + 1);
    return sqrt(-2.0 * log(u)) * cos(two_pi * v);
}
