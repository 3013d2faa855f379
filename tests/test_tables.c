/* The tables and the terminal report, made from eval artifacts (docs/columns.md: columns in order; exit
 * codes; docs/gates.md: controls). The golden files are made again with
 *   build/tests/tool_eval_fixture D; qsweep-report --budgets tests/golden/budgets.csv --out tests/golden \
 *     D/rtn-b4-g64-sym.eval.h5 D/fp.eval.h5 D/gptq-b4-g64-sym.eval.h5 D/gptq-b3-g64-sym.eval.h5
 * D/gptq-b2-g64-sym.eval.h5 */
#include "tests/artifact_content.h"
#include "tests/eval_content.h"

#include <math.h>

#include "base/json.h"
#include "base/mem.h"
#include "report/json_report.h"
#include "report/tables.h"
#include "report/terminal.h"

enum { MAX_FILES = 8 };

typedef struct loaded {
    qs_budgets budgets;
    qs_sweep sweep;
    qs_selection selection;
    qs_control controls[QS_N_CONTROLS];
    bool trusted;
    scratch_path paths[MAX_FILES];
    const char *list[MAX_FILES];
    int64_t n;
} loaded;

static void add(loaded *l, const eval_spec *spec)
{
    char name[QS_PATH_BYTES];
    (void)snprintf(name, sizeof name, "%lld-%s.eval.h5", (long long)l->n, spec->id);
    l->list[l->n] = scratch(l->paths[l->n], name);
    OK(eval_write(l->paths[l->n++], spec));
}

static void add_missing(loaded *l) { l->list[l->n] = scratch(l->paths[l->n], "missing.eval.h5"), l->n++; }

static qs_err load(loaded *l, bool strict)
{
    qs_err err;
    QS_TRY(qs_budgets_load(&l->budgets, "tests/golden/budgets.csv"));
    QS_TRY(qs_sweep_load(&l->sweep, l->list, l->n, &l->budgets, strict));
    QS_TRY(qs_selection_make(&l->selection, &l->sweep, &l->budgets, 0));
    l->trusted = qs_controls_run(&l->sweep, l->controls);
out:
    return err;
}

static void unload(loaded *l)
{
    qs_selection_free(&l->selection);
    qs_sweep_free(&l->sweep);
    qs_budgets_free(&l->budgets);
    *l = (loaded){0};
}

/* In the order of the grid, the reference not first. */
static void load_all(loaded *l)
{
    const int order[EVAL_N_SPECS] = {EVAL_RTN, EVAL_FP, EVAL_GPTQ4, EVAL_GPTQ3, EVAL_GPTQ2};
    *l = (loaded){0};
    for (int i = 0; i < EVAL_N_SPECS; i++) add(l, &eval_specs[order[i]]);
    OK(load(l, false));
}

static char *read_text(const char *path)
{
    char *text;
    size_t bytes;
    OK(qs_file_read(&text, &bytes, path, 1 << 20));
    return text;
}

/* What a table writes, or the whole terminal report. */
static char *printed(qs_err (*print)(FILE *stream, const loaded *l), const loaded *l)
{
    char *text = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    assert_non_null(stream);
    OK(print(stream, l));
    assert_int_equal(fclose(stream), 0);
    assert_non_null(text);
    return text;
}

static qs_err print_summary(FILE *stream, const loaded *l)
{
    return qs_tables[0].write(stream, &l->sweep, &l->selection);
}
static qs_err print_verdicts(FILE *stream, const loaded *l)
{
    return qs_tables[1].write(stream, &l->sweep, &l->selection);
}
static qs_err print_json(FILE *stream, const loaded *l)
{
    return qs_json_report_print(stream, &l->sweep, &l->selection, l->controls);
}
static qs_err print_plain(FILE *stream, const loaded *l)
{
    return qs_terminal_print(stream, &l->sweep, &l->selection, l->controls, &(qs_terminal_options){0});
}
static qs_err print_color(FILE *stream, const loaded *l)
{
    return qs_terminal_print(stream, &l->sweep, &l->selection, l->controls,
                             &(qs_terminal_options){.color = true});
}
static qs_err print_markdown(FILE *stream, const loaded *l)
{
    return qs_terminal_print(stream, &l->sweep, &l->selection, l->controls,
                             &(qs_terminal_options){.color = true, .markdown = true});
}

