/* What a GGUF file says besides its tensors. */
#ifndef QS_EXPORT_GGUF_METADATA_H
#define QS_EXPORT_GGUF_METADATA_H

#include "model/gguf_writer.h"

/* The parent's own metadata where it is a GGUF file, else made from its configuration and tokenizer; with the
 * file type of the matrices. Declares no tensors. QS_E_UNSUPPORTED when GGUF has no words for the tokenizer.
 */
QS_MUST_CHECK qs_err qs_gguf_put_metadata(qs_gguf_writer *writer, const qs_model *model, uint32_t file_type);

/* The name that GGUF gives the parent's architecture. */
const char *qs_gguf_architecture(const qs_model_config *config);

/* divisors[head_dim / 2] of the rotary frequencies, for the tensor rope_freqs.weight; false when there are none to be
 * written. */
bool qs_gguf_rope_divisors(const qs_model *model, float *divisors);

#endif
