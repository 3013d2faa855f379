/* qs_artifact_verify (artifact.h): the content digest made anew from all that the file holds. */
#include <string.h>

#include "artifact/artifact_impl.h"
#include "base/mem.h"

/* One walk over the file: every dataset is read and hashed, every attribute too. */
typedef struct walk {
    qs_artifact *artifact;
    qs_manifest manifest;
    const char *object; /* the one whose attributes are being walked */
    bool is_dataset;
    qs_err err; /* HDF5 passes on no codes */
} walk;

/* Slabs of whole chunks, some MiB each, or one row where a row is more. */
static int64_t slab_rows(hid_t dataset, const qs_dataset_info *info)
{
    const int64_t target_bytes = (int64_t)8 << 20;
    int64_t row_bytes = info->n / info->dims[0] * (int64_t)qs_dtype_bytes(info->dtype), step = 1;
    hid_t plist = H5Dget_create_plist(dataset);
    hsize_t chunk[QS_ARTIFACT_MAX_RANK];
    if (plist >= 0 && H5Pget_layout(plist) == H5D_CHUNKED &&
        H5Pget_chunk(plist, info->rank, chunk) == info->rank)
        step = (int64_t)chunk[0];
    if (plist >= 0) (void)H5Pclose(plist);
    int64_t n_steps = target_bytes / (row_bytes * step);
    int64_t rows = step * (n_steps > 1 ? n_steps : 1);
    return rows < info->dims[0] ? rows : info->dims[0];
}

static qs_err hash_dataset(walk *w, const char *path, hid_t dataset, const qs_dataset_info *info,
                           qs_digest *out)
{
    if (info->n == 0) {
        *out = qs_hash("", 0);
        return QS_OK;
    }
    char *slab = NULL;
    qs_hasher *hasher = NULL;
    int64_t rows = slab_rows(dataset, info);
    size_t row_bytes = (size_t)(info->n / info->dims[0]) * qs_dtype_bytes(info->dtype);
    qs_err err;
    QS_TRY(qs_mem_array((void *)&slab, rows, row_bytes, path));
    QS_TRY(qs_hasher_create(&hasher));
    for (int64_t first = 0; first < info->dims[0]; first += rows) {
        int64_t n = first + rows < info->dims[0] ? rows : info->dims[0] - first;
        QS_TRY(qs_dataset_read(w->artifact, path, dataset, info, first, n, slab));
        qs_hasher_add(hasher, slab, (size_t)n * row_bytes);
    }
out:
    if (hasher != NULL) {
        qs_digest digest = qs_hasher_finish(hasher);
        if (err == QS_OK) *out = digest;
    }
    qs_mem_free(slab);
    return err;
}

static qs_err walk_dataset(walk *w, const char *path)
{
    hid_t dataset;
    qs_dataset_info info;
    qs_digest stored, found;
    qs_err err = qs_dataset_open(w->artifact, path, &dataset, &info);
    if (err != QS_OK) return err;
    QS_TRY(hash_dataset(w, path, dataset, &info, &found));
    QS_TRY(qs_h5_read_digest(w->artifact, dataset, path, "digest", &stored));
    if (stored.low != found.low || stored.high != found.high) {
        err = qs_artifact_corrupt(w->artifact, path, "the data do not have the stored digest");
        goto out;
    }
    QS_TRY(qs_manifest_add(&w->manifest, path, qs_dtype_name(info.dtype), info.rank, info.dims, found));
out:
    (void)H5Dclose(dataset);
    return err;
}

/* Attributes that the writer keeps out of the manifest: the seal itself, and what says more about a
 * dataset. */
static bool is_reserved(const walk *w, const char *name)
{
    static const char *const of_root[] = {"kind", "schema_version", "digest", "complete", NULL};
    static const char *const of_dataset[] = {"digest", "unit", NULL};
    const char *const *names = w->object[1] == '\0' ? of_root : w->is_dataset ? of_dataset : of_root + 4;
    while (*names != NULL && strcmp(*names, name) != 0) names++;
    return *names != NULL;
}

