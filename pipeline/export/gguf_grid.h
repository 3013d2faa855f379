/* Grids of GGUF's block types: what a weight may become, and which scales suit the weights of a block. For 64 rows at
 * a time, x[column][64] (quant/tile.h); rows never meet.
 *
 *   symmetric  w = s (q - 2^(bits - 1)),   s may be negative           Q4_0, Q5_0, Q8_0, Q3_K, Q6_K
 *   affine     w = s q - m                                             Q4_1, Q5_1, Q2_K, Q4_K, Q5_K
 *   of values  w = s values[q],            s may be negative           IQ4_NL, IQ4_XS
 *
 * s and m belong to `sub` neighbours. In blocks of 32 they are f16 numbers. In blocks of 256 s = d * level and
 * m = dmin * low, with d and dmin f16 numbers of the block; levels have 4 to 8 bits, signed where the grid is not
 * affine, and lows as many.
 *
 * A block's scales are chosen in two steps, so that a solver can code sub after sub: d and dmin when its first column's
 * turn comes, levels when that of the sub's first column comes. Errors are squared and weighted per column. Candidates
 * for (s, m) start from ranges cut or widened at an end; each is improved by weighted least squares against the codes
 * that it gives. */
#ifndef QS_EXPORT_GGUF_GRID_H
#define QS_EXPORT_GGUF_GRID_H

#include <stdbool.h>
#include <stdint.h>

#include "quant/tile.h"

enum { QS_GGUF_UNIT_MAX = 256, QS_GGUF_SUBS_MAX = 16 };

typedef struct qs_gguf_grid {
    int bits;       /* of a code; 0 = no grid */
    bool affine;
    int sub;        /* neighbours with one scale */
    int unit;       /* of a block; sub = the scale is the block's own number */
    int level_bits; /* where it is not */
    const int8_t *values; /* [16] upwards, what codes of 4 bits stand for; NULL = neighbouring integers */
} qs_gguf_grid;

/* Of one block of 64 rows. */
typedef struct qs_gguf_scales {
    float d[QS_TILE_ROWS], dmin[QS_TILE_ROWS]; /* exact in f16; where sub == unit, s and m */
    float scale[QS_GGUF_SUBS_MAX][QS_TILE_ROWS], minimum[QS_GGUF_SUBS_MAX][QS_TILE_ROWS]; /* wished for */
    int16_t level[QS_GGUF_SUBS_MAX][QS_TILE_ROWS], low[QS_GGUF_SUBS_MAX][QS_TILE_ROWS];
} qs_gguf_scales;

/* x [unit][64], weight [unit] or NULL for ones: fills d, dmin and what each sub wishes for. */
void qs_gguf_grid_block(const qs_gguf_grid *grid, const float *x, const float *weight, qs_gguf_scales *out);

/* Sub `index` with values x [sub][64] as they are now: fills its level and low; s and m [64] as a reader of the file
 * computes them. `moved`: x is not what qs_gguf_grid_block saw. */
void qs_gguf_grid_sub(const qs_gguf_grid *grid, const float *x, const float *weight, bool moved, int index,
                      qs_gguf_scales *scales, float *s, float *m);

/* Codes [n][64] of x [n][64]. With u (diagonal block of the factor, leading dimension ldu) column by column x becomes
 * the error over u[i][i], which later columns take up, as in quant/tile.h. */
void qs_gguf_grid_code(const qs_gguf_grid *grid, float *x, int64_t n, const float *s, const float *m, const float *u,
                       int64_t ldu, uint8_t *codes);

#endif
