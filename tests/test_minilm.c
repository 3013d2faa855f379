/* The sentence encoder: WordPiece and BERT against `tokenizers` and sentence-transformers on a tiny directory
 * (scripts/peers/make_minilm_fixture.py), and what is refused. The real weights: scripts/peers/compare_minilm.py. */
#include "scratch.h"

#include <math.h>

#include "base/json.h"
#include "rag/encoder.h"
#include "rag/wordpiece.h"

#define FIXTURE "tests/fixtures/minilm"
enum { DIM = 16, LIMIT = 24, CASES_MAX = 64 };

typedef struct cases {
    json_t *lines[CASES_MAX];
    const char *texts[CASES_MAX];
    int64_t n;
} cases;

static void load_cases(cases *c)
{
    char *data;
    size_t bytes;
    OK(qs_file_read(&data, &bytes, FIXTURE "/cases.jsonl", 1 << 20));
    *c = (cases){0};
    for (char *line = strtok(data, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        assert_true(c->n < CASES_MAX);
        OK(qs_json_parse(&c->lines[c->n], line, strlen(line), "cases.jsonl"));
        c->texts[c->n] = json_string_value(json_object_get(c->lines[c->n], "text"));
        c->n++;
    }
    assert_true(c->n >= 20);
    qs_mem_free(data);
}

static void free_cases(cases *c)
{
    for (int64_t i = 0; i < c->n; i++) json_decref(c->lines[i]);
}

static void tokens_are_the_peers(void **state)
{
    (void)state;
    cases c;
    char *json;
    size_t bytes;
    qs_wordpiece *wordpiece;
    qs_token_list list = {0};
    load_cases(&c);
    OK(qs_file_read(&json, &bytes, FIXTURE "/tokenizer.json", 1 << 20));
    OK(qs_wordpiece_from_json(&wordpiece, json, bytes, "tokenizer.json"));
    for (int64_t i = 0; i < c.n; i++) {
        const json_t *ids = json_object_get(c.lines[i], "ids");
        OK(qs_wordpiece_encode(wordpiece, c.texts[i], strlen(c.texts[i]), LIMIT, &list));
        if ((int64_t)json_array_size(ids) != list.n)
            fail_msg("\"%s\": %lld tokens, not %zu", c.texts[i], (long long)list.n, json_array_size(ids));
        for (int64_t j = 0; j < list.n; j++)
            if (list.ids[j] != json_integer_value(json_array_get(ids, (size_t)j)))
                fail_msg("\"%s\": token %lld is %d", c.texts[i], (long long)j, list.ids[j]);
    }
    FAILS(QS_E_INPUT, qs_wordpiece_encode(wordpiece, "ab\xff", 3, LIMIT, &list));
    TEXT_HOLDS("byte 2");
    FAILS(QS_E_USAGE, qs_wordpiece_encode(wordpiece, "ab", 2, 1, &list));
    qs_token_list_free(&list);
    qs_wordpiece_destroy(wordpiece);
    qs_mem_free(json);
    free_cases(&c);
}

static void embeddings_are_the_peers(void **state)
{
    (void)state;
    cases c;
    qs_encoder *encoder;
    float vectors[CASES_MAX][DIM], alone[DIM];
    double worst = 0.0;
    load_cases(&c);
    for (int n_threads = 1; n_threads <= 2; n_threads++) {
        OK(qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = FIXTURE, .n_threads = n_threads}));
        assert_int_equal(qs_encoder_dim(encoder), DIM);
        float again[CASES_MAX][DIM];
        OK(qs_encoder_encode(encoder, c.texts, c.n, n_threads == 1 ? vectors[0] : again[0]));
        if (n_threads == 2) assert_memory_equal(vectors, again, (size_t)c.n * sizeof vectors[0]);
        qs_encoder_destroy(encoder);
    }
    for (int64_t i = 0; i < c.n; i++)
        for (size_t j = 0; j < DIM; j++) {
            double wanted = json_real_value(json_array_get(json_object_get(c.lines[i], "vector"), j));
            worst = fmax(worst, fabs(vectors[i][j] - wanted));
        }
    print_message("largest difference of %lld texts: %.3g\n", (long long)c.n, worst);
    assert_true(worst < 1e-5);
    /* A text's vector does not depend on the others. */
    OK(qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = FIXTURE}));
    for (int64_t i = c.n - 1; i >= 0; i--) {
        OK(qs_encoder_encode(encoder, &c.texts[i], 1, alone));
        assert_memory_equal(alone, vectors[i], sizeof alone);
    }
    qs_encoder_destroy(encoder);
    free_cases(&c);
}

