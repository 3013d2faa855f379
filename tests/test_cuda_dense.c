/* Many rows by stored weights that are made dense in passing (gpu_dense.c), against the same weights that are kept
 * dense: the same bits, unless columns are stored in another order than x's, which is that of the sums then. In both
 * orders of threads.
 * Proves: when a matrix becomes dense does not matter, nor whether the norm or the gate before it rounds. */
#include "backend/cuda/runtime.h"
#include "cuda_backends.h"
#include "format_data.h"
#include "with_cases.h"

typedef struct dense_case {
    void (*run)(qs_backend *backend, const int64_t s[N_SHAPE], output *out);
    int64_t shape[N_SHAPE];
    int uses_at;      /* of the shape */
    double tolerance; /* relative to the largest result; 0 = the same bits */
} dense_case;

#define DENSE(format, compute) QS_MATRIX_##format, QS_USE_GEMV, QS_COMPUTE_##compute
#define FLAGS(flags) (CASE_FLAGS * (flags) + CASE_BF16)

static const dense_case cases[] = {
    {run_linear_dense, {150, 320, 40, DENSE(F16, BF16)}, 4, 0.0},
    {run_linear_dense, {101, 333, 40, DENSE(BF16, BF16)}, 4, 0.0}, /* rows that no 16 bytes begin with */
    {run_linear_dense, {130, 180, 40, DENSE(F16, F32)}, 4, 0.0},
    {run_linear_dense, {150, 320, 40, DENSE(F32, BF16)}, 4, 0.0},
    /* groups that end within chunks */
    {run_linear_int, {150, 328, 40, 4 + FLAGS(WITH_ZEROS), 48, QS_USE_GEMV}, 5, 0.0},
    {run_linear_int, {75, 600, 40, 4 + FLAGS(WITH_PERM | WITH_ZEROS), 64, QS_USE_GEMV}, 5, 1e-6},
    /* f32: in x's order */
    {run_linear_int, {75, 600, 40, 4 + CASE_FLAGS * (WITH_PERM | WITH_ZEROS), 64, QS_USE_GEMV}, 5, 0.0},
    {run_linear_int, {90, 520, 40, 8 + FLAGS(WITH_ZEROS), 64, QS_USE_GEMV}, 5, 0.0},
    {run_linear_int, {150, 264, 40, 3 + FLAGS(0), 16, QS_USE_GEMV}, 5, 0.0},
    {run_linear_int, {150, 1096, 36, 2 + FLAGS(WITH_ZEROS), -1, QS_USE_GEMV}, 5, 0.0},
    {run_linear_format, {150, 320, 40, QS_PACKED_NF4 + CASE_ROUND * QS_ROUND_BF16 + CASE_BF16, 64, QS_USE_GEMV},
     5, 0.0},
    {run_linear_format, {150, 320, 40, QS_PACKED_FP4 + CASE_ROUND * QS_ROUND_F32, 4096, QS_USE_GEMV}, 5, 0.0},
};

static void set_reverse(bool reverse)
{
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(reverse);
}

static void test_passing_is_kept(void **state)
{
    fixture *f = take(state);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        const dense_case *c = &cases[k];
        int64_t shape[N_SHAPE];
        output passing = {0}, kept = {0};
        memcpy(shape, c->shape, sizeof shape);
        set_reverse(k % 2 != 0);
        c->run(f->cuda, shape, &passing);
        shape[c->uses_at] |= QS_USE_GEMM;
        c->run(f->cuda, shape, &kept);
        set_reverse(false);
        assert_int_equal(passing.n, kept.n);
        double largest = 0.0;
        for (int64_t i = 0; i < kept.n; i++) largest = fmax(largest, fabs(kept.values[i]));
        for (int64_t i = 0; i < kept.n; i++)
            if (!(fabs(passing.values[i] - kept.values[i]) <= c->tolerance * largest))
                fail_msg("case %zu: element %lld is %.9g in passing, %.9g when kept", k, (long long)i,
                         passing.values[i], kept.values[i]);
        output_free(&passing);
        output_free(&kept);
    }
}

