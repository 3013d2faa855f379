/* Every op of the CUDA backend against the plain-C reference: the cases of all backends, larger and more ragged ones,
 * every weight format for 1 to 40 rows and for 300; results of a row whatever shares its batch; NaN and infinity that
 * show; the same bits from run to run and, where kernels run on the CPU, in the reverse order of threads.
 * Proves: GPU kernels are right before they are fast, on a GPU or without one. */
#include "cuda_backends.h"
#include "op_tables.h"
#include "with_cases.h"

/* ---- parity ---- */

/* Both factors of a product may be rounded to bf16, each by up to 2^-8, uniformly: a deviation of 2^-8 sqrt(2 / 3) =
 * 3.2e-3 of the size of the sum at most. Six times that for the largest of some thousand. */
#define LINEAR_BF16 2e-2

static const op_case more_cases[] = {
    {"embed", 0.0, run_embed, {300, 1000, 50}},
    {"rmsnorm", 1e-6, run_rmsnorm, {40, 4096}},
    {"rmsnorm", 1e-6, run_rmsnorm, {3, 8193}},
    {"rmsnorm in place", 1e-6, run_rmsnorm, {33, 130, 1}},
    {"rope", 1e-6, run_rope, {19, 4, 128}},
    {"rope", 1e-6, run_rope, {300, 1, 256}},
    {"attention", 5e-6, run_attention, {1, 257, 4, 2, 128, 0}},
    {"attention", 5e-6, run_attention, {2, 65, 4, 1, 16, 0}},
    {"attention", 5e-6, run_attention, {1, 200, 2, 2, 72, 31}},
    {"attention", 5e-6, run_attention, {5, 129, 1, 1, 8, 0}},
    {"attention", 5e-6, run_attention, {1, 100, 2, 1, 192, 40}},
    {"attention 16 bits", 2e-3, run_attention, {1, 257, 4, 2, 128, CASE_BF16}},
    {"attention 16 bits", 2e-3, run_attention, {2, 65, 4, 1, 64, CASE_BF16}},
    {"attention 16 bits", 2e-3, run_attention, {1, 200, 2, 2, 72, 31 + CASE_BF16}},
    {"attention 16 bits", 2e-3, run_attention, {3, 129, 1, 1, 8, CASE_BF16}},
    {"attention_decode", 5e-6, run_attention_decode, {32, 130, 8, 2, 128, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {1, 2000, 2, 1, 64, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {5, 333, 6, 2, 96, 100}},
    {"attention_decode", 5e-6, run_attention_decode, {2, 70, 3, 3, 256, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {1, 200, 20, 1, 33, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {4, 40, 8, 2, 128, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {1, 700, 18, 1, 128, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {2, 70, 12, 2, 64, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {3, 100, 3, 3, 256, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {1, 150, 20, 1, 72, 60}},
    {"silu_mul", 1e-6, run_silu_mul, {1000003}},
    {"add", 0.0, run_add, {1000003}},
    {"gram", 1e-6, run_gram, {8, 300}},
    {"gram", 1e-6, run_gram, {1000, 129}},
    {"gram", 1e-6, run_gram, {9000, 20}},
    {"gram", 1e-6, run_gram, {65, 260, 1}},
    {"gram", 1e-6, run_gram, {20, 1300}},
    {"abs_stats", 1e-12, run_abs_stats, {5000, 9}},
    {"abs_stats", 1e-12, run_abs_stats, {1, 1000}},
    {"logit_stats", 1e-6, run_logit_stats, {33, 4099}},
    {"logit_stats", 1e-6, run_logit_stats, {1, 32000}},
    {"sample", 0.0, run_sample, {40, 2053, 1}},
    {"kld", 3e-7, run_kld, {33, 4099}},
    {"kld", 3e-7, run_kld, {1, 32000}},
    {"gemm", 2e-6, run_gemm, {129, 257, 65, 0, 3, 1}},
    {"gemm", 2e-6, run_gemm, {257, 129, 65, 1, 0, 0}},
    {"gemm", 2e-6, run_gemm, {130, 128, 100, 2, 0, 0}},
    {"gemm", 2e-6, run_gemm, {128, 131, 16, 3, 7, 1}},
    {"gemm", 2e-6, run_gemm, {1, 1000, 300, 2, 0, 0}},
    {"linear both f16", LINEAR, run_linear_dense, {50, 131, 300, QS_MATRIX_F16, 3, QS_COMPUTE_F32}},
    {"linear both bf16", LINEAR, run_linear_dense, {50, 131, 300, QS_MATRIX_BF16, 3, QS_COMPUTE_F32}},
    {"linear gemm f16", LINEAR, run_linear_dense, {130, 260, 140, QS_MATRIX_F16, 1, QS_COMPUTE_BF16}},
    {"linear gemm bf16", LINEAR, run_linear_dense, {257, 136, 40, QS_MATRIX_BF16, 1, QS_COMPUTE_BF16}},
    {"linear gemv f16", LINEAR, run_linear_dense, {7, 1600, 8, QS_MATRIX_F16, 2, QS_COMPUTE_F32}},
    {"linear gemv f16", LINEAR_BF16, run_linear_dense, {70, 300, 8, QS_MATRIX_F16, 2, QS_COMPUTE_BF16}},
    {"linear gemv bf16", LINEAR_BF16, run_linear_dense, {70, 300, 5, QS_MATRIX_BF16, 2, QS_COMPUTE_BF16}},
    /* Several pieces to a slice of the columns, and several groups of tiles to a team of warps. */
    {"linear gemv int4", LINEAR_BF16, run_linear_int, {700, 2500, 1, 4 + CASE_BF16, 128, QS_USE_GEMV}},
    {"linear gemv int4", LINEAR, run_linear_int, {700, 2500, 1, 4, 128, QS_USE_GEMV}},
    {"linear gemv int3", LINEAR, run_linear_int, {300, 2200, 3, 3 + CASE_FLAGS * WITH_ZEROS, 32, QS_USE_GEMV}},
    {"linear gemv int8", LINEAR_BF16, run_linear_int, {300, 1100, 8, 8 + CASE_BF16, 64, QS_USE_GEMV}},
    {"linear gemv int2", LINEAR_BF16, run_linear_int, {300, 1100, 7, 2 + CASE_BF16, 64, QS_USE_GEMV}},
    {"linear gemv f16", LINEAR, run_linear_dense, {300, 1100, 8, QS_MATRIX_F16, 2, QS_COMPUTE_F32}},
};

/* n_out, n_in, rows: nothing a multiple of 16 but one row of each kind. */
static const int64_t packed_shapes[][3] = {{50, 131, 3}, {33, 200, 1}, {17, 391, 8}, {48, 256, 6}, {130, 145, 5}};

/* Widths, zero points, permutations, group sizes; few rows in f32 and bf16, and many. */
static void for_each_packed(void (*visit)(const op_case *row, void *context), void *context)
{
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t groups[] = {16, 32, 64, 128, -1};
    int64_t turn = 0;
    for (size_t b = 0; b < 4; b++)
        for (int64_t flags = 0; flags < 4; flags++)
            for (size_t g = 0; g < sizeof groups / sizeof *groups; g++, turn++) {
                const int64_t *s = packed_shapes[turn % 5];
                int64_t kind = bits[b] + CASE_FLAGS * flags;
                op_case few = {code_names[bits[b]], LINEAR, run_linear_int,
                               {s[0], s[1], s[2], kind, groups[g], QS_USE_GEMV}};
                op_case few_bf16 = {"linear gemv bf16", LINEAR_BF16, run_linear_int,
                                    {s[0], s[1], s[2], kind + CASE_BF16, groups[g], QS_USE_GEMV}};
                op_case many = {"linear gemm int", LINEAR, run_linear_int,
                                {s[0], s[1], 40, kind, groups[g], QS_USE_GEMM}};
                op_case many_bf16 = {"linear gemm int bf16", LINEAR, run_linear_int,
                                     {s[0], s[1], 37, kind + CASE_BF16, groups[g], QS_USE_GEMM}};
                visit(&few, context);
                visit(turn % 2 ? &few_bf16 : &many, context);
                if (turn % 3 == 0) visit(&many_bf16, context);
            }
}

static void count_odd_group(const op_case *row, void *context)
{
    bool is_odd = row->run == run_linear_int && row->shape[4] % 16 != 0 && row->shape[4] < row->shape[1];
    if (is_odd) ++*(int64_t *)context;
}

/* Groups that begin within a k-step of the tensor cores are what the backend declines, and nothing else. */
static int64_t count_odd_groups(void)
{
    int64_t n = 0;
    for_each_case(count_odd_group, &n);
    return n;
}

/* Where kernels run on the CPU: as the environment asks for, or the other way round. */
static void take_order(bool other)
{
    const char *asked = getenv("QS_SIMT_ORDER");
    bool reverse = asked != NULL && strcmp(asked, "reverse") == 0;
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(reverse != other);
}

/* Against the reference, one case in this order of threads and the next in the other. */
static void compare_in_turn(const op_case *row, void *context)
{
    parity *p = context;
    take_order(p->n_cases % 2 == 1);
    compare(row, context);
    take_order(false);
}

/* Against the reference, and once more, in the other order of threads, for the same bits. */
static void compare_twice(const op_case *row, void *context)
{
    parity *p = context;
    output first = {0}, again = {0};
    row->run(p->tested, row->shape, &first);
    take_order(true);
    row->run(p->tested, row->shape, &again);
    take_order(false);
    assert_int_equal(again.n, first.n);
    if (first.n > 0 && memcmp(again.values, first.values, (size_t)first.n * sizeof *first.values) != 0)
        fail_msg("%s gives other bits when it runs again", row->op);
    judge(p, row, &first);
    output_free(&first);
    output_free(&again);
}

static void test_parity(void **state)
{
    fixture *f = take(state);
    parity p = {.reference = f->reference, .tested = f->cuda, .entry = "cuda"};
    void (*visit)(const op_case *row, void *context) = SANITIZED ? compare_in_turn : compare_twice;
    for_each_case(visit, &p);
    for (size_t i = 0; i < sizeof more_cases / sizeof *more_cases; i++) visit(&more_cases[i], &p);
    for_each_packed(compare, &p);
    printf("cuda       %lld cases, %lld failed, %lld not supported\n", (long long)p.n_cases, (long long)p.n_failed,
           (long long)p.n_left_out);
    assert_int_equal(p.n_failed, 0);
    assert_int_equal(p.n_left_out, count_odd_groups());
}

/* ---- rows: every number of them, and each whatever the others are ---- */

enum { N_OUT = 50, N_IN = 200, GROUP = 64, N_ROWS = 300, N_SHARED = 32 };

typedef struct weights {
    const char *name;
    qs_matrix_format format;
    int bits;
    int64_t flags;
} weights;

static const weights all_weights[] = {
    {"f32", QS_MATRIX_F32, 0, 0},    {"f16", QS_MATRIX_F16, 0, 0},
    {"bf16", QS_MATRIX_BF16, 0, 0},  {"int2", QS_MATRIX_INT, 2, WITH_ZEROS},
    {"int3", QS_MATRIX_INT, 3, WITH_PERM}, {"int4", QS_MATRIX_INT, 4, WITH_ZEROS | WITH_PERM},
    {"int8", QS_MATRIX_INT, 8, WITH_ZEROS},
};

/* The matrix, and what it means as f32. */
static qs_matrix *create_matrix(op_memory *m, const weights *kind, qs_compute compute, float **meaning)
{
    qs_matrix *matrix;
    qs_packed packed = {0};
    float *w = draw(m, 50, N_OUT * N_IN, 0.1);
    uint16_t *half = on_host(m, N_OUT * N_IN, sizeof *half);
    qs_matrix_desc desc = {.format = kind->format, .n_out = N_OUT, .n_in = N_IN, .dense = half};
    if (kind->format == QS_MATRIX_F32) desc.dense = w;
    if (kind->format == QS_MATRIX_F16) {
        qs_f16_from_f32_array(half, w, N_OUT * N_IN);
        for (int i = 0; i < N_OUT * N_IN; i++) w[i] = qs_f32_from_f16(half[i]);
    }
    if (kind->format == QS_MATRIX_BF16) {
        qs_bf16_from_f32_array(half, w, N_OUT * N_IN);
        for (int i = 0; i < N_OUT * N_IN; i++) w[i] = qs_f32_from_bf16(half[i]);
    }
    if (kind->format == QS_MATRIX_INT) {
        fill_packed(&packed, kind->bits, N_OUT, N_IN, GROUP, kind->flags);
        qs_packed_dequant_rows(&packed, 0, N_OUT, w);
        desc.packed = &packed;
    }
    OK(qs_matrix_create(&matrix, m->backend, &desc, QS_USE_GEMM | QS_USE_GEMV, compute));
    qs_packed_free(&packed);
    *meaning = w;
    return matrix;
}

/* y of n rows of x from row `first` on, into host memory. */
static void multiply_rows(qs_backend *backend, const qs_matrix *matrix, const float *x, int64_t first, int64_t n,
                          float *y_device, float *y)
{
    size_t bytes = (size_t)(n * N_OUT) * sizeof *y;
    memset(y, 0xFF, bytes);
    OK(qs_backend_upload(backend, y_device, y, bytes));
    OK(qs_op_linear(backend, matrix, x + first * N_IN, n, NULL, y_device));
    OK(qs_backend_download(backend, y, y_device, bytes));
}

/* Plain f32 weights are few rows' business up to QS_GEMV_MAX_ROWS, all others up to N_SHARED. */
static void check_rows(fixture *f, const weights *kind, qs_compute compute)
{
    int64_t n_shared = kind->format == QS_MATRIX_F32 ? QS_GEMV_MAX_ROWS : N_SHARED;
    op_memory m = {.backend = f->cuda};
    float *w, *x = draw(&m, 51, N_ROWS * N_IN, 1.0), *x_device = floats_on_device(&m, x, N_ROWS * N_IN);
    float *y_device = floats_on_device(&m, NULL, N_ROWS * N_OUT), *zeros = draw(&m, 0, N_OUT, 0.0);
    float *y = on_host(&m, N_ROWS * N_OUT, sizeof *y), *shared = on_host(&m, N_SHARED * N_OUT, sizeof *shared);
    qs_matrix *matrix = create_matrix(&m, kind, compute, &w);
    output expected = {0};
    double worst = 0.0, tolerance = compute == QS_COMPUTE_BF16 ? LINEAR_BF16 : LINEAR;
    output_new(&expected, N_ROWS * N_OUT);
    product_sizes(w, x, zeros, N_ROWS, N_OUT, N_IN, &expected);
    for (int i = 0; i < N_ROWS * N_OUT; i++)
        for (int j = 0; j < N_IN; j++)
            expected.values[i] += (double)w[i % N_OUT * N_IN + j] * (double)x[i / N_OUT * N_IN + j];
    multiply_rows(f->cuda, matrix, x_device, 0, n_shared, y_device, shared);
    for (int64_t n = 1; n <= N_ROWS; n = n == 40 ? N_ROWS : n + 1) {
        multiply_rows(f->cuda, matrix, x_device, 0, n, y_device, y);
        for (int64_t i = 0; i < n * N_OUT; i++) {
            if (!isfinite(y[i]))
                fail_msg("%s, %lld rows: element %lld is not finite", kind->name, (long long)n, (long long)i);
            worst = fmax(worst, fabs((double)y[i] - expected.values[i]) / expected.sizes[i]);
        }
        if (n <= n_shared && memcmp(y, shared, (size_t)(n * N_OUT) * sizeof *y) != 0)
            fail_msg("%s: rows of a batch of %lld are not those of one of %lld", kind->name, (long long)n,
                     (long long)n_shared);
    }
    for (int64_t r = 0; r < n_shared; r++) {
        multiply_rows(f->cuda, matrix, x_device, r, 1, y_device, y);
        if (memcmp(y, shared + r * N_OUT, N_OUT * sizeof *y) != 0)
            fail_msg("%s: row %lld alone is not what it is in a batch", kind->name, (long long)r);
    }
    printf("cuda       linear %-5s %-4s 1..40, 300 rows of %d x %d   residual %.1e of %.0e %s\n", kind->name,
           compute == QS_COMPUTE_BF16 ? "bf16" : "f32", N_OUT, N_IN, worst, tolerance,
           worst <= tolerance ? "PASS" : "FAIL");
    assert_true(worst <= tolerance);
    qs_matrix_destroy(matrix);
    output_free(&expected);
    free_all(&m);
}

static void test_rows_of_a_product(void **state)
{
    fixture *f = take(state);
    for (size_t i = 0; i < sizeof all_weights / sizeof *all_weights; i++) {
        check_rows(f, &all_weights[i], QS_COMPUTE_F32);
        check_rows(f, &all_weights[i], QS_COMPUTE_BF16);
    }
}

static void test_linears_are_linears(void **state)
{
    fixture *f = take(state);
    check_linears(f->cuda, 200, 1, 2);
    check_linears(f->cuda, 577, 13, 2);
    check_linears(f->cuda, 130, 70, 2);
}

/* Rows of odd length begin at every alignment; each gives the same bits alone. */
static void test_rows_of_logits(void **state)
{
    fixture *f = take(state);
    enum { N = 6, N_VOCAB = 4099 };
    op_memory m = {.backend = f->cuda};
    float *logits = floats_on_device(&m, draw_logits(&m, N, N_VOCAB), N * N_VOCAB);
    float *other = drawn_on_device(&m, 52, N * N_VOCAB, 3.0), kld[N], kld_alone;
    double lse[N], lse_other[N], alone;
    OK(qs_op_logit_stats(f->cuda, logits, NULL, N, N_VOCAB, &(qs_logit_stats){.lse = lse}));
    OK(qs_op_logit_stats(f->cuda, other, NULL, N, N_VOCAB, &(qs_logit_stats){.lse = lse_other}));
    OK(qs_op_kld(f->cuda, other, lse_other, other, lse_other, N, N_VOCAB, kld));
    for (int i = 0; i < N; i++) assert_true(kld[i] == 0.0f);
    OK(qs_op_kld(f->cuda, logits, lse, other, lse_other, N, N_VOCAB, kld));
    float *one = floats_on_device(&m, NULL, N_VOCAB), *one_other = floats_on_device(&m, NULL, N_VOCAB);
    for (int i = 0; i < N; i++) {
        OK(qs_backend_copy(f->cuda, one, logits + i * N_VOCAB, N_VOCAB * sizeof *one));
        OK(qs_backend_copy(f->cuda, one_other, other + i * N_VOCAB, N_VOCAB * sizeof *one));
        OK(qs_op_logit_stats(f->cuda, one, NULL, 1, N_VOCAB, &(qs_logit_stats){.lse = &alone}));
        assert_true(alone == lse[i]);
        OK(qs_op_kld(f->cuda, one, &lse[i], one_other, &lse_other[i], 1, N_VOCAB, &kld_alone));
        assert_true(kld_alone == kld[i]);
    }
    free_all(&m);
}

/* Two matrices of each form, several rounds of a block's teams to each, with a norm before and a gate behind them. */
enum { WITH_OUT = 300, WITH_IN = 260 };

static qs_matrix *create_one_of_two(fixture *f, const weights *kind, qs_compute compute, bool second)
{
    enum { N = WITH_OUT * WITH_IN };
    op_memory m = {.backend = f->cuda};
    qs_matrix *matrix;
    qs_packed packed = {0};
    float *w = draw(&m, second ? 85 : 84, N, 0.1);
    uint16_t *half = on_host(&m, N, sizeof *half);
    qs_f16_from_f32_array(half, w, N);
    qs_matrix_desc desc = {.format = kind->format, .n_out = WITH_OUT, .n_in = WITH_IN, .dense = half};
    if (kind->format == QS_MATRIX_F32) desc.dense = w;
    if (kind->format == QS_MATRIX_INT) {
        fill_packed(&packed, kind->bits, WITH_OUT, WITH_IN, GROUP, kind->flags);
        for (int64_t i = 0; second && i < packed.n_out * packed.n_groups; i++)
            packed.scales[i] ^= i % 3 == 0 ? 0x8000 : 0x100;
        desc.packed = &packed;
    }
    OK(qs_matrix_create(&matrix, f->cuda, &desc, QS_USE_GEMV, compute));
    qs_packed_free(&packed);
    free_all(&m);
    return matrix;
}

static void test_norm_and_gate(void **state)
{
    static const int64_t rows[] = {1, 2, 9, 32};
    static const weights kinds[] = {
        {"f32", QS_MATRIX_F32, 0, 0}, {"f16", QS_MATRIX_F16, 0, 0},
        {"int3", QS_MATRIX_INT, 3, WITH_PERM}, {"int4", QS_MATRIX_INT, 4, WITH_ZEROS},
    };
    fixture *f = take(state);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        for (int k = 0; k < (SANITIZED ? 2 : 4); k++) {
            qs_compute compute = (k + (int)i) % 2 == 0 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32;
            qs_matrix *first = create_one_of_two(f, &kinds[i], compute, false);
            qs_matrix *second = create_one_of_two(f, &kinds[i], compute, true);
            int64_t n = kinds[i].format == QS_MATRIX_F32 && rows[k] > QS_GEMV_MAX_ROWS ? QS_GEMV_MAX_ROWS : rows[k];
            take_order(k % 2 == 1);
            check_with(&(with_case){f->cuda, first, second, WITH_OUT, WITH_IN, n, 2e-6, true});
            take_order(false);
            qs_matrix_destroy(first);
            qs_matrix_destroy(second);
        }
}

/* ---- numbers that are none ---- */

/* A NaN or infinity in row 1 of x shows in that row of the product, and in no other. An infinity may meet a weight of
 * 0, and then either result will do. */
static void check_broken_row(fixture *f, const weights *kind, float broken, int64_t n)
{
    enum { AT = 70 };
    op_memory m = {.backend = f->cuda};
    float *w, *x = draw(&m, 53, n * N_IN, 1.0), *y = on_host(&m, n * N_OUT, sizeof *y);
    x[N_IN + AT] = broken;
    qs_matrix *matrix = create_matrix(&m, kind, QS_COMPUTE_F32, &w);
    float *x_device = floats_on_device(&m, x, n * N_IN), *y_device = floats_on_device(&m, NULL, n * N_OUT);
    multiply_rows(f->cuda, matrix, x_device, 0, n, y_device, y);
    for (int64_t i = 0; i < n * N_OUT; i++) {
        if (i / N_OUT == 1 && isinf(broken) && w[i % N_OUT * N_IN + AT] == 0.0f) continue;
        if ((bool)isfinite(y[i]) == (i / N_OUT == 1))
            fail_msg("%s, %lld rows, %f in row 1: element %lld is %f", kind->name, (long long)n, (double)broken,
                     (long long)i, (double)y[i]);
    }
    qs_matrix_destroy(matrix);
    free_all(&m);
}

static void check_broken_statistics(fixture *f)
{
    enum { N = 40, D = 70 };
    op_memory m = {.backend = f->cuda};
    float *x = draw(&m, 54, N * D, 1.0), abs_max[D] = {0};
    double gram[D * D] = {0}, abs_sum[D] = {0}, lse[2];
    x[7 * D + 5] = NAN;
    x[9 * D + 6] = INFINITY;
    float *x_device = floats_on_device(&m, x, N * D);
    double *gram_device = on_device(&m, gram, sizeof gram), *sum_device = on_device(&m, abs_sum, sizeof abs_sum);
    OK(qs_op_gram(f->cuda, x_device, N, D, gram_device));
    OK(qs_op_abs_stats(f->cuda, x_device, N, D, sum_device, floats_on_device(&m, abs_max, D)));
    OK(qs_op_logit_stats(f->cuda, x_device + 7 * D, NULL, 2, D, &(qs_logit_stats){.lse = lse}));
    OK(qs_backend_download(f->cuda, gram, gram_device, sizeof gram));
    OK(qs_backend_download(f->cuda, abs_sum, sum_device, sizeof abs_sum));
    for (int i = 0; i < D; i++) {
        assert_true((bool)isfinite(abs_sum[i]) == (i != 5 && i != 6));
        for (int j = i; j < D; j++) {
            bool is_broken = i == 5 || j == 5 || i == 6 || j == 6;
            assert_true((bool)isfinite(gram[i * D + j]) == !is_broken);
        }
    }
    assert_true(isnan(lse[0]) && isfinite(lse[1]));
    free_all(&m);
}

static void test_broken_numbers_show(void **state)
{
    fixture *f = take(state);
    for (size_t i = 0; i < sizeof all_weights / sizeof *all_weights; i++) {
        check_broken_row(f, &all_weights[i], NAN, 3);
        check_broken_row(f, &all_weights[i], INFINITY, 3);
        check_broken_row(f, &all_weights[i], NAN, 50);
    }
    check_broken_statistics(f);
}

/* ---- devices without products of a warpgroup ---- */

static void compare_gram(const op_case *row, void *context)
{
    if (row->run == run_gram) (SANITIZED ? compare_in_turn : compare_twice)(row, context);
}

/* stats.cu, where gram_wgmma.cu does not run. */
static void test_second_moments_elsewhere(void **state)
{
    fixture older = *(fixture *)take(state);
    if (qs_rt_simt_set_wgmma == NULL) {
        printf("SKIP: a real device has the products that it has\n");
        skip();
    }
    qs_rt_simt_set_wgmma(false);
    OK(qs_backend_create(&older.cuda, "cuda", 0, 2));
    qs_rt_simt_set_wgmma(true);
    parity p = {.reference = older.reference, .tested = older.cuda, .entry = "elsewhere"};
    for_each_case(compare_gram, &p);
    for (size_t i = 0; i < sizeof more_cases / sizeof *more_cases; i++) compare_gram(&more_cases[i], &p);
    check_broken_statistics(&older);
    qs_backend_destroy(older.cuda);
    assert_int_equal(p.n_failed, 0);
    assert_true(p.n_cases >= 9);
}

static void test_update_replaces_contents(void **state)
{
    (void)take(state);
    check_update("cuda");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_rows_of_a_product),
        cmocka_unit_test(test_linears_are_linears),
        cmocka_unit_test(test_rows_of_logits),
        cmocka_unit_test(test_norm_and_gate),
        cmocka_unit_test(test_broken_numbers_show),
        cmocka_unit_test(test_second_moments_elsewhere),
        cmocka_unit_test(test_update_replaces_contents),
    };
    return cmocka_run_group_tests_name("cuda ops", tests, create_backends, destroy_backends);
}
