/* Writing artifacts (artifact.h): into the part file, checked against the schema; artifact_seal.c publishes it. */
#include <string.h>

#include "artifact/artifact_impl.h"
#include "base/mem.h"

/* ---- life of a handle ---- */

static void free_streams(qs_artifact *artifact)
{
    for (qs_stream *stream = artifact->streams, *next; stream != NULL; stream = next) {
        next = stream->next;
        if (stream->dataset >= 0) (void)H5Dclose(stream->dataset);
        if (stream->hasher != NULL) (void)qs_hasher_finish(stream->hasher);
        qs_mem_free(stream);
    }
    artifact->streams = NULL;
}

void qs_artifact_abort(qs_artifact *artifact)
{
    if (artifact == NULL) return;
    qs_h5_quiet();
    qs_part_discard(&artifact->part);
    free_streams(artifact);
    if (artifact->file >= 0) (void)H5Fclose(artifact->file);
    qs_h5_close_types(artifact);
    qs_manifest_free(&artifact->manifest);
    qs_mem_free(artifact);
}

static qs_err create_file(qs_artifact *artifact)
{
    hid_t access = qs_h5_access_plist(), creation = H5Pcreate(H5P_FILE_CREATE);
    if (access >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, false) >= 0)
        artifact->file = H5Fcreate(artifact->part.part_path, H5F_ACC_TRUNC, creation, access);
    qs_err err = artifact->file < 0 ? qs_h5_fail(artifact, "create", "the file") : QS_OK;
    if (creation >= 0) (void)H5Pclose(creation);
    if (access >= 0) (void)H5Pclose(access);
    if (err == QS_OK) qs_part_lock(&artifact->part);
    return err;
}

qs_err qs_artifact_create(qs_artifact **out, const char *path, qs_artifact_kind kind)
{
    *out = NULL;
    qs_artifact *artifact;
    qs_err err = QS_NEW(artifact, 1, "artifact");
    if (err != QS_OK) return err;
    artifact->file = H5I_INVALID_HID;
    artifact->part.fd = -1;
    artifact->kind = kind;
    artifact->writing = true;
    QS_TRY(qs_path_format(artifact->path, "%s", path));
    QS_TRY(qs_h5_open_types(artifact));
    QS_TRY(qs_part_create(&artifact->part, path));
    QS_TRY(create_file(artifact));
    *out = artifact;
    artifact = NULL;
out:
    qs_artifact_abort(artifact);
    return err;
}

/* ---- the schema as a check of the caller ---- */

qs_err qs_writer_check(const qs_artifact *artifact, const char *path, qs_cell cell, const qs_schema_row **out)
{
    qs_h5_quiet();
    if (!artifact->writing)
        return qs_fail(QS_E_INPUT, "write %s: %s is open for reading", path, artifact->path);
    const qs_schema_row *row = qs_schema_find(artifact->kind, path);
    if (row == NULL)
        return qs_fail(QS_E_INPUT, "write %s: no row of the schema of %s artifacts matches", path,
                       qs_artifact_kind_name(artifact->kind));
    if (row->cell != cell)
        return qs_fail(QS_E_INPUT, "write %s: the schema says %s, the caller %s", path,
                       qs_cell_name(row->cell), qs_cell_name(cell));
    *out = row;
    return QS_OK;
}

static qs_err check_dataset(const qs_artifact *artifact, const char *path, const qs_dataset_info *info,
                            const qs_schema_row **row)
{
    qs_err err = qs_writer_check(artifact, path, QS_CELL_DATASET, row);
    if (err != QS_OK) return err;
    if ((*row)->dtype != info->dtype || (*row)->rank != info->rank)
        return qs_fail(QS_E_INPUT, "write %s: the schema says %s of rank %d, the caller %s of rank %d", path,
                       qs_dtype_name((*row)->dtype), (*row)->rank, qs_dtype_name(info->dtype), info->rank);
    int there = qs_h5_exists(artifact->file, path);
    if (there < 0) return qs_h5_fail(artifact, "look up", path);
    if (there > 0) return qs_fail(QS_E_INPUT, "write %s: it was put before", path);
    return QS_OK;
}

/* Creates the groups of `path` that are missing, up to `bytes` of it. One at a time, since HDF5 gives no way
 * to leave the times out of groups that it makes in passing. */
qs_err qs_writer_ensure_groups(const qs_artifact *artifact, const char *path, size_t bytes)
{
    char prefix[QS_SCHEMA_PATH_BYTES];
    memcpy(prefix, path, bytes);
    prefix[bytes] = '\0';
    if (bytes == 0 || qs_h5_exists(artifact->file, prefix) == 1) return QS_OK;
    hid_t plist = H5Pcreate(H5P_GROUP_CREATE);
    if (plist < 0 || H5Pset_obj_track_times(plist, false) < 0 ||
        H5Pset_attr_phase_change(plist, 64, 48) < 0) {
        if (plist >= 0) (void)H5Pclose(plist);
        return qs_h5_fail(artifact, "create", prefix);
    }
    qs_err err = QS_OK;
    for (size_t i = 1; i <= bytes && err == QS_OK; i++) {
        if (i < bytes && path[i] != '/') continue;
        prefix[i] = '\0';
        int there = qs_h5_exists(artifact->file, prefix);
        if (there == 0) {
            hid_t group = H5Gcreate2(artifact->file, prefix, H5P_DEFAULT, plist, H5P_DEFAULT);
            if (group < 0 || H5Gclose(group) < 0) err = qs_h5_fail(artifact, "create", prefix);
        } else if (there < 0) {
            err = qs_h5_fail(artifact, "look up", prefix);
        }
        prefix[i] = path[i];
    }
    (void)H5Pclose(plist);
    return err;
}

