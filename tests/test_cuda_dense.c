/* Many rows by stored weights that are made dense a piece at a time (gpu_dense.c), against the same weights that are kept
 * dense as a whole: pieces of rows give the same bits, pieces of columns the same sums in another order. In both orders of
 * threads. Where kernels run on a GPU its L2 cache is larger than these matrices, and the two are one.
 * Proves: what of a matrix is dense at a time does not matter, nor whether the norm before it rounds. */
#include "backend/cuda/runtime.h"
#include "cuda_backends.h"
#include "format_data.h"
#include "with_cases.h"

typedef struct piece_case {
    void (*run)(qs_backend *backend, const int64_t s[N_SHAPE], output *out);
    int64_t shape[N_SHAPE];
    int uses_at; /* of the shape */
    bool by_columns;
} piece_case;

#define DENSE(format, compute) QS_MATRIX_##format, QS_USE_GEMV, QS_COMPUTE_##compute
#define FLAGS(flags) (CASE_FLAGS * (flags) + CASE_BF16)

/* Matrices of 46 to 370 KB; 40 rows leave a multiprocessor without a tile, 140 do not. */
static const piece_case cases[] = {
    {run_linear_dense, {150, 320, 140, DENSE(F16, BF16)}, 4, false},
    {run_linear_dense, {150, 320, 40, DENSE(F16, BF16)}, 4, true},
    {run_linear_dense, {101, 333, 140, DENSE(BF16, BF16)}, 4, false}, /* rows that no 16 bytes begin with */
    {run_linear_dense, {101, 333, 40, DENSE(BF16, BF16)}, 4, true},
    {run_linear_dense, {130, 180, 40, DENSE(F16, F32)}, 4, true},
    {run_linear_dense, {200, 120, 33, DENSE(F16, F32)}, 4, false}, /* wider than x */
    {run_linear_dense, {150, 320, 40, DENSE(F32, BF16)}, 4, false},
    {run_linear_int, {150, 320, 140, 4 + FLAGS(0), 128, QS_USE_GEMV}, 5, false},
    {run_linear_int, {150, 328, 40, 4 + FLAGS(WITH_ZEROS), 48, QS_USE_GEMV}, 5, true},
    {run_linear_int, {75, 600, 40, 4 + FLAGS(WITH_PERM | WITH_ZEROS), 64, QS_USE_GEMV}, 5, false},
    {run_linear_int, {90, 520, 40, 8 + FLAGS(WITH_ZEROS), 64, QS_USE_GEMV}, 5, true},
    {run_linear_int, {150, 264, 140, 3 + FLAGS(0), 16, QS_USE_GEMV}, 5, false},
    {run_linear_int, {150, 1096, 36, 2 + FLAGS(WITH_ZEROS), -1, QS_USE_GEMV}, 5, true},
    {run_linear_format, {150, 320, 140, QS_PACKED_NF4 + CASE_ROUND * QS_ROUND_BF16 + CASE_BF16, 64, QS_USE_GEMV}, 5, false},
    {run_linear_format, {150, 320, 40, QS_PACKED_FP4 + CASE_ROUND * QS_ROUND_F32, 4096, QS_USE_GEMV}, 5, true},
    {run_linear_format, {90, 520, 140, QS_PACKED_INT8 + CASE_BF16, 1, QS_USE_GEMV}, 5, false},
};

static void set_reverse(bool reverse)
{
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(reverse);
}

