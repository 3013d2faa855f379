#include "model/gguf_writer.h"

#include <errno.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "model/dequant.h"
#include "model/textbuf.h"

enum { ALIGNMENT = 32 };

typedef struct entry {
    char name[QS_GGUF_NAME_BYTES];
    qs_storage storage;
    int n_dims;
    int64_t ne[QS_GGUF_DIMS_MAX];
    size_t bytes;
} entry;

struct qs_gguf_writer {
    qs_file_writer file;
    qs_textbuf metadata;
    uint64_t n_kvs;
    entry *entries;
    int64_t n, capacity;
    bool begun;
    int64_t at;     /* the tensor that is being filled */
    size_t n_put;   /* of its bytes */
};

qs_err qs_gguf_writer_create(qs_gguf_writer **out, const char *path)
{
    qs_gguf_writer *writer;
    *out = NULL;
    qs_err err = QS_NEW(writer, 1, "GGUF writer");
    if (err != QS_OK) return err;
    err = qs_file_writer_open(&writer->file, path);
    if (err == QS_OK) *out = writer;
    else qs_mem_free(writer);
    return err;
}

/* ---- metadata ---- */

static qs_err add(qs_gguf_writer *w, const void *data, size_t bytes)
{
    return bytes > 0 ? qs_textbuf_append(&w->metadata, data, bytes) : QS_OK;
}

static qs_err add_u32(qs_gguf_writer *w, uint32_t value) { return add(w, &value, sizeof value); }

static qs_err add_string(qs_gguf_writer *w, const char *text, size_t bytes)
{
    uint64_t length = bytes;
    qs_err err = add(w, &length, sizeof length);
    return err == QS_OK ? add(w, text, bytes) : err;
}

static qs_err begin_value(qs_gguf_writer *w, const char *key, size_t key_bytes, qs_gguf_type type)
{
    qs_err err;
    if (w->begun) return qs_fail(QS_E_USAGE, "write %s: a key came after the first tensor's data", w->file.path);
    QS_TRY(add_string(w, key, key_bytes));
    QS_TRY(add_u32(w, (uint32_t)type));
    w->n_kvs++;
out:
    return err;
}

static qs_err put_value(qs_gguf_writer *w, const char *key, qs_gguf_type type, const void *value, size_t bytes)
{
    qs_err err = begin_value(w, key, strlen(key), type);
    return err == QS_OK ? add(w, value, bytes) : err;
}

qs_err qs_gguf_writer_u32(qs_gguf_writer *w, const char *key, uint32_t value)
{
    return put_value(w, key, QS_GGUF_U32, &value, sizeof value);
}

qs_err qs_gguf_writer_f32(qs_gguf_writer *w, const char *key, float value)
{
    return put_value(w, key, QS_GGUF_F32, &value, sizeof value);
}

qs_err qs_gguf_writer_bool(qs_gguf_writer *w, const char *key, bool value)
{
    uint8_t byte = value;
    return put_value(w, key, QS_GGUF_BOOL, &byte, sizeof byte);
}

qs_err qs_gguf_writer_text(qs_gguf_writer *w, const char *key, const char *text, size_t bytes)
{
    qs_err err = begin_value(w, key, strlen(key), QS_GGUF_STRING);
    return err == QS_OK ? add_string(w, text, bytes) : err;
}

static qs_err begin_array(qs_gguf_writer *w, const char *key, size_t key_bytes, qs_gguf_type type, int64_t n)
{
    uint64_t length = (uint64_t)n;
    qs_err err;
    QS_TRY(begin_value(w, key, key_bytes, QS_GGUF_ARRAY));
    QS_TRY(add_u32(w, (uint32_t)type));
    QS_TRY(add(w, &length, sizeof length));
out:
    return err;
}

qs_err qs_gguf_writer_words(qs_gguf_writer *w, const char *key, qs_gguf_type type, const void *items, int64_t n)
{
    qs_err err = begin_array(w, key, strlen(key), type, n);
    return err == QS_OK ? add(w, items, (size_t)n * sizeof(uint32_t)) : err;
}

qs_err qs_gguf_writer_texts(qs_gguf_writer *w, const char *key, const char *const *texts, const int64_t *lengths,
                            int64_t n)
{
    qs_err err = begin_array(w, key, strlen(key), QS_GGUF_STRING, n);
    for (int64_t i = 0; i < n && err == QS_OK; i++) err = add_string(w, texts[i], (size_t)lengths[i]);
    return err;
}

static qs_err copy_array(qs_gguf_writer *w, const qs_gguf_kv *kv)
{
    const uint8_t *end = kv->data;
    qs_err err = begin_array(w, kv->key, (size_t)kv->key_bytes, kv->item_type, kv->n);
    if (err != QS_OK) return err;
    if (kv->item_type != QS_GGUF_STRING) return add(w, kv->data, (size_t)kv->n * qs_gguf_value_bytes(kv->item_type));
    for (int64_t i = 0; i < kv->n; i++) {
        uint64_t length;
        memcpy(&length, end, sizeof length);
        end += sizeof length + length;
    }
    return add(w, kv->data, (size_t)(end - kv->data));
}

