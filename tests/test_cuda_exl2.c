/* EXL2 on the CUDA backend: products of every mix of widths against the plain-C reference, in few rows and many, the
 * results of a row whatever shares its batch or its launch, memory, and a whole point evaluated as on the CPU (formats
 * §4.2, 4.3; checklist E0, A20). Skipped where backend "cuda" cannot be made. */
#include "tests/cuda_model.h"
#include "tests/metric_of.h"
#include "tests/op_compare.h"
#include "tests/with_cases.h"

#include "base/log.h"
#include "metric/evaluation.h"
#include "quant/mix.h"
#include "quant/quant_file.h"
#include "quant/quant_points.h"

/* Only where kernels run on the CPU (runtime.h). */
__attribute__((weak)) void qs_rt_simt_set_reverse(bool reverse);

static qs_backend *cuda, *reference;

static int start(void **state)
{
    if (scratch_create(state) != 0) return -1;
    OK(qs_backend_create(&reference, "reference", 0, 2));
    if (qs_backend_create(&cuda, "cuda", 0, 2) != QS_OK) print_message("skipped: %s\n", qs_error_text());
    return 0;
}

static int stop(void **state)
{
    qs_backend_destroy(cuda);
    qs_backend_destroy(reference);
    return scratch_remove(state);
}

static void need_cuda(void)
{
    if (cuda == NULL) skip();
}

/* ---- contents ---- */

enum { N_PARTS = 7, N_GROUPS_MAX = 64 };

/* Columns, width of their codes, columns of a group; the last group of a part may be shorter. */
typedef struct part {
    int columns, bits, group;
} part;
static const part mixes[][N_PARTS] = {
    {{32, 2, 32}},
    {{64, 8, 64}},
    {{160, 3, 64}},
    {{288, 5, 128}},
    {{352, 6, 32}},
    {{416, 4, 128}},
    {{32, 8, 32}, {64, 6, 64}, {32, 5, 32}, {96, 4, 64}, {96, 3, 64}, {32, 2, 32}}, /* many of them in one block */
    {{128, 8, 128}, {256, 6, 128}, {160, 5, 32}, {288, 4, 96}, {192, 3, 64}, {224, 2, 128}},
    {{96, 6, 32}, {480, 3, 160}, {864, 2, 64}},
    {{224, 5, 64}, {1280, 4, 128}}, /* several pieces to a slice */
};
enum { N_MIXES = sizeof mixes / sizeof *mixes, WITHOUT_PERM = 16 /* beside the mix */ };

static void fill_exl2(qs_packed *packed, const part *parts, int64_t n_out, bool with_perm)
{
    qs_packed_group groups[N_GROUPS_MAX];
    int64_t n_groups = 0, n_in = 0;
    for (int i = 0; i < N_PARTS && parts[i].columns > 0; i++)
        for (int64_t end = n_in + parts[i].columns, at = n_in; at < end; at += parts[i].group, n_in = end)
            groups[n_groups++] = (qs_packed_group){.first = (int32_t)at, .bits = parts[i].bits};
    OK(qs_packed_shape_exl2(packed, n_out, n_in, groups, n_groups));
    OK(qs_packed_alloc_exl2(packed, groups));
    for (int64_t i = 0; i < n_out * packed->row_bytes; i++) packed->codes[i] = (uint8_t)qs_rng_u64(70, (uint64_t)i);
    for (int64_t i = 0; i < n_out * n_groups; i++) packed->scale_codes[i] = (uint8_t)qs_rng_below(71, (uint64_t)i, 16);
    for (int64_t g = 0; g < n_groups; g++) /* alike in size of weights; the first one's steps are subnormal in f16 */
        packed->scale_max[g] = qs_f16_from_f32((g == 0 ? 0.01f : 0.5f) / (float)(1 << groups[g].bits));
    for (int64_t j = 0; with_perm && j < n_in; j++) packed->perm[j] = (int32_t)((j * 37 + 5) % n_in);
    OK(qs_packed_check(packed, "drawn"));
}

