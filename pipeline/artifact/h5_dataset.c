/* Datasets in HDF5 (artifact_impl.h): how they are cut and filtered, and what of another writer is refused. */
#include <string.h>

#include "artifact/artifact_impl.h"
#include "artifact/h5_chunk.h"

/* Below this size data sit in the object header, which has a checksum of its own. */
static const int64_t compact_bytes = 4096;

qs_err qs_dataset_count(const char *path, qs_dataset_info *info)
{
    if (info->rank < 1 || info->rank > QS_ARTIFACT_MAX_RANK)
        return qs_fail(QS_E_INPUT, "dataset %s: rank %d is not in 1 to %d", path, info->rank,
                       QS_ARTIFACT_MAX_RANK);
    int64_t n = 1, bytes;
    for (int i = 0; i < info->rank; i++)
        if (info->dims[i] < 0 || __builtin_mul_overflow(n, info->dims[i], &n))
            return qs_fail(QS_E_INPUT, "dataset %s: extent %lld of dimension %d is out of range", path,
                           (long long)info->dims[i], i);
    if (__builtin_mul_overflow(n, (int64_t)qs_dtype_bytes(info->dtype), &bytes))
        return qs_fail(QS_E_INPUT, "dataset %s: %lld elements are out of range", path, (long long)n);
    info->n = n;
    return QS_OK;
}

/* Whole rows while they fit the target, then parts of a row. Equal shares along the cut dimension leave the
 * least padding in the last chunk. */
static void choose_chunk(hsize_t chunk[QS_ARTIFACT_MAX_RANK], const qs_dataset_info *info)
{
    int64_t budget = QS_CHUNK_BYTES / (int64_t)qs_dtype_bytes(info->dtype);
    for (int i = info->rank - 1; i >= 0; i--) {
        int64_t extent = info->dims[i] > 0 ? info->dims[i] : 1, most = budget > 1 ? budget : 1;
        if (extent > most) {
            int64_t n_chunks = (extent + most - 1) / most;
            extent = (extent + n_chunks - 1) / n_chunks;
            budget = 1;
        } else {
            budget = most / extent;
        }
        chunk[i] = (hsize_t)extent;
    }
}

static hid_t creation_plist(const qs_dataset_info *info)
{
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    if (plist < 0) return plist;
    bool good = H5Pset_obj_track_times(plist, false) >= 0; /* equal inputs, equal bytes */
    size_t elem_bytes = qs_dtype_bytes(info->dtype);
    if (info->n * (int64_t)elem_bytes < compact_bytes) {
        good = good && H5Pset_layout(plist, H5D_COMPACT) >= 0;
    } else {
        hsize_t chunk[QS_ARTIFACT_MAX_RANK];
        choose_chunk(chunk, info);
        hsize_t chunk_bytes = elem_bytes;
        for (int i = 0; i < info->rank; i++) chunk_bytes *= chunk[i];
        const unsigned values[2] = {QS_ZSTD_LEVEL, (unsigned)chunk_bytes};
        good = good && H5Pset_chunk(plist, info->rank, chunk) >= 0;
        if (elem_bytes > 1) good = good && H5Pset_shuffle(plist) >= 0;
        good = good && H5Pset_filter(plist, QS_ZSTD_FILTER_ID, H5Z_FLAG_MANDATORY, 2, values) >= 0 &&
               H5Pset_fletcher32(plist) >= 0;
    }
    if (good) return plist;
    (void)H5Pclose(plist);
    return H5I_INVALID_HID;
}

qs_err qs_dataset_create(const qs_artifact *artifact, const char *path, const qs_dataset_info *info,
                         const char *unit, hid_t *out)
{
    hsize_t dims[QS_ARTIFACT_MAX_RANK];
    for (int i = 0; i < info->rank; i++) dims[i] = (hsize_t)info->dims[i];
    hid_t space = H5Screate_simple(info->rank, dims, NULL), plist = creation_plist(info);
    *out = H5I_INVALID_HID;
    if (space >= 0 && plist >= 0)
        *out = H5Dcreate2(artifact->file, path, artifact->types[info->dtype], space, H5P_DEFAULT, plist,
                          H5P_DEFAULT);
    qs_err err = *out < 0 ? qs_h5_fail(artifact, "create", path) : QS_OK;
    if (plist >= 0) (void)H5Pclose(plist);
    if (space >= 0) (void)H5Sclose(space);
    if (err == QS_OK && unit[0] != '\0') err = qs_h5_write_text(artifact, *out, path, "unit", unit);
    if (err != QS_OK && *out >= 0) {
        (void)H5Dclose(*out);
        *out = H5I_INVALID_HID;
    }
    return err;
}

