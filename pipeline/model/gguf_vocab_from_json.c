/* A tokenizer.json as a GGUF vocabulary. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/gguf_vocab.h"
#include "model/tokenizer_impl.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };
enum { PAD_BYTES = 32 };

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

/* ---- which of GGUF's tokenizers it is ---- */

static bool same_pretokenizer(const qs_tokenizer *t, const qs_pre_family *family)
{
    qs_pretokenizer made = {0};
    qs_hasher *a = NULL, *b = NULL;
    bool same = false;
    if (qs_pretokenizer_add_family(&made, family, "family") == QS_OK && qs_hasher_create(&a) == QS_OK &&
        qs_hasher_create(&b) == QS_OK) {
        qs_pretokenizer_hash(&t->pre, a);
        qs_pretokenizer_hash(&made, b);
        same = true;
    }
    qs_digest x = {0}, y = {0};
    if (a != NULL) x = qs_hasher_finish(a);
    if (b != NULL) y = qs_hasher_finish(b);
    qs_pretokenizer_fini(&made);
    return same && x.low == y.low && x.high == y.high;
}

static bool is_nfc(const qs_normalizer *n) { return n->n_steps == 1 && n->steps[0].kind == QS_NORMAL_NFC; }

static const qs_pre_family *find_family(const qs_tokenizer *t)
{
    const qs_pre_family *family;
    for (int i = 0; (family = qs_pre_family_at(i)) != NULL; i++) {
        bool normal = family->nfc ? is_nfc(&t->normalizer) : t->normalizer.n_steps == 0;
        if (normal && family->ignore_merges == t->bpe.ignore_merges && same_pretokenizer(t, family)) return family;
    }
    return NULL;
}

static bool step_is(const qs_normalizer *n, int step, qs_normal_kind kind)
{
    return step < n->n_steps && n->steps[step].kind == kind && n->steps[step].text_bytes == strlen(mark) &&
           memcmp(n->steps[step].text, mark, strlen(mark)) == 0;
}

static qs_err find_kind(qs_gguf_tokens *out, const qs_tokenizer *t, const char *name)
{
    bool prefix = step_is(&t->normalizer, 0, QS_NORMAL_PREPEND);
    if (t->pre.byte_level) {
        const qs_pre_family *family = find_family(t);
        if (family != NULL) {
            (void)snprintf(out->model, sizeof out->model, "gpt2");
            (void)snprintf(out->pre, sizeof out->pre, "%s", family->name);
            return QS_OK;
        }
    } else if (t->bpe.byte_fallback && t->pre.n_steps == 0 && t->normalizer.n_steps == (prefix ? 2 : 1) &&
               step_is(&t->normalizer, prefix ? 1 : 0, QS_NORMAL_REPLACE)) {
        (void)snprintf(out->model, sizeof out->model, "llama");
        out->vocab.add_space_prefix = prefix;
        return QS_OK;
    }
    return qs_fail(QS_E_UNSUPPORTED,
                   "write %s as GGUF: none of the tokenizers that GGUF names cuts text as this one does",
                   name);
}

/* ---- tokens ---- */

static qs_err alloc(qs_gguf_tokens *out, int64_t n_vocab, int64_t n_merges, size_t text_bytes)
{
    qs_err err;
    QS_TRY(QS_NEW(out->tokens, n_vocab, "tokens"));
    QS_TRY(QS_NEW(out->token_bytes, n_vocab, "lengths of tokens"));
    QS_TRY(QS_NEW(out->types, n_vocab, "types of tokens"));
    QS_TRY(QS_NEW(out->scores, n_vocab, "scores of tokens"));
    QS_TRY(QS_NEW(out->merges, n_merges, "merges"));
    QS_TRY(QS_NEW(out->merge_bytes, n_merges, "lengths of merges"));
    QS_TRY(QS_NEW(out->text, text_bytes, "texts of merges"));
out:
    return err;
}

static bool is_byte_token(const char *text)
{
    return strncmp(text, "<0x", 3) == 0 && strlen(text) == 6 && text[5] == '>';
}

static void set_token(qs_gguf_tokens *out, int64_t id, const char *text, size_t bytes, int32_t type)
{
    out->tokens[id] = text;
    out->token_bytes[id] = (int64_t)bytes;
    out->types[id] = type;
}

