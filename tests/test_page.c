/* report.html: what it says, what hostile texts do to it (nothing), its size and time, and figures by hand. */
#include "tests/artifact_content.h"
#include "tests/question_content.h"

#include <math.h>
#include <time.h>

#include "base/mem.h"
#include "report/html.h"
#include "report/page.h"
#include "report/svg.h"

enum { MAX_FILES = 8 };

typedef struct loaded {
    qs_budgets budgets;
    qs_sweep sweep;
    qs_selection selection;
    scratch_path paths[MAX_FILES];
    const char *list[MAX_FILES];
    int64_t n;
} loaded;

static void add(loaded *l, const eval_spec *spec)
{
    char name[64];
    (void)snprintf(name, sizeof name, "%lld.eval.h5", (long long)l->n);
    l->list[l->n] = scratch(l->paths[l->n], name);
    OK(eval_write(l->paths[l->n++], spec));
}

static void load(loaded *l)
{
    OK(qs_budgets_load(&l->budgets, "tests/golden/budgets.csv"));
    OK(qs_sweep_load(&l->sweep, l->list, l->n, &l->budgets, false));
    OK(qs_selection_make(&l->selection, &l->sweep, &l->budgets, 0));
}

static void unload(loaded *l)
{
    qs_selection_free(&l->selection);
    qs_sweep_free(&l->sweep);
    qs_budgets_free(&l->budgets);
}

static char *page_of(const qs_sweep *sweep, const qs_selection *selection)
{
    char *text = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    assert_non_null(stream);
    OK(qs_write_page(stream, sweep, selection));
    assert_int_equal(fclose(stream), 0);
    return text;
}

/* Of this process: other work on the machine is no matter of the page. */
static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static int64_t count(const char *text, const char *part)
{
    int64_t n = 0;
    for (const char *at = strstr(text, part); at != NULL; at = strstr(at + 1, part)) n++;
    return n;
}

static void assert_holds(const char *text, const char *part)
{
    if (strstr(text, part) == NULL) fail_msg("\"%s\" is not in:\n%s", part, text);
}

/* Every element that must be closed is, inside the one around it. */
static void assert_nested(const char *text)
{
    char stack[64][16];
    int depth = 0;
    const char *at = strchr(text, '<');
    for (; at != NULL; at = strchr(at, '<')) {
        char name[16] = {0};
        bool closing = at[1] == '/';
        const char *end = strchr(at, '>');
        assert_non_null(end);
        (void)sscanf(at + (closing ? 2 : 1), "%15[a-zA-Z0-9!]", name);
        bool alone = end[-1] == '/' || strcmp(name, "meta") == 0 || strcmp(name, "!DOCTYPE") == 0;
        if (closing) {
            if (depth == 0 || strcmp(stack[depth - 1], name) != 0)
                fail_msg("</%s> closes <%s> at \"%.60s\"", name, depth > 0 ? stack[depth - 1] : "nothing", at);
            depth--;
        } else if (!alone) {
            assert_true(depth < 64);
            memcpy(stack[depth++], name, sizeof name);
        }
        at = end;
        if (!closing && (strcmp(name, "script") == 0 || strcmp(name, "style") == 0)) at = strstr(end, "</");
    }
    assert_int_equal(depth, 0);
}

/* ---- texts ---- */

static void assert_html(const char *text, const char *expected)
{
    char *found = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&found, &bytes);
    qs_html_text(stream, text);
    assert_int_equal(fclose(stream), 0);
    assert_string_equal(found, expected);
    free(found);
}

static void test_texts_stay_texts(void **state)
{
    (void)state;
    assert_html("<script>alert(\"1\")</script> & 'x'",
                "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#39;x&#39;");
    assert_html("\xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D",
                "\xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D"); /* right to left, by its letters alone */
    assert_html("a\xE2\x80\xAE"
                "b",
                "a\xEF\xBF\xBD"
                "b");                                                      /* an override of direction */
    assert_html("\xFF\xC3(\x01", "\xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD"); /* not UTF-8; a control character */
    assert_html("", "");
}

/* ---- figures ---- */

static void test_axes(void **state)
{
    (void)state;
    qs_axis axis = qs_axis_open("x", false);
    assert_false(qs_axis_close(&axis)); /* holds nothing */
    qs_axis_hold(&axis, NAN);
    qs_axis_hold(&axis, 2.06);
    qs_axis_hold(&axis, 8.1);
    assert_true(qs_axis_close(&axis));
    assert_true(axis.lo == 2 && axis.hi == 10); /* by steps of 2 */
    qs_axis one = qs_axis_open("y", false);
    qs_axis_hold(&one, 0);
    assert_true(qs_axis_close(&one) && one.lo < 0 && one.hi > 0);
    qs_axis log = qs_axis_open("z", true);
    qs_axis_hold(&log, 0);
    qs_axis_hold(&log, -1);
    assert_false(qs_axis_close(&log));
}

