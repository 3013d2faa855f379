/* Verdicts (docs/gates.md): each verdict from a case made by hand, `decided` by the interval, and how
 * many more samples would decide. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "report/verdict.h"

#define HEADER "profile,metric,op,limit,level,source\n"

static void parse(qs_budgets *budgets, const char *text)
{
    if (qs_budgets_parse(budgets, text, strlen(text), "b.csv") != QS_OK) fail_msg("%s", qs_error_text());
}

enum { MAX_MEASURES = 4 };

/* A configuration in memory. */
typedef struct made {
    qs_config_row row;
    qs_measure measures[MAX_MEASURES];
} made;

static void make(made *m, const char *id, const char *method)
{
    *m = (made){0};
    (void)snprintf(m->row.id, sizeof m->row.id, "%s", id);
    (void)snprintf(m->row.method, sizeof m->row.method, "%s", method);
    m->row.reference = strcmp(method, "fp") == 0;
    m->row.measures = m->measures;
}

static void add(made *m, const char *name, double value, double lo, double hi, int64_t n)
{
    assert_true(m->row.n_measures < MAX_MEASURES);
    qs_measure *measure = &m->measures[m->row.n_measures++];
    (void)snprintf(measure->name, sizeof measure->name, "%s", name);
    measure->estimate = (qs_estimate){value, lo, hi, n};
}

static void judge(qs_judgement *j, const qs_budgets *b, const made *config, const made *reference)
{
    assert_int_equal(qs_judge(j, b, &config->row, reference != NULL ? &reference->row : NULL, NULL), QS_OK);
}

/* ---- one comparison ---- */

static void test_one_comparison(void **state)
{
    (void)state;
    static const struct {
        const char *row;
        qs_estimate e;
        qs_verdict verdict;
        bool decided;
        int64_t n_more;
    } cases[] = {
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.02, 1.01, 1.03, 40}, QS_VERDICT_PASS, true, 0},
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.15, 1.15, 1.15, 40}, QS_VERDICT_PASS, true, 0},
        {"*,ppl_ratio,<,1.15,fail,x\n", {1.15, 1.15, 1.15, 40}, QS_VERDICT_FAIL, true, 0},
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.30, 1.20, 1.40, 40}, QS_VERDICT_FAIL, true, 0},
        {"*,ppl_ratio,<=,1.05,warn,x\n", {1.30, 1.20, 1.40, 40}, QS_VERDICT_WARN, true, 0},
        /* half width 1.2 * .04 (widened for 40 units) has to become .02: 5.76 times the samples */
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.13, 1.09, 1.17, 40}, QS_VERDICT_PASS, false, 191},
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.17, 1.13, 1.21, 40}, QS_VERDICT_FAIL, false, 191},
        {"*,ppl_ratio,<=,1.05,warn,x\n", {1.07, 1.03, 1.11, 40}, QS_VERDICT_WARN, false, 191},
        /* on the budget no number of samples decides */
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.15, 1.11, 1.19, 40}, QS_VERDICT_PASS, false, QS_NEVER},
        /* one window has no spread */
        {"*,ppl_ratio,<=,1.15,fail,x\n", {1.02, 1.02, 1.02, 1}, QS_VERDICT_PASS, false, QS_NEVER},
        /* the whole interval must reach the budget */
        {"exl2,latency_gain_pct,ci>=,25,fail,x\n", {30, 26, 34, 30}, QS_VERDICT_PASS, true, 0},
        {"exl2,latency_gain_pct,ci>=,25,fail,x\n", {27, 23, 31, 30}, QS_VERDICT_FAIL, false, 158},
        {"exl2,latency_gain_pct,>=,25,fail,x\n", {27, 23, 31, 30}, QS_VERDICT_PASS, false, 158},
        {"exl2,latency_gain_pct,ci>=,25,fail,x\n", {20, 18, 22, 30}, QS_VERDICT_FAIL, true, 0},
        {"exl2,acc_loss_pct,ci<=,5,fail,x\n", {4, 3, 6, 30}, QS_VERDICT_FAIL, false, 158},
        /* dS_QE in (.45, .60) is for a person */
        {"gptq,dS_QE,<=,0.45,fail,x\n", {0.45, 0.44, 0.45, 20}, QS_VERDICT_PASS, true, 0},
        {"gptq,dS_QE,<=,0.45,fail,x\n", {0.50, 0.48, 0.52, 20}, QS_VERDICT_REVIEW, true, 0},
        {"gptq,dS_QE,<=,0.45,fail,x\n", {0.60, 0.60, 0.62, 20}, QS_VERDICT_FAIL, true, 0},
        {"gptq,dS_QE,<=,0.45,fail,x\n", {0.50, 0.40, 0.58, 20}, QS_VERDICT_REVIEW, false, 126},
        {"gptq,dS_QE,<=,0.45,fail,x\n", {0.58, 0.54, 0.62, 20}, QS_VERDICT_REVIEW, false, 126},
        {"gptq,dS_QE,<=,0.40,warn,x\n", {0.50, 0.48, 0.52, 20}, QS_VERDICT_WARN, true, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        qs_budgets b;
        qs_gate gate;
        (void)snprintf(text, sizeof text, HEADER "%s", cases[i].row);
        parse(&b, text);
        qs_measure measure = {.estimate = cases[i].e};
        (void)snprintf(measure.name, sizeof measure.name, "%s", b.rows[0].parts[0].metric);
        assert_int_equal(qs_gate_judge(&gate, &b.rows[0], &measure, false), QS_OK);
        if (gate.verdict != cases[i].verdict || gate.decided != cases[i].decided ||
            gate.n_more != cases[i].n_more)
            fail_msg("case %zu: %s, decided %d, %lld more", i, qs_verdict_name(gate.verdict), gate.decided,
                     (long long)gate.n_more);
        qs_budgets_free(&b);
    }
}

