/* Model files that are incomplete, inconsistent, not finite or changed while in use: each is refused with a
 * text that names file, tensor and cause. Demands: checklist G5 (header bits against
 * lengths), B6 (NaN is an error with its place). Fixtures: scripts/peers/make_model_fixtures.py. */
#include "model_files.h"

#include <unistd.h>

#include "model/weights.h"

static void assert_open_fails(const char *path, qs_err code, const char *part)
{
    qs_model *model = NULL;
    assert_fails(qs_model_open(&model, path), code, part);
    assert_null(model);
}

/* A copy of the qwen2 fixture with one edit in config.json or in the header of model.safetensors. */
static void test_bad_directories(void **state)
{
    (void)state;
    static const struct {
        bool config;
        const char *old, *fresh;
        qs_err code;
        const char *part;
    } rows[] = {
        {false, "model.norm.weight", "model.norm.other", QS_E_INPUT, "tensor model.norm.weight is missing"},
        {false, "layers.1.self_attn.q_proj.bias", "layers.1.self_attn.q_proj.b", QS_E_INPUT,
         "tensor model.layers.1.self_attn.q_proj.bias is missing"},
        {false, "[96,64]", "[64,96]", QS_E_INPUT, "has shape [64, 96], the configuration says [96, 64]"},
        {false, "[96,64]", "[6144]", QS_E_INPUT, "has shape [6144], the configuration says [96, 64]"},
        {false, "[96,64]", "[96,8,8]", QS_E_INPUT, "has shape [96, 8, ...], the configuration says [96, 64]"},
        {false, "BF16", "I16", QS_E_UNSUPPORTED, "has dtype I16; models are F32, F16 or BF16"},
        {false, "{",
         "{\"model.layers.0.mlp.gate_proj.bias\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},",
         QS_E_UNSUPPORTED, "tensor model.layers.0.mlp.gate_proj.bias is not part of a qwen2 model"},
        {true, "\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false", QS_E_INPUT,
         "tensor lm_head.weight is missing, and the configuration does not tie"},
        {true, "\"vocab_size\": 320", "\"vocab_size\": 321", QS_E_INPUT, "the configuration says [321, 64]"},
        {true, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", QS_E_INPUT, "layer_types"},
        {true, "\"model_type\"", "\"quantization_config\": {\"quant_method\": \"gptq\"}, \"model_type\"",
         QS_E_UNSUPPORTED, "quantised already (gptq)"},
        {true, "{", "[", QS_E_INPUT, "config.json: line "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char dir[QS_PATH_BYTES];
        (void)make_dir(dir);
        const char *in_config = rows[i].config ? rows[i].old : NULL,
                   *in_header = rows[i].config ? NULL : rows[i].old;
        copy_text(dir, "config.json", MODELS "qwen2", in_config, rows[i].fresh);
        copy_safetensors(dir, "model.safetensors", MODELS "qwen2", in_header, rows[i].fresh);
        assert_open_fails(dir, rows[i].code, rows[i].part);
        remove_dir(dir);
    }
    assert_open_fails("tests/fixtures/models/none", QS_E_INPUT,
                      "open tests/fixtures/models/none: No such file");
    assert_open_fails("tests/fixtures/models/gguf", QS_E_INPUT,
                      "open tests/fixtures/models/gguf/config.json");
    assert_open_fails("tests/fixtures/models/README.md", QS_E_INPUT, "does not begin with \"GGUF\"");
}

#define SHARD(n) "model-0000" #n "-of-00003.safetensors"

/* The sharded fixture with one edit in the index or in the first shard. */
static void test_bad_shards(void **state)
{
    (void)state;
    static const struct {
        const char *old, *fresh, *in_shard, *shard_fresh, *part;
    } rows[] = {
        {"\"lm_head.weight\": \"" SHARD(1), "\"lm_head.weight\": \"" SHARD(2), NULL, NULL,
         "tensor lm_head.weight is not in "},
        {SHARD(3), "../" SHARD(3), NULL, NULL, "is not a plain file name"},
        {SHARD(3), "model-00009-of-00003.safetensors", NULL, NULL,
         "model-00009-of-00003.safetensors: No such file"},
        {"\"weight_map\"", "\"weight_mop\"", NULL, NULL, "\"weight_map\" is not an object"},
        {"\"" SHARD(3) "\"", "3", NULL, NULL, "is not a string"},
        {"\"lm_head.weight\": ", "\"x\": \"y\", \"x\": ", NULL, NULL, "duplicate object key"},
        {NULL, NULL, "{",
         "{\"model.layers.1.mlp.up_proj.weight\":{\"dtype\":\"F32\",\"shape\":[0],"
         "\"data_offsets\":[0,0]},",
         "is also in "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char dir[QS_PATH_BYTES];
        (void)make_dir(dir);
        copy_text(dir, "config.json", MODELS "llama3", NULL, NULL);
        copy_text(dir, "model.safetensors.index.json", MODELS "llama3", rows[i].old, rows[i].fresh);
        copy_safetensors(dir, SHARD(1), MODELS "llama3", rows[i].in_shard, rows[i].shard_fresh);
        copy_safetensors(dir, SHARD(2), MODELS "llama3", NULL, NULL);
        copy_safetensors(dir, SHARD(3), MODELS "llama3", NULL, NULL);
        assert_open_fails(dir, QS_E_INPUT, rows[i].part);
        remove_dir(dir);
    }
}

/* The tensor's place in the file: its first stored row is Hugging Face's first row. */
static char *find_tensor(const bytes *file, const qs_tensor_info *info, const void *first_row, size_t elem_bytes)
{
    char *at = NULL;
    for (size_t k = 0; k + info->bytes <= file->n && at == NULL; k += 32)
        if (memcmp(file->data + k, first_row, (size_t)info->n_in * elem_bytes) == 0) at = file->data + k;
    assert_non_null(at);
    return at;
}

/* NaN and Inf are refused with the tensor and the place, in matrices, vectors and reordered rows. */
static void test_nonfinite(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    static const struct {
        const char *from;
        qs_role role;
        int64_t row, col;
        uint32_t bits;
        const char *part;
    } rows[] = {
        {MODELS "gguf/llama2-f32.gguf", QS_ROLE_V, 5, 7, 0x7f800000u,
         "tensor blk.1.attn_v.weight holds inf at row 5, column 7"},
        {MODELS "gguf/llama2-f32.gguf", QS_ROLE_Q, 2, 63, 0xff800000u,
         "tensor blk.1.attn_q.weight holds -inf at row 1, column 63"},
        {MODELS "gguf/llama2-f32.gguf", QS_ROLE_MLP_NORM, 0, 63, 0x7fc00000u,
         "tensor blk.1.ffn_norm.weight holds nan at index 63"},
    };
    (void)make_dir(dir);
    assert_ok(qs_path_format(path, "%s/bad.gguf", dir));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        qs_model *model = open_model(rows[i].from);
        bytes b = load_file(rows[i].from);
        qs_tensor_info info = qs_model_info(model, rows[i].role, 1);
        int64_t n;
        float *values = read_role(model, rows[i].role, 1, &n);
        char *at = find_tensor(&b, &info, values, sizeof *values);
        memcpy(at + (rows[i].row * info.n_in + rows[i].col) * 4, &rows[i].bits, 4);
        save_file(path, b.data, b.n);
        qs_model_close(model);
        model = open_model(path);
        assert_fails(qs_model_read_f32(model, rows[i].role, 1, values), QS_E_NUMERIC, rows[i].part);
        assert_ok(qs_model_read_f32(model, rows[i].role, 0, values));
        qs_model_close(model);
        qs_mem_free(values);
        qs_mem_free(b.data);
    }
    remove_dir(dir);
}

/* The same of tensors that are read as stored, in reordered rows too. */
static void test_nonfinite_16(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        qs_role role;
        int64_t row, col; /* in the file's order */
        uint16_t bits;
        const char *part;
    } rows[] = {
        {MODELS "gguf/llama2-f16.gguf", QS_ROLE_V, 5, 7, 0x7c00, "attn_v.weight holds inf at row 5, column 7"},
        {MODELS "gguf/llama2-bf16.gguf", QS_ROLE_Q, 2, 63, 0xff80, "attn_q.weight holds -inf at row 1, column 63"},
        {MODELS "gguf/llama2-bf16.gguf", QS_ROLE_V, 0, 0, 0x7fc1, "attn_v.weight holds nan at row 0, column 0"},
    };
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    (void)make_dir(dir);
    assert_ok(qs_path_format(path, "%s/bad.gguf", dir));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        qs_model *model = open_model(rows[i].from);
        bytes b = load_file(rows[i].from);
        qs_tensor_info info = qs_model_info(model, rows[i].role, 1);
        uint16_t *values;
        assert_ok(QS_NEW(values, info.n_out * info.n_in, "test"));
        assert_ok(qs_model_read_16(model, rows[i].role, 1, values));
        char *at = find_tensor(&b, &info, values, sizeof *values);
        memcpy(at + (rows[i].row * info.n_in + rows[i].col) * 2, &rows[i].bits, 2);
        save_file(path, b.data, b.n);
        qs_model_close(model);
        model = open_model(path);
        assert_fails(qs_model_read_16(model, rows[i].role, 1, values), QS_E_NUMERIC, rows[i].part);
        assert_ok(qs_model_read_16(model, rows[i].role, 0, values));
        qs_model_close(model);
        qs_mem_free(values);
        qs_mem_free(b.data);
    }
    remove_dir(dir);
}

