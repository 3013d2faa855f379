#include "quant/awq_block.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/model_record.h"
#include "quant/awq_search.h"
#include "quant/block_loss.h"

/* Rounded to nearest, and again at each site, and the finalists there. */
enum { N_PASSES = 1 + QS_N_SITES * (1 + QS_AWQ_FINALISTS) };

struct qs_awq_block {
    const qs_model *model;
    const qs_model_config *config;
    qs_workspace *workspace;
    qs_block_loss *losses;
    int64_t layer;
    float *weights, *spare;         /* one layer each: as chosen so far, and what is tried */
    float *linears[QS_N_LINEARS];   /* into weights, or into spare where that is tried */
    unsigned stale;                 /* roles (1u << role) whose linears are not those that were measured last */
    float *finalists, *ones;        /* [QS_AWQ_FINALISTS, widest site], [widest site] */
};

bool qs_awq_block_is_for(const qs_spec *spec) { return spec->method->folds && spec->loss == QS_AWQ_BLOCK; }

bool qs_awq_block_alike(const qs_spec *a, const qs_spec *b)
{
    return qs_awq_block_is_for(a) && qs_awq_block_is_for(b) && a->bits == b->bits && a->group_size == b->group_size &&
           a->sym == b->sym && a->weight_stats == b->weight_stats && a->clip == b->clip;
}

static int64_t role_weights(const qs_model *model, qs_role role)
{
    qs_tensor_info info = qs_model_info(model, role, 0);
    return info.n_out * info.n_in;
}

static int64_t widest_site(const qs_model_config *config)
{
    int64_t widest = 0;
    for (int site = 0; site < QS_N_SITES; site++) {
        int64_t width = qs_site_width(config, (qs_site)site);
        widest = width > widest ? width : widest;
    }
    return widest;
}

size_t qs_awq_block_bytes(const qs_model *model, int64_t n_tokens)
{
    int64_t floats = 2 * qs_model_n_block_weights(model) +
                     (1 + QS_AWQ_FINALISTS) * widest_site(qs_model_get_config(model));
    return qs_block_loss_bytes(model, n_tokens) + (size_t)floats * sizeof(float);
}

double qs_awq_block_cost(const qs_model *model, int64_t n_tokens)
{
    const qs_model_config *config = qs_model_get_config(model);
    return (double)config->n_layers * N_PASSES * (double)n_tokens * (double)qs_model_n_block_weights(model);
}

qs_err qs_awq_block_create(qs_awq_block **out, const qs_model *model, qs_workspace *workspace,
                           const qs_gram_source *grams)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t n_weights = qs_model_n_block_weights(model), widest = widest_site(config);
    qs_awq_block *b = NULL;
    qs_err err;
    *out = NULL;
    if (grams == NULL || grams->tokens == NULL)
        return qs_fail(QS_E_USAGE,
                       "loss=block needs tokens of the calibration to run through the blocks, and there are none "
                       "here; use loss=linear");
    QS_TRY(QS_NEW(b, 1, "outputs of blocks"));
    *b = (qs_awq_block){.model = model, .config = config, .workspace = workspace};
    QS_TRY(QS_NEW(b->weights, n_weights, "weights of a layer"));
    QS_TRY(QS_NEW(b->spare, n_weights, "weights of a layer"));
    QS_TRY(QS_NEW(b->finalists, QS_AWQ_FINALISTS * widest, "finalists"));
    QS_TRY(QS_NEW(b->ones, widest, "finalists"));
    for (int64_t j = 0; j < widest; j++) b->ones[j] = 1;
    QS_TRY(qs_block_loss_create(&b->losses, qs_workspace_backend(workspace), model, grams->tokens, grams->n_windows,
                                grams->n_ctx));
    *out = b;
    b = NULL;
out:
    qs_awq_block_destroy(b);
    return err;
}

void qs_awq_block_destroy(qs_awq_block *block)
{
    if (block == NULL) return;
    qs_block_loss_destroy(block->losses);
    qs_mem_free(block->weights);
    qs_mem_free(block->spare);
    qs_mem_free(block->finalists);
    qs_mem_free(block->ones);
    qs_mem_free(block);
}

qs_err qs_awq_block_layer(qs_awq_block *block, int64_t layer)
{
    block->layer = layer;
    return qs_block_loss_layer(block->losses, layer);
}

/* ---- a spec in a layer ---- */

/* A site while its scaling is chosen. */
typedef struct turn {
    qs_awq_block *block;
    const qs_site_jobs *jobs;
    qs_quant_task tasks[QS_SITE_MATRICES_MAX];
    qs_awq_site site;
    double *loss; /* of the layer as chosen so far */
} turn;

static float *weights_of(float *layer, const qs_model *model, qs_role role)
{
    for (qs_role r = 0; r < role; r++) layer += role_weights(model, r);
    return layer;
}

static void set_linear(qs_awq_block *b, qs_role role, float *layer)
{
    b->linears[role] = weights_of(layer, b->model, role);
    b->stale |= 1u << role;
}

static qs_err measure(qs_awq_block *b, double *loss)
{
    unsigned stale = b->stale;
    b->stale = 0;
    return qs_block_loss_measure(b->losses, b->linears, stale, loss);
}

