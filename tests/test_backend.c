/* Every op of the CPU backend against the plain-C reference, over ragged shapes, for each set of kernels that
 * this CPU has; and every op bit for bit the same with 1, 2 and 4 threads and from run to run.
 * Proves: kernels are right before they are fast (checklist G8, A22: kernel self-test against a scalar
 * reference; results do not depend on threads). */
#include "op_tables.h"
#include "with_cases.h"

/* ---- parity ---- */

static const char *const entries[] = {"cpu", "cpu-avx2"};

static void test_parity(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        parity p = {.entry = entries[i]};
        assert_int_equal(qs_backend_create(&p.reference, "reference", 0, 2), QS_OK);
        qs_err err = qs_backend_create(&p.tested, entries[i], 0, 2);
        if (err == QS_E_UNSUPPORTED) {
            printf("%-10s SKIP: %s\n", entries[i], qs_error_text());
        } else {
            assert_int_equal(err, QS_OK);
            printf("%-10s %s: %s\n", entries[i], qs_backend_device(p.tested), qs_backend_describe(p.tested));
            for_each_case(compare, &p);
            printf("%-10s %lld cases, %lld failed\n", entries[i], (long long)p.n_cases, (long long)p.n_failed);
            assert_int_equal(p.n_failed, 0);
        }
        qs_backend_destroy(p.tested);
        qs_backend_destroy(p.reference);
    }
}

/* ---- threads ---- */

enum { N_TEAMS = 3 };
static const int team_sizes[N_TEAMS] = {1, 2, 4};

typedef struct teams {
    qs_backend *backends[N_TEAMS];
    int64_t n_cases;
} teams;

static void compare_teams(const op_case *row, void *context)
{
    teams *t = context;
    output first = {0};
    row->run(t->backends[0], row->shape, &first);
    for (int i = SANITIZED ? N_TEAMS - 1 : 0; i < N_TEAMS; i++) {
        output again = {0};
        row->run(t->backends[i], row->shape, &again);
        assert_int_equal(again.n, first.n);
        if (memcmp(again.values, first.values, (size_t)first.n * sizeof *first.values) != 0)
            fail_msg("%s differs between 1 and %d threads", row->op, team_sizes[i]);
        output_free(&again);
    }
    t->n_cases++;
    output_free(&first);
}

/* Large enough that the rows are really shared out. */
static const op_case large_cases[] = {
    {"rmsnorm", 0, run_rmsnorm, {300, 576}},
    {"rope", 0, run_rope, {256, 9, 64}},
    {"attention", 0, run_attention, {2, 200, 9, 3, 64, 0}},
    {"attention_decode", 0, run_attention_decode, {4, 700, 9, 3, 64, 0}},
    {"gram", 0, run_gram, {600, 576}},
    {"abs_stats", 0, run_abs_stats, {600, 576}},
    {"logit_stats", 0, run_logit_stats, {8, 49152}},
    {"gemm", 0, run_gemm, {600, 800, 300, 1, 0, 1}},
    {"linear gemm f32", 0, run_linear_dense, {576, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", 0, run_linear_dense, {1536, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm f32", 0, run_linear_dense, {1536, 576, 37, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", 0, run_linear_dense, {576, 1536, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemv f16", 0, run_linear_dense, {5000, 576, 1, QS_MATRIX_F16, QS_USE_GEMV, 0}},
};

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    teams t = {0};
    for (int i = 0; i < N_TEAMS; i++)
        assert_int_equal(qs_backend_create(&t.backends[i], "cpu", 0, team_sizes[i]), QS_OK);
    for_each_case(compare_teams, &t);
    for (size_t i = 0; i < sizeof large_cases / sizeof *large_cases; i++) compare_teams(&large_cases[i], &t);
    printf("%lld cases, bit for bit equal with 1, 2 and 4 threads\n", (long long)t.n_cases);
    for (int i = 0; i < N_TEAMS; i++) qs_backend_destroy(t.backends[i]);
}

/* ---- memory and updates ---- */

static void test_update_replaces_contents(void **state)
{
    (void)state;
    check_update("cpu");
    check_update("reference");
}

static void test_linears_are_linears(void **state)
{
    (void)state;
    qs_backend *backend;
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    /* zero points of none, of the second, of all: rows of x are arranged once where they can be */
    static const unsigned zeros[] = {0, 2, 15};
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++) {
        check_linears(backend, 200, 1, zeros[i]);
        check_linears(backend, 100, 3, zeros[i]);
        check_linears(backend, 577, 13, zeros[i]);
    }
    qs_backend_destroy(backend);
}

