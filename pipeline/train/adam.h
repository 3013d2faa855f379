/* AdamW (Kingma and Ba 2015; Loshchilov and Hutter 2019), with moments in 32 bits or blockwise in 8.
 *
 *   g' = clip g                      clip = min(1, limit / |g|) over all tensors
 *   p  = p (1 - lr decay)            matrices only
 *   v  = b2 v + (1 - b2) g'^2        m = b1 m + (1 - b1) g'
 *   v  clamped                       with the variance clamp (below)
 *   p  = p - lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps sqrt(1 - b2^t))
 *
 * 8 bits: the moments of a tensor of 4,096 elements and more are stored in blocks of 256 as codes of the
 * dynamic maps (dynamic_map.h) and the block's largest magnitude; p is updated with the moments before they
 * are rounded. Variance clamp: a block's v is held inside [a / 100, 100 a], a the moving average (decay .99)
 * of its mean v. */
#ifndef QS_TRAIN_ADAM_H
#define QS_TRAIN_ADAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum {
    QS_ADAM_BLOCK = 256,     /* elements that share a scale */
    QS_ADAM8_MIN_SIZE = 4096 /* smaller tensors keep 32 bits */
};

/* The factors of one step, worked out once. */
typedef struct qs_adam_step {
    float clip; /* factor on the gradient */
    float beta1, beta2;
    float rest1, rest2; /* 1 - beta, rounded once */
    float step_size;    /* lr sqrt(1 - b2^t) / (1 - b1^t) */
    float eps;          /* eps sqrt(1 - b2^t) */
    float keep;         /* 1 - lr decay */
    float clamp;        /* 100, or 0 = no variance clamp */
} qs_adam_step;

typedef struct qs_adam_options {
    double beta1, beta2, eps, decay, clamp;
} qs_adam_options;

/* t counts from 1. */
qs_adam_step qs_adam_step_make(const qs_adam_options *options, double lr, double clip, int64_t t);

#endif
