/* Decoding with every layer resident. Weights are held in the form that a deployment holds them, packed codes
 * or 16 bits, and the prompt goes through that form too; nothing is allocated after creation.
 *
 * A token's way: positions and embedding rows go up in one piece, the layers run, logits come back. Where the
 * backend keeps recordings, the first step runs op by op (scratch gets its size), the second is recorded, and from
 * then on a step is one play: launching some hundred kernels one by one would take longer than running them. */
#include <string.h>

#include "base/mem.h"
#include "base/minmax.h"
#include "model/block_impl.h"
#include "model/forward.h"

enum { STAGED_ROWS = 16, /* of a prompt on their way between host and device */
       ALIGN_FLOATS = QS_MEM_ALIGN / (int)sizeof(float) };

/* A backend and the layers, one after the other, that it computes. */
typedef struct side {
    qs_backend *backend;
    int64_t first, end;
    float *cache;        /* device, of all its layers */
    float *input;        /* device: what a step uploads; the two below lie in it */
    int32_t *positions;  /* [batch] */
    float *hidden;       /* [max(batch, n_ctx_cap), d_model] */
    qs_scratch *scratch;
    bool warm;           /* a step has run op by op */
    qs_recording *recording;
} side;

struct qs_decoder {
    const qs_model *model;
    const qs_model_config *config;
    int64_t batch, n_ctx_cap, n_staged;
    int64_t n_sides;
    side sides[QS_DECODER_PARTS_MAX]; /* in the order of the layers; the last one has final norm and head */
    qs_block **blocks;      /* [n_layers] */
    qs_kv *kvs;             /* [n_layers] */
    qs_matrix *head;
    bool own_head;          /* of the linears: no table serves as embedding and head */
    float *final_norm;      /* device [d_model] */
    float *logits;          /* device [batch, n_vocab] */
    float *staged;          /* host, laid out as a side's input, with n_staged rows */
    int32_t *positions;     /* host [batch]: tokens that each sequence holds */
};

/* Where the rows begin in a side's input, in floats; positions are in front of them. */
static int64_t rows_offset(int64_t batch) { return (batch + ALIGN_FLOATS - 1) / ALIGN_FLOATS * ALIGN_FLOATS; }

size_t qs_decoder_input_bytes(const qs_model_config *config, int64_t batch, int64_t n_ctx_cap)
{
    return (size_t)(rows_offset(batch) + qs_max64(n_ctx_cap, batch) * config->d_model) * sizeof(float);
}

static int64_t n_rows_max(const qs_decoder *d) { return qs_max64(d->n_ctx_cap, d->batch); }

static side *last_side(qs_decoder *d) { return &d->sides[d->n_sides - 1]; }

static size_t kv_floats_per_layer(const qs_decoder *d)
{
    return (size_t)(d->batch * d->n_ctx_cap * d->config->n_kv_heads * d->config->head_dim);
}

/* ---- creation ---- */

static qs_err create_blocks(qs_decoder *d, const side *s, const qs_linear_source *linears,
                            const qs_block_options *options)
{
    qs_err err = QS_OK;
    qs_staging staging = {0};
    for (int64_t layer = s->first; layer < s->end; layer++) {
        QS_TRY(qs_block_create_staged(&d->blocks[layer], s->backend, d->model, linears, layer, options, &staging));
        d->blocks[layer]->staging = NULL; /* resident: never loaded again */
    }
out:
    qs_staging_free(&staging);
    return err;
}

static qs_err create_caches(qs_decoder *d, side *s)
{
    size_t floats = kv_floats_per_layer(d);
    qs_err err = qs_backend_alloc(s->backend, &s->cache, 2 * floats * (size_t)(s->end - s->first) * sizeof(float),
                                  "KV cache");
    for (int64_t layer = s->first; layer < s->end && err == QS_OK; layer++) {
        float *k = s->cache + 2 * floats * (size_t)(layer - s->first);
        d->kvs[layer] = (qs_kv){.k = k, .v = k + floats, .batch = d->batch, .n_ctx_cap = d->n_ctx_cap};
    }
    return err;
}

