/* Two tokenizers of one kind that must give the same tokens and texts on every case, one made from a tokenizer.json and
 * one from a GGUF vocabulary. */
#ifndef QS_TESTS_TOKENIZER_TWINS_H
#define QS_TESTS_TOKENIZER_TWINS_H

#include "tokenizer_cases.h"

/* Leaves the special tokens that the kind itself has: GGUF has no words for the flags of the others. */
static inline void drop_flags(json_t *root)
{
    json_t *added = json_object_get(root, "added_tokens");
    for (size_t i = json_array_size(added); i-- > 0;) {
        json_t *token = json_array_get(added, i);
        if (!json_is_true(json_object_get(token, "special")) ||
            strcmp(json_string_value(json_object_get(token, "content")), "<x>") == 0)
            assert_int_equal(json_array_remove(added, i), 0);
    }
}

/* The other of the two, for check_twins. */
static const qs_tokenizer *twin;

static inline void check_twins(const qs_tokenizer *tokenizer, const json_t *row)
{
    const json_t *text = json_object_get(row, "text");
    for (int specials = 0; specials < 2; specials++) {
        qs_token_list a = encode(twin, json_string_value(text), json_string_length(text), specials == 1);
        qs_token_list b = encode(tokenizer, json_string_value(text), json_string_length(text), specials == 1);
        char *x, *y;
        if (a.n != b.n) fail_msg("\"%s\": %d and %d tokens", json_string_value(text), (int)a.n, (int)b.n);
        for (int64_t i = 0; i < a.n; i++) assert_int_equal(a.ids[i], b.ids[i]);
        assert_ok(qs_tokenizer_decode(twin, a.ids, a.n, specials == 1, &x));
        assert_ok(qs_tokenizer_decode(tokenizer, a.ids, a.n, specials == 1, &y));
        assert_string_equal(x, y);
        qs_mem_free(x);
        qs_mem_free(y);
        qs_token_list_free(&a);
        qs_token_list_free(&b);
    }
}

#endif
