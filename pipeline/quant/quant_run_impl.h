/* Inside of a quantizer, shared by quant_run.c and quant_head.c. */
#ifndef QS_QUANT_QUANT_RUN_IMPL_H
#define QS_QUANT_QUANT_RUN_IMPL_H

#include "quant/budget.h"
#include "quant/fold.h"
#include "quant/quant_run.h"
#include "quant/sensitivity.h"

enum { QS_SITE_MATRICES_MAX = 3 /* of a site: q, k, v */ };

struct qs_quantizer {
    const qs_model *model;
    qs_backend *backend;
    const qs_gram_source *grams;
    const qs_spec *specs;
    int64_t n_specs;
    qs_workspace *workspace;
    qs_factor_cache *factors[QS_N_SITES]; /* of the first site with that width; NULL before its first use */
    float *weights;                       /* matrices of a site, one after the other */
    qs_quant_task *tasks;                 /* [QS_SITE_MATRICES_MAX * n_specs] */
    float *abs_mean;                      /* [widest site] */
    int32_t *tied;                        /* [width of o], see qs_fold_tie_heads */
    qs_fold *folds;                       /* [n_specs], of the layer; empty where nothing is folded */
    qs_budgets *budgets;                  /* NULL = no spec has one */
    bool shared;                          /* qs_quantizer_share has been called */
    float *sample;                        /* [QS_SITE_MATRICES_MAX, QS_SAMPLE_ROWS, widest site] */
    qs_sensitivity *sensitivity;          /* NULL = no budget, or no tokens to measure it on */
    qs_spec perturbation;                 /* whose errors are used for that */
    double *perturbed_loss;               /* [n_layers * QS_N_LINEARS] of these errors */
};

/* The cache that inputs of one width share, loaded with the second moments of one of them. */
QS_MUST_CHECK qs_err qs_quantizer_load_moments(qs_quantizer *quantizer, int64_t width, const float *gram, int64_t n_tokens,
                                               const char *name, qs_factor_cache **out);

#endif
