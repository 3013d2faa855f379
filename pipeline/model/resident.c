#include "model/resident.h"

#include "base/mem.h"
#include "model/block_impl.h"

/* Adds what one matrix needs to *scratch; *bytes are its own. */
static qs_err add_matrix(size_t *bytes, qs_need *scratch, const qs_backend *backend, const qs_resident_source *source,
                         int64_t layer, qs_role role, qs_compute compute, int64_t n_rows)
{
    qs_matrix_desc desc;
    qs_need need;
    qs_err err;
    QS_TRY(source->describe(source->context, layer, role, &desc));
    QS_TRY(qs_matrix_need(&need, backend, &desc, QS_USE_GEMV, compute, n_rows));
    qs_need_add(scratch, &need);
    *bytes += need.own_bytes;
out:
    return err;
}

qs_err qs_resident_plan(qs_placement_weights *out, const qs_backend *backend, const qs_model_config *config,
                        const qs_resident_source *source, const qs_decoder_options *options)
{
    const qs_attention_shape shape = {.n_heads = config->n_heads, .n_kv_heads = config->n_kv_heads,
                                      .head_dim = config->head_dim, .window = config->sliding_window};
    qs_compute compute = qs_backend_has_device(backend) ? options->block.compute : QS_COMPUTE_F32; /* as decoder.c */
    int64_t n_rows = options->n_ctx_cap > options->batch ? options->n_ctx_cap : options->batch;
    qs_need scratch;
    qs_err err;
    *out = (qs_placement_weights){0};
    qs_decoding_need(&scratch, backend, &shape, options->batch, options->n_ctx_cap);
    QS_TRY(QS_NEW(out->layers, config->n_layers, "sizes of layers"));
    for (int64_t layer = 0; layer < config->n_layers; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++)
            QS_TRY(qs_context(add_matrix(&out->layers[layer], &scratch, backend, source, layer, role, compute, n_rows),
                              "layer %lld, %s", (long long)layer, qs_role_name(role)));
    out->workspace = qs_need_scratch(&scratch);
    QS_TRY(qs_context(add_matrix(&out->head, &scratch, backend, source, 0, QS_ROLE_HEAD, compute, options->batch),
                      "output head"));
    out->head_workspace = qs_need_scratch(&scratch) - out->workspace;
out:
    if (err != QS_OK) qs_placement_weights_free(out);
    return err;
}

/* ---- of a decoder ---- */

typedef struct decoder_source {
    const qs_model *model;
    const qs_linear_source *linears;
    const qs_block_options *options;
    bool has_device;
} decoder_source;

static qs_err describe(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    const decoder_source *s = context;
    const qs_linear_source *linears = s->linears;
    bool is_head = role == QS_ROLE_HEAD;
    if (linears == NULL || (is_head && linears->get_head == NULL)) {
        qs_staging_describe(s->model, role, layer, s->options, s->has_device && !is_head, desc);
        return QS_OK;
    }
    if (linears->describe != NULL) return linears->describe(linears->context, layer, role, desc);
    return is_head ? linears->get_head(linears->context, desc) : linears->get(linears->context, layer, role, desc);
}

qs_err qs_resident_plan_decoder(qs_placement_weights *out, const qs_backend *backend, const qs_model *model,
                                const qs_linear_source *linears, const qs_decoder_options *options)
{
    qs_block_options block = options->block;
    block.uses = QS_USE_GEMV;
    decoder_source context = {.model = model, .linears = linears, .options = &block,
                              .has_device = qs_backend_has_device(backend)};
    const qs_resident_source source = {.describe = describe, .context = &context};
    return qs_resident_plan(out, backend, qs_model_get_config(model), &source, options);
}
