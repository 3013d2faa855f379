/* What AWQ's searches do with 64 rows of a matrix at a time: scale, round to nearest, and weigh the errors by
 * the second moments. Rows never meet; the numbers depend neither on the tile nor on the threads. */
#ifndef QS_QUANT_AWQ_TILE_H
#define QS_QUANT_AWQ_TILE_H

#include "backend/solver_ops.h"
#include "quant/methods.h"
#include "quant/tile.h"

/* The matrix of a task as a backend's solver takes it, and that solver's scratch for it. */
QS_MUST_CHECK qs_err qs_awq_device_job(qs_scaling_job *job, void **scratch, qs_workspace *workspace,
                                       const qs_quant_task *task);

/* Scratch of one thread, for matrices of n_in columns. */
typedef struct qs_awq_lane {
    float *x;       /* [n_in, 64] scaled weights */
    float *clipped; /* [n_in, 64] the same, cut */
    float *e;       /* [n_in, 64] their errors */
    float *product; /* [QS_LOSS_STRIP, 64] */
    uint8_t *codes; /* [16, 64], not looked at */
} qs_awq_lane;

/* lanes[threads of the team], in the workspace. */
QS_MUST_CHECK qs_err qs_awq_lanes(qs_awq_lane **out, qs_workspace *workspace, int64_t n_in);

/* Rows first, first + stride, ... of a task's matrix, scaled by columns [n_in] and the task's rows. */
typedef struct qs_awq_rows {
    const qs_quant_task *task;
    const float *columns;
    int64_t first, stride;
} qs_awq_rows;

/* x[n_in][64] of the rows as they are; those beyond the matrix are 0. */
void qs_awq_gather(const qs_awq_rows *rows, float *x);

/* x = weights * column / row, both [n_in][64]. */
void qs_awq_scale(const qs_awq_rows *rows, const float *weights, float *x);

/* e = x - Q(x) for a group of n columns. x and e may be the same. */
void qs_awq_round(const qs_tile_ops *ops, const qs_scale_rule *rule, const float *x, int64_t n, float *e,
                  uint8_t *codes);

/* e[n][64], of columns first .. first + n, as errors of the weights that were not scaled. */
void qs_awq_unscale(const qs_awq_rows *rows, int64_t first, int64_t n, float *e);

/* form[64] = e H e^T of each row; h has leading dimension n_in. */
void qs_awq_forms(const qs_tile_ops *ops, const float *h, int64_t n_in, const float *e, int64_t n,
                  float *product, double *form);

/* The forms of rounding x [n_in][64] in groups of group_size; uses l->e. */
void qs_awq_row_losses(const qs_tile_ops *ops, const qs_awq_rows *rows, const float *h, const float *x,
                       const qs_awq_lane *l, double *form);

#endif
