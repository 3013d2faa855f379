#include "model/bpe.h"

#include <string.h>

#include "base/mem.h"
#include "model/unicode.h"

/* One cache line per entry; pieces and results that do not fit are encoded anew each time. */
enum { CACHE_ENTRIES = 8192, CACHE_PIECE_BYTES = 22, CACHE_IDS = 8 };
typedef struct cache_entry {
    uint64_t hash;
    uint8_t bytes, n_ids; /* bytes == 0: free */
    char piece[CACHE_PIECE_BYTES];
    int32_t ids[CACHE_IDS];
} cache_entry;
_Static_assert(sizeof(cache_entry) == 64, "a cache entry must be one cache line");

struct qs_bpe_cache {
    cache_entry entries[CACHE_ENTRIES];
};

qs_err qs_token_list_reserve(qs_token_list *list, int64_t more)
{
    if (more <= list->capacity - list->n) return QS_OK;
    int64_t capacity = 2 * (list->n + more) + 16;
    int32_t *ids;
    qs_err err = QS_NEW(ids, capacity, "tokens");
    if (err != QS_OK) return err;
    if (list->n > 0) memcpy(ids, list->ids, (size_t)list->n * sizeof *ids);
    qs_mem_free(list->ids);
    list->ids = ids;
    list->capacity = capacity;
    return QS_OK;
}

void qs_bpe_space_fini(qs_bpe_space *space)
{
    qs_mem_free(space->cache);
    qs_mem_free(space->symbols);
    qs_mem_free(space->heap);
    qs_textbuf_free(&space->mapped);
}

/* ---- the heap of candidate merges ---- */

static qs_err heap_reserve(qs_bpe_space *space, int64_t more)
{
    if (more <= space->heap_capacity - space->n_heap) return QS_OK;
    int64_t capacity = 2 * (space->n_heap + more);
    qs_bpe_candidate *heap;
    qs_err err = QS_NEW(heap, capacity, "merge candidates");
    if (err != QS_OK) return err;
    if (space->n_heap > 0) memcpy(heap, space->heap, (size_t)space->n_heap * sizeof *heap);
    qs_mem_free(space->heap);
    space->heap = heap;
    space->heap_capacity = capacity;
    return QS_OK;
}

