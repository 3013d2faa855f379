/* Specs with a budget (bpw): what each matrix may get, what that would cost it, and what it gets.
 *
 * The cost of an option is measured: a sample of the matrix's rows is quantised with it, and the loss of that
 * (qs_quant_result) is the prediction for the whole, since rows are coded independently but for EXL2's largest
 * scales. Specs that differ in their budget alone share the measurement. Losses are weighed by what they do to
 * the model's answers (quant/sensitivity.h). */
#ifndef QS_QUANT_BIT_BUDGET_H
#define QS_QUANT_BIT_BUDGET_H

#include "quant/quant_run.h"

enum { QS_SAMPLE_ROWS = 128 }; /* of a matrix, evenly spread */

typedef struct qs_bit_budgets qs_bit_budgets;

/* *out is NULL when no spec has a budget. specs are borrowed. */
QS_MUST_CHECK qs_err qs_bit_budgets_create(qs_bit_budgets **out, const qs_model *model, const qs_spec *specs,
                                           int64_t n_specs);
void qs_bit_budgets_destroy(qs_bit_budgets *budgets); /* NULL is fine */

/* Sets of options that are measured together. */
int64_t qs_bit_budgets_n_sets(const qs_bit_budgets *budgets);
const qs_spec *qs_bit_budgets_options(const qs_bit_budgets *budgets, int64_t set, int64_t *n);
void qs_bit_budgets_record(qs_bit_budgets *budgets, int64_t set, int64_t layer, qs_role role, int64_t option,
                           double loss);

/* weights[n_layers * QS_N_LINEARS]: what a loss of 1 of each matrix costs the whole; ones until they are
 * given. */
void qs_bit_budgets_weigh(qs_bit_budgets *budgets, const double *weights);

/* Shares all budgets out, once every option of every matrix is recorded: the weighted sum of losses is made as
 * small as can be. */
QS_MUST_CHECK qs_err qs_bit_budgets_share(qs_bit_budgets *budgets);

/* What a matrix gets and its predicted loss; NULL when the spec has no budget. */
const qs_spec *qs_bit_budgets_spec(const qs_bit_budgets *budgets, int64_t spec, int64_t layer, qs_role role,
                                   double *predicted);

/* Bits of all linears as they were chosen. */
int64_t qs_bit_budgets_bits(const qs_bit_budgets *budgets, int64_t spec);

/* Least and most bits per weight that a budget can have with this model. */
void qs_bit_budget_range(const qs_model *model, const qs_spec *spec, double *least, double *most);

#endif
