/* The documents of a Hugging Face directory: copied from the parent's directory, or made from the metadata of
 * its GGUF. */
#ifndef QS_EXPORT_HF_CONFIG_H
#define QS_EXPORT_HF_CONFIG_H

#include "base/out_dir.h"
#include "model/weights.h"

/* config.json with dtype float16, "quantization_config" (borrowed; NULL = none) and whether the embedding is the
 * head, and generation_config.json. QS_E_UNSUPPORTED when the GGUF says something that config.json has no words
 * for. */
QS_MUST_CHECK qs_err qs_hf_config_write(const qs_model *model, const qs_out_dir *dir, const json_t *quantised,
                                        bool tied);

/* tokenizer.json and what goes with it; nothing when the parent has no tokenizer. */
QS_MUST_CHECK qs_err qs_hf_tokenizer_write(const qs_model *model, const qs_out_dir *dir);

/* config.json of a configuration that was read from GGUF; json_decref. */
QS_MUST_CHECK qs_err qs_hf_config_from_gguf(json_t **out, const qs_model *model);

#endif
