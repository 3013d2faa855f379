/* Racing (metric/race.h): the test of a mean against its integral, decisions on both sides of a budget, and how
 * often they are wrong. */
#include "scratch.h"

#include <math.h>

#include "base/rng.h"
#include "metric/raced.h"

enum { WINDOWS = 64, RUNS = 1000, CHUNK = 4 };

/* ---- the test of a mean ---- */

/* The same by its definition: the normal likelihood with mean d s, d drawn from N(0, 1), over that with mean 0, both
 * integrated over the scale s with density 1 / s; by the trapezium rule in ln s and d. */
static double integrated(const double *x, int n)
{
    double top = 0, bottom = 0;
    for (int i = -800; i <= 800; i++) {
        double s = exp(0.01 * i), squares = 0;
        for (int k = 0; k < n; k++) squares += x[k] * x[k];
        bottom += exp(-n * log(s) - 0.5 * squares / (s * s));
        for (int j = -400; j <= 400; j++) {
            double d = 0.02 * j, sum = 0;
            for (int k = 0; k < n; k++) sum += (x[k] / s - d) * (x[k] / s - d);
            top += 0.02 * exp(-n * log(s) - 0.5 * sum - 0.5 * d * d) / sqrt(2 * acos(-1));
        }
    }
    return log(top / bottom);
}

static double evidence(const double *x, int n)
{
    qs_race_test test = {0};
    for (int i = 0; i < n; i++) qs_race_test_add(&test, x[i]);
    return qs_race_test_evidence(&test);
}

static void test_evidence(void **state)
{
    (void)state;
    const double x[] = {0.3, -1.2, 0.5, 2.0, 1.1}, same[] = {1, 1, 1, 1, 1, 1}, none[] = {0, 0, 0};
    for (int n = 1; n <= 5; n++) assert_true(fabs(evidence(x, n) - integrated(x, n)) < 1e-3);
    assert_true(evidence(x, 1) == 0.0); /* one number says nothing of its spread */
    assert_true(evidence(none, 3) == 0.0);
    /* Of equal numbers S^2 = n V: (1 + n)^((n - 1) / 2). */
    assert_true(fabs(evidence(same, 2) - 0.5 * log(3.0)) < 1e-12);
    assert_true(fabs(evidence(same, 6) - 2.5 * log(7.0)) < 1e-12);
}

/* ---- decisions ---- */

static const char header[] = "profile,metric,op,limit,level,source\n";

/* A text of WINDOWS windows with one scored token each, and scores for it. */
typedef struct text {
    int32_t ids[2 * WINDOWS], argmax[WINDOWS];
    float reference[WINDOWS], nll[WINDOWS], kld[WINDOWS], entropy[WINDOWS];
    qs_windows windows;
    qs_token_scores f, q;
    qs_quality_input input;
} text;

static void text_init(text *t)
{
    *t = (text){0};
    t->windows = (qs_windows){.n_ctx = 2, .n_windows = WINDOWS, .n_scored = 1, .ids = t->ids};
    t->f = (qs_token_scores){.n = WINDOWS, .nll = t->reference, .argmax = t->argmax, .entropy = t->entropy};
    t->q = (qs_token_scores){.n = WINDOWS, .nll = t->nll, .argmax = t->argmax, .entropy = t->entropy, .kld = t->kld};
    t->input = (qs_quality_input){.windows = &t->windows, .scores = &t->q, .reference = &t->f};
    for (int i = 0; i < WINDOWS; i++) t->reference[i] = 3.0f;
}

/* Reads the text in rounds of CHUNK windows until the race is decided; *n gets how many. */
static qs_race_decision run(qs_race *race, const qs_budgets *budgets, const text *t, uint64_t seed, int64_t *n)
{
    int64_t order[WINDOWS];
    OK(qs_race_start(race, budgets, "*", QS_TASK_PPL | QS_TASK_KLD));
    qs_race_order(order, WINDOWS, seed);
    for (*n = 0; *n < WINDOWS && race->decision == QS_RACE_OPEN;) {
        for (int i = 0; i < CHUNK; i++) qs_race_add(race, &t->input, order[(*n)++]);
        if (qs_race_decide(race) == QS_RACE_OPEN && *n == WINDOWS) break;
    }
    return race->decision;
}

