/* Names of what is being written, "<path>.part.<pid>", beside its final name: files and directories. What a writer that
 * was killed left is found by them. */
#ifndef QS_BASE_PART_NAME_H
#define QS_BASE_PART_NAME_H

#include <stdbool.h>
#include <stddef.h>

/* What a name says: "x.h5.part.17" belongs to "x.h5". *bytes gets the length of that; false when the name is none of a
 * part. */
bool qs_part_is_name(const char *name, size_t *bytes);

/* Whether the process is gone that a part's name ends in. Our own number counts as gone: it has come round again, as it
 * always does in containers. A process of another host seems to be gone, so a lock must tell. */
bool qs_part_writer_is_gone(const char *part_path);

/* Calls visit for every part of `path` whose writer is gone. Best effort: a directory that cannot be listed will fail
 * to take the new part, with a better text. */
void qs_part_each_left(const char *path, void (*visit)(const char *part_path));

#endif
