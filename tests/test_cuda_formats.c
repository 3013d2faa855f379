/* NF4, FP4 and int8 on the CUDA backend against the plain-C reference: few rows and many, every rounding, single and
 * double quantisation, outliers; a row's result whatever shares its batch; the same bits in the reverse order of
 * threads; several matrices at once, added, updated and recorded; NaN that shows.
 * Proves: products of these formats on a GPU are what packed.h says (checklist A22). */
#include "cuda_backends.h"
#include "op_tables.h"
#include "with_cases.h"

/* ---- parity ---- */

#define KIND(format, rounding) (QS_PACKED_##format + CASE_ROUND * QS_ROUND_##rounding)

static const int64_t kinds[] = {
    KIND(NF4, BF16), KIND(NF4, F32) + CASE_NESTED, KIND(FP4, BF16) + CASE_NESTED, KIND(NF4, F16), KIND(FP4, F32),
    KIND(FP4, F16) + CASE_NESTED,
};

static const int64_t shapes[][4] = {
    /* n_out, n_in, rows, block: groups of a row are 32, 64 or more columns, or all of it; blocks end within rows */
    {17, 96, 1, 32},    {33, 64, 8, 64},   {40, 576, 1, 64},    {19, 192, 3, 128}, {16, 160, 5, 64},
    {7, 224, 6, 4096},  {21, 128, 12, 256}, {3, 32, 4, 1024},   {40, 1088, 32, 64}, {70, 2304, 2, 64},
    {50, 256, 40, 4096}, {35, 448, 20, 128}, {20, 2048, 1, 512}, {1, 32, 1, 32},
};

/* int8 takes any width. */
static const int64_t shapes8[][4] = {{1, 1, 1, 1},    {17, 96, 1, 1},   {33, 577, 8, 1},
                                     {40, 576, 1, 0}, {19, 31, 3, 1},   {40, 2304, 2, 1},
                                     {21, 128, 32, 1}, {50, 260, 40, 1}, {1100, 70, 3, 1}};

typedef struct tally {
    const fixture *f;
    int64_t turn, n_cases, n_values, n_apart;
    double worst; /* over what is allowed */
} tally;

/* Outliers of int8 are rounded to f16 and their weights are not, where the reference rounds weights (cuda/coding.h). */
static bool has_outliers(const op_case *row) { return (row->shape[3] & 15) == QS_PACKED_INT8 && row->shape[4] > 0; }

/* A difference may be one place of the results' format where sums differ in their last bits; that is rare. */
static void compare_rounded(tally *t, const op_case *row)
{
    output got = {0}, expected = {0};
    double spacing = format_spacing((qs_rounding)(row->shape[3] / CASE_ROUND & 3));
    int64_t n_apart = 0;
    row->run(t->f->cuda, row->shape, &got);
    row->run(t->f->reference, row->shape, &expected);
    assert_int_equal(got.n, expected.n);
    for (int64_t i = 0; i < got.n; i++) {
        double difference = fabs(got.values[i] - expected.values[i]),
               sum = (has_outliers(row) ? 0x1p-11 : LINEAR) * expected.sizes[i];
        double share = difference / (sum + 1.01 * spacing * fabs(expected.values[i]));
        if (!(share <= 1.0))
            fail_msg("%s %lld x %lld, %lld rows, kind %lld: element %lld is %.9g, not %.9g", row->op,
                     (long long)row->shape[0], (long long)row->shape[1], (long long)row->shape[2],
                     (long long)row->shape[3], (long long)i, got.values[i], expected.values[i]);
        t->worst = fmax(t->worst, share);
        n_apart += difference > sum;
    }
    t->n_cases++;
    if (has_outliers(row)) {
        assert_true(n_apart * 8 <= got.n);
    } else {
        t->n_values += got.n;
        t->n_apart += n_apart;
    }
    output_free(&got);
    output_free(&expected);
}

/* Few rows; and many, in bf16 where weights and inputs are rounded to it or are whole numbers, since that is exact. */
static void visit_shape(void (*visit)(void *context, const op_case *row), void *context, const int64_t *s, int64_t kind,
                        bool dense)
{
    bool fits_bf16 = (kind & 15) == QS_PACKED_INT8 || (kind / CASE_ROUND & 3) == QS_ROUND_BF16;
    unsigned few = s[2] <= QS_GEMV_MAX_ROWS ? QS_USE_GEMV : QS_USE_GEMV | QS_USE_GEMM; /* the reference takes no more */
    op_case row = {"linear format", LINEAR, run_linear_format, {s[0], s[1], s[2], kind, s[3], few}};
    visit(context, &row);
    row.shape[5] = QS_USE_GEMM;
    if (fits_bf16) row.shape[3] |= CASE_BF16;
    if (dense) visit(context, &row);
}

