#include "quant/fold.h"

#include <string.h>

#include "base/mem.h"

const qs_site qs_fold_site_order[QS_N_SITES] = {QS_SITE_O, QS_SITE_QKV, QS_SITE_DOWN, QS_SITE_GATE_UP};

qs_err qs_fold_create(qs_fold *out, const qs_model_config *config)
{
    int64_t n_v = config->n_kv_heads * config->head_dim;
    qs_err err = QS_OK;
    *out = (qs_fold){0};
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site);
        QS_TRY(QS_NEW(out->columns[site], width, "scalings"));
        for (int64_t j = 0; j < width; j++) out->columns[site][j] = 1;
    }
    QS_TRY(QS_NEW(out->v_rows, n_v, "scalings"));
    qs_fold_update(out, config);
out:
    if (err != QS_OK) qs_fold_free(out);
    return err;
}

void qs_fold_free(qs_fold *fold)
{
    for (int site = 0; site < QS_N_SITES; site++) qs_mem_free(fold->columns[site]);
    qs_mem_free(fold->v_rows);
    *fold = (qs_fold){0};
}

void qs_fold_update(qs_fold *fold, const qs_model_config *config)
{
    int64_t repeats = config->n_heads / config->n_kv_heads, d = config->head_dim;
    for (int64_t i = 0; i < config->n_kv_heads * d; i++)
        fold->v_rows[i] = fold->columns[QS_SITE_O][i / d * repeats * d + i % d];
}

void qs_fold_copy(qs_fold *to, const qs_fold *from, const qs_model_config *config)
{
    for (int site = 0; site < QS_N_SITES; site++)
        memcpy(to->columns[site], from->columns[site],
               (size_t)qs_site_width(config, (qs_site)site) * sizeof *to->columns[site]);
    qs_fold_update(to, config);
}

void qs_fold_tie_heads(const qs_model_config *config, int32_t *tied)
{
    int64_t repeats = config->n_heads / config->n_kv_heads, d = config->head_dim;
    for (int64_t i = 0; i < config->n_heads * d; i++) tied[i] = (int32_t)(i / (d * repeats) * d + i % d);
}

const float *qs_fold_rows(const qs_fold *fold, qs_role role)
{
    switch (role) {
    case QS_ROLE_V:
    case QS_ROLE_V_BIAS: return fold->v_rows;
    case QS_ROLE_UP: return fold->columns[QS_SITE_DOWN];
    case QS_ROLE_ATTN_NORM: return fold->columns[QS_SITE_QKV];
    case QS_ROLE_MLP_NORM: return fold->columns[QS_SITE_GATE_UP];
    default: return NULL;
    }
}
