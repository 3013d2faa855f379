#include "train/train_pass.h"

#include <string.h>

#include "train/train_pass_impl.h"

void qs_train_pass_narrow(const qs_train_pass_plan *plan, const float *x, int64_t n, void *out)
{
    if (plan->compute == QS_COMPUTE_BF16)
        plan->kernels->to_bf16(x, n, out);
    else
        memcpy(out, x, (size_t)n * sizeof *x);
}

/* x [n_ctx, d_model] to its norm's factors and, for products, the normed rows. */
static void norm_rows(qs_train_pass *pass, const float *x, const float *gain, float *factor, void *normed)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_model_config *c = &plan->layout->config;
    for (int64_t t = 0; t < plan->n_ctx; t++) {
        factor[t] = plan->kernels->rmsnorm(x + t * c->d_model, gain, c->d_model, c->norm_eps, pass->row);
        qs_train_pass_narrow(plan, pass->row, c->d_model, at_mut(normed, t * c->d_model, plan));
    }
}

/* dx += the gradient dnormed [n_ctx, d_model] through the norm of x. */
static void norm_rows_back(qs_train_pass *pass, const float *dnormed, const float *x, const float *gain,
                           const float *factor, float *dgain)
{
    const qs_train_pass_plan *plan = pass->plan;
    int64_t d = plan->layout->config.d_model;
    for (int64_t t = 0; t < plan->n_ctx; t++)
        plan->kernels->rmsnorm_back(dnormed + t * d, x + t * d, gain, factor[t], d, pass->dx + t * d, dgain);
}

/* Rows of q, k and v, turned by their positions, each head's rows together. */
static void split_heads(qs_train_pass *pass, layer_state *state, const qs_segment *segments,
                        int64_t n_segments)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_train_layout *l = plan->layout;
    const qs_model_config *c = &l->config;
    int64_t d = c->head_dim, padded = plan->n_ctx + QS_TRAIN_ROWS;
    float scale = 1.0f / __builtin_sqrtf((float)d);
    for (int64_t s = 0; s < n_segments; s++) {
        for (int64_t i = 0; i < segments[s].n; i++) {
            int64_t t = segments[s].first + i;
            const float *cosines = plan->cosines + i * (d / 2), *sines = plan->sines + i * (d / 2);
            float *q = pass->wide + t * l->d_qkv, *k = q + l->d_q, *v = k + l->d_kv;
            plan->kernels->rope(q, cosines, sines, 1.0f, scale, c->n_heads, d);
            plan->kernels->rope(k, cosines, sines, 1.0f, 1.0f, c->n_kv_heads, d);
            for (int64_t h = 0; h < c->n_heads; h++)
                qs_train_pass_narrow(plan, q + h * d, d, at_mut(state->q, (h * padded + t) * d, plan));
            for (int64_t h = 0; h < c->n_kv_heads; h++) {
                qs_train_pass_narrow(plan, k + h * d, d, at_mut(state->k, (h * padded + t) * d, plan));
                qs_train_pass_narrow(plan, v + h * d, d, at_mut(state->v, (h * padded + t) * d, plan));
            }
        }
    }
}

/* state->x to out, which is the next layer's x. */
static void layer_forward(qs_train_pass *pass, int thread, const qs_pass_weights *w, int64_t layer,
                          const qs_segment *segments, int64_t n_segments, float *out)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_model_config *c = &plan->layout->config;
    const qs_train_layer *p = &plan->layout->layers[layer];
    layer_state *state = &pass->layers[layer];
    size_t stream_bytes = (size_t)(plan->n_ctx * c->d_model) * sizeof(float);
    norm_rows(pass, state->x, w->f32 + p->attn_norm, state->factor, state->normed);
    qs_product_run(plan->qkv, thread, state->normed, at(w->products, p->qkv, plan), pass->wide);
    split_heads(pass, state, segments, n_segments);
    qs_train_pass_attention(pass, thread, state, segments, n_segments);
    memcpy(state->mid, state->x, stream_bytes);
    qs_product_run(plan->o, thread, state->attended, at(w->products, p->o, plan), state->mid);
    norm_rows(pass, state->mid, w->f32 + p->mlp_norm, state->mid_factor, state->mid_normed);
    qs_product_run(plan->gate_up, thread, state->mid_normed, at(w->products, p->gate_up, plan),
                   state->gate_up);
    for (int64_t t = 0; t < plan->n_ctx; t++) {
        const float *gate = state->gate_up + t * 2 * c->d_ff;
        plan->kernels->swiglu(gate, gate + c->d_ff, c->d_ff, pass->row);
        qs_train_pass_narrow(plan, pass->row, c->d_ff, at_mut(state->gated, t * c->d_ff, plan));
    }
    memcpy(out, state->mid, stream_bytes);
    qs_product_run(plan->down, thread, state->gated, at(w->products, p->down, plan), out);
}

