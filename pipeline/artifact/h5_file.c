/* HDF5's errors in our words, its element types and how its files are opened (artifact_impl.h). */
#include <stdlib.h>
#include <string.h>

#include "artifact/artifact_impl.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "files are little-endian, and so is memory");

void qs_h5_quiet(void)
{
    /* A file that could not be closed, on a full disk, makes HDF5 1.10.8 crash when it tidies up at exit. Ours are all
     * closed by then. */
    (void)H5dont_atexit();
    (void)H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* HDF5 1.10.8 crashes where it is refused memory for a file's cache: it must not come to that. Nothing is touched. */
static qs_err check_memory(const char *path)
{
    const size_t file_bytes = (size_t)16 << 20;
    void *room = malloc(file_bytes);
    if (room == NULL) return qs_fail(QS_E_RESOURCE, "open %s: out of memory", path);
    /* The compiler may not leave out a block that has a use. */
    *(volatile char *)room = 0;
    free(room);
    return QS_OK;
}

static herr_t keep_cause(unsigned n, const H5E_error2_t *frame, void *context)
{
    char *text = context;
    if (n > 0) return 0;
    const char *refusal = frame->maj_num == H5E_PLINE ? qs_zstd_refusal() : NULL;
    if (refusal != NULL)
        (void)snprintf(text, QS_CAUSE_BYTES, "zstd: %s", refusal);
    else if (frame->desc != NULL)
        (void)snprintf(text, QS_CAUSE_BYTES, "%s", frame->desc);
    return 0;
}

/* The file driver reports everything it knows ("file write failed: time = ..., errno = 28, error message =
 * 'No space left on device', buf = ..."); the system's own words are enough. */
static void keep_system_message(char *text)
{
    static const char mark[] = "error message = '";
    char *start = strstr(text, mark), *end = start != NULL ? strchr(start + strlen(mark), '\'') : NULL;
    if (end == NULL) return;
    start += strlen(mark);
    size_t bytes = (size_t)(end - start);
    memmove(text, start, bytes);
    text[bytes] = '\0';
}

char *qs_h5_cause(char text[QS_CAUSE_BYTES])
{
    text[0] = '\0';
    (void)H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_cause, text);
    keep_system_message(text);
    for (char *c = text; *c != '\0'; c++)
        if (*c == '\n' || *c == '\r' || *c == '\t') *c = ' ';
    if (text[0] == '\0') (void)snprintf(text, QS_CAUSE_BYTES, "HDF5 gave no reason");
    return text;
}

qs_err qs_artifact_corrupt(const qs_artifact *artifact, const char *object, const char *cause)
{
    return qs_fail(QS_E_INPUT, "read %s: %s: %s; re-run %s", artifact->path, object, cause,
                   qs_artifact_kind_stage(artifact->kind));
}

qs_err qs_h5_fail(const qs_artifact *artifact, const char *verb, const char *object)
{
    char cause[QS_CAUSE_BYTES];
    (void)qs_h5_cause(cause);
    if (artifact->writing)
        return qs_fail(QS_E_RESOURCE, "%s %s of %s: %s", verb, object, artifact->path, cause);
    return qs_artifact_corrupt(artifact, object, cause);
}

/* IEEE binary16 and bfloat16. The order of the calls matters: the fields must fit the size at every step. */
static hid_t half_type(size_t exponent_bits, size_t mantissa_bits, size_t bias)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (type >= 0 && H5Tset_fields(type, 15, mantissa_bits, exponent_bits, 0, mantissa_bits) >= 0 &&
        H5Tset_size(type, 2) >= 0 && H5Tset_ebias(type, bias) >= 0)
        return type;
    if (type >= 0) (void)H5Tclose(type);
    return H5I_INVALID_HID;
}

