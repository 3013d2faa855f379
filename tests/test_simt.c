/* The twin of CUDA on the CPU, tried by itself: what kernels compute. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "tests/simt_device.h"

/* ---- kernels ---- */

enum { N_BLOCKS = 64 };

static void fill_x(float *x, float *sums)
{
    for (int b = 0; b < N_BLOCKS; b++) {
        sums[b] = 0;
        for (int i = 0; i < 256; i++) {
            x[256 * b + i] = (float)qs_rng_below(1, (uint64_t)(256 * b + i), 1000); /* sums are exact in any order */
            sums[b] += x[256 * b + i];
        }
    }
}

static void test_barriers(void **state)
{
    (void)state;
    static float x[N_BLOCKS * 256], sums[N_BLOCKS], got[N_BLOCKS];
    fill_x(x, sums);
    float *x_device = on_device(x, sizeof x), *out = on_device(NULL, sizeof sums);
    int n_orders_wrong = 0;
    for (int order = 0; order < 2; order++) {
        use_order(order);
        assert_int_equal(qs_case_block_sum(stream, x_device, N_BLOCKS, true, out), 0);
        to_host(got, out, sizeof got);
        assert_memory_equal(got, sums, sizeof sums);
        assert_int_equal(qs_case_block_sum(stream, x_device, N_BLOCKS, false, out), 0);
        to_host(got, out, sizeof got);
        n_orders_wrong += memcmp(got, sums, sizeof sums) != 0;
    }
    use_order(2);
    assert_true(n_orders_wrong > 0); /* without the barriers */
    qs_rt_free(x_device);
    qs_rt_free(out);
}

static void test_last_block(void **state)
{
    (void)state;
    static float x[N_BLOCKS * 256], sums[N_BLOCKS];
    float want = 0, got, zero = 0;
    unsigned none = 0;
    fill_x(x, sums);
    for (int b = 0; b < N_BLOCKS; b++) want += sums[b];
    float *x_device = on_device(x, sizeof x), *partial = on_device(NULL, sizeof sums);
    float *out = on_device(&zero, sizeof zero);
    unsigned *count = on_device(&none, sizeof none);
    assert_int_equal(qs_case_grid_sum(stream, x_device, N_BLOCKS, partial, count, out), 0);
    to_host(&got, out, sizeof got);
    assert_true(got == want);
    qs_rt_free(x_device);
    qs_rt_free(partial);
    qs_rt_free(out);
    qs_rt_free(count);
}

/* The source of a lane by the tables of the PTX manual (shfl.sync), written as there. */
static int shuffle_source(int kind, int lane, int argument, int width)
{
    int mask = 32 - width, first = lane & mask, last = first | (31 & ~mask);
    int source = lane;
    switch (kind) {
    case QS_CASE_SHFL: return first | (argument & ~mask & 31);
    case QS_CASE_SHFL_XOR: source = lane ^ argument; return source <= last ? source : lane;
    case QS_CASE_SHFL_DOWN: source = lane + argument; return source <= last ? source : lane;
    default: source = lane - argument; return source >= first ? source : lane;
    }
}