static qs_err create_side(qs_decoder *d, side *s, const qs_linear_source *linears, const qs_block_options *options)
{
    qs_err err = QS_OK;
    size_t input_bytes = qs_decoder_input_bytes(d->config, d->batch, d->n_ctx_cap);
    QS_TRY(create_blocks(d, s, linears, options));
    QS_TRY(create_caches(d, s));
    QS_TRY(qs_backend_alloc(s->backend, &s->input, input_bytes, "positions and hidden states"));
    s->positions = (int32_t *)(void *)s->input;
    s->hidden = s->input + rows_offset(d->batch);
    QS_TRY(qs_scratch_create(&s->scratch, s->backend, d->model, n_rows_max(d)));
out:
    return err;
}

static qs_err create_head(qs_decoder *d, const qs_linear_source *linears, const qs_block_options *options)
{
    qs_err err = QS_OK;
    qs_backend *backend = last_side(d)->backend;
    size_t row_bytes = (size_t)d->config->d_model * sizeof(float);
    QS_TRY(qs_forward_head(&d->head, backend, d->model, linears, options));
    QS_TRY(qs_backend_alloc(backend, &d->final_norm, row_bytes, "final norm"));
    QS_TRY(qs_model_read_f32(d->model, QS_ROLE_FINAL_NORM, 0, d->staged));
    QS_TRY(qs_backend_upload(backend, d->final_norm, d->staged, row_bytes));
    QS_TRY(qs_backend_alloc(backend, &d->logits, (size_t)(d->batch * d->config->n_vocab) * sizeof(float), "logits"));
out:
    return err;
}

static qs_err check_options(const qs_backend *backend, const qs_model_config *config,
                            const qs_decoder_options *options)
{
    int64_t rows = qs_backend_gemv_rows(backend), n_layers = 0;
    if (options->n_parts < 0 || options->n_parts > QS_DECODER_PARTS_MAX)
        return qs_fail(QS_E_USAGE, "create decoder: %lld parts, of at most %d", (long long)options->n_parts,
                       QS_DECODER_PARTS_MAX);
    for (int64_t i = 0; options->parts != NULL && i < options->n_parts; i++) {
        const qs_decoder_part *part = &options->parts[i];
        if (part->n_layers < 0)
            return qs_fail(QS_E_USAGE, "create decoder: a part of %lld layers", (long long)part->n_layers);
        if (part->n_layers > 0) rows = qs_min64(rows, qs_backend_gemv_rows(part->backend));
        n_layers += part->n_layers;
    }
    if (options->batch < 1 || options->batch > rows || options->n_ctx_cap < 1)
        return qs_fail(QS_E_USAGE, "create decoder: batch %lld (1 to %lld) with room for %lld tokens",
                       (long long)options->batch, (long long)rows, (long long)options->n_ctx_cap);
    if (options->parts != NULL && n_layers != config->n_layers)
        return qs_fail(QS_E_USAGE, "create decoder: parts of %lld layers together, the model has %lld",
                       (long long)n_layers, (long long)config->n_layers);
    return QS_OK;
}

/* Parts without layers are left out. */
static void lay_out_sides(qs_decoder *d, qs_backend *backend, const qs_decoder_options *options)
{
    const qs_decoder_part whole = {backend, d->config->n_layers};
    const qs_decoder_part *parts = options->parts != NULL ? options->parts : &whole;
    int64_t n_parts = options->parts != NULL ? options->n_parts : 1, first = 0;
    for (int64_t i = 0; i < n_parts; i++) {
        if (parts[i].n_layers == 0) continue;
        d->sides[d->n_sides++] = (side){.backend = parts[i].backend, .first = first, .end = first + parts[i].n_layers};
        first += parts[i].n_layers;
    }
}

