/* CSV in and out (grid and budgets files through libcsv), and what lax readers let pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/csv.h"

static qs_err parse(qs_csv *csv, const char *text) { return qs_csv_parse(csv, text, strlen(text), "t.csv"); }

static void assert_refused(const char *text, const char *part)
{
    qs_csv csv;
    assert_int_equal(parse(&csv, text), QS_E_INPUT);
    if (strstr(qs_error_text(), part) == NULL) fail_msg("\"%s\" does not say \"%s\"", qs_error_text(), part);
    assert_null(csv.rows);
}

static void test_reads_rows(void **state)
{
    (void)state;
    qs_csv csv;
    assert_int_equal(parse(&csv, "\xEF\xBB\xBF" "a,b\r\n 1 ,\"x,\"\"y\"\"\n\nz\"\r\n\n  \n3,"), QS_OK);
    assert_int_equal(csv.n_columns, 2);
    assert_string_equal(csv.header[0], "a");
    assert_int_equal(csv.n_rows, 2);
    assert_string_equal(csv.rows[0].fields[0], "1");
    assert_string_equal(csv.rows[0].fields[1], "x,\"y\"\n\nz");
    assert_string_equal(csv.rows[1].fields[1], "");
    assert_int_equal(csv.rows[0].line, 2);
    assert_int_equal(csv.rows[1].line, 7); /* the quoted field spans lines 2 to 4, then two blank lines */
    qs_csv_free(&csv);
}

static void test_quoted_header_after_bom(void **state)
{
    (void)state;
    qs_csv csv;
    assert_int_equal(parse(&csv, "\xEF\xBB\xBF\"a\",b\n1,2\n"), QS_OK);
    assert_string_equal(csv.header[0], "a");
    qs_csv_free(&csv);
}

static void test_refuses(void **state)
{
    (void)state;
    assert_refused("", "header");
    assert_refused("\n\n", "header");
    assert_refused("a,b\n1,2\n1,2,3\n", "t.csv:3: 3 fields where the header has 2");
    assert_refused("a,b\n\n1\n", "t.csv:3: 1 fields");
    assert_refused("a,a\n1,2\n", "twice");
    assert_refused("a,\n1,2\n", "no name");
    assert_refused("a,b\n1,x\"y\n", "t.csv:2: a stray quote");
    assert_refused("a,b\n1,\"x\"y\n", "t.csv:2: a stray quote");
    assert_refused("a,b\n1,2\n3,\"open\n4,5\n", "t.csv:3: a quote is opened");
    assert_refused("a,b\n3,\"open", "t.csv:2: a quote is opened");
    qs_csv csv;
    assert_int_equal(qs_csv_parse(&csv, "a\n1\0\n", 5, "t.csv"), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "NUL"));
    assert_int_equal(qs_csv_load(&csv, "/nonexistent/x.csv"), QS_E_INPUT);
}

static void test_columns_and_numbers(void **state)
{
    (void)state;
    qs_csv csv;
    const char *const names[] = {"y", "x"}, *const missing[] = {"x", "z"}, *const few[] = {"x"};
    int64_t index[2], integer;
    double real;
    assert_int_equal(parse(&csv, "x,y\n1.5,7\nnan,1e3\n2x,99999999999999999999\n"), QS_OK);
    assert_int_equal(qs_csv_columns(&csv, names, 2, index), QS_OK);
    assert_int_equal(index[0], 1);
    assert_int_equal(index[1], 0);
    assert_int_equal(qs_csv_find(&csv, "q"), -1);
    assert_int_equal(qs_csv_columns(&csv, missing, 2, index), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "\"z\" is missing"));
    assert_int_equal(qs_csv_columns(&csv, few, 1, index), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "unknown column \"y\""));
    assert_int_equal(qs_csv_get_real(&csv, 0, 0, &real), QS_OK);
    assert_true(real == 1.5);
    assert_int_equal(qs_csv_get_int(&csv, 0, 1, &integer), QS_OK);
    assert_int_equal(integer, 7);
    assert_int_equal(qs_csv_get_real(&csv, 1, 0, &real), QS_E_INPUT);
    assert_int_equal(qs_csv_get_int(&csv, 1, 1, &integer), QS_E_INPUT);
    assert_int_equal(qs_csv_get_real(&csv, 2, 0, &real), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "t.csv:4: column \"x\": \"2x\""));
    assert_int_equal(qs_csv_get_int(&csv, 2, 1, &integer), QS_E_INPUT);
    qs_csv_free(&csv);
}

/* What is written reads back as it was, and plain fields stay unquoted. */
static void test_writes(void **state)
{
    (void)state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    qs_csv_writer writer;
    const char *const header[] = {"name", "value", "note"};
    qs_csv_begin(&writer, stream, header, 3);
    qs_csv_put_text(&writer, "a-b.c");
    qs_csv_put_real(&writer, 1.0 / 3.0);
    qs_csv_put_text(&writer, " lead, \"q\"\n2 ");
    assert_int_equal(qs_csv_end_row(&writer), QS_OK);
    qs_csv_put_text(&writer, NULL);
    qs_csv_put_real(&writer, NAN);
    qs_csv_put_int(&writer, -5);
    assert_int_equal(qs_csv_end_row(&writer), QS_OK);
    qs_csv_put_int(&writer, 1);
    assert_int_equal(qs_csv_end_row(&writer), QS_E_INPUT);
    assert_int_equal(fclose(stream), 0);
    assert_non_null(strstr(text, "name,value,note\na-b.c,0.333333,\" lead, \"\"q\"\"\n2 \"\n,,-5\n"));
    char *end = strrchr(text, '1'); /* drop the short row */
    *end = '\0';
    qs_csv csv;
    assert_int_equal(parse(&csv, text), QS_OK);
    assert_int_equal(csv.n_rows, 2);
    assert_string_equal(csv.rows[0].fields[2], " lead, \"q\"\n2 ");
    assert_string_equal(csv.rows[1].fields[1], "");
    qs_csv_free(&csv);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_rows),       cmocka_unit_test(test_quoted_header_after_bom),
        cmocka_unit_test(test_refuses),          cmocka_unit_test(test_columns_and_numbers),
        cmocka_unit_test(test_writes),
    };
    return cmocka_run_group_tests_name("csv", tests, NULL, NULL);
}
