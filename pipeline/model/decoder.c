/* Decoding with every layer resident. Weights are held in the form that a deployment holds them, packed codes
 * or 16 bits, and the prompt goes through that form too; nothing is allocated after creation. */
#include "base/mem.h"
#include "model/block_impl.h"
#include "model/forward.h"

struct qs_decoder {
    qs_backend *backend;
    const qs_model *model;
    const qs_model_config *config;
    int64_t batch, n_ctx_cap;
    qs_block **blocks;      /* [n_layers] */
    qs_kv *kvs;             /* [n_layers] */
    float *cache;           /* device, all of them */
    qs_matrix *head;
    float *final_norm;      /* device [d_model] */
    qs_scratch *scratch;
    float *hidden;          /* device [max(batch, n_ctx_cap), d_model] */
    float *logits;          /* device [batch, n_vocab] */
    float *embedding;       /* host [batch, d_model] */
    int32_t *positions;     /* host [batch]: tokens that each sequence holds */
    int32_t *on_device;     /* device [batch]: the same, for a step */
};

static size_t kv_floats_per_layer(const qs_decoder *d)
{
    return (size_t)(d->batch * d->n_ctx_cap * d->config->n_kv_heads * d->config->head_dim);
}

static qs_err create_blocks(qs_decoder *d, const qs_linear_source *linears, const qs_block_options *options)
{
    qs_err err = QS_OK;
    qs_staging staging = {0};
    QS_TRY(QS_NEW(d->blocks, d->config->n_layers, "blocks"));
    for (int64_t layer = 0; layer < d->config->n_layers; layer++) {
        QS_TRY(qs_block_create_staged(&d->blocks[layer], d->backend, d->model, linears, layer, options, &staging));
        d->blocks[layer]->staging = NULL; /* resident: never loaded again */
    }
out:
    qs_staging_free(&staging);
    return err;
}

static qs_err create_caches(qs_decoder *d)
{
    qs_err err = QS_OK;
    size_t floats = kv_floats_per_layer(d);
    QS_TRY(QS_NEW(d->kvs, d->config->n_layers, "caches"));
    QS_TRY(qs_backend_alloc(d->backend, &d->cache, 2 * floats * (size_t)d->config->n_layers * sizeof(float),
                            "KV cache"));
    for (int64_t layer = 0; layer < d->config->n_layers; layer++) {
        float *k = d->cache + 2 * floats * (size_t)layer;
        d->kvs[layer] = (qs_kv){.k = k, .v = k + floats, .batch = d->batch, .n_ctx_cap = d->n_ctx_cap};
    }
out:
    return err;
}

static qs_err create_ends(qs_decoder *d, const qs_block_options *options)
{
    qs_err err = QS_OK;
    size_t row_bytes = (size_t)d->config->d_model * sizeof(float);
    int64_t n_rows = d->n_ctx_cap > d->batch ? d->n_ctx_cap : d->batch;
    QS_TRY(QS_NEW(d->embedding, d->batch * d->config->d_model, "embeddings"));
    QS_TRY(QS_NEW(d->positions, d->batch, "positions"));
    QS_TRY(qs_forward_head(&d->head, d->backend, d->model, options));
    QS_TRY(qs_backend_alloc(d->backend, &d->on_device, (size_t)d->batch * sizeof *d->on_device, "positions"));
    QS_TRY(qs_backend_alloc(d->backend, &d->final_norm, row_bytes, "final norm"));
    QS_TRY(qs_model_read_f32(d->model, QS_ROLE_FINAL_NORM, 0, d->embedding));
    QS_TRY(qs_backend_upload(d->backend, d->final_norm, d->embedding, row_bytes));
    QS_TRY(qs_backend_alloc(d->backend, &d->hidden, (size_t)n_rows * row_bytes, "hidden states"));
    QS_TRY(qs_backend_alloc(d->backend, &d->logits, (size_t)(d->batch * d->config->n_vocab) * sizeof(float),
                            "logits"));
    QS_TRY(qs_scratch_create(&d->scratch, d->backend, d->model, n_rows));
out:
    return err;
}

qs_err qs_decoder_create(qs_decoder **out, qs_backend *backend, const qs_model *model,
                         const qs_linear_source *linears, const qs_decoder_options *options)
{
    qs_err err = QS_OK;
    qs_decoder *d = NULL;
    *out = NULL;
    if (options->batch < 1 || options->batch > qs_backend_gemv_rows(backend) || options->n_ctx_cap < 1)
        return qs_fail(QS_E_USAGE, "create decoder: batch %lld (1 to %lld) with room for %lld tokens",
                       (long long)options->batch, (long long)qs_backend_gemv_rows(backend),
                       (long long)options->n_ctx_cap);
    qs_block_options block = options->block;
    block.uses = QS_USE_GEMV;
    QS_TRY(QS_NEW(d, 1, "decoder"));
    d->backend = backend;
    d->model = model;
    d->config = qs_model_get_config(model);
    d->batch = options->batch;
    d->n_ctx_cap = options->n_ctx_cap;
    QS_TRY(create_blocks(d, linears, &block));
    QS_TRY(create_caches(d));
    QS_TRY(create_ends(d, &block));
    *out = d;
    d = NULL;
out:
    qs_decoder_destroy(d);
    return err;
}

