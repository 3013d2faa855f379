/* Checkpoints as candidates: what was exported comes back code by code; layouts that are not ours to write
 * are written here by their definition; and whatever can lie does, with an error that names it. Checklist
 * A20, B7, G5, G7. */
#include "tests/import_fixtures.h"

#include <math.h>

#include "model/tokenizer_compare.h"

static void test_gptq(void **state)
{
    (void)state;
    check_round_trip("rtn:bits=4,group=32,sym=1", "gptq", 0);
    check_round_trip("rtn:bits=4,group=32,sym=1", "gptq_v2", 0);
    check_round_trip("gptq:bits=4,group=32,sym=0,act=1", "gptq", 1);
    check_round_trip("gptq:bits=4,group=64,sym=0,act=1", "gptq_v2", 0); /* the last group of 160 columns is shorter */
    check_round_trip("rtn:bits=3,group=64,sym=0", "gptq_v2", 0);
    check_round_trip("rtn:bits=3,group=32,sym=0", "gptq", 1);
    check_round_trip("rtn:bits=2,group=-1,sym=0", "gptq", 1);
    check_round_trip("rtn:bits=8,group=32,sym=0", "gptq", 1);
    check_round_trip("awq:bits=3,group=32,zero=1", "gptq_v2", 0);
}

/* Numbers of a GGUF file are those of its reader, whether they come as codes or not. */
static void test_gguf(void **state)
{
    (void)state;
    static const struct {
        const char *text, *type, *method;
        qs_matrix_format format;
        int64_t n_quantised;
    } rows[] = {
        {"rtn:bits=4,group=32,sym=1", NULL, "q4_0", QS_MATRIX_INT, 14},
        {"rtn:bits=8,group=32,sym=1", NULL, "q8_0", QS_MATRIX_INT, 14},
        {"rtn:bits=4,group=32,sym=0", NULL, "q4_1", QS_MATRIX_F32, 14},
        {"rtn:bits=4,group=32,sym=1", "f16", "f16", QS_MATRIX_F32, 0},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        scratch_path artifact, out;
        float values[160 * 160], row[160];
        qs_checkpoint *checkpoint;
        qs_matrix_desc desc;
        (void)made_up_artifact(artifact, model, rows[r].text, 0);
        OK(export_to(model, artifact, "gguf", rows[r].type, scratch(out, "point.gguf")));
        OK(qs_checkpoint_open(&checkpoint, out, model));
        const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
        assert_string_equal(facts->id, "point.gguf");
        assert_string_equal(facts->method, "gguf");
        assert_string_equal(facts->variant, rows[r].method);
        assert_int_equal(facts->n_quantised, rows[r].n_quantised);
        qs_linear_source source = qs_checkpoint_source(checkpoint);
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            OK(source.get(source.context, 1, role, &desc));
            assert_int_equal(desc.format, rows[r].format);
            assert_described(&source, 1, role);
            OK(qs_model_read_f32(qs_checkpoint_model(checkpoint), role, 1, values));
            for (int64_t o = 0; o < desc.n_out; o++) {
                if (desc.packed != NULL) qs_packed_dequant_rows(desc.packed, o, 1, row);
                else memcpy(row, (const float *)desc.dense + o * desc.n_in, (size_t)desc.n_in * sizeof *row);
                assert_memory_equal(row, values + o * desc.n_in, (size_t)desc.n_in * sizeof *row);
            }
        }
        qs_checkpoint_close(checkpoint);
        assert_int_equal(remove(out), 0);
    }
}

/* ---- what other tools write ---- */

