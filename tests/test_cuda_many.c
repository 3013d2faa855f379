/* Products of many rows straight from stored weights (linear_many.cu) against sums in f64 of weights and inputs as they
 * were before any rounding: formats, group sizes, zero points, permutations, ragged sizes; several matrices at once,
 * with bias and added; NF4, FP4 and int8; tiles that blocks share; the same bits in the reverse order of threads; NaN
 * that shows; norms that round; and what goes the other way, by its name and its number of rows.
 * Proves: prompts are multiplied by the stored weights with no more error than 16 bits of an input have. */
#include "backend/cuda/kernels.h"
#include "backend/cuda/runtime.h"
#include "cuda_backends.h"
#include "with_cases.h"

/* An input and a weight are rounded to 11 bits each, uniformly by up to 2^-11: a deviation of 2^-11 sqrt(2 / 3) = 4e-4
 * of the size of the sum at most. Five times that for the largest of some ten thousand; bf16 rounds inputs alone, to 8
 * bits: 2^-8 / sqrt(3) = 2.3e-3. */
#define TOLERANCE_F16 2e-3
#define TOLERANCE_BF16 1.15e-2

typedef struct row {
    qs_matrix_format format;
    int bits;
    int64_t n_out, n_in, n, group, flags;
} row;

static const row rows[] = {
    {QS_MATRIX_INT, 4, 300, 320, 70, 128, 0},
    {QS_MATRIX_INT, 4, 257, 131, 130, 64, WITH_ZEROS | WITH_PERM},
    {QS_MATRIX_INT, 4, 33, 200, 33, 32, 0},
    {QS_MATRIX_INT, 4, 70, 260, 140, 48, WITH_ZEROS},
    {QS_MATRIX_INT, 4, 16, 96, 128, 16, WITH_PERM},
    {QS_MATRIX_INT, 4, 520, 64, 34, -1, 0},
    {QS_MATRIX_INT, 4, 20, 1500, 33, 128, WITH_ZEROS}, /* one tile, in parts of six blocks */
    {QS_MATRIX_INT, 8, 40, 200, 35, 64, WITH_ZEROS},
    {QS_MATRIX_INT, 8, 33, 128, 130, -1, 0},
    {QS_MATRIX_INT, 3, 270, 150, 40, 128, WITH_PERM},
    {QS_MATRIX_INT, 3, 20, 130, 33, 64, WITH_ZEROS},
    {QS_MATRIX_INT, 2, 37, 260, 50, 128, 0},
    {QS_MATRIX_INT, 2, 16, 100, 34, 64, WITH_ZEROS},
    {QS_MATRIX_F16, 16, 290, 200, 129, 0, 0},
    {QS_MATRIX_F16, 16, 1, 1, 40, 0, 0},
    {QS_MATRIX_BF16, 16, 50, 333, 65, 0, 0},
};

typedef struct problem {
    op_memory m;
    qs_matrix *matrix;
    float *w, *x, *bias, *x_device, *y, *bias_device;
    double tolerance;
} problem;

/* The first row becomes the last. */
static void turn_rows(void *matrix, int64_t n, size_t row_bytes)
{
    char *first = malloc(row_bytes), *at = matrix;
    memcpy(first, at, row_bytes);
    memmove(at, at + row_bytes, (size_t)(n - 1) * row_bytes);
    memcpy(at + (size_t)(n - 1) * row_bytes, first, row_bytes);
    free(first);
}

