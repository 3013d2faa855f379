/* Files: read-only maps, whole reads, and writes that appear whole or not at all. */
#ifndef QS_BASE_FILE_H
#define QS_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"

/* A read-only memory map. `data` is NULL only when bytes == 0. */
typedef struct qs_file_map {
    const uint8_t *data;
    size_t bytes;
} qs_file_map;

/* Errors: QS_E_INPUT with path and cause (missing, a directory, not a regular file, unreadable). */
QS_MUST_CHECK qs_err qs_file_map_open(qs_file_map *out, const char *path);
void qs_file_map_close(qs_file_map *map);
/* Says that a part of the map will not be read soon: its whole pages stop counting as this process's memory.
 * Reading them again is allowed and brings them back. */
void qs_file_map_release(const qs_file_map *map, const uint8_t *data, size_t bytes);

/* The whole file plus a NUL byte, to be freed with qs_mem_free. Refuses more than `limit_bytes`. */
QS_MUST_CHECK qs_err qs_file_read(char **out, size_t *bytes, const char *path, size_t limit_bytes);

bool qs_file_exists(const char *path);
bool qs_path_is_dir(const char *path);

/* Creates the directory and its parents; existing ones are fine. */
QS_MUST_CHECK qs_err qs_dir_create(const char *path);
/* The same of the directory that `file` is to lie in. */
QS_MUST_CHECK qs_err qs_dir_create_for(const char *file);

/* Names (not paths) of the entries of `dir` that end in `suffix`, sorted bytewise, each from malloc. */
QS_MUST_CHECK qs_err qs_dir_list(char ***out_names, int64_t *n_names, const char *dir, const char *suffix);
void qs_dir_list_free(char **names, int64_t n_names);

/* printf into a path buffer. Errors: QS_E_INPUT when it does not fit. */
enum { QS_PATH_BYTES = 1024 };
QS_MUST_CHECK qs_err qs_path_format(char path[QS_PATH_BYTES], const char *fmt, ...) QS_PRINTF(2, 3);

/* Writes go to "<path>.part.<pid>" in the same directory; publish flushes, fsyncs and renames, so a
 * reader sees the old file or the new one. Errors: QS_E_RESOURCE (disk full, read-only, no directory). */
typedef struct qs_file_writer {
    FILE *stream;
    char path[QS_PATH_BYTES];
    char part_path[QS_PATH_BYTES];
} qs_file_writer;
QS_MUST_CHECK qs_err qs_file_writer_open(qs_file_writer *out, const char *path);
QS_MUST_CHECK qs_err qs_file_writer_publish(qs_file_writer *writer);
void qs_file_writer_discard(qs_file_writer *writer); /* a no-op after publish */

/* A whole file at once, by such a writer. */
QS_MUST_CHECK qs_err qs_file_write(const char *path, const void *data, size_t bytes);

/* The tail of publishing, shared with writers that do not use stdio: fsync `part_path`, rename it to
 * `path`, fsync the directory. */
QS_MUST_CHECK qs_err qs_file_publish(const char *part_path, const char *path);

#endif