/* A file that shrinks or is rewritten under an open model is an error, not a crash and not other numbers. */
static void test_changed_file(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    float values[64 * 96];
    (void)make_dir(dir);
    assert_ok(qs_path_format(path, "%s/qwen2.gguf", dir));
    bytes b = load_file(MODELS "gguf/qwen2-q8_0.gguf");
    save_file(path, b.data, b.n);
    qs_model *model = open_model(path);
    assert_ok(qs_model_read_f32(model, QS_ROLE_DOWN, 0, values));
    assert_int_equal(truncate(path, 4096), 0);
    assert_fails(qs_model_read_f32(model, QS_ROLE_DOWN, 0, values), QS_E_INPUT, "and has 4096 now");
    qs_digest digest;
    assert_fails(qs_model_digest(model, &digest), QS_E_INPUT, "and has 4096 now");
    qs_model_close(model);
    assert_open_fails(path, QS_E_INPUT, "truncated");

    save_file(path, b.data, b.n);
    model = open_model(path);
    (void)usleep(20000); /* time stamps of some file systems are coarse */
    save_file(path, b.data, b.n);
    assert_fails(qs_model_read_f32(model, QS_ROLE_DOWN, 0, values), QS_E_INPUT,
                 "was written to after it was opened");
    qs_model_close(model);
    qs_mem_free(b.data);
    remove_dir(dir);
}