static void test_norm_and_gate(void **state)
{
    (void)state;
    enum { N_OUT = 50, N_IN = 96 };
    qs_backend *backend;
    qs_matrix *matrices[2];
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    for (int i = 0; i < 2; i++) {
        op_memory m = {.backend = backend};
        qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = N_OUT, .n_in = N_IN,
                               .dense = draw(&m, 84 + (uint64_t)i, N_OUT * N_IN, 0.1)};
        OK(qs_matrix_create(&matrices[i], backend, &desc, QS_USE_GEMM | QS_USE_GEMV, QS_COMPUTE_F32));
        free_all(&m);
    }
    /* On the CPU they are the ops one by one. */
    check_with(&(with_case){backend, matrices[0], matrices[1], N_OUT, N_IN, 1, 0.0, false});
    check_with(&(with_case){backend, matrices[0], matrices[1], N_OUT, N_IN, 20, 0.0, false});
    qs_matrix *down;
    op_memory m = {.backend = backend};
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = N_IN, .n_in = N_OUT,
                           .dense = draw(&m, 87, N_OUT * N_IN, 0.1)};
    OK(qs_matrix_create(&down, backend, &desc, QS_USE_GEMM, QS_COMPUTE_F32));
    check_left_gate(backend, (qs_matrix *const[3]){matrices[0], matrices[1], down}, N_IN, N_OUT, 20, false);
    qs_matrix_destroy(down);
    free_all(&m);
    qs_linear_job jobs[2] = {{.matrix = matrices[0], .y = (float[N_OUT]){0}},
                             {.matrix = matrices[1], .y = (float[N_OUT]){0}}};
    float x[N_IN] = {0};
    assert_int_equal(qs_op_linears_with(backend, &(qs_linear_with){.norm = x}, jobs, 2, x, 1), QS_E_USAGE);
    assert_int_equal(qs_op_linears_with(backend, &(qs_linear_with){.is_gated = true}, jobs, 1, x, 1), QS_E_USAGE);
    assert_int_equal(qs_op_linears_with(backend, &(qs_linear_with){.up = x}, jobs, 2, x, 1), QS_E_USAGE);
    jobs[1].add = true;
    assert_int_equal(qs_op_linears_with(backend, &(qs_linear_with){.is_gated = true}, jobs, 2, x, 1), QS_E_USAGE);
    for (int i = 0; i < 2; i++) qs_matrix_destroy(matrices[i]);
    qs_backend_destroy(backend);
}

static void test_memory_is_counted(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_backend_memory start, held, end;
    void *pointer, *other;
    char text[16] = "";
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 1), QS_OK);
    qs_backend_get_memory(backend, &start);
    assert_int_equal(qs_backend_alloc(backend, &pointer, 1000, "test"), QS_OK);
    qs_backend_get_memory(backend, &held);
    assert_int_equal(held.used_bytes, start.used_bytes + 1000);
    assert_int_equal(qs_backend_alloc(backend, &other, 16, "test"), QS_OK);
    assert_int_equal(qs_backend_upload(backend, pointer, "through the seam", 16), QS_OK);
    assert_int_equal(qs_backend_sync(backend), QS_OK);
    assert_int_equal(qs_backend_copy(backend, other, pointer, 16), QS_OK);
    assert_int_equal(qs_backend_download(backend, text, other, 16), QS_OK);
    assert_memory_equal(text, "through the seam", 16);
    qs_backend_free(backend, pointer);
    qs_backend_free(backend, other);
    qs_backend_get_memory(backend, &end);
    assert_int_equal(end.used_bytes, start.used_bytes);
    assert_true(end.peak_bytes >= held.used_bytes);
    assert_true(end.total_bytes > end.used_bytes && end.free_bytes > 0);
    qs_backend_destroy(backend);
}

