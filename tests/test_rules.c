/* Symptoms (docs/symptoms.md; checklist G5-G9, G14-G16, G19, A6-A10, A17-A19, B5-B9, B13, B17, E6-E10): every
 * gate that can be missed has a row that explains it, every symptom of the four pages has a row, and rows fire on
 * their evidence and on nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "report/diagnose.h"

enum { MAX_MEASURES = 12 };

/* A configuration and its reference in memory. */
typedef struct made {
    qs_budgets budgets;
    qs_sweep_config configs[2];
    qs_measure measures[2][MAX_MEASURES];
    qs_sweep sweep;
} made;

static void make(made *m, const char *method)
{
    *m = (made){0};
    if (qs_budgets_load(&m->budgets, "datasets/budgets.csv") != QS_OK) fail_msg("%s", qs_error_text());
    for (int i = 0; i < 2; i++) {
        qs_config_row *row = &m->configs[i].row;
        (void)snprintf(row->id, sizeof row->id, "%s", i == 0 ? "fp" : "point");
        (void)snprintf(row->method, sizeof row->method, "%s", i == 0 ? "fp" : method);
        (void)snprintf(row->variant, sizeof row->variant, "%s", strcmp(method, "nf4") == 0 ? "bf16" : "sym");
        (void)snprintf(row->path, sizeof row->path, "runs/a/%s.eval.h5", row->id);
        row->reference = i == 0;
        row->bits = i == 0 ? 0 : 4;
        row->group_size = i == 0 ? 0 : 64;
        row->measures = m->measures[i];
    }
    m->sweep = (qs_sweep){.n = 2, .configs = m->configs, .reference = &m->configs[0].row};
}

static void add(made *m, int config, const char *name, double value)
{
    qs_config_row *row = &m->configs[config].row;
    assert_true(row->n_measures < MAX_MEASURES);
    qs_measure *measure = &row->measures[row->n_measures++];
    *measure = (qs_measure){.estimate = {value, value, value, 40}};
    (void)snprintf(measure->name, sizeof measure->name, "%s", name);
}

static int diagnose(made *m, int config, const qs_rule *out[QS_RULES_MAX])
{
    for (int i = 0; i < 2; i++)
        assert_int_equal(qs_judge(&m->configs[i].judgement, &m->budgets, &m->configs[i].row, m->sweep.reference, NULL),
                         QS_OK);
    int n = qs_diagnose(&m->sweep, &m->configs[config], out);
    return n;
}

static void unmake(made *m)
{
    for (int i = 0; i < 2; i++) qs_judgement_free(&m->configs[i].judgement);
    qs_budgets_free(&m->budgets);
}

/* ---- the table ---- */

static void test_rows_are_whole(void **state)
{
    (void)state;
    for (const qs_rule *rule = qs_rules; rule->name != NULL; rule++) {
        assert_true(rule->rows != NULL && rule->symptom != NULL && rule->cause != NULL && rule->fix != NULL);
        assert_true(strncmp(rule->next, "qsweep ", 7) == 0 || strncmp(rule->next, "{evaluate}", 10) == 0 ||
                    strncmp(rule->next, "cp ", 3) == 0);
        assert_true(rule->all[0].kind != QS_IF_NONE || rule->any[0].kind != QS_IF_NONE);
        char page[256];
        assert_true(qs_rule_page(rule, 0, page, sizeof page));
        assert_non_null(strstr(page, "https://"));
        for (const qs_rule *other = qs_rules; other < rule; other++) assert_string_not_equal(other->name, rule->name);
        assert_true(rule - qs_rules < QS_RULES_MAX);
    }
}

static bool is_known(const char *metric)
{
    return qs_metric_find(metric) != NULL || qs_config_row_is_fact(metric) || strncmp(metric, "opt_", 4) == 0;
}

static void test_conditions_name_metrics(void **state)
{
    (void)state;
    for (const qs_rule *rule = qs_rules; rule->name != NULL; rule++)
        for (int i = 0; i < QS_RULE_CONDITIONS; i++) {
            if (rule->all[i].kind != QS_IF_NONE && !is_known(rule->all[i].metric)) fail_msg("%s", rule->all[i].metric);
            if (rule->any[i].kind != QS_IF_NONE && !is_known(rule->any[i].metric)) fail_msg("%s", rule->any[i].metric);
        }
}

static void test_every_symptom_has_a_row(void **state)
{
    (void)state;
    static const char *const symptoms[] = {"G5", "G6", "G7", "G8",  "G9",  "G14", "G15", "G16", "A6", "A7",
                                           "A8", "A9", "A10", "A17", "A18", "A19", "B5",  "B6",  "B7", "B8",
                                           "B9", "B13", "B17", "E6", "E7",  "E8",  "E9",  "E10"};
    for (size_t i = 0; i < sizeof symptoms / sizeof *symptoms; i++) {
        bool found = false;
        size_t bytes = strlen(symptoms[i]);
        for (const qs_rule *rule = qs_rules; rule->name != NULL; rule++)
            for (const char *at = strstr(rule->rows, symptoms[i]); at != NULL; at = strstr(at + 1, symptoms[i]))
                found = found || ((at == rule->rows || at[-1] == ' ') && (at[bytes] == ' ' || at[bytes] == '\0'));
        if (!found) fail_msg("%s has no rule", symptoms[i]);
    }
}

