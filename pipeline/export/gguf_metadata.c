#include "export/gguf_metadata.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/chat_prompt.h"
#include "model/gguf_vocab.h"

enum { KEY_BYTES = 96 };
static const uint32_t quantization_version = 2;

const char *qs_gguf_architecture(const qs_model_config *c)
{
    return strncmp(c->architecture, "qwen", 4) == 0 ? c->architecture : "llama";
}

/* ---- the parent is a GGUF file ---- */

static bool key_is(const qs_gguf_kv *kv, const char *key)
{
    return (size_t)kv->key_bytes == strlen(key) && memcmp(kv->key, key, strlen(key)) == 0;
}

/* What the parent says about its own matrices and its own layout does not hold for ours. */
static bool is_own(const qs_gguf_kv *kv)
{
    return key_is(kv, "general.file_type") || key_is(kv, "general.quantization_version") ||
           key_is(kv, "general.alignment") || (kv->key_bytes > 9 && memcmp(kv->key, "quantize.", 9) == 0);
}

static qs_err copy_metadata(qs_gguf_writer *w, const qs_gguf *gguf)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < gguf->n_kvs && err == QS_OK; i++)
        if (!is_own(&gguf->kvs[i])) err = qs_gguf_writer_copy(w, &gguf->kvs[i]);
    return err;
}

/* ---- the parent is a directory ---- */

static qs_err put_text(qs_gguf_writer *w, const char *key, const char *text)
{
    return qs_gguf_writer_text(w, key, text, strlen(text));
}

static const char *last_part(char name[QS_PATH_BYTES], const char *path)
{
    size_t end = strlen(path), start;
    while (end > 1 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/';) start--;
    (void)snprintf(name, QS_PATH_BYTES, "%.*s", (int)(end - start), path + start);
    return name;
}

static qs_err put_numbers(qs_gguf_writer *w, const qs_model_config *c, const char *architecture)
{
    const struct {
        const char *leaf;
        int64_t value;
    } counts[] = {
        {"block_count", c->n_layers},          {"context_length", c->n_ctx_max},
        {"embedding_length", c->d_model},      {"feed_forward_length", c->d_ff},
        {"attention.head_count", c->n_heads},  {"attention.head_count_kv", c->n_kv_heads},
        {"attention.key_length", c->head_dim}, {"attention.value_length", c->head_dim},
        {"rope.dimension_count", c->head_dim}, {"vocab_size", c->n_vocab},
        {"attention.sliding_window", c->sliding_window},
    };
    const struct {
        const char *leaf;
        double value;
    } reals[] = {{"attention.layer_norm_rms_epsilon", c->norm_eps}, {"rope.freq_base", c->rope_theta}};
    char key[KEY_BYTES];
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        if (counts[i].value == 0) continue;
        (void)snprintf(key, sizeof key, "%s.%s", architecture, counts[i].leaf);
        QS_TRY(qs_gguf_writer_u32(w, key, (uint32_t)counts[i].value));
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        (void)snprintf(key, sizeof key, "%s.%s", architecture, reals[i].leaf);
        QS_TRY(qs_gguf_writer_f32(w, key, (float)reals[i].value));
    }
    if (c->rope_kind != QS_ROPE_LINEAR) goto out;
    (void)snprintf(key, sizeof key, "%s.rope.scaling.type", architecture);
    QS_TRY(put_text(w, key, "linear"));
    (void)snprintf(key, sizeof key, "%s.rope.scaling.factor", architecture);
    QS_TRY(qs_gguf_writer_f32(w, key, (float)c->rope_factor));
out:
    return err;
}

