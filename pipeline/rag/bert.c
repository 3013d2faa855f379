#include "rag/bert.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/team.h"
#include "base/dtype.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/mapped.h"
#include "model/safetensors.h"

enum { NAME_BYTES = 128 };

/* A linear map and a LayerNorm, as every part of a layer has them. */
typedef struct linear {
    qs_matrix *matrix;
    float *bias; /* [n_out] */
} linear;
typedef struct norm {
    float *scale, *shift; /* [d_model] */
} norm;

typedef struct layer {
    linear query, key, value, output, wide, narrow; /* wide [d_ffn, d_model], narrow [d_model, d_ffn] */
    norm attention_norm, output_norm;
} layer;

struct qs_bert {
    qs_bert_config config;
    qs_backend *backend;
    qs_digest digest;
    float *words, *positions, *types; /* [n_vocab | n_positions | n_types, d_model] */
    norm embedding_norm;
    layer *layers; /* [n_layers] */
    int64_t n_rows; /* that scratch has room for */
    float *q, *k, *v, *mixed, *wide; /* [n_rows, d_model], wide [n_rows, d_ffn] */
    float *scores;                   /* [n_heads, n_rows, n_rows] */
};

/* ---- configuration ---- */

qs_err qs_bert_config_parse(qs_bert_config *out, const char *text, size_t bytes, const char *name)
{
    enum { COUNT_MAX = 1 << 22 };
    json_t *root = NULL;
    const char *type, *activation = "gelu", *positions = "absolute";
    qs_err err;
    *out = (qs_bert_config){.n_types = 2, .norm_eps = 1e-12};
    QS_TRY(qs_json_parse(&root, text, bytes, name));
    QS_TRY(qs_json_get_string(&type, root, "model_type", name));
    QS_TRY(qs_json_opt_string(&activation, root, "hidden_act", name));
    QS_TRY(qs_json_opt_string(&positions, root, "position_embedding_type", name));
    err = QS_E_UNSUPPORTED;
    if (strcmp(type, "bert") != 0)
        QS_TRY(qs_fail(err, "read %s: model_type is %.40s; an encoder is bert", name, type));
    if (strcmp(activation, "gelu") != 0)
        QS_TRY(qs_fail(err, "read %s: hidden_act is %.40s; an encoder has gelu", name, activation));
    if (strcmp(positions, "absolute") != 0)
        QS_TRY(qs_fail(err, "read %s: position_embedding_type is %.40s; an encoder has absolute", name, positions));
    QS_TRY(qs_json_get_int(&out->d_model, root, "hidden_size", 1, 1 << 16, name));
    QS_TRY(qs_json_get_int(&out->n_layers, root, "num_hidden_layers", 1, 1 << 10, name));
    QS_TRY(qs_json_get_int(&out->n_heads, root, "num_attention_heads", 1, 1 << 10, name));
    QS_TRY(qs_json_get_int(&out->d_ffn, root, "intermediate_size", 1, 1 << 18, name));
    QS_TRY(qs_json_get_int(&out->n_vocab, root, "vocab_size", 1, COUNT_MAX, name));
    QS_TRY(qs_json_get_int(&out->n_positions, root, "max_position_embeddings", 2, COUNT_MAX, name));
    QS_TRY(qs_json_opt_int(&out->n_types, root, "type_vocab_size", 1, COUNT_MAX, name));
    QS_TRY(qs_json_opt_real(&out->norm_eps, root, "layer_norm_eps", name));
    if (out->d_model % out->n_heads != 0)
        err = qs_fail(QS_E_INPUT, "read %s: hidden_size %lld is no multiple of num_attention_heads %lld", name,
                      (long long)out->d_model, (long long)out->n_heads);
out:
    json_decref(root);
    return err;
}

/* ---- weights ---- */

typedef struct loader {
    qs_bert *bert;
    const char *path;
    qs_safetensors file;
    const char *prefix; /* "" or "bert." */
} loader;

