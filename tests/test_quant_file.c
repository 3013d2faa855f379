/* Quant artifacts: what was solved comes back, finished work is recognised and nothing else is, and an
 * artifact of another model is refused (product.md: a second run does only what is missing or stale). */
#include "tests/described.h"

#include "model/model_record.h"
#include "quant/grid.h"
#include "quant/quant_points.h"
#include "stat/calib_file.h"
#include "tests/quant_data.h"

static const char model_path[] = "tests/fixtures/tiny", other_path[] = "tests/fixtures/models/llama2";
static const char *const texts[] = {"rtn:bits=4,group=32", "gptq:bits=3,group=32,sym=0,act=1",
                                    "gptq:bits=4,group=32", "gptq:bits=2,group=-1",
                                    "gptq:bits=8,group=48,act=1,static=1,sym=0",
                                    "awq:bits=4,group=32", "awq:bits=3,group=32,gptq=1",
                                    "nf4:block=128,dq=0", "fp4:compute=fp16", "int8:threshold=3"};
enum { N_SPECS = sizeof texts / sizeof *texts, N_TOKENS = 200 };

static qs_model *model;
static qs_backend *backend;
static qs_calib_file *calib, *other_calib;
static qs_spec specs[N_SPECS];

/* A calibration file with synthetic second moments. */
static qs_calib_file *make_calib(const char *name, uint64_t key)
{
    static const int32_t window[4] = {1, 2, 3, 4};
    qs_calib_plan plan = {.n_samples = 1, .seqlen = 4, .n_text_tokens = 4, .n_distinct_tokens = 4,
                          .windows = window, .compute = "f32", .propagate_spec = ""};
    const qs_model_config *config = qs_model_get_config(model);
    scratch_path path;
    char node[96];
    qs_artifact *artifact;
    qs_digest digest;
    qs_calib_file *file;
    OK(qs_calib_create(&artifact, scratch(path, name), model, &plan));
    for (int64_t layer = 0; layer < config->n_layers; layer++) {
        for (int site = 0; site < QS_N_SITES; site++) {
            int64_t width = qs_site_width(config, (qs_site)site), n = width * (width + 1) / 2;
            float *gram = data_gram(width, N_TOKENS, key + (uint64_t)(4 * layer + site));
            (void)snprintf(node, sizeof node, "/layers/%d/%s/gram", (int)layer, qs_site_name((qs_site)site));
            OK(qs_artifact_put(artifact, node, QS_F32, 1, &n, gram));
            (void)snprintf(node, sizeof node, "/layers/%d/%s/@n_tokens", (int)layer,
                           qs_site_name((qs_site)site));
            OK(qs_artifact_put_int(artifact, node, N_TOKENS));
            float *abs_mean = data_normal(width, key + 500 + (uint64_t)site, 1);
            for (int64_t i = 0; i < width; i++) abs_mean[i] = fabsf(abs_mean[i]);
            (void)snprintf(node, sizeof node, "/layers/%d/%s/abs_mean", (int)layer, qs_site_name((qs_site)site));
            OK(qs_artifact_put(artifact, node, QS_F32, 1, &width, abs_mean));
            free(abs_mean);
            free(gram);
        }
    }
    OK(qs_artifact_put_real(artifact, "/calibration/@js_divergence", 0.25));
    OK(qs_artifact_seal(artifact, &digest));
    OK(qs_calib_file_open(&file, path, model));
    return file;
}

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    OK(qs_model_open(&model, model_path));
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    calib = make_calib("calib.h5", 1);
    other_calib = make_calib("other.h5", 100);
    for (int i = 0; i < N_SPECS; i++) OK(qs_spec_parse(&specs[i], texts[i]));
    return 0;
}

static int stop(void **state)
{
    qs_calib_file_close(calib);
    qs_calib_file_close(other_calib);
    qs_backend_destroy(backend);
    qs_model_close(model);
    return scratch_remove(state);
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **gram, int64_t *n_tokens)
{
    return qs_calib_file_gram(context, layer, site, gram, n_tokens);
}

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    return qs_calib_file_abs_mean(context, layer, site, abs_mean);
}