/* HDF5 trusts filters to return a whole chunk. So only the pipeline of the writer is taken: ours checks the
 * size that is stored beside the level, here that number is held against the chunk's extent, and the others
 * keep it. */
static qs_err check_filters(const qs_artifact *artifact, const char *path, hid_t plist, hsize_t chunk_bytes)
{
    static const H5Z_filter_t order[] = {H5Z_FILTER_SHUFFLE, QS_ZSTD_FILTER_ID, H5Z_FILTER_FLETCHER32};
    const size_t n_order = sizeof order / sizeof *order;
    size_t place = 0;
    for (int i = 0; i < H5Pget_nfilters(plist); i++) {
        unsigned flags, values[8] = {0}, config;
        size_t n_values = sizeof values / sizeof *values;
        char name[64] = "";
        H5Z_filter_t id =
            H5Pget_filter2(plist, (unsigned)i, &flags, &n_values, values, sizeof name, name, &config);
        if (id < 0) return qs_h5_fail(artifact, "open", path);
        if (H5Zfilter_avail(id) <= 0)
            return qs_fail(QS_E_INPUT, "read %s: %s: the filter %d %s is not available here; re-run %s",
                           artifact->path, path, (int)id, name, qs_artifact_kind_stage(artifact->kind));
        while (place < n_order && order[place] != id) place++;
        if (place++ == n_order)
            return qs_artifact_corrupt(artifact, path, "its filters are none of an artifact's");
        if (id == QS_ZSTD_FILTER_ID && (n_values < 2 || values[1] != chunk_bytes))
            return qs_artifact_corrupt(artifact, path, "the filter's chunk size is not the dataset's");
    }
    return QS_OK;
}

static qs_err check_chunks(const qs_artifact *artifact, const char *path, hid_t dataset, hid_t plist,
                           const qs_dataset_info *info)
{
    hsize_t chunk[QS_ARTIFACT_MAX_RANK], n_stored, n_wanted = 1, chunk_bytes = qs_dtype_bytes(info->dtype);
    hid_t space = H5Dget_space(dataset); /* H5S_ALL is refused by 1.10 */
    bool known = space >= 0 && H5Dget_num_chunks(dataset, space, &n_stored) >= 0 &&
                 H5Pget_chunk(plist, info->rank, chunk) == info->rank;
    qs_err err = known ? QS_OK : qs_h5_fail(artifact, "open", path);
    if (space >= 0) (void)H5Sclose(space);
    if (err != QS_OK) return err;
    for (int i = 0; i < info->rank; i++) {
        chunk_bytes *= chunk[i];
        n_wanted *= ((hsize_t)info->dims[i] + chunk[i] - 1) / chunk[i];
    }
    if (n_stored != n_wanted)
        return qs_artifact_corrupt(artifact, path, "a part of the data was never written");
    return check_filters(artifact, path, plist, chunk_bytes);
}

/* HDF5 reads zeros where nothing was written. An artifact has no such places, so a hole is damage (and a file
 * that claims an enormous extent without data is not worth the walk). */
static qs_err check_storage(const qs_artifact *artifact, const char *path, hid_t dataset,
                            const qs_dataset_info *info)
{
    hid_t plist = H5Dget_create_plist(dataset);
    if (plist < 0) return qs_h5_fail(artifact, "open", path);
    qs_err err = QS_OK;
    /* A name that stands in a file is no leave to read what bears it. */
    if (H5Pget_layout(plist) == H5D_VIRTUAL || H5Pget_external_count(plist) != 0)
        err = qs_artifact_corrupt(artifact, path, "its data are in another file");
    else if (H5Pget_layout(plist) == H5D_CHUNKED)
        err = check_chunks(artifact, path, dataset, plist, info);
    else if (H5Dget_storage_size(dataset) != (hsize_t)info->n * qs_dtype_bytes(info->dtype))
        err = qs_artifact_corrupt(artifact, path, "a part of the data was never written");
    (void)H5Pclose(plist);
    return err;
}

