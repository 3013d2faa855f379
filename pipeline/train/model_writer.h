/* A trained model as a Hugging Face directory: config.json, model.safetensors in f16, tokenizer.json (and
 * tokenizer_config.json), generation_config.json. */
#ifndef QS_TRAIN_MODEL_WRITER_H
#define QS_TRAIN_MODEL_WRITER_H

#include "base/json.h"
#include "model/tokenizer.h"
#include "train/layout.h"

typedef struct qs_model_writer {
    const json_t *config;       /* the config.json that the layout was made from */
    const char *tokenizer_path; /* of the tokenizer.json; its neighbour tokenizer_config.json goes along */
    const qs_tokenizer *tokenizer;
} qs_model_writer;

/* Each file appears whole or not at all, the weights last; that all appear together is the caller's (base/out_dir.h).
 * Errors: QS_E_RESOURCE; QS_E_NUMERIC names a weight that f16 cannot hold. */
QS_MUST_CHECK qs_err qs_model_write(const qs_model_writer *writer, const qs_train_layout *layout,
                                    const float *parameters, const char *dir);

/* Fills parameters [n] from a model of the same shape. */
QS_MUST_CHECK qs_err qs_train_init_from(const qs_train_layout *layout, const char *model_path,
                                        float *parameters);

#endif
