/* GPTQ export: every tensor against the layout by its definition, written out here bit by bit;
 * what the format cannot hold; the documents. Checklist A20, G5. */
#include "tests/export_fixtures.h"

#include "base/json.h"
#include "model/shards.h"

static qs_model *model;

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    model = model_open("tests/fixtures/tiny");
    return 0;
}

static int stop(void **state)
{
    qs_model_close(model);
    return scratch_remove(state);
}

static const qs_safetensor *find(const qs_shards *shards, const char *prefix, const char *leaf)
{
    char name[192];
    (void)snprintf(name, sizeof name, "%s%s", prefix, leaf);
    const qs_shard_entry *entry = qs_shards_find(shards, name);
    if (entry == NULL) fail_msg("%s is missing", name);
    return entry->tensor;
}

static uint32_t word_at(const qs_safetensor *t, int64_t i)
{
    uint32_t word;
    memcpy(&word, t->data + 4 * i, sizeof word);
    return word;
}

/* Value `i` of a stream of `bits` each that runs through words first, first + step, first + 2 step ... */
static unsigned stream_value(const qs_safetensor *t, int64_t first, int64_t step, int bits, int64_t i)
{
    unsigned value = 0;
    for (int b = 0; b < bits; b++) {
        int64_t at = i * bits + b;
        value |= (word_at(t, first + at / 32 * step) >> (at % 32) & 1u) << b;
    }
    return value;
}

/* W[o][i] = scales[g_idx[i]][o] (q[i][o] - zero[g_idx[i]][o]) equals the packed matrix, number by number. */
static void check_matrix(const qs_shards *shards, const char *prefix, const qs_packed *p, int offset)
{
    const qs_safetensor *codes = find(shards, prefix, ".qweight"), *zeros = find(shards, prefix, ".qzeros"),
                        *scales = find(shards, prefix, ".scales"), *groups = find(shards, prefix, ".g_idx");
    float row[1024];
    assert_true(codes->type == QS_ST_I32 && zeros->type == QS_ST_I32 && scales->type == QS_ST_F16);
    assert_true(codes->shape[0] == p->n_in * p->bits / 32 && codes->shape[1] == p->n_out);
    assert_true(zeros->shape[0] == p->n_groups && zeros->shape[1] == p->n_out * p->bits / 32);
    assert_true(scales->shape[0] == p->n_groups && scales->shape[1] == p->n_out);
    assert_true(groups->n_dims == 1 && groups->shape[0] == p->n_in);
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_dequant_rows(p, o, 1, row);
        for (int64_t i = 0; i < p->n_in; i++) {
            int64_t g = word_at(groups, i);
            assert_true(g < p->n_groups);
            uint16_t scale;
            memcpy(&scale, scales->data + 2 * (g * p->n_out + o), sizeof scale);
            int q = (int)stream_value(codes, o, p->n_out, p->bits, i);
            int zero = (int)stream_value(zeros, g * zeros->shape[1], 1, p->bits, o) + offset;
            assert_true(row[i] == qs_f32_from_f16(scale) * (float)(q - zero));
        }
    }
}

static void check_point(const char *text, const char *format, int zero_low)
{
    scratch_path artifact, out;
    char name[QS_TENSOR_NAME_BYTES];
    qs_shards shards;
    qs_quant_file *file;
    qs_matrix_desc desc;
    (void)made_up_artifact(artifact, model, text, zero_low);
    OK(export_to(model, artifact, format, NULL, scratch(out, "checkpoint")));
    OK(qs_shards_open(&shards, out));
    OK(qs_quant_file_open(&file, artifact, model));
    qs_linear_source source = qs_quant_file_source(file);
    for (int64_t layer = 0; layer < 2; layer++)
        for (qs_role role = 0; role < QS_N_LINEARS; role++) {
            OK(source.get(source.context, layer, role, &desc));
            (void)qs_role_tensor_name(name, QS_NAMING_HF, role, layer);
            name[strlen(name) - strlen(".weight")] = '\0';
            check_matrix(&shards, name, desc.packed, strcmp(format, "gptq") == 0);
        }
    qs_quant_file_close(file);
    /* 14 linears of four tensors, embedding, final norm, two norms a layer; the tied head has none. */
    assert_int_equal(shards.n_entries, 14 * 4 + 2 + 4);
    assert_null(qs_shards_find(&shards, "lm_head.weight"));
    qs_shards_close(&shards);
    char command[2 * QS_PATH_BYTES];
    (void)snprintf(command, sizeof command, "rm -r '%s'", out);
    assert_int_equal(system(command), 0);
}