static void test_quirks(void **state)
{
    (void)state;
    scratch_path out, path;
    int64_t n;
    /* No index of groups: they are neighbours. */
    (void)make(out, model, "rtn:bits=4,group=32,sym=1", "gptq", 0);
    rewrite(out, ".g_idx", NULL);
    OK(import(out, &n));
    assert_int_equal(n, 14);
    /* A linear that should be quantised and is not is read, and counted (B7). */
    rewrite(out, "layers.0.self_attn.q_proj", q_proj);
    OK(import(out, &n));
    assert_int_equal(n, 13);
    /* quantize_config.json alone, and no word on the method or on sym. */
    set_config(out, "sym", NULL);
    OK(qs_path_format(path, "%s/quantize_config.json", out));
    assert_int_equal(remove(path), 0);
    text_write(path, "{\"bits\": 4, \"group_size\": 32, \"desc_act\": false, \"sym\": true}");
    json_t *root;
    OK(qs_path_format(path, "%s/config.json", out));
    OK(qs_json_load(&root, path));
    assert_int_equal(json_object_del(root, "quantization_config"), 0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    OK(import(out, &n));
    assert_int_equal(n, 13);
    remove_tree(out);
    /* Files that say gptq and are gptq_v2, and the other way round: the zero points of symmetric codes tell. */
    for (int v2 = 0; v2 < 2; v2++) {
        qs_checkpoint *checkpoint;
        qs_matrix_desc desc;
        (void)make(out, model, "rtn:bits=4,group=32,sym=1", v2 ? "gptq_v2" : "gptq", 0);
        set_config(out, "checkpoint_format", json_string(v2 ? "gptq" : "gptq_v2"));
        OK(qs_checkpoint_open(&checkpoint, out, model));
        qs_linear_source source = qs_checkpoint_source(checkpoint);
        OK(source.get(source.context, 0, QS_ROLE_Q, &desc));
        assert_null(desc.packed->zeros); /* the middle: read as it is meant */
        qs_checkpoint_close(checkpoint);
        remove_tree(out);
    }
    /* A zero point of 0 in v1, as a writer borrows from the neighbour: fields 15, 3, 7 are 0, 5, 8 (formats 2.3). */
    (void)make(out, model, "rtn:bits=4,group=32,sym=0", "gptq", 1);
    uint32_t word = 0x8888873F;
    patch(out, q_proj, ".qzeros", 0, &word, sizeof word);
    qs_checkpoint *checkpoint;
    qs_matrix_desc desc;
    OK(qs_checkpoint_open(&checkpoint, out, model));
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    OK(source.get(source.context, 0, QS_ROLE_Q, &desc));
    static const int wanted[] = {0, 5, 8, 9};
    for (int o = 0; o < 4; o++) assert_int_equal(desc.packed->zeros[o * desc.packed->n_groups], wanted[o]);
    qs_checkpoint_close(checkpoint);
    remove_tree(out);
}

static void test_lies(void **state)
{
    (void)state;
    static const float nan_value = NAN;
    const uint16_t nan_half = qs_f16_from_f32(nan_value);
    static const int32_t group = 7;
    static const uint32_t zeros = 0x12345678;
    struct {
        const char *key; /* of the configuration */
        json_t *value;
        const char *prefix, *leaf; /* or bytes of a tensor */
        const void *data;
        size_t bytes;
        qs_err code;
        const char *words[3];
    } rows[] = {
        {"bits", json_integer(8), NULL, NULL, NULL, 0, QS_E_INPUT, {"q_proj.qweight", "[8, 64]", "right for 4 bits"}},
        {"bits", json_integer(5), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED, {"config.json", "5 bits", "2, 3, 4 and 8"}},
        {"group_size", json_integer(64), NULL, NULL, NULL, 0, QS_E_INPUT,
         {"q_proj.scales", "groups would be of 32", "64"}},
        {"group_size", json_integer(0), NULL, NULL, NULL, 0, QS_E_INPUT, {"group_size", "0", "-1"}},
        {"checkpoint_format", json_string("marlin"), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED,
         {"marlin", "gptq_v2", "config.json"}},
        {"quant_method", json_string("hqq"), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED, {"hqq", "gptq", "awq"}},
        {"dynamic", json_pack("{s:{s:i}}", "+:.*up_proj", "bits", 5), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED,
         {"dynamic", "5 bits", ".*up_proj"}},
        {"dynamic", json_pack("{s:{s:i}}", "layers.(0", "bits", 8), NULL, NULL, NULL, 0, QS_E_INPUT,
         {"config.json", "dynamic", "layers.(0"}},
        {"dynamic", json_pack("{s:{s:i}}", "+:.*up_proj", "bits", 8), NULL, NULL, NULL, 0, QS_E_INPUT,
         {"up_proj.qweight", "right for 4 bits", "8"}},
        {"dynamic", json_pack("{s:{}}", "-:.*down_proj"), NULL, NULL, NULL, 0, QS_E_INPUT,
         {"dynamic", "down_proj", "quantised"}},
        {NULL, NULL, q_proj, ".g_idx", &group, 4, QS_E_INPUT, {"q_proj.g_idx", "7 at channel 0", "0 to 1"}},
        {NULL, NULL, down, ".scales", &nan_half, 2, QS_E_NUMERIC, {"down_proj.scales", "nan", "row 0"}},
        {NULL, NULL, down, ".qzeros", &zeros, 4, QS_E_INPUT, {"sym", "not the middle", "checkpoint"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path out;
        (void)make(out, model, "rtn:bits=4,group=32,sym=1", "gptq", 0);
        if (rows[i].key != NULL) set_config(out, rows[i].key, rows[i].value);
        else patch(out, rows[i].prefix, rows[i].leaf, 0, rows[i].data, rows[i].bytes);
        FAILS(rows[i].code, import(out, NULL));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1], rows[i].words[2]);
        remove_tree(out);
    }
}

/* More channels in a group than it has room for; tensors that are missing or one too many; half a file;
 * another model. */
static void test_damage(void **state)
{
    (void)state;
    scratch_path out, path;
    int32_t groups[64] = {0};
    (void)make(out, model, "rtn:bits=4,group=32,sym=1", "gptq", 0);
    patch(out, q_proj, ".g_idx", 0, groups, sizeof groups);
    FAILS(QS_E_UNSUPPORTED, import(out, NULL));
    TEXT_HOLDS("q_proj.g_idx", "group 0", "32 channels");
    rewrite(out, "layers.0.self_attn.q_proj.scales", NULL);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.scales", "missing");
    rewrite(out, "layers.0.self_attn.q_proj", NULL);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.weight", "missing");
    /* q, k and v in one. */
    rewrite(out, "layers.0.self_attn.q_proj", "model.layers.0.self_attn.qkv_proj");
    FAILS(QS_E_UNSUPPORTED, import(out, NULL));
    TEXT_HOLDS("self_attn.qkv_proj.weight", "fused", "q, k, v");
    remove_tree(out);

    (void)make(out, model, "rtn:bits=4,group=32,sym=1", "gptq", 0);
    OK(qs_path_format(path, "%s/model.safetensors", out));
    assert_int_equal(truncate(path, 100000), 0);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("model.safetensors");
    assert_int_equal(truncate(path, 100), 0);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("truncated");
    remove_tree(out);
    FAILS(QS_E_INPUT, import(out, NULL));

    qs_model *other = model_open("tests/fixtures/models/llama2");
    (void)make(out, other, "rtn:bits=4,group=32,sym=1", "gptq", 0);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("checkpoint", "the vocabulary is 320", "384");
    qs_model_close(other);
    remove_tree(out);
    FAILS(QS_E_INPUT, import("tests/fixtures/models/gguf/llama2-f16.gguf", NULL));
}

/* Rules that give a matrix bits and groups of its own (GPTQModel): the first that matches the beginning of a name. */
static void test_dynamic(void **state)
{
    (void)state;
    static const char wide[] = "rtn:bits=8,group=-1,sym=0";
    scratch_path out, other, artifact;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    (void)made_up_artifact(artifact, model, wide, 1);
    OK(export_to(model, artifact, "gptq", NULL, scratch(other, "wide")));
    (void)make(out, model, "rtn:bits=4,group=32,sym=1", "gptq", 0);
    graft(out, other, q_proj);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.qweight", "right for 8 bits", "does \"bits\" 4 lie");
    set_config(out, "dynamic", json_pack("{s:{}, s:{s:i, s:i, s:b}, s:{s:i}}", "-:lm_head",
                                         "+:model\\.layers\\.0\\..*q_proj", "bits", 8, "group_size", -1, "sym", 0,
                                         ".*q_proj", "bits", 4));
    OK(qs_quant_file_open(&file, artifact, model));
    OK(qs_checkpoint_open(&checkpoint, out, model));
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
    assert_string_equal(facts->variant, "sym-dynamic");
    assert_int_equal(facts->n_quantised, 14);
    qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
    OK(a.get(a.context, 0, QS_ROLE_Q, &made));
    OK(b.get(b.context, 0, QS_ROLE_Q, &wanted));
    assert_same_matrix(made.packed, wanted.packed);
    OK(a.get(a.context, 1, QS_ROLE_Q, &made));
    assert_int_equal(made.packed->bits, 4);
    qs_checkpoint_close(checkpoint);
    qs_quant_file_close(file);
    remove_tree(out);
    remove_tree(other);
}

