/* Tokens and text equal to those of the `tokenizers` library, from tokenizer.json and from GGUF vocabularies.
 * Demand: byte-level BPE and SPM, token-exact; checklist G7 (tokenizer hash). */
#include "tokenizer_twins.h"

#include <omp.h>

#include "base/clock.h"
#include "base/rng.h"
#include "model/weights.h"

enum { N_CASES = 96 };

/* ---- tokenizer.json of every kind ---- */

static void test_kinds(void **state)
{
    (void)state;
    static const char *const kinds[] = {"gpt2",   "smollm2", "llama3",  "qwen2",
                                        "tekken", "llama2",  "mistral", "metaspace"};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        print_message("%s\n", kinds[k]);
        qs_tokenizer *tokenizer = open_tokenizer(kinds[k]);
        assert_int_equal(for_each_case(kinds[k], check_case, tokenizer), N_CASES);
        qs_tokenizer_destroy(tokenizer);
    }
}

static void test_facts(void **state)
{
    (void)state;
    qs_tokenizer *llama3 = open_tokenizer("llama3"), *tekken = open_tokenizer("tekken"),
                 *gpt2 = open_tokenizer("gpt2");
    assert_int_equal(qs_tokenizer_n_vocab(llama3), 1416);
    assert_int_equal(qs_tokenizer_bos(llama3), qs_tokenizer_find(llama3, "<|begin_of_text|>"));
    assert_int_equal(qs_tokenizer_eos(llama3), qs_tokenizer_find(llama3, "<|end_of_text|>"));
    assert_true(qs_tokenizer_adds_bos(llama3) && qs_tokenizer_adds_bos(tekken));
    assert_int_equal(qs_tokenizer_bos(tekken), 1);
    assert_int_equal(qs_tokenizer_eos(tekken), 2);
    assert_int_equal(qs_tokenizer_bos(gpt2), -1);
    assert_int_equal(qs_tokenizer_eos(gpt2), 0);
    assert_false(qs_tokenizer_adds_bos(gpt2));
    assert_int_equal(qs_tokenizer_find(gpt2, "no such token"), -1);
    assert_int_equal(qs_tokenizer_find(gpt2, "<mask>"), 1400);
    qs_tokenizer_destroy(llama3);
    qs_tokenizer_destroy(tekken);
    qs_tokenizer_destroy(gpt2);
}

static void test_config(void **state)
{
    (void)state;
    qs_tokenizer *t = open_tokenizer("smollm2");
    static const char good[] =
        "{\"bos_token\": \"<|im_start|>\", \"eos_token\": {\"content\": \"<|im_end|>\"}, "
        "\"model_max_length\": 1000000000000000019884624838656}"; /* as transformers writes it */
    static const char none[] = "{\"bos_token\": null, \"pad_token\": \"x\"}",
                      bad[] = "{\"eos_token\": \"<|nowhere|>\"}";
    assert_int_equal(qs_tokenizer_bos(t), -1);
    assert_ok(qs_tokenizer_apply_config(t, good, strlen(good), "config"));
    assert_int_equal(qs_tokenizer_bos(t), 1);
    assert_int_equal(qs_tokenizer_eos(t), 2);
    assert_ok(qs_tokenizer_apply_config(t, none, strlen(none), "config"));
    assert_int_equal(qs_tokenizer_bos(t), 1);
    assert_fails(qs_tokenizer_apply_config(t, bad, strlen(bad), "config"), QS_E_INPUT, "<|nowhere|>");
    assert_int_equal(qs_tokenizer_eos(t), 2);
    qs_tokenizer_destroy(t);
}

/* Equal tokenizers have equal digests, whatever the spelling of the file; any change of a rule shows. */
static void test_digest(void **state)
{
    (void)state;
    json_t *root = load_document("llama3");
    qs_tokenizer *a = open_tokenizer("llama3"), *b = tokenizer_of_document(root);
    qs_digest digest = qs_tokenizer_digest(a), other = qs_tokenizer_digest(b);
    assert_memory_equal(&digest, &other, sizeof digest);
    qs_tokenizer_destroy(b);
    static const char *const changes[][2] = {
        {"model", "{\"ignore_merges\": false}"},
        {"model", "{\"merges\": []}"},
        {"model", "{\"byte_fallback\": true}"},
        {"", "{\"normalizer\": {\"type\": \"NFC\"}}"},
        {"", "{\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true}}"},
        {"", "{\"post_processor\": null}"},
        {"", "{\"decoder\": null}"},
    };
    for (size_t c = 0; c < sizeof changes / sizeof *changes; c++) {
        json_t *copy = json_deep_copy(root), *change = json_loads(changes[c][1], 0, NULL);
        assert_int_equal(json_object_update(
                             changes[c][0][0] == '\0' ? copy : json_object_get(copy, changes[c][0]), change),
                         0);
        b = tokenizer_of_document(copy);
        other = qs_tokenizer_digest(b);
        assert_memory_not_equal(&digest, &other, sizeof digest);
        qs_tokenizer_destroy(b);
        json_decref(change);
        json_decref(copy);
    }
    qs_tokenizer_destroy(a);
    json_decref(root);
}