qs_err qs_decoder_create(qs_decoder **out, qs_backend *backend, const qs_model *model,
                         const qs_linear_source *linears, const qs_decoder_options *options)
{
    qs_err err = QS_OK;
    qs_decoder *d = NULL;
    const qs_model_config *config = qs_model_get_config(model);
    qs_block_options block = options->block;
    block.uses = QS_USE_GEMV;
    *out = NULL;
    QS_TRY(check_options(backend, config, options));
    QS_TRY(QS_NEW(d, 1, "decoder"));
    d->model = model;
    d->config = config;
    d->own_head = linears != NULL && linears->get_head != NULL;
    d->batch = options->batch;
    d->n_ctx_cap = options->n_ctx_cap;
    d->n_staged = qs_max64(d->batch, qs_min64(d->n_ctx_cap, STAGED_ROWS));
    lay_out_sides(d, backend, options);
    QS_TRY(QS_NEW(d->blocks, config->n_layers, "blocks"));
    QS_TRY(QS_NEW(d->kvs, config->n_layers, "caches"));
    QS_TRY(QS_NEW(d->staged, rows_offset(d->batch) + d->n_staged * config->d_model, "embeddings"));
    QS_TRY(QS_NEW(d->positions, d->batch, "positions"));
    for (int64_t i = 0; i < d->n_sides; i++) {
        /* What shortens products on a device does nothing for the host's kernels. */
        if (options->parts != NULL && !qs_backend_has_device(d->sides[i].backend)) block.compute = QS_COMPUTE_F32;
        QS_TRY(create_side(d, &d->sides[i], linears, &block));
    }
    QS_TRY(create_head(d, linears, &block));
    *out = d;
    d = NULL;
out:
    qs_decoder_destroy(d);
    return err;
}

void qs_decoder_destroy(qs_decoder *decoder)
{
    qs_decoder *d = decoder;
    if (d == NULL) return;
    for (int64_t i = 0; i < d->n_sides; i++) qs_recording_destroy(d->sides[i].recording);
    for (int64_t layer = 0; d->blocks != NULL && layer < d->config->n_layers; layer++)
        qs_block_destroy(d->blocks[layer]);
    for (int64_t i = 0; i < d->n_sides; i++) {
        side *s = &d->sides[i];
        qs_scratch_destroy(s->scratch);
        qs_backend_free(s->backend, s->cache);
        qs_backend_free(s->backend, s->input);
    }
    qs_matrix_destroy(d->head);
    if (d->n_sides > 0) {
        qs_backend_free(last_side(d)->backend, d->final_norm);
        qs_backend_free(last_side(d)->backend, d->logits);
    }
    qs_mem_free(d->blocks);
    qs_mem_free(d->kvs);
    qs_mem_free(d->staged);
    qs_mem_free(d->positions);
    qs_mem_free(d);
}

void qs_decoder_bytes(const qs_decoder *decoder, size_t *weights_bytes, size_t *kv_bytes)
{
    size_t bytes = qs_matrix_bytes(decoder->head) + (size_t)decoder->config->d_model * sizeof(float);
    for (int64_t layer = 0; layer < decoder->config->n_layers; layer++)
        bytes += qs_block_bytes(decoder->blocks[layer]);
    /* Embedding rows are read from the mapped file; a tied one is the head, and counts once. */
    if (!decoder->config->tied_head || decoder->own_head)
        bytes += qs_model_info(decoder->model, QS_ROLE_EMBED, 0).bytes;
    *weights_bytes = bytes;
    *kv_bytes = 2 * kv_floats_per_layer(decoder) * (size_t)decoder->config->n_layers * sizeof(float);
}

/* ---- what steps and prompts share ---- */

/* Embeddings of n tokens, n <= n_staged, into the host's copy of a side's input. */
static qs_err stage_embeddings(qs_decoder *d, const int32_t *tokens, int64_t n)
{
    qs_err err = QS_OK;
    float *rows = d->staged + rows_offset(d->batch);
    for (int64_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= d->config->n_vocab)
            return qs_fail(QS_E_INPUT, "decode: token id %d is outside the vocabulary of %lld", tokens[i],
                           (long long)d->config->n_vocab);
        QS_TRY(qs_model_read_rows_f32(d->model, QS_ROLE_EMBED, 0, tokens[i], 1, rows + i * d->config->d_model));
    }
