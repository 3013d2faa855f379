/* Inside the pass: products, memory and the two halves of attention (attention_pass.c). */
#ifndef QS_TRAIN_TRAIN_PASS_IMPL_H
#define QS_TRAIN_TRAIN_PASS_IMPL_H

#include "train/train_pass.h"

enum { HEAD_ROWS_MAX = 256 }; /* rows of logits at a time: 256 x 4,096 f32 are 4 MiB */

/* Of attention over n keys, by n / QS_TRAIN_ROWS - 1. */
typedef struct attention_products {
    const qs_product *scores;  /* [64, n] = q k^T, and dp = do v^T */
    const qs_product *values;  /* [64, d] = p v, and dq = ds k */
    const qs_product *to_keys; /* [n, d] += ds^T q, and dv += p^T do */
} attention_products;

struct qs_train_pass_plan {
    const qs_train_layout *layout;
    const qs_train_kernels *kernels;
    qs_product_engine *engine;
    qs_compute compute;
    int64_t n_ctx, head_rows;
    size_t element_bytes;                                             /* of what enters a product */
    const qs_product *qkv, *o, *gate_up, *down, *head;                /* y = x W^T */
    const qs_product *qkv_dx, *o_dx, *gate_up_dx, *down_dx, *head_dx; /* dx = dy W */
    const qs_product *qkv_dw, *o_dw, *gate_up_dw, *down_dw, *head_dw; /* dW += dy^T x */
    attention_products *attention;                                    /* [n_ctx / QS_TRAIN_ROWS] */
    float *cosines, *sines;                                           /* [n_ctx, head_dim / 2] */
    char text[160];
};

/* What the forward pass of a layer leaves for the backward pass. Types: f32, or c = that of the products. */
typedef struct layer_state {
    float *x, *mid;             /* [n_ctx, d_model] before attention, and before the MLP */
    float *factor, *mid_factor; /* [n_ctx] of their norms */
    void *normed, *mid_normed;  /* c [n_ctx, d_model] */
    void *q, *k,
        *v;         /* c [n_heads or n_kv_heads, n_ctx + 64, head_dim], turned; q divided by sqrt(head_dim) */
    void *attended; /* c [n_ctx, d_q] */
    float *gate_up; /* [n_ctx, 2 d_ff] */
    void *gated;    /* c [n_ctx, d_ff] */
} layer_state;

struct qs_train_pass {
    const qs_train_pass_plan *plan;
    char *memory; /* everything below */
    layer_state *layers;
    float *x, *factor;                 /* [n_ctx, d_model], [n_ctx]: what enters the last norm */
    void *normed;                      /* c [n_ctx, d_model] */
    float *dx;                         /* [n_ctx, d_model] */
    void *dx_c;                        /* c [n_ctx, d_model] */
    float *wide;                       /* [n_ctx, max(d_ff, d_qkv, d_model)] results of products */
    void *wide_c;                      /* c [n_ctx, max(2 d_ff, d_qkv)] */
    float *logits;                     /* [head_rows, n_vocab] */
    void *logits_c;                    /* c [head_rows, n_vocab] */
    uint8_t *hits;                     /* [n_ctx] */
    float *row;                        /* [max(2 d_ff, d_qkv, d_model)] */
    float *probabilities, *dscores;    /* [64, n_ctx] */
    void *probabilities_c, *dscores_c; /* c [64, n_ctx] */
    float *block;                      /* [64, head_dim] */
    void *block_c;                     /* c [64, head_dim] */
    float *dk, *dv;                    /* [n_ctx + 64, head_dim] of one key-value head */
};

static inline const void *at(const void *base, int64_t element, const qs_train_pass_plan *plan)
{
    return (const char *)base + (size_t)element * plan->element_bytes;
}
static inline void *at_mut(void *base, int64_t element, const qs_train_pass_plan *plan)
{
    return (char *)base + (size_t)element * plan->element_bytes;
}
/* n values into the type of the products. */
void qs_train_pass_narrow(const qs_train_pass_plan *plan, const float *x, int64_t n, void *out);

/* state->q, k, v to state->attended; rows outside of segments become 0. */
void qs_train_pass_attention(qs_train_pass *pass, int thread, layer_state *state, const qs_segment *segments,
                             int64_t n_segments);
/* dattended [n_ctx, d_q] to dqkv, c [n_ctx, d_qkv], turned back; rows outside of segments become 0. */
void qs_train_pass_attention_back(qs_train_pass *pass, int thread, const layer_state *state,
                                  const qs_segment *segments, int64_t n_segments, const float *dattended,
                                  void *dqkv);

#endif
