#include <string.h>

#include "base/mem.h"
#include "model/weights_impl.h"

typedef struct search {
    const qs_model *model;
    bool *used; /* [n_tensors] */
} search;

static qs_err find_tensor(void *context, const char *name, qs_found *found)
{
    search *s = context;
    *found = (qs_found){0};
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(&s->model->gguf, name);
    if (tensor == NULL) return QS_OK;
    s->used[tensor - s->model->gguf.tensors] = true;
    /* Trailing dimensions of 1 say nothing. */
    int n_dims = tensor->n_dims;
    while (n_dims > 1 && tensor->ne[n_dims - 1] == 1) n_dims--;
    *found = (qs_found){
        .name = tensor->name,
        .storage = tensor->storage,
        .n_dims = n_dims,
        .data = tensor->data,
        .bytes = tensor->bytes,
        .file = &s->model->file,
    };
    found->shape[0] = n_dims == 1 ? tensor->ne[0] : tensor->ne[1];
    found->shape[1] = tensor->ne[0];
    return QS_OK;
}

/* As in a directory: a tensor that nothing uses means that the model computes something we would leave out.
 */
static qs_err check_unused(const qs_model *model, const bool *used)
{
    for (int64_t i = 0; i < model->gguf.n_tensors; i++) {
        const char *name = model->gguf.tensors[i].name;
        if (!used[i] && strcmp(name, "rope_freqs.weight") != 0)
            return qs_fail(QS_E_UNSUPPORTED,
                           "open %s: tensor %s is not part of a %s model with this metadata", model->path,
                           name, model->config.architecture);
    }
    return QS_OK;
}

static qs_err read_divisors(qs_model *model)
{
    if (model->config.rope_kind != QS_ROPE_DIVISORS) return QS_OK;
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(&model->gguf, "rope_freqs.weight");
    qs_err err = QS_NEW(model->rope_divisors, tensor->ne[0], "rope divisors");
    if (err == QS_OK) memcpy(model->rope_divisors, tensor->data, tensor->bytes);
    return err;
}

static qs_err refuse_parts(const qs_model *model)
{
    int64_t n_parts = 1;
    qs_err err = qs_gguf_opt_int(&n_parts, &model->gguf, "split.count", 0, UINT16_MAX, model->path);
    if (err == QS_OK && n_parts > 1)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "open %s: the file is one of %lld parts; merge them with llama-gguf-split", model->path,
                      (long long)n_parts);
    return err;
}

/* An array of `n` items of `type`, or NULL when the key is absent. n < 0 admits any length. */
static qs_err find_array(const qs_gguf_kv **out, const qs_model *model, const char *key, qs_gguf_type type,
                         int64_t n)
{
    *out = qs_gguf_find(&model->gguf, key);
    if (*out == NULL) return QS_OK;
    if ((*out)->type != QS_GGUF_ARRAY || (*out)->item_type != type || (n >= 0 && (*out)->n != n))
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" is not an array of the right type and length",
                       model->path, key);
    return QS_OK;
}

/* The vocabulary's arrays, copied because strings in the file have neither pointers nor alignment. */
typedef struct vocab {
    qs_gguf_vocab view;
    char model[32], pre[64];
    const char **tokens, **merges;
    int64_t *token_bytes, *merge_bytes;
    int32_t *types;
    float *scores;
} vocab;

static void vocab_free(vocab *v)
{
    qs_mem_free((void *)v->tokens);
    qs_mem_free((void *)v->merges);
    qs_mem_free(v->token_bytes);
    qs_mem_free(v->merge_bytes);
    qs_mem_free(v->types);
    qs_mem_free(v->scores);
}

static qs_err read_texts(vocab *v, const qs_model *model, const qs_gguf_kv *tokens)
{
    const qs_gguf_kv *merges = NULL;
    qs_err err;
    QS_TRY(QS_NEW(v->tokens, tokens->n, "vocabulary"));
    QS_TRY(QS_NEW(v->token_bytes, tokens->n, "vocabulary"));
    qs_gguf_strings(tokens, v->tokens, v->token_bytes);
    QS_TRY(find_array(&merges, model, "tokenizer.ggml.merges", QS_GGUF_STRING, -1));
    if (merges == NULL) return QS_OK;
    QS_TRY(QS_NEW(v->merges, merges->n, "merges"));
    QS_TRY(QS_NEW(v->merge_bytes, merges->n, "merges"));
    qs_gguf_strings(merges, v->merges, v->merge_bytes);
    v->view.n_merges = merges->n;
out:
    return err;
}

