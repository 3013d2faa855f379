/* What quantising cost a matrix, measured on the packed codes. */
#ifndef QS_QUANT_LOSS_H
#define QS_QUANT_LOSS_H

#include "quant/methods.h"

/* Sets loss and weight_error of every task's result from its packed matrix, with the undamped H. Norms of the
 * weights are computed once for neighbouring tasks that share a job. QS_E_NUMERIC names the matrix. */
QS_MUST_CHECK qs_err qs_loss_measure(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks);

#endif
