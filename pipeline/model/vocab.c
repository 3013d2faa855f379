#include "model/vocab.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"

qs_err qs_vocab_init(qs_vocab *vocab, int64_t n_ids, size_t text_bytes, const char *name)
{
    *vocab = (qs_vocab){.n_ids = n_ids, .text_capacity = text_bytes};
    if (n_ids < 0 || n_ids > QS_VOCAB_IDS_MAX)
        return qs_fail(QS_E_INPUT, "read %s: token ids reach %lld, beyond the limit of %d", name,
                       (long long)n_ids - 1, QS_VOCAB_IDS_MAX - 1);
    vocab->n_slots = 16;
    while (vocab->n_slots < 2 * n_ids) vocab->n_slots *= 2;
    qs_err err;
    QS_TRY(qs_mem_alloc(&vocab->text, text_bytes, "vocabulary"));
    QS_TRY(QS_NEW(vocab->offset, n_ids, "vocabulary"));
    QS_TRY(QS_NEW(vocab->length, n_ids, "vocabulary"));
    QS_TRY(QS_NEW(vocab->slots, vocab->n_slots, "vocabulary"));
    for (int64_t id = 0; id < n_ids; id++) vocab->offset[id] = -1;
    for (int64_t slot = 0; slot < vocab->n_slots; slot++) vocab->slots[slot] = -1;
out:
    if (err != QS_OK) qs_vocab_fini(vocab);
    return err;
}

void qs_vocab_fini(qs_vocab *vocab)
{
    qs_mem_free(vocab->text);
    qs_mem_free(vocab->offset);
    qs_mem_free(vocab->length);
    qs_mem_free(vocab->slots);
    *vocab = (qs_vocab){0};
}

/* The slot that holds the token, or the free one where it belongs. */
static int64_t slot_of(const qs_vocab *vocab, const char *text, size_t bytes)
{
    int64_t slot = (int64_t)(qs_hash(text, bytes).low & (uint64_t)(vocab->n_slots - 1));
    for (;;) {
        int32_t id = vocab->slots[slot];
        if (id < 0) return slot;
        if ((size_t)vocab->length[id] == bytes && memcmp(vocab->text + vocab->offset[id], text, bytes) == 0)
            return slot;
        slot = (slot + 1) & (vocab->n_slots - 1);
    }
}

qs_err qs_vocab_set(qs_vocab *vocab, int64_t id, const char *text, size_t bytes, const char *name)
{
    int shown = bytes > 64 ? 64 : (int)bytes;
    if (id < 0 || id >= vocab->n_ids)
        return qs_fail(QS_E_INPUT, "read %s: token \"%.*s\" has id %lld, outside 0..%lld", name, shown, text,
                       (long long)id, (long long)vocab->n_ids - 1);
    if (vocab->offset[id] >= 0)
        return qs_fail(QS_E_INPUT, "read %s: id %lld belongs to two tokens, one of them \"%.*s\"", name,
                       (long long)id, shown, text);
    if (bytes > vocab->text_capacity - vocab->text_bytes || bytes > INT32_MAX)
        return qs_fail(QS_E_INPUT, "read %s: token \"%.*s\" is too long", name, shown, text);
    int64_t slot = slot_of(vocab, text, bytes);
    if (vocab->slots[slot] >= 0)
        return qs_fail(QS_E_INPUT, "read %s: token \"%.*s\" is listed twice, as %d and %lld", name, shown,
                       text, vocab->slots[slot], (long long)id);
    vocab->slots[slot] = (int32_t)id;
    vocab->offset[id] = (int64_t)vocab->text_bytes;
    vocab->length[id] = (int32_t)bytes;
    if (bytes > 0) memcpy(vocab->text + vocab->text_bytes, text, bytes);
    vocab->text_bytes += bytes;
    vocab->n_tokens++;
    return QS_OK;
}

int32_t qs_vocab_find(const qs_vocab *vocab, const char *text, size_t bytes)
{
    return vocab->n_slots == 0 ? -1 : vocab->slots[slot_of(vocab, text, bytes)];
}

const char *qs_vocab_text(const qs_vocab *vocab, int64_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= vocab->n_ids || vocab->offset[id] < 0) return NULL;
    *bytes = (size_t)vocab->length[id];
    return vocab->text + vocab->offset[id];
}
