#include "model/gguf.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/dequant.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are used in place, as little endian");

/* Counts beyond these are damage, not models: the largest of today have about 2,000 tensors and 100 keys. */
static const uint64_t count_max = 65536, alignment_max = (uint64_t)1 << 20;

static const size_t value_bytes[QS_N_GGUF_TYPES] = {
    [QS_GGUF_U8] = 1,  [QS_GGUF_I8] = 1,  [QS_GGUF_U16] = 2, [QS_GGUF_I16] = 2,
    [QS_GGUF_U32] = 4, [QS_GGUF_I32] = 4, [QS_GGUF_F32] = 4, [QS_GGUF_BOOL] = 1,
    [QS_GGUF_U64] = 8, [QS_GGUF_I64] = 8, [QS_GGUF_F64] = 8, /* strings and arrays carry their own lengths */
};

/* ggml's type numbers. Gaps were removed from the format; known == false is valid but not read here. */
static const struct {
    const char *name;
    bool known;
    qs_storage storage;
} tensor_types[] = {
    [0] = {"F32", true, QS_STORE_F32},
    [1] = {"F16", true, QS_STORE_F16},
    [2] = {"Q4_0", true, QS_STORE_Q4_0},
    [3] = {"Q4_1", true, QS_STORE_Q4_1},
    [6] = {"Q5_0", true, QS_STORE_Q5_0},
    [7] = {"Q5_1", true, QS_STORE_Q5_1},
    [8] = {"Q8_0", true, QS_STORE_Q8_0},
    [9] = {.name = "Q8_1"},
    [10] = {"Q2_K", true, QS_STORE_Q2_K},
    [11] = {"Q3_K", true, QS_STORE_Q3_K},
    [12] = {"Q4_K", true, QS_STORE_Q4_K},
    [13] = {"Q5_K", true, QS_STORE_Q5_K},
    [14] = {"Q6_K", true, QS_STORE_Q6_K},
    [15] = {.name = "Q8_K"},
    [16] = {.name = "IQ2_XXS"},
    [17] = {.name = "IQ2_XS"},
    [18] = {.name = "IQ3_XXS"},
    [19] = {.name = "IQ1_S"},
    [20] = {"IQ4_NL", true, QS_STORE_IQ4_NL},
    [21] = {.name = "IQ3_S"},
    [22] = {.name = "IQ2_S"},
    [23] = {"IQ4_XS", true, QS_STORE_IQ4_XS},
    [24] = {.name = "I8"},
    [25] = {.name = "I16"},
    [26] = {.name = "I32"},
    [27] = {.name = "I64"},
    [28] = {.name = "F64"},
    [29] = {.name = "IQ1_M"},
    [30] = {"BF16", true, QS_STORE_BF16},
    [34] = {.name = "TQ1_0"},
    [35] = {.name = "TQ2_0"},
    [39] = {.name = "MXFP4"},
    [40] = {.name = "NVFP4"},
    [41] = {.name = "Q1_0"},
    [42] = {.name = "Q2_0"},
};
enum { N_TENSOR_TYPES = sizeof tensor_types / sizeof tensor_types[0] };

size_t qs_gguf_value_bytes(qs_gguf_type type) { return value_bytes[type]; }

uint32_t qs_gguf_type_number(qs_storage storage)
{
    uint32_t number = 0;
    while (!tensor_types[number].known || tensor_types[number].storage != storage) number++;
    return number;
}

/* Reads forward; `at` is the offset in the file that error texts name. */
typedef struct cursor {
    const uint8_t *data;
    size_t bytes, at;
    const char *name;
} cursor;

static qs_err take(const uint8_t **out, cursor *c, uint64_t bytes, const char *what)
{
    if (bytes > c->bytes - c->at)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: %s needs %llu bytes, but the file ends at byte %zu; it is"
                       " truncated or damaged",
                       c->name, c->at, what, (unsigned long long)bytes, c->bytes);
    *out = c->data + c->at;
    c->at += (size_t)bytes;
    return QS_OK;
}

static qs_err take_u32(uint32_t *out, cursor *c, const char *what)
{
    const uint8_t *p = NULL;
    qs_err err = take(&p, c, sizeof *out, what);
    if (err == QS_OK) memcpy(out, p, sizeof *out);
    return err;
}

