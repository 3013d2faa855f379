/* Reading artifacts (artifact.h): what is not sealed, whole and of the kind and schema asked for is refused. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "artifact/artifact_impl.h"
#include "base/mem.h"

/* ---- opening ---- */

/* What HDF5 would report in its own words, or not at all. */
static qs_err check_file(const qs_artifact *artifact)
{
    const char *path = artifact->path, *stage = qs_artifact_kind_stage(artifact->kind);
    struct stat info;
    if (stat(path, &info) != 0)
        return qs_fail(QS_E_INPUT, "open %s: %s; run %s", path, strerror(errno), stage);
    if (S_ISDIR(info.st_mode))
        return qs_fail(QS_E_INPUT, "open %s: a directory, not a file; run %s", path, stage);
    if (!S_ISREG(info.st_mode))
        return qs_fail(QS_E_INPUT, "open %s: not a regular file; run %s", path, stage);
    if (info.st_size == 0) return qs_fail(QS_E_INPUT, "open %s: the file is empty; re-run %s", path, stage);
    htri_t hdf5 = H5Fis_hdf5(path);
    if (hdf5 > 0) return QS_OK;
    char cause[QS_CAUSE_BYTES];
    return qs_fail(QS_E_INPUT, "open %s: %s; re-run %s", path,
                   hdf5 == 0 ? "not an HDF5 file" : qs_h5_cause(cause), stage);
}

static qs_err find_kind(const char *name, qs_artifact_kind *kind)
{
    for (int i = 0; i < QS_N_KINDS; i++) {
        if (strcmp(name, qs_artifact_kind_name((qs_artifact_kind)i)) != 0) continue;
        *kind = (qs_artifact_kind)i;
        return QS_OK;
    }
    return QS_E_INPUT;
}

/* Kind, seal, schema version and digest of the root. `any_kind`: take the kind from the file. */
static qs_err check_seal(qs_artifact *artifact, bool any_kind)
{
    const char *path = artifact->path;
    qs_artifact_kind found = artifact->kind;
    int64_t complete = 0;
    char name[32];
    qs_err err;
    hid_t root = H5Gopen2(artifact->file, "/", H5P_DEFAULT);
    if (root < 0) return qs_h5_fail(artifact, "open", "the root");
    if (H5Aexists(root, "kind") == 0) {
        err = qs_fail(QS_E_INPUT, "open %s: HDF5, but no sealed artifact; re-run %s", path,
                      qs_artifact_kind_stage(artifact->kind));
        goto out;
    }
    QS_TRY(qs_h5_read_text(artifact, root, "/@kind", "kind", name, sizeof name));
    if (find_kind(name, &found) != QS_OK || (!any_kind && found != artifact->kind)) {
        err = qs_fail(QS_E_INPUT, "open %s: its kind is \"%s\", wanted is \"%s\"; give a file that %s wrote",
                      path, name, qs_artifact_kind_name(artifact->kind),
                      qs_artifact_kind_stage(artifact->kind));
        goto out;
    }
    artifact->kind = found;
    QS_TRY(qs_h5_read_attribute(artifact, root, "/@schema_version", "schema_version", QS_I64,
                                &artifact->schema_version));
    if (artifact->schema_version < 1 || artifact->schema_version > QS_SCHEMA_VERSION) {
        err = qs_fail(QS_E_INPUT, "open %s: schema version %lld, this program knows 1 to %d; re-run %s", path,
                      (long long)artifact->schema_version, QS_SCHEMA_VERSION, qs_artifact_kind_stage(found));
        goto out;
    }
    if (H5Aexists(root, "complete") > 0)
        QS_TRY(qs_h5_read_attribute(artifact, root, "/@complete", "complete", QS_I64, &complete));
    if (complete != 1) {
        err = qs_fail(QS_E_INPUT, "open %s: not sealed, its writer did not finish; re-run %s", path,
                      qs_artifact_kind_stage(found));
        goto out;
    }
    QS_TRY(qs_h5_read_digest(artifact, root, "/@digest", "digest", &artifact->digest));
out:
    (void)H5Gclose(root);
    return err;
}

qs_err qs_reader_open(qs_artifact **out, const char *path, qs_artifact_kind kind, bool any_kind)
{
    *out = NULL;
    qs_artifact *artifact;
    qs_err err = QS_NEW(artifact, 1, "artifact");
    if (err != QS_OK) return err;
    artifact->file = H5I_INVALID_HID;
    artifact->part.fd = -1;
    artifact->kind = kind;
    QS_TRY(qs_path_format(artifact->path, "%s", path));
    QS_TRY(qs_h5_open_types(artifact));
    QS_TRY(check_file(artifact));
    hid_t access = qs_h5_access_plist();
    if (access >= 0) artifact->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    if (artifact->file < 0) err = qs_h5_fail(artifact, "open", "the file");
    if (access >= 0) (void)H5Pclose(access);
    if (err != QS_OK) goto out;
    QS_TRY(check_seal(artifact, any_kind));
    *out = artifact;
    artifact = NULL;
out:
    qs_artifact_close(artifact);
    return err;
}