static qs_gram_source grams_of(qs_calib_file *file)
{
    return (qs_gram_source){.get = get_gram, .get_abs = get_abs, .context = file};
}

static qs_quant_inputs inputs_of(qs_calib_file *file)
{
    return (qs_quant_inputs){.model = model, .calib = file != NULL ? qs_calib_file_artifact(file) : NULL,
                             .calib_name = "calib.h5"};
}

static void assert_same_matrix(const qs_packed *p, const qs_packed *q)
{
    assert_true(p->bits == q->bits && p->n_out == q->n_out && p->n_in == q->n_in);
    assert_true(p->group_size == q->group_size && p->n_groups == q->n_groups && p->row_bytes == q->row_bytes);
    assert_memory_equal(p->codes, q->codes, (size_t)(p->n_out * p->row_bytes));
    assert_true(p->format == q->format && p->compute == q->compute && p->threshold == q->threshold);
    assert_true((p->scales != NULL) == (q->scales != NULL) && (p->absmax != NULL) == (q->absmax != NULL));
    assert_true(p->n_absmax == q->n_absmax && (p->absmax_codes != NULL) == (q->absmax_codes != NULL));
    if (p->scales != NULL) assert_memory_equal(p->scales, q->scales, (size_t)(p->n_out * p->n_groups) * 2);
    if (p->absmax != NULL) assert_memory_equal(p->absmax, q->absmax, (size_t)p->n_absmax * 4);
    if (p->absmax_codes != NULL) {
        assert_memory_equal(p->absmax_codes, q->absmax_codes, (size_t)p->n_absmax);
        assert_memory_equal(p->nested_absmax, q->nested_absmax, (size_t)qs_packed_n_nested(p) * 4);
        assert_true(p->nested_offset == q->nested_offset);
    }
    assert_true((p->zeros != NULL) == (q->zeros != NULL) && (p->perm != NULL) == (q->perm != NULL));
    if (p->zeros != NULL) assert_memory_equal(p->zeros, q->zeros, (size_t)(p->n_out * p->n_groups));
    if (p->perm != NULL) assert_memory_equal(p->perm, q->perm, (size_t)p->n_in * 4);
}

/* Norms come back as they were folded, and not at all where nothing is folded. */
static void assert_same_vectors(const qs_linear_source *source, int64_t l, const qs_quant_layer *layer, bool folds)
{
    for (int role = QS_N_LINEARS; role < QS_N_BLOCK_ROLES; role++) {
        const float *wanted = layer->vectors[role - QS_N_LINEARS];
        float vector[160];
        bool found = false;
        assert_int_equal(wanted != NULL, folds && (role == QS_ROLE_ATTN_NORM || role == QS_ROLE_MLP_NORM));
        if (!qs_model_has(model, (qs_role)role, l)) continue;
        int64_t n = qs_model_info(model, (qs_role)role, l).n_in;
        OK(source->get_vector(source->context, l, (qs_role)role, n, vector, &found));
        assert_int_equal(found, wanted != NULL);
        if (found) assert_memory_equal(vector, wanted, (size_t)n * sizeof *vector);
    }
}

