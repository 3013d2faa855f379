/* Quantising on a device: what a backend may offer beside its ops, so that matrices, second moments and
 * factors stay where the arithmetic is. A backend without it (the CPU) leaves the work to pipeline/quant,
 * which is the definition: codes differ from it only where sums in another order decide a tie otherwise.
 *
 * Pointers are device pointers unless a comment says host. Workspaces belong to the caller, who asks for
 * their size first. */
#ifndef QS_BACKEND_SOLVER_OPS_H
#define QS_BACKEND_SOLVER_OPS_H

#include "backend/backend.h"

/* One matrix, as qs_solver_task in quant/solver.h describes it. */
typedef struct qs_solve_job {
    const float *weights; /* [n_out, n_in] */
    qs_packed *packed; /* host; shape set and memory allocated: codes, scales and zeros are filled */
    bool sym, search;
    const int32_t *order; /* host [n_in] visited columns; NULL = natural */
    const float *u; /* [n_in, n_in] factor for that order; NULL = round to nearest */
    const float
        *column_weight; /* host [n_in], in the order of visits, or by column when static_scales; or NULL */
    bool static_scales, follow_order;
} qs_solve_job;

/* A matrix whose error is measured. */
typedef struct qs_loss_job {
    const float *weights; /* [n_out, n_in] */
    int64_t n_out, n_in;
    const qs_packed *packed; /* host; NULL = the weights themselves instead of what quantising changed */
    const float *columns, *rows; /* host [n_in], [n_out] of a folded scaling (quant/methods.h), each NULL = ones */
    const float *h; /* [n_in, n_in] symmetric; NULL = no form */
} qs_loss_job;

/* A matrix whose columns are scaled before it is rounded to nearest, and its inputs the other way (quant/awq_search.h,
 * which is the definition). */
typedef struct qs_scaling_job {
    const float *weights; /* [n_out, n_in] */
    int64_t n_out, n_in, group_size;
    int bits;
    bool sym;
    const float *rows; /* host [n_out] that divide the rows; NULL = ones */
    const float *h;    /* [n_in, n_in] symmetric */
} qs_scaling_job;

struct qs_solver_ops {
    size_t (*solve_bytes)(const qs_solve_job *job);
    /* Reads `packed`'s shape, fills its contents. What comes out depends on the job alone. */
    qs_err (*solve)(qs_backend *backend, const qs_solve_job *job, void *workspace);

    size_t (*loss_bytes)(const qs_loss_job *job);
    /* squares = |E|_F^2 and form = tr(E H E^T), sums in f64. */
    qs_err (*loss)(qs_backend *backend, const qs_loss_job *job, void *workspace, double *squares,
                   double *form);

    size_t (*scaling_bytes)(const qs_scaling_job *job);
    /* loss = tr(E H E^T) of every stride-th row with columns (host [n_in]), E on inputs that are not scaled. */
    qs_err (*scaling_loss)(qs_backend *backend, const qs_scaling_job *job, const float *columns, int64_t stride,
                           void *workspace, double *loss);
    /* scaled (host [n_out, n_in]) = weights * column / row; with `clip` cut where that loses less. */
    qs_err (*scale_columns)(qs_backend *backend, const qs_scaling_job *job, const float *columns, bool clip,
                            void *workspace, float *scaled);

    /* h[n, n] = factor * the symmetric matrix whose upper triangle by rows is packed[n (n + 1) / 2]. */
    qs_err (*unpack_moments)(qs_backend *backend, const float *packed, int64_t n, float factor, float *h);
    /* Upper triangle of a[n, n] = H's rows and columns in `order` [n], `shift` added to the diagonal, a
     * diagonal of zero taken as `dead`; the strictly lower triangle of u = 0. */
    qs_err (*order_moments)(qs_backend *backend, const float *h, const int32_t *order, int64_t n,
                            double shift, double dead, float *a, float *u);
    /* Of quant/cholesky.h, for n <= QS_FACTOR_LEAF and matrices with leading dimension ld, in f64. A pivot
     * that is not positive sets *status [1] to something else than 0. */
    qs_err (*factor_leaf)(qs_backend *backend, const float *a, float *u, int64_t ld, int64_t n,
                          int32_t *status);
    /* The same when the upper triangle of u holds a NaN or Inf. */
    qs_err (*check_factor)(qs_backend *backend, const float *u, int64_t n, int32_t *status);
};

enum { QS_FACTOR_LEAF = 64 };

#endif
