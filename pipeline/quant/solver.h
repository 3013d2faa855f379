/* The column-by-column solver that RTN and GPTQ share (Frantar et al. 2022): visit columns in an order, give
 * each its code, and let the columns after it take up the error through U.
 *
 * Rows of all tasks are cut into tiles of 64 and shared by the threads. Columns are solved in panels of about
 * 512: inside a panel a thread works on one tile in its cache; between panels the columns still to come are
 * updated by one qs_op_gemm per task. Scales of a group are found from the values its columns have when the
 * group's turn comes, not from values that lag behind.
 *
 * A backend with a solver (backend/solver_ops.h) gets the tasks instead, one after the other: each fills
 * it. */
#ifndef QS_QUANT_SOLVER_H
#define QS_QUANT_SOLVER_H

#include "quant/scale.h"
#include "quant/workspace.h"

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
    double *form; /* NULL, or where tr(E H' E^T) goes, H' = inv(U^T U) and E the weights minus what their codes mean: the
                     sum of the squares of all errors over U's diagonal (E = e U). Not by a backend's solver, nor without u */
    bool follow_order;  /* groups are of columns visited in turn, and columns are stored in that order;
                           else columns stay and a group must be visited in one go, unless static */
} qs_solver_task;

/* What the host's solver takes beside the lanes of its threads, for one task that follows a factor: what each task of a
 * batch keeps between panels, QS_SOLVER_BATCH_BYTES of all of them together if not of one, and what they share to move
 * errors on. Nothing for rows of one panel. */
enum { QS_SOLVER_BATCH_BYTES = 512 << 20 };
typedef struct qs_solver_need {
    int64_t kept_bytes, shared_bytes;
} qs_solver_need;
qs_solver_need qs_solver_need_of(int64_t n_out, int64_t n_in, int64_t group_size, bool static_scales);

/* The codes of a task depend on nothing but the task. */
QS_MUST_CHECK qs_err qs_solver_run(qs_workspace *workspace, const qs_solver_task *tasks, int64_t n_tasks);

#endif
