/* Factors: inv(H) = U^T U for damped, permuted second moments; orders; damping that grows when it must. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "quant/factor.h"
#include "quant/order.h"
#include "tests/solver_fixture.h"

/* Largest |U H U^T - I|, which is 0 exactly when U^T U = inv(H). */
static double residual(const qs_factor_cache *cache, const float *u, const int32_t *order, double damping,
                       int64_t n)
{
    const float *h = qs_factor_h(cache);
    double shift = damping * qs_factor_diag_mean(cache), worst = 0, *row = malloc((size_t)n * sizeof *row);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = i; k < n; k++) {
                int64_t a = order != NULL ? order[k] : k, b = order != NULL ? order[j] : j;
                double element = h[a * n + b] +
                                 (a == b ? (h[a * n + a] > 0 ? 0 : qs_factor_diag_mean(cache)) + shift : 0);
                sum += u[i * n + k] * element;
            }
            row[j] = sum;
        }
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = j; k < n; k++) sum += row[k] * u[j * n + k];
            worst = fmax(worst, fabs(sum - (i == j ? 1 : 0)));
        }
    }
    free(row);
    return worst;
}

static void check_factor(int64_t n, int64_t n_tokens, double damping, bool permuted, double limit)
{
    float *gram = data_gram(n, n_tokens, 11);
    qs_factor_cache *cache;
    const float *u, *again;
    double used;
    int32_t order[700];
    assert_int_equal(qs_factor_cache_create(&cache, workspace, gram, n, n_tokens, "test"), QS_OK);
    assert_int_equal(qs_order_act(qs_factor_diag(cache), n, order), QS_OK);
    assert_int_equal(qs_factor_get(cache, permuted ? order : NULL, damping, &u, &used), QS_OK);
    assert_non_null(u);
    assert_true(used == damping);
    double worst = residual(cache, u, permuted ? order : NULL, damping, n);
    print_message("n %lld, %lld tokens, damping %g: |U H U^T - I| = %.2g\n", (long long)n,
                  (long long)n_tokens, damping, worst);
    assert_true(worst < limit);
    for (int64_t i = 0; i < n; i++) {
        assert_true(u[i * n + i] > 0);
        for (int64_t j = 0; j < i; j++) assert_true(u[i * n + j] == 0);
    }
    assert_int_equal(qs_factor_get(cache, permuted ? order : NULL, damping, &again, &used), QS_OK);
    assert_ptr_equal(u, again); /* not computed twice */
    qs_factor_cache_destroy(cache);
    free(gram);
}

static void test_residual(void **state)
{
    (void)state;
    check_factor(1, 4, 0.01, false, 1e-6);
    check_factor(63, 200, 0.01, false, 1e-5);
    check_factor(64, 200, 0.01, true, 1e-5);
    check_factor(65, 200, 0.01, false, 1e-5);
    check_factor(129, 40, 0.01, true, 1e-4); /* rank deficient: the damping carries it */
    check_factor(600, 700, 0.01, true, 1e-4);
    check_factor(600, 700, 0.1, false, 1e-5);
}

static void test_unpacks(void **state)
{
    (void)state;
    const float gram[] = {4, 2, 6, /**/ 8, -2, /**/ 12};
    const float h[] = {2, 1, 3, 1, 4, -1, 3, -1, 6};
    qs_factor_cache *cache;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, gram, 3, 2, "test"), QS_OK);
    for (int i = 0; i < 9; i++) assert_true(qs_factor_h(cache)[i] == h[i]);
    for (int i = 0; i < 3; i++) assert_true(qs_factor_diag(cache)[i] == h[4 * i]);
    assert_true(qs_factor_diag_mean(cache) == 4);
    const float other[] = {2, 0, 0, 2, 0, 2};
    const float *u;
    double used;
    assert_int_equal(qs_factor_get(cache, NULL, 0.5, &u, &used), QS_OK);
    assert_int_equal(qs_factor_cache_load(cache, other, 1, "other"), QS_OK); /* forgets H and factors */
    assert_int_equal(qs_factor_get(cache, NULL, 0.5, &u, &used), QS_OK);
    for (int i = 0; i < 9; i++) assert_true(fabs(u[i] - (i % 4 == 0 ? 1 / sqrt(3.0) : 0)) < 1e-6);
    qs_factor_cache_destroy(cache);
}

