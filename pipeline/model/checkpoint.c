#include "model/checkpoint.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"
#include "model/checkpoint_impl.h"
#include "model/dequant.h"

static const qs_checkpoint_layout *const layouts[] = {&qs_checkpoint_gptq, &qs_checkpoint_awq, &qs_checkpoint_bnb_4,
                                                      &qs_checkpoint_bnb_8, &qs_checkpoint_exl2, NULL};

enum { PREFIX_BYTES = QS_TENSOR_NAME_BYTES, NAME_BYTES = PREFIX_BYTES + 64 };

/* ---- what the documents say ---- */

/* The object, a new reference, and the file it stands in; NULL when no file has one. Older tools wrote a file
 * of its own. */
static qs_err find_config(json_t **out, char path[QS_PATH_BYTES], const char *dir)
{
    static const char *const names[] = {"config.json", "quantize_config.json", "quant_config.json"};
    qs_err err = QS_OK;
    *out = NULL;
    for (int i = 0; i < 3 && *out == NULL; i++) {
        json_t *root = NULL;
        QS_TRY(qs_path_format(path, "%s/%s", dir, names[i]));
        if (!qs_file_exists(path)) continue;
        QS_TRY(qs_json_load(&root, path));
        json_t *object = i == 0 ? json_object_get(root, "quantization_config") : root;
        if (json_is_object(object)) *out = json_incref(object);
        json_decref(root);
    }
out:
    return err;
}

/* ExLlamaV2 writes no quantization_config unless it is asked to: its tensors say what they are. */
static qs_err find_layout_by_tensors(const qs_checkpoint_layout **out, const char *dir)
{
    static const char mark[] = ".q_scale_max";
    qs_shards shards = {0};
    qs_err err = qs_shards_open(&shards, dir);
    for (int64_t i = 0; err == QS_OK && i < shards.n_entries; i++) {
        const char *name = shards.entries[i].tensor->name;
        size_t bytes = strlen(name);
        if (bytes > sizeof mark && strcmp(name + bytes - (sizeof mark - 1), mark) == 0) *out = &qs_checkpoint_exl2;
    }
    qs_shards_close(&shards);
    return err;
}

static qs_err find_layout(const qs_checkpoint_layout **out, const json_t *object, const char *path)
{
    /* Files of their own need not name the method: quantize_config.json is AutoGPTQ's, quant_config.json AutoAWQ's. */
    const char *method = strstr(path, "quant_config.json") != NULL ? "awq" : "gptq";
    char names[128] = "";
    qs_err err = qs_json_opt_string(&method, object, "quant_method", path);
    if (err != QS_OK) return err;
    for (int i = 0; layouts[i] != NULL; i++) {
        *out = layouts[i];
        if (strcmp(layouts[i]->method, method) == 0 && ((*out)->accepts == NULL || (*out)->accepts(object)))
            return QS_OK;
        if (i > 0 && strcmp(layouts[i]->method, layouts[i - 1]->method) == 0) continue;
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", i == 0 ? "" : ", ", layouts[i]->method);
    }
    return qs_fail(QS_E_UNSUPPORTED,
                   "open %s: checkpoints of the method \"%.32s\" are not read, only of %s and GGUF files",
                   path, method, names);
}

/* ---- the same model? ---- */

static qs_err differs(const qs_checkpoint *c, const char *what, double own, double wanted)
{
    return qs_fail(QS_E_INPUT,
                   "open checkpoint %s: %s is %g, of the model it is compared with %g; give the model that it was "
                   "made from",
                   qs_model_path(c->model), what, own, wanted);
}

