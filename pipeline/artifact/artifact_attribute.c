#include <string.h>

#include "artifact/artifact_impl.h"

/* An attribute may be put before its group exists, but not before its dataset. */
static qs_err open_owner(const qs_artifact *artifact, const char *path, const char *object, const char *name,
                         hid_t *out)
{
    const qs_schema_row *row = qs_schema_find(artifact->kind, object);
    if (row != NULL && qs_h5_exists(artifact->file, object) == 0)
        return qs_fail(QS_E_INPUT, "write %s: put the dataset before its attributes", path);
    qs_err err = qs_writer_ensure_groups(artifact, object, object[1] == '\0' ? 0 : strlen(object));
    if (err != QS_OK) return err;
    *out = H5Oopen(artifact->file, object, H5P_DEFAULT);
    if (*out < 0) return qs_h5_fail(artifact, "open", object);
    htri_t there = H5Aexists(*out, name);
    if (there == 0) return QS_OK;
    err = there < 0 ? qs_h5_fail(artifact, "look up", path)
                    : qs_fail(QS_E_INPUT, "write %s: it was put before", path);
    (void)H5Oclose(*out);
    return err;
}

/* `type` < 0 stands for a text. */
static qs_err put_attribute(qs_artifact *artifact, const char *path, const char *type_name, hid_t type,
                            const void *value, size_t bytes)
{
    char object[QS_SCHEMA_PATH_BYTES];
    const char *name = NULL;
    if (!qs_h5_split(path, object, &name))
        return qs_fail(QS_E_INPUT, "write %s: not the path of an attribute", path);
    hid_t owner = H5I_INVALID_HID;
    qs_err err = open_owner(artifact, path, object, name, &owner);
    if (err != QS_OK) return err;
    err = type < 0 ? qs_h5_write_text(artifact, owner, path, name, value)
                   : qs_h5_write_attribute(artifact, owner, path, name, type, value);
    if (H5Oclose(owner) < 0 && err == QS_OK) err = qs_h5_fail(artifact, "close", object);
    /* The root's own attributes are the seal; the manifest is what they seal. */
    if (err == QS_OK && object[1] != '\0')
        err = qs_manifest_add(&artifact->manifest, path, type_name, 0, NULL, qs_hash(value, bytes));
    return err;
}

static qs_err check_attribute(const qs_artifact *artifact, const char *path, qs_cell cell)
{
    const qs_schema_row *row;
    qs_err err = qs_writer_check(artifact, path, cell, &row);
    if (err != QS_OK) return err;
    if (strncmp(path, "/@", 2) == 0 || strncmp(path, "/parents/", 9) == 0)
        return qs_fail(QS_E_INPUT, "write %s: the seal writes it", path);
    return QS_OK;
}

qs_err qs_artifact_put_int(qs_artifact *artifact, const char *path, int64_t value)
{
    qs_err err = check_attribute(artifact, path, QS_CELL_INT);
    if (err != QS_OK) return err;
    return put_attribute(artifact, path, "int", artifact->types[QS_I64], &value, sizeof value);
}

qs_err qs_artifact_put_real(qs_artifact *artifact, const char *path, double value)
{
    qs_err err = check_attribute(artifact, path, QS_CELL_REAL);
    if (err != QS_OK) return err;
    if (!qs_schema_find(artifact->kind, path)->nan_ok && qs_find_nonfinite_any(QS_F64, &value, 1) == 0)
        return qs_fail(QS_E_NUMERIC, "write %s: the value is NaN or infinite", path);
    return put_attribute(artifact, path, "real", artifact->types[QS_F64], &value, sizeof value);
}

qs_err qs_writer_put_text(qs_artifact *artifact, const char *path, const char *value)
{
    size_t bytes = strlen(value);
    if (bytes >= QS_TEXT_LIMIT_BYTES)
        return qs_fail(QS_E_INPUT, "write %s: %zu bytes of text are over the limit of %d", path, bytes,
                       QS_TEXT_LIMIT_BYTES - 1);
    return put_attribute(artifact, path, "text", H5I_INVALID_HID, value, bytes);
}

qs_err qs_artifact_put_text(qs_artifact *artifact, const char *path, const char *value)
{
    qs_err err = check_attribute(artifact, path, QS_CELL_TEXT);
    return err != QS_OK ? err : qs_writer_put_text(artifact, path, value);
}
