/* Models in directories of Hugging Face (weights.h): every tensor is found, and none is left over. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "model/weights_impl.h"

typedef struct search {
    const qs_shards *shards;
    const qs_foreign *foreign;
    bool *used; /* [n_entries] */
} search;

static const qs_shard_entry *use(search *s, const char *name)
{
    const qs_shard_entry *entry = qs_shards_find(s->shards, name);
    if (entry != NULL) s->used[entry - s->shards->entries] = true;
    return entry;
}

/* "<prefix>.weight" in the layout of a checkpoint: finds its mark and marks all that belongs to it. */
static bool find_foreign(search *s, const char *name, qs_found *found)
{
    char leaf[QS_TENSOR_NAME_BYTES + 64];
    size_t prefix = strlen(name) - strlen(".weight");
    if (s->foreign == NULL || strlen(name) < strlen(".weight") || strcmp(name + prefix, ".weight") != 0) return false;
    (void)snprintf(leaf, sizeof leaf, "%.*s%s", (int)prefix, name, s->foreign->mark);
    const qs_shard_entry *mark = qs_shards_find(s->shards, leaf);
    if (mark == NULL) return false;
    for (const char *const *l = s->foreign->leaves; *l != NULL; l++) {
        (void)snprintf(leaf, sizeof leaf, "%.*s%s", (int)prefix, name, *l);
        (void)use(s, leaf);
    }
    *found = (qs_found){.name = mark->tensor->name, .file = &mark->shard->file};
    return true;
}

static qs_err find_tensor(void *context, const char *name, qs_found *found)
{
    static const struct {
        qs_safetensor_type type;
        qs_storage storage;
    } storages[] = {{QS_ST_F32, QS_STORE_F32}, {QS_ST_F16, QS_STORE_F16}, {QS_ST_BF16, QS_STORE_BF16}};
    search *s = context;
    *found = (qs_found){0};
    if (find_foreign(s, name, found)) return QS_OK;
    const qs_shard_entry *entry = use(s, name);
    if (entry == NULL) return QS_OK;
    const qs_safetensor *tensor = entry->tensor;
    size_t i = 0, n = sizeof storages / sizeof storages[0];
    while (i < n && storages[i].type != tensor->type) i++;
    if (i == n)
        return qs_fail(QS_E_UNSUPPORTED, "open %s: tensor %s has dtype %s; models are F32, F16 or BF16",
                       entry->shard->file.path, name, qs_safetensor_type_name(tensor->type));
    *found = (qs_found){
        .name = tensor->name,
        .storage = storages[i].storage,
        .n_dims = tensor->n_dims,
        .shape = {tensor->shape[0], tensor->shape[1]},
        .data = tensor->data,
        .bytes = tensor->bytes,
        .file = &entry->shard->file,
    };
    return QS_OK;
}

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static bool is_zero(const qs_safetensor *tensor)
{
    size_t i = 0;
    while (i < tensor->bytes && tensor->data[i] == 0) i++;
    return i == tensor->bytes;
}

/* A tied head is sometimes written out, and then the embedding stands for it. Where the two differ, some runtimes take
 * the head and others the embedding, so neither would be the model that somebody serves. */
static qs_err check_written_head(const qs_model *model)
{
    const qs_shard_entry *head = qs_shards_find(&model->shards, "lm_head.weight");
    const qs_shard_entry *embedding = qs_shards_find(&model->shards, "model.embed_tokens.weight");
    if (!model->config.tied_head || head == NULL || embedding == NULL) return QS_OK;
    const qs_safetensor *a = head->tensor, *b = embedding->tensor;
    bool same = a->type == b->type && a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
    qs_file_map_release(&head->shard->file.map, a->data, a->bytes); /* they count as this process's memory */
    qs_file_map_release(&embedding->shard->file.map, b->data, b->bytes);
    if (same) return QS_OK;
    return qs_fail(QS_E_INPUT,
                   "open %s: the configuration ties the head to the embedding, but tensor lm_head.weight is another;"
                   " set \"tie_word_embeddings\" to false in config.json, or leave the tensor out",
                   head->shard->file.path);
}

