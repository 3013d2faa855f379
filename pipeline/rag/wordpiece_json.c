/* A WordPiece tokenizer (wordpiece.h) from its tokenizer.json. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "rag/wordpiece_impl.h"

/* A component of the document and the type that it must have. */
static qs_err get_component(const json_t **out, const json_t *root, const char *key, const char *type,
                            const char *name)
{
    const char *found;
    *out = json_object_get(root, key);
    if (!json_is_object(*out))
        return qs_fail(QS_E_UNSUPPORTED, "read %s: there is no %s; it must be %s", name, key, type);
    qs_err err = qs_json_get_string(&found, *out, "type", name);
    if (err != QS_OK) return err;
    if (strcmp(found, type) != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: %s is %.40s; an encoder has %s", name, key, found, type);
    return QS_OK;
}

static qs_err read_normalizer(qs_wordpiece *w, const json_t *root, const char *name)
{
    const json_t *object;
    qs_err err;
    w->clean_text = w->chinese_chars = w->lowercase = true;
    QS_TRY(get_component(&object, root, "normalizer", "BertNormalizer", name));
    QS_TRY(qs_json_opt_bool(&w->clean_text, object, "clean_text", name));
    QS_TRY(qs_json_opt_bool(&w->chinese_chars, object, "handle_chinese_chars", name));
    QS_TRY(qs_json_opt_bool(&w->lowercase, object, "lowercase", name));
    w->strip_accents = w->lowercase; /* what null means */
    QS_TRY(qs_json_opt_bool(&w->strip_accents, object, "strip_accents", name));
    QS_TRY(get_component(&object, root, "pre_tokenizer", "BertPreTokenizer", name));
out:
    return err;
}

static qs_err read_vocab(qs_wordpiece *w, const json_t *model, const char *name)
{
    const json_t *vocab = json_object_get(model, "vocab");
    const char *token;
    json_t *id;
    size_t bytes = 0;
    qs_err err;
    if (!json_is_object(vocab) || json_object_size(vocab) == 0)
        return qs_fail(QS_E_INPUT, "read %s: model.vocab is no object of tokens", name);
    json_object_foreach ((json_t *)vocab, token, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= QS_VOCAB_IDS_MAX)
            return qs_fail(QS_E_INPUT, "read %s: token \"%.40s\" has no id in [0, %d)", name, token, QS_VOCAB_IDS_MAX);
        if (json_integer_value(id) >= w->n_ids) w->n_ids = json_integer_value(id) + 1;
        bytes += strlen(token);
    }
    QS_TRY(qs_vocab_init(&w->vocab, w->n_ids, bytes, name));
    json_object_foreach ((json_t *)vocab, token, id)
        QS_TRY(qs_vocab_set(&w->vocab, json_integer_value(id), token, strlen(token), name));
out:
    return err;
}

static qs_err find_token(const qs_wordpiece *w, const char *token, int32_t *id, const char *name)
{
    *id = qs_vocab_find(&w->vocab, token, strlen(token));
    if (*id < 0) return qs_fail(QS_E_INPUT, "read %s: token \"%.40s\" is not in the vocabulary", name, token);
    return QS_OK;
}

static qs_err read_model(qs_wordpiece *w, const json_t *root, const char *name)
{
    const json_t *model;
    const char *unknown = "[UNK]", *prefix = "##";
    qs_err err;
    QS_TRY(get_component(&model, root, "model", "WordPiece", name));
    w->word_chars_max = 100;
    QS_TRY(qs_json_opt_string(&unknown, model, "unk_token", name));
    QS_TRY(qs_json_opt_string(&prefix, model, "continuing_subword_prefix", name));
    QS_TRY(qs_json_opt_int(&w->word_chars_max, model, "max_input_chars_per_word", 1, 1 << 20, name));
    if (strcmp(prefix, "##") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: words continue with \"%.20s\", not with \"##\"", name, prefix);
    QS_TRY(read_vocab(w, model, name));
    QS_TRY(find_token(w, unknown, &w->unknown, name));
out:
    return err;
}

