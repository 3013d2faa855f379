#include "model/model_record.h"

#include <string.h>

#include "base/file.h"

int64_t qs_model_n_block_weights(const qs_model *model)
{
    int64_t n = 0;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        n += info.n_out * info.n_in;
    }
    return n;
}

int64_t qs_model_n_linear_weights(const qs_model *model)
{
    return qs_model_get_config(model)->n_layers * qs_model_n_block_weights(model);
}

int64_t qs_model_n_weights(const qs_model *model)
{
    const qs_model_config *config = qs_model_get_config(model);
    int64_t n = qs_model_n_linear_weights(model) + config->n_vocab * config->d_model * (config->tied_head ? 1 : 2);
    n += config->d_model; /* the final norm */
    for (int64_t layer = 0; layer < config->n_layers; layer++)
        for (int role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
            if (!qs_model_has(model, (qs_role)role, layer)) continue;
            qs_tensor_info info = qs_model_info(model, (qs_role)role, layer);
            n += info.n_out * info.n_in;
        }
    return n;
}

/* The base name, so that equal models in different places give equal artifacts. */
static void base_name(char *name, size_t bytes, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t start = end;
    while (start > 0 && path[start - 1] != '/') start--;
    size_t length = end - start < bytes ? end - start : bytes - 1;
    memcpy(name, path + start, length);
    name[length] = '\0';
}

qs_err qs_model_record(qs_model *model, qs_artifact *artifact)
{
    const qs_model_config *config = qs_model_get_config(model);
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    char name[QS_PATH_BYTES], text[QS_DIGEST_TEXT_BYTES] = "";
    qs_digest digest;
    qs_storage storage;
    qs_err err;
    base_name(name, sizeof name, qs_model_path(model));
    QS_TRY(qs_model_digest(model, &digest));
    QS_TRY(qs_artifact_add_parent(artifact, "model", name, digest));
    bool lattice = qs_model_is_lattice(model, &storage);
    if (tokenizer != NULL) (void)qs_digest_format(text, qs_tokenizer_digest(tokenizer));
    QS_TRY(qs_artifact_put_text(artifact, "/model/@name", name));
    QS_TRY(qs_artifact_put_text(artifact, "/model/@architecture", config->architecture));
    QS_TRY(qs_artifact_put_text(artifact, "/model/@storage", qs_storage_name(storage)));
    QS_TRY(qs_artifact_put_text(artifact, "/model/@tokenizer", text));
    QS_TRY(qs_artifact_put_int(artifact, "/model/@lattice", lattice));
    QS_TRY(qs_artifact_put_int(artifact, "/model/@n_layers", config->n_layers));
    QS_TRY(qs_artifact_put_int(artifact, "/model/@d_model", config->d_model));
    QS_TRY(qs_artifact_put_int(artifact, "/model/@n_weights", qs_model_n_linear_weights(model)));
    QS_TRY(qs_artifact_put_int(artifact, "/model/@n_weights_total", qs_model_n_weights(model)));
out:
    return err;
}

qs_err qs_model_check_record(qs_model *model, const qs_artifact *artifact, const char *path)
{
    qs_digest ours, theirs;
    char name[QS_PATH_BYTES] = "?";
    qs_err err;
    QS_TRY(qs_model_digest(model, &ours));
    QS_TRY(qs_artifact_get_parent(artifact, "model", &theirs));
    if (ours.low == theirs.low && ours.high == theirs.high) goto out;
    QS_TRY(qs_artifact_get_text(artifact, "/model/@name", name, sizeof name));
    err = qs_fail(QS_E_INPUT, "use %s: it was made from another model (%s) than %s; run %s again with this model", path,
                  name, qs_model_path(model), qs_artifact_kind_stage(qs_artifact_get_kind(artifact)));
out:
    return err;
}
