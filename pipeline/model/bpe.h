/* Byte-pair encoding of one pre-tokenised piece (Sennrich, Haddow, Birch 2016), as the BPE model of the
 * `tokenizers` library does it: the piece becomes one symbol per character (or per byte of the byte
 * alphabet), then the adjacent pair of lowest rank, leftmost first, is merged until no pair has a merge. */
#ifndef QS_MODEL_BPE_H
#define QS_MODEL_BPE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/hash.h"
#include "model/textbuf.h"
#include "model/tokenizer.h"
#include "model/vocab.h"

typedef struct qs_merge_slot {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank;
    int32_t result; /* -1: free slot */
} qs_merge_slot;

typedef struct qs_bpe {
    const qs_vocab *vocab; /* borrowed */
    qs_merge_slot *merges; /* [n_slots], open addressing */
    int64_t n_slots, n_merges;
    /* Set by the maker before qs_bpe_finish. */
    bool byte_fallback; /* a character that is not in the vocabulary becomes <0xXX> tokens */
    bool fuse_unk;      /* a run of unknown characters becomes one token */
    bool ignore_merges; /* a piece that is a token is that token */
    int32_t unk_id;     /* -1: unknown characters are left out */
    bool unk_missing;   /* an unknown token is named but is not in the vocabulary: needing it is an error */
    /* Derived by qs_bpe_finish. */
    int32_t byte_ids[256];     /* token of each byte's character in the byte alphabet, or -1 */
    int32_t fallback_ids[256]; /* token <0xXX>, or -1 */
    int32_t ascii_ids[128];    /* token of each ASCII character, or -1 */
    bool bytes_complete;       /* all of byte_ids exist */
    bool cut_before_mark;      /* no merge reaches over the end of a word: see bpe_table.c */
} qs_bpe;

/* Room for n_merges merges. */
QS_MUST_CHECK qs_err qs_bpe_init(qs_bpe *bpe, const qs_vocab *vocab, int64_t n_merges);
void qs_bpe_fini(qs_bpe *bpe);

/* left + right -> the token that is their concatenation; of two merges of the same pair the later counts.
 * Errors: QS_E_INPUT when a token is not in the vocabulary, naming it and the merge. */
QS_MUST_CHECK qs_err qs_bpe_add_merge(qs_bpe *bpe, const char *left, size_t left_bytes, const char *right,
                                      size_t right_bytes, uint32_t rank, const char *name);
void qs_bpe_finish(qs_bpe *bpe);

/* The slot of a pair; its result is -1 when there is no such merge. */
qs_merge_slot *qs_bpe_slot(const qs_bpe *bpe, int32_t left, int32_t right);

typedef struct qs_bpe_symbol {
    int32_t id, previous, next; /* positions; -1 at the ends */
} qs_bpe_symbol;

typedef struct qs_bpe_candidate {
    uint64_t order; /* rank << 32 | position: the heap pops the smallest */
    int32_t result;
} qs_bpe_candidate;

typedef struct qs_bpe_cache qs_bpe_cache;

/* Scratch, one per thread. Zero-initialise; set `caching` for texts long enough to repeat words. */
typedef struct qs_bpe_space {
    bool caching;
    qs_bpe_cache *cache; /* bounded: the latest piece of each hash */
    qs_bpe_symbol *symbols;
    qs_bpe_candidate *heap;
    int64_t symbols_capacity, heap_capacity, n_heap;
    qs_textbuf mapped;
} qs_bpe_space;
void qs_bpe_space_fini(qs_bpe_space *space);

/* Appends the tokens of a piece of valid UTF-8. `byte_level`: each byte stands for its character in the byte
 * alphabet. */
QS_MUST_CHECK qs_err qs_bpe_encode(const qs_bpe *bpe, qs_bpe_space *space, const char *piece, size_t bytes,
                                   bool byte_level, qs_token_list *list);

/* Room for `more` further ids. */
QS_MUST_CHECK qs_err qs_token_list_reserve(qs_token_list *list, int64_t more);

void qs_bpe_hash(const qs_bpe *bpe, qs_hasher *hasher);

#endif
