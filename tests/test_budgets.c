/* Budgets: every gate of docs/gates.md and of the checklist's budgets table, and a loader that names file and
 * line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/budgets.h"
#include "data/csv.h"

#define HEADER "profile,metric,op,limit,level,source\n"

static qs_err parse(qs_budgets *budgets, const char *text)
{
    return qs_budgets_parse(budgets, text, strlen(text), "b.csv");
}

static void assert_refused(const char *text, const char *part)
{
    qs_budgets budgets;
    assert_int_equal(parse(&budgets, text), QS_E_INPUT);
    if (strstr(qs_error_text(), part) == NULL) fail_msg("\"%s\" does not say \"%s\"", qs_error_text(), part);
    assert_null(budgets.rows);
}

static void test_reads_rows(void **state)
{
    (void)state;
    qs_budgets b;
    assert_int_equal(parse(&b, HEADER "*,ppl_ratio,<=,1.15,fail,project\n"
                                      "*,ppl_ratio,<=,1.05,warn,project\n"
                                      "\n"
                                      "exl2,latency_gain_pct&acc_loss_pct,ci>=&<,25&5,fail,ExLlamaV2\n"),
                     QS_OK);
    assert_int_equal(b.n, 3);
    assert_string_equal(b.rows[0].name, "ppl_ratio");
    assert_int_equal(b.rows[0].level, QS_LEVEL_FAIL);
    assert_int_equal(b.rows[1].level, QS_LEVEL_WARN);
    assert_true(b.rows[0].parts[0].limit == 1.15);
    const qs_budget *joint = &b.rows[2];
    assert_int_equal(joint->line, 5);
    assert_int_equal(joint->n_parts, 2);
    assert_string_equal(joint->source, "ExLlamaV2");
    assert_string_equal(joint->parts[0].metric, "latency_gain_pct");
    assert_string_equal(joint->parts[0].op, "ci>=");
    assert_true(joint->parts[0].by_interval && !joint->parts[0].upper && !joint->parts[0].strict);
    assert_true(!joint->parts[1].by_interval && joint->parts[1].upper && joint->parts[1].strict);
    assert_true(joint->parts[1].limit == 5);
    qs_budgets_free(&b);
}

static void test_meets(void **state)
{
    (void)state;
    static const struct {
        bool upper, strict, below, at, above;
    } cases[] = {
        {true, false, true, true, false},
        {true, true, true, false, false},
        {false, false, false, true, true},
        {false, true, false, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qs_budget_part part = {.upper = cases[i].upper, .strict = cases[i].strict, .limit = 0.5};
        assert_int_equal(qs_budget_meets(&part, 0.4), cases[i].below);
        assert_int_equal(qs_budget_meets(&part, 0.5), cases[i].at);
        assert_int_equal(qs_budget_meets(&part, 0.6), cases[i].above);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    assert_refused(HEADER, "no budgets");
    assert_refused("profile,metric,op,limit,level\n*,a,<,1,fail\n", "\"source\" is missing");
    assert_refused(HEADER "*,a,=<,1,fail,x\n", "b.csv:2: unknown op \"=<\"");
    assert_refused(HEADER "*,a,ci,1,fail,x\n", "b.csv:2: unknown op \"ci\"");
    assert_refused(HEADER "*,a,<,1,fail,x\n*,b,<,one,fail,x\n", "b.csv:3: bad limit \"one\"");
    assert_refused(HEADER "*,a,<,nan,fail,x\n", "b.csv:2: bad limit \"nan\"");
    assert_refused(HEADER "*,a,<,inf,fail,x\n", "b.csv:2: bad limit");
    assert_refused(HEADER "*,a,<,1 2,fail,x\n", "b.csv:2: bad limit");
    assert_refused(HEADER "*,a,<,,fail,x\n", "b.csv:2: bad limit");
    assert_refused(HEADER "*,a,<,1,error,x\n", "b.csv:2: unknown level \"error\"");
    assert_refused(HEADER "gtpq,a,<,1,fail,x\n", "b.csv:2: unknown profile \"gtpq\"");
    assert_refused(HEADER "*,,<,1,fail,x\n", "\"metric\" is empty");
    assert_refused(HEADER "*,a,<,1,fail,\n", "\"source\" is empty");
    assert_refused(HEADER "*,a&b,<,1,fail,x\n", "b.csv:2: bad joint gate");
    assert_refused(HEADER "*,a&b&c,<&<&<,1&2&3,fail,x\n", "b.csv:2: bad joint gate");
    assert_refused(HEADER "*,a&,<&<,1&2,fail,x\n", "b.csv:2: bad metric");
    assert_refused(HEADER "*,a,<=,1,fail,x\nrtn,a,<=,1,fail,x\n*,a,<,2,fail,y\n",
                   "b.csv:4: \"a\" of profile \"*\"");
    qs_budgets b;
    assert_int_equal(qs_budgets_load(&b, "/nonexistent/b.csv"), QS_E_INPUT);
    /* Another direction or level is another comparison. */
    assert_int_equal(parse(&b, HEADER "*,a,<,2,fail,x\n*,a,>,1,fail,x\n*,a,<,1.5,warn,x\n"), QS_OK);
    qs_budgets_free(&b);
}