void qs_decoder_destroy(qs_decoder *decoder)
{
    if (decoder == NULL) return;
    if (decoder->blocks != NULL)
        for (int64_t layer = 0; layer < decoder->config->n_layers; layer++) qs_block_destroy(decoder->blocks[layer]);
    qs_mem_free(decoder->blocks);
    qs_mem_free(decoder->kvs);
    qs_backend_free(decoder->backend, decoder->cache);
    qs_matrix_destroy(decoder->head);
    qs_backend_free(decoder->backend, decoder->final_norm);
    qs_scratch_destroy(decoder->scratch);
    qs_backend_free(decoder->backend, decoder->hidden);
    qs_backend_free(decoder->backend, decoder->logits);
    qs_backend_free(decoder->backend, decoder->on_device);
    qs_mem_free(decoder->embedding);
    qs_mem_free(decoder->positions);
    qs_mem_free(decoder);
}

void qs_decoder_bytes(const qs_decoder *decoder, size_t *weights_bytes, size_t *kv_bytes)
{
    size_t bytes = qs_matrix_bytes(decoder->head) + (size_t)decoder->config->d_model * sizeof(float);
    for (int64_t layer = 0; layer < decoder->config->n_layers; layer++)
        bytes += qs_block_bytes(decoder->blocks[layer]);
    /* Embedding rows are read from the mapped file; a tied one is the head, and counts once. */
    if (!decoder->config->tied_head) bytes += qs_model_info(decoder->model, QS_ROLE_EMBED, 0).bytes;
    *weights_bytes = bytes;
    *kv_bytes = 2 * kv_floats_per_layer(decoder) * (size_t)decoder->config->n_layers * sizeof(float);
}

static qs_err embed(qs_decoder *d, const int32_t *tokens, int64_t n, float *hidden)
{
    qs_err err = QS_OK;
    int64_t width = d->config->d_model;
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= d->config->n_vocab)
            return qs_fail(QS_E_INPUT, "decode: token id %d is outside the vocabulary of %lld", tokens[i],
                           (long long)d->config->n_vocab);
        QS_TRY(qs_model_read_rows_f32(d->model, QS_ROLE_EMBED, 0, tokens[i], 1, d->embedding + i * width));
    }
    QS_TRY(qs_backend_upload(d->backend, hidden, d->embedding, (size_t)(n * width) * sizeof *hidden));
out:
    return err;
}

/* Final norm, head and download of n rows. */
static qs_err answer(qs_decoder *d, float *hidden, int64_t n, float *logits)
{
    qs_err err = QS_OK;
    const qs_model_config *c = d->config;
    QS_TRY(qs_op_rmsnorm(d->backend, hidden, d->final_norm, n, c->d_model, c->norm_eps, hidden));
    QS_TRY(qs_op_linear(d->backend, d->head, hidden, n, NULL, d->logits));
    QS_TRY(qs_backend_download(d->backend, logits, d->logits, (size_t)(n * c->n_vocab) * sizeof *logits));
out:
    return err;
}

qs_err qs_decoder_prefill(qs_decoder *decoder, int64_t index, const int32_t *tokens, int64_t n, float *logits)
{
    qs_err err = QS_OK;
    qs_decoder *d = decoder;
    int64_t width = d->config->d_model;
    if (index < 0 || index >= d->batch || n < 1 || n > d->n_ctx_cap)
        return qs_fail(QS_E_USAGE, "prefill sequence %lld with %lld tokens: there are %lld sequences of up to %lld",
                       (long long)index, (long long)n, (long long)d->batch, (long long)d->n_ctx_cap);
    for (int64_t row = 0; row < n; row += d->batch) {
        int64_t n_rows = n - row < d->batch ? n - row : d->batch;
        QS_TRY(embed(d, tokens + row, n_rows, d->hidden + row * width));
    }
    for (int64_t layer = 0; layer < d->config->n_layers; layer++)
        QS_TRY(qs_block_prefill(d->blocks[layer], d->scratch, d->hidden, &d->kvs[layer], index, n));
    QS_TRY(answer(d, d->hidden + (n - 1) * width, 1, logits));
    d->positions[index] = (int32_t)n;
out:
    return err;
}

qs_err qs_decoder_step(qs_decoder *decoder, const int32_t *tokens, float *logits)
{
    qs_err err = QS_OK;
    qs_decoder *d = decoder;
    for (int64_t i = 0; i < d->batch; i++)
        if (d->positions[i] >= d->n_ctx_cap)
            return qs_fail(QS_E_USAGE, "decode: sequence %lld has filled its cache of %lld tokens", (long long)i,
                           (long long)d->n_ctx_cap);
    QS_TRY(embed(d, tokens, d->batch, d->hidden));
    QS_TRY(qs_backend_upload(d->backend, d->on_device, d->positions, (size_t)d->batch * sizeof *d->positions));
    for (int64_t layer = 0; layer < d->config->n_layers; layer++)
        QS_TRY(qs_block_decode(d->blocks[layer], d->scratch, d->hidden, &d->kvs[layer], d->on_device));
    QS_TRY(answer(d, d->hidden, d->batch, logits));
    for (int64_t i = 0; i < d->batch; i++) d->positions[i]++;
out:
    return err;
}
