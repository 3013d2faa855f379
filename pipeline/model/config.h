/* The architecture of a model: Llama 1-3.x, Mistral, SmolLM2, Qwen2/2.5, Qwen3, as one set of numbers and
 * flags, read from a Hugging Face config.json or from GGUF metadata. */
#ifndef QS_MODEL_CONFIG_H
#define QS_MODEL_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/json.h"

typedef enum qs_rope_kind { QS_ROPE_DEFAULT, QS_ROPE_LINEAR, QS_ROPE_LLAMA3, QS_ROPE_DIVISORS } qs_rope_kind;

typedef struct qs_model_config {
    char architecture[32]; /* "llama", "mistral", "qwen2", "qwen3" */
    int64_t n_layers, n_vocab;
    int64_t d_model;             /* width of the residual stream */
    int64_t d_ff;                /* width of the MLP */
    int64_t n_heads, n_kv_heads; /* n_heads is a multiple of n_kv_heads */
    int64_t head_dim;            /* even; n_heads * head_dim may differ from d_model */
    int64_t n_ctx_max;
    int64_t sliding_window;      /* tokens; 0 = full attention */
    double norm_eps;
    bool qkv_bias, o_bias, qk_norm, tied_head;
    /* Rotary embedding: inverse frequencies are computed once, in float64, by qs_rope_frequencies. */
    double rope_theta;
    qs_rope_kind rope_kind;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_ctx;
} qs_model_config;

/* config.json; QS_E_UNSUPPORTED names an architecture, rope type or activation that is not supported,
 * QS_E_INPUT a missing or absurd value. */
QS_MUST_CHECK qs_err qs_model_config_from_json(qs_model_config *out, const json_t *root, const char *name);

/* Dimensions of every head and matrix fit together and are sane; called by both readers. */
QS_MUST_CHECK qs_err qs_model_config_check(const qs_model_config *config, const char *name);

/* inv_freq[head_dim / 2]. `divisors` [head_dim / 2] is used by QS_ROPE_DIVISORS (GGUF rope_freqs.weight),
 * else NULL. Source: rope_scaling types default, linear, llama3. */
void qs_rope_frequencies(const qs_model_config *config, const float *divisors, float *inv_freq);

#endif