static qs_err read_numbers(vocab *v, const qs_model *model, int64_t n)
{
    const qs_gguf_kv *types = NULL, *scores = NULL;
    qs_err err;
    QS_TRY(find_array(&types, model, "tokenizer.ggml.token_type", QS_GGUF_I32, n));
    QS_TRY(find_array(&scores, model, "tokenizer.ggml.scores", QS_GGUF_F32, n));
    if (types != NULL) {
        QS_TRY(QS_NEW(v->types, n, "token types"));
        memcpy(v->types, types->data, (size_t)n * sizeof *v->types);
    }
    if (scores != NULL) {
        QS_TRY(QS_NEW(v->scores, n, "token scores"));
        memcpy(v->scores, scores->data, (size_t)n * sizeof *v->scores);
    }
out:
    return err;
}

static qs_err read_settings(vocab *v, const qs_model *model)
{
    const struct {
        const char *key;
        int32_t *out;
    } ids[] = {
        {"tokenizer.ggml.bos_token_id", &v->view.bos_id},
        {"tokenizer.ggml.eos_token_id", &v->view.eos_id},
        {"tokenizer.ggml.unknown_token_id", &v->view.unknown_id},
    };
    const struct {
        const char *key;
        int *out;
    } switches[] = {
        {"tokenizer.ggml.add_bos_token", &v->view.add_bos},
        {"tokenizer.ggml.add_space_prefix", &v->view.add_space_prefix},
    };
    qs_err err;
    for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
        int64_t id = -1;
        QS_TRY(qs_gguf_opt_int(&id, &model->gguf, ids[i].key, 0, v->view.n_vocab - 1, model->path));
        *ids[i].out = (int32_t)id;
    }
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        bool on = false;
        QS_TRY(qs_gguf_opt_bool(&on, &model->gguf, switches[i].key, model->path));
        *switches[i].out = qs_gguf_find(&model->gguf, switches[i].key) == NULL ? -1 : on;
    }
    QS_TRY(qs_gguf_opt_text(v->model, sizeof v->model, &model->gguf, "tokenizer.ggml.model", model->path));
    QS_TRY(qs_gguf_opt_text(v->pre, sizeof v->pre, &model->gguf, "tokenizer.ggml.pre", model->path));
    if (v->model[0] == '\0')
        return qs_fail(QS_E_INPUT,
                       "read %s: there are tokens, but the key \"tokenizer.ggml.model\" is missing",
                       model->path);
out:
    return err;
}

static qs_err read_tokenizer(qs_model *model)
{
    vocab v = {0};
    const qs_gguf_kv *tokens = NULL;
    qs_err err;
    QS_TRY(find_array(&tokens, model, "tokenizer.ggml.tokens", QS_GGUF_STRING, -1));
    if (tokens == NULL) return QS_OK;
    v.view.n_vocab = tokens->n;
    QS_TRY(read_texts(&v, model, tokens));
    QS_TRY(read_numbers(&v, model, tokens->n));
    QS_TRY(read_settings(&v, model));
    v.view.model = v.model;
    v.view.pre = v.pre[0] == '\0' ? NULL : v.pre;
    v.view.tokens = v.tokens;
    v.view.token_bytes = v.token_bytes;
    v.view.types = v.types;
    v.view.scores = v.scores;
    v.view.merges = v.merges;
    v.view.merge_bytes = v.merge_bytes;
    QS_TRY(qs_tokenizer_from_gguf(&model->tokenizer, &v.view, model->path));
out:
    vocab_free(&v);
    return err;
}

qs_err qs_model_open_gguf(qs_model *model)
{
    search s = {.model = model};
    qs_err err;
    QS_TRY(qs_mapped_open(&model->file, model->path));
    QS_TRY(qs_gguf_parse(&model->gguf, model->file.map.data, model->file.map.bytes, model->path));
    QS_TRY(refuse_parts(model));
    QS_TRY(qs_model_config_from_gguf(&model->config, &model->gguf, model->path));
    QS_TRY(QS_NEW(s.used, model->gguf.n_tensors, "tensor marks"));
    QS_TRY(qs_model_bind(model, QS_NAMING_GGUF, find_tensor, &s));
    QS_TRY(check_unused(model, s.used));
    QS_TRY(read_divisors(model));
    QS_TRY(read_tokenizer(model));
out:
    qs_mem_free(s.used);
    return err;
}
