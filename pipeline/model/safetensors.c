#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are used in place, as little endian");

static const uint64_t header_bytes_max = 100000000; /* the format's own limit */
enum { LENGTH_BYTES = 8 };

static const struct {
    const char *name;
    int bits;
} types[QS_N_ST_TYPES] = {
    [QS_ST_BOOL] = {"BOOL", 8},
    [QS_ST_U8] = {"U8", 8},
    [QS_ST_I8] = {"I8", 8},
    [QS_ST_F8_E5M2] = {"F8_E5M2", 8},
    [QS_ST_F8_E4M3] = {"F8_E4M3", 8},
    [QS_ST_F8_E8M0] = {"F8_E8M0", 8},
    [QS_ST_I16] = {"I16", 16},
    [QS_ST_U16] = {"U16", 16},
    [QS_ST_F16] = {"F16", 16},
    [QS_ST_BF16] = {"BF16", 16},
    [QS_ST_I32] = {"I32", 32},
    [QS_ST_U32] = {"U32", 32},
    [QS_ST_F32] = {"F32", 32},
    [QS_ST_C64] = {"C64", 64},
    [QS_ST_F64] = {"F64", 64},
    [QS_ST_I64] = {"I64", 64},
    [QS_ST_U64] = {"U64", 64},
    [QS_ST_F4] = {"F4", 4},
    [QS_ST_F6_E2M3] = {"F6_E2M3", 6},
    [QS_ST_F6_E3M2] = {"F6_E3M2", 6},
    [QS_ST_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [QS_ST_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
};

const char *qs_safetensor_type_name(qs_safetensor_type type) { return types[type].name; }

int qs_safetensor_type_bits(qs_safetensor_type type) { return types[type].bits; }

/* A whole number of at least 0; jansson has already refused what does not fit in 64 bits. */
static bool get_count(const json_t *value, int64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *out = json_integer_value(value);
    return true;
}

static qs_err read_type(qs_safetensor *tensor, const json_t *entry, const char *name)
{
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    if (type == NULL) return qs_fail(QS_E_INPUT, "parse %s: tensor %s has no \"dtype\"", name, tensor->name);
    for (int i = 0; i < QS_N_ST_TYPES; i++) {
        if (strcmp(type, types[i].name) != 0) continue;
        tensor->type = (qs_safetensor_type)i;
        return QS_OK;
    }
    return qs_fail(QS_E_INPUT, "parse %s: tensor %s has the unknown dtype %.32s", name, tensor->name, type);
}

/* *bits = bits of the tensor's elements by its shape. */
static qs_err read_shape(qs_safetensor *tensor, uint64_t *bits, const json_t *entry, const char *name)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape) || json_array_size(shape) > QS_SAFETENSOR_DIMS_MAX)
        return qs_fail(QS_E_INPUT, "parse %s: \"shape\" of tensor %s must be an array of at most %d numbers",
                       name, tensor->name, QS_SAFETENSOR_DIMS_MAX);
    tensor->n_dims = (int)json_array_size(shape);
    *bits = (uint64_t)types[tensor->type].bits;
    for (int d = 0; d < tensor->n_dims; d++) {
        if (!get_count(json_array_get(shape, (size_t)d), &tensor->shape[d]))
            return qs_fail(QS_E_INPUT, "parse %s: shape[%d] of tensor %s is not a count", name, d,
                           tensor->name);
        if (__builtin_mul_overflow(*bits, (uint64_t)tensor->shape[d], bits))
            return qs_fail(QS_E_INPUT, "parse %s: the shape of tensor %s overflows 64 bits", name,
                           tensor->name);
    }
    return QS_OK;
}

static qs_err read_tensor(qs_safetensor *tensor, const json_t *entry, const uint8_t *data, size_t data_bytes,
                          const char *name)
{
    if (!json_is_object(entry))
        return qs_fail(QS_E_INPUT, "parse %s: the entry of tensor %s is not an object", name, tensor->name);
    uint64_t bits = 0;
    qs_err err;
    QS_TRY(read_type(tensor, entry, name));
    QS_TRY(read_shape(tensor, &bits, entry, name));
    const json_t *offsets = json_object_get(entry, "data_offsets");
    int64_t begin, end;
    if (json_array_size(offsets) != 2 || !get_count(json_array_get(offsets, 0), &begin) ||
        !get_count(json_array_get(offsets, 1), &end))
        return qs_fail(QS_E_INPUT, "parse %s: \"data_offsets\" of tensor %s must be two counts", name,
                       tensor->name);
    if (end < begin || (uint64_t)end > data_bytes)
        return qs_fail(QS_E_INPUT, "parse %s: tensor %s takes bytes %lld to %lld of %zu bytes of data", name,
                       tensor->name, (long long)begin, (long long)end, data_bytes);
    if (bits % 8 != 0 || bits / 8 != (uint64_t)(end - begin))
        return qs_fail(QS_E_INPUT, "parse %s: tensor %s has %lld bytes but its shape needs %llu bits", name,
                       tensor->name, (long long)(end - begin), (unsigned long long)bits);
    tensor->data = data + begin;
    tensor->bytes = (size_t)(end - begin);
out:
    return err;
}