qs_err qs_gguf_writer_copy(qs_gguf_writer *w, const qs_gguf_kv *kv)
{
    if (kv->type == QS_GGUF_ARRAY) return copy_array(w, kv);
    qs_err err = begin_value(w, kv->key, (size_t)kv->key_bytes, kv->type);
    if (err != QS_OK) return err;
    if (kv->type == QS_GGUF_STRING) return add_string(w, (const char *)kv->data, (size_t)kv->n);
    return add(w, kv->data, qs_gguf_value_bytes(kv->type));
}

/* ---- tensors ---- */

qs_err qs_gguf_writer_declare(qs_gguf_writer *w, const char *name, qs_storage storage, int n_dims, const int64_t *ne)
{
    const qs_storage_row *row = qs_storage_get(storage);
    entry e = {.storage = storage, .n_dims = n_dims};
    int64_t n_rows = 1;
    if (w->begun) return qs_fail(QS_E_USAGE, "write %s: tensor %s came after the first one's data", w->file.path, name);
    if (strlen(name) >= sizeof e.name || n_dims < 1 || n_dims > QS_GGUF_DIMS_MAX || ne[0] % row->block_elems != 0)
        return qs_fail(QS_E_INPUT,
                       "write %s: tensor %s of %d dimensions, rows of %lld: names have up to 63 bytes, and rows "
                       "are whole blocks of %s, which are %lld long",
                       w->file.path, name, n_dims, (long long)ne[0], row->name, (long long)row->block_elems);
    memcpy(e.name, name, strlen(name) + 1);
    for (int d = 0; d < n_dims; d++) {
        e.ne[d] = ne[d];
        if (d > 0) n_rows *= ne[d];
    }
    e.bytes = qs_storage_bytes(storage, ne[0]) * (size_t)n_rows;
    qs_err err = qs_mem_grow(&w->entries, w->n, &w->capacity, sizeof *w->entries, "table of tensors");
    if (err != QS_OK) return err;
    w->entries[w->n++] = e;
    return QS_OK;
}

static size_t padded(size_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

static qs_err write_bytes(qs_gguf_writer *w, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, w->file.stream) == bytes) return QS_OK;
    return qs_fail(QS_E_RESOURCE, "write %s: %s", w->file.path, strerror(errno));
}

static qs_err write_padding(qs_gguf_writer *w, size_t bytes)
{
    static const char zeros[ALIGNMENT];
    return write_bytes(w, zeros, padded(bytes) - bytes);
}

/* The table of tensors goes behind the metadata in the same buffer. */
static qs_err add_table(qs_gguf_writer *w)
{
    uint64_t offset = 0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < w->n; i++) {
        const entry *e = &w->entries[i];
        QS_TRY(add_string(w, e->name, strlen(e->name)));
        QS_TRY(add_u32(w, (uint32_t)e->n_dims));
        QS_TRY(add(w, e->ne, (size_t)e->n_dims * sizeof *e->ne));
        QS_TRY(add_u32(w, qs_gguf_type_number(e->storage)));
        QS_TRY(add(w, &offset, sizeof offset));
        offset += padded(e->bytes);
    }
out:
    return err;
}

static qs_err begin_data(qs_gguf_writer *w)
{
    uint8_t head[24] = {'G', 'G', 'U', 'F', 3};
    uint64_t n_tensors = (uint64_t)w->n;
    qs_err err;
    if (w->begun) return QS_OK;
    QS_TRY(add_table(w));
    w->begun = true;
    memcpy(head + 8, &n_tensors, sizeof n_tensors);
    memcpy(head + 16, &w->n_kvs, sizeof w->n_kvs);
    QS_TRY(write_bytes(w, head, sizeof head));
    if (w->metadata.bytes > 0) QS_TRY(write_bytes(w, w->metadata.data, w->metadata.bytes));
    QS_TRY(write_padding(w, sizeof head + w->metadata.bytes));
out:
    return err;
}

qs_err qs_gguf_writer_put(qs_gguf_writer *w, const char *name, const void *data, size_t bytes)
{
    qs_err err;
    QS_TRY(begin_data(w));
    if (w->at == w->n || strcmp(w->entries[w->at].name, name) != 0 || bytes > w->entries[w->at].bytes - w->n_put)
        return qs_fail(QS_E_USAGE, "write %s: %zu bytes of tensor %s do not come next", w->file.path, bytes, name);
    const entry *e = &w->entries[w->at];
    QS_TRY(write_bytes(w, data, bytes));
    w->n_put += bytes;
    if (w->n_put == e->bytes) {
        QS_TRY(write_padding(w, e->bytes));
        w->at++;
        w->n_put = 0;
    }
out:
    return err;
}

/* ---- the end ---- */

static void destroy(qs_gguf_writer *w)
{
    qs_textbuf_free(&w->metadata);
    qs_mem_free(w->entries);
    qs_mem_free(w);
}

qs_err qs_gguf_writer_publish(qs_gguf_writer *w)
{
    qs_err err = begin_data(w);
    if (err == QS_OK && w->at < w->n)
        err = qs_fail(QS_E_USAGE, "write %s: data of tensor %s are missing", w->file.path, w->entries[w->at].name);
    if (err == QS_OK) err = qs_file_writer_publish(&w->file);
    qs_file_writer_discard(&w->file);
    destroy(w);
    return err;
}

void qs_gguf_writer_discard(qs_gguf_writer *w)
{
    if (w == NULL) return;
    qs_file_writer_discard(&w->file);
    destroy(w);
}
