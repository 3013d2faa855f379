/* Broken and unsupported tokenizer.json files: each edit of a good file is refused with the right code and a
 * text that names the file and the fault. Demand: exit statuses 4 and 5 (base/error.h). */
#include "tokenizer_cases.h"

static const char good[] =
    "{\"added_tokens\": [{\"id\": 5, \"content\": \"<s>\", \"special\": true, \"normalized\": false}],"
    " \"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"NFC\"}]},"
    " \"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\s+\"}, \"behavior\": "
    "\"Isolated\"},"
    " \"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
    "\"<s>\", \"type_id\": 0}},"
    " {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], \"special_tokens\": {\"<s>\": {\"id\": \"<s>\", "
    "\"ids\": [5]}}},"
    " \"decoder\": {\"type\": \"Fuse\"},"
    " \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": \"?\", \"fuse_unk\": false,"
    " \"vocab\": {\"?\": 0, \"a\": 1, \"b\": 2, \"ab\": 3, \" \": 4}, \"merges\": [[\"a\", \"b\"]]}}";

/* 0 old: the whole text is replaced. */
typedef struct fault {
    const char *old, *fresh;
    qs_err code;
    const char *part;
} fault;

static const fault faults[] = {
    {NULL, "", QS_E_INPUT, "parse bad.json"},
    {NULL, "[]", QS_E_INPUT, "not a JSON object"},
    {NULL, "{}", QS_E_INPUT, "\"model\" must be an object"},
    {NULL, "{\"model\": 3}", QS_E_INPUT, "\"model\" must be an object"},
    {NULL, "{\"model\": {\"vocab\": {}, \"vocab\": {}}}", QS_E_INPUT, "duplicate"},
    /* model */
    {"\"BPE\"", "\"Unigram\"", QS_E_UNSUPPORTED, "Unigram"},
    {"\"BPE\"", "7", QS_E_INPUT, "\"type\" must be a string"},
    {"\"dropout\": null", "\"dropout\": 0.1", QS_E_UNSUPPORTED, "dropout"},
    {"\"dropout\": null", "\"end_of_word_suffix\": \"</w>\"", QS_E_UNSUPPORTED, "end_of_word_suffix"},
    {"\"fuse_unk\": false", "\"fuse_unk\": 1", QS_E_INPUT, "fuse_unk"},
    {"\"unk_token\": \"?\"", "\"unk_token\": []", QS_E_INPUT, "unk_token"},
    {"\"vocab\"", "\"words\"", QS_E_INPUT, "\"vocab\" must be an object"},
    {"\"a\": 1", "\"a\": 2", QS_E_INPUT, "id 2 belongs to two tokens"},
    {"\"a\": 1", "\"a\": -1", QS_E_INPUT, "must be an integer from 0"},
    {"\"a\": 1", "\"a\": \"1\"", QS_E_INPUT, "must be an integer from 0"},
    {"\"a\": 1", "\"a\": 1.0", QS_E_INPUT, "must be an integer from 0"},
    {"\"a\": 1", "\"a\": 2000000000", QS_E_INPUT, "must be an integer from 0"},
    {"\"a\": 1", "\"a\": 99999999999999999999", QS_E_INPUT, "parse bad.json"},
    {"\"merges\"", "\"mergers\"", QS_E_INPUT, "\"merges\" must be a list"},
    {"[\"a\", \"b\"]", "[\"a\", \"c\"]", QS_E_INPUT, "merge 0 needs the token \"c\""},
    {"[\"a\", \"b\"]", "[\"b\", \"a\"]", QS_E_INPUT, "merge 0 needs the token \"ba\""},
    {"[\"a\", \"b\"]", "[\"a\", \"b\", \"ab\"]", QS_E_INPUT, "merge 0 must be"},
    {"[\"a\", \"b\"]", "[1, 2]", QS_E_INPUT, "merge 0 must be"},
    {"[\"a\", \"b\"]", "\"ab\"", QS_E_INPUT, "merge 0 must be"},
    {"[\"a\", \"b\"]", "\"a b ab\"", QS_E_INPUT, "merge 0 must be"},
    {"[\"a\", \"b\"]", "\"a b\", null", QS_E_INPUT, "merge 1 must be"},
    /* added tokens */
    {"\"added_tokens\": [", "\"added_tokens\": [5, ", QS_E_INPUT, "an added token must be an object"},
    {"\"content\": \"<s>\"", "\"content\": \"\"", QS_E_INPUT, "empty"},
    {"\"content\": \"<s>\"", "\"text\": \"<s>\"", QS_E_INPUT, "\"content\" is missing"},
    {"\"id\": 5", "\"id\": 6", QS_E_INPUT, "has the id 6, but its place gives it 5"},
    {"\"id\": 5", "\"id\": 2000000000", QS_E_INPUT, "must be an integer from 0"},
    {"\"content\": \"<s>\"", "\"content\": \"ab\"", QS_E_INPUT, "has the id 5, but its place gives it 3"},
    {"\"special\": true", "\"special\": 1", QS_E_INPUT, "\"special\" must be true or false"},
    {"\"added_tokens\": [", "\"added_tokens\": [{\"id\": 5, \"content\": \"<s>\"}, ", QS_E_INPUT, "<s>"},
    /* normalizer */
    {"\"NFC\"", "\"Lowercase\"", QS_E_UNSUPPORTED, "Lowercase"},
    {"{\"type\": \"NFC\"}", "{\"type\": \"Prepend\"}", QS_E_INPUT, "\"prepend\" is missing"},
    {"{\"type\": \"NFC\"}", "{\"type\": \"Replace\", \"content\": \"x\"}", QS_E_INPUT, "\"pattern\" must be"},
    {"{\"type\": \"NFC\"}", "{\"type\": \"Replace\", \"content\": \"x\", \"pattern\": {\"String\": \"\"}}",
     QS_E_UNSUPPORTED, "it is empty"},
    {"{\"type\": \"NFC\"}", "[]", QS_E_INPUT, "\"normalizer\" must be an object"},
    {"[{\"type\": \"NFC\"}]", "null", QS_E_INPUT, "needs the list \"normalizers\""},
    /* pre_tokenizer */
    {"{\"type\": \"Split\"", "{\"type\": \"BertPreTokenizer\"", QS_E_UNSUPPORTED, "BertPreTokenizer"},
    {"\"Isolated\"", "\"Shaken\"", QS_E_UNSUPPORTED, "Shaken"},
    {"\"Isolated\"", "\"Isolated\", \"invert\": 0", QS_E_INPUT, "\"invert\" must be true or false"},
    {"\\\\s+", "(", QS_E_UNSUPPORTED, "compile pattern"},
    {"\\\\s+", "a*", QS_E_UNSUPPORTED, "can match the empty string"},
    {"\\\\s+", "^a", QS_E_UNSUPPORTED, "an anchor"},
    {"\\\\s+", "\\\\w+", QS_E_UNSUPPORTED, "this escape"},
    {"\\\\s+", "\\\\ba", QS_E_UNSUPPORTED, "this escape"},
    {"\\\\s+", "(a)\\\\1", QS_E_UNSUPPORTED, "this escape"},
    {"\\\\s+", "\\\\p{Han}", QS_E_UNSUPPORTED, "general category"},
    {"\\\\s+", "\\\\p{L", QS_E_UNSUPPORTED, "this property"},
    {"\\\\s+", "[a&&b]", QS_E_UNSUPPORTED, "intersection"},
    {"\\\\s+", "[[:alpha:]]", QS_E_UNSUPPORTED, "class inside a class"},
    {"\\\\s+", "[\\\\S]", QS_E_UNSUPPORTED, "negated escape"},
    {"\\\\s+", "(?m:a)", QS_E_UNSUPPORTED, "this group"},
    {"\\\\s+", "(*ACCEPT)a", QS_E_UNSUPPORTED, "this group"},
    {"\\\\s+", "a{1,3}+", QS_E_UNSUPPORTED, "this repetition"},
    {"\\\\s+", "a{,3}", QS_E_UNSUPPORTED, "this repetition"},
    {"\\\\s+", "a\\\\xff", QS_E_UNSUPPORTED, "character escape"},
    {"\"Regex\"", "\"Glob\"", QS_E_INPUT, "\"Regex\" is missing"},
    {"\"pre_tokenizer\": {\"type\": \"Split\"",
     "\"pre_tokenizer\": {\"type\": \"Digits\", \"individual_digits\": 1}, \"rest\": {\"type\": \"Split\"",
     QS_E_INPUT, "individual_digits"},
    {"\"pre_tokenizer\": {\"type\": \"Split\"",
     "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"__\"}, \"rest\": {\"type\": \"Split\"",
     QS_E_INPUT, "one character"},
    {"\"pre_tokenizer\": {\"type\": \"Split\"",
     "\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"_\", \"add_prefix_space\": false}, "
     "\"rest\": {\"type\": "
     "\"Split\"",
     QS_E_INPUT, "contradict"},
    {"\"pre_tokenizer\": {\"type\": \"Split\"",
     "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\", "
     "\"add_prefix_space\": false},"
     " {\"type\": \"Digits\", \"individual_digits\": true}]}, \"rest\": {\"type\": \"Split\"",
     QS_E_UNSUPPORTED, "after ByteLevel"},
    /* post_processor */
    {"\"TemplateProcessing\"", "\"BertProcessing\"", QS_E_UNSUPPORTED, "BertProcessing"},
    {"\"single\"", "\"double\"", QS_E_INPUT, "\"single\""},
    {"\"ids\": [5]", "\"ids\": [6]", QS_E_INPUT, "not in the vocabulary"},
    {"\"ids\": [5]", "\"ids\": \"5\"", QS_E_INPUT, "has no ids"},
    {"\"id\": \"A\"", "\"id\": \"B\"", QS_E_UNSUPPORTED, "must name the text A"},
    {"{\"Sequence\"", "{\"SpecialToken\": {\"id\": \"<s>\"}}, {\"Row\"", QS_E_INPUT, "item 2"},
    {"{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}", "{\"SpecialToken\": {\"id\": \"<s>\"}}",
     QS_E_UNSUPPORTED, "exactly once"},
    /* decoder */
    {"\"Fuse\"", "\"WordPiece\"", QS_E_UNSUPPORTED, "WordPiece"},
    {"{\"type\": \"Fuse\"}", "{\"type\": \"Strip\", \"content\": \" \", \"start\": -1, \"stop\": 0}",
     QS_E_INPUT, "\"start\""},
    {"{\"type\": \"Fuse\"}", "{\"kind\": \"Fuse\"}", QS_E_INPUT, "\"type\" is missing"},
};

