/* Numbers of the search for a group's scale that host and device share; quant/scale.h says what it does. */
#ifndef QS_BACKEND_SCALE_STEPS_H
#define QS_BACKEND_SCALE_STEPS_H

#ifdef __CUDACC__
#define QS_SCALE_INLINE static __host__ __device__ inline
#else
#define QS_SCALE_INLINE static inline
#endif

enum { QS_SCALE_STEPS = 70 };

/* The step-th factor of the search. */
QS_SCALE_INLINE float qs_scale_factor(int step) { return (float)(110 - step) / 100.0f; }

/* Smallest and largest f16 scale: what rounding must not leave. */
#define QS_SCALE_MIN 5.9604644775390625e-08f
#define QS_SCALE_MAX 65504.0f

/* Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, ties to even; bounds moved by the same
 * amount clamp before the subtraction. Good for |x / scale| < 2^22. */
#define QS_SCALE_MAGIC 12582912.0f

#endif