static qs_err take_u64(uint64_t *out, cursor *c, const char *what)
{
    const uint8_t *p = NULL;
    qs_err err = take(&p, c, sizeof *out, what);
    if (err == QS_OK) memcpy(out, p, sizeof *out);
    return err;
}

static qs_err take_string(const char **out, int64_t *length, cursor *c, const char *what)
{
    uint64_t bytes;
    const uint8_t *p = NULL;
    qs_err err;
    QS_TRY(take_u64(&bytes, c, what));
    QS_TRY(take(&p, c, bytes, what));
    *out = (const char *)p;
    *length = (int64_t)bytes;
out:
    return err;
}

/* A damaged name may hold anything; error texts get its printable part. */
enum { SHOWN_BYTES = 80 };
static const char *show(char text[SHOWN_BYTES], const char *bytes, int64_t length)
{
    int64_t n = length < SHOWN_BYTES - 1 ? length : SHOWN_BYTES - 1;
    for (int64_t i = 0; i < n; i++) text[i] = isprint((unsigned char)bytes[i]) ? bytes[i] : '?';
    text[n] = '\0';
    return text;
}

static qs_err take_array(qs_gguf_kv *kv, cursor *c, const char *shown)
{
    uint32_t item_type;
    uint64_t n;
    qs_err err;
    QS_TRY(take_u32(&item_type, c, "the type of array items"));
    QS_TRY(take_u64(&n, c, "the length of an array"));
    if (item_type == QS_GGUF_ARRAY || item_type >= QS_N_GGUF_TYPES)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: key %s is an array of type %u, which arrays cannot hold", c->name,
                       c->at, shown, item_type);
    /* A string has at least its length field; this bounds n before anything loops over it. */
    size_t item_bytes = item_type == QS_GGUF_STRING ? sizeof(uint64_t) : value_bytes[item_type];
    if (n > (c->bytes - c->at) / item_bytes)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: key %s claims %llu items, more than the file can hold", c->name,
                       c->at, shown, (unsigned long long)n);
    kv->item_type = (qs_gguf_type)item_type;
    kv->n = (int64_t)n;
    kv->data = c->data + c->at;
    if (item_type != QS_GGUF_STRING) QS_TRY(take(&kv->data, c, n * item_bytes, "an array"));
    for (uint64_t i = 0; i < n && item_type == QS_GGUF_STRING; i++) {
        const char *text = NULL;
        int64_t length;
        QS_TRY(take_string(&text, &length, c, "a string of an array"));
    }
out:
    return err;
}

static qs_err take_kv(qs_gguf_kv *kv, cursor *c)
{
    char shown[SHOWN_BYTES];
    uint32_t type;
    size_t start = c->at;
    qs_err err;
    QS_TRY(take_string(&kv->key, &kv->key_bytes, c, "a metadata key"));
    (void)show(shown, kv->key, kv->key_bytes);
    if (kv->key_bytes == 0 || kv->key_bytes > UINT16_MAX ||
        memchr(kv->key, '\0', (size_t)kv->key_bytes) != NULL)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: metadata key \"%s\" of %lld bytes is empty, too long or holds"
                       " a NUL",
                       c->name, start, shown, (long long)kv->key_bytes);
    QS_TRY(take_u32(&type, c, "the type of a metadata value"));
    if (type >= QS_N_GGUF_TYPES)
        return qs_fail(QS_E_INPUT, "parse %s: byte %zu: key %s has the unknown type %u", c->name, start,
                       shown, type);
    kv->type = (qs_gguf_type)type;
    kv->n = 1;
    if (type == QS_GGUF_ARRAY) {
        QS_TRY(take_array(kv, c, shown));
    } else if (type == QS_GGUF_STRING) {
        const char *text = NULL;
        QS_TRY(take_string(&text, &kv->n, c, "a metadata string"));
        kv->data = (const uint8_t *)text;
    } else {
        QS_TRY(take(&kv->data, c, value_bytes[type], "a metadata value"));
    }
out:
    return err;
}

