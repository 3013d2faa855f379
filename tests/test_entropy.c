/* Entropy curves by hand, long texts against the plain loop, and the reference against itself (docs/entropy.md;
 * checklist G14, A14, B16: entropy that collapses or rises earlier). */
#include "figures.h"
#include "text_bench.h"

#include "metric/entropy_curve.h"
#include "metric/entropy_metrics.h"
#include "backend/sampler.h"

enum { N = 240 };

static qs_curve_check compare(const double *f, const double *q, const int32_t *tokens_f, const int32_t *tokens_q)
{
    static double scratch[2 * N], again_f[N], again_q[N];
    if (tokens_f != NULL) qs_curve_repetitions(tokens_f, N, again_f);
    if (tokens_q != NULL) qs_curve_repetitions(tokens_q, N, again_q);
    return qs_curve_compare(&(qs_curve_side){f, tokens_f != NULL ? again_f : NULL},
                            &(qs_curve_side){q, tokens_q != NULL ? again_q : NULL}, N, scratch);
}

static void flat(double *h, double value)
{
    for (int t = 0; t < N; t++) h[t] = value;
}

static void test_smooth(void **state)
{
    (void)state;
    const double h[] = {4, 2, 6, 0, 10};
    double e[5];
    qs_curve_smooth(h, 5, 3, e);
    const double wanted[] = {4, 3, 4, 8.0 / 3.0, 16.0 / 3.0};
    for (int i = 0; i < 5; i++) assert_true(fabs(e[i] - wanted[i]) < 1e-15);
    assert_int_equal(qs_curve_width(512), 50);
    assert_int_equal(qs_curve_width(200), 50);
    assert_int_equal(qs_curve_width(128), 16);
    assert_int_equal(qs_curve_width(8), 5);
}

static void test_repetition(void **state)
{
    (void)state;
    const int32_t once[] = {1, 2, 3, 4, 5, 6, 7}, loop[] = {1, 2, 3, 1, 2, 3, 1, 2, 3};
    assert_true(qs_curve_repetition(once, 7) == 0.0);
    assert_true(qs_curve_repetition(loop, 9) == 0.5); /* 6 grams, 3 of them again */
    assert_true(qs_curve_repetition(once, 3) == 0.0);
}

/* A level of 2 nats; the candidate doubles it from step 100 on. The mean of 50 reaches 1.2 x 2 with the tenth new
 * step, 109; a rise in the reference at the same place makes it no fault. */
static void test_rise(void **state)
{
    (void)state;
    double f[N], q[N];
    flat(f, 2.0);
    flat(q, 2.0);
    qs_curve_check c = compare(f, q, NULL, NULL);
    assert_true(c.stable && c.rms == 0.0 && c.base == 2.0);
    assert_int_equal(c.rise_q, N);
    for (int t = 100; t < N; t++) q[t] = 4.0;
    c = compare(f, q, NULL, NULL);
    assert_int_equal(c.rise_q, 109);
    assert_int_equal(c.rise_f, N);
    assert_int_equal(c.spike, 149); /* the whole mean is 2 x 2 */
    assert_int_equal(c.collapse_q, N);
    assert_false(c.stable);
    for (int t = 110; t < N; t++) f[t] = 4.0; /* ten steps later: within 24 */
    c = compare(f, q, NULL, NULL);
    assert_int_equal(c.rise_f, 119);
    assert_true(c.rms < 0.20 && c.spike == 149); /* the reference's peak comes ten steps later, and near is five */
    for (int t = 105; t < N; t++) f[t] = 4.0;
    assert_true(compare(f, q, NULL, NULL).stable);
}

/* A short peak far above: the mean of 50 spikes; the reference's own peak three steps on excuses it. */
static void test_spike(void **state)
{
    (void)state;
    double f[N], q[N];
    flat(f, 1.0);
    flat(q, 1.0);
    q[120] = 60.0;
    qs_curve_check c = compare(f, q, NULL, NULL);
    assert_int_equal(c.spike, 120);
    assert_false(c.stable);
    f[123] = 60.0;
    c = compare(f, q, NULL, NULL);
    assert_int_equal(c.spike, N);
}

