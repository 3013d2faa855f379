/* What training does with one row, or one run of elements: plain C (row_kernels_ref.c) is the definition of
 * correct, *_avx2.c and *_avx512.c override. Kernels neither allocate nor fail. */
#ifndef QS_TRAIN_ROW_KERNELS_H
#define QS_TRAIN_ROW_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

#include "train/adam.h"

/* Loss of one position. */
typedef struct qs_token_loss {
    double nll;      /* -ln p(target), nats */
    bool is_largest; /* the target has the largest logit: a greedy decoder would write it */
} qs_token_loss;

typedef struct qs_train_kernels {
    const char *from;
    /* out = x * f * gain with f = 1 / sqrt(mean x^2 + eps), which is returned. Rows of d; out must not be x. */
    float (*rmsnorm)(const float *x, const float *gain, int64_t d, double eps, float *out);
    /* dx += the gradient through that: f (dy gain - x f^2 mean(dy gain x)); dgain += dy x f. */
    void (*rmsnorm_back)(const float *dy, const float *x, const float *gain, float f, int64_t d, float *dx,
                         float *dgain);
    /* x [n_heads, head_dim], in place: pairs (i, i + head_dim / 2) turned by the angles, then everything
     * times scale. cosines, sines [head_dim / 2]; turning back takes sign = -1. */
    void (*rope)(float *x, const float *cosines, const float *sines, float sign, float scale, int64_t n_heads,
                 int64_t head_dim);
    /* out = silu(gate) up */
    void (*swiglu)(const float *gate, const float *up, int64_t n, float *out);
    void (*swiglu_back)(const float *gate, const float *up, const float *dout, int64_t n, float *dgate,
                        float *dup);
    /* In place: softmax of the first n_seen of n, zeros behind. n_seen >= 1. */
    void (*softmax)(float *x, int64_t n_seen, int64_t n);
    /* ds = p (dp - sum(p dp)), written over dp. */
    void (*softmax_back)(const float *p, float *dp, int64_t n);
    /* In place: logits become scale (softmax - onehot(target)). */
    qs_token_loss (*cross_entropy)(float *logits, int64_t n, int32_t target, float scale);
    /* x += y */
    void (*add)(float *x, const float *y, int64_t n);
    /* Round to bf16, ties to even. */
    void (*to_bf16)(const float *x, int64_t n, uint16_t *out);
    /* Sum of squares, NaN and Inf carry on into it. */
    double (*sum_squares)(const float *x, int64_t n);
    /* The two halves of an AdamW step (adam.h): the moments take in the gradient; the parameters follow the
     * moments. */
    void (*adam_moments)(const qs_adam_step *step, int64_t n, const float *g, float *m, float *v);
    void (*adam_apply)(const qs_adam_step *step, bool decays, int64_t n, const float *m, const float *v,
                       float *p);
} qs_train_kernels;

/* The fastest that this CPU runs; "reference" alone with `reference`. */
const qs_train_kernels *qs_train_kernels_get(bool reference);

void qs_train_kernels_fill_ref(qs_train_kernels *kernels);
void qs_train_kernels_fill_avx2(qs_train_kernels *kernels);
void qs_train_kernels_fill_avx512(qs_train_kernels *kernels);

#endif