static qs_err check_parent(const qs_checkpoint *c)
{
    const qs_model_config *a = qs_model_get_config(c->model), *b = qs_model_get_config(c->parent);
    const struct {
        const char *what;
        int64_t own, wanted;
    } counts[] = {
        {"the number of layers", a->n_layers, b->n_layers},
        {"the vocabulary", a->n_vocab, b->n_vocab},
        {"the model width", a->d_model, b->d_model},
        {"the MLP width", a->d_ff, b->d_ff},
        {"the number of heads", a->n_heads, b->n_heads},
        {"the number of key-value heads", a->n_kv_heads, b->n_kv_heads},
        {"the head width", a->head_dim, b->head_dim},
        {"the sliding window", a->sliding_window, b->sliding_window},
        {"biases of q, k and v (0 or 1)", a->qkv_bias, b->qkv_bias},
        {"a bias of o (0 or 1)", a->o_bias, b->o_bias},
        {"norms of q and k (0 or 1)", a->qk_norm, b->qk_norm},
    };
    float *own = NULL, *wanted = NULL;
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].own != counts[i].wanted)
            return differs(c, counts[i].what, (double)counts[i].own, (double)counts[i].wanted);
    if (fabs(a->norm_eps - b->norm_eps) > 1e-3 * b->norm_eps)
        return differs(c, "the norm epsilon", a->norm_eps, b->norm_eps);
    QS_TRY(QS_NEW(own, a->head_dim / 2, "frequencies"));
    QS_TRY(QS_NEW(wanted, a->head_dim / 2, "frequencies"));
    qs_model_rope_frequencies(c->model, own);
    qs_model_rope_frequencies(c->parent, wanted);
    for (int64_t i = 0; i < a->head_dim / 2; i++)
        if (fabsf(own[i] - wanted[i]) > 1e-4f * wanted[i]) {
            err = differs(c, "a frequency of the rotary embedding", (double)own[i], (double)wanted[i]);
            goto out;
        }
out:
    qs_mem_free(own);
    qs_mem_free(wanted);
    return err;
}

/* ---- facts ---- */

static void make_id(char id[QS_CHECKPOINT_TEXT_BYTES], const char *path)
{
    size_t end = strlen(path), start, n = 0;
    while (end > 1 && path[end - 1] == '/') end--;
    for (start = end; start > 0 && path[start - 1] != '/';) start--;
    for (; start < end && n + 1 < QS_CHECKPOINT_TEXT_BYTES; start++) {
        char ch = path[start];
        id[n++] = isalnum((unsigned char)ch) || strchr("._-", ch) != NULL ? ch : '_';
    }
    id[n] = '\0';
}

static bool is_foreign(const qs_checkpoint *c, qs_role role, int64_t layer)
{
    return c->layout != NULL && qs_model_stored_row(c->model, role, layer, 0) == NULL;
}

static const char *prefix_of(char prefix[PREFIX_BYTES], qs_role role, int64_t layer)
{
    (void)qs_role_tensor_name(prefix, QS_NAMING_HF, role, layer);
    prefix[strlen(prefix) - strlen(".weight")] = '\0';
    return prefix;
}

static int64_t stored_bits(const qs_checkpoint *c, qs_role role, int64_t layer)
{
    char prefix[PREFIX_BYTES], name[NAME_BYTES];
    int64_t bits = 0;
    if (!is_foreign(c, role, layer)) return (int64_t)qs_model_info(c->model, role, layer).bytes * 8;
    (void)prefix_of(prefix, role, layer);
    for (const char *const *leaf = c->layout->foreign.leaves; *leaf != NULL; leaf++) {
        (void)snprintf(name, sizeof name, "%s%s", prefix, *leaf);
        const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
        /* The index of groups counts where it says something. */
        if (entry != NULL && (strcmp(*leaf, ".g_idx") != 0 || c->config.act)) bits += (int64_t)entry->tensor->bytes * 8;
    }
    return bits;
}

static void count_linears(qs_checkpoint *c)
{
    qs_checkpoint_facts *f = &c->facts;
    for (int64_t layer = 0; layer < qs_model_get_config(c->model)->n_layers; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            qs_storage storage = qs_model_info(c->model, role, layer).storage;
            bool low = qs_storage_get(storage)->block_elems > 1;
            f->n_linears++;
            f->n_quantised += is_foreign(c, role, layer) || low;
            f->linear_bits += stored_bits(c, role, layer);
        }
    const qs_model_config *config = qs_model_get_config(c->model);
    if (is_foreign(c, QS_ROLE_HEAD, 0)) f->head_bits = stored_bits(c, QS_ROLE_HEAD, 0);
    else f->head_bits = config->tied_head ? 0 : config->n_vocab * config->d_model * 16; /* as it is deployed */
}