static void test_collapse(void **state)
{
    (void)state;
    double f[N], q[N];
    int32_t tokens[N], loop[N];
    flat(f, 1.0);
    flat(q, 1.0);
    for (int t = 80; t < N; t++) q[t] = 0.5; /* 20 of 50 halved: 0.8 */
    qs_curve_check c = compare(f, q, NULL, NULL);
    assert_int_equal(c.collapse_q, 99);
    assert_false(c.stable);
    /* entropy alike, and the candidate's text repeats itself */
    for (int t = 0; t < N; t++) {
        tokens[t] = t;
        loop[t] = t < 100 ? t : t % 8;
    }
    c = compare(f, f, tokens, loop);
    assert_int_equal(c.collapse_f, N);
    /* at end - 1 the last 64 hold 61 grams; half again = 31: the loop has run 8 + 3 + 31 steps */
    assert_int_equal(c.collapse_q, 100 + 8 + 3 + 31 - 1);
    assert_false(c.stable);
    assert_true(compare(f, f, loop, loop).stable);
}

/* A reference that is nearly certain: a fifth of nothing is nothing. */
static void test_certain(void **state)
{
    (void)state;
    double f[N], q[N];
    flat(f, 0.001);
    flat(q, 0.003);
    assert_true(compare(f, q, NULL, NULL).stable);
}

/* ---- long texts ---- */

enum { N_PROMPTS = 4, N_STEPS = 16 };

static void write_texts(const bench *b, int64_t batch, qs_long_runs *out)
{
    qs_decoder *decoder = decoder_of(b, batch, QS_F16);
    assert_ok(qs_long_write(out, decoder, qs_tokenizer_eos(b->tokenizer), b->prompts, N_PROMPTS, N_STEPS));
    qs_decoder_destroy(decoder);
}

/* Tokens and entropies by the plain loop, in double precision. */
static void test_writes(void **state)
{
    (void)state;
    bench b;
    qs_long_runs runs, other;
    float logits[BENCH_VOCAB];
    bench_open(&b, 1);
    write_texts(&b, 3, &runs);
    qs_decoder *decoder = decoder_of(&b, 1, QS_F16);
    for (int i = 0; i < N_PROMPTS; i++) {
        assert_ok(qs_decoder_prefill(decoder, 0, b.prompts[i].ids, b.prompts[i].n, logits));
        for (int t = 0; t < N_STEPS; t++) {
            int32_t token = qs_sample(logits, BENCH_VOCAB, 0.0, 0, t, qs_tokenizer_eos(b.tokenizer));
            assert_int_equal(runs.tokens[i * N_STEPS + t], token);
            assert_true(fabs((double)runs.entropy[i * N_STEPS + t] - plain_entropy(logits)) < 1e-4);
            if (t + 1 < N_STEPS) assert_ok(qs_decoder_step(decoder, &token, logits));
        }
    }
    qs_decoder_destroy(decoder);
    bench_close(&b);
    bench_open(&b, 2);
    write_texts(&b, 4, &other);
    assert_memory_equal(runs.tokens, other.tokens, N_PROMPTS * N_STEPS * sizeof *runs.tokens);
    assert_memory_equal(runs.entropy, other.entropy, N_PROMPTS * N_STEPS * sizeof *runs.entropy);
    qs_long_free(&runs);
    qs_long_free(&other);
    bench_close(&b);
}

static double value(const figures *f, const char *name) { return figure(f, name)->value; }

