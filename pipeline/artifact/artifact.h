/* Artifacts: HDF5 files that appear whole or not at all, know their parents, and refuse to lie.
 *
 * The only interface to HDF5 in the project. A writer creates "<path>.part.<pid>", puts datasets and
 * attributes, and seals: digest, provenance, seal, fsync, rename. A reader refuses a file that is missing,
 * truncated, unsealed, of another kind or of a newer schema, and names the stage to re-run.
 * Everything outside /provenance and /timing enters the content digest and is a function of the inputs, so
 * equal inputs give equal digests (and equal bytes outside those groups). */
#ifndef QS_ARTIFACT_ARTIFACT_H
#define QS_ARTIFACT_ARTIFACT_H

#include <stdbool.h>

#include "artifact/schema.h"
#include "base/dtype.h"
#include "base/hash.h"

typedef struct qs_artifact qs_artifact;

enum { QS_ARTIFACT_MAX_RANK = 4 };

/* ---- writing ---- */
QS_MUST_CHECK qs_err qs_artifact_create(qs_artifact **out, const char *path, qs_artifact_kind kind);

/* Datasets. The path must match a row of the schema for this kind, with its dtype and rank (a test of the
 * caller, so a mismatch is QS_E_INPUT with both sides named). Parent groups are made as needed. Data of 4 KiB
 * and more is chunked by whole rows (about 1 MiB), shuffle + zstd level 1 (filter 32015) + fletcher32; u8
 * datasets skip shuffle. f16/bf16 data are uint16_t bits; HDF5 never converts. Floating-point data must be
 * finite: QS_E_NUMERIC names path and index (rows marked `nan_ok` excepted). */
QS_MUST_CHECK qs_err qs_artifact_put(qs_artifact *artifact, const char *path, qs_dtype dtype, int rank,
                                     const int64_t *dims, const void *data);
/* Memory that reading or writing a dataset takes in passing, for plans. */
size_t qs_artifact_scratch_bytes(int64_t dataset_bytes);

/* Attributes: path is "<object>/@<name>", with the same schema check. Groups are made as needed; a dataset
 * must have been put before its attributes. Reals must be finite unless the row is `nan_ok`. Rows of the root
 * and of /parents are the seal's own; rows of /provenance may be put here, and the seal fills in the
 * others. */
QS_MUST_CHECK qs_err qs_artifact_put_int(qs_artifact *artifact, const char *path, int64_t value);
QS_MUST_CHECK qs_err qs_artifact_put_real(qs_artifact *artifact, const char *path, double value);
QS_MUST_CHECK qs_err qs_artifact_put_text(qs_artifact *artifact, const char *path, const char *value);

/* Streaming writes for large datasets: create once with full dims, then whole-row slabs in order. */
QS_MUST_CHECK qs_err qs_artifact_begin(qs_artifact *artifact, const char *path, qs_dtype dtype, int rank,
                                       const int64_t *dims);
QS_MUST_CHECK qs_err qs_artifact_append(qs_artifact *artifact, const char *path, int64_t n_rows,
                                        const void *rows);

/* A parent enters the provenance chain by role ("model", "calib", "quant", "baseline") and digest. */
QS_MUST_CHECK qs_err qs_artifact_add_parent(qs_artifact *artifact, const char *role, const char *name,
                                            qs_digest digest);

/* Command line for /provenance; optional. */
QS_MUST_CHECK qs_err qs_artifact_set_command(qs_artifact *artifact, int argc, char *const *argv);

/* Digest, provenance, seal, publish. The handle is gone afterwards, also on failure. */
QS_MUST_CHECK qs_err qs_artifact_seal(qs_artifact *artifact, qs_digest *out_digest);
void qs_artifact_abort(qs_artifact *artifact); /* NULL is fine; leaves nothing behind */

/* ---- reading ---- */
QS_MUST_CHECK qs_err qs_artifact_open(qs_artifact **out, const char *path, qs_artifact_kind kind);
void qs_artifact_close(qs_artifact *artifact);

qs_artifact_kind qs_artifact_get_kind(const qs_artifact *artifact);
/* The kind of a file without opening it as one; QS_E_INPUT when it is no sealed artifact. */
QS_MUST_CHECK qs_err qs_artifact_probe(const char *path, qs_artifact_kind *kind, qs_digest *digest);

typedef struct qs_dataset_info {
    qs_dtype dtype;
    int rank;
    int64_t dims[QS_ARTIFACT_MAX_RANK];
    int64_t n; /* product of dims */
} qs_dataset_info;

/* Dataset or "@" attribute. True also where damage hides it: reading it then fails and says so. */
bool qs_artifact_has(const qs_artifact *artifact, const char *path);
QS_MUST_CHECK qs_err qs_artifact_info(const qs_artifact *artifact, const char *path, qs_dataset_info *info);
/* Whole dataset into a caller buffer of info.n elements; dtype must equal the stored one. Checks the
 * dataset's digest. */
QS_MUST_CHECK qs_err qs_artifact_read(const qs_artifact *artifact, const char *path, qs_dtype dtype,
                                      void *dst, int64_t n);
/* Rows [first, first + n_rows) along the first dimension; protected by the checksums of the chunks. */
QS_MUST_CHECK qs_err qs_artifact_read_rows(const qs_artifact *artifact, const char *path, qs_dtype dtype,
                                           int64_t first, int64_t n_rows, void *dst);
QS_MUST_CHECK qs_err qs_artifact_get_int(const qs_artifact *artifact, const char *path, int64_t *value);
QS_MUST_CHECK qs_err qs_artifact_get_real(const qs_artifact *artifact, const char *path, double *value);
QS_MUST_CHECK qs_err qs_artifact_get_text(const qs_artifact *artifact, const char *path, char *text,
                                          size_t bytes);

qs_digest qs_artifact_digest(const qs_artifact *artifact);
/* The digest of the parent with this role; QS_E_INPUT when there is none. */
QS_MUST_CHECK qs_err qs_artifact_get_parent(const qs_artifact *artifact, const char *role, qs_digest *digest);
/* Names of the direct children of a group, sorted; free with qs_dir_list_free. */
QS_MUST_CHECK qs_err qs_artifact_list(const qs_artifact *artifact, const char *group, char ***names,
                                      int64_t *n);
/* Reads everything and recomputes every dataset's digest and the content digest: finds silent corruption, and
 * data, attributes or objects that were changed, added or removed after the seal. */
QS_MUST_CHECK qs_err qs_artifact_verify(const char *path);

#endif
