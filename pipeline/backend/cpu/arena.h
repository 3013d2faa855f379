/* Memory of many matrices in few large pieces on huge pages: decoding streams all weights per token, and with
 * 4 KiB pages the walks through the page tables cost a third of the bandwidth. First fit over address-ordered
 * blocks; what is freed is merged with its neighbours, and an empty slab goes back to the system. */
#ifndef QS_BACKEND_CPU_ARENA_H
#define QS_BACKEND_CPU_ARENA_H

#include "base/error.h"

/* What blocks come from, unless they are larger. */
enum { QS_ARENA_SLAB_BYTES = 8 << 20 };

typedef struct qs_arena qs_arena;

QS_MUST_CHECK qs_err qs_arena_create(qs_arena **out);
void qs_arena_destroy(qs_arena *arena);

/* 64-byte aligned, not zeroed when it was used before. */
QS_MUST_CHECK qs_err qs_arena_alloc(qs_arena *arena, void **out, size_t bytes, const char *what);
void qs_arena_free(qs_arena *arena, void *pointer);

/* Bytes of all blocks that are handed out: up to a slab less than what the system gave. */
size_t qs_arena_bytes(const qs_arena *arena);

#endif
