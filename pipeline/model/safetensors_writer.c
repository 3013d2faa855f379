#include "model/safetensors_writer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

typedef struct entry {
    char *name;
    qs_safetensor_type type;
    int n_dims;
    int64_t shape[QS_SAFETENSOR_DIMS_MAX];
    size_t bytes, offset, n_put; /* offset from the end of the header */
} entry;

struct qs_safetensors_writer {
    qs_file_writer file;
    json_t *metadata; /* NULL when there is none */
    entry *entries;   /* [n_entries]; sorted once the header is written */
    int64_t n_entries, capacity;
    char *header; /* NULL until the first put; padded */
    size_t header_bytes;
    size_t position; /* of the stream: saves seeks, which flush its buffer */
};

enum { LENGTH_BYTES = 8, HEADER_ALIGN = 8 };

/* 0 for types whose elements share bytes. */
static size_t element_bytes(qs_safetensor_type type)
{
    static const uint8_t bytes[QS_N_ST_TYPES] = {
        [QS_ST_BOOL] = 1,    [QS_ST_U8] = 1,          [QS_ST_I8] = 1,          [QS_ST_F8_E5M2] = 1,
        [QS_ST_F8_E4M3] = 1, [QS_ST_F8_E8M0] = 1,     [QS_ST_I16] = 2,         [QS_ST_U16] = 2,
        [QS_ST_F16] = 2,     [QS_ST_BF16] = 2,        [QS_ST_I32] = 4,         [QS_ST_U32] = 4,
        [QS_ST_F32] = 4,     [QS_ST_C64] = 8,         [QS_ST_F64] = 8,         [QS_ST_I64] = 8,
        [QS_ST_U64] = 8,     [QS_ST_F8_E4M3FNUZ] = 1, [QS_ST_F8_E5M2FNUZ] = 1,
    };
    return (unsigned)type < QS_N_ST_TYPES ? bytes[type] : 0;
}

qs_err qs_safetensors_writer_create(qs_safetensors_writer **out, const char *path)
{
    qs_safetensors_writer *writer;
    *out = NULL;
    qs_err err = QS_NEW(writer, 1, "safetensors writer");
    if (err != QS_OK) return err;
    err = qs_file_writer_open(&writer->file, path);
    if (err != QS_OK) {
        qs_mem_free(writer);
        return err;
    }
    *out = writer;
    return QS_OK;
}

static qs_err refuse_late(const qs_safetensors_writer *writer, const char *name)
{
    return writer->header == NULL
               ? QS_OK
               : qs_fail(QS_E_USAGE, "write %s: \"%.64s\" came after the first tensor's data",
                         writer->file.path, name);
}

qs_err qs_safetensors_writer_metadata(qs_safetensors_writer *writer, const char *key, const char *value)
{
    qs_err err = refuse_late(writer, key);
    if (err != QS_OK) return err;
    if (writer->metadata == NULL) writer->metadata = json_object();
    if (json_object_set_new(writer->metadata, key, json_string(value)) != 0)
        return qs_fail(QS_E_INPUT, "write %s: metadata \"%.64s\" is not UTF-8", writer->file.path, key);
    return QS_OK;
}

static entry *find(const qs_safetensors_writer *writer, const char *name)
{
    for (int64_t i = 0; i < writer->n_entries; i++)
        if (strcmp(writer->entries[i].name, name) == 0) return &writer->entries[i];
    return NULL;
}

static qs_err reserve(qs_safetensors_writer *writer)
{
    if (writer->n_entries < writer->capacity) return QS_OK;
    int64_t capacity = writer->capacity > 0 ? 2 * writer->capacity : 64;
    entry *entries;
    qs_err err = QS_NEW(entries, capacity, "tensors to write");
    if (err != QS_OK) return err;
    if (writer->n_entries > 0) memcpy(entries, writer->entries, (size_t)writer->n_entries * sizeof *entries);
    qs_mem_free(writer->entries);
    writer->entries = entries;
    writer->capacity = capacity;
    return QS_OK;
}

qs_err qs_safetensors_writer_declare(qs_safetensors_writer *writer, const char *name, qs_safetensor_type type,
                                     int n_dims, const int64_t *shape)
{
    const char *path = writer->file.path;
    entry added = {.type = type, .n_dims = n_dims, .bytes = element_bytes(type)};
    qs_err err = refuse_late(writer, name);
    if (err != QS_OK) return err;
    if (added.bytes == 0)
        return qs_fail(QS_E_UNSUPPORTED, "write %s: tensor %.200s is of a type that does not fill bytes",
                       path, name);
    if (n_dims < 0 || n_dims > QS_SAFETENSOR_DIMS_MAX)
        return qs_fail(QS_E_INPUT, "write %s: tensor %.200s has %d dimensions, at most %d are possible", path,
                       name, n_dims, QS_SAFETENSOR_DIMS_MAX);
    for (int i = 0; i < n_dims; i++) {
        added.shape[i] = shape[i];
        if (shape[i] < 0 || __builtin_mul_overflow(added.bytes, (size_t)shape[i], &added.bytes))
            return qs_fail(QS_E_INPUT, "write %s: dimension %d of tensor %.200s is %lld", path, i, name,
                           (long long)shape[i]);
    }
    if (find(writer, name) != NULL)
        return qs_fail(QS_E_INPUT, "write %s: tensor %.200s is there already", path, name);
    err = reserve(writer);
    if (err != QS_OK) return err;
    added.name = strdup(name);
    if (added.name == NULL) return qs_fail(QS_E_RESOURCE, "write %s: out of memory", path);
    writer->entries[writer->n_entries++] = added;
    return QS_OK;
}

