/* Matrices of the parent with codes found anew on the grid of a GGUF type: where calibration is at hand by GPTQ
 * (Frantar et al. 2022; quant/factor.h), each column's error taken up by those after it, else by rounding to nearest.
 * Columns are visited in group-aware order, blocks whole, and in a block sub after sub. */
#ifndef QS_EXPORT_GGUF_AIM_H
#define QS_EXPORT_GGUF_AIM_H

#include "export/gguf_blocks.h"
#include "quant/quant_run.h"

typedef struct qs_gguf_aim qs_gguf_aim;

/* grams is NULL where there are none; everything is borrowed. damping as in qs_spec. */
QS_MUST_CHECK qs_err qs_gguf_aim_create(qs_gguf_aim **out, const qs_model *model, const qs_gram_source *grams,
                                        double damping, int n_threads);
void qs_gguf_aim_destroy(qs_gguf_aim *aim); /* NULL is fine */

/* weights [n_out, n_in] of that linear, in the order of rows that blocks [n_out, row bytes] are wanted in; n_in in
 * whole blocks of the kind. QS_E_NUMERIC names a matrix whose weights or second moments are not finite. */
QS_MUST_CHECK qs_err qs_gguf_aim_matrix(qs_gguf_aim *aim, const qs_gguf_kind *kind, int64_t layer, qs_role role,
                                        const float *weights, uint8_t *blocks);

/* Rows of a table, which no second moments belong to: rounded to nearest. n_in is the width of a linear's rows, in
 * whole blocks. QS_E_NUMERIC names the table and the first weight that is not finite, counted from the first row. */
enum { QS_GGUF_AIM_ROWS_MAX = 1024 };
QS_MUST_CHECK qs_err qs_gguf_aim_rows(qs_gguf_aim *aim, const qs_gguf_kind *kind, const char *name, int64_t n_rows,
                                      int64_t n_in, const float *weights, uint8_t *blocks);

/* Over the matrices so far: how many, how many of them were rounded because no damping made their second moments
 * positive definite, and the mean of tr(E H E^T) / tr(W H W^T), without second moments of |E|^2 / |W|^2. */
typedef struct qs_gguf_aimed {
    int64_t n_matrices, n_fallbacks;
    double loss;
} qs_gguf_aimed;
qs_gguf_aimed qs_gguf_aim_facts(const qs_gguf_aim *aim);

#endif
