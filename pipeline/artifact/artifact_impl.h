/* Inside of qs_artifact, and the HDF5 helpers that writer, reader and verifier share. Only files of this
 * folder include it. */
#ifndef QS_ARTIFACT_ARTIFACT_IMPL_H
#define QS_ARTIFACT_ARTIFACT_IMPL_H

#include "artifact/artifact.h"
#include "artifact/finite.h"
#include "artifact/manifest.h"
#include "artifact/part.h"
#include "artifact/provenance.h"
#include "artifact/zstd_filter.h"

enum {
    QS_TEXT_LIMIT_BYTES = QS_COMMAND_BYTES, /* of a text attribute; HDF5 keeps up to 64 KiB in a header */
    QS_CAUSE_BYTES = 320,
};

/* A dataset that is being appended to. */
typedef struct qs_stream {
    struct qs_stream *next;
    char path[QS_SCHEMA_PATH_BYTES];
    hid_t dataset;
    qs_hasher *hasher;
    qs_dataset_info info;
    int64_t n_rows_done, row_elems; /* row_elems: elements per step of the first dimension */
    bool nan_ok;
} qs_stream;

struct qs_artifact {
    hid_t file;
    hid_t types[QS_N_DTYPES]; /* of the file and of memory alike: HDF5 never converts */
    qs_artifact_kind kind;
    char path[QS_PATH_BYTES];
    bool writing;

    /* reading */
    qs_digest digest;
    int64_t schema_version;

    /* writing */
    qs_part part;
    qs_manifest manifest;
    qs_stream *streams;
    char command[QS_COMMAND_BYTES];
};

/* ---- h5_file.c, h5_attribute.c ---- */

/* HDF5 prints errors unless told otherwise, per thread; every entry point that may fail calls this. */
void qs_h5_quiet(void);

/* The innermost cause on HDF5's error stack, in one line. Any HDF5 call clears the stack, so ask at once. */
char *qs_h5_cause(char text[QS_CAUSE_BYTES]);

/* "verb object of file: cause": QS_E_RESOURCE for a writer, QS_E_INPUT with the stage to re-run for a
 * reader. */
qs_err qs_h5_fail(const qs_artifact *artifact, const char *verb, const char *object);
qs_err qs_artifact_corrupt(const qs_artifact *artifact, const char *object, const char *cause);

/* Opens or creates the file of a fresh handle and registers the filter; types and file are set on success. */
QS_MUST_CHECK qs_err qs_h5_open_types(qs_artifact *artifact);
void qs_h5_close_types(qs_artifact *artifact);
hid_t qs_h5_access_plist(void); /* V110 format, no locks, a leaked id fails the close; < 0 on failure */

/* 1 when `path` (of groups and a last object) consists of hard links only, 0 when one is missing or is
 * another kind of link, negative when HDF5 failed. */
int qs_h5_exists(hid_t file, const char *path);

/* Splits "<object>/@<name>" ("/" for the root); false for a path without "/@". */
bool qs_h5_split(const char *path, char object[QS_SCHEMA_PATH_BYTES], const char **name);

/* QS_N_DTYPES when the type is none of ours. */
qs_dtype qs_h5_dtype(const qs_artifact *artifact, hid_t type);

/* Attributes of an open object. Reading checks the class and size of the stored type. */
hid_t qs_h5_text_type(size_t bytes); /* fixed length, UTF-8, NUL padded; < 0 on failure */
QS_MUST_CHECK qs_err qs_h5_write_attribute(const qs_artifact *artifact, hid_t object, const char *path,
                                           const char *name, hid_t type, const void *value);
QS_MUST_CHECK qs_err qs_h5_write_text(const qs_artifact *artifact, hid_t object, const char *path,
                                      const char *name, const char *value);
QS_MUST_CHECK qs_err qs_h5_read_attribute(const qs_artifact *artifact, hid_t object, const char *path,
                                          const char *name, qs_dtype dtype, void *value);
QS_MUST_CHECK qs_err qs_h5_read_text(const qs_artifact *artifact, hid_t object, const char *path,
                                     const char *name, char *text, size_t bytes);
QS_MUST_CHECK qs_err qs_h5_read_digest(const qs_artifact *artifact, hid_t object, const char *path,
                                       const char *name, qs_digest *digest);

/* ---- h5_dataset.c ---- */

/* Creates an empty dataset in an existing group, with chunks and filters by its size, and the attribute
 * `unit`. */
QS_MUST_CHECK qs_err qs_dataset_create(const qs_artifact *artifact, const char *path,
                                       const qs_dataset_info *info, const char *unit, hid_t *out);

/* Opens a dataset and checks type, shape and filters. */
QS_MUST_CHECK qs_err qs_dataset_open(const qs_artifact *artifact, const char *path, hid_t *out,
                                     qs_dataset_info *info);

/* Rows [first, first + n_rows) of an open dataset. */
QS_MUST_CHECK qs_err qs_dataset_write(const qs_artifact *artifact, const char *path, hid_t dataset,
                                      const qs_dataset_info *info, int64_t first, int64_t n_rows,
                                      const void *src);
QS_MUST_CHECK qs_err qs_dataset_read(const qs_artifact *artifact, const char *path, hid_t dataset,
                                     const qs_dataset_info *info, int64_t first, int64_t n_rows, void *dst);

/* Fills info.n; QS_E_INPUT for a bad rank, a negative extent or an overflow. */
QS_MUST_CHECK qs_err qs_dataset_count(const char *path, qs_dataset_info *info);

/* ---- artifact_writer.c, artifact_attribute.c ---- */

/* The row of the schema for a write; QS_E_INPUT when there is none, of another cell, or for a reader. */
QS_MUST_CHECK qs_err qs_writer_check(const qs_artifact *artifact, const char *path, qs_cell cell,
                                     const qs_schema_row **out);

/* Creates the missing groups among the first `bytes` bytes of `path`. */
QS_MUST_CHECK qs_err qs_writer_ensure_groups(const qs_artifact *artifact, const char *path, size_t bytes);

/* As qs_artifact_put_text, also for the paths that only the seal may write. */
QS_MUST_CHECK qs_err qs_writer_put_text(qs_artifact *artifact, const char *path, const char *value);

/* ---- artifact_reader.c ---- */

/* As qs_artifact_open; `any_kind` takes the kind from the file, and `kind` only names a stage in errors. */
QS_MUST_CHECK qs_err qs_reader_open(qs_artifact **out, const char *path, qs_artifact_kind kind,
                                    bool any_kind);

#endif
