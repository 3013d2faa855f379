/* Normalisers of tokenizer.json, applied in order to each stretch of text between added tokens: Unicode
 * normal forms, Prepend, Replace. */
#ifndef QS_MODEL_NORMALIZER_H
#define QS_MODEL_NORMALIZER_H

#include <stdbool.h>

#include "base/hash.h"
#include "model/pattern.h"
#include "model/textbuf.h"

typedef enum qs_normal_kind {
    QS_NORMAL_NFC, QS_NORMAL_NFD, QS_NORMAL_NFKC, QS_NORMAL_NFKD, /* UAX 15 */
    QS_NORMAL_PREPEND, /* puts `text` in front of text that is not empty */
    QS_NORMAL_REPLACE, /* puts `text` in place of every match of `pattern` */
} qs_normal_kind;

typedef struct qs_normal_step {
    qs_normal_kind kind;
    char *text; /* owned; PREPEND and REPLACE */
    size_t text_bytes;
    qs_pattern *pattern; /* owned; REPLACE */
} qs_normal_step;

enum { QS_NORMAL_STEPS_MAX = 16 };
typedef struct qs_normalizer {
    int n_steps;
    qs_normal_step steps[QS_NORMAL_STEPS_MAX];
} qs_normalizer;

/* Takes copies of `text`, and `pattern` itself (also on failure). */
QS_MUST_CHECK qs_err qs_normalizer_add(qs_normalizer *normalizer, qs_normal_kind kind, const char *text,
                                       size_t text_bytes, qs_pattern *pattern, const char *name);
void qs_normalizer_fini(qs_normalizer *normalizer);

/* Two buffers and the matching space, one set per thread. */
typedef struct qs_normal_space {
    qs_textbuf buffers[2];
    qs_pattern_space matching;
} qs_normal_space;
void qs_normal_space_fini(qs_normal_space *space);

/* *out (borrowed from `space` or `text`) is the normalised form of the valid UTF-8 text[0..bytes). *starts:
 * its first character still counts as the first of the text. */
QS_MUST_CHECK qs_err qs_normalizer_run(const qs_normalizer *normalizer, qs_normal_space *space,
                                       const char *text, size_t bytes, const char **out, size_t *out_bytes,
                                       bool *starts);

/* Appends `text` to `out` with every match of `pattern` replaced. */
QS_MUST_CHECK qs_err qs_text_replace(qs_textbuf *out, const qs_pattern *pattern, qs_pattern_space *space,
                                     const char *with, size_t with_bytes, const char *text, size_t bytes);

void qs_normalizer_hash(const qs_normalizer *normalizer, qs_hasher *hasher);

#endif
