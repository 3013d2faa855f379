/* Points with rotate=1 from spec to runtime: solved beside others, read back, scored, decoded, exported and
 * imported, with the rotated embedding, norms and head around them. */
static const char *const point_texts[] = {"rtn:bits=8,group=32", "rtn:bits=8,group=32,rotate=1",
                                    "gptq:bits=8,group=32,rotate=1",
                                    "nf4:compute=fp32,rotate=1", "int8:rotate=1",
                                    "awq:bits=8,group=32,rotate=1"};
enum { N_POINTS = sizeof point_texts / sizeof *point_texts, N_LAYERS = 2 };

#include "tests/point_fixture.h"

#include "metric/memory.h"
#include "metric/pass.h"
#include "model/checkpoint.h"
#include "model/turned.h"

/* How far logits may be from the reference's, in parts of their largest: 8 bits, and 4 (NF4). */
static const double close_to[N_POINTS] = {0.06, 0.06, 0.06, 0.5, 0.1, 0.06};

static qs_err get_abs(void *context, int64_t layer, qs_site site, const float **abs_mean)
{
    (void)layer;
    (void)context;
    for (int64_t i = 0; i < qs_site_width(f.config, site); i++) room[i] = 1 + (float)(i % 5);
    *abs_mean = room;
    return QS_OK;
}

static int start(void **state)
{
    const qs_gram_source grams = {.get = get_gram, .get_abs = get_abs};
    return points_start(state, &grams);
}

