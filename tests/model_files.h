/* Shared by the tests of model files: whole files, scratch directories, and edited copies of fixtures. */
#ifndef QS_TESTS_MODEL_FILES_H
#define QS_TESTS_MODEL_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/weights.h"

#define MODELS "tests/fixtures/models/"

#define assert_ok(call) \
    do { \
        qs_err assert_ok_err = (call); \
        if (assert_ok_err != QS_OK) fail_msg("%s: %s", #call, qs_error_text()); \
    } while (0)

/* The call fails with `code` and a text that holds `part`. */
#define assert_fails(call, code, part) \
    do { \
        qs_err assert_fails_err = (call); \
        if (assert_fails_err != (code) || strstr(qs_error_text(), part) == NULL) \
            fail_msg("%s: got %d \"%s\", wanted %d \"%s\"", #call, (int)assert_fails_err, \
                     assert_fails_err == QS_OK ? "" : qs_error_text(), (int)(code), part); \
    } while (0)

typedef struct bytes {
    char *data; /* qs_mem_free; a NUL follows */
    size_t n;
} bytes;

static inline bytes load_file(const char *path)
{
    bytes b = {0};
    assert_ok(qs_file_read(&b.data, &b.n, path, (size_t)1 << 30));
    return b;
}

static inline void save_file(const char *path, const void *data, size_t n)
{
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, n, stream), n);
    assert_int_equal(fclose(stream), 0);
}

/* A fresh directory under TMPDIR; remove_dir() deletes it with the files in it. */
static inline const char *make_dir(char path[QS_PATH_BYTES])
{
    const char *base = getenv("TMPDIR");
    (void)snprintf(path, QS_PATH_BYTES, "%s/qsweep-test-XXXXXX",
                   base != NULL && base[0] != '\0' ? base : "/tmp");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void remove_dir(const char *path)
{
    char **names, file[QS_PATH_BYTES];
    int64_t n;
    assert_ok(qs_dir_list(&names, &n, path, ""));
    for (int64_t i = 0; i < n; i++) {
        assert_ok(qs_path_format(file, "%s/%s", path, names[i]));
        assert_int_equal(remove(file), 0);
    }
    qs_dir_list_free(names, n);
    assert_int_equal(remove(path), 0);
}

/* text with the first `old` replaced; both must be there. The caller frees with free(). */
static inline char *replaced(const char *text, const char *old, const char *fresh)
{
    const char *at = strstr(text, old);
    if (at == NULL) fail_msg("\"%s\" is not in the text to edit", old);
    size_t size = strlen(text) + strlen(fresh) + 1;
    char *out = malloc(size);
    assert_non_null(out);
    (void)snprintf(out, size, "%.*s%s%s", (int)(at - text), text, fresh, at + strlen(old));
    return out;
}

/* A copy of a text file with one edit (old == NULL: none). */
static inline void copy_text(const char *dir, const char *name, const char *from, const char *old,
                             const char *fresh)
{
    char path[QS_PATH_BYTES];
    assert_ok(qs_path_format(path, "%s/%s", from, name));
    bytes b = load_file(path);
    char *edited = old == NULL ? strdup(b.data) : replaced(b.data, old, fresh);
    assert_ok(qs_path_format(path, "%s/%s", dir, name));
    save_file(path, edited, strlen(edited));
    free(edited);
    qs_mem_free(b.data);
}

/* A safetensors file from a header text and data. */
static inline void save_safetensors(const char *path, const char *header, const void *data, size_t n)
{
    uint64_t header_bytes = strlen(header);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(&header_bytes, 1, 8, stream), 8);
    assert_int_equal(fwrite(header, 1, header_bytes, stream), header_bytes);
    assert_int_equal(fwrite(data, 1, n, stream), n);
    assert_int_equal(fclose(stream), 0);
}

/* A copy of a safetensors file with one edit in its header. */
static inline void copy_safetensors(const char *dir, const char *name, const char *from, const char *old,
                                    const char *fresh)
{
    char path[QS_PATH_BYTES];
    assert_ok(qs_path_format(path, "%s/%s", from, name));
    bytes b = load_file(path);
    uint64_t header_bytes;
    memcpy(&header_bytes, b.data, 8);
    char *header = strndup(b.data + 8, header_bytes);
    char *edited = old == NULL ? strdup(header) : replaced(header, old, fresh);
    assert_ok(qs_path_format(path, "%s/%s", dir, name));
    save_safetensors(path, edited, b.data + 8 + header_bytes, b.n - 8 - header_bytes);
    free(header);
    free(edited);
    qs_mem_free(b.data);
}

static inline qs_model *open_model(const char *path)
{
    qs_model *model = NULL;
    assert_ok(qs_model_open(&model, path));
    return model;
}

/* All values of a tensor that the model has; qs_mem_free. */
static inline float *read_role(const qs_model *model, qs_role role, int64_t layer, int64_t *n)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    float *values;
    *n = info.n_out * info.n_in;
    assert_ok(QS_NEW(values, *n, "test"));
    assert_ok(qs_model_read_f32(model, role, layer, values));
    return values;
}

#endif