/* ---- datasets ---- */

static qs_err check_finite(const qs_stream *stream, int64_t n_rows, const void *rows)
{
    if (stream->nan_ok) return QS_OK;
    int64_t at = qs_find_nonfinite_any(stream->info.dtype, rows, n_rows * stream->row_elems);
    if (at < 0) return QS_OK;
    char index[128] = "";
    int64_t rest = at + stream->n_rows_done * stream->row_elems,
            inner = stream->info.n / stream->info.dims[0];
    for (int i = 0, used = 0; i < stream->info.rank && used < (int)sizeof index; i++) {
        used += snprintf(index + used, sizeof index - (size_t)used, "%s%lld", i > 0 ? ", " : "",
                         (long long)(rest / inner));
        rest %= inner;
        if (i + 1 < stream->info.rank) inner /= stream->info.dims[i + 1];
    }
    return qs_fail(QS_E_NUMERIC, "write %s: the element [%s] is NaN or infinite", stream->path, index);
}

static qs_stream *find_stream(const qs_artifact *artifact, const char *path)
{
    qs_stream *stream = artifact->streams;
    while (stream != NULL && strcmp(stream->path, path) != 0) stream = stream->next;
    return stream;
}

/* Stores the digest, closes the dataset and forgets the stream. */
static qs_err finish_stream(qs_artifact *artifact, qs_stream *stream)
{
    char hex[QS_DIGEST_TEXT_BYTES];
    qs_digest digest = qs_hasher_finish(stream->hasher);
    stream->hasher = NULL;
    qs_err err =
        qs_h5_write_text(artifact, stream->dataset, stream->path, "digest", qs_digest_format(hex, digest));
    if (err == QS_OK)
        err = qs_manifest_add(&artifact->manifest, stream->path, qs_dtype_name(stream->info.dtype),
                              stream->info.rank, stream->info.dims, digest);
    if (H5Dclose(stream->dataset) < 0 && err == QS_OK) err = qs_h5_fail(artifact, "close", stream->path);
    qs_stream **link = &artifact->streams;
    while (*link != stream) link = &(*link)->next;
    *link = stream->next;
    qs_mem_free(stream);
    return err;
}

qs_err qs_artifact_begin(qs_artifact *artifact, const char *path, qs_dtype dtype, int rank,
                         const int64_t *dims)
{
    const qs_schema_row *row;
    qs_dataset_info info = {.dtype = dtype, .rank = rank};
    qs_err err = check_dataset(artifact, path, &info, &row);
    if (err != QS_OK) return err;
    for (int i = 0; i < rank && i < QS_ARTIFACT_MAX_RANK; i++) info.dims[i] = dims[i];
    err = qs_dataset_count(path, &info);
    if (err != QS_OK) return err;
    qs_stream *stream;
    err = QS_NEW(stream, 1, "stream of an artifact");
    if (err != QS_OK) return err;
    stream->info = info;
    stream->nan_ok = row->nan_ok;
    stream->row_elems = info.dims[0] > 0 ? info.n / info.dims[0] : 0;
    stream->dataset = H5I_INVALID_HID;
    memcpy(stream->path, path, strlen(path) + 1); /* the schema bounds its length */
    QS_TRY(qs_writer_ensure_groups(artifact, path, (size_t)(strrchr(path, '/') - path)));
    QS_TRY(qs_dataset_create(artifact, path, &info, row->unit, &stream->dataset));
    QS_TRY(qs_hasher_create(&stream->hasher));
    stream->next = artifact->streams;
    artifact->streams = stream;
    return info.dims[0] == 0 ? finish_stream(artifact, stream) : QS_OK;
out:
    if (stream->dataset >= 0) (void)H5Dclose(stream->dataset);
    qs_mem_free(stream);
    return err;
}

qs_err qs_artifact_append(qs_artifact *artifact, const char *path, int64_t n_rows, const void *rows)
{
    qs_h5_quiet();
    qs_stream *stream = find_stream(artifact, path);
    if (stream == NULL) return qs_fail(QS_E_INPUT, "append to %s: it was not begun, or is complete", path);
    qs_dataset_info *info = &stream->info;
    if (n_rows < 0 || n_rows > info->dims[0] - stream->n_rows_done)
        return qs_fail(QS_E_INPUT, "append to %s: %lld rows after %lld are over its %lld", path,
                       (long long)n_rows, (long long)stream->n_rows_done, (long long)info->dims[0]);
    qs_err err = check_finite(stream, n_rows, rows);
    if (err == QS_OK)
        err = qs_dataset_write(artifact, path, stream->dataset, info, stream->n_rows_done, n_rows, rows);
    if (err != QS_OK) return err;
    size_t bytes = (size_t)(n_rows * stream->row_elems) * qs_dtype_bytes(info->dtype);
    if (bytes > 0) qs_hasher_add(stream->hasher, rows, bytes);
    stream->n_rows_done += n_rows;
    return stream->n_rows_done == info->dims[0] ? finish_stream(artifact, stream) : QS_OK;
}

qs_err qs_artifact_put(qs_artifact *artifact, const char *path, qs_dtype dtype, int rank, const int64_t *dims,
                       const void *data)
{
    qs_err err = qs_artifact_begin(artifact, path, dtype, rank, dims);
    if (err != QS_OK || dims[0] == 0) return err;
    return qs_artifact_append(artifact, path, dims[0], data);
}
