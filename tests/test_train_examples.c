/* Examples: what tokens, weights and targets a line gives, packing into rows, order, and one refusal per
 * rule. Demand: issue "A model of our own" (loss on answers, bad input). */
#include "scratch.h"

#include "train/examples.h"

static qs_tokenizer *tokenizer;

static int setup(void **state)
{
    char *text;
    size_t bytes;
    if (scratch_create(state) != 0) return 1;
    OK(qs_file_read(&text, &bytes, "tests/fixtures/tiny/tokenizer.json", 1 << 24));
    OK(qs_tokenizer_from_json(&tokenizer, text, bytes, "tokenizer.json"));
    qs_mem_free(text);
    return 0;
}

static int teardown(void **state)
{
    qs_tokenizer_destroy(tokenizer);
    return scratch_remove(state);
}

static qs_err open_text(qs_examples **out, const char *name, const char *text, int64_t n_ctx, bool shuffle)
{
    scratch_path path;
    const qs_examples_options options = {.n_ctx = n_ctx, .answer_weight = 10, .shuffle = shuffle, .seed = 5};
    text_write(scratch(path, name), text);
    return qs_examples_open(out, path, tokenizer, &options);
}

static int64_t encode(const char *text, int32_t *ids)
{
    qs_token_list list = {0};
    OK(qs_tokenizer_encode(tokenizer, text, strlen(text), false, &list));
    int64_t n = list.n;
    memcpy(ids, list.ids, (size_t)n * sizeof *ids);
    qs_token_list_free(&list);
    return n;
}

/* prompt, answer, EOS, prompt, answer, EOS; targets are the next tokens, weights those of the targets. */
static void test_turns(void **state)
{
    (void)state;
    qs_examples *examples;
    qs_batch batch;
    int32_t ids[128];
    int64_t cursor = 0, n = 0, ends[4];
    OK(open_text(&examples, "a.jsonl",
                 "\n{\"prompt\": \"Is it? \", \"answer\": \"yes\", \"more\": [[\"And? \", "
                 "\"no\"]]}\n{\"text\": \"plain\"}\r\n",
                 64, false));
    assert_int_equal(qs_examples_n(examples), 2);
    assert_true(qs_examples_have_answers(examples));
    static const char *const parts[] = {"Is it? ", "yes", "And? ", "no"};
    for (int i = 0; i < 4; i++) {
        n += encode(parts[i], ids + n);
        if (i % 2 == 1) ids[n++] = qs_tokenizer_eos(tokenizer);
        ends[i] = n;
    }
    OK(qs_batch_init(&batch, 1, 64));
    OK(qs_examples_fill(examples, &cursor, 2, &batch));
    assert_int_equal(cursor, 2);
    assert_int_equal(batch.n_segments[0], 2);
    assert_int_equal(batch.segments[0].n, n);
    assert_int_equal(batch.segments[1].first, n);
    for (int64_t i = 0; i + 1 < n; i++) {
        bool answer = (i + 1 >= ends[0] && i + 1 < ends[1]) || i + 1 >= ends[2];
        assert_int_equal(batch.tokens[i], ids[i]);
        assert_int_equal(batch.targets[i], ids[i + 1]);
        assert_int_equal(batch.is_answer[i], answer);
        assert_true(batch.weights[i] == (answer ? 10.0f : 1.0f));
    }
    assert_true(batch.weights[n - 1] == 0.0f); /* nothing follows in this example */
    int64_t n_plain = encode("plain", ids);
    assert_int_equal(batch.segments[1].n, n_plain + 1);
    assert_true(batch.weights[n] == 1.0f && !batch.is_answer[n]);
    assert_int_equal(batch.n_tokens, n + n_plain + 1);
    double sum = 0;
    for (int64_t i = 0; i < 64; i++) sum += batch.weights[i];
    assert_true(sum == batch.weight);
    OK(qs_examples_fill(examples, &cursor, 2, &batch));
    assert_int_equal(batch.n_tokens, 0);
    qs_batch_fini(&batch);
    qs_examples_close(examples);
}