/* ---- every gate that is missed is explained ---- */

static const char *method_of(const char *profile)
{
    if (strcmp(profile, "bnb") == 0) return "nf4";
    return strcmp(profile, "*") == 0 ? "rtn" : profile;
}

static void test_every_gate_is_explained(void **state)
{
    (void)state;
    qs_budgets budgets;
    assert_int_equal(qs_budgets_load(&budgets, "datasets/budgets.csv"), QS_OK);
    for (int64_t i = 0; i < budgets.n; i++) {
        const qs_budget_part *part = &budgets.rows[i].parts[0];
        const qs_rule *rules[QS_RULES_MAX];
        made m;
        make(&m, method_of(budgets.rows[i].profile));
        /* Just beyond the budget; the joint gate's other part is fine. */
        double by = part->upper ? 1e-3 : -1e-3;
        add(&m, 1, part->metric, part->limit + by);
        if (budgets.rows[i].n_parts > 1) add(&m, 1, budgets.rows[i].parts[1].metric, 0);
        int n = diagnose(&m, 1, rules);
        /* A family that states rows of its own has no others. */
        bool missed = m.configs[1].judgement.measured > QS_VERDICT_PASS;
        if (missed && n == 0)
            fail_msg("%s %s %s %g has no rule", budgets.rows[i].profile, part->metric, part->op, part->limit);
        unmake(&m);
    }
    qs_budgets_free(&budgets);
}

/* ---- cases ---- */

static void expect(const char *method, const char *rule, const char *row, int n_measures, const char *const *names,
                   const double *values)
{
    const qs_rule *rules[QS_RULES_MAX];
    char own[32];
    made m;
    make(&m, method);
    for (int i = 0; i < n_measures; i++) add(&m, 1, names[i], values[i]);
    int n = diagnose(&m, 1, rules);
    if (rule == NULL) {
        assert_int_equal(n, 0);
    } else {
        assert_true(n > 0);
        assert_string_equal(rules[0]->name, rule);
        qs_diagnosis_row(rules[0], method, own, sizeof own);
        assert_string_equal(own, row);
    }
    unmake(&m);
}
#define EXPECT(method, rule, row, n, names, values) \
    expect(method, rule, row, n, (const char *const[]){names}, (const double[]){values})
#define LIST(...) __VA_ARGS__

static void test_cases(void **state)
{
    (void)state;
    EXPECT("gptq", "misread-weights", "G5", 3, LIST("load_error_share", "json_ok", "snippet_divergence"),
           LIST(1, 0.1, 0.9));
    EXPECT("gptq", "damaged-matrix", "G5", 2, LIST("load_error_share", "snippet_divergence"), LIST(1.0 / 28, 0.3));
    EXPECT("rtn", "too-few-bits", "G5", 2, LIST("load_error_share", "top1_agree"), LIST(0, 0.2));
    EXPECT("rtn", "too-few-bits", "G5", 1, LIST("ppl_ratio"), LIST(20));
    /* Where all that was lost was lost in attention, that is said first, however much it is. */
    EXPECT("gptq", "coarse-attention", "G7", 4, LIST("load_error_share", "loss_attention", "ppl_ratio", "top1_agree"),
           LIST(0, 2.8e4, 54.9, 0.1));
    EXPECT("gptq", "too-few-bits", "G5", 4, LIST("load_error_share", "loss_attention", "ppl_ratio", "top1_agree"),
           LIST(0, 1.2, 54.9, 0.1));
    EXPECT("rtn", "plain-rounding", "G7", 1, LIST("ppl_ratio"), LIST(1.3));
    EXPECT("nf4", "wrong-quant-type", "B5", 1, LIST("load_error_share"), LIST(1));
    EXPECT("nf4", "drift", "B10", 1, LIST("dS_drift"), LIST(0.15));
    EXPECT("nf4", "wrong-quant-type", "B5", 1, LIST("dS_drift"), LIST(0.25));
    EXPECT("gptq", "other-tokenizer", "G7", 1, LIST("tokenizer_same"), LIST(0));
    EXPECT("awq", "cut-answers", "A10", 3, LIST("json_ok", "answer_cut", "cite_ok"), LIST(0, 1, 0));
    EXPECT("nf4", "broken-json", "B9", 2, LIST("json_ok", "answer_cut"), LIST(0.7, 0));
    EXPECT("exl2", "broken-json", "E8", 1, LIST("json_ok"), LIST(0.7));
    EXPECT("exl2", "missing-citations", "E6", 2, LIST("json_ok", "cite_ok"), LIST(1, 0.5));
    EXPECT("awq", "sampling-noise", "A19", 4, LIST("kld_mean", "answer_agree", "lambda_agree", "lambda_conv"),
           LIST(0.001, 0.98, 0.4, 0.5));
    EXPECT("awq", "divergent-runs", "A14", 4, LIST("kld_mean", "answer_agree", "lambda_agree", "lambda_conv"),
           LIST(0.3, 0.5, 0.4, 0.5));
    EXPECT("gptq", "other-calibration", "G7", 1, LIST("calibration_js"), LIST(0.6));
    EXPECT("awq", "other-calibration", "A17", 1, LIST("calibration_js"), LIST(0.6));
    EXPECT("exl2", "lost-texts", "E9", 1, LIST("mttf_margin"), LIST(-8));
    EXPECT("nf4", "no-savings", "B7", 1, LIST("savings_visible"), LIST(0));
    EXPECT("awq", "no-gain", "A8", 1, LIST("latency_gain_pct"), LIST(-3));
    /* Nothing is missed, and nothing was measured. */
    EXPECT("gptq", NULL, NULL, 4, LIST("ppl_ratio", "json_ok", "load_error_share", "top1_agree"),
           LIST(1.01, 1, 0, 0.99));
    EXPECT("gptq", NULL, NULL, 0, LIST("ppl"), LIST(0));
}

