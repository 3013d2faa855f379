/* What the CPU's backends keep of matrices is what they say before (backend.h, qs_matrix_need): every format, use and
 * precision; and what is no matrix is refused there as at creation. */
#include "tests/need_cases.h"

static void test_cpu(void **state)
{
    static const char *const names[] = {"cpu", "cpu-avx2", "reference"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        need_check check = {.n_rows = 40};
        if (qs_backend_create(&check.backend, names[i], 0, 2) != QS_OK) {
            print_message("skipped: %s\n", qs_error_text());
            continue;
        }
        for_each_need(check_need, &check);
        print_message("%-10s %lld plans\n", names[i], (long long)check.n_cases);
        assert_int_equal(qs_need_scratch(&check.scratch), 0);
        qs_backend_destroy(check.backend);
    }
}

static void test_refused(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_need need;
    qs_packed packed;
    OK(qs_backend_create(&backend, "cpu", 0, 1));
    qs_matrix_desc desc = {.format = QS_MATRIX_F16, .n_out = 0, .n_in = 4};
    FAILS(QS_E_INPUT, qs_matrix_need(&need, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32, 1));
    desc.n_out = 4;
    FAILS(QS_E_USAGE, qs_matrix_need(&need, backend, &desc, 0, QS_COMPUTE_F32, 1));
    OK(qs_matrix_need(&need, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32, 1));
    assert_int_equal(need.own_bytes, 4 * 4 * 2);
    desc.format = QS_MATRIX_INT;
    FAILS(QS_E_INPUT, qs_matrix_need(&need, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32, 1));
    OK(qs_packed_shape(&packed, 4, 8, 4, -1));
    desc.packed = &packed;
    FAILS(QS_E_INPUT, qs_matrix_need(&need, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32, 1));
    qs_backend_destroy(backend);
}

/* Own bytes add up, shared ones are those of the one that asks for most. */
static void test_sums(void **state)
{
    (void)state;
    qs_need sum = {.own_bytes = 10, .shared_bytes = {5, 0, 7}};
    const qs_need more = {.own_bytes = 3, .shared_bytes = {4, 9, 8}};
    qs_need_add(&sum, &more);
    assert_int_equal(sum.own_bytes, 13);
    assert_int_equal(qs_need_scratch(&sum), 5 + 9 + 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cpu),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
