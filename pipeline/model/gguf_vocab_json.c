/* A GGUF vocabulary as a tokenizer.json. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/gguf_vocab.h"
#include "model/pretokenizer.h"
#include "model/vocab.h"

enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4 };

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

static json_t *token_text(const qs_gguf_vocab *v, int64_t id)
{
    return json_stringn(v->tokens[id], (size_t)v->token_bytes[id]);
}

/* jansson gives NULL when memory is out, and passes a NULL it is given on. */
static qs_err need(const json_t *node, const char *name)
{
    return node != NULL ? QS_OK : qs_fail(QS_E_RESOURCE, "write the tokenizer of %s: out of memory", name);
}

static qs_err put(json_t *object, const char *key, json_t *value, const char *name)
{
    return need(json_object_set_new(object, key, value) == 0 ? object : NULL, name);
}

/* ---- parts that both kinds have ---- */

static qs_err check_tokens(const qs_gguf_vocab *v, const char *name)
{
    if (v->n_vocab < 1 || v->bos_id >= v->n_vocab || v->unknown_id >= v->n_vocab)
        return qs_fail(QS_E_INPUT, "write the tokenizer of %s: its vocabulary has %lld tokens", name,
                       (long long)v->n_vocab);
    for (int64_t id = 0; id < v->n_vocab; id++) {
        json_t *text = token_text(v, id);
        bool good = text != NULL && memchr(v->tokens[id], '\0', (size_t)v->token_bytes[id]) == NULL;
        json_decref(text);
        if (!good)
            return qs_fail(QS_E_UNSUPPORTED, "write the tokenizer of %s: token %lld is not UTF-8 or holds a NUL, which "
                           "tokenizer.json cannot say", name, (long long)id);
    }
    return QS_OK;
}

static qs_err put_vocab(json_t *model, const qs_gguf_vocab *v, const char *name)
{
    json_t *vocab = json_object();
    qs_err err;
    QS_TRY(put(model, "vocab", vocab, name));
    for (int64_t id = 0; id < v->n_vocab; id++) {
        json_t *text = token_text(v, id);
        err = put(vocab, json_string_value(text), json_integer((json_int_t)id), name);
        json_decref(text);
        if (err != QS_OK) goto out;
    }
    if ((int64_t)json_object_size(vocab) != v->n_vocab)
        err = qs_fail(QS_E_INPUT, "write the tokenizer of %s: two of its %lld tokens are alike", name,
                      (long long)v->n_vocab);
out:
    return err;
}

/* Those that the reader of GGUF looks for in the raw text. */
static json_t *make_added(const qs_gguf_vocab *v)
{
    json_t *list = json_array();
    for (int64_t id = 0; v->types != NULL && id < v->n_vocab; id++) {
        if (v->types[id] < TYPE_UNKNOWN || v->types[id] > TYPE_USER || v->token_bytes[id] == 0) continue;
        json_t *token = json_pack("{s:I, s:o, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)id, "content",
                                  token_text(v, id), "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0,
                                  "special", (int)(v->types[id] != TYPE_USER));
        (void)json_array_append_new(list, token);
    }
    return list;
}

static json_t *special_item(const qs_gguf_vocab *v, int type_id)
{
    return json_pack("{s:{s:o, s:i}}", "SpecialToken", "id", token_text(v, v->bos_id), "type_id", type_id);
}

static json_t *sequence_item(const char *text, int type_id)
{
    return json_pack("{s:{s:s, s:i}}", "Sequence", "id", text, "type_id", type_id);
}

/* BOS in front of each text. */
static json_t *make_template(const qs_gguf_vocab *v)
{
    json_t *bos = token_text(v, v->bos_id), *table = json_object();
    (void)json_object_set_new(table, json_string_value(bos),
                              json_pack("{s:O, s:[i], s:[O]}", "id", bos, "ids", (int)v->bos_id, "tokens", bos));
    json_decref(bos);
    return json_pack("{s:s, s:[o, o], s:[o, o, o, o], s:o}", "type", "TemplateProcessing", "single", special_item(v, 0),
                     sequence_item("A", 0), "pair", special_item(v, 0), sequence_item("A", 0), special_item(v, 1),
                     sequence_item("B", 1), "special_tokens", table);
}

/* ---- gpt2 ---- */

