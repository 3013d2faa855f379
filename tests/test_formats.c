/* Packed formats that are not integers: tables, rounding, checks of contents, and every kernel for few and many rows
 * against the definition in packed.h, over ragged shapes (checklist A22: kernel self-test against a scalar
 * reference). */
#include "tests/format_data.h"

#include <math.h>

#include "backend/backend.h"

static void test_tables(void **state)
{
    (void)state;
    const float *map = qs_dynamic_map;
    assert_true(map[127] == 0 && map[255] == 1);
    for (int i = 1; i < 256; i++) assert_true(map[i] > map[i - 1]);
    for (int k = 0; k < 127; k++) assert_true(map[126 - k] == -map[128 + k]);
    /* seven decades of means between equal steps (formats: linspace(0.1, 1, 2^i + 1)) */
    for (int i = 0, at = 128; i < 7; i++)
        for (int k = 0; k < 1 << i; k++, at++) {
            double mean = pow(10, i - 6) * (0.1 + 0.9 * (k + 0.5) / (1 << i));
            assert_true(fabs((double)map[at] / mean - 1) < 3e-7);
        }
    for (int f = QS_PACKED_NF4; f <= QS_PACKED_FP4; f++) {
        float largest = 0;
        for (int i = 0; i < 16; i++) largest = fmaxf(largest, fabsf(qs_formats[f].values[i]));
        assert_true(largest == 1);
    }
    for (int i = 0; i < 8; i++)
        assert_true(qs_formats[QS_PACKED_FP4].values[i + 8] == -qs_formats[QS_PACKED_FP4].values[i]);
}

static void test_nearest_code(void **state)
{
    (void)state;
    for (int n = 0; n < 3000; n++) {
        float x = (float)(qs_rng_unit(1, (uint64_t)n) * 2.2 - 1.1) * (n % 3 == 0 ? 1e-4f : 1.0f);
        int best = 0;
        for (int i = 1; i < 256; i++)
            if (fabsf(x - qs_dynamic_map[i]) < fabsf(x - qs_dynamic_map[best])) best = i;
        assert_int_equal(qs_dynamic_code(x), best);
    }
    for (int i = 0; i < 256; i++) assert_int_equal(qs_dynamic_code(qs_dynamic_map[i]), i);
}

static void test_rounding(void **state)
{
    (void)state;
    assert_true(qs_round_to(1.00390625f, QS_ROUND_BF16) == 1); /* halfway: to the even neighbour */
    assert_true(qs_round_to(1.0048828125f, QS_ROUND_BF16) == 1.0078125f);
    assert_true(qs_round_to(1.00048828125f, QS_ROUND_F16) == 1);
    assert_true(qs_round_to(1e9f, QS_ROUND_F16) == 65504 && qs_round_to(-INFINITY, QS_ROUND_F16) == -65504);
    assert_true(isnan(qs_round_to(NAN, QS_ROUND_F16)) && isnan(qs_round_to(NAN, QS_ROUND_BF16)));
    assert_true(qs_round_to(0.1f, QS_ROUND_F32) == 0.1f);
}

/* ---- contents ---- */