qs_err qs_artifact_open(qs_artifact **out, const char *path, qs_artifact_kind kind)
{
    return qs_reader_open(out, path, kind, false);
}

void qs_artifact_close(qs_artifact *artifact) { qs_artifact_abort(artifact); }

qs_err qs_artifact_probe(const char *path, qs_artifact_kind *kind, qs_digest *digest)
{
    qs_artifact *artifact;
    qs_err err = qs_reader_open(&artifact, path, QS_KIND_CALIB, true);
    if (err != QS_OK) return err;
    if (kind != NULL) *kind = artifact->kind;
    if (digest != NULL) *digest = artifact->digest;
    qs_artifact_close(artifact);
    return QS_OK;
}

qs_artifact_kind qs_artifact_get_kind(const qs_artifact *artifact) { return artifact->kind; }

qs_digest qs_artifact_digest(const qs_artifact *artifact) { return artifact->digest; }

/* ---- datasets ---- */

/* Where damage hides the answer it is yes, so that reading says what is wrong: what is optional must not seem
 * absent. */
bool qs_artifact_has(const qs_artifact *artifact, const char *path)
{
    char object[QS_SCHEMA_PATH_BYTES];
    const char *name;
    qs_h5_quiet();
    if (!qs_h5_split(path, object, &name)) return qs_h5_exists(artifact->file, path) != 0;
    int there = qs_h5_exists(artifact->file, object);
    return there < 0 || (there > 0 && H5Aexists_by_name(artifact->file, object, name, H5P_DEFAULT) != 0);
}

qs_err qs_artifact_info(const qs_artifact *artifact, const char *path, qs_dataset_info *info)
{
    qs_h5_quiet();
    hid_t dataset;
    qs_err err = qs_dataset_open(artifact, path, &dataset, info);
    if (err == QS_OK) (void)H5Dclose(dataset);
    return err;
}

static qs_err open_as(const qs_artifact *artifact, const char *path, qs_dtype dtype, hid_t *dataset,
                      qs_dataset_info *info)
{
    qs_h5_quiet();
    qs_err err = qs_dataset_open(artifact, path, dataset, info);
    if (err != QS_OK || info->dtype == dtype) return err;
    (void)H5Dclose(*dataset);
    return qs_fail(QS_E_INPUT, "read %s: %s holds %s, wanted is %s; re-run %s", artifact->path, path,
                   qs_dtype_name(info->dtype), qs_dtype_name(dtype), qs_artifact_kind_stage(artifact->kind));
}

/* A whole read hashes what it got: next to reading and decompressing, that costs nothing. */
static qs_err check_digest(const qs_artifact *artifact, const char *path, hid_t dataset, const void *data,
                           size_t bytes)
{
    qs_digest stored, found = qs_hash(data, bytes);
    qs_err err = qs_h5_read_digest(artifact, dataset, path, "digest", &stored);
    if (err == QS_OK && (stored.low != found.low || stored.high != found.high))
        err = qs_artifact_corrupt(artifact, path, "the data do not have the stored digest");
    return err;
}

qs_err qs_artifact_read(const qs_artifact *artifact, const char *path, qs_dtype dtype, void *dst, int64_t n)
{
    hid_t dataset;
    qs_dataset_info info;
    qs_err err = open_as(artifact, path, dtype, &dataset, &info);
    if (err != QS_OK) return err;
    if (info.n != n) {
        err = qs_fail(QS_E_INPUT, "read %s: %s has %lld elements, wanted are %lld; re-run %s", artifact->path,
                      path, (long long)info.n, (long long)n, qs_artifact_kind_stage(artifact->kind));
        goto out;
    }
    QS_TRY(qs_dataset_read(artifact, path, dataset, &info, 0, info.dims[0], dst));
    QS_TRY(check_digest(artifact, path, dataset, dst, (size_t)n * qs_dtype_bytes(dtype)));
out:
    (void)H5Dclose(dataset);
    return err;
}

qs_err qs_artifact_read_rows(const qs_artifact *artifact, const char *path, qs_dtype dtype, int64_t first,
                             int64_t n_rows, void *dst)
{
    hid_t dataset;
    qs_dataset_info info;
    qs_err err = open_as(artifact, path, dtype, &dataset, &info);
    if (err != QS_OK) return err;
    if (first < 0 || n_rows < 0 || n_rows > info.dims[0] || first > info.dims[0] - n_rows)
        err = qs_fail(QS_E_INPUT, "read %s: %lld rows from %lld on are not in the %lld of %s", artifact->path,
                      (long long)n_rows, (long long)first, (long long)info.dims[0], path);
    else
        err = qs_dataset_read(artifact, path, dataset, &info, first, n_rows, dst);
    (void)H5Dclose(dataset);
    return err;
}