static json_t *make_byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex",
                     0);
}

static json_t *make_pretokenizer(const qs_pre_family *family)
{
    json_t *steps = json_array();
    if (family->digits)
        (void)json_array_append_new(steps, json_pack("{s:s, s:b}", "type", "Digits", "individual_digits", 1));
    for (size_t p = 0; p < sizeof family->patterns / sizeof *family->patterns && family->patterns[p] != NULL; p++)
        (void)json_array_append_new(steps, json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex",
                                                     family->patterns[p], "behavior", "Isolated", "invert", 0));
    (void)json_array_append_new(steps, make_byte_level());
    return json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", steps);
}

static qs_err put_listed_merges(json_t *model, const qs_gguf_vocab *v, const char *name)
{
    json_t *list = json_array();
    qs_err err;
    QS_TRY(put(model, "merges", list, name));
    for (int64_t m = 0; m < v->n_merges; m++) {
        const char *text = v->merges[m];
        size_t bytes = (size_t)v->merge_bytes[m];
        const char *space = bytes < 3 ? NULL : memchr(text + 1, ' ', bytes - 1);
        if (space == NULL)
            return qs_fail(QS_E_INPUT, "write the tokenizer of %s: merge %lld is not \"left right\"", name,
                           (long long)m);
        size_t left = (size_t)(space - text);
        json_t *pair = json_pack("[o, o]", json_stringn(text, left), json_stringn(space + 1, bytes - left - 1));
        QS_TRY(need(json_array_append_new(list, pair) == 0 ? list : NULL, name));
    }
out:
    return err;
}

static qs_err put_gpt2(json_t *root, json_t *model, const qs_gguf_vocab *v, const char *name)
{
    const qs_pre_family *family;
    qs_err err;
    QS_TRY(qs_pre_family_find(&family, v->pre == NULL ? "default" : v->pre, name));
    bool add_bos = v->bos_id >= 0 && (v->add_bos >= 0 ? v->add_bos != 0 : family->add_bos);
    QS_TRY(put(root, "normalizer", family->nfc ? json_pack("{s:s}", "type", "NFC") : json_null(), name));
    QS_TRY(put(root, "pre_tokenizer", make_pretokenizer(family), name));
    QS_TRY(put(root, "post_processor", add_bos ? make_template(v) : make_byte_level(), name));
    QS_TRY(put(root, "decoder", make_byte_level(), name));
    QS_TRY(put(model, "ignore_merges", json_boolean(family->ignore_merges), name));
    err = put_listed_merges(model, v, name);
out:
    return err;
}

/* ---- llama: SentencePiece merges what gives the token of the best score ---- */

typedef struct cut {
    float score;
    int32_t left, right;
} cut;

static int compare_cuts(const void *a, const void *b)
{
    const cut *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    return x->right < y->right ? -1 : x->right > y->right;
}

/* Counts the cuts of all tokens in two tokens and, where `cuts` is given, fills them in. */
static int64_t find_cuts(const qs_vocab *vocab, const qs_gguf_vocab *v, cut *cuts)
{
    int64_t n = 0;
    for (int64_t id = 0; id < v->n_vocab; id++) {
        for (size_t at = 1; at < (size_t)v->token_bytes[id]; at++) {
            const char *text = v->tokens[id];
            if (((unsigned char)text[at] & 0xC0) == 0x80) continue;
            int32_t left = qs_vocab_find(vocab, text, at);
            int32_t right = left < 0 ? -1 : qs_vocab_find(vocab, text + at, (size_t)v->token_bytes[id] - at);
            if (right < 0) continue;
            if (cuts != NULL) cuts[n] = (cut){.score = v->scores[id], .left = left, .right = right};
            n++;
        }
    }
    return n;
}

