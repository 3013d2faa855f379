/* Metrics of vectors, sets and states, each by hand (docs/delta-s.md; checklist G1 G2 G3 G4 G15 A12 A18 B11
 * E12). */
#include "scratch.h"

#include <math.h>

#include "metric/coverage.h"
#include "metric/delta_s.h"
#include "metric/lambda.h"
#include "metric/rank_distance.h"

static void assert_near(double a, double b, double tolerance)
{
    if (!(fabs(a - b) <= tolerance)) fail_msg("%.12g and %.12g differ by more than %g", a, b, tolerance);
}

/* ---- ΔS ---- */

static void delta_s_by_hand(void **state)
{
    (void)state;
    const float x[] = {1, 0}, y[] = {0, 2}, diagonal[] = {3, 3}, back[] = {-1, 0}, zero[] = {0, 0},
                three_four[] = {3, 4};
    assert_near(qs_delta_s(x, x, 2), 0.0, 0);
    assert_near(qs_delta_s(x, y, 2), 1.0, 0);
    assert_near(qs_delta_s(x, diagonal, 2), 1.0 - sqrt(0.5), 1e-15);
    assert_near(qs_delta_s(x, three_four, 2), 0.4, 1e-15);
    assert_near(qs_delta_s(x, back, 2), 1.0, 0); /* clamped; the cosine is kept */
    assert_near(qs_cosine(x, back, 2), -1.0, 0);
    assert_near(qs_delta_s(x, zero, 2), 1.0, 0);
    assert_near(qs_delta_s(zero, zero, 2), 1.0, 0);
    static const struct {
        double value;
        const char *zone;
    } zones[] = {{0, "safe"},     {0.3999, "safe"}, {0.40, "transit"}, {0.5999, "transit"},
                 {0.60, "risk"}, {0.85, "risk"},   {0.8501, "danger"}, {1, "danger"}};
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++)
        assert_string_equal(qs_zone_name(qs_zone_of(zones[i].value)), zones[i].zone);
}

static void means_and_medoids_by_hand(void **state)
{
    (void)state;
    const float v[] = {1, 0, 0, 1, 0.6f, 0.8f, -1, 0};
    const int64_t first_two[] = {0, 1}, opposite[] = {0, 3};
    float mean[2];
    qs_unit_mean(v, first_two, 2, 2, mean);
    assert_near(mean[0], sqrt(0.5), 1e-7);
    assert_near(mean[1], sqrt(0.5), 1e-7);
    qs_unit_mean(v, opposite, 2, 2, mean);
    assert_true(mean[0] == 0.0f && mean[1] == 0.0f);
    qs_unit_mean(v, first_two, 0, 2, mean);
    assert_true(mean[0] == 0.0f && mean[1] == 0.0f);
    /* ΔS: (1,0)-(0,1) 1, (1,0)-(.6,.8) .4, (0,1)-(.6,.8) .2: sums 1.4, 1.2, .6 */
    assert_int_equal(qs_medoid(v, 3, 2), 2);
    assert_int_equal(qs_medoid(v, 2, 2), 0); /* equal sums: the first */
    assert_int_equal(qs_medoid(v, 1, 2), 0);
    assert_int_equal(qs_medoid(v, 0, 2), -1);
}

/* ---- coverage ---- */

static qs_gold_snippet snippets[] = {
    {"A1", "A", "f.md#A", "h", "1", "one two three", 10, 23, 3},
    {"A2", "A", "f.md#A", "h", "1", "four five", 24, 33, 2},
    {"B1", "B", "f.md#B", "h", "1", "two three four", 14, 28, 3}, /* overlaps both in the file */
    {"C1", "C", "g.md#C", "h", "1", "one two three", 10, 23, 3},  /* the same offsets in another file */
};
static const qs_goldset set = {.n_snippets = 4, .snippets = snippets};

