/* Tokenizers that are written for other runtimes: a tokenizer.json becomes a GGUF vocabulary and a GGUF
 * vocabulary a tokenizer.json, and both give the tokens of the original on every text of the fixtures (which
 * the `tokenizers` library answered). Checklist G7. */
#include "tokenizer_twins.h"

#include "model/gguf_vocab.h"

static void test_round_trip(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *model, *pre;
    } rows[] = {
        {"gpt2", "gpt2", "gpt-2"},       {"smollm2", "gpt2", "smollm"}, {"llama3", "gpt2", "llama-bpe"},
        {"qwen2", "gpt2", "qwen2"},      {"llama2", "llama", NULL},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        print_message("%s\n", rows[r].kind);
        json_t *root = load_document(rows[r].kind), *made;
        drop_flags(root);
        qs_tokenizer *a = tokenizer_of_document(root), *b, *c;
        int64_t n_vocab = qs_tokenizer_n_vocab(a) + 3; /* an embedding with more rows than tokens */
        qs_gguf_tokens tokens;
        assert_ok(qs_gguf_tokens_from_json(&tokens, root, a, n_vocab, rows[r].kind));
        assert_int_equal(tokens.vocab.n_vocab, n_vocab);
        assert_string_equal(tokens.vocab.model, rows[r].model);
        if (rows[r].pre != NULL) assert_string_equal(tokens.vocab.pre, rows[r].pre);
        assert_ok(qs_tokenizer_from_gguf(&b, &tokens.vocab, "there"));
        assert_int_equal(qs_tokenizer_bos(a), qs_tokenizer_bos(b));
        assert_int_equal(qs_tokenizer_eos(a), qs_tokenizer_eos(b));
        assert_int_equal(qs_tokenizer_adds_bos(a), qs_tokenizer_adds_bos(b));
        twin = a;
        assert_true(for_each_case(rows[r].kind, check_twins, b) > 90);
        assert_ok(qs_tokenizer_json_from_gguf(&made, &tokens.vocab, "back"));
        c = tokenizer_of_document(made);
        assert_int_equal(qs_tokenizer_adds_bos(a), qs_tokenizer_adds_bos(c));
        assert_true(for_each_case(rows[r].kind, check_twins, c) > 90);
        json_decref(made);
        qs_gguf_tokens_free(&tokens);
        qs_tokenizer_destroy(a);
        qs_tokenizer_destroy(b);
        qs_tokenizer_destroy(c);
        json_decref(root);
    }
}

static void test_refused(void **state)
{
    (void)state;
    json_t *root = load_document("tekken"), *made;
    qs_gguf_tokens tokens;
    /* The right expression, and a piece that is a token is merged all the same: llama.cpp's tekken takes it
     * as it is. */
    qs_tokenizer *t = tokenizer_of_document(root);
    assert_fails(qs_gguf_tokens_from_json(&tokens, root, t, qs_tokenizer_n_vocab(t), "tekken.json"), QS_E_UNSUPPORTED,
                 "tekken.json");
    qs_tokenizer_destroy(t);
    json_decref(root);
    root = load_document("smollm2");
    drop_flags(root);
    /* Cutting by another expression than any that GGUF names. */
    json_t *pre = json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", "[a-z]+", "behavior",
                            "Isolated", "invert", 0);
    json_t *level = json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0, "use_regex", 0);
    assert_int_equal(json_object_set_new(root, "pre_tokenizer", json_pack("{s:s, s:[o, o]}", "type", "Sequence",
                                                                          "pretokenizers", pre, level)), 0);
    t = tokenizer_of_document(root);
    assert_fails(qs_gguf_tokens_from_json(&tokens, root, t, qs_tokenizer_n_vocab(t), "odd.json"), QS_E_UNSUPPORTED,
                 "odd.json");
    qs_tokenizer_destroy(t);
    json_decref(root);

    const char *texts[] = {"a", "\xff"};
    int64_t lengths[] = {1, 1};
    qs_gguf_vocab v = {.model = "gpt2", .pre = "gpt-2", .n_vocab = 2, .tokens = texts, .token_bytes = lengths,
                       .bos_id = -1, .eos_id = -1, .unknown_id = -1, .add_bos = -1, .add_space_prefix = -1};
    assert_fails(qs_tokenizer_json_from_gguf(&made, &v, "F"), QS_E_UNSUPPORTED, "token 1 is not UTF-8");
    texts[1] = "a";
    assert_fails(qs_tokenizer_json_from_gguf(&made, &v, "F"), QS_E_INPUT, "alike");
    texts[1] = "b";
    v.model = "bert";
    assert_fails(qs_tokenizer_json_from_gguf(&made, &v, "F"), QS_E_UNSUPPORTED, "bert");
    v.model = "llama";
    assert_fails(qs_tokenizer_json_from_gguf(&made, &v, "F"), QS_E_INPUT, "scores");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests_name("export_tokenizer", tests, NULL, NULL);
}