static int compare_entries(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    size_t x_bytes = element_bytes(x->type), y_bytes = element_bytes(y->type);
    if (x_bytes != y_bytes) return x_bytes > y_bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static json_t *describe(const entry *e)
{
    json_t *shape = json_array();
    for (int i = 0; i < e->n_dims; i++) (void)json_array_append_new(shape, json_integer(e->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", qs_safetensor_type_name(e->type), "shape", shape,
                     "data_offsets", (json_int_t)e->offset, (json_int_t)(e->offset + e->bytes));
}

/* Offsets are known once every tensor is; the text keeps the order of the data. */
static qs_err make_header(qs_safetensors_writer *writer)
{
    qs_err err = QS_OK;
    json_t *root = json_object();
    size_t offset = 0;
    bool fine = root != NULL;
    if (writer->n_entries > 0)
        qsort(writer->entries, (size_t)writer->n_entries, sizeof *writer->entries, compare_entries);
    if (writer->metadata != NULL) fine = fine && json_object_set(root, "__metadata__", writer->metadata) == 0;
    for (int64_t i = 0; i < writer->n_entries; i++) {
        entry *e = &writer->entries[i];
        e->offset = offset;
        offset += e->bytes;
        fine = fine && json_object_set_new(root, e->name, describe(e)) == 0;
    }
    char *text = fine ? json_dumps(root, JSON_COMPACT) : NULL;
    if (text == NULL) {
        err = qs_fail(QS_E_INPUT, "write %s: a tensor's name is not UTF-8", writer->file.path);
        goto out;
    }
    size_t bytes = strlen(text);
    writer->header_bytes = (bytes + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN;
    QS_TRY(QS_NEW(writer->header, writer->header_bytes + 1, "safetensors header"));
    memset(writer->header, ' ', writer->header_bytes);
    memcpy(writer->header, text, bytes);
out:
    free(text);
    json_decref(root);
    return err;
}

static qs_err write_bytes(qs_safetensors_writer *writer, size_t position, const void *data, size_t bytes)
{
    if (position != writer->position && fseeko(writer->file.stream, (off_t)position, SEEK_SET) != 0)
        return qs_fail(QS_E_RESOURCE, "write %s: %s", writer->file.path, strerror(errno));
    if (fwrite(data, 1, bytes, writer->file.stream) != bytes)
        return qs_fail(QS_E_RESOURCE, "write %s: %s", writer->file.path, strerror(errno));
    writer->position = position + bytes;
    return QS_OK;
}

static qs_err begin_data(qs_safetensors_writer *writer)
{
    uint8_t length[LENGTH_BYTES];
    qs_err err;
    if (writer->header != NULL) return QS_OK;
    QS_TRY(make_header(writer));
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (uint8_t)(writer->header_bytes >> 8 * i);
    QS_TRY(write_bytes(writer, 0, length, LENGTH_BYTES));
    QS_TRY(write_bytes(writer, LENGTH_BYTES, writer->header, writer->header_bytes));
out:
    return err;
}

qs_err qs_safetensors_writer_put(qs_safetensors_writer *writer, const char *name, const void *data,
                                 size_t bytes)
{
    qs_err err = begin_data(writer);
    if (err != QS_OK) return err;
    entry *e = find(writer, name);
    if (e == NULL)
        return qs_fail(QS_E_INPUT, "write %s: tensor %.200s was not declared", writer->file.path, name);
    if (bytes > e->bytes - e->n_put)
        return qs_fail(QS_E_INPUT, "write %s: tensor %.200s takes %zu bytes, not %zu", writer->file.path,
                       name, e->bytes, e->n_put + bytes);
    err = write_bytes(writer, LENGTH_BYTES + writer->header_bytes + e->offset + e->n_put, data, bytes);
    if (err == QS_OK) e->n_put += bytes;
    return err;
}

size_t qs_safetensors_writer_bytes(const qs_safetensors_writer *writer)
{
    size_t bytes = LENGTH_BYTES + writer->header_bytes;
    for (int64_t i = 0; i < writer->n_entries; i++) bytes += writer->entries[i].bytes;
    return bytes;
}

static void destroy(qs_safetensors_writer *writer)
{
    for (int64_t i = 0; i < writer->n_entries; i++) free(writer->entries[i].name);
    qs_mem_free(writer->entries);
    qs_mem_free(writer->header);
    json_decref(writer->metadata);
    qs_mem_free(writer);
}

qs_err qs_safetensors_writer_publish(qs_safetensors_writer *writer)
{
    qs_err err = begin_data(writer);
    for (int64_t i = 0; err == QS_OK && i < writer->n_entries; i++)
        if (writer->entries[i].n_put < writer->entries[i].bytes)
            err = qs_fail(QS_E_INPUT, "write %s: tensor %.200s got %zu of %zu bytes", writer->file.path,
                          writer->entries[i].name, writer->entries[i].n_put, writer->entries[i].bytes);
    if (err == QS_OK) err = qs_file_writer_publish(&writer->file);
    qs_file_writer_discard(&writer->file);
    destroy(writer);
    return err;
}

void qs_safetensors_writer_discard(qs_safetensors_writer *writer)
{
    if (writer == NULL) return;
    qs_file_writer_discard(&writer->file);
    destroy(writer);
}
