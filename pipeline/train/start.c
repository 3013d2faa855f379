#include "train/start.h"

#include <math.h>

#include "base/mem.h"
#include "base/rng.h"

const char *const qs_train_start_names[] = {"plain", "reading", NULL};

/* How far back the heads of the first layers look, in tokens: 0 = by content. A group of heads with one key head
 * shares its key's frequencies, which the group's first distance chooses. */
enum { N_LOOK_BACK_LAYERS = 2, N_LOOK_BACK_HEADS = 8 };
static const struct look_back {
    double distance[N_LOOK_BACK_HEADS];
    double peak; /* logit at that distance; 0 far from it */
} look_back[N_LOOK_BACK_LAYERS] = {
    {.distance = {1, 2, 3, 4, 5, 6, 8, 12}, .peak = 12},
    {.distance = {3, 6, 10, 14}, .peak = 10},
};

static const double embedding_std = 0.05;
static const double shared_share = 0.5; /* length of the shared direction over that of an embedding's noise */
static const double copy_gain = 0.12;   /* of W_o over W_v^T */
static const double like_share = 0.7;   /* of W_k in W_q, where like attends to like */
static const double quiet_std = 0.01;   /* of the content in heads that look back */
static const uint64_t direction_key = 0x5ead1e6fULL;

static double distance_of(int64_t layer, int64_t head)
{
    return layer < N_LOOK_BACK_LAYERS && head < N_LOOK_BACK_HEADS ? look_back[layer].distance[head] : 0;
}

typedef struct drawing {
    const qs_train_layout *layout;
    uint64_t seed;
    float *parameters;
    double *direction; /* [d_model], length 1 */
    double *query, *key; /* [head_dim]: what a head that looks back makes of the direction */
    float *inv_freq;   /* [head_dim / 2] */
} drawing;

static double normal(const drawing *d, int64_t element) { return qs_rng_normal(d->seed, (uint64_t)element); }

static void fill_normal(const drawing *d, int64_t first, int64_t n, double std)
{
    for (int64_t e = first; e < first + n; e++) d->parameters[e] = (float)(std * normal(d, e));
}

static void draw_direction(drawing *d)
{
    int64_t n = d->layout->config.d_model;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        d->direction[i] = qs_rng_normal(d->seed ^ direction_key, (uint64_t)i);
        sum += d->direction[i] * d->direction[i];
    }
    for (int64_t i = 0; i < n; i++) d->direction[i] /= sqrt(sum);
}

static void draw_embeddings(const drawing *d)
{
    const qs_model_config *c = &d->layout->config;
    double shared = shared_share * sqrt((double)c->d_model);
    for (int64_t e = 0; e < c->n_vocab * c->d_model; e++)
        d->parameters[d->layout->embed + e] =
            (float)(embedding_std *
                    (normal(d, d->layout->embed + e) + shared * d->direction[e % c->d_model]));
}

/* query and key, so that a query n tokens after a key has a product of 1 at n = distance and less elsewhere: the
 * mean of cos((n - distance) w) over some frequencies w. Faster ones would repeat within the width that a far
 * distance may have, slower ones tell no neighbours apart. `key_distance` chooses them: heads that share a key
 * share it. */
static void look_back_by(const drawing *d, double distance, double key_distance)
{
    int64_t half = d->layout->config.head_dim / 2, n = 0;
    double fastest = key_distance <= 5 ? 1 : 2.8 / key_distance, slowest = 0.1 / fmax(key_distance, 6);
    for (int64_t i = 0; i < half; i++) {
        double w = d->inv_freq[i];
        bool used = w <= fastest && w >= slowest;
        n += used;
        d->key[i] = d->key[half + i] = used;
        d->query[i] = used ? cos(distance * w) + sin(distance * w) : 0;
        d->query[half + i] = used ? cos(distance * w) - sin(distance * w) : 0;
    }
    for (int64_t i = 0; n > 0 && i < 2 * half; i++) {
        d->key[i] /= sqrt(2.0 * (double)n);
        d->query[i] /= sqrt(2.0 * (double)n);
    }
}

/* A head's rows of W_q or W_k that answer to the shared direction with pattern [head_dim]. */
static void write_pattern(const drawing *d, int64_t first, const double *pattern, double peak)
{
    const qs_model_config *c = &d->layout->config;
    /* What a normalised embedding has of the direction, and what makes the product's logit the peak. */
    double along = shared_share * sqrt((double)c->d_model) / sqrt(1 + shared_share * shared_share);
    double gain = sqrt(peak * sqrt((double)c->head_dim)) / along;
    for (int64_t e = 0; e < c->head_dim * c->d_model; e++)
        d->parameters[first + e] = (float)(quiet_std * normal(d, first + e) +
                                           gain * pattern[e / c->d_model] * d->direction[e % c->d_model]);
}

