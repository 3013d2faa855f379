/* The tensors of a Hugging Face directory: model.safetensors, or the shards that
 * model.safetensors.index.json lists, or the only *.safetensors file there is. */
#ifndef QS_MODEL_SHARDS_H
#define QS_MODEL_SHARDS_H

#include "model/mapped.h"
#include "model/safetensors.h"

typedef struct qs_shard {
    qs_mapped file;
    qs_safetensors tensors;
} qs_shard;

typedef struct qs_shard_entry {
    const qs_safetensor *tensor;
    const qs_shard *shard;
} qs_shard_entry;

typedef struct qs_shards {
    qs_shard *shards;
    int64_t n_shards;
    qs_shard_entry *entries; /* of all shards, sorted by name */
    int64_t n_entries;
} qs_shards;

/* Errors: QS_E_INPUT when a file is missing or bad, when the index names a tensor that its file lacks or a
 * file that is not a plain name, or when two shards hold the same name. On failure *out is empty. */
QS_MUST_CHECK qs_err qs_shards_open(qs_shards *out, const char *dir);
void qs_shards_close(qs_shards *shards);

/* NULL when there is none. */
const qs_shard_entry *qs_shards_find(const qs_shards *shards, const char *name);

#endif