/* Which tokens stand around a text: [["[SEP]", 102], ...] of BertProcessing, or the template of a single text. */
static qs_err read_frame(qs_wordpiece *w, const json_t *root, const char *name)
{
    const json_t *post = json_object_get(root, "post_processor"), *single = json_object_get(post, "single");
    const char *type = json_string_value(json_object_get(post, "type")), *first = NULL, *last = NULL;
    qs_err err;
    if (type != NULL && strcmp(type, "BertProcessing") == 0) {
        first = json_string_value(json_array_get(json_object_get(post, "cls"), 0));
        last = json_string_value(json_array_get(json_object_get(post, "sep"), 0));
    } else if (type != NULL && strcmp(type, "TemplateProcessing") == 0 && json_array_size(single) == 3 &&
               json_object_get(json_array_get(single, 1), "Sequence") != NULL) {
        first = json_string_value(json_object_get(json_object_get(json_array_get(single, 0), "SpecialToken"), "id"));
        last = json_string_value(json_object_get(json_object_get(json_array_get(single, 2), "SpecialToken"), "id"));
    }
    if (first == NULL || last == NULL)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: post_processor puts no single token before and behind a text", name);
    QS_TRY(find_token(w, first, &w->first, name));
    QS_TRY(find_token(w, last, &w->last, name));
out:
    return err;
}

static qs_err read_added(qs_wordpiece *w, const json_t *root, const char *name)
{
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    const json_t *list = json_object_get(root, "added_tokens"), *object;
    size_t i;
    qs_err err = QS_OK;
    if (json_array_size(list) > QS_WORDPIECE_ADDED_MAX)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: more than %d added tokens", name, QS_WORDPIECE_ADDED_MAX);
    json_array_foreach (list, i, object) {
        const char *text;
        int64_t id;
        QS_TRY(qs_json_get_string(&text, object, "content", name));
        QS_TRY(qs_json_get_int(&id, object, "id", 0, w->n_ids - 1, name));
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
            bool set = false;
            QS_TRY(qs_json_opt_bool(&set, object, flags[f], name));
            if (set)
                return qs_fail(QS_E_UNSUPPORTED, "read %s: added token \"%.40s\" has %s", name, text, flags[f]);
        }
        qs_wordpiece_added *added = &w->added[w->n_added];
        size_t bytes = strlen(text);
        if (bytes == 0) return qs_fail(QS_E_INPUT, "read %s: an added token is empty", name);
        QS_TRY(qs_mem_alloc(&added->text, bytes + 1, "added token"));
        w->n_added++;
        memcpy(added->text, text, bytes);
        added->bytes = bytes;
        added->id = (int32_t)id;
    }
out:
    return err;
}

qs_err qs_wordpiece_from_json(qs_wordpiece **out, const char *text, size_t bytes, const char *name)
{
    json_t *root = NULL;
    qs_wordpiece *w = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(qs_json_parse(&root, text, bytes, name));
    QS_TRY(QS_NEW(w, 1, "tokenizer"));
    QS_TRY(read_normalizer(w, root, name));
    QS_TRY(read_model(w, root, name));
    QS_TRY(read_frame(w, root, name));
    QS_TRY(read_added(w, root, name));
    *out = w;
    w = NULL;
out:
    qs_wordpiece_destroy(w);
    json_decref(root);
    return err;
}

void qs_wordpiece_destroy(qs_wordpiece *w)
{
    if (w == NULL) return;
    qs_vocab_fini(&w->vocab);
    for (int i = 0; i < w->n_added; i++) qs_mem_free(w->added[i].text);
    qs_mem_free(w);
}

int64_t qs_wordpiece_n_vocab(const qs_wordpiece *w) { return w->n_ids; }
