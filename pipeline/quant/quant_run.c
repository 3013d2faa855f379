#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/turned.h"
#include "quant/quant_run_impl.h"
#include "quant/quant_size.h"

void qs_quant_layer_free(qs_quant_layer *layer)
{
    for (int i = 0; i < QS_N_LINEARS; i++) qs_packed_free(&layer->linears[i].packed);
    for (int i = 0; i < QS_N_BLOCK_ROLES - QS_N_LINEARS; i++) qs_mem_free(layer->vectors[i]);
    *layer = (qs_quant_layer){0};
}

static qs_err layer_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    (void)layer;
    const qs_packed *p = &((qs_quant_layer *)context)->linears[role].packed;
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    return QS_OK;
}

static qs_err layer_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    (void)layer;
    const float *vector = ((qs_quant_layer *)context)->vectors[role - QS_N_LINEARS];
    *found = vector != NULL;
    if (*found) memcpy(dst, vector, (size_t)n * sizeof *dst);
    return QS_OK;
}

qs_linear_source qs_quant_layer_source(qs_quant_layer *layer)
{
    return (qs_linear_source){.get = layer_linear, .get_vector = layer_vector, .context = layer};
}

static qs_err check_budget(const qs_model *model, const qs_spec *spec)
{
    double least, most;
    if (spec->bpw == 0) return QS_OK;
    qs_bit_budget_range(model, spec, &least, &most);
    if (spec->bpw >= least && spec->bpw <= most) return QS_OK;
    return qs_fail(QS_E_USAGE, "%s: %.2f bits per weight cannot be reached with this model; give bpw from %.2f to %.2f",
                   spec->id, spec->bpw, ceil(least * 100) / 100, floor(most * 100) / 100);
}

qs_err qs_quant_check(const qs_model *model, const qs_spec *specs, int64_t n_specs, bool has_grams)
{
    char name[QS_SITE_NAME_BYTES];
    for (int64_t i = 0; i < n_specs; i++) {
        if ((specs[i].method->needs & QS_NEED_GRAM) != 0 && !has_grams)
            return qs_fail(QS_E_USAGE, "%s needs second moments; give a calibration file (--calib)",
                           specs[i].id);
        for (int role = 0; role < QS_N_LINEARS; role++) {
            (void)snprintf(name, sizeof name, "layers.0.%s", qs_role_name((qs_role)role));
            qs_err err = qs_spec_check_row(&specs[i], qs_model_info(model, (qs_role)role, 0).n_in, name);
            if (err != QS_OK) return err;
        }
        qs_err err = check_budget(model, &specs[i]);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

void qs_quantizer_destroy(qs_quantizer *quantizer)
{
    if (quantizer == NULL) return;
    qs_site_loader_destroy(quantizer->loader);
    qs_awq_block_destroy(quantizer->block);
    qs_mem_free(quantizer->choices);
    qs_workspace_destroy(quantizer->workspace);
    for (int64_t i = 0; quantizer->folds != NULL && i < quantizer->n_specs; i++)
        qs_fold_free(&quantizer->folds[i]);
    qs_mem_free(quantizer->folds);
    qs_bit_budgets_destroy(quantizer->budgets);
    qs_sensitivity_destroy(quantizer->sensitivity);
    qs_mem_free(quantizer->perturbed_loss);
    qs_mem_free(quantizer->sample);
    qs_mem_free(quantizer->tasks);
    qs_mem_free(quantizer);
}

/* All specs are of the basis that the model's weights are in. */
static qs_err check_basis(const qs_model *model, const qs_spec *specs, int64_t n_specs)
{
    bool turned = qs_model_rotation(model) != NULL;
    for (int64_t i = 0; i < n_specs; i++)
        if (specs[i].rotate != turned)
            return qs_fail(QS_E_USAGE, "quantize with %s: rotate=%d, and the stream of the model is%s rotated",
                           specs[i].id, (int)specs[i].rotate, turned ? "" : " not");
    return QS_OK;
}

/* Sensitivities on some of the calibration's tokens, evenly spread over them. */
static qs_err create_sensitivity(qs_quantizer *q)
{
    const qs_gram_source *grams = q->grams;
    int32_t tokens[QS_SENSITIVITY_TOKENS];
    int64_t n = grams->n_windows < QS_SENSITIVITY_WINDOWS ? grams->n_windows : QS_SENSITIVITY_WINDOWS;
    int64_t n_ctx = grams->n_ctx < QS_SENSITIVITY_CTX ? grams->n_ctx : QS_SENSITIVITY_CTX;
    for (int64_t w = 0; w < n; w++)
        memcpy(tokens + w * n_ctx, grams->tokens + w * grams->n_windows / n * grams->n_ctx,
               (size_t)n_ctx * sizeof *tokens);
    return qs_sensitivity_create(&q->sensitivity, q->backend, q->model, tokens, n, n_ctx);
}

/* What specs with a budget need to be measured. */
static qs_err create_budgets(qs_quantizer *q)
{
    const qs_model_config *config = qs_model_get_config(q->model);
    int64_t widest = 0, narrowest = INT64_MAX;
    qs_err err;
    QS_TRY(qs_bit_budgets_create(&q->budgets, q->model, q->specs, q->n_specs));
    if (q->budgets == NULL) goto out;
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site);
        widest = width > widest ? width : widest;
        narrowest = width < narrowest ? width : narrowest;
    }
    QS_TRY(QS_NEW(q->sample, QS_SITE_MATRICES_MAX * QS_SAMPLE_ROWS * widest, "sample of a site"));
    if (q->grams == NULL || q->grams->tokens == NULL) goto out;
    QS_TRY(qs_spec_parse(&q->perturbation, narrowest < 64 ? "rtn:bits=4,group=-1" : "rtn:bits=4,group=64"));
    QS_TRY(QS_NEW(q->perturbed_loss, config->n_layers * QS_N_LINEARS, "losses"));
    err = create_sensitivity(q);
out:
    return err;
}