/* ---- tokenizers ---- */

static void test_tokenizers(void **state)
{
    (void)state;
    char difference[QS_TOKENIZER_DIFFERENCE_BYTES];
    const qs_tokenizer *own = qs_model_get_tokenizer(model);
    scratch_path artifact, out;
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32,sym=1", 0);
    OK(export_to(model, artifact, "gguf", NULL, scratch(out, "tokens.gguf")));
    qs_model *made = model_open(out);
    /* Another kind of file, so another digest, and the same tokens. */
    OK(qs_tokenizer_compare(own, qs_model_get_tokenizer(made), "some text", 9, difference));
    assert_string_equal(difference, "");
    qs_model_close(made);
    char *text;
    size_t bytes;
    qs_tokenizer *other;
    OK(qs_file_read(&text, &bytes, "tests/fixtures/tokenizer/gpt2/tokenizer.json", 1 << 24));
    OK(qs_tokenizer_from_json(&other, text, bytes, "gpt2"));
    OK(qs_tokenizer_compare(own, other, NULL, 0, difference));
    assert_true(strlen(difference) > 0);
    qs_tokenizer_destroy(other);
    qs_mem_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gptq), cmocka_unit_test(test_gguf),   cmocka_unit_test(test_quirks),
        cmocka_unit_test(test_lies), cmocka_unit_test(test_damage), cmocka_unit_test(test_dynamic),
        cmocka_unit_test(test_tokenizers),
    };
    return cmocka_run_group_tests_name("import", tests, start, stop);
}
