/* The weights that training starts from: "plain" is noise of the scale it says; under "reading" heads of the first
 * layers look as far back as their table says, whatever the tokens are. Demand: issue "A model of our own" (same
 * seed, same bytes). */
#include "scratch.h"

#include <math.h>
#include <stdlib.h>

#include "train/start.h"

enum { N_TOKENS = 64, N_VOCAB = 512, D = 128, N_HEADS = 8, HEAD_DIM = 64 };

static qs_model_config small_config(int64_t n_kv_heads)
{
    qs_model_config c = {.n_layers = 3,
                         .d_model = D,
                         .d_ff = 64,
                         .n_heads = N_HEADS,
                         .n_kv_heads = n_kv_heads,
                         .head_dim = HEAD_DIM,
                         .n_vocab = N_VOCAB,
                         .rope_theta = 1e5,
                         .tied_head = true};
    (void)snprintf(c.architecture, sizeof c.architecture, "llama");
    return c;
}

typedef struct drawn {
    qs_train_layout layout;
    float *p;
} drawn;

static drawn draw(int64_t n_kv_heads, qs_train_start start, uint64_t seed)
{
    drawn d;
    qs_model_config config = small_config(n_kv_heads);
    OK(qs_train_layout_init(&d.layout, &config));
    OK(QS_NEW(d.p, d.layout.n, "parameters"));
    OK(qs_train_start_draw(&d.layout, start, seed, 0.02, d.p));
    return d;
}

static void drop(drawn *d)
{
    qs_mem_free(d->p);
    qs_train_layout_fini(&d->layout);
}

static double std_of(const float *x, int64_t n)
{
    double squares = 0;
    for (int64_t i = 0; i < n; i++) squares += (double)x[i] * x[i];
    return sqrt(squares / (double)n);
}

/* One row of a projection times the normalised embedding of a token. */
static double project(const drawn *d, int64_t first, int64_t row, int64_t token)
{
    const float *w = d->p + first + row * D, *x = d->p + d->layout.embed + token * D;
    double sum = 0;
    for (int64_t i = 0; i < D; i++) sum += (double)w[i] * x[i];
    return sum / std_of(x, D);
}

/* The rotated projection [N_TOKENS][HEAD_DIM] of tokens 1, 8, 15, ...: x cos - y sin, y cos + x sin. */
static void rotated(const drawn *d, int64_t first, int64_t head, double out[N_TOKENS][HEAD_DIM])
{
    float inv_freq[HEAD_DIM / 2];
    qs_rope_frequencies(&d->layout.config, NULL, inv_freq);
    for (int64_t t = 0; t < N_TOKENS; t++)
        for (int64_t i = 0; i < HEAD_DIM / 2; i++) {
            double x = project(d, first, head * HEAD_DIM + i, (1 + 7 * t) % N_VOCAB);
            double y = project(d, first, head * HEAD_DIM + HEAD_DIM / 2 + i, (1 + 7 * t) % N_VOCAB);
            double angle = (double)t * inv_freq[i];
            out[t][i] = x * cos(angle) - y * sin(angle);
            out[t][HEAD_DIM / 2 + i] = y * cos(angle) + x * sin(angle);
        }
}

/* Far distances have a flat peak.
 * The distance at which the head's logits of the first layer are highest on the average, and that average. */
static int64_t looks_back(const drawn *d, int64_t head, double *peak)
{
    static double q[N_TOKENS][HEAD_DIM], k[N_TOKENS][HEAD_DIM];
    const qs_model_config *c = &d->layout.config;
    int64_t best = -1;
    rotated(d, d->layout.layers[0].qkv, head, q);
    rotated(d, d->layout.layers[0].qkv + d->layout.d_q * D, head / (c->n_heads / c->n_kv_heads), k);
    *peak = -1e30;
    for (int64_t distance = 0; distance < 40; distance++) {
        double sum = 0;
        for (int64_t t = distance; t < N_TOKENS; t++)
            for (int64_t i = 0; i < HEAD_DIM; i++) sum += q[t][i] * k[t - distance][i];
        sum /= sqrt(HEAD_DIM) * (double)(N_TOKENS - distance);
        if (sum > *peak) {
            *peak = sum;
            best = distance;
        }
    }
    return best;
}

