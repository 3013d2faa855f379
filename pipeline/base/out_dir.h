/* A directory that appears whole or not at all: files go to "<path>.part.<pid>", which is renamed in the end.
 *
 * The writer holds an advisory lock on the part. Parts that killed writers left of the same path are removed when the
 * next one begins: those whose process is gone and whose lock is free. Where the file system has no locks, they
 * stay. */
#ifndef QS_BASE_OUT_DIR_H
#define QS_BASE_OUT_DIR_H

#include <jansson.h>

#include "base/file.h"

typedef struct qs_out_dir {
    char path[QS_PATH_BYTES], part_path[QS_PATH_BYTES];
    bool open, within; /* within: the directory was there already, and stays */
    int lock;          /* a descriptor of the part */
} qs_out_dir;

/* Refuses (QS_E_USAGE) a path where something is already, an empty directory excepted. QS_E_RESOURCE when it cannot be
 * made, or a part of our number is being written elsewhere. Creates the parents. */
QS_MUST_CHECK qs_err qs_out_dir_open(qs_out_dir *out, const char *path);
/* For what is written more than once: a directory that is there already keeps what else lies in it. Files go to
 * "<path>/new.part.<pid>" then (inside, since `path` may be a link to another disk), and publish puts each in the place
 * of the old one of its name once all are written. Where no directory is, the same as qs_out_dir_open. */
QS_MUST_CHECK qs_err qs_out_dir_open_within(qs_out_dir *out, const char *path);
/* The check alone. */
QS_MUST_CHECK qs_err qs_out_dir_check(const char *path);
/* QS_E_RESOURCE where a name cannot be had. The part is gone afterwards, also on failure. */
QS_MUST_CHECK qs_err qs_out_dir_publish(qs_out_dir *dir);
void qs_out_dir_discard(qs_out_dir *dir); /* with the files in it; a no-op after publish */

/* Files in the directory. A document is printed with indents; copying says nothing about a source that is not there. */
QS_MUST_CHECK qs_err qs_out_dir_put_json(const qs_out_dir *dir, const char *name, const json_t *root);
QS_MUST_CHECK qs_err qs_out_dir_copy(const qs_out_dir *dir, const char *from_dir, const char *name);

#endif
