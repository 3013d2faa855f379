/* What a decoder of a model will hold on a backend, before it is made: each of its matrices as the backend will keep it
 * (qs_matrix_need), and the scratch of its products and of attention. */
#ifndef QS_MODEL_RESIDENT_H
#define QS_MODEL_RESIDENT_H

#include "model/forward.h"
#include "model/placement.h"

/* Matrices by their descriptions: linears of layers, and the head (QS_ROLE_HEAD, layer 0). */
typedef struct qs_resident_source {
    qs_err (*describe)(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc);
    void *context;
} qs_resident_source;

/* Fills *out, which the caller frees (qs_placement_weights_free). Own bytes are exact; scratch is an upper bound,
 * that of the widest layer. Products are of up to n_ctx_cap rows in layers and of up to batch rows in the head.
 * Errors as of qs_matrix_need. */
QS_MUST_CHECK qs_err qs_resident_plan(qs_placement_weights *out, const qs_backend *backend,
                                      const qs_model_config *config,
                                      const qs_resident_source *source, const qs_decoder_options *options);
/* The same of what qs_decoder_create would make of these arguments. A source that describes nothing is read once. */
QS_MUST_CHECK qs_err qs_resident_plan_decoder(qs_placement_weights *out, const qs_backend *backend,
                                              const qs_model *model,
                                              const qs_linear_source *linears, const qs_decoder_options *options);

#endif