/* shape: n_out, mix (+ WITHOUT_PERM), rows, compute, uses */
static void run_linear_exl2(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    qs_packed packed;
    fill_exl2(&packed, mixes[s[1] % WITHOUT_PERM], s[0], s[1] < WITHOUT_PERM);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = s[0], .n_in = packed.n_in, .packed = &packed};
    float *w = on_host(&m, s[0] * packed.n_in, sizeof *w);
    qs_packed_dequant_rows(&packed, 0, s[0], w);
    /* The reference takes fewer rows otherwise. */
    unsigned uses = backend == reference ? QS_USE_GEMV | QS_USE_GEMM : (unsigned)s[4];
    multiply(backend, &desc, w, 0.0, uses, (qs_compute)s[3], s[2], out);
    qs_packed_free(&packed);
    free_all(&m);
}

/* ---- products ---- */

/* As in test_cuda_ops.c: sums of up to 1504 terms in f32, or of factors that are rounded to bf16. */
#define EXACT 1e-5
#define ROUNDED 2e-2

static void for_each_product(void (*visit)(const op_case *row, void *context), void *context)
{
    static const int64_t n_outs[] = {1, 17, 50, 33, 16}, few[] = {2, 3, 8, 13};
    for (int64_t mix = 0; mix < N_MIXES; mix++) {
        int64_t n_out = n_outs[mix % 5], kind = mix + (mix % 3 == 1 ? WITHOUT_PERM : 0), rows_16 = 5 + 3 * mix;
        unsigned uses = mix % 2 == 0 ? QS_USE_GEMV : QS_USE_GEMV | QS_USE_GEMM;
        const op_case rows[] = {
            {"exl2 one row", EXACT, run_linear_exl2, {n_out, kind, 1, QS_COMPUTE_F32, QS_USE_GEMV}},
            {"exl2 few rows", EXACT, run_linear_exl2, {n_out, kind, few[mix % 4], QS_COMPUTE_F32, uses}},
            {"exl2 few rows bf16", ROUNDED, run_linear_exl2, {n_out, kind, rows_16, QS_COMPUTE_BF16, uses}},
            {"exl2 many rows", EXACT, run_linear_exl2, {n_out, kind, 36, QS_COMPUTE_F32, uses}},
            {"exl2 many rows bf16", ROUNDED, run_linear_exl2, {n_out, kind, 9, QS_COMPUTE_BF16, QS_USE_GEMM}},
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) visit(&rows[i], context);
    }
}

static void test_products(void **state)
{
    (void)state;
    need_cuda();
    parity p = {.reference = reference, .tested = cuda, .entry = "cuda"};
    for_each_product(compare, &p);
    /* Several groups of tiles to a team of warps. */
    const op_case tall = {"exl2 tall", EXACT, run_linear_exl2, {500, 6, 2, QS_COMPUTE_F32, QS_USE_GEMV}};
    compare(&tall, &p);
    assert_int_equal(p.n_failed, 0);
    assert_int_equal(p.n_left_out, 0);
    assert_int_equal(p.n_cases, 5 * N_MIXES + 1);
}

static void compare_reversed(const op_case *row, void *context)
{
    output first = {0}, again = {0};
    if (++*(int *)context % 4 != 0) return; /* a fourth of them shows as much */
    row->run(cuda, row->shape, &first);
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(true);
    row->run(cuda, row->shape, &again);
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(false);
    assert_int_equal(again.n, first.n);
    assert_memory_equal(again.values, first.values, (size_t)first.n * sizeof *first.values);
    output_free(&first);
    output_free(&again);
}

static void test_orders(void **state)
{
    (void)state;
    need_cuda();
    int n_seen = 0;
    for_each_product(compare_reversed, &n_seen);
}

/* A row's product is the same alone, in every batch, and whichever matrices its launch also serves: with the same order
 * of columns but other widths, with another order, and of another format. */