/* Facts have no spread and need none; nothing measured is NOT_EVALUABLE. */
static void test_facts_and_missing(void **state)
{
    (void)state;
    qs_budgets b;
    qs_gate gate;
    parse(&b, HEADER "gptq,calibration_size,>=,100,fail,x\n");
    qs_measure measure = {.fact = true, .estimate = {64, 64, 64, 1}};
    assert_int_equal(qs_gate_judge(&gate, &b.rows[0], &measure, false), QS_OK);
    assert_int_equal(gate.verdict, QS_VERDICT_FAIL);
    assert_true(gate.decided);
    assert_int_equal(qs_gate_judge(&gate, &b.rows[0], &measure, true), QS_OK);
    assert_int_equal(gate.verdict, QS_VERDICT_BASELINE_FAIL);
    assert_int_equal(qs_gate_judge(&gate, &b.rows[0], NULL, false), QS_OK);
    assert_int_equal(gate.verdict, QS_VERDICT_NOT_EVALUABLE);
    assert_false(gate.decided);
    assert_true(isnan(gate.estimate.value));
    qs_budgets_free(&b);
}

/* Few questions decide little: with the whole two-sided 95 % Wilson interval above the budget, a coverage of
 * .70 needs 19/20, 79/100 or 153/200. (One-sided bounds at 95 % would be 18, 78 and 151.) */