static void describe(qs_checkpoint *c)
{
    qs_checkpoint_facts *f = &c->facts;
    qs_storage storage;
    bool gguf = qs_model_get_gguf(c->model) != NULL;
    (void)qs_model_is_lattice(c->model, &storage);
    (void)snprintf(f->method, sizeof f->method, "%s", gguf ? "gguf" : c->layout != NULL ? c->layout->method : "dense");
    if (c->layout != NULL) {
        f->bits = c->config.bits;
        f->group_size = c->config.group_size;
        if (c->config.variant != NULL) (void)snprintf(f->variant, sizeof f->variant, "%s", c->config.variant);
        else
            (void)snprintf(f->variant, sizeof f->variant, "%s%s%s", c->config.sym ? "sym" : "asym",
                           c->config.act ? "-act" : "", c->config.dynamic != NULL ? "-dynamic" : "");
        return;
    }
    (void)snprintf(f->variant, sizeof f->variant, "%s", qs_storage_name(storage));
    f->bits = (int64_t)qs_storage_bits_per_weight(storage);
    if (qs_storage_get(storage)->block_elems > 1) f->group_size = qs_storage_get(storage)->block_elems;
}

static qs_err hash_files(qs_checkpoint *c)
{
    const qs_model *m = c->model;
    qs_hasher *hasher = NULL;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    const double numbers[] = {(double)c->config.bits, (double)c->config.group_size, c->config.sym, c->config.v1,
                              (double)c->config.compute, c->config.threshold};
    qs_hasher_add(hasher, numbers, sizeof numbers);
    for (int64_t layer = 0; c->config.dynamic != NULL && layer < qs_model_get_config(m)->n_layers; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            char prefix[PREFIX_BYTES];
            qs_checkpoint_config own = c->config;
            bool skips;
            qs_err found = qs_dynamic_find(c->config.dynamic, prefix_of(prefix, role, layer), &own, &skips);
            const double rule[] = {(double)own.bits, (double)own.group_size, own.sym, found == QS_OK};
            qs_hasher_add(hasher, rule, sizeof rule);
        }
    if (m->file.map.data != NULL) qs_hasher_add(hasher, m->file.map.data, m->file.map.bytes);
    for (int64_t i = 0; i < m->shards.n_shards; i++)
        qs_hasher_add(hasher, m->shards.shards[i].file.map.data, m->shards.shards[i].file.map.bytes);
    c->facts.digest = qs_hasher_finish(hasher);
    return QS_OK;
}

/* ---- opening ---- */

static qs_err open_directory(qs_checkpoint *c, const char *path)
{
    char file[QS_PATH_BYTES];
    json_t *object = NULL;
    qs_err err;
    QS_TRY(find_config(&object, file, path));
    if (object != NULL) {
        QS_TRY(find_layout(&c->layout, object, file));
    } else {
        QS_TRY(find_layout_by_tensors(&c->layout, path));
    }
    if (c->layout != NULL) QS_TRY(c->layout->read_config(&c->config, object, file));
    QS_TRY(qs_model_open_foreign(&c->model, path, c->layout != NULL ? &c->layout->foreign : NULL));
out:
    json_decref(object);
    return err;
}

qs_err qs_checkpoint_open(qs_checkpoint **out, const char *path, const qs_model *parent)
{
    qs_checkpoint *c = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(c, 1, "checkpoint"));
    c->parent = parent;
    c->layer = -1;
    QS_TRY(qs_path_is_dir(path) ? open_directory(c, path) : qs_model_open(&c->model, path));
    QS_TRY(check_parent(c));
    make_id(c->facts.id, path);
    if (c->layout != NULL && c->layout->settle != NULL) QS_TRY(c->layout->settle(c));
    describe(c);
    count_linears(c);
    QS_TRY(hash_files(c));
    *out = c;
    c = NULL;
