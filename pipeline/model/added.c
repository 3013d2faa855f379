#include "model/added.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/unicode.h"

qs_err qs_added_init(qs_added *added, int64_t capacity)
{
    *added = (qs_added){.capacity = capacity};
    return QS_NEW(added->tokens, capacity, "added tokens");
}

void qs_added_fini(qs_added *added)
{
    for (int64_t t = 0; t < added->n; t++) {
        qs_mem_free(added->tokens[t].text);
        qs_mem_free(added->tokens[t].needle);
    }
    qs_mem_free(added->tokens);
    qs_mem_free(added->by_id);
    qs_mem_free(added->raw.sorted);
    qs_mem_free(added->normal.sorted);
    qs_mem_free(added->written.sorted);
    qs_mem_free(added->as_written);
    *added = (qs_added){0};
}

static qs_err copy_text(char **out, const char *text, size_t bytes)
{
    qs_err err = qs_mem_alloc(out, bytes + 1, "added token");
    if (err == QS_OK && bytes > 0) memcpy(*out, text, bytes);
    return err;
}

qs_err qs_added_add(qs_added *added, qs_added_token token, const char *name)
{
    if (token.bytes == 0) return qs_fail(QS_E_INPUT, "read %s: an added token is empty", name);
    if (added->n == added->capacity)
        return qs_fail(QS_E_INPUT, "read %s: more than %lld added tokens", name, (long long)added->capacity);
    const char *text = token.text;
    token.needle = NULL;
    qs_err err = copy_text(&token.text, text, token.bytes);
    if (err == QS_OK) added->tokens[added->n++] = token;
    return err;
}

static int compare_needles(const void *left, const void *right)
{
    const qs_added_token *a = *(const qs_added_token *const *)left,
                         *b = *(const qs_added_token *const *)right;
    size_t common = a->needle_bytes < b->needle_bytes ? a->needle_bytes : b->needle_bytes;
    int order = memcmp(a->needle, b->needle, common);
    if (order != 0) return order;
    if (a->needle_bytes != b->needle_bytes) return a->needle_bytes < b->needle_bytes ? -1 : 1;
    /* Of two tokens with one needle the peer takes a special one, then the first. */
    if (a->special != b->special) return a->special ? -1 : 1;
    return a < b ? -1 : a > b;
}

static void add_needle(qs_added_finder *finder, const qs_added_token *token)
{
    if (token->needle_bytes == 0) return;
    finder->sorted[finder->n++] = token;
    finder->begins[(unsigned char)token->needle[0]] = true;
}

static void sort_needles(qs_added_finder *finder)
{
    if (finder->n > 0) qsort(finder->sorted, (size_t)finder->n, sizeof *finder->sorted, compare_needles);
}

static qs_err make_finder(qs_added_finder *finder, const qs_added *added, bool normalized)
{
    qs_err err = QS_NEW(finder->sorted, added->n, "added tokens");
    if (err != QS_OK) return err;
    for (int64_t t = 0; t < added->n; t++)
        if (added->tokens[t].normalized == normalized) add_needle(finder, &added->tokens[t]);
    sort_needles(finder);
    return QS_OK;
}

/* The raw tokens, and the special ones of the normalised. */
static qs_err make_written(qs_added *added)
{
    qs_err err;
    QS_TRY(QS_NEW(added->written.sorted, added->n, "added tokens"));
    QS_TRY(QS_NEW(added->as_written, added->n, "added tokens"));
    for (int64_t t = 0; t < added->n; t++) {
        const qs_added_token *token = &added->tokens[t];
        qs_added_token *copy = &added->as_written[t];
        *copy = *token;
        copy->needle = token->text;
        copy->needle_bytes = token->bytes;
        if (!token->normalized || token->special) add_needle(&added->written, copy);
    }
    sort_needles(&added->written);
out:
    return err;
}

qs_err qs_added_finish(qs_added *added, const qs_normalizer *normalizer, int64_t n_ids, const char *name)
{
    qs_normal_space space = {0};
    qs_err err;
    added->n_ids = n_ids;
    QS_TRY(QS_NEW(added->by_id, n_ids, "added tokens"));
    for (int64_t t = 0; t < added->n; t++) {
        qs_added_token *token = &added->tokens[t];
        if (token->id < 0 || token->id >= n_ids || added->by_id[token->id] != NULL) {
            err = qs_fail(QS_E_INPUT,
                          "read %s: added token \"%.64s\" has the id %d, which is out of range or taken",
                          name, token->text, token->id);
            goto out;
        }
        added->by_id[token->id] = token;
        const char *needle = token->text;
        size_t bytes = token->bytes;
        bool starts;
        if (token->normalized)
            QS_TRY(qs_normalizer_run(normalizer, &space, token->text, token->bytes, &needle, &bytes, &starts));
        QS_TRY(copy_text(&token->needle, needle, bytes));
        token->needle_bytes = bytes;
    }
    QS_TRY(make_finder(&added->raw, added, false));
    QS_TRY(make_finder(&added->normal, added, true));
    QS_TRY(make_written(added));
out:
    qs_normal_space_fini(&space);
    return err;
}

