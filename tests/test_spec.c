/* Specs: canonical ids and texts, and everything that must be refused (quant/spec.h; checklist G10: bits,
 * group_size and sym are verified before any work). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "quant/methods.h"

static void test_ids(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"rtn:bits=4,group=64,sym=1", "rtn-b4-g64-sym", "sym"},
        {"rtn", "rtn-b4-g64-sym", "sym"},
        {"rtn:search=1,bits=2,sym=0,group=-1", "rtn-b2-g-1-asym-search", "asym-search"},
        {"gptq:bits=3,group=128,sym=0,act=1", "gptq-b3-g128-asym-act", "asym-act"},
        {"gptq:bits=8,group=32,act=1,static=1,gar=0", "gptq-b8-g32-sym-act-static", "sym-act-static"},
        {"gptq:gar=0", "gptq-b4-g64-sym-nogar", "sym-nogar"},
        {"gptq:gar=1", "gptq-b4-g64-sym", "sym"},
        {"gptq:group=-1", "gptq-b4-g-1-sym", "sym"},
        {"gptq:search=0,damp=0.05", "gptq-b4-g64-sym-minmax-damp0.05", "sym-minmax-damp0.05"},
        {"gptq:damp=1e-2", "gptq-b4-g64-sym", "sym"},
        {"awq:bits=4,group=64,zero=1", "awq-b4-g64-asym", "asym"},
        {"awq:zero=0,duo=0,clip=0", "awq-b4-g64-sym-noduo-noclip", "sym-noduo-noclip"},
        {"awq:loss=linear", "awq-b4-g64-asym", "asym"},
        {"awq:bits=3,loss=block,gptq=1", "awq-b3-g64-asym-gptq-block", "asym-gptq-block"},
        {"awq:bits=3,group=128,gptq=1", "awq-b3-g128-asym-gptq", "asym-gptq"},
        {"gptq:damp=.0123456789", "gptq-b4-g64-sym-damp0.0123457", "sym-damp0.0123457"},
        {"nf4:block=64,dq=1,compute=bf16", "nf4-blk64-dq-bf16", "dq-bf16"},
        {"nf4", "nf4-blk64-dq-bf16", "dq-bf16"},
        {"fp4:compute=fp32,dq=0,block=4096", "fp4-blk4096-nodq-fp32", "nodq-fp32"},
        {"nf4:block=32,compute=fp16", "nf4-blk32-dq-fp16", "dq-fp16"},
        {"int8", "int8", ""},
        {"int8:threshold=6.0", "int8", ""},
        {"exl2", "exl2-4.00bpw-h16", "h16"},
        {"exl2:bpw=3.456", "exl2-3.46bpw-h16", "h16"},
        {"exl2:bpw=2.5,damp=0.1", "exl2-2.50bpw-h16-damp0.1", "h16-damp0.1"},
        {"gptq:bpw=3.5", "gptq-3.50bpw-sym", "sym"},
        {"gptq:bpw=3.5,group=64,sym=0", "gptq-3.50bpw-g64-asym", "asym"},
        {"gptq:bpw=3.5,even=1", "gptq-3.50bpw-sym-even", "sym-even"},
        {"int8:threshold=0", "int8-thr0", "thr0"},
        {"int8:threshold=4.5", "int8-thr4.5", "thr4.5"},
        {"rtn:bits=3,rotate=1", "rtn-b3-g64-sym-rot", "sym-rot"},
        {"gptq:bits=3,rotate=1,search=0", "gptq-b3-g64-sym-minmax-rot", "sym-minmax-rot"},
        {"nf4:rotate=1", "nf4-blk64-dq-bf16-rot", "dq-bf16-rot"},
        {"int8:rotate=1", "int8-rot", "rot"},
        {"awq:rotate=1", "awq-b4-g64-asym-rot", "asym-rot"},
        {"exl2:bpw=3.5,rotate=1", "exl2-3.50bpw-h16-rot", "h16-rot"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_spec spec, again, cells;
        char bits[8], group[16];
        if (qs_spec_parse(&spec, rows[i][0]) != QS_OK) fail_msg("%s", qs_error_text());
        assert_string_equal(spec.id, rows[i][1]);
        assert_string_equal(spec.variant, rows[i][2]);
        /* the canonical text, and the cells of a grid, mean the same point */
        assert_int_equal(qs_spec_parse(&again, spec.text), QS_OK);
        assert_memory_equal(&again, &spec, sizeof spec);
        (void)snprintf(bits, sizeof bits, "%d", (int)spec.bits);
        (void)snprintf(group, sizeof group, "%d", (int)spec.group_size);
        if (spec.bpw > 0) (void)snprintf(bits, sizeof bits, "%.2f", spec.bpw);
        if (spec.bpw > 0 && spec.group_size == 0) group[0] = '\0';
        if (qs_spec_from_cells(&cells, spec.method->name, bits, group, spec.variant) != QS_OK)
            fail_msg("%s", qs_error_text());
        assert_memory_equal(&cells, &spec, sizeof spec);
    }
}

