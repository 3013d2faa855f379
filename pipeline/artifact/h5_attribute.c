/* Attributes in HDF5 (artifact_impl.h). */
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact_impl.h"
#include "base/mem.h"

hid_t qs_h5_text_type(size_t bytes)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    /* Fixed length: variable-length strings live in the global heap, which has no checksum. */
    if (type >= 0 && H5Tset_size(type, bytes > 0 ? bytes : 1) >= 0 &&
        H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
        return type;
    if (type >= 0) (void)H5Tclose(type);
    return H5I_INVALID_HID;
}

qs_err qs_h5_write_attribute(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                             hid_t type, const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5I_INVALID_HID;
    if (space >= 0) attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    qs_err err = QS_OK;
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0) err = qs_h5_fail(artifact, "write", path);
    if (attribute >= 0 && H5Aclose(attribute) < 0 && err == QS_OK) err = qs_h5_fail(artifact, "write", path);
    if (space >= 0) (void)H5Sclose(space);
    return err;
}

qs_err qs_h5_write_text(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                        const char *value)
{
    hid_t type = qs_h5_text_type(strlen(value));
    if (type < 0) return qs_h5_fail(artifact, "write", path);
    qs_err err = qs_h5_write_attribute(artifact, object, path, name, type, value);
    (void)H5Tclose(type);
    return err;
}

/* Opens a scalar attribute and gives its type; both to be closed by the caller on success. */
static qs_err open_scalar(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                          hid_t *attribute, hid_t *type)
{
    htri_t there = H5Aexists(object, name);
    if (there == 0) return qs_artifact_corrupt(artifact, path, "the attribute is missing");
    if (there < 0) return qs_h5_fail(artifact, "read", path);
    *attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (*attribute < 0) return qs_h5_fail(artifact, "read", path);
    qs_err err = QS_OK;
    *type = H5Aget_type(*attribute);
    hid_t space = H5Aget_space(*attribute);
    if (*type < 0 || space < 0)
        err = qs_h5_fail(artifact, "read", path);
    else if (H5Sget_simple_extent_type(space) != H5S_SCALAR)
        err = qs_artifact_corrupt(artifact, path, "the attribute is not a scalar");
    if (space >= 0) (void)H5Sclose(space);
    if (err != QS_OK) {
        if (*type >= 0) (void)H5Tclose(*type);
        (void)H5Aclose(*attribute);
    }
    return err;
}

qs_err qs_h5_read_attribute(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                            qs_dtype dtype, void *value)
{
    hid_t attribute, type;
    qs_err err = open_scalar(artifact, object, path, name, &attribute, &type);
    if (err != QS_OK) return err;
    if (H5Tequal(type, artifact->types[dtype]) <= 0)
        err = qs_artifact_corrupt(artifact, path, dtype == QS_I64 ? "not an integer" : "not a real number");
    else if (H5Aread(attribute, type, value) < 0)
        err = qs_h5_fail(artifact, "read", path);
    (void)H5Tclose(type);
    (void)H5Aclose(attribute);
    return err;
}

qs_err qs_h5_read_text(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                       char *text, size_t bytes)
{
    hid_t attribute, type;
    qs_err err = open_scalar(artifact, object, path, name, &attribute, &type);
    if (err != QS_OK) return err;
    char *stored = NULL;
    size_t stored_bytes = H5Tget_size(type);
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || stored_bytes == 0 ||
        stored_bytes > QS_TEXT_LIMIT_BYTES) {
        err = qs_artifact_corrupt(artifact, path, "not a text of fixed length");
        goto out;
    }
    QS_TRY(qs_mem_alloc((void *)&stored, stored_bytes + 1, path)); /* zeroed, so the text ends */
    if (H5Aread(attribute, type, stored) < 0) {
        err = qs_h5_fail(artifact, "read", path);
        goto out;
    }
    size_t length = strlen(stored);
    if (length >= bytes)
        err = qs_fail(QS_E_INPUT, "read %s: %s: a text of %zu bytes does not fit in %zu", artifact->path,
                      path, length, bytes);
    else
        memcpy(text, stored, length + 1);
out:
    qs_mem_free(stored);
    (void)H5Tclose(type);
    (void)H5Aclose(attribute);
    return err;
}

qs_err qs_h5_read_digest(const qs_artifact *artifact, hid_t object, const char *path, const char *name,
                         qs_digest *digest)
{
    char text[2 * QS_DIGEST_TEXT_BYTES]; /* room to see that it is too long */
    qs_err err = qs_h5_read_text(artifact, object, path, name, text, sizeof text);
    if (err != QS_OK) return err;
    return qs_digest_parse(digest, text) ? QS_OK
                                         : qs_artifact_corrupt(artifact, path, "not a digest of 32 hex digits");
}
