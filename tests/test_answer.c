/* Answers read strictly, claims compared by what they say (qa_acc and json_ok of docs/answers.md). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "data/claim.h"
#include "data/prompt.h"

static bool parses(const char *text)
{
    qs_answer answer;
    bool ok = qs_answer_parse(&answer, text);
    qs_answer_free(&answer);
    return ok;
}

static void test_strict(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{\"answer\":\"44 bar\",\"citations\":[{\"snippet_id\":\"S063\"}]}",
        "{\"citations\":[],\"answer\":\"not stated\"}",
        " { \"citations\" : [ {\"snippet_id\":\"a\"}, {\"snippet_id\":\"a\"} ] , \"answer\" : \"\" } ",
    };
    static const char *const bad[] = {
        "", "{}", "[]", "null", "\"answer\"",
        "{\"answer\":\"44 bar\",\"citations\":[{\"snippet_id\":\"S063\"}]",          /* cut off */
        "{\"answer\":\"44 bar\",\"citations\":[{\"snippet_id\":\"S063\"}]}.",         /* something behind it */
        "{\"answer\":\"44 bar\",\"citations\":[{\"snippet_id\":\"S063\"}]}{}",
        "{\"answer\":\"a\",\"answer\":\"b\",\"citations\":[]}",                       /* twice */
        "{\"answer\":44,\"citations\":[]}",                                           /* no string */
        "{\"answer\":\"44\",\"citations\":\"S063\"}", "{\"answer\":\"44\",\"citations\":[\"S063\"]}",
        "{\"answer\":\"44\",\"citations\":[{\"id\":\"S063\"}]}",
        "{\"answer\":\"44\",\"citations\":[{\"snippet_id\":63}]}",
        "{\"answer\":\"44\",\"citations\":[{\"snippet_id\":\"S063\",\"page\":1}]}",
        "{\"answer\":\"44\",\"citations\":[],\"confidence\":1}", "{\"answer\":\"44\"}",
        "{'answer':'44','citations':[]}", "{\"answer\":\"44\",\"citations\":[],}",
        "{\"answer\":\"\xff\",\"citations\":[]}",                                     /* no UTF-8 */
        "```json {\"answer\":\"44\",\"citations\":[]}```",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!parses(good[i])) fail_msg("refused: %s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (parses(bad[i])) fail_msg("taken: %s", bad[i]);
}

/* What prompt.h writes is what is read. */
static void test_round_trip(void **state)
{
    (void)state;
    static const char *const ids[] = {"S1", "a \"quoted\" id"};
    char *json;
    qs_answer answer;
    assert_int_equal(qs_prompt_answer(&json, ids, 2, "50 % of \"it\"\n"), QS_OK);
    assert_true(qs_answer_parse(&answer, json));
    assert_string_equal(answer.text, "50 % of \"it\"\n");
    assert_int_equal(answer.n_citations, 2);
    assert_string_equal(qs_answer_citation(&answer, 0), ids[0]);
    assert_string_equal(qs_answer_citation(&answer, 1), ids[1]);
    qs_answer_free(&answer);
    qs_mem_free(json);
}

static void test_canonical(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"", " "},
        {"  44 bar. ", " 44 bar "},
        {"44bar", " 44 bar "},
        {"YOSICK!", " yosick "},
        {"Three Years", " 3 year "},
        {"1,5 mg/l", " 1.5 mg / l "},
        {"1.5 milligrams / litre", " 1.5 mg / l "},
        {"36 metres", " 36 m "},
        {"50 percent", " 50 % "},
        {"50%", " 50 % "},
        {"20 \xc2\xb0""C", " 20 \xc2\xb0 c "},
        {"20 degrees Celsius", " 20 \xc2\xb0 c "},
        {"\xef\xbc\x94\xef\xbc\x94 bar", " 44 bar "}, /* full-width digits */
        {"v. 1, 2 and 3.", " v 1 2 and 3 "},
        {"Stra\xc3\x9f""e", " strasse "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *canonical;
        assert_int_equal(qs_claim_canonical(&canonical, cases[i][0]), QS_OK);
        assert_string_equal(canonical, cases[i][1]);
        qs_mem_free(canonical);
    }
    char *canonical;
    assert_int_equal(qs_claim_canonical(&canonical, "\xff"), QS_E_INPUT);
}

static void test_holds(void **state)
{
    (void)state;
    static const struct {
        const char *text, *claim;
        bool holds;
    } cases[] = {
        {"It is 44 bar.", "44 bar", true},       {"It is 144 bar.", "44 bar", false},
        {"44 bars", "44 bar", true},             {"44", "44 bar", false},
        {"44.5 bar", "44 bar", false},           {"Not stated", "not stated", true},
        {"after 3 years", "three years", true},  {"anything", "", false},
        {"", "44 bar", false},                   {"Yosicks", "Yosick", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool holds;
        assert_int_equal(qs_claim_holds(cases[i].text, cases[i].claim, &holds), QS_OK);
        if (holds != cases[i].holds) fail_msg("\"%s\" and \"%s\"", cases[i].text, cases[i].claim);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_holds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
