/* Inside of a quantizer, shared by quant_run.c and quant_head.c. */
#ifndef QS_QUANT_QUANT_RUN_IMPL_H
#define QS_QUANT_QUANT_RUN_IMPL_H

#include "quant/awq_block.h"
#include "quant/bit_budget.h"
#include "quant/fold.h"
#include "quant/quant_run.h"
#include "quant/sensitivity.h"

struct qs_quantizer {
    const qs_model *model;
    qs_backend *backend;
    const qs_gram_source *grams;
    const qs_spec *specs;
    int64_t n_specs;
    qs_workspace *workspace;
    qs_site_loader *loader;
    qs_quant_task *tasks;                 /* [QS_SITE_MATRICES_MAX * n_specs] */
    qs_fold *folds;                       /* [n_specs], of the layer; empty where nothing is folded */
    qs_awq_block *block;                  /* NULL = no spec chooses its scalings by the block's output */
    qs_awq_choice *choices;               /* [n_specs], of the layer */
    qs_bit_budgets *budgets;              /* NULL = no spec has one */
    bool shared;                          /* qs_quantizer_share has been called */
    float *sample;                        /* [QS_SITE_MATRICES_MAX, QS_SAMPLE_ROWS, widest site] */
    qs_sensitivity *sensitivity;          /* NULL = no budget, or no tokens to measure it on */
    qs_spec perturbation;                 /* whose errors are used for that */
    double *perturbed_loss;               /* [n_layers * QS_N_LINEARS] of these errors */
};

#endif
