/* A decoder block on a backend: weights of one layer, reference or quantised, and the forward pass through
 * it for scoring (whole windows) and for decoding (KV cache). Layer-major by design: a stage loads a block,
 * advances every stream through it, and re-uses its memory for the next layer. */
#ifndef QS_MODEL_BLOCK_H
#define QS_MODEL_BLOCK_H

#include "backend/backend.h"
#include "model/weights.h"

/* Where the seven linears of a layer come from. get() fills desc; what it points to stays valid until the
 * next get() on the same source. Methods that fold a scaling into the norms (quant/fold.h) change these too:
 * get_vector() fills dst [n] with a norm or bias and sets *found, or leaves both alone when the model's own
 * holds; NULL = it always does. */
typedef struct qs_linear_source {
    qs_err (*get)(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc);
    void *context;
    qs_err (*get_vector)(void *context, int64_t layer, qs_role role, int64_t n, float *dst, bool *found);
    const qs_model *outer; /* whose embedding, final norm and head go with the linears; NULL = the model's own */
    /* The head as the linears are stored, instead of the outer model's: then the embedding is no head of it. NULL = it
     * has none of its own. desc as with get(). */
    qs_err (*get_head)(void *context, qs_matrix_desc *desc);
    /* The description alone, as qs_matrix_need takes it, of a linear or of the head that get_head has (QS_ROLE_HEAD);
     * valid until the next call. NULL = get and get_head say it, and read what they describe. */
    qs_err (*describe)(void *context, int64_t layer, qs_role role, qs_matrix_desc *desc);
} qs_linear_source;

typedef struct qs_block_options {
    unsigned uses;          /* QS_USE_GEMM | QS_USE_GEMV */
    qs_compute compute;
    qs_dtype dense_dtype;   /* of reference linears prepared for GEMV: QS_F32, QS_F16 or QS_BF16 */
} qs_block_options;

typedef struct qs_block qs_block;

/* `linears` NULL = the model's own weights. */
QS_MUST_CHECK qs_err qs_block_create(qs_block **out, qs_backend *backend, const qs_model *model,
                                     const qs_linear_source *linears, int64_t layer,
                                     const qs_block_options *options);
/* Loads another layer (or source) into the same memory. */
QS_MUST_CHECK qs_err qs_block_load(qs_block *block, const qs_linear_source *linears, int64_t layer);
/* Loads the linears of `roles` (1u << role) of the same layer anew and leaves everything else. */
QS_MUST_CHECK qs_err qs_block_load_linears(qs_block *block, const qs_linear_source *linears, unsigned roles);
void qs_block_destroy(qs_block *block);
size_t qs_block_bytes(const qs_block *block);
/* Of its norms and biases, as they lie in one buffer. */
size_t qs_block_vector_bytes(const qs_model_config *config);

/* The inputs of the linears, one site for those that share it. */
typedef enum qs_site { QS_SITE_QKV, QS_SITE_O, QS_SITE_GATE_UP, QS_SITE_DOWN, QS_N_SITES } qs_site;
const char *qs_site_name(qs_site site);                                 /* "qkv", "o", "gate_up", "down" */
qs_site qs_role_site(qs_role role);                                     /* of a linear */
int64_t qs_site_width(const qs_model_config *config, qs_site site);

/* Called during forward with each site's input x [n, width] (device). NULL = no tap. */
typedef struct qs_tap {
    qs_err (*see)(void *context, int64_t layer, qs_site site, const float *x, int64_t n, int64_t width);
    void *context;
} qs_tap;

/* Scratch for `n_rows` rows at once, shared by all blocks of a model on one backend. */
typedef struct qs_scratch qs_scratch;
QS_MUST_CHECK qs_err qs_scratch_create(qs_scratch **out, qs_backend *backend, const qs_model *model,
                                       int64_t n_rows);
void qs_scratch_destroy(qs_scratch *scratch);
size_t qs_scratch_bytes(const qs_model_config *config, int64_t n_rows);

/* hidden [n_windows * n_ctx, d_model] (device) is replaced by the block's output; positions restart in each
 * window. Works through as many windows at a time as the scratch holds (at least one). */
QS_MUST_CHECK qs_err qs_block_forward(const qs_block *block, qs_scratch *scratch, float *hidden,
                                      int64_t n_windows, int64_t n_ctx, const qs_tap *tap);

/* One layer's KV cache: k, v [batch, n_ctx_cap, n_kv_heads * head_dim] on the device. */
typedef struct qs_kv {
    float *k, *v;
    int64_t batch, n_ctx_cap;
} qs_kv;

/* hidden [batch, d_model]: one token per sequence at positions[batch] (device), which the caller keeps inside the
 * cache; fills the cache there. */
QS_MUST_CHECK qs_err qs_block_decode(const qs_block *block, qs_scratch *scratch, float *hidden, qs_kv *kv,
                                     const int32_t *positions);

/* hidden [n_ctx, d_model]: a prompt of sequence `index` from position 0; fills its cache. */
QS_MUST_CHECK qs_err qs_block_prefill(const qs_block *block, qs_scratch *scratch, float *hidden, qs_kv *kv,
                                      int64_t index, int64_t n_ctx);

#endif
