/* What targets share that need files: a scratch directory, in memory where the system has one there, and a model of one
 * layer of 32 x 32 linears in it, all zeros. */
#ifndef QS_FUZZ_SCRATCH_MODEL_H
#define QS_FUZZ_SCRATCH_MODEL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "model/safetensors_writer.h"
#include "model/weights.h"

enum { SCRATCH_WIDTH = 32, SCRATCH_VOCAB = 4 };

/* "%s" takes further members, each with a comma in front. */
static const char scratch_config[] =
    "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 4, \"hidden_size\": 32, "
    "\"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
    "\"max_position_embeddings\": 8, \"tie_word_embeddings\": true%s%.*s}";

/* A new directory into dir. */
static inline void scratch_dir(char dir[QS_PATH_BYTES])
{
    const char *base = getenv("TMPDIR");
    if (base == NULL) base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    (void)snprintf(dir, QS_PATH_BYTES, "%s/qsweep-fuzz-XXXXXX", base);
    if (mkdtemp(dir) == NULL) abort();
}

static inline void scratch_put(const char *dir, const char *name, const void *data, size_t bytes)
{
    char path[QS_PATH_BYTES + 64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0) abort();
}

static inline void scratch_remove(const char *dir, const char *name)
{
    char path[QS_PATH_BYTES + 64];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)remove(path);
}

/* config.json with `bytes` bytes of `text` behind `key`. */
static inline void scratch_put_config(const char *dir, const char *key, const char *text, size_t bytes)
{
    char path[QS_PATH_BYTES + 64];
    (void)snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *file = fopen(path, "wb");
    if (file == NULL || fprintf(file, scratch_config, key, (int)bytes, text) < 0 || fclose(file) != 0) abort();
}

/* The weights of the model as one file. */
static inline void scratch_put_weights(const char *dir, const char *name)
{
    static const char zeros[SCRATCH_WIDTH * SCRATCH_WIDTH * 2];
    char path[QS_PATH_BYTES + 64], tensor[QS_TENSOR_NAME_BYTES];
    qs_safetensors_writer *writer;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    if (qs_safetensors_writer_create(&writer, path) != QS_OK) abort();
    for (int pass = 0; pass < 2; pass++)
        for (qs_role role = 0; role < QS_N_ROLES; role++) {
            bool norm = role == QS_ROLE_ATTN_NORM || role == QS_ROLE_MLP_NORM || role == QS_ROLE_FINAL_NORM;
            if (role >= QS_N_LINEARS && role != QS_ROLE_EMBED && !norm) continue;
            int64_t shape[2] = {norm ? SCRATCH_WIDTH : role == QS_ROLE_EMBED ? SCRATCH_VOCAB : SCRATCH_WIDTH,
                                SCRATCH_WIDTH};
            size_t bytes = (size_t)(norm ? SCRATCH_WIDTH : shape[0] * SCRATCH_WIDTH) * 2;
            (void)qs_role_tensor_name(tensor, QS_NAMING_HF, role, 0);
            qs_err err = pass == 0 ? qs_safetensors_writer_declare(writer, tensor, QS_ST_F16, norm ? 1 : 2, shape)
                                   : qs_safetensors_writer_put(writer, tensor, zeros, bytes);
            if (err != QS_OK) abort();
        }
    if (qs_safetensors_writer_publish(writer) != QS_OK) abort();
}

/* A directory with the model, opened. */
static inline qs_model *scratch_model(char dir[QS_PATH_BYTES])
{
    qs_model *model;
    scratch_dir(dir);
    scratch_put_weights(dir, "model.safetensors");
    scratch_put_config(dir, "", "", 0);
    if (qs_model_open(&model, dir) != QS_OK) abort();
    return model;
}

static inline void scratch_model_remove(qs_model *model, const char *dir)
{
    qs_model_close(model);
    scratch_remove(dir, "config.json");
    scratch_remove(dir, "model.safetensors");
    (void)remove(dir);
}

#endif