/* Corners that the peer showed on random tokenizers, in their smallest form. */
static void test_corners(void **state)
{
    (void)state;
    static const struct {
        const char *document, *text;
        int64_t n;
        int32_t ids[4];
    } rows[] = {
        /* An unknown character without a token for it vanishes, and the marks beside it merge. */
        {"{\"model\": {\"vocab\": {\"\xe2\x96\x81\": 0, \"\xe2\x96\x81\xe2\x96\x81\": 1}, \"merges\": "
         "[[\"\xe2\x96\x81\", "
         "\"\xe2\x96\x81\"]]}}",
         "\xe2\x96\x81x\xe2\x96\x81",
         1,
         {1}},
        /* With a token for it, they do not. */
        {"{\"model\": {\"unk_token\": \"?\", \"vocab\": {\"\xe2\x96\x81\": 0, \"\xe2\x96\x81\xe2\x96\x81\": "
         "1, \"?\": 2}, "
         "\"merges\": [[\"\xe2\x96\x81\", \"\xe2\x96\x81\"]]}}",
         "\xe2\x96\x81x\xe2\x96\x81",
         3,
         {0, 2, 0}},
        /* White space that the first token strips on its right swallows the second. */
        {"{\"added_tokens\": [{\"id\": 1, \"content\": \" \", \"lstrip\": true, \"rstrip\": true}], "
         "\"model\": {\"vocab\": "
         "{\"a\": 0}, \"merges\": []}}",
         "a   a",
         3,
         {0, 1, 0}},
        /* A merge listed twice has the rank of its last place: "ab" is made after "bc". */
        {"{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"bc\": 4}, \"merges\": [\"a "
         "b\", \"b c\", \"a b\"]}}",
         "abc",
         2,
         {0, 4}},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        qs_tokenizer *t;
        assert_ok(qs_tokenizer_from_json(&t, rows[r].document, strlen(rows[r].document), "corner"));
        qs_token_list list = encode(t, rows[r].text, strlen(rows[r].text), true);
        assert_int_equal(list.n, rows[r].n);
        for (int64_t i = 0; i < list.n; i++) assert_int_equal(list.ids[i], rows[r].ids[i]);
        qs_token_list_free(&list);
        qs_tokenizer_destroy(t);
    }
}

/* ---- GGUF vocabularies, made from the fixtures by hand ---- */

typedef struct hand_vocab {
    qs_gguf_vocab v;
    const char **tokens, **merges;
    int64_t *token_bytes, *merge_bytes;
    int32_t *types;
    float *scores;
    char *merge_text;
} hand_vocab;

static void fill_tokens(hand_vocab *h, json_t *root)
{
    json_t *vocab = json_object_get(json_object_get(root, "model"), "vocab"),
           *added = json_object_get(root, "added_tokens");
    int64_t n = (int64_t)json_object_size(vocab) + (int64_t)json_array_size(added);
    assert_ok(QS_NEW(h->tokens, n, "tokens"));
    assert_ok(QS_NEW(h->token_bytes, n, "lengths"));
    assert_ok(QS_NEW(h->types, n, "types"));
    assert_ok(QS_NEW(h->scores, n, "scores"));
    h->v.n_vocab = (int64_t)json_object_size(vocab);
    for (void *it = json_object_iter(vocab); it != NULL; it = json_object_iter_next(vocab, it)) {
        json_int_t id = json_integer_value(json_object_iter_value(it));
        h->tokens[id] = json_object_iter_key(it);
        h->types[id] = strncmp(h->tokens[id], "<0x", 3) == 0 ? 6 : 1;
        h->scores[id] = -(float)id;
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        json_t *token = json_array_get(added, i);
        json_int_t id = json_integer_value(json_object_get(token, "id"));
        h->tokens[id] = json_string_value(json_object_get(token, "content"));
        h->types[id] = json_is_true(json_object_get(token, "special")) ? 3 : 4;
        if (id >= h->v.n_vocab) h->v.n_vocab = id + 1;
    }
    for (int64_t id = 0; id < h->v.n_vocab; id++) h->token_bytes[id] = (int64_t)strlen(h->tokens[id]);
}