/* The reference that follows itself in another batch: not a bit of difference. Weights of another precision differ. */
static void test_follows(void **state)
{
    (void)state;
    bench b;
    qs_long_runs f, q;
    figures got = {0};
    bench_open(&b, 1);
    write_texts(&b, 4, &f);
    qs_decoder *one = decoder_of(&b, 3, QS_F16), *two = decoder_of(&b, 3, QS_F16), *other = decoder_of(&b, 3, QS_BF16);
    assert_ok(qs_long_follow(&q, one, two, qs_tokenizer_eos(b.tokenizer), b.prompts, N_PROMPTS, &f));
    assert_memory_equal(f.tokens, q.tokens, N_PROMPTS * N_STEPS * sizeof *f.tokens);
    assert_memory_equal(f.entropy, q.entropy, N_PROMPTS * N_STEPS * sizeof *f.entropy);
    assert_memory_equal(f.entropy, q.free_entropy, N_PROMPTS * N_STEPS * sizeof *f.entropy);
    for (int i = 0; i < N_PROMPTS * N_STEPS; i++) assert_true(q.kld[i] == 0.0f);
    qs_entropy_input input = {.runs = &q, .reference = &f, .part = QS_QUALITY_ALL, .seed = 1};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable") == 1.0 && value(&got, "entropy_rms") == 0.0);
    assert_true(value(&got, "kld_cumulative") == 0.0 && value(&got, "first_divergence_step") == N_STEPS);
    assert_true(value(&got, "entropy_stable_share") == 1.0 && value(&got, "entropy_mean") > 0.0);
    qs_long_free(&q);
    assert_ok(qs_long_follow(&q, other, two, qs_tokenizer_eos(b.tokenizer), b.prompts, N_PROMPTS, &f));
    double sum = 0.0;
    for (int i = 0; i < N_PROMPTS * N_STEPS; i++) sum += (double)q.kld[i];
    got = (figures){0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(sum > 0.0 && fabs(value(&got, "kld_cumulative") - sum / N_PROMPTS) < 1e-9);
    f.n = 2;
    assert_fails(qs_entropy_measure(&input, take, &got), QS_E_INPUT, "the reference has 2");
    qs_long_free(&q);
    qs_long_free(&f);
    qs_decoder_destroy(one);
    qs_decoder_destroy(two);
    qs_decoder_destroy(other);
    bench_close(&b);
}

/* Entropy that grows by .01 a step where the reference's stands still: 1 nat in 100 tokens (checklist B20). */
static void test_slope(void **state)
{
    (void)state;
    enum { STEPS = 64 };
    static float f_entropy[2 * STEPS], q_entropy[2 * STEPS], kld[2 * STEPS];
    static int32_t tokens[2 * STEPS];
    for (int i = 0; i < 2 * STEPS; i++) {
        f_entropy[i] = 2;
        q_entropy[i] = 2 + 0.01f * (float)(i % STEPS);
    }
    qs_long_runs f = {.n = 2, .n_steps = STEPS, .tokens = tokens, .entropy = f_entropy},
                 q = {.n = 2, .n_steps = STEPS, .tokens = tokens, .entropy = q_entropy, .kld = kld};
    qs_entropy_input input = {.runs = &q, .reference = &f, .part = QS_QUALITY_PAIRED, .seed = 1};
    figures got = {0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(fabs(figure(&got, "entropy_slope_change")->value - 1) < 1e-5);
    q.entropy = f_entropy;
    got = (figures){0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(figure(&got, "entropy_slope_change")->value == 0);
}

/* Of one run of 256 tokens every length up to it is judged. The level rises from 2 to 3 at step 118: nothing in
 * the first 64. Of the first 128 means are of 16 steps, the seventh new one makes 2 + 7/16 = 1.22 times the
 * level, and four steps above 1.2, 124 to 127, are no rise, which takes five (checklist A5, B20). */
static void test_lengths(void **state)
{
    (void)state;
    enum { STEPS = 256 };
    static float f_entropy[2 * STEPS], q_entropy[2 * STEPS], kld[2 * STEPS];
    static int32_t tokens[2 * STEPS];
    for (int i = 0; i < 2 * STEPS; i++) {
        f_entropy[i] = 2;
        q_entropy[i] = i % STEPS >= 118 ? 3 : 2;
    }
    qs_long_runs f = {.n = 2, .n_steps = STEPS, .tokens = tokens, .entropy = f_entropy},
                 q = {.n = 2, .n_steps = STEPS, .tokens = tokens, .entropy = q_entropy, .kld = kld};
    qs_entropy_input input = {.runs = &q, .reference = &f, .part = QS_QUALITY_PAIRED, .seed = 1};
    figures got = {0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable_64") == 1 && value(&got, "entropy_stable_128") == 1);
    assert_true(value(&got, "entropy_stable_256") == 0 && value(&got, "entropy_stable") == 0);
    for (int i = 0; i < got.n; i++) assert_string_not_equal(got.names[i], "entropy_stable_512");
}

/* Entropy along the reference's text is the same, and what the candidate writes freely runs into a loop of 8 tokens at
 * step 100: half of the 4-grams of the last 64 tokens stood there before at step 141 (metrics.md §3). One text of two
 * in a loop is half of the mean only when all of it has been there before, which 64 tokens of a loop never have. */
static void test_loops(void **state)
{
    (void)state;
    static float entropy[2 * N], kld[2 * N];
    static int32_t f_tokens[2 * N], q_tokens[2 * N];
    for (int i = 0; i < 2 * N; i++) {
        entropy[i] = 2;
        f_tokens[i] = i;
        q_tokens[i] = i % N < 100 ? i : i % 8;
    }
    qs_long_runs f = {.n = 2, .n_steps = N, .tokens = f_tokens, .entropy = entropy},
                 q = {.n = 2, .n_steps = N, .tokens = q_tokens, .entropy = entropy, .kld = kld};
    qs_entropy_input input = {.runs = &q, .reference = &f, .part = QS_QUALITY_PAIRED, .seed = 1};
    figures got = {0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable") == 0 && value(&got, "entropy_stable_share") == 0);
    assert_true(value(&got, "entropy_rms") == 0 && value(&got, "entropy_stable_128") == 1);
    memcpy(q_tokens, f_tokens, N * sizeof *q_tokens);
    got = (figures){0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable") == 1 && value(&got, "entropy_stable_share") == 0.5);
    /* The reference loops too: no fault of the candidate's. */
    for (int i = 0; i < 2 * N; i++) q_tokens[i] = f_tokens[i] = i % N < 100 ? i : i % 8;
    got = (figures){0};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable") == 1 && value(&got, "entropy_stable_share") == 1);
}

/* The mean curve of two windows, weighed by hand: one rises, one falls, together they are flat. */
static void test_pools(void **state)
{
    (void)state;
    float f[2 * N], q[2 * N];
    figures got = {0};
    for (int t = 0; t < 2 * N; t++) f[t] = q[t] = 2.0f;
    for (int t = 100; t < N; t++) {
        q[t] = 3.0f;
        q[N + t] = 1.0f;
    }
    qs_entropy_input input = {.text = {.n = 2, .n_steps = N, .entropy = q, .reference = f},
                              .part = QS_QUALITY_ALL, .seed = 1};
    assert_ok(qs_entropy_measure(&input, take, &got));
    assert_true(value(&got, "entropy_stable") == 1.0);
    assert_true(value(&got, "entropy_rms") < 1e-7);
    assert_int_equal(got.n, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_smooth),   cmocka_unit_test(test_repetition), cmocka_unit_test(test_rise),
        cmocka_unit_test(test_spike),    cmocka_unit_test(test_collapse),   cmocka_unit_test(test_certain),
        cmocka_unit_test(test_writes),   cmocka_unit_test(test_follows),    cmocka_unit_test(test_pools),
        cmocka_unit_test(test_slope),    cmocka_unit_test(test_lengths),    cmocka_unit_test(test_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
