/* The world: what training sees, what it never sees, and that its tokenizer lets answers be copied. */
#include "scratch.h"

#include "base/json.h"
#include "data/goldset.h"
#include "data/prompt.h"
#include "data/world.h"
#include "model/tokenizer.h"

enum { N_EXAMPLES = 2000 };

/* All names as written -> 1 when held out, 0 when not. */
static json_t *all_names(void)
{
    json_t *names = json_object();
    for (int which = QS_WORLD_PLANT; which <= QS_WORLD_PEOPLE; which++)
        for (int a = 0; a < qs_world_n_first((qs_world_names)which); a++)
            for (int b = 0; b < qs_world_n_second((qs_world_names)which); b++) {
                qs_world_text text;
                qs_world_name name = {a, b};
                qs_world_name_write(text, (qs_world_names)which, name);
                if (json_object_get(names, text) != NULL) fail_msg("%s is made twice", text);
                int held_out = qs_world_name_part((qs_world_names)which, name) == QS_WORLD_HELD_OUT;
                assert_int_equal(json_object_set_new(names, text, json_integer(held_out)), 0);
            }
    return names;
}

/* Counts the known names in a text, by part. */
static void count_names(const json_t *names, const char *text, int64_t n[2])
{
    char word[64];
    for (const char *at = text; *at != '\0'; at++) {
        size_t bytes = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
        if (bytes == 0) continue;
        if (bytes < sizeof word) {
            memcpy(word, at, bytes);
            word[bytes] = '\0';
            const json_t *held_out = json_object_get(names, word);
            if (held_out != NULL) n[json_integer_value(held_out)]++;
        }
        at += bytes - 1;
    }
}

static void names_are_distinct_and_one_in_eight_is_held_out(void **state)
{
    (void)state;
    json_t *names = all_names(), *value;
    const char *key;
    int64_t n = 0, n_held_out = 0;
    json_object_foreach(names, key, value)
    {
        n++;
        n_held_out += json_integer_value(value);
    }
    assert_true(n > 2000);
    assert_true(n_held_out > n / 8 - n / 40 && n_held_out < n / 8 + n / 40);
    json_decref(names);
}

/* Every name that training draws from is on one side, every name of the gold set on the other. */
static void training_never_sees_a_held_out_name(void **state)
{
    (void)state;
    json_t *names = all_names();
    qs_world_mix mix = QS_WORLD_MIX_DEFAULTS;
    int64_t n[2] = {0};
    for (uint64_t i = 0; i < N_EXAMPLES; i++) {
        qs_world_turns turns;
        mix.k_max = i % 20 == 0 ? 20 : 5;
        mix.n_questions = 1 + (int)(i % 7);
        OK(qs_world_example(&turns, &mix, 11, i));
        for (int t = 0; t < turns.n; t++) {
            count_names(names, turns.prompts[t], n);
            count_names(names, turns.answers[t], n);
        }
        qs_world_turns_free(&turns);
    }
    assert_true(n[0] > 5 * N_EXAMPLES);
    assert_int_equal(n[1], 0);

    int64_t gold[2] = {0};
    char *text;
    size_t bytes;
    static const char *const files[] = {"corpus.jsonl", "gold.jsonl", "sections.md"};
    for (int i = 0; i < 3; i++) {
        scratch_path path;
        OK(qs_path_format(path, "datasets/world/%s", files[i]));
        OK(qs_file_read(&text, &bytes, path, 1 << 24));
        count_names(names, text, gold);
        qs_mem_free(text);
    }
    assert_int_equal(gold[0], 0);
    assert_true(gold[1] > 500);
    json_decref(names);
}

static void examples_are_a_function_of_seed_and_number(void **state)
{
    (void)state;
    qs_world_mix mix = QS_WORLD_MIX_DEFAULTS;
    qs_world_turns turns[3];
    mix.k_min = 3;
    mix.n_questions = 2;
    OK(qs_world_example(&turns[0], &mix, 3, 5));
    OK(qs_world_example(&turns[1], &mix, 3, 5));
    OK(qs_world_example(&turns[2], &mix, 4, 5));
    assert_int_equal(turns[0].n, 2);
    for (int t = 0; t < 2; t++) {
        assert_string_equal(turns[0].prompts[t], turns[1].prompts[t]);
        assert_string_equal(turns[0].answers[t], turns[1].answers[t]);
    }
    assert_string_not_equal(turns[0].prompts[0], turns[2].prompts[0]);
    for (int i = 0; i < 3; i++) qs_world_turns_free(&turns[i]);
}