/* Every shape in bf16 and in another kind. */
static void for_each_format(void (*visit)(void *context, const op_case *row), void *context)
{
    int64_t n_others = sizeof kinds / sizeof *kinds - 1, n8 = sizeof shapes8 / sizeof *shapes8;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        visit_shape(visit, context, shapes[i], kinds[0], i % 2 == 0);
        visit_shape(visit, context, shapes[i], kinds[1 + (int64_t)i % n_others], i % 2 == 1);
    }
    for (int64_t i = 0; i < n8; i++) visit_shape(visit, context, shapes8[i], KIND(INT8, F16), true);
}

static void visit_parity(void *context, const op_case *row) { compare_rounded(context, row); }

static void test_parity(void **state)
{
    tally t = {.f = take(state)};
    for_each_format(visit_parity, &t);
    printf("cuda       %lld products of formats, worst %.2f of what is allowed; %lld of %lld results lie one place "
           "apart\n",
           (long long)t.n_cases, t.worst, (long long)t.n_apart, (long long)t.n_values);
    assert_true(t.n_apart * 200 <= t.n_values);
}

static void visit_again(void *context, const op_case *row)
{
    tally *t = context;
    output first = {0}, again = {0};
    if (t->turn++ % 4 != 0) return;
    row->run(t->f->cuda, row->shape, &first);
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(true);
    row->run(t->f->cuda, row->shape, &again);
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(false);
    assert_memory_equal(again.values, first.values, (size_t)first.n * sizeof *first.values);
    output_free(&first);
    output_free(&again);
}

static void test_runs_are_alike(void **state)
{
    tally t = {.f = take(state)};
    for_each_format(visit_again, &t);
}

/* ---- one matrix of each kind ---- */

enum { N_OUT = 50, N_IN = 192, BLOCK = 64, N_ROWS = 40, N_FEW = 32 };

static const int64_t all_kinds[] = {KIND(NF4, BF16), KIND(FP4, F32), KIND(NF4, F16) + CASE_NESTED, KIND(INT8, F16)};
enum { N_KINDS = sizeof all_kinds / sizeof *all_kinds };

static void draw_kind(qs_packed *packed, int64_t kind, int64_t n_out)
{
    draw_packed(packed, (qs_packed_format)(kind & 15), n_out, N_IN, BLOCK, kind & CASE_NESTED,
                (qs_rounding)(kind / CASE_ROUND & 3));
}

static qs_matrix *create_kind_for(qs_backend *backend, int64_t kind, int64_t n_out, qs_compute compute)
{
    qs_packed packed;
    qs_matrix *matrix;
    draw_kind(&packed, kind, n_out);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = n_out, .n_in = N_IN, .packed = &packed};
    OK(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, compute));
    qs_packed_free(&packed);
    return matrix;
}
static qs_matrix *create_kind(qs_backend *backend, int64_t kind, int64_t n_out)
{
    return create_kind_for(backend, kind, n_out, QS_COMPUTE_BF16);
}

/* A row is the same alone, in a launch that is full, and where it begins. (Under QS_COMPUTE_BF16 one row of NF4 has
 * bitsandbytes' arithmetic for it: test_cuda_row.c.) */
static void test_rows_of_a_product(void **state)
{
    fixture *f = take(state);
    for (int k = 0; k < N_KINDS; k++) {
        op_memory m = {.backend = f->cuda};
        qs_matrix *matrix = create_kind_for(f->cuda, all_kinds[k], N_OUT, QS_COMPUTE_F32);
        float *x = drawn_on_device(&m, 70, N_FEW * N_IN, 1.0), *y = floats_on_device(&m, NULL, N_FEW * N_OUT);
        float alone[9 * N_OUT];
        OK(qs_op_linear(f->cuda, matrix, x, N_FEW, NULL, y));
        const float *together = to_host(&m, y, N_FEW * N_OUT);
        for (int64_t n = 1; n <= 9; n += 8) /* as many columns at once: 8, 16 and 32 */
            for (int64_t r = 0; r + n <= N_FEW; r += 11) {
                OK(qs_op_linear(f->cuda, matrix, x + r * N_IN, n, NULL, y));
                OK(qs_backend_download(f->cuda, alone, y, (size_t)(n * N_OUT) * sizeof *alone));
                assert_memory_equal(alone, together + r * N_OUT, (size_t)(n * N_OUT) * sizeof *alone);
            }
        qs_matrix_destroy(matrix);
        free_all(&m);
    }
}