/* ---- what is refused ---- */

/* A copy of the fixture in the scratch directory, with one file changed: the first `from` in it becomes `to`. */
static void copy_changed(const char *name, const char *from, const char *to)
{
    static const char *const files[] = {"config.json", "tokenizer.json", "sentence_bert_config.json",
                                        "1_Pooling/config.json", "model.safetensors"};
    scratch_path path;
    OK(qs_dir_create(scratch(path, "1_Pooling")));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char source[QS_PATH_BYTES], *data, *at, *changed;
        size_t bytes;
        OK(qs_path_format(source, FIXTURE "/%s", files[i]));
        OK(qs_file_read(&data, &bytes, source, 1 << 20));
        (void)scratch(path, files[i]);
        if (strcmp(files[i], name) != 0) {
            file_write(path, data, bytes);
        } else {
            at = memmem(data, bytes, from, strlen(from));
            assert_non_null(at);
            changed = calloc(1, bytes + strlen(to) + 1);
            size_t before = (size_t)(at - data), after = bytes - before - strlen(from);
            memcpy(changed, data, before);
            memcpy(changed + before, to, strlen(to));
            memcpy(changed + before + strlen(to), at + strlen(from), after);
            file_write(path, changed, before + strlen(to) + after);
            free(changed);
        }
        qs_mem_free(data);
    }
}

static void broken_directories_are_refused(void **state)
{
    (void)state;
    static const struct {
        qs_err code;
        const char *file, *from, *to, *word;
    } rows[] = {
        {QS_E_UNSUPPORTED, "config.json", "\"gelu\"", "\"relu\"", "relu"},
        {QS_E_UNSUPPORTED, "config.json", "\"model_type\": \"bert\"", "\"model_type\": \"mpnet\"", "mpnet"},
        {QS_E_INPUT, "config.json", "\"hidden_size\": 16", "\"hidden_size\": 20", "word_embeddings"},
        {QS_E_INPUT, "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", "encoder.layer.2"},
        {QS_E_INPUT, "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 5", "num_attention_heads"},
        {QS_E_UNSUPPORTED, "1_Pooling/config.json", "\"pooling_mode_max_tokens\": false",
         "\"pooling_mode_max_tokens\": true", "pooling"},
        {QS_E_UNSUPPORTED, "tokenizer.json", "\"BertNormalizer\"", "\"Lowercase\"", "Lowercase"},
        {QS_E_UNSUPPORTED, "tokenizer.json", "\"BertPreTokenizer\"", "\"Whitespace\"", "Whitespace"},
        {QS_E_UNSUPPORTED, "tokenizer.json", "\"WordPiece\"", "\"Unigram\"", "Unigram"},
        {QS_E_UNSUPPORTED, "tokenizer.json", "\"continuing_subword_prefix\":\"##\"",
         "\"continuing_subword_prefix\":\"@@\"", "@@"},
        {QS_E_INPUT, "tokenizer.json", "\"unk_token\":\"[UNK]\"", "\"unk_token\":\"[WHO]\"", "[WHO]"},
        {QS_E_INPUT, "sentence_bert_config.json", "24", "1", "max_seq_length"},
        {QS_E_INPUT, "model.safetensors", "embeddings.LayerNorm.bias", "embeddings.LayerNerm.bias", "LayerNorm.bias"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_encoder *encoder;
        copy_changed(rows[i].file, rows[i].from, rows[i].to);
        qs_err err = qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = scratch_dir});
        if (err != rows[i].code)
            fail_msg("row %zu: %s: %s", i, qs_err_name(err), err != QS_OK ? qs_error_text() : "");
        TEXT_HOLDS(rows[i].word);
    }
    qs_encoder *encoder;
    FAILS(QS_E_INPUT, qs_encoder_open(&encoder, "minilm", &(qs_encoder_options){.directory = "no/where"}));
    TEXT_HOLDS("no/where", "fetch-model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_are_the_peers),
        cmocka_unit_test(embeddings_are_the_peers),
        cmocka_unit_test_setup_teardown(broken_directories_are_refused, scratch_create, scratch_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