/* A point in the middle of both axes lies in the middle of the frame; what lies outside, or is NaN, is not drawn. */
static void test_point_by_hand(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    qs_figure figure;
    qs_figure_begin(&figure, stream, "a <b>", (qs_axis){"x", 0, 4, false}, (qs_axis){"y", 1, 100, true});
    qs_figure_point(&figure, 2, 10, "m1", true, "<here>");
    qs_figure_point(&figure, NAN, 10, "m2", false, "nowhere");
    qs_figure_point(&figure, 2, 1000, "m2", false, "above");
    qs_figure_line(&figure, 0, 1, (double[]){1, NAN, 10, 100}, 4, "m3", "broken");
    qs_figure_end(&figure);
    assert_int_equal(fclose(stream), 0);
    assert_holds(text,
                 "<circle cx=\"304.0\" cy=\"144.0\" r=\"6\" class=\"m1 front\"><title>&lt;here&gt;</title></circle>");
    assert_int_equal(count(text, "<circle"), 1);
    assert_holds(text, "d=\"M62.0 276.0M304.0 144.0L425.0 12.0\"");
    assert_holds(text, "aria-label=\"a &lt;b&gt;\"");
    free(text);
}

/* ---- pages ---- */

static void test_says_what_to_ship(void **state)
{
    (void)state;
    loaded l = {0};
    for (int i = 0; i < EVAL_N_SPECS; i++) add(&l, &eval_specs[i]);
    load(&l);
    char *text = page_of(&l.sweep, &l.selection);
    assert_nested(text);
    assert_true(l.selection.chosen >= 0);
    char headline[640];
    (void)snprintf(headline, sizeof headline, "<p class=\"headline\">Ship %s.</p>",
                   l.selection.points[l.selection.chosen].config->row.id);
    assert_holds(text, headline);
    assert_int_equal(count(text, "<tr class=\"chosen\""), 1);
    for (int i = 0; i < EVAL_N_SPECS; i++) assert_holds(text, eval_specs[i].id);
    static const char *const tables[] = {"summary", "pareto",  "verdicts",  "latency",
                                         "layers",  "entropy", "diagnosis", "fixes"};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) { /* every figure names its table */
        char link[64];
        (void)snprintf(link, sizeof link, "href=\"%s.csv\"", tables[i]);
        assert_holds(text, link);
    }
    assert_holds(text, "1.009 [1.001, 1.020]"); /* ppl_ratio of gptq-b4-g64-sym */
    assert_null(strstr(text, "src="));         /* nothing is fetched */
    assert_null(strstr(text, "@import"));
    free(text);
    unload(&l);
}

static void test_hostile_names(void **state)
{
    (void)state;
    eval_spec spec = eval_specs[EVAL_RTN];
    char name[400];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    memcpy(name, "</td><script>alert('x')</script>\xE2\x80\xAE\"onload=", 44);
    spec.id = name; /* refused, and the refusal is on the page */
    eval_spec other = eval_specs[EVAL_RTN];
    other.method = "\"><script>m</script>";
    other.device = "'><script>d</script>\xE2\x80\xAE";
    other.more = q_put_all;
    other.n_items = 5;
    loaded l = {0};
    add(&l, &other);
    add(&l, &eval_specs[EVAL_FP]);
    add(&l, &spec);
    load(&l);
    char *text = page_of(&l.sweep, &l.selection);
    assert_nested(text);
    assert_int_equal(count(text, "<script>"), 1); /* the page's own */
    assert_null(strstr(text, "\xE2\x80\xAE"));
    assert_null(strstr(text, "\"onload"));
    assert_null(strstr(text, "<script>m"));
    assert_null(strstr(text, "<script>d"));
    assert_holds(text, "data-method=\"&quot;&gt;&lt;script&gt;m");
    assert_holds(text, "&#39;&gt;&lt;script&gt;d&lt;/script&gt;\xEF\xBF\xBD");
    free(text);
    unload(&l);
}

/* One point, nothing passes, nothing but its name was measured. */
static void test_little_to_say(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec bare = {.id = "rtn-b2-g64-sym", .method = "rtn", .bits = 2, .group_size = 64, .no_nll = true};
    add(&l, &bare);
    load(&l);
    char *text = page_of(&l.sweep, &l.selection);
    assert_nested(text);
    assert_holds(text, "Ship none of these.");
    assert_holds(text, "The reference (fp) is not among the files.");
    assert_holds(text, "Nothing was timed.");
    assert_holds(text, "No entropies were measured");
    assert_holds(text, "No questions were asked");
    assert_holds(text, "<p>None: <code>qsweep evaluate --fix");
    assert_holds(text, "--tasks semantic</code> measures it.");
    assert_null(strstr(text, ">nan"));
    assert_null(strstr(text, ">-nan"));
    free(text);
    unload(&l);
}

