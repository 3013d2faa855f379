#include "model/textbuf.h"

#include <stdint.h>
#include <string.h>

#include "base/mem.h"

qs_err qs_textbuf_reserve(qs_textbuf *buffer, size_t more)
{
    if (buffer->data != NULL && more <= buffer->capacity - buffer->bytes) return QS_OK;
    if (more > SIZE_MAX / 4 || buffer->bytes > SIZE_MAX / 4)
        return qs_fail(QS_E_RESOURCE, "allocate tokenizer text: the size overflows the address space");
    size_t capacity = 2 * (buffer->bytes + more) + 64;
    char *data;
    qs_err err = qs_mem_alloc(&data, capacity, "tokenizer text");
    if (err != QS_OK) return err;
    if (buffer->bytes > 0) memcpy(data, buffer->data, buffer->bytes);
    qs_mem_free(buffer->data);
    buffer->data = data;
    buffer->capacity = capacity;
    return QS_OK;
}

qs_err qs_textbuf_append(qs_textbuf *buffer, const void *data, size_t bytes)
{
    qs_err err = qs_textbuf_reserve(buffer, bytes);
    if (err != QS_OK) return err;
    if (bytes > 0) memcpy(buffer->data + buffer->bytes, data, bytes);
    buffer->bytes += bytes;
    return QS_OK;
}

void qs_textbuf_free(qs_textbuf *buffer)
{
    qs_mem_free(buffer->data);
    *buffer = (qs_textbuf){0};
}
