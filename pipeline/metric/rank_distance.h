/* How alike two rankings are (snippet_divergence; docs/answers.md). */
#ifndef QS_METRIC_RANK_DISTANCE_H
#define QS_METRIC_RANK_DISTANCE_H

#include <stdint.h>

/* 1 - |a and b| / |a or b| of two lists without repetition; 0 when both are empty. */
double qs_jaccard_distance(const int64_t *a, int64_t n_a, const int64_t *b, int64_t n_b);

/* Kendall's tau over what both lists hold: (pairs in the same order - pairs in another) / pairs, in [-1, 1]; NaN with
 * fewer than two in common. */
double qs_kendall_tau(const int64_t *a, int64_t n_a, const int64_t *b, int64_t n_b);

#endif