static void assert_holds(const char *text, const char *part)
{
    if (text == NULL || strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in:\n%s", part, text != NULL ? text : "(nothing)");
}

static void assert_lacks(const char *text, const char *part)
{
    if (strstr(text, part) != NULL) fail_msg("\"%s\" is in:\n%s", part, text != NULL ? text : "(nothing)");
}

/* ---- CSV ---- */

/* The contract: these columns, in this order. */
static const char summary_header[] =
    "config,method,bits,group_size,variant,bpw,bpw_total,bytes,ppl,ppl_ratio,ppl_ratio_lo,ppl_ratio_hi,kld_"
    "mean,kld_p99,"
    "top1_agree,acc_loss_pct,qa_acc,dS_QE,dS_EA,dS_drift,anchor_drift,anchor_gap,cov_retr10,cov_cited,lambda_"
    "conv,"
    "lambda_flip_rate,snippet_divergence,e_resonance_drift,entropy_stable,json_ok,cite_ok,prefill_tok_s,"
    "decode_ms_tok_p50,decode_ms_tok_p95,latency_gain_pct,mem_before,mem_after_load,mem_peak,savings_visible,"
    "quantize_s,"
    "backend,device,verdict,failed\n";

static void test_golden(void **state)
{
    (void)state;
    static const char *const files[] = {"summary.csv", "metrics.csv", "verdicts.csv", "layers.csv",  "latency.csv",
                                        "pareto.csv",  "fixes.csv",   "items.csv",    "entropy.csv", "trace.jsonl"};
    const size_t n_files = sizeof files / sizeof *files;
    loaded l;
    load_all(&l);
    scratch_path dir, path, golden;
    OK(qs_tables_write(&l.sweep, &l.selection, scratch(dir, "tables/new")));
    for (size_t i = 0; i < n_files; i++) {
        OK(qs_path_format(path, "%s/%s", dir, files[i]));
        OK(qs_path_format(golden, "tests/golden/%s", files[i]));
        char *made = read_text(path), *wanted = read_text(golden);
        if (strcmp(made, wanted) != 0) fail_msg("%s differs from %s:\n%s", path, golden, made);
        if (i == 0) assert_memory_equal(made, summary_header, strlen(summary_header));
        qs_mem_free(made);
        qs_mem_free(wanted);
    }
    char **names;
    int64_t n;
    OK(qs_dir_list(&names, &n, dir, ""));
    /* And no part of a file. diagnosis.csv and report.html name paths, and have tests of their own (test_rules.c,
     * test_page.c). */
    assert_int_equal(n, n_files + 2);
    assert_string_equal(names[0], "diagnosis.csv");
    qs_dir_list_free(names, n);
    unload(&l);
}

static void test_unwritable_directory(void **state)
{
    (void)state;
    loaded l;
    scratch_path file, dir;
    load_all(&l);
    file_write(scratch(file, "a-file"), "x", 1);
    FAILS(QS_E_RESOURCE, qs_tables_write(&l.sweep, &l.selection, scratch(dir, "a-file/tables")));
    unload(&l);
}

/* Text that a spreadsheet would compute gets an apostrophe; commas and quotes are quoted; numbers stay
 * numbers. */
static void test_formula_cells(void **state)
{
    (void)state;
    static const char *const devices[][2] = {{"=1+1", ",'=1+1,"},
                                             {"+cmd", ",'+cmd,"},
                                             {"-2", ",'-2,"},
                                             {"@SUM(A1)", ",'@SUM(A1),"},
                                             {"CPU, 2", ",\"CPU, 2\","},
                                             {"a=b", ",a=b,"},
                                             {"=\"x\"", ",\"'=\"\"x\"\"\","},
                                             {"two\nlines", ",two lines,"}};
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        loaded l = {0};
        eval_spec spec = eval_specs[EVAL_GPTQ4];
        spec.device = devices[i][0];
        spec.group_size = -1; /* a number */
        add(&l, &spec);
        OK(load(&l, false));
        char *text = printed(print_summary, &l);
        assert_holds(text, devices[i][1]);
        assert_holds(text, ",4,-1,sym,");
        free(text);
        unload(&l);
    }
}