static void test_alone_and_together(void **state)
{
    (void)state;
    need_cuda();
    enum { N_IN = 352, ROWS = 32, N_JOBS = 5, N_OUT = 40 };
    static const part widths[][N_PARTS] = {
        {{352, 4, 128}}, {{96, 6, 32}, {256, 3, 64}}, {{352, 5, 64}}, {{352, 8, 128}}};
    op_memory m = {.backend = cuda};
    float *x = drawn_on_device(&m, 72, ROWS * N_IN, 1.0), *bias = drawn_on_device(&m, 73, N_OUT, 1.0);
    float *y[N_JOBS], *alone[N_JOBS], *got = on_host(&m, ROWS * N_OUT, sizeof *got);
    qs_matrix *matrices[N_JOBS];
    qs_linear_job jobs[N_JOBS];
    for (int i = 0; i < N_JOBS; i++) {
        qs_packed packed;
        if (i < 4) fill_exl2(&packed, widths[i], N_OUT, i != 3);
        else fill_packed(&packed, 4, N_OUT, N_IN, 32, 0);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_create(&matrices[i], cuda, &desc, QS_USE_GEMV, QS_COMPUTE_F32));
        qs_packed_free(&packed);
        y[i] = floats_on_device(&m, NULL, ROWS * N_OUT);
        jobs[i] = (qs_linear_job){.matrix = matrices[i], .bias = i % 2 == 0 ? bias : NULL, .y = y[i]};
        OK(qs_op_linear(cuda, matrices[i], x, ROWS, jobs[i].bias, y[i]));
        alone[i] = to_host(&m, y[i], ROWS * N_OUT);
    }
    for (int64_t n = 1; n <= ROWS; n += n < 4 ? 1 : 7) {
        OK(qs_op_linears(cuda, jobs, N_JOBS, x, n));
        for (int i = 0; i < N_JOBS; i++) {
            size_t bytes = (size_t)(n * N_OUT) * sizeof *got;
            OK(qs_backend_download(cuda, got, y[i], bytes));
            assert_memory_equal(got, alone[i], bytes);
        }
    }
    for (int i = 0; i < N_JOBS; i++) qs_matrix_destroy(matrices[i]);
    free_all(&m);
}

/* Of one order of columns, so that a launch serves both; the first row is put in order and normalised by every
 * block. */
static void test_norm_and_gate(void **state)
{
    (void)state;
    need_cuda();
    enum { N_IN = 352, N_OUT = 300 };
    static const part widths[2][N_PARTS] = {{{352, 4, 128}}, {{96, 6, 32}, {256, 3, 64}}};
    static const int64_t rows[] = {1, 2, 9};
    qs_matrix *matrices[2];
    for (int i = 0; i < 2; i++) {
        qs_packed packed;
        fill_exl2(&packed, widths[i], N_OUT, true);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_create(&matrices[i], cuda, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
        qs_packed_free(&packed);
    }
    for (int k = 0; k < 3; k++)
        check_with(&(with_case){cuda, matrices[0], matrices[1], N_OUT, N_IN, rows[k], 2e-6, true});
    for (int i = 0; i < 2; i++) qs_matrix_destroy(matrices[i]);
}

/* Memory is re-used between formats and counted: words, scales as f16, plan and order of columns. */
static void test_memory(void **state)
{
    (void)state;
    need_cuda();
    enum { N_OUT = 64, MIX = 5 /* 416 columns of 4 bits in groups of 128 */, N_IN = 416 };
    qs_packed packed, other;
    qs_matrix *matrix;
    qs_backend_memory before, after;
    fill_exl2(&packed, mixes[MIX], N_OUT, true);
    fill_packed(&other, 8, N_OUT, N_IN, 64, WITH_PERM);
    qs_matrix_desc mixed = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed}, even = mixed;
    even.packed = &other;
    OK(qs_matrix_create(&matrix, cuda, &mixed, QS_USE_GEMV, QS_COMPUTE_BF16));
    assert_string_equal(qs_matrix_kernel(matrix), "linear_exl2_mma");
    size_t bytes = qs_matrix_bytes(matrix), words = N_OUT * 512 / 2 /* whole blocks */, scales = N_OUT * 4 * 2;
    assert_true(bytes > words + scales + N_IN * 4 && bytes < words + scales + N_IN * 4 + 1024);
    OK(qs_matrix_update(matrix, &even));
    OK(qs_matrix_update(matrix, &mixed));
    qs_backend_get_memory(cuda, &before);
    OK(qs_matrix_update(matrix, &even));
    assert_int_equal(strncmp(qs_matrix_kernel(matrix), "linear_int8_mma", 15), 0); /* and wgmma, where there is */
    OK(qs_matrix_update(matrix, &mixed));
    qs_backend_get_memory(cuda, &after);
    assert_int_equal(before.used_bytes, after.used_bytes);
    qs_matrix_destroy(matrix);
    qs_packed_free(&packed);
    qs_packed_free(&other);
}

/* ---- a point ---- */

enum { N_CTX = 16, N_WINDOWS = 2 };

static qs_model *model;
static float *room;

static qs_err unit_gram(int64_t width, const float **packed, int64_t *n_tokens)
{
    float *to = room;
    for (int64_t i = 0; i < width; i++)
        for (int64_t j = i; j < width; j++) *to++ = i == j ? 100.0f + (float)(i * 7 % 13) : 1.0f;
    *packed = room;
    *n_tokens = 100;
    return QS_OK;
}