static void test_shuffles(void **state)
{
    (void)state;
    int in[32], got[32];
    double in_f64[32], got_f64[32];
    for (int i = 0; i < 32; i++) in_f64[i] = in[i] = 1000 + 7 * i;
    int *in_device = on_device(in, sizeof in), *out = on_device(NULL, sizeof in);
    for (int kind = QS_CASE_SHFL; kind <= QS_CASE_SHFL_UP; kind++)
        for (int width = 1; width <= 32; width *= 2)
            for (int argument = 0; argument < 32; argument++) {
                assert_int_equal(qs_case_shuffle(stream, kind, argument, width, in_device, out), 0);
                to_host(got, out, sizeof got);
                for (int i = 0; i < 32; i++)
                    assert_int_equal(got[i], in[shuffle_source(kind, i, argument, width)]);
            }
    assert_int_equal(qs_case_shuffle(stream, QS_CASE_SHFL_OUTSIDE, 0, 32, in_device, out), 0);
    to_host(got, out, sizeof got);
    for (int i = 0; i < 16; i++) assert_int_equal(got[i], i == 3 ? -1 : in[1]);
    for (int i = 16; i < 32; i++) assert_int_equal(got[i], in[i ^ 3]);

    double *in_f64_device = on_device(in_f64, sizeof in_f64), *out_f64 = on_device(NULL, sizeof in_f64);
    assert_int_equal(qs_case_shuffle_f64(stream, in_f64_device, out_f64), 0);
    to_host(got_f64, out_f64, sizeof got_f64);
    for (int i = 0; i < 32; i++) assert_true(got_f64[i] == in_f64[i ^ 5]);
    qs_rt_free(in_device);
    qs_rt_free(out);
    qs_rt_free(in_f64_device);
    qs_rt_free(out_f64);
}

/* Whole warps, a last warp of 8, and threads that have ended. */
static void test_votes(void **state)
{
    (void)state;
    int predicate[72];
    unsigned got[72];
    static const struct {
        int n_threads, n_running;
    } shapes[] = {{32, 32}, {72, 72}, {64, 50}};
    for (int pattern = 0; pattern < 3; pattern++) /* some, none, all */
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            int n = shapes[s].n_threads, n_running = shapes[s].n_running, n_true = 0;
            for (int i = 0; i < n; i++) predicate[i] = pattern == 2 || (pattern == 0 && i % 3 == 1);
            for (int i = 0; i < n_running; i++) n_true += predicate[i];
            int *in = on_device(predicate, (size_t)n * sizeof *predicate);
            unsigned *out = on_device(NULL, (size_t)n * sizeof *got);
            for (int kind = QS_CASE_BALLOT; kind <= QS_CASE_BLOCK_AND; kind++) {
                assert_int_equal(qs_case_vote(stream, kind, n, n_running, in, out), 0);
                to_host(got, out, (size_t)n * sizeof *got);
                for (int i = 0; i < n_running; i++) {
                    unsigned ballot = 0, all = 1;
                    for (int j = i / 32 * 32; j < i / 32 * 32 + 32 && j < n_running; j++) {
                        ballot |= (unsigned)predicate[j] << (j % 32);
                        all &= (unsigned)predicate[j];
                    }
                    const unsigned want[] = {ballot, ballot != 0, all, (unsigned)n_true, n_true > 0,
                                             n_true == n_running};
                    assert_int_equal(got[i], want[kind]);
                }
            }
            qs_rt_free(in);
            qs_rt_free(out);
        }
}

static void test_mma(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 20; round++) {
        bool bf16 = round % 2 == 1;
        uint16_t a[16 * 16], b[8 * 16];
        float c[16 * 8], got[16 * 8];
        for (uint64_t i = 0; i < 256; i++)
            a[i] = (bf16 ? qs_bf16_from_f32 : qs_f16_from_f32)((float)qs_rng_normal(10 + round, i));
        for (uint64_t i = 0; i < 128; i++)
            b[i] = (bf16 ? qs_bf16_from_f32 : qs_f16_from_f32)((float)qs_rng_normal(40 + round, i));
        for (uint64_t i = 0; i < 128; i++) c[i] = (float)qs_rng_normal(70 + round, i);
        uint16_t *a_device = on_device(a, sizeof a), *b_device = on_device(b, sizeof b);
        float *c_device = on_device(c, sizeof c);
        assert_int_equal(qs_case_mma(stream, bf16, a_device, b_device, c_device), 0);
        to_host(got, c_device, sizeof got);
        for (int row = 0; row < 16; row++)
            for (int column = 0; column < 8; column++) {
                double sum = c[row * 8 + column], size = fabs(sum);
                for (int k = 0; k < 16; k++) {
                    uint16_t x = a[row * 16 + k], y = b[column * 16 + k];
                    double product = bf16 ? (double)qs_f32_from_bf16(x) * qs_f32_from_bf16(y)
                                          : (double)qs_f32_from_f16(x) * qs_f32_from_f16(y);
                    sum += product;
                    size += fabs(product);
                }
                assert_true(fabs(got[row * 8 + column] - sum) <= 0x1p-22 * size);
            }
        qs_rt_free(a_device);
        qs_rt_free(b_device);
        qs_rt_free(c_device);
    }
}

