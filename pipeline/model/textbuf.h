/* A growing run of bytes: the scratch text of the tokenizer's steps. Zero-initialise, then append. */
#ifndef QS_MODEL_TEXTBUF_H
#define QS_MODEL_TEXTBUF_H

#include <stddef.h>

#include "base/error.h"

typedef struct qs_textbuf {
    char *data; /* NULL until the first append */
    size_t bytes, capacity;
} qs_textbuf;

/* Room for `more` bytes after the present ones. Errors: QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_textbuf_reserve(qs_textbuf *buffer, size_t more);
/* `data` must not point into the buffer itself. */
QS_MUST_CHECK qs_err qs_textbuf_append(qs_textbuf *buffer, const void *data, size_t bytes);
void qs_textbuf_free(qs_textbuf *buffer);

#endif
