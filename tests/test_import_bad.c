/* Checkpoints of every layout that are cut off, of other shapes, packed in another order or lie about their bits:
 * each is refused by the name of the tensor and the cause. Checklist A20, E10, G5. What else can lie in a layout is in
 * the tests of that layout. */
#include "tests/import_fixtures.h"

#include <unistd.h>

#include "model/gguf.h"
#include "model/weights_impl.h"

/* A checkpoint in the scratch directory; format "exl2" is the fixture that another decoder knows. */
static void make_checkpoint(scratch_path out, const char *text, const char *format)
{
    char command[4 * QS_PATH_BYTES];
    static const char fixture[] = "tests/fixtures/exl2";
    if (strcmp(format, "exl2") != 0) {
        (void)make(out, model, text, format, 0);
        return;
    }
    (void)scratch(out, "checkpoint");
    (void)snprintf(command, sizeof command,
                   "mkdir '%s' && cp %s/config.json '%s' && cp %s/output.safetensors '%s/model.safetensors'", out,
                   fixture, out, fixture, out);
    assert_int_equal(system(command), 0);
}

static const struct {
    const char *text, *format;
    const char *leaf; /* of q_proj, */
    int64_t shape[2]; /* in another shape */
    const char *words[2];
} layouts[] = {
    {"rtn:bits=4,group=32,sym=1", "gptq", ".qweight", {16, 64}, {"[16, 64]", "right for 8 bits"}},
    {"rtn:bits=4,group=32,sym=1", "gptq", ".scales", {4, 64}, {"[4, 64]", "groups would be of 16"}},
    {"rtn:bits=4,group=32,sym=0", "awq", ".qweight", {64, 4}, {"[64, 4]", "version gemm"}}, /* gemv's, transposed */
    {"rtn:bits=4,group=32,sym=0", "awq", ".scales", {64, 2}, {"[64, 2]", "group size"}},
    {"nf4:block=64,dq=0,compute=bf16", "bnb", ".weight", {1024, 1}, {"[1024, 1]", "[2048, 1]"}},
    {"nf4:block=64,dq=1,compute=bf16", "bnb", ".weight.absmax", {32, 1}, {"[32, 1]", "[64]"}},
    {"int8", "bnb", ".SCB", {32, 1}, {"[32, 1]", "[64]"}},
    {NULL, "exl2", ".q_weight", {8, 32}, {"[8, 32]", "[8, 64]"}},
};
enum { N_LAYOUTS = sizeof layouts / sizeof *layouts };

static void test_shapes(void **state)
{
    (void)state;
    for (int i = 0; i < N_LAYOUTS; i++) {
        scratch_path out;
        char name[96];
        (void)snprintf(name, sizeof name, "%s%s", q_proj, layouts[i].leaf);
        make_checkpoint(out, layouts[i].text, layouts[i].format);
        reshape(out, q_proj, layouts[i].leaf, layouts[i].shape[0], layouts[i].shape[1]);
        FAILS(QS_E_INPUT, import(out, NULL));
        TEXT_HOLDS(name, layouts[i].words[0], layouts[i].words[1]);
        remove_tree(out);
    }
}

/* In the middle of the data, where the header still names all tensors. */
static void test_truncated(void **state)
{
    (void)state;
    for (int i = 0; i < N_LAYOUTS; i++) {
        scratch_path out, path;
        make_checkpoint(out, layouts[i].text, layouts[i].format);
        OK(qs_path_format(path, "%s/model.safetensors", out));
        assert_int_equal(truncate(path, place_of(out, q_proj, layouts[i].leaf) + 8), 0);
        FAILS(QS_E_INPUT, import(out, NULL));
        TEXT_HOLDS("model.safetensors", "tensor ", "bytes of data");
        remove_tree(out);
    }
}

