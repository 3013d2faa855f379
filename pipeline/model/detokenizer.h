/* Decoders of tokenizer.json: from the strings of tokens to text, step by step. Each step maps a list of
 * strings to a list of strings; in the end they are joined. */
#ifndef QS_MODEL_DETOKENIZER_H
#define QS_MODEL_DETOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "model/pattern.h"
#include "model/textbuf.h"

typedef enum qs_detoken_kind {
    QS_DETOKEN_BYTE_LEVEL,    /* byte alphabet to bytes, all in one string */
    QS_DETOKEN_BYTE_FALLBACK, /* runs of <0xXX> to bytes; a run that is not UTF-8 gives one U+FFFD a token */
    QS_DETOKEN_FUSE,          /* all in one string */
    QS_DETOKEN_REPLACE,       /* `with` in place of every match of `pattern` */
    QS_DETOKEN_STRIP,         /* up to n_left and n_right characters `mark` from the ends of each string */
    QS_DETOKEN_METASPACE,     /* `mark` becomes a space, in the first string nothing when n_left is 1 */
} qs_detoken_kind;

typedef struct qs_detoken_step {
    qs_detoken_kind kind;
    qs_pattern *pattern; /* owned; REPLACE */
    char *with;          /* owned; REPLACE */
    size_t with_bytes;
    char mark[4]; /* STRIP, METASPACE: one character */
    size_t mark_bytes;
    int64_t n_left, n_right;
} qs_detoken_step;

enum { QS_DETOKEN_STEPS_MAX = 16 };
typedef struct qs_detokenizer {
    int n_steps;
    qs_detoken_step steps[QS_DETOKEN_STEPS_MAX];
    bool spaced; /* the strings are joined by spaces: what the peer does when there is no decoder */
} qs_detokenizer;

/* Takes the step with its pattern (also on failure); copies `with`. */
QS_MUST_CHECK qs_err qs_detokenizer_add(qs_detokenizer *decoder, qs_detoken_step step, const char *name);
void qs_detokenizer_fini(qs_detokenizer *decoder);

/* A list of strings: string s is text.data[ends[s - 1] .. ends[s]). Zero-initialise. */
typedef struct qs_strings {
    qs_textbuf text;
    int64_t n, capacity;
    size_t *ends;
} qs_strings;
QS_MUST_CHECK qs_err qs_strings_add(qs_strings *strings, const char *text, size_t bytes);
void qs_strings_free(qs_strings *strings);

/* Runs the steps over `strings` (which is used up) and appends the text to `out`. */
QS_MUST_CHECK qs_err qs_detokenizer_run(const qs_detokenizer *decoder, qs_strings *strings, qs_textbuf *out);

void qs_detokenizer_hash(const qs_detokenizer *decoder, qs_hasher *hasher);

#endif