/* The texts of the vocabulary live in the document, those of padding in out->text. */
static void fill_tokens(qs_gguf_tokens *out, json_t *model, const json_t *added, bool fallback, char **text)
{
    const char *key;
    json_t *id;
    json_object_foreach(json_object_get(model, "vocab"), key, id)
        set_token(out, json_integer_value(id), key, strlen(key),
                  fallback && is_byte_token(key) ? TYPE_BYTE : TYPE_NORMAL);
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i), *content = json_object_get(token, "content");
        set_token(out, json_integer_value(json_object_get(token, "id")), json_string_value(content),
                  json_string_length(content),
                  json_is_true(json_object_get(token, "special")) ? TYPE_CONTROL : TYPE_USER);
    }
    for (int64_t i = 0; i < out->vocab.n_vocab; i++) {
        if (out->tokens[i] != NULL) continue;
        int n = snprintf(*text, PAD_BYTES, "[PAD%lld]", (long long)i);
        set_token(out, i, *text, (size_t)n, TYPE_UNUSED);
        *text += PAD_BYTES;
    }
}

static bool merge_parts(const json_t *merge, const char **left, size_t *left_bytes, const char **right,
                        size_t *right_bytes)
{
    if (json_is_array(merge)) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        *left = json_string_value(a);
        *right = json_string_value(b);
        *left_bytes = json_string_length(a);
        *right_bytes = json_string_length(b);
        return true;
    }
    const char *text = json_string_value(merge), *space = strchr(text, ' ');
    if (strncmp(text, "#version", 8) == 0 || space == NULL) return false;
    *left = text;
    *left_bytes = (size_t)(space - text);
    *right = space + 1;
    *right_bytes = strlen(space + 1);
    return true;
}

/* "left right" for gpt2; for llama the rank of a merge is the score of what it makes. */
static void fill_merges(qs_gguf_tokens *out, const json_t *merges, const qs_tokenizer *t, bool scored, char *text)
{
    for (size_t m = 0; m < json_array_size(merges); m++) {
        const char *left, *right;
        size_t left_bytes, right_bytes, separator = scored ? 0 : 1;
        if (!merge_parts(json_array_get(merges, m), &left, &left_bytes, &right, &right_bytes)) continue;
        memcpy(text, left, left_bytes);
        text[left_bytes] = ' ';
        memcpy(text + left_bytes + separator, right, right_bytes);
        size_t bytes = left_bytes + separator + right_bytes;
        if (scored) {
            int32_t id = qs_vocab_find(&t->vocab, text, bytes);
            if (id >= 0 && (out->scores[id] == 0.0f || out->scores[id] < -(float)(m + 1)))
                out->scores[id] = -(float)(m + 1);
            continue;
        }
        out->merges[out->vocab.n_merges] = text;
        out->merge_bytes[out->vocab.n_merges++] = (int64_t)bytes;
        text += bytes;
    }
}

static size_t merges_bytes(const json_t *merges)
{
    size_t bytes = 0, left_bytes, right_bytes;
    const char *left, *right;
    for (size_t m = 0; m < json_array_size(merges); m++)
        if (merge_parts(json_array_get(merges, m), &left, &left_bytes, &right, &right_bytes))
            bytes += left_bytes + right_bytes + 2;
    return bytes;
}

qs_err qs_gguf_tokens_from_json(qs_gguf_tokens *out, json_t *root, const qs_tokenizer *t, int64_t n_vocab,
                                const char *name)
{
    json_t *model = json_object_get(root, "model"), *merges = json_object_get(model, "merges");
    const char *unknown = json_string_value(json_object_get(model, "unk_token"));
    qs_gguf_vocab *v = &out->vocab;
    qs_err err;
    *out = (qs_gguf_tokens){.vocab = {.n_vocab = n_vocab, .add_space_prefix = -1, .unknown_id = -1}};
    QS_TRY(find_kind(out, t, name));
    bool scored = strcmp(out->model, "llama") == 0;
    QS_TRY(alloc(out, n_vocab, (int64_t)json_array_size(merges), (size_t)n_vocab * PAD_BYTES + merges_bytes(merges)));
    char *text = out->text;
    fill_tokens(out, model, json_object_get(root, "added_tokens"), t->bpe.byte_fallback, &text);
    fill_merges(out, merges, t, scored, text);
    if (unknown != NULL) v->unknown_id = qs_tokenizer_find(t, unknown);
    if (scored && v->unknown_id >= 0) out->types[v->unknown_id] = TYPE_UNKNOWN;
    v->model = out->model;
    v->pre = out->pre[0] != '\0' ? out->pre : NULL;
    v->tokens = out->tokens;
    v->token_bytes = out->token_bytes;
    v->types = out->types;
    v->scores = scored ? out->scores : NULL;
    v->merges = out->merges;
    v->merge_bytes = out->merge_bytes;
    v->bos_id = t->bos;
    v->eos_id = t->eos;
    v->add_bos = qs_tokenizer_adds_bos(t);
out:
    if (err != QS_OK) qs_gguf_tokens_free(out);
    return err;
}
