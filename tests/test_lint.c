/* What is said of specs before any work (checklist G10, G17). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "quant/lint.h"

static const qs_model_config smollm2 = {.d_model = 576, .d_ff = 1536, .n_heads = 9, .n_kv_heads = 3, .head_dim = 64};

/* The names of the rules that hold, with a blank behind each. */
static void rules_of(const char *text, const qs_model_config *model, char *out, size_t bytes)
{
    qs_spec spec;
    const qs_spec *first;
    assert_int_equal(qs_spec_parse(&spec, text), QS_OK);
    out[0] = '\0';
    for (const qs_lint_rule *rule = qs_lint_rules; rule->name != NULL; rule++) {
        if (qs_lint_count(rule, &spec, 1, model, &first) == 0) continue;
        assert_ptr_equal(first, &spec);
        (void)strncat(out, rule->name, bytes - strlen(out) - 1);
        (void)strncat(out, " ", bytes - strlen(out) - 1);
    }
}

static void test_specs(void **state)
{
    (void)state;
    static const struct {
        const char *spec, *rules;
        bool model;
    } rows[] = {
        {"gptq:bits=4,group=64,act=0", "", true},
        {"gptq:bits=4,group=128,act=0", "short-groups ", true}, /* the page's recipe does not fit 576 */
        {"gptq:bits=4,group=128,act=0", "", false},
        {"gptq:bits=2,group=64", "two-bits-symmetric ", true},
        {"gptq:bits=2,group=64,sym=0", "", true},
        {"rtn:bits=3,group=-1", "wide-groups ", true},
        {"rtn:bits=2,group=256,sym=0", "wide-groups short-groups ", true},
        {"rtn:bits=8,group=-1", "", true},
        {"rtn:bits=4,group=64,rotate=1", "rotated-rounding ", true},
        {"gptq:bits=4,group=64,rotate=1", "", true},
        {"gptq:bits=4,group=64,act=1", "permuted-inputs ", true},
        {"gptq:bits=4,group=64,act=1,static=1", "", true},
        {"fp4", "fp4 ", true},
        {"nf4", "", true},
        {"exl2:bpw=4.0,head=16", "", true},
        {"gptq:bpw=3.5", "", true},
        {"int8", "", true},
    };
    char got[256];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rules_of(rows[i].spec, rows[i].model ? &smollm2 : NULL, got, sizeof got);
        if (strcmp(got, rows[i].rules) != 0) fail_msg("%s: \"%s\", not \"%s\"", rows[i].spec, got, rows[i].rules);
    }
}

static void test_counts(void **state)
{
    (void)state;
    static const char *const texts[] = {"gptq:bits=4,group=64", "gptq:bits=2,group=64", "rtn:bits=2,group=32"};
    qs_spec specs[3];
    const qs_spec *first;
    for (size_t i = 0; i < 3; i++) assert_int_equal(qs_spec_parse(&specs[i], texts[i]), QS_OK);
    assert_int_equal(qs_lint_count(&qs_lint_rules[0], specs, 3, NULL, &first), 2);
    assert_ptr_equal(first, &specs[1]);
    assert_int_equal(qs_lint_count(&qs_lint_rules[0], specs, 1, NULL, &first), 0);
    assert_null(first);
}

/* Every rule has a case above that it holds for. */
static void test_rules_are_alive(void **state)
{
    (void)state;
    char all[512] = "", got[256];
    static const char *const texts[] = {"gptq:bits=2,group=64", "rtn:bits=3,group=-1", "rtn:bits=4,group=64,rotate=1",
                                        "gptq:bits=4,group=64,act=1", "fp4", "gptq:bits=4,group=128"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        rules_of(texts[i], &smollm2, got, sizeof got);
        (void)strncat(all, got, sizeof all - strlen(all) - 1);
    }
    for (const qs_lint_rule *rule = qs_lint_rules; rule->name != NULL; rule++) {
        if (strstr(all, rule->name) == NULL) fail_msg("no spec for %s", rule->name);
        assert_true(rule->why[0] != '\0' && rule->instead[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_specs),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_rules_are_alive),
    };
    return cmocka_run_group_tests_name("lint", tests, NULL, NULL);
}
