/* Checkpoints: the input is a line with the value of "quantization_config" and, behind it, model.safetensors
 * of a model of one layer with 32 x 32 linears. Whatever is accepted must be readable to the last matrix. */
#include "base/log.h"
#include "model/checkpoint.h"
#include "scratch_model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char dir[QS_PATH_BYTES], parent_dir[QS_PATH_BYTES];
static qs_model *parent;

static void clean(void)
{
    scratch_model_remove(parent, parent_dir);
    scratch_remove(dir, "config.json");
    scratch_remove(dir, "model.safetensors");
    (void)remove(dir);
}

static void prepare(void)
{
    if (parent != NULL) return;
    qs_log_set_level(QS_LOG_ERROR);
    scratch_dir(dir);
    parent = scratch_model(parent_dir);
    (void)atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    qs_checkpoint *checkpoint;
    qs_matrix_desc desc;
    const uint8_t *line = memchr(data, '\n', bytes);
    if (line == NULL) return 0;
    prepare();
    scratch_put_config(dir, ", \"quantization_config\": ", (const char *)data, (size_t)(line - data));
    scratch_put(dir, "model.safetensors", line + 1, bytes - (size_t)(line + 1 - data));
    if (qs_checkpoint_open(&checkpoint, dir, parent) != QS_OK) return 0;
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    for (qs_role role = 0; role < QS_N_LINEARS; role++) {
        float row[SCRATCH_WIDTH];
        if (source.describe(source.context, 0, role, &desc) != QS_OK) desc.packed = NULL; /* get says so too */
        if (source.get(source.context, 0, role, &desc) != QS_OK || desc.packed == NULL) continue;
        if (desc.n_out != SCRATCH_WIDTH || desc.n_in != SCRATCH_WIDTH) __builtin_trap();
        for (int64_t o = 0; o < SCRATCH_WIDTH; o++) qs_packed_dequant_rows(desc.packed, o, 1, row);
    }
    if (source.get_head != NULL && source.get_head(source.context, &desc) == QS_OK) {
        float row[32];
        if (desc.n_out != 4 || desc.n_in != 32) __builtin_trap();
        for (int64_t o = 0; o < 4; o++) qs_packed_dequant_rows(desc.packed, o, 1, row);
    }
    qs_checkpoint_close(checkpoint);
    return 0;
}
