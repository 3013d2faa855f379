#include "quant/quant_run.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"

enum { NAME_BYTES = 48, MAX_MATRICES = 3 /* of a site: q, k, v */ };

struct qs_quantizer {
    const qs_model *model;
    qs_backend *backend;
    const qs_gram_source *grams;
    const qs_spec *specs;
    int64_t n_specs;
    qs_workspace *workspace;
    qs_factor_cache *factors[QS_N_SITES]; /* of the first site with that width; NULL before its first use */
    float *weights;                       /* matrices of a site, one after the other */
    qs_quant_task *tasks;                 /* [MAX_MATRICES * n_specs] */
};

void qs_quant_layer_free(qs_quant_layer *layer)
{
    for (int i = 0; i < QS_N_LINEARS; i++) qs_packed_free(&layer->linears[i].packed);
    *layer = (qs_quant_layer){0};
}

static int64_t site_weights(const qs_model *model, int64_t layer, int site)
{
    int64_t n = 0;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, layer);
        if ((int)qs_role_site((qs_role)role) == site) n += info.n_out * info.n_in;
    }
    return n;
}

static int64_t largest_site(const qs_model *model)
{
    int64_t most = 0;
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t n = site_weights(model, 0, site);
        most = n > most ? n : most;
    }
    return most;
}

qs_err qs_quant_check(const qs_model *model, const qs_spec *specs, int64_t n_specs, bool has_grams)
{
    char name[NAME_BYTES];
    for (int64_t i = 0; i < n_specs; i++) {
        if ((specs[i].method->needs & QS_NEED_GRAM) != 0 && !has_grams)
            return qs_fail(QS_E_USAGE, "%s needs second moments; give a calibration file (--calib)",
                           specs[i].id);
        for (int role = 0; role < QS_N_LINEARS; role++) {
            (void)snprintf(name, sizeof name, "layers.0.%s", qs_role_name((qs_role)role));
            qs_err err = qs_spec_check_row(&specs[i], qs_model_info(model, (qs_role)role, 0).n_in, name);
            if (err != QS_OK) return err;
        }
    }
    return QS_OK;
}

void qs_quantizer_destroy(qs_quantizer *quantizer)
{
    if (quantizer == NULL) return;
    for (int site = 0; site < QS_N_SITES; site++) qs_factor_cache_destroy(quantizer->factors[site]);
    qs_workspace_destroy(quantizer->workspace);
    qs_mem_free(quantizer->weights);
    qs_mem_free(quantizer->tasks);
    qs_mem_free(quantizer);
}

qs_err qs_quantizer_create(qs_quantizer **out, const qs_model *model, qs_backend *backend,
                           const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs)
{
    qs_quantizer *q = NULL;
    qs_err err;
    QS_TRY(qs_quant_check(model, specs, n_specs, grams != NULL));
    QS_TRY(QS_NEW(q, 1, "quantizer"));
    *q = (qs_quantizer){
        .model = model, .backend = backend, .grams = grams, .specs = specs, .n_specs = n_specs};
    QS_TRY(qs_workspace_create(&q->workspace, backend));
    QS_TRY(QS_NEW(q->weights, largest_site(model), "weights of a site"));
    QS_TRY(QS_NEW(q->tasks, MAX_MATRICES * n_specs, "tasks"));
    *out = q;
out:
    if (err != QS_OK) qs_quantizer_destroy(q);
    return err;
}

/* The cache that sites of one width share, loaded with this site's second moments; NULL without any. */
static qs_err load_factors(qs_quantizer *q, int64_t layer, qs_site site, qs_factor_cache **out)
{
    const qs_model_config *config = qs_model_get_config(q->model);
    int64_t width = qs_site_width(config, site), n_tokens;
    const float *gram;
    char name[NAME_BYTES];
    int slot = 0;
    *out = NULL;
    if (q->grams == NULL) return QS_OK;
    while (qs_site_width(config, (qs_site)slot) != width) slot++;
    (void)snprintf(name, sizeof name, "layers.%" PRId64 ".%s", layer, qs_site_name(site));
    qs_err err = q->grams->get(q->grams->context, layer, site, &gram, &n_tokens);
    if (err == QS_OK && q->factors[slot] == NULL)
        err = qs_factor_cache_create(&q->factors[slot], q->workspace, gram, width, n_tokens, name);
    else if (err == QS_OK)
        err = qs_factor_cache_load(q->factors[slot], gram, n_tokens, name);
    *out = q->factors[slot];
    return err;
}

/* All specs of the matrices that share an input. */
static qs_err solve_site(qs_quantizer *q, int64_t layer, qs_site site, qs_quant_layer *out)
{
    qs_quant_job jobs[MAX_MATRICES];
    char names[MAX_MATRICES][NAME_BYTES];
    float *weights = q->weights;
    int64_t n_tasks = 0;
    int n_jobs = 0;
    qs_factor_cache *factors;
    qs_err err;
    QS_TRY(load_factors(q, layer, site, &factors));
    for (int role = 0; role < QS_N_LINEARS; role++) {
        if (qs_role_site((qs_role)role) != site) continue;
        qs_tensor_info info = qs_model_info(q->model, (qs_role)role, layer);
        QS_TRY(qs_model_read_f32(q->model, (qs_role)role, layer, weights));
        (void)snprintf(names[n_jobs], NAME_BYTES, "layers.%" PRId64 ".%s", layer,
                       qs_role_name((qs_role)role));
        jobs[n_jobs] = (qs_quant_job){.name = names[n_jobs], .weights = weights, .n_out = info.n_out,
                                      .n_in = info.n_in, .factors = factors, .backend = q->backend};
        for (int64_t i = 0; i < q->n_specs; i++)
            q->tasks[n_tasks++] = (qs_quant_task){&q->specs[i], &jobs[n_jobs], &out[i].linears[role]};
        weights += info.n_out * info.n_in;
        n_jobs++;
    }
    QS_TRY(qs_quant_solve(q->workspace, q->tasks, n_tasks));
out:
    return err;
}

qs_err qs_quantizer_layer(qs_quantizer *quantizer, int64_t layer, qs_quant_layer *out)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < quantizer->n_specs; i++) out[i] = (qs_quant_layer){0};
    for (int site = 0; site < QS_N_SITES; site++) QS_TRY(solve_site(quantizer, layer, (qs_site)site, out));
out:
    for (int64_t i = 0; err != QS_OK && i < quantizer->n_specs; i++) qs_quant_layer_free(&out[i]);
    return err;
}

qs_err qs_quantize_layer(const qs_model *model, qs_backend *backend, int64_t layer,
                         const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs,
                         qs_quant_layer *out)
{
    qs_quantizer *quantizer;
    qs_err err = qs_quantizer_create(&quantizer, model, backend, grams, specs, n_specs);
    if (err != QS_OK) return err;
    err = qs_quantizer_layer(quantizer, layer, out);
    qs_quantizer_destroy(quantizer);
    return err;
}
