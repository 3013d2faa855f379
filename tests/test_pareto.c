/* Selection (docs/gates.md): the Pareto front over quality, bits and latency; one recommendation,
 * chosen on one half of the windows and confirmed on the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "report/selection.h"

/* ---- dominance ---- */

static void test_dominance(void **state)
{
    (void)state;
    const bool all[] = {true, true, true}, two[] = {true, true, false};
    qs_pareto_point a = {.cost = {1, 2, 3}}, same = a, better = {.cost = {1, 2, 2}},
                    mixed = {.cost = {0, 3, 3}};
    assert_false(qs_pareto_dominates(&a, &same, all));
    assert_true(qs_pareto_dominates(&better, &a, all));
    assert_false(qs_pareto_dominates(&a, &better, all));
    assert_false(qs_pareto_dominates(&better, &a, two)); /* equal without the third */
    assert_false(qs_pareto_dominates(&mixed, &a, all));
    assert_false(qs_pareto_dominates(&a, &mixed, all));
}

/* By the definition, on random points: on the front exactly when no candidate dominates. */
static void test_front_by_definition(void **state)
{
    (void)state;
    enum { N = 60 };
    for (uint64_t seed = 0; seed < 20; seed++) {
        qs_pareto_point points[N];
        bool used[QS_PARETO_DIMS];
        int n_front = 0;
        for (int i = 0; i < N; i++) {
            points[i] = (qs_pareto_point){.candidate = qs_rng_below(seed, (uint64_t)i, 4) > 0};
            for (int d = 0; d < QS_PARETO_DIMS; d++)
                points[i].cost[d] = (double)qs_rng_below(seed + 100, (uint64_t)(i * QS_PARETO_DIMS + d), 8);
        }
        qs_pareto_front(points, N, used);
        for (int i = 0; i < N; i++) {
            bool dominated = !points[i].candidate;
            for (int j = 0; j < N; j++) {
                int no_worse = 0, better = 0;
                for (int d = 0; d < QS_PARETO_DIMS; d++) {
                    no_worse += points[j].cost[d] <= points[i].cost[d];
                    better += points[j].cost[d] < points[i].cost[d];
                }
                dominated = dominated || (points[j].candidate && no_worse == QS_PARETO_DIMS && better > 0);
            }
            assert_int_equal(points[i].on_front, !dominated);
            n_front += points[i].on_front;
        }
        assert_true(n_front > 0);
    }
}

static void test_unknown_costs(void **state)
{
    (void)state;
    bool used[QS_PARETO_DIMS];
    qs_pareto_point points[] = {{.cost = {1, 2, NAN}, .candidate = true},
                                {.cost = {2, 3, 1}, .candidate = true},
                                {.cost = {NAN, 1, 1}}};
    qs_pareto_front(points, 3, used);
    assert_true(used[0] && used[1] && !used[2]); /* the third point is no candidate: its gap does not count */
    assert_true(points[0].on_front);
    assert_false(points[1].on_front);
    points[1].cost[0] = points[1].cost[1] = NAN;
    qs_pareto_front(points, 2, used);
    assert_true(!used[0] && !used[1] && !used[2]);
    assert_false(points[0].on_front || points[1].on_front);
}

/* ---- selection ---- */

enum { N_WINDOWS = 12, N_SCORED = 10, MAX_CONFIGS = 6 };

typedef struct made {
    qs_sweep_config configs[MAX_CONFIGS];
    qs_measure measures[MAX_CONFIGS][2];
    double nll[MAX_CONFIGS][N_WINDOWS];
    qs_sweep sweep;
    qs_budgets budgets;
} made;

