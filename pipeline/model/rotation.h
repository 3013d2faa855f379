/* An orthogonal change of basis of vectors as wide as the residual stream: x' = x Q, which spreads the
 * outliers of single channels over all of them (QuaRot, Ashkboos et al. 2024).
 *
 * Q = diag(s) (H (x) O): random signs s, a Hadamard matrix H of the largest power of two that divides the
 * width, and a random orthogonal matrix O of the odd rest. It follows from width and seed alone, by sums,
 * products, quotients and square roots in f64, so that every machine gets the same bits. */
#ifndef QS_MODEL_ROTATION_H
#define QS_MODEL_ROTATION_H

#include "base/error.h"
#include "base/hash.h"

/* The one that specs with rotate=1 use. */
enum { QS_ROTATION_SEED = 1 };

/* Vectors that are turned side by side at the most. */
enum { QS_ROTATION_LANES = 16 };

typedef struct qs_rotation qs_rotation;

/* QS_E_UNSUPPORTED when the odd part of the width is over 2,048. */
QS_MUST_CHECK qs_err qs_rotation_create(qs_rotation **out, int64_t width, uint64_t seed);
void qs_rotation_destroy(qs_rotation *rotation); /* NULL is fine */
int64_t qs_rotation_width(const qs_rotation *rotation);
/* Of its numbers. */
qs_digest qs_rotation_digest(const qs_rotation *rotation);

/* In place, x Q (or x Q^T) of n_lanes vectors: x [width, n_lanes], scratch [width, n_lanes]. A vector's result
 * does not depend on its neighbours. */
void qs_rotation_apply(const qs_rotation *rotation, double *x, int64_t n_lanes, double *scratch);
void qs_rotation_undo(const qs_rotation *rotation, double *x, int64_t n_lanes, double *scratch);

/* In place, rows [n_rows, width] of f32 (computed in f64): each times its weights [width] (NULL = ones), then
 * turned. */
QS_MUST_CHECK qs_err qs_rotation_turn_rows(const qs_rotation *rotation, const float *weights, float *rows,
                                           int64_t n_rows);
/* In place, the columns of [width, n_columns]: Q^T times it. */
QS_MUST_CHECK qs_err qs_rotation_turn_columns(const qs_rotation *rotation, float *matrix, int64_t n_columns);
/* Rows turned back, and then times their weights. */
QS_MUST_CHECK qs_err qs_rotation_turn_rows_back(const qs_rotation *rotation, const float *weights, float *rows,
                                                int64_t n_rows);

#endif
