#include "model/shards.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { SHARDS_MAX = 512 }; /* each keeps a file open */

static const char single_name[] = "model.safetensors", index_name[] = "model.safetensors.index.json";

static qs_err open_shard(qs_shard *out, const char *dir, const char *file)
{
    char path[QS_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/%s", dir, file));
    QS_TRY(qs_mapped_open(&out->file, path));
    QS_TRY(qs_safetensors_parse(&out->tensors, out->file.map.data, out->file.map.bytes, out->file.path));
out:
    return err;
}

/* Without the customary name: a checkpoint of one file under another name, if there is exactly one. */
static qs_err open_only_file(qs_shards *out, const char *dir)
{
    char **names = NULL;
    int64_t n_names = 0;
    qs_err err;
    QS_TRY(qs_dir_list(&names, &n_names, dir, ".safetensors"));
    if (n_names != 1) {
        err = qs_fail(QS_E_INPUT, "open %s: neither %s nor %s is there, but %lld other safetensors files",
                      dir, single_name, index_name, (long long)n_names);
        goto out;
    }
    QS_TRY(QS_NEW(out->shards, 1, "shard table"));
    out->n_shards = 1;
    QS_TRY(open_shard(&out->shards[0], dir, names[0]));
out:
    qs_dir_list_free(names, n_names);
    return err;
}

static bool is_plain_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strchr(name, '/') == NULL;
}

/* The shard of that file, opened on first sight. The table has room for SHARDS_MAX. */
static qs_err find_or_open(const qs_shard **out, qs_shards *shards, const char *dir, const char *file,
                           const char *index_path)
{
    char path[QS_PATH_BYTES];
    qs_err err;
    if (!is_plain_name(file))
        return qs_fail(QS_E_INPUT, "read %s: \"%.128s\" is not a plain file name", index_path, file);
    QS_TRY(qs_path_format(path, "%s/%s", dir, file));
    for (int64_t i = 0; i < shards->n_shards; i++) {
        *out = &shards->shards[i];
        if (strcmp((*out)->file.path, path) == 0) return QS_OK;
    }
    if (shards->n_shards == SHARDS_MAX)
        return qs_fail(QS_E_INPUT, "read %s: more than %d files", index_path, SHARDS_MAX);
    qs_shard *fresh = &shards->shards[shards->n_shards++];
    QS_TRY(open_shard(fresh, dir, file));
    *out = fresh;
out:
    return err;
}

static qs_err open_index(qs_shards *out, const char *dir, const char *index_path)
{
    json_t *root = NULL;
    qs_err err;
    QS_TRY(qs_json_load(&root, index_path));
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        err = qs_fail(QS_E_INPUT, "read %s: \"weight_map\" is not an object with members", index_path);
        goto out;
    }
    QS_TRY(QS_NEW(out->shards, SHARDS_MAX, "shard table"));
    const char *name;
    json_t *file;
    json_object_foreach(map, name, file)
    {
        const qs_shard *shard = NULL;
        if (!json_is_string(file)) {
            err = qs_fail(QS_E_INPUT, "read %s: the file of tensor %.128s is not a string", index_path, name);
            goto out;
        }
        QS_TRY(find_or_open(&shard, out, dir, json_string_value(file), index_path));
        if (qs_safetensors_find(&shard->tensors, name) == NULL) {
            err = qs_fail(QS_E_INPUT, "read %s: tensor %.128s is not in %s, where the index puts it",
                          index_path, name, shard->file.path);
            goto out;
        }
    }
out:
    json_decref(root);
    return err;
}

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const qs_shard_entry *)a)->tensor->name, ((const qs_shard_entry *)b)->tensor->name);
}

static qs_err collect_entries(qs_shards *shards)
{
    int64_t n = 0;
    for (int64_t i = 0; i < shards->n_shards; i++) n += shards->shards[i].tensors.n_tensors;
    qs_err err = QS_NEW(shards->entries, n, "tensor index");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < shards->n_shards; i++) {
        const qs_shard *shard = &shards->shards[i];
        for (int64_t t = 0; t < shard->tensors.n_tensors; t++)
            shards->entries[shards->n_entries++] = (qs_shard_entry){.tensor = &shard->tensors.tensors[t],
                                                                    .shard = shard};
    }
    if (n > 0) qsort(shards->entries, (size_t)n, sizeof shards->entries[0], compare_entries);
    for (int64_t i = 1; i < n; i++)
        if (compare_entries(&shards->entries[i - 1], &shards->entries[i]) == 0)
            return qs_fail(QS_E_INPUT, "open %s: tensor %s is also in %s",
                           shards->entries[i].shard->file.path, shards->entries[i].tensor->name,
                           shards->entries[i - 1].shard->file.path);
    return QS_OK;
}

qs_err qs_shards_open(qs_shards *out, const char *dir)
{
    *out = (qs_shards){0};
    char path[QS_PATH_BYTES], index_path[QS_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/%s", dir, single_name));
    QS_TRY(qs_path_format(index_path, "%s/%s", dir, index_name));
    if (qs_file_exists(path)) {
        QS_TRY(QS_NEW(out->shards, 1, "shard table"));
        out->n_shards = 1;
        QS_TRY(open_shard(&out->shards[0], dir, single_name));
    } else if (qs_file_exists(index_path)) {
        QS_TRY(open_index(out, dir, index_path));
    } else {
        QS_TRY(open_only_file(out, dir));
    }
    QS_TRY(collect_entries(out));
out:
    if (err != QS_OK) qs_shards_close(out);
    return err;
}

void qs_shards_close(qs_shards *shards)
{
    for (int64_t i = 0; i < shards->n_shards; i++) {
        qs_safetensors_free(&shards->shards[i].tensors);
        qs_mapped_close(&shards->shards[i].file);
    }
    qs_mem_free(shards->entries);
    qs_mem_free(shards->shards);
    *shards = (qs_shards){0};
}

const qs_shard_entry *qs_shards_find(const qs_shards *shards, const char *name)
{
    if (shards->n_entries == 0) return NULL;
    qs_safetensor wanted = {.name = name};
    qs_shard_entry key = {.tensor = &wanted};
    return bsearch(&key, shards->entries, (size_t)shards->n_entries, sizeof key, compare_entries);
}
