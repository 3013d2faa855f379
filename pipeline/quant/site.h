/* The matrices of a layer that share an input, with what is known of that input: what every solver is given. */
#ifndef QS_QUANT_SITE_H
#define QS_QUANT_SITE_H

#include "model/block.h"
#include "quant/methods.h"

enum { QS_SITE_NAME_BYTES = 48, QS_SITE_MATRICES_MAX = 3 /* q, k, v */ };

/* Gives the second moments of a site as calib.h5 stores them, and the mean size of its input [width]; what is given
 * stays until the next call of either. get_abs may be NULL when no spec needs it. */
typedef struct qs_gram_source {
    qs_err (*get)(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens);
    void *context;
    qs_err (*get_abs)(void *context, int64_t layer, qs_site site, const float **abs_mean);
    /* [n_windows, n_ctx] of the calibration, for what has to run through the model: how much each matrix's errors
     * matter to budgets (quant/sensitivity.h), and outputs of blocks (quant/block_loss.h). NULL = there are none. */
    const int32_t *tokens;
    int64_t n_windows, n_ctx;
    /* The same of the head's input, the final norm's output; NULL = not known: specs that quantise the head refuse. */
    qs_err (*get_head)(void *context, const float **packed_gram, int64_t *n_tokens);
} qs_gram_source;

/* One site, loaded; jobs and names stay until the next load. */
typedef struct qs_site_jobs {
    int n;
    qs_role roles[QS_SITE_MATRICES_MAX];
    qs_quant_job jobs[QS_SITE_MATRICES_MAX];
    char names[QS_SITE_MATRICES_MAX][QS_SITE_NAME_BYTES];
} qs_site_jobs;

typedef struct qs_site_loader qs_site_loader;

/* Everything is borrowed; grams NULL = nothing is known of inputs. needs_abs: jobs get the inputs' mean size. */
QS_MUST_CHECK qs_err qs_site_loader_create(qs_site_loader **out, const qs_model *model, qs_workspace *workspace,
                                           const qs_gram_source *grams, bool needs_abs);
void qs_site_loader_destroy(qs_site_loader *loader); /* NULL is fine; before the workspace */

/* Sites of one width share factors: what an earlier load gave does not hold any more. */
QS_MUST_CHECK qs_err qs_site_load(qs_site_loader *loader, int64_t layer, qs_site site, qs_site_jobs *out);

/* The cache that inputs of one width share, loaded with the second moments of one of them. */
QS_MUST_CHECK qs_err qs_site_load_moments(qs_site_loader *loader, int64_t width, const float *gram, int64_t n_tokens,
                                          const char *name, qs_factor_cache **out);

/* Weights of the linears at a site, in one layer. */
int64_t qs_site_weights(const qs_model *model, qs_site site);

#endif