/* turned: other weights, and a permutation that stays. */
static void create_turned(problem *p, qs_backend *backend, const row *r, bool turned)
{
    qs_packed packed = {0};
    *p = (problem){.m = {.backend = backend}};
    p->w = draw(&p->m, 50, r->n_out * r->n_in, 0.1);
    p->x = draw(&p->m, 51, r->n * r->n_in, 1.0);
    p->bias = draw(&p->m, 52, r->n_out, 1.0);
    uint16_t *half = on_host(&p->m, r->n_out * r->n_in, sizeof *half);
    qs_matrix_desc desc = {.format = r->format, .n_out = r->n_out, .n_in = r->n_in, .dense = half, .packed = &packed};
    if (turned) turn_rows(p->w, r->n_out, (size_t)r->n_in * sizeof *p->w);
    for (int64_t i = 0; i < r->n; i++) /* rows of very different sizes */
        for (int64_t j = 0; j < r->n_in; j++) p->x[i * r->n_in + j] *= ldexpf(1.0f, (int)(i * 7 % 41) - 20);
    if (r->format == QS_MATRIX_INT) {
        fill_packed(&packed, r->bits, r->n_out, r->n_in, r->group, r->flags);
        if (turned) turn_rows(packed.codes, r->n_out, (size_t)packed.row_bytes);
        if (turned) turn_rows(packed.scales, r->n_out, (size_t)packed.n_groups * sizeof *packed.scales);
        qs_packed_dequant_rows(&packed, 0, r->n_out, p->w);
    } else if (r->format == QS_MATRIX_F16) {
        qs_f16_from_f32_array(half, p->w, r->n_out * r->n_in);
        qs_f32_from_f16_array(p->w, half, r->n_out * r->n_in);
    } else {
        qs_bf16_from_f32_array(half, p->w, r->n_out * r->n_in);
        qs_f32_from_bf16_array(p->w, half, r->n_out * r->n_in);
    }
    OK(qs_matrix_create(&p->matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
    qs_packed_free(&packed);
    bool is_dense = strstr(qs_matrix_kernel(p->matrix), "wgmma") == NULL; /* a GPU without such products */
    p->tolerance = is_dense ? 2 * TOLERANCE_BF16 : r->format == QS_MATRIX_BF16 ? TOLERANCE_BF16 : TOLERANCE_F16;
    p->x_device = floats_on_device(&p->m, p->x, r->n * r->n_in);
    p->bias_device = floats_on_device(&p->m, p->bias, r->n_out);
    p->y = floats_on_device(&p->m, NULL, r->n * r->n_out);
}

static void create(problem *p, qs_backend *backend, const row *r) { create_turned(p, backend, r, false); }

static void destroy(problem *p)
{
    qs_matrix_destroy(p->matrix);
    free_all(&p->m);
}

/* The worst difference over what is allowed. */
static double check(const problem *p, const row *r, const float *got, const float *before)
{
    double worst = 0.0;
    for (int64_t i = 0; i < r->n; i++)
        for (int64_t o = 0; o < r->n_out; o++) {
            double sum = (double)p->bias[o] + (before != NULL ? (double)before[i * r->n_out + o] : 0.0), size = 0.0;
            double rest = 1e-6 * (fabs(sum) + 1e-9);
            for (int64_t j = 0; j < r->n_in; j++) {
                double term = (double)p->w[o * r->n_in + j] * (double)p->x[i * r->n_in + j];
                sum += term;
                size += term * term;
            }
            double share = fabs((double)got[i * r->n_out + o] - sum) / (p->tolerance * sqrt(size) + rest);
            if (!(share <= 1.0))
                fail_msg("%lld x %lld, %lld rows, group %lld: row %lld, output %lld is %.9g, not %.9g",
                         (long long)r->n_out, (long long)r->n_in, (long long)r->n, (long long)r->group, (long long)i,
                         (long long)o, (double)got[i * r->n_out + o], sum);
            worst = fmax(worst, share);
        }
    return worst;
}

static void test_products(void **state)
{
    fixture *f = take(state);
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        const row *r = &rows[k];
        problem p;
        create(&p, f->cuda, r);
        OK(qs_op_linear(f->cuda, p.matrix, p.x_device, r->n, p.bias_device, p.y));
        const float *first = to_host(&p.m, p.y, r->n * r->n_out);
        double worst = check(&p, r, first, NULL);
        printf("cuda       %s, %lld x %lld, %lld rows, group %lld: %.2f of what is allowed\n",
               qs_matrix_kernel(p.matrix), (long long)r->n_out, (long long)r->n_in, (long long)r->n,
               (long long)r->group, worst);
        qs_linear_job job = {.matrix = p.matrix, .bias = p.bias_device, .y = p.y, .add = true};
        if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(true);
        OK(qs_op_linears(f->cuda, &job, 1, p.x_device, r->n));
        (void)check(&p, r, to_host(&p.m, p.y, r->n * r->n_out), first);
        OK(qs_op_linear(f->cuda, p.matrix, p.x_device, r->n, p.bias_device, p.y));
        if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(false);
        assert_memory_equal(to_host(&p.m, p.y, r->n * r->n_out), first, (size_t)(r->n * r->n_out) * sizeof *first);
        destroy(&p);
    }
}

/* NF4, FP4 and int8 are rounded as their formats say, to which the reference holds: results may lie one place of the
 * format apart, where sums differ in their last bits, or by how outliers of int8 are rounded (cuda/coding.h). */
static void test_formats(void **state)
{
    fixture *f = take(state);
    enum { BF16 = CASE_BF16 + CASE_ROUND * QS_ROUND_BF16, F16 = CASE_BF16 + CASE_ROUND * QS_ROUND_F16 };
    static const int64_t shapes[][N_SHAPE] = {
        {70, 128, 40, QS_PACKED_NF4 + BF16, 64, QS_USE_GEMV},
        {33, 192, 130, QS_PACKED_FP4 + BF16 + CASE_NESTED, 64, QS_USE_GEMV},
        {20, 192, 35, QS_PACKED_NF4 + BF16, 4096, QS_USE_GEMV},
        {40, 260, 50, QS_PACKED_INT8 + F16, 1, QS_USE_GEMV},
        {33, 320, 40, QS_PACKED_INT8 + F16, 0, QS_USE_GEMV},
    };
    qs_packed packed;
    qs_matrix *matrix;
    draw_packed(&packed, QS_PACKED_FP4, 16, 64, 64, false, QS_ROUND_BF16);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = 16, .n_in = 64, .packed = &packed};
    OK(qs_matrix_create(&matrix, f->cuda, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
    if (strstr(qs_backend_device(f->cuda), "on the CPU") != NULL)
        assert_string_equal(qs_matrix_kernel(matrix), "linear_table_bf16_mma, wgmma");
    qs_matrix_destroy(matrix);
    qs_packed_free(&packed);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        output got = {0}, expected = {0};
        int64_t dense[N_SHAPE], n_apart = 0;
        double spacing = format_spacing((qs_rounding)(shapes[k][3] / CASE_ROUND & 3));
        bool has_outliers = (shapes[k][3] & 15) == QS_PACKED_INT8 && shapes[k][4] > 0;
        memcpy(dense, shapes[k], sizeof dense);
        dense[5] = QS_USE_GEMM;
        run_linear_format(f->cuda, shapes[k], &got);
        run_linear_format(f->reference, dense, &expected);
        assert_int_equal(got.n, expected.n);
        for (int64_t i = 0; i < got.n; i++) {
            double apart = fabs(got.values[i] - expected.values[i]),
                   sum = (has_outliers ? 0x1p-11 : 1e-5) * expected.sizes[i];
            assert_true(apart <= sum + 1.01 * spacing * fabs(expected.values[i]));
            n_apart += apart > sum;
        }
        assert_true(n_apart * (has_outliers ? 8 : 100) <= got.n);
        output_free(&got);
        output_free(&expected);
    }
}

/* However many blocks share the tiles: each part of each sum is there once. The kernels by themselves, since a device
 * has as many multiprocessors as it has. */
static void test_shares(void **state)
{
    fixture *f = take(state);
    enum { N_OUT = 300, N_IN = 600, N = 140, N_SMS_MAX = 13 };
    static const row r = {QS_MATRIX_F16, 16, N_OUT, N_IN, N, 0, 0};
    static const int n_sms[] = {1, 3, 5, 7, N_SMS_MAX};
    problem p;
    create(&p, f->cuda, &r);
    if (strstr(qs_matrix_kernel(p.matrix), "wgmma") != NULL) {
        const qs_cu_linear_shape shape = {.format = QS_CU_F16, .n_in = N_IN, .group_size = N_IN};
        size_t part_bytes = (size_t)2 * N_SMS_MAX * QS_CU_MANY_PART * sizeof(float);
        uint16_t *half = on_host(&p.m, N_OUT * N_IN, sizeof *half);
        void *stream;
        assert_int_equal(qs_rt_stream_create(&stream), 0);
        qs_f16_from_f32_array(half, p.w, N_OUT * N_IN);
        const void *dense = on_device(&p.m, half, N_OUT * N_IN * sizeof *half);
        uint32_t *words = on_device(&p.m, NULL, (size_t)(qs_cu_n_tiles(N_OUT) * qs_cu_n_chunks(N_IN) * 32 * 16) * 4);
        const unsigned zeros[N_SMS_MAX] = {0};
        size_t x_bytes = (size_t)(qs_cu_many_rows(N) * qs_cu_n_chunks(N_IN) * QS_CU_CHUNK) * 2;
        qs_cu_many_x x = {.x = on_device(&p.m, NULL, x_bytes), .scale = on_device(&p.m, NULL, N * sizeof(float))};
        qs_cu_many_scratch scratch = {on_device(&p.m, NULL, part_bytes), on_device(&p.m, zeros, sizeof zeros)};
        qs_cu_linear linear = {.words = words, .bias = p.bias_device, .y = p.y, .n_out = N_OUT};
        OK(qs_backend_sync(f->cuda));
        assert_int_equal(qs_cu_lay_out(stream, &shape, N_OUT, dense, 0, words), 0);
        assert_int_equal(qs_cu_prepare_many(stream, p.x_device, N, N_IN, NULL, false, &x), 0);
        float *first = on_host(&p.m, N * N_OUT, sizeof *first), *got = on_host(&p.m, N * N_OUT, sizeof *got);
        for (size_t i = 0; i < sizeof n_sms / sizeof *n_sms; i++) {
            float *to = i == 0 ? first : got;
            assert_int_equal(qs_cu_linear_many(stream, &shape, &linear, 1, N, &x, &scratch, n_sms[i]), 0);
            assert_int_equal(qs_rt_copy(to, p.y, N * N_OUT * sizeof *to, QS_RT_TO_HOST, stream), 0);
            assert_int_equal(qs_rt_stream_sync(stream), 0);
            if (i == 0) (void)check(&p, &r, first, NULL);
            for (int64_t k = 0; k < N * N_OUT; k++) { /* sums of f32 in another order */
                double scale = ldexp(1.0, (int)(k / N_OUT * 7 % 41) - 20);
                assert_true(fabs((double)to[k] - (double)first[k]) <= 1e-4 * (scale + fabs((double)first[k])));
            }
        }
        assert_int_equal(qs_rt_stream_destroy(stream), 0);
    }
    destroy(&p);
}

/* Matrices of one x: those of one form in one launch, and x prepared anew where the next form wants it otherwise. */
static void test_together(void **state)
{
    fixture *f = take(state);
    static const row three[] = {
        {QS_MATRIX_INT, 4, 300, 192, 40, 64, 0}, {QS_MATRIX_INT, 4, 17, 192, 40, 64, 0},
        {QS_MATRIX_INT, 4, 260, 192, 40, 64, 0}, {QS_MATRIX_F16, 16, 40, 192, 40, 0, 0},
        {QS_MATRIX_BF16, 16, 33, 192, 40, 0, 0}, /* x anew, as bf16 */
    };
    enum { N_JOBS = sizeof three / sizeof *three };
    problem p[N_JOBS];
    qs_linear_job jobs[N_JOBS];
    for (int i = 0; i < N_JOBS; i++) {
        create(&p[i], f->cuda, &three[i]);
        jobs[i] = (qs_linear_job){.matrix = p[i].matrix, .bias = p[i].bias_device, .y = p[i].y};
    }
    OK(qs_op_linears(f->cuda, jobs, N_JOBS, p[0].x_device, 40)); /* the x of all is the same numbers */
    for (int i = 0; i < N_JOBS; i++) (void)check(&p[i], &three[i], to_host(&p[i].m, p[i].y, 40 * three[i].n_out), NULL);
    for (int i = 0; i < N_JOBS; i++) destroy(&p[i]);
}

/* A row with NaN or infinity spoils itself alone. */
static void test_broken_numbers_show(void **state)
{
    fixture *f = take(state);
    static const row r = {QS_MATRIX_INT, 4, 70, 200, 37, 64, WITH_ZEROS};
    static const float broken[] = {NAN, INFINITY};
    for (int b = 0; b < 2; b++) {
        problem p;
        int64_t n_finite = 0;
        create(&p, f->cuda, &r);
        p.x[5 * r.n_in + 77] = broken[b];
        OK(qs_backend_upload(f->cuda, p.x_device, p.x, (size_t)(r.n * r.n_in) * sizeof *p.x));
        OK(qs_op_linear(f->cuda, p.matrix, p.x_device, r.n, NULL, p.y));
        const float *got = to_host(&p.m, p.y, r.n * r.n_out);
        for (int64_t i = 0; i < r.n * r.n_out; i++) {
            if (i / r.n_out != 5) assert_true(isfinite(got[i]));
            else n_finite += isfinite(got[i]) != 0;
        }
        assert_true(b == 0 ? n_finite == 0 : n_finite < r.n_out / 4); /* an infinity may meet a weight of 0 */
        destroy(&p);
    }
}

/* What has no kernel goes through dense weights, and the matrix says so: scales that f16 does not hold times a code,
 * and products in f32. */
static void test_the_other_way(void **state)
{
    fixture *f = take(state);
    enum { N_OUT = 40, N_IN = 128, N = 33 };
    op_memory m = {.backend = f->cuda};
    qs_packed packed;
    float *x = drawn_on_device(&m, 60, N * N_IN, 1.0), *y = floats_on_device(&m, NULL, N * N_OUT);
    for (int k = 0; k < 2; k++) {
        qs_matrix *matrix;
        fill_packed(&packed, 4, N_OUT, N_IN, 64, 0);
        if (k == 0) packed.scales[3] = qs_f16_from_f32(5000.0f);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_create(&matrix, f->cuda, &desc, QS_USE_GEMV, k == 0 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32));
        assert_string_equal(qs_matrix_kernel(matrix), "linear_int4_mma");
        OK(qs_op_linear(f->cuda, matrix, x, N, NULL, y));
        const float *got = to_host(&m, y, N * N_OUT);
        for (int i = 0; i < N * N_OUT; i++) assert_true(isfinite(got[i]));
        qs_matrix_destroy(matrix);
        qs_packed_free(&packed);
    }
    free_all(&m);
}

