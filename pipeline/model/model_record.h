/* The model's identity in artifacts: the /model attributes and the "model" parent, written and checked alike by
 * every stage. */
#ifndef QS_MODEL_MODEL_RECORD_H
#define QS_MODEL_MODEL_RECORD_H

#include "artifact/artifact.h"
#include "model/weights.h"

/* Writes /model/@... and the parent "model". */
QS_MUST_CHECK qs_err qs_model_record(qs_model *model, qs_artifact *artifact);

/* QS_E_INPUT when the artifact was made from another model; `path` is the artifact's, for the text. */
QS_MUST_CHECK qs_err qs_model_check_record(qs_model *model, const qs_artifact *artifact, const char *path);

/* Weights of the quantisable linears of one block, all of which have the same shapes; of all blocks; and of
 * everything (a tied head counted once). */
int64_t qs_model_n_block_weights(const qs_model *model);
int64_t qs_model_n_linear_weights(const qs_model *model);
int64_t qs_model_n_weights(const qs_model *model);

#endif
