/* Entropy wording by wording (checklist B15): curves and verdicts by hand, answers against the plain loop,
 * the reference against itself. */
#include "figures.h"
#include "text_bench.h"

#include "metric/wording_entropy.h"

enum { N_ITEMS = 2, N_PROMPTS = N_ITEMS * QS_WORDINGS, N_TOKENS = 12 };

/* ---- by hand ---- */

/* Answers to wording 0 have 3 and 1 tokens, to wording 1 none and 2; the others none. */
static void test_curves(void **state)
{
    (void)state;
    int32_t tokens[N_PROMPTS * 3];
    float entropy[N_PROMPTS * 3];
    for (int i = 0; i < N_PROMPTS * 3; i++) {
        tokens[i] = -1;
        entropy[i] = NAN;
    }
    const float first[] = {1, 2, 6}, second[] = {3, 5};
    for (int t = 0; t < 3; t++) tokens[t] = 7, entropy[t] = first[t];
    tokens[QS_WORDINGS * 3] = 7;
    entropy[QS_WORDINGS * 3] = 4;
    for (int t = 0; t < 2; t++)
        tokens[(QS_WORDINGS + 1) * 3 + t] = 7, entropy[(QS_WORDINGS + 1) * 3 + t] = second[t];
    qs_wordings w = {N_PROMPTS, 3, tokens, entropy};
    double mean[3];
    assert_int_equal(qs_wordings_length(&w, 0), 3);
    assert_int_equal(qs_wordings_length(&w, 1), 0);
    assert_true(qs_wordings_mean(&w, 0) == 3.0 && isnan(qs_wordings_mean(&w, 1)));
    assert_int_equal(qs_wordings_reach(&w, 0), 3); /* one of two is half */
    assert_int_equal(qs_wordings_reach(&w, 1), 2);
    assert_int_equal(qs_wordings_reach(&w, 2), 0);
    qs_wordings_curve(&w, N_ITEMS, 0, NULL, 3, mean);
    assert_true(mean[0] == 2.5 && mean[1] == 2.0 && mean[2] == 6.0);
    qs_wordings_curve(&w, N_ITEMS, 0, (int32_t[]){1, 3}, 3, mean);
    assert_true(mean[0] == 3.25 && mean[1] == 2.0);
    qs_wordings_curve(&w, N_ITEMS, 0, (int32_t[]){0, 2}, 3, mean); /* none drawn reaches the second step */
    assert_true(mean[0] == 4.0 && mean[1] == 4.0 && mean[2] == 4.0);
    qs_wordings_curve(&w, 1, 0, NULL, 3, mean); /* the first item alone */
    assert_true(mean[0] == 1.0);
}

/* The worked example of docs/entropy.md: a level of 2 nats over 40 steps, hence means of 5; along the second
 * paraphrase the candidate has 2.5 from step 20 on. Four of five such steps make 2.4 = 1.2 x 2: the rise
 * begins at 23, the reference has none, and 17 steps are more than 5. */
