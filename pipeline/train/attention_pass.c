/* Attention of a row, 64 queries of a head at a time. All keys that a block of queries may see lie side by
 * side, so its scores are one product, and so are the sums over keys. Keys are taken in whole blocks of 64:
 * what lies behind a query gets probability 0, in its own block as behind the end of the segment. */
#include <string.h>

#include "train/train_pass_impl.h"

typedef struct attention_block {
    const attention_products *products;
    int64_t head, kv_head;
    int64_t first,
        n_rows;     /* queries, by position in the row of tokens; the last block of a segment may be short */
    int64_t key;    /* the segment's first position */
    int64_t n_keys; /* multiple of 64 */
} attention_block;

static const void *head_rows(const qs_train_pass_plan *plan, const void *base, int64_t head, int64_t position)
{
    int64_t head_dim = plan->layout->config.head_dim;
    return at(base, (head * (plan->n_ctx + QS_TRAIN_ROWS) + position) * head_dim, plan);
}

/* pass->probabilities and their copy for products; rows behind the block's end are 0. */
static void block_probabilities(qs_train_pass *pass, int thread, const layer_state *state,
                                const attention_block *b)
{
    const qs_train_pass_plan *plan = pass->plan;
    float *p = pass->probabilities;
    qs_product_run(b->products->scores, thread, head_rows(plan, state->q, b->head, b->first),
                   head_rows(plan, state->k, b->kv_head, b->key), p);
    for (int64_t r = 0; r < b->n_rows; r++)
        plan->kernels->softmax(p + r * b->n_keys, b->first + r - b->key + 1, b->n_keys);
    memset(p + b->n_rows * b->n_keys, 0, (size_t)((QS_TRAIN_ROWS - b->n_rows) * b->n_keys) * sizeof *p);
    qs_train_pass_narrow(plan, p, QS_TRAIN_ROWS * b->n_keys, pass->probabilities_c);
}

static attention_block make_block(const qs_train_pass_plan *plan, const qs_segment *segment, int64_t head,
                                  int64_t index)
{
    const qs_model_config *c = &plan->layout->config;
    int64_t done = index * QS_TRAIN_ROWS, left = segment->n - done;
    return (attention_block){.products = &plan->attention[index],
                             .head = head,
                             .kv_head = head / (c->n_heads / c->n_kv_heads),
                             .first = segment->first + done,
                             .n_rows = left < QS_TRAIN_ROWS ? left : QS_TRAIN_ROWS,
                             .key = segment->first,
                             .n_keys = done + QS_TRAIN_ROWS};
}

static int64_t n_blocks(const qs_segment *segment)
{
    return (segment->n + QS_TRAIN_ROWS - 1) / QS_TRAIN_ROWS;
}

/* First position behind the last segment. */
static int64_t end_of(const qs_segment *segments, int64_t n_segments)
{
    return n_segments > 0 ? segments[n_segments - 1].first + segments[n_segments - 1].n : 0;
}

void qs_train_pass_attention(qs_train_pass *pass, int thread, layer_state *state, const qs_segment *segments,
                             int64_t n_segments)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_model_config *c = &plan->layout->config;
    int64_t d_q = plan->layout->d_q;
    for (int64_t s = 0; s < n_segments; s++) {
        for (int64_t head = 0; head < c->n_heads; head++) {
            for (int64_t i = 0; i < n_blocks(&segments[s]); i++) {
                attention_block b = make_block(plan, &segments[s], head, i);
                block_probabilities(pass, thread, state, &b);
                qs_product_run(b.products->values, thread, pass->probabilities_c,
                               head_rows(plan, state->v, b.kv_head, b.key), pass->block);
                for (int64_t r = 0; r < b.n_rows; r++)
                    qs_train_pass_narrow(plan, pass->block + r * c->head_dim, c->head_dim,
                                         at_mut(state->attended, (b.first + r) * d_q + head * c->head_dim, plan));
            }
        }
    }
    int64_t end = end_of(segments, n_segments);
    memset(at_mut(state->attended, end * d_q, plan), 0,
           (size_t)((plan->n_ctx - end) * d_q) * plan->element_bytes);
}