static qs_budgets budgets_of(const char *rows)
{
    char csv[1024];
    qs_budgets budgets;
    (void)snprintf(csv, sizeof csv, "%s%s", header, rows);
    OK(qs_budgets_parse(&budgets, csv, strlen(csv), "b.csv"));
    return budgets;
}

/* Ratio 1.5 for certain, KL divergence 0.2 for certain. */
static qs_race_decision decide(const char *rows, int64_t *n, const char **missed)
{
    text t;
    qs_race race;
    qs_budgets budgets = budgets_of(rows);
    text_init(&t);
    for (int i = 0; i < WINDOWS; i++) {
        t.nll[i] = (float)(3.0 + log(1.5) + 0.01 * (i % 5 - 2));
        t.kld[i] = (float)(0.2 + 0.001 * (i % 3 - 1));
    }
    qs_race_decision decision = run(&race, &budgets, &t, 1, n);
    *missed = race.missed != NULL && strcmp(race.missed->part->metric, "kld_mean") == 0 ? "kld_mean"
              : race.missed != NULL                                                    ? "another"
                                                                                       : "none";
    qs_budgets_free(&budgets);
    return decision;
}

static void test_decisions(void **state)
{
    (void)state;
    int64_t n;
    const char *missed;
    assert_int_equal(decide("*,ppl_ratio,<=,2,fail,x\n*,kld_mean,<=,0.1,fail,x\n", &n, &missed), QS_RACE_DROPPED);
    assert_string_equal(missed, "kld_mean");
    assert_true(n >= QS_RACE_WINDOWS_MIN && n <= 12);
    assert_int_equal(decide("*,ppl_ratio,<=,2,fail,x\n*,kld_mean,<=,0.3,fail,x\n", &n, &missed), QS_RACE_ACCEPTED);
    assert_true(n <= 12);
    /* A warning drops nothing, but must be decided. */
    assert_int_equal(decide("*,ppl_ratio,<=,1.2,warn,x\n", &n, &missed), QS_RACE_ACCEPTED);
    assert_int_equal(decide("*,ppl_ratio,>=,1.6,fail,x\n", &n, &missed), QS_RACE_DROPPED);
    /* Exactly on the budget, and what no window tells: to the end. */
    assert_int_equal(decide("*,ppl_ratio,<=,1.5,fail,x\n", &n, &missed), QS_RACE_OPEN);
    assert_int_equal(n, WINDOWS);
    assert_int_equal(decide("*,ppl_ratio,<=,2,fail,x\n*,kld_p99,<=,9,fail,x\n", &n, &missed), QS_RACE_OPEN);
    assert_int_equal(decide("*,ppl_ratio,<=,2,fail,x\n*,ppl_ratio,ci>=,0,fail,x\n", &n, &missed), QS_RACE_OPEN);
    assert_int_equal(decide("*,ppl_ratio,<=,2,fail,x\n*,ppl,<=,99,fail,x\n", &n, &missed), QS_RACE_OPEN);
    assert_int_equal(decide("*,ppl_ratio,<=,-1,fail,x\n", &n, &missed), QS_RACE_OPEN); /* no logarithm */
    assert_int_equal(decide("*,qa_acc,>=,0.5,fail,x\n", &n, &missed), QS_RACE_OPEN);
    /* But a certain miss needs no other gate. */
    assert_int_equal(decide("*,ppl_ratio,<=,1.1,fail,x\n*,kld_p99,<=,9,fail,x\n", &n, &missed), QS_RACE_DROPPED);
}