static void test_coverage_examples(void **state)
{
    (void)state;
    static const struct {
        int64_t n, enough;
    } cases[] = {{20, 19}, {100, 79}, {200, 153}};
    qs_budgets b;
    parse(&b, HEADER "*,cov_cited,>=,0.70,fail,x\n");
    for (size_t i = 0; i < 3; i++)
        for (int64_t k = cases[i].n * 7 / 10; k <= cases[i].n; k++) {
            qs_gate gate;
            qs_measure measure = {.name = "cov_cited"};
            double p = (double)k / (double)cases[i].n, z = 1.959964, z2n = z * z / (double)cases[i].n;
            double mid = (p + z2n / 2) / (1 + z2n),
                   half = z * sqrt(p * (1 - p) / (double)cases[i].n + z2n / (4 * (double)cases[i].n)) /
                          (1 + z2n);
            measure.estimate = (qs_estimate){p, mid - half, mid + half, cases[i].n};
            assert_int_equal(qs_gate_judge(&gate, &b.rows[0], &measure, false), QS_OK);
            assert_int_equal(gate.verdict, QS_VERDICT_PASS);
            assert_int_equal(gate.decided, k >= cases[i].enough);
            if (!gate.decided && gate.n_more != QS_NEVER) assert_true(gate.n_more > 0);
        }
    qs_budgets_free(&b);
}

/* ---- configurations ---- */

/* The order FAIL > BASELINE_FAIL > NOT_EVALUABLE > REVIEW > WARN > PASS, and what passes. */
static void test_configuration(void **state)
{
    (void)state;
    qs_budgets b;
    made c;
    qs_judgement j;
    parse(&b, HEADER "*,ppl_ratio,<=,1.15,fail,x\n*,ppl_ratio,<=,1.05,warn,x\n*,json_ok,>=,0.99,fail,x\n");
    assert_true(QS_VERDICT_FAIL > QS_VERDICT_BASELINE_FAIL &&
                QS_VERDICT_BASELINE_FAIL > QS_VERDICT_NOT_EVALUABLE &&
                QS_VERDICT_NOT_EVALUABLE > QS_VERDICT_REVIEW && QS_VERDICT_REVIEW > QS_VERDICT_WARN &&
                QS_VERDICT_WARN > QS_VERDICT_PASS);
    make(&c, "a", "rtn");
    judge(&j, &b, &c, NULL); /* nothing measured */
    assert_int_equal(j.measured, QS_VERDICT_NOT_EVALUABLE);
    assert_false(qs_judgement_passes(&j, false));
    assert_int_equal(j.n_by_verdict[QS_VERDICT_NOT_EVALUABLE], 3);
    qs_judgement_free(&j);

    add(&c, "ppl_ratio", 1.10, 1.09, 1.11, 40);
    judge(&j, &b, &c, NULL);
    assert_int_equal(j.n_gates, 3);
    assert_int_equal(j.n_measured, 2);
    assert_int_equal(qs_judgement_verdict(&j, false), QS_VERDICT_WARN);
    assert_int_equal(qs_judgement_verdict(&j, true), QS_VERDICT_NOT_EVALUABLE);
    assert_true(qs_judgement_passes(&j, false));
    assert_false(qs_judgement_passes(&j, true)); /* strict: json_ok was not measured */
    qs_judgement_free(&j);

    add(&c, "json_ok", 1, 0.98, 1, 40);
    judge(&j, &b, &c, NULL);
    assert_int_equal(qs_judgement_verdict(&j, true), QS_VERDICT_WARN);
    assert_true(qs_judgement_passes(&j, true));
    qs_judgement_free(&j);

    c.measures[1].estimate = (qs_estimate){0.5, 0.4, 0.6, 40};
    judge(&j, &b, &c, NULL);
    assert_int_equal(j.worst, QS_VERDICT_FAIL);
    assert_false(qs_judgement_passes(&j, false));
    qs_judgement_free(&j);
    qs_budgets_free(&b);
}

/* The reference that misses an absolute gate itself: BASELINE_FAIL, and the configuration goes on. A
 * difference to the reference, a time or a pass is no such case. */
