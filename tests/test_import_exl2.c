/* EXL2 directories: one that a script made by the format's description (scripts/peers/make_exl2_fixtures.py)
 * decodes to the same numbers; what is exported comes back; and whatever can lie is named (checklist E10, A20, G5). */
#include "tests/import_fixtures.h"

#include "tests/sha256.h"

static const char fixture[] = "tests/fixtures/exl2";

/* The independent decoder has the same weights of a matrix. */
static void check_digest(const char *text, const qs_matrix_desc *desc, qs_role role, int64_t layer)
{
    char digest[SHA256_TEXT_BYTES], name[QS_TENSOR_NAME_BYTES], wanted[160];
    int64_t n = desc->n_out * desc->n_in;
    float *w = malloc((size_t)n * sizeof *w);
    qs_packed_dequant_rows(desc->packed, 0, desc->n_out, w);
    (void)sha256_hex(w, (size_t)n * sizeof *w, digest);
    (void)qs_role_tensor_name(name, QS_NAMING_HF, role, layer);
    (void)snprintf(wanted, sizeof wanted, "%s  %.*s\n", digest, (int)(strlen(name) - strlen(".weight")), name);
    if (strstr(text, wanted) == NULL) fail_msg("%s decodes otherwise", name);
    free(w);
}

/* All linears and the head, which the configuration still takes for the embedding. */
static void test_fixture(void **state)
{
    (void)state;
    qs_checkpoint *checkpoint;
    qs_matrix_desc desc;
    char text[8192], *lines;
    size_t bytes;
    OK(qs_file_read(&lines, &bytes, "tests/fixtures/exl2/weights.sha256", sizeof text - 1));
    assert_true(bytes < sizeof text);
    memcpy(text, lines, bytes);
    text[bytes] = '\0';
    qs_mem_free(lines);
    OK(qs_checkpoint_open(&checkpoint, fixture, model));
    const qs_checkpoint_facts *facts = qs_checkpoint_get_facts(checkpoint);
    assert_string_equal(facts->method, "exl2");
    assert_true(facts->n_linears == 14 && facts->n_quantised == 14 && facts->linear_bits > 0);
    qs_linear_source source = qs_checkpoint_source(checkpoint);
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        OK(source.get(source.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &desc));
        check_digest(text, &desc, (qs_role)(i % QS_N_LINEARS), i / QS_N_LINEARS);
        assert_described(&source, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS));
    }
    assert_described(&source, 0, QS_ROLE_HEAD);
    assert_false(qs_model_get_config(qs_checkpoint_model(checkpoint))->tied_head);
    assert_non_null(source.get_head);
    OK(source.get_head(source.context, &desc));
    assert_true(desc.n_out == 384 && desc.n_in == 64);
    assert_int_equal(facts->head_bits, qs_packed_stored_bits(desc.packed));
    check_digest(text, &desc, QS_ROLE_HEAD, 0);
    qs_checkpoint_close(checkpoint);
}

/* ---- out and in ---- */

/* Random contents of every field in a mix of its own for each matrix. */
static void draw(qs_packed *p, int64_t n_out, int64_t n_in, uint64_t key)
{
    qs_packed_group groups[QS_MIX_GROUPS_MAX];
    uint8_t codes[1024];
    int64_t n = qs_mix_groups(&qs_mixes[key % (uint64_t)qs_n_mixes], n_in, groups);
    OK(qs_packed_shape_exl2(p, n_out, n_in, groups, n));
    OK(qs_packed_alloc_exl2(p, groups));
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t g = 0; g < n; g++)
            for (int64_t j = groups[g].first; j < qs_packed_group_end(p, g); j++)
                codes[j] = (uint8_t)qs_rng_below(key, (uint64_t)(o * n_in + j), 1u << groups[g].bits);
        qs_packed_set_row(p, o, codes);
    }
    for (int64_t i = 0; i < n_out * n; i++) p->scale_codes[i] = (uint8_t)qs_rng_below(key + 1, (uint64_t)i, 16);
    for (int64_t g = 0; g < n; g++)
        p->scale_max[g] = qs_f16_from_f32(1e-4f + 0.01f * (float)qs_rng_unit(key + 2, (uint64_t)g));
    for (int64_t j = 0; j < n_in; j++) p->perm[j] = (int32_t)((7 * j + 3) % n_in);
}

