/* Content digests: XXH3-128 (xxHash). Identity of data, not protection against forgery. */
#ifndef QS_BASE_HASH_H
#define QS_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

enum { QS_DIGEST_TEXT_BYTES = 33 }; /* 32 hex digits and the NUL */

typedef struct qs_digest {
    uint64_t low, high;
} qs_digest;

qs_digest qs_hash(const void *data, size_t bytes);

/* Streaming: create, add any number of times, finish (which frees the state). */
typedef struct qs_hasher qs_hasher;
QS_MUST_CHECK qs_err qs_hasher_create(qs_hasher **out);
void qs_hasher_add(qs_hasher *hasher, const void *data, size_t bytes);
qs_digest qs_hasher_finish(qs_hasher *hasher);

/* Canonical (big-endian) hex; returns `text`. */
char *qs_digest_format(char text[QS_DIGEST_TEXT_BYTES], qs_digest digest);
/* False for what is not exactly that. */
bool qs_digest_parse(qs_digest *out, const char *text);

#endif
