/* The tokenizer that a model carries: tokenizer.json in its directory, or the metadata of its GGUF file. */
#include <string.h>

#include "base/mem.h"
#include "model/weights_impl.h"

/* tokenizer.json of a vocabulary of 250,000 is about 20 MB. */
static const size_t json_bytes_max = (size_t)256 << 20;

/* ---- directory ---- */

/* tokenizer_config.json, when there is one, says which tokens begin and end a text. */
static qs_err apply_config(qs_model *model)
{
    char path[QS_PATH_BYTES], *text = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/tokenizer_config.json", model->path));
    if (!qs_file_exists(path)) goto out;
    QS_TRY(qs_file_read(&text, &bytes, path, json_bytes_max));
    QS_TRY(qs_tokenizer_apply_config(model->tokenizer, text, bytes, path));
out:
    qs_mem_free(text);
    return err;
}

static qs_err from_directory(qs_model *model)
{
    char path[QS_PATH_BYTES], *text = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/tokenizer.json", model->path));
    if (!qs_file_exists(path)) goto out;
    QS_TRY(qs_file_read(&text, &bytes, path, json_bytes_max));
    QS_TRY(qs_tokenizer_from_json(&model->tokenizer, text, bytes, path));
    QS_TRY(apply_config(model));
out:
    qs_mem_free(text);
    return err;
}

/* ---- GGUF ---- */

/* An array of the metadata, copied into place: nothing in the file is aligned. */
static qs_err find_array(const qs_gguf_kv **out, const qs_model *model, const char *key, qs_gguf_type type,
                         int64_t n_wanted)
{
    const qs_gguf_kv *kv = qs_gguf_find(&model->gguf, key);
    *out = kv;
    if (kv == NULL) return QS_OK;
    if (kv->type != QS_GGUF_ARRAY || kv->item_type != type)
        return qs_fail(QS_E_INPUT, "open %s: \"%s\" is not an array of the right type", model->path, key);
    if (n_wanted >= 0 && kv->n != n_wanted)
        return qs_fail(QS_E_INPUT, "open %s: %s has %lld items, the vocabulary %lld", model->path, key,
                       (long long)kv->n, (long long)n_wanted);
    return QS_OK;
}

typedef struct strings {
    const char **texts;
    int64_t *lengths;
    int64_t n;
} strings;

static qs_err read_strings(strings *out, const qs_model *model, const char *key)
{
    const qs_gguf_kv *kv;
    qs_err err;
    QS_TRY(find_array(&kv, model, key, QS_GGUF_STRING, -1));
    if (kv == NULL) goto out;
    QS_TRY(QS_NEW(out->texts, kv->n, key));
    QS_TRY(QS_NEW(out->lengths, kv->n, key));
    out->n = kv->n;
    qs_gguf_strings(kv, out->texts, out->lengths);
out:
    return err;
}

/* n items of 4 bytes; *out stays NULL when the key is missing. */
static qs_err read_words(void *out_pointer, const qs_model *model, const char *key, qs_gguf_type type,
                         int64_t n)
{
    const qs_gguf_kv *kv;
    void **out = out_pointer;
    qs_err err;
    QS_TRY(find_array(&kv, model, key, type, n));
    if (kv == NULL) goto out;
    QS_TRY(qs_mem_array(out, n, 4, key));
    memcpy(*out, kv->data, (size_t)n * 4);
out:
    return err;
}

/* Ids and flags of the metadata; -1 where the key is missing. */
static qs_err read_flags(qs_gguf_vocab *vocab, const qs_model *model)
{
    int64_t ids[3] = {-1, -1, -1};
    static const char *const id_keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                          "tokenizer.ggml.unknown_token_id"};
    static const char *const flag_keys[] = {"tokenizer.ggml.add_bos_token",
                                            "tokenizer.ggml.add_space_prefix"};
    int *flags[] = {&vocab->add_bos, &vocab->add_space_prefix};
    qs_err err;
    for (int i = 0; i < 3; i++)
        QS_TRY(qs_gguf_opt_int(&ids[i], &model->gguf, id_keys[i], 0, vocab->n_vocab - 1, model->path));
    for (int i = 0; i < 2; i++) {
        bool flag = false;
        QS_TRY(qs_gguf_opt_bool(&flag, &model->gguf, flag_keys[i], model->path));
        *flags[i] = qs_gguf_find(&model->gguf, flag_keys[i]) == NULL ? -1 : flag;
    }
    vocab->bos_id = (int32_t)ids[0];
    vocab->eos_id = (int32_t)ids[1];
    vocab->unknown_id = (int32_t)ids[2];
out:
    return err;
}

static qs_err from_gguf(qs_model *model)
{
    char kind[64] = "", pre[64] = "";
    strings tokens = {0}, merges = {0};
    int32_t *types = NULL;
    float *scores = NULL;
    qs_err err;
    QS_TRY(qs_gguf_opt_text(kind, sizeof kind, &model->gguf, "tokenizer.ggml.model", model->path));
    QS_TRY(qs_gguf_opt_text(pre, sizeof pre, &model->gguf, "tokenizer.ggml.pre", model->path));
    QS_TRY(read_strings(&tokens, model, "tokenizer.ggml.tokens"));
    if (tokens.n == 0 || strcmp(kind, "no_vocab") == 0) goto out;
    if (kind[0] == '\0') {
        err = qs_fail(QS_E_INPUT, "open %s: there are tokens, but the key \"tokenizer.ggml.model\" is missing",
                      model->path);
        goto out;
    }
    QS_TRY(read_strings(&merges, model, "tokenizer.ggml.merges"));
    QS_TRY(read_words(&types, model, "tokenizer.ggml.token_type", QS_GGUF_I32, tokens.n));
    QS_TRY(read_words(&scores, model, "tokenizer.ggml.scores", QS_GGUF_F32, tokens.n));
    qs_gguf_vocab vocab = {
        .model = kind, .pre = pre[0] == '\0' ? NULL : pre, .n_vocab = tokens.n, .tokens = tokens.texts,
        .token_bytes = tokens.lengths, .types = types, .scores = scores, .n_merges = merges.n,
        .merges = merges.texts, .merge_bytes = merges.lengths,
    };
    QS_TRY(read_flags(&vocab, model));
    QS_TRY(qs_tokenizer_from_gguf(&model->tokenizer, &vocab, model->path));
out:
    qs_mem_free((void *)tokens.texts);
    qs_mem_free(tokens.lengths);
    qs_mem_free((void *)merges.texts);
    qs_mem_free(merges.lengths);
    qs_mem_free(types);
    qs_mem_free(scores);
    return err;
}

qs_err qs_model_open_tokenizer(qs_model *model)
{
    qs_err err = model->file.map.data != NULL ? from_gguf(model) : from_directory(model);
    if (err != QS_OK || model->tokenizer == NULL) return err;
    if (qs_tokenizer_n_vocab(model->tokenizer) <= model->config.n_vocab) return QS_OK;
    return qs_fail(QS_E_INPUT, "open %s: the tokenizer has %lld ids, the embedding %lld rows", model->path,
                   (long long)qs_tokenizer_n_vocab(model->tokenizer), (long long)model->config.n_vocab);
}
