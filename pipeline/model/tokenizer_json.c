/* A tokenizer from the text of a Hugging Face tokenizer.json. */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/tokenizer_impl.h"

enum { NEST_MAX = 8 };

/* Ids may have gaps, but an id far beyond the number of tokens is a broken file, not a vocabulary. */
static int64_t id_limit(size_t n_tokens) { return 4 * (int64_t)n_tokens + 4096; }

/* ---- model ---- */

static qs_err check_model(const json_t *model, const char *name)
{
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    const char *type = "BPE";
    double dropout = 0.0;
    qs_err err;
    if (!json_is_object(model)) return qs_fail(QS_E_INPUT, "read %s: \"model\" must be an object", name);
    QS_TRY(qs_json_opt_string(&type, model, "type", name));
    if (strcmp(type, "BPE") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: the model \"%.64s\" is not supported, only BPE is", name,
                       type);
    QS_TRY(qs_json_opt_real(&dropout, model, "dropout", name));
    if (dropout != 0.0) return qs_fail(QS_E_UNSUPPORTED, "read %s: BPE dropout is not supported", name);
    for (size_t a = 0; a < sizeof affixes / sizeof *affixes; a++) {
        const char *affix = "";
        QS_TRY(qs_json_opt_string(&affix, model, affixes[a], name));
        if (affix[0] != '\0')
            return qs_fail(QS_E_UNSUPPORTED, "read %s: %s is not supported", name, affixes[a]);
    }
out:
    return err;
}

static qs_err read_vocab(qs_vocab *vocab, json_t *node, const char *name)
{
    if (!json_is_object(node)) return qs_fail(QS_E_INPUT, "read %s: \"vocab\" must be an object", name);
    int64_t id_max = -1;
    size_t text_bytes = 0;
    for (void *it = json_object_iter(node); it != NULL; it = json_object_iter_next(node, it)) {
        const json_t *id = json_object_iter_value(it);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            json_integer_value(id) >= id_limit(json_object_size(node)))
            return qs_fail(QS_E_INPUT, "read %s: the id of token \"%.64s\" must be an integer from 0 to %lld",
                           name, json_object_iter_key(it), (long long)id_limit(json_object_size(node)) - 1);
        if (json_integer_value(id) > id_max) id_max = json_integer_value(id);
        text_bytes += strlen(json_object_iter_key(it));
    }
    qs_err err = qs_vocab_init(vocab, id_max + 1, text_bytes, name);
    for (void *it = json_object_iter(node); it != NULL && err == QS_OK;
         it = json_object_iter_next(node, it)) {
        const char *token = json_object_iter_key(it);
        err = qs_vocab_set(vocab, json_integer_value(json_object_iter_value(it)), token, strlen(token), name);
    }
    return err;
}

/* "left right" or ["left", "right"]. */
static qs_err read_merge(qs_bpe *bpe, const json_t *merge, uint32_t rank, const char *name)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right))
            return qs_bpe_add_merge(bpe, json_string_value(left), json_string_length(left),
                                    json_string_value(right), json_string_length(right), rank, name);
    } else if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        /* Lists that came from a merges.txt may still begin with its header line. */
        if (strncmp(text, "#version", 8) == 0) return QS_OK;
        if (space != NULL && strchr(space + 1, ' ') == NULL)
            return qs_bpe_add_merge(bpe, text, (size_t)(space - text), space + 1, strlen(space + 1), rank,
                                    name);
    }
    return qs_fail(QS_E_INPUT, "read %s: merge %u must be \"left right\" or [\"left\", \"right\"]", name,
                   rank);
}

static qs_err read_model(qs_tokenizer *t, const json_t *model, const char *name)
{
    const char *unknown = NULL;
    qs_err err;
    QS_TRY(check_model(model, name));
    QS_TRY(read_vocab(&t->vocab, json_object_get(model, "vocab"), name));
    const json_t *merges = json_object_get(model, "merges");
    if (!json_is_array(merges)) return qs_fail(QS_E_INPUT, "read %s: \"merges\" must be a list", name);
    QS_TRY(qs_bpe_init(&t->bpe, &t->vocab, (int64_t)json_array_size(merges)));
    for (size_t m = 0; m < json_array_size(merges); m++)
        QS_TRY(read_merge(&t->bpe, json_array_get(merges, m), (uint32_t)m, name));
    QS_TRY(qs_json_opt_bool(&t->bpe.byte_fallback, model, "byte_fallback", name));
    QS_TRY(qs_json_opt_bool(&t->bpe.fuse_unk, model, "fuse_unk", name));
    QS_TRY(qs_json_opt_bool(&t->bpe.ignore_merges, model, "ignore_merges", name));
    QS_TRY(qs_json_opt_string(&unknown, model, "unk_token", name));
    if (unknown != NULL) {
        t->bpe.unk_id = qs_vocab_find(&t->vocab, unknown, strlen(unknown));
        t->bpe.unk_missing = t->bpe.unk_id < 0;
    }
    qs_bpe_finish(&t->bpe);
out:
    return err;
}

