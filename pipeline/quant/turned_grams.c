#include "quant/turned_grams.h"

#include <math.h>

#include "base/mem.h"
#include "model/turned.h"

struct qs_turned_grams {
    const qs_model *turned;
    const qs_gram_source *origin;
    int64_t n;
    float *inverse; /* [n] of the norm's weights; mean sizes */
    float *full;    /* [n, n] */
    float *packed;  /* [n * (n + 1) / 2] */
};

static qs_err check_norm(const qs_model *model, qs_role role, int64_t layer, float *weights)
{
    int64_t n = qs_model_get_config(model)->d_model;
    qs_err err = qs_model_read_f32(model, role, layer, weights);
    for (int64_t i = 0; i < n && err == QS_OK; i++)
        if (weights[i] == 0)
            return qs_fail(QS_E_UNSUPPORTED,
                           "rotate layer %lld: weight %lld of its %s is 0, so the calibration has not seen that "
                           "channel; use rotate=0",
                           (long long)layer, (long long)i, qs_role_name(role));
    return err;
}

qs_err qs_turned_grams_check(const qs_model *turned, bool with_head)
{
    const qs_model_config *config = qs_model_get_config(turned);
    float *weights = NULL;
    qs_err err;
    QS_TRY(QS_NEW(weights, config->d_model, "norm"));
    for (int64_t layer = 0; layer < config->n_layers; layer++) {
        QS_TRY(check_norm(qs_model_origin(turned), QS_ROLE_ATTN_NORM, layer, weights));
        QS_TRY(check_norm(qs_model_origin(turned), QS_ROLE_MLP_NORM, layer, weights));
    }
    if (with_head) QS_TRY(check_norm(qs_model_origin(turned), QS_ROLE_FINAL_NORM, 0, weights));
out:
    qs_mem_free(weights);
    return err;
}

qs_err qs_turned_grams_create(qs_turned_grams **out, const qs_model *turned, const qs_gram_source *origin)
{
    qs_turned_grams *g = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(qs_turned_grams_check(turned, false));
    QS_TRY(QS_NEW(g, 1, "rotated second moments"));
    *g = (qs_turned_grams){.turned = turned, .origin = origin, .n = qs_model_get_config(turned)->d_model};
    QS_TRY(QS_NEW(g->inverse, g->n, "rotated second moments"));
    QS_TRY(QS_NEW(g->full, g->n * g->n, "rotated second moments"));
    QS_TRY(QS_NEW(g->packed, g->n * (g->n + 1) / 2, "rotated second moments"));
    *out = g;
    g = NULL;
out:
    qs_turned_grams_destroy(g);
    return err;
}

void qs_turned_grams_destroy(qs_turned_grams *grams)
{
    if (grams == NULL) return;
    qs_mem_free(grams->inverse);
    qs_mem_free(grams->full);
    qs_mem_free(grams->packed);
    qs_mem_free(grams);
}

size_t qs_turned_grams_bytes(const qs_model *model)
{
    int64_t n = qs_model_get_config(model)->d_model;
    return (size_t)(n * n + n * (n + 1) / 2 + n) * sizeof(float);
}

/* D^-1 H into the full matrix; the D^-1 on the other side is applied as rows are turned. */
static void unpack(const qs_turned_grams *g, const float *packed)
{
    const int64_t n = g->n;
    for (int64_t i = 0; i < n; i++) {
        const float *row = packed + i * n - i * (i - 1) / 2 - i; /* element j of the row at row[j], j >= i */
        for (int64_t j = i; j < n; j++) {
            g->full[i * n + j] = row[j] * g->inverse[i];
            g->full[j * n + i] = row[j] * g->inverse[j];
        }
    }
}

/* Of an input that comes through a norm, in place of *packed_gram. */
static qs_err turn(qs_turned_grams *g, qs_role norm, int64_t layer, const float **packed_gram)
{
    const int64_t n = g->n;
    const qs_rotation *rotation = qs_model_rotation(g->turned);
    qs_err err;
    QS_TRY(check_norm(qs_model_origin(g->turned), norm, layer, g->inverse));
    for (int64_t i = 0; i < n; i++) g->inverse[i] = 1 / g->inverse[i];
    unpack(g, *packed_gram);
    QS_TRY(qs_rotation_turn_rows(rotation, g->inverse, g->full, n));
    QS_TRY(qs_rotation_turn_columns(rotation, g->full, n));
    float *to = g->packed;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++) *to++ = g->full[i * n + j];
    *packed_gram = g->packed;
out:
    return err;
}

static qs_err get(void *context, int64_t layer, qs_site site, const float **packed_gram, int64_t *n_tokens)
{
    qs_turned_grams *g = context;
    qs_err err = g->origin->get(g->origin->context, layer, site, packed_gram, n_tokens);
    if (err != QS_OK || site == QS_SITE_O || site == QS_SITE_DOWN) return err;
    return turn(g, site == QS_SITE_QKV ? QS_ROLE_ATTN_NORM : QS_ROLE_MLP_NORM, layer, packed_gram);
}

static qs_err get_head(void *context, const float **packed_gram, int64_t *n_tokens)
{
    qs_turned_grams *g = context;
    qs_err err = g->origin->get_head(g->origin->context, packed_gram, n_tokens);
    return err == QS_OK ? turn(g, QS_ROLE_FINAL_NORM, 0, packed_gram) : err;
}

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    qs_turned_grams *g = context;
    const float *packed;
    int64_t n_tokens;
    qs_err err = QS_OK;
    if (site == QS_SITE_O || site == QS_SITE_DOWN)
        return g->origin->get_abs(g->origin->context, layer, site, abs_mean);
    QS_TRY(get(g, layer, site, &packed, &n_tokens));
    for (int64_t i = 0; i < g->n; i++) {
        double square = fmax((double)g->full[i * g->n + i], 0) / (double)n_tokens;
        g->inverse[i] = (float)sqrt(2 / acos(-1.0) * square); /* the mean of |x| of a normal x */
    }
    *abs_mean = g->inverse;
out:
    return err;
}

qs_gram_source qs_turned_grams_source(qs_turned_grams *grams)
{
    qs_gram_source source = *grams->origin;
    source.get = get;
    source.context = grams;
    source.get_abs = grams->origin->get_abs != NULL ? get_abs : NULL;
    source.get_head = grams->origin->get_head != NULL ? get_head : NULL;
    return source;
}