out:
    return err;
}

/* Final norm and head of n rows, on the last side; logits stay on the device. */
static qs_err answer(qs_decoder *d, float *hidden, int64_t n)
{
    const qs_model_config *c = d->config;
    qs_backend *backend = last_side(d)->backend;
    qs_linear_with with = {.norm = d->final_norm, .norm_eps = c->norm_eps, .normed = hidden};
    qs_linear_job head = {.matrix = d->head, .y = d->logits};
    return qs_op_linears_with(backend, &with, &head, 1, hidden, n);
}

static qs_err download_logits(qs_decoder *d, int64_t n, float *logits)
{
    if (logits == NULL) return QS_OK;
    return qs_backend_download(last_side(d)->backend, logits, d->logits,
                               (size_t)(n * d->config->n_vocab) * sizeof *logits);
}

/* ---- prompts ---- */

/* hidden [n, d_model] from one side to the next. */
static qs_err cross(qs_decoder *d, const side *from, side *to, int64_t n)
{
    size_t bytes = (size_t)(n * d->config->d_model) * sizeof(float);
    return qs_backend_bring(to->backend, to->hidden, from->backend, from->hidden, bytes);
}

qs_err qs_decoder_prefill(qs_decoder *decoder, int64_t index, const int32_t *tokens, int64_t n, float *logits)
{
    qs_err err = QS_OK;
    qs_decoder *d = decoder;
    side *first = &d->sides[0];
    int64_t width = d->config->d_model;
    if (index < 0 || index >= d->batch || n < 1 || n > d->n_ctx_cap)
        return qs_fail(QS_E_USAGE, "prefill sequence %lld with %lld tokens: there are %lld sequences of up to %lld",
                       (long long)index, (long long)n, (long long)d->batch, (long long)d->n_ctx_cap);
    for (int64_t row = 0; row < n; row += d->n_staged) {
        int64_t n_rows = qs_min64(n - row, d->n_staged);
        QS_TRY(stage_embeddings(d, tokens + row, n_rows));
        QS_TRY(qs_backend_upload(first->backend, first->hidden + row * width, d->staged + rows_offset(d->batch),
                                 (size_t)(n_rows * width) * sizeof(float)));
    }
    for (int64_t i = 0; i < d->n_sides; i++) {
        side *s = &d->sides[i];
        if (i > 0) QS_TRY(cross(d, s - 1, s, n));
        for (int64_t layer = s->first; layer < s->end; layer++)
            QS_TRY(qs_block_prefill(d->blocks[layer], s->scratch, s->hidden, &d->kvs[layer], index, n));
    }
    QS_TRY(answer(d, last_side(d)->hidden + (n - 1) * width, 1));
    QS_TRY(download_logits(d, 1, logits));
    d->positions[index] = (int32_t)n;
out:
    return err;
}

/* ---- going back, and going on twice ---- */

/* A sequence's part of a cache is laid out like rows, so its first tokens are one piece. */
static qs_err copy_layer(const qs_decoder *d, qs_backend *backend, const qs_kv *kv, int64_t from, int64_t to, int64_t n)
{
    int64_t row = d->config->n_kv_heads * d->config->head_dim, sequence = kv->n_ctx_cap * row;
    size_t bytes = (size_t)(n * row) * sizeof(float);
    qs_err err;
    QS_TRY(qs_backend_copy(backend, kv->k + to * sequence, kv->k + from * sequence, bytes));
    QS_TRY(qs_backend_copy(backend, kv->v + to * sequence, kv->v + from * sequence, bytes));
out:
    return err;
}

qs_err qs_decoder_continue(qs_decoder *decoder, int64_t from, int64_t to, int64_t n)
{
    qs_decoder *d = decoder;
    qs_err err = QS_OK;
    if (from < 0 || from >= d->batch || to < 0 || to >= d->batch || n < 0 || n > d->positions[from])
        return qs_fail(QS_E_USAGE,
                       "continue sequence %lld as %lld after %lld tokens: it has not as many, or there are %lld "
                       "sequences",
                       (long long)from, (long long)to, (long long)n, (long long)d->batch);
    for (int64_t i = 0; i < d->n_sides && from != to && n > 0; i++)
        for (int64_t layer = d->sides[i].first; layer < d->sides[i].end; layer++)
            QS_TRY(copy_layer(d, d->sides[i].backend, &d->kvs[layer], from, to, n));
    d->positions[to] = (int32_t)n;
out:
    return err;
}