static void test_packing_and_order(void **state)
{
    (void)state;
    qs_examples *examples;
    qs_batch batch;
    char text[8192] = "", line[64];
    for (int i = 0; i < 64; i++) {
        (void)snprintf(line, sizeof line, "{\"text\": \"%c%.*s\"}\n", 'A' + i % 26, i % 7 * 3,
                       "abcabcabcabcabcabcabc");
        strcat(text, line);
    }
    strcat(text, "{\"text\": \"");
    for (int i = 0; i < 40; i++) strcat(text, "(1)");
    strcat(text, "\"}\n");
    OK(open_text(&examples, "b.jsonl", text, 64, true));
    OK(qs_batch_init(&batch, 2, 64));
    /* Two rounds: each example once a round, in orders that differ; the one that is too long is left out. */
    int64_t cursor = 0, n_seen = 0;
    int32_t firsts[2][128];
    for (int round = 0; round < 2; round++) {
        n_seen = 0;
        while (cursor < 65 * (round + 1)) {
            OK(qs_examples_fill(examples, &cursor, 65 * (round + 1), &batch));
            for (int64_t row = 0; row < 2; row++)
                for (int64_t s = 0; s < batch.n_segments[row]; s++) {
                    const qs_segment *segment = &batch.segments[row * batch.n_segments_max + s];
                    assert_true(segment->first + segment->n <= 64);
                    firsts[round][n_seen++] = batch.tokens[row * 64 + segment->first];
                }
        }
        assert_int_equal(n_seen, 64);
        assert_int_equal(qs_examples_n_too_long(examples), round + 1);
    }
    assert_memory_not_equal(firsts[0], firsts[1], 64 * sizeof **firsts);
    int64_t sums[2] = {0};
    for (int i = 0; i < 64; i++)
        for (int round = 0; round < 2; round++) sums[round] += firsts[round][i];
    assert_int_equal(sums[0], sums[1]);
    qs_batch_fini(&batch);
    qs_examples_close(examples);
}

static void test_text(void **state)
{
    (void)state;
    qs_examples *examples;
    qs_batch batch;
    char text[4000];
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = i % 40 == 39 ? '\n' : (char)('a' + i * i % 23);
    text[sizeof text - 1] = '\0';
    OK(open_text(&examples, "c.txt", text, 64, false));
    int32_t ids[4000];
    int64_t n_tokens = encode(text, ids), cursor = 0;
    assert_int_equal(qs_examples_n(examples), n_tokens / 64);
    assert_false(qs_examples_have_answers(examples));
    OK(qs_batch_init(&batch, 2, 64));
    OK(qs_examples_fill(examples, &cursor, -1, &batch));
    assert_int_equal(cursor, 2);
    assert_memory_equal(batch.tokens, ids, 128 * sizeof *ids);
    qs_batch_fini(&batch);
    qs_examples_close(examples);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *line, *word;
    } rows[] = {
        {"{\"prompt\": \"x\"}", "answer"},
        {"{\"prompt\": 1, \"answer\": \"x\"}", "prompt"},
        {"[1]", "not an object"},
        {"{\"prompt\": \"x\"", "line 2"},
        {"{\"prompt\": \"x\", \"answer\": \"y\", \"more\": 3}", "no array"},
        {"{\"prompt\": \"x\", \"answer\": \"y\", \"more\": [[\"x\"]]}", "no pair"},
        {"{\"prompt\": \"x\", \"answer\": \"\xff\"}", "line 2"},
    };
    qs_examples *examples;
    qs_batch batch;
    char text[256];
    OK(qs_batch_init(&batch, 1, 64));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t cursor = 0;
        (void)snprintf(text, sizeof text, "{\"text\": \"fine\"}\n%s\n", rows[i].line);
        OK(open_text(&examples, "bad.jsonl", text, 64, false));
        FAILS(QS_E_INPUT, qs_examples_fill(examples, &cursor, -1, &batch));
        TEXT_HOLDS("bad.jsonl line 2", rows[i].word);
        assert_int_equal(cursor, 1);
        qs_examples_close(examples);
    }
    FAILS(QS_E_INPUT, open_text(&examples, "empty.jsonl", " \n\n", 64, false));
    TEXT_HOLDS("empty.jsonl", "no example");
    FAILS(QS_E_INPUT, open_text(&examples, "short.txt", "a few words", 64, false));
    TEXT_HOLDS("--seqlen");
    /* Nothing fits: an error, not a loop. */
    int64_t cursor = 0;
    memset(text, 0, sizeof text);
    (void)snprintf(text, sizeof text, "{\"text\": \"%.150s\"}\n",
                   "(1)[2]{3}(4)[5]{6}(7)[8]{9}(1)[2]{3}(4)[5]{6}(7)[8]{9}(1)[2]{3}(4)[5]{6}(7)[8]{9}(1)[2]{"
                   "3}(4)[5]{6}");
    OK(open_text(&examples, "long.jsonl", text, 64, false));
    FAILS(QS_E_INPUT, qs_examples_fill(examples, &cursor, -1, &batch));
    TEXT_HOLDS("longer than 64");
    qs_examples_close(examples);
    qs_batch_fini(&batch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns), cmocka_unit_test(test_packing_and_order),
                                       cmocka_unit_test(test_text), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
