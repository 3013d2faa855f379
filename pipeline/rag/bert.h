/* A BERT encoder in f32 (Devlin et al. 2019): embeddings, layers of full attention and a GELU network with
 * LayerNorm behind each, no pooler. Weights as transformers' BertModel writes them, from one safetensors file. */
#ifndef QS_RAG_BERT_H
#define QS_RAG_BERT_H

#include "backend/backend.h"
#include "base/hash.h"

typedef struct qs_bert_config {
    int64_t d_model, n_layers, n_heads, d_ffn, n_vocab, n_positions, n_types;
    double norm_eps;
} qs_bert_config;

/* From the text of a config.json. QS_E_UNSUPPORTED names what is not BERT as above (other activations, relative
 * positions). */
QS_MUST_CHECK qs_err qs_bert_config_parse(qs_bert_config *out, const char *text, size_t bytes, const char *name);

typedef struct qs_bert qs_bert;
/* `backend` has no device of its own and must outlive the encoder. QS_E_INPUT names the tensor that is missing or has
 * another shape or type (F32, F16, BF16); QS_E_NUMERIC names tensor and index of a NaN. */
QS_MUST_CHECK qs_err qs_bert_open(qs_bert **out, qs_backend *backend, const char *config_path,
                                  const char *weights_path);
void qs_bert_destroy(qs_bert *bert);

const qs_bert_config *qs_bert_get_config(const qs_bert *bert);
qs_digest qs_bert_digest(const qs_bert *bert); /* of the configuration and the weights file */

/* hidden[n, d_model] of ids[n], one text of type 0 at positions 0 .. n - 1. QS_E_INPUT: an id outside the
 * vocabulary, or more ids than positions. */
QS_MUST_CHECK qs_err qs_bert_run(qs_bert *bert, const int32_t *ids, int64_t n, float *hidden);

#endif