static void test_baseline(void **state)
{
    (void)state;
    qs_budgets b;
    made c, fp;
    qs_judgement j;
    parse(&b, HEADER "*,json_ok,>=,0.99,fail,x\n*,ppl_ratio,<=,1.15,fail,x\n*,dS_QE,<=,0.45,fail,x\n");
    make(&c, "a", "gptq");
    make(&fp, "fp", "fp");
    add(&c, "json_ok", 0.90, 0.88, 0.92, 40);
    add(&fp, "json_ok", 0.95, 0.94, 0.96, 40);
    judge(&j, &b, &c, &fp);
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_BASELINE_FAIL);
    assert_true(qs_judgement_passes(&j, false));
    assert_false(qs_judgement_passes(&j, true));
    qs_judgement_free(&j);

    fp.measures[0].estimate.value = 1;
    judge(&j, &b, &c, &fp);
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_FAIL);
    qs_judgement_free(&j);

    fp.measures[0].estimate.value = 0.95;
    c.measures[0].estimate = (qs_estimate){1, 1, 1, 40}; /* better than the reference: it passes */
    judge(&j, &b, &c, &fp);
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_PASS);
    qs_judgement_free(&j);

    add(&c, "ppl_ratio", 2, 1.9, 2.1, 40);
    add(&fp, "ppl_ratio", 2, 1.9, 2.1, 40); /* cannot be, and must not excuse */
    add(&c, "dS_QE", 0.7, 0.69, 0.71, 40);
    add(&fp, "dS_QE", 0.5, 0.49, 0.51, 40); /* REVIEW is no failure */
    judge(&j, &b, &c, &fp);
    assert_int_equal(j.gates[1].verdict, QS_VERDICT_FAIL);
    assert_int_equal(j.gates[2].verdict, QS_VERDICT_FAIL);
    qs_judgement_free(&j);

    judge(&j, &b, &fp, &fp); /* the reference answers for absolute metrics alone */
    assert_int_equal(j.n_gates, 2);
    assert_string_equal(j.gates[0].metric, "json_ok");
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_BASELINE_FAIL);
    assert_int_equal(j.gates[1].verdict, QS_VERDICT_REVIEW);
    qs_judgement_free(&j);
    qs_budgets_free(&b);
}

/* ExLlamaV2: 25 % faster together with 5 % accuracy loss is one gate, by the interval of the gain. */
static void test_joint_gate(void **state)
{
    (void)state;
    static const struct {
        qs_estimate gain, loss; /* n = 0: not measured */
        qs_verdict verdict;
        bool decided;
        const char *metric;
    } cases[] = {
        {{40, 35, 45, 30}, {2, 1, 3, 40}, QS_VERDICT_PASS, true, "latency_gain_pct"},
        {{40, 35, 45, 30}, {8, 7, 9, 40}, QS_VERDICT_FAIL, true, "acc_loss_pct"},
        {{20, 18, 22, 30}, {2, 1, 3, 40}, QS_VERDICT_FAIL, true, "latency_gain_pct"},
        {{30, 24, 36, 30}, {2, 1, 3, 40}, QS_VERDICT_FAIL, false, "latency_gain_pct"},
        {{30, 24, 36, 30}, {8, 7, 9, 40}, QS_VERDICT_FAIL, true, "acc_loss_pct"},
        {{40, 35, 45, 30}, {4, 2, 6, 40}, QS_VERDICT_PASS, false, "acc_loss_pct"},
        {{40, 35, 45, 30}, {0, 0, 0, 0}, QS_VERDICT_NOT_EVALUABLE, false, "acc_loss_pct"},
        {{0, 0, 0, 0}, {2, 1, 3, 40}, QS_VERDICT_NOT_EVALUABLE, false, "latency_gain_pct"},
        {{20, 18, 22, 30}, {0, 0, 0, 0}, QS_VERDICT_FAIL, true, "latency_gain_pct"},
    };
    qs_budgets b;
    parse(&b, HEADER
          "*,acc_loss_pct,<=,5,warn,x\nexl2,latency_gain_pct&acc_loss_pct,ci>=&<=,25&5,fail,ExLlamaV2\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        made c;
        qs_judgement j;
        make(&c, "exl2-4.00bpw-h6", "exl2");
        if (cases[i].gain.n > 0)
            add(&c, "latency_gain_pct", cases[i].gain.value, cases[i].gain.lo, cases[i].gain.hi,
                cases[i].gain.n);
        if (cases[i].loss.n > 0)
            add(&c, "acc_loss_pct", cases[i].loss.value, cases[i].loss.lo, cases[i].loss.hi, cases[i].loss.n);
        judge(&j, &b, &c, NULL);
        assert_int_equal(j.n_gates, 1); /* the joint gate replaces the row of "*" */
        if (j.gates[0].verdict != cases[i].verdict || j.gates[0].decided != cases[i].decided ||
            strcmp(j.gates[0].metric, cases[i].metric) != 0)
            fail_msg("case %zu: %s by %s, decided %d", i, qs_verdict_name(j.gates[0].verdict),
                     j.gates[0].metric, j.gates[0].decided);
        qs_judgement_free(&j);
    }
    qs_budgets_free(&b);
}