/* Several matrices of one input, of one kind and of several: each as it is alone, or added to what is there. */
static void check_together(fixture *f, const int64_t picked[4], int64_t n)
{
    static const int64_t n_outs[4] = {48, 17, 33, 50};
    op_memory m = {.backend = f->cuda};
    qs_matrix *matrices[4];
    qs_linear_job jobs[4];
    float *x = drawn_on_device(&m, 71, n * N_IN, 1.0), *alone[4], *bias = drawn_on_device(&m, 72, N_OUT, 1.0);
    float *got = on_host(&m, n * N_OUT, sizeof *got);
    for (int i = 0; i < 4; i++) {
        matrices[i] = create_kind(f->cuda, picked[i], n_outs[i]);
        jobs[i] = (qs_linear_job){.matrix = matrices[i], .y = floats_on_device(&m, NULL, n * n_outs[i])};
        if (i % 2 == 0) jobs[i].bias = bias;
        OK(qs_op_linear(f->cuda, matrices[i], x, n, jobs[i].bias, jobs[i].y));
        alone[i] = to_host(&m, jobs[i].y, n * n_outs[i]);
        jobs[i].add = i > 1;
    }
    OK(qs_op_linears(f->cuda, jobs, 4, x, n));
    for (int i = 0; i < 4; i++) {
        OK(qs_backend_download(f->cuda, got, jobs[i].y, (size_t)(n * n_outs[i]) * sizeof *got));
        for (int64_t j = 0; j < n * n_outs[i]; j++) {
            double expected = (double)alone[i][j] * (jobs[i].add ? 2 : 1), slack = jobs[i].add ? 3e-6 : 0.0;
            assert_true(fabs((double)got[j] - expected) <= slack * (fabs(expected) + 1.0));
        }
        qs_matrix_destroy(matrices[i]);
    }
    free_all(&m);
}

static void test_linears_are_linears(void **state)
{
    fixture *f = take(state);
    for (int k = 0; k < N_KINDS; k++) {
        const int64_t same[4] = {all_kinds[k], all_kinds[k], all_kinds[k], all_kinds[k]};
        check_together(f, same, 3);
        check_together(f, same, N_ROWS);
    }
    const int64_t mixed[4] = {all_kinds[0], all_kinds[3], all_kinds[3], all_kinds[1]};
    check_together(f, mixed, 3);
}

/* Played with other inputs, a recording does what the ops do: its scratch was there before. */
static void test_recordings(void **state)
{
    fixture *f = take(state);
    enum { N = 3 };
    for (int k = 0; k < N_KINDS; k++) {
        op_memory m = {.backend = f->cuda};
        qs_matrix *matrix = create_kind(f->cuda, all_kinds[k], N_OUT);
        float *x = drawn_on_device(&m, 73, N * N_IN, 1.0), *y = floats_on_device(&m, NULL, N * N_OUT);
        float *other = draw(&m, 74, N * N_IN, 1.0);
        qs_recording *recording;
        OK(qs_backend_record_start(f->cuda));
        OK(qs_op_linear(f->cuda, matrix, x, N, NULL, y));
        OK(qs_backend_record_stop(f->cuda, &recording));
        OK(qs_backend_upload(f->cuda, x, other, N * N_IN * sizeof *other));
        OK(qs_recording_play(recording));
        const float *played = to_host(&m, y, N * N_OUT);
        OK(qs_op_linear(f->cuda, matrix, x, N, NULL, y));
        assert_memory_equal(to_host(&m, y, N * N_OUT), played, N * N_OUT * sizeof *played);
        qs_recording_destroy(recording);
        qs_matrix_destroy(matrix);
        free_all(&m);
    }
}