static void test_bad_contents(void **state)
{
    (void)state;
    qs_packed p;
    FAILS(QS_E_INPUT, qs_packed_shape_blocks(&p, QS_PACKED_NF4, 4, 4, 48, QS_ROUND_F32));
    FAILS(QS_E_INPUT, qs_packed_shape_blocks(&p, QS_PACKED_NF4, 4, 4, 8192, QS_ROUND_F32));
    FAILS(QS_E_INPUT, qs_packed_shape_int8(&p, 4, 200000, 6));
    FAILS(QS_E_INPUT, qs_packed_shape_int8(&p, 4, 4, NAN));
    draw_packed(&p, QS_PACKED_NF4, 5, 40, 32, false, QS_ROUND_F32);
    p.absmax[3] = NAN;
    FAILS(QS_E_NUMERIC, qs_packed_check(&p, "layers.0.q_proj"));
    TEXT_HOLDS("layers.0.q_proj", "block 3");
    p.absmax[3] = 1;
    p.n_absmax = 6;
    FAILS(QS_E_INPUT, qs_packed_check(&p, "x"));
    p.n_absmax = 7;
    p.group_size = 16;
    FAILS(QS_E_INPUT, qs_packed_check(&p, "x"));
    qs_packed_free(&p);
    draw_packed(&p, QS_PACKED_INT8, 3, 5, 1, false, QS_ROUND_F16);
    p.absmax[2] = INFINITY;
    FAILS(QS_E_NUMERIC, qs_packed_check(&p, "x"));
    TEXT_HOLDS("row 2");
    qs_packed_free(&p);
    draw_packed(&p, QS_PACKED_FP4, 9, 64, 64, true, QS_ROUND_F32);
    p.nested_absmax[0] = INFINITY;
    FAILS(QS_E_NUMERIC, qs_packed_check(&p, "x"));
    qs_packed_free(&p);
}

/* ---- kernels ---- */

/* y by the words of packed.h, in f64. */
static void define(const qs_packed *p, const float *x, const float *bias, int64_t n, double *y)
{
    float *w = malloc((size_t)(p->n_out * p->n_in) * sizeof *w);
    qs_packed_dequant_rows(p, 0, p->n_out, w);
    for (int64_t r = 0; r < n; r++) {
        const float *row = x + r * p->n_in;
        double scale = 0;
        for (int64_t j = 0; j < p->n_in; j++) {
            double size = fabs((double)qs_round_to(row[j], p->compute));
            if (p->threshold == 0 || size < (double)p->threshold) scale = fmax(scale, size);
        }
        for (int64_t o = 0; o < p->n_out; o++) {
            double sum = bias != NULL ? (double)qs_round_to(bias[o], p->compute) : 0;
            for (int64_t j = 0; j < p->n_in; j++) {
                double value = (double)qs_round_to(row[j], p->compute), weight = (double)w[o * p->n_in + j];
                if (p->format != QS_PACKED_INT8)
                    sum += value * weight;
                else if (p->threshold > 0 && fabs(value) >= (double)p->threshold)
                    sum += value * (double)qs_round_to((float)weight, QS_ROUND_F16);
                else if (scale > 0)
                    sum += (double)rintf((float)value * qs_int8_factor((float)scale)) * scale / 127 * weight;
            }
            y[r * p->n_out + o] = sum;
        }
    }
    free(w);
}

/* Spacing of results over their size, and what sums in f32 may be off. */
static double tolerance(qs_rounding compute, double y, double size)
{
    return 0.51 * format_spacing(compute) * fabs(y) + 1e-5 * size;
}

static int64_t check_products(qs_backend *backend, const qs_packed *p, int64_t n, unsigned uses, qs_compute engine)
{
    float *x = malloc((size_t)(n * p->n_in) * sizeof *x), *bias = malloc((size_t)p->n_out * sizeof *bias);
    float *y = malloc((size_t)(n * p->n_out) * sizeof *y);
    double *expected = malloc((size_t)(n * p->n_out) * sizeof *expected), squares = 1e-12;
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = p};
    qs_matrix *matrix;
    for (int64_t i = 0; i < n * p->n_in; i++) x[i] = (float)qs_rng_normal(4, (uint64_t)i);
    for (int64_t i = 0; i < p->n_out; i++) bias[i] = (float)qs_rng_normal(5, (uint64_t)i);
    define(p, x, bias, n, expected);
    for (int64_t i = 0; i < n * p->n_out; i++) squares += expected[i] * expected[i];
    double size = sqrt(squares / (double)(n * p->n_out));
    OK(qs_matrix_create(&matrix, backend, &desc, uses, engine));
    memset(y, 0xFF, (size_t)(n * p->n_out) * sizeof *y);
    OK(qs_op_linear(backend, matrix, x, n, bias, y));
    for (int64_t i = 0; i < n * p->n_out; i++)
        if (!(fabs((double)y[i] - expected[i]) <= tolerance(p->compute, expected[i], size)))
            fail_msg("%s %s %lld x %lld, %lld rows, block %lld, %s: element %lld is %g, not %g",
                     qs_backend_name(backend), qs_formats[p->format].name, (long long)p->n_out,
                     (long long)p->n_in, (long long)n, (long long)p->group_size, qs_rounding_name(p->compute),
                     (long long)i, (double)y[i], expected[i]);
    qs_matrix_destroy(matrix);
    free(x);
    free(bias);
    free(y);
    free(expected);
    return 1;
}

