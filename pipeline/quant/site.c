#include "quant/site.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "quant/fold.h"

struct qs_site_loader {
    const qs_model *model;
    qs_workspace *workspace;
    const qs_gram_source *grams;
    bool needs_abs;
    qs_factor_cache *factors[QS_N_SITES]; /* of the first site with that width; NULL before its first use */
    float *weights;                       /* matrices of a site, one after the other */
    float *abs_mean;                      /* [widest site] */
    int32_t *tied;                        /* [width of o], see qs_fold_tie_heads */
};

int64_t qs_site_weights(const qs_model *model, qs_site site)
{
    int64_t n = 0;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        if (qs_role_site((qs_role)role) == site) n += info.n_out * info.n_in;
    }
    return n;
}

qs_err qs_site_loader_create(qs_site_loader **out, const qs_model *model, qs_workspace *workspace,
                             const qs_gram_source *grams, bool needs_abs)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t widest = 0, most = 0;
    qs_site_loader *l = NULL;
    qs_err err;
    *out = NULL;
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site), n = qs_site_weights(model, (qs_site)site);
        widest = width > widest ? width : widest;
        most = n > most ? n : most;
    }
    QS_TRY(QS_NEW(l, 1, "loader of matrices"));
    *l = (qs_site_loader){.model = model, .workspace = workspace, .grams = grams, .needs_abs = needs_abs};
    QS_TRY(QS_NEW(l->weights, most, "weights of a site"));
    QS_TRY(QS_NEW(l->abs_mean, widest, "mean size of inputs"));
    QS_TRY(QS_NEW(l->tied, qs_site_width(config, QS_SITE_O), "heads that share a scaling"));
    qs_fold_tie_heads(config, l->tied);
    *out = l;
    l = NULL;
out:
    qs_site_loader_destroy(l);
    return err;
}

void qs_site_loader_destroy(qs_site_loader *loader)
{
    if (loader == NULL) return;
    for (int site = 0; site < QS_N_SITES; site++) qs_factor_cache_destroy(loader->factors[site]);
    qs_mem_free(loader->weights);
    qs_mem_free(loader->abs_mean);
    qs_mem_free(loader->tied);
    qs_mem_free(loader);
}

qs_err qs_site_load_moments(qs_site_loader *loader, int64_t width, const float *gram, int64_t n_tokens,
                            const char *name, qs_factor_cache **out)
{
    qs_site_loader *l = loader;
    int slot = 0;
    while (qs_site_width(qs_model_get_config(l->model), (qs_site)slot) != width) slot++;
    qs_err err = l->factors[slot] == NULL
                     ? qs_factor_cache_create(&l->factors[slot], l->workspace, gram, width, n_tokens, name)
                     : qs_factor_cache_load(l->factors[slot], gram, n_tokens, name);
    *out = l->factors[slot];
    return err;
}

/* Of a site; NULL without any. */
static qs_err load_factors(qs_site_loader *l, int64_t layer, qs_site site, qs_factor_cache **out)
{
    int64_t width = qs_site_width(qs_model_get_config(l->model), site), n_tokens;
    const float *gram;
    char name[QS_SITE_NAME_BYTES];
    *out = NULL;
    if (l->grams == NULL) return QS_OK;
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", layer, qs_site_name(site));
    qs_err err = l->grams->get(l->grams->context, layer, site, &gram, &n_tokens);
    return err == QS_OK ? qs_site_load_moments(l, width, gram, n_tokens, name, out) : err;
}

/* The mean size of a site's input into l->abs_mean, if it is needed. */
static qs_err load_abs(qs_site_loader *l, int64_t layer, qs_site site, const float **out)
{
    const float *abs_mean;
    *out = NULL;
    if (!l->needs_abs || l->grams == NULL || l->grams->get_abs == NULL) return QS_OK;
    qs_err err = l->grams->get_abs(l->grams->context, layer, site, &abs_mean);
    if (err != QS_OK) return err;
    memcpy(l->abs_mean, abs_mean,
           (size_t)qs_site_width(qs_model_get_config(l->model), site) * sizeof *abs_mean);
    *out = l->abs_mean;
    return QS_OK;
}

qs_err qs_site_load(qs_site_loader *loader, int64_t layer, qs_site site, qs_site_jobs *out)
{
    qs_site_loader *l = loader;
    float *weights = l->weights;
    qs_factor_cache *factors;
    const float *abs_mean;
    qs_err err;
    out->n = 0;
    QS_TRY(load_factors(l, layer, site, &factors));
    QS_TRY(load_abs(l, layer, site, &abs_mean));
    for (int role = 0; role < QS_N_LINEARS; role++) {
        if (qs_role_site((qs_role)role) != site) continue;
        qs_tensor_info info = qs_model_info(l->model, (qs_role)role, layer);
        QS_TRY(qs_model_read_f32(l->model, (qs_role)role, layer, weights));
        (void)snprintf(out->names[out->n], QS_SITE_NAME_BYTES, "layers.%" PRId64 ".%s", layer,
                       qs_role_name((qs_role)role));
        out->roles[out->n] = (qs_role)role;
        out->jobs[out->n] =
            (qs_quant_job){.name = out->names[out->n], .weights = weights, .n_out = info.n_out, .n_in = info.n_in,
                           .factors = factors, .backend = qs_workspace_backend(l->workspace), .abs_mean = abs_mean,
                           .tied = site == QS_SITE_O ? l->tied : NULL};
        weights += info.n_out * info.n_in;
        out->n++;
    }
out:
    return err;
}

