/* A grid of specs as a CSV file: header method,bits,group_size,variant; a cell holds alternatives separated
 * by "|"; a row stands for their product. */
#ifndef QS_QUANT_GRID_H
#define QS_QUANT_GRID_H

#include "quant/spec.h"

enum { QS_GRID_MAX_POINTS = 4096 };

typedef struct qs_grid {
    int64_t n;
    qs_spec *specs; /* [n], in the order of the file, each id once */
} qs_grid;

/* Blanks around alternatives do not count. Errors: QS_E_INPUT for a file that is no such CSV, for a cell that is no
 * spec and for more than QS_GRID_MAX_POINTS points, with file and line. */
QS_MUST_CHECK qs_err qs_grid_load(qs_grid *out, const char *path);
/* The same from memory; `name` is what messages call it. */
QS_MUST_CHECK qs_err qs_grid_parse(qs_grid *out, const char *text, size_t bytes, const char *name);

/* From spec strings; equal points are merged. */
QS_MUST_CHECK qs_err qs_grid_from_specs(qs_grid *out, const char *const *texts, int64_t n_texts);

/* All points of AWQ get this loss (qs_spec_set_awq_loss), and equal points are merged. QS_E_USAGE, also when there is
 * no such point. */
QS_MUST_CHECK qs_err qs_grid_set_awq_loss(qs_grid *grid, const char *name);
void qs_grid_free(qs_grid *grid);

#endif