static qs_err find_storage(qs_gguf_tensor *tensor, uint32_t type, const cursor *c, size_t start)
{
    if (type >= N_TENSOR_TYPES)
        return qs_fail(QS_E_UNSUPPORTED,
                       "parse %s: byte %zu: tensor %s has type number %u, which is not known here", c->name,
                       start, tensor->name, type);
    if (tensor_types[type].name == NULL)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: tensor %s has type number %u, which the format does not have",
                       c->name, start, tensor->name, type);
    if (!tensor_types[type].known)
        return qs_fail(QS_E_UNSUPPORTED,
                       "parse %s: byte %zu: tensor %s has type %s, which is not supported; convert"
                       " the model to Q8_0 or F16",
                       c->name, start, tensor->name, tensor_types[type].name);
    tensor->storage = tensor_types[type].storage;
    return QS_OK;
}

/* Elements, rows of whole blocks, and bytes, all without overflow. */
static qs_err measure_tensor(qs_gguf_tensor *tensor, const cursor *c, size_t start)
{
    int64_t n = 1;
    for (int d = 0; d < tensor->n_dims; d++)
        if (tensor->ne[d] < 0 || __builtin_mul_overflow(n, tensor->ne[d], &n))
            return qs_fail(QS_E_INPUT, "parse %s: byte %zu: the dimensions of tensor %s overflow", c->name,
                           start, tensor->name);
    const qs_storage_row *row = qs_storage_get(tensor->storage);
    if (tensor->ne[0] % row->block_elems != 0)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: rows of tensor %s have %lld elements, no multiple of the"
                       " %lld of a %s block",
                       c->name, start, tensor->name, (long long)tensor->ne[0], (long long)row->block_elems,
                       row->name);
    if (__builtin_mul_overflow((size_t)(n / row->block_elems), row->block_bytes, &tensor->bytes))
        return qs_fail(QS_E_INPUT, "parse %s: byte %zu: the size of tensor %s overflows", c->name, start,
                       tensor->name);
    return QS_OK;
}

static qs_err take_tensor(qs_gguf_tensor *tensor, uint64_t *offset, cursor *c)
{
    char shown[SHOWN_BYTES];
    const char *text = NULL;
    int64_t length;
    uint32_t n_dims, type;
    size_t start = c->at;
    qs_err err;
    QS_TRY(take_string(&text, &length, c, "a tensor name"));
    if (length == 0 || length >= QS_GGUF_NAME_BYTES || memchr(text, '\0', (size_t)length) != NULL)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte %zu: tensor name \"%s\" of %lld bytes is empty, too long or holds"
                       " a NUL",
                       c->name, start, show(shown, text, length), (long long)length);
    memcpy(tensor->name, text, (size_t)length); /* the table is zeroed */
    QS_TRY(take_u32(&n_dims, c, "a tensor's rank"));
    if (n_dims < 1 || n_dims > QS_GGUF_DIMS_MAX)
        return qs_fail(QS_E_INPUT, "parse %s: byte %zu: tensor %s has %u dimensions, not 1 to %d", c->name,
                       start, show(shown, text, length), n_dims, QS_GGUF_DIMS_MAX);
    tensor->n_dims = (int)n_dims;
    for (uint32_t d = 0; d < QS_GGUF_DIMS_MAX; d++) {
        uint64_t extent = 1;
        if (d < n_dims) QS_TRY(take_u64(&extent, c, "a tensor's dimensions"));
        tensor->ne[d] = extent > INT64_MAX ? -1 : (int64_t)extent;
    }
    QS_TRY(take_u32(&type, c, "a tensor's type"));
    QS_TRY(take_u64(offset, c, "a tensor's offset"));
    QS_TRY(find_storage(tensor, type, c, start));
    QS_TRY(measure_tensor(tensor, c, start));
out:
    return err;
}

/* n rounded up to a multiple of the alignment, a power of two; false on overflow. */
static bool pad(size_t n, size_t alignment, size_t *out)
{
    if (__builtin_add_overflow(n, alignment - 1, out)) return false;
    *out &= ~(alignment - 1);
    return true;
}

/* The format fixes every offset: the sum of the padded sizes before it. Bytes after the last tensor are left
 * alone, as ggml does. `offsets` as read; data points are set here. */
