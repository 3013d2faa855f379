/* What quantising cost a matrix, measured on the packed codes. */
#ifndef QS_QUANT_LOSS_H
#define QS_QUANT_LOSS_H

#include "quant/methods.h"
#include "quant/tile.h"

/* Sets loss and weight_error of every task's result from its packed matrix, with the undamped H. Where a result
 * holds the form that its solver found on the way, that is taken, less what damping added; the rest costs a product
 * with H. Norms of the weights are computed once for neighbouring tasks that share a job. QS_E_NUMERIC names the
 * matrix. */
QS_MUST_CHECK qs_err qs_loss_measure(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks);

enum { QS_LOSS_STRIP = 64 }; /* columns of a product held at a time */

/* A part of E H E^T for 64 rows, errors transposed as e[n_in][64]: product[width][64] gets what columns
 * first .. first + width (at most QS_LOSS_STRIP) meet, negated. H is symmetric, so what lies before them
 * counts twice; the sum over all strips of -product * e is the form. */
void qs_loss_strip(const qs_tile_ops *ops, const float *h, int64_t n_in, const float *e, int64_t first,
                   int64_t width, float *product);

#endif
