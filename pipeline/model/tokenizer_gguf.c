/* A tokenizer from GGUF metadata: "gpt2" is byte-level BPE with the pre-tokeniser of `pre`, "llama" is
 * SentencePiece BPE, whose merges follow from the scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "model/tokenizer_impl.h"

enum { TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4 };

static const char mark[] = "\xE2\x96\x81"; /* U+2581 */

static qs_err check_id(int32_t id, const char *what, int64_t n_vocab, const char *name)
{
    if (id >= -1 && id < n_vocab) return QS_OK;
    return qs_fail(QS_E_INPUT, "read %s: the %s token id %d is outside 0..%lld", name, what, id,
                   (long long)n_vocab - 1);
}

static qs_err check(const qs_gguf_vocab *v, const char *name)
{
    qs_err err;
    if (v->n_vocab < 1 || v->n_vocab > QS_VOCAB_IDS_MAX || v->tokens == NULL || v->token_bytes == NULL)
        return qs_fail(QS_E_INPUT, "read %s: a vocabulary of %lld tokens", name, (long long)v->n_vocab);
    if (v->n_merges < 0 || v->n_merges > UINT32_MAX ||
        (v->n_merges > 0 && (v->merges == NULL || v->merge_bytes == NULL)))
        return qs_fail(QS_E_INPUT, "read %s: a list of %lld merges", name, (long long)v->n_merges);
    QS_TRY(check_id(v->bos_id, "BOS", v->n_vocab, name));
    QS_TRY(check_id(v->eos_id, "EOS", v->n_vocab, name));
    QS_TRY(check_id(v->unknown_id, "unknown", v->n_vocab, name));
out:
    return err;
}

static qs_err read_vocab(qs_tokenizer *t, const qs_gguf_vocab *v, const char *name)
{
    size_t text_bytes = 0;
    for (int64_t id = 0; id < v->n_vocab; id++) {
        if (v->token_bytes[id] < 0 || v->token_bytes[id] > INT32_MAX || v->tokens[id] == NULL)
            return qs_fail(QS_E_INPUT, "read %s: token %lld has no text", name, (long long)id);
        text_bytes += (size_t)v->token_bytes[id];
    }
    qs_err err = qs_vocab_init(&t->vocab, v->n_vocab, text_bytes, name);
    for (int64_t id = 0; id < v->n_vocab && err == QS_OK; id++)
        err = qs_vocab_set(&t->vocab, id, v->tokens[id], (size_t)v->token_bytes[id], name);
    t->n_vocab = v->n_vocab;
    return err;
}

/* Control, unknown and user-defined tokens are looked for in the raw text; the first two are special. */
static qs_err read_added(qs_tokenizer *t, const qs_gguf_vocab *v, const char *name)
{
    int64_t n = 0;
    qs_err err;
    for (int64_t id = 0; v->types != NULL && id < v->n_vocab; id++)
        n += v->types[id] >= TYPE_UNKNOWN && v->types[id] <= TYPE_USER;
    QS_TRY(qs_added_init(&t->added, n));
    for (int64_t id = 0; n > 0 && id < v->n_vocab; id++) {
        if (v->types[id] < TYPE_UNKNOWN || v->types[id] > TYPE_USER || v->token_bytes[id] == 0) continue;
        qs_added_token token = {.text = (char *)v->tokens[id], /* qs_added_add copies it */
                                .bytes = (size_t)v->token_bytes[id],
                                .id = (int32_t)id,
                                .special = v->types[id] != TYPE_USER};
        QS_TRY(qs_added_add(&t->added, token, name));
    }
    QS_TRY(qs_added_finish(&t->added, &t->normalizer, v->n_vocab, name));
out:
    return err;
}

/* ---- gpt2 ---- */