/* A stand-in is named in verdicts.csv; so is a metric that this version has no row for. */
static void test_unknown_metrics(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec spec = eval_specs[EVAL_GPTQ4];
    spec.extra_metric = "cov_retr10";
    spec.extra = (qs_estimate){0.65, 0.6, 0.7, 40};
    add(&l, &eval_specs[EVAL_FP]);
    add(&l, &spec);
    OK(load(&l, false));
    char *text = printed(print_verdicts, &l);
    assert_holds(text, "gptq-b4-g64-sym,cov_retr10,0.65,0.6,0.7,>=,0.7,WFGY,40,FAIL,no\n");
    free(text);
    text = printed(print_summary, &l);
    assert_holds(text, ",FAIL,cov_cited\n");
    free(text);
    unload(&l);
}

/* ---- reading ---- */

static void test_refuses_mixtures(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t model, tokens;
        const char *protocol;
    } cases[] = {{"the model's content differs", 7, 0, NULL},
                 {"the token windows differs", 0, 7, NULL},
                 {"the protocol differs (hf, llamacpp)", 0, 0, "llamacpp"}};
    for (size_t i = 0; i < 3; i++) {
        loaded l = {0};
        eval_spec spec = eval_specs[EVAL_GPTQ4];
        spec.model = cases[i].model;
        spec.tokens = cases[i].tokens;
        spec.protocol = cases[i].protocol;
        add(&l, &eval_specs[EVAL_FP]);
        add(&l, &spec);
        FAILS(QS_E_INPUT, load(&l, false));
        TEXT_HOLDS("0-fp.eval.h5", "1-gptq-b4-g64-sym.eval.h5", cases[i].text);
        unload(&l);
    }
}

static void test_missing_and_duplicate_files(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec other = eval_specs[EVAL_GPTQ4];
    scratch_path broken;
    add(&l, &eval_specs[EVAL_GPTQ4]);
    add_missing(&l);
    file_write(scratch(broken, "broken.eval.h5"), "nonsense", 8);
    l.list[l.n++] = broken;
    add(&l, &eval_specs[EVAL_GPTQ4]); /* the same content in another file counts once */
    OK(load(&l, false));
    assert_int_equal(l.sweep.n, 1);
    assert_null(l.sweep.reference);
    assert_int_equal(l.sweep.n_unreadable, 2);
    assert_non_null(strstr(l.sweep.unreadable[0].cause, "missing.eval.h5"));
    assert_non_null(strstr(l.sweep.unreadable[1].cause, "broken.eval.h5"));
    char *text = printed(print_plain, &l);
    assert_holds(text, "not reported: ");
    assert_holds(text, "WARNING: the reference (fp) is not among the files.");
    free(text);
    unload(&l);

    add_missing(&l);
    FAILS(QS_E_INPUT, load(&l, false));
    assert_int_equal(l.sweep.n_unreadable, 1);
    unload(&l);

    add(&l, &eval_specs[EVAL_GPTQ4]);
    other.bytes++;
    add(&l, &other);
    FAILS(QS_E_INPUT, load(&l, false));
    TEXT_HOLDS("both hold gptq-b4-g64-sym");
    unload(&l);

    other = eval_specs[EVAL_GPTQ4];
    other.id = "a b"; /* not a name */
    add(&l, &other);
    FAILS(QS_E_INPUT, load(&l, false));
    unload(&l);
}

/* ---- controls ---- */

static const qs_control *control(const loaded *l, const char *name)
{
    for (int i = 0; i < QS_N_CONTROLS; i++)
        if (strcmp(l->controls[i].name, name) == 0) return &l->controls[i];
    fail_msg("no control %s", name);
    return NULL;
}