/* ---- added_tokens ---- */

/* The peer takes the id of an added token from the model, or else from its place in the list, and never from
 * the file: where the file says otherwise, one of the two would feed the model wrong ids. */
static qs_err check_added_id(const qs_tokenizer *t, const qs_added_token *token, int64_t added_max,
                             const char *name)
{
    int64_t expected = qs_vocab_find(&t->vocab, token->text, token->bytes);
    if (expected < 0) expected = added_max >= t->vocab.n_tokens ? added_max + 1 : t->vocab.n_tokens;
    if (token->id == expected) return QS_OK;
    return qs_fail(QS_E_INPUT, "read %s: added token \"%.64s\" has the id %d, but its place gives it %lld",
                   name, token->text, token->id, (long long)expected);
}

static qs_err read_added_token(qs_added_token *out, const json_t *node, int64_t limit, const char *name)
{
    const char *text;
    int64_t id = 0;
    qs_err err;
    *out = (qs_added_token){.normalized = true};
    if (!json_is_object(node)) return qs_fail(QS_E_INPUT, "read %s: an added token must be an object", name);
    QS_TRY(qs_json_get_string(&text, node, "content", name));
    QS_TRY(qs_json_get_int(&id, node, "id", 0, limit - 1, name));
    QS_TRY(qs_json_opt_bool(&out->single_word, node, "single_word", name));
    QS_TRY(qs_json_opt_bool(&out->lstrip, node, "lstrip", name));
    QS_TRY(qs_json_opt_bool(&out->rstrip, node, "rstrip", name));
    QS_TRY(qs_json_opt_bool(&out->normalized, node, "normalized", name));
    QS_TRY(qs_json_opt_bool(&out->special, node, "special", name));
    out->text = (char *)text; /* qs_added_add copies it */
    out->bytes = json_string_length(json_object_get(node, "content"));
    out->id = (int32_t)id;
out:
    return err;
}

static qs_err read_added(qs_tokenizer *t, const json_t *list, const char *name)
{
    int64_t added_max = -1;
    qs_err err;
    if (list != NULL && !json_is_null(list) && !json_is_array(list))
        return qs_fail(QS_E_INPUT, "read %s: \"added_tokens\" must be a list", name);
    size_t n = json_array_size(list);
    int64_t limit = id_limit(n + (size_t)t->vocab.n_tokens);
    QS_TRY(qs_added_init(&t->added, (int64_t)n));
    for (size_t i = 0; i < n; i++) {
        qs_added_token token;
        QS_TRY(read_added_token(&token, json_array_get(list, i), limit, name));
        QS_TRY(check_added_id(t, &token, added_max, name));
        QS_TRY(qs_added_add(&t->added, token, name));
        if (token.id > added_max) added_max = token.id;
    }
    t->n_vocab = added_max >= t->vocab.n_ids ? added_max + 1 : t->vocab.n_ids;
    QS_TRY(qs_added_finish(&t->added, &t->normalizer, t->n_vocab, name));
out:
    return err;
}

/* ---- post_processor ---- */

static qs_err template_full(const char *name)
{
    return qs_fail(QS_E_UNSUPPORTED, "read %s: a template of more than %d tokens", name, QS_TEMPLATE_IDS_MAX);
}

/* Appends the ids of {"SpecialToken": {"id": NAME}}, looked up in the template's own table. */
static qs_err read_template_token(qs_template_side *side, const json_t *item, const json_t *table,
                                  int64_t n_vocab, const char *name)
{
    const char *key;
    qs_err err = qs_json_get_string(&key, item, "id", name);
    if (err != QS_OK) return err;
    const json_t *ids = json_object_get(json_object_get(table, key), "ids");
    if (!json_is_array(ids))
        return qs_fail(QS_E_INPUT, "read %s: the template's special token \"%.64s\" has no ids", name, key);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= n_vocab)
            return qs_fail(QS_E_INPUT, "read %s: an id of the template's \"%.64s\" is not in the vocabulary",
                           name, key);
        if (side->n == QS_TEMPLATE_IDS_MAX) return template_full(name);
        side->ids[side->n++] = (int32_t)json_integer_value(id);
    }
    return QS_OK;
}

