/* Confidence intervals (docs/gates.md: seeded block bootstrap, at least 1,000 resamples; Wilson). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "metric/bootstrap.h"

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.12g and %.12g differ by more than %g", a, b, tolerance);
}

/* Newcombe (1998), Statistics in Medicine 17, table I, method 3. */
static void test_wilson_published(void **state)
{
    (void)state;
    static const struct {
        double r, n, lo, hi;
    } cases[] = {
        {81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0.0, 0.1611}, {1, 29, 0.0061, 0.1718}};
    double lo, hi;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qs_wilson(cases[i].r, cases[i].n, &lo, &hi);
        assert_near(lo, cases[i].lo, 0.5e-4);
        assert_near(hi, cases[i].hi, 0.5e-4);
    }
    /* a share of .70 is decided by 18 of 20 but not by 17, by 78 of 100 but not by 77 */
    qs_wilson(18, 20, &lo, &hi);
    assert_true(lo > 0.695 && lo < 0.705);
    qs_wilson(78, 100, &lo, &hi);
    assert_true(lo > 0.685 && lo < 0.70);
    qs_wilson(20, 20, &lo, &hi);
    assert_true(hi == 1.0);
    qs_wilson(0, 0, &lo, &hi);
    assert_true(lo == 0.0 && hi == 1.0);
}

static void test_quantile_hand(void **state)
{
    (void)state;
    const double sorted[] = {1, 2, 4, 8};
    assert_near(qs_quantile_sorted(sorted, 4, 0.0), 1.0, 0);
    assert_near(qs_quantile_sorted(sorted, 4, 0.5), 3.0, 0);
    assert_near(qs_quantile_sorted(sorted, 4, 0.9), 4.0 + 0.7 * 4.0, 1e-12); /* at 2.7 */
    assert_near(qs_quantile_sorted(sorted, 4, 1.0), 8.0, 0);
    assert_near(qs_quantile_sorted(sorted, 1, 0.3), 1.0, 0);
}

static double ratio(const double *sums) { return sums[0] / sums[1]; }

/* Two blocks have four equally likely draws: (a, a), (a, b), (b, a), (b, b), so the extremes of the interval
 * are the two blocks themselves. */
static void test_two_blocks(void **state)
{
    (void)state;
    const double sums[] = {10, 100, 30, 100};
    qs_bootstrap options = {.seed = 1};
    qs_estimate estimate;
    assert_int_equal(qs_bootstrap_sums(&options, sums, 2, 2, ratio, &estimate), QS_OK);
    assert_near(estimate.value, 0.2, 1e-15);
    assert_near(estimate.lo, 0.1, 1e-15);
    assert_near(estimate.hi, 0.3, 1e-15);
    assert_int_equal(estimate.n, 2);
}

static void test_equal_and_single_blocks(void **state)
{
    (void)state;
    const double equal[] = {3, 10, 3, 10, 3, 10};
    qs_bootstrap options = {.seed = 5};
    qs_estimate estimate;
    assert_int_equal(qs_bootstrap_sums(&options, equal, 3, 2, ratio, &estimate), QS_OK);
    assert_near(estimate.lo, 0.3, 1e-15);
    assert_near(estimate.hi, 0.3, 1e-15);
    assert_int_equal(qs_bootstrap_sums(&options, equal, 1, 2, ratio, &estimate), QS_OK);
    assert_int_equal(estimate.n, 1);
    assert_near(estimate.hi, 0.3, 1e-15);
}

/* Draws without a defined value are left out; a plain value without one is an error. */
static void test_undefined(void **state)
{
    (void)state;
    const double sums[] = {1, 1, 0, 0, 0, 0}, none[] = {1, 0, 2, 0};
    qs_bootstrap options = {.seed = 2};
    qs_estimate estimate;
    assert_int_equal(qs_bootstrap_sums(&options, sums, 3, 2, ratio, &estimate), QS_OK);
    assert_near(estimate.lo, 1.0, 0);
    assert_near(estimate.hi, 1.0, 0);
    assert_int_equal(qs_bootstrap_sums(&options, none, 2, 2, ratio, &estimate), QS_E_NUMERIC);
}

/* With every resample walked by multiplicities, the plain value must be that of the sorted values. */
static void test_quantile_matches_sorting(void **state)
{
    (void)state;
    enum { BLOCKS = 7, EACH = 11, N = BLOCKS * EACH };
    double values[N], sorted[N];
    for (int i = 0; i < N; i++) values[i] = floor(20.0 * qs_rng_unit(9, (uint64_t)i)); /* with ties */
    memcpy(sorted, values, sizeof values);
    for (int i = 1; i < N; i++)
        for (int j = i; j > 0 && sorted[j] < sorted[j - 1]; j--) {
            double swap = sorted[j];
            sorted[j] = sorted[j - 1];
            sorted[j - 1] = swap;
        }
    qs_bootstrap options = {.seed = 3};
    qs_estimate estimate;
    static const double fractions[] = {0.0, 0.013, 0.25, 0.5, 0.77, 0.99, 1.0};
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
        assert_int_equal(qs_bootstrap_quantile(&options, values, BLOCKS, EACH, fractions[i], &estimate),
                         QS_OK);
        assert_near(estimate.value, qs_quantile_sorted(sorted, N, fractions[i]), 1e-12);
        assert_true(estimate.lo <= estimate.value && estimate.value <= estimate.hi);
    }
}