static qs_err put_vocab(qs_gguf_writer *w, const qs_gguf_vocab *v)
{
    const struct {
        const char *key;
        int32_t id;
    } ids[] = {{"tokenizer.ggml.bos_token_id", v->bos_id},
               {"tokenizer.ggml.eos_token_id", v->eos_id},
               {"tokenizer.ggml.unknown_token_id", v->unknown_id}};
    qs_err err;
    QS_TRY(put_text(w, "tokenizer.ggml.model", v->model));
    if (v->pre != NULL) QS_TRY(put_text(w, "tokenizer.ggml.pre", v->pre));
    QS_TRY(qs_gguf_writer_texts(w, "tokenizer.ggml.tokens", v->tokens, v->token_bytes, v->n_vocab));
    QS_TRY(qs_gguf_writer_words(w, "tokenizer.ggml.token_type", QS_GGUF_I32, v->types, v->n_vocab));
    if (v->scores != NULL)
        QS_TRY(qs_gguf_writer_words(w, "tokenizer.ggml.scores", QS_GGUF_F32, v->scores, v->n_vocab));
    if (v->n_merges > 0)
        QS_TRY(qs_gguf_writer_texts(w, "tokenizer.ggml.merges", v->merges, v->merge_bytes, v->n_merges));
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++)
        if (ids[i].id >= 0) QS_TRY(qs_gguf_writer_u32(w, ids[i].key, (uint32_t)ids[i].id));
    QS_TRY(qs_gguf_writer_bool(w, "tokenizer.ggml.add_bos_token", v->add_bos > 0));
    if (v->add_space_prefix >= 0)
        QS_TRY(qs_gguf_writer_bool(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix > 0));
out:
    return err;
}

static qs_err put_chat_template(qs_gguf_writer *w, const qs_model *model)
{
    char *text;
    qs_err err = qs_model_chat_template(model, &text);
    if (err == QS_OK && text != NULL) err = put_text(w, "tokenizer.chat_template", text);
    qs_mem_free(text);
    return err;
}

static qs_err put_tokenizer(qs_gguf_writer *w, const qs_model *model)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    qs_gguf_tokens tokens = {0};
    char path[QS_PATH_BYTES];
    json_t *root = NULL;
    qs_err err = QS_OK;
    if (tokenizer == NULL) {
        qs_log_warn("%s has no tokenizer: llama.cpp will load the file for its weights alone", qs_model_path(model));
        return put_text(w, "tokenizer.ggml.model", "no_vocab");
    }
    QS_TRY(qs_path_format(path, "%s/tokenizer.json", qs_model_path(model)));
    QS_TRY(qs_json_load(&root, path));
    QS_TRY(qs_gguf_tokens_from_json(&tokens, root, tokenizer, qs_model_get_config(model)->n_vocab, path));
    QS_TRY(put_vocab(w, &tokens.vocab));
    QS_TRY(put_chat_template(w, model));
out:
    qs_gguf_tokens_free(&tokens);
    json_decref(root);
    return err;
}

static qs_err make_metadata(qs_gguf_writer *w, const qs_model *model)
{
    const qs_model_config *config = qs_model_get_config(model);
    const char *architecture = qs_gguf_architecture(config);
    char name[QS_PATH_BYTES];
    qs_err err;
    QS_TRY(put_text(w, "general.architecture", architecture));
    QS_TRY(put_text(w, "general.type", "model"));
    QS_TRY(put_text(w, "general.name", last_part(name, qs_model_path(model))));
    QS_TRY(put_numbers(w, config, architecture));
    QS_TRY(put_tokenizer(w, model));
out:
    return err;
}

qs_err qs_gguf_put_metadata(qs_gguf_writer *w, const qs_model *model, uint32_t file_type)
{
    const qs_gguf *gguf = qs_model_get_gguf(model);
    qs_err err;
    QS_TRY(gguf != NULL ? copy_metadata(w, gguf) : make_metadata(w, model));
    QS_TRY(qs_gguf_writer_u32(w, "general.file_type", file_type));
    QS_TRY(qs_gguf_writer_u32(w, "general.quantization_version", quantization_version));
out:
    return err;
}

bool qs_gguf_rope_divisors(const qs_model *model, float *divisors)
{
    qs_model_config plain = *qs_model_get_config(model);
    int64_t n = plain.head_dim / 2;
    if (plain.rope_kind != QS_ROPE_LLAMA3 && plain.rope_kind != QS_ROPE_DIVISORS) return false;
    float *scaled = divisors, *unscaled;
    if (QS_NEW(unscaled, n, "frequencies") != QS_OK) return false;
    qs_model_rope_frequencies(model, scaled);
    plain.rope_kind = QS_ROPE_DEFAULT;
    qs_rope_frequencies(&plain, NULL, unscaled);
    for (int64_t i = 0; i < n; i++) divisors[i] = unscaled[i] / scaled[i];
    qs_mem_free(unscaled);
    return true;
}
