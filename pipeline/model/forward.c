#include "model/forward.h"

#include "base/mem.h"
#include "base/minmax.h"
#include "model/block_impl.h"
#include "model/feed.h"

/* Rows at once: of embeddings on their way to the device, through a block, and through the head. */
enum { EMBED_ROWS = 64, BLOCK_ROWS = 1024, HEAD_ROWS = 64 };

qs_err qs_forward_embed(qs_backend *backend, const qs_model *model, const int32_t *tokens, int64_t n, float *hidden)
{
    qs_err err = QS_OK;
    float *rows = NULL;
    const qs_model_config *config = qs_model_get_config(model);
    int64_t d = config->d_model;
    QS_TRY(QS_NEW(rows, qs_min64(n, EMBED_ROWS) * d, "embeddings"));
    for (int64_t first = 0; first < n; first += EMBED_ROWS) {
        int64_t n_rows = qs_min64(n - first, EMBED_ROWS);
        for (int64_t i = 0; i < n_rows; i++) {
            int32_t token = tokens[first + i];
            if (token < 0 || token >= config->n_vocab) {
                err = qs_fail(QS_E_INPUT, "embed token %lld: id %d is outside the vocabulary of %lld",
                              (long long)(first + i), token, (long long)config->n_vocab);
                goto out;
            }
            QS_TRY(qs_model_read_rows_f32(model, QS_ROLE_EMBED, 0, token, 1, rows + i * d));
        }
        QS_TRY(qs_backend_upload(backend, hidden + first * d, rows, (size_t)(n_rows * d) * sizeof *rows));
    }
out:
    qs_mem_free(rows);
    return err;
}

qs_err qs_forward_final_norm(qs_backend *backend, const qs_model *model, float *hidden, int64_t n)
{
    qs_err err = QS_OK;
    float *weight = NULL, *on_device = NULL;
    const qs_model_config *config = qs_model_get_config(model);
    size_t bytes = (size_t)config->d_model * sizeof(float);
    QS_TRY(QS_NEW(weight, config->d_model, "final norm"));
    QS_TRY(qs_model_read_f32(model, QS_ROLE_FINAL_NORM, 0, weight));
    QS_TRY(qs_backend_alloc(backend, &on_device, bytes, "final norm"));
    QS_TRY(qs_backend_upload(backend, on_device, weight, bytes));
    QS_TRY(qs_op_rmsnorm(backend, hidden, on_device, n, config->d_model, config->norm_eps, hidden));
    QS_TRY(qs_backend_sync(backend)); /* before the weight is freed */
out:
    qs_backend_free(backend, on_device);
    qs_mem_free(weight);
    return err;
}

qs_err qs_forward_head(qs_matrix **out, qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                       const qs_block_options *options)
{
    qs_err err = QS_OK;
    qs_staging staging = {0};
    qs_matrix_desc desc;
    *out = NULL;
    if (linears != NULL && linears->get_head != NULL) QS_TRY(linears->get_head(linears->context, &desc));
    else QS_TRY(qs_staging_read(&staging, model, QS_ROLE_HEAD, 0, options, false, &desc));
    QS_TRY(qs_matrix_create(out, backend, &desc, options->uses, options->compute));
out:
    qs_staging_free(&staging);
    return qs_context(err, "output head");
}

/* hidden (device) through every layer, one block in memory at a time. */
static qs_err run_layers(qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                         qs_compute compute, int64_t n_windows, int64_t n_ctx, const qs_tap *tap, float *hidden)
{
    qs_err err = QS_OK;
    qs_feed feed;
    qs_scratch *scratch = NULL;
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = compute, .dense_dtype = QS_F32};
    qs_feed_init(&feed, backend, model, &options);
    int64_t at_once = n_ctx < BLOCK_ROWS ? qs_min64(n_windows, BLOCK_ROWS / n_ctx) : 1;
    QS_TRY(qs_scratch_create(&scratch, backend, model, at_once * n_ctx));
    int64_t n_layers = qs_model_get_config(model)->n_layers;
    QS_TRY(qs_feed_load(&feed, linears, 0));
    for (int64_t layer = 0; layer < n_layers; layer++) {
        QS_TRY(qs_feed_mark(&feed));
        QS_TRY(qs_block_forward(qs_feed_block(&feed), scratch, hidden, n_windows, n_ctx, tap));
        if (layer + 1 < n_layers) QS_TRY(qs_feed_load_next(&feed, linears, layer + 1));
    }
out:
    qs_feed_fini(&feed);
    qs_scratch_destroy(scratch);
    return err;
}

qs_err qs_forward_hidden(qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                         qs_compute compute, const int32_t *tokens, int64_t n_windows, int64_t n_ctx,
                         const qs_tap *tap, float *hidden)
{
    qs_err err = QS_OK;
    float *on_device = NULL;
    if (n_windows < 1 || n_ctx < 1)
        return qs_fail(QS_E_USAGE, "run model: %lld windows of %lld tokens", (long long)n_windows, (long long)n_ctx);
    int64_t n = n_windows * n_ctx;
    size_t bytes = (size_t)(n * qs_model_get_config(model)->d_model) * sizeof *hidden;
    QS_TRY(qs_backend_alloc(backend, &on_device, bytes, "hidden states"));
    QS_TRY(qs_forward_embed(backend, model, tokens, n, on_device));
    QS_TRY(run_layers(backend, model, linears, compute, n_windows, n_ctx, tap, on_device));
    QS_TRY(qs_forward_final_norm(backend, model, on_device, n));
    QS_TRY(qs_backend_download(backend, hidden, on_device, bytes));
out:
    qs_backend_free(backend, on_device);
    return err;
}

qs_err qs_forward_logits(qs_backend *backend, const qs_model *model, qs_compute compute, const float *hidden,
                         int64_t n, float *logits)
{
    qs_err err = QS_OK;
    qs_matrix *head = NULL;
    float *x = NULL, *y = NULL;
    const qs_model_config *config = qs_model_get_config(model);
    int64_t d = config->d_model, n_vocab = config->n_vocab, n_tile = qs_min64(n, HEAD_ROWS);
    qs_block_options options = {.uses = QS_USE_GEMM, .compute = compute, .dense_dtype = QS_F32};
    QS_TRY(qs_forward_head(&head, backend, model, NULL, &options));
    QS_TRY(qs_backend_alloc(backend, &x, (size_t)(n_tile * d) * sizeof *x, "hidden states"));
    QS_TRY(qs_backend_alloc(backend, &y, (size_t)(n_tile * n_vocab) * sizeof *y, "logits"));
    for (int64_t row = 0; row < n; row += n_tile) {
        int64_t n_rows = qs_min64(n - row, n_tile);
        QS_TRY(qs_backend_upload(backend, x, hidden + row * d, (size_t)(n_rows * d) * sizeof *x));
        QS_TRY(qs_op_linear(backend, head, x, n_rows, NULL, y));
        QS_TRY(qs_backend_download(backend, logits + row * n_vocab, y, (size_t)(n_rows * n_vocab) * sizeof *y));
    }
out:
    qs_backend_free(backend, x);
    qs_backend_free(backend, y);
    qs_matrix_destroy(head);
    return err;
}
