/* model.safetensors.index.json of a sharded directory. Two shards lie in it, two files that no index may reach
 * beside it and below it: what is opened must be a file of the directory itself, and every tensor in it readable. */
#include <sys/stat.h>

#include "model/shards.h"
#include "scratch_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const char index_name[] = "model.safetensors.index.json";
static const char *const shard_names[] = {"model-1.safetensors", "b.safetensors"};
static char top[QS_PATH_BYTES], dir[QS_PATH_BYTES + 8], below[QS_PATH_BYTES + 16];

static void clean(void)
{
    scratch_remove(dir, index_name);
    for (int i = 0; i < 2; i++) scratch_remove(dir, shard_names[i]);
    scratch_remove(below, shard_names[0]);
    scratch_remove(top, shard_names[0]);
    (void)remove(below);
    (void)remove(dir);
    (void)remove(top);
}

static void put_tensor(const char *path, const char *tensor)
{
    static const char zeros[8];
    char whole[2 * QS_PATH_BYTES];
    qs_safetensors_writer *writer;
    (void)snprintf(whole, sizeof whole, "%s/%s", path, tensor[0] == 'b' ? shard_names[1] : shard_names[0]);
    if (qs_safetensors_writer_create(&writer, whole) != QS_OK ||
        qs_safetensors_writer_declare(writer, tensor, QS_ST_F16, 1, (int64_t[]){4}) != QS_OK ||
        qs_safetensors_writer_put(writer, tensor, zeros, sizeof zeros) != QS_OK ||
        qs_safetensors_writer_publish(writer) != QS_OK)
        abort();
}

static void prepare(void)
{
    if (top[0] != '\0') return;
    scratch_dir(top);
    (void)snprintf(dir, sizeof dir, "%s/model", top);
    (void)snprintf(below, sizeof below, "%s/sub", dir);
    if (mkdir(dir, 0700) != 0 || mkdir(below, 0700) != 0) abort();
    put_tensor(dir, "a.weight");
    put_tensor(dir, "b.weight");
    put_tensor(below, "a.weight");
    put_tensor(top, "a.weight");
    (void)atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_shards shards;
    unsigned sum = 0;
    prepare();
    scratch_put(dir, index_name, data, bytes);
    if (qs_shards_open(&shards, dir) != QS_OK) return 0;
    for (int64_t i = 0; i < shards.n_shards; i++) {
        const char *path = shards.shards[i].file.path, *slash = strrchr(path, '/');
        if ((size_t)(slash - path) != strlen(dir) || strncmp(path, dir, strlen(dir)) != 0) __builtin_trap();
    }
    for (int64_t i = 0; i < shards.n_entries; i++) {
        const qs_safetensor *tensor = shards.entries[i].tensor;
        if (qs_shards_find(&shards, tensor->name) == NULL) __builtin_trap();
        for (size_t b = 0; b < tensor->bytes; b++) sum += ((const uint8_t *)tensor->data)[b];
    }
    qs_shards_close(&shards);
    return sum > 0;
}