static void assert_control(const eval_spec *a, const eval_spec *b, const char *name, qs_control_status status)
{
    loaded l = {0};
    add(&l, a);
    if (b != NULL) add(&l, b);
    OK(load(&l, false));
    const qs_control *found = control(&l, name);
    if (found->status != status)
        fail_msg("%s: %s (%s)", name, qs_control_status_name(found->status), found->text);
    assert_int_equal(l.trusted, status != QS_CONTROL_FAILED);
    unload(&l);
}

static void test_controls(void **state)
{
    (void)state;
    eval_spec fp = eval_specs[EVAL_FP], gptq = eval_specs[EVAL_RTN];
    const eval_spec *rtn = &eval_specs[EVAL_RTN];
    assert_control(&fp, rtn, "reference against itself", QS_CONTROL_OK);
    assert_control(rtn, NULL, "reference against itself", QS_CONTROL_NOT_RUN);
    fp.kld_mean = (qs_estimate){1e-6, 1e-6, 1e-6, 8};
    assert_control(&fp, rtn, "reference against itself", QS_CONTROL_FAILED);
    fp = eval_specs[EVAL_FP];
    fp.kld_mean.n = 0;
    assert_control(&fp, rtn, "reference against itself", QS_CONTROL_NOT_RUN);
    fp = eval_specs[EVAL_FP];
    fp.extra_metric = "dS_drift";
    fp.extra = (qs_estimate){0.01, 0, 0.02, 8};
    assert_control(&fp, rtn, "reference against itself", QS_CONTROL_FAILED);

    assert_control(rtn, &eval_specs[EVAL_GPTQ4], "GPTQ differs from RTN", QS_CONTROL_OK);
    assert_control(rtn, &eval_specs[EVAL_GPTQ3], "GPTQ differs from RTN", QS_CONTROL_NOT_RUN);
    gptq.id = "gptq-b4-g64-sym-act";
    gptq.method = "gptq";
    gptq.variant = "sym-act";
    assert_control(rtn, &gptq, "GPTQ differs from RTN", QS_CONTROL_FAILED);
    gptq.nll_shift += 1e-3;
    assert_control(rtn, &gptq, "GPTQ differs from RTN", QS_CONTROL_OK);

    gptq = eval_specs[EVAL_GPTQ4];
    gptq.loss = 0;
    assert_control(&gptq, NULL, "calibration statistics are not zero", QS_CONTROL_FAILED);
    gptq.lattice = true; /* such a reference can be represented without loss */
    assert_control(&gptq, NULL, "calibration statistics are not zero", QS_CONTROL_OK);

    assert_control(&gptq, NULL, "packed artifact was evaluated", QS_CONTROL_OK);
    gptq = eval_specs[EVAL_GPTQ4];
    gptq.bits = 0; /* the fixture names a quant parent only for bits > 0 */
    assert_control(&gptq, NULL, "packed artifact was evaluated", QS_CONTROL_FAILED);
}

/* ---- for people and programs ---- */

static int widest_line(const char *text)
{
    int widest = 0;
    for (const char *line = text; *line != '\0';
         line += strcspn(line, "\n") + (line[strcspn(line, "\n")] == '\n'))
        if ((int)strcspn(line, "\n") > widest) widest = (int)strcspn(line, "\n");
    return widest;
}

