#include <string.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "model/textbuf.h"
#include "model/unicode.h"
#include "rag/wordpiece_impl.h"

/* ---- BertNormalizer ---- */

/* CJK ideographs in the sense of BERT's tokenizer: each is a word of its own. */
static bool is_ideograph(uint32_t c)
{
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                         {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                         {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

static bool is_blank(uint32_t c) { return c == '\t' || c == '\n' || c == '\r' || qs_unicode_is_space(c); }
/* Other controls that Unicode calls white space (U+000B, U+000C, U+0085) are dropped, unassigned characters are not. */
static bool is_control(uint32_t c)
{
    const char *category = qs_unicode_category(c);
    return c != '\t' && c != '\n' && c != '\r' && category[0] == 'C' && category[1] != 'n';
}

static qs_err append_char(qs_textbuf *out, uint32_t c)
{
    char bytes[4];
    return qs_textbuf_append(out, bytes, qs_utf8_encode(c, bytes));
}

/* Decomposed without nonspacing marks. Canonical decomposition has at most 4 characters. */
static qs_err append_stripped(qs_textbuf *out, uint32_t c, bool lowercase)
{
    utf8proc_int32_t parts[8] = {(utf8proc_int32_t)c};
    utf8proc_ssize_t n = 1;
    qs_err err = QS_OK;
    if (!qs_unicode_is_inert(c))
        n = utf8proc_decompose_char((utf8proc_int32_t)c, parts, 8, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
    for (utf8proc_ssize_t i = 0; i < n && i < 8 && err == QS_OK; i++) {
        if (strcmp(qs_unicode_category((uint32_t)parts[i]), "Mn") == 0) continue;
        err = append_char(out, (uint32_t)(lowercase ? utf8proc_tolower(parts[i]) : parts[i]));
    }
    return err;
}

static qs_err append_normal(qs_textbuf *out, const qs_wordpiece *w, uint32_t c)
{
    bool split = w->chinese_chars && is_ideograph(c);
    qs_err err = QS_OK;
    if (w->clean_text && (c == 0 || c == 0xFFFD || is_control(c))) return QS_OK;
    if (w->clean_text && is_blank(c)) c = ' ';
    if (split) QS_TRY(qs_textbuf_append(out, " ", 1));
    if (w->strip_accents) QS_TRY(append_stripped(out, c, w->lowercase));
    else if (w->lowercase && c == 0x130) QS_TRY(qs_textbuf_append(out, "i\xCC\x87", 3)); /* the one that grows */
    else QS_TRY(append_char(out, w->lowercase ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c));
    if (split) QS_TRY(qs_textbuf_append(out, " ", 1));
out:
    return err;
}

/* ---- words ---- */

static bool is_punctuation(uint32_t c)
{
    if (c < 0x80) return c > ' ' && c < 0x7F && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z');
    return qs_unicode_category(c)[0] == 'P';
}

typedef struct sink {
    const qs_wordpiece *wordpiece;
    qs_token_list *list;
    int64_t n_max;   /* without the closing token */
    qs_textbuf word; /* "##" and the rest of a word */
} sink;

static bool is_full(const sink *s) { return s->list->n >= s->n_max; }

static qs_err put(sink *s, int32_t id)
{
    qs_err err = qs_mem_grow(&s->list->ids, s->list->n, &s->list->capacity, sizeof id, "tokens");
    if (err == QS_OK) s->list->ids[s->list->n++] = id;
    return err;
}

/* The longest token at the start of the word, which a continued word has "##" in front of; *bytes of the word. */
static int32_t longest_match(const sink *s, const char *word, size_t word_bytes, bool continued, size_t *bytes)
{
    size_t prefix = continued ? 2 : 0;
    for (size_t n = word_bytes; n > 0; n--) {
        if (n < word_bytes && ((unsigned char)word[n] & 0xC0) == 0x80) continue; /* inside a character */
        int32_t id = qs_vocab_find(&s->wordpiece->vocab, word - prefix, n + prefix);
        *bytes = n;
        if (id >= 0) return id;
    }
    return -1;
}

/* A word as pieces, or as one unknown token where some part of it has none. */
static qs_err put_word(sink *s, const char *word, size_t bytes)
{
    int64_t n_chars = 0, n_before = s->list->n;
    qs_err err;
    for (size_t i = 0; i < bytes; i++) n_chars += ((unsigned char)word[i] & 0xC0) != 0x80;
    if (n_chars > s->wordpiece->word_chars_max) return put(s, s->wordpiece->unknown);
    /* Each piece looks at "##" and what is left: the two bytes in front of it may be overwritten by then. */
    s->word.bytes = 0;
    QS_TRY(qs_textbuf_append(&s->word, "##", 2));
    QS_TRY(qs_textbuf_append(&s->word, word, bytes));
    for (size_t at = 0, n; at < bytes; at += n) {
        char *rest = s->word.data + 2 + at;
        if (at > 0) rest[-2] = rest[-1] = '#';
        int32_t id = longest_match(s, rest, bytes - at, at > 0, &n);
        if (id < 0) {
            s->list->n = n_before;
            return put(s, s->wordpiece->unknown);
        }
        QS_TRY(put(s, id));
    }
out:
    return err;
}

/* Words between blanks, each punctuation character one of its own. */
static qs_err put_words(sink *s, const char *text, size_t bytes)
{
    qs_err err = QS_OK;
    for (size_t at = 0, length; at < bytes && !is_full(s); at += length) {
        size_t start = at;
        uint32_t code;
        length = qs_utf8_decode(text + at, bytes - at, &code);
        if (qs_unicode_is_space(code)) continue;
        if (!is_punctuation(code)) {
            while (at + length < bytes) {
                size_t next = qs_utf8_decode(text + at + length, bytes - at - length, &code);
                if (qs_unicode_is_space(code) || is_punctuation(code)) break;
                length += next;
            }
        }
        QS_TRY(put_word(s, text + start, length));
    }
out:
    return err;
}

/* A stretch without added tokens. */
static qs_err put_stretch(sink *s, const char *text, size_t bytes)
{
    qs_textbuf normal = {0};
    qs_err err = QS_OK;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t code;
        length = qs_utf8_decode(text + at, bytes - at, &code);
        QS_TRY(append_normal(&normal, s->wordpiece, code));
    }
    if (normal.bytes > 0) QS_TRY(put_words(s, normal.data, normal.bytes));
out:
    qs_textbuf_free(&normal);
    return err;
}

/* The added token at text, the longest one; NULL = none. */
static const qs_wordpiece_added *added_at(const qs_wordpiece *w, const char *text, size_t bytes)
{
    const qs_wordpiece_added *best = NULL;
    for (int i = 0; i < w->n_added; i++) {
        const qs_wordpiece_added *a = &w->added[i];
        if (a->bytes <= bytes && memcmp(a->text, text, a->bytes) == 0 && (best == NULL || a->bytes > best->bytes))
            best = a;
    }
    return best;
}

qs_err qs_wordpiece_encode(const qs_wordpiece *w, const char *text, size_t bytes, int64_t n_max, qs_token_list *list)
{
    sink s = {.wordpiece = w, .list = list, .n_max = n_max - 1};
    size_t start = 0, valid = qs_utf8_valid_prefix(text, bytes);
    qs_err err;
    if (n_max < 2) return qs_fail(QS_E_USAGE, "tokenise: %lld tokens are too few", (long long)n_max);
    if (valid != bytes) return qs_fail(QS_E_INPUT, "tokenise: byte %zu is not UTF-8", valid);
    list->n = 0;
    QS_TRY(put(&s, w->first));
    for (size_t at = 0; at < bytes && !is_full(&s);) {
        const qs_wordpiece_added *added = added_at(w, text + at, bytes - at);
        if (added == NULL) {
            at++;
            continue;
        }
        QS_TRY(put_stretch(&s, text + start, at - start));
        if (!is_full(&s)) QS_TRY(put(&s, added->id));
        at += added->bytes;
        start = at;
    }
    if (!is_full(&s)) QS_TRY(put_stretch(&s, text + start, bytes - start));
    if (list->n > s.n_max) list->n = s.n_max;
    QS_TRY(put(&s, w->last));
out:
    qs_textbuf_free(&s.word);
    return err;
}