/* ---- numbers ---- */

static bool is_nan_half(bool bf16, uint16_t h) { return (h & 0x7fff) > (bf16 ? 0x7f80 : 0x7c00); }

/* Every half, and around the middle of every pair of neighbours, where rounding changes. */
static void test_conversions(void **state)
{
    (void)state;
    enum { N = 65536 };
    static uint16_t halves[N], got_halves[N];
    static float values[N], got[N];
    for (int bf16 = 0; bf16 < 2; bf16++) {
        for (int i = 0; i < N; i++) halves[i] = (uint16_t)i;
        uint16_t *h_device = on_device(halves, sizeof halves);
        float *x_device = on_device(NULL, sizeof values);
        assert_int_equal(qs_case_f32_of_half(stream, bf16, h_device, N, x_device), 0);
        to_host(got, x_device, sizeof got);
        if (bf16)
            qs_f32_from_bf16_array(values, halves, N);
        else
            qs_f32_from_f16_array(values, halves, N);
        for (int i = 0; i < N; i++)
            assert_true(isnan(values[i]) ? isnan(got[i]) : memcmp(&got[i], &values[i], sizeof *got) == 0);
        for (int shift = -1; shift <= 2; shift++) { /* 2: the values themselves */
            for (int i = 0; i < N; i++) {
                uint32_t bits;
                memcpy(&bits, &got[i], sizeof bits);
                if (shift == 2 || !isfinite(got[i])) {
                    values[i] = got[i];
                    continue;
                }
                if (bf16) {
                    bits += (uint32_t)(0x8000 + shift);
                    memcpy(&values[i], &bits, sizeof bits);
                } else {
                    uint16_t next = (uint16_t)(i + 1);
                    float above = (next & 0x7fff) == 0x7c00 ? copysignf(65536.0f, got[i]) : got[next];
                    values[i] = (float)(((double)got[i] + (double)above) / 2);
                    if (shift != 0) values[i] = nextafterf(values[i], shift < 0 ? 0.0f : 2 * values[i]);
                }
            }
            assert_int_equal(qs_rt_copy(x_device, values, sizeof values, QS_RT_TO_DEVICE, stream), 0);
            assert_int_equal(qs_case_half_of_f32(stream, bf16, x_device, N, h_device), 0);
            to_host(got_halves, h_device, sizeof got_halves);
            for (int i = 0; i < N; i++) {
                uint16_t want = bf16 ? qs_bf16_from_f32(values[i]) : qs_f16_from_f32(values[i]);
                assert_true(is_nan_half(bf16, want) ? got_halves[i] == 0x7fff : got_halves[i] == want);
            }
        }
        qs_rt_free(h_device);
        qs_rt_free(x_device);
    }
}

/* The half nearest to a value that long double holds exactly, by comparing with its neighbours. */
static uint16_t nearest_half(long double value)
{
    uint16_t start = qs_f16_from_f32((float)value), best = start;
    if ((start & 0x7fff) >= 0x7c00) return start;
    long double best_error = INFINITY;
    for (int step = -1; step <= 1; step++) {
        int magnitude = (start & 0x7fff) + step;
        if (magnitude < 0 || magnitude > 0x7bff) continue;
        uint16_t h = (uint16_t)((start & 0x8000) | magnitude);
        long double error = fabsl((long double)qs_f32_from_f16(h) - value);
        if (error > best_error || (error == best_error && (h & 1) != 0)) continue;
        best = h;
        best_error = error;
    }
    return best;
}

