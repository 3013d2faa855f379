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

static void fill_panel_f32(const qs_cpu_kernels *kernels, int64_t n_rows, int64_t n_in, const float *rows, float *dst)
{
    kernels->turn.run(rows, n_in, n_rows, n_in, dst);
    int64_t n_padding = qs_weight_columns(QS_LAYOUT_PANEL_F32, n_in) - n_in;
    memset(dst + n_in * QS_PACK_ROWS, 0, (size_t)(n_padding * QS_PACK_ROWS) * sizeof *dst);
}

/* The layout wants pairs of columns together: in a row of bf16 they are, as words of 32 bits. So a piece of the
 * rows is rounded into a small buffer and its words are turned. */
static void fill_panel_bf16(const qs_cpu_kernels *kernels, int64_t n_rows, int64_t n_in, const float *rows,
                            uint16_t *dst)
{
    enum { PIECE = 64 };
    union {
        uint16_t halves[QS_PACK_ROWS][PIECE];
        float words[QS_PACK_ROWS][PIECE / 2];
    } piece;
    int64_t k_end = qs_weight_columns(QS_LAYOUT_PANEL_BF16, n_in);
    for (int64_t k = 0; k < k_end; k += PIECE) {
        int64_t padded = k_end - k < PIECE ? k_end - k : PIECE, width = n_in - k < padded ? n_in - k : padded;
        for (int64_t o = 0; o < n_rows; o++) {
            kernels->to_bf16.run(rows + o * n_in + k, width, piece.halves[o]);
            memset(piece.halves[o] + width, 0, (size_t)(padded - width) * sizeof **piece.halves);
        }
        kernels->turn.run(piece.words[0], PIECE / 2, n_rows, padded / 2, (float *)(void *)(dst + k * QS_PACK_ROWS));
    }
}

static void fill_rows_f32(qs_compute compute, int64_t n_rows, int64_t n_in, const float *rows, float *dst)
{
    for (int64_t i = 0; i < n_rows * n_in; i++)
        dst[i] = compute == QS_COMPUTE_BF16 ? qs_f32_from_bf16(qs_bf16_from_f32(rows[i])) : rows[i];
    memset(dst + n_rows * n_in, 0, (size_t)((QS_PACK_ROWS - n_rows) * n_in) * sizeof *dst);
}

void qs_weight_block_fill(const qs_cpu_kernels *kernels, qs_weight_layout layout, qs_compute compute,
                          int64_t n_rows, int64_t n_in, const float *rows, void *dst)
{
    switch (layout) {
    case QS_LAYOUT_PANEL_F32: fill_panel_f32(kernels, n_rows, n_in, rows, dst); break;
    case QS_LAYOUT_PANEL_BF16: fill_panel_bf16(kernels, n_rows, n_in, rows, dst); break;
    default: fill_rows_f32(compute, n_rows, n_in, rows, dst); break;
    }
}