/* Tensors that a file may carry without a meaning: old checkpoints store the rotary table, and a tied head is
 * sometimes written out (check_written_head). */
static bool may_be_left(const qs_model *model, const qs_safetensor *tensor)
{
    const char *name = tensor->name;
    /* Loaders of quantised checkpoints make a bias for every linear and save it again, all zeros. */
    if (model->foreign != NULL && ends_with(name, ".bias") && is_zero(tensor)) return true;
    return ends_with(name, "rotary_emb.inv_freq") || (model->config.tied_head && strcmp(name, "lm_head."
                                                                                              "weight") == 0);
}

/* A tensor that nothing uses means that the model computes something we would leave out. */
static qs_err check_unused(const qs_model *model, const search *s)
{
    for (int64_t i = 0; i < s->shards->n_entries; i++) {
        const qs_shard_entry *entry = &s->shards->entries[i];
        if (!s->used[i] && !may_be_left(model, entry->tensor))
            return qs_fail(QS_E_UNSUPPORTED,
                           "open %s: tensor %s is not part of a %s model with this configuration",
                           entry->shard->file.path, entry->tensor->name, model->config.architecture);
    }
    return QS_OK;
}

/* Some families, and some tools for others, put linears that share an input into one. */
static qs_err check_fused(const qs_shards *shards)
{
    static const char *const names[] = {".qkv_proj.", ".gate_up_proj.", ".W_pack.", ".Wqkv.", ".query_key_value.",
                                        ".c_attn.", NULL};
    for (int64_t i = 0; i < shards->n_entries; i++)
        for (const char *const *name = names; *name != NULL; name++)
            if (strstr(shards->entries[i].tensor->name, *name) != NULL)
                return qs_fail(
                    QS_E_UNSUPPORTED,
                    "open %s: tensor %s is of a fused linear, which is not read; give a model whose q, k, v, "
                    "gate and up are tensors of their own",
                    shards->entries[i].shard->file.path, shards->entries[i].tensor->name);
    return QS_OK;
}

static qs_err read_config(qs_model *model)
{
    char path[QS_PATH_BYTES];
    json_t *root = NULL;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/config.json", model->path));
    QS_TRY(qs_json_load(&root, path));
    QS_TRY(qs_model_config_from_json(&model->config, root, path));
    const json_t *quantised = json_object_get(root, "quantization_config");
    if (json_is_object(quantised) && model->foreign == NULL) {
        const char *method = json_string_value(json_object_get(quantised, "quant_method"));
        err = qs_fail(QS_E_UNSUPPORTED,
                      "open %s: the model is quantised already (%.32s); give the model it was made"
                      " from, and evaluate this one with --checkpoint",
                      model->path, method == NULL ? "?" : method);
    }
out:
    json_decref(root);
    return err;
}

/* A head in low bits is not the embedding: tools that make one leave the configuration of a tied model as it was. */
static void untie(qs_model *model)
{
    char mark[QS_TENSOR_NAME_BYTES];
    if (model->foreign == NULL || !model->foreign->head) return;
    (void)snprintf(mark, sizeof mark, "lm_head%s", model->foreign->mark);
    if (qs_shards_find(&model->shards, mark) != NULL) model->config.tied_head = false;
}

qs_err qs_model_open_hf(qs_model *model)
{
    search s = {.shards = &model->shards, .foreign = model->foreign};
    qs_err err;
    QS_TRY(read_config(model));
    QS_TRY(qs_shards_open(&model->shards, model->path));
    QS_TRY(check_fused(&model->shards));
    untie(model);
    QS_TRY(QS_NEW(s.used, model->shards.n_entries, "tensor marks"));
    QS_TRY(qs_model_bind(model, QS_NAMING_HF, find_tensor, &s));
    QS_TRY(check_unused(model, &s));
    QS_TRY(check_written_head(model));
out:
    qs_mem_free(s.used);
    return err;
}
