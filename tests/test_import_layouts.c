/* Layouts of checkpoints beside GPTQ's: AWQ against a writer that follows the layout's definition,
 * bitsandbytes there and back, and what they refuse. Checklist A20, G5. */
#include "tests/import_fixtures.h"

#include <math.h>
#include <unistd.h>

#include "model/gguf.h"
#include "model/weights_impl.h"

static const uint8_t *gguf_start(const qs_model *made) { return made->file.map.data; }

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
        assert_described(&a, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS));
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

/* Tables, block maxima in f32 and in 8 bits, rows of int8: what bitsandbytes reads of it,
 * scripts/peers/interop_bnb.py says. */
static void test_bnb(void **state)
{
    (void)state;
    check_round_trip("nf4:block=64,dq=1,compute=bf16", "bnb", 0);
    check_round_trip("nf4:block=128,dq=0,compute=fp32", "bnb", 0);
    check_round_trip("fp4:block=64,dq=0,compute=fp16", "bnb", 0);
    check_round_trip("int8", "bnb", 0);
    scratch_path artifact, out;
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32,sym=1", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "bnb", NULL, scratch(out, "refused")));
    TEXT_HOLDS("rtn-b4-g32-sym", "nf4", "gptq_v2");
    (void)made_up_artifact(artifact, model, "nf4:block=64,dq=1,compute=bf16", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gptq", NULL, out));
    TEXT_HOLDS("q_proj", "nf4", "--format bnb");
    OK(export_to(model, artifact, "bnb", NULL, out));
    static const float odd = 0.5f;
    patch(out, q_proj, ".weight.quant_map", 4, &odd, sizeof odd);
    FAILS(QS_E_UNSUPPORTED, import(out, NULL));
    TEXT_HOLDS("entry 1", "q_proj.weight.quant_map", "0.5");
    patch(out, q_proj, ".weight.quant_state.bitsandbytes__nf4", 0, "[", 1);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.weight.quant_state");
    remove_tree(out);
}

/* What can lie in these layouts does, and the error names it. */
static void test_lies(void **state)
{
    (void)state;
    static const float nan_value = NAN, inf_value = INFINITY;
    const uint16_t nan_half = qs_f16_from_f32(nan_value);
    const long blocksize = (long)strlen("{\"quant_type\": \"nf4\", \"blocksize\": ");
    const struct {
        const char *text, *format, *leaf;
        long offset;
        const void *data;
        size_t bytes;
        qs_err code;
        const char *words[2];
    } rows[] = {
        {"nf4:block=64,dq=0,compute=bf16", "bnb", ".weight.absmax", 8, &nan_value, 4, QS_E_NUMERIC,
         {"q_proj", "not finite"}},
        {"fp4:block=64,dq=1,compute=bf16", "bnb", ".weight.nested_absmax", 0, &inf_value, 4, QS_E_NUMERIC,
         {"q_proj", "not finite"}},
        {"int8", "bnb", ".SCB", 12, &nan_value, 4, QS_E_NUMERIC, {"q_proj", "not finite"}},
        {"rtn:bits=4,group=32,sym=0", "awq", ".scales", 2, &nan_half, 2, QS_E_NUMERIC, {"q_proj.scales", "row 1"}},
        {"nf4:block=64,dq=0,compute=bf16", "bnb", ".weight.quant_state.bitsandbytes__nf4", blocksize, "32", 2,
         QS_E_INPUT, {"q_proj.weight.absmax", "[128]"}},
        {"nf4:block=64,dq=0,compute=bf16", "bnb", ".weight.quant_state.bitsandbytes__nf4", blocksize, "16", 2,
         QS_E_INPUT, {"quant_state", "blocksize"}},
        {"nf4:block=64,dq=0,compute=bf16", "bnb", ".weight.quant_state.bitsandbytes__nf4", 16, "fp4", 3,
         QS_E_UNSUPPORTED, {"quant_state", "fp4"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path out;
        (void)make(out, model, rows[i].text, rows[i].format, 0);
        patch(out, q_proj, rows[i].leaf, rows[i].offset, rows[i].data, rows[i].bytes);
        FAILS(rows[i].code, import(out, NULL));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1]);
        remove_tree(out);
    }
}

/* Block scales of a GGUF file that are no numbers, in a type that stays in codes and in one that does not; half a
 * file. */
static void test_gguf_lies(void **state)
{
    (void)state;
    static const char *const texts[] = {"rtn:bits=4,group=32,sym=1", "rtn:bits=4,group=32,sym=0"};
    const uint16_t nan_half = qs_f16_from_f32(NAN);
    for (int i = 0; i < 2; i++) {
        scratch_path artifact, out;
        (void)made_up_artifact(artifact, model, texts[i], 0);
        OK(export_to(model, artifact, "gguf", NULL, scratch(out, "lies.gguf")));
        qs_model *made = model_open(out);
        const qs_gguf *gguf = qs_model_get_gguf(made);
        const qs_gguf_tensor *t = qs_gguf_find_tensor(gguf, "blk.1.ffn_down.weight");
        assert_non_null(t);
        long place = (long)(t->data - gguf_start(made));
        qs_model_close(made);
        FILE *file = fopen(out, "r+b");
        assert_true(file != NULL && fseek(file, place, SEEK_SET) == 0 && fwrite(&nan_half, 2, 1, file) == 1);
        assert_int_equal(fclose(file), 0);
        FAILS(QS_E_NUMERIC, import(out, NULL));
        TEXT_HOLDS("blk.1.ffn_down.weight", i == 0 ? "not finite" : "nan");
        assert_int_equal(truncate(out, place), 0);
        FAILS(QS_E_INPUT, import(out, NULL));
        TEXT_HOLDS("lies.gguf");
        assert_int_equal(remove(out), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_awq), cmocka_unit_test(test_awq_export), cmocka_unit_test(test_bnb),
        cmocka_unit_test(test_lies), cmocka_unit_test(test_gguf_lies),
    };
    return cmocka_run_group_tests_name("import_layouts", tests, start, stop);
}
