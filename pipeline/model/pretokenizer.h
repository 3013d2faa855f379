/* Pre-tokenisers of tokenizer.json: a chain of steps, each of which cuts every piece of the one before. */
#ifndef QS_MODEL_PRETOKENIZER_H
#define QS_MODEL_PRETOKENIZER_H

#include <stdbool.h>

#include "base/hash.h"
#include "model/pattern.h"
#include "model/textbuf.h"

/* What becomes of the matches of a splitting pattern. */
typedef enum qs_split_behavior {
    QS_SPLIT_ISOLATED, /* each match is a piece */
    QS_SPLIT_REMOVED,  /* matches are left out */
    QS_SPLIT_MERGED_WITH_PREVIOUS,
    QS_SPLIT_MERGED_WITH_NEXT,
    QS_SPLIT_CONTIGUOUS, /* adjacent matches are one piece */
} qs_split_behavior;

typedef enum qs_pre_kind {
    QS_PRE_SPLIT,        /* by `pattern` */
    QS_PRE_DIGITS,       /* by numeric characters: ISOLATED one by one, or CONTIGUOUS */
    QS_PRE_PREFIX_SPACE, /* a space in front of a piece that does not begin with one */
    QS_PRE_METASPACE,    /* spaces become `mark`; see prefix */
} qs_pre_kind;

typedef enum qs_pre_prefix {
    QS_PREFIX_NEVER,
    QS_PREFIX_FIRST, /* of the piece at the start of the input */
    QS_PREFIX_ALWAYS,
} qs_pre_prefix;

typedef struct qs_pre_step {
    qs_pre_kind kind;
    qs_pattern *pattern; /* owned; SPLIT */
    qs_split_behavior behavior;
    bool invert; /* SPLIT: what lies between the matches counts as the match */
    char mark[4]; /* METASPACE: one character */
    size_t mark_bytes;
    qs_pre_prefix prefix; /* METASPACE: where a mark is put in front */
} qs_pre_step;

enum { QS_PRE_STEPS_MAX = 16 };
typedef struct qs_pretokenizer {
    int n_steps;
    qs_pre_step steps[QS_PRE_STEPS_MAX];
    bool byte_level; /* the pieces' bytes stand for their characters in the byte alphabet */
} qs_pretokenizer;

/* Takes the step with its pattern (also on failure). */
QS_MUST_CHECK qs_err qs_pretokenizer_add(qs_pretokenizer *pre, qs_pre_step step, const char *name);
void qs_pretokenizer_fini(qs_pretokenizer *pre);

/* Splits by a regular expression, ISOLATED. */
QS_MUST_CHECK qs_err qs_pretokenizer_add_regex(qs_pretokenizer *pre, const char *regex, const char *name);

/* The steps of a byte-level family by its GGUF name ("gpt-2", "smollm", "llama-bpe", "qwen2", ...). Errors:
 * QS_E_UNSUPPORTED names it and lists those there are. */
typedef struct qs_pre_family {
    const char *name;
    const char *patterns[4]; /* split one after another */
    bool digits;             /* single digits are cut out first */
    bool nfc, ignore_merges, add_bos;
} qs_pre_family;
const qs_pre_family *qs_pre_family_at(int index); /* NULL behind the last one */
QS_MUST_CHECK qs_err qs_pre_family_find(const qs_pre_family **out, const char *family, const char *name);
QS_MUST_CHECK qs_err qs_pretokenizer_add_family(qs_pretokenizer *pre, const qs_pre_family *family,
                                                const char *name);

typedef struct qs_pre_space {
    qs_textbuf texts[QS_PRE_STEPS_MAX];
    qs_pattern_space matching;
} qs_pre_space;
void qs_pre_space_fini(qs_pre_space *space);

typedef qs_err (*qs_piece_sink)(void *context, const char *piece, size_t bytes);

/* Hands the pieces of text[0..bytes) to `sink` in order, none of them empty. `at_start`: the text begins
 * where the whole input begins. */
QS_MUST_CHECK qs_err qs_pretokenizer_run(const qs_pretokenizer *pre, qs_pre_space *space, const char *text,
                                         size_t bytes, bool at_start, qs_piece_sink sink, void *context);

void qs_pretokenizer_hash(const qs_pretokenizer *pre, qs_hasher *hasher);

#endif