static void test_verdicts(void **state)
{
    (void)state;
    enum { T = 40 };
    static int32_t tokens[N_PROMPTS * T];
    static float f[N_PROMPTS * T], q[N_PROMPTS * T];
    int32_t stable[N_PROMPTS];
    for (int i = 0; i < N_PROMPTS * T; i++) {
        tokens[i] = 1;
        f[i] = 2.0f;
        q[i] = i / T % QS_WORDINGS == 2 && i % T >= 20 ? 2.5f : 2.0f;
    }
    for (int t = 0; t < T; t++) tokens[3 * T + t] = -1; /* the first item's third paraphrase has no answer */
    qs_wordings reference = {N_PROMPTS, T, tokens, f}, own = {N_PROMPTS, T, tokens, q};
    figures got = {0};
    assert_ok(qs_wordings_metrics(&own, &reference, 1, take, &got));
    assert_true(figure(&got, "entropy_paraphrase_1")->value == 1.0);
    assert_true(figure(&got, "entropy_paraphrase_2")->value == 0.0 &&
                figure(&got, "entropy_paraphrase_2")->hi == 0.0);
    assert_true(figure(&got, "entropy_paraphrase_3")->value == 1.0);
    assert_true(figure(&got, "entropy_paraphrases")->value == 0.0);
    double rms = 0.0; /* trailing means go up by 0.1 a step from 20 to 24, over the level of 2 */
    for (int t = 20; t < T; t++) rms += t < 24 ? 0.01 * (t - 19) * (t - 19) : 0.25;
    rms = sqrt(rms / T) / 2.0;
    assert_true(fabs(figure(&got, "entropy_paraphrases_rms")->value - rms) < 1e-12 && rms < 0.2);
    assert_ok(qs_wordings_stable(&own, &reference, stable));
    const int32_t wanted[N_PROMPTS] = {1, 1, 0, -1, 1, 1, 0, 1};
    assert_memory_equal(stable, wanted, sizeof wanted);
    own.n_steps = T - 1;
    assert_fails(qs_wordings_metrics(&own, &reference, 1, take, &got), QS_E_INPUT, "up to 39 tokens");
}

/* ---- a model ---- */

/* An answer's tokens and entropies by the plain loop, in double precision. */
static void assert_plain(const bench *b, const qs_wordings *w)
{
    qs_decoder *decoder = decoder_of(b, 1, QS_F16);
    float logits[BENCH_VOCAB];
    for (int i = 0; i < N_PROMPTS; i++) {
        assert_ok(qs_decoder_prefill(decoder, 0, b->prompts[i].ids, b->prompts[i].n, logits));
        for (int64_t t = 0; t < qs_wordings_length(w, i); t++) {
            int32_t token = 0;
            for (int v = 1; v < BENCH_VOCAB; v++)
                if (logits[v] > logits[token]) token = v;
            assert_int_equal(w->tokens[i * w->n_steps + t], token);
            assert_true(fabs((double)w->entropy[i * w->n_steps + t] - plain_entropy(logits)) < 1e-4);
            assert_ok(qs_decoder_step(decoder, &token, logits));
        }
    }
    qs_decoder_destroy(decoder);
}

/* Bits, NaN behind the end of an answer included. */
static void assert_same(const qs_wordings *a, const qs_wordings *b)
{
    size_t n = (size_t)(b->n_prompts * b->n_steps);
    assert_int_equal(a->n_steps, b->n_steps);
    assert_memory_equal(a->tokens, b->tokens, n * sizeof *a->tokens);
    for (size_t i = 0; i < n; i++)
        assert_true(a->entropy[i] == b->entropy[i] ||
                    (isnan(a->entropy[i]) && isnan(b->entropy[i]) && a->tokens[i] < 0));
}

/* The reference's answers, watched among runs with random numbers that do not count. */
static void answer(const bench *b, qs_decoder *decoder, qs_wordings *out)
{
    enum { N_RUNS = N_ITEMS * QS_RUNS_PER_ITEM };
    qs_generate_run runs[N_RUNS];
    qs_generation *generations;
    qs_wordings_watch watch;
    for (int i = 0; i < N_RUNS; i++) {
        qs_question_run run = qs_questions_run(i);
        bool greedy = run.seed == QS_GREEDY;
        runs[i] = (qs_generate_run){.prompt = run.prompt, .temperature = greedy ? 0.0 : 2.0, .key = (uint64_t)i};
    }
    assert_ok(qs_wordings_watch_init(&watch, N_PROMPTS, N_TOKENS));
    qs_generate_job job = {.decoder = decoder, .tokenizer = b->tokenizer, .prompts = b->prompts, .n_prompts = N_PROMPTS,
                           .runs = runs, .n_runs = N_RUNS, .n_tokens_max = N_TOKENS, .ending = QS_ENDS_LINE,
                           .watch = qs_wordings_watch_of(&watch)};
    assert_ok(QS_NEW(generations, N_RUNS, "answers"));
    assert_ok(qs_generate(&job, generations));
    assert_ok(qs_wordings_take(out, &watch, generations));
    qs_wordings_watch_fini(&watch);
    qs_generations_free(generations, N_RUNS);
}