static void forget_scalings(const qs_awq_block *b, qs_fold *fold)
{
    for (int site = 0; site < QS_N_SITES; site++)
        memcpy(fold->columns[site], b->ones, (size_t)qs_site_width(b->config, (qs_site)site) * sizeof *b->ones);
    qs_fold_update(fold, b->config);
}

/* All matrices rounded to nearest, without scalings. */
static qs_err round_layer(qs_awq_block *b, const qs_spec *spec, double *loss)
{
    qs_err err = QS_OK;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        float *read = weights_of(b->spare, b->model, role);
        qs_tensor_info info = qs_model_info(b->model, role, b->layer);
        qs_quant_job job = {.name = qs_role_name(role), .weights = read, .n_out = info.n_out, .n_in = info.n_in};
        qs_quant_task task = {.spec = spec, .job = &job, .columns = b->ones};
        set_linear(b, role, b->weights);
        QS_TRY(qs_model_read_f32(b->model, role, b->layer, read));
        QS_TRY(qs_awq_round_weights(b->workspace, &task, NULL, false, b->linears[role]));
    }
    QS_TRY(measure(b, loss));
    if (!isfinite(*loss))
        err = qs_fail(QS_E_NUMERIC, "layer %" PRId64 ": with %s the output of the block is not finite", b->layer,
                      spec->id);
out:
    return err;
}

/* One matrix of the turn into `layer`, with the columns that its task points at. */
static qs_err round_matrix(const turn *t, int m, bool clip, float *layer)
{
    qs_awq_block *b = t->block;
    set_linear(b, t->jobs->roles[m], layer);
    return qs_awq_round_weights(b->workspace, &t->tasks[m], t->site.h, clip, b->linears[t->jobs->roles[m]]);
}

/* All matrices of the turn with these columns, and what the block loses by them. */
static qs_err rate(turn *t, const float *candidate, bool clip, float *columns, double *loss)
{
    qs_err err = QS_OK;
    memcpy(columns, candidate, (size_t)t->tasks[0].job->n_in * sizeof *columns);
    for (int m = 0; m < t->jobs->n; m++) QS_TRY(round_matrix(t, m, clip, t->block->spare));
    QS_TRY(measure(t->block, loss));
out:
    return err;
}

/* Rounded to nearest as they are, or the finalist with the least loss, the first of equals. */
static qs_err choose_columns(turn *t, float *columns, bool *clip)
{
    qs_awq_block *b = t->block;
    int64_t n_in = t->tasks[0].job->n_in, n, best = -1;
    bool cuts = t->tasks[0].spec->clip;
    double loss;
    qs_err err;
    QS_TRY(qs_awq_find_finalists(b->workspace, &t->site, b->finalists, &n));
    QS_TRY(rate(t, b->ones, false, columns, t->loss));
    for (int64_t c = cuts ? 0 : 1; c < n; c++) {
        QS_TRY(rate(t, b->finalists + c * n_in, cuts, columns, &loss));
        if (!(loss < *t->loss)) continue;
        *t->loss = loss;
        best = c;
    }
    memcpy(columns, best < 0 ? b->ones : b->finalists + best * n_in, (size_t)n_in * sizeof *columns);
    for (int m = 0; m < t->jobs->n; m++) {
        clip[t->jobs->roles[m]] = cuts && best >= 0;
        QS_TRY(round_matrix(t, m, cuts && best >= 0, b->weights));
    }
out:
    return err;
}

static qs_err choose_site(qs_awq_block *b, qs_site_loader *loader, const qs_spec *spec, qs_site site, qs_fold *fold,
                          qs_awq_choice *choice)
{
    qs_site_jobs jobs;
    turn t = {.block = b, .jobs = &jobs, .loss = &choice->loss};
    qs_err err;
    QS_TRY(qs_site_load(loader, b->layer, site, &jobs));
    for (int m = 0; m < jobs.n; m++)
        t.tasks[m] = (qs_quant_task){.spec = spec, .job = &jobs.jobs[m], .columns = fold->columns[site],
                                     .rows = qs_fold_rows(fold, jobs.roles[m])};
    t.site = (qs_awq_site){.tasks = t.tasks, .n = jobs.n};
    QS_TRY(qs_factor_h_host(jobs.jobs[0].factors, &t.site.h));
    QS_TRY(choose_columns(&t, fold->columns[site], choice->clip));
    qs_fold_update(fold, b->config);
out:
    return err;
}

qs_err qs_awq_block_choose(qs_awq_block *block, qs_site_loader *loader, const qs_spec *spec, qs_fold *fold,
                           qs_awq_choice *out)
{
    qs_err err;
    *out = (qs_awq_choice){0};
    forget_scalings(block, fold);
    QS_TRY(round_layer(block, spec, &out->rounded_loss));
    out->loss = out->rounded_loss;
    for (int i = 0; i < QS_N_SITES; i++) QS_TRY(choose_site(block, loader, spec, qs_fold_site_order[i], fold, out));
    if (out->loss <= out->rounded_loss) goto out;
    /* Scaled rows have f16 scales that round elsewhere: nothing but that can have raised the loss. */
    forget_scalings(block, fold);
    *out = (qs_awq_choice){.loss = out->rounded_loss, .rounded_loss = out->rounded_loss};
out:
    return err;
}
