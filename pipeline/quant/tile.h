/* Tile kernels: the inner loops of RTN and GPTQ on 64 rows of a matrix at once, columns contiguous in memory
 * as x[column][64]. Rows never meet, so a row's codes depend neither on its neighbours nor on the threads.
 * The plain C table is the definition; tables for AVX2 and AVX-512 are chosen by CPU detection. They may
 * differ from it in the last bit of a sum. */
#ifndef QS_QUANT_TILE_H
#define QS_QUANT_TILE_H

#include "quant/scale.h"

enum { QS_TILE_ROWS = 64 };

typedef struct qs_tile_ops {
    const char *name; /* "reference", "avx2", "avx512" */

    /* x[n][64] -= sum over i < k of u[i][j] * e[i][64], for column j of x; u has leading dimension ldu. */
    void (*update)(float *x, int64_t n, const float *e, int64_t k, const float *u, int64_t ldu);

    /* Scale and zero [64] of a group x[n][64]; column_weight [n] or NULL. See qs_scale_find. */
    void (*scales)(const qs_scale_rule *rule, const float *x, int64_t n, const float *column_weight,
                   float *scale, float *zero);

    /* error[64] = sum over i of column_weight[i] * (x[i] - scale * code)^2, codes of `bits` bits around 0;
     * column_weight NULL = ones. */
    void (*errors)(const float *x, int64_t n, const float *column_weight, int bits, const float *scale, float *error);

    /* Codes [n][64] of x[n][64]; column i uses scale[group[i]][64], group NULL = all the first.
     * With u (the diagonal block of the factor, leading dimension ldu): column by column x becomes the error
     * over u[i][i], which later columns of this block take up: x[j] -= u[i][j] * x[i]. */
    void (*code)(float *x, int64_t n, int bits, const float *scale, const float *zero, const int32_t *group,
                 const float *u, int64_t ldu, uint8_t *codes);
} qs_tile_ops;

extern const qs_tile_ops qs_tile_reference;
extern const qs_tile_ops qs_tile_avx2;   /* empty (name == NULL) where the compiler has no such target */
extern const qs_tile_ops qs_tile_avx512;

/* x[i * width + r] = weights [n_out, n_in] of row 64 tile + r, column order[i] (NULL = first + i), i < n; rows beyond
 * the matrix are 0. `order` points to the first of the n. */
void qs_tile_gather(const float *weights, int64_t n_out, int64_t n_in, int64_t tile, const int32_t *order,
                    int64_t first, int64_t n, float *x, int64_t width);

/* The best table for this CPU. */
const qs_tile_ops *qs_tile_best(void);

#endif
