/* GGUF versions 2 and 3, little endian: metadata and tensor table, checked against every rule of the
 * container (source: ggml's docs/gguf.md and the checks of its reader). */
#ifndef QS_MODEL_GGUF_H
#define QS_MODEL_GGUF_H

#include <stdbool.h>

#include "model/weights.h"

typedef enum qs_gguf_type {
    QS_GGUF_U8,
    QS_GGUF_I8,
    QS_GGUF_U16,
    QS_GGUF_I16,
    QS_GGUF_U32,
    QS_GGUF_I32,
    QS_GGUF_F32,
    QS_GGUF_BOOL,
    QS_GGUF_STRING,
    QS_GGUF_ARRAY,
    QS_GGUF_U64,
    QS_GGUF_I64,
    QS_GGUF_F64,
    QS_N_GGUF_TYPES
} qs_gguf_type;
size_t qs_gguf_value_bytes(qs_gguf_type type); /* 0 for strings and arrays, which carry their own lengths */
uint32_t qs_gguf_type_number(qs_storage storage); /* ggml's number of a tensor type */

/* Data points into the caller's bytes; strings have no NUL. */
typedef struct qs_gguf_kv {
    const char *key;
    int64_t key_bytes;
    qs_gguf_type type, item_type; /* item_type of arrays */
    int64_t n;                    /* items of an array, bytes of a string, else 1 */
    const uint8_t *data;
} qs_gguf_kv;

enum { QS_GGUF_DIMS_MAX = 4, QS_GGUF_NAME_BYTES = 64 };

typedef struct qs_gguf_tensor {
    char name[QS_GGUF_NAME_BYTES];
    int n_dims;                   /* 1 to 4 */
    int64_t ne[QS_GGUF_DIMS_MAX]; /* ne[0] is contiguous: a Hugging Face [n_out, n_in] is {n_in, n_out} */
    qs_storage storage;
    const uint8_t *data;
    size_t bytes;
} qs_gguf_tensor;

typedef struct qs_gguf {
    qs_gguf_kv *kvs;
    int64_t n_kvs;
    qs_gguf_tensor *tensors; /* in the order of the file */
    int64_t n_tensors;
    const qs_gguf_tensor **by_name; /* sorted */
    size_t alignment;
} qs_gguf;

/* `data` stays with the caller and must outlive *out; `name` is what error texts call the file. Errors:
 * QS_E_INPUT with the byte offset or the tensor, and the cause; QS_E_UNSUPPORTED for other versions, byte
 * orders and tensor types. On failure *out is empty. */
QS_MUST_CHECK qs_err qs_gguf_parse(qs_gguf *out, const uint8_t *data, size_t bytes, const char *name);
void qs_gguf_free(qs_gguf *gguf);

/* NULL when there is none. */
const qs_gguf_kv *qs_gguf_find(const qs_gguf *gguf, const char *key);
const qs_gguf_tensor *qs_gguf_find_tensor(const qs_gguf *gguf, const char *name);

/* Optional values: a missing key leaves *out as it is, a value of another kind is QS_E_INPUT. Integers of any
 * width, reals of both. Text is copied and NUL-terminated; QS_E_INPUT when it does not fit or holds a NUL. */
QS_MUST_CHECK qs_err qs_gguf_opt_int(int64_t *out, const qs_gguf *gguf, const char *key, int64_t low,
                                     int64_t high, const char *name);
QS_MUST_CHECK qs_err qs_gguf_opt_real(double *out, const qs_gguf *gguf, const char *key, const char *name);
QS_MUST_CHECK qs_err qs_gguf_opt_bool(bool *out, const qs_gguf *gguf, const char *key, const char *name);
QS_MUST_CHECK qs_err qs_gguf_opt_text(char *out, size_t out_bytes, const qs_gguf *gguf, const char *key,
                                      const char *name);

/* Items of an array of strings: pointers into the file and lengths. */
void qs_gguf_strings(const qs_gguf_kv *kv, const char **texts, int64_t *lengths);

/* Architecture from metadata ("llama", "qwen2", "qwen3"); which biases and scalings there are also shows in
 * the tensor table. Errors as qs_model_config_from_json. */
QS_MUST_CHECK qs_err qs_model_config_from_gguf(qs_model_config *out, const qs_gguf *gguf, const char *name);

#endif