static qs_err place_tensors(qs_gguf *out, const uint64_t *offsets, const cursor *c)
{
    size_t start, end = 0;
    if (!pad(c->at, out->alignment, &start) || (start > c->bytes && out->n_tensors > 0))
        return qs_fail(QS_E_INPUT, "parse %s: the file ends at byte %zu, before its tensor data", c->name,
                       c->bytes);
    for (int64_t i = 0; i < out->n_tensors; i++) {
        qs_gguf_tensor *tensor = &out->tensors[i];
        if (offsets[i] != end)
            return qs_fail(QS_E_INPUT,
                           "parse %s: tensor %s is at offset %llu of the data, but the sizes before it add up to"
                           " %zu%s%s",
                           c->name, tensor->name, (unsigned long long)offsets[i], end,
                           i > 0 ? ", the last of them that of " : "", i > 0 ? out->tensors[i - 1].name : "");
        size_t room = c->bytes - start;
        if (end > room || tensor->bytes > room - end)
            return qs_fail(QS_E_INPUT,
                           "parse %s: tensor %s needs %zu bytes from byte %zu on, but the file ends at byte"
                           " %zu; it is truncated",
                           c->name, tensor->name, tensor->bytes, start + end, c->bytes);
        tensor->data = c->data + start + end;
        if (!pad(end + tensor->bytes, out->alignment, &end))
            return qs_fail(QS_E_INPUT, "parse %s: the offsets overflow at tensor %s", c->name, tensor->name);
    }
    return QS_OK;
}

static int compare_keys(const void *a, const void *b)
{
    const qs_gguf_kv *x = *(const qs_gguf_kv *const *)a, *y = *(const qs_gguf_kv *const *)b;
    int64_t shorter = x->key_bytes < y->key_bytes ? x->key_bytes : y->key_bytes;
    int order = memcmp(x->key, y->key, (size_t)shorter);
    return order != 0 ? order : (x->key_bytes > y->key_bytes) - (x->key_bytes < y->key_bytes);
}

static int compare_tensors(const void *a, const void *b)
{
    return strcmp((*(const qs_gguf_tensor *const *)a)->name, (*(const qs_gguf_tensor *const *)b)->name);
}

static qs_err check_keys(const qs_gguf *gguf, const char *name)
{
    const qs_gguf_kv **sorted = NULL;
    qs_err err;
    QS_TRY(QS_NEW(sorted, gguf->n_kvs, "metadata index"));
    for (int64_t i = 0; i < gguf->n_kvs; i++) sorted[i] = &gguf->kvs[i];
    if (gguf->n_kvs > 0) qsort(sorted, (size_t)gguf->n_kvs, sizeof *sorted, compare_keys);
    for (int64_t i = 1; i < gguf->n_kvs; i++) {
        char shown[SHOWN_BYTES];
        if (compare_keys(&sorted[i - 1], &sorted[i]) != 0) continue;
        err = qs_fail(QS_E_INPUT, "parse %s: metadata key %s is there twice", name,
                      show(shown, sorted[i]->key, sorted[i]->key_bytes));
        goto out;
    }
out:
    qs_mem_free((void *)sorted);
    return err;
}

static qs_err index_tensors(qs_gguf *gguf, const char *name)
{
    qs_err err = QS_NEW(gguf->by_name, gguf->n_tensors, "tensor index");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < gguf->n_tensors; i++) gguf->by_name[i] = &gguf->tensors[i];
    if (gguf->n_tensors > 0)
        qsort(gguf->by_name, (size_t)gguf->n_tensors, sizeof gguf->by_name[0], compare_tensors);
    for (int64_t i = 1; i < gguf->n_tensors; i++)
        if (strcmp(gguf->by_name[i - 1]->name, gguf->by_name[i]->name) == 0)
            return qs_fail(QS_E_INPUT, "parse %s: tensor %s is there twice", name, gguf->by_name[i]->name);
    return QS_OK;
}

/* A name of one byte: length, name, rank, one dimension, type, offset; length, key, type, one byte. */
enum { TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, KV_BYTES_MIN = 8 + 1 + 4 + 1 };