/* Memory is used again, and products follow the contents, from each kind to each. */
static void test_updates(void **state)
{
    fixture *f = take(state);
    enum { N = 2 };
    op_memory m = {.backend = f->cuda};
    float *x = drawn_on_device(&m, 75, N * N_IN, 1.0), *y = floats_on_device(&m, NULL, N * N_OUT), *fresh[N_KINDS];
    for (int k = 0; k < N_KINDS; k++) {
        qs_matrix *matrix = create_kind(f->cuda, all_kinds[k], N_OUT);
        OK(qs_op_linear(f->cuda, matrix, x, N, NULL, y));
        fresh[k] = to_host(&m, y, N * N_OUT);
        qs_matrix_destroy(matrix);
    }
    qs_matrix *matrix = create_kind(f->cuda, all_kinds[0], N_OUT);
    qs_backend_memory memory[2];
    for (int turn = 0; turn < 2 * N_KINDS + 1; turn++) {
        int k = turn * 3 % N_KINDS;
        qs_packed packed;
        float got[N * N_OUT];
        draw_kind(&packed, all_kinds[k], N_OUT);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_update(matrix, &desc));
        qs_packed_free(&packed);
        OK(qs_op_linear(f->cuda, matrix, x, N, NULL, y));
        OK(qs_backend_download(f->cuda, got, y, sizeof got));
        assert_memory_equal(got, fresh[k], sizeof got);
        qs_backend_get_memory(f->cuda, &memory[turn > N_KINDS]);
    }
    assert_int_equal(memory[0].used_bytes, memory[1].used_bytes);
    qs_matrix_destroy(matrix);
    free_all(&m);
}

/* A NaN or an infinity in a row of x spoils that row and no other. Rounding to f16 saturates, so there an infinity is a
 * large number. */
static void test_broken_numbers_show(void **state)
{
    fixture *f = take(state);
    static const float broken[] = {NAN, INFINITY};
    for (int k = 0; k < N_KINDS; k++)
        for (int b = 0; b < 2; b++)
            for (int64_t n = 3; n <= N_ROWS; n += N_ROWS - 3) { /* few, and many */
                bool saturates = b == 1 && (all_kinds[k] & 15) != QS_PACKED_INT8 &&
                                 (all_kinds[k] / CASE_ROUND & 3) == QS_ROUND_F16;
                op_memory m = {.backend = f->cuda};
                qs_matrix *matrix = create_kind(f->cuda, all_kinds[k], N_OUT);
                float *x = draw(&m, 76, n * N_IN, 1.0), *y = floats_on_device(&m, NULL, n * N_OUT);
                int64_t n_finite = 0;
                x[N_IN + 70] = broken[b];
                OK(qs_op_linear(f->cuda, matrix, floats_on_device(&m, x, n * N_IN), n, NULL, y));
                const float *got = to_host(&m, y, n * N_OUT);
                for (int64_t i = 0; i < n * N_OUT; i++) {
                    if (i / N_OUT != 1) assert_true(isfinite(got[i]));
                    else n_finite += isfinite(got[i]);
                }
                /* An infinity may meet a weight of 0, or another sign's. */
                if (saturates) assert_int_equal(n_finite, N_OUT);
                else assert_true(b == 0 ? n_finite == 0 : n_finite < N_OUT / 4);
                qs_matrix_destroy(matrix);
                free_all(&m);
            }
}

/* Rows of int8 that are nothing but outliers, or but for one next to nothing, or nothing at all. */
static void draw_extremes(float *x, int64_t n)
{
    for (int64_t i = 0; i < n * N_IN; i++) {
        int64_t row = i / N_IN % 5, column = i % N_IN;
        float drawn = (float)qs_rng_normal(77, (uint64_t)i);
        x[i] = row == 0   ? drawn + (drawn < 0.0f ? -7.0f : 7.0f)
               : row == 1 ? column == 70 ? 6e4f : 1e-4f * drawn
               : row == 2 ? 0.0f
               : row == 3 ? column % 64 == 5 ? -3e3f : 0.0f
                          : drawn;
    }
}

