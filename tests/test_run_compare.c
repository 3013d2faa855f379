/* Two runs side by side: noise by hand, a run against itself, a regression, another protocol (issue "The report": a
 * gate for CI). */
#include "tests/artifact_content.h"
#include "tests/eval_content.h"

#include <math.h>

#include "report/run_compare.h"

static qs_change_kind change(double before, double half_before, double after, double half_after, bool lower)
{
    qs_estimate a = {before, before - half_before, before + half_before, 8},
                b = {after, after - half_after, after + half_after, 8};
    return qs_change_of(&a, &b, lower);
}

static void test_noise_by_hand(void **state)
{
    (void)state;
    /* half intervals 3 and 4: the difference must be above 5 */
    assert_int_equal(change(10, 3, 14.9, 4, true), QS_CHANGE_SAME);
    assert_int_equal(change(10, 3, 15.1, 4, true), QS_CHANGE_WORSE);
    assert_int_equal(change(10, 3, 4.9, 4, true), QS_CHANGE_BETTER);
    assert_int_equal(change(10, 3, 15.1, 4, false), QS_CHANGE_BETTER);
    /* facts: any difference, but not the last digits */
    assert_int_equal(change(1, 0, 1, 0, true), QS_CHANGE_SAME);
    assert_int_equal(change(1, 0, 1 + 1e-12, 0, true), QS_CHANGE_SAME);
    assert_int_equal(change(128, 0, 64, 0, false), QS_CHANGE_WORSE);
    assert_int_equal(change(NAN, 0, 1, 0, false), QS_CHANGE_SAME);
}

typedef struct run {
    scratch_path paths[2];
    const char *list[2];
    qs_budgets budgets;
    qs_sweep sweep;
} run;

static void load(run *r, const char *name, const eval_spec *config, const char *protocol)
{
    char file[64];
    eval_spec specs[2] = {eval_specs[EVAL_FP], *config};
    *r = (run){0};
    for (int i = 0; i < 2; i++) {
        specs[i].protocol = protocol;
        (void)snprintf(file, sizeof file, "%s-%d.eval.h5", name, i);
        r->list[i] = scratch(r->paths[i], file);
        OK(eval_write(r->list[i], &specs[i]));
    }
    OK(qs_budgets_load(&r->budgets, "tests/golden/budgets.csv"));
    OK(qs_sweep_load(&r->sweep, r->list, 2, &r->budgets, false));
}

static void unload(run *r)
{
    qs_sweep_free(&r->sweep);
    qs_budgets_free(&r->budgets);
}

static void test_itself_and_a_regression(void **state)
{
    (void)state;
    run good, bad;
    qs_run_changes changes;
    eval_spec worse = eval_specs[EVAL_GPTQ4];
    worse.ppl_ratio = (qs_estimate){1.2, 1.18, 1.22, 8};
    load(&good, "good", &eval_specs[EVAL_GPTQ4], NULL);
    load(&bad, "bad", &worse, NULL);
    OK(qs_runs_compare(&changes, &good.sweep, &good.sweep));
    assert_true(changes.n > 0 && changes.n_worse == 0 && changes.n_better == 0);
    qs_run_changes_free(&changes);
    OK(qs_runs_compare(&changes, &good.sweep, &bad.sweep));
    assert_int_equal(changes.n_worse, 1);
    assert_int_equal(changes.n_better, 0);
    for (int64_t i = 0; i < changes.n; i++)
        if (changes.changes[i].kind == QS_CHANGE_WORSE) assert_string_equal(changes.changes[i].is->metric, "ppl_ratio");
    qs_run_changes_free(&changes);
    OK(qs_runs_compare(&changes, &bad.sweep, &good.sweep));
    assert_true(changes.n_worse == 0 && changes.n_better == 1);
    qs_run_changes_free(&changes);
    unload(&good);
    unload(&bad);
}

static void test_other_configurations_and_frames(void **state)
{
    (void)state;
    run a, b, other;
    qs_run_changes changes;
    load(&a, "a", &eval_specs[EVAL_GPTQ4], NULL);
    load(&b, "b", &eval_specs[EVAL_GPTQ3], NULL);
    load(&other, "c", &eval_specs[EVAL_GPTQ4], "llamacpp");
    OK(qs_runs_compare(&changes, &a.sweep, &b.sweep));
    assert_true(changes.n_only_before == 1 && changes.n_only_after == 1 && changes.n_worse == 0);
    qs_run_changes_free(&changes);
    assert_int_equal(qs_runs_compare(&changes, &a.sweep, &other.sweep), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "protocol"));
    unload(&a);
    unload(&b);
    unload(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_noise_by_hand),
        cmocka_unit_test(test_itself_and_a_regression),
        cmocka_unit_test(test_other_configurations_and_frames),
    };
    return cmocka_run_group_tests_name("run_compare", tests, scratch_create, scratch_remove);
}