/* pass->dx, the gradient of the layer's output, becomes that of its input. */
static void layer_back(qs_train_pass *pass, int thread, const qs_pass_weights *w, int64_t layer,
                       const qs_segment *segments, int64_t n_segments, float *gradient)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_model_config *c = &plan->layout->config;
    const qs_train_layer *p = &plan->layout->layers[layer];
    layer_state *state = &pass->layers[layer];
    qs_train_pass_narrow(plan, pass->dx, plan->n_ctx * c->d_model, pass->dx_c);
    qs_product_run(plan->down_dx, thread, pass->dx_c, at(w->products, p->down, plan), pass->wide);
    qs_product_run(plan->down_dw, thread, pass->dx_c, state->gated, gradient + p->down);
    for (int64_t t = 0; t < plan->n_ctx; t++) {
        const float *gate = state->gate_up + t * 2 * c->d_ff;
        plan->kernels->swiglu_back(gate, gate + c->d_ff, pass->wide + t * c->d_ff, c->d_ff, pass->row,
                                   pass->row + c->d_ff);
        qs_train_pass_narrow(plan, pass->row, 2 * c->d_ff, at_mut(pass->wide_c, t * 2 * c->d_ff, plan));
    }
    qs_product_run(plan->gate_up_dx, thread, pass->wide_c, at(w->products, p->gate_up, plan), pass->wide);
    qs_product_run(plan->gate_up_dw, thread, pass->wide_c, state->mid_normed, gradient + p->gate_up);
    norm_rows_back(pass, pass->wide, state->mid, w->f32 + p->mlp_norm, state->mid_factor,
                   gradient + p->mlp_norm);

    qs_train_pass_narrow(plan, pass->dx, plan->n_ctx * c->d_model, pass->dx_c);
    qs_product_run(plan->o_dx, thread, pass->dx_c, at(w->products, p->o, plan), pass->wide);
    qs_product_run(plan->o_dw, thread, pass->dx_c, state->attended, gradient + p->o);
    qs_train_pass_attention_back(pass, thread, state, segments, n_segments, pass->wide, pass->wide_c);
    qs_product_run(plan->qkv_dx, thread, pass->wide_c, at(w->products, p->qkv, plan), pass->wide);
    qs_product_run(plan->qkv_dw, thread, pass->wide_c, state->normed, gradient + p->qkv);
    norm_rows_back(pass, pass->wide, state->x, w->f32 + p->attn_norm, state->factor, gradient + p->attn_norm);
}

typedef struct row_view {
    const int32_t *tokens, *targets;
    const float *weights;
    const uint8_t *is_answer;
    const qs_segment *segments;
    int64_t n_segments;
} row_view;

static void count_token(qs_train_loss *loss, const qs_token_loss *token, float weight, bool is_answer)
{
    loss->weighted += (double)weight * token->nll;
    loss->nll += token->nll;
    loss->n++;
    loss->n_hits += token->is_largest;
    if (!is_answer) return;
    loss->answer_nll += token->nll;
    loss->n_answer++;
    loss->n_answer_hits += token->is_largest;
}