static void test_outliers_of_all_sizes(void **state)
{
    fixture *f = take(state);
    static const struct {
        int64_t n;
        unsigned uses;
        qs_compute compute;
    } ways[] = {{1, QS_USE_GEMV, QS_COMPUTE_BF16},
                {5, QS_USE_GEMV, QS_COMPUTE_BF16},
                {N_ROWS, QS_USE_GEMV, QS_COMPUTE_BF16},
                {N_ROWS, QS_USE_GEMM, QS_COMPUTE_BF16},
                {N_ROWS, QS_USE_GEMM, QS_COMPUTE_F32}};
    qs_packed packed;
    OK(qs_packed_shape_int8(&packed, N_OUT, N_IN, 6.0f));
    OK(qs_packed_alloc_absmax(&packed, false));
    for (int64_t i = 0; i < N_OUT * N_IN; i++) packed.codes[i] = (uint8_t)(1 + qs_rng_below(78, (uint64_t)i, 255));
    for (int64_t i = 0; i < N_OUT; i++) packed.absmax[i] = 0.05f;
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int64_t n = ways[i].n;
        float *y[2];
        op_memory memories[2] = {{.backend = f->reference}, {.backend = f->cuda}};
        for (int b = 0; b < 2; b++) {
            op_memory *m = &memories[b];
            unsigned uses = b == 0 ? QS_USE_GEMM : ways[i].uses;
            qs_matrix *matrix;
            float *x = on_host(m, n * N_IN, sizeof *x);
            draw_extremes(x, n);
            OK(qs_matrix_create(&matrix, m->backend, &desc, uses, b == 0 ? QS_COMPUTE_F32 : ways[i].compute));
            float *on_device = floats_on_device(m, NULL, n * N_OUT);
            OK(qs_op_linear(m->backend, matrix, floats_on_device(m, x, n * N_IN), n, NULL, on_device));
            y[b] = to_host(m, on_device, n * N_OUT);
            qs_matrix_destroy(matrix);
        }
        for (int64_t row = 0; row < n; row++) {
            double largest = 0.0;
            for (int64_t o = 0; o < N_OUT; o++) largest = fmax(largest, fabs((double)y[0][row * N_OUT + o]));
            assert_true(row % 5 == 2 ? largest == 0.0 : largest > 0.01);
            for (int64_t o = 0; o < N_OUT; o++)
                if (!(fabs((double)y[1][row * N_OUT + o] - (double)y[0][row * N_OUT + o]) <= 0x1p-10 * largest))
                    fail_msg("way %d, row %lld: result %lld is %g, not %g; the largest is %g", (int)i, (long long)row,
                             (long long)o, (double)y[1][row * N_OUT + o], (double)y[0][row * N_OUT + o], largest);
        }
        for (int b = 0; b < 2; b++) free_all(&memories[b]);
    }
    qs_packed_free(&packed);
}

/* Rows that the tensor cores' groups do not fit are refused by name. */
static void test_odd_rows_refused(void **state)
{
    fixture *f = take(state);
    qs_packed packed;
    qs_matrix *matrix;
    draw_packed(&packed, QS_PACKED_NF4, 32, 100, 64, false, QS_ROUND_BF16);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = 32, .n_in = 100, .packed = &packed};
    FAILS(QS_E_UNSUPPORTED, qs_matrix_create(&matrix, f->cuda, &desc, QS_USE_GEMV, QS_COMPUTE_F32));
    TEXT_HOLDS("nf4", "100 columns", "--backend cpu");
    qs_packed_free(&packed);
}

/* A gate sees results that have been rounded; of f16 inputs the ops stay apart. */
static void test_norm_and_gate(void **state)
{
    fixture *f = take(state);
    enum { OUT = 70, IN = 128 };
    static const struct {
        qs_packed_format format;
        qs_rounding compute;
        int64_t n;
    } rows[] = {{QS_PACKED_NF4, QS_ROUND_BF16, 1}, {QS_PACKED_FP4, QS_ROUND_F32, 3}, {QS_PACKED_NF4, QS_ROUND_F16, 2},
                {QS_PACKED_INT8, QS_ROUND_F16, 1}, {QS_PACKED_INT8, QS_ROUND_F16, 2},
                {QS_PACKED_NF4, QS_ROUND_BF16, 40}, {QS_PACKED_INT8, QS_ROUND_F16, 40}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        qs_packed packed;
        qs_matrix *matrices[2];
        for (int k = 0; k < 2; k++) {
            draw_packed(&packed, rows[i].format, OUT, IN, 64, false, rows[i].compute);
            if (k == 1) packed.codes[3 * packed.row_bytes] ^= 0x55; /* others than the gate's */
            for (int64_t b = 0; k == 1 && b < packed.n_absmax; b++) packed.absmax[b] *= 1.0f + (float)(b % 7) / 8.0f;
            qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = OUT, .n_in = IN, .packed = &packed};
            OK(qs_matrix_create(&matrices[k], f->cuda, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
            qs_packed_free(&packed);
        }
        check_with(&(with_case){f->cuda, matrices[0], matrices[1], OUT, IN, rows[i].n, 1e-2, rows[i].n <= N_FEW});
        for (int k = 0; k < 2; k++) qs_matrix_destroy(matrices[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_runs_are_alike),
        cmocka_unit_test(test_rows_of_a_product),
        cmocka_unit_test(test_linears_are_linears),
        cmocka_unit_test(test_recordings),
        cmocka_unit_test(test_updates),
        cmocka_unit_test(test_broken_numbers_show),
        cmocka_unit_test(test_outliers_of_all_sizes),
        cmocka_unit_test(test_odd_rows_refused),
        cmocka_unit_test(test_norm_and_gate),
    };
    return cmocka_run_group_tests_name("cuda formats", tests, create_backends, destroy_backends);
}
