/* A vocabulary: tokens as byte strings, found by id and by text. */
#ifndef QS_MODEL_VOCAB_H
#define QS_MODEL_VOCAB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Far above any model (the largest vocabularies have some 260,000 entries), low enough that an absurd id in
 * a broken file does not turn into gigabytes. */
enum { QS_VOCAB_IDS_MAX = 1 << 24 };

typedef struct qs_vocab {
    int64_t n_ids;    /* highest possible id + 1 */
    int64_t n_tokens; /* how many are set */
    char *text;       /* all tokens, one after another */
    size_t text_bytes, text_capacity;
    int64_t *offset;   /* [n_ids] into text, -1 for an id without a token */
    int32_t *length;   /* [n_ids] bytes */
    int32_t *slots;    /* [n_slots] open addressing: id or -1 */
    int64_t n_slots;   /* a power of two, at least twice n_ids */
} qs_vocab;

/* Room for ids below n_ids and text_bytes bytes in all. Errors: QS_E_INPUT for n_ids out of range. */
QS_MUST_CHECK qs_err qs_vocab_init(qs_vocab *vocab, int64_t n_ids, size_t text_bytes, const char *name);
void qs_vocab_fini(qs_vocab *vocab);

/* Errors: QS_E_INPUT for an id out of range or taken, and for a token that is there already. */
QS_MUST_CHECK qs_err qs_vocab_set(qs_vocab *vocab, int64_t id, const char *text, size_t bytes,
                                  const char *name);

/* -1 when there is no such token. */
int32_t qs_vocab_find(const qs_vocab *vocab, const char *text, size_t bytes);

/* The text of a token (not NUL-terminated), or NULL for an id that has none. */
const char *qs_vocab_text(const qs_vocab *vocab, int64_t id, size_t *bytes);

#endif