/* even and odd: ln of the ppl ratio on the windows of that parity; latency 0 = not timed. */
static void add(made *m, const char *id, double even, double odd, double bpw, double latency)
{
    int64_t i = m->sweep.n++;
    qs_config_row *row = &m->configs[i].row;
    assert_true(i < MAX_CONFIGS);
    (void)snprintf(row->id, sizeof row->id, "%s", id);
    (void)snprintf(row->method, sizeof row->method, "%s", i == 0 ? "fp" : "gptq");
    row->reference = i == 0;
    row->bpw = bpw;
    row->n_windows = N_WINDOWS;
    row->n_scored_per_window = N_SCORED;
    row->window_nll = m->nll[i];
    for (int w = 0; w < N_WINDOWS; w++) m->nll[i][w] = N_SCORED * (2.0 + 0.1 * w + (w % 2 == 0 ? even : odd));
    row->measures = m->measures[i];
    row->measures[0] = (qs_measure){.name = "ppl_ratio"};
    double ratio = exp((even + odd) / 2);
    row->measures[0].estimate = (qs_estimate){ratio, ratio * 0.99, ratio * 1.01, N_WINDOWS};
    row->n_measures = 1;
    if (latency > 0) {
        row->measures[1] = (qs_measure){.name = "decode_ms_tok_p50",
                                        .timing = true,
                                        .estimate = {latency, latency, latency, 30}};
        row->n_measures = 2;
    }
}

static void begin(made *m)
{
    static const char text[] =
        "profile,metric,op,limit,level,source\n*,ppl_ratio,<=,1.15,fail,x\n*,ppl_ratio,<=,1.05,warn,x\n";
    *m = (made){0};
    m->sweep.configs = m->configs;
    assert_int_equal(qs_budgets_parse(&m->budgets, text, strlen(text), "b.csv"), QS_OK);
    add(m, "fp", 0, 0, 16, 10);
}

static void finish(made *m, qs_selection *s)
{
    m->sweep.reference = &m->configs[0].row;
    for (int64_t i = 0; i < m->sweep.n; i++) {
        qs_sweep_config *config = &m->configs[i];
        assert_int_equal(qs_judge(&config->judgement, &m->budgets, &config->row, m->sweep.reference, NULL),
                         QS_OK);
        config->passes = i > 0 && qs_judgement_passes(&config->judgement, false);
        m->sweep.n_passing += config->passes;
    }
    assert_int_equal(qs_selection_make(s, &m->sweep, &m->budgets, 0), QS_OK);
}

static void end(made *m, qs_selection *s)
{
    qs_selection_free(s);
    for (int64_t i = 0; i < m->sweep.n; i++) qs_judgement_free(&m->configs[i].judgement);
    qs_budgets_free(&m->budgets);
}

static void assert_reason(const qs_selection *s, const char *part)
{
    if (strstr(s->reason.text, part) == NULL) fail_msg("\"%s\" does not say \"%s\"", s->reason.text, part);
}

/* The halves are the ratios of the even and of the odd windows, with an interval that a constant shift
 * closes. */
static void test_halves(void **state)
{
    (void)state;
    made m;
    qs_estimate half;
    bool present;
    begin(&m);
    add(&m, "a", log(1.02), log(1.04), 4, 5);
    assert_int_equal(qs_selection_half(&m.configs[1].row, &m.configs[0].row, 0, 0, &half, &present), QS_OK);
    assert_true(present);
    assert_int_equal(half.n, N_WINDOWS / 2);
    assert_true(fabs(half.value - 1.02) < 1e-12 && fabs(half.lo - 1.02) < 1e-9 &&
                fabs(half.hi - 1.02) < 1e-9);
    assert_int_equal(qs_selection_half(&m.configs[1].row, &m.configs[0].row, 1, 0, &half, &present), QS_OK);
    assert_true(fabs(half.value - 1.04) < 1e-12);
    m.nll[1][1] += 0.5;
    assert_int_equal(qs_selection_half(&m.configs[1].row, &m.configs[0].row, 1, 0, &half, &present), QS_OK);
    assert_true(half.lo < half.value && half.value < half.hi);
    m.configs[1].row.n_windows = 1; /* an odd window does not exist */
    m.configs[0].row.n_windows = 1;
    assert_int_equal(qs_selection_half(&m.configs[1].row, &m.configs[0].row, 1, 0, &half, &present), QS_OK);
    assert_false(present);
    assert_int_equal(qs_selection_half(&m.configs[1].row, NULL, 0, 0, &half, &present), QS_OK);
    assert_false(present);
    qs_budgets_free(&m.budgets);
}