static void test_good(void **state)
{
    (void)state;
    qs_tokenizer *t;
    assert_ok(qs_tokenizer_from_json(&t, good, strlen(good), "good.json"));
    static const int32_t wanted[] = {5, 3, 4, 2, 0, 0, 5};
    qs_token_list list = encode(t, "ab b!?<s>", 9, true);
    assert_int_equal(list.n, 7);
    for (int i = 0; i < 7; i++) assert_int_equal(list.ids[i], wanted[i]);
    qs_token_list_free(&list);
    qs_tokenizer_destroy(t);
}

static void test_faults(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        char *text =
            faults[f].old == NULL ? strdup(faults[f].fresh) : replaced(good, faults[f].old, faults[f].fresh);
        qs_tokenizer *t = NULL;
        qs_err err = qs_tokenizer_from_json(&t, text, strlen(text), "bad.json");
        if (err != faults[f].code || strstr(qs_error_text(), faults[f].part) == NULL ||
            strstr(qs_error_text(), "bad.json") == NULL)
            fail_msg("%s -> %s: got %d \"%s\", wanted %d \"%s\"", faults[f].old, faults[f].fresh, (int)err,
                     err == QS_OK ? "" : qs_error_text(), (int)faults[f].code, faults[f].part);
        assert_null(t);
        free(text);
    }
}

