#include "export/hf_config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/gguf_vocab.h"

static qs_err need(const void *node)
{
    return node != NULL ? QS_OK : qs_fail(QS_E_RESOURCE, "export: no memory for a document");
}

static qs_err set(json_t *object, const char *key, json_t *value)
{
    return need(json_object_set_new(object, key, value) == 0 ? object : NULL);
}

/* ---- from GGUF ---- */

/* GGUF holds f32: the shortest decimal number that is it, 1e-05 and not 9.99999975e-06. */
static json_t *real_of_f32(double value)
{
    char text[32];
    for (int digits = 1; digits <= 9; digits++) {
        (void)snprintf(text, sizeof text, "%.*g", digits, value);
        if ((float)strtod(text, NULL) == (float)value) break;
    }
    return json_real(strtod(text, NULL));
}

/* Divisors of the frequencies are how GGUF writes "llama3" scaling; its four numbers are found again by
 * trying those that Llama 3.1 and 3.2 have. */
static bool is_llama3(const qs_model *model, qs_model_config *scaled)
{
    int64_t n = scaled->head_dim / 2;
    float *wanted = NULL, *made = NULL;
    bool same = false;
    if (QS_NEW(wanted, n, "frequencies") == QS_OK && QS_NEW(made, n, "frequencies") == QS_OK) {
        qs_model_rope_frequencies(model, wanted);
        double slowest = pow(scaled->rope_theta, -2.0 * (double)(n - 1) / (double)scaled->head_dim);
        scaled->rope_kind = QS_ROPE_LLAMA3;
        scaled->rope_factor = nearbyint(slowest / (double)wanted[n - 1]);
        scaled->rope_low_freq_factor = 1;
        scaled->rope_high_freq_factor = 4;
        scaled->rope_original_ctx = 8192;
        qs_rope_frequencies(scaled, NULL, made);
        same = scaled->rope_factor >= 1;
        for (int64_t i = 0; i < n; i++)
            same = same && fabs((double)made[i] - (double)wanted[i]) <= 1e-5 * (double)wanted[i];
    }
    qs_mem_free(wanted);
    qs_mem_free(made);
    return same;
}

static qs_err put_rope(json_t *root, const qs_model *model)
{
    qs_model_config c = *qs_model_get_config(model);
    qs_err err;
    QS_TRY(set(root, "rope_theta", real_of_f32(c.rope_theta)));
    if (c.rope_kind == QS_ROPE_DIVISORS && !is_llama3(model, &c))
        return qs_fail(QS_E_UNSUPPORTED, "export %s: rope_freqs.weight is not the scaling of Llama 3.1 or 3.2, and "
                       "config.json has no words for another; export to gguf instead", qs_model_path(model));
    json_t *scaling = json_null();
    if (c.rope_kind == QS_ROPE_LINEAR)
        scaling = json_pack("{s:s, s:s, s:o}", "rope_type", "linear", "type", "linear", "factor",
                            real_of_f32(c.rope_factor));
    else if (c.rope_kind == QS_ROPE_LLAMA3)
        scaling = json_pack("{s:s, s:o, s:o, s:o, s:I}", "rope_type", "llama3", "factor", real_of_f32(c.rope_factor),
                            "low_freq_factor", real_of_f32(c.rope_low_freq_factor), "high_freq_factor",
                            real_of_f32(c.rope_high_freq_factor), "original_max_position_embeddings",
                            (json_int_t)c.rope_original_ctx);
    QS_TRY(set(root, "rope_scaling", scaling));
out:
    return err;
}

static qs_err put_ends(json_t *root, const qs_model *model)
{
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    qs_err err = QS_OK;
    if (tokenizer == NULL) return QS_OK;
    if (qs_tokenizer_bos(tokenizer) >= 0) QS_TRY(set(root, "bos_token_id", json_integer(qs_tokenizer_bos(tokenizer))));
    if (qs_tokenizer_eos(tokenizer) >= 0) QS_TRY(set(root, "eos_token_id", json_integer(qs_tokenizer_eos(tokenizer))));
out:
    return err;
}

/* GGUF calls Mistral "llama"; its window is what tells them apart. */
static const char *class_of(const qs_model_config *c, const char **type)
{
    bool mistral = strcmp(c->architecture, "llama") == 0 && c->sliding_window > 0;
    *type = mistral ? "mistral" : c->architecture;
    if (mistral) return "MistralForCausalLM";
    if (strcmp(c->architecture, "qwen2") == 0) return "Qwen2ForCausalLM";
    return strcmp(c->architecture, "qwen3") == 0 ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
}

qs_err qs_hf_config_from_gguf(json_t **out, const qs_model *model)
{
    const qs_model_config *c = qs_model_get_config(model);
    const char *type, *class_name = class_of(c, &type);
    json_t *root;
    qs_err err;
    *out = NULL;
    if (c->qkv_bias != c->o_bias && strcmp(c->architecture, "qwen2") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "export %s: biases of q, k and v without one of o have no place in the "
                       "config.json of %s", qs_model_path(model), class_name);
    root = json_pack("{s:[s], s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:s, s:b}", "architectures", class_name,
                     "model_type", type, "vocab_size", (json_int_t)c->n_vocab, "hidden_size", (json_int_t)c->d_model,
                     "intermediate_size", (json_int_t)c->d_ff, "num_hidden_layers", (json_int_t)c->n_layers,
                     "num_attention_heads", (json_int_t)c->n_heads, "num_key_value_heads", (json_int_t)c->n_kv_heads,
                     "head_dim", (json_int_t)c->head_dim, "max_position_embeddings", (json_int_t)c->n_ctx_max,
                     "rms_norm_eps", real_of_f32(c->norm_eps), "hidden_act", "silu", "tie_word_embeddings",
                     (int)c->tied_head);
    QS_TRY(need(root));
    if (strcmp(c->architecture, "qwen2") != 0) QS_TRY(set(root, "attention_bias", json_boolean(c->qkv_bias)));
    if (c->sliding_window > 0) QS_TRY(set(root, "sliding_window", json_integer((json_int_t)c->sliding_window)));
    QS_TRY(put_rope(root, model));
    QS_TRY(put_ends(root, model));
    *out = root;
    root = NULL;
out:
    json_decref(root);
    return err;
}