static qs_err read_head(uint64_t *n_tensors, uint64_t *n_kvs, cursor *c)
{
    const uint8_t *magic = NULL;
    uint32_t version;
    qs_err err;
    QS_TRY(take(&magic, c, 4, "the magic number"));
    if (memcmp(magic, "GGUF", 4) != 0)
        return qs_fail(QS_E_INPUT, "parse %s: the file does not begin with \"GGUF\"", c->name);
    QS_TRY(take_u32(&version, c, "the version"));
    if (version != 0 && (version & 0xffffu) == 0)
        return qs_fail(QS_E_UNSUPPORTED, "parse %s: a big-endian GGUF file is not supported", c->name);
    if (version != 2 && version != 3)
        return qs_fail(QS_E_UNSUPPORTED, "parse %s: GGUF version %u is not supported, only 2 and 3", c->name,
                       version);
    QS_TRY(take_u64(n_tensors, c, "the number of tensors"));
    QS_TRY(take_u64(n_kvs, c, "the number of metadata values"));
    if (*n_tensors > count_max || *n_kvs > count_max)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte 8: %llu tensors and %llu metadata values are claimed, more than the"
                       " %llu that any model has; the file is damaged",
                       c->name, (unsigned long long)*n_tensors, (unsigned long long)*n_kvs,
                       (unsigned long long)count_max);
    /* Before tables of that size are made. */
    if (*n_tensors * TENSOR_BYTES_MIN + *n_kvs * KV_BYTES_MIN > c->bytes - c->at)
        return qs_fail(QS_E_INPUT,
                       "parse %s: byte 8: %llu tensors and %llu metadata values are claimed, more than the"
                       " file's %zu bytes can hold; it is truncated or damaged",
                       c->name, (unsigned long long)*n_tensors, (unsigned long long)*n_kvs, c->bytes);
out:
    return err;
}

static qs_err read_alignment(qs_gguf *gguf, const char *name)
{
    gguf->alignment = 32;
    const qs_gguf_kv *kv = qs_gguf_find(gguf, "general.alignment");
    if (kv == NULL) return QS_OK;
    uint32_t alignment = 0;
    if (kv->type == QS_GGUF_U32) memcpy(&alignment, kv->data, sizeof alignment);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > alignment_max)
        return qs_fail(QS_E_INPUT,
                       "parse %s: \"general.alignment\" %u is not a 32-bit power of two up to %llu", name,
                       alignment, (unsigned long long)alignment_max);
    gguf->alignment = alignment;
    return QS_OK;
}

qs_err qs_gguf_parse(qs_gguf *out, const uint8_t *data, size_t bytes, const char *name)
{
    *out = (qs_gguf){0};
    cursor c = {.data = data, .bytes = bytes, .name = name};
    uint64_t *offsets = NULL, n_tensors, n_kvs;
    qs_err err;
    QS_TRY(read_head(&n_tensors, &n_kvs, &c));
    QS_TRY(QS_NEW(out->kvs, n_kvs, "metadata table"));
    QS_TRY(QS_NEW(out->tensors, n_tensors, "tensor table"));
    QS_TRY(QS_NEW(offsets, n_tensors, "tensor offsets"));
    for (; out->n_kvs < (int64_t)n_kvs; out->n_kvs++) QS_TRY(take_kv(&out->kvs[out->n_kvs], &c));
    QS_TRY(check_keys(out, name));
    QS_TRY(read_alignment(out, name));
    for (; out->n_tensors < (int64_t)n_tensors; out->n_tensors++)
        QS_TRY(take_tensor(&out->tensors[out->n_tensors], &offsets[out->n_tensors], &c));
    QS_TRY(index_tensors(out, name));
    QS_TRY(place_tensors(out, offsets, &c));
out:
    qs_mem_free(offsets);
    if (err != QS_OK) qs_gguf_free(out);
    return err;
}

void qs_gguf_free(qs_gguf *gguf)
{
    qs_mem_free(gguf->kvs);
    qs_mem_free(gguf->tensors);
    qs_mem_free((void *)gguf->by_name);
    *gguf = (qs_gguf){0};
}

const qs_gguf_tensor *qs_gguf_find_tensor(const qs_gguf *gguf, const char *name)
{
    qs_gguf_tensor wanted = {0};
    size_t length = strlen(name);
    if (length >= sizeof wanted.name || gguf->n_tensors == 0) return NULL;
    memcpy(wanted.name, name, length);
    const qs_gguf_tensor *key = &wanted;
    const qs_gguf_tensor **hit = bsearch(&key, gguf->by_name, (size_t)gguf->n_tensors,
                                         sizeof gguf->by_name[0], compare_tensors);
    return hit == NULL ? NULL : *hit;
}
