/* The tensors of a directory: model.safetensors, or shards with their index where one file would be too large. */
#ifndef QS_EXPORT_SHARD_WRITER_H
#define QS_EXPORT_SHARD_WRITER_H

#include "base/out_dir.h"
#include "model/safetensors_writer.h"

typedef struct qs_shard_writer qs_shard_writer;

/* shard_bytes: the size above which the next tensor opens a new file; 0 = 5 GB. */
QS_MUST_CHECK qs_err qs_shard_writer_create(qs_shard_writer **out, size_t shard_bytes);

/* As qs_safetensors_writer: declare all, begin, put, finish. Tensors are dealt out in the order of their
 * declaration. */
QS_MUST_CHECK qs_err qs_shard_writer_declare(qs_shard_writer *writer, const char *name, qs_safetensor_type type,
                                             int n_dims, const int64_t *shape);
size_t qs_shard_writer_bytes(const qs_shard_writer *writer); /* of all tensors */
QS_MUST_CHECK qs_err qs_shard_writer_begin(qs_shard_writer *writer, const qs_out_dir *dir);
QS_MUST_CHECK qs_err qs_shard_writer_put(qs_shard_writer *writer, const char *name, const void *data, size_t bytes);
/* Completes the files and writes the index. The writer is still to be destroyed. */
QS_MUST_CHECK qs_err qs_shard_writer_finish(qs_shard_writer *writer, const qs_out_dir *dir);
void qs_shard_writer_destroy(qs_shard_writer *writer); /* NULL is fine */

#endif
