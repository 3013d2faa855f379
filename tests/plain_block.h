/* A decoder block of a Llama model without biases and without norms of q and k, in plain C and f64: what losses of a
 * block's output are held against. */
#ifndef QS_TESTS_PLAIN_BLOCK_H
#define QS_TESTS_PLAIN_BLOCK_H

#include <math.h>

#include "tests/scratch.h"

#include "model/weights.h"

enum { PLAIN_WIDTH_MAX = 256, PLAIN_CTX_MAX = 64 };

typedef struct plain_block {
    const qs_model_config *config;
    float *linears[QS_N_LINEARS]; /* [n_out, n_in] of each role, owned */
    float *attn_norm, *mlp_norm;  /* [d_model], owned */
} plain_block;

static inline float *plain_read(const qs_model *model, qs_role role, int64_t layer)
{
    qs_tensor_info info = qs_model_info(model, role, layer);
    int64_t rows = info.n_out > 0 ? info.n_out : 1;
    float *data = malloc((size_t)(rows * info.n_in) * sizeof *data);
    OK(qs_model_read_f32(model, role, layer, data));
    return data;
}

static inline plain_block plain_block_of(const qs_model *model, int64_t layer)
{
    plain_block b = {.config = qs_model_get_config(model)};
    for (qs_role role = 0; role < QS_N_LINEARS; role++) b.linears[role] = plain_read(model, role, layer);
    b.attn_norm = plain_read(model, QS_ROLE_ATTN_NORM, layer);
    b.mlp_norm = plain_read(model, QS_ROLE_MLP_NORM, layer);
    return b;
}

static inline void plain_block_free(plain_block *b)
{
    for (qs_role role = 0; role < QS_N_LINEARS; role++) free(b->linears[role]);
    free(b->attn_norm);
    free(b->mlp_norm);
}

static inline void plain_norm(const double *x, const float *weight, int64_t n, double eps, double *y)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum + eps) * (double)weight[i];
}

static inline void plain_linear(const float *w, const double *x, int64_t n_out, int64_t n_in, double *y)
{
    for (int64_t r = 0; r < n_out; r++) {
        y[r] = 0;
        for (int64_t j = 0; j < n_in; j++) y[r] += (double)w[r * n_in + j] * x[j];
    }
}

static inline void plain_rope(const qs_model_config *c, double *x, int64_t n_heads, int64_t position)
{
    int64_t half = c->head_dim / 2;
    for (int64_t h = 0; h < n_heads; h++)
        for (int64_t i = 0; i < half; i++) {
            double angle = (double)position * pow(c->rope_theta, -2.0 * (double)i / (double)c->head_dim);
            double *a = x + h * c->head_dim + i, *b = a + half, turned = *a * cos(angle) - *b * sin(angle);
            *b = *b * cos(angle) + *a * sin(angle);
            *a = turned;
        }
}

/* One head of the last of n positions; q [head_dim], k and v [n][PLAIN_WIDTH_MAX] from the head's channels on. */
static inline void plain_attend(const double *q, const double (*k)[PLAIN_WIDTH_MAX], const double (*v)[PLAIN_WIDTH_MAX],
                                int64_t channel, int64_t n, int64_t head_dim, double *out)
{
    double p[PLAIN_CTX_MAX], most = -INFINITY, sum = 0;
    for (int64_t t = 0; t < n; t++) {
        p[t] = 0;
        for (int64_t i = 0; i < head_dim; i++) p[t] += q[i] * k[t][channel + i] / sqrt((double)head_dim);
        most = fmax(most, p[t]);
    }
    for (int64_t t = 0; t < n; t++) sum += p[t] = exp(p[t] - most);
    for (int64_t i = 0; i < head_dim; i++) {
        out[i] = 0;
        for (int64_t t = 0; t < n; t++) out[i] += p[t] / sum * v[t][channel + i];
    }
}

/* Inputs of the four sites of each token, where a caller wants them: x[site][token][PLAIN_WIDTH_MAX]. */
typedef double plain_inputs[4][PLAIN_CTX_MAX][PLAIN_WIDTH_MAX];

/* hidden [n_ctx, d_model], one window, becomes the block's output. */
static inline void plain_forward(const plain_block *b, double *hidden, int64_t n_ctx, plain_inputs *inputs)
{
    static double k[PLAIN_CTX_MAX][PLAIN_WIDTH_MAX], v[PLAIN_CTX_MAX][PLAIN_WIDTH_MAX];
    const qs_model_config *c = b->config;
    int64_t d = c->d_model, n_q = c->n_heads * c->head_dim, n_kv = c->n_kv_heads * c->head_dim;
    double x[PLAIN_WIDTH_MAX], q[PLAIN_WIDTH_MAX], mixed[PLAIN_WIDTH_MAX], gate[PLAIN_WIDTH_MAX], up[PLAIN_WIDTH_MAX],
        y[PLAIN_WIDTH_MAX];
    for (int64_t t = 0; t < n_ctx; t++) {
        double *h = hidden + t * d;
        plain_norm(h, b->attn_norm, d, c->norm_eps, x);
        plain_linear(b->linears[QS_ROLE_Q], x, n_q, d, q);
        plain_linear(b->linears[QS_ROLE_K], x, n_kv, d, k[t]);
        plain_linear(b->linears[QS_ROLE_V], x, n_kv, d, v[t]);
        plain_rope(c, q, c->n_heads, t);
        plain_rope(c, k[t], c->n_kv_heads, t);
        for (int64_t head = 0; head < c->n_heads; head++)
            plain_attend(q + head * c->head_dim, k, v, head / (c->n_heads / c->n_kv_heads) * c->head_dim, t + 1,
                         c->head_dim, mixed + head * c->head_dim);
        plain_linear(b->linears[QS_ROLE_O], mixed, d, n_q, y);
        if (inputs != NULL) memcpy((*inputs)[0][t], x, sizeof x);
        if (inputs != NULL) memcpy((*inputs)[1][t], mixed, sizeof mixed);
        for (int64_t i = 0; i < d; i++) h[i] += y[i];
        plain_norm(h, b->mlp_norm, d, c->norm_eps, x);
        plain_linear(b->linears[QS_ROLE_GATE], x, c->d_ff, d, gate);
        plain_linear(b->linears[QS_ROLE_UP], x, c->d_ff, d, up);
        for (int64_t i = 0; i < c->d_ff; i++) gate[i] *= up[i] / (1 + exp(-gate[i]));
        if (inputs != NULL) memcpy((*inputs)[2][t], x, sizeof x);
        if (inputs != NULL) memcpy((*inputs)[3][t], gate, sizeof gate);
        plain_linear(b->linears[QS_ROLE_DOWN], gate, d, c->d_ff, y);
        for (int64_t i = 0; i < d; i++) h[i] += y[i];
    }
}

/* The mean over tokens of |other - y|^2 / |y|^2. */
static inline double plain_loss(const double *y, const double *other, int64_t n_tokens, int64_t d)
{
    double loss = 0;
    for (int64_t t = 0; t < n_tokens; t++) {
        double error = 0, size = 0;
        for (int64_t i = t * d; i < (t + 1) * d; i++) {
            error += (other[i] - y[i]) * (other[i] - y[i]);
            size += y[i] * y[i];
        }
        loss += error / size / (double)n_tokens;
    }
    return loss;
}

#endif
