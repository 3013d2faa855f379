/* The tables of byte-pair encoding: building, look-up, digest. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/bpe.h"
#include "model/unicode.h"

/* U+2581, the word mark of SentencePiece. */
static const char mark[] = "\xE2\x96\x81";
enum { MARK_BYTES = 3 };

/* Tokens of real vocabularies stay below 600 bytes (128 spaces of two bytes each, and the like). */
enum { TOKEN_BYTES_MAX = 4096 };

qs_err qs_bpe_init(qs_bpe *bpe, const qs_vocab *vocab, int64_t n_merges)
{
    *bpe = (qs_bpe){.vocab = vocab, .unk_id = -1, .n_slots = 16, .cut_before_mark = true};
    while (bpe->n_slots < 2 * n_merges) bpe->n_slots *= 2;
    qs_err err = QS_NEW(bpe->merges, bpe->n_slots, "merges");
    if (err != QS_OK) return err;
    for (int64_t slot = 0; slot < bpe->n_slots; slot++) bpe->merges[slot].result = -1;
    return QS_OK;
}

void qs_bpe_fini(qs_bpe *bpe)
{
    qs_mem_free(bpe->merges);
    *bpe = (qs_bpe){0};
}

qs_merge_slot *qs_bpe_slot(const qs_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    /* Fibonacci hashing: the middle bits of the product depend on all bits of the pair. */
    uint64_t slot = ((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u) >> 20 & (uint64_t)(bpe->n_slots - 1);
    while (bpe->merges[slot].result >= 0 && bpe->merges[slot].pair != pair)
        slot = (slot + 1) & (uint64_t)(bpe->n_slots - 1);
    return &bpe->merges[slot];
}

/* Whether a word mark follows another character somewhere in the token. */
static bool has_inner_mark(const char *text, size_t bytes)
{
    for (size_t at = 1; at + MARK_BYTES <= bytes; at++) {
        if (memcmp(text + at, mark, MARK_BYTES) == 0 &&
            (at < MARK_BYTES || memcmp(text + at - MARK_BYTES, mark, MARK_BYTES) != 0))
            return true;
    }
    return false;
}

static qs_err unknown_part(const char *name, uint32_t rank, const char *text, size_t bytes)
{
    return qs_fail(QS_E_INPUT, "read %s: merge %u needs the token \"%.*s\", which is not in the vocabulary",
                   name, rank, bytes > 64 ? 64 : (int)bytes, text);
}

qs_err qs_bpe_add_merge(qs_bpe *bpe, const char *left, size_t left_bytes, const char *right,
                        size_t right_bytes, uint32_t rank, const char *name)
{
    char joined[TOKEN_BYTES_MAX];
    if (left_bytes + right_bytes > sizeof joined)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: merge %u makes a token of %zu bytes, the limit is %zu",
                       name, rank, left_bytes + right_bytes, sizeof joined);
    int32_t left_id = qs_vocab_find(bpe->vocab, left, left_bytes);
    if (left_id < 0) return unknown_part(name, rank, left, left_bytes);
    int32_t right_id = qs_vocab_find(bpe->vocab, right, right_bytes);
    if (right_id < 0) return unknown_part(name, rank, right, right_bytes);
    memcpy(joined, left, left_bytes);
    memcpy(joined + left_bytes, right, right_bytes);
    int32_t result = qs_vocab_find(bpe->vocab, joined, left_bytes + right_bytes);
    if (result < 0) return unknown_part(name, rank, joined, left_bytes + right_bytes);
    qs_merge_slot *slot = qs_bpe_slot(bpe, left_id, right_id);
    if (slot->result < 0) bpe->n_merges++;
    *slot = (qs_merge_slot){
        .pair = (uint64_t)(uint32_t)left_id << 32 | (uint32_t)right_id, .rank = rank, .result = result};
    if (has_inner_mark(joined, left_bytes + right_bytes)) bpe->cut_before_mark = false;
    return QS_OK;
}

/* When no merge makes a token in which a mark follows another character, no merge reaches over the end of a
 * word, and words can be encoded one by one: the same tokens, with memory and time linear in the text even
 * though SPM models hand over the whole text as one piece. An unknown character must leave a token, though:
 * where it just vanishes, the marks on its two sides become neighbours. */
void qs_bpe_finish(qs_bpe *bpe)
{
    bool leaves_token = bpe->byte_fallback;
    bpe->bytes_complete = true;
    for (int byte = 0; byte < 256; byte++) {
        char text[8];
        size_t bytes = qs_utf8_encode(qs_alphabet_char((uint8_t)byte), text);
        bpe->byte_ids[byte] = qs_vocab_find(bpe->vocab, text, bytes);
        if (bpe->byte_ids[byte] < 0) bpe->bytes_complete = false;
        (void)snprintf(text, sizeof text, "<0x%02X>", (unsigned)byte);
        bpe->fallback_ids[byte] = qs_vocab_find(bpe->vocab, text, 6);
        if (bpe->fallback_ids[byte] < 0) leaves_token = false;
        if (byte >= 128) continue;
        text[0] = (char)byte;
        bpe->ascii_ids[byte] = qs_vocab_find(bpe->vocab, text, 1);
    }
    if (bpe->ignore_merges || qs_vocab_find(bpe->vocab, mark, MARK_BYTES) < 0 ||
        (bpe->unk_id < 0 && !leaves_token))
        bpe->cut_before_mark = false;
}

void qs_bpe_hash(const qs_bpe *bpe, qs_hasher *hasher)
{
    const qs_vocab *vocab = bpe->vocab;
    for (int64_t id = 0; id < vocab->n_ids; id++) {
        size_t bytes;
        const char *text = qs_vocab_text(vocab, id, &bytes);
        int64_t head[2] = {text == NULL ? -1 : id, (int64_t)bytes};
        qs_hasher_add(hasher, head, sizeof head);
        if (text != NULL) qs_hasher_add(hasher, text, bytes);
    }
    /* A sum, because the order of the slots depends on the order of insertion and says nothing. */
    uint64_t merges[3] = {(uint64_t)bpe->n_merges, 0, 0};
    for (int64_t s = 0; s < bpe->n_slots; s++) {
        const qs_merge_slot *slot = &bpe->merges[s];
        if (slot->result < 0) continue;
        uint64_t row[2] = {slot->pair, (uint64_t)slot->rank << 32 | (uint32_t)slot->result};
        qs_digest digest = qs_hash(row, sizeof row);
        merges[1] += digest.low;
        merges[2] += digest.high;
    }
    qs_hasher_add(hasher, merges, sizeof merges);
    int32_t rules[4] = {bpe->byte_fallback, bpe->fuse_unk, bpe->ignore_merges, bpe->unk_id};
    qs_hasher_add(hasher, rules, sizeof rules);
}
