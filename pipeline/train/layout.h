/* The parameters of a model in training: one array of f32, tensor after tensor. Gradients, moments of the
 * optimizer and 16-bit copies lie alike. Llama architecture with a tied head. */
#ifndef QS_TRAIN_LAYOUT_H
#define QS_TRAIN_LAYOUT_H

#include "model/config.h"

enum { QS_TRAIN_NAME_BYTES = 96 };

typedef struct qs_train_tensor {
    char name[QS_TRAIN_NAME_BYTES]; /* as in a Hugging Face checkpoint */
    int64_t first;                  /* index of its first element */
    int64_t n_out, n_in;            /* gains of norms: n_out = 1 */
    bool is_matrix;                 /* decays; gains do not */
    bool is_table;                  /* the embeddings: rows that rare tokens hardly move */
    bool is_output;                 /* writes into the residual stream: starts smaller */
} qs_train_tensor;

/* First elements. q, k, v are adjacent, as are gate and up: each group is one product. */
typedef struct qs_train_layer {
    int64_t attn_norm, qkv, o, mlp_norm, gate_up, down;
} qs_train_layer;

typedef struct qs_train_layout {
    qs_model_config config;
    int64_t n; /* elements of all tensors */
    int64_t n_tensors;
    qs_train_tensor *tensors; /* [n_tensors], by `first` */
    qs_train_layer *layers;   /* [n_layers] */
    int64_t embed, final_norm;
    int64_t d_q, d_kv, d_qkv; /* n_heads * head_dim, n_kv_heads * head_dim, d_q + 2 d_kv */
} qs_train_layout;

/* QS_E_UNSUPPORTED names what of the architecture cannot be trained: biases, q/k norms, an untied head, a
 * window. */
QS_MUST_CHECK qs_err qs_train_layout_init(qs_train_layout *out, const qs_model_config *config);
void qs_train_layout_fini(qs_train_layout *layout);

/* The tensor that holds element `index`. */
const qs_train_tensor *qs_train_layout_find(const qs_train_layout *layout, int64_t index);

#endif