static qs_err make_gpt2(qs_tokenizer *t, const qs_gguf_vocab *v, bool *add_bos, const char *name)
{
    const qs_pre_family *family;
    qs_err err;
    if (v->pre == NULL)
        qs_log_warn("%s names no pre-tokeniser: \"default\" may not give the tokens of its training", name);
    QS_TRY(qs_pre_family_find(&family, v->pre == NULL ? "default" : v->pre, name));
    QS_TRY(qs_bpe_init(&t->bpe, &t->vocab, v->n_merges));
    for (int64_t m = 0; m < v->n_merges; m++) {
        const char *text = v->merges[m];
        size_t bytes = v->merge_bytes[m] < 0 || text == NULL ? 0 : (size_t)v->merge_bytes[m];
        /* The left part is not empty, so a space at its very start belongs to it. */
        const char *space = bytes < 3 ? NULL : memchr(text + 1, ' ', bytes - 1);
        if (space == NULL)
            return qs_fail(QS_E_INPUT, "read %s: merge %lld is not \"left right\"", name, (long long)m);
        size_t left = (size_t)(space - text);
        QS_TRY(qs_bpe_add_merge(&t->bpe, text, left, space + 1, bytes - left - 1, (uint32_t)m, name));
    }
    t->bpe.ignore_merges = family->ignore_merges;
    qs_bpe_finish(&t->bpe);
    if (family->nfc) QS_TRY(qs_normalizer_add(&t->normalizer, QS_NORMAL_NFC, NULL, 0, NULL, name));
    QS_TRY(qs_pretokenizer_add_family(&t->pre, family, name));
    QS_TRY(qs_detokenizer_add(&t->decoder, (qs_detoken_step){.kind = QS_DETOKEN_BYTE_LEVEL}, name));
    *add_bos = family->add_bos;
out:
    return err;
}

/* ---- llama ---- */

static int compare_descending(const void *left, const void *right)
{
    float a = *(const float *)left, b = *(const float *)right;
    return a > b ? -1 : a < b;
}

/* How many scores are better: tokens of equal score have equal rank, so that the leftmost merge wins between
 * them. */
static uint32_t rank_of(const float *sorted, int64_t n, float score)
{
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (sorted[middle] > score) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return (uint32_t)low;
}

/* SentencePiece makes tokens of at most 16 characters unless told otherwise; the bound keeps the cutting of
 * absurd ones short. */
enum { SPM_TOKEN_BYTES_MAX = 1024 };

/* Every way to cut token `id` in two tokens is a merge with the rank of the token's score. Counts them, and
 * adds them when `sorted` is given. */
