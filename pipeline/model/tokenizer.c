#include "model/tokenizer.h"

#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "model/tokenizer_impl.h"
#include "model/unicode.h"

void qs_tokenizer_destroy(qs_tokenizer *tokenizer)
{
    if (tokenizer == NULL) return;
    qs_detokenizer_fini(&tokenizer->decoder);
    qs_bpe_fini(&tokenizer->bpe);
    qs_pretokenizer_fini(&tokenizer->pre);
    qs_added_fini(&tokenizer->added);
    qs_normalizer_fini(&tokenizer->normalizer);
    qs_vocab_fini(&tokenizer->vocab);
    qs_mem_free(tokenizer);
}

qs_err qs_tokenizer_seal(qs_tokenizer *tokenizer)
{
    static const char version[] = "qsweep tokenizer 1";
    qs_hasher *hasher;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    qs_hasher_add(hasher, version, sizeof version);
    qs_bpe_hash(&tokenizer->bpe, hasher);
    qs_added_hash(&tokenizer->added, hasher);
    qs_normalizer_hash(&tokenizer->normalizer, hasher);
    qs_pretokenizer_hash(&tokenizer->pre, hasher);
    qs_detokenizer_hash(&tokenizer->decoder, hasher);
    qs_hasher_add(hasher, &tokenizer->before, sizeof tokenizer->before);
    qs_hasher_add(hasher, &tokenizer->after, sizeof tokenizer->after);
    tokenizer->digest = qs_hasher_finish(hasher);
    return QS_OK;
}

/* ---- encoding ---- */

/* From this size on a text repeats enough words to pay for the cache. */
enum { CACHING_BYTES = 4096 };

typedef struct encoding {
    const qs_tokenizer *tokenizer;
    qs_token_list *list;
    const char *text; /* the whole input */
    bool at_start;    /* the stretch in hand begins where the input begins */
    bool guarded;     /* special tokens were found already, where they may stand */
    qs_normal_space normal;
    qs_pre_space pre;
    qs_bpe_space bpe;
} encoding;

static qs_err append(qs_token_list *list, const int32_t *ids, int64_t n)
{
    qs_err err = qs_token_list_reserve(list, n);
    if (err != QS_OK || n == 0) return err;
    memcpy(list->ids + list->n, ids, (size_t)n * sizeof *ids);
    list->n += n;
    return QS_OK;
}

static qs_err on_piece(void *context, const char *piece, size_t bytes)
{
    encoding *e = context;
    return qs_bpe_encode(&e->tokenizer->bpe, &e->bpe, piece, bytes, e->tokenizer->pre.byte_level, e->list);
}

/* A stretch of normalised text, or an added token found in it. */
static qs_err on_normal_stretch(void *context, const qs_added_token *token, const char *text, size_t bytes)
{
    encoding *e = context;
    qs_err err = token != NULL ?
                     append(e->list, &token->id, 1) :
                     qs_pretokenizer_run(&e->tokenizer->pre, &e->pre, text, bytes, e->at_start, on_piece, e);
    e->at_start = false;
    return err;
}

/* A stretch of raw text, or an added token found in it. */
static qs_err on_raw_stretch(void *context, const qs_added_token *token, const char *text, size_t bytes)
{
    encoding *e = context;
    if (token != NULL) return append(e->list, &token->id, 1);
    bool begins = text == e->text, starts;
    qs_err err =
        qs_normalizer_run(&e->tokenizer->normalizer, &e->normal, text, bytes, &text, &bytes, &starts);
    if (err != QS_OK) return err;
    e->at_start = begins && starts;
    const qs_span all = {0, bytes};
    return qs_added_split_guarded(&e->tokenizer->added.normal, text, bytes, &(qs_added_guard){&all, e->guarded},
                                  on_normal_stretch, e);
}

/* guard NULL: special tokens are found anywhere, as the tokenizer's own rules say. */
static qs_err encode(const qs_tokenizer *tokenizer, const char *text, size_t bytes, const qs_added_guard *guard,
                     qs_token_list *list)
{
    size_t valid = qs_utf8_valid_prefix(text, bytes);
    if (valid != bytes) return qs_fail(QS_E_INPUT, "encode text: byte %zu is not valid UTF-8", valid);
    encoding e = {.tokenizer = tokenizer, .list = list, .text = text, .guarded = guard != NULL};
    e.bpe.caching = bytes >= CACHING_BYTES;
    int64_t n_before = list->n;
    const qs_added *added = &tokenizer->added;
    qs_err err = guard == NULL ? qs_added_split(&added->raw, text, bytes, on_raw_stretch, &e)
                               : qs_added_split_guarded(&added->written, text, bytes, guard, on_raw_stretch, &e);
    if (err != QS_OK) list->n = n_before;
    qs_normal_space_fini(&e.normal);
    qs_pre_space_fini(&e.pre);
    qs_bpe_space_fini(&e.bpe);
    return err;
}