/* ---- refusals ---- */

static void test_refusals(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_matrix *matrix;
    float w[6] = {1, 2, 3, 4, 5, 6}, x[9 * 3] = {0}, y[9 * 2];
    assert_int_equal(qs_backend_create(&backend, "tpu", 0, 1), QS_E_USAGE);
    assert_null(backend);
    qs_err err = qs_backend_create(&backend, "cuda", 0, 1);
    if (err == QS_OK) qs_backend_destroy(backend);
    else {
        assert_int_equal(err, QS_E_UNSUPPORTED);
        assert_non_null(strstr(qs_error_text(), "CUDA"));
    }
    assert_int_equal(qs_backend_create(&backend, "auto", 0, 1), QS_OK);
    assert_non_null(strstr(qs_backend_describe(backend), "auto"));
    qs_backend_destroy(backend);
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 1), QS_OK);
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = 2, .n_in = 3, .dense = w};
    assert_int_equal(qs_matrix_create(&matrix, backend, &desc, 0, QS_COMPUTE_F32), QS_E_USAGE);
    assert_int_equal(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32), QS_OK);
    /* Nine rows are no longer few: the matrix was not prepared for that, and no slower path is taken. */
    assert_int_equal(qs_op_linear(backend, matrix, x, 9, NULL, y), QS_E_USAGE);
    assert_int_equal(qs_op_linear(backend, matrix, x, 0, NULL, y), QS_OK);
    qs_matrix_destroy(matrix);
    int32_t position = 0, target = 7;
    qs_attention_shape shape = {3, 2, 2, 0, QS_COMPUTE_F32};
    assert_int_equal(qs_op_attention(backend, &shape, x, x, x, 1, 1, y), QS_E_USAGE);
    shape.n_kv_heads = 3;
    assert_int_equal(qs_op_attention_decode(backend, &shape, y, y, x, NULL, y, y, &position, 1, 0, y), QS_E_USAGE);
    qs_logit_stats stats = {.nll = y};
    assert_int_equal(qs_op_logit_stats(backend, x, &target, 1, 7, &stats), QS_E_USAGE);
    qs_backend_destroy(backend);
}

/* ---- the list ---- */

typedef struct listed {
    int n, n_reference, n_attention;
} listed;

static void count_op(void *context, const char *op, const char *from)
{
    listed *list = context;
    assert_true(strlen(op) > 0 && strlen(from) > 0);
    list->n++;
    list->n_reference += strcmp(from, "reference") == 0;
    list->n_attention += strcmp(op, "attention_decode") == 0;
}

/* Each op once, with where it comes from: of the reference all but the lookup of rows. */
static void test_list(void **state)
{
    (void)state;
    qs_backend *backend;
    listed plain = {0}, machine = {0};
    assert_int_equal(qs_backend_create(&backend, "reference", 0, 1), QS_OK);
    qs_backend_list_ops(backend, count_op, &plain);
    qs_backend_destroy(backend);
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 1), QS_OK);
    qs_backend_list_ops(backend, count_op, &machine);
    qs_backend_destroy(backend);
    assert_true(plain.n > 20 && plain.n == machine.n);
    assert_int_equal(plain.n_reference, plain.n - 1);
    assert_int_equal(plain.n_attention, 1);
    assert_int_equal(machine.n_attention, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_update_replaces_contents),
        cmocka_unit_test(test_linears_are_linears),
        cmocka_unit_test(test_norm_and_gate),
        cmocka_unit_test(test_memory_is_counted),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
