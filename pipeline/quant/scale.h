/* Scale and zero point of one group of weights: the definition, in plain C. The tile kernels (quant/tile.h)
 * do the same for 64 rows at a time, and the GPU's (backend/cuda/solver.cu) for 32; backend/scale_steps.h holds the
 * numbers that they share.
 *
 *   w ~ scale * (code - zero),  code = clamp(round(w / scale) + zero, 0, maxq),  maxq = 2^bits - 1
 *
 * Min-max: the range of the group together with 0, made symmetric when `sym`, over maxq. Search: the best of
 * 70 multiples of that, from 1.10 down to 0.41 in steps of 0.01, by the squared error weighted per column;
 * the first of equals. Scales are rounded to f16 before they are used, so that errors are those of the scale
 * that is stored. A group of zeros gets 2 / maxq. */
#ifndef QS_QUANT_SCALE_H
#define QS_QUANT_SCALE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/scale_steps.h"

typedef struct qs_scale_rule {
    int bits;
    bool sym;    /* zero = 2^(bits-1); else an integer in [0, maxq] */
    bool search;
} qs_scale_rule;

/* x: n weights, `stride` apart; column_weight [n] or NULL for equal ones (also used when all are 0).
 * *scale is exact in f16. */
void qs_scale_find(const qs_scale_rule *rule, const float *x, int64_t n, int64_t stride,
                   const float *column_weight, float *scale, float *zero);

/* The code of one weight, minus the zero point: in [-zero, maxq - zero]. */
float qs_scale_code(float x, float scale, float zero, int bits);

#endif