static const char *make_artifact(scratch_path path, const char *spec_text)
{
    qs_quant_inputs inputs = {.model = model};
    qs_quant_writer *writer;
    qs_spec spec;
    int64_t bits = 0;
    static qs_quant_layer layers[2];
    qs_quant_result head = {0};
    OK(qs_spec_parse(&spec, spec_text));
    OK(qs_quant_path(path, scratch_dir, &spec));
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        qs_packed *p = &layers[i / QS_N_LINEARS].linears[i % QS_N_LINEARS].packed;
        qs_tensor_info info = qs_model_info(model, (qs_role)(i % QS_N_LINEARS), i / QS_N_LINEARS);
        draw(p, info.n_out, info.n_in, 20 + (uint64_t)i);
        bits += qs_packed_stored_bits(p);
    }
    OK(qs_quant_writer_create(&writer, path, &inputs, &spec, bits));
    for (int layer = 0; layer < 2; layer++) {
        OK(qs_quant_writer_add(writer, layer, &layers[layer]));
        qs_quant_layer_free(&layers[layer]);
    }
    if (spec.head < 16) {
        qs_tensor_info info = qs_model_info(model, QS_ROLE_HEAD, 0);
        draw(&head.packed, info.n_out, info.n_in, 60);
        OK(qs_quant_writer_add_head(writer, &head));
        qs_packed_free(&head.packed);
    }
    OK(qs_quant_writer_finish(writer, 1, NULL));
    return path;
}

static void assert_same_exl2(const qs_packed *p, const qs_packed *q)
{
    assert_true(p->format == QS_PACKED_EXL2 && p->n_groups == q->n_groups && p->row_bytes == q->row_bytes);
    assert_memory_equal(p->groups, q->groups, (size_t)p->n_groups * sizeof *p->groups);
    assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    assert_memory_equal(p->scale_codes, q->scale_codes, (size_t)(p->n_out * p->n_groups));
    assert_memory_equal(p->scale_max, q->scale_max, (size_t)p->n_groups * 2);
    assert_memory_equal(p->perm, q->perm, (size_t)p->n_in * sizeof *p->perm);
}

/* With a head as it is: tied, and no tensor of its own. */
static void test_round_trip(void **state)
{
    (void)state;
    scratch_path artifact, out;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    (void)make_artifact(artifact, "exl2:bpw=4,head=16");
    OK(export_to(model, artifact, "exl2", NULL, scratch(out, "checkpoint")));
    OK(qs_quant_file_open(&file, artifact, model));
    OK(qs_checkpoint_open(&checkpoint, out, model));
    assert_true(qs_checkpoint_get_facts(checkpoint)->linear_bits > 0);
    qs_linear_source a = qs_checkpoint_source(checkpoint), b = qs_quant_file_source(file);
    for (int i = 0; i < 2 * QS_N_LINEARS; i++) {
        OK(a.get(a.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &made));
        OK(b.get(b.context, i / QS_N_LINEARS, (qs_role)(i % QS_N_LINEARS), &wanted));
        assert_same_exl2(made.packed, wanted.packed);
    }
    assert_true(a.get_head == NULL && b.get_head == NULL);
    assert_true(qs_model_get_config(qs_checkpoint_model(checkpoint))->tied_head);
    assert_int_equal(qs_checkpoint_get_facts(checkpoint)->head_bits, 0);
    qs_quant_file_close(file);
    qs_checkpoint_close(checkpoint);
    remove_tree(out);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gptq", NULL, out));
    TEXT_HOLDS("exl2", "q_proj");
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "bnb", NULL, out));
    TEXT_HOLDS("--format exl2");
    (void)made_up_artifact(artifact, model, "rtn:bits=4,group=32", 0);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "exl2", NULL, out));
    TEXT_HOLDS("rtn-b4-g32-sym", "exl2:bpw=");
    assert_false(qs_path_is_dir(out));
}

/* The head in low bits: out and in, its bits in the configuration, also where nothing but the tensors says so (as
 * ExLlamaV2 writes directories); no other format takes such a point. */
static void test_head(void **state)
{
    (void)state;
    scratch_path artifact, out, path;
    qs_checkpoint *checkpoint;
    qs_quant_file *file;
    qs_matrix_desc made, wanted;
    json_t *root;
    (void)make_artifact(artifact, "exl2:bpw=4,head=5");
    OK(export_to(model, artifact, "exl2", NULL, scratch(out, "checkpoint")));
    OK(qs_quant_file_open(&file, artifact, model));
    assert_string_equal(qs_quant_file_spec(file)->id, "exl2-4.00bpw-h5");
    qs_linear_source b = qs_quant_file_source(file);
    OK(b.get_head(b.context, &wanted));
    OK(qs_path_format(path, "%s/config.json", out));
    for (int named = 1; named >= 0; named--) {
        OK(qs_json_load(&root, path));
        json_t *object = json_object_get(root, "quantization_config");
        assert_int_equal(json_integer_value(json_object_get(object, "head_bits")), 5);
        assert_true(json_is_false(json_object_get(root, "tie_word_embeddings")));
        if (!named) {
            assert_int_equal(json_object_del(root, "quantization_config"), 0);
            assert_int_equal(json_object_set_new(root, "tie_word_embeddings", json_true()), 0);
            assert_int_equal(json_dump_file(root, path, 0), 0);
        }
        json_decref(root);
        OK(qs_checkpoint_open(&checkpoint, out, model));
        qs_linear_source a = qs_checkpoint_source(checkpoint);
        assert_string_equal(qs_checkpoint_get_facts(checkpoint)->method, "exl2");
        OK(a.get_head(a.context, &made));
        assert_same_exl2(made.packed, wanted.packed);
        OK(a.get(a.context, 1, QS_ROLE_DOWN, &made));
        qs_checkpoint_close(checkpoint);
    }
    qs_quant_file_close(file);
    remove_tree(out);
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gguf", "f16", out));
    TEXT_HOLDS("head", "--format exl2");
    FAILS(QS_E_UNSUPPORTED, export_to(model, artifact, "gptq_v2", NULL, out));
}

