/* Grid files: a row is the product of its cells' alternatives, equal points are merged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "quant/grid.h"

static char path[64];

static qs_err load(qs_grid *grid, const char *text)
{
    (void)snprintf(path, sizeof path, "/tmp/qsweep_grid_%d.csv", (int)getpid());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    qs_err err = qs_grid_load(grid, path);
    (void)remove(path);
    return err;
}

static void test_product(void **state)
{
    (void)state;
    static const char *const ids[] = {
        "rtn-b4-g64-sym",       "rtn-b4-g64-asym",      "rtn-b4-g128-sym",  "rtn-b4-g128-asym",
        "gptq-b4-g64-sym",      "gptq-b4-g64-asym",     "gptq-b4-g128-sym", "gptq-b4-g128-asym",
        "gptq-b3-g-1-asym-act", "gptq-b8-g-1-asym-act",
    };
    qs_grid grid;
    /* columns in any order; the third row repeats points of the first */
    if (load(&grid, "bits,method,group_size,variant\n4,rtn | gptq,64|\t128,sym |asym\n3|8,gptq,-1,asym-act\n"
                    "4,gptq|rtn,128, sym\n") != QS_OK)
        fail_msg("%s", qs_error_text());
    assert_int_equal(grid.n, sizeof ids / sizeof *ids);
    for (int64_t i = 0; i < grid.n; i++) assert_string_equal(grid.specs[i].id, ids[i]);
    qs_grid_free(&grid);
    assert_int_equal(load(&grid, "method,bits,group_size,variant\nrtn,3,,\nrtn,,32,\"\"\n"), QS_OK);
    assert_string_equal(grid.specs[0].id, "rtn-b3-g64-sym");
    assert_string_equal(grid.specs[1].id, "rtn-b4-g32-sym");
    qs_grid_free(&grid);
}

static void assert_refused(const char *text, qs_err code, const char *part)
{
    qs_grid grid;
    assert_int_equal(load(&grid, text), code);
    if (strstr(qs_error_text(), part) == NULL) fail_msg("\"%s\" does not say \"%s\"", qs_error_text(), part);
    assert_null(grid.specs);
}

static void test_refused(void **state)
{
    (void)state;
    assert_refused("", QS_E_INPUT, "header");
    assert_refused("method,bits,group_size,variant\n", QS_E_INPUT, "no points");
    assert_refused("method,bits,group,variant\nrtn,4,64,sym\n", QS_E_INPUT, "\"group_size\" is missing");
    assert_refused("method,bits,group_size,variant,note\nrtn,4,64,sym,x\n", QS_E_INPUT,
                   "unknown column \"note\"");
    assert_refused("method,bits,group_size,variant\nrtn,4,64\n", QS_E_INPUT, ".csv:2: 3 fields");
    assert_refused("method,bits,group_size,variant\nrtn,4,64,sym\nrtn,4|5,64,sym\n", QS_E_INPUT,
                   ".csv:3: cells \"rtn\", \"5\"");
    assert_refused("method,bits,group_size,variant\nrtn|,4,64,sym\n", QS_E_INPUT, "unknown method \"\"");
    assert_refused("method,bits,group_size,variant\nrtn,4 | 8 8,64,sym\n", QS_E_INPUT, "bits=8 8");
    assert_refused("method,bits,group_size,variant\nrtn|fp,4,64,sym\n", QS_E_INPUT, "needs no point");
    assert_refused("method,bits,group_size,variant\nawk,4,64,sym\n", QS_E_INPUT, "unknown method \"awk\"");
    char wide[4000] = "method,bits,group_size,variant\nrtn,2|3|4|8,", number[16];
    for (int i = 1; i < 600; i++) {
        (void)snprintf(number, sizeof number, "%s%d", i == 1 ? "" : "|", i);
        strcat(wide, number);
    }
    strcat(wide, ",sym|asym|sym-search\n");
    assert_refused(wide, QS_E_INPUT, "more than 4096 points");
    /* One point, named 200^3 times: refused before the product is walked. */
    static const char *const cells[] = {"rtn", "4", "8"};
    char many[4000];
    (void)snprintf(many, sizeof many, "method,bits,group_size,variant\n");
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 200; i++) strcat(strcat(many, cells[c]), i < 199 ? "|" : ",");
    strcat(many, "sym\n");
    assert_refused(many, QS_E_INPUT, "more than 4096 points");
}

static void test_from_specs(void **state)
{
    (void)state;
    qs_grid grid;
    const char *const texts[] = {"gptq:bits=3", "rtn", "gptq:group=64,bits=3"}, *const bad[] = {"rtn",
                                                                                                "rtn:bits=7"};
    assert_int_equal(qs_grid_from_specs(&grid, texts, 3), QS_OK);
    assert_int_equal(grid.n, 2);
    assert_string_equal(grid.specs[1].id, "rtn-b4-g64-sym");
    qs_grid_free(&grid);
    assert_int_equal(qs_grid_from_specs(&grid, bad, 2), QS_E_USAGE);
}

/* A loss for all points of AWQ; what becomes equal is merged. */
static void test_awq_loss(void **state)
{
    (void)state;
    static const char text[] = "method,bits,group_size,variant\nrtn,4,64,\nawq,4,64,asym|asym-block\n";
    qs_grid grid;
    assert_int_equal(load(&grid, text), QS_OK);
    assert_int_equal(grid.n, 3);
    assert_int_equal(qs_grid_set_awq_loss(&grid, "block"), QS_OK);
    assert_int_equal(grid.n, 2);
    assert_string_equal(grid.specs[0].id, "rtn-b4-g64-sym");
    assert_string_equal(grid.specs[1].id, "awq-b4-g64-asym-block");
    assert_string_equal(grid.specs[1].text, "awq:bits=4,group=64,zero=1,gptq=0,duo=1,clip=1,loss=block,rotate=0");
    assert_int_equal(qs_grid_set_awq_loss(&grid, "linear"), QS_OK);
    assert_string_equal(grid.specs[1].id, "awq-b4-g64-asym");
    assert_int_equal(qs_grid_set_awq_loss(&grid, "cube"), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "linear or block"));
    qs_grid_free(&grid);
    assert_int_equal(load(&grid, "method,bits,group_size,variant\nrtn,4,64,\n"), QS_OK);
    assert_int_equal(qs_grid_set_awq_loss(&grid, "block"), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "no point"));
    qs_grid_free(&grid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_from_specs),
        cmocka_unit_test(test_awq_loss),
    };
    return cmocka_run_group_tests_name("grid", tests, NULL, NULL);
}