/* ---- config.json ---- */

static qs_err load_config(json_t **root, const qs_model *model)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/config.json", qs_model_path(model));
    return err == QS_OK ? qs_json_load(root, path) : err;
}

static qs_err write_generation(const qs_model *model, const qs_out_dir *dir)
{
    json_t *root = json_object();
    qs_err err;
    QS_TRY(need(root));
    QS_TRY(put_ends(root, model));
    if (json_object_size(root) > 0) err = qs_out_dir_put_json(dir, "generation_config.json", root);
out:
    json_decref(root);
    return err;
}

qs_err qs_hf_config_write(const qs_model *model, const qs_out_dir *dir, const json_t *quantised, bool tied)
{
    bool gguf = qs_model_get_gguf(model) != NULL;
    json_t *root = NULL;
    qs_err err;
    QS_TRY(gguf ? qs_hf_config_from_gguf(&root, model) : load_config(&root, model));
    QS_TRY(set(root, "tie_word_embeddings", json_boolean(tied)));
    /* Two spellings of one thing: the older one is read by every loader, the newer one would contradict it. */
    QS_TRY(set(root, "torch_dtype", json_string("float16")));
    if (json_object_get(root, "dtype") != NULL) QS_TRY(set(root, "dtype", json_string("float16")));
    if (quantised != NULL) QS_TRY(set(root, "quantization_config", json_deep_copy(quantised)));
    QS_TRY(qs_out_dir_put_json(dir, "config.json", root));
    err = gguf ? write_generation(model, dir) : qs_out_dir_copy(dir, qs_model_path(model), "generation_config.json");
out:
    json_decref(root);
    return err;
}

/* ---- tokenizer ---- */

static const char *const tokenizer_files[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt",
    "added_tokens.json", "chat_template.jinja", "chat_template.json",
};

static qs_err set_token(json_t *root, const char *key, const qs_gguf_vocab *v, int64_t id)
{
    if (id < 0 || id >= v->n_vocab) return QS_OK;
    return set(root, key, json_stringn(v->tokens[id], (size_t)v->token_bytes[id]));
}

static qs_err write_tokenizer_config(const qs_model *model, const qs_out_dir *dir, const qs_gguf_vocab *v)
{
    const qs_gguf *gguf = qs_model_get_gguf(model);
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    const qs_gguf_kv *chat = qs_gguf_find(gguf, "tokenizer.chat_template");
    int64_t pad = -1;
    json_t *root = json_pack("{s:s, s:b, s:I, s:b}", "tokenizer_class", "PreTrainedTokenizerFast",
                             "clean_up_tokenization_spaces", 0, "model_max_length",
                             (json_int_t)qs_model_get_config(model)->n_ctx_max, "add_bos_token",
                             (int)qs_tokenizer_adds_bos(tokenizer));
    qs_err err;
    QS_TRY(need(root));
    QS_TRY(qs_gguf_opt_int(&pad, gguf, "tokenizer.ggml.padding_token_id", 0, v->n_vocab - 1, qs_model_path(model)));
    QS_TRY(set_token(root, "bos_token", v, qs_tokenizer_bos(tokenizer)));
    QS_TRY(set_token(root, "eos_token", v, qs_tokenizer_eos(tokenizer)));
    QS_TRY(set_token(root, "unk_token", v, v->unknown_id));
    QS_TRY(set_token(root, "pad_token", v, pad));
    if (chat != NULL && chat->type == QS_GGUF_STRING)
        QS_TRY(set(root, "chat_template", json_stringn((const char *)chat->data, (size_t)chat->n)));
    err = qs_out_dir_put_json(dir, "tokenizer_config.json", root);
out:
    json_decref(root);
    return err;
}

static qs_err write_gguf_tokenizer(const qs_model *model, const qs_out_dir *dir)
{
    qs_gguf_tokens tokens;
    json_t *root = NULL;
    qs_err err;
    QS_TRY(qs_gguf_tokens_read(&tokens, qs_model_get_gguf(model), qs_model_path(model)));
    if (tokens.vocab.n_vocab == 0) goto out;
    QS_TRY(qs_tokenizer_json_from_gguf(&root, &tokens.vocab, qs_model_path(model)));
    QS_TRY(qs_out_dir_put_json(dir, "tokenizer.json", root));
    err = write_tokenizer_config(model, dir, &tokens.vocab);
out:
    json_decref(root);
    qs_gguf_tokens_free(&tokens);
    return err;
}

qs_err qs_hf_tokenizer_write(const qs_model *model, const qs_out_dir *dir)
{
    qs_err err = QS_OK;
    if (qs_model_get_tokenizer(model) == NULL) {
        qs_log_warn("%s has no tokenizer: the export has none either", qs_model_path(model));
        return QS_OK;
    }
    if (qs_model_get_gguf(model) != NULL) return write_gguf_tokenizer(model, dir);
    for (size_t i = 0; i < sizeof tokenizer_files / sizeof *tokenizer_files; i++)
        QS_TRY(qs_out_dir_copy(dir, qs_model_path(model), tokenizer_files[i]));
out:
    return err;
}
