/* Fixes (docs/fixes.md; checklist A12-A15, B11, E12): what each changes, and when one counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "metric/fixes.h"
#include "report/fix_table.h"

/* ---- the table ---- */

static void test_parse(void **state)
{
    (void)state;
    unsigned bits;
    assert_int_equal(qs_fixes_parse(&bits, NULL), QS_OK);
    assert_int_equal(bits, 0);
    assert_int_equal(qs_fixes_parse(&bits, "header-lock,bbam"), QS_OK);
    assert_int_equal(bits, 1u << (qs_fix_find("header-lock") - qs_fixes) | 1u << (qs_fix_find("bbam") - qs_fixes));
    assert_int_equal(qs_fixes_parse(&bits, "headerlock"), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "headerlock"));
    assert_int_equal(qs_fixes_parse(&bits, "bbam,"), QS_E_USAGE);
    assert_int_equal(qs_fixes_parse(&bits, "bbam,recalibrate"), QS_OK);
    assert_true(qs_fixes_requantise(bits));
    assert_int_equal(qs_fixes_parse(&bits, "bbam"), QS_OK);
    assert_false(qs_fixes_requantise(bits));
    assert_true(qs_fix_aims_at(qs_fix_find("recalibrate"), "dS_drift"));
    assert_true(qs_fix_aims_at(qs_fix_find("bbam"), "lambda_conv"));
    assert_false(qs_fix_aims_at(qs_fix_find("bbam"), "lambda"));
    assert_false(qs_fix_aims_at(qs_fix_find("bbam"), "cov_cited"));
}

static void test_serving(void **state)
{
    (void)state;
    qs_serving s = qs_serving_plain;
    qs_digest plain = {.low = 1, .high = 2}, same = qs_serving_digest(&s, plain);
    assert_memory_equal(&same, &plain, sizeof plain);
    qs_fix_find("bbam")->serve(&s);
    assert_true(s.clamp == 0.618);
    qs_digest other = qs_serving_digest(&s, plain);
    assert_memory_not_equal(&other, &plain, sizeof plain);
    qs_fix_find("temp-floor")->serve(&s);
    assert_true(s.temperature == 0.3);
    s.temperature = 2;
    qs_fix_find("temp-floor")->serve(&s);
    assert_true(s.temperature == 2);
    qs_fix_find("deterministic")->serve(&s);
    assert_true(s.temperature == 0);
    s.headers = QS_HEADERS_REMOVED;
    qs_fix_find("header-lock")->serve(&s);
    assert_true(s.headers == QS_HEADERS_CANONICAL && s.by_place);
}

/* ---- rankings ---- */

static qs_ranking ranking_of(const int64_t *snippets, int64_t n)
{
    qs_ranking r = {.n = n};
    for (int64_t i = 0; i < n; i++) r.hits[i] = (qs_hit){.snippet = snippets[i]};
    return r;
}

static void assert_order(const qs_ranking *r, const int64_t *wanted, int64_t n)
{
    assert_int_equal(r->n, n);
    for (int64_t i = 0; i < n; i++) assert_int_equal(r->hits[i].snippet, wanted[i]);
}

/* Sums of places: snippet 1: 0 + 3, 2: 1 + 0, 3: 2 + 1, 4: 3 + 20 (not among the reference's), 5: 4 + 2. */
static void test_rerank(void **state)
{
    (void)state;
    qs_questions q = {.n_prompts = 1};
    qs_ranking own = ranking_of((const int64_t[]){1, 2, 3, 4, 5}, 5),
               reference = ranking_of((const int64_t[]){2, 3, 5, 1}, 4), made = own;
    qs_fix_context context = {&q, NULL, &own, &reference};
    qs_fix_find("rerank")->rank(&context, &made);
    assert_order(&made, (const int64_t[]){2, 1, 3, 5, 4}, 5);
    /* A ranking beside itself stays. */
    context.reference = &own;
    made = own;
    qs_fix_find("rerank")->rank(&context, &made);
    assert_order(&made, (const int64_t[]){1, 2, 3, 4, 5}, 5);
}

/* Snippets that share no word with the question are further than .60 from it and go behind, in their order. */
enum { N_ITEMS = 20 };

static void test_bbmc(void **state)
{
    (void)state;
    qs_question_options options = {.gold = "datasets/world", .k = 3, .n_items = N_ITEMS, .n_tokens_max = 8};
    qs_questions q;
    qs_gold_frame frame;
    assert_int_equal(qs_questions_load(&q, &options), QS_OK);
    assert_int_equal(qs_gold_frame_create(&frame, &q, q.encoder), QS_OK);
    qs_ranking made[N_ITEMS * QS_WORDINGS];
    memcpy(made, frame.rankings, sizeof made);
    qs_fix_context context = {&q, &frame, frame.rankings, frame.rankings};
    qs_fix_find("bbmc")->rank(&context, made);
    const float *vectors = qs_retriever_vectors(frame.retriever);
    bool moved = false;
    for (int64_t p = 0; p < q.n_prompts; p++) {
        bool far = false;
        assert_int_equal(made[p].n, frame.rankings[p].n);
        for (int64_t i = 0; i < made[p].n; i++) {
            const float *v = vectors + made[p].hits[i].snippet * frame.dim, *asked = frame.asked + p * frame.dim;
            double cosine = 0;
            for (int64_t j = 0; j < frame.dim; j++) cosine += (double)v[j] * (double)asked[j];
            if (1 - cosine > 0.60) far = true;
            else assert_false(far); /* none that is near behind one that is not */
            moved = moved || made[p].hits[i].snippet != frame.rankings[p].hits[i].snippet;
        }
    }
    assert_true(moved);
    qs_gold_frame_destroy(&frame);
    qs_questions_free(&q);
}

/* ---- what counts ---- */

static void test_counts(void **state)
{
    (void)state;
    /* metric, lower is better, missed, aimed at, before, after */
    qs_fix_change trigger = {"lambda_conv", false, true, true, 0.5, 0.9},
                  other = {"json_ok", false, false, false, 1, 1};
    qs_fix_change changes[] = {trigger, other};
    assert_true(qs_fix_counts(changes, 2));
    changes[1].after = 0.975; /* worse by 2.5 % */
    assert_true(qs_fix_counts(changes, 2));
    changes[1].after = 0.96;
    assert_false(qs_fix_counts(changes, 2));
    changes[1] = other;
    changes[0].after = 0.5; /* nothing gained */
    assert_false(qs_fix_counts(changes, 2));
    changes[0] = trigger;
    changes[0].missed = false; /* nothing was to be mended */
    assert_false(qs_fix_counts(changes, 2));
    changes[0] = trigger;
    changes[0].aimed = false; /* gained by accident */
    assert_false(qs_fix_counts(changes, 2));
    /* Where there was nothing, .03 is what may be lost. */
    changes[0] = trigger;
    changes[1] = (qs_fix_change){"lambda_chaotic", true, false, true, 0, 0.02};
    assert_true(qs_fix_counts(changes, 2));
    changes[1].after = 0.04;
    assert_false(qs_fix_counts(changes, 2));
    assert_false(qs_fix_counts(NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse), cmocka_unit_test(test_serving), cmocka_unit_test(test_rerank),
        cmocka_unit_test(test_bbmc),  cmocka_unit_test(test_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
