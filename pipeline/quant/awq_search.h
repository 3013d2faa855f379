/* AWQ's two searches (Lin et al. 2023; docs/quantisers.md), in the space of second moments: the mean over tokens of
 * |x W^T - x Q^T|^2 is tr(E H E^T), so no candidate needs a forward pass. */
#ifndef QS_QUANT_AWQ_SEARCH_H
#define QS_QUANT_AWQ_SEARCH_H

#include "quant/methods.h"

/* All matrices of one spec that share an input. */
typedef struct qs_awq_site {
    const qs_quant_task *tasks; /* [n] */
    int64_t n;
    const float *h; /* host [n_in, n_in] */
} qs_awq_site;

/* columns [n_in]: of the identity, of x^r and, if the spec says so, of x^r / w^(1-r), r = 0, 1/20 ... 19/20,
 * the one whose round-to-nearest loses least over all matrices together; the first of equals. x is the
 * inputs' mean size, w that of the weights in units of their group's largest, both averaged over tied
 * columns. Where a site has 320 rows or more, about 160 of them, evenly spread, decide which three candidates
 * meet the identity on all rows. */
QS_MUST_CHECK qs_err qs_awq_find_columns(qs_workspace *workspace, const qs_awq_site *site, float *columns);

/* The identity, then the candidates with the least losses, best first: columns[*n][n_in], of which there is room for
 * QS_AWQ_FINALISTS. Where a site has 320 rows or more, about 160 of them, evenly spread, decide. */
enum { QS_AWQ_FINALISTS = 4 };
QS_MUST_CHECK qs_err qs_awq_find_finalists(qs_workspace *workspace, const qs_awq_site *site, float *columns,
                                           int64_t *n);

/* folded [n_out, n_in]: the scaled weights of a task, with `clip` cut at one of 1, 0.95 ... 0.55 of their
 * group's largest: the one with the least loss within the group, and, of a whole row, only if that loses less
 * altogether. */
QS_MUST_CHECK qs_err qs_awq_fold_weights(qs_workspace *workspace, const qs_quant_task *task, const float *h,
                                         bool clip, float *folded);

/* The same weights, rounded to nearest, as they act on inputs that are not scaled. Without `clip` h is not looked
 * at. */
QS_MUST_CHECK qs_err qs_awq_round_weights(qs_workspace *workspace, const qs_quant_task *task, const float *h,
                                          bool clip, float *rounded);

#endif