static void heap_push(qs_bpe_space *space, qs_bpe_candidate candidate)
{
    qs_bpe_candidate *heap = space->heap;
    int64_t at = space->n_heap++;
    for (; at > 0 && candidate.order < heap[(at - 1) / 2].order; at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = candidate;
}

static qs_bpe_candidate heap_pop(qs_bpe_space *space)
{
    qs_bpe_candidate *heap = space->heap, top = heap[0];
    int64_t n = --space->n_heap, at = 0;
    qs_bpe_candidate last = heap[n];
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1].order < heap[child].order) child++;
        if (last.order <= heap[child].order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* Pushes the merge of the symbol at `position` with its right neighbour, if there is one. Needs room. */
static void consider(const qs_bpe *bpe, qs_bpe_space *space, int32_t position)
{
    const qs_bpe_symbol *left = &space->symbols[position];
    if (left->next < 0) return;
    const qs_merge_slot *slot = qs_bpe_slot(bpe, left->id, space->symbols[left->next].id);
    if (slot->result < 0) return;
    heap_push(space, (qs_bpe_candidate){.order = (uint64_t)slot->rank << 32 | (uint32_t)position,
                                        .result = slot->result});
}

/* ---- symbols ---- */

static qs_err symbols_reserve(qs_bpe_space *space, size_t n)
{
    if ((int64_t)n <= space->symbols_capacity) return QS_OK;
    qs_mem_free(space->symbols);
    space->symbols = NULL;
    space->symbols_capacity = 0;
    qs_err err = QS_NEW(space->symbols, 2 * n, "symbols");
    if (err == QS_OK) space->symbols_capacity = 2 * (int64_t)n;
    return err;
}

static int32_t add_symbol(qs_bpe_space *space, int32_t n, int32_t id)
{
    space->symbols[n] = (qs_bpe_symbol){.id = id, .previous = n - 1, .next = n + 1};
    return n + 1;
}

static int32_t char_id(const qs_bpe *bpe, const char *text, size_t bytes)
{
    return bytes == 1 ? bpe->ascii_ids[(unsigned char)text[0]] : qs_vocab_find(bpe->vocab, text, bytes);
}

static bool falls_back(const qs_bpe *bpe, const char *text, size_t bytes)
{
    if (!bpe->byte_fallback) return false;
    for (size_t b = 0; b < bytes; b++) {
        if (bpe->fallback_ids[(unsigned char)text[b]] < 0) return false;
    }
    return true;
}

/* One symbol per character. An unknown character waits in `n_unknown` until a known one follows; bytes of the
 * fallback do not end the wait, which is how the peer orders them. */
static qs_err seed_characters(const qs_bpe *bpe, qs_bpe_space *space, const char *piece, size_t bytes,
                              int32_t *out)
{
    int32_t n = 0, n_unknown = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        length = qs_utf8_length(piece + at);
        int32_t id = char_id(bpe, piece + at, length);
        if (id < 0 && falls_back(bpe, piece + at, length)) {
            for (size_t b = 0; b < length; b++)
                n = add_symbol(space, n, bpe->fallback_ids[(unsigned char)piece[at + b]]);
        } else if (id < 0) {
            if (bpe->unk_missing)
                return qs_fail(QS_E_INPUT,
                               "encode text: \"%.*s\" is not in the vocabulary, nor is the unknown token",
                               (int)length, piece + at);
            if (n_unknown == 1 && !bpe->fuse_unk && bpe->unk_id >= 0) n = add_symbol(space, n, bpe->unk_id);
            n_unknown = 1;
        } else {
            if (n_unknown == 1 && bpe->unk_id >= 0) n = add_symbol(space, n, bpe->unk_id);
            n_unknown = 0;
            n = add_symbol(space, n, id);
        }
    }
    if (n_unknown == 1 && bpe->unk_id >= 0) n = add_symbol(space, n, bpe->unk_id);
    *out = n;
    return QS_OK;
}

static qs_err merge(const qs_bpe *bpe, qs_bpe_space *space, int32_t n)
{
    qs_bpe_symbol *symbols = space->symbols;
    symbols[n - 1].next = -1;
    space->n_heap = 0;
    qs_err err = heap_reserve(space, n);
    if (err != QS_OK) return err;
    for (int32_t position = 0; position + 1 < n; position++) consider(bpe, space, position);
    while (space->n_heap > 0) {
        qs_bpe_candidate top = heap_pop(space);
        int32_t position = (int32_t)(uint32_t)top.order;
        qs_bpe_symbol *left = &symbols[position];
        if (left->id < 0 || left->next < 0) continue;
        qs_bpe_symbol *right = &symbols[left->next];
        /* A candidate whose symbols have changed since is stale. */
        if (qs_bpe_slot(bpe, left->id, right->id)->result != top.result) continue;
        left->id = top.result;
        right->id = -1;
        left->next = right->next;
        if (left->next >= 0) symbols[left->next].previous = position;
        err = heap_reserve(space, 2);
        if (err != QS_OK) return err;
        if (left->previous >= 0) consider(bpe, space, left->previous);
        consider(bpe, space, position);
    }
    return QS_OK;
}

/* ---- pieces ---- */

static qs_err map_bytes(qs_textbuf *out, const char *piece, size_t bytes)
{
    out->bytes = 0;
    qs_err err = qs_textbuf_reserve(out, 2 * bytes);
    if (err != QS_OK) return err;
    for (size_t at = 0; at < bytes; at++)
        out->bytes += qs_utf8_encode(qs_alphabet_char((uint8_t)piece[at]), out->data + out->bytes);
    return QS_OK;
}

static qs_err append_id(qs_token_list *list, int32_t id)
{
    qs_err err = qs_token_list_reserve(list, 1);
    if (err == QS_OK) list->ids[list->n++] = id;
    return err;
}

