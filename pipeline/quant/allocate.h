/* A budget of bits shared out among matrices: each has options with a size and a loss, one of them is chosen for each,
 * the sizes stay within the budget and the sum of losses is as small as can be. */
#ifndef QS_QUANT_ALLOCATE_H
#define QS_QUANT_ALLOCATE_H

#include <stdint.h>

#include "base/error.h"

typedef struct qs_allocate_job {
    int64_t n_matrices, n_options;
    const int64_t *bits; /* [n_matrices, n_options] stored size */
    const double *loss;  /* [n_matrices, n_options] finite, 0 or more */
    int64_t budget;      /* bits */
} qs_allocate_job;

/* choice[n_matrices]. *bound is a loss that no choice within the budget goes below (the Lagrangian's): what is above it
 * is at most what one step of one matrix saves. The same numbers give the same choice. QS_E_INPUT when the smallest
 * options exceed the budget. */
QS_MUST_CHECK qs_err qs_allocate(const qs_allocate_job *job, int64_t *choice, double *bound);

#endif
