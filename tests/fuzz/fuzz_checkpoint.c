/* Checkpoints: the input is a line with the value of "quantization_config" and, behind it, model.safetensors
 * of a model of one layer with 32 x 32 linears. Whatever is accepted must be readable to the last matrix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "model/checkpoint.h"
#include "model/safetensors_writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char dir[QS_PATH_BYTES], parent_dir[QS_PATH_BYTES];
static qs_model *parent;

static const char config[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 4, \"hidden_size\": 32, "
                             "\"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2, "
                             "\"max_position_embeddings\": 8, \"tie_word_embeddings\": true%s%.*s}";

static void put(const char *folder, const char *name, const char *fmt, const char *key, size_t n, const char *text)
{
    char path[QS_PATH_BYTES + 32];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL) abort();
    if (fmt != NULL) (void)fprintf(file, fmt, key, (int)n, text);
    else (void)fwrite(text, 1, n, file);
    (void)fclose(file);
}

/* The tensors of the parent, all zeros. */
static void make_parent(void)
{
    static const char zeros[32 * 32 * 2];
    char path[QS_PATH_BYTES + 32], name[QS_TENSOR_NAME_BYTES];
    qs_safetensors_writer *writer;
    (void)snprintf(path, sizeof path, "%s/model.safetensors", parent_dir);
    if (qs_safetensors_writer_create(&writer, path) != QS_OK) abort();
    for (int pass = 0; pass < 2; pass++)
        for (qs_role role = 0; role < QS_N_ROLES; role++) {
            bool norm = role == QS_ROLE_ATTN_NORM || role == QS_ROLE_MLP_NORM || role == QS_ROLE_FINAL_NORM;
            if (role >= QS_N_LINEARS && role != QS_ROLE_EMBED && !norm) continue;
            int64_t shape[2] = {norm ? 32 : role == QS_ROLE_EMBED ? 4 : 32, 32};
            (void)qs_role_tensor_name(name, QS_NAMING_HF, role, 0);
            qs_err err = pass == 0 ? qs_safetensors_writer_declare(writer, name, QS_ST_F16, norm ? 1 : 2, shape)
                                   : qs_safetensors_writer_put(writer, name, zeros,
                                                               (size_t)(norm ? 32 : shape[0] * 32) * 2);
            if (err != QS_OK) abort();
        }
    if (qs_safetensors_writer_publish(writer) != QS_OK) abort();
    put(parent_dir, "config.json", config, "", 0, "");
    if (qs_model_open(&parent, parent_dir) != QS_OK) abort();
}

static void clean(void)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char path[QS_PATH_BYTES + 32];
    qs_model_close(parent);
    for (int i = 0; i < 4; i++) {
        (void)snprintf(path, sizeof path, "%s/%s", i < 2 ? dir : parent_dir, names[i % 2]);
        (void)remove(path);
    }
    (void)remove(dir);
    (void)remove(parent_dir);
}

static void prepare(void)
{
    const char *base = getenv("TMPDIR");
    if (parent != NULL) return;
    qs_log_set_level(QS_LOG_ERROR);
    (void)snprintf(dir, sizeof dir, "%s/qsweep-fuzz-XXXXXX", base != NULL ? base : "/tmp");
    (void)snprintf(parent_dir, sizeof parent_dir, "%s", dir);
    if (mkdtemp(dir) == NULL || mkdtemp(parent_dir) == NULL) abort();
    make_parent();
    (void)atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_checkpoint *checkpoint;
    qs_matrix_desc desc;
    const uint8_t *line = memchr(data, '\n', bytes);
    if (line == NULL) return 0;
    prepare();
    put(dir, "config.json", config, ", \"quantization_config\": ", (size_t)(line - data), (const char *)data);
    put(dir, "model.safetensors", NULL, NULL, bytes - (size_t)(line + 1 - data), (const char *)line + 1);
    if (qs_checkpoint_open(&checkpoint, dir, parent) != QS_OK) return 0;
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        float row[32];
        if (source.get(source.context, 0, role, &desc) != QS_OK || desc.packed == NULL) continue;
        if (desc.n_out != 32 || desc.n_in != 32) __builtin_trap();
        for (int64_t o = 0; o < 32; o++) qs_packed_dequant_rows(desc.packed, o, 1, row);
    }
    qs_checkpoint_close(checkpoint);
    return 0;
}
