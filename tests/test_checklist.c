/* docs/checklist.md: every demand of the four pages has its row, and every test that a row names is there. Every
 * metric is explained on one of the pages. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "metric/metrics.h"
#include "report/rules.h"

static char *text;

static int read_page(void **state)
{
    (void)state;
    size_t bytes;
    return qs_file_read(&text, &bytes, "docs/checklist.md", (size_t)1 << 20) == QS_OK ? 0 : -1;
}

static int free_page(void **state)
{
    (void)state;
    qs_mem_free(text);
    return 0;
}

/* The line of an id, behind "| ", or NULL. */
static const char *find_row(const char *id, int *n)
{
    char begin[16];
    const char *found = NULL;
    *n = 0;
    (void)snprintf(begin, sizeof begin, "\n| %s |", id);
    for (const char *at = strstr(text, begin); at != NULL; at = strstr(at + 1, begin)) {
        found = at + 1;
        (*n)++;
    }
    return found;
}

static const struct {
    char page;
    int last;
} pages[] = {{'G', 19}, {'A', 25}, {'B', 22}, {'E', 22}};

/* Cell 0 is the id. Blanks at both ends are left out. */
static void cell(const char *row, int index, char *out, size_t bytes)
{
    const char *at = row + 1;
    for (; index > 0; index--) at = strchr(at, '|') + 1;
    size_t n = strcspn(at, "|\n");
    while (n > 0 && *at == ' ') at++, n--;
    while (n > 0 && at[n - 1] == ' ') n--;
    assert_true(n < bytes);
    memcpy(out, at, n);
    out[n] = '\0';
}

static void test_every_id_has_one_row(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        for (int j = 0; j <= pages[i].last; j++) {
            char id[16], part[512];
            int n;
            (void)snprintf(id, sizeof id, "%c%d", pages[i].page, j);
            const char *row = find_row(id, &n);
            if (n != 1) fail_msg("%s has %d rows", id, n);
            for (int k = 1; k < 4; k++) { /* demand, command, tests */
                cell(row, k, part, sizeof part);
                if (part[0] == '\0') fail_msg("%s: cell %d is empty", id, k);
            }
        }
}

static void test_every_test_is_there(void **state)
{
    (void)state;
    int n_seen = 0;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        for (int j = 0; j <= pages[i].last; j++) {
            char id[16], part[512];
            int n;
            (void)snprintf(id, sizeof id, "%c%d", pages[i].page, j);
            const char *row = find_row(id, &n);
            assert_non_null(row);
            cell(row, 3, part, sizeof part);
            for (char *name = strtok(part, " "); name != NULL; name = strtok(NULL, " ")) {
                if (strncmp(name, "tests/", 6) != 0 || !qs_file_exists(name)) fail_msg("%s: no %s", id, name);
                n_seen++;
            }
        }
    assert_true(n_seen > 92);
}

/* A rule that a row names is in the table. */
static void test_rules_are_there(void **state)
{
    (void)state;
    for (const char *at = strstr(text, "rule"); at != NULL; at = strstr(at + 1, "rule")) {
        const char *end = strchr(at, ')');
        if (strncmp(at, "rule `", 6) != 0 && strncmp(at, "rules `", 7) != 0) continue; /* another word */
        for (const char *open = strchr(at, '`'); open != NULL && open < end;) {
            const char *close = strchr(open + 1, '`');
            bool found = false;
            for (const qs_rule *rule = qs_rules; rule->name != NULL; rule++)
                found = found || ((size_t)(close - open - 1) == strlen(rule->name) &&
                                  strncmp(open + 1, rule->name, strlen(rule->name)) == 0);
            if (!found) fail_msg("no rule %.*s", (int)(close - open + 1), open);
            open = strchr(close + 1, '`');
        }
    }
}

/* Definition, reason, how it misleads, an example: of every metric in one of these. */
static void test_every_metric_has_a_page(void **state)
{
    (void)state;
    static const char *const names[] = {"perplexity", "speed-and-memory", "loading", "answers", "coverage",
                                        "delta-s",    "retrieval",        "lambda",  "entropy"};
    enum { N = sizeof names / sizeof *names };
    char *texts[N], path[QS_PATH_BYTES], quoted[96];
    size_t bytes;
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(qs_path_format(path, "docs/%s.md", names[i]), QS_OK);
        assert_int_equal(qs_file_read(&texts[i], &bytes, path, (size_t)1 << 20), QS_OK);
    }
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++) {
        bool found = false;
        (void)snprintf(quoted, sizeof quoted, "`%s`", metric->name);
        for (size_t i = 0; i < N && !found; i++) found = strstr(texts[i], quoted) != NULL;
        if (!found) fail_msg("no page says what %s is", metric->name);
    }
    for (size_t i = 0; i < N; i++) qs_mem_free(texts[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_id_has_one_row),
        cmocka_unit_test(test_every_test_is_there),
        cmocka_unit_test(test_rules_are_there),
        cmocka_unit_test(test_every_metric_has_a_page),
    };
    return cmocka_run_group_tests(tests, read_page, free_page);
}