/* Dead inputs couple to nothing and do no harm to the others. */
static void test_dead_inputs(void **state)
{
    (void)state;
    int64_t n = 96, at = 0;
    float *gram = data_gram(n, 300, 5);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++, at++)
            if (i % 9 == 4 || j % 9 == 4) gram[at] = 0;
    qs_factor_cache *cache;
    const float *u;
    double used;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, gram, n, 300, "test"), QS_OK);
    assert_int_equal(qs_factor_get(cache, NULL, 0.01, &u, &used), QS_OK);
    assert_true(residual(cache, u, NULL, 0.01, n) < 1e-3);
    for (int64_t j = 5; j < n; j++) assert_true(u[4 * n + j] == 0);
    qs_factor_cache_destroy(cache);
    free(gram);
}

/* An indefinite matrix: the damping grows until it is not. */
static void test_damping_grows(void **state)
{
    (void)state;
    const float mild[] = {1, 1.2f, 1}, wild[] = {1, 3, 1}, hopeless[] = {1, 1e6f, 1};
    qs_factor_cache *cache;
    const float *u;
    double used;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, mild, 2, 1, "test"), QS_OK);
    assert_int_equal(qs_factor_get(cache, NULL, 0.01, &u, &used), QS_OK);
    assert_non_null(u);
    assert_true(used > 0.2 && used < 0.22); /* eigenvalues 2.2 and -0.2 */
    assert_true(residual(cache, u, NULL, used, 2) < 1e-4);
    assert_int_equal(qs_factor_cache_load(cache, wild, 1, "test"), QS_OK);
    assert_int_equal(qs_factor_get(cache, NULL, 0.01, &u, &used), QS_OK);
    assert_null(u); /* eigenvalue -2: beyond damping 1 and every floor */
    assert_int_equal(qs_factor_cache_load(cache, hopeless, 1, "test"), QS_OK);
    assert_int_equal(qs_factor_get(cache, NULL, 0.5, &u, &used), QS_OK);
    assert_null(u);
    qs_factor_cache_destroy(cache);
}

static void test_refused(void **state)
{
    (void)state;
    const float zero[] = {0, 0, 0}, negative[] = {1, 0, -1}, nan_gram[] = {1, NAN, 1};
    qs_factor_cache *cache;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, zero, 2, 1, "layer 3 qkv"), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "layer 3 qkv"));
    assert_int_equal(qs_factor_cache_create(&cache, workspace, negative, 2, 1, "x"), QS_E_INPUT);
    assert_int_equal(qs_factor_cache_create(&cache, workspace, nan_gram, 2, 1, "x"), QS_E_NUMERIC);
    assert_int_equal(qs_factor_cache_create(&cache, workspace, negative, 2, 0, "x"), QS_E_INPUT);
}

static void test_orders(void **state)
{
    (void)state;
    const float diag[] = {1, 5, 2, 9, 9, 0, 7, 3, 100, 4};
    const int32_t act[] = {8, 3, 4, 6, 1, 9, 7, 2, 0, 5};
    int32_t order[10];
    assert_int_equal(qs_order_act(diag, 10, order), QS_OK);
    assert_memory_equal(order, act, sizeof act);
    /* groups {0,1,2} {3,4,5} {6,7,8} and a short {9}: inside 1,2,0 | 3,4,5 | 8,6,7; groups by 100, 9, 5 */
    assert_int_equal(qs_order_group_aware(diag, 10, 3, order), QS_OK);
    const int32_t wanted[] = {8, 6, 7, 3, 4, 5, 1, 2, 0, 9};
    assert_memory_equal(order, wanted, sizeof wanted);
}

/* Bit-identical for 1 and 2 threads. */
static void test_threads(void **state)
{
    (void)state;
    int64_t n = 300;
    float *gram = data_gram(n, 400, 3);
    float *first = NULL;
    for (int threads = 1; threads <= 2; threads++) {
        qs_backend *b;
        qs_workspace *ws;
        qs_factor_cache *cache;
        const float *u;
        double used;
        assert_int_equal(qs_backend_create(&b, "cpu", 0, threads), QS_OK);
        assert_int_equal(qs_workspace_create(&ws, b), QS_OK);
        assert_int_equal(qs_factor_cache_create(&cache, ws, gram, n, 400, "test"), QS_OK);
        assert_int_equal(qs_factor_get(cache, NULL, 0.01, &u, &used), QS_OK);
        size_t bytes = (size_t)(n * n) * sizeof *u;
        if (threads == 1) {
            first = malloc(bytes);
            memcpy(first, u, bytes);
        } else {
            assert_memory_equal(first, u, bytes);
        }
        qs_factor_cache_destroy(cache);
        qs_workspace_destroy(ws);
        qs_backend_destroy(b);
    }
    free(first);
    free(gram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_residual),    cmocka_unit_test(test_unpacks),
        cmocka_unit_test(test_dead_inputs), cmocka_unit_test(test_damping_grows),
        cmocka_unit_test(test_refused),     cmocka_unit_test(test_orders),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("factor", tests, solver_start, solver_stop);
}
