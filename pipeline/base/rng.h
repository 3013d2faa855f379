/* Counter-based random numbers: a pure function of (key, counter), so that results depend neither on
 * thread count nor on the order of calls. The mixer is SplitMix64's finaliser (Steele, Lea, Flood 2014)
 * applied to key and counter in turn. */
#ifndef QS_BASE_RNG_H
#define QS_BASE_RNG_H

#include <stdint.h>

uint64_t qs_rng_u64(uint64_t key, uint64_t counter);
double qs_rng_unit(uint64_t key, uint64_t counter);              /* [0, 1), 53 bits */
int64_t qs_rng_below(uint64_t key, uint64_t counter, int64_t n); /* [0, n), n > 0 */
double qs_rng_normal(uint64_t key, uint64_t counter);            /* N(0, 1), Box-Muller */

#endif
