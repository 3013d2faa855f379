/* Search patterns of tokenizer.json: literal strings and regular expressions. The expressions are written
 * for Oniguruma and run by PCRE2, so they are translated: \s, \d and \p{..} become classes with exactly the
 * characters that Oniguruma gives them, and what the two engines read differently is refused. */
#ifndef QS_MODEL_PATTERN_H
#define QS_MODEL_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "base/hash.h"

typedef struct qs_pattern qs_pattern;

/* Errors: QS_E_UNSUPPORTED for an expression that cannot be translated or that can match nothing; `name` is
 * the document in error texts. */
QS_MUST_CHECK qs_err qs_pattern_create(qs_pattern **out, const char *source, size_t bytes, bool literal,
                                       const char *name);
void qs_pattern_destroy(qs_pattern *pattern); /* NULL is allowed */

/* The source text and whether it is literal. */
void qs_pattern_hash(const qs_pattern *pattern, qs_hasher *hasher);

/* What matching needs to write to: one per thread. Zero-initialise. */
typedef struct qs_pattern_space {
    void *match_data, *match_context, *jit_stack;
} qs_pattern_space;
void qs_pattern_space_fini(qs_pattern_space *space);

/* The first match in the valid UTF-8 text[0..bytes) that starts at or after `from`; never empty. Errors:
 * QS_E_INPUT when the expression needs absurdly many steps on this text. */
QS_MUST_CHECK qs_err qs_pattern_find(const qs_pattern *pattern, qs_pattern_space *space, const char *text,
                                     size_t bytes, size_t from, bool *found, size_t *start, size_t *end);

#endif