static const int64_t shapes[][4] = {
    /* n_out, n_in, rows, block */
    {1, 1, 1, 32},    {17, 96, 1, 32},   {33, 64, 8, 64},   {5, 577, 2, 64},  {40, 576, 1, 64},   {19, 192, 3, 128},
    {16, 160, 5, 64}, {7, 224, 6, 4096}, {50, 100, 7, 128}, {3, 32, 4, 1024}, {21, 128, 12, 256}, {4, 63, 20, 32},
};

static void check_entry(const char *entry)
{
    qs_backend *backend;
    int64_t n = 0;
    qs_err err = qs_backend_create(&backend, entry, 0, 2);
    if (err == QS_E_UNSUPPORTED) {
        printf("%s SKIP: %s\n", entry, qs_error_text());
        return;
    }
    OK(err);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int variant = 0; variant < 6; variant++) {
            const int64_t *s = shapes[i];
            qs_packed p;
            qs_packed_format format = variant == 5 ? QS_PACKED_INT8 : variant % 2 == 0 ? QS_PACKED_NF4 : QS_PACKED_FP4;
            draw_packed(&p, format, s[0], s[1], variant == 5 && i % 3 == 0 ? 0 : s[3], variant < 3,
                        (qs_rounding)(variant % 3));
            n += check_products(backend, &p, s[2], QS_USE_GEMM, QS_COMPUTE_F32);
            if (s[2] <= QS_GEMV_MAX_ROWS) n += check_products(backend, &p, s[2], QS_USE_GEMV, QS_COMPUTE_F32);
            if (p.compute == QS_ROUND_BF16 || format == QS_PACKED_INT8) /* exact in the engine's bf16 as well */
                n += check_products(backend, &p, s[2], QS_USE_GEMM, QS_COMPUTE_BF16);
            qs_packed_free(&p);
        }
    printf("%s: %lld products\n", entry, (long long)n);
    qs_backend_destroy(backend);
}

static void test_kernels(void **state)
{
    (void)state;
    check_entry("reference");
    check_entry("cpu-avx2");
    check_entry("cpu");
}

/* The names say which kernel runs; rows that chunks do not fit go to the plain one. */
static void test_kernel_names(void **state)
{
    (void)state;
    static const struct {
        qs_packed_format format;
        int64_t n_in;
        const char *part;
        bool plain;
    } rows[] = {{QS_PACKED_NF4, 96, "gemv_nf4_", false},
                {QS_PACKED_FP4, 64, "gemv_fp4_", false},
                {QS_PACKED_NF4, 100, "gemv_nf4_", true},
                {QS_PACKED_INT8, 31, "gemv_llmint8_", false}};
    qs_backend *backend;
    OK(qs_backend_create(&backend, "cpu", 0, 1));
    bool fast = strstr(qs_backend_describe(backend), "reference kernels") == NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_packed p;
        qs_matrix *matrix;
        draw_packed(&p, rows[i].format, 4, rows[i].n_in, 64, false, QS_ROUND_F32);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = 4, .n_in = rows[i].n_in, .packed = &p};
        OK(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32));
        assert_non_null(strstr(qs_matrix_kernel(matrix), rows[i].part));
        if (fast) assert_int_equal(strstr(qs_matrix_kernel(matrix), "reference") != NULL, rows[i].plain);
        qs_matrix_destroy(matrix);
        qs_packed_free(&p);
    }
    qs_backend_destroy(backend);
}