/* Matrices that want x in other orders, one behind the other: each as alone, and behind a norm too. */
static void test_orders_of_x(void **state)
{
    enum { N_MATRICES = 5, N_OUT = 20, N_IN = 200, N = 40 };
    static const int orders[N_MATRICES] = {1, 2, 0, 2, 1}; /* none, one, and that with two columns exchanged */
    fixture *f = take(state);
    op_memory m = {.backend = f->cuda};
    qs_matrix *matrices[N_MATRICES];
    qs_linear_job jobs[N_MATRICES];
    const float *x = drawn_on_device(&m, 71, N * N_IN, 1.0), *norm = drawn_on_device(&m, 72, N_IN, 1.0);
    float *alone = floats_on_device(&m, NULL, N * N_OUT), *normed = floats_on_device(&m, NULL, N * N_IN);
    for (int i = 0; i < N_MATRICES; i++) {
        qs_packed packed;
        fill_packed(&packed, 4, N_OUT, N_IN, 64, orders[i] > 0 ? WITH_PERM : 0);
        if (orders[i] == 2) {
            int32_t first = packed.perm[0];
            packed.perm[0] = packed.perm[7];
            packed.perm[7] = first;
        }
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
        OK(qs_matrix_create(&matrices[i], f->cuda, &desc, QS_USE_GEMV, QS_COMPUTE_BF16));
        jobs[i] = (qs_linear_job){.matrix = matrices[i], .y = floats_on_device(&m, NULL, N * N_OUT)};
        qs_packed_free(&packed);
    }
    for (int with_norm = 0; with_norm < 2; with_norm++) {
        const qs_linear_with with = {.norm = norm, .norm_eps = 1e-5, .normed = normed};
        const float *from = x;
        if (with_norm) {
            OK(qs_op_linears_with(f->cuda, &with, jobs, N_MATRICES, x, N));
            OK(qs_op_rmsnorm(f->cuda, x, norm, N, N_IN, 1e-5, normed));
            from = normed;
        } else {
            OK(qs_op_linears(f->cuda, jobs, N_MATRICES, x, N));
        }
        for (int i = 0; i < N_MATRICES; i++) {
            op_memory copies = {.backend = f->cuda};
            OK(qs_op_linear(f->cuda, matrices[i], from, N, NULL, alone));
            const float *y = to_host(&copies, alone, N * N_OUT), *beside = to_host(&copies, jobs[i].y, N * N_OUT);
            if (memcmp(y, beside, sizeof *y * N * N_OUT) != 0)
                fail_msg("matrix %d of order %d, norm %d: not as alone", i, orders[i], with_norm);
            free_all(&copies);
        }
    }
    assert_memory_not_equal(to_host(&m, jobs[0].y, N * N_OUT), to_host(&m, jobs[1].y, N * N_OUT),
                            sizeof(float) * N * N_OUT);
    for (int i = 0; i < N_MATRICES; i++) qs_matrix_destroy(matrices[i]);
    free_all(&m);
}

/* A norm whose results are rounded at once: the bits of the ops one by one. */
static void test_norms_are_rounded(void **state)
{
    static const int64_t shapes[][3] = {/* n_out, n_in, n */
                                        {40, 96, 33}, {17, 333, 40}, {33, 2176, 37}, {20, 4100, 34}};
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

/* Results of a gate that the product behind it rounds as it takes them; of few rows, and in f32, there is nothing to
 * leave. */
static void test_gates_are_rounded(void **state)
{
    static const struct {
        int64_t n_in, n_ff, n;
        unsigned uses;
        qs_compute compute;
        bool is_left;
    } rows[] = {{48, 132, 40, QS_USE_GEMV, QS_COMPUTE_BF16, true}, {37, 75, 35, QS_USE_GEMM, QS_COMPUTE_BF16, true},
                {64, 96, 3, QS_USE_GEMV, QS_COMPUTE_BF16, false},  {64, 96, 33, QS_USE_GEMM, QS_COMPUTE_F32, false}};
    fixture *f = take(state);
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        op_memory m = {.backend = f->cuda};
        qs_matrix *matrices[3];
        int64_t n_weights = rows[k].n_in * rows[k].n_ff;
        uint16_t *half = on_host(&m, n_weights, sizeof *half);
        for (uint64_t i = 0; i < 3; i++) {
            qs_matrix_desc desc = {.format = QS_MATRIX_F16, .n_out = i < 2 ? rows[k].n_ff : rows[k].n_in,
                                   .n_in = i < 2 ? rows[k].n_in : rows[k].n_ff, .dense = half};
            qs_f16_from_f32_array(half, draw(&m, 66 + i, n_weights, 0.1), n_weights);
            OK(qs_matrix_create(&matrices[i], f->cuda, &desc, rows[k].uses, rows[k].compute));
        }
        check_left_gate(f->cuda, matrices, rows[k].n_in, rows[k].n_ff, rows[k].n, rows[k].is_left);
        for (int i = 0; i < 3; i++) qs_matrix_destroy(matrices[i]);
        free_all(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passing_is_kept),
        cmocka_unit_test(test_orders_of_x),
        cmocka_unit_test(test_norms_are_rounded),
        cmocka_unit_test(test_gates_are_rounded),
    };
    (void)setenv("QS_MANY_ROWS", "0", 1); /* by dense weights whatever the device */
    return cmocka_run_group_tests_name("cuda dense", tests, create_backends, destroy_backends);
}