/* What folding specs need besides the weights. */
static qs_err create_folds(qs_quantizer *q)
{
    qs_err err;
    QS_TRY(QS_NEW(q->folds, q->n_specs, "scalings"));
    for (int64_t i = 0; i < q->n_specs; i++)
        if (q->specs[i].method->folds) QS_TRY(qs_fold_create(&q->folds[i], qs_model_get_config(q->model)));
    QS_TRY(QS_NEW(q->choices, q->n_specs, "scalings"));
    for (int64_t i = 0; i < q->n_specs; i++)
        if (q->block == NULL && qs_awq_block_is_for(&q->specs[i]))
            QS_TRY(qs_context(qs_awq_block_create(&q->block, q->model, q->workspace, q->grams), "%s", q->specs[i].id));
out:
    return err;
}

qs_err qs_quantizer_create(qs_quantizer **out, const qs_model *model, qs_backend *backend,
                           const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs)
{
    qs_quantizer *q = NULL;
    bool needs_abs = false;
    qs_err err;
    QS_TRY(qs_quant_check(model, specs, n_specs, grams != NULL));
    QS_TRY(check_basis(model, specs, n_specs));
    QS_TRY(QS_NEW(q, 1, "quantizer"));
    *q = (qs_quantizer){
        .model = model, .backend = backend, .grams = grams, .specs = specs, .n_specs = n_specs};
    QS_TRY(qs_workspace_create(&q->workspace, backend));
    for (int64_t i = 0; i < n_specs; i++) needs_abs |= (specs[i].method->needs & QS_NEED_ABS) != 0;
    QS_TRY(qs_site_loader_create(&q->loader, model, q->workspace, grams, needs_abs));
    QS_TRY(QS_NEW(q->tasks, QS_SITE_MATRICES_MAX * n_specs, "tasks"));
    QS_TRY(create_folds(q));
    QS_TRY(create_budgets(q));
    *out = q;
out:
    if (err != QS_OK) qs_quantizer_destroy(q);
    return err;
}

static qs_quant_task make_task(const qs_quantizer *q, int64_t spec, int64_t layer, qs_role role,
                               const qs_quant_job *job, qs_quant_layer *out)
{
    qs_quant_task task = {.spec = &q->specs[spec], .job = job, .out = &out->linears[role]};
    double predicted;
    if (q->budgets != NULL && qs_bit_budgets_spec(q->budgets, spec, layer, role, &predicted) != NULL)
        task.spec = qs_bit_budgets_spec(q->budgets, spec, layer, role, &predicted);
    if (!task.spec->method->folds) return task;
    task.columns = q->folds[spec].columns[qs_role_site(role)];
    task.rows = qs_fold_rows(&q->folds[spec], role);
    task.given = qs_awq_block_is_for(task.spec);
    task.clip = q->choices[spec].clip[role];
    return task;
}

/* All specs of the matrices that share an input. */
static qs_err solve_site(qs_quantizer *q, int64_t layer, qs_site site, qs_quant_layer *out)
{
    int64_t n_tasks = 0;
    qs_site_jobs loaded;
    qs_err err;
    QS_TRY(qs_site_load(q->loader, layer, site, &loaded));
    for (int j = 0; j < loaded.n; j++)
        for (int64_t i = 0; i < q->n_specs; i++)
            q->tasks[n_tasks++] = make_task(q, i, layer, loaded.roles[j], &loaded.jobs[j], &out[i]);
    QS_TRY(qs_quant_solve(q->workspace, q->tasks, n_tasks));
    for (int64_t i = 0; i < q->n_specs; i++)
        if (q->specs[i].method->folds) qs_fold_update(&q->folds[i], qs_model_get_config(q->model));
    for (int j = 0; j < loaded.n && q->budgets != NULL; j++)
        for (int64_t i = 0; i < q->n_specs; i++)
            (void)qs_bit_budgets_spec(q->budgets, i, layer, loaded.roles[j],
                                      &out[i].linears[loaded.roles[j]].predicted);
out:
    return err;
}

