/* The one format of prompts and answers (docs/answers.md; checklist A12: header probes). */
#include "scratch.h"

#include "base/json.h"
#include "data/prompt.h"

static const qs_prompt_snippet snippets[] = {
    {"S001", "Pump Eldmoor", "Its flow is 47 litres."},
    {"S002", "Tank Calby", "The depth is 12 cm."},
    {"S003", "Gate Rowham", "It has the paint Red."},
};

static void assert_prompt(const qs_prompt *prompt, const char *wanted)
{
    char *text;
    OK(qs_prompt_build(&text, prompt));
    assert_string_equal(text, wanted);
    qs_mem_free(text);
}

static void a_prompt_is_snippets_question_and_a_place_for_the_answer(void **state)
{
    (void)state;
    qs_prompt prompt = {.snippets = snippets, .n_snippets = 2, .question = "Which flow?"};
    assert_prompt(&prompt, "Pump Eldmoor\nIts flow is 47 litres. [S001]\nTank Calby\nThe depth is 12 cm. [S002]\n"
                           "Question: Which flow?\nAnswer:\n");
    prompt.instruction = "Read.";
    prompt.n_snippets = 0;
    assert_prompt(&prompt, "Read.\nQuestion: Which flow?\nAnswer:\n");
    prompt = (qs_prompt){
        .snippets = snippets, .n_snippets = 1, .question = "Which flow?", .headers = QS_HEADERS_REMOVED};
    assert_prompt(&prompt, "Its flow is 47 litres. [S001]\nQuestion: Which flow?\nAnswer:\n");
    /* In a chat the instruction is another's turn, and the answer's place is the assistant's. */
    char *content;
    prompt.instruction = "Read.";
    OK(qs_prompt_content(&content, &prompt));
    assert_string_equal(content, "Its flow is 47 litres. [S001]\nQuestion: Which flow?");
    qs_mem_free(content);
}

/* Texts and ids stay where they are, the headers are the same ones in another order, and the seed decides. */
static void shuffling_deals_out_headers_alone(void **state)
{
    (void)state;
    qs_prompt prompt = {.snippets = snippets, .n_snippets = 3, .question = "q", .headers = QS_HEADERS_SHUFFLED};
    int n_orders = 0;
    char *seen[32];
    for (uint64_t seed = 0; seed < 32; seed++) {
        char *again;
        prompt.shuffle_seed = seed;
        OK(qs_prompt_build(&seen[seed], &prompt));
        OK(qs_prompt_build(&again, &prompt));
        assert_string_equal(seen[seed], again);
        qs_mem_free(again);
        const char *at = seen[seed];
        bool used[3] = {false};
        for (int i = 0; i < 3; i++) {
            for (int h = 0; h < 3; h++)
                if (strncmp(at, snippets[h].header, strlen(snippets[h].header)) == 0) used[h] = true;
            at = strchr(at, '\n') + 1;
            assert_int_equal(strncmp(at, snippets[i].text, strlen(snippets[i].text)), 0);
            assert_int_equal(strncmp(at + strlen(snippets[i].text) + 2, snippets[i].id, 4), 0);
            at = strchr(at, '\n') + 1;
        }
        assert_true(used[0] && used[1] && used[2]);
        bool fresh = true;
        for (uint64_t other = 0; other < seed; other++) fresh &= strcmp(seen[other], seen[seed]) != 0;
        n_orders += fresh;
    }
    assert_int_equal(n_orders, 6);
    for (int i = 0; i < 32; i++) qs_mem_free(seen[i]);
}

static void an_answer_is_compact_json(void **state)
{
    (void)state;
    const char *ids[] = {"S001", "S002"};
    char *json;
    OK(qs_prompt_answer(&json, ids, 1, "47 litres"));
    assert_string_equal(json, "{\"answer\":\"47 litres\",\"citations\":[{\"snippet_id\":\"S001\"}]}");
    qs_mem_free(json);
    OK(qs_prompt_answer(&json, ids, 2, "a \"b\" \\ \xc3\xa9"));
    json_t *parsed;
    OK(qs_json_parse(&parsed, json, strlen(json), "answer"));
    assert_string_equal(json_string_value(json_object_get(parsed, "answer")), "a \"b\" \\ \xc3\xa9");
    assert_int_equal(json_array_size(json_object_get(parsed, "citations")), 2);
    json_decref(parsed);
    qs_mem_free(json);
    OK(qs_prompt_answer(&json, NULL, 0, QS_ANSWER_UNKNOWN));
    assert_string_equal(json, "{\"answer\":\"not stated\",\"citations\":[]}");
    qs_mem_free(json);
    FAILS(QS_E_INPUT, qs_prompt_answer(&json, ids, 1, "\xff"));
    ids[0] = "\xff";
    FAILS(QS_E_INPUT, qs_prompt_answer(&json, ids, 1, "47 litres"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_is_snippets_question_and_a_place_for_the_answer),
        cmocka_unit_test(shuffling_deals_out_headers_alone),
        cmocka_unit_test(an_answer_is_compact_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