static void test_fields(void **state)
{
    (void)state;
    qs_spec spec;
    assert_int_equal(qs_spec_parse(&spec, "gptq:bits=3,group=-1,sym=0,act=1,search=0,damp=0.1"), QS_OK);
    assert_string_equal(spec.text, "gptq:bits=3,group=-1,sym=0,act=1,static=0,gar=0,search=0,damp=0.1,rotate=0");
    assert_true(spec.method == &qs_method_gptq && spec.bits == 3 && spec.group_size == -1 && !spec.sym);
    assert_true(spec.act_order && !spec.static_groups && !spec.group_aware && !spec.search &&
                spec.damping == 0.1);
    assert_int_equal(qs_spec_parse(&spec, "gptq"), QS_OK);
    assert_true(spec.group_aware && spec.search && spec.damping == 0.01);
    assert_int_equal(qs_spec_parse(&spec, "rtn"), QS_OK);
    assert_true(!spec.group_aware && !spec.search && spec.damping == 0);
    assert_int_equal(qs_spec_parse(&spec, "awq:gptq=1"), QS_OK);
    assert_string_equal(spec.text, "awq:bits=4,group=64,zero=1,gptq=1,duo=1,clip=0,loss=linear,rotate=0");
    assert_true(!spec.sym && spec.then_gptq && !spec.clip && spec.weight_stats && spec.damping == 0);
    assert_int_equal(qs_spec_parse(&spec, "fp4:block=128"), QS_OK);
    assert_string_equal(spec.text, "fp4:block=128,dq=1,compute=bf16,rotate=0");
    assert_true(spec.bits == 4 && spec.group_size == 128 && spec.double_quant && spec.compute == QS_ROUND_BF16);
    assert_int_equal(qs_spec_parse(&spec, "int8"), QS_OK);
    assert_string_equal(spec.text, "int8:threshold=6,rotate=0");
    assert_true(spec.bits == 8 && spec.group_size == -1 && spec.threshold == 6 && !spec.double_quant);
    assert_int_equal(qs_spec_from_cells(&spec, "nf4", "", "32", "fp16"), QS_OK);
    assert_string_equal(spec.id, "nf4-blk32-dq-fp16");
    assert_int_equal(qs_spec_from_cells(&spec, "int8", "", "", ""), QS_OK);
    assert_string_equal(spec.id, "int8");
    assert_int_equal(qs_spec_from_cells(&spec, "exl2", "4", "", "h16"), QS_OK); /* a budget, in the column of bits */
    assert_string_equal(spec.id, "exl2-4.00bpw-h16");
    assert_string_equal(spec.text, "exl2:bpw=4,head=16,damp=0.01,even=0,rotate=0");
    assert_true(spec.bits == 0 && spec.group_size == 0 && spec.act_order && spec.mix == NULL);
    assert_int_equal(qs_spec_from_cells(&spec, "gptq", "3.5", "", "asym"), QS_OK);
    assert_string_equal(spec.id, "gptq-3.50bpw-asym");
    assert_string_equal(spec.text, "gptq:bpw=3.5,sym=0,act=0,static=0,gar=1,search=1,damp=0.01,even=0,rotate=0");
    assert_true(spec.bits == 0 && spec.group_size == 0 && spec.bpw == 3.5);
    assert_int_equal(qs_spec_from_cells(&spec, "gptq", "3", "", ""), QS_OK);
    assert_string_equal(spec.id, "gptq-b3-g64-sym");
    assert_int_equal(qs_spec_from_cells(&spec, "gptq", "", "32", "act-asym"), QS_OK); /* any order of parts */
    assert_string_equal(spec.id, "gptq-b4-g32-asym-act");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"", "unknown method"},
        {"awk:bits=4", "rtn, gptq"},
        {"RTN", "unknown method"},
        {"awq:sym=1", "zero"}, /* its name there */
        {"awq:zero=2", "0 or 1"},
        {"awq:clip=1,gptq=1", "choose one"},
        {"rtn:", "not key=value"},
        {"rtn:bits", "not key=value"},
        {"rtn:bits=4,", "not key=value"},
        {"rtn:bits=5", "one of 2 3 4 8"},
        {"rtn:bits=", "one of 2 3 4 8"},
        {"rtn:bits=04", "one of 2 3 4 8"},
        {"rtn:bits=2 3", "blank"},
        {"rtn:bits=4.0", "one of 2 3 4 8"},
        {"rtn:group=0", "-1 for the whole row"},
        {"rtn:group=-2", "-1 for the whole row"},
        {"rtn:group=6e1", "-1 for the whole row"},
        {"rtn:group=9999999999", "-1 for the whole row"},
        {"rtn:group=64x", "-1 for the whole row"},
        {"rtn:sym=2", "0 or 1"},
        {"rtn:sym=true", "0 or 1"},
        {"rtn:act=1", "rtn has no key \"act\""},
        {"rtn:group_size=64", "its keys are bits, group, sym, search"},
        {"rtn:bits=4,bits=3", "twice"},
        {"gptq:damp=0", "0.0001 to 1"},
        {"gptq:damp=nan", "0.0001 to 1"},
        {"gptq:damp=1e999", "0.0001 to 1"},
        {"gptq:damp=2", "0.0001 to 1"},
        {"gptq:act=1,gar=1", "two orders"},
        {"gptq:static=1", "needs act=1"},
        {"gptq:group=-1,gar=1", "needs group > 0"},
        {"gptq:group=-1,act=1,static=1", "needs group > 0"},
        {"nf4:bits=4", "nf4 has no key \"bits\"; its keys are block, dq, compute"},
        {"nf4:group=64", "no key"},
        {"nf4:block=16", "one of 32 64"},
        {"nf4:block=6", "one of 32 64"},
        {"fp4:block=8192", "one of 32 64"},
        {"nf4:compute=float32", "one of fp32 bf16 fp16"},
        {"nf4:compute=", "one of fp32 bf16 fp16"},
        {"nf4:dq=2", "0 or 1"},
        {"int8:threshold=-1", "0 to 65504"},
        {"exl2:bits=4", "no key \"bits\""},
        {"exl2:group=64", "no key \"group\""},
        {"exl2:bpw=10", "1 to 9"},
        {"exl2:head=7", "one of"},
        {"gptq:bpw=0.001", "1 to 8.5"}, /* which two places would round to no budget at all */
        {"gptq:bpw=4,bits=4", "give one of them"},
        {"gptq:bpw=4,act=1", "leave act out"},
        {"rtn:bpw=4", "no key \"bpw\""},
        {"gptq:bits=4,even=1", "needs bpw"},
        {"int8:threshold=nan", "0 to 65504"},
        {"int8:block=64", "int8 has no key \"block\"; its keys are threshold"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_spec spec;
        if (qs_spec_parse(&spec, rows[i][0]) != QS_E_USAGE) fail_msg("\"%s\" was not refused", rows[i][0]);
        if (strstr(qs_error_text(), rows[i][1]) == NULL)
            fail_msg("\"%s\": \"%s\" does not say \"%s\"", rows[i][0], qs_error_text(), rows[i][1]);
    }
    char text[1000];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    qs_spec spec;
    assert_int_equal(qs_spec_parse(&spec, text), QS_E_USAGE);
}

