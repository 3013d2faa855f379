/* A Hugging Face directory with quantised linears: tensors, config.json, tokenizer, generation config. What a
 * loader wants of the linears is a codec; the rest is the same for all of them: embeddings, norms, biases and
 * an untied head in f16. */
#ifndef QS_EXPORT_HF_DIR_H
#define QS_EXPORT_HF_DIR_H

#include "export/export.h"
#include "model/safetensors.h"

enum { QS_HF_PARTS_MAX = 8 };

/* One tensor of a linear: "<prefix><leaf>", where the prefix is "model.layers.3.self_attn.q_proj". */
typedef struct qs_hf_part {
    const char *leaf; /* ".qweight" */
    qs_safetensor_type type;
    int n_dims;
    int64_t shape[2];
} qs_hf_part;

typedef struct qs_hf_codec {
    /* Fills parts[QS_HF_PARTS_MAX] of a matrix, and how many there are. */
    qs_err (*parts)(const qs_export_job *job, int64_t layer, qs_role role, qs_hf_part *parts, int *n);
    /* data[i]: zeroed room for part i. `name` is the matrix's, for messages. */
    qs_err (*encode)(const qs_export_job *job, int64_t layer, qs_role role, const char *name, void *const *data);
    /* The value of "quantization_config"; a new reference, NULL when memory is out. */
    json_t *(*config)(const qs_export_job *job);
    const char *config_file; /* where the same value stands alone: "quantize_config.json"; NULL = nowhere */
} qs_hf_codec;

QS_MUST_CHECK qs_err qs_hf_dir_plan(const qs_export_job *job, const qs_hf_codec *codec, int64_t *bytes);
QS_MUST_CHECK qs_err qs_hf_dir_write(const qs_export_job *job, const qs_hf_codec *codec);

#endif