static void test_heads_look_back(void **state)
{
    (void)state;
    static const int64_t wanted[N_HEADS] = {1, 2, 3, 4, 5, 6, 8, 12};
    for (int64_t n_kv_heads = N_HEADS; n_kv_heads >= 4; n_kv_heads /= 2) {
        drawn d = draw(n_kv_heads, QS_START_READING, 3);
        for (int64_t head = 0; head < N_HEADS; head++) {
            double peak;
            int64_t distance = looks_back(&d, head, &peak);
            if (llabs(distance - wanted[head]) > (wanted[head] > 5) || !(fabs(peak / 12 - 1) <= 0.25))
                fail_msg("head %lld of %lld keys looks back by %lld (%.2f)", (long long)head,
                         (long long)n_kv_heads, (long long)distance, peak);
        }
        drop(&d);
    }
    drawn plain = draw(N_HEADS, QS_START_PLAIN, 3);
    double peak;
    (void)looks_back(&plain, 0, &peak);
    assert_true(peak < 1);
    drop(&plain);
}

/* Copying, silent MLPs, and a direction in the embeddings that is one for all. */
static void test_reading(void **state)
{
    (void)state;
    drawn d = draw(4, QS_START_READING, 5);
    const qs_train_layer *l = &d.layout.layers[2];
    const float *v = d.p + l->qkv + (d.layout.d_q + d.layout.d_kv) * D, *o = d.p + l->o;
    for (int64_t i = 0; i < D; i += 17)
        for (int64_t j = 0; j < d.layout.d_q; j++) {
            int64_t row = j / HEAD_DIM / 2 * HEAD_DIM + j % HEAD_DIM; /* two query heads share a value head */
            assert_true(fabs(o[i * d.layout.d_q + j] - 0.12 * v[row * D + i]) < 1e-7);
        }
    assert_true(std_of(d.p + l->down, D * 64) == 0);
    double mean[D] = {0}, squares = 0;
    for (int64_t e = 0; e < N_VOCAB * D; e++) mean[e % D] += (double)d.p[d.layout.embed + e] / N_VOCAB;
    for (int64_t i = 0; i < D; i++) squares += mean[i] * mean[i];
    /* 0.05 of an element, half of what is their own: 0.05 * 0.5 * sqrt(d). */
    assert_true(fabs(sqrt(squares) / (0.025 * sqrt(D)) - 1) < 0.05);
    drop(&d);
}

static void test_plain(void **state)
{
    (void)state;
    drawn d = draw(N_HEADS, QS_START_PLAIN, 5);
    const qs_train_layer *l = &d.layout.layers[1];
    assert_true(fabs(std_of(d.p + l->qkv, d.layout.d_qkv * D) / 0.02 - 1) < 0.02);
    assert_true(fabs(std_of(d.p + l->o, d.layout.d_q * D) / (0.02 / sqrt(6)) - 1) < 0.02);
    assert_true(d.p[l->attn_norm + 3] == 1.0F && d.p[d.layout.final_norm] == 1.0F);
    drop(&d);
}

/* A seed is all that it depends on. */
static void test_seeds(void **state)
{
    (void)state;
    for (int start = QS_START_PLAIN; start <= QS_START_READING; start++) {
        drawn a = draw(4, (qs_train_start)start, 1), b = draw(4, (qs_train_start)start, 1);
        drawn c = draw(4, (qs_train_start)start, 2);
        assert_memory_equal(a.p, b.p, (size_t)a.layout.n * sizeof *a.p);
        assert_memory_not_equal(a.p, c.p, (size_t)a.layout.n * sizeof *a.p);
        drop(&a), drop(&b), drop(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_heads_look_back),
        cmocka_unit_test(test_reading),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_seeds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