/* Broken tokenizers of both containers. A key of 64 bytes put into a GGUF file leaves its padding right. */
static void test_bad_tokenizers(void **state)
{
    (void)state;
    char dir[QS_PATH_BYTES], path[QS_PATH_BYTES];
    (void)make_dir(dir);
    copy_text(dir, "config.json", MODELS "qwen2", NULL, NULL);
    copy_safetensors(dir, "model.safetensors", MODELS "qwen2", NULL, NULL);
    assert_ok(qs_path_format(path, "%s/tokenizer.json", dir));
    save_file(path, "{\"model\": ", 10);
    assert_open_fails(dir, QS_E_INPUT, "tokenizer.json: line 1");

    enum { HEAD = 24, COUNT = 16, KEY = 64 };
    static const struct {
        uint32_t item_type;
        uint64_t n;
        const char *part;
    } rows[] = {
        {0 /* u8 */, 19, "\"tokenizer.ggml.tokens\" is not an array of the right type"},
        {8 /* string */, 2, "the key \"tokenizer.ggml.model\" is missing"},
    };
    bytes b = load_file(MODELS "gguf/qwen2-q8_0.gguf");
    char *data = malloc(b.n + KEY);
    assert_non_null(data);
    assert_ok(qs_path_format(path, "%s/bad.gguf", dir));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        static const char name[] = "tokenizer.ggml.tokens";
        const uint64_t name_bytes = sizeof name - 1, token_bytes = 3;
        const uint32_t array = 9;
        memcpy(data, b.data, HEAD);
        memset(data + HEAD, 0, KEY);
        data[COUNT]++; /* the number of keys */
        memcpy(data + HEAD, &name_bytes, 8);
        memcpy(data + HEAD + 8, name, name_bytes);
        memcpy(data + HEAD + 29, &array, 4);
        memcpy(data + HEAD + 33, &rows[i].item_type, 4);
        memcpy(data + HEAD + 37, &rows[i].n, 8);
        memcpy(data + HEAD + 45, &token_bytes, 8); /* "abc" and "" */
        memcpy(data + HEAD + 53, "abc", 3);
        memcpy(data + HEAD + KEY, b.data + HEAD, b.n - HEAD);
        save_file(path, data, b.n + KEY);
        assert_open_fails(path, QS_E_INPUT, rows[i].part);
    }
    free(data);
    qs_mem_free(b.data);
    remove_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_directories), cmocka_unit_test(test_bad_shards),
        cmocka_unit_test(test_nonfinite),       cmocka_unit_test(test_nonfinite_16),
        cmocka_unit_test(test_changed_file),    cmocka_unit_test(test_bad_tokenizers),
    };
    return cmocka_run_group_tests_name("weights_faults", tests, NULL, NULL);
}
