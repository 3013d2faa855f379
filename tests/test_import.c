/* Checkpoints as candidates: what was exported comes back code by code; layouts that are not ours to write are written here
 * by their definition; and whatever can lie does, with an error that names it. Checklist A20, B7, G5, G7. */
#include "tests/export_fixtures.h"

#include <math.h>

#include "base/json.h"
#include "model/checkpoint.h"
#include "model/safetensors_writer.h"
#include "model/shards.h"
#include "model/tokenizer_compare.h"

static qs_model *model;
static const char tiny[] = "tests/fixtures/tiny";
static const char q_proj[] = "model.layers.0.self_attn.q_proj", down[] = "model.layers.1.mlp.down_proj";

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    model = model_open(tiny);
    return 0;
}

static int stop(void **state)
{
    qs_model_close(model);
    return scratch_remove(state);
}

static void remove_tree(const char *path)
{
    char command[2 * QS_PATH_BYTES];
    (void)snprintf(command, sizeof command, "rm -r '%s'", path);
    assert_int_equal(system(command), 0);
}

/* A checkpoint of a made-up point, in <scratch>/checkpoint. */
static const char *make(scratch_path out, qs_model *parent, const char *text, const char *format, int zero_low)
{
    scratch_path artifact;
    (void)made_up_artifact(artifact, parent, text, zero_low);
    OK(export_to(parent, artifact, format, NULL, scratch(out, "checkpoint")));
    return out;
}

static void assert_same_matrix(const qs_packed *p, const qs_packed *q)
{
    assert_true(p->bits == q->bits && p->n_out == q->n_out && p->n_in == q->n_in && p->group_size == q->group_size);
    assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
    assert_true((p->zeros != NULL) == (q->zeros != NULL));
    if (p->zeros != NULL) assert_memory_equal(p->zeros, q->zeros, (size_t)(p->n_out * p->n_groups));
    /* Columns of a group have no order among themselves, so codes are compared as weights. */
    if (p->perm == NULL) assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    float a[1024], b[1024];
    for (int64_t o = 0; o < p->n_out; o++) {
        qs_packed_dequant_rows(p, o, 1, a);
        qs_packed_dequant_rows(q, o, 1, b);
        assert_memory_equal(a, b, (size_t)p->n_in * sizeof *a);
    }
}

/* Norms that a scaling was folded into (multiples of 1/64, which f16 holds). */
static void compare_vectors(const qs_linear_source *a, const qs_linear_source *b)
{
    float made[1024], wanted[1024];
    for (qs_role role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        bool found = false, own = false;
        if (!qs_model_has(model, role, 1)) continue;
        int64_t n = qs_model_info(model, role, 1).n_in;
        OK(a->get_vector(a->context, 1, role, n, made, &found));
        OK(b->get_vector(b->context, 1, role, n, wanted, &own));
        assert_true(found);
        if (!own) OK(qs_model_read_f32(model, role, 1, wanted));
        assert_memory_equal(made, wanted, (size_t)n * sizeof *made);
    }
}

static void check_round_trip(const char *text, const char *format, int zero_low)
{
    scratch_path artifact, out;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    (void)make(out, model, text, format, zero_low);
    (void)made_up_artifact(artifact, model, text, zero_low);
    OK(qs_quant_file_open(&file, artifact, model));
    OK(qs_checkpoint_open(&checkpoint, out, model));
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
    const qs_spec *spec = qs_quant_file_spec(file);
    assert_string_equal(facts->id, "checkpoint");
    assert_string_equal(facts->method, strcmp(format, "awq") == 0 ? "awq" : "gptq");
    assert_true(facts->bits == spec->bits && facts->group_size == spec->group_size);
    assert_true(facts->n_linears == 14 && facts->n_quantised == 14);
    qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        OK(a.get(a.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &made));
        OK(b.get(b.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &wanted));
        assert_int_equal(made.format, QS_MATRIX_INT);
        assert_same_matrix(made.packed, wanted.packed);
    }
    compare_vectors(&a, &b);
    qs_quant_file_close(file);
    qs_checkpoint_close(checkpoint);
    remove_tree(out);
}

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

/* The writer against the reader, which test_awq holds against the layout's definition. */
static void test_awq_export(void **state)
{
    (void)state;
    check_round_trip("rtn:bits=4,group=32,sym=0", "awq", 0);
    check_round_trip("awq:bits=4,group=32,zero=1", "awq", 0);
    static const struct {
        const char *text, *words[3];
    } rows[] = {
        {"rtn:bits=8,group=32,sym=1", {"rtn-b8-g32-sym", "4 bits, not 8", "gptq"}},
        {"rtn:bits=4,group=64,sym=0", {"down_proj", "groups of 64", "gptq"}}, /* rows of 160 */
        {"gptq:bits=4,group=32,sym=0,act=1", {"q_proj", "act=1", "gptq"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path artifact, out;
        (void)made_up_artifact(artifact, model, rows[i].text, 0);
        FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "awq", NULL, scratch(out, "refused")));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1], rows[i].words[2]);
        assert_false(qs_path_is_dir(out));
    }
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

