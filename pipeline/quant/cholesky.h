/* inv(A) = U^T U with U upper triangular, for a symmetric positive definite A, without forming the inverse:
 * with the columns taken from the last to the first A = R R^T, R upper, and U = inv(R). Both by halves, so
 * that almost all arithmetic is matrix products, which the backend does where the matrices are. Blocks of 64 on
 * the diagonal are solved in f64: on the host, or by the backend's solver (backend/solver_ops.h). No library's
 * Cholesky: none starts from the last column, which saves the explicit inverse, and f32 on the diagonal would
 * cost accuracy. */
#ifndef QS_QUANT_CHOLESKY_H
#define QS_QUANT_CHOLESKY_H

#include <stdbool.h>

#include "backend/backend.h"

/* a, u: device [n, n]. Only the upper triangle of `a` is read; it is overwritten. The strictly lower part of
 * u must be 0 and stays so. *positive is false when a pivot is not (then u is undefined), and with
 * a backend's solver also when u is not finite. */
QS_MUST_CHECK qs_err qs_cholesky_inverse_factor(qs_backend *backend, float *a, float *u, int64_t n,
                                                bool *positive);

#endif