/* ---- attributes ---- */

static qs_err open_owner(const qs_artifact *artifact, const char *path, hid_t *owner, const char **name)
{
    char object[QS_SCHEMA_PATH_BYTES];
    qs_h5_quiet();
    if (!qs_h5_split(path, object, name))
        return qs_fail(QS_E_INPUT, "read %s: %s is not the path of an attribute", artifact->path, path);
    if (qs_h5_exists(artifact->file, object) <= 0)
        return qs_artifact_corrupt(artifact, path, "the attribute is missing");
    *owner = H5Oopen(artifact->file, object, H5P_DEFAULT);
    return *owner < 0 ? qs_h5_fail(artifact, "open", path) : QS_OK;
}

static qs_err get_number(const qs_artifact *artifact, const char *path, qs_dtype dtype, void *value)
{
    hid_t owner = H5I_INVALID_HID;
    const char *name;
    qs_err err = open_owner(artifact, path, &owner, &name);
    if (err != QS_OK) return err;
    err = qs_h5_read_attribute(artifact, owner, path, name, dtype, value);
    (void)H5Oclose(owner);
    return err;
}

qs_err qs_artifact_get_int(const qs_artifact *artifact, const char *path, int64_t *value)
{
    return get_number(artifact, path, QS_I64, value);
}

qs_err qs_artifact_get_real(const qs_artifact *artifact, const char *path, double *value)
{
    return get_number(artifact, path, QS_F64, value);
}

qs_err qs_artifact_get_text(const qs_artifact *artifact, const char *path, char *text, size_t bytes)
{
    hid_t owner = H5I_INVALID_HID;
    const char *name;
    qs_err err = open_owner(artifact, path, &owner, &name);
    if (err != QS_OK) return err;
    err = qs_h5_read_text(artifact, owner, path, name, text, bytes);
    (void)H5Oclose(owner);
    return err;
}

qs_err qs_artifact_get_parent(const qs_artifact *artifact, const char *role, qs_digest *digest)
{
    char path[QS_PATH_BYTES];
    const char *name;
    hid_t owner = H5I_INVALID_HID;
    qs_err err = qs_path_format(path, "/parents/@%s", role);
    if (err == QS_OK) err = open_owner(artifact, path, &owner, &name);
    if (err != QS_OK) return err;
    err = qs_h5_read_digest(artifact, owner, path, name, digest);
    (void)H5Oclose(owner);
    return err;
}

/* ---- names ---- */

typedef struct name_list {
    char **names;
    int64_t n, capacity;
    bool out_of_memory;
} name_list;

static herr_t keep_name(hid_t group, const char *name, const H5L_info_t *link, void *context)
{
    (void)group;
    name_list *list = context;
    if (link->type != H5L_TYPE_HARD) return 0;
    if (list->n == list->capacity) {
        int64_t capacity = list->capacity == 0 ? 16 : 2 * list->capacity;
        char **grown = realloc(list->names, (size_t)capacity * sizeof *grown);
        list->out_of_memory = grown == NULL;
        if (grown == NULL) return -1;
        list->names = grown;
        list->capacity = capacity;
    }
    list->names[list->n] = strdup(name);
    list->out_of_memory = list->names[list->n] == NULL;
    if (list->out_of_memory) return -1;
    list->n++;
    return 0;
}

qs_err qs_artifact_list(const qs_artifact *artifact, const char *group, char ***names, int64_t *n)
{
    *names = NULL;
    *n = 0;
    qs_h5_quiet();
    if (qs_h5_exists(artifact->file, group) <= 0)
        return qs_artifact_corrupt(artifact, group, "the group is missing");
    hid_t id = H5Gopen2(artifact->file, group, H5P_DEFAULT);
    if (id < 0) return qs_h5_fail(artifact, "list", group);
    name_list list = {0};
    qs_err err = QS_OK;
    if (H5Literate(id, H5_INDEX_NAME, H5_ITER_INC, NULL, keep_name, &list) < 0)
        err = list.out_of_memory
                  ? qs_fail(QS_E_RESOURCE, "list %s of %s: out of memory", group, artifact->path)
                  : qs_h5_fail(artifact, "list", group);
    (void)H5Gclose(id);
    if (err != QS_OK) {
        qs_dir_list_free(list.names, list.n);
        return err;
    }
    *names = list.names;
    *n = list.n;
    return QS_OK;
}