static int compare_places(const void *a, const void *b)
{
    const qs_safetensor *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const qs_safetensor *)a)->name, ((const qs_safetensor *)b)->name);
}

/* Each tensor begins where the one before ended: neither holes nor overlaps, and the last one ends the file. */
static qs_err check_places(qs_safetensors *file, const uint8_t *data, size_t data_bytes, const char *name)
{
    if (file->n_tensors > 0)
        qsort(file->tensors, (size_t)file->n_tensors, sizeof file->tensors[0], compare_places);
    size_t end = 0;
    for (int64_t i = 0; i < file->n_tensors; i++) {
        const qs_safetensor *tensor = &file->tensors[i];
        size_t begin = (size_t)(tensor->data - data);
        if (begin != end)
            return qs_fail(QS_E_INPUT,
                           "parse %s: tensor %s begins at byte %zu of the data, which %s the byte %zu"
                           " where the tensor before it ends",
                           name, tensor->name, begin, begin < end ? "is in front of" : "leaves a hole behind",
                           end);
        end = begin + tensor->bytes;
    }
    if (end != data_bytes)
        return qs_fail(QS_E_INPUT, "parse %s: the tensors end at byte %zu of %zu bytes of data", name, end,
                       data_bytes);
    return QS_OK;
}

static qs_err check_metadata(const json_t *metadata, const char *name)
{
    if (!json_is_object(metadata))
        return qs_fail(QS_E_INPUT, "parse %s: \"__metadata__\" is not an object", name);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)metadata, key, value) if (!json_is_string(value)) return qs_fail(
        QS_E_INPUT, "parse %s: \"__metadata__\" member %.64s is not a string", name, key);
    return QS_OK;
}

static qs_err read_header(qs_safetensors *out, const uint8_t *data, size_t data_bytes, const char *name)
{
    qs_err err;
    QS_TRY(QS_NEW(out->tensors, json_object_size(out->header), "tensor table"));
    const char *key;
    json_t *entry;
    json_object_foreach(out->header, key, entry)
    {
        if (strcmp(key, "__metadata__") == 0) {
            QS_TRY(check_metadata(entry, name));
            continue;
        }
        qs_safetensor *tensor = &out->tensors[out->n_tensors++];
        tensor->name = key;
        QS_TRY(read_tensor(tensor, entry, data, data_bytes, name));
    }
    QS_TRY(check_places(out, data, data_bytes, name));
    if (out->n_tensors > 0)
        qsort(out->tensors, (size_t)out->n_tensors, sizeof out->tensors[0], compare_names);
out:
    return err;
}

qs_err qs_safetensors_parse(qs_safetensors *out, const uint8_t *data, size_t bytes, const char *name)
{
    *out = (qs_safetensors){0};
    if (bytes < LENGTH_BYTES)
        return qs_fail(QS_E_INPUT, "parse %s: %zu bytes are too few for a safetensors file", name, bytes);
    uint64_t header_bytes;
    memcpy(&header_bytes, data, LENGTH_BYTES);
    if (header_bytes > header_bytes_max)
        return qs_fail(QS_E_INPUT,
                       "parse %s: a header of %llu bytes is over the limit of %llu; this is no safetensors"
                       " file",
                       name, (unsigned long long)header_bytes, (unsigned long long)header_bytes_max);
    if (header_bytes > bytes - LENGTH_BYTES)
        return qs_fail(QS_E_INPUT,
                       "parse %s: the header has %llu bytes but the file only %zu; it is truncated", name,
                       (unsigned long long)header_bytes, bytes);
    const char *text = (const char *)data + LENGTH_BYTES;
    if (header_bytes == 0 || text[0] != '{')
        return qs_fail(QS_E_INPUT, "parse %s: the header does not begin with '{'", name);
    qs_err err;
    QS_TRY(qs_json_parse(&out->header, text, (size_t)header_bytes, name));
    size_t start = LENGTH_BYTES + (size_t)header_bytes;
    QS_TRY(read_header(out, data + start, bytes - start, name));
out:
    if (err != QS_OK) qs_safetensors_free(out);
    return err;
}

void qs_safetensors_free(qs_safetensors *file)
{
    qs_mem_free(file->tensors);
    json_decref(file->header);
    *file = (qs_safetensors){0};
}

const qs_safetensor *qs_safetensors_find(const qs_safetensors *file, const char *name)
{
    if (file->n_tensors == 0) return NULL;
    qs_safetensor wanted = {.name = name};
    return bsearch(&wanted, file->tensors, (size_t)file->n_tensors, sizeof wanted, compare_names);
}

const char *qs_safetensors_metadata(const qs_safetensors *file, const char *key)
{
    return json_string_value(json_object_get(json_object_get(file->header, "__metadata__"), key));
}