/* ---- edits ---- */

/* Where the data of a tensor begin in <dir>/model.safetensors. */
static long place_of(const char *dir, const char *prefix, const char *leaf)
{
    scratch_path path;
    char name[192];
    qs_shards shards;
    (void)snprintf(name, sizeof name, "%s%s", prefix, leaf);
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_shards_open(&shards, dir));
    const qs_shard_entry *entry = qs_shards_find(&shards, name);
    assert_non_null(entry);
    long place = (long)(entry->tensor->data - entry->shard->file.map.data);
    qs_shards_close(&shards);
    return place;
}

static void patch(const char *dir, const char *prefix, const char *leaf, long offset, const void *data, size_t bytes)
{
    scratch_path path;
    long place = place_of(dir, prefix, leaf) + offset;
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    FILE *file = fopen(path, "r+b");
    assert_true(file != NULL && fseek(file, place, SEEK_SET) == 0 && fwrite(data, 1, bytes, file) == bytes);
    assert_int_equal(fclose(file), 0);
}

/* Sets a key of "quantization_config" (NULL takes it out). */
static void set_config(const char *dir, const char *key, json_t *value)
{
    scratch_path path;
    json_t *root;
    OK(qs_path_format(path, "%s/config.json", dir));
    OK(qs_json_load(&root, path));
    json_t *object = json_object_get(root, "quantization_config");
    if (value == NULL) (void)json_object_del(object, key);
    else assert_int_equal(json_object_set_new(object, key, value), 0);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

/* Rewrites the tensors without one of them, or with one that is not quantised. */
static void rewrite(const char *dir, const char *without, const char *dense_prefix)
{
    scratch_path path, fresh;
    qs_shards shards;
    qs_safetensors_writer *writer;
    char weight[192];
    static const uint16_t zeros[160 * 160];
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_path_format(fresh, "%s/fresh", dir));
    OK(qs_shards_open(&shards, dir));
    OK(qs_safetensors_writer_create(&writer, fresh));
    OK(qs_safetensors_writer_metadata(writer, "format", "pt"));
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < shards.n_entries; i++) {
            const qs_safetensor *t = shards.entries[i].tensor;
            if (strstr(t->name, without) != NULL) continue;
            if (pass == 0) OK(qs_safetensors_writer_declare(writer, t->name, t->type, t->n_dims, t->shape));
            else OK(qs_safetensors_writer_put(writer, t->name, t->data, t->bytes));
        }
        if (dense_prefix == NULL) continue;
        (void)snprintf(weight, sizeof weight, "%s.weight", dense_prefix);
        if (pass == 0) OK(qs_safetensors_writer_declare(writer, weight, QS_ST_F16, 2, (int64_t[]){64, 64}));
        else OK(qs_safetensors_writer_put(writer, weight, zeros, 64 * 64 * 2));
    }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards);
    assert_int_equal(rename(fresh, path), 0);
}