/* One block of queries of one head: its part of dk and dv is added, its dq is finished. */
static void block_back(qs_train_pass *pass, int thread, const layer_state *state, const attention_block *b,
                       int64_t segment_first, const float *dattended, void *dqkv)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_train_layout *l = plan->layout;
    int64_t d = l->config.head_dim;
    float scale = 1.0f / __builtin_sqrtf((float)d);
    block_probabilities(pass, thread, state, b);
    for (int64_t r = 0; r < b->n_rows; r++)
        qs_train_pass_narrow(plan, dattended + (b->first + r) * l->d_q + b->head * d, d,
                             at_mut(pass->block_c, r * d, plan));
    memset(at_mut(pass->block_c, b->n_rows * d, plan), 0,
           (size_t)((QS_TRAIN_ROWS - b->n_rows) * d) * plan->element_bytes);
    qs_product_run(b->products->to_keys, thread, pass->probabilities_c, pass->block_c, pass->dv + b->key * d);
    qs_product_run(b->products->scores, thread, pass->block_c, head_rows(plan, state->v, b->kv_head, b->key),
                   pass->dscores);
    for (int64_t r = 0; r < QS_TRAIN_ROWS; r++)
        plan->kernels->softmax_back(pass->probabilities + r * b->n_keys, pass->dscores + r * b->n_keys,
                                    b->n_keys);
    qs_train_pass_narrow(plan, pass->dscores, QS_TRAIN_ROWS * b->n_keys, pass->dscores_c);
    qs_product_run(b->products->to_keys, thread, pass->dscores_c,
                   head_rows(plan, state->q, b->head, b->first), pass->dk + b->key * d);
    qs_product_run(b->products->values, thread, pass->dscores_c,
                   head_rows(plan, state->k, b->kv_head, b->key), pass->block);
    for (int64_t r = 0; r < b->n_rows; r++) {
        int64_t position = b->first + r, angle = (position - segment_first) * (d / 2);
        float *dq = pass->block + r * d;
        plan->kernels->rope(dq, plan->cosines + angle, plan->sines + angle, -1.0f, scale, 1, d);
        qs_train_pass_narrow(plan, dq, d, at_mut(dqkv, position * l->d_qkv + b->head * d, plan));
    }
}

/* dk, turned back, and dv of one key-value head to their columns of dqkv. */
static void store_keys(qs_train_pass *pass, int64_t kv_head, const qs_segment *segment, void *dqkv)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_train_layout *l = plan->layout;
    int64_t d = l->config.head_dim;
    for (int64_t i = 0; i < segment->n; i++) {
        int64_t position = segment->first + i, column = position * l->d_qkv + l->d_q + kv_head * d;
        float *dk = pass->dk + position * d;
        plan->kernels->rope(dk, plan->cosines + i * (d / 2), plan->sines + i * (d / 2), -1.0f, 1.0f, 1, d);
        qs_train_pass_narrow(plan, dk, d, at_mut(dqkv, column, plan));
        qs_train_pass_narrow(plan, pass->dv + position * d, d, at_mut(dqkv, column + l->d_kv, plan));
    }
}

void qs_train_pass_attention_back(qs_train_pass *pass, int thread, const layer_state *state,
                                  const qs_segment *segments, int64_t n_segments, const float *dattended,
                                  void *dqkv)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_model_config *c = &plan->layout->config;
    int64_t n_shared = c->n_heads / c->n_kv_heads, d_qkv = plan->layout->d_qkv;
    size_t keys_bytes = (size_t)((plan->n_ctx + QS_TRAIN_ROWS) * c->head_dim) * sizeof *pass->dk;
    for (int64_t kv_head = 0; kv_head < c->n_kv_heads; kv_head++) {
        /* Blocks of keys reach beyond their segment: zeros are added there, also to segments that are
         * finished. */
        memset(pass->dk, 0, keys_bytes);
        memset(pass->dv, 0, keys_bytes);
        for (int64_t s = 0; s < n_segments; s++) {
            for (int64_t head = kv_head * n_shared; head < (kv_head + 1) * n_shared; head++) {
                for (int64_t i = 0; i < n_blocks(&segments[s]); i++) {
                    attention_block b = make_block(plan, &segments[s], head, i);
                    block_back(pass, thread, state, &b, segments[s].first, dattended, dqkv);
                }
            }
            store_keys(pass, kv_head, &segments[s], dqkv);
        }
    }
    int64_t end = end_of(segments, n_segments);
    memset(at_mut(dqkv, end * d_qkv, plan), 0, (size_t)((plan->n_ctx - end) * d_qkv) * plan->element_bytes);
}