/* Losses and, with a gradient, pass->wide = the gradient of the normed rows. A part of the logits at a time. */
static void head(qs_train_pass *pass, int thread, const qs_pass_weights *w, const row_view *row, float scale,
                 float *gradient, qs_train_loss *loss)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_train_layout *l = plan->layout;
    int64_t n_vocab = l->config.n_vocab, d = l->config.d_model, n_rows = plan->head_rows;
    for (int64_t first = 0; first < plan->n_ctx; first += n_rows) {
        const void *normed = at(pass->normed, first * d, plan), *table = at(w->products, l->embed, plan);
        qs_product_run(plan->head, thread, normed, table, pass->logits);
        for (int64_t r = 0; r < n_rows; r++) {
            int64_t t = first + r;
            float *logits = pass->logits + r * n_vocab;
            if (row->weights[t] == 0.0f) {
                memset(logits, 0, (size_t)n_vocab * sizeof *logits);
                continue;
            }
            qs_token_loss token =
                plan->kernels->cross_entropy(logits, n_vocab, row->targets[t], scale * row->weights[t]);
            pass->hits[t] = token.is_largest;
            count_token(loss, &token, row->weights[t], row->is_answer[t]);
        }
        if (gradient == NULL) continue;
        qs_train_pass_narrow(plan, pass->logits, n_rows * n_vocab, pass->logits_c);
        qs_product_run(plan->head_dx, thread, pass->logits_c, table, pass->wide + first * d);
        qs_product_run(plan->head_dw, thread, pass->logits_c, normed, gradient + l->embed);
    }
}

static void count_examples(const qs_train_pass *pass, const row_view *row, qs_train_loss *loss)
{
    for (int64_t s = 0; s < row->n_segments; s++) {
        bool has_answer = false, all_hit = true;
        const qs_segment *segment = &row->segments[s];
        for (int64_t t = segment->first; t + 1 < segment->first + segment->n; t++) {
            if (!row->is_answer[t] || row->weights[t] == 0.0f) continue;
            has_answer = true;
            all_hit = all_hit && pass->hits[t];
        }
        loss->n_examples += has_answer;
        loss->n_examples_hit += has_answer && all_hit;
    }
}

qs_train_loss qs_train_pass_run(qs_train_pass *pass, int thread, const qs_pass_weights *weights,
                                const qs_batch *batch, int64_t row, float scale, float *gradient)
{
    const qs_train_pass_plan *plan = pass->plan;
    const qs_train_layout *l = plan->layout;
    const qs_model_config *c = &l->config;
    int64_t d = c->d_model, at_row = row * batch->n_ctx;
    qs_train_loss loss = {0};
    row_view view = {.tokens = batch->tokens + at_row,
                     .targets = batch->targets + at_row,
                     .weights = batch->weights + at_row,
                     .is_answer = batch->is_answer + at_row,
                     .segments = batch->segments + row * batch->n_segments_max,
                     .n_segments = batch->n_segments[row]};
    for (int64_t t = 0; t < plan->n_ctx; t++)
        memcpy(pass->layers[0].x + t * d, weights->f32 + l->embed + view.tokens[t] * d,
               (size_t)d * sizeof(float));
    for (int64_t i = 0; i < c->n_layers; i++)
        layer_forward(pass, thread, weights, i, view.segments, view.n_segments,
                      i + 1 < c->n_layers ? pass->layers[i + 1].x : pass->x);
    norm_rows(pass, pass->x, weights->f32 + l->final_norm, pass->factor, pass->normed);
    head(pass, thread, weights, &view, scale, gradient, &loss);
    count_examples(pass, &view, &loss);
    if (gradient == NULL) return loss;

    memset(pass->dx, 0, (size_t)(plan->n_ctx * d) * sizeof *pass->dx);
    norm_rows_back(pass, pass->wide, pass->x, weights->f32 + l->final_norm, pass->factor,
                   gradient + l->final_norm);
    for (int64_t i = c->n_layers - 1; i >= 0; i--)
        layer_back(pass, thread, weights, i, view.segments, view.n_segments, gradient);
    for (int64_t t = 0; t < plan->n_ctx; t++)
        plan->kernels->add(gradient + l->embed + view.tokens[t] * d, pass->dx + t * d, d);
    return loss;
}
