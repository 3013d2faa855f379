/* The smaller and the larger of two counts. */
#ifndef QS_BASE_MINMAX_H
#define QS_BASE_MINMAX_H

#include <stdint.h>

static inline int64_t qs_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t qs_max64(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