/* A tensor of n_dims dimensions as f32, to be freed with qs_mem_free. */
static qs_err load_tensor(float **out, const loader *l, const char *name, int n_dims, int64_t rows, int64_t columns)
{
    char full[NAME_BYTES + 32];
    int64_t n = rows * columns;
    (void)snprintf(full, sizeof full, "%s%s", l->prefix, name);
    const qs_safetensor *t = qs_safetensors_find(&l->file, full);
    if (t == NULL) return qs_fail(QS_E_INPUT, "read %s: there is no tensor %s", l->path, full);
    if (t->n_dims != n_dims || t->shape[0] != rows || (n_dims == 2 && t->shape[1] != columns))
        return qs_fail(QS_E_INPUT, "read %s: tensor %s is not [%lld, %lld]", l->path, full, (long long)rows,
                       (long long)columns);
    if (t->type != QS_ST_F32 && t->type != QS_ST_F16 && t->type != QS_ST_BF16)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: tensor %s has dtype %s; encoders are F32, F16 or BF16",
                       l->path, full, qs_safetensor_type_name(t->type));
    qs_err err = QS_NEW(*out, n, full);
    if (err != QS_OK) return err;
    if (t->type == QS_ST_F32) memcpy(*out, t->data, t->bytes);
    for (int64_t i = 0; t->type != QS_ST_F32 && i < n; i++) {
        uint16_t half;
        memcpy(&half, t->data + 2 * i, sizeof half);
        (*out)[i] = t->type == QS_ST_F16 ? qs_f32_from_f16(half) : qs_f32_from_bf16(half);
    }
    int64_t bad = qs_find_nonfinite(*out, n);
    if (bad >= 0)
        return qs_fail(QS_E_NUMERIC, "read %s: tensor %s is %g at index %lld", l->path, full, (*out)[bad],
                       (long long)bad);
    return QS_OK;
}

static qs_err load_linear(linear *out, const loader *l, const char *name, int64_t n_out, int64_t n_in)
{
    char leaf[NAME_BYTES + 16];
    float *weight = NULL;
    qs_err err;
    (void)snprintf(leaf, sizeof leaf, "%s.weight", name);
    QS_TRY(load_tensor(&weight, l, leaf, 2, n_out, n_in));
    (void)snprintf(leaf, sizeof leaf, "%s.bias", name);
    QS_TRY(load_tensor(&out->bias, l, leaf, 1, n_out, 1));
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = n_out, .n_in = n_in, .dense = weight};
    QS_TRY(qs_matrix_create(&out->matrix, l->bert->backend, &desc, QS_USE_GEMM, QS_COMPUTE_F32));
out:
    qs_mem_free(weight);
    return err;
}

static qs_err load_norm(norm *out, const loader *l, const char *name)
{
    char leaf[NAME_BYTES + 16];
    (void)snprintf(leaf, sizeof leaf, "%s.weight", name);
    qs_err err = load_tensor(&out->scale, l, leaf, 1, l->bert->config.d_model, 1);
    if (err != QS_OK) return err;
    (void)snprintf(leaf, sizeof leaf, "%s.bias", name);
    return load_tensor(&out->shift, l, leaf, 1, l->bert->config.d_model, 1);
}

static qs_err load_layer(const loader *l, int64_t index)
{
    layer *y = &l->bert->layers[index];
    int64_t d = l->bert->config.d_model, f = l->bert->config.d_ffn;
    const struct {
        linear *part;
        const char *name;
        int64_t n_out, n_in;
    } linears[] = {
        {&y->query, "attention.self.query", d, d},     {&y->key, "attention.self.key", d, d},
        {&y->value, "attention.self.value", d, d},     {&y->output, "attention.output.dense", d, d},
        {&y->wide, "intermediate.dense", f, d},        {&y->narrow, "output.dense", d, f},
    };
    char name[NAME_BYTES];
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        (void)snprintf(name, sizeof name, "encoder.layer.%lld.%s", (long long)index, linears[i].name);
        QS_TRY(load_linear(linears[i].part, l, name, linears[i].n_out, linears[i].n_in));
    }
    (void)snprintf(name, sizeof name, "encoder.layer.%lld.attention.output.LayerNorm", (long long)index);
    QS_TRY(load_norm(&y->attention_norm, l, name));
    (void)snprintf(name, sizeof name, "encoder.layer.%lld.output.LayerNorm", (long long)index);
    QS_TRY(load_norm(&y->output_norm, l, name));
out:
    return err;
}

static qs_err load_weights(loader *l)
{
    qs_bert *b = l->bert;
    const qs_bert_config *c = &b->config;
    bool nested = qs_safetensors_find(&l->file, "bert.embeddings.word_embeddings.weight") != NULL;
    qs_err err;
    l->prefix = nested ? "bert." : "";
    QS_TRY(load_tensor(&b->words, l, "embeddings.word_embeddings.weight", 2, c->n_vocab, c->d_model));
    QS_TRY(load_tensor(&b->positions, l, "embeddings.position_embeddings.weight", 2, c->n_positions, c->d_model));
    QS_TRY(load_tensor(&b->types, l, "embeddings.token_type_embeddings.weight", 2, c->n_types, c->d_model));
    QS_TRY(load_norm(&b->embedding_norm, l, "embeddings.LayerNorm"));
    QS_TRY(QS_NEW(b->layers, c->n_layers, "encoder layers"));
    for (int64_t i = 0; i < c->n_layers; i++) QS_TRY(load_layer(l, i));
out:
    return err;
}

