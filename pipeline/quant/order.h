/* Orders in which GPTQ visits the columns of a matrix. order[i] = the column visited as the i-th. */
#ifndef QS_QUANT_ORDER_H
#define QS_QUANT_ORDER_H

#include <stdint.h>

#include "base/error.h"

/* By falling diag, equal ones by index (GPTQ's act-order). */
QS_MUST_CHECK qs_err qs_order_act(const float *diag, int64_t n, int32_t *order);

/* Group-aware order: inside each group of `group_size` columns by falling diag, the groups by their falling
 * maximum; a shorter last group stays last. Groups stay whole, so inference needs no permutation. */
QS_MUST_CHECK qs_err qs_order_group_aware(const float *diag, int64_t n, int64_t group_size, int32_t *order);

#endif