static void test_refused_cells(void **state)
{
    (void)state;
    static const char *const rows[][5] = {
        {"rtn", "5", "64", "sym", "one of 2 3 4 8"},
        {"rtn", "4", "64", "sym-asym", "second time"},
        {"rtn", "4", "64", "sym-sym", "second time"},
        {"rtn", "4", "64", "act", "no variant \"act\""},
        {"nf4", "3", "64", "dq-bf16", "nf4 has 4"},
        {"nf4", "4", "48", "dq-bf16", "one of 32 64"},
        {"nf4", "4", "64", "dq-nodq", "second time"},
        {"nf4", "4", "64", "bf16-fp16", "second time"},
        {"nf4", "4", "64", "sym", "no variant \"sym\""},
        {"int8", "4", "", "", "int8 has 8"},
        {"int8", "8", "64", "", "int8 has -1"},
        {"rtn", "4", "64", "sym-", "no variant \"\""},
        {"gptq", "4", "64", "sym-damp7", "0.0001 to 1"},
        {"gptq", "4", "64", "sym-gar", "no variant"},
        {"", "4", "64", "sym", "unknown method"},
        {"rtn", "4", "sixty", "sym", "-1 for the whole row"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_spec spec;
        assert_int_equal(qs_spec_from_cells(&spec, rows[i][0], rows[i][1], rows[i][2], rows[i][3]),
                         QS_E_USAGE);
        if (strstr(qs_error_text(), rows[i][4]) == NULL)
            fail_msg("\"%s\" does not say \"%s\"", qs_error_text(), rows[i][4]);
    }
}

static void test_group_larger_than_row(void **state)
{
    (void)state;
    qs_spec spec;
    assert_int_equal(qs_spec_parse(&spec, "rtn:group=128"), QS_OK);
    assert_int_equal(qs_spec_check_row(&spec, 128, "layers.0.q_proj"), QS_OK);
    assert_int_equal(qs_spec_check_row(&spec, 200, "layers.0.q_proj"), QS_OK);
    assert_int_equal(qs_spec_check_row(&spec, 127, "layers.0.q_proj"), QS_E_USAGE);
    assert_non_null(
        strstr(qs_error_text(), "group 128 is larger than the 127 weights of a row of layers.0.q_proj"));
    assert_int_equal(qs_spec_parse(&spec, "rtn:group=-1"), QS_OK);
    assert_int_equal(qs_spec_check_row(&spec, 1, "x"), QS_OK);
}

/* --list names every method and every key it accepts. */
static void test_list(void **state)
{
    (void)state;
    char *text;
    size_t bytes;
    FILE *stream = open_memstream(&text, &bytes);
    qs_spec_print_keys(stream);
    assert_int_equal(fclose(stream), 0);
    for (int i = 0; qs_methods[i] != NULL; i++) {
        assert_non_null(strstr(text, qs_methods[i]->name));
        assert_non_null(strstr(text, qs_methods[i]->summary));
    }
    static const char *const names[] = {"bits", "group", "sym", "act", "static", "gar", "search", "damp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) assert_non_null(strstr(text, names[i]));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids),           cmocka_unit_test(test_fields),
        cmocka_unit_test(test_refused),       cmocka_unit_test(test_refused_cells),
        cmocka_unit_test(test_group_larger_than_row), cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests_name("spec", tests, NULL, NULL);
}