/* Opens, and reads all matrices if that succeeds. */
static qs_err import(const char *dir, int64_t *n_quantised)
{
    qs_checkpoint *checkpoint = NULL;
    qs_matrix_desc desc;
    qs_err err;
    QS_TRY(qs_checkpoint_open(&checkpoint, dir, model));
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    if (n_quantised != NULL) *n_quantised = qs_checkpoint_get_facts(checkpoint)->n_quantised;
    for (int i = 0; i < 2 * QS_N_LINEARS; i++)
        QS_TRY(source.get(source.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &desc));
out:
    qs_checkpoint_close(checkpoint);
    return err;
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
        {"group_size", json_integer(64), NULL, NULL, NULL, 0, QS_E_INPUT, {"q_proj.scales", "groups would be of 32", "64"}},
        {"group_size", json_integer(0), NULL, NULL, NULL, 0, QS_E_INPUT, {"group_size", "0", "-1"}},
        {"checkpoint_format", json_string("marlin"), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED, {"marlin", "gptq_v2", "config.json"}},
        {"quant_method", json_string("hqq"), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED, {"hqq", "gptq", "awq"}},
        {"dynamic", json_pack("{s:{}}", "-:lm_head"), NULL, NULL, NULL, 0, QS_E_UNSUPPORTED, {"dynamic", "config.json", "bits"}},
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

/* More channels in a group than it has room for; tensors that are missing or one too many; half a file; another model. */
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

/* ---- AWQ, written by its definition (formats 4.1) ---- */

static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static void put_awq(qs_safetensors_writer *writer, const char *prefix, const qs_packed *p, bool declare)
{
    static uint32_t codes[160 * 160], zeros[160 * 160];
    static uint16_t scales[160 * 160];
    uint8_t row[160];
    char name[192];
    memset(codes, 0, sizeof codes);
    memset(zeros, 0, sizeof zeros);
    for (int64_t o = 0; o < p->n_out; o++) {
        int nibble = 0;
        while (order[nibble] != o % 8) nibble++;
        qs_packed_get_row(p, o, row);
        for (int64_t i = 0; i < p->n_in; i++) codes[i * p->n_out / 8 + o / 8] |= (uint32_t)row[i] << (4 * nibble);
        for (int64_t g = 0; g < p->n_groups; g++) {
            zeros[g * p->n_out / 8 + o / 8] |= (uint32_t)p->zeros[o * p->n_groups + g] << (4 * nibble);
            scales[g * p->n_out + o] = p->scales[o * p->n_groups + g];
        }
    }
    const struct {
        const char *leaf;
        qs_safetensor_type type;
        int64_t shape[2];
        const void *data;
    } leaves[] = {{".qweight", QS_ST_I32, {p->n_in, p->n_out / 8}, codes},
                  {".qzeros", QS_ST_I32, {p->n_groups, p->n_out / 8}, zeros},
                  {".scales", QS_ST_F16, {p->n_groups, p->n_out}, scales}};
    for (int i = 0; i < 3; i++) {
        (void)snprintf(name, sizeof name, "%s%s", prefix, leaves[i].leaf);
        size_t bytes = (size_t)(leaves[i].shape[0] * leaves[i].shape[1]) * (i == 2 ? 2 : 4);
        if (declare) OK(qs_safetensors_writer_declare(writer, name, leaves[i].type, 2, leaves[i].shape));
        else OK(qs_safetensors_writer_put(writer, name, leaves[i].data, bytes));
    }
}

/* Turns a GPTQ export into an AWQ checkpoint of the same artifact. */
static void make_awq(const char *dir, const char *artifact)
{
    scratch_path path, fresh;
    char name[QS_TENSOR_NAME_BYTES];
    qs_shards shards;
    qs_safetensors_writer *writer;
    qs_quant_file *file;
    qs_matrix_desc desc;
    OK(qs_path_format(path, "%s/model.safetensors", dir));
    OK(qs_path_format(fresh, "%s/fresh", dir));
    OK(qs_shards_open(&shards, dir));
    OK(qs_quant_file_open(&file, artifact, model));
    qs_linear_source source = qs_quant_file_source(file);
    OK(qs_safetensors_writer_create(&writer, fresh));
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t i = 0; i < shards.n_entries; i++) {
            const qs_safetensor *t = shards.entries[i].tensor;
            if (strstr(t->name, "_proj.") != NULL) continue;
            if (pass == 0) OK(qs_safetensors_writer_declare(writer, t->name, t->type, t->n_dims, t->shape));
            else OK(qs_safetensors_writer_put(writer, t->name, t->data, t->bytes));
        }
        for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
            OK(source.get(source.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &desc));
            (void)qs_role_tensor_name(name, QS_NAMING_HF, (qs_role)(i % QS_N_LINEARS), i / QS_N_LINEARS);
            name[strlen(name) - strlen(".weight")] = '\0';
            put_awq(writer, name, desc.packed, pass == 0);
        }
    }
    OK(qs_safetensors_writer_publish(writer));
    qs_shards_close(&shards);
    qs_quant_file_close(file);
    assert_int_equal(rename(fresh, path), 0);
    set_config(dir, "quant_method", json_string("awq"));
    set_config(dir, "checkpoint_format", NULL);
    set_config(dir, "version", json_string("gemm"));
}

static void test_awq(void **state)
{
    (void)state;
    static const char text[] = "rtn:bits=4,group=32,sym=0";
    scratch_path artifact, out;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    (void)make(out, model, text, "gptq_v2", 0);
    make_awq(out, made_up_artifact(artifact, model, text, 0));
    OK(qs_quant_file_open(&file, artifact, model));
    OK(qs_checkpoint_open(&checkpoint, out, model));
    assert_string_equal(qs_checkpoint_get_facts(checkpoint)->method, "awq");
    qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        OK(a.get(a.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &made));
        OK(b.get(b.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &wanted));
        assert_same_matrix(made.packed, wanted.packed);
    }
    qs_checkpoint_close(checkpoint);
    qs_quant_file_close(file);
    set_config(out, "version", json_string("gemv"));
    FAILS(QS_E_UNSUPPORTED, import(out, NULL));
    TEXT_HOLDS("gemv", "nibbles", "gemm");
    set_config(out, "version", json_string("gemm"));
    set_config(out, "group_size", json_integer(16));
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.qzeros", "group size");
    remove_tree(out);
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
        cmocka_unit_test(test_lies), cmocka_unit_test(test_damage), cmocka_unit_test(test_awq),
        cmocka_unit_test(test_awq_export),
        cmocka_unit_test(test_tokenizers),
    };
    return cmocka_run_group_tests_name("import", tests, start, stop);
}
