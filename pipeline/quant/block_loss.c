#include "quant/block_loss.h"

#include <inttypes.h>

#include "base/mem.h"
#include "model/forward.h"
#include "model/model_record.h"

enum { BLOCK_ROWS = 1024 };

struct qs_block_loss {
    qs_backend *backend;
    const qs_model *model;
    const qs_model_config *config;
    int64_t n_windows, n_ctx, n_tokens, layer; /* the layer at hand; -1 before the first */
    float *before, *behind, *output;           /* device [n_tokens, d_model]: of the reference, and a candidate's */
    float *reference, *candidate;              /* host copies of outputs */
    qs_scratch *scratch;
    qs_block *block;
    float *const *linears; /* [QS_N_LINEARS] of the candidate that is loaded */
};

static int64_t rows_at_once(int64_t n_tokens) { return n_tokens < BLOCK_ROWS ? n_tokens : BLOCK_ROWS; }

size_t qs_block_loss_bytes(const qs_model *model, int64_t n_tokens)
{
    const qs_model_config *config = qs_model_get_config(model);
    size_t stream = (size_t)(n_tokens * config->d_model) * sizeof(float);
    return 5 * stream + qs_scratch_bytes(config, rows_at_once(n_tokens)) +
           (size_t)qs_model_n_block_weights(model) * sizeof(float);
}

qs_err qs_block_loss_create(qs_block_loss **out, qs_backend *backend, const qs_model *model, const int32_t *tokens,
                            int64_t n_windows, int64_t n_ctx)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t n = n_windows * n_ctx, n_floats = n * config->d_model;
    size_t bytes = (size_t)n_floats * sizeof(float);
    qs_block_loss *b = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(b, 1, "outputs of blocks"));
    *b = (qs_block_loss){.backend = backend, .model = model, .config = config, .n_windows = n_windows,
                         .n_ctx = n_ctx, .n_tokens = n, .layer = -1};
    QS_TRY(QS_NEW(b->reference, n_floats, "outputs of blocks"));
    QS_TRY(QS_NEW(b->candidate, n_floats, "outputs of blocks"));
    QS_TRY(qs_backend_alloc(backend, &b->before, bytes, "hidden states"));
    QS_TRY(qs_backend_alloc(backend, &b->behind, bytes, "hidden states"));
    QS_TRY(qs_backend_alloc(backend, &b->output, bytes, "hidden states"));
    QS_TRY(qs_scratch_create(&b->scratch, backend, model, rows_at_once(n)));
    QS_TRY(qs_forward_embed(backend, model, tokens, n, b->behind));
    *out = b;
    b = NULL;
out:
    qs_block_loss_destroy(b);
    return err;
}

void qs_block_loss_destroy(qs_block_loss *losses)
{
    qs_block_loss *b = losses;
    if (b == NULL) return;
    qs_block_destroy(b->block);
    qs_scratch_destroy(b->scratch);
    qs_backend_free(b->backend, b->before);
    qs_backend_free(b->backend, b->behind);
    qs_backend_free(b->backend, b->output);
    qs_mem_free(b->reference);
    qs_mem_free(b->candidate);
    qs_mem_free(b);
}

/* to = the block of from. */
static qs_err forward(const qs_block_loss *b, float *to, const float *from, float *host)
{
    size_t bytes = (size_t)(b->n_tokens * b->config->d_model) * sizeof *to;
    qs_err err;
    QS_TRY(qs_backend_copy(b->backend, to, from, bytes));
    QS_TRY(qs_block_forward(b->block, b->scratch, to, b->n_windows, b->n_ctx, NULL));
    QS_TRY(qs_backend_download(b->backend, host, to, bytes));
out:
    return err;
}

qs_err qs_block_loss_layer(qs_block_loss *losses, int64_t layer)
{
    static const qs_block_options options = {.uses = QS_USE_GEMM, .compute = QS_COMPUTE_F32, .dense_dtype = QS_F32};
    qs_block_loss *b = losses;
    float *reached = b->behind;
    qs_err err;
    if (layer != b->layer + 1)
        return qs_fail(QS_E_USAGE, "outputs of layer %" PRId64 ": layer %" PRId64 " is next", layer, b->layer + 1);
    b->behind = b->before;
    b->before = reached;
    if (b->block != NULL)
        QS_TRY(qs_block_load(b->block, NULL, layer));
    else
        QS_TRY(qs_block_create(&b->block, b->backend, b->model, NULL, layer, &options));
    QS_TRY(forward(b, b->behind, b->before, b->reference));
    b->layer = layer;
out:
    return err;
}

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    const qs_block_loss *b = context;
    qs_tensor_info info = qs_model_info(b->model, role, layer);
    *desc = (qs_matrix_desc){
        .format = QS_MATRIX_F32, .n_out = info.n_out, .n_in = info.n_in, .dense = b->linears[role]};
    return QS_OK;
}

qs_err qs_block_loss_measure(qs_block_loss *losses, float *const linears[QS_N_LINEARS], unsigned changed,
                             double *loss)
{
    qs_block_loss *b = losses;
    const qs_linear_source source = {.get = get_linear, .context = b};
    int64_t d = b->config->d_model;
    qs_err err;
    b->linears = linears;
    QS_TRY(qs_block_load_linears(b->block, &source, changed));
    QS_TRY(forward(b, b->output, b->before, b->candidate));
    *loss = 0;
    for (int64_t t = 0; t < b->n_tokens; t++) {
        const float *y = b->reference + t * d, *other = b->candidate + t * d;
        double error = 0, size = 0;
        for (int64_t i = 0; i < d; i++) {
            error += ((double)other[i] - (double)y[i]) * ((double)other[i] - (double)y[i]);
            size += (double)y[i] * (double)y[i];
        }
        if (size > 0) *loss += error / size / (double)b->n_tokens;
    }
out:
    return err;
}