int64_t qs_decoder_batch(const qs_decoder *decoder) { return decoder->batch; }
int64_t qs_decoder_n_ctx(const qs_decoder *decoder) { return decoder->n_ctx_cap; }
int64_t qs_decoder_n_vocab(const qs_decoder *decoder) { return decoder->config->n_vocab; }

const float *qs_decoder_logits(const qs_decoder *decoder, qs_backend **backend)
{
    *backend = decoder->sides[decoder->n_sides - 1].backend;
    return decoder->logits;
}

/* ---- steps ---- */

static qs_err run_ops(qs_decoder *d, side *s)
{
    qs_err err = QS_OK;
    for (int64_t layer = s->first; layer < s->end; layer++)
        QS_TRY(qs_block_decode(d->blocks[layer], s->scratch, s->hidden, &d->kvs[layer], s->positions));
    if (s == last_side(d)) QS_TRY(answer(d, s->hidden, d->batch));
out:
    return err;
}

static qs_err record(qs_decoder *d, side *s)
{
    qs_err err = qs_backend_record_start(s->backend);
    if (err != QS_OK) return err;
    err = run_ops(d, s);
    if (err == QS_OK) return qs_backend_record_stop(s->backend, &s->recording);
    QS_CLEANUP(qs_backend_record_stop(s->backend, NULL));
    return err;
}

/* A side's part of a step. A recording holds pointers and sizes, no positions, so it serves every step; only scratch
 * that has moved since (another user of the backend needed more of it) makes it useless. */
static qs_err run_side(qs_decoder *d, side *s)
{
    qs_err err = QS_OK;
    if (!s->warm || !qs_backend_can_record(s->backend)) {
        QS_TRY(run_ops(d, s));
        s->warm = true;
        goto out;
    }
    if (s->recording != NULL && !qs_recording_is_valid(s->recording)) {
        qs_recording_destroy(s->recording);
        s->recording = NULL;
    }
    if (s->recording == NULL) QS_TRY(record(d, s));
    QS_TRY(qs_recording_play(s->recording));
out:
    return err;
}

/* Up to the logits, which stay on the device. */
static qs_err step(qs_decoder *d, const int32_t *tokens)
{
    qs_err err = QS_OK;
    size_t head_bytes = (size_t)rows_offset(d->batch) * sizeof(float);
    size_t row_bytes = (size_t)(d->batch * d->config->d_model) * sizeof(float);
    for (int64_t i = 0; i < d->batch; i++)
        if (d->positions[i] >= d->n_ctx_cap)
            return qs_fail(QS_E_USAGE, "decode: sequence %lld has filled its cache of %lld tokens", (long long)i,
                           (long long)d->n_ctx_cap);
    QS_TRY(stage_embeddings(d, tokens, d->batch));
    memcpy(d->staged, d->positions, (size_t)d->batch * sizeof *d->positions);
    for (int64_t i = 0; i < d->n_sides; i++) {
        side *s = &d->sides[i];
        QS_TRY(qs_backend_upload(s->backend, s->input, d->staged, head_bytes + (i == 0 ? row_bytes : 0)));
        if (i > 0) QS_TRY(cross(d, s - 1, s, d->batch));
        QS_TRY(run_side(d, s));
    }
out:
    return err;
}

static void advance(qs_decoder *d)
{
    for (int64_t i = 0; i < d->batch; i++) d->positions[i]++;
}

qs_err qs_decoder_step(qs_decoder *decoder, const int32_t *tokens, float *logits)
{
    qs_err err;
    QS_TRY(step(decoder, tokens));
    QS_TRY(download_logits(decoder, decoder->batch, logits));
    advance(decoder);
out:
    return err;
}