/* What is written reads back, in any order of layers, and everything about the spec with it. */
static void test_round_trip(void **state)
{
    (void)state;
    qs_gram_source grams = grams_of(calib);
    qs_quant_inputs inputs = inputs_of(calib);
    int64_t n_layers = qs_model_get_config(model)->n_layers;
    qs_quant_layer layers[2][N_SPECS];
    double losses[2 * QS_N_LINEARS], divergence;
    assert_int_equal(n_layers, 2);
    for (int64_t l = 0; l < 2; l++)
        OK(qs_quantize_layer(model, backend, l, &grams, specs, N_SPECS, layers[l]));
    for (int s = 0; s < N_SPECS; s++) {
        scratch_path path;
        qs_quant_writer *writer;
        qs_quant_file *file;
        qs_matrix_desc desc;
        OK(qs_quant_path(path, scratch_dir, &specs[s]));
        OK(qs_quant_writer_create(&writer, path, &inputs, &specs[s],
                              qs_quant_linear_bits(&specs[s], model)));
        for (int64_t l = 1; l >= 0; l--) OK(qs_quant_writer_add(writer, l, &layers[l][s]));
        assert_int_equal(qs_quant_writer_n_fallbacks(writer), 0);
        assert_true(qs_quant_writer_loss(writer) > 0);
        OK(qs_quant_writer_finish(writer, 1.5, NULL));
        OK(qs_quant_file_open(&file, path, model));
        assert_memory_equal(qs_quant_file_spec(file), &specs[s], sizeof specs[s]);
        qs_linear_source source = qs_quant_file_source(file);
        for (int i = 0; i < 3 * QS_N_LINEARS; i++) {
            int l = i / QS_N_LINEARS % 2, role = i % QS_N_LINEARS;
            OK(source.get(source.context, l, (qs_role)role, &desc));
            assert_int_equal(desc.format, QS_MATRIX_INT);
            assert_true(desc.n_out == desc.packed->n_out && desc.n_in == desc.packed->n_in);
            assert_same_matrix(desc.packed, &layers[l][s].linears[role].packed);
            qs_packed_group groups[QS_MIX_GROUPS_MAX];
            qs_packed planned;
            const qs_matrix_desc foretold = {.format = QS_MATRIX_INT, .n_out = desc.n_out, .n_in = desc.n_in,
                                             .packed = &planned};
            assert_described(&source, l, (qs_role)role);
            OK(qs_quant_describe(&specs[s], desc.n_out, desc.n_in, groups, &planned));
            assert_same_description(&foretold, &desc);
        }
        for (int l = 0; l < 2; l++) assert_same_vectors(&source, l, &layers[l][s], specs[s].method->folds);
        OK(qs_quant_file_losses(file, losses));
        for (int i = 0; i < 2 * QS_N_LINEARS; i++)
            assert_true(losses[i] == layers[i / QS_N_LINEARS][s].linears[i % QS_N_LINEARS].loss);
        OK(qs_artifact_get_real(qs_quant_file_artifact(file), "/calibration/@js_divergence", &divergence));
        assert_true(divergence == 0.25); /* what gates judge travels with the artifact */
        qs_quant_file_close(file);
    }
    for (int i = 0; i < 2 * N_SPECS; i++) qs_quant_layer_free(&layers[i / N_SPECS][i % N_SPECS]);
}

/* codes + scales + zeros + permutation over weights, by hand for d = 64, feed-forward 160. */
static void test_size(void **state)
{
    (void)state;
    const double weights = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 160 * 64, rest = 384 * 64, norms = 5 * 64;
    qs_quant_size size = qs_quant_size_of(&specs[0], model); /* rtn 4-bit, groups of 32, no zeros */
    assert_true(fabs(size.bpw - 4.5) < 1e-12);
    assert_true(fabs(size.bpw_total -
                     (2 * weights * 4.5 + rest * 16 + norms * 32) / (2 * weights + rest + norms)) < 1e-12);
    assert_int_equal(size.bytes, (int64_t)((2 * weights * 4.5 + rest * 16 + norms * 32) / 8));
    size = qs_quant_size_of(&specs[1], model); /* 3-bit, zeros of 3 bits, permutations of 32 bits a column */
    assert_true(fabs(size.bpw - (3 + 19.0 / 32 + (6 * 64 + 160) * 32 / weights)) < 1e-12);
    size = qs_quant_size_of(&specs[7], model); /* nf4, a maximum of 32 bits to 128 weights of the whole matrix */
    assert_true(fabs(size.bpw - 4.25) < 1e-12);
    /* fp4, 8 bits to 64 weights; to 256 of those, or the rest of them, 32 bits, and 32 to a matrix: 4096 weights twice,
     * 2048 twice, 10240 three times, of 64 maxima, 32 and 160 */
    size = qs_quant_size_of(&specs[8], model);
    assert_true(fabs(size.bpw - (4.125 + 7 * 64 / weights)) < 1e-12);
    size = qs_quant_size_of(&specs[9], model); /* int8, 32 bits to a row */
    assert_true(fabs(size.bpw - (8 + (3.0 * 64 + 2 * 32 + 2 * 160) * 32 / weights)) < 1e-12);
    size = qs_quant_size_of(NULL, model);
    assert_true(size.bpw == 16 && size.bytes == (int64_t)((2 * weights + rest) * 2 + norms * 4));
}

