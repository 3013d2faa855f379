/* The twins of a warpgroup's products, of barriers in shared memory and of bulk copies (wgmma.h).
 * Proves: kernels for Hopper's tensor cores are tested by the layouts that the PTX manual gives, without a GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "tests/simt_device.h"

enum { K = 64, ROWS = 64, N_MAX = 256 };

static double value_of(bool bf16, uint16_t h) { return (double)(bf16 ? qs_f32_from_bf16(h) : qs_f32_from_f16(h)); }

static void check_product(uint64_t round, int n, qs_case_wgmma_form form)
{
    static uint16_t a[ROWS * K], b[K * N_MAX];
    static float c[ROWS * N_MAX], got[ROWS * N_MAX];
    for (uint64_t i = 0; i < ROWS * K; i++)
        a[i] = (form.bf16 ? qs_bf16_from_f32 : qs_f16_from_f32)((float)qs_rng_normal(10 + round, i));
    for (uint64_t i = 0; i < (uint64_t)(K * n); i++)
        b[i] = (form.bf16 ? qs_bf16_from_f32 : qs_f16_from_f32)((float)qs_rng_normal(40 + round, i));
    for (uint64_t i = 0; i < (uint64_t)(ROWS * n); i++) c[i] = (float)qs_rng_normal(70 + round, i);
    uint16_t *a_device = on_device(a, sizeof a), *b_device = on_device(b, (size_t)(K * n) * sizeof *b);
    float *c_device = on_device(c, (size_t)(ROWS * n) * sizeof *c);
    use_order((int)(round % 2));
    assert_int_equal(qs_case_wgmma(stream, n, form, a_device, b_device, c_device), 0);
    to_host(got, c_device, (size_t)(ROWS * n) * sizeof *got);
    use_order(2);
    for (int row = 0; row < ROWS; row++)
        for (int j = 0; j < n; j++) {
            double sum = (double)c[row * n + j], size = fabs(sum);
            for (int k = 0; k < K; k++) {
                double x = value_of(form.bf16, form.a_mn ? a[k * ROWS + row] : a[row * K + k]);
                double y = value_of(form.bf16, form.b_mn ? b[k * n + j] : b[j * K + k]);
                sum += x * y;
                size += fabs(x * y);
            }
            assert_true(fabs((double)got[row * n + j] - sum) <= 0x1p-20 * size);
        }
    qs_rt_free(a_device);
    qs_rt_free(b_device);
    qs_rt_free(c_device);
}

static void test_products(void **state)
{
    (void)state;
    static const qs_case_wgmma_form forms[] = {
        {false, true, false, false}, {true, true, false, true},  {true, false, false, false},
        {false, false, true, true},  {false, false, true, false}, {true, false, false, true},
    };
    static const int sizes[] = {64, 128, 256};
    uint64_t round = 0;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) check_product(round++, sizes[s], forms[f]);
}

static void test_ring(void **state)
{
    (void)state;
    enum { N_ROUNDS = 7 };
    uint32_t x[N_ROUNDS * 32], got[N_ROUNDS * 32];
    for (uint64_t i = 0; i < N_ROUNDS * 32; i++) x[i] = (uint32_t)qs_rng_u64(3, i);
    uint32_t *x_device = on_device(x, sizeof x), *out = on_device(NULL, sizeof x);
    for (int order = 0; order < 2; order++) {
        use_order(order);
        for (int n = 1; n <= N_ROUNDS; n += 3) {
            assert_int_equal(qs_case_ring(stream, x_device, n, out), 0);
            to_host(got, out, sizeof got);
            assert_memory_equal(got, x, (size_t)n * 32 * sizeof *x);
        }
    }
    use_order(2);
    qs_rt_free(x_device);
    qs_rt_free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_ring),
    };
    return cmocka_run_group_tests_name("simt wgmma", tests, set_up, tear_down);
}