qs_err qs_bert_open(qs_bert **out, qs_backend *backend, const char *config_path, const char *weights_path)
{
    qs_bert *b = NULL;
    qs_mapped file = {.fd = -1};
    loader l = {.path = weights_path};
    char *text = NULL;
    size_t bytes;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(b, 1, "encoder"));
    b->backend = backend;
    l.bert = b;
    QS_TRY(qs_file_read(&text, &bytes, config_path, 1 << 20));
    QS_TRY(qs_bert_config_parse(&b->config, text, bytes, config_path));
    QS_TRY(qs_mapped_open(&file, weights_path));
    QS_TRY(qs_safetensors_parse(&l.file, file.map.data, file.map.bytes, weights_path));
    QS_TRY(qs_mapped_check(&file));
    QS_TRY(load_weights(&l));
    qs_digest weights = qs_hash(file.map.data, file.map.bytes);
    const uint64_t parts[] = {qs_hash(text, bytes).low, qs_hash(text, bytes).high, weights.low, weights.high};
    b->digest = qs_hash(parts, sizeof parts);
    *out = b;
out:
    if (err != QS_OK) qs_bert_destroy(b);
    qs_safetensors_free(&l.file);
    qs_mapped_close(&file);
    qs_mem_free(text);
    return err;
}

static void free_linear(linear *part)
{
    qs_matrix_destroy(part->matrix);
    qs_mem_free(part->bias);
}

static void free_norm(norm *part)
{
    qs_mem_free(part->scale);
    qs_mem_free(part->shift);
}

static void free_scratch(qs_bert *b)
{
    float **const buffers[] = {&b->q, &b->k, &b->v, &b->mixed, &b->wide, &b->scores};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        qs_mem_free(*buffers[i]);
        *buffers[i] = NULL;
    }
    b->n_rows = 0;
}

void qs_bert_destroy(qs_bert *b)
{
    if (b == NULL) return;
    for (int64_t i = 0; b->layers != NULL && i < b->config.n_layers; i++) {
        layer *y = &b->layers[i];
        linear *linears[] = {&y->query, &y->key, &y->value, &y->output, &y->wide, &y->narrow};
        for (size_t j = 0; j < sizeof linears / sizeof *linears; j++) free_linear(linears[j]);
        free_norm(&y->attention_norm);
        free_norm(&y->output_norm);
    }
    qs_mem_free(b->layers);
    free_norm(&b->embedding_norm);
    qs_mem_free(b->words);
    qs_mem_free(b->positions);
    qs_mem_free(b->types);
    free_scratch(b);
    qs_mem_free(b);
}

const qs_bert_config *qs_bert_get_config(const qs_bert *b) { return &b->config; }
qs_digest qs_bert_digest(const qs_bert *b) { return b->digest; }

/* ---- forward ---- */

static qs_err reserve(qs_bert *b, int64_t n)
{
    const qs_bert_config *c = &b->config;
    qs_err err = QS_OK;
    if (n <= b->n_rows) return QS_OK;
    free_scratch(b);
    QS_TRY(QS_NEW(b->q, n * c->d_model, "encoder scratch"));
    QS_TRY(QS_NEW(b->k, n * c->d_model, "encoder scratch"));
    QS_TRY(QS_NEW(b->v, n * c->d_model, "encoder scratch"));
    QS_TRY(QS_NEW(b->mixed, n * c->d_model, "encoder scratch"));
    QS_TRY(QS_NEW(b->wide, n * c->d_ffn, "encoder scratch"));
    QS_TRY(QS_NEW(b->scores, c->n_heads * n * n, "encoder scratch"));
    b->n_rows = n;
out:
    return err;
}

