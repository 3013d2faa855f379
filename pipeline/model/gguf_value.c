/* Values of GGUF metadata by key and type (gguf.h). */
#include <string.h>

#include "model/gguf.h"

const qs_gguf_kv *qs_gguf_find(const qs_gguf *gguf, const char *key)
{
    int64_t length = (int64_t)strlen(key);
    for (int64_t i = 0; i < gguf->n_kvs; i++) {
        const qs_gguf_kv *kv = &gguf->kvs[i];
        if (kv->key_bytes == length && memcmp(kv->key, key, (size_t)length) == 0) return kv;
    }
    return NULL;
}

static int64_t i64_of_u8(const uint8_t *p) { return *p; }
static int64_t i64_of_i8(const uint8_t *p) { return (int8_t)*p; }

#define WIDEN(name, type) \
    static int64_t name(const uint8_t *p) \
    { \
        type value; \
        memcpy(&value, p, sizeof value); \
        return (int64_t)value; \
    }
WIDEN(i64_of_u16, uint16_t)
WIDEN(i64_of_i16, int16_t)
WIDEN(i64_of_u32, uint32_t)
WIDEN(i64_of_i32, int32_t)
WIDEN(i64_of_i64, int64_t)
/* Above INT64_MAX this turns negative, which no caller's range admits. */
WIDEN(i64_of_u64, uint64_t)
#undef WIDEN

static int64_t (*const widen[QS_N_GGUF_TYPES])(const uint8_t *p) = {
    [QS_GGUF_U8] = i64_of_u8,   [QS_GGUF_I8] = i64_of_i8,   [QS_GGUF_U16] = i64_of_u16,
    [QS_GGUF_I16] = i64_of_i16, [QS_GGUF_U32] = i64_of_u32, [QS_GGUF_I32] = i64_of_i32,
    [QS_GGUF_U64] = i64_of_u64, [QS_GGUF_I64] = i64_of_i64,
};

qs_err qs_gguf_opt_int(int64_t *out, const qs_gguf *gguf, const char *key, int64_t low, int64_t high,
                       const char *name)
{
    const qs_gguf_kv *kv = qs_gguf_find(gguf, key);
    if (kv == NULL) return QS_OK;
    if (kv->type == QS_GGUF_ARRAY)
        return qs_fail(QS_E_UNSUPPORTED, "read %s: \"%s\" differs between layers, which is not supported",
                       name, key);
    if (widen[kv->type] == NULL) return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be an integer", name, key);
    int64_t value = widen[kv->type](kv->data);
    bool wrapped = kv->type == QS_GGUF_U64 && value < 0;
    if (wrapped || value < low || value > high)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be an integer from %lld to %lld", name, key,
                       (long long)low, (long long)high);
    *out = value;
    return QS_OK;
}

qs_err qs_gguf_opt_real(double *out, const qs_gguf *gguf, const char *key, const char *name)
{
    const qs_gguf_kv *kv = qs_gguf_find(gguf, key);
    if (kv == NULL) return QS_OK;
    if (kv->type == QS_GGUF_F32) {
        float value;
        memcpy(&value, kv->data, sizeof value);
        *out = (double)value;
        return QS_OK;
    }
    if (kv->type != QS_GGUF_F64)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be a real number", name, key);
    memcpy(out, kv->data, sizeof *out);
    return QS_OK;
}

qs_err qs_gguf_opt_bool(bool *out, const qs_gguf *gguf, const char *key, const char *name)
{
    const qs_gguf_kv *kv = qs_gguf_find(gguf, key);
    if (kv == NULL) return QS_OK;
    if (kv->type != QS_GGUF_BOOL)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be true or false", name, key);
    *out = kv->data[0] != 0;
    return QS_OK;
}

qs_err qs_gguf_opt_text(char *out, size_t out_bytes, const qs_gguf *gguf, const char *key, const char *name)
{
    const qs_gguf_kv *kv = qs_gguf_find(gguf, key);
    if (kv == NULL) return QS_OK;
    if (kv->type != QS_GGUF_STRING || (size_t)kv->n >= out_bytes ||
        memchr(kv->data, '\0', (size_t)kv->n) != NULL)
        return qs_fail(QS_E_INPUT, "read %s: \"%s\" must be a text of fewer than %zu bytes", name, key,
                       out_bytes);
    memcpy(out, kv->data, (size_t)kv->n);
    out[kv->n] = '\0';
    return QS_OK;
}

void qs_gguf_strings(const qs_gguf_kv *kv, const char **texts, int64_t *lengths)
{
    const uint8_t *p = kv->data;
    for (int64_t i = 0; i < kv->n; i++) {
        uint64_t bytes;
        memcpy(&bytes, p, sizeof bytes);
        texts[i] = (const char *)p + sizeof bytes;
        lengths[i] = (int64_t)bytes;
        p += sizeof bytes + bytes;
    }
}
