/* Entropy over the steps of a text: does a configuration's curve rise, collapse or spike where the reference's does not
 * (docs/entropy.md; checklist G14, A14, B16)? Curves are in nats, paired step by step. */
#ifndef QS_METRIC_ENTROPY_CURVE_H
#define QS_METRIC_ENTROPY_CURVE_H

#include <stdbool.h>
#include <stdint.h>

/* Steps of the trailing mean: 50, or max(5, n / 8) of fewer than 200 steps. */
int64_t qs_curve_width(int64_t n);

/* out[n]: mean of the last min(t + 1, width) steps of h[n]. */
void qs_curve_smooth(const double *h, int64_t n, int64_t width, double *out);

/* Share of the 4-grams of tokens[n] that stood there before. */
double qs_curve_repetition(const int32_t *tokens, int64_t n);

/* out[n]: the same of the last 64 tokens at each step; 0 of the first 63 steps. */
void qs_curve_repetitions(const int32_t *tokens, int64_t n, double *out);

typedef struct qs_curve_side {
    const double *entropy;    /* [n] */
    const double *repetition; /* [n], of the text written freely; half and more is a collapse; NULL = not looked at */
} qs_curve_side;

typedef struct qs_curve_check {
    double base;                  /* mean of the reference's first width steps, at least 0.05 nats */
    int64_t rise_f, rise_q;       /* first of five steps at 1.2 base or more; n = none */
    int64_t collapse_f, collapse_q; /* first of five steps at 0.8 base or less, or half of 64 tokens again; n = none */
    int64_t spike;                /* first step at 2 base or more with none of the reference's near; n = none */
    double rms;                   /* of the difference of the trailing means, over base */
    bool stable;
} qs_curve_check;

/* scratch [2 n]. n >= 1. */
qs_curve_check qs_curve_compare(const qs_curve_side *f, const qs_curve_side *q, int64_t n, double *scratch);

#endif
