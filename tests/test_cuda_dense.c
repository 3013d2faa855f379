/* Many rows by stored weights that are made dense in passing (gpu_dense.c), against the same weights that are kept dense:
 * the same bits. In both orders of threads.
 * Proves: when a matrix becomes dense does not matter, nor whether the norm before it rounds. */
#include "backend/cuda/runtime.h"
#include "cuda_backends.h"
#include "format_data.h"
#include "with_cases.h"

typedef struct dense_case {
    void (*run)(qs_backend *backend, const int64_t s[N_SHAPE], output *out);
    int64_t shape[N_SHAPE];
    int uses_at; /* of the shape */
} dense_case;

#define DENSE(format, compute) QS_MATRIX_##format, QS_USE_GEMV, QS_COMPUTE_##compute
#define FLAGS(flags) (CASE_FLAGS * (flags) + CASE_BF16)

static const dense_case cases[] = {
    {run_linear_dense, {150, 320, 40, DENSE(F16, BF16)}, 4},
    {run_linear_dense, {101, 333, 40, DENSE(BF16, BF16)}, 4}, /* rows that no 16 bytes begin with */
    {run_linear_dense, {130, 180, 40, DENSE(F16, F32)}, 4},
    {run_linear_dense, {150, 320, 40, DENSE(F32, BF16)}, 4},
    {run_linear_int, {150, 328, 40, 4 + FLAGS(WITH_ZEROS), 48, QS_USE_GEMV}, 5}, /* groups that end within chunks */
    {run_linear_int, {75, 600, 40, 4 + FLAGS(WITH_PERM | WITH_ZEROS), 64, QS_USE_GEMV}, 5},
    {run_linear_int, {90, 520, 40, 8 + FLAGS(WITH_ZEROS), 64, QS_USE_GEMV}, 5},
    {run_linear_int, {150, 264, 40, 3 + FLAGS(0), 16, QS_USE_GEMV}, 5},
    {run_linear_int, {150, 1096, 36, 2 + FLAGS(WITH_ZEROS), -1, QS_USE_GEMV}, 5},
    {run_linear_format, {150, 320, 40, QS_PACKED_NF4 + CASE_ROUND * QS_ROUND_BF16 + CASE_BF16, 64, QS_USE_GEMV}, 5},
    {run_linear_format, {150, 320, 40, QS_PACKED_FP4 + CASE_ROUND * QS_ROUND_F32, 4096, QS_USE_GEMV}, 5},
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
        for (int64_t i = 0; i < kept.n; i++)
            if (passing.values[i] != kept.values[i])
                fail_msg("case %zu: element %lld is %.9g in passing, %.9g when kept", k, (long long)i, passing.values[i],
                         kept.values[i]);
        output_free(&passing);
        output_free(&kept);
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
        cmocka_unit_test(test_passing_is_kept),
        cmocka_unit_test(test_norms_are_rounded),
    };
    (void)setenv("QS_MANY_ROWS", "0", 1); /* by dense weights whatever the device */
    return cmocka_run_group_tests_name("cuda dense", tests, create_backends, destroy_backends);
}