static void test_profiles(void **state)
{
    (void)state;
    static const char *const families[][2] = {{"rtn", "rtn"},   {"gptq", "gptq"}, {"awq", "awq"},
                                              {"exl2", "exl2"}, {"nf4", "bnb"},   {"fp4", "bnb"},
                                              {"int8", "bnb"},  {"fp", "*"},      {"gguf", "*"}};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        assert_string_equal(qs_budgets_profile(families[i][0]), families[i][1]);
}

/* A family that names a metric, also in a joint gate, replaces all rows of "*" for it. */
static void test_selects(void **state)
{
    (void)state;
    qs_budgets b;
    const qs_budget *rows[8];
    int64_t n;
    assert_int_equal(parse(&b, HEADER "*,a,<,1,fail,x\n*,a,<,2,warn,x\n*,b,<,1,fail,x\n*,c,<,1,fail,x\n"
                                      "gptq,a,<,3,warn,x\nexl2,c&d,<&<,1&1,fail,x\n"),
                     QS_OK);
    qs_budgets_select(&b, "*", rows, &n);
    assert_int_equal(n, 4);
    qs_budgets_select(&b, "gptq", rows, &n);
    assert_int_equal(n, 3);
    assert_string_equal(rows[0]->name, "b");
    assert_string_equal(rows[2]->profile, "gptq");
    qs_budgets_select(&b, "exl2", rows, &n);
    assert_int_equal(n, 4);
    assert_string_equal(rows[3]->name, "c&d");
    qs_budgets_free(&b);
}

/* ---- the file that the project ships ---- */

/* The numbers that each page itself states (checklist.md, budgets side by side). */
static const struct {
    const char *profile, *name, *op, *source;
    double limit;
} stated[] = {
    {"gptq", "dS_QE", "<=", "AutoGPTQ", 0.45},
    {"awq", "dS_QE", "<=", "AWQ", 0.45},
    {"gptq", "dS_drift", "<=", "AutoGPTQ", 0.10},
    {"awq", "dS_drift", "<=", "AWQ", 0.10},
    {"bnb", "dS_drift", "<=", "bitsandbytes", 0.12},
    {"exl2", "dS_drift", "<=", "ExLlamaV2", 0.10},
    {"gptq", "cov_cited", ">=", "AutoGPTQ", 0.70},
    {"awq", "cov_cited", ">=", "AWQ", 0.70},
    {"bnb", "cov_cited", ">=", "bitsandbytes", 0.70},
    {"exl2", "cov_cited", ">=", "ExLlamaV2", 0.70},
    {"gptq", "anchor_drift", "<=", "AutoGPTQ", 0.15},
    {"awq", "anchor_gap", ">", "AWQ", 0.05},
    {"gptq", "snippet_divergence", "<=", "AutoGPTQ", 0.20},
    {"bnb", "opt_var_pct", "<", "bitsandbytes", 5},
    {"gptq", "qa_pairs", ">=", "AutoGPTQ", 10},
    {"awq", "qa_pairs", ">=", "AWQ", 10},
    {"bnb", "qa_pairs", ">=", "bitsandbytes", 10},
    {"exl2", "qa_pairs", ">=", "ExLlamaV2", 20},
    {"gptq", "calibration_size", ">=", "AutoGPTQ", 100},
    {"gptq", "calibration_size", "<=", "AutoGPTQ", 500},
    {"gptq", "lambda_runs", ">=", "AutoGPTQ", 6},
    {"awq", "lambda_runs", ">=", "AWQ", 6},
    {"bnb", "lambda_runs", ">=", "bitsandbytes", 6},
    {"exl2", "lambda_runs", ">=", "ExLlamaV2", 6},
    {"exl2", "latency_gain_pct&acc_loss_pct", "ci>=", "ExLlamaV2", 25},
};

