/* Added tokens: strings that are one token wherever they stand in the text, found before anything else. Those
 * with `normalized` false are looked for in the raw text, the others in the normalised stretches between. */
#ifndef QS_MODEL_ADDED_H
#define QS_MODEL_ADDED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "base/span.h"
#include "model/normalizer.h"

typedef struct qs_added_token {
    char *text; /* owned, NUL-terminated; may hold NULs */
    size_t bytes;
    int32_t id;
    bool single_word;    /* only between characters that are not of words */
    bool lstrip, rstrip; /* takes the white space on its left, on its right */
    bool normalized;
    bool special;
    char *needle; /* owned: what is looked for (the normalised text when `normalized`) */
    size_t needle_bytes;
} qs_added_token;

/* Needles of one kind in byte order: all those that share a prefix are neighbours. */
typedef struct qs_added_finder {
    const qs_added_token **sorted; /* [n] */
    int64_t n;
    bool begins[256]; /* first bytes of the needles */
} qs_added_finder;

typedef struct qs_added {
    int64_t n, capacity;
    qs_added_token *tokens;       /* [n] in the order of the file */
    const qs_added_token **by_id; /* [n_ids], NULL where the id is not an added token */
    int64_t n_ids;
    qs_added_finder raw, normal;
    /* For texts of which parts are guarded: special tokens are looked for as they are written, all of them in the raw
     * text, since a place in normalised text tells no place in the raw one. */
    qs_added_finder written;
    qs_added_token *as_written; /* [n] the special tokens that are normalised, their needle the text itself */
} qs_added;

QS_MUST_CHECK qs_err qs_added_init(qs_added *added, int64_t capacity);
void qs_added_fini(qs_added *added);

/* Copies the text. Errors: QS_E_INPUT for an empty or repeated text. */
QS_MUST_CHECK qs_err qs_added_add(qs_added *added, qs_added_token token, const char *name);
/* After the last one: makes the finders and the table of ids below n_ids. */
QS_MUST_CHECK qs_err qs_added_finish(qs_added *added, const qs_normalizer *normalizer, int64_t n_ids,
                                     const char *name);

/* NULL when absent. */
const qs_added_token *qs_added_find(const qs_added *added, const char *text, size_t bytes);
const qs_added_token *qs_added_by_id(const qs_added *added, int64_t id);

/* Called for every stretch in order: an added token, or text between (token == NULL, not empty). */
typedef qs_err (*qs_added_sink)(void *context, const qs_added_token *token, const char *text, size_t bytes);
QS_MUST_CHECK qs_err qs_added_split(const qs_added_finder *finder, const char *text, size_t bytes,
                                    qs_added_sink sink, void *context);
/* The same, but no special token has a byte in the guarded stretches [n], which are in order (white space that it
 * takes aside). Others are found anywhere. */
typedef struct qs_added_guard {
    const qs_span *spans;
    int64_t n;
} qs_added_guard;
QS_MUST_CHECK qs_err qs_added_split_guarded(const qs_added_finder *finder, const char *text, size_t bytes,
                                            const qs_added_guard *guard, qs_added_sink sink, void *context);

void qs_added_hash(const qs_added *added, qs_hasher *hasher);

#endif