/* The line of the prompt that ends in the id holds the answer. */
static void assert_supported(const char *prompt, const char *id, const char *answer)
{
    char mark[32];
    (void)snprintf(mark, sizeof mark, "[%s]\n", id);
    const char *end = strstr(prompt, mark), *found = strstr(prompt, answer);
    assert_non_null(end);
    for (; found != NULL; found = strstr(found + 1, answer))
        if (found < end && memchr(found, '\n', (size_t)(end - found)) == NULL) return;
    fail_msg("snippet %s does not hold \"%s\" in:\n%s", id, answer, prompt);
}

/* Counts by citations: none, one, a report. */
static void check_turn(const char *prompt, const qs_world_turns *turns, int t, int n[3])
{
    json_t *parsed;
    OK(qs_json_parse(&parsed, turns->answers[t], strlen(turns->answers[t]), "answer"));
    const json_t *citations = json_object_get(parsed, "citations");
    const char *text = json_string_value(json_object_get(parsed, "answer"));
    bool report = strncmp(text, "not stated", 10) != 0 && json_array_size(citations) != 1;
    if (json_array_size(citations) == 0) assert_string_equal(text, QS_ANSWER_UNKNOWN);
    if (json_array_size(citations) == 1 && strchr(text, ':') == NULL)
        assert_supported(prompt, json_string_value(json_object_get(json_array_get(citations, 0), "snippet_id")), text);
    n[0] += json_array_size(citations) == 0;
    n[1] += json_array_size(citations) == 1;
    n[2] += report;
    json_decref(parsed);
}

static void answers_stand_in_the_snippets_they_cite(void **state)
{
    (void)state;
    int n[3] = {0};
    for (uint64_t i = 0; i < N_EXAMPLES; i++) {
        qs_world_mix mix = {.k_min = 1,
                            .k_max = i % 10 == 0 ? 20 : 6,
                            .n_ids = 40,
                            .n_wordings = 1 + (int)(i % 10),
                            .n_questions = 1 + (int)(i % 3),
                            .unknown = 0.1,
                            .report = 0.1,
                            .no_headers = 0.1};
        qs_world_turns turns;
        OK(qs_world_example(&turns, &mix, 17, i));
        assert_true(turns.n >= 1 && turns.n <= mix.n_questions);
        for (int t = 0; t < turns.n; t++) check_turn(turns.prompts[0], &turns, t, n);
        qs_world_turns_free(&turns);
    }
    assert_true(n[0] > N_EXAMPLES / 20 && n[1] > N_EXAMPLES && n[2] > N_EXAMPLES / 20);
}

/* The attribute whose noun stands in a line, -1 for none. */
static int attribute_of(const char *line, size_t bytes)
{
    for (int attribute = 0; attribute < qs_world_n_attributes(); attribute++)
        for (int synonym = 0; synonym < 2; synonym++) {
            char word[64];
            (void)snprintf(word, sizeof word, " %s ", qs_world_noun(attribute, synonym));
            if (memmem(line, bytes, word, strlen(word)) != NULL) return attribute;
        }
    return -1;
}

/* The first lesson of the demo model: one wording, and names alone tell the snippets apart. */
static void lessons_can_be_narrowed(void **state)
{
    (void)state;
    qs_world_mix mix = {.k_min = 2,
                        .k_max = 6,
                        .n_ids = 40,
                        .n_wordings = 1,
                        .n_questions = 2,
                        .unknown = 0.1,
                        .one_attribute = 1};
    for (uint64_t i = 0; i < N_EXAMPLES / 10; i++) {
        qs_world_turns turns;
        int asked = -1, n_snippets = 0;
        OK(qs_world_example(&turns, &mix, 23, i));
        for (const char *line = turns.prompts[0], *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            int attribute = attribute_of(line, (size_t)(end - line));
            if (attribute < 0) continue;
            if (asked < 0) asked = attribute;
            assert_int_equal(attribute, asked);
            bool question = strncmp(line, "Question: What is the ", 22) == 0;
            assert_true(question || strncmp(line, "The ", 4) == 0);
            n_snippets += !question;
        }
        assert_true(n_snippets >= 2 && turns.n == 2);
        qs_world_turns_free(&turns);
    }
}

