/* The manifest of an artifact: one line per dataset and attribute that is a function of the inputs. Its hash
 * is the artifact's content digest:
 *
 *     XXH3-128( "qsweep KIND schema VERSION\n", then the lines sorted bytewise )
 *     line = "PATH TYPE [D0,D1] DIGEST\n",  TYPE = f32 ... u8, int, real, text
 *
 * DIGEST is the XXH3-128 of the little-endian bytes in row-major order. /provenance and /timing vary from run
 * to run and have no lines. */
#ifndef QS_ARTIFACT_MANIFEST_H
#define QS_ARTIFACT_MANIFEST_H

#include <stdbool.h>

#include "artifact/schema.h"
#include "base/hash.h"

typedef struct qs_manifest {
    char **lines; /* [n], each from qs_mem_alloc */
    int64_t n, capacity;
} qs_manifest;

/* False for what lies under /provenance or /timing. */
bool qs_manifest_counts(const char *path);

/* Adds a line; a no-op for paths that do not count. */
QS_MUST_CHECK qs_err qs_manifest_add(qs_manifest *manifest, const char *path, const char *type, int rank,
                                     const int64_t *dims, qs_digest digest);

/* Sorts the lines and hashes them. */
QS_MUST_CHECK qs_err qs_manifest_digest(qs_manifest *manifest, qs_artifact_kind kind, int64_t schema_version,
                                        qs_digest *out);
void qs_manifest_free(qs_manifest *manifest);

#endif