/* An input that is normalised and rounded in one launch is that of two. */
static void test_one_launch_is_two(void **state)
{
    fixture *f = take(state);
    enum { N = 3 };
    static const int64_t widths[] = {20, 128, 4100, QS_CU_NORMED_MAX};
    void *stream;
    assert_int_equal(qs_rt_stream_create(&stream), 0);
    for (size_t k = 0; k < 2 * sizeof widths / sizeof *widths; k++) {
        op_memory m = {.backend = f->cuda};
        bool is_coded = k % 2 != 0, bf16 = !is_coded && k % 4 == 0;
        int64_t d = widths[k / 2], n_x = qs_cu_many_rows(N) * qs_cu_n_chunks(d) * QS_CU_CHUNK;
        float *x = drawn_on_device(&m, 81, N * d, 3.0), *norm = drawn_on_device(&m, 82, d, 1.0);
        float *normed = floats_on_device(&m, NULL, N * d);
        uint16_t *zeros = on_host(&m, n_x, sizeof *zeros), *got[2];
        float scale[2][N];
        memset(zeros, 0, (size_t)n_x * sizeof *zeros);
        for (int i = 0; i < 2; i++) {
            const qs_cu_many_x out = {.x = on_device(&m, zeros, (size_t)n_x * sizeof *zeros),
                                      .scale = floats_on_device(&m, NULL, N), .is_coded = is_coded, .threshold = 2.5f};
            OK(qs_backend_sync(f->cuda));
            if (i == 0) assert_int_equal(qs_cu_rmsnorm(stream, x, norm, N, d, 1e-5f, normed), 0);
            assert_int_equal(i == 0 ? qs_cu_prepare_many(stream, normed, N, d, NULL, bf16, &out)
                                    : qs_cu_prepare_normed(stream, x, norm, 1e-5f, N, d, bf16, &out), 0);
            got[i] = on_host(&m, n_x, sizeof *got[i]);
            assert_int_equal(qs_rt_copy(got[i], out.x, (size_t)n_x * sizeof *got[i], QS_RT_TO_HOST, stream), 0);
            assert_int_equal(qs_rt_copy(scale[i], out.scale, sizeof scale[i], QS_RT_TO_HOST, stream), 0);
            assert_int_equal(qs_rt_stream_sync(stream), 0);
        }
        assert_memory_equal(got[1], got[0], (size_t)n_x * sizeof *zeros);
        assert_memory_equal(scale[1], scale[0], sizeof scale[0]);
        assert_memory_not_equal(got[0], zeros, (size_t)n_x * sizeof *zeros);
        free_all(&m);
    }
    assert_int_equal(qs_rt_stream_destroy(stream), 0);
}