out:
    qs_checkpoint_close(c);
    return err;
}

void qs_checkpoint_close(qs_checkpoint *c)
{
    if (c == NULL) return;
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        qs_packed_free(&c->packed[role]);
        qs_mem_free(c->dense[role]);
    }
    qs_packed_free(&c->head);
    qs_dynamic_destroy(c->config.dynamic);
    qs_model_close(c->model);
    qs_mem_free(c);
}

const qs_checkpoint_facts *qs_checkpoint_get_facts(const qs_checkpoint *c) { return &c->facts; }

const qs_model *qs_checkpoint_model(const qs_checkpoint *c) { return c->model; }

/* ---- the source ---- */

static qs_err load_linear(qs_checkpoint *c, int64_t layer, qs_role role)
{
    char prefix[PREFIX_BYTES];
    qs_tensor_info info = qs_model_info(c->model, role, layer);
    qs_packed *packed = &c->packed[role];
    bool done = false;
    qs_err err = QS_OK;
    qs_packed_free(packed);
    if (is_foreign(c, role, layer))
        return c->layout->load(c, prefix_of(prefix, role, layer), info.n_out, info.n_in, packed);
    if (qs_model_get_gguf(c->model) != NULL) QS_TRY(qs_checkpoint_gguf_load(c->model, role, layer, packed, &done));
    if (done) goto out;
    if (c->dense[role] == NULL) QS_TRY(QS_NEW(c->dense[role], info.n_out * info.n_in, "a linear of the checkpoint"));
    err = qs_model_read_f32(c->model, role, layer, c->dense[role]);
out:
    return err;
}

static qs_err get_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_checkpoint *c = context;
    if (layer != c->layer) {
        memset(c->loaded, 0, sizeof c->loaded);
        c->layer = layer;
    }
    if (!c->loaded[role]) {
        qs_err err = load_linear(c, layer, role);
        if (err != QS_OK) return err;
        c->loaded[role] = true;
    }
    qs_tensor_info info = qs_model_info(c->model, role, layer);
    const qs_packed *p = c->packed[role].codes != NULL ? &c->packed[role] : NULL;
    *desc = (qs_matrix_desc){.format = p != NULL ? QS_MATRIX_INT : QS_MATRIX_F32,
                             .n_out = info.n_out,
                             .n_in = info.n_in,
                             .packed = p,
                             .dense = p != NULL ? NULL : c->dense[role]};
    return QS_OK;
}

static qs_err get_vector(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found)
{
    const qs_checkpoint *c = context;
    (void)n; /* the same: the configurations were compared */
    *found = true;
    return qs_model_read_f32(c->model, role, layer, dst);
}