/* What config.json says against what the tensors are. */
static void test_bits(void **state)
{
    (void)state;
    static const struct {
        const char *text, *format, *key;
        json_int_t value;
        qs_err code;
        const char *words[2];
    } rows[] = {
        {"rtn:bits=4,group=32,sym=0", "awq", "bits", 8, QS_E_UNSUPPORTED, {"config.json", "AWQ of 8 bits"}},
        {"rtn:bits=4,group=32,sym=0", "awq", "bits", 3, QS_E_UNSUPPORTED, {"config.json", "AWQ of 3 bits"}},
        {"rtn:bits=8,group=32,sym=1", "gptq", "bits", 4, QS_E_INPUT, {"q_proj.qweight", "right for 8 bits"}},
        {"int8", "bnb", "load_in_4bit", -1, QS_E_UNSUPPORTED, {"q_proj.weight", "I8"}}, /* -1 = true */
        {"nf4:block=64,dq=0,compute=bf16", "bnb", "load_in_4bit", -2, QS_E_INPUT, {"config.json", "load_in_8bit"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path out;
        (void)make(out, model, rows[i].text, rows[i].format, 0);
        json_int_t value = rows[i].value;
        set_config(out, rows[i].key, value < 0 ? json_boolean(value == -1) : json_integer(value));
        FAILS(rows[i].code, import(out, NULL));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1]);
        remove_tree(out);
    }
}

/* The model itself, rounded, in the scratch directory. */
static const char *rounded_artifact(scratch_path path, const char *text)
{
    qs_quant_inputs inputs = {.model = model};
    qs_quant_writer *writer;
    qs_backend *backend;
    qs_spec spec;
    OK(qs_spec_parse(&spec, text));
    OK(qs_quant_path(path, scratch_dir, &spec));
    OK(qs_backend_create(&backend, "cpu", 0, 1));
    OK(qs_quant_writer_create(&writer, path, &inputs, &spec, qs_quant_linear_bits(&spec, model)));
    for (int64_t layer = 0; layer < qs_model_get_config(model)->n_layers; layer++) {
        qs_quant_layer quant;
        OK(qs_quantize_layer(model, backend, layer, NULL, &spec, 1, &quant));
        OK(qs_quant_writer_add(writer, layer, &quant));
        qs_quant_layer_free(&quant);
    }
    OK(qs_quant_writer_finish(writer, 1, NULL));
    qs_backend_destroy(backend);
    return path;
}

/* ---- AWQ's nibbles ---- */

/* Nibbles from gemm's order into their natural one. */
static void reorder(const char *dir, const char *leaf, int64_t n_words)
{
    static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
    uint32_t *words = malloc((size_t)n_words * sizeof *words);
    scratch_path path;
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    FILE *file = fopen(path, "rb");
    assert_true(file != NULL && fseek(file, place_of(dir, q_proj, leaf), SEEK_SET) == 0 &&
                fread(words, sizeof *words, (size_t)n_words, file) == (size_t)n_words);
    assert_int_equal(fclose(file), 0);
    for (int64_t w = 0; w < n_words; w++) {
        uint32_t natural = 0;
        for (int i = 0; i < 8; i++) natural |= (words[w] >> (4 * i) & 15u) << (4 * order[i]);
        words[w] = natural;
    }
    patch(dir, q_proj, leaf, 0, words, (size_t)n_words * sizeof *words);
    free(words);
}

/* Nothing in such a file says so, but the signs of the model's weights do. */
static void test_nibbles(void **state)
{
    (void)state;
    scratch_path artifact, out;
    int64_t n;
    (void)rounded_artifact(artifact, "rtn:bits=4,group=32,sym=0");
    OK(export_to(model, artifact, "awq", NULL, scratch(out, "checkpoint")));
    OK(import(out, &n));
    assert_int_equal(n, 14);
    reorder(out, ".qweight", 64 * 8);
    reorder(out, ".qzeros", 2 * 8);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.qweight", "natural order", "another version");
    remove_tree(out);
}

/* ---- GGUF ---- */

/* Bytes `offset` behind the name of a tensor's entry in the header: dimensions (u32 count, u64 each), type (u32). */
static void patch_entry(const char *path, const char *name, long offset, const void *data, size_t bytes)
{
    size_t length = strlen(name), n;
    char *text;
    OK(qs_file_read(&text, &n, path, 1 << 24));
    size_t at = 0;
    while (at + length < n && memcmp(text + at, name, length) != 0) at++;
    assert_true(at + length < n);
    qs_mem_free(text);
    FILE *file = fopen(path, "r+b");
    assert_true(file != NULL && fseek(file, (long)(at + length) + offset, SEEK_SET) == 0 &&
                fwrite(data, 1, bytes, file) == bytes);
    assert_int_equal(fclose(file), 0);
}