/* What the reference misses too is the system's, and is said of the reference once. */
static void test_the_system(void **state)
{
    (void)state;
    const qs_rule *rules[QS_RULES_MAX];
    made m;
    make(&m, "gptq");
    add(&m, 0, "cov_cited", 0.3);
    add(&m, 1, "cov_cited", 0.3);
    assert_int_equal(diagnose(&m, 0, rules), 1);
    assert_string_equal(rules[0]->name, "system");
    assert_true(qs_diagnosis_wanted(&m.configs[0]));
    assert_int_equal(qs_diagnose(&m.sweep, &m.configs[1], rules), 0);
    unmake(&m);
}

/* ---- words ---- */

static void test_sentences(void **state)
{
    (void)state;
    static char command[] = "qsweep-evaluate --model models/m --text t.txt --qa gold --quant q/other.quant.h5 --quant "
                            "q/point.quant.h5 --k 3 --quiet --out runs/a";
    const qs_rule *rules[QS_RULES_MAX];
    qs_sentence text = {0}, next = {0};
    made m;
    make(&m, "gptq");
    add(&m, 0, "snippet_divergence", 0);
    add(&m, 1, "snippet_divergence", 0.25);
    add(&m, 1, "ppl_ratio", 1.3);
    m.configs[1].row.command = command;
    assert_int_equal(diagnose(&m, 1, rules), 2);
    assert_string_equal(rules[0]->name, "perplexity");
    qs_diagnosis_next(&next, &m.configs[1], rules[0]);
    assert_non_null(strstr(next.text, "qsweep quantize --model models/m --calib runs/a/calib.h5 --out runs/a "
                                      "--spec gptq:bits=4,group=32,sym=1"));
    assert_non_null(strstr(next.text, "--spec gptq:bits=8,group=64,sym=1"));
    assert_null(strchr(next.text, '{'));
    next = (qs_sentence){0};
    qs_diagnosis_next(&next, &m.configs[1], rules[1]);
    assert_string_equal(next.text, "qsweep evaluate --model models/m --text t.txt --qa gold --quant q/point.quant.h5 "
                                   "--k 3 --out runs/a --fix rerank");
    qs_diagnosis_tell(&text, &m.sweep, &m.configs[1]);
    assert_non_null(strstr(text.text, "ppl_ratio 1.3 (budget <= 1.15)"));
    assert_non_null(strstr(text.text, "other-snippets (G9)"));
    /* Words with blanks are whole, and stay quoted. */
    static char blanks[] = "qsweep-evaluate --model 'my m/it'\\''s' --text t.txt --quant 'q q/point.quant.h5' "
                           "--out 'runs a'";
    m.configs[1].row.command = blanks;
    (void)snprintf(m.configs[1].row.path, sizeof m.configs[1].row.path, "runs a/point.eval.h5");
    next = (qs_sentence){0};
    qs_diagnosis_next(&next, &m.configs[1], rules[0]);
    assert_non_null(strstr(next.text, "--model 'my m/it'\\''s' --calib 'runs a/calib.h5' --out 'runs a' --spec"));
    next = (qs_sentence){0};
    qs_diagnosis_next(&next, &m.configs[1], rules[1]);
    assert_string_equal(next.text, "qsweep evaluate --model 'my m/it'\\''s' --text t.txt --quant 'q q/point.quant.h5' "
                                   "--out 'runs a' --fix rerank");
    /* Without a command line the words stand in capitals. */
    m.configs[1].row.command = NULL;
    next = (qs_sentence){0};
    qs_diagnosis_next(&next, &m.configs[1], rules[1]);
    assert_non_null(strstr(next.text, "--model MODEL --text TEXT --qa GOLD_SET"));
    unmake(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_whole),
        cmocka_unit_test(test_conditions_name_metrics),
        cmocka_unit_test(test_every_symptom_has_a_row),
        cmocka_unit_test(test_every_gate_is_explained),
        cmocka_unit_test(test_cases),
        cmocka_unit_test(test_the_system),
        cmocka_unit_test(test_sentences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
