/* Packed matrices re-ordered into panels (the layout is with qs_panels in kernels.h). */
#ifndef QS_BACKEND_CPU_PANELS_H
#define QS_BACKEND_CPU_PANELS_H

#include "backend/cpu/kernels.h"
#include "base/team.h"

/* Columns of one chunk and 32-bit words that hold its codes, per row. */
static inline int64_t qs_panel_chunk_columns(int bits) { return bits == 3 ? 32 : 32 / bits; }
static inline int64_t qs_panel_chunk_words(int bits) { return bits == 3 ? 3 : 1; }

/* Sets the numbers of `out` for a packed matrix. */
void qs_panels_shape(qs_panels *out, const qs_packed *packed);
/* Bytes of codes, scales and (if the matrix has them) zeros. */
size_t qs_panels_code_bytes(const qs_panels *panels);
size_t qs_panels_group_count(const qs_panels *panels); /* scales or zeros, padded rows included */

/* Fills panels [first, last); the pointers are set. */
void qs_panels_fill(const qs_panels *panels, const qs_packed *packed, int64_t first, int64_t last);

/* The codes of one row from codes [n_in], one to a byte. Rows behind n_out of the last panel stay as they are. */
void qs_panels_fill_row(const qs_panels *panels, int64_t row, const uint8_t *codes);

#endif
