/* E_resonance and the time until a long text is lost, by hand and over texts of a tiny model (docs/entropy.md;
 * checklist G4, A9, B8, E9). */
#include "figures.h"
#include "gold_files.h"

#include <math.h>

#include "metric/lambda.h"
#include "metric/resonance.h"
#include "rag/retrieve.h"

static void expect(const figures *f, const char *name, double value)
{
    double got = figure(f, name)->value;
    if (!(fabs(got - value) <= 1e-12)) fail_msg("%s = %.17g, expected %.17g", name, got, value);
}

static void test_lost(void **state)
{
    (void)state;
    const double never[] = {0.9, 0.9, 0.1, 0.9, 0.84, 0.85}, third[] = {0.1, 0.2, 0.85, 0.9, 1.0, 0.1};
    assert_int_equal(qs_resonance_lost(never, 6, 48), 48);
    assert_int_equal(qs_resonance_lost(third, 6, 48), 24); /* the third step ends with token 24 */
    assert_int_equal(qs_resonance_lost(third + 2, 3, 24), 8);
    assert_int_equal(qs_resonance_lost(third, 4, 32), 32);
}

/* Two texts of two steps. E of (.2, .4) is (.2, .3); of (.4, .4) it is (.4, .4); of (.9, .9), lost only with a
 * third step. */
static void test_metrics(void **state)
{
    (void)state;
    double f_delta[] = {0.2, 0.4, 0.4, 0.4}, q_delta[] = {0.4, 0.4, 0.9, 0.9};
    int32_t q_states[] = {QS_LAMBDA_CONVERGENT, QS_LAMBDA_CHAOTIC, QS_LAMBDA_CONVERGENT, QS_LAMBDA_CONVERGENT};
    qs_resonance f = {2, 2, 16, f_delta, NULL}, q = {2, 2, 16, q_delta, q_states};
    figures got = {0};
    assert_int_equal(qs_resonance_metrics(&q, &f, QS_QUALITY_ALL, 1, take, &got), QS_OK);
    expect(&got, "e_resonance", (0.4 + 0.9) / 2);
    expect(&got, "lambda_step_conv", (0.5 + 1) / 2);
    expect(&got, "lambda_step_chaotic", 0.5 / 2);
    expect(&got, "e_resonance_drift", ((0.2 + 0.1) / 2 + 0.5) / 2);
    /* slopes: q 0 and 0, f .1 and 0: 0 - .12 and 0 - .02 */
    expect(&got, "e_resonance_slope_excess", (-0.12 - 0.02) / 2);
    expect(&got, "mttf", 16);
    expect(&got, "mttf_margin", 0); /* 16 - 40, or 16 - 16 */
    got = (figures){0};
    assert_int_equal(qs_resonance_metrics(&f, &f, QS_QUALITY_PAIRED, 1, take, &got), QS_OK);
    assert_int_equal(got.n, 3);
    expect(&got, "e_resonance_drift", 0);
    expect(&got, "mttf_margin", 0);
    f.n = 1;
    assert_fails(qs_resonance_metrics(&q, &f, QS_QUALITY_ALL, 1, take, &got), QS_E_INPUT, "the reference has 1");
}

/* The words of the question and its snippets, written out, are at no distance; other words are far. */
static void test_texts(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES];
    static const char longform[] = "{\"qid\":\"L1\",\"question\":\"Report\",\"snippets\":[\"S3\"]}\n"
                                   "{\"qid\":\"L2\",\"question\":\"Report\",\"snippets\":[\"S1\"]}\n";
    char path[QS_PATH_BYTES];
    qs_model *model;
    qs_questions q;
    qs_token_list list = {0};
    qs_encoder *encoder;
    qs_resonance got;
    save_gold_files(make_dir(dir));
    assert_ok(qs_path_format(path, "%s/longform.jsonl", dir));
    save_file(path, longform, strlen(longform));
    assert_ok(qs_model_open(&model, "tests/fixtures/tiny"));
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    qs_question_options options = {.gold = dir, .k = 2, .n_tokens_max = 8, .n_long_tokens = 64};
    assert_ok(qs_questions_load(&q, &options));
    int64_t order[] = {2, 0, 1};
    qs_questions_order(&q, QS_ORDER_GIVEN, order, 3);
    assert_true(order[0] == 2 && order[1] == 0 && order[2] == 1);
    qs_questions_order(&q, QS_ORDER_REVERSED, order, 3);
    assert_true(order[0] == 1 && order[1] == 0 && order[2] == 2);
    qs_questions_order(&q, QS_ORDER_PLACE, order, 3);
    for (int i = 0; i < 2; i++)
        assert_true(qs_snippet_compare(&q.set.snippets[order[i]], &q.set.snippets[order[i + 1]]) < 0);
    const char *documents[] = {q.set.snippets[0].text, q.set.snippets[1].text, q.set.snippets[2].text};
    assert_ok(qs_encoder_open(&encoder, "tfidf", &(qs_encoder_options){.documents = documents, .n_documents = 3}));
    /* both runs write what the first is about; blanks fill the last step up */
    char text[256] = "Report Weirs go north";
    assert_ok(qs_tokenizer_encode(tokenizer, text, strlen(text), false, &list));
    while (list.n % QS_RESONANCE_TOKENS != 0) {
        (void)strcat(text, " ");
        qs_token_list_free(&list);
        assert_ok(qs_tokenizer_encode(tokenizer, text, strlen(text), false, &list));
        assert_true(strlen(text) < sizeof text - 2);
    }
    int32_t *tokens;
    assert_ok(QS_NEW(tokens, 2 * list.n, "tokens"));
    memcpy(tokens, list.ids, (size_t)list.n * sizeof *tokens);
    memcpy(tokens + list.n, list.ids, (size_t)list.n * sizeof *tokens);
    qs_long_runs runs = {.n = 2, .n_steps = list.n, .tokens = tokens};
    assert_ok(qs_resonance_measure(&got, encoder, &q, tokenizer, &runs));
    assert_int_equal(got.n_steps, list.n / QS_RESONANCE_TOKENS);
    assert_true(got.delta[got.n_steps - 1] < 1e-6);
    assert_true(got.delta[2 * got.n_steps - 1] > 0.5);
    qs_resonance_free(&got);
    qs_mem_free(tokens);
    qs_token_list_free(&list);
    qs_encoder_destroy(encoder);
    qs_questions_free(&q);
    qs_model_close(model);
    remove_dir(dir);
}

/* bbpf of long texts: a text in another order counts where it ends nearer. */
static void test_nearer(void **state)
{
    (void)state;
    double own[] = {.9, .5, .2, .8}, others[] = {.1, .6, .7, .3};
    int32_t own_states[] = {1, 1, 1, 1}, other_states[] = {2, 2, 2, 2};
    qs_resonance a = {.n = 2, .n_steps = 2, .delta = own, .states = own_states},
                 b = {.n = 2, .n_steps = 2, .delta = others, .states = other_states};
    assert_int_equal(qs_resonance_take_nearer(&a, &b), 1);
    assert_true(own[0] == .9 && own[1] == .5 && own[2] == .7 && own[3] == .3);
    assert_true(own_states[1] == 1 && own_states[2] == 2 && own_states[3] == 2);
    assert_int_equal(qs_resonance_take_nearer(&a, &b), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nearer),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