/* Query head `head` and, with the first of its group, the key head. */
static void draw_head(const drawing *d, int64_t layer, int64_t head)
{
    const qs_model_config *c = &d->layout->config;
    int64_t group = c->n_heads / c->n_kv_heads, n = c->head_dim * c->d_model, first_head = head - head % group;
    int64_t q = d->layout->layers[layer].qkv + head * n;
    int64_t k = d->layout->layers[layer].qkv + d->layout->d_q * c->d_model + head / group * n;
    double distance = distance_of(layer, head), key_distance = distance_of(layer, first_head);
    double std = 1 / sqrt((double)c->d_model);
    if (distance > 0 && key_distance > 0) {
        look_back_by(d, distance, key_distance);
        write_pattern(d, q, d->query, look_back[layer].peak);
        if (head == first_head) write_pattern(d, k, d->key, look_back[layer].peak);
        return;
    }
    fill_normal(d, q, n, std);
    if (head != first_head) return;
    fill_normal(d, k, n, std);
    for (int64_t e = 0; e < n; e++)
        d->parameters[q + e] =
            (float)(like_share * d->parameters[k + e] + (1 - like_share) * d->parameters[q + e]);
}

/* W_o as a multiple of W_v^T: what a head attends to becomes more likely, as copying needs it. */
static void draw_copying(const drawing *d, int64_t layer)
{
    const qs_model_config *c = &d->layout->config;
    const qs_train_layer *l = &d->layout->layers[layer];
    int64_t v = l->qkv + (d->layout->d_q + d->layout->d_kv) * c->d_model, group = c->n_heads / c->n_kv_heads;
    fill_normal(d, v, d->layout->d_kv * c->d_model, 1 / sqrt((double)c->d_model));
    for (int64_t i = 0; i < c->d_model; i++)
        for (int64_t j = 0; j < d->layout->d_q; j++) {
            int64_t row = j / c->head_dim / group * c->head_dim + j % c->head_dim;
            d->parameters[l->o + i * d->layout->d_q + j] =
                (float)(copy_gain * d->parameters[v + row * c->d_model + i]);
        }
}

static void draw_for_reading(drawing *d)
{
    const qs_model_config *c = &d->layout->config;
    draw_direction(d);
    draw_embeddings(d);
    for (int64_t i = 0; i < c->n_layers; i++) {
        const qs_train_layer *l = &d->layout->layers[i];
        for (int64_t head = 0; head < c->n_heads; head++) draw_head(d, i, head);
        draw_copying(d, i);
        fill_normal(d, l->gate_up, 2 * c->d_ff * c->d_model, 1 / sqrt((double)c->d_model));
        for (int64_t e = 0; e < c->d_model * c->d_ff; e++) d->parameters[l->down + e] = 0;
    }
}

/* Every element: gains stay 1 in both ways. */
static void draw_plain(const qs_train_layout *layout, uint64_t seed, double std, float *parameters)
{
    double output_std = std / sqrt(2.0 * (double)layout->config.n_layers);
    for (int64_t i = 0; i < layout->n_tensors; i++) {
        const qs_train_tensor *t = &layout->tensors[i];
        int64_t end = t->first + t->n_out * t->n_in;
        for (int64_t e = t->first; e < end; e++)
            parameters[e] =
                t->is_matrix ? (float)(qs_rng_normal(seed, (uint64_t)e) * (t->is_output ? output_std : std))
                             : 1.0f;
    }
}

qs_err qs_train_start_draw(const qs_train_layout *layout, qs_train_start start, uint64_t seed, double std,
                           float *parameters)
{
    const qs_model_config *c = &layout->config;
    drawing d = {.layout = layout, .seed = seed, .parameters = parameters};
    qs_err err = QS_OK;
    draw_plain(layout, seed, std, parameters);
    if (start == QS_START_PLAIN) return QS_OK;
    QS_TRY(QS_NEW(d.direction, c->d_model, "direction of all embeddings"));
    QS_TRY(QS_NEW(d.query, c->head_dim, "query of a head"));
    QS_TRY(QS_NEW(d.key, c->head_dim, "key of a head"));
    QS_TRY(QS_NEW(d.inv_freq, c->head_dim / 2, "rotary frequencies"));
    qs_rope_frequencies(c, NULL, d.inv_freq);
    draw_for_reading(&d);
out:
    qs_mem_free(d.direction);
    qs_mem_free(d.query);
    qs_mem_free(d.key);
    qs_mem_free(d.inv_freq);
    return err;
}
