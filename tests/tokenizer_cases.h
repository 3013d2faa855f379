/* Shared by the tests of tokenizers: opening fixtures and running the cases that the `tokenizers` library
 * answered (scripts/peers/make_tokenizer_fixtures.py). */
#ifndef QS_TESTS_TOKENIZER_CASES_H
#define QS_TESTS_TOKENIZER_CASES_H

#include "model_files.h"

#include "base/json.h"
#include "model/tokenizer.h"

#define TOKENIZERS "tests/fixtures/tokenizer/"

static inline qs_tokenizer *open_tokenizer(const char *kind)
{
    char path[QS_PATH_BYTES];
    qs_tokenizer *tokenizer;
    assert_ok(qs_path_format(path, TOKENIZERS "%s/tokenizer.json", kind));
    bytes b = load_file(path);
    assert_ok(qs_tokenizer_from_json(&tokenizer, b.data, b.n, path));
    qs_mem_free(b.data);
    return tokenizer;
}

static inline json_t *load_document(const char *kind)
{
    char path[QS_PATH_BYTES];
    json_t *root;
    assert_ok(qs_path_format(path, TOKENIZERS "%s/tokenizer.json", kind));
    assert_ok(qs_json_load(&root, path));
    return root;
}

static inline qs_tokenizer *tokenizer_of_document(const json_t *root)
{
    qs_tokenizer *tokenizer;
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    assert_ok(qs_tokenizer_from_json(&tokenizer, text, strlen(text), "edited"));
    free(text);
    return tokenizer;
}

static inline qs_token_list encode(const qs_tokenizer *tokenizer, const char *text, size_t n, bool specials)
{
    qs_token_list list = {0};
    assert_ok(qs_tokenizer_encode(tokenizer, text, n, specials, &list));
    return list;
}

static inline void assert_ids(const qs_tokenizer *tokenizer, const json_t *row, const char *key,
                              bool specials)
{
    const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, key);
    qs_token_list list = encode(tokenizer, json_string_value(text), json_string_length(text), specials);
    size_t n = json_array_size(ids);
    if ((size_t)list.n != n)
        fail_msg("\"%s\": %lld tokens, wanted %zu", json_string_value(text), (long long)list.n, n);
    for (size_t i = 0; i < n; i++)
        if (list.ids[i] != json_integer_value(json_array_get(ids, i)))
            fail_msg("\"%s\": token %zu is %d, wanted %lld", json_string_value(text), i, list.ids[i],
                     (long long)json_integer_value(json_array_get(ids, i)));
    qs_token_list_free(&list);
}

static inline void assert_text(const qs_tokenizer *tokenizer, const json_t *row, const char *key, bool skip)
{
    const json_t *ids = json_object_get(row, "ids_special");
    int64_t n = (int64_t)json_array_size(ids);
    int32_t *list;
    char *text;
    assert_ok(QS_NEW(list, n, "ids"));
    for (int64_t i = 0; i < n; i++) list[i] = (int32_t)json_integer_value(json_array_get(ids, (size_t)i));
    assert_ok(qs_tokenizer_decode(tokenizer, list, n, skip, &text));
    assert_string_equal(text, json_string_value(json_object_get(row, key)));
    qs_mem_free(text);
    qs_mem_free(list);
}

/* The rows of <kind>/cases.jsonl, one after another; the callback's context is the tokenizer under test. */
static inline int for_each_case(const char *kind, void (*check)(const qs_tokenizer *, const json_t *),
                                const qs_tokenizer *tokenizer)
{
    char path[QS_PATH_BYTES];
    assert_ok(qs_path_format(path, TOKENIZERS "%s/cases.jsonl", kind));
    bytes b = load_file(path);
    int n = 0;
    for (char *line = b.data; *line != '\0'; n++) {
        size_t length = strcspn(line, "\n");
        json_t *row;
        assert_ok(qs_json_parse(&row, line, length, path));
        check(tokenizer, row);
        json_decref(row);
        line += length + (line[length] == '\n');
    }
    qs_mem_free(b.data);
    return n;
}

static inline void check_case(const qs_tokenizer *tokenizer, const json_t *row)
{
    assert_ids(tokenizer, row, "ids", false);
    assert_ids(tokenizer, row, "ids_special", true);
    assert_text(tokenizer, row, "decoded", false);
    assert_text(tokenizer, row, "decoded_skip", true);
}

#endif