/* cov_retr10 stands in for cov_cited when answers carry no citations; an override replaces one estimate. */
static void test_stand_in_and_override(void **state)
{
    (void)state;
    qs_budgets b;
    made c;
    qs_judgement j;
    parse(&b, HEADER "*,cov_cited,>=,0.70,fail,x\n*,ppl_ratio,<=,1.15,fail,x\n");
    make(&c, "a", "awq");
    add(&c, "cov_retr10", 0.8, 0.75, 0.85, 40);
    add(&c, "ppl_ratio", 1.01, 1.0, 1.02, 40);
    judge(&j, &b, &c, NULL);
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_PASS);
    assert_string_equal(j.gates[0].metric, "cov_retr10");
    qs_judgement_free(&j);
    add(&c, "cov_cited", 0.6, 0.55, 0.65, 40);
    judge(&j, &b, &c, NULL);
    assert_int_equal(j.gates[0].verdict, QS_VERDICT_FAIL);
    assert_string_equal(j.gates[0].metric, "cov_cited");
    qs_judgement_free(&j);

    qs_override half = {"ppl_ratio", {1.3, 1.2, 1.4, 20}};
    assert_int_equal(qs_judge(&j, &b, &c.row, NULL, &half), QS_OK);
    assert_int_equal(j.gates[1].verdict, QS_VERDICT_FAIL);
    assert_int_equal(j.gates[1].estimate.n, 20);
    assert_string_equal(j.gates[1].metric, "ppl_ratio");
    qs_judgement_free(&j);
    qs_budgets_free(&b);
}

/* With the shipped budgets a sweep of perplexity and speed alone is judged by the gates it has. */
static void test_shipped_budgets(void **state)
{
    (void)state;
    qs_budgets b;
    made c;
    qs_judgement j;
    static const char *const methods[] = {"rtn", "gptq", "awq", "nf4", "exl2", "gguf"};
    assert_int_equal(qs_budgets_load(&b, "datasets/budgets.csv"), QS_OK);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        make(&c, "a", methods[i]);
        add(&c, "ppl_ratio", 1.02, 1.01, 1.03, 40);
        judge(&j, &b, &c, NULL);
        assert_int_equal(qs_judgement_verdict(&j, false), QS_VERDICT_PASS);
        assert_int_equal(j.n_measured, 2);
        assert_true(j.n_gates > 20);
        assert_false(qs_judgement_passes(&j, true));
        qs_judgement_free(&j);
    }
    qs_budgets_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_comparison),
        cmocka_unit_test(test_facts_and_missing),
        cmocka_unit_test(test_coverage_examples),
        cmocka_unit_test(test_configuration),
        cmocka_unit_test(test_baseline),
        cmocka_unit_test(test_joint_gate),
        cmocka_unit_test(test_stand_in_and_override),
        cmocka_unit_test(test_shipped_budgets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