static qs_err get_head(void *context, qs_matrix_desc *desc)
{
    qs_checkpoint *c = context;
    char prefix[PREFIX_BYTES];
    qs_tensor_info info = qs_model_info(c->model, QS_ROLE_HEAD, 0);
    qs_packed *p = &c->head;
    qs_err err = p->codes != NULL
                     ? QS_OK
                     : c->layout->load(c, prefix_of(prefix, QS_ROLE_HEAD, 0), info.n_out, info.n_in, p);
    *desc = (qs_matrix_desc){.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    return err;
}

static qs_err describe_linear(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc)
{
    qs_checkpoint *c = context;
    char prefix[PREFIX_BYTES];
    qs_tensor_info info = qs_model_info(c->model, role, layer);
    qs_packed *p = &c->described;
    bool packed = is_foreign(c, role, layer);
    qs_err err = QS_OK;
    *p = (qs_packed){0};
    if (packed) QS_TRY(c->layout->describe(c, prefix_of(prefix, role, layer), info.n_out, info.n_in, p));
    else if (qs_model_get_gguf(c->model) != NULL) QS_TRY(qs_checkpoint_gguf_shape(c->model, role, layer, p, &packed));
    *desc = (qs_matrix_desc){.format = packed ? QS_MATRIX_INT : QS_MATRIX_F32, .n_out = info.n_out, .n_in = info.n_in,
                             .packed = packed ? p : NULL};
out:
    return err;
}

qs_linear_source qs_checkpoint_source(qs_checkpoint *c)
{
    return (qs_linear_source){.get = get_linear, .get_vector = get_vector, .context = c, .outer = c->model,
                              .get_head = is_foreign(c, QS_ROLE_HEAD, 0) ? get_head : NULL,
                              .describe = describe_linear};
}

/* ---- for the layouts ---- */

static const char *shape_text(char text[64], int n_dims, const int64_t *shape)
{
    if (n_dims == 1) (void)snprintf(text, 64, "[%lld]", (long long)shape[0]);
    else if (n_dims == 2) (void)snprintf(text, 64, "[%lld, %lld]", (long long)shape[0], (long long)shape[1]);
    else (void)snprintf(text, 64, "of %d dimensions", n_dims);
    return text;
}

qs_err qs_checkpoint_leaf(const qs_safetensor **out, const qs_checkpoint *c, const char *prefix, const qs_leaf *wanted,
                          const char *hint)
{
    char name[NAME_BYTES], has[64], needs[64];
    (void)snprintf(name, sizeof name, "%s%s", prefix, wanted->leaf);
    const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
    *out = NULL;
    if (entry == NULL && wanted->optional) return QS_OK;
    if (entry == NULL)
        return qs_fail(QS_E_INPUT, "read checkpoint %s: tensor %s is missing", qs_model_path(c->model), name);
    const qs_safetensor *t = entry->tensor;
    qs_err err = qs_mapped_check(&entry->shard->file);
    if (err != QS_OK) return err;
    if (t->type != wanted->type && t->type != wanted->also)
        return qs_fail(QS_E_INPUT, "read %s: tensor %s is of type %s, not %s", entry->shard->file.path, name,
                       qs_safetensor_type_name(t->type), qs_safetensor_type_name(wanted->type));
    bool same = t->n_dims == wanted->n_dims && t->shape[0] == wanted->shape[0] &&
                (t->n_dims == 1 || t->shape[1] == wanted->shape[1]);
    if (!same)
        return qs_fail(QS_E_INPUT, "read %s: tensor %s has the shape %s, where %s follows from the configuration%s",
                       entry->shard->file.path, name, shape_text(has, t->n_dims, t->shape),
                       shape_text(needs, wanted->n_dims, wanted->shape), hint);
    *out = t;
    return QS_OK;
}

/* Element i as f32, whatever floating type it has. */
static float element(const qs_safetensor *t, int64_t i)
{
    uint16_t half;
    float value;
    if (t->type == QS_ST_F32) {
        memcpy(&value, t->data + 4 * i, sizeof value);
        return value;
    }
    memcpy(&half, t->data + 2 * i, sizeof half);
    return t->type == QS_ST_BF16 ? qs_f32_from_bf16(half) : qs_f32_from_f16(half);
}

qs_err qs_checkpoint_scales(const qs_checkpoint *c, const char *prefix, qs_packed *out)
{
    char name[NAME_BYTES];
    (void)snprintf(name, sizeof name, "%s.scales", prefix);
    const qs_shard_entry *entry = qs_shards_find(&c->model->shards, name);
    const qs_safetensor *t = entry->tensor; /* its shape was checked */
    for (int64_t g = 0; g < out->n_groups; g++)
        for (int64_t o = 0; o < out->n_out; o++) {
            float value = element(t, g * out->n_out + o);
            uint16_t half = qs_f16_from_f32(value);
            if (!isfinite(value))
                return qs_fail(QS_E_NUMERIC, "read %s: tensor %s holds %g at group %lld, row %lld",
                               entry->shard->file.path, name, (double)value, (long long)g, (long long)o);
            if (qs_f32_from_f16(half) != value)
                return qs_fail(QS_E_UNSUPPORTED,
                               "read %s: tensor %s holds %.9g at group %lld, row %lld, which f16 does not; "
                               "only f16 scales are supported",
                               entry->shard->file.path, name, (double)value, (long long)g, (long long)o);
            out->scales[o * out->n_groups + g] = half;
        }
    return QS_OK;
}
