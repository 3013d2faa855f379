/* Scalings of one layer that move from a matrix into what makes its input, and leave the function of the
 * block as it is (Lin et al. 2023, AWQ). The columns of every matrix at a site are multiplied
 * by columns[site], and
 *
 *   qkv      the norm in front of the attention is divided by it
 *   o        rows of v_proj and its bias are divided by it: query heads that share a key/value head share its scaling
 *   gate_up  the norm in front of the MLP is divided by it
 *   down     rows of up_proj are divided by it */
#ifndef QS_QUANT_FOLD_H
#define QS_QUANT_FOLD_H

#include "model/block.h"

typedef struct qs_fold {
    float *columns[QS_N_SITES]; /* [width of the site] */
    float *v_rows;              /* [n_kv_heads * head_dim]: columns[QS_SITE_O] once for each key/value head */
} qs_fold;

/* Ones everywhere. */
QS_MUST_CHECK qs_err qs_fold_create(qs_fold *out, const qs_model_config *config);
void qs_fold_free(qs_fold *fold);

/* Fills v_rows from columns[QS_SITE_O]; to be called when these have changed. */
void qs_fold_update(qs_fold *fold, const qs_model_config *config);

/* The scalings of `from`. */
void qs_fold_copy(qs_fold *to, const qs_fold *from, const qs_model_config *config);

/* tied[width of o]: the channel of v_proj that an input channel of o_proj comes from. */
void qs_fold_tie_heads(const qs_model_config *config, int32_t *tied);

/* What divides the rows of a linear or the elements of a vector of the block; NULL = ones. Those of v_proj
 * and up_proj are known once the scalings of o and down are, so these sites come before qkv and gate_up. */
const float *qs_fold_rows(const qs_fold *fold, qs_role role);

extern const qs_site qs_fold_site_order[QS_N_SITES];

#endif
