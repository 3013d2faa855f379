/* What a kind of encoder fills in. */
#ifndef QS_RAG_ENCODER_IMPL_H
#define QS_RAG_ENCODER_IMPL_H

#include "rag/encoder.h"

typedef struct qs_encoder_model {
    void *state;
    int64_t dim;
    qs_digest digest;
    const char *kernels; /* what computes, where vectors are worth keeping from run to run; NULL = they are not */
    /* vectors[n, dim], of any length: the caller makes units of them. */
    qs_err (*encode)(void *state, const char *const *texts, int64_t n, float *vectors);
    void (*destroy)(void *state);
    /* Fills out->state for a candidate; NULL = the encoder has nothing to do with the model under test. */
    qs_err (*follow)(void *state, const qs_model *model, const qs_linear_source *linears,
                     struct qs_encoder_model *out);
} qs_encoder_model;

/* Takes the model over, also on failure. */
QS_MUST_CHECK qs_err qs_encoder_create(qs_encoder **out, const char *name, const qs_encoder_model *model);

qs_err qs_minilm_open(qs_encoder **out, const qs_encoder_options *options);
qs_err qs_self_open(qs_encoder **out, const qs_encoder_options *options);
qs_err qs_tfidf_open(qs_encoder **out, const qs_encoder_options *options);

#endif