static void test_pieces_are_the_whole(void **state)
{
    fixture *f = take(state);
    bool emulated = strstr(qs_backend_device(f->cuda), "on the CPU") != NULL;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const piece_case *c = &cases[k];
        int64_t shape[N_SHAPE], n_apart = 0;
        output pieces = {0}, whole = {0};
        memcpy(shape, c->shape, sizeof shape);
        set_reverse(k % 2 != 0);
        c->run(f->cuda, shape, &pieces);
        shape[c->uses_at] |= QS_USE_GEMM;
        c->run(f->cuda, shape, &whole);
        set_reverse(false);
        assert_int_equal(pieces.n, whole.n);
        for (int64_t i = 0; i < whole.n; i++) {
            double difference = fabs(pieces.values[i] - whole.values[i]);
            if (!(difference <= 1e-5 * whole.sizes[i]))
                fail_msg("case %zu: element %lld is %.9g in pieces, not %.9g", k, (long long)i, pieces.values[i],
                         whole.values[i]);
            n_apart += difference > 0.0;
        }
        printf("cuda       %3lld x %4lld, %3lld rows: %lld of %lld apart\n", (long long)shape[0], (long long)shape[1],
               (long long)shape[2], (long long)n_apart, (long long)whole.n);
        if (emulated) assert_int_equal(n_apart > 0, c->by_columns);
        output_free(&pieces);
        output_free(&whole);
    }
}

/* What is added to is added to once, whatever the pieces. */
static void test_pieces_are_added(void **state)
{
    enum { N_OUT = 150, N_IN = 320 };
    static const int64_t rows[] = {40, 140};
    fixture *f = take(state);
    for (size_t k = 0; k < 2; k++) {
        op_memory m = {.backend = f->cuda};
        int64_t n = rows[k], n_y = n * N_OUT;
        qs_packed packed;
        qs_matrix *matrix;
        fill_packed(&packed, 4, N_OUT, N_IN, 64, WITH_ZEROS);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_create(&matrix, f->cuda, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
        float *before = draw(&m, 60, n_y, 100.0), *x = floats_on_device(&m, draw(&m, 61, n * N_IN, 1.0), n * N_IN);
        float *added = floats_on_device(&m, before, n_y), *y = floats_on_device(&m, NULL, n_y);
        qs_linear_job job = {.matrix = matrix, .y = added, .add = true};
        OK(qs_op_linears(f->cuda, &job, 1, x, n));
        OK(qs_op_linear(f->cuda, matrix, x, n, NULL, y));
        const float *got = to_host(&m, added, n_y), *alone = to_host(&m, y, n_y);
        for (int64_t i = 0; i < n_y; i++) {
            double expected = (double)before[i] + (double)alone[i];
            assert_true(fabs((double)got[i] - expected) <= 1e-6 * (fabs((double)before[i]) + fabs((double)alone[i])));
        }
        qs_matrix_destroy(matrix);
        qs_packed_free(&packed);
        free_all(&m);
    }
}

/* A norm whose results are rounded at once: the bits of the ops one by one. */
static void test_norms_are_rounded(void **state)
{
    static const int64_t shapes[][3] = {{40, 96, 33}, {17, 333, 40}, {33, 2176, 37}, {20, 4100, 34}}; /* n_out, n_in, n */
    fixture *f = take(state);
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const int64_t *s = shapes[k];
        op_memory m = {.backend = f->cuda};
        qs_matrix *matrices[2];
        uint16_t *half = on_host(&m, s[0] * s[1], sizeof *half);
        qs_matrix_desc desc = {.format = QS_MATRIX_F16, .n_out = s[0], .n_in = s[1], .dense = half};
        for (uint64_t i = 0; i < 2; i++) {
            qs_f16_from_f32_array(half, draw(&m, 63 + i, s[0] * s[1], 0.1), s[0] * s[1]);
            OK(qs_matrix_create(&matrices[i], f->cuda, &desc, i == 0 ? QS_USE_GEMV : QS_USE_GEMM, QS_COMPUTE_BF16));
        }
        check_with(&(with_case){.backend = f->cuda, .first = matrices[0], .second = matrices[1], .n_out = s[0],
                                .n_in = s[1], .n = s[2], .tolerance = 0.0});
        for (int i = 0; i < 2; i++) qs_matrix_destroy(matrices[i]);
        free_all(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces_are_the_whole),
        cmocka_unit_test(test_pieces_are_added),
        cmocka_unit_test(test_norms_are_rounded),
    };
    return cmocka_run_group_tests_name("cuda dense", tests, create_backends, destroy_backends);
}