qs_err qs_tokenizer_encode(const qs_tokenizer *tokenizer, const char *text, size_t bytes, bool specials,
                           qs_token_list *list)
{
    int64_t n_before = list->n;
    qs_err err = QS_OK;
    if (specials) QS_TRY(append(list, tokenizer->before.ids, tokenizer->before.n));
    QS_TRY(encode(tokenizer, text, bytes, NULL, list));
    if (specials) QS_TRY(append(list, tokenizer->after.ids, tokenizer->after.n));
out:
    if (err != QS_OK) list->n = n_before;
    return err;
}

qs_err qs_tokenizer_encode_guarded(const qs_tokenizer *tokenizer, const char *text, size_t bytes,
                                   const qs_span *guarded, int64_t n_guarded, qs_token_list *list)
{
    const qs_added_guard guard = {guarded, n_guarded};
    return encode(tokenizer, text, bytes, &guard, list);
}

void qs_token_list_free(qs_token_list *list)
{
    qs_mem_free(list->ids);
    *list = (qs_token_list){0};
}

/* ---- decoding ---- */

qs_err qs_tokenizer_decode(const qs_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                           bool skip_specials, char **text)
{
    *text = NULL;
    qs_strings strings = {0};
    qs_textbuf out = {0};
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_ids; i++) {
        const qs_added_token *added = qs_added_by_id(&tokenizer->added, ids[i]);
        size_t bytes;
        const char *token = qs_vocab_text(&tokenizer->vocab, ids[i], &bytes);
        if (added != NULL) {
            if (skip_specials && added->special) continue;
            /* The peer gives a normalised token's text in normalised form. */
            token = added->needle;
            bytes = added->needle_bytes;
        }
        /* An id without a token (padding of the embedding matrix) has no text. */
        if (token != NULL) QS_TRY(qs_strings_add(&strings, token, bytes));
    }
    QS_TRY(qs_detokenizer_run(&tokenizer->decoder, &strings, &out));
    QS_TRY(qs_textbuf_append(&out, "", 1));
    *text = out.data;
    out = (qs_textbuf){0};
out:
    qs_strings_free(&strings);
    qs_textbuf_free(&out);
    return err;
}

/* ---- facts ---- */

int64_t qs_tokenizer_n_vocab(const qs_tokenizer *tokenizer) { return tokenizer->n_vocab; }

int32_t qs_tokenizer_bos(const qs_tokenizer *tokenizer) { return tokenizer->bos; }

int32_t qs_tokenizer_eos(const qs_tokenizer *tokenizer) { return tokenizer->eos; }

bool qs_tokenizer_adds_bos(const qs_tokenizer *tokenizer)
{
    return tokenizer->bos >= 0 && tokenizer->before.n > 0 && tokenizer->before.ids[0] == tokenizer->bos;
}

qs_err qs_tokenizer_begin(const qs_tokenizer *tokenizer, qs_token_list *list)
{
    if (!qs_tokenizer_adds_bos(tokenizer)) return QS_OK;
    qs_err err = qs_mem_grow(&list->ids, list->n, &list->capacity, sizeof *list->ids, "tokens");
    if (err == QS_OK) list->ids[list->n++] = tokenizer->bos;
    return err;
}

int32_t qs_tokenizer_find(const qs_tokenizer *tokenizer, const char *token)
{
    const qs_added_token *added = qs_added_find(&tokenizer->added, token, strlen(token));
    return added != NULL ? added->id : qs_vocab_find(&tokenizer->vocab, token, strlen(token));
}

const char *qs_tokenizer_spelling(const qs_tokenizer *tokenizer, int32_t id)
{
    const qs_added_token *added = qs_added_by_id(&tokenizer->added, id);
    return added != NULL ? added->text : "";
}

qs_digest qs_tokenizer_digest(const qs_tokenizer *tokenizer) { return tokenizer->digest; }

/* ---- tokenizer_config.json ---- */

/* "bos_token": "<s>" or {"content": "<s>", ...}; a missing or null member leaves *id as it is. */
static qs_err named_token(const qs_tokenizer *tokenizer, int32_t *id, const json_t *root, const char *key,
                          const char *name)
{
    const json_t *value = json_object_get(root, key);
    const char *text = NULL;
    qs_err err = json_is_object(value) ? qs_json_get_string(&text, value, "content", name) :
                                         qs_json_opt_string(&text, root, key, name);
    if (err != QS_OK || text == NULL) return err;
    int32_t found = qs_tokenizer_find(tokenizer, text);
    if (found < 0)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" is \"%.64s\", which the tokenizer does not have", name,
                       key, text);
    *id = found;
    return QS_OK;
}

qs_err qs_tokenizer_apply_config(qs_tokenizer *tokenizer, const char *text, size_t bytes, const char *name)
{
    json_t *root = NULL;
    int32_t bos = tokenizer->bos, eos = tokenizer->eos;
    qs_err err;
    QS_TRY(qs_json_parse_wide(&root, text, bytes, name));
    QS_TRY(named_token(tokenizer, &bos, root, "bos_token", name));
    QS_TRY(named_token(tokenizer, &eos, root, "eos_token", name));
    tokenizer->bos = bos;
    tokenizer->eos = eos;
out:
    json_decref(root);
    return err;
}