/* ---- questions ---- */

static eval_spec asked(int which, int64_t n_items, int64_t n_probed)
{
    eval_spec spec = eval_specs[which];
    spec.more = q_put_all;
    spec.n_items = n_items;
    spec.n_probed = n_probed;
    return spec;
}

/* "7 (19 %)" of the runs of a configuration in a state, by the rule of the fixture. */
static void count_of(char *cell, size_t bytes, const eval_spec *s, int32_t state)
{
    int64_t n = 0, n_state = 0;
    for (int64_t i = 0; i < s->n_items * QS_LAMBDA_RUNS; i++) {
        int32_t found = q_state(s, i / QS_LAMBDA_RUNS, i % QS_LAMBDA_RUNS);
        n += found >= 0;
        n_state += found == state;
    }
    (void)snprintf(cell, bytes, "<td class=\"n\">%lld (%.0f %%)</td>", (long long)n_state,
                   100.0 * (double)n_state / (double)n);
}

/* Cells, counts and frames against the rule of the fixture; checklist A12, B11, E12, G13. */
static void test_states_of_runs(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec fp = asked(EVAL_FP, 6, 2), q = asked(EVAL_GPTQ2, 6, 2);
    int64_t n_framed = 0, n_cells = 0, n_empty = 0;
    char cell[64];
    add(&l, &fp);
    add(&l, &q);
    load(&l);
    char *text = page_of(&l.sweep, &l.selection);
    assert_nested(text);
    for (int32_t i = 0; i < QS_N_LAMBDAS; i++) {
        count_of(cell, sizeof cell, &q, i);
        assert_holds(text, cell);
    }
    for (int64_t i = 0; i < 6 * QS_LAMBDA_RUNS; i++) {
        int32_t a = q_state(&fp, i / QS_LAMBDA_RUNS, i % QS_LAMBDA_RUNS),
                b = q_state(&q, i / QS_LAMBDA_RUNS, i % QS_LAMBDA_RUNS);
        n_framed += b >= 0 && a != b;
        n_cells += (a >= 0) + (b >= 0);
        n_empty += (a < 0) + (b < 0);
    }
    for (int64_t i = 0; i < 2 * 2 * QS_PROBE_CELLS; i++) { /* of both configurations */
        const eval_spec *s = i < 2 * QS_PROBE_CELLS ? &fp : &q;
        int64_t at = i % (2 * QS_PROBE_CELLS), item = at / QS_PROBE_CELLS;
        n_framed += q_state(s, item, at % QS_PROBE_HEADERS) != q_state(s, item, 0);
        n_cells++;
    }
    static const char *const curves[] = {"held-out text", "the reference's long texts", "answers to first paraphrases",
                                         "answers to second paraphrases", "answers to third paraphrases"};
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) assert_int_equal(count(text, curves[i]) > 0, i != 1);
    assert_holds(text, ">the reference&#39;s long texts: token<");
    *strstr(text, "<h2 id=\"gap\"") = '\0'; /* the rest has cells of its own */
    char *lambda = strstr(text, "<h2 id=\"lambda\"");
    assert_int_equal(count(lambda, "<td class=\"l"), n_cells);
    assert_int_equal(count(lambda, " d\">") + count(lambda, " d f\">") - 1, n_framed); /* one is in the legend */
    /* one of the counts */
    assert_int_equal(count(lambda, "<td></td>") + count(lambda, "<td class=\"f\"></td>") - 1, n_empty);
    assert_holds(lambda, "Q-001&lt;/td&gt;&lt;script&gt;");
    assert_null(strstr(lambda, "<script>"));
    free(text);
    unload(&l);
}