static void test_terminal(void **state)
{
    (void)state;
    loaded l;
    load_all(&l);
    char *plain = printed(print_plain, &l), *color = printed(print_color, &l),
         *markdown = printed(print_markdown, &l);
    assert_true(widest_line(plain) <= QS_TEXT_COLUMNS);
    assert_null(strchr(plain, '\033'));
    assert_null(strchr(markdown, '\033'));
    assert_holds(color, "\033[31mFAIL\033[0m");
    assert_holds(color, "\033[32mPASS");
    assert_holds(markdown, "| gptq-b4-g64-sym |");
    assert_holds(
        plain, "gptq-b2-g64-sym fails 2 of 6 measured gates: ppl_ratio is 3.08, above 1.15 by 1.93 (168 %)");
    assert_holds(plain, "calibration_size");
    assert_holds(plain, "undecided: gptq-b3-g64-sym ppl_ratio");
    assert_holds(plain, "more would decide");
    assert_holds(plain, "gates measured: rtn 4 of 5, gptq 6 of 7");
    assert_holds(plain, "not measured in this run: cov_cited");
    assert_holds(
        plain, "3 of 4 configurations pass the gates that were measured (of each: 4 to 6; not measured: 1).");
    assert_holds(plain, "Recommended: gptq-b4-g64-sym: ");
    assert_lacks(plain, "lattice");
    free(plain);
    free(color);
    free(markdown);
    unload(&l);
}

/* A long id costs columns, then its own end, never the width. */
static void test_terminal_long_ids(void **state)
{
    (void)state;
    static const char *const ids[] = {"gptq-b4-g128-asym-act-static-search-damp0.05",
                                      "gptq-b4-g128-asym-act-static-search-damp0.05-and-a-very-long-tail-"
                                      "that-is-wider-than-half-of-the-screen-is"};
    for (size_t i = 0; i < 2; i++) {
        loaded l = {0};
        eval_spec spec = eval_specs[EVAL_GPTQ4];
        spec.id = ids[i];
        add(&l, &eval_specs[EVAL_FP]);
        add(&l, &spec);
        OK(load(&l, false));
        char *text = printed(print_plain, &l);
        assert_true(widest_line(text) <= QS_TEXT_COLUMNS);
        assert_holds(text, "  PASS");
        assert_holds(text, "ppl ratio [95 % CI]");
        free(text);
        unload(&l);
    }
}

static void test_lattice_and_strict(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec fp = eval_specs[EVAL_FP];
    fp.lattice = true;
    add(&l, &fp);
    add(&l, &eval_specs[EVAL_GPTQ4]);
    OK(load(&l, true));
    char *text = printed(print_plain, &l);
    assert_holds(text, "low-bit lattice (q4_1)");
    assert_holds(text, "understated");
    assert_holds(
        text, "0 of 1 configurations pass every gate (strict; measured of each: 6; not measured: 1, which");
    assert_holds(text, "NOT_EVALUABLE");
    free(text);
    unload(&l);
}

static void test_json(void **state)
{
    (void)state;
    loaded l;
    json_t *object;
    load_all(&l);
    char *text = printed(print_json, &l);
    OK(qs_json_parse(&object, text, strlen(text), "report"));
    const json_t *configs = json_object_get(object, "configs"), *first = json_array_get(configs, 0),
                 *best = json_array_get(configs, 2), *recommended = json_object_get(object, "recommended");
    assert_int_equal(json_array_size(configs), EVAL_N_SPECS);
    assert_string_equal(json_string_value(json_object_get(first, "config")), "fp");
    assert_string_equal(json_string_value(json_object_get(best, "verdict")), "PASS");
    double kld = json_real_value(
        json_object_get(json_object_get(json_object_get(best, "metrics"), "kld_mean"), "value"));
    assert_true(fabs(kld - 0.0123456789) < 1e-9);
    assert_int_equal(json_array_size(json_object_get(best, "gates")), 7);
    assert_string_equal(json_string_value(json_object_get(recommended, "config")), "gptq-b4-g64-sym");
    assert_int_equal(json_array_size(json_object_get(object, "controls")), QS_N_CONTROLS);
    json_decref(object);
    free(text);
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_unwritable_directory),
        cmocka_unit_test(test_formula_cells),
        cmocka_unit_test(test_unknown_metrics),
        cmocka_unit_test(test_refuses_mixtures),
        cmocka_unit_test(test_missing_and_duplicate_files),
        cmocka_unit_test(test_controls),
        cmocka_unit_test(test_terminal),
        cmocka_unit_test(test_terminal_long_ids),
        cmocka_unit_test(test_lattice_and_strict),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