static void test_f16_pairs(void **state)
{
    (void)state;
    enum { N = 20000 };
    static uint32_t a[N], b[N], c[N], fma_got[N], sub_got[N];
    for (uint64_t i = 0; i < N; i++) {
        uint64_t bits = qs_rng_u64(5, i), more = qs_rng_u64(6, i);
        a[i] = (uint32_t)bits & 0xbfffbfffu; /* below 2, so that few results are infinite */
        b[i] = (uint32_t)(bits >> 32) & 0xbfffbfffu;
        c[i] = (uint32_t)more & (i % 2 == 0 ? 0xbfffbfffu : 0x83ff83ffu); /* or subnormal, which decides ties */
    }
    uint32_t *in[3] = {on_device(a, sizeof a), on_device(b, sizeof b), on_device(c, sizeof c)};
    uint32_t *fma_device = on_device(NULL, sizeof a), *sub_device = on_device(NULL, sizeof a);
    assert_int_equal(qs_case_f16x2(stream, in[0], in[1], in[2], N, fma_device, sub_device), 0);
    to_host(fma_got, fma_device, sizeof fma_got);
    to_host(sub_got, sub_device, sizeof sub_got);
    for (int i = 0; i < N; i++)
        for (int shift = 0; shift <= 16; shift += 16) {
            long double x = qs_f32_from_f16((uint16_t)(a[i] >> shift)), y = qs_f32_from_f16((uint16_t)(b[i] >> shift));
            long double z = qs_f32_from_f16((uint16_t)(c[i] >> shift));
            uint16_t fma_want = nearest_half(x * y + z), sub_want = nearest_half(x - y);
            if (x * y + z == 0 || x - y == 0) continue; /* the sign of a zero has rules of its own */
            assert_int_equal((uint16_t)(fma_got[i] >> shift), fma_want);
            assert_int_equal((uint16_t)(sub_got[i] >> shift), sub_want);
        }
    for (int i = 0; i < 3; i++) qs_rt_free(in[i]);
    qs_rt_free(fma_device);
    qs_rt_free(sub_device);
}

static void test_intrinsics(void **state)
{
    (void)state;
    int got[16];
    int *out = on_device(NULL, sizeof got);
    assert_int_equal(qs_case_intrinsics(stream, out), 0);
    to_host(got, out, sizeof got);
    static const int want[16] = {0x77553311, (int)0xff000080, 8, 32, 9, 2, -4, INT32_MAX, -1, 9, 0x66046608,
                                 0x6789abcd, 0x3f000000, 3, 1023, 0x40500000};
    for (int i = 0; i < 16; i++) assert_int_equal(got[i], want[i]);
    qs_rt_free(out);
}

static void test_atomics(void **state)
{
    (void)state;
    int zero[2] = {0, 0}, got[2];
    float f = 0;
    double d = 0;
    int *ints = on_device(zero, sizeof zero);
    float *f_device = on_device(&f, sizeof f);
    double *d_device = on_device(&d, sizeof d);
    assert_int_equal(qs_case_atomics(stream, 100, ints, ints + 1, f_device, d_device), 0);
    to_host(got, ints, sizeof got);
    to_host(&f, f_device, sizeof f);
    to_host(&d, d_device, sizeof d);
    assert_int_equal(got[0], 25599 * 12800);
    assert_int_equal(got[1], 25599);
    assert_true(f == 25600.0f && d == 12800.0);
    qs_rt_free(ints);
    qs_rt_free(f_device);
    qs_rt_free(d_device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_barriers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_last_block, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_shuffles, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_votes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mma, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_conversions, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_f16_pairs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_intrinsics, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_atomics, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