/* A metric that is not measured takes no part. */
static void test_tasks(void **state)
{
    (void)state;
    qs_budgets budgets = budgets_of("*,kld_mean,<=,1,fail,x\n*,top1_agree,>=,0.5,fail,x\n*,ppl_ratio,<=,2,fail,x\n");
    qs_race race;
    OK(qs_race_start(&race, &budgets, "*", QS_TASK_PPL));
    assert_int_equal(race.n_gates, 1);
    qs_digest ppl = qs_race_digest(&race, 0), other = qs_race_digest(&race, 1);
    assert_true(ppl.low != other.low);
    OK(qs_race_start(&race, &budgets, "*", QS_TASK_PPL | QS_TASK_KLD));
    assert_int_equal(race.n_gates, 3);
    assert_true(qs_race_digest(&race, 0).low != ppl.low);
    qs_budgets_free(&budgets);
}

/* Relative losses add up over windows: 100 (f - q) / f > L. */
static void test_excess(void **state)
{
    (void)state;
    /* N, NLL of both, right of both, agreeing, flipped, KL divergence, squares: 20 right of 40, 18 by the other. */
    const double sums[QS_QUALITY_SUMS] = {40, 80, 84, 20, 18, 30, 10, 2, 0};
    assert_true(fabs(qs_quality_excess("ppl_ratio", 1.0, sums) - 0.1) < 1e-12);
    assert_true(fabs(qs_quality_excess("kld_mean", 0.02, sums) - 0.03) < 1e-12);
    assert_true(fabs(qs_quality_excess("top1_agree", 0.75, sums)) < 1e-12);
    assert_true(fabs(qs_quality_excess("flip_rate", 0.20, sums) - 0.05) < 1e-12);
    assert_true(fabs(qs_quality_excess("acc_loss_pct", 10.0, sums)) < 1e-12);
    assert_true(qs_quality_excess("acc_loss_pct", 9.0, sums) > 0 && qs_quality_excess("acc_loss_pct", 11.0, sums) < 0);
    assert_false(qs_quality_is_mean("kld_p99", 1) || qs_quality_is_mean("ppl", 1) || qs_quality_is_mean("x", 1));
}

static void test_order(void **state)
{
    (void)state;
    int64_t order[WINDOWS], other[WINDOWS], n_same = 0;
    bool seen[WINDOWS] = {false};
    qs_race_order(order, WINDOWS, 7);
    qs_race_order(other, WINDOWS, 8);
    for (int i = 0; i < WINDOWS; i++) {
        assert_false(seen[order[i]]);
        seen[order[i]] = true;
        n_same += order[i] == other[i];
    }
    assert_true(n_same < WINDOWS / 4);
}

/* ---- how often decisions are wrong ---- */

typedef enum shape { NORMAL, GAMMA4, EXPONENTIAL, N_SHAPES } shape;

/* Mean 0, variance 1. */
static double noise(shape s, uint64_t key, uint64_t at)
{
    int n = s == GAMMA4 ? 4 : 1;
    double sum = 0;
    if (s == NORMAL) return qs_rng_normal(key, at);
    for (int i = 0; i < n; i++) sum -= log(1.0 - qs_rng_unit(key, 4 * at + (uint64_t)i));
    return (sum - n) / sqrt(n);
}

/* Share of runs that end in a decision which the true mean, `mean` spreads above the budget, does not bear out;
 * `centred`: of this very text, whose windows are drawn without being put back. *n gets the windows read in a
 * run. */
static double wrong(shape s, double mean, bool centred, double *n)
{
    qs_budgets budgets = budgets_of("*,ppl_ratio,<=,1.05,fail,x\n");
    int64_t n_wrong = 0, n_read, n_all = 0;
    text t;
    text_init(&t);
    for (int r = 0; r < RUNS; r++) {
        double x[WINDOWS], average = 0;
        qs_race race;
        for (int i = 0; i < WINDOWS; i++) {
            x[i] = noise(s, (uint64_t)(1000 * (int)s + r), (uint64_t)i);
            average += x[i] / WINDOWS;
        }
        for (int i = 0; i < WINDOWS; i++)
            t.nll[i] = (float)(3.0 + log(1.05) + 0.1 * (x[i] - (centred ? average : 0) + mean));
        qs_race_decision decision = run(&race, &budgets, &t, (uint64_t)r, &n_read);
        n_all += n_read;
        if (mean == 0) n_wrong += decision != QS_RACE_OPEN;
        else n_wrong += decision == (mean > 0 ? QS_RACE_ACCEPTED : QS_RACE_DROPPED);
    }
    qs_budgets_free(&budgets);
    *n = (double)n_all / RUNS;
    return (double)n_wrong / RUNS;
}

