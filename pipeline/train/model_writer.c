#include "train/model_writer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dtype.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/safetensors_writer.h"
#include "model/weights.h"

enum { TOKENIZER_BYTES_MAX = 1 << 28, PIECE = 16384 };

static qs_err write_text(const char *dir, const char *name, const char *text, size_t bytes)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/%s", dir, name);
    return err == QS_OK ? qs_file_write(path, text, bytes) : err;
}

static qs_err write_json(const char *dir, const char *name, const json_t *root)
{
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (text == NULL) return qs_fail(QS_E_RESOURCE, "write %s/%s: out of memory", dir, name);
    qs_err err = write_text(dir, name, text, strlen(text));
    free(text);
    return err;
}

static void set_token(json_t *root, const char *key, int32_t id)
{
    if (id >= 0) (void)json_object_set_new(root, key, json_integer(id));
}

static qs_err write_configs(const qs_model_writer *writer, const char *dir)
{
    qs_err err;
    json_t *config = json_deep_copy(writer->config), *generation = json_object();
    if (config == NULL || generation == NULL) {
        err = qs_fail(QS_E_RESOURCE, "write %s/config.json: out of memory", dir);
        goto out;
    }
    (void)json_object_set_new(config, "torch_dtype", json_string("float16"));
    (void)json_object_set_new(generation, "do_sample", json_false());
    json_t *both[] = {config, generation};
    for (int i = 0; i < 2; i++) {
        set_token(both[i], "bos_token_id", qs_tokenizer_bos(writer->tokenizer));
        set_token(both[i], "eos_token_id", qs_tokenizer_eos(writer->tokenizer));
    }
    QS_TRY(write_json(dir, "config.json", config));
    QS_TRY(write_json(dir, "generation_config.json", generation));
out:
    json_decref(config);
    json_decref(generation);
    return err;
}

static qs_err copy_file(const char *from, const char *dir, const char *name)
{
    char *text = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_file_read(&text, &bytes, from, TOKENIZER_BYTES_MAX));
    QS_TRY(write_text(dir, name, text, bytes));
out:
    qs_mem_free(text);
    return err;
}

static qs_err copy_tokenizer(const char *path, const char *dir)
{
    char neighbour[QS_PATH_BYTES];
    const char *slash = strrchr(path, '/');
    int n = slash != NULL ? (int)(slash - path) + 1 : 0;
    qs_err err;
    QS_TRY(copy_file(path, dir, "tokenizer.json"));
    QS_TRY(qs_path_format(neighbour, "%.*stokenizer_config.json", n, path));
    if (qs_file_exists(neighbour)) QS_TRY(copy_file(neighbour, dir, "tokenizer_config.json"));
out:
    return err;
}

static qs_err write_tensor(qs_safetensors_writer *file, const qs_train_tensor *t, const float *values)
{
    const float largest = 65504.0f; /* of f16 */
    uint16_t half[PIECE];
    int64_t n = t->n_out * t->n_in;
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t count = n - at < PIECE ? n - at : PIECE;
        for (int64_t i = at; i < at + count; i++)
            if (!(fabsf(values[i]) <= largest))
                return qs_fail(QS_E_NUMERIC, "write %s[%lld]: %g does not fit into f16", t->name,
                               (long long)i, (double)values[i]);
        qs_f16_from_f32_array(half, values + at, count);
        qs_err err = qs_safetensors_writer_put(file, t->name, half, (size_t)count * sizeof *half);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

static qs_err write_weights(const qs_train_layout *layout, const float *parameters, const char *dir)
{
    char path[QS_PATH_BYTES];
    qs_safetensors_writer *file = NULL;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/model.safetensors", dir));
    QS_TRY(qs_safetensors_writer_create(&file, path));
    QS_TRY(qs_safetensors_writer_metadata(file, "format", "pt"));
    for (int64_t i = 0; i < layout->n_tensors; i++) {
        const qs_train_tensor *t = &layout->tensors[i];
        int64_t shape[2] = {t->n_out, t->n_in};
        QS_TRY(qs_safetensors_writer_declare(file, t->name, QS_ST_F16, t->is_matrix ? 2 : 1,
                                             t->is_matrix ? shape : shape + 1));
    }
    for (int64_t i = 0; i < layout->n_tensors; i++)
        QS_TRY(write_tensor(file, &layout->tensors[i], parameters + layout->tensors[i].first));
    qs_safetensors_writer *publishing = file;
    file = NULL;
    QS_TRY(qs_safetensors_writer_publish(publishing));
out:
    qs_safetensors_writer_discard(file);
    return err;
}

qs_err qs_model_write(const qs_model_writer *writer, const qs_train_layout *layout, const float *parameters,
                      const char *dir)
{
    qs_err err;
    QS_TRY(qs_dir_create(dir));
    QS_TRY(write_configs(writer, dir));
    QS_TRY(copy_tokenizer(writer->tokenizer_path, dir));
    QS_TRY(write_weights(layout, parameters, dir));
out:
    return err;
}

/* ---- the other way ---- */

/* Roles in the order of the layout's tensors of a layer. */
static const qs_role layer_roles[] = {QS_ROLE_ATTN_NORM, QS_ROLE_Q,    QS_ROLE_K,  QS_ROLE_V,   QS_ROLE_O,
                                      QS_ROLE_MLP_NORM,  QS_ROLE_GATE, QS_ROLE_UP, QS_ROLE_DOWN};
enum { N_LAYER_ROLES = sizeof layer_roles / sizeof *layer_roles };

static qs_err check_same_shape(const qs_model_config *a, const qs_model_config *b, const char *path)
{
    const struct {
        const char *name;
        int64_t a, b;
    } rows[] = {{"num_hidden_layers", a->n_layers, b->n_layers},
                {"vocab_size", a->n_vocab, b->n_vocab},
                {"hidden_size", a->d_model, b->d_model},
                {"intermediate_size", a->d_ff, b->d_ff},
                {"num_attention_heads", a->n_heads, b->n_heads},
                {"num_key_value_heads", a->n_kv_heads, b->n_kv_heads},
                {"head_dim", a->head_dim, b->head_dim}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].a != rows[i].b)
            return qs_fail(QS_E_INPUT, "start from %s: its %s is %lld, the configuration says %lld", path,
                           rows[i].name, (long long)rows[i].b, (long long)rows[i].a);
    return QS_OK;
}

qs_err qs_train_init_from(const qs_train_layout *layout, const char *model_path, float *parameters)
{
    qs_err err;
    qs_model *model = NULL;
    QS_TRY(qs_model_open(&model, model_path));
    QS_TRY(check_same_shape(&layout->config, qs_model_get_config(model), model_path));
    QS_TRY(qs_model_read_f32(model, QS_ROLE_EMBED, 0, parameters + layout->embed));
    for (int64_t layer = 0; layer < layout->config.n_layers; layer++)
        for (int64_t i = 0; i < N_LAYER_ROLES; i++)
            QS_TRY(qs_model_read_f32(model, layer_roles[i], layer,
                                     parameters + layout->tensors[1 + layer * N_LAYER_ROLES + i].first));
    QS_TRY(qs_model_read_f32(model, QS_ROLE_FINAL_NORM, 0, parameters + layout->final_norm));
out:
    qs_model_close(model);
    return err;
}