static void test_points(void **state)
{
    (void)state;
    scratch_path dir;
    qs_quant_point points[N_SPECS], again[N_SPECS];
    qs_quant_inputs inputs = inputs_of(calib), other = inputs_of(other_calib), none = inputs_of(NULL);
    qs_gram_source grams = grams_of(calib);
    qs_quant_plan plan;
    OK(qs_dir_create(scratch(dir, "points")));
    OK(qs_quant_points_find(points, dir, &inputs, specs, N_SPECS));
    OK(qs_quant_points_plan(&plan, points, N_SPECS, &inputs, backend));
    assert_true(plan.n_points == N_SPECS && plan.bytes > 0 && plan.seconds > 0);
    OK(qs_quant_points_run(points, N_SPECS, &inputs, backend, &grams, NULL));
    for (int i = 0; i < N_SPECS; i++) {
        assert_true(points[i].written && !points[i].current && points[i].loss > 0 &&
                    qs_file_exists(points[i].path));
        OK(qs_artifact_verify(points[i].path));
    }
    /* nothing is left to do; with other statistics, or none, everything is */
    OK(qs_quant_points_find(again, dir, &inputs, specs, N_SPECS));
    for (int i = 0; i < N_SPECS; i++) assert_true(again[i].current);
    OK(qs_quant_points_plan(&plan, again, N_SPECS, &inputs, backend));
    assert_true(plan.n_points == 0 && plan.bytes == 0 && plan.seconds == 0);
    OK(qs_quant_points_run(again, N_SPECS, &inputs, backend, &grams, NULL));
    for (int i = 0; i < N_SPECS; i++) assert_false(again[i].written);
    OK(qs_quant_points_find(again, dir, &other, specs, N_SPECS));
    for (int i = 0; i < N_SPECS; i++) assert_false(again[i].current);
    OK(qs_quant_points_find(again, dir, &none, specs, N_SPECS));
    for (int i = 0; i < N_SPECS; i++) assert_false(again[i].current);
    assert_false(qs_quant_is_current(points[0].path, &inputs, &specs[1]));
    assert_false(qs_quant_is_current(scratch(dir, "calib.h5"), &inputs, &specs[0])); /* another kind */
    text_write(points[2].path, "not an artifact");
    OK(qs_quant_points_find(again, scratch(dir, "points"), &inputs, specs, N_SPECS));
    for (int i = 0; i < N_SPECS; i++) assert_int_equal(again[i].current, i != 2);
    /* the one that is missing comes out as it was, alone and on one thread */
    qs_backend *one;
    OK(qs_backend_create(&one, "cpu", 0, 1));
    OK(qs_quant_points_run(again, N_SPECS, &inputs, one, &grams, NULL));
    qs_backend_destroy(one);
    for (int i = 0; i < N_SPECS; i++) assert_int_equal(again[i].written, i == 2);
    assert_true(again[2].digest.low == points[2].digest.low && again[2].digest.high == points[2].digest.high);
}

