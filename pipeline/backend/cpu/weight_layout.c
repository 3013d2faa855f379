#include "backend/cpu/weight_layout.h"

#include <string.h>

#include "base/dtype.h"

int64_t qs_weight_columns(qs_weight_layout layout, int64_t n_in)
{
    int64_t unit = layout == QS_LAYOUT_PANEL_F32 ? 16 : layout == QS_LAYOUT_PANEL_BF16 ? 32 : 1;
    return (n_in + unit - 1) / unit * unit;
}

size_t qs_weight_block_bytes(qs_weight_layout layout, int64_t n_in)
{
    size_t element_bytes = layout == QS_LAYOUT_PANEL_BF16 ? sizeof(uint16_t) : sizeof(float);
    return (size_t)(qs_weight_columns(layout, n_in) * QS_PACK_ROWS) * element_bytes;
}

static void fill_panel_f32(int64_t n_rows, int64_t n_in, const float *rows, float *dst)
{
    enum { K_TILE = 16 };
    /* Tile by tile: 16 columns of every row stay in the first-level cache while they are turned. */
    for (int64_t k0 = 0; k0 < n_in; k0 += K_TILE) {
        int64_t k_end = k0 + K_TILE < n_in ? k0 + K_TILE : n_in;
        for (int64_t o = 0; o < n_rows; o++)
            for (int64_t k = k0; k < k_end; k++) dst[k * QS_PACK_ROWS + o] = rows[o * n_in + k];
    }
    for (int64_t k = 0; k < n_in; k++)
        for (int64_t o = n_rows; o < QS_PACK_ROWS; o++) dst[k * QS_PACK_ROWS + o] = 0.0f;
    memset(dst + n_in * QS_PACK_ROWS, 0, (size_t)((qs_weight_columns(QS_LAYOUT_PANEL_F32, n_in) - n_in) * QS_PACK_ROWS) * sizeof *dst);
}

static void fill_panel_bf16(int64_t n_rows, int64_t n_in, const float *rows, uint16_t *dst)
{
    memset(dst, 0, qs_weight_block_bytes(QS_LAYOUT_PANEL_BF16, n_in));
    enum { K_TILE = 16 };
    for (int64_t k0 = 0; k0 < n_in; k0 += K_TILE) {
        int64_t width = n_in - k0 < K_TILE ? n_in - k0 : K_TILE;
        for (int64_t o = 0; o < n_rows; o++) {
            uint16_t turned[K_TILE];
            qs_bf16_from_f32_array(turned, rows + o * n_in + k0, width);
            for (int64_t i = 0; i < width; i++)
                dst[((k0 + i) / 2 * QS_PACK_ROWS + o) * 2 + (k0 + i) % 2] = turned[i];
        }
    }
}

static void fill_rows_f32(qs_compute compute, int64_t n_rows, int64_t n_in, const float *rows, float *dst)
{
    for (int64_t i = 0; i < n_rows * n_in; i++)
        dst[i] = compute == QS_COMPUTE_BF16 ? qs_f32_from_bf16(qs_bf16_from_f32(rows[i])) : rows[i];
    memset(dst + n_rows * n_in, 0, (size_t)((QS_PACK_ROWS - n_rows) * n_in) * sizeof *dst);
}

void qs_weight_block_fill(qs_weight_layout layout, qs_compute compute, int64_t n_rows, int64_t n_in,
                          const float *rows, void *dst)
{
    switch (layout) {
    case QS_LAYOUT_PANEL_F32: fill_panel_f32(n_rows, n_in, rows, dst); break;
    case QS_LAYOUT_PANEL_BF16: fill_panel_bf16(n_rows, n_in, rows, dst); break;
    default: fill_rows_f32(compute, n_rows, n_in, rows, dst); break;
    }
}