/* A norm that writes inputs as the products want them: the bits of the ops one by one. And a gate in the launch that
 * multiplies, whose blocks share tiles in another way, so that sums of parts may differ in their last bits. The shapes
 * end within a block of 64 rows, within a tile and at the end of both. */
static void test_norms_and_gates(void **state)
{
    fixture *f = take(state);
    static const row shapes[] = {
        {QS_MATRIX_BF16, 16, 33, 96, 40, 0, 0}, {QS_MATRIX_INT, 4, 17, 132, 33, 64, 0},
        {QS_MATRIX_F16, 16, 5, 333, 33, 0, 0},   {QS_MATRIX_INT, 4, 9, 128, 34, 64, WITH_PERM},
        {QS_MATRIX_F16, 16, 300, 64, 260, 0, 0}, {QS_MATRIX_INT, 4, 257, 320, 130, 128, WITH_ZEROS},
        {QS_MATRIX_INT, 4, 128, 64, 33, 16, 0},  {QS_MATRIX_INT, 8, 190, 700, 65, -1, 0},
        {QS_MATRIX_INT, 3, 80, 640, 129, 64, WITH_PERM},
    };
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        problem p[2];
        for (int i = 0; i < 2; i++) create_turned(&p[i], f->cuda, &shapes[k], i == 1);
        const with_case c = {.backend = f->cuda, .first = p[0].matrix, .second = p[1].matrix, .n_out = shapes[k].n_out,
                             .n_in = shapes[k].n_in, .n = shapes[k].n, .tolerance = 0.0};
        check_with_gate(&c, 2e-6);
        for (int i = 0; i < 2; i++) destroy(&p[i]);
    }
}

