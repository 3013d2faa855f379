#include "quant/propagate.h"

#include "base/mem.h"
#include "model/forward.h"
#include "model/turned.h"
#include "quant/block_loss.h"
#include "quant/turned_grams.h"
#include "stat/calib_file.h"

enum { PROBE_ROWS = 1024 }; /* on their way through the host, to be turned back */

struct qs_propagation {
    qs_backend *backend;
    qs_model *model; /* whose stream it is: the rotated one, where the spec rotates */
    qs_collector *collector;
    qs_gram_source collected, grams; /* as collected, and as the spec's model has them */
    qs_turned_grams *turned_grams;
    qs_quantizer *quantizer;
    float *rows;                          /* [PROBE_ROWS, d_model], of a rotated stream */
    int32_t tokens[QS_BLOCK_LOSS_TOKENS]; /* for budgets and block losses */
};

qs_err qs_propagation_check(qs_model *model, const qs_spec *spec)
{
    qs_model *turned;
    qs_err err;
    QS_TRY(qs_quant_check(model, spec, 1, true));
    if (!spec->rotate) goto out;
    QS_TRY(qs_model_turn(model, &turned));
    err = qs_turned_grams_check(turned, false);
out:
    return err;
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **gram, int64_t *n_tokens)
{
    qs_collector *collector = context;
    *n_tokens = collector->sites[site].n_tokens;
    return qs_collector_gram(collector, layer, site, gram);
}

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    (void)layer;
    return qs_collector_abs_mean(context, site, abs_mean);
}

qs_err qs_propagation_create(qs_propagation **out, qs_backend *backend, qs_model *model, const qs_spec *spec,
                             qs_collector *collector, const int32_t *windows, int64_t n_samples, int64_t seqlen)
{
    qs_propagation *p = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(p, 1, "propagation"));
    p->backend = backend;
    p->model = model;
    p->collector = collector;
    p->collected = (qs_gram_source){.get = get_gram, .get_abs = get_abs, .context = collector, .tokens = p->tokens,
                                    .n_windows = QS_BLOCK_LOSS_WINDOWS, .n_ctx = QS_BLOCK_LOSS_CTX};
    qs_calib_spread_tokens(windows, n_samples, seqlen, &p->collected.n_windows, &p->collected.n_ctx, p->tokens);
    p->grams = p->collected;
    if (spec->rotate) {
        QS_TRY(qs_model_turn(model, &p->model));
        QS_TRY(qs_turned_grams_create(&p->turned_grams, p->model, &p->collected));
        p->grams = qs_turned_grams_source(p->turned_grams);
        QS_TRY(QS_NEW(p->rows, PROBE_ROWS * qs_model_get_config(model)->d_model, "states to be turned back"));
    }
    QS_TRY(qs_quantizer_create(&p->quantizer, p->model, backend, &p->grams, spec, 1));
    *out = p;
    p = NULL;
out:
    qs_propagation_destroy(p);
    return err;
}

void qs_propagation_destroy(qs_propagation *propagation)
{
    if (propagation == NULL) return;
    qs_quantizer_destroy(propagation->quantizer);
    qs_turned_grams_destroy(propagation->turned_grams);
    qs_mem_free(propagation->rows);
    qs_mem_free(propagation);
}

int64_t qs_propagation_bytes(const qs_model *model, int n_threads, const qs_spec *spec)
{
    qs_spec blocks = *spec; /* the head is no layer */
    blocks.head = 0;
    int64_t bytes = qs_quant_cost_of(model, n_threads, true, &blocks, 1).bytes;
    if (!spec->rotate) return bytes;
    return bytes + (int64_t)qs_turned_grams_bytes(model) +
           PROBE_ROWS * qs_model_get_config(model)->d_model * (int64_t)sizeof(float);
}

bool qs_propagation_measures(const qs_propagation *propagation)
{
    return qs_quantizer_has_budgets(propagation->quantizer);
}

qs_err qs_propagation_measure(qs_propagation *propagation, int64_t layer)
{
    return qs_quantizer_measure(propagation->quantizer, layer);
}

qs_err qs_propagation_share(qs_propagation *propagation) { return qs_quantizer_share(propagation->quantizer); }

qs_err qs_propagation_embed(qs_propagation *propagation, const int32_t *tokens, int64_t n, float *hidden)
{
    return qs_forward_embed(propagation->backend, propagation->model, tokens, n, hidden);
}

qs_err qs_propagation_probe(qs_propagation *propagation, const float *hidden, int64_t n, float *probe)
{
    qs_propagation *p = propagation;
    const qs_rotation *rotation = qs_model_rotation(p->model);
    int64_t d = qs_model_get_config(p->model)->d_model;
    qs_err err = QS_OK;
    if (rotation == NULL) return qs_backend_copy(p->backend, probe, hidden, (size_t)(n * d) * sizeof *probe);
    for (int64_t row = 0; row < n; row += PROBE_ROWS) {
        int64_t n_rows = n - row < PROBE_ROWS ? n - row : PROBE_ROWS;
        size_t bytes = (size_t)(n_rows * d) * sizeof *probe;
        QS_TRY(qs_backend_download(p->backend, p->rows, hidden + row * d, bytes));
        QS_TRY(qs_rotation_turn_rows_back(rotation, NULL, p->rows, n_rows));
        QS_TRY(qs_backend_upload(p->backend, probe + row * d, p->rows, bytes));
    }
out:
    return err;
}

qs_err qs_propagation_layer(qs_propagation *propagation, int64_t layer, qs_quant_layer *out)
{
    return qs_quantizer_layer(propagation->quantizer, layer, out);
}