static void test_answers(void **state)
{
    (void)state;
    bench b;
    qs_wordings f, q;
    figures got = {0};
    bench_open(&b, 1);
    qs_decoder *four = decoder_of(&b, 4, QS_F16), *three = decoder_of(&b, 3, QS_F16),
               *other = decoder_of(&b, 2, QS_BF16);
    answer(&b, four, &f);
    assert_plain(&b, &f);
    assert_ok(qs_wordings_follow(&q, three, b.tokenizer, b.prompts, N_PROMPTS, &f));
    assert_same(&f, &q);
    assert_ok(qs_wordings_metrics(&q, &f, 1, take, &got));
    assert_true(figure(&got, "entropy_paraphrases")->value == 1.0 &&
                figure(&got, "entropy_paraphrases_rms")->value == 0.0);
    qs_wordings_free(&q);
    /* The first item alone, as the control has it: still nothing differs. */
    got = (figures){0};
    assert_ok(qs_wordings_follow(&q, three, b.tokenizer, b.prompts, QS_WORDINGS, &f));
    assert_same(&f, &q);
    assert_ok(qs_wordings_metrics(&q, &f, 1, take, &got));
    assert_true(figure(&got, "entropy_paraphrases")->value == 1.0 &&
                figure(&got, "entropy_paraphrases_rms")->value == 0.0);
    qs_wordings_free(&q);
    assert_ok(qs_wordings_follow(&q, other, b.tokenizer, b.prompts, N_PROMPTS, &f));
    got = (figures){0};
    assert_ok(qs_wordings_metrics(&q, &f, 1, take, &got));
    assert_true(figure(&got, "entropy_paraphrases_rms")->value > 0.0);
    qs_wordings_free(&q);
    f.tokens[0] = BENCH_VOCAB;
    assert_fails(qs_wordings_follow(&q, three, b.tokenizer, b.prompts, N_PROMPTS, &f), QS_E_INPUT,
                 "no token");
    f.n_prompts = QS_WORDINGS;
    assert_fails(qs_wordings_follow(&q, three, b.tokenizer, b.prompts, N_PROMPTS, &f), QS_E_INPUT,
                 "of 8 prompts");
    qs_wordings_free(&f);
    qs_decoder_destroy(four);
    qs_decoder_destroy(three);
    qs_decoder_destroy(other);
    bench_close(&b);
}

/* An answer that ends at once has no entropy, and nothing breaks. */
static void test_empty_answers(void **state)
{
    (void)state;
    bench b;
    int32_t tokens[N_PROMPTS * 2], stable[N_PROMPTS];
    float entropy[N_PROMPTS * 2];
    figures got = {0};
    bench_open(&b, 1);
    for (int i = 0; i < N_PROMPTS * 2; i++) {
        tokens[i] = -1;
        entropy[i] = NAN;
    }
    qs_wordings f = {N_PROMPTS, 2, tokens, entropy}, q;
    qs_decoder *decoder = decoder_of(&b, 3, QS_F16);
    assert_ok(qs_wordings_follow(&q, decoder, b.tokenizer, b.prompts, N_PROMPTS, &f));
    assert_same(&f, &q);
    assert_ok(qs_wordings_metrics(&q, &f, 1, take, &got));
    assert_int_equal(got.n, 0);
    assert_ok(qs_wordings_stable(&q, &f, stable));
    for (int i = 0; i < N_PROMPTS; i++) assert_int_equal(stable[i], -1);
    qs_wordings_free(&q);
    qs_decoder_destroy(decoder);
    bench_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_curves),
        cmocka_unit_test(test_verdicts),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_empty_answers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