/* So many rows that a dense copy is worth its while have the bits of a matrix that is told to be made dense; those of
 * one row less have not. */
static void test_more_rows_go_the_other_way(void **state)
{
    fixture *f = take(state);
    static const row most[] = {{QS_MATRIX_INT, 4, 20, 64, 512, 64, 0}, {QS_MATRIX_F16, 16, 20, 64, 512, 0, 0}};
    for (int k = 0; k < 4; k++) {
        row r = most[k / 2];
        problem stored, dense;
        r.n += k % 2;
        create(&stored, f->cuda, &r);
        (void)setenv("QS_MANY_ROWS", "0", 1);
        create(&dense, f->cuda, &r);
        (void)unsetenv("QS_MANY_ROWS");
        assert_null(strstr(qs_matrix_kernel(dense.matrix), "wgmma"));
        OK(qs_op_linear(f->cuda, stored.matrix, stored.x_device, r.n, NULL, stored.y));
        OK(qs_op_linear(f->cuda, dense.matrix, dense.x_device, r.n, NULL, dense.y));
        const float *got = to_host(&stored.m, stored.y, r.n * r.n_out),
                    *other = to_host(&dense.m, dense.y, r.n * r.n_out);
        bool is_same = memcmp(got, other, (size_t)(r.n * r.n_out) * sizeof *got) == 0;
        assert_int_equal(is_same, k % 2 == 1 || strstr(qs_matrix_kernel(stored.matrix), "wgmma") == NULL);
        destroy(&stored);
        destroy(&dense);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_broken_numbers_show),
        cmocka_unit_test(test_the_other_way),
        cmocka_unit_test(test_one_launch_is_two),
        cmocka_unit_test(test_norms_and_gates),
        cmocka_unit_test(test_more_rows_go_the_other_way),
    };
    return cmocka_run_group_tests_name("cuda many", tests, create_backends, destroy_backends);
}