/* A template wraps what the ones before it have made. */
static qs_err wrap(qs_tokenizer *t, const qs_template_side *before, const qs_template_side *after,
                   const char *name)
{
    qs_template_side *outer = &t->before;
    if (outer->n + before->n > QS_TEMPLATE_IDS_MAX || t->after.n + after->n > QS_TEMPLATE_IDS_MAX)
        return template_full(name);
    memmove(outer->ids + before->n, outer->ids, (size_t)outer->n * sizeof *outer->ids);
    memcpy(outer->ids, before->ids, (size_t)before->n * sizeof *outer->ids);
    outer->n += before->n;
    memcpy(t->after.ids + t->after.n, after->ids, (size_t)after->n * sizeof *after->ids);
    t->after.n += after->n;
    return QS_OK;
}

static qs_err read_template(qs_tokenizer *t, const json_t *node, const char *name)
{
    const json_t *single = json_object_get(node, "single"), *table = json_object_get(node, "special_tokens");
    qs_template_side before = {0}, after = {0}, *side = &before;
    int n_texts = 0;
    if (!json_is_array(single))
        return qs_fail(QS_E_INPUT, "read %s: the template needs the list \"single\"", name);
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *special = json_object_get(item, "SpecialToken");
        const json_t *sequence = json_object_get(item, "Sequence");
        if (special != NULL) {
            qs_err err = read_template_token(side, special, table, t->n_vocab, name);
            if (err != QS_OK) return err;
        } else if (sequence != NULL) {
            const char *id = json_string_value(json_object_get(sequence, "id"));
            if (id == NULL || strcmp(id, "A") != 0)
                return qs_fail(QS_E_UNSUPPORTED, "read %s: a template for one text must name the text A",
                               name);
            side = &after;
            n_texts++;
        } else {
            return qs_fail(QS_E_INPUT, "read %s: item %zu of the template is neither a token nor the text",
                           name, i);
        }
    }
    if (n_texts != 1)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: a template must hold the text exactly once", name);
    return wrap(t, &before, &after, name);
}

static qs_err read_post(qs_tokenizer *t, const json_t *node, int depth, const char *name)
{
    if (node == NULL || json_is_null(node)) return QS_OK;
    if (!json_is_object(node))
        return qs_fail(QS_E_INPUT, "read %s: \"post_processor\" must be an object", name);
    const char *type;
    qs_err err = qs_json_get_string(&type, node, "type", name);
    if (err != QS_OK) return qs_context(err, "post_processor");
    if (strcmp(type, "ByteLevel") == 0) return QS_OK; /* it changes offsets, not tokens */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(t, node, name);
    if (strcmp(type, "Sequence") != 0)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: the post_processor \"%.64s\" is not supported", name,
                       type);
    const json_t *list = json_object_get(node, "processors");
    if (!json_is_array(list) || depth == NEST_MAX)
        return qs_fail(QS_E_INPUT, "read %s: a post_processor Sequence needs a list, at most %d deep", name,
                       NEST_MAX);
    for (size_t i = 0; i < json_array_size(list) && err == QS_OK; i++)
        err = read_post(t, json_array_get(list, i), depth + 1, name);
    return err;
}

/* ---- the whole ---- */

static void guess_ends(qs_tokenizer *t)
{
    static const char *const names[] = {"</s>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>",
                                        "<|eot_id|>"};
    t->bos = t->before.n > 0 ? t->before.ids[0] : -1;
    t->eos = t->after.n > 0 ? t->after.ids[t->after.n - 1] : -1;
    for (size_t i = 0; i < sizeof names / sizeof *names && t->eos < 0; i++) {
        const qs_added_token *token = qs_added_find(&t->added, names[i], strlen(names[i]));
        if (token != NULL && token->special) t->eos = token->id;
    }
}

qs_err qs_tokenizer_from_json(qs_tokenizer **out, const char *text, size_t bytes, const char *name)
{
    *out = NULL;
    json_t *root = NULL;
    qs_tokenizer *t = NULL;
    qs_err err;
    QS_TRY(qs_json_parse(&root, text, bytes, name));
    QS_TRY(QS_NEW(t, 1, "tokenizer"));
    if (!json_is_object(root)) {
        err = qs_fail(QS_E_INPUT, "read %s: not a JSON object", name);
        goto out;
    }
    QS_TRY(read_model(t, json_object_get(root, "model"), name));
    QS_TRY(qs_normalizer_read(&t->normalizer, json_object_get(root, "normalizer"), name));
    QS_TRY(qs_pretokenizer_read(&t->pre, json_object_get(root, "pre_tokenizer"), name));
    QS_TRY(qs_detokenizer_read(&t->decoder, json_object_get(root, "decoder"), name));
    QS_TRY(read_added(t, json_object_get(root, "added_tokens"), name));
    QS_TRY(read_post(t, json_object_get(root, "post_processor"), 0, name));
    guess_ends(t);
    QS_TRY(qs_tokenizer_seal(t));
    *out = t;
    t = NULL;
out:
    qs_tokenizer_destroy(t);
    json_decref(root);
    return err;
}