static void test_other_model_refused(void **state)
{
    (void)state;
    scratch_path path;
    qs_quant_file *file;
    qs_model *other;
    OK(qs_model_open(&other, other_path));
    OK(qs_quant_path(path, scratch_dir, &specs[0]));
    FAILS(QS_E_INPUT, qs_quant_file_open(&file, path, other));
    TEXT_HOLDS("rtn-b4-g32-sym.quant.h5");
    FAILS(QS_E_INPUT, qs_quant_file_open(&file, scratch(path, "calib.h5"), model));
    FAILS(QS_E_INPUT, qs_quant_file_open(&file, scratch(path, "missing.quant.h5"), model));
    TEXT_HOLDS("qsweep-quantize");
    qs_model_close(other);
}

/* An artifact without all layers is not published. */
static void test_incomplete(void **state)
{
    (void)state;
    scratch_path path;
    qs_gram_source grams = grams_of(calib);
    qs_quant_inputs inputs = inputs_of(calib);
    qs_quant_layer layer;
    qs_quant_writer *writer;
    OK(qs_quantize_layer(model, backend, 0, &grams, specs, 1, &layer));
    OK(qs_quant_writer_create(&writer, scratch(path, "part.quant.h5"), &inputs, &specs[0],
                              qs_quant_linear_bits(&specs[0], model)));
    OK(qs_quant_writer_add(writer, 0, &layer));
    FAILS(QS_E_INPUT, qs_quant_writer_finish(writer, 1, NULL));
    TEXT_HOLDS("layer 1");
    assert_false(qs_file_exists(path));
    /* a scale that is no number never reaches a file */
    layer.linears[3].packed.scales[1] = 0x7e00;
    OK(qs_quant_writer_create(&writer, path, &inputs, &specs[0],
                              qs_quant_linear_bits(&specs[0], model)));
    FAILS(QS_E_NUMERIC, qs_quant_writer_add(writer, 0, &layer));
    TEXT_HOLDS("/layers/0/o_proj");
    qs_quant_writer_abort(writer);
    assert_false(qs_file_exists(path));
    qs_quant_layer_free(&layer);
}

/* Refused before any work (checklist G10). */
static void test_refused(void **state)
{
    (void)state;
    qs_quantizer *quantizer;
    qs_spec wide;
    qs_gram_source grams = grams_of(calib);
    OK(qs_spec_parse(&wide, "rtn:group=128")); /* fits down_proj's rows of 160, not the others' of 64 */
    FAILS(QS_E_USAGE, qs_quantizer_create(&quantizer, model, backend, &grams, &wide, 1));
    TEXT_HOLDS("group 128", "q_proj");
    FAILS(QS_E_USAGE, qs_quantizer_create(&quantizer, model, backend, NULL, specs, N_SPECS));
    TEXT_HOLDS("gptq-b3-g32-asym-act", "--calib");
}

/* A file whose maxima are gone, or are no numbers, is refused by name. */
static void test_formats_without_maxima(void **state)
{
    (void)state;
    scratch_path path;
    qs_quant_inputs inputs = inputs_of(NULL);
    qs_quant_layer layer;
    qs_quant_writer *writer;
    OK(qs_quantize_layer(model, backend, 0, NULL, &specs[7], 1, &layer));
    layer.linears[2].packed.absmax[4] = NAN;
    OK(qs_quant_writer_create(&writer, scratch(path, "nan.quant.h5"), &inputs, &specs[7],
                              qs_quant_linear_bits(&specs[7], model)));
    FAILS(QS_E_NUMERIC, qs_quant_writer_add(writer, 0, &layer));
    TEXT_HOLDS("/layers/0/v_proj", "block 4");
    qs_quant_writer_abort(writer);
    qs_quant_layer_free(&layer);
}

/* Statistics of other sizes than the model's, and tokens it does not have, are refused before anything reads past
 * them. */