/* Scalings that the output of the block decides; specs that look for the same find it once. */
static qs_err choose_by_block(qs_quantizer *q, int64_t layer)
{
    qs_err err = QS_OK;
    if (q->block == NULL) return QS_OK;
    QS_TRY(qs_awq_block_layer(q->block, layer));
    for (int64_t i = 0; i < q->n_specs; i++) {
        int64_t known = 0;
        if (!qs_awq_block_is_for(&q->specs[i])) continue;
        while (known < i && !qs_awq_block_alike(&q->specs[known], &q->specs[i])) known++;
        if (known == i) {
            QS_TRY(qs_awq_block_choose(q->block, q->loader, &q->specs[i], &q->folds[i], &q->choices[i]));
            continue;
        }
        qs_fold_copy(&q->folds[i], &q->folds[known], qs_model_get_config(q->model));
        q->choices[i] = q->choices[known];
    }
out:
    return err;
}

/* ---- budgets ---- */

bool qs_quantizer_has_budgets(const qs_quantizer *quantizer) { return quantizer->budgets != NULL; }

/* Rows evenly spread over the matrix, beside each other; a matrix that is no larger stays where it is. */
static void take_sample(qs_quant_job *job, float *rows)
{
    if (job->n_out <= QS_SAMPLE_ROWS) return;
    for (int64_t i = 0; i < QS_SAMPLE_ROWS; i++)
        memcpy(rows + i * job->n_in, job->weights + i * job->n_out / QS_SAMPLE_ROWS * job->n_in,
               (size_t)job->n_in * sizeof *rows);
    job->weights = rows;
    job->n_out = QS_SAMPLE_ROWS;
}

static qs_err measure_set(qs_quantizer *q, int64_t layer, int64_t set, const qs_site_jobs *loaded)
{
    qs_quant_result results[QS_SITE_MATRICES_MAX * QS_OPTIONS_MAX];
    qs_quant_task tasks[QS_SITE_MATRICES_MAX * QS_OPTIONS_MAX];
    int64_t n_options, n = 0;
    const qs_spec *options = qs_bit_budgets_options(q->budgets, set, &n_options);
    for (int j = 0; j < loaded->n; j++)
        for (int64_t i = 0; i < n_options; i++, n++)
            tasks[n] = (qs_quant_task){.spec = &options[i], .job = &loaded->jobs[j], .out = &results[n]};
    qs_err err = qs_quant_solve(q->workspace, tasks, n);
    if (err != QS_OK) return err;
    n = 0;
    for (int j = 0; j < loaded->n; j++)
        for (int64_t i = 0; i < n_options; i++, n++) {
            qs_bit_budgets_record(q->budgets, set, layer, loaded->roles[j], i, results[n].loss);
            qs_packed_free(&results[n].packed);
        }
    return QS_OK;
}

/* The whole matrices of a site with errors. */
static qs_err perturb_site(qs_quantizer *q, int64_t layer, const qs_site_jobs *loaded, qs_quant_result *results)
{
    qs_quant_task tasks[QS_SITE_MATRICES_MAX];
    if (q->sensitivity == NULL) return QS_OK;
    for (int j = 0; j < loaded->n; j++)
        tasks[j] = (qs_quant_task){
            .spec = &q->perturbation, .job = &loaded->jobs[j], .out = &results[loaded->roles[j]]};
    qs_err err = qs_quant_solve(q->workspace, tasks, loaded->n);
    for (int j = 0; j < loaded->n && err == QS_OK; j++)
        q->perturbed_loss[layer * QS_N_LINEARS + (int64_t)loaded->roles[j]] = results[loaded->roles[j]].loss;
    return err;
}

