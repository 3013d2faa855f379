/* ΔS, the distance of two texts in an encoder's space (docs/delta-s.md). */
#ifndef QS_METRIC_DELTA_S_H
#define QS_METRIC_DELTA_S_H

#include <stdint.h>

typedef enum qs_zone {
    QS_ZONE_SAFE,    /* [0, .40) */
    QS_ZONE_TRANSIT, /* [.40, .60) */
    QS_ZONE_RISK,    /* [.60, .85] */
    QS_ZONE_DANGER,  /* (.85, 1] */
    QS_N_ZONES
} qs_zone;
const char *qs_zone_name(qs_zone zone); /* "safe" */
qs_zone qs_zone_of(double delta_s);

/* Of vectors [dim] of any length, in f64; 0 when one of them is zero. */
double qs_cosine(const float *a, const float *b, int64_t dim);
/* 1 - cosine, within [0, 1]: an opposite vector is no further away than an unrelated one, and a zero vector is at 1. */
double qs_delta_s(const float *a, const float *b, int64_t dim);

/* mean [dim] = the mean of rows[n] of vectors [.., dim], made a unit; zero when there is none or they cancel out. */
void qs_unit_mean(const float *vectors, const int64_t *rows, int64_t n, int64_t dim, float *mean);

/* The row of vectors [n, dim] with the least sum of ΔS to the others, the first among equals; -1 for n = 0. */
int64_t qs_medoid(const float *vectors, int64_t n, int64_t dim);

#endif