/* A NaN or an infinity in a row of x spoils that row and no other. */
static void test_nonfinite_inputs(void **state)
{
    (void)state;
    enum { N_IN = 96, N_OUT = 20, N = 3 };
    qs_backend *backend;
    qs_packed p;
    qs_matrix *matrix;
    float x[N * N_IN] = {0}, y[N * N_OUT];
    x[N_IN + 5] = NAN;
    x[2 * N_IN + 1] = 3;
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    for (unsigned uses = QS_USE_GEMM; uses <= QS_USE_GEMV; uses++) {
        draw_packed(&p, QS_PACKED_INT8, N_OUT, N_IN, 1, false, QS_ROUND_F16);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &p};
        OK(qs_matrix_create(&matrix, backend, &desc, uses, QS_COMPUTE_F32));
        OK(qs_op_linear(backend, matrix, x, N, NULL, y));
        for (int i = 0; i < N * N_OUT; i++) assert_true((i / N_OUT == 1) == (bool)isnan(y[i]));
        for (int i = 0; i < N_OUT; i++) assert_true(y[i] == 0);
        qs_matrix_destroy(matrix);
        qs_packed_free(&p);
    }
    qs_backend_destroy(backend);
}

/* Bit for bit the same for any number of threads, alone or with others that share x, and after updates from
 * and to other formats. */
static void test_threads_and_updates(void **state)
{
    (void)state;
    enum { N_IN = 192, N_OUT = 300, N = 4, MANY = 20 };
    static const int teams[] = {1, 3};
    float *x = malloc(MANY * N_IN * sizeof *x), *y[2], *more = malloc(MANY * N_OUT * sizeof *more);
    for (int64_t i = 0; i < MANY * N_IN; i++) x[i] = (float)qs_rng_normal(6, (uint64_t)i);
    for (int t = 0; t < 2; t++) y[t] = malloc(6 * MANY * N_OUT * sizeof *y[t]);
    for (int t = 0; t < 2; t++) {
        qs_backend *backend;
        qs_packed packed[3];
        qs_matrix *matrices[3];
        OK(qs_backend_create(&backend, "cpu", 0, teams[t]));
        for (int i = 0; i < 3; i++) {
            draw_packed(&packed[i], (qs_packed_format)(QS_PACKED_NF4 + i), N_OUT, N_IN, 64, i == 1, QS_ROUND_F16);
            qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed[i]};
            OK(qs_matrix_create(&matrices[i], backend, &desc, QS_USE_GEMM | QS_USE_GEMV, QS_COMPUTE_F32));
        }
        for (int i = 0; t == 1 && i < 6; i++) { /* round and back */
            qs_packed *other = &packed[(i + 1 + i / 3) % 3];
            qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = other};
            OK(qs_matrix_update(matrices[i % 3], &desc));
            desc.packed = &packed[i % 3];
            OK(qs_matrix_update(matrices[i % 3], &desc));
        }
        for (int i = 0; i < 6; i++) {
            int64_t n = i < 3 ? N : MANY;
            qs_linear_job jobs[] = {{.matrix = matrices[i % 3], .y = y[t] + i * MANY * N_OUT},
                                    {.matrix = matrices[(i + 1) % 3], .y = more}};
            OK(qs_op_linears(backend, jobs, 1 + (t + i) % 2, x, n));
            assert_memory_equal(y[t] + i * MANY * N_OUT, y[0] + i * MANY * N_OUT, (size_t)(n * N_OUT) * sizeof(float));
        }
        for (int i = 0; i < 3; i++) {
            qs_matrix_destroy(matrices[i]);
            qs_packed_free(&packed[i]);
        }
        qs_backend_destroy(backend);
    }
    for (int t = 0; t < 2; t++) free(y[t]);
    free(x);
    free(more);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_nearest_code),
        cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_bad_contents),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_kernel_names),
        cmocka_unit_test(test_nonfinite_inputs),
        cmocka_unit_test(test_threads_and_updates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
