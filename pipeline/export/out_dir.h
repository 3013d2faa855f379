/* A directory that appears whole or not at all: files go to "<path>.part.<pid>", which is renamed in the end. */
#ifndef QS_EXPORT_OUT_DIR_H
#define QS_EXPORT_OUT_DIR_H

#include <jansson.h>

#include "base/file.h"

typedef struct qs_out_dir {
    char path[QS_PATH_BYTES], part_path[QS_PATH_BYTES];
    bool open;
} qs_out_dir;

/* Refuses (QS_E_USAGE) a path where something is already, an empty directory excepted. QS_E_RESOURCE when it cannot be
 * made. Creates the parents. */
QS_MUST_CHECK qs_err qs_out_dir_open(qs_out_dir *out, const char *path);
/* The check alone. */
QS_MUST_CHECK qs_err qs_out_dir_check(const char *path);
QS_MUST_CHECK qs_err qs_out_dir_publish(qs_out_dir *dir);
void qs_out_dir_discard(qs_out_dir *dir); /* with the files in it; a no-op after publish */

/* Files in the directory. A document is printed with indents; copying says nothing about a source that is not there. */
QS_MUST_CHECK qs_err qs_out_dir_put_json(const qs_out_dir *dir, const char *name, const json_t *root);
QS_MUST_CHECK qs_err qs_out_dir_copy(const qs_out_dir *dir, const char *from_dir, const char *name);

#endif