static qs_err encode_piece(const qs_bpe *bpe, qs_bpe_space *space, const char *piece, size_t bytes,
                           bool byte_level, qs_token_list *list)
{
    if (bytes > INT32_MAX / 4)
        return qs_fail(QS_E_INPUT, "encode text: one piece has %zu bytes, the limit is %d", bytes,
                       INT32_MAX / 4);
    qs_err err;
    if (bpe->ignore_merges) {
        if (byte_level) QS_TRY(map_bytes(&space->mapped, piece, bytes));
        int32_t id = byte_level ? qs_vocab_find(bpe->vocab, space->mapped.data, space->mapped.bytes) :
                                  qs_vocab_find(bpe->vocab, piece, bytes);
        if (id >= 0) return append_id(list, id);
    }
    QS_TRY(symbols_reserve(space, bytes));
    int32_t n = 0;
    if (byte_level) {
        for (size_t at = 0; at < bytes; at++)
            n = add_symbol(space, n, bpe->byte_ids[(unsigned char)piece[at]]);
    } else {
        QS_TRY(seed_characters(bpe, space, piece, bytes, &n));
    }
    if (n == 0) goto out;
    QS_TRY(merge(bpe, space, n));
    QS_TRY(qs_token_list_reserve(list, n));
    for (int32_t position = 0; position >= 0; position = space->symbols[position].next)
        list->ids[list->n++] = space->symbols[position].id;
out:
    return err;
}

static qs_err encode_cached(const qs_bpe *bpe, qs_bpe_space *space, const char *piece, size_t bytes,
                            bool byte_level, qs_token_list *list)
{
    qs_err err;
    if (!space->caching || bytes > CACHE_PIECE_BYTES)
        return encode_piece(bpe, space, piece, bytes, byte_level, list);
    if (space->cache == NULL) QS_TRY(QS_NEW(space->cache, 1, "piece cache"));
    uint64_t hash = qs_hash(piece, bytes).low;
    cache_entry *entry = &space->cache->entries[hash % CACHE_ENTRIES];
    if (entry->bytes == bytes && entry->hash == hash && memcmp(entry->piece, piece, bytes) == 0) {
        QS_TRY(qs_token_list_reserve(list, CACHE_IDS));
        memcpy(list->ids + list->n, entry->ids, sizeof entry->ids);
        list->n += entry->n_ids;
        return QS_OK;
    }
    int64_t first = list->n;
    QS_TRY(encode_piece(bpe, space, piece, bytes, byte_level, list));
    if (list->n - first > CACHE_IDS) return QS_OK;
    *entry = (cache_entry){.hash = hash, .bytes = (uint8_t)bytes, .n_ids = (uint8_t)(list->n - first)};
    memcpy(entry->piece, piece, bytes);
    for (int i = 0; i < entry->n_ids; i++) entry->ids[i] = list->ids[first + i];
out:
    return err;
}

/* Bytes up to the next word mark that follows another character, or all. */
static size_t word_bytes(const char *text, size_t bytes)
{
    size_t at = 0;
    while (bytes - at >= 3 && memcmp(text + at, "\xE2\x96\x81", 3) == 0) at += 3;
    const char *next = memmem(text + at, bytes - at, "\xE2\x96\x81", 3);
    return next == NULL ? bytes : (size_t)(next - text);
}

qs_err qs_bpe_encode(const qs_bpe *bpe, qs_bpe_space *space, const char *piece, size_t bytes, bool byte_level,
                     qs_token_list *list)
{
    qs_err err;
    if (byte_level && !bpe->bytes_complete) {
        /* Some byte has no token: characters of the alphabet take the general way. */
        qs_textbuf mapped = {0};
        err = map_bytes(&mapped, piece, bytes);
        if (err == QS_OK) err = encode_piece(bpe, space, mapped.data, mapped.bytes, false, list);
        qs_textbuf_free(&mapped);
        return err;
    }
    if (byte_level || !bpe->cut_before_mark) return encode_cached(bpe, space, piece, bytes, byte_level, list);
    for (size_t at = 0, length; at < bytes; at += length) {
        length = word_bytes(piece + at, bytes - at);
        err = encode_cached(bpe, space, piece + at, length, false, list);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}
