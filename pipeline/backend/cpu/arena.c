#include "backend/cpu/arena.h"

#include <stdbool.h>
#include <stdint.h>

#include "base/mem.h"

/* In front of every block. Blocks of a slab follow each other without gaps. */
typedef struct block {
    _Alignas(QS_MEM_ALIGN) size_t bytes; /* with this header */
    bool used;
    struct block *previous, *next; /* in the slab, by address */
} block;

_Static_assert(sizeof(block) == QS_MEM_ALIGN, "payloads stay aligned");

typedef struct slab {
    _Alignas(QS_MEM_ALIGN) size_t bytes;
    struct slab *next;
    block *first;
} slab;

struct qs_arena {
    slab *slabs;
    size_t bytes; /* of used blocks */
};

qs_err qs_arena_create(qs_arena **out) { return QS_NEW(*out, 1, "arena"); }

void qs_arena_destroy(qs_arena *arena)
{
    if (arena == NULL) return;
    while (arena->slabs != NULL) {
        slab *next = arena->slabs->next;
        qs_mem_free(arena->slabs);
        arena->slabs = next;
    }
    qs_mem_free(arena);
}

size_t qs_arena_bytes(const qs_arena *arena) { return arena->bytes; }

static qs_err add_slab(qs_arena *arena, size_t block_bytes, const char *what)
{
    size_t bytes = sizeof(slab) + block_bytes > QS_ARENA_SLAB_BYTES ? sizeof(slab) + block_bytes : QS_ARENA_SLAB_BYTES;
    slab *fresh;
    qs_err err = qs_mem_alloc(&fresh, bytes, what);
    if (err != QS_OK) return err;
    block *whole = (block *)(fresh + 1);
    *whole = (block){.bytes = bytes - sizeof(slab)};
    *fresh = (slab){.bytes = bytes, .next = arena->slabs, .first = whole};
    arena->slabs = fresh;
    return QS_OK;
}

static block *find(const qs_arena *arena, size_t block_bytes)
{
    for (const slab *s = arena->slabs; s != NULL; s = s->next)
        for (block *b = s->first; b != NULL; b = b->next)
            if (!b->used && b->bytes >= block_bytes) return b;
    return NULL;
}

static void split(block *b, size_t block_bytes)
{
    if (b->bytes - block_bytes < 2 * sizeof(block)) return;
    block *rest = (block *)(void *)((char *)b + block_bytes);
    *rest = (block){.bytes = b->bytes - block_bytes, .previous = b, .next = b->next};
    if (rest->next != NULL) rest->next->previous = rest;
    b->next = rest;
    b->bytes = block_bytes;
}

qs_err qs_arena_alloc(qs_arena *arena, void **out, size_t bytes, const char *what)
{
    *out = NULL;
    if (bytes > SIZE_MAX / 2) return qs_fail(QS_E_RESOURCE, "allocate %s: size overflows", what);
    size_t block_bytes = sizeof(block) + (bytes + QS_MEM_ALIGN - 1) / QS_MEM_ALIGN * QS_MEM_ALIGN;
    block *b = find(arena, block_bytes);
    if (b == NULL) {
        qs_err err = add_slab(arena, block_bytes, what);
        if (err != QS_OK) return err;
        b = arena->slabs->first;
    }
    split(b, block_bytes);
    b->used = true;
    arena->bytes += b->bytes;
    *out = b + 1;
    return QS_OK;
}

/* b takes over the block behind it. */
static void absorb_next(block *b)
{
    block *gone = b->next;
    b->bytes += gone->bytes;
    b->next = gone->next;
    if (b->next != NULL) b->next->previous = b;
}

static void release_slab(qs_arena *arena, const block *only)
{
    for (slab **link = &arena->slabs; *link != NULL; link = &(*link)->next) {
        slab *s = *link;
        if (s->first != only) continue;
        *link = s->next;
        qs_mem_free(s);
        return;
    }
}

void qs_arena_free(qs_arena *arena, void *pointer)
{
    if (pointer == NULL) return;
    block *b = (block *)pointer - 1;
    b->used = false;
    arena->bytes -= b->bytes;
    if (b->next != NULL && !b->next->used) absorb_next(b);
    if (b->previous != NULL && !b->previous->used) {
        b = b->previous;
        absorb_next(b);
    }
    if (b->previous == NULL && b->next == NULL) release_slab(arena, b);
}
