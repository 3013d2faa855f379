/* The part file that an artifact is while it is written: "<path>.part.<pid>", beside its final name.
 *
 * The writer holds an advisory lock on it. A part is stale when its process is gone (or has our own number)
 * and nobody holds the lock; the lock also protects parts of other hosts on a shared file system. Where the
 * file system has no locks, parts of others stay. */
#ifndef QS_ARTIFACT_PART_H
#define QS_ARTIFACT_PART_H

#include <stdbool.h>

#include "base/error.h"
#include "base/file.h"
#include "base/part_name.h"

typedef struct qs_part {
    int fd; /* -1 when there is none */
    char path[QS_PATH_BYTES];
    char part_path[QS_PATH_BYTES];
} qs_part;

/* Whether nobody writes this part any more: its process is gone and its lock is free. Parts that are no artifacts
 * ("x.csv.part.17") have no lock, so that one of another host might seem stale: they must be a minute old. */
bool qs_part_is_stale(const char *part_path);

/* Removes stale parts of the same path, then creates an empty part. Errors: QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_part_create(qs_part *part, const char *path);

/* To be called once HDF5 has opened the part: its own lock, where the environment asks for one, is
 * exclusive. */
void qs_part_lock(qs_part *part);

/* Flush, rename to the final name, release. The part is gone afterwards, also on failure. */
QS_MUST_CHECK qs_err qs_part_publish(qs_part *part);
void qs_part_discard(qs_part *part); /* a no-op when there is none */

#endif