static void test_gguf(void **state)
{
    (void)state;
    static const char name[] = "blk.1.ffn_down.weight";
    static const uint64_t narrow = 32, many = 96;
    static const uint32_t q8_0 = 8, none = 77;
    const struct {
        long offset;
        const void *data;
        size_t bytes;
        qs_err code;
        const char *words[2];
    } rows[] = {
        {4, &narrow, 8, QS_E_INPUT, {"the sizes before it", name}},       /* rows of 32 in place of 160 */
        {12, &many, 8, QS_E_INPUT, {name, "needs 8640 bytes"}},           /* 96 of them in place of 64 */
        {20, &q8_0, 4, QS_E_INPUT, {name, "needs 10880 bytes"}},          /* 8 bits in place of 4 */
        {20, &none, 4, QS_E_UNSUPPORTED, {name, "type number 77"}},
    };
    scratch_path artifact, out;
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32,sym=1", 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        OK(export_to(model, artifact, "gguf", NULL, scratch(out, "bad.gguf")));
        patch_entry(out, name, rows[i].offset, rows[i].data, rows[i].bytes);
        FAILS(rows[i].code, import(out, NULL));
        TEXT_HOLDS("bad.gguf", rows[i].words[0], rows[i].words[1]);
        assert_int_equal(remove(out), 0);
    }
    OK(export_to(model, artifact, "gguf", NULL, out));
    qs_model *made = model_open(out);
    const qs_gguf_tensor *t = qs_gguf_find_tensor(qs_model_get_gguf(made), name);
    assert_non_null(t);
    long place = (long)(t->data - made->file.map.data);
    qs_model_close(made);
    assert_int_equal(truncate(out, place + 8), 0);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("bad.gguf", name, "truncated");
    assert_int_equal(remove(out), 0);
}

/* Asymmetric files that say the wrong format: the model's weights tell (A20). Where codes are not of its
 * weights nothing can, and the file is believed. */
static void test_zeros_of_the_other_format(void **state)
{
    (void)state;
    static const struct {
        const char *text, *format, *other;
        bool random;
    } rows[] = {
        {"rtn:bits=4,group=32,sym=0", "gptq_v2", "gptq", false},
        {"rtn:bits=2,group=64,sym=0", "gptq_v2", "gptq", false},
        {"rtn:bits=3,group=-1,sym=0", "gptq_v2", "gptq", false},
        {"rtn:bits=3,group=-1,sym=0", "gptq", "gptq_v2", false}, /* no zero point is 0 there */
        {"rtn:bits=4,group=32,sym=0", "gptq_v2", "gptq", true},
    };
    for (size_t i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        scratch_path artifact, out;
        qs_checkpoint *checkpoint;
        qs_quant_file *file;
        qs_matrix_desc made, wanted;
        bool lies = i % 2 == 1, random = rows[i / 2].random;
        if (random) (void)made_up_artifact(artifact, model, rows[i / 2].text, 1);
        else (void)rounded_artifact(artifact, rows[i / 2].text);
        OK(export_to(model, artifact, rows[i / 2].format, NULL, scratch(out, "checkpoint")));
        if (lies) set_config(out, "checkpoint_format", json_string(rows[i / 2].other));
        OK(qs_checkpoint_open(&checkpoint, out, model));
        OK(qs_quant_file_open(&file, artifact, model));
        qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
        OK(a.get(a.context, 1, QS_ROLE_DOWN, &made));
        OK(b.get(b.context, 1, QS_ROLE_DOWN, &wanted));
        size_t n = (size_t)(wanted.packed->n_out * wanted.packed->n_groups);
        assert_true((memcmp(made.packed->zeros, wanted.packed->zeros, n) == 0) == !(lies && random));
        qs_quant_file_close(file);
        qs_checkpoint_close(checkpoint);
        assert_int_equal(remove(artifact), 0);
        remove_tree(out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_truncated), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_nibbles), cmocka_unit_test(test_gguf), cmocka_unit_test(test_zeros_of_the_other_format),
    };
    return cmocka_run_group_tests_name("import_bad", tests, start, stop);
}