/* Sequences nested deeper than any file needs are refused before the stack is. */
static void test_nesting(void **state)
{
    (void)state;
    enum { DEPTH = 500 };
    char *nested = calloc(DEPTH + 1, 64);
    assert_non_null(nested);
    for (int d = 0; d < DEPTH; d++) strcat(nested, "{\"type\": \"Sequence\", \"normalizers\": [");
    strcat(nested, "{\"type\": \"NFC\"}");
    for (int d = 0; d < DEPTH; d++) strcat(nested, "]}");
    char *text = replaced(good, "{\"type\": \"NFC\"}", nested);
    qs_tokenizer *t;
    assert_fails(qs_tokenizer_from_json(&t, text, strlen(text), "deep.json"), QS_E_UNSUPPORTED, "nested");
    free(text);
    free(nested);
}

/* An expression that needs exponentially many steps ends in an error, not in waiting. */
static void test_catastrophic_pattern(void **state)
{
    (void)state;
    char *text = replaced(good, "\\\\s+", "(a+)+[bc]"), run[64];
    memset(run, 'a', sizeof run);
    qs_tokenizer *t;
    qs_token_list list = {0};
    assert_ok(qs_tokenizer_from_json(&t, text, strlen(text), "slow.json"));
    assert_fails(qs_tokenizer_encode(t, run, sizeof run, false, &list), QS_E_INPUT, "(a+)+[bc]");
    qs_token_list_free(&list);
    qs_tokenizer_destroy(t);
    free(text);
}

/* The unknown token is named but does not exist: only a text that needs it fails. */
static void test_missing_unknown(void **state)
{
    (void)state;
    char *text = replaced(good, "\"unk_token\": \"?\"", "\"unk_token\": \"<unk>\"");
    qs_tokenizer *t;
    qs_token_list list = {0};
    assert_ok(qs_tokenizer_from_json(&t, text, strlen(text), "unk.json"));
    assert_ok(qs_tokenizer_encode(t, "ab", 2, false, &list));
    assert_fails(qs_tokenizer_encode(t, "ab\xc3\xa9", 4, false, &list), QS_E_INPUT, "\xc3\xa9");
    assert_int_equal(list.n, 1);
    qs_token_list_free(&list);
    qs_tokenizer_destroy(t);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_catastrophic_pattern),
        cmocka_unit_test(test_missing_unknown),
    };
    return cmocka_run_group_tests_name("tokenizer_faults", tests, NULL, NULL);
}