static qs_err add_attribute(walk *w, hid_t object, const char *path, const char *name)
{
    qs_artifact *artifact = w->artifact;
    union {
        int64_t integer;
        double real;
    } value;
    char *text = NULL;
    qs_err err = QS_OK;
    hid_t attribute = H5Aopen(object, name, H5P_DEFAULT),
          type = attribute < 0 ? attribute : H5Aget_type(attribute);
    if (type < 0) {
        err = qs_h5_fail(artifact, "read", path);
    } else if (H5Tget_class(type) == H5T_STRING) {
        QS_TRY(qs_mem_alloc((void *)&text, QS_TEXT_LIMIT_BYTES + 1, path));
        QS_TRY(qs_h5_read_text(artifact, object, path, name, text, QS_TEXT_LIMIT_BYTES + 1));
        err = qs_manifest_add(&w->manifest, path, "text", 0, NULL, qs_hash(text, strlen(text)));
    } else {
        qs_dtype dtype = H5Tget_class(type) == H5T_INTEGER ? QS_I64 : QS_F64;
        QS_TRY(qs_h5_read_attribute(artifact, object, path, name, dtype, &value));
        err = qs_manifest_add(&w->manifest, path, dtype == QS_I64 ? "int" : "real", 0, NULL,
                              qs_hash(&value, sizeof value));
    }
out:
    qs_mem_free(text);
    if (type >= 0) (void)H5Tclose(type);
    if (attribute >= 0) (void)H5Aclose(attribute);
    return err;
}

static herr_t visit_attribute(hid_t object, const char *name, const H5A_info_t *info, void *context)
{
    (void)info;
    walk *w = context;
    char path[QS_PATH_BYTES];
    if (is_reserved(w, name)) return 0;
    w->err = qs_path_format(path, "%s/@%s", w->object[1] == '\0' ? "" : w->object, name);
    if (w->err == QS_OK) w->err = add_attribute(w, object, path, name);
    return w->err == QS_OK ? 0 : -1;
}

static herr_t visit_object(hid_t root, const char *name, const H5O_info_t *info, void *context)
{
    walk *w = context;
    char path[QS_PATH_BYTES];
    bool is_root = strcmp(name, ".") == 0;
    w->err = qs_path_format(path, "/%s", is_root ? "" : name);
    if (w->err != QS_OK) return -1;
    /* Each object is visited under one of its names only, so a second name would go unseen. */
    if (info->rc > 1 || (info->type != H5O_TYPE_GROUP && info->type != H5O_TYPE_DATASET)) {
        w->err = qs_artifact_corrupt(w->artifact, path, "an object that no artifact has");
        return -1;
    }
    w->object = path;
    w->is_dataset = info->type == H5O_TYPE_DATASET;
    if (w->is_dataset) w->err = walk_dataset(w, path);
    if (w->err != QS_OK) return -1;
    hid_t object = H5Oopen(root, name, H5P_DEFAULT);
    herr_t walked =
        object < 0 ? -1 : H5Aiterate2(object, H5_INDEX_NAME, H5_ITER_INC, NULL, visit_attribute, w);
    if (walked < 0 && w->err == QS_OK) w->err = qs_h5_fail(w->artifact, "read", path);
    if (object >= 0) (void)H5Oclose(object);
    return walked;
}

qs_err qs_artifact_verify(const char *path)
{
    walk w = {0};
    qs_digest found;
    qs_err err = qs_reader_open(&w.artifact, path, QS_KIND_CALIB, true);
    if (err != QS_OK) return err;
    if (H5Ovisit(w.artifact->file, H5_INDEX_NAME, H5_ITER_INC, visit_object, &w) < 0)
        err = w.err != QS_OK ? w.err : qs_h5_fail(w.artifact, "walk", "the file");
    if (err != QS_OK) goto out;
    QS_TRY(qs_manifest_digest(&w.manifest, w.artifact->kind, w.artifact->schema_version, &found));
    if (found.low != w.artifact->digest.low || found.high != w.artifact->digest.high)
        err = qs_artifact_corrupt(w.artifact, "/@digest", "the content does not have the sealed digest");
out:
    qs_manifest_free(&w.manifest);
    qs_artifact_close(w.artifact);
    return err;
}