static void coverage_by_union_of_offsets(void **state)
{
    (void)state;
    const int64_t a1[] = {0}, both[] = {0, 1}, twice[] = {0, 0}, b1[] = {2}, other[] = {3}, b1_a1[] = {2, 0};
    assert_near(qs_coverage_share(&(qs_coverage){0}), 0.0, 0);
    qs_coverage c = qs_coverage_of_section(&set, "A", a1, 1);
    assert_int_equal(c.n_words, 5);
    assert_int_equal(c.n_covered, 3);
    assert_near(qs_coverage_share(&c), 0.6, 1e-15);
    c = qs_coverage_of_section(&set, "A", both, 2);
    assert_int_equal(c.n_covered, 5);
    c = qs_coverage_of_section(&set, "A", twice, 2); /* once, however often it was retrieved */
    assert_int_equal(c.n_covered, 3);
    c = qs_coverage_of_section(&set, "A", b1, 1); /* "two", "three", "four"; not half a word */
    assert_int_equal(c.n_covered, 3);
    c = qs_coverage_of_section(&set, "A", b1_a1, 2);
    assert_int_equal(c.n_covered, 4);
    c = qs_coverage_of_section(&set, "A", other, 1); /* equal words are not the same place */
    assert_int_equal(c.n_covered, 0);
    c = qs_coverage_of_section(&set, "A", NULL, 0);
    assert_int_equal(c.n_covered, 0);
    /* A word that two snippets share between them: bytes 14-23 by B1 and 10-15 by a cut A1. */
    snippets[0].end = 15;
    snippets[0].text = "one t";
    c = (qs_coverage){0};
    qs_coverage_add(&c, &set, 3, 14, 17, other, 1);
    assert_int_equal(c.n_covered, 1);
    c = (qs_coverage){0};
    qs_coverage_add(&c, &(qs_goldset){.n_snippets = 4, .snippets = snippets}, 2, 14, 17, a1, 1);
    assert_int_equal(c.n_covered, 0);
    qs_coverage_add(&c, &set, 2, 14, 17, b1_a1, 2);
    assert_int_equal(c.n_covered, 1);
    snippets[0].end = 23;
    snippets[0].text = "one two three";
}

/* ---- rankings ---- */

static void rankings_by_hand(void **state)
{
    (void)state;
    const int64_t a[] = {1, 2, 3, 4}, b[] = {1, 2, 3, 4}, turned[] = {4, 3, 2, 1}, c[] = {2, 1, 5, 3}, d[] = {9};
    assert_near(qs_jaccard_distance(a, 4, b, 4), 0.0, 0);
    assert_near(qs_jaccard_distance(a, 4, c, 4), 1.0 - 3.0 / 5.0, 1e-15);
    assert_near(qs_jaccard_distance(a, 4, d, 1), 1.0, 0);
    assert_near(qs_jaccard_distance(a, 0, d, 0), 0.0, 0);
    assert_near(qs_kendall_tau(a, 4, b, 4), 1.0, 0);
    assert_near(qs_kendall_tau(a, 4, turned, 4), -1.0, 0);
    assert_near(qs_kendall_tau(a, 4, c, 4), 1.0 / 3.0, 1e-15); /* of 1, 2, 3: one pair turned, two kept */
    assert_true(isnan(qs_kendall_tau(a, 4, d, 1)));
}

/* ---- λ ---- */