static qs_err get_gram(void *context, int64_t layer, qs_site site, const float **packed, int64_t *n_tokens)
{
    (void)context;
    (void)layer;
    return unit_gram(qs_site_width(qs_model_get_config(model), site), packed, n_tokens);
}

static qs_err get_head_gram(void *context, const float **packed, int64_t *n_tokens)
{
    (void)context;
    return unit_gram(qs_model_get_config(model)->d_model, packed, n_tokens);
}

/* Quality, latency and memory of a point; `path` of its artifact. */
static void evaluate(qs_backend *backend, const char *quant, unsigned tasks, const char *id, char path[QS_PATH_BYTES])
{
    const qs_protocol *protocol;
    qs_windows windows;
    qs_evaluation e;
    char dir[QS_PATH_BYTES];
    int32_t tokens[N_CTX * N_WINDOWS];
    for (int i = 0; i < N_CTX * N_WINDOWS; i++) tokens[i] = (i * 37 + i / 7) % 384;
    must(qs_protocol_find(&protocol, "hf"));
    must(qs_windows_cut(&windows, protocol, tokens, N_CTX * N_WINDOWS, N_CTX, 0, -1));
    must(qs_path_format(dir, "%s/%s", scratch_dir, qs_backend_name(backend)));
    must(qs_path_format(path, "%s/%s.eval.h5", dir, id));
    qs_eval_options options = {
        .windows = &windows, .tasks = tasks, .seed = 1, .out_dir = dir,
        .latency = {.n_prompt = 4, .n_warmups = 1, .n_prefills = 1, .n_rounds = 1, .round_tokens = 1},
    };
    must(qs_evaluation_create(&e, backend, model, &quant, 1, &options));
    must(qs_evaluation_run(&e));
    qs_evaluation_destroy(&e);
    qs_windows_free(&windows);
}

/* A point with a head in low bits too: the CPU's perplexity and divergence, and a deployment on the device. */
static void test_point(void **state)
{
    (void)state;
    need_cuda();
    qs_backend *cpu = backend_open("cpu", 2);
    qs_quant_point point;
    qs_spec spec;
    char paths[2][QS_PATH_BYTES];
    const qs_gram_source grams = {.get = get_gram, .get_head = get_head_gram};
    must(qs_model_open(&model, "tests/fixtures/tiny"));
    room = floats(512 * 512);
    qs_quant_inputs inputs = {.model = model};
    must(qs_spec_parse(&spec, "exl2:bpw=4.5,head=6"));
    must(qs_quant_points_find(&point, scratch_dir, &inputs, &spec, 1));
    must(qs_quant_points_run(&point, 1, &inputs, cpu, &grams, NULL));
    unsigned quality = QS_TASK_PPL | QS_TASK_KLD;
    evaluate(cuda, point.path, quality | QS_TASK_LATENCY | QS_TASK_MEMORY, spec.id, paths[0]);
    evaluate(cpu, point.path, quality, spec.id, paths[1]);
    double got = metric_of(paths[0], "ppl"), expected = metric_of(paths[1], "ppl");
    print_message("ppl %.9g on the device, %.9g on the CPU; KLD %.3e and %.3e\n", got, expected,
                  metric_of(paths[0], "kld_mean"), metric_of(paths[1], "kld_mean"));
    assert_true(fabs(got - expected) <= 1e-4 * expected);
    assert_true(fabs(metric_of(paths[0], "kld_mean") - metric_of(paths[1], "kld_mean")) <=
                1e-3 * metric_of(paths[1], "kld_mean"));
    assert_true(metric_of(paths[0], "vram_peak") >= metric_of(paths[0], "vram_after_load"));
    assert_true(metric_of(paths[0], "decode_ms_tok_p50") > 0.0);
    qs_mem_free(room);
    qs_model_close(model);
    qs_backend_destroy(cpu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products), cmocka_unit_test(test_orders), cmocka_unit_test(test_alone_and_together),
        cmocka_unit_test(test_norm_and_gate),
        cmocka_unit_test(test_memory),   cmocka_unit_test(test_point),
    };
    qs_log_set_level(QS_LOG_WARN);
    return cmocka_run_group_tests_name("cuda exl2", tests, start, stop);
}
