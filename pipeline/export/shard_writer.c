#include "export/shard_writer.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

enum { NAME_BYTES = 64 };
static const size_t shard_bytes_default = 5000000000u;

typedef struct entry {
    char *name;
    qs_safetensor_type type;
    int n_dims;
    int64_t shape[QS_SAFETENSOR_DIMS_MAX];
    int64_t shard;
} entry;

struct qs_shard_writer {
    size_t shard_bytes, bytes, last_bytes; /* the last: of the shard that is being filled */
    entry *entries;
    int64_t n, capacity, n_shards;
    qs_safetensors_writer **shards; /* [n_shards] from begin on; NULL once published */
    json_t *places;                 /* name of a tensor -> number of its shard */
};

qs_err qs_shard_writer_create(qs_shard_writer **out, size_t shard_bytes)
{
    qs_shard_writer *w;
    qs_err err = QS_NEW(w, 1, "writer of shards");
    *out = w;
    if (err != QS_OK) return err;
    w->shard_bytes = shard_bytes > 0 ? shard_bytes : shard_bytes_default;
    w->places = json_object();
    return w->places != NULL ? QS_OK : qs_fail(QS_E_RESOURCE, "write tensors: out of memory");
}

qs_err qs_shard_writer_declare(qs_shard_writer *w, const char *name, qs_safetensor_type type, int n_dims,
                               const int64_t *shape)
{
    entry e = {.type = type, .n_dims = n_dims};
    size_t bytes = (size_t)qs_safetensor_type_bits(type) / 8;
    qs_err err;
    if (n_dims < 0 || n_dims > QS_SAFETENSOR_DIMS_MAX)
        return qs_fail(QS_E_USAGE, "declare tensor %s: %d dimensions", name, n_dims);
    for (int d = 0; d < n_dims; d++) {
        e.shape[d] = shape[d];
        bytes *= (size_t)shape[d]; /* the writer refuses what overflows */
    }
    if (w->n_shards == 0 || (w->last_bytes > 0 && w->last_bytes + bytes > w->shard_bytes)) {
        w->n_shards++;
        w->last_bytes = 0;
    }
    e.shard = w->n_shards - 1;
    w->last_bytes += bytes;
    w->bytes += bytes;
    QS_TRY(qs_mem_grow(&w->entries, w->n, &w->capacity, sizeof *w->entries, "table of tensors"));
    QS_TRY(QS_NEW(e.name, strlen(name) + 1, "name of a tensor"));
    memcpy(e.name, name, strlen(name) + 1);
    w->entries[w->n++] = e;
    if (json_object_set_new(w->places, name, json_integer((json_int_t)e.shard)) != 0)
        err = qs_fail(QS_E_RESOURCE, "declare tensor %s: out of memory", name);
out:
    return err;
}

size_t qs_shard_writer_bytes(const qs_shard_writer *w) { return w->bytes; }

static const char *shard_name(char name[NAME_BYTES], const qs_shard_writer *w, int64_t shard)
{
    if (w->n_shards == 1) (void)snprintf(name, NAME_BYTES, "model.safetensors");
    else
        (void)snprintf(name, NAME_BYTES, "model-%05lld-of-%05lld.safetensors", (long long)shard + 1,
                       (long long)w->n_shards);
    return name;
}

qs_err qs_shard_writer_begin(qs_shard_writer *w, const qs_out_dir *dir)
{
    char path[QS_PATH_BYTES], name[NAME_BYTES];
    qs_err err;
    QS_TRY(QS_NEW(w->shards, w->n_shards, "writers of shards"));
    for (int64_t i = 0; i < w->n_shards; i++) {
        QS_TRY(qs_path_format(path, "%s/%s", dir->part_path, shard_name(name, w, i)));
        QS_TRY(qs_safetensors_writer_create(&w->shards[i], path));
        QS_TRY(qs_safetensors_writer_metadata(w->shards[i], "format", "pt"));
    }
    for (int64_t i = 0; i < w->n; i++) {
        const entry *e = &w->entries[i];
        QS_TRY(qs_safetensors_writer_declare(w->shards[e->shard], e->name, e->type, e->n_dims, e->shape));
    }
out:
    return err;
}

qs_err qs_shard_writer_put(qs_shard_writer *w, const char *name, const void *data, size_t bytes)
{
    const json_t *place = json_object_get(w->places, name);
    if (place == NULL) return qs_fail(QS_E_USAGE, "write tensor %s: it was not declared", name);
    return qs_safetensors_writer_put(w->shards[json_integer_value(place)], name, data, bytes);
}

static qs_err put_index(const qs_shard_writer *w, const qs_out_dir *dir)
{
    char name[NAME_BYTES];
    const char *key;
    json_t *place, *map = json_object();
    int failed = 0;
    json_object_foreach(w->places, key, place)
        failed |= json_object_set_new(map, key, json_string(shard_name(name, w, json_integer_value(place))));
    json_t *root = json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)w->bytes, "weight_map", map);
    qs_err err = failed != 0 || root == NULL ? qs_fail(QS_E_RESOURCE, "write the index of tensors: out of memory")
                                             : qs_out_dir_put_json(dir, "model.safetensors.index.json", root);
    json_decref(root);
    return err;
}

qs_err qs_shard_writer_finish(qs_shard_writer *w, const qs_out_dir *dir)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < w->n_shards; i++) {
        qs_safetensors_writer *shard = w->shards[i];
        w->shards[i] = NULL;
        QS_TRY(qs_safetensors_writer_publish(shard));
    }
    if (w->n_shards > 1) QS_TRY(put_index(w, dir));
out:
    return err;
}

void qs_shard_writer_destroy(qs_shard_writer *w)
{
    if (w == NULL) return;
    for (int64_t i = 0; w->shards != NULL && i < w->n_shards; i++) qs_safetensors_writer_discard(w->shards[i]);
    for (int64_t i = 0; i < w->n; i++) qs_mem_free(w->entries[i].name);
    qs_mem_free(w->shards);
    qs_mem_free(w->entries);
    json_decref(w->places);
    qs_mem_free(w);
}