static void states_of_runs(void **state)
{
    (void)state;
    static const struct {
        qs_lambda_run run;
        const char *symbol;
    } rows[] = {
        {{true, true, true, true, true, 0.1}, "->"},    {{true, true, true, true, false, 0.599}, "->"},
        {{true, true, true, true, true, 0.60}, "<>"},   {{true, true, true, false, true, 0.1}, "<>"},
        {{true, true, true, false, false, 0.1}, "x"},   {{true, true, false, false, false, 0.1}, "<-"},
        {{true, false, false, false, false, 1.0}, "<-"}, {{false, true, true, true, true, 0.1}, "x"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_string_equal(qs_lambda_symbol(qs_lambda_of_run(&rows[i].run)), rows[i].symbol);
    const int64_t cited[] = {7, 3, -1, 3, 7, 9}, none[] = {-1, -1};
    assert_int_equal(qs_lambda_consensus(cited, 6), 3); /* 7 and 3 twice: the lower one */
    assert_int_equal(qs_lambda_consensus(cited, 3), 3);
    assert_int_equal(qs_lambda_consensus(none, 2), -1);
}

static void flips_and_agreement(void **state)
{
    (void)state;
    const qs_lambda C = QS_LAMBDA_CONVERGENT, R = QS_LAMBDA_RECURSIVE, D = QS_LAMBDA_DIVERGENT, X = QS_LAMBDA_CHAOTIC;
    const qs_lambda f[] = {C, C, R, C, D, C}, q[] = {C, R, R, X, D, C};
    int64_t counts[QS_N_LAMBDAS][QS_N_LAMBDAS];
    assert_near(qs_lambda_flip_rate(f, 6), 0.4, 1e-15);
    assert_near(qs_lambda_flip_rate(f, 1), 0.0, 0);
    assert_near(qs_lambda_agreement(f, q, 6, counts), 4.0 / 6.0, 1e-15);
    assert_int_equal(counts[C][C], 2);
    assert_int_equal(counts[C][R], 1);
    assert_int_equal(counts[C][X], 1);
    assert_int_equal(counts[R][R], 1);
    assert_int_equal(counts[D][D], 1);
    assert_near(qs_lambda_agreement(f, f, 6, counts), 1.0, 0);
    /* k = 5, 10, 20 by canonical, two shuffles, removed: 1, 0 and 2 flips of 9. */
    const qs_lambda probe[] = {C, C, R, C, R, R, R, R, C, D, C, X};
    assert_near(qs_lambda_probe_flips(probe, 3, 4), 3.0 / 9.0, 1e-15);
}

static void resonance_by_hand(void **state)
{
    (void)state;
    const double delta[] = {0.5, 0.3, 0.1, 0.3, 0.3, 0.9, 0.4};
    double e[7];
    qs_e_resonance(delta, 7, e);
    const double wanted[] = {0.5, 0.4, 0.3, 0.3, 0.3, 0.38, 0.40};
    for (int i = 0; i < 7; i++) assert_near(e[i], wanted[i], 1e-15);
    const double line[] = {1, 3, 5, 7}, bent[] = {0, 0, 3};
    assert_near(qs_slope(line, 4), 2.0, 1e-15);
    assert_near(qs_slope(bent, 3), 1.5, 1e-15);
    assert_near(qs_slope(line, 1), 0.0, 0);
    const double shorter[] = {1.5, 2.0};
    assert_near(qs_e_resonance_drift(line, 4, shorter, 2), 0.75, 1e-15);
    assert_near(qs_e_resonance_drift(line, 4, line, 4), 0.0, 0);
    assert_true(isnan(qs_e_resonance_drift(line, 0, line, 4)));
    assert_near(qs_e_resonance_slope_excess(-0.1, 0.03), 0.01, 1e-15); /* .02 is always allowed */
    assert_near(qs_e_resonance_slope_excess(0.05, 0.06), -0.01, 1e-15);
}

static void assert_steps(const double *delta, const bool *contradicts, int64_t n, const char *wanted)
{
    double e[8];
    qs_lambda states[8];
    char found[64] = "";
    qs_e_resonance(delta, n, e);
    qs_lambda_of_steps(delta, e, contradicts, n, states);
    for (int64_t t = 0; t < n; t++) {
        strcat(found, qs_lambda_symbol(states[t]));
        strcat(found, " ");
    }
    assert_string_equal(found, wanted);
}

static void states_of_steps(void **state)
{
    (void)state;
    assert_steps((double[]){0.5, 0.4, 0.3}, NULL, 3, "<> -> -> ");       /* falls */
    assert_steps((double[]){0.3, 0.3, 0.3}, NULL, 3, "-> -> -> ");       /* flat and near */
    assert_steps((double[]){0.5, 0.5}, NULL, 2, "<> <> ");               /* flat and far */
    assert_steps((double[]){0.3, 0.345}, NULL, 2, "-> x ");              /* rises by more than .04 */
    assert_steps((double[]){0.3, 0.33}, NULL, 2, "-> <- ");              /* by .02 to .04 */
    assert_steps((double[]){0.3, 0.319}, NULL, 2, "-> <- ");             /* |Δ| < .02, E rises by .0095 */
    assert_steps((double[]){0.9, 0.7, 0.69}, NULL, 3, "<> -> -> ");      /* |Δ| < .02, E falls */
    assert_steps((double[]){0.1, 0.1, NAN}, NULL, 3, "-> -> x ");
    assert_steps((double[]){0.1, 0.1}, (bool[]){false, true}, 2, "-> x "); /* contradiction */
    /* Falls of .02 and more come first, so oscillation shows on the way up. */
    assert_steps((double[]){0.30, 0.33, 0.30, 0.33}, NULL, 4, "-> <- -> <- ");
    /* A step falls while the mean of five rises: an old, much lower one left the window. */
    assert_steps((double[]){0.0, 0.4, 0.8, 0.8, 0.8, 0.7}, NULL, 6, "-> x x <- <- <> ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delta_s_by_hand),     cmocka_unit_test(means_and_medoids_by_hand),
        cmocka_unit_test(coverage_by_union_of_offsets),
        cmocka_unit_test(rankings_by_hand),    cmocka_unit_test(states_of_runs),
        cmocka_unit_test(flips_and_agreement), cmocka_unit_test(resonance_by_hand),
        cmocka_unit_test(states_of_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