static void fill_merges(hand_vocab *h, json_t *root)
{
    json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    int64_t n = (int64_t)json_array_size(merges);
    char *text = h->merge_text = calloc((size_t)n + 1, 256);
    assert_non_null(text);
    assert_ok(QS_NEW(h->merges, n, "merges"));
    assert_ok(QS_NEW(h->merge_bytes, n, "lengths"));
    h->v.n_merges = n;
    for (int64_t m = 0; m < n; m++, text += 256) {
        json_t *pair = json_array_get(merges, (size_t)m);
        h->merge_bytes[m] = snprintf(text, 256, "%s %s", json_string_value(json_array_get(pair, 0)),
                                     json_string_value(json_array_get(pair, 1)));
        h->merges[m] = text;
    }
}

/* `root` must outlive the vocabulary. */
static hand_vocab make_vocab(json_t *root, const char *model, const char *pre)
{
    hand_vocab h = {.v = {.model = model,
                          .pre = pre,
                          .bos_id = -1,
                          .eos_id = -1,
                          .unknown_id = -1,
                          .add_bos = -1,
                          .add_space_prefix = -1}};
    fill_tokens(&h, root);
    h.v.tokens = h.tokens;
    h.v.token_bytes = h.token_bytes;
    h.v.types = h.types;
    if (strcmp(model, "llama") == 0) {
        h.v.scores = h.scores;
    } else {
        fill_merges(&h, root);
        h.v.merges = h.merges;
        h.v.merge_bytes = h.merge_bytes;
    }
    return h;
}

static void free_vocab(hand_vocab *h)
{
    qs_mem_free((void *)h->tokens);
    qs_mem_free((void *)h->merges);
    qs_mem_free(h->token_bytes);
    qs_mem_free(h->merge_bytes);
    qs_mem_free(h->types);
    qs_mem_free(h->scores);
    free(h->merge_text);
}

/* A GGUF vocabulary gives the tokens of the tokenizer.json that it was made of. */
static void test_gguf_twins(void **state)
{
    (void)state;
    static const struct {
        const char *kind, *model, *pre, *bos;
    } rows[] = {
        {"gpt2", "gpt2", "gpt-2", NULL},
        {"smollm2", "gpt2", "smollm", NULL},
        {"llama3", "gpt2", "llama-bpe", "<|begin_of_text|>"},
        {"qwen2", "gpt2", "qwen2", NULL},
        {"llama2", "llama", NULL, "<s>"},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        print_message("%s\n", rows[r].kind);
        json_t *root = load_document(rows[r].kind);
        drop_flags(root);
        qs_tokenizer *a = tokenizer_of_document(root), *b;
        hand_vocab h = make_vocab(root, rows[r].model, rows[r].pre);
        if (rows[r].bos != NULL) h.v.bos_id = qs_tokenizer_find(a, rows[r].bos);
        if (strcmp(rows[r].model, "llama") == 0) h.v.unknown_id = 0;
        assert_ok(qs_tokenizer_from_gguf(&b, &h.v, "hand"));
        assert_int_equal(qs_tokenizer_adds_bos(b), rows[r].bos != NULL);
        twin = a;
        assert_int_equal(for_each_case(rows[r].kind, check_twins, b), N_CASES);
        /* Without BOS on demand. */
        h.v.add_bos = 0;
        qs_tokenizer_destroy(b);
        assert_ok(qs_tokenizer_from_gguf(&b, &h.v, "hand"));
        assert_false(qs_tokenizer_adds_bos(b));
        qs_tokenizer_destroy(a);
        qs_tokenizer_destroy(b);
        free_vocab(&h);
        json_decref(root);
    }
}

static void test_gguf_faults(void **state)
{
    (void)state;
    json_t *root = load_document("smollm2");
    qs_tokenizer *t;
    hand_vocab h = make_vocab(root, "gpt2", "strange-bpe");
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_UNSUPPORTED, "strange-bpe");
    h.v.pre = "smollm";
    h.v.model = "bert";
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_UNSUPPORTED, "bert");
    h.v.model = "llama";
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "scores");
    h.v.model = "gpt2";
    h.v.bos_id = 5000;
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "BOS");
    h.v.bos_id = -1;
    h.v.merge_bytes = h.merge_bytes;
    h.merges[7] = "noparts";
    h.merge_bytes[7] = 7;
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "merge 7");
    h.merges[7] = "zq zz";
    h.merge_bytes[7] = 5;
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "\"zq\"");
    h.v.n_merges = 0;
    h.tokens[9] = h.tokens[8];
    h.token_bytes[9] = h.token_bytes[8];
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "listed twice");
    h.v.n_vocab = 0;
    assert_fails(qs_tokenizer_from_gguf(&t, &h.v, "hand"), QS_E_INPUT, "0 tokens");
    assert_null(t);
    free_vocab(&h);
    json_decref(root);
}

