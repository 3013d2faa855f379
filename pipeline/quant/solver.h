/* The column-by-column solver that RTN and GPTQ share (Frantar et al. 2022): visit columns in an order, give
 * each its code, and let the columns after it take up the error through U.
 *
 * Rows of all tasks are cut into tiles of 64 and shared by the threads. Up to 2,048 columns are one panel, in
 * which a thread works on one tile in its cache; more are solved in panels of about 512, and between panels the
 * columns still to come are updated by one qs_op_gemm per task. Scales of a group are found from the values its
 * columns have when the group's turn comes, not from values that lag behind.
 *
 * A backend with a solver (backend/solver_ops.h) gets the tasks instead, one after the other: each fills
 * it. */
#ifndef QS_QUANT_SOLVER_H
#define QS_QUANT_SOLVER_H

#include "quant/scale.h"
#include "quant/workspace.h"

/* Of E, the weights minus what their codes mean. */
typedef struct qs_error_sums {
    double form; /* tr(E H' E^T), H' = inv(U^T U): the sum of the squares of all errors over U's diagonal
                    (E = e U); 0 where that is not known, as without u */
    double squares; /* |E|_F^2 */
} qs_error_sums;

typedef struct qs_solver_task {
    const float *weights;       /* [packed->n_out, packed->n_in] */
    qs_packed *packed;          /* shape set and memory allocated; codes, scales and zeros are filled */
    qs_scale_rule rule;
    const int32_t *order;       /* [n_in] visited columns; NULL = natural */
    const float *u;             /* [n_in, n_in] factor for that order, as qs_factor_get gives it; NULL =
                                   round to nearest */
    const float *column_weight; /* [n_in] for the scale search, in the order of visits, or by column when
                                   static_scales; NULL = equal */
    bool static_scales; /* groups are of neighbours in the matrix, their scales from the weights as given */
    qs_error_sums *sums; /* NULL, or where they go; not by a backend's solver */
    bool follow_order;  /* groups are of columns visited in turn, and columns are stored in that order;
                           else columns stay and a group must be visited in one go, unless static */
} qs_solver_task;

/* What a task of these shapes that follows a factor keeps between panels on the host; nothing with one panel.
 * Tasks are solved beside each other while they keep no more than QS_SOLVER_BATCH_BYTES, or one by one. */
enum { QS_SOLVER_BATCH_BYTES = 512 << 20 };
int64_t qs_solver_kept_bytes(int64_t n_out, int64_t n_in, int64_t group_size, bool static_scales);

/* The codes of a task depend on nothing but the task. */
QS_MUST_CHECK qs_err qs_solver_run(qs_workspace *workspace, const qs_solver_task *tasks, int64_t n_tasks);

#endif
