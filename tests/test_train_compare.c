/* The figures of an optimizer comparison from runs with chosen numbers: paired means and Student's intervals
 * by hand, failed runs, and their way through the artifact into the report's rows. docs/training.md;
 * checklist B4, B6, B21. */
#include "scratch.h"

#include <math.h>

#include "base/rng.h"
#include "report/optimizer_figures.h"
#include "train/compare.h"

#define NEAR(value, wanted, bound) assert_true(fabs((double)(value) - (double)(wanted)) <= (bound))

enum { N_SEEDS = 3, N_STEPS = 60 };

static qs_comparison comparison;

static void fill(void)
{
    static const double base_loss[N_SEEDS] = {2, 4, 5}, loss[N_SEEDS] = {2.02, 4.12, 5.1};
    static const double base_variance[N_SEEDS] = {1e-6, 2e-6, 4e-6},
                        variance[N_SEEDS] = {1.04e-6, 1.94e-6, 4.04e-6};
    comparison = (qs_comparison){.options = {.trainer = {.clip = 1},
                                             .bits = {32, 8},
                                             .schedule = {.n_steps = N_STEPS},
                                             .n_seeds = N_SEEDS},
                                 .n_parameters = 1000,
                                 .state_bytes = {8000, 2040}};
    for (int64_t seed = 0; seed < N_SEEDS; seed++) {
        for (int setting = 0; setting < QS_COMPARE_SETTINGS; setting++) {
            for (int which = 0; which < QS_COMPARE_OPTIMIZERS; which++) {
                qs_compare_arm *arm = &comparison.arms[seed][setting][which];
                OK(QS_NEW(arm->loss, N_STEPS, "loss"));
                OK(QS_NEW(arm->gradient_norm, N_STEPS, "norm"));
                for (int64_t i = 0; i < N_STEPS; i++) arm->loss[i] = arm->gradient_norm[i] = 1;
                arm->loss_last = which ? loss[seed] : base_loss[seed];
                arm->update_variance = which ? variance[seed] : base_variance[seed];
                arm->ppl = which ? 10.1 : 10;
                arm->largest_jump = 1.5 + (double)seed;
                arm->n_starved = which * seed;
            }
        }
        comparison.step_error[seed] = 0.01 * (double)(seed + 1);
        comparison.drift[seed] = 0.1;
        comparison.cosine[seed] = 0.99;
    }
}

static void test_figures(void **state)
{
    (void)state;
    fill();
    assert_int_equal(qs_compare_gated_setting(&comparison.options), 1);
    /* Losses differ by 1, 3 and 2 %: mean 2, standard error 1 / sqrt 3, times 4.303. */
    qs_estimate e = qs_compare_estimate(&comparison, "opt_loss_pct", 1);
    double half = 4.303 / sqrt(3);
    NEAR(e.value, 2, 1e-9);
    NEAR(e.hi, 2 + half, 1e-9);
    NEAR(e.lo, 0, 0); /* 2 - 2.48 has the other sign */
    assert_int_equal(e.n, N_SEEDS);
    /* Variances by 4, -3 and 1 %: signs count before the magnitude is taken. */
    e = qs_compare_estimate(&comparison, "opt_var_pct", 1);
    NEAR(e.value, 2.0 / 3, 1e-9);
    NEAR(e.lo, 0, 0);
    NEAR(e.hi, 2.0 / 3 + 4.303 * sqrt(37.0 / 3) / sqrt(3), 1e-6);
    e = qs_compare_estimate(&comparison, "opt_ppl_pct", 0);
    NEAR(e.value, 1, 1e-9);
    NEAR(e.lo, 1, 1e-9);
    NEAR(qs_compare_estimate(&comparison, "opt_loss_noise_pct", 1).value, (100 + 25 + 60) / 3.0, 1e-9);
    NEAR(qs_compare_estimate(&comparison, "opt_state_ratio", 0).value, 0.255, 1e-12);
    NEAR(qs_compare_estimate(&comparison, "opt_starved", 0).value, 2, 0);
    NEAR(qs_compare_estimate(&comparison, "opt_jump", 0).value, 3.5, 0);
    NEAR(qs_compare_estimate(&comparison, "opt_step_error", 1).value, 0.02, 1e-12);
    assert_true(isnan(qs_compare_estimate(&comparison, "opt_step_error", 0).value));
    NEAR(qs_compare_estimate(&comparison, "opt_nonfinite", 1).value, 0, 0);
    qs_comparison_free(&comparison);
}

/* Through the file into rows of bitsandbytes, and of nobody else; a run that failed is counted, the rest is
 * unknown. */
static void test_report(void **state)
{
    (void)state;
    scratch_path path, other;
    qs_optimizer_figures figures = {0};
    qs_config_row nf4 = {.method = "nf4"}, gptq = {.method = "gptq"};
    fill();
    comparison.options.n_seeds = N_SEEDS;
    OK(qs_comparison_write(&comparison, scratch(path, "a.optim.h5"), "steps 60\n", 0, NULL));
    OK(qs_optimizer_figures_load(&figures, path));
    OK(qs_optimizer_figures_load(&figures, path)); /* once more: the same */
    OK(qs_optimizer_figures_add(&figures, &nf4));
    OK(qs_optimizer_figures_add(&figures, &gptq));
    assert_int_equal(gptq.n_measures, 0);
    NEAR(qs_config_row_find(&nf4, "opt_loss_pct")->estimate.value, 2, 1e-9);
    NEAR(qs_config_row_value(&nf4, "opt_nonfinite"), 0, 0);
    assert_true(qs_config_row_find(&nf4, "opt_nonfinite")->fact);
    qs_config_row_free(&nf4);

    comparison.arms[1][1][1].failed = true;
    comparison.arms[1][1][1].loss[50] = NAN;
    OK(qs_comparison_write(&comparison, scratch(other, "b.optim.h5"), "steps 60\n", 0, NULL));
    FAILS(QS_E_INPUT, qs_optimizer_figures_load(&figures, other));
    TEXT_HOLDS("a.optim.h5", "b.optim.h5", "two comparisons");
    qs_optimizer_figures_free(&figures);
    OK(qs_optimizer_figures_load(&figures, other));
    nf4 = (qs_config_row){.method = "nf4"};
    OK(qs_optimizer_figures_add(&figures, &nf4));
    NEAR(qs_config_row_value(&nf4, "opt_nonfinite"), 1, 0);
    assert_null(qs_config_row_find(&nf4, "opt_loss_pct"));
    qs_config_row_free(&nf4);
    qs_optimizer_figures_free(&figures);
    FAILS(QS_E_INPUT, qs_optimizer_figures_load(&figures, scratch(other, "missing.optim.h5")));
    qs_comparison_free(&comparison);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_figures), cmocka_unit_test(test_report)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
