/* Statistical honesty (docs/gates.md): configurations whose true value lies exactly on a budget, drawn 1,000
 * times. No sample can tell on which side of it they are, so whatever `decided` says yes to is an error; at most 5
 * % may be. Every kind of interval that a gate is judged by: ratios of sums over items, shares with Wilson's bound,
 * functions of sums over windows, the worse of two means, quantiles, and gains of medians. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "metric/bootstrap.h"
#include "report/verdict.h"

enum { RUNS = 1000, RESAMPLES = 300, BLOCKS_MAX = 60, WORDINGS = 4, PER_BLOCK = 8 };

typedef struct draw {
    uint64_t key, next;
    int64_t n; /* blocks */
} draw;

static double normal(draw *d) { return qs_rng_normal(d->key, d->next++); }
static double unit(draw *d) { return qs_rng_unit(d->key, d->next++); }

typedef qs_err (*sample)(draw *d, const qs_bootstrap *options, qs_estimate *out);

/* ---- what is drawn: each with the true value that its budget is ---- */

/* Means of an item's wordings, which share a part: 0.10 (dS_drift and its like). */
static qs_err mean_of_items(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double two[2 * BLOCKS_MAX];
    bool defined;
    for (int64_t i = 0; i < d->n; i++) {
        double own = 0.05 * normal(d), sum = 0;
        for (int w = 0; w < WORDINGS; w++) sum += 0.10 + own + 0.05 * normal(d);
        two[2 * i] = sum;
        two[2 * i + 1] = WORDINGS;
    }
    return qs_bootstrap_ratio(options, two, d->n, false, &defined, out);
}

/* Skewed: 0.10 (changes that are mostly small and sometimes large). */
static qs_err skewed_mean(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double two[2 * BLOCKS_MAX];
    bool defined;
    for (int64_t i = 0; i < d->n; i++) {
        two[2 * i] = -0.10 * log(1 - unit(d));
        two[2 * i + 1] = 1;
    }
    return qs_bootstrap_ratio(options, two, d->n, false, &defined, out);
}

/* A share of 0.80 of runs, four of an item, which hang together (lambda_conv). */
static qs_err share_of_runs(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double two[2 * BLOCKS_MAX];
    bool defined;
    for (int64_t i = 0; i < d->n; i++) {
        bool together = unit(d) < 0.5, first = unit(d) < 0.80;
        two[2 * i] = 0;
        for (int w = 0; w < WORDINGS; w++) two[2 * i] += together ? first : unit(d) < 0.80;
        two[2 * i + 1] = WORDINGS;
    }
    return qs_bootstrap_ratio(options, two, d->n, true, &defined, out);
}

/* A share of 0.99 (json_ok). */
static qs_err rare_share(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double two[2 * BLOCKS_MAX];
    bool defined;
    for (int64_t i = 0; i < d->n; i++) {
        two[2 * i] = unit(d) < 0.99;
        two[2 * i + 1] = 1;
    }
    return qs_bootstrap_ratio(options, two, d->n, true, &defined, out);
}

static double exp_mean(const double *s) { return exp(s[0] / s[1]); }

/* exp of a mean over windows: 1.05 (ppl_ratio). */
static qs_err ratio_of_windows(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double sums[2 * BLOCKS_MAX];
    for (int64_t i = 0; i < d->n; i++) {
        sums[2 * i] = 100 * (log(1.05) + 0.03 * normal(d));
        sums[2 * i + 1] = 100;
    }
    return qs_bootstrap_sums(options, sums, d->n, 2, exp_mean, out);
}

static double worse(const double *s) { return fmax(s[0] / s[1], s[2] / s[3]); }

/* The larger of two means, 0.10 and 0.08. */
static qs_err worse_of_two(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double sums[4 * BLOCKS_MAX];
    for (int64_t i = 0; i < d->n; i++) {
        sums[4 * i] = 0.10 + 0.05 * normal(d);
        sums[4 * i + 2] = 0.08 + 0.03 * normal(d);
        sums[4 * i + 1] = sums[4 * i + 3] = 1;
    }
    return qs_bootstrap_sums(options, sums, d->n, 4, worse, out);
}

/* The gain of medians over rounds of timing: 25 %. */
static qs_err gain_of_medians(draw *d, const qs_bootstrap *options, qs_estimate *out)
{
    double a[BLOCKS_MAX * PER_BLOCK], b[BLOCKS_MAX * PER_BLOCK];
    for (int64_t i = 0; i < d->n; i++) {
        double drift = 0.02 * normal(d);
        for (int j = 0; j < PER_BLOCK; j++) {
            a[i * PER_BLOCK + j] = 10 * (1 + drift + 0.02 * normal(d));
            b[i * PER_BLOCK + j] = 7.5 * (1 + drift + 0.02 * normal(d));
        }
    }
    return qs_bootstrap_median_gain(options, a, b, d->n, PER_BLOCK, out);
}

static const struct {
    const char *name, *row;
    sample draw;
    int64_t n[2];
} kinds[] = {
    {"mean over items", "*,dS_drift,<=,0.10,fail,x\n", mean_of_items, {10, 50}},
    {"skewed mean", "*,dS_drift,<=,0.10,fail,x\n", skewed_mean, {10, 50}},
    {"share of runs", "*,lambda_conv,>=,0.80,fail,x\n", share_of_runs, {10, 50}},
    {"rare share", "*,json_ok,>=,0.99,fail,x\n", rare_share, {10, 50}},
    {"ratio over windows", "*,ppl_ratio,<=,1.05,fail,x\n", ratio_of_windows, {8, 40}},
    {"worse of two means", "*,dS_drift,<=,0.10,fail,x\n", worse_of_two, {10, 50}},
    {"gain of medians", "exl2,latency_gain_pct,ci>=,25,fail,x\n", gain_of_medians, {10, 40}},
};

static int count_decided(size_t kind, int64_t n, int *wrong_side)
{
    qs_budgets budgets;
    char text[128];
    int decided = 0;
    (void)snprintf(text, sizeof text, "profile,metric,op,limit,level,source\n%s", kinds[kind].row);
    assert_int_equal(qs_budgets_parse(&budgets, text, strlen(text), "b.csv"), QS_OK);
    *wrong_side = 0;
    for (int run = 0; run < RUNS; run++) {
        draw d = {.key = qs_rng_u64(kind + 1, (uint64_t)(n * RUNS + run)), .n = n};
        qs_bootstrap options = {.seed = (uint64_t)run, .n_resamples = RESAMPLES};
        qs_measure measure = {.name = "x"};
        qs_gate gate;
        assert_int_equal(kinds[kind].draw(&d, &options, &measure.estimate), QS_OK);
        assert_int_equal(qs_gate_judge(&gate, &budgets.rows[0], &measure, false), QS_OK);
        decided += gate.decided;
        *wrong_side += gate.decided && gate.verdict == QS_VERDICT_FAIL;
    }
    qs_budgets_free(&budgets);
    return decided;
}

static void test_decided_is_honest(void **state)
{
    (void)state;
    int failures = 0;
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int i = 0; i < 2; i++) {
            int fails, decided = count_decided(kind, kinds[kind].n[i], &fails);
            print_message("%-20s n = %2lld: %d of %d decided, %d of them as FAIL\n", kinds[kind].name,
                          (long long)kinds[kind].n[i], decided, RUNS, fails);
            failures += decided > RUNS / 20;
        }
    assert_int_equal(failures, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_decided_is_honest)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
