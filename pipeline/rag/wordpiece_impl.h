/* A WordPiece tokenizer's parts: read in wordpiece_json.c, used in wordpiece.c. */
#ifndef QS_RAG_WORDPIECE_IMPL_H
#define QS_RAG_WORDPIECE_IMPL_H

#include "model/vocab.h"
#include "rag/wordpiece.h"

enum { QS_WORDPIECE_ADDED_MAX = 64 };

/* A token that is looked for in the raw text, before everything else. */
typedef struct qs_wordpiece_added {
    char *text;
    size_t bytes;
    int32_t id;
} qs_wordpiece_added;

struct qs_wordpiece {
    qs_vocab vocab;
    int64_t n_ids;
    int32_t unknown, first, last; /* ids of [UNK], [CLS], [SEP] */
    int64_t word_chars_max;       /* longer words are unknown */
    bool clean_text, chinese_chars, strip_accents, lowercase;
    int n_added;
    qs_wordpiece_added added[QS_WORDPIECE_ADDED_MAX];
};

#endif
