#include "model/gguf_vocab.h"

#include <string.h>

#include "base/mem.h"

/* An array of the metadata; NULL when the key is missing. */
static qs_err find_array(const qs_gguf_kv **out, const qs_gguf *gguf, const char *key, qs_gguf_type type,
                         int64_t n_wanted, const char *name)
{
    const qs_gguf_kv *kv = qs_gguf_find(gguf, key);
    *out = kv;
    if (kv == NULL) return QS_OK;
    if (kv->type != QS_GGUF_ARRAY || kv->item_type != type)
        return qs_fail(QS_E_INPUT, "open %s: \"%s\" is not an array of the right type", name, key);
    if (n_wanted >= 0 && kv->n != n_wanted)
        return qs_fail(QS_E_INPUT, "open %s: %s has %lld items, the vocabulary %lld", name, key, (long long)kv->n,
                       (long long)n_wanted);
    return QS_OK;
}

static qs_err read_strings(const char ***texts, int64_t **lengths, int64_t *n, const qs_gguf *gguf, const char *key,
                           const char *name)
{
    const qs_gguf_kv *kv;
    qs_err err;
    *n = 0;
    QS_TRY(find_array(&kv, gguf, key, QS_GGUF_STRING, -1, name));
    if (kv == NULL) goto out;
    QS_TRY(QS_NEW(*texts, kv->n, key));
    QS_TRY(QS_NEW(*lengths, kv->n, key));
    *n = kv->n;
    qs_gguf_strings(kv, *texts, *lengths);
out:
    return err;
}

/* n items of 4 bytes, copied into place: nothing in the file is aligned. *out stays NULL when the key is missing. */
static qs_err read_words(void *out_pointer, const qs_gguf *gguf, const char *key, qs_gguf_type type, int64_t n,
                         const char *name)
{
    const qs_gguf_kv *kv;
    void **out = out_pointer;
    qs_err err;
    QS_TRY(find_array(&kv, gguf, key, type, n, name));
    if (kv == NULL) goto out;
    QS_TRY(qs_mem_array(out, n, 4, key));
    memcpy(*out, kv->data, (size_t)n * 4);
out:
    return err;
}

/* Ids and flags; -1 where the key is missing. */
static qs_err read_flags(qs_gguf_vocab *vocab, const qs_gguf *gguf, const char *name)
{
    int64_t ids[3] = {-1, -1, -1};
    static const char *const id_keys[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                          "tokenizer.ggml.unknown_token_id"};
    static const char *const flag_keys[] = {"tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"};
    int *flags[] = {&vocab->add_bos, &vocab->add_space_prefix};
    qs_err err;
    for (int i = 0; i < 3; i++) QS_TRY(qs_gguf_opt_int(&ids[i], gguf, id_keys[i], 0, vocab->n_vocab - 1, name));
    for (int i = 0; i < 2; i++) {
        bool flag = false;
        QS_TRY(qs_gguf_opt_bool(&flag, gguf, flag_keys[i], name));
        *flags[i] = qs_gguf_find(gguf, flag_keys[i]) == NULL ? -1 : flag;
    }
    vocab->bos_id = (int32_t)ids[0];
    vocab->eos_id = (int32_t)ids[1];
    vocab->unknown_id = (int32_t)ids[2];
out:
    return err;
}

qs_err qs_gguf_tokens_read(qs_gguf_tokens *out, const qs_gguf *gguf, const char *name)
{
    qs_gguf_vocab *v = &out->vocab;
    qs_err err;
    *out = (qs_gguf_tokens){0};
    QS_TRY(qs_gguf_opt_text(out->model, sizeof out->model, gguf, "tokenizer.ggml.model", name));
    QS_TRY(qs_gguf_opt_text(out->pre, sizeof out->pre, gguf, "tokenizer.ggml.pre", name));
    QS_TRY(read_strings(&out->tokens, &out->token_bytes, &v->n_vocab, gguf, "tokenizer.ggml.tokens", name));
    if (strcmp(out->model, "no_vocab") == 0) v->n_vocab = 0;
    if (v->n_vocab == 0) goto out;
    if (out->model[0] == '\0') {
        err = qs_fail(QS_E_INPUT, "open %s: there are tokens, but the key \"tokenizer.ggml.model\" is missing", name);
        goto out;
    }
    QS_TRY(read_strings(&out->merges, &out->merge_bytes, &v->n_merges, gguf, "tokenizer.ggml.merges", name));
    QS_TRY(read_words(&out->types, gguf, "tokenizer.ggml.token_type", QS_GGUF_I32, v->n_vocab, name));
    QS_TRY(read_words(&out->scores, gguf, "tokenizer.ggml.scores", QS_GGUF_F32, v->n_vocab, name));
    QS_TRY(read_flags(v, gguf, name));
    v->model = out->model;
    v->pre = out->pre[0] == '\0' ? NULL : out->pre;
    v->tokens = out->tokens;
    v->token_bytes = out->token_bytes;
    v->types = out->types;
    v->scores = out->scores;
    v->merges = out->merges;
    v->merge_bytes = out->merge_bytes;
out:
    if (err != QS_OK) qs_gguf_tokens_free(out);
    return err;
}

void qs_gguf_tokens_free(qs_gguf_tokens *tokens)
{
    qs_mem_free((void *)tokens->tokens);
    qs_mem_free(tokens->token_bytes);
    qs_mem_free((void *)tokens->merges);
    qs_mem_free(tokens->merge_bytes);
    qs_mem_free(tokens->types);
    qs_mem_free(tokens->scores);
    qs_mem_free(tokens->text);
    *tokens = (qs_gguf_tokens){0};
}