static void test_fewest_bits_without_warning(void **state)
{
    (void)state;
    made m;
    qs_selection s;
    begin(&m);
    add(&m, "b8", log(1.001), log(1.001), 8.25, 8);
    add(&m, "b4", log(1.02), log(1.03), 4.25, 6);
    add(&m, "b4-worse", log(1.04), log(1.04), 4.25, 6); /* dominated */
    add(&m, "b3", log(1.10), log(1.10), 3.25, 5);       /* passes with a warning */
    add(&m, "b2", log(2.0), log(2.0), 2.25, 4);         /* fails */
    finish(&m, &s);
    assert_int_equal(s.n, 5);
    const bool front[] = {true, true, false, true, false};
    for (int i = 0; i < 5; i++) assert_int_equal(s.front[i].on_front, front[i]);
    assert_int_equal(s.chosen, 1);
    assert_true(s.confirmed);
    assert_reason(&s, "b4: the fewest bits of the 2 on the Pareto front that pass without a warning");
    assert_reason(&s, "1.0200 [");
    assert_reason(&s, "1.0300 [");
    assert_reason(&s, "confirmed");
    end(&m, &s);
}

/* The winner of the even windows that the odd ones do not bear out is recommended with that warning, once. */
static void test_not_confirmed(void **state)
{
    (void)state;
    made m;
    qs_selection s;
    begin(&m);
    add(&m, "b8", log(1.001), log(1.001), 8.25, 8);
    add(&m, "lucky", log(1.04), log(1.10), 3.25, 5);
    finish(&m, &s);
    assert_int_equal(s.chosen, 1);
    assert_int_equal(s.points[1].select_verdict, QS_VERDICT_PASS);
    assert_int_equal(s.points[1].confirm_verdict, QS_VERDICT_WARN);
    assert_false(s.confirmed);
    assert_reason(&s, "NOT confirmed (WARN there)");
    end(&m, &s);
}

static void test_none(void **state)
{
    (void)state;
    made m;
    qs_selection s;
    begin(&m);
    add(&m, "b2", log(2.0), log(2.0), 2.25, 4);
    finish(&m, &s);
    assert_int_equal(s.chosen, -1);
    assert_reason(&s, "no configuration passes");
    end(&m, &s);
    begin(&m);
    finish(&m, &s);
    assert_int_equal(s.chosen, -1);
    assert_reason(&s, "besides the reference");
    end(&m, &s);
    begin(&m);
    add(&m, "unlucky", log(1.20), log(1.05), 2.25, 4); /* passes on all, fails on the half that chooses */
    finish(&m, &s);
    assert_int_equal(m.sweep.n_passing, 1);
    assert_int_equal(s.chosen, -1);
    assert_reason(&s, "none of them on the half");
    end(&m, &s);
}

/* Without times, and without NLL, the rest still decides, and the sentence says what is missing. */
static void test_partial_inputs(void **state)
{
    (void)state;
    made m;
    qs_selection s;
    begin(&m);
    add(&m, "b4", log(1.02), log(1.03), 4.25, 0);
    add(&m, "b3", log(1.03), log(1.03), 3.25, 5);
    m.configs[0].row.window_nll = NULL;
    finish(&m, &s);
    assert_false(s.used[QS_COST_LATENCY]);
    assert_int_equal(s.chosen, 1);
    assert_false(s.confirmed);
    assert_reason(&s, "not confirmed, because");
    end(&m, &s);
    begin(&m);
    add(&m, "here", log(1.02), log(1.03), 4.25, 9);
    add(&m, "there", log(1.02), log(1.03), 4.25, 5); /* faster on another machine */
    (void)snprintf(m.configs[1].row.device, sizeof m.configs[1].row.device, "A");
    (void)snprintf(m.configs[2].row.device, sizeof m.configs[2].row.device, "B");
    finish(&m, &s);
    assert_false(s.used[QS_COST_LATENCY]);
    assert_true(s.front[0].on_front && s.front[1].on_front);
    end(&m, &s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dominance),
        cmocka_unit_test(test_front_by_definition),
        cmocka_unit_test(test_unknown_costs),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_fewest_bits_without_warning),
        cmocka_unit_test(test_not_confirmed),
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_partial_inputs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