/* ---- its tokenizer ---- */

static int64_t encode(const qs_tokenizer *tokenizer, qs_token_list *list, const char *text)
{
    list->n = 0;
    OK(qs_tokenizer_encode(tokenizer, text, strlen(text), false, list));
    return list->n;
}

static qs_tokenizer *load_tokenizer(void)
{
    qs_tokenizer *tokenizer;
    char *text;
    size_t bytes;
    OK(qs_file_read(&text, &bytes, "datasets/reader/tokenizer.json", 1 << 24));
    OK(qs_tokenizer_from_json(&tokenizer, text, bytes, "datasets/reader/tokenizer.json"));
    qs_mem_free(text);
    return tokenizer;
}

/* Ids are one token, names two, and a value the same ones in a text and in an answer: else nothing could be
 * copied. */
static void ids_are_one_token_and_names_two(void **state)
{
    (void)state;
    qs_tokenizer *tokenizer = load_tokenizer();
    qs_token_list list = {0}, other = {0};
    json_t *names = all_names(), *value;
    const char *key;
    char text[128];
    for (int i = 0; i < QS_WORLD_IDS; i++) {
        (void)snprintf(text, sizeof text, "S%03d", i);
        assert_int_equal(encode(tokenizer, &list, text), 1);
        (void)snprintf(text, sizeof text, " litres. [S%03d]\n", i);
        assert_int_equal(encode(tokenizer, &other, text), 6);
        assert_int_equal(other.ids[3], list.ids[0]);
    }
    json_object_foreach(names, key, value)
    {
        if (encode(tokenizer, &list, key) != 2) fail_msg("%s is %lld tokens", key, (long long)list.n);
        static const char *const frames[] = {" %s", "\"%s\"", "\n%s."};
        for (int i = 0; i < 3; i++) {
            (void)snprintf(text, sizeof text, frames[i], key);
            int64_t n = encode(tokenizer, &other, text);
            assert_true(n >= 3 && memcmp(other.ids + 1, list.ids, 2 * sizeof *list.ids) == 0);
        }
    }
    assert_int_equal(qs_tokenizer_eos(tokenizer), 0);
    json_decref(names);
    qs_token_list_free(&list);
    qs_token_list_free(&other);
    qs_tokenizer_destroy(tokenizer);
}

/* k = 20 with its answer fits a context of 1,024. */
static void twenty_snippets_fit_the_context(void **state)
{
    (void)state;
    qs_tokenizer *tokenizer = load_tokenizer();
    qs_token_list list = {0};
    qs_world_mix mix = {.k_min = 20, .k_max = 20, .n_ids = QS_WORLD_IDS, .n_questions = 1, .report = 0.3};
    int64_t longest = 0;
    for (uint64_t i = 0; i < 60; i++) {
        qs_world_turns turns;
        OK(qs_world_example(&turns, &mix, 5, i));
        int64_t n = encode(tokenizer, &list, turns.prompts[0]);
        n += encode(tokenizer, &list, turns.answers[0]);
        longest = n > longest ? n : longest;
        qs_world_turns_free(&turns);
    }
    if (longest > 1023) fail_msg("%lld tokens", (long long)longest);
    qs_token_list_free(&list);
    qs_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_distinct_and_one_in_eight_is_held_out),
        cmocka_unit_test(training_never_sees_a_held_out_name),
        cmocka_unit_test(examples_are_a_function_of_seed_and_number),
        cmocka_unit_test(answers_stand_in_the_snippets_they_cite),
        cmocka_unit_test(lessons_can_be_narrowed),
        cmocka_unit_test(ids_are_one_token_and_names_two),
        cmocka_unit_test(twenty_snippets_fit_the_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