static void test_false_decisions(void **state)
{
    (void)state;
    static const char *const names[] = {"normal", "gamma of shape 4", "exponential"};
    static const double means[] = {-1, -0.25, 0, 0.25, 1};
    for (shape s = NORMAL; s < N_SHAPES; s++)
        for (int m = 0; m < 5; m++) {
            double n, n_text, share = wrong(s, means[m], false, &n), of_text = wrong(s, means[m], true, &n_text);
            print_message("%-17s %+.2f spreads from the budget: wrong %4.1f %% of %d, %4.1f windows of %d; of the text "
                          "%4.1f %%\n", names[s], means[m], 100 * share, RUNS, n, WINDOWS, 100 * of_text);
            assert_true(of_text <= 0.05);
            /* What is assumed, and what breaks it. */
            assert_true(share <= (s == EXPONENTIAL ? 0.11 : 0.05));
            if (fabs(means[m]) == 1) assert_true(n < 0.4 * WINDOWS);
        }
}

/* ---- artifacts ---- */

static void test_part(void **state)
{
    (void)state;
    text t;
    qs_raced_part part;
    const int64_t order[] = {9, 3, 60};
    text_init(&t);
    for (int i = 0; i < WINDOWS; i++) {
        t.ids[2 * i] = i;
        t.nll[i] = (float)i;
    }
    OK(qs_raced_part_make(&part, &t.windows, &t.q, &t.f, order, 3));
    assert_int_equal(part.windows.n_windows, 3);
    assert_true(part.windows.ids[0] == 3 && part.windows.ids[2] == 9 && part.windows.ids[4] == 60);
    assert_true(part.scores.nll[0] == 3 && part.scores.nll[1] == 9 && part.scores.nll[2] == 60);
    assert_true(part.scores.kld != NULL && part.reference.kld == NULL && part.reference.nll[2] == 3);
    qs_raced_part_free(&part);
}

static void test_artifact(void **state)
{
    (void)state;
    static const struct {
        int64_t n, n_all;
        bool good, partial;
    } cases[] = {{8, 64, true, true}, {64, 64, true, false}, {0, 64, false, false}, {65, 64, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        scratch_path path;
        qs_artifact *a;
        qs_digest digest;
        qs_raced raced = {.n_windows = cases[i].n, .n_windows_all = cases[i].n_all, .decision = QS_RACE_DROPPED,
                          .missed = "kld_mean", .tokens = {1, 2}, .rules = {3, 4}}, back;
        OK(qs_artifact_create(&a, scratch(path, "a.h5"), QS_KIND_EVAL));
        OK(qs_raced_put(a, &raced));
        OK(qs_artifact_seal(a, &digest));
        OK(qs_artifact_open(&a, path, QS_KIND_EVAL));
        if (cases[i].good) {
            OK(qs_raced_get(a, &back));
            assert_true(back.raced && back.n_windows == cases[i].n && back.decision == QS_RACE_DROPPED);
            assert_true(back.tokens.low == 1 && back.rules.high == 4 && strcmp(back.missed, "kld_mean") == 0);
            assert_true(qs_raced_is_partial(&back) == cases[i].partial);
        } else {
            FAILS(QS_E_INPUT, qs_raced_get(a, &back));
        }
        qs_artifact_close(a);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_evidence), cmocka_unit_test(test_decisions), cmocka_unit_test(test_tasks),
        cmocka_unit_test(test_excess),   cmocka_unit_test(test_order),     cmocka_unit_test(test_false_decisions),
        cmocka_unit_test(test_part),     cmocka_unit_test(test_artifact),
    };
    return cmocka_run_group_tests_name("race", tests, scratch_create, scratch_remove);
}