/* ---- what lies ---- */

/* The fixture in the scratch directory, its tensors in model.safetensors. */
static const char *copy_fixture(scratch_path out)
{
    char command[4 * QS_PATH_BYTES];
    (void)scratch(out, "checkpoint");
    (void)snprintf(command, sizeof command,
                   "mkdir '%s' && cp %s/config.json '%s' && cp %s/output.safetensors '%s/model.safetensors'",
                   out, fixture, out, fixture, out);
    assert_int_equal(system(command), 0);
    return out;
}

static void test_lies(void **state)
{
    (void)state;
    static const int16_t seven = 7, five = 5, minus = -1, far = 9999;
    static const int32_t place = 64, twice = 0;
    static const uint16_t infinite = 0x7C00;
    const struct {
        const char *prefix, *leaf;
        long offset;
        const void *data;
        size_t bytes;
        qs_err code;
        const char *words[2];
    } rows[] = {
        {q_proj, ".q_groups", 0, &seven, 2, QS_E_INPUT, {"q_proj.q_groups", "7 bits"}},
        {q_proj, ".q_groups", 0, &five, 2, QS_E_INPUT, {"q_proj.q_groups", "do its bits lie"}},
        {q_proj, ".q_groups", 2, &minus, 2, QS_E_INPUT, {"q_proj.q_groups", "group 0 takes word rows -1"}},
        {down, ".q_groups", 6, &far, 2, QS_E_INPUT, {"down_proj.q_groups", "9999"}},
        {q_proj, ".q_invperm", 4, &place, 4, QS_E_INPUT, {"q_proj.q_invperm", "outside the row"}},
        {q_proj, ".q_scale_max", 0, &infinite, 2, QS_E_NUMERIC, {"q_proj", "group 0"}},
        {"lm_head", ".q_scale_max", 0, &infinite, 2, QS_E_NUMERIC, {"lm_head", "group 0"}},
        {"lm_head", ".q_groups", 0, &seven, 2, QS_E_INPUT, {"lm_head.q_groups", "7 bits"}},
        {"lm_head", ".q_invperm", 4, &place, 4, QS_E_INPUT, {"lm_head.q_invperm", "outside the row"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        scratch_path out;
        (void)copy_fixture(out);
        patch(out, rows[i].prefix, rows[i].leaf, rows[i].offset, rows[i].data, rows[i].bytes);
        FAILS(rows[i].code, import(out, NULL));
        TEXT_HOLDS(rows[i].words[0], rows[i].words[1]);
        remove_tree(out);
    }
    scratch_path out;
    (void)copy_fixture(out);
    for (int i = 0; i < 2; i++) patch(out, q_proj, ".q_invperm", 4 * i, &twice, 4);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("q_proj.q_invperm", "another one");
    remove_tree(out);
}

/* Tensors that are missing, of another shape, or cut off. */
static void test_shapes(void **state)
{
    (void)state;
    static const char *const leaves[] = {"q_proj.q_scale_max", "q_proj.q_groups", "q_proj.q_invperm",
                                         "lm_head.q_groups"};
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        scratch_path out;
        (void)copy_fixture(out);
        rewrite(out, leaves[i], NULL);
        FAILS(QS_E_INPUT, import(out, NULL));
        TEXT_HOLDS(leaves[i], "is missing");
        remove_tree(out);
    }
    scratch_path out, path;
    (void)copy_fixture(out);
    OK(qs_path_format(path, "%s/model.safetensors", out));
    assert_int_equal(truncate(path, 60000), 0);
    FAILS(QS_E_INPUT, import(out, NULL));
    TEXT_HOLDS("model.safetensors");
    remove_tree(out);
    /* what is left of a head in low bits is no head of 16 bits */
    (void)copy_fixture(out);
    rewrite(out, "lm_head.q_weight", NULL);
    FAILS(QS_E_UNSUPPORTED, import(out, NULL));
    TEXT_HOLDS("lm_head.q_", "not part of");
    remove_tree(out);
    int64_t n_quantised;
    (void)copy_fixture(out);
    OK(import(out, &n_quantised));
    assert_int_equal(n_quantised, 14);
    remove_tree(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fixture), cmocka_unit_test(test_round_trip),
                                       cmocka_unit_test(test_head), cmocka_unit_test(test_lies),
                                       cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests(tests, start, stop);
}