static qs_err read_shape(const qs_artifact *artifact, const char *path, hid_t dataset, qs_dataset_info *info)
{
    hid_t type = H5Dget_type(dataset), space = H5Dget_space(dataset);
    hsize_t dims[H5S_MAX_RANK];
    qs_err err = QS_OK;
    *info = (qs_dataset_info){0};
    if (type < 0 || space < 0 || H5Sget_simple_extent_dims(space, dims, NULL) < 0) {
        err = qs_h5_fail(artifact, "open", path);
    } else {
        info->rank = H5Sget_simple_extent_ndims(space);
        info->dtype = qs_h5_dtype(artifact, type);
        if (info->dtype == QS_N_DTYPES || info->rank < 1 || info->rank > QS_ARTIFACT_MAX_RANK)
            err =
                qs_artifact_corrupt(artifact, path, "the element type or the rank is none of an artifact's");
        for (int i = 0; err == QS_OK && i < info->rank; i++) info->dims[i] = (int64_t)dims[i];
        if (err == QS_OK) err = qs_context(qs_dataset_count(path, info), "read %s", artifact->path);
    }
    if (space >= 0) (void)H5Sclose(space);
    if (type >= 0) (void)H5Tclose(type);
    return err;
}

qs_err qs_dataset_open(const qs_artifact *artifact, const char *path, hid_t *out, qs_dataset_info *info)
{
    *out = H5I_INVALID_HID;
    int there = qs_h5_exists(artifact->file, path);
    if (there < 0) return qs_h5_fail(artifact, "open", path);
    if (there == 0) return qs_artifact_corrupt(artifact, path, "the dataset is missing");
    *out = H5Dopen2(artifact->file, path, H5P_DEFAULT);
    if (*out < 0) return qs_h5_fail(artifact, "open", path);
    qs_err err = read_shape(artifact, path, *out, info);
    if (err == QS_OK) err = check_storage(artifact, path, *out, info);
    if (err != QS_OK) {
        (void)H5Dclose(*out);
        *out = H5I_INVALID_HID;
    }
    return err;
}

/* The file space of some rows, and a memory space of the same shape. */
static bool select_rows(hid_t dataset, const qs_dataset_info *info, int64_t first, int64_t n_rows,
                        hid_t *file_space, hid_t *memory_space)
{
    hsize_t start[QS_ARTIFACT_MAX_RANK] = {(hsize_t)first}, count[QS_ARTIFACT_MAX_RANK];
    for (int i = 0; i < info->rank; i++) count[i] = (hsize_t)info->dims[i];
    count[0] = (hsize_t)n_rows;
    *memory_space = H5Screate_simple(info->rank, count, NULL);
    *file_space = H5Dget_space(dataset);
    return *memory_space >= 0 && *file_space >= 0 &&
           H5Sselect_hyperslab(*file_space, H5S_SELECT_SET, start, NULL, count, NULL) >= 0;
}

qs_err qs_dataset_write(const qs_artifact *artifact, const char *path, hid_t dataset,
                        const qs_dataset_info *info, int64_t first, int64_t n_rows, const void *src)
{
    if (n_rows == 0 || info->n == 0) return QS_OK;
    hid_t file_space, memory_space;
    qs_err err;
    if (qs_chunks_write(artifact, path, dataset, info, first, n_rows, src, &err)) return err;
    if (!select_rows(dataset, info, first, n_rows, &file_space, &memory_space) ||
        H5Dwrite(dataset, artifact->types[info->dtype], memory_space, file_space, H5P_DEFAULT, src) < 0)
        err = qs_h5_fail(artifact, "write", path);
    if (file_space >= 0) (void)H5Sclose(file_space);
    if (memory_space >= 0) (void)H5Sclose(memory_space);
    return err;
}

qs_err qs_dataset_read(const qs_artifact *artifact, const char *path, hid_t dataset,
                       const qs_dataset_info *info, int64_t first, int64_t n_rows, void *dst)
{
    if (n_rows == 0 || info->n == 0) return QS_OK;
    if (qs_chunks_read(dataset, info, first, n_rows, dst)) return QS_OK;
    hid_t file_space, memory_space;
    qs_err err = QS_OK;
    if (!select_rows(dataset, info, first, n_rows, &file_space, &memory_space) ||
        H5Dread(dataset, artifact->types[info->dtype], memory_space, file_space, H5P_DEFAULT, dst) < 0)
        err = qs_h5_fail(artifact, "read", path);
    if (file_space >= 0) (void)H5Sclose(file_space);
    if (memory_space >= 0) (void)H5Sclose(memory_space);
    return err;
}