/* Logits [N_TOKENS, n_vocab] of linears with the model around them. */
static float *logits_of(const qs_model *model, const qs_linear_source *source)
{
    float *hidden = floats(N_TOKENS * f.config->d_model), *logits = floats(N_TOKENS * f.config->n_vocab);
    OK(qs_forward_hidden(backend, model, source, QS_COMPUTE_F32, f.tokens, 1, N_TOKENS, NULL, hidden));
    OK(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
    qs_mem_free(hidden);
    return logits;
}

/* Artifacts say what they are; the head is counted twice; logits are near the reference's, and are not where
 * the model's own embedding and head are put around rotated linears. */
static void test_points(void **state)
{
    (void)state;
    int64_t n_logits = N_TOKENS * f.config->n_vocab;
    double largest = largest_logit();
    for (int i = 0; i < N_POINTS; i++) {
        qs_quant_file *file = open_point(i);
        const qs_artifact *artifact = qs_quant_file_artifact(file);
        qs_linear_source source = qs_quant_file_source(file);
        int64_t seed;
        assert_true(points[i].written);
        assert_string_equal(qs_quant_file_spec(file)->id, specs[i].id);
        assert_int_equal(specs[i].rotate, i > 0);
        assert_int_equal(strstr(specs[i].id, "rot") != NULL, i > 0);
        assert_int_equal(qs_artifact_has(artifact, "/rotation/@digest"), i > 0);
        if (i > 0) OK(qs_artifact_get_int(artifact, "/rotation/@seed", &seed));
        const qs_model *model = qs_quant_file_model(file);
        assert_true((model == f.model) == (i == 0) && (source.outer != NULL) == (i > 0));
        float *logits = logits_of(model, &source);
        double off = max_abs_diff(logits, f.logits, n_logits) / largest;
        print_message("%-24s logits off by %.1e\n", specs[i].id, off);
        assert_true(off < close_to[i]);
        if (i > 0) {
            float *astray = logits_of(f.model, &source);
            assert_true(max_abs_diff(astray, f.logits, n_logits) > 0.5 * largest);
            qs_mem_free(astray);
        }
        qs_mem_free(logits);
        qs_quant_file_close(file);
    }
    qs_quant_size plain = qs_quant_size_of(&specs[0], f.model), rotated = qs_quant_size_of(&specs[1], f.model);
    assert_int_equal(rotated.bytes - plain.bytes, 2 * f.config->n_vocab * f.config->d_model);
    assert_true(rotated.bpw == plain.bpw && rotated.bpw_total > plain.bpw_total);
}

/* Streams of one pass: each starts from its own embedding and ends in its own norm. */
static void test_pass(void **state)
{
    (void)state;
    qs_pass_plan plan;
    qs_pass *pass;
    const qs_linear_source *sources[3] = {NULL};
    qs_linear_source made[3];
    qs_quant_file *files[3];
    int64_t n = N_TOKENS * f.config->d_model, n_logits = N_TOKENS * f.config->n_vocab;
    float *hidden = floats(n), *logits = floats(n_logits);
    for (int i = 0; i < 3; i++) {
        files[i] = open_point(i);
        made[i] = qs_quant_file_source(files[i]);
        sources[i] = &made[i];
    }
    qs_pass_plan_make(&plan, f.config, N_TOKENS, 1, 3, (size_t)1 << 24);
    OK(qs_pass_create(&pass, backend, f.model, QS_COMPUTE_F32, &plan));
    OK(qs_pass_run(pass, sources, 3, f.tokens, 1, NULL));
    for (int i = 0; i < 3; i++) {
        const qs_model *model = qs_quant_file_model(files[i]);
        float *alone = logits_of(model, sources[i]);
        OK(qs_backend_download(backend, hidden, qs_pass_hidden(pass, i), (size_t)n * sizeof *hidden));
        OK(qs_forward_logits(backend, model, QS_COMPUTE_F32, hidden, N_TOKENS, logits));
        assert_true(max_abs_diff(logits, alone, n_logits) < 1e-5);
        qs_mem_free(alone);
        qs_quant_file_close(files[i]);
    }
    qs_pass_destroy(pass);
    qs_mem_free(hidden);
    qs_mem_free(logits);
}

/* Decoding, whose head is in f16, and the bytes that are held: those that the artifact counts. */
static void test_deployed(void **state)
{
    (void)state;
    qs_quant_file *file = open_point(2);
    qs_linear_source source = qs_quant_file_source(file);
    const qs_model *model = qs_quant_file_model(file);
    qs_quant_size size = qs_quant_file_size(file);
    qs_deployment deployment;
    qs_deployment_options options = {.backend = "cpu", .n_threads = 2, .n_ctx_cap = N_TOKENS,
                                     .expected_bytes = (size_t)size.bytes};
    int64_t n_vocab = f.config->n_vocab;
    float *wanted = logits_of(model, &source), *logits = floats(n_vocab);
    OK(qs_deployment_create(&deployment, model, &source, &options));
    OK(qs_decoder_prefill(deployment.decoder, 0, f.tokens, N_TOKENS - 1, logits));
    OK(qs_decoder_step(deployment.decoder, f.tokens + N_TOKENS - 1, logits));
    assert_true(max_abs_diff(logits, wanted + (N_TOKENS - 1) * n_vocab, n_vocab) < 2e-2);
    double held = (double)deployment.use.measured_bytes, expected = (double)deployment.use.expected_bytes;
    assert_true(fabs(held - expected) < 0.1 * expected);
    qs_deployment_destroy(&deployment);
    qs_mem_free(wanted);
    qs_mem_free(logits);
    qs_quant_file_close(file);
}

/* Checkpoints of others hold the rotated tables in f16 beside the same codes, and no tied head. */
static void test_exported(void **state)
{
    (void)state;
    static const struct {
        int point;
        const char *format, *type;
    } rows[] = {{1, "gptq", NULL},    {2, "gptq_v2", NULL}, {3, "bnb", NULL},
                {5, "gptq_v2", NULL}, {1, "gguf", "f32"},   {1, "gguf", NULL}};
    int64_t n_logits = N_TOKENS * f.config->n_vocab;
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        scratch_path out;
        char name[32];
        qs_checkpoint *checkpoint;
        qs_quant_file *file = open_point(rows[r].point);
        qs_linear_source source = qs_quant_file_source(file);
        float *wanted = logits_of(qs_quant_file_model(file), &source);
        (void)snprintf(name, sizeof name, "out%d%s", (int)r, strcmp(rows[r].format, "gguf") == 0 ? ".gguf" : "");
        OK(export_to(f.model, points[rows[r].point].path, rows[r].format, rows[r].type, scratch(out, name)));
        OK(qs_checkpoint_open(&checkpoint, out, f.model));
        qs_linear_source imported = qs_checkpoint_source(checkpoint);
        assert_false(qs_model_get_config(qs_checkpoint_model(checkpoint))->tied_head);
        float *logits = logits_of(qs_checkpoint_model(checkpoint), &imported);
        double off = max_abs_diff(logits, wanted, n_logits) / largest_logit();
        print_message("%-8s %-4s off by %.1e\n", rows[r].format, rows[r].type != NULL ? rows[r].type : "", off);
        assert_true(off < (rows[r].type != NULL ? 1e-5 : 1e-2)); /* tables rounded to f16 */
        qs_mem_free(logits);
        qs_mem_free(wanted);
        qs_checkpoint_close(checkpoint);
        qs_quant_file_close(file);
    }
}

/* Bases do not mix. */
static void test_refused(void **state)
{
    (void)state;
    qs_quantizer *quantizer;
    qs_model *turned;
    OK(qs_model_turn(f.model, &turned));
    FAILS(QS_E_USAGE, qs_quantizer_create(&quantizer, f.model, backend, NULL, &specs[1], 1));
    TEXT_HOLDS("rtn-b8-g32-sym-rot", "is not rotated");
    FAILS(QS_E_USAGE, qs_quantizer_create(&quantizer, turned, backend, NULL, &specs[0], 1));
    TEXT_HOLDS("rotate=0", "is rotated");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_points),   cmocka_unit_test(test_pass),    cmocka_unit_test(test_deployed),
        cmocka_unit_test(test_exported), cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("rotated", tests, start, points_stop);
}
