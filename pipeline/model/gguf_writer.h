/* Writes a GGUF file, version 3, little endian: metadata and tensors are declared, then data come in the order of the
 * declarations, in pieces of any size. The file appears whole or not at all. (Source: ggml's docs/gguf.md.) */
#ifndef QS_MODEL_GGUF_WRITER_H
#define QS_MODEL_GGUF_WRITER_H

#include "model/gguf.h"

typedef struct qs_gguf_writer qs_gguf_writer;

QS_MUST_CHECK qs_err qs_gguf_writer_create(qs_gguf_writer **out, const char *path);

/* Metadata; the caller gives each key once. Errors: QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_gguf_writer_u32(qs_gguf_writer *writer, const char *key, uint32_t value);
QS_MUST_CHECK qs_err qs_gguf_writer_f32(qs_gguf_writer *writer, const char *key, float value);
QS_MUST_CHECK qs_err qs_gguf_writer_bool(qs_gguf_writer *writer, const char *key, bool value);
QS_MUST_CHECK qs_err qs_gguf_writer_text(qs_gguf_writer *writer, const char *key, const char *text, size_t bytes);
/* n items of 4 bytes of the type U32, I32 or F32. */
QS_MUST_CHECK qs_err qs_gguf_writer_words(qs_gguf_writer *writer, const char *key, qs_gguf_type type, const void *items,
                                          int64_t n);
QS_MUST_CHECK qs_err qs_gguf_writer_texts(qs_gguf_writer *writer, const char *key, const char *const *texts,
                                          const int64_t *lengths, int64_t n);
/* A value of another file, as it is. */
QS_MUST_CHECK qs_err qs_gguf_writer_copy(qs_gguf_writer *writer, const qs_gguf_kv *kv);

/* ne[n_dims], contiguous first. QS_E_INPUT for a name of 64 bytes or more and rows that are not whole blocks. */
QS_MUST_CHECK qs_err qs_gguf_writer_declare(qs_gguf_writer *writer, const char *name, qs_storage storage, int n_dims,
                                            const int64_t *ne);

/* The next bytes of tensor data; the first call writes what comes before them. QS_E_USAGE when tensors get
 * more than they hold or other than in their order. */
QS_MUST_CHECK qs_err qs_gguf_writer_put(qs_gguf_writer *writer, const char *name, const void *data, size_t bytes);

/* The writer is gone afterwards, also on failure. QS_E_USAGE when data are missing. */
QS_MUST_CHECK qs_err qs_gguf_writer_publish(qs_gguf_writer *writer);
void qs_gguf_writer_discard(qs_gguf_writer *writer); /* NULL is fine; leaves nothing behind */

#endif
