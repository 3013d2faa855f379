/* NaN and Inf in arrays of any element type. */
#ifndef QS_ARTIFACT_FINITE_H
#define QS_ARTIFACT_FINITE_H

#include "base/dtype.h"

/* Index of the first NaN or Inf among n elements, or -1; integers have none. */
int64_t qs_find_nonfinite_any(qs_dtype dtype, const void *data, int64_t n);

#endif
