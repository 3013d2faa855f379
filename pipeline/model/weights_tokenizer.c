/* The tokenizer that a model carries: tokenizer.json in its directory, or the metadata of its GGUF file. */
#include "base/mem.h"
#include "model/gguf_vocab.h"
#include "model/weights_impl.h"

/* tokenizer.json of a vocabulary of 250,000 is about 20 MB. */
static const size_t json_bytes_max = (size_t)256 << 20;

/* ---- directory ---- */

/* A file of the directory; text is NULL where there is none. */
static qs_err read_file(const qs_model *model, const char *name, char path[QS_PATH_BYTES], char **text, size_t *bytes)
{
    qs_err err = qs_path_format(path, "%s/%s", model->path, name);
    *text = NULL;
    return err == QS_OK && qs_file_exists(path) ? qs_file_read(text, bytes, path, json_bytes_max) : err;
}

/* tokenizer_config.json says which tokens begin and end a text. */
static qs_err apply_config(qs_model *model)
{
    char path[QS_PATH_BYTES], *text;
    size_t bytes;
    qs_err err;
    QS_TRY(read_file(model, "tokenizer_config.json", path, &text, &bytes));
    if (text != NULL) err = qs_tokenizer_apply_config(model->tokenizer, text, bytes, path);
out:
    qs_mem_free(text);
    return err;
}

static qs_err from_directory(qs_model *model)
{
    char path[QS_PATH_BYTES], *text;
    size_t bytes;
    qs_err err;
    QS_TRY(read_file(model, "tokenizer.json", path, &text, &bytes));
    if (text == NULL) goto out;
    QS_TRY(qs_tokenizer_from_json(&model->tokenizer, text, bytes, path));
    err = apply_config(model);
out:
    qs_mem_free(text);
    return err;
}

/* ---- GGUF ---- */

static qs_err from_gguf(qs_model *model)
{
    qs_gguf_tokens tokens;
    qs_err err = qs_gguf_tokens_read(&tokens, &model->gguf, model->path);
    if (err == QS_OK && tokens.vocab.n_vocab > 0)
        err = qs_tokenizer_from_gguf(&model->tokenizer, &tokens.vocab, model->path);
    qs_gguf_tokens_free(&tokens);
    return err;
}

qs_err qs_model_open_tokenizer(qs_model *model)
{
    qs_err err = model->file.map.data != NULL ? from_gguf(model) : from_directory(model);
    if (err != QS_OK || model->tokenizer == NULL) return err;
    if (qs_tokenizer_n_vocab(model->tokenizer) <= model->config.n_vocab) return QS_OK;
    return qs_fail(QS_E_INPUT, "open %s: the tokenizer has %lld ids, the embedding %lld rows", model->path,
                   (long long)qs_tokenizer_n_vocab(model->tokenizer), (long long)model->config.n_vocab);
}