/* The real vocabulary, through qs_model_open. */
static void test_smollm2(void **state)
{
    (void)state;
    const char *path = getenv("QS_TEST_SMOLLM2");
    if (path == NULL) path = "datasets/models/smollm2-135m-instruct-q4_1.gguf";
    if (!qs_file_exists(path)) {
        print_message("no model at %s; name one with QS_TEST_SMOLLM2\n", path);
        skip();
    }
    qs_model *model;
    assert_ok(qs_model_open(&model, path));
    const qs_tokenizer *tokenizer = qs_model_get_tokenizer(model);
    assert_non_null(tokenizer);
    assert_int_equal(qs_tokenizer_n_vocab(tokenizer), 49152);
    assert_int_equal(qs_tokenizer_eos(tokenizer), qs_tokenizer_find(tokenizer, "<|im_end|>"));
    assert_int_equal(for_each_case("smollm2_gguf", check_case, tokenizer), N_CASES);
    qs_model_close(model);
}

/* ---- properties ---- */

static void test_invalid_utf8(void **state)
{
    (void)state;
    qs_tokenizer *t = open_tokenizer("smollm2");
    static const struct {
        const char *text;
        const char *place;
    } rows[] = {
        {"ab\xff", "byte 2"},       {"\xc3", "byte 0"},     {"longer text \xe2\x82", "byte 12"},
        {"\xed\xa0\x80", "byte 0"}, {"\xc0\xaf", "byte 0"}, {"0123456789abcdef\xf5\x80\x80\x80", "byte 16"}};
    qs_token_list list = encode(t, "kept", 4, false);
    int64_t n = list.n;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        assert_fails(qs_tokenizer_encode(t, rows[r].text, strlen(rows[r].text), true, &list), QS_E_INPUT,
                     rows[r].place);
        assert_int_equal(list.n, n);
    }
    /* Bytes that are no text on their own become U+FFFD; an id without a token has no text. */
    const int32_t broken[] = {qs_tokenizer_find(t, "\xc3\xa2"), qs_tokenizer_find(t, "a"), 100000,
                              -5}; /* byte E2 */
    char *text;
    assert_ok(qs_tokenizer_decode(t, broken, 4, false, &text));
    assert_string_equal(text, "\xef\xbf\xbd"
                              "a");
    qs_mem_free(text);
    qs_token_list_free(&list);
    qs_tokenizer_destroy(t);
}

/* One piece of a million characters takes seconds, not the hours of a quadratic merge; decoding gives it
 * back. */
static void test_long_pieces(void **state)
{
    (void)state;
    static const char *const kinds[] = {"smollm2", "llama3", "llama2", "mistral"};
    enum { N = 1000000 };
    char *text = malloc(N);
    assert_non_null(text);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        qs_tokenizer *t = open_tokenizer(kinds[k]);
        for (int repeated = 0; repeated < 2; repeated++) {
            for (int i = 0; i < N; i++)
                text[i] = repeated == 1 ? 'a' : "thequantisermodel"[qs_rng_below(1, (uint64_t)i, 17)];
            double started = qs_clock_seconds();
            qs_token_list list = encode(t, text, N, false);
            assert_true(qs_clock_seconds() - started < 60);
            char *back;
            assert_ok(qs_tokenizer_decode(t, list.ids, list.n, false, &back));
            assert_int_equal(strlen(back), N);
            assert_memory_equal(back, text, N);
            qs_mem_free(back);
            qs_token_list_free(&list);
        }
        qs_tokenizer_destroy(t);
    }
    free(text);
}

/* One tokenizer, several threads at once. */
static void test_threads(void **state)
{
    (void)state;
    enum { N_THREADS = 4 };
    qs_tokenizer *t = open_tokenizer("qwen2");
    bytes text = load_file(TOKENIZERS "qwen2/cases.jsonl");
    qs_token_list lists[N_THREADS] = {{0}}, alone = encode(t, text.data, text.n, true);
    qs_err errors[N_THREADS];
#pragma omp parallel for num_threads(N_THREADS) schedule(static)
    for (int i = 0; i < N_THREADS; i++)
        errors[i] = qs_tokenizer_encode(t, text.data, text.n, true, &lists[i]);
    for (int i = 0; i < N_THREADS; i++) {
        assert_int_equal(errors[i], QS_OK);
        assert_int_equal(lists[i].n, alone.n);
        assert_memory_equal(lists[i].ids, alone.ids, (size_t)alone.n * sizeof *alone.ids);
        qs_token_list_free(&lists[i]);
    }
    qs_token_list_free(&alone);
    qs_mem_free(text.data);
    qs_tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds),       cmocka_unit_test(test_facts),
        cmocka_unit_test(test_config),      cmocka_unit_test(test_digest),
        cmocka_unit_test(test_gguf_twins),  cmocka_unit_test(test_gguf_faults),
        cmocka_unit_test(test_smollm2),     cmocka_unit_test(test_invalid_utf8),
        cmocka_unit_test(test_long_pieces), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_corners),
    };
    return cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
}
