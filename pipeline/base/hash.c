#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static qs_digest from_xxh(XXH128_hash_t h) { return (qs_digest){.low = h.low64, .high = h.high64}; }

qs_digest qs_hash(const void *data, size_t bytes) { return from_xxh(XXH3_128bits(data, bytes)); }

qs_err qs_hasher_create(qs_hasher **out)
{
    XXH3_state_t *state = XXH3_createState();
    if (state == NULL) return qs_fail(QS_E_RESOURCE, "create hash state: out of memory");
    (void)XXH3_128bits_reset(state);
    *out = (qs_hasher *)state;
    return QS_OK;
}

void qs_hasher_add(qs_hasher *hasher, const void *data, size_t bytes)
{
    (void)XXH3_128bits_update((XXH3_state_t *)hasher, data, bytes);
}

qs_digest qs_hasher_finish(qs_hasher *hasher)
{
    qs_digest digest = from_xxh(XXH3_128bits_digest((XXH3_state_t *)hasher));
    (void)XXH3_freeState((XXH3_state_t *)hasher);
    return digest;
}

char *qs_digest_format(char text[QS_DIGEST_TEXT_BYTES], qs_digest digest)
{
    (void)snprintf(text, QS_DIGEST_TEXT_BYTES, "%016llx%016llx", (unsigned long long)digest.high,
                   (unsigned long long)digest.low);
    return text;
}

bool qs_digest_parse(qs_digest *out, const char *text)
{
    char half[17] = "";
    size_t n = QS_DIGEST_TEXT_BYTES - 1;
    if (strlen(text) != n || strspn(text, "0123456789abcdef") != n) return false;
    memcpy(half, text, 16);
    out->high = strtoull(half, NULL, 16);
    memcpy(half, text + 16, 16);
    out->low = strtoull(half, NULL, 16);
    return true;
}