qs_err qs_h5_open_types(qs_artifact *artifact)
{
    qs_h5_quiet();
    hid_t *types = artifact->types;
    for (int i = 0; i < QS_N_DTYPES; i++) types[i] = H5I_INVALID_HID;
    qs_err err = check_memory(artifact->path);
    if (err != QS_OK) return err;
    types[QS_F64] = H5Tcopy(H5T_IEEE_F64LE);
    types[QS_F32] = H5Tcopy(H5T_IEEE_F32LE);
    types[QS_F16] = half_type(5, 10, 15);
    types[QS_BF16] = half_type(8, 7, 127);
    types[QS_I64] = H5Tcopy(H5T_STD_I64LE);
    types[QS_I32] = H5Tcopy(H5T_STD_I32LE);
    types[QS_I16] = H5Tcopy(H5T_STD_I16LE);
    types[QS_I8] = H5Tcopy(H5T_STD_I8LE);
    types[QS_U64] = H5Tcopy(H5T_STD_U64LE);
    types[QS_U32] = H5Tcopy(H5T_STD_U32LE);
    types[QS_U16] = H5Tcopy(H5T_STD_U16LE);
    types[QS_U8] = H5Tcopy(H5T_STD_U8LE);
    bool good = H5Zregister(&qs_zstd_filter) >= 0;
    for (int i = 0; i < QS_N_DTYPES; i++) good = good && types[i] >= 0;
    if (good) return QS_OK;
    char cause[QS_CAUSE_BYTES];
    return qs_fail(QS_E_RESOURCE, "set up HDF5 for %s: %s", artifact->path, qs_h5_cause(cause));
}

void qs_h5_close_types(qs_artifact *artifact)
{
    for (int i = 0; i < QS_N_DTYPES; i++)
        if (artifact->types[i] > 0) (void)H5Tclose(artifact->types[i]);
}

/* V110: older formats index chunks without a checksum, and a flipped bit there gives wrong data silently.
 * No locks: network file systems may refuse them, and a published file never changes. */
hid_t qs_h5_access_plist(void)
{
    hid_t plist = H5Pcreate(H5P_FILE_ACCESS);
    if (plist < 0) return plist;
    bool good = H5Pset_libver_bounds(plist, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
                H5Pset_fclose_degree(plist, H5F_CLOSE_SEMI) >= 0;
#if H5_VERSION_GE(1, 10, 7)
    good = good && H5Pset_file_locking(plist, false, true) >= 0;
#endif
    if (good) return plist;
    (void)H5Pclose(plist);
    return H5I_INVALID_HID;
}

int qs_h5_exists(hid_t file, const char *path)
{
    char prefix[QS_SCHEMA_PATH_BYTES];
    size_t bytes = strlen(path);
    if (bytes == 0 || bytes >= sizeof prefix || path[0] != '/') return 0;
    if (bytes == 1) return 1;
    memcpy(prefix, path, bytes + 1);
    for (size_t i = 1; i <= bytes; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        prefix[i] = '\0';
        htri_t there = H5Lexists(file, prefix, H5P_DEFAULT);
        if (there <= 0) return there;
        H5L_info_t link;
        if (H5Lget_info(file, prefix, &link, H5P_DEFAULT) < 0) return -1;
        if (link.type != H5L_TYPE_HARD) return 0;
        prefix[i] = path[i];
    }
    return 1;
}

bool qs_h5_split(const char *path, char object[QS_SCHEMA_PATH_BYTES], const char **name)
{
    const char *slash = strrchr(path, '/');
    if (slash == NULL || slash[1] != '@' || strlen(path) >= QS_SCHEMA_PATH_BYTES) return false;
    size_t bytes = (size_t)(slash - path);
    memcpy(object, path, bytes);
    object[bytes] = '\0';
    if (bytes == 0) memcpy(object, "/", 2);
    *name = slash + 2;
    return true;
}

qs_dtype qs_h5_dtype(const qs_artifact *artifact, hid_t type)
{
    for (int i = 0; i < QS_N_DTYPES; i++)
        if (H5Tequal(type, artifact->types[i]) > 0) return (qs_dtype)i;
    return QS_N_DTYPES;
}