static void test_shipped_states_the_pages(void **state)
{
    (void)state;
    qs_budgets b;
    assert_int_equal(qs_budgets_load(&b, "datasets/budgets.csv"), QS_OK);
    for (size_t i = 0; i < sizeof stated / sizeof *stated; i++) {
        bool found = false;
        for (int64_t j = 0; j < b.n && !found; j++)
            found = strcmp(b.rows[j].profile, stated[i].profile) == 0 &&
                    strcmp(b.rows[j].name, stated[i].name) == 0 &&
                    strcmp(b.rows[j].parts[0].op, stated[i].op) == 0 &&
                    b.rows[j].parts[0].limit == stated[i].limit &&
                    strcmp(b.rows[j].source, stated[i].source) == 0 && b.rows[j].level == QS_LEVEL_FAIL;
        if (!found)
            fail_msg("%s %s %s is not in datasets/budgets.csv", stated[i].profile, stated[i].name,
                     stated[i].op);
    }
    qs_budgets_free(&b);
}

/* The pages that do not state a gate must not be named as its source (same table, the cells with a dash). */
static void test_shipped_invents_no_source(void **state)
{
    (void)state;
    static const char *const pages[][2] = {{"gptq", "AutoGPTQ"},
                                           {"awq", "AWQ"},
                                           {"bnb", "bitsandbytes"},
                                           {"exl2", "ExLlamaV2"}};
    qs_budgets b;
    assert_int_equal(qs_budgets_load(&b, "datasets/budgets.csv"), QS_OK);
    for (int64_t i = 0; i < b.n; i++)
        for (size_t page = 0; page < 4; page++) {
            if (strncmp(b.rows[i].source, pages[page][1], strlen(pages[page][1])) != 0) continue;
            assert_string_equal(b.rows[i].profile, pages[page][0]);
            if (page >= 2) assert_string_not_equal(b.rows[i].name, "dS_QE");
        }
    qs_budgets_free(&b);
}

/* The cell of a line of the table in docs/gates.md: `column` counts from 0 after the first bar. */
static void cell_of(char *cell, size_t bytes, const char *line, int column)
{
    for (int i = 0; i <= column && line != NULL; i++) {
        line = strchr(line, '|');
        if (line != NULL) line++;
    }
    assert_non_null(line);
    (void)snprintf(cell, bytes, "%.*s", (int)strcspn(line, "|\n"), line);
}

static int column_of(const char *profile)
{
    static const char *const order[] = {"*", "rtn", "gptq", "awq", "bnb", "exl2"};
    for (int i = 0; i < 6; i++)
        if (strcmp(order[i], profile) == 0) return 2 + i;
    fail_msg("no column for %s", profile);
    return 0;
}

/* docs/gates.md states every row of the file, and no other. */
static void test_docs_are_true(void **state)
{
    (void)state;
    char *doc, cell[512], wanted[256], start[160];
    size_t bytes;
    int64_t n_stated = 0;
    qs_csv csv;
    assert_int_equal(qs_csv_load(&csv, "datasets/budgets.csv"), QS_OK);
    assert_int_equal(qs_file_read(&doc, &bytes, "docs/gates.md", 1 << 20), QS_OK);
    for (int64_t i = 0; i < csv.n_rows; i++) {
        char **f = csv.rows[i].fields; /* profile,metric,op,limit,level,source */
        (void)snprintf(start, sizeof start, "\n| `%s` |", f[1]);
        const char *line = strstr(doc, start);
        if (line == NULL) fail_msg("docs/gates.md has no line for %s", f[1]);
        cell_of(cell, sizeof cell, line + 1, column_of(f[0]));
        (void)snprintf(wanted, sizeof wanted, "%s %s %s (%s)", f[4], f[2], f[3], f[5]);
        if (strstr(cell, wanted) == NULL)
            fail_msg("docs/gates.md, %s of %s: \"%s\" lacks \"%s\"", f[1], f[0], cell, wanted);
    }
    const char *table = strstr(doc, "\n| gate | what it is |");
    assert_non_null(table);
    for (const char *line = strstr(table, "\n| `"); line != NULL; line = strstr(line + 1, "\n| `"))
        for (int column = 2; column < 8; column++) {
            cell_of(cell, sizeof cell, line + 1, column);
            for (const char *c = cell; (c = strchr(c, '(')) != NULL; c++) n_stated++;
        }
    assert_int_equal(n_stated, csv.n_rows);
    qs_mem_free(doc);
    qs_csv_free(&csv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_rows),
        cmocka_unit_test(test_meets),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_profiles),
        cmocka_unit_test(test_selects),
        cmocka_unit_test(test_shipped_states_the_pages),
        cmocka_unit_test(test_shipped_invents_no_source),
        cmocka_unit_test(test_docs_are_true),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