static void test_calib_of_other_sizes(void **state)
{
    (void)state;
    static const int32_t windows[] = {1, -1, 2, 3};
    static const float numbers[4] = {1, 1, 1, 1};
    qs_calib_plan plan = {.n_samples = 1, .seqlen = 4, .windows = windows, .compute = "f32", .propagate_spec = ""};
    const int64_t n = 4;
    int64_t n_tokens, n_windows = 2, n_ctx = 2;
    int32_t tokens[4];
    const float *values;
    scratch_path path;
    qs_artifact *artifact;
    qs_digest digest;
    qs_calib_file *file;
    OK(qs_calib_create(&artifact, scratch(path, "small.h5"), model, &plan));
    OK(qs_artifact_put_int(artifact, "/layers/0/qkv/@n_tokens", 4));
    OK(qs_artifact_put(artifact, "/layers/0/qkv/gram", QS_F32, 1, &n, numbers));
    OK(qs_artifact_put(artifact, "/layers/0/qkv/abs_mean", QS_F32, 1, &n, numbers));
    OK(qs_artifact_put_int(artifact, "/layers/0/o/@n_tokens", 0));
    OK(qs_artifact_seal(artifact, &digest));
    OK(qs_calib_file_open(&file, path, model));
    FAILS(QS_E_INPUT, qs_calib_file_gram(file, 0, QS_SITE_QKV, &values, &n_tokens));
    TEXT_HOLDS("4 elements", "wanted");
    FAILS(QS_E_INPUT, qs_calib_file_abs_mean(file, 0, QS_SITE_QKV, &values));
    FAILS(QS_E_INPUT, qs_calib_file_gram(file, 0, QS_SITE_O, &values, &n_tokens));
    TEXT_HOLDS("0 is no number of tokens", "qsweep-calibrate");
    FAILS(QS_E_INPUT, qs_calib_file_tokens(file, &n_windows, &n_ctx, tokens));
    TEXT_HOLDS("id -1", "vocabulary");
    qs_calib_file_close(file);
}

/* A mixture's bits that no matrices take are refused by name: sizes would be worked out from them. */
static void test_linear_bits_of_no_model(void **state)
{
    (void)state;
    static const int64_t wrong[] = {-8672, 0, INT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        scratch_path path;
        qs_artifact *artifact;
        qs_digest digest;
        qs_quant_file *file;
        OK(qs_artifact_create(&artifact, scratch(path, "mixture.quant.h5"), QS_KIND_QUANT));
        OK(qs_model_record(model, artifact));
        OK(qs_artifact_put_text(artifact, "/spec/@text", "gptq:bpw=3.5"));
        OK(qs_artifact_put_text(artifact, "/spec/@kernel", QS_QUANT_KERNEL));
        OK(qs_artifact_put_int(artifact, "/spec/@linear_bits", wrong[i]));
        OK(qs_artifact_seal(artifact, &digest));
        FAILS(QS_E_INPUT, qs_quant_file_open(&file, path, model));
        TEXT_HOLDS("mixture.quant.h5", "/spec/@linear_bits", "qsweep-quantize");
    }
}

/* Without statistics RTN still works, and says the plain error. */
static void test_rtn_without_statistics(void **state)
{
    (void)state;
    qs_quant_layer with, without;
    qs_gram_source grams = grams_of(calib);
    OK(qs_quantize_layer(model, backend, 1, NULL, specs, 1, &without));
    OK(qs_quantize_layer(model, backend, 1, &grams, specs, 1, &with));
    for (int role = 0; role < QS_N_LINEARS; role++) {
        const qs_quant_result *a = &without.linears[role], *b = &with.linears[role];
        assert_same_matrix(&a->packed, &b->packed);
        assert_true(fabs(a->loss - a->weight_error * a->weight_error) < 1e-12 && a->loss != b->loss);
    }
    qs_quant_layer_free(&with);
    qs_quant_layer_free(&without);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_size),
        cmocka_unit_test(test_points),     cmocka_unit_test(test_other_model_refused),
        cmocka_unit_test(test_incomplete), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_formats_without_maxima), cmocka_unit_test(test_calib_of_other_sizes),
        cmocka_unit_test(test_linear_bits_of_no_model), cmocka_unit_test(test_rtn_without_statistics),
    };
    return cmocka_run_group_tests_name("quant_file", tests, start, stop);
}
