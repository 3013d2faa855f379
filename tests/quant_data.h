/* Synthetic matrices and correlated inputs for the tests of pipeline/quant. */
#ifndef QS_TESTS_QUANT_DATA_H
#define QS_TESTS_QUANT_DATA_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

static inline float *data_normal(int64_t n, uint64_t key, float amplitude)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = amplitude * (float)qs_rng_normal(key, (uint64_t)i);
    return x;
}

/* Sum of x x^T over n_tokens correlated inputs with a few loud channels: upper triangle by rows, f32. */
static inline float *data_gram(int64_t n_in, int64_t n_tokens, uint64_t key)
{
    double *sum = calloc((size_t)(n_in * n_in), sizeof *sum), *x = malloc((size_t)n_in * sizeof *x);
    for (int64_t t = 0; t < n_tokens; t++) {
        double slow = 0;
        for (int64_t i = 0; i < n_in; i++) {
            slow = 0.9 * slow + 0.44 * qs_rng_normal(key, (uint64_t)(t * n_in + i));
            x[i] = (slow + 0.3) * (i % 17 == 3 ? 6 : 1) * (0.5 + (double)(i % 7));
        }
        for (int64_t i = 0; i < n_in; i++)
            for (int64_t j = i; j < n_in; j++) sum[i * n_in + j] += x[i] * x[j];
    }
    float *packed = malloc((size_t)(n_in * (n_in + 1) / 2) * sizeof *packed);
    int64_t at = 0;
    for (int64_t i = 0; i < n_in; i++)
        for (int64_t j = i; j < n_in; j++) packed[at++] = (float)sum[i * n_in + j];
    free(sum);
    free(x);
    return packed;
}

/* c times the identity, packed. */
static inline float *data_identity_gram(int64_t n_in, float c)
{
    float *packed = calloc((size_t)(n_in * (n_in + 1) / 2), sizeof *packed);
    int64_t at = 0;
    for (int64_t i = 0; i < n_in; i++) {
        packed[at] = c;
        at += n_in - i;
    }
    return packed;
}

#endif
