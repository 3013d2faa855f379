/* Second moments of one linear input and the factors that solvers derive from them, computed once per
 * (damping, order) and shared by every matrix and grid point that uses them.
 *
 * H = sum x x^T / n_tokens. For an order of the columns, U is the upper Cholesky factor of the inverse of the
 * damped, permuted H: inv(H) = U^T U (Frantar et al. 2022, GPTQ).
 *
 * Matrices are where the solver works: on the device of a backend that has one (qs_backend_solver), else in
 * host memory. */
#ifndef QS_QUANT_FACTOR_H
#define QS_QUANT_FACTOR_H

#include <stdbool.h>

#include "quant/workspace.h"

typedef struct qs_factor_cache qs_factor_cache;

/* packed_gram: upper triangle by rows [n_in * (n_in + 1) / 2] f32, the sum over n_tokens rows, as calib.h5
 * stores it. Copied. The workspace must outlive the cache. QS_E_NUMERIC when it is not finite; QS_E_INPUT
 * when all zero or a diagonal element is negative. */
QS_MUST_CHECK qs_err qs_factor_cache_create(qs_factor_cache **out, qs_workspace *workspace,
                                            const float *packed_gram, int64_t n_in, int64_t n_tokens,
                                            const char *name);
void qs_factor_cache_destroy(qs_factor_cache *cache);

/* Replaces the second moments by others of the same n_in and forgets the factors, keeping the memory. On
 * failure the cache can only be loaded again or destroyed. */
QS_MUST_CHECK qs_err qs_factor_cache_load(qs_factor_cache *cache, const float *packed_gram, int64_t n_tokens,
                                          const char *name);

/* The full symmetric H [n_in, n_in] f32, where the solver works, and its diagonal [n_in], on the host;
 * borrowed. */
const float *qs_factor_h(const qs_factor_cache *cache);
const float *qs_factor_diag(const qs_factor_cache *cache);
double qs_factor_diag_mean(const qs_factor_cache *cache);
bool qs_factor_has_dead(const qs_factor_cache *cache); /* some input was 0 in all tokens */

/* H on the host: borrowed until the cache is loaded or destroyed. Where the backend has a solver it is downloaded
 * at the first call. */
QS_MUST_CHECK qs_err qs_factor_h_host(qs_factor_cache *cache, const float **h);

/* Forgets the factors but keeps H, and the memory of factors for later ones. */
void qs_factor_cache_forget(qs_factor_cache *cache);

/* U [n_in, n_in] f32, where the solver works, for columns taken in `order` (NULL = natural), borrowed until
 * the cache is destroyed, loaded or told to forget. Dead inputs (zero diagonal) get the mean of the diagonal,
 * which couples them to nothing. On a failed Cholesky the damping is raised step by step to 1, then the
 * diagonal is lifted, and *damping_used tells the damping; when nothing helps *u is NULL and the caller falls
 * back (that is not an error). */
QS_MUST_CHECK qs_err qs_factor_get(qs_factor_cache *cache, const int32_t *order, double damping,
                                   const float **u, double *damping_used);

#endif