static qs_err put_scored_merges(json_t *model, const qs_gguf_vocab *v, const char *name)
{
    qs_vocab vocab = {0};
    json_t *list = json_array();
    cut *cuts = NULL;
    size_t bytes = 0;
    qs_err err;
    QS_TRY(put(model, "merges", list, name));
    for (int64_t id = 0; id < v->n_vocab; id++) bytes += (size_t)v->token_bytes[id];
    QS_TRY(qs_vocab_init(&vocab, v->n_vocab, bytes, name));
    for (int64_t id = 0; id < v->n_vocab; id++)
        QS_TRY(qs_vocab_set(&vocab, id, v->tokens[id], (size_t)v->token_bytes[id], name));
    int64_t n = find_cuts(&vocab, v, NULL);
    QS_TRY(QS_NEW(cuts, n, "merges"));
    (void)find_cuts(&vocab, v, cuts);
    if (n > 0) qsort(cuts, (size_t)n, sizeof *cuts, compare_cuts);
    for (int64_t m = 0; m < n; m++) {
        json_t *pair = json_pack("[o, o]", token_text(v, cuts[m].left), token_text(v, cuts[m].right));
        QS_TRY(need(json_array_append_new(list, pair) == 0 ? list : NULL, name));
    }
out:
    qs_vocab_fini(&vocab);
    qs_mem_free(cuts);
    return err;
}

static json_t *make_replace(const char *what, const char *with)
{
    return json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern", "String", what, "content", with);
}

static json_t *make_normalizer(bool prefix)
{
    if (!prefix) return make_replace(" ", mark);
    return json_pack("{s:s, s:[{s:s, s:s}, o]}", "type", "Sequence", "normalizers", "type", "Prepend", "prepend", mark,
                     make_replace(" ", mark));
}

static json_t *make_decoder(bool prefix)
{
    json_t *steps = json_pack("[o, {s:s}, {s:s}]", make_replace(mark, " "), "type", "ByteFallback", "type", "Fuse");
    if (prefix)
        (void)json_array_append_new(steps, json_pack("{s:s, s:s, s:i, s:i}", "type", "Strip", "content", " ", "start",
                                                     1, "stop", 0));
    return json_pack("{s:s, s:o}", "type", "Sequence", "decoders", steps);
}

static qs_err put_llama(json_t *root, json_t *model, const qs_gguf_vocab *v, const char *name)
{
    bool prefix = v->add_space_prefix != 0;
    qs_gguf_vocab own = *v;
    qs_err err;
    if (v->scores == NULL)
        return qs_fail(QS_E_INPUT, "write the tokenizer of %s: a \"llama\" vocabulary needs scores", name);
    /* The places that SentencePiece gives them. */
    if (own.bos_id < 0 && v->n_vocab > 2) own.bos_id = 1;
    bool add_bos = own.bos_id >= 0 && v->add_bos != 0;
    QS_TRY(put(root, "normalizer", make_normalizer(prefix), name));
    QS_TRY(put(root, "pre_tokenizer", json_null(), name));
    QS_TRY(put(root, "post_processor", add_bos ? make_template(&own) : json_null(), name));
    QS_TRY(put(root, "decoder", make_decoder(prefix), name));
    QS_TRY(put(model, "unk_token", token_text(v, v->unknown_id >= 0 ? v->unknown_id : 0), name));
    QS_TRY(put(model, "fuse_unk", json_true(), name));
    QS_TRY(put(model, "byte_fallback", json_true(), name));
    err = put_scored_merges(model, v, name);
out:
    return err;
}

/* ---- the whole ---- */

qs_err qs_tokenizer_json_from_gguf(json_t **out, const qs_gguf_vocab *v, const char *name)
{
    const char *kind = v->model == NULL ? "" : v->model;
    json_t *root, *model;
    qs_err err;
    *out = NULL;
    root = json_pack("{s:s, s:n, s:n}", "version", "1.0", "truncation", "padding");
    QS_TRY(need(root, name));
    QS_TRY(check_tokens(v, name));
    QS_TRY(put(root, "added_tokens", make_added(v), name));
    /* As the peer writes it, so that no reader has to guess a default. */
    model = json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b}", "type", "BPE", "dropout", "unk_token",
                      "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0, "byte_fallback", 0,
                      "ignore_merges", 0);
    QS_TRY(put(root, "model", model, name));
    QS_TRY(put_vocab(model, v, name));
    if (strcmp(kind, "gpt2") == 0) err = put_gpt2(root, model, v, name);
    else if (strcmp(kind, "llama") == 0) err = put_llama(root, model, v, name);
    else
        err = qs_fail(QS_E_UNSUPPORTED, "write the tokenizer of %s: \"%.64s\" is neither gpt2 nor llama", name, kind);
out:
    if (err == QS_OK) *out = root;
    else json_decref(root);
    return err;
}