/* A fix that mends its gate counts, unless it costs another (fixture: q_put_fixes). */
static void test_fixes(void **state)
{
    (void)state;
    loaded l = {0};
    eval_spec fp = asked(EVAL_FP, 5, 0), q = asked(EVAL_GPTQ2, 5, 0);
    add(&l, &fp);
    add(&l, &q);
    load(&l);
    char *text = page_of(&l.sweep, &l.selection);
    assert_holds(
        text,
        ">header-lock</td><td class=\"v pass\">yes</td><td>cov_cited 0.5 \xE2\x86\x92 0.65 (better)</td>");
    assert_holds(text, "2 of 2 count");
    free(text);
    unload(&l);
    OK(qs_budgets_load(&l.budgets, "tests/golden/page/budgets.csv")); /* lambda_conv is a gate of these */
    OK(qs_sweep_load(&l.sweep, l.list, l.n, &l.budgets, false));
    OK(qs_selection_make(&l.selection, &l.sweep, &l.budgets, 0));
    text = page_of(&l.sweep, &l.selection);
    assert_holds(text, ">rerank</td><td class=\"v \">no</td><td>cov_cited 0.5 \xE2\x86\x92 0.6 (better)</td>"
                       "<td>lambda_conv 0.5 \xE2\x86\x92 0.25 (worse)</td>");
    assert_holds(text, "1 of 2 count");
    free(text);
    unload(&l);
}

/* 10,000 items, of which a page can show some: small, fast, and it says how many. */
static void test_many_items(void **state)
{
    (void)state;
    enum { N = 10000 };
    loaded l = {0};
    for (int i = 0; i < EVAL_N_SPECS; i++) {
        eval_spec spec = asked(i, N, 200);
        spec.more = q_put_many;
        add(&l, &spec);
    }
    load(&l);
    double start = cpu_seconds();
    char *text = page_of(&l.sweep, &l.selection);
    double seconds = cpu_seconds() - start;
    print_message("%zu bytes in %.3f s of CPU time\n", strlen(text), seconds);
    assert_nested(text);
    assert_holds(text, "The first 24 of 10000 questions");
    assert_holds(text, "<td class=\"n\">48000</td>"); /* runs of items with an anchor */
    assert_true(strlen(text) < 300000);
#ifndef __SANITIZE_ADDRESS__
    assert_true(seconds < 1);
#endif
    free(text);
    unload(&l);
}

/* Every time NaN: cells stay empty, no figure is drawn, nothing says nan. */
static void test_times_that_are_no_numbers(void **state)
{
    (void)state;
    loaded l = {0};
    for (int i = 0; i < EVAL_N_SPECS; i++) add(&l, &eval_specs[i]);
    load(&l);
    for (int64_t i = 0; i < l.sweep.n; i++)
        for (int64_t j = 0; j < l.sweep.configs[i].row.n_measures; j++)
            if (l.sweep.configs[i].row.measures[j].timing)
                l.sweep.configs[i].row.measures[j].estimate = (qs_estimate){NAN, NAN, NAN, 0};
    char *text = page_of(&l.sweep, &l.selection);
    assert_nested(text);
    static const char *const spelt[] = {">nan", ">-nan", "[nan", " nan", "\"nan"};
    for (size_t i = 0; i < sizeof spelt / sizeof *spelt; i++) assert_null(strstr(text, spelt[i]));
    assert_holds(text, ", ms/token, gain.</p>");
    free(text);
    unload(&l);
}

/* 200 configurations: under 2 MB and, as written here, under a second. */
static void test_many_points(void **state)
{
    (void)state;
    enum { N = 200 };
    loaded l = {0};
    for (int i = 0; i < EVAL_N_SPECS; i++) add(&l, &eval_specs[i]);
    load(&l);
    qs_sweep many = l.sweep;
    OK(QS_NEW(many.configs, N, "configurations"));
    for (int i = 0; i < N; i++) {
        many.configs[i] = l.sweep.configs[i == 0 ? 0 : 1 + (i - 1) % (EVAL_N_SPECS - 1)];
        if (i > 0) (void)snprintf(many.configs[i].row.id, sizeof many.configs[i].row.id, "gptq-b4-g%d-sym", 32 + i);
    }
    many.n = N;
    many.reference = &many.configs[0].row;
    double start = cpu_seconds();
    char *text = page_of(&many, &l.selection);
    double seconds = cpu_seconds() - start;
    print_message("%zu bytes in %.3f s of CPU time\n", strlen(text), seconds);
    assert_nested(text);
    assert_true(strlen(text) < 2000000);
#ifndef __SANITIZE_ADDRESS__
    assert_true(seconds < 1);
#endif
    free(text);
    qs_mem_free(many.configs);
    unload(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_stay_texts), cmocka_unit_test(test_axes),
        cmocka_unit_test(test_point_by_hand),    cmocka_unit_test(test_says_what_to_ship),
        cmocka_unit_test(test_hostile_names),    cmocka_unit_test(test_little_to_say),
        cmocka_unit_test(test_many_points),      cmocka_unit_test(test_states_of_runs),
        cmocka_unit_test(test_fixes),            cmocka_unit_test(test_many_items),
        cmocka_unit_test(test_times_that_are_no_numbers),
    };
    return cmocka_run_group_tests_name("page", tests, scratch_create, scratch_remove);
}
