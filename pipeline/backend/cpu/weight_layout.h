/* How the oneDNN engine lays out packed weights, without oneDNN: blocks of 64 output rows, one behind the
 * other, so that any range of whole blocks is itself a packed matrix.
 *
 *   QS_LAYOUT_PANEL_F32   [n_blocks][k_padded 16][64]       tag BA16a64b
 *   QS_LAYOUT_PANEL_BF16  [n_blocks][k_padded 32 / 2][64][2] tag BA16a64b2a
 *   QS_LAYOUT_ROWS_F32    [n_blocks * 64][k]                tag ba; values rounded to bf16 under bf16 compute
 * Rows and columns of padding are zero. */
#ifndef QS_BACKEND_CPU_WEIGHT_LAYOUT_H
#define QS_BACKEND_CPU_WEIGHT_LAYOUT_H

#include "backend/cpu/gemm.h"

typedef enum qs_weight_layout { QS_LAYOUT_PANEL_F32, QS_LAYOUT_PANEL_BF16, QS_LAYOUT_ROWS_F32 } qs_weight_layout;

/* Columns with padding; products run over these, so that oneDNN never sees padding of its own (it would write
 * zeros into the weights on every use). */
int64_t qs_weight_columns(qs_weight_layout layout, int64_t n_in);

/* Bytes of one block of 64 output rows. */
size_t qs_weight_block_bytes(qs_weight_layout layout, int64_t n_in);

/* rows [n_rows, n_in], n_rows <= 64, into the block at dst. */
void qs_weight_block_fill(const qs_cpu_kernels *kernels, qs_weight_layout layout, qs_compute compute,
                          int64_t n_rows, int64_t n_in, const float *rows, void *dst);

#endif