/* x = LayerNorm(x + y), row by row; y may be NULL. */
static void add_norm(const qs_bert *b, const norm *part, float *x, const float *y, int64_t n)
{
    int64_t d = b->config.d_model;
    double eps = b->config.norm_eps;
    for (int64_t i = 0; i < n; i++) {
        float *row = &x[i * d];
        double sum = 0.0, squares = 0.0;
        for (int64_t j = 0; j < d; j++) {
            if (y != NULL) row[j] += y[i * d + j];
            sum += row[j];
        }
        double mean = sum / (double)d;
        for (int64_t j = 0; j < d; j++) squares += (row[j] - mean) * (row[j] - mean);
        double scale = 1.0 / sqrt(squares / (double)d + eps);
        for (int64_t j = 0; j < d; j++)
            row[j] = (float)((row[j] - mean) * scale * part->scale[j] + part->shift[j]);
    }
}

static void softmax(float *row, int64_t n)
{
    float most = row[0];
    double sum = 0.0;
    for (int64_t i = 1; i < n; i++) most = row[i] > most ? row[i] : most;
    for (int64_t i = 0; i < n; i++) {
        row[i] = expf(row[i] - most);
        sum += row[i];
    }
    for (int64_t i = 0; i < n; i++) row[i] = (float)(row[i] / sum);
}

/* mixed = softmax(q k^T / sqrt(head_dim)) v, head by head, every token seeing every other. */
typedef struct elements {
    float *x;
    int64_t n; /* of a row */
} elements;

static void softmax_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    const elements *work = context;
    for (int64_t i = first; i < last; i++) softmax(work->x + i * work->n, work->n);
}

static qs_err attend(qs_bert *b, int64_t n)
{
    int64_t d = b->config.d_model, n_heads = b->config.n_heads, head = d / n_heads;
    float scale = (float)(1.0 / sqrt((double)head));
    qs_err err = QS_OK;
    for (int64_t h = 0; h < n_heads; h++)
        QS_TRY(qs_op_gemm(b->backend, false, true, n, n, head, scale, b->q + h * head, d, b->k + h * head, d, 0,
                          b->scores + h * n * n, n));
    qs_team_run_shared(n_heads * n, 16, softmax_rows, &(elements){b->scores, n});
    for (int64_t h = 0; h < n_heads; h++)
        QS_TRY(qs_op_gemm(b->backend, false, false, n, head, n, 1, b->scores + h * n * n, n, b->v + h * head, d, 0,
                          b->mixed + h * head, d));
out:
    return err;
}

static void gelu(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    float *x = ((const elements *)context)->x;
    for (int64_t i = first; i < last; i++) x[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
}

static qs_err run_layer(qs_bert *b, const layer *y, float *x, int64_t n)
{
    const qs_linear_job jobs[] = {{.matrix = y->query.matrix, .bias = y->query.bias, .y = b->q},
                                  {.matrix = y->key.matrix, .bias = y->key.bias, .y = b->k},
                                  {.matrix = y->value.matrix, .bias = y->value.bias, .y = b->v}};
    qs_err err;
    QS_TRY(qs_op_linears(b->backend, jobs, 3, x, n));
    QS_TRY(attend(b, n));
    QS_TRY(qs_op_linear(b->backend, y->output.matrix, b->mixed, n, y->output.bias, b->q));
    add_norm(b, &y->attention_norm, x, b->q, n);
    QS_TRY(qs_op_linear(b->backend, y->wide.matrix, x, n, y->wide.bias, b->wide));
    qs_team_run_shared(n * b->config.d_ffn, 4096, gelu, &(elements){b->wide, 1});
    QS_TRY(qs_op_linear(b->backend, y->narrow.matrix, b->wide, n, y->narrow.bias, b->q));
    add_norm(b, &y->output_norm, x, b->q, n);
out:
    return err;
}

qs_err qs_bert_run(qs_bert *b, const int32_t *ids, int64_t n, float *hidden)
{
    const qs_bert_config *c = &b->config;
    if (n < 1 || n > c->n_positions)
        return qs_fail(QS_E_INPUT, "run encoder: %lld tokens; it takes 1 to %lld", (long long)n,
                       (long long)c->n_positions);
    qs_err err;
    QS_TRY(reserve(b, n));
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= c->n_vocab)
            return qs_fail(QS_E_INPUT, "run encoder: token %d; its vocabulary has %lld", ids[i], (long long)c->n_vocab);
        for (int64_t j = 0; j < c->d_model; j++)
            hidden[i * c->d_model + j] =
                b->words[ids[i] * c->d_model + j] + b->types[j] + b->positions[i * c->d_model + j];
    }
    add_norm(b, &b->embedding_norm, hidden, NULL, n);
    for (int64_t i = 0; i < c->n_layers; i++) QS_TRY(run_layer(b, &b->layers[i], hidden, n));
out:
    return err;
}
