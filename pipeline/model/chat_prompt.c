#include "model/chat_prompt.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "model/weights_impl.h"

/* ---- what the checkpoint says ---- */

/* The longest templates known have some 20 KB; tokenizer_config.json lists added tokens too. */
static const size_t template_bytes_max = (size_t)1 << 20, config_bytes_max = (size_t)64 << 20;

static qs_err copy(char **out, const char *text, size_t bytes)
{
    qs_err err = qs_mem_alloc(out, bytes + 1, "chat template");
    if (err == QS_OK && bytes > 0) memcpy(*out, text, bytes);
    return err;
}

/* A text, or a list of {"name", "template"}. */
static const char *template_of(const json_t *value)
{
    size_t i;
    const json_t *item;
    json_array_foreach(value, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name != NULL && strcmp(name, "default") == 0) return json_string_value(json_object_get(item, "template"));
    }
    return json_string_value(value);
}

static qs_err from_config(const qs_model *model, char **out)
{
    char path[QS_PATH_BYTES], *text = NULL;
    json_t *root = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/tokenizer_config.json", model->path));
    if (!qs_file_exists(path)) goto out;
    QS_TRY(qs_file_read(&text, &bytes, path, config_bytes_max));
    QS_TRY(qs_json_parse_wide(&root, text, bytes, path));
    const char *found = template_of(json_object_get(root, "chat_template"));
    if (found != NULL) QS_TRY(copy(out, found, strlen(found)));
out:
    qs_mem_free(text);
    json_decref(root);
    return err;
}

static qs_err from_directory(const qs_model *model, char **out)
{
    char path[QS_PATH_BYTES];
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/chat_template.jinja", model->path));
    err = qs_file_exists(path) ? qs_file_read(out, &bytes, path, template_bytes_max) : from_config(model, out);
out:
    return err;
}

static qs_err from_gguf(const qs_model *model, char **out)
{
    const qs_gguf_kv *kv = qs_gguf_find(&model->gguf, "tokenizer.chat_template");
    if (kv == NULL) return QS_OK;
    if (kv->type != QS_GGUF_STRING || (size_t)kv->n > template_bytes_max ||
        memchr(kv->data, '\0', (size_t)kv->n) != NULL)
        return qs_fail(QS_E_INPUT, "read %s: \"tokenizer.chat_template\" is not a text", model->path);
    return copy(out, (const char *)kv->data, (size_t)kv->n);
}

qs_err qs_model_chat_template(const qs_model *model, char **text)
{
    *text = NULL;
    return model->file.map.data != NULL ? from_gguf(model, text) : from_directory(model, text);
}

/* Whose tokens are no single tokens, was not made for this tokenizer: its turns would be text like any other. */
static qs_err check_tokens(const qs_chat *chat, const qs_model *model)
{
    const char *const *lists[] = {chat->row->stops, chat->row->tokens};
    for (int l = 0; l < 2; l++)
        for (const char *const *token = lists[l]; *token != NULL; token++)
            if (model->tokenizer == NULL || qs_tokenizer_find(model->tokenizer, *token) < 0)
                return qs_fail(QS_E_UNSUPPORTED,
                               "use chat template %s: the tokenizer of %s has no token %s; give the template that it "
                               "was made for, or --chat none",
                               chat->row->name, model->path, *token);
    return QS_OK;
}

qs_err qs_model_choose_chat(qs_chat *out, const char *name, const qs_model *model)
{
    char *text = NULL;
    qs_err err = QS_OK;
    if (name != NULL && strcmp(name, "auto") == 0) QS_TRY(qs_model_chat_template(model, &text));
    QS_TRY(qs_chat_choose(out, name, text, model->path));
    if (out->row != NULL) QS_TRY(check_tokens(out, model));
out:
    qs_mem_free(text);
    return err;
}

qs_err qs_model_describe_chat(char text[QS_CHAT_TEXT_BYTES], const qs_model *model)
{
    char *found = NULL;
    qs_chat chat = {0};
    qs_err err = qs_model_chat_template(model, &found);
    if (err != QS_OK) return err;
    err = qs_chat_choose(&chat, "auto", found, model->path);
    const char *name = found == NULL ? "none" : err == QS_OK ? chat.row->name : "unknown";
    (void)snprintf(text, QS_CHAT_TEXT_BYTES, "%s", name);
    qs_mem_free(found);
    return err == QS_E_UNSUPPORTED ? QS_OK : err;
}

/* ---- tokens ---- */

_Static_assert((int)QS_CHAT_WORDS <= (int)QS_STOPS_MAX, "a row's stops fit");

qs_stops qs_chat_stops(const qs_chat *chat, const qs_tokenizer *tokenizer)
{
    qs_stops stops = {0};
    int32_t eos = qs_tokenizer_eos(tokenizer);
    for (int i = 0; chat->row != NULL && chat->row->stops[i] != NULL; i++) {
        int32_t id = qs_tokenizer_find(tokenizer, chat->row->stops[i]);
        if (id >= 0 && id != eos) stops.ids[stops.n++] = id;
    }
    return stops;
}

int32_t qs_chat_end(const qs_chat *chat, const qs_tokenizer *tokenizer)
{
    qs_stops stops = qs_chat_stops(chat, tokenizer);
    return stops.n > 0 ? stops.ids[0] : qs_tokenizer_eos(tokenizer);
}

qs_err qs_chat_encode(const qs_chat *chat, const qs_tokenizer *tokenizer, const qs_chat_message *messages, int64_t n,
                      qs_token_list *list)
{
    qs_chat_text text;
    const char *bos = qs_tokenizer_spelling(tokenizer, qs_tokenizer_bos(tokenizer)),
               *eos = qs_tokenizer_spelling(tokenizer, qs_tokenizer_eos(tokenizer));
    qs_err err = qs_chat_render(&text, chat, bos, eos, messages, n);
    if (err != QS_OK) return err;
    err = qs_tokenizer_encode_guarded(tokenizer, text.text, text.bytes, text.contents, text.n_contents, list);
    qs_chat_text_free(&text);
    return qs_context(err, "encode chat");
}
