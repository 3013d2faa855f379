/* Snippets by the words they share with a question, rare words counting more (inverse document frequency): a plain
 * ranking that depends on no model. */
#ifndef QS_DATA_OVERLAP_H
#define QS_DATA_OVERLAP_H

#include "data/goldset.h"

/* best[k]: indices of the k snippets that score most, most first, the earlier in the corpus among equals. scores
 * [n_snippets] is scratch; 1 <= k <= n_snippets. */
void qs_overlap_rank(const qs_goldset *set, const char *question, int64_t k, int64_t *best, double *scores);

#endif