static qs_err token_merges(qs_tokenizer *t, const qs_gguf_vocab *v, int64_t id, const float *sorted,
                           int64_t *n, const char *name)
{
    size_t bytes = (size_t)v->token_bytes[id];
    const char *text = v->tokens[id];
    if (bytes > SPM_TOKEN_BYTES_MAX)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: token %lld has %zu bytes, the limit is %d", name,
                       (long long)id, bytes, SPM_TOKEN_BYTES_MAX);
    for (size_t cut = 1; cut < bytes; cut++) {
        if (((unsigned char)text[cut] & 0xC0) == 0x80) continue;
        if (qs_vocab_find(&t->vocab, text, cut) < 0 || qs_vocab_find(&t->vocab, text + cut, bytes - cut) < 0)
            continue;
        (*n)++;
        if (sorted == NULL) continue;
        uint32_t rank = rank_of(sorted, v->n_vocab, v->scores[id]);
        qs_err err = qs_bpe_add_merge(&t->bpe, text, cut, text + cut, bytes - cut, rank, name);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

static qs_err make_merges(qs_tokenizer *t, const qs_gguf_vocab *v, const char *name)
{
    float *sorted = NULL;
    int64_t n_merges = 0, n_added = 0;
    qs_err err;
    QS_TRY(QS_NEW(sorted, v->n_vocab, "scores"));
    for (int64_t id = 0; id < v->n_vocab; id++) {
        sorted[id] = v->scores[id];
        if (isnan(v->scores[id])) {
            err =
                qs_fail(QS_E_INPUT, "read %s: the score of token %lld is not a number", name, (long long)id);
            goto out;
        }
        QS_TRY(token_merges(t, v, id, NULL, &n_merges, name));
    }
    qsort(sorted, (size_t)v->n_vocab, sizeof *sorted, compare_descending);
    QS_TRY(qs_bpe_init(&t->bpe, &t->vocab, n_merges));
    for (int64_t id = 0; id < v->n_vocab; id++) QS_TRY(token_merges(t, v, id, sorted, &n_added, name));
out:
    qs_mem_free(sorted);
    return err;
}

static qs_err make_llama(qs_tokenizer *t, const qs_gguf_vocab *v, const char *name)
{
    bool prefix = v->add_space_prefix != 0;
    qs_pattern *pattern;
    qs_detoken_step replace = {.kind = QS_DETOKEN_REPLACE, .with = (char *)" ", .with_bytes = 1};
    qs_err err;
    if (v->scores == NULL) return qs_fail(QS_E_INPUT, "read %s: a \"llama\" vocabulary needs scores", name);
    QS_TRY(make_merges(t, v, name));
    t->bpe.byte_fallback = true;
    t->bpe.fuse_unk = true;
    t->bpe.unk_id = v->unknown_id >= 0 ? v->unknown_id : 0;
    qs_bpe_finish(&t->bpe);
    if (prefix) QS_TRY(qs_normalizer_add(&t->normalizer, QS_NORMAL_PREPEND, mark, 3, NULL, name));
    QS_TRY(qs_pattern_create(&pattern, " ", 1, true, name));
    QS_TRY(qs_normalizer_add(&t->normalizer, QS_NORMAL_REPLACE, mark, 3, pattern, name));
    QS_TRY(qs_pattern_create(&replace.pattern, mark, 3, true, name));
    QS_TRY(qs_detokenizer_add(&t->decoder, replace, name));
    QS_TRY(qs_detokenizer_add(&t->decoder, (qs_detoken_step){.kind = QS_DETOKEN_BYTE_FALLBACK}, name));
    QS_TRY(qs_detokenizer_add(&t->decoder, (qs_detoken_step){.kind = QS_DETOKEN_FUSE}, name));
    qs_detoken_step strip = {.kind = QS_DETOKEN_STRIP, .mark = " ", .mark_bytes = 1, .n_left = 1};
    if (prefix) QS_TRY(qs_detokenizer_add(&t->decoder, strip, name));
out:
    return err;
}

/* ---- the whole ---- */

qs_err qs_tokenizer_from_gguf(qs_tokenizer **out, const qs_gguf_vocab *v, const char *name)
{
    *out = NULL;
    qs_tokenizer *t = NULL;
    bool add_bos = true;
    qs_err err;
    QS_TRY(check(v, name));
    QS_TRY(QS_NEW(t, 1, "tokenizer"));
    QS_TRY(read_vocab(t, v, name));
    t->bos = v->bos_id;
    t->eos = v->eos_id;
    if (v->model != NULL && strcmp(v->model, "gpt2") == 0) {
        QS_TRY(make_gpt2(t, v, &add_bos, name));
    } else if (v->model != NULL && strcmp(v->model, "llama") == 0) {
        QS_TRY(make_llama(t, v, name));
        /* The places that SentencePiece gives them, which llama.cpp assumes too. */
        if (t->bos < 0 && v->n_vocab > 2) t->bos = 1;
        if (t->eos < 0 && v->n_vocab > 2) t->eos = 2;
    } else {
        err = qs_fail(QS_E_UNSUPPORTED, "read %s: the tokenizer model \"%.64s\" is neither gpt2 nor llama", name,
                      v->model == NULL ? "" : v->model);
        goto out;
    }
    QS_TRY(read_added(t, v, name));
    if (v->add_bos >= 0) add_bos = v->add_bos != 0;
    if (add_bos && t->bos >= 0) t->before = (qs_template_side){.n = 1, .ids = {t->bos}};
    QS_TRY(qs_tokenizer_seal(t));
    *out = t;
    t = NULL;
out:
    qs_tokenizer_destroy(t);
    return err;
}
