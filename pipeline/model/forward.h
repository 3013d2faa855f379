/* Whole-model passes made of blocks: embedding, all layers streamed through one block's memory, final norm,
 * head in row tiles. */
#ifndef QS_MODEL_FORWARD_H
#define QS_MODEL_FORWARD_H

#include "model/block.h"

/* hidden[n, d_model] (device) = embeddings of host tokens[n]. Reads only the rows it needs. */
QS_MUST_CHECK qs_err qs_forward_embed(qs_backend *backend, const qs_model *model, const int32_t *tokens, int64_t n,
                                      float *hidden);

/* In place: final RMSNorm of hidden[n, d_model]. */
QS_MUST_CHECK qs_err qs_forward_final_norm(qs_backend *backend, const qs_model *model, float *hidden, int64_t n);

/* The output head prepared for many rows (GEMM), one row (GEMV) or both: the linears' own, where they have one (NULL =
 * they have none), else the model's. dense_dtype as in qs_block_options. */
QS_MUST_CHECK qs_err qs_forward_head(qs_matrix **out, qs_backend *backend, const qs_model *model,
                                     const qs_linear_source *linears, const qs_block_options *options);

/* Convenience for tests and dumps: tokens [n_windows, n_ctx] -> hidden after the final norm (host),
 * streaming one block at a time. `linears` NULL = reference. */
QS_MUST_CHECK qs_err qs_forward_hidden(qs_backend *backend, const qs_model *model, const qs_linear_source *linears,
                                       qs_compute compute, const int32_t *tokens, int64_t n_windows, int64_t n_ctx,
                                       const qs_tap *tap, float *hidden);
/* logits [n, n_vocab] (host) of final hidden states [n, d_model] (host). */
QS_MUST_CHECK qs_err qs_forward_logits(qs_backend *backend, const qs_model *model, qs_compute compute,
                                       const float *hidden, int64_t n, float *logits);

/* Decoding with every layer resident: prompt in, logits out, one step at a time. */
typedef struct qs_decoder qs_decoder;
enum { QS_DECODER_PARTS_MAX = 9 }; /* eight devices and the host */
typedef struct qs_decoder_part {
    qs_backend *backend;
    int64_t n_layers;
} qs_decoder_part;
typedef struct qs_decoder_options {
    int64_t batch, n_ctx_cap;
    qs_block_options block; /* uses is set by the decoder */
    /* A model split over backends, in the order of the layers, which the parts hold all together; final norm and head
     * are on the last that has any. NULL = everything on the decoder's own. */
    const qs_decoder_part *parts; /* [n_parts] */
    int64_t n_parts;
} qs_decoder_options;
QS_MUST_CHECK qs_err qs_decoder_create(qs_decoder **out, qs_backend *backend, const qs_model *model,
                                       const qs_linear_source *linears, const qs_decoder_options *options);
void qs_decoder_destroy(qs_decoder *decoder);
/* Of positions and hidden states, on every backend that has layers. */
size_t qs_decoder_input_bytes(const qs_model_config *config, int64_t batch, int64_t n_ctx_cap);
/* Bytes of weights (blocks, head, embedding as deployed) and of the KV caches. */
void qs_decoder_bytes(const qs_decoder *decoder, size_t *weights_bytes, size_t *kv_bytes);
/* Starts sequence `index` afresh with a prompt; logits [n_vocab] (host) of its last token, NULL = they stay where they
 * are. */
QS_MUST_CHECK qs_err qs_decoder_prefill(qs_decoder *decoder, int64_t index, const int32_t *tokens, int64_t n,
                                        float *logits);
/* Sequence `to` goes on from the first n tokens of sequence `from`, whose cache it gets a copy of; from == to goes
 * back to them. QS_E_USAGE when `from` does not hold n tokens. */
QS_MUST_CHECK qs_err qs_decoder_continue(qs_decoder *decoder, int64_t from, int64_t to, int64_t n);
int64_t qs_decoder_batch(const qs_decoder *decoder);
int64_t qs_decoder_n_ctx(const qs_decoder *decoder); /* tokens that a sequence can hold */
int64_t qs_decoder_n_vocab(const qs_decoder *decoder);
/* Feeds tokens[batch] (one per sequence); logits [batch, n_vocab] (host), NULL = they stay where they are. QS_E_USAGE
 * when the cache is full. */
QS_MUST_CHECK qs_err qs_decoder_step(qs_decoder *decoder, const int32_t *tokens, float *logits);
/* Where they are: device [batch, n_vocab] of `backend`, for its ops; of the last step every row, of the last prefill
 * the first. The next of either overwrites them. */
const float *qs_decoder_logits(const qs_decoder *decoder, qs_backend **backend);

#endif
