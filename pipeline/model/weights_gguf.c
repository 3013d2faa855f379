#include <string.h>

#include "base/mem.h"
#include "model/weights_impl.h"

typedef struct search {
    const qs_model *model;
    bool *used; /* [n_tensors] */
} search;

static qs_err find_tensor(void *context, const char *name, qs_found *found)
{
    search *s = context;
    *found = (qs_found){0};
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(&s->model->gguf, name);
    if (tensor == NULL) return QS_OK;
    s->used[tensor - s->model->gguf.tensors] = true;
    /* Trailing dimensions of 1 say nothing. */
    int n_dims = tensor->n_dims;
    while (n_dims > 1 && tensor->ne[n_dims - 1] == 1) n_dims--;
    *found = (qs_found){
        .name = tensor->name,
        .storage = tensor->storage,
        .n_dims = n_dims,
        .data = tensor->data,
        .bytes = tensor->bytes,
        .file = &s->model->file,
    };
    found->shape[0] = n_dims == 1 ? tensor->ne[0] : tensor->ne[1];
    found->shape[1] = tensor->ne[0];
    return QS_OK;
}

/* As in a directory: a tensor that nothing uses means that the model computes something we would leave out. */
static qs_err check_unused(const qs_model *model, const bool *used)
{
    for (int64_t i = 0; i < model->gguf.n_tensors; i++) {
        const char *name = model->gguf.tensors[i].name;
        if (!used[i] && strcmp(name, "rope_freqs.weight") != 0)
            return qs_fail(QS_E_UNSUPPORTED,
                           "open %s: tensor %s is not part of a %s model with this metadata", model->path,
                           name, model->config.architecture);
    }
    return QS_OK;
}

static qs_err read_divisors(qs_model *model)
{
    if (model->config.rope_kind != QS_ROPE_DIVISORS) return QS_OK;
    const qs_gguf_tensor *tensor = qs_gguf_find_tensor(&model->gguf, "rope_freqs.weight");
    qs_err err = QS_NEW(model->rope_divisors, tensor->ne[0], "rope divisors");
    if (err == QS_OK) memcpy(model->rope_divisors, tensor->data, tensor->bytes);
    return err;
}

static qs_err refuse_parts(const qs_model *model)
{
    int64_t n_parts = 1;
    qs_err err = qs_gguf_opt_int(&n_parts, &model->gguf, "split.count", 0, UINT16_MAX, model->path);
    if (err == QS_OK && n_parts > 1)
        err = qs_fail(QS_E_UNSUPPORTED,
                      "open %s: the file is one of %lld parts; merge them with llama-gguf-split", model->path,
                      (long long)n_parts);
    return err;
}

qs_err qs_model_open_gguf(qs_model *model)
{
    search s = {.model = model};
    qs_err err;
    QS_TRY(qs_mapped_open(&model->file, model->path));
    QS_TRY(qs_gguf_parse(&model->gguf, model->file.map.data, model->file.map.bytes, model->path));
    QS_TRY(refuse_parts(model));
    QS_TRY(qs_model_config_from_gguf(&model->config, &model->gguf, model->path));
    QS_TRY(QS_NEW(s.used, model->gguf.n_tensors, "tensor marks"));
    QS_TRY(qs_model_bind(model, QS_NAMING_GGUF, find_tensor, &s));
    QS_TRY(check_unused(model, s.used));
    QS_TRY(read_divisors(model));
out:
    qs_mem_free(s.used);
    return err;
}