qs_err qs_quantizer_measure(qs_quantizer *quantizer, int64_t layer)
{
    qs_quantizer *q = quantizer;
    qs_quant_result perturbed[QS_N_LINEARS] = {0};
    const qs_packed *packed[QS_N_LINEARS];
    qs_site_jobs loaded;
    qs_err err = QS_OK;
    for (int site = 0; q->budgets != NULL && site < QS_N_SITES; site++) {
        QS_TRY(qs_site_load(q->loader, layer, (qs_site)site, &loaded));
        QS_TRY(perturb_site(q, layer, &loaded, perturbed));
        for (int j = 0; j < loaded.n; j++)
            take_sample(&loaded.jobs[j], q->sample + j * QS_SAMPLE_ROWS * loaded.jobs[j].n_in);
        for (int64_t set = 0; set < qs_bit_budgets_n_sets(q->budgets); set++)
            QS_TRY(measure_set(q, layer, set, &loaded));
    }
    for (int role = 0; role < QS_N_LINEARS; role++) packed[role] = &perturbed[role].packed;
    if (q->sensitivity != NULL) QS_TRY(qs_sensitivity_layer(q->sensitivity, layer, packed));
out:
    for (int role = 0; role < QS_N_LINEARS; role++) qs_packed_free(&perturbed[role].packed);
    return err;
}

/* Divergence per loss: both grow with the square of the error. */
static qs_err weigh(qs_quantizer *q)
{
    int64_t n = qs_model_get_config(q->model)->n_layers * QS_N_LINEARS;
    double *weights = NULL;
    qs_err err;
    QS_TRY(QS_NEW(weights, n, "weights of losses"));
    QS_TRY(qs_sensitivity_finish(q->sensitivity, weights));
    for (int64_t m = 0; m < n; m++) weights[m] = q->perturbed_loss[m] > 0 ? weights[m] / q->perturbed_loss[m] : 0;
    qs_bit_budgets_weigh(q->budgets, weights);
out:
    qs_mem_free(weights);
    return err;
}

qs_err qs_quantizer_share(qs_quantizer *quantizer)
{
    qs_err err = QS_OK;
    quantizer->shared = true;
    if (quantizer->budgets == NULL) return QS_OK;
    if (quantizer->sensitivity != NULL) QS_TRY(weigh(quantizer));
    err = qs_bit_budgets_share(quantizer->budgets);
out:
    return err;
}

int64_t qs_quantizer_linear_bits(const qs_quantizer *quantizer, int64_t spec)
{
    if (quantizer->specs[spec].bpw > 0) return qs_bit_budgets_bits(quantizer->budgets, spec);
    return qs_quant_linear_bits(&quantizer->specs[spec], quantizer->model);
}

/* Norms and biases that take up the scalings of a layer. */
static qs_err fold_vectors(const qs_quantizer *q, int64_t layer, const qs_fold *fold, qs_quant_layer *out)
{
    qs_err err = QS_OK;
    for (int role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        const float *divisor = qs_fold_rows(fold, (qs_role)role);
        float **vector = &out->vectors[role - QS_N_LINEARS];
        if (divisor == NULL || !qs_model_has(q->model, (qs_role)role, layer)) continue;
        int64_t n = qs_model_info(q->model, (qs_role)role, layer).n_in;
        QS_TRY(QS_NEW(*vector, n, "scaled norm"));
        QS_TRY(qs_model_read_f32(q->model, (qs_role)role, layer, *vector));
        for (int64_t i = 0; i < n; i++) (*vector)[i] /= divisor[i];
    }
out:
    return err;
}

/* Vectors of a turned model that are not its origin's. */
static qs_err turn_vectors(const qs_quantizer *q, int64_t layer, qs_quant_layer *out)
{
    static const qs_role roles[] = {QS_ROLE_ATTN_NORM, QS_ROLE_MLP_NORM, QS_ROLE_O_BIAS};
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        float **vector = &out->vectors[roles[i] - QS_N_LINEARS];
        if (*vector != NULL || !qs_model_has(q->model, roles[i], layer)) continue; /* or with scalings folded in */
        QS_TRY(QS_NEW(*vector, qs_model_info(q->model, roles[i], layer).n_in, "rotated norm"));
        QS_TRY(qs_model_read_f32(q->model, roles[i], layer, *vector));
    }
out:
    return err;
}

qs_err qs_quantizer_layer(qs_quantizer *quantizer, int64_t layer, qs_quant_layer *out)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < quantizer->n_specs; i++) out[i] = (qs_quant_layer){0};
    if (quantizer->budgets != NULL && !quantizer->shared)
        return qs_fail(QS_E_USAGE, "quantize layer %" PRId64 ": its budget has not been shared out", layer);
    QS_TRY(choose_by_block(quantizer, layer));
    for (int i = 0; i < QS_N_SITES; i++) QS_TRY(solve_site(quantizer, layer, qs_fold_site_order[i], out));
    for (int64_t i = 0; i < quantizer->n_specs; i++)
        if (quantizer->specs[i].method->folds)
            QS_TRY(fold_vectors(quantizer, layer, &quantizer->folds[i], &out[i]));
    for (int64_t i = 0; i < quantizer->n_specs && qs_model_rotation(quantizer->model) != NULL; i++)
        QS_TRY(turn_vectors(quantizer, layer, &out[i]));
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