static void test_layout(void **state)
{
    (void)state;
    check_point("rtn:bits=4,group=32,sym=1", "gptq", 0);
    check_point("gptq:bits=4,group=32,sym=0,act=1", "gptq", 1);
    check_point("gptq:bits=4,group=32,sym=0,act=1", "gptq_v2", 0);
    check_point("gptq:bits=3,group=64,sym=0", "gptq_v2",
                0); /* rows of 160: a shorter last group; codes straddle words */
    check_point("rtn:bits=3,group=32,sym=0", "gptq", 1);
    check_point("rtn:bits=8,group=-1,sym=1", "gptq", 0);
    check_point("rtn:bits=2,group=32,sym=0", "gptq", 1);
}

/* Symmetric 4 bits: the words that every description of the format shows. */
static void test_words(void **state)
{
    (void)state;
    static const struct {
        const char *format;
        uint32_t word;
    } rows[] = {{"gptq", 0x77777777}, {"gptq_v2", 0x88888888}};
    for (int i = 0; i < 2; i++) {
        scratch_path artifact, out;
        qs_shards shards;
        (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32,sym=1", 0);
        OK(export_to(model, artifact, rows[i].format, NULL, scratch(out, rows[i].format)));
        OK(qs_shards_open(&shards, out));
        const qs_safetensor *zeros = find(&shards, "model.layers.1.mlp.down_proj", ".qzeros");
        for (int64_t w = 0; w < zeros->shape[0] * zeros->shape[1]; w++)
            assert_int_equal(word_at(zeros, w), rows[i].word);
        qs_shards_close(&shards);
    }
}

static void test_refused(void **state)
{
    (void)state;
    scratch_path artifact, out;
    (void)made_up_artifact(artifact, model, "gptq:bits=4,group=32,sym=0", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gptq", NULL, scratch(out, "refused")));
    TEXT_HOLDS("layers.0.q_proj", "zero point", "gptq_v2", "sym=1");
    assert_false(qs_path_is_dir(out));
    OK(qs_dir_create(out));
    OK(export_to(model, artifact, "gptq_v2", NULL, out)); /* an empty directory is taken */
    FAILS(QS_E_USAGE, export_to(model, artifact, "gptq_v2", NULL, out));
    TEXT_HOLDS("refused", "there already");
    FAILS(QS_E_USAGE, export_to(model, artifact, "onnx", NULL, scratch(out, "none")));
    TEXT_HOLDS("onnx", "gptq, gptq_v2", "gguf");
    FAILS(QS_E_RESOURCE, export_to(model, artifact, "gptq_v2", NULL, "/proc/nowhere/x"));
    assert_no_parts();

    qs_model *odd = model_open("tests/fixtures/models/smollm2"); /* 48 columns */
    (void)made_up_artifact(artifact, odd, "rtn:bits=4,group=16,sym=1", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(odd, artifact, "gptq", NULL, scratch(out, "odd")));
    TEXT_HOLDS("layers.0.q_proj", "multiple of 32", "--type f16");
    qs_model_close(odd);
}

/* Untouched tensors come back bit by bit, the documents say what the loaders ask. */
static void test_documents(void **state)
{
    (void)state;
    scratch_path artifact, out, path;
    json_t *config, *own;
    qs_shards shards, before;
    (void)made_up_artifact(artifact, model, "gptq:bits=4,group=32,sym=0,act=1,damp=0.05", 1);
    OK(export_to(model, artifact, "gptq", NULL, scratch(out, "documents")));
    OK(qs_path_format(path, "%s/config.json", out));
    OK(qs_json_load(&config, path));
    OK(qs_path_format(path, "%s/quantize_config.json", out));
    OK(qs_json_load(&own, path));
    const json_t *q = json_object_get(config, "quantization_config");
    assert_true(json_equal(q, own));
    assert_string_equal(json_string_value(json_object_get(config, "torch_dtype")), "float16");
    assert_int_equal(json_integer_value(json_object_get(config, "hidden_size")), 64);
    assert_string_equal(json_string_value(json_object_get(q, "quant_method")), "gptq");
    assert_string_equal(json_string_value(json_object_get(q, "checkpoint_format")), "gptq");
    assert_int_equal(json_integer_value(json_object_get(q, "bits")), 4);
    assert_int_equal(json_integer_value(json_object_get(q, "group_size")), 32);
    assert_true(json_is_false(json_object_get(q, "sym")) && json_is_true(json_object_get(q, "desc_act")));
    assert_true(json_real_value(json_object_get(q, "damp_percent")) == 0.05);
    json_decref(config);
    json_decref(own);

    OK(qs_shards_open(&shards, out));
    OK(qs_shards_open(&before, "tests/fixtures/tiny"));
    static const char *const kept[] = {"model.embed_tokens.weight", "model.norm.weight",
                                       "model.layers.1.input_layernorm.weight"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        const qs_safetensor *a = qs_shards_find(&shards, kept[i])->tensor,
                            *b = qs_shards_find(&before, kept[i])->tensor;
        assert_true(a->type == QS_ST_F16 && b->type == QS_ST_F16 && a->n_dims == b->n_dims && a->bytes == b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    qs_shards_close(&shards);
    qs_shards_close(&before);

    char *a, *b;
    size_t a_bytes, b_bytes;
    OK(qs_path_format(path, "%s/tokenizer.json", out));
    OK(qs_file_read(&a, &a_bytes, path, 1 << 20));
    OK(qs_file_read(&b, &b_bytes, "tests/fixtures/tiny/tokenizer.json", 1 << 20));
    assert_int_equal(a_bytes, b_bytes);
    assert_memory_equal(a, b, a_bytes);
    qs_mem_free(a);
    qs_mem_free(b);
}

/* An untied head, a bias, and a file per 40,000 bytes with their index. */
static void test_shards(void **state)
{
    (void)state;
    static const char *const names[] = {"llama3", "qwen2"};
    for (int i = 0; i < 2; i++) {
        scratch_path artifact, out, from, path;
        qs_shards shards;
        char **files;
        int64_t n_files;
        OK(qs_path_format(from, "tests/fixtures/models/%s", names[i]));
        qs_model *other = model_open(from);
        (void)made_up_artifact(artifact, other, "rtn:bits=4,group=32,sym=1", 0);
        qs_export_job job = {.model = other, .out = scratch(out, names[i]), .shard_bytes = 40000};
        OK(qs_export_format_find(&job.format, "gptq"));
        OK(qs_quant_file_open(&job.quant, artifact, other));
        OK(job.format->check(&job));
        OK(job.format->write(&job));
        qs_quant_file_close(job.quant);
        OK(qs_shards_open(&shards, out)); /* checks the index against the files */
        OK(qs_dir_list(&files, &n_files, out, ".safetensors"));
        assert_true(n_files > 1 && shards.n_shards == n_files);
        assert_string_equal(files[0] + strlen("model-00001-of-"), files[n_files - 1] + strlen("model-00001-of-"));
        qs_dir_list_free(files, n_files);
        assert_int_equal(qs_shards_find(&shards, "lm_head.weight") != NULL, i == 0);
        assert_int_equal(qs_shards_find(&shards, "model.layers.0.self_attn.q_proj.bias") != NULL, i == 1);
        qs_shards_close(&shards);
        OK(qs_path_format(path, "%s/tokenizer.json", out));
        assert_false(qs_file_exists(path));
        qs_model_close(other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),    cmocka_unit_test(test_words),  cmocka_unit_test(test_refused),
        cmocka_unit_test(test_documents), cmocka_unit_test(test_shards),
    };
    return cmocka_run_group_tests_name("export_gptq", tests, start, stop);
}