const qs_added_token *qs_added_find(const qs_added *added, const char *text, size_t bytes)
{
    for (int64_t t = 0; t < added->n; t++) {
        const qs_added_token *token = &added->tokens[t];
        if (token->bytes == bytes && memcmp(token->text, text, bytes) == 0) return token;
    }
    return NULL;
}

const qs_added_token *qs_added_by_id(const qs_added *added, int64_t id)
{
    return id >= 0 && id < added->n_ids ? added->by_id[id] : NULL;
}

/* The longest needle at the start of text[0..bytes), or NULL; special ones within the first free_bytes. */
static const qs_added_token *longest_at(const qs_added_finder *finder, const char *text, size_t bytes,
                                        size_t free_bytes)
{
    const qs_added_token *longest = NULL;
    int64_t first = 0, last = finder->n; /* needles that agree with the text so far */
    for (size_t depth = 0; first < last; depth++) {
        for (bool found = false; first < last && finder->sorted[first]->needle_bytes == depth; first++) {
            if (found || (finder->sorted[first]->special && depth > free_bytes)) continue;
            longest = finder->sorted[first];
            found = true;
        }
        if (depth == bytes) break;
        unsigned char byte = (unsigned char)text[depth];
        /* The needles in [first, last) are longer than depth and sorted by their byte there. */
        for (int side = 0; side < 2; side++) {
            int64_t low = first, high = last;
            while (low < high) {
                int64_t middle = low + (high - low) / 2;
                unsigned char here = (unsigned char)finder->sorted[middle]->needle[depth];
                if (here < byte || (side == 1 && here == byte)) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            if (side == 0) {
                first = low;
            } else {
                last = low;
            }
        }
    }
    return longest;
}

/* The code point that ends at text[0..bytes), bytes > 0. */
static uint32_t code_before(const char *text, size_t bytes, size_t *length)
{
    size_t back = 1;
    while (back < 4 && back < bytes && ((unsigned char)text[bytes - back] & 0xC0) == 0x80) back++;
    uint32_t code = 0;
    *length = back;
    return qs_utf8_decode(text + bytes - back, back, &code) == back ? code : 0;
}

static bool stands_alone(const char *text, size_t bytes, size_t start, size_t end)
{
    size_t length;
    uint32_t code;
    if (start > 0 && qs_unicode_is_word(code_before(text, start, &length))) return false;
    return qs_utf8_decode(text + end, bytes - end, &code) == 0 || !qs_unicode_is_word(code);
}

/* Bytes from `at` on that are not guarded. *next goes on to the first stretch that ends behind `at`. */
static size_t free_from(const qs_added_guard *guard, int64_t *next, size_t at)
{
    while (*next < guard->n && guard->spans[*next].end <= at) ++*next;
    if (*next == guard->n) return SIZE_MAX;
    return guard->spans[*next].start > at ? guard->spans[*next].start - at : 0;
}

qs_err qs_added_split_guarded(const qs_added_finder *finder, const char *text, size_t bytes,
                              const qs_added_guard *guard, qs_added_sink sink, void *context)
{
    int64_t next = 0;
    size_t done = 0, at = 0;
    qs_err err = QS_OK;
    while (finder->n > 0 && at < bytes) {
        const qs_added_token *token = NULL;
        if (finder->begins[(unsigned char)text[at]])
            token = longest_at(finder, text + at, bytes - at, free_from(guard, &next, at));
        if (token == NULL) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->needle_bytes, length;
        uint32_t code;
        /* The search goes on behind the bare match, whatever becomes of it. */
        at = end;
        if (token->single_word && !stands_alone(text, bytes, start, end)) continue;
        if (token->lstrip) {
            while (start > 0 && qs_unicode_is_space(code_before(text, start, &length))) start -= length;
            if (start < done) start = done;
        }
        if (token->rstrip) {
            while ((length = qs_utf8_decode(text + end, bytes - end, &code)) > 0 && qs_unicode_is_space(code))
                end += length;
        }
        if (done < start) QS_TRY(sink(context, NULL, text + done, start - done));
        /* White space that the token before has taken may hold all of this one: then it is gone. */
        if (end > start) QS_TRY(sink(context, token, text + start, end - start));
        done = end > start ? end : start;
    }
    if (done < bytes) QS_TRY(sink(context, NULL, text + done, bytes - done));
out:
    return err;
}

qs_err qs_added_split(const qs_added_finder *finder, const char *text, size_t bytes, qs_added_sink sink,
                      void *context)
{
    return qs_added_split_guarded(finder, text, bytes, &(qs_added_guard){0}, sink, context);
}

void qs_added_hash(const qs_added *added, qs_hasher *hasher)
{
    qs_hasher_add(hasher, &added->n, sizeof added->n);
    for (int64_t t = 0; t < added->n; t++) {
        const qs_added_token *token = &added->tokens[t];
        int64_t row[7] = {token->id,     (int64_t)token->bytes, token->single_word, token->lstrip,
                          token->rstrip, token->normalized,     token->special};
        qs_hasher_add(hasher, row, sizeof row);
        qs_hasher_add(hasher, token->text, token->bytes);
    }
}