/* Two blocks of two: medians by hand for the draws (a, a), (a, b), (b, b). */
static void test_median_gain_hand(void **state)
{
    (void)state;
    const double a[] = {10, 10, 20, 20}, b[] = {5, 5, 16, 16};
    qs_bootstrap options = {.seed = 4};
    qs_estimate estimate;
    assert_int_equal(qs_bootstrap_median_gain(&options, a, b, 2, 2, &estimate), QS_OK);
    assert_near(estimate.value, 30.0, 1e-12); /* (15 - 10.5) / 15 */
    assert_near(estimate.lo, 20.0, 1e-12);
    assert_near(estimate.hi, 50.0, 1e-12);
}

/* 300 data sets of 40 windows whose tokens share a window effect: the interval must hold the truth about 95 %
 * of the time. */
static void test_coverage(void **state)
{
    (void)state;
    enum { SETS = 300, WINDOWS = 40, TOKENS = 50 };
    int covered = 0, covered_ratio = 0;
    for (uint64_t set = 0; set < SETS; set++) {
        double sums[WINDOWS][4];
        for (uint64_t w = 0; w < WINDOWS; w++) {
            double effect = qs_rng_normal(1000 + set, w), difference = 0.1 * qs_rng_normal(2000 + set, w),
                   f = 0, q = 0;
            for (uint64_t t = 0; t < TOKENS; t++) {
                double nll = 3.0 + effect + qs_rng_normal(3000 + set, w * TOKENS + t);
                f += nll;
                q += nll + 0.05 + difference;
            }
            memcpy(sums[w], (double[]){f, TOKENS, q, TOKENS}, sizeof sums[w]);
        }
        qs_bootstrap options = {.seed = set, .n_resamples = 1000};
        qs_estimate estimate;
        assert_int_equal(qs_bootstrap_sums(&options, &sums[0][0], WINDOWS, 4, ratio, &estimate), QS_OK);
        covered += estimate.lo <= 3.0 && 3.0 <= estimate.hi;
        for (int w = 0; w < WINDOWS; w++) sums[w][0] = sums[w][2] - sums[w][0]; /* paired difference */
        assert_int_equal(qs_bootstrap_sums(&options, &sums[0][0], WINDOWS, 4, ratio, &estimate), QS_OK);
        covered_ratio += estimate.lo <= 0.05 && 0.05 <= estimate.hi;
        /* The pair removes the window effect: its interval is about a tenth as wide as the plain one. */
        assert_true(estimate.hi - estimate.lo < 0.1);
    }
    print_message("coverage of the mean %.3f, of the paired difference %.3f (nominal 0.95)\n",
                  covered / (double)SETS, covered_ratio / (double)SETS);
    assert_true(covered > 0.90 * SETS && covered < 0.99 * SETS);
    assert_true(covered_ratio > 0.90 * SETS && covered_ratio < 0.99 * SETS);
}

static void test_seed_decides(void **state)
{
    (void)state;
    double sums[20];
    for (int i = 0; i < 10; i++) {
        sums[2 * i] = qs_rng_unit(1, (uint64_t)i);
        sums[2 * i + 1] = 1;
    }
    qs_estimate one, same, other;
    qs_bootstrap options = {.seed = 11};
    assert_int_equal(qs_bootstrap_sums(&options, sums, 10, 2, ratio, &one), QS_OK);
    assert_int_equal(qs_bootstrap_sums(&options, sums, 10, 2, ratio, &same), QS_OK);
    assert_memory_equal(&one, &same, sizeof one);
    options.seed = 12;
    assert_int_equal(qs_bootstrap_sums(&options, sums, 10, 2, ratio, &other), QS_OK);
    assert_true(one.lo != other.lo && fabs(one.lo - other.lo) < 0.05);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wilson_published), cmocka_unit_test(test_quantile_hand),
        cmocka_unit_test(test_two_blocks),       cmocka_unit_test(test_equal_and_single_blocks),
        cmocka_unit_test(test_undefined),        cmocka_unit_test(test_quantile_matches_sorting),
        cmocka_unit_test(test_median_gain_hand), cmocka_unit_test(test_coverage),
        cmocka_unit_test(test_seed_decides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
