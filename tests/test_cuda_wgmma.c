/* A warpgroup's products, barriers in shared memory and bulk copies (wgmma.h), on a GPU that has them or on their
 * twins: every form of operand against sums in f64, and a ring that is filled and emptied.
 * Proves: kernels for Hopper's tensor cores are tested by the layouts that the PTX manual gives, without a GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "backend/cuda/runtime.h"
#include "tests/wgmma_cases.h"

static void *stream;
static const char *why_not;

static int set_up(void **state)
{
    (void)state;
    qs_rt_device device;
    int n = 0, code = qs_rt_n_devices(&n);
    if (code == 0) code = qs_rt_open(0, &device);
    if (code != 0) why_not = qs_rt_error_text(code);
    else if (!device.has_wgmma) why_not = "no products of a warpgroup on this device, or not in this build";
    return why_not != NULL ? 0 : qs_rt_stream_create(&stream);
}

static int tear_down(void **state)
{
    (void)state;
    return qs_rt_stream_destroy(stream);
}

static void need_device(void)
{
    if (why_not == NULL) return;
    printf("SKIP: %s\n", why_not);
    skip();
}

static void *on_device(const void *src, size_t bytes)
{
    void *pointer;
    assert_int_equal(qs_rt_malloc(&pointer, bytes), 0);
    if (src != NULL) assert_int_equal(qs_rt_copy(pointer, src, bytes, QS_RT_TO_DEVICE, stream), 0);
    return pointer;
}

static void to_host(void *dst, const void *src, size_t bytes)
{
    assert_int_equal(qs_rt_copy(dst, src, bytes, QS_RT_TO_HOST, stream), 0);
    assert_int_equal(qs_rt_stream_sync(stream), 0);
}

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
    qs_rt_simt_set_reverse(round % 2 == 1);
    assert_int_equal(qs_case_wgmma(stream, n, form, a_device, b_device, c_device), 0);
    to_host(got, c_device, (size_t)(ROWS * n) * sizeof *got);
    qs_rt_simt_set_reverse(false);
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
    need_device();
    static const qs_case_wgmma_form forms[] = {
        {false, true, false, false}, {true, true, false, true},   {true, false, false, false},
        {false, false, true, true},  {false, false, true, false}, {true, false, false, true},
        {false, true, false, true},  {true, true, false, false},
    };
    static const int sizes[] = {64, 128, 256};
    uint64_t round = 0;
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) check_product(round++, sizes[s], forms[f]);
}

static void test_ring(void **state)
{
    (void)state;
    need_device();
    enum { N_ROUNDS = 7 };
    uint32_t x[N_ROUNDS * 32], got[N_ROUNDS * 32];
    for (uint64_t i = 0; i < N_ROUNDS * 32; i++) x[i] = (uint32_t)qs_rng_u64(3, i);
    uint32_t *x_device = on_device(x, sizeof x), *out = on_device(NULL, sizeof x);
    for (int order = 0; order < 2; order++) {
        qs_rt_simt_set_reverse(order == 1);
        for (int n = 1; n <= N_ROUNDS; n += 3) {
            assert_int_equal(qs_case_ring(stream, x_device, n, out), 0);
            to_host(got, out, sizeof got);
            assert_memory_equal(got, x, (size_t)n * 32 * sizeof *x);
        }
    }
    qs_rt_simt_set_reverse(false);
    qs_rt_free(x_device);
    qs_rt_free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_ring),
    };
    return cmocka_run_group_tests_name("cuda wgmma", tests, set_up, tear_down);
}
