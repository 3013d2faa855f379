/* Second moments in vectors: a block of gram += x^T x, tokens in runs of 128 that are summed in f32 registers
 * and then added to the f64 matrix. Both sides are copied together first, so that the inner loop walks through
 * memory in order whatever the width of x. */
#ifndef QS_BACKEND_CPU_GRAM_SIMD_H
#define QS_BACKEND_CPU_GRAM_SIMD_H

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

enum {
    GRAM_TOKENS = 128,
    GRAM_VECTORS = 3,
    GRAM_COLUMNS = GRAM_VECTORS * V_LANES,
    GRAM_ROWS = V_LANES == 16 ? 8 : 4, /* 24 or 12 sums in registers */
    GRAM_PANELS = QS_GRAM_BLOCK / GRAM_COLUMNS,
};
_Static_assert(QS_GRAM_BLOCK % GRAM_COLUMNS == 0 && QS_GRAM_BLOCK % GRAM_ROWS == 0, "blocks are whole tiles");

typedef struct gram_block {
    float rows[GRAM_TOKENS][QS_GRAM_BLOCK] __attribute__((aligned(64)));
    float columns[GRAM_PANELS][GRAM_TOKENS][GRAM_COLUMNS] __attribute__((aligned(64)));
} gram_block;

/* Columns [first, first + width) of a run of tokens, zeros behind the width. */
static void copy_columns(const float *x, int64_t n_tokens, int64_t d, int64_t first, int64_t width, float *dst,
                         int64_t panel_width)
{
    for (int64_t t = 0; t < n_tokens; t++) {
        memcpy(dst + t * panel_width, x + t * d + first, (size_t)width * sizeof *dst);
        memset(dst + t * panel_width + width, 0, (size_t)(panel_width - width) * sizeof *dst);
    }
}

/* gram += the sums of one row of the tile, `width` of them. */
QS_INLINE void add_row(const vf sums[GRAM_VECTORS], int64_t width, double *gram)
{
    QS_UNROLL for (int u = 0; u < GRAM_VECTORS; u++)
    {
        double *dst = gram + u * V_LANES;
        int64_t n = width - u * V_LANES;
        if (n >= V_LANES) {
            vd_store(dst, vd_add(vd_load(dst), vd_from(sums[u])));
        } else {
            float lanes[V_LANES];
            v_store(lanes, sums[u]);
            for (int64_t i = 0; i < n; i++) dst[i] += (double)lanes[i];
        }
    }
}

QS_INLINE void gram_tile(const gram_block *block, int64_t n_tokens, int64_t row, int panel, int64_t height,
                         int64_t width, int64_t d, double *gram)
{
    vf sums[GRAM_ROWS][GRAM_VECTORS];
    QS_UNROLL for (int i = 0; i < GRAM_ROWS; i++)
        QS_UNROLL for (int u = 0; u < GRAM_VECTORS; u++) sums[i][u] = v_set(0.0f);
    for (int64_t t = 0; t < n_tokens; t++) {
        vf columns[GRAM_VECTORS];
        QS_UNROLL for (int u = 0; u < GRAM_VECTORS; u++) columns[u] = v_load(block->columns[panel][t] + u * V_LANES);
        QS_UNROLL for (int i = 0; i < GRAM_ROWS; i++)
        {
            vf value = v_set(block->rows[t][row + i]);
            QS_UNROLL for (int u = 0; u < GRAM_VECTORS; u++) sums[i][u] = v_fma(value, columns[u], sums[i][u]);
        }
    }
    QS_UNROLL for (int i = 0; i < GRAM_ROWS; i++)
        if (i < height) add_row(sums[i], width, gram + i * d);
}

static void gram_simd(const float *x, int64_t n, int64_t d, int64_t first_row, int64_t first_column, double *gram)
{
    gram_block block;
    int64_t n_rows = d - first_row < QS_GRAM_BLOCK ? d - first_row : QS_GRAM_BLOCK;
    for (int64_t t = 0; t < n; t += GRAM_TOKENS) {
        int64_t n_tokens = n - t < GRAM_TOKENS ? n - t : GRAM_TOKENS;
        copy_columns(x + t * d, n_tokens, d, first_row, n_rows, block.rows[0], QS_GRAM_BLOCK);
        for (int panel = 0; panel < GRAM_PANELS; panel++) {
            int64_t column = first_column + panel * GRAM_COLUMNS;
            if (column >= d) break;
            int64_t width = d - column < GRAM_COLUMNS ? d - column : GRAM_COLUMNS;
            copy_columns(x + t * d, n_tokens, d, column, width, block.columns[panel][0], GRAM_COLUMNS);
            /* Tiles wholly under the diagonal are left out. */
            for (int64_t i = 0; i < n_rows && first_row + i < column + width; i += GRAM_ROWS)
                gram_tile(&block, n_tokens, i, panel, n_rows - i, width, d, gram + (first_row + i) * d + column);
        }
    }
}

#endif
