/* Writing safetensors: every tensor is declared first, then filled in any order and in pieces of any size;
 * the file appears whole or not at all. Header rules as in safetensors.h; like the format's own writer,
 * tensors lie by falling size of their elements and then by name, so that each one is aligned, and the header
 * is padded to 8. */
#ifndef QS_MODEL_SAFETENSORS_WRITER_H
#define QS_MODEL_SAFETENSORS_WRITER_H

#include "model/safetensors.h"

typedef struct qs_safetensors_writer qs_safetensors_writer;

/* Errors: QS_E_RESOURCE when the file cannot be made. */
QS_MUST_CHECK qs_err qs_safetensors_writer_create(qs_safetensors_writer **out, const char *path);

/* Text for "__metadata__"; transformers wants {"format": "pt"}. Before the first put. */
QS_MUST_CHECK qs_err qs_safetensors_writer_metadata(qs_safetensors_writer *writer, const char *key,
                                                    const char *value);

/* shape[n_dims], 0 dimensions for a scalar. Only types of whole bytes (QS_ST_F4 and F6 are QS_E_UNSUPPORTED).
 * Errors: QS_E_INPUT for a name given twice, bad UTF-8, a bad shape. Before the first put. */
QS_MUST_CHECK qs_err qs_safetensors_writer_declare(qs_safetensors_writer *writer, const char *name,
                                                   qs_safetensor_type type, int n_dims, const int64_t *shape);

/* The next `bytes` of a tensor's data, C order, little endian. Errors: QS_E_INPUT when it was not declared or
 * gets more than its shape holds, QS_E_RESOURCE when the disk refuses. */
QS_MUST_CHECK qs_err qs_safetensors_writer_put(qs_safetensors_writer *writer, const char *name,
                                               const void *data, size_t bytes);

/* Bytes of the finished file. */
size_t qs_safetensors_writer_bytes(const qs_safetensors_writer *writer);

/* QS_E_INPUT names a tensor that is not complete. The writer is gone afterwards, also on failure. */
QS_MUST_CHECK qs_err qs_safetensors_writer_publish(qs_safetensors_writer *writer);
void qs_safetensors_writer_discard(qs_safetensors_writer *writer); /* NULL is fine; leaves nothing behind */

#endif
