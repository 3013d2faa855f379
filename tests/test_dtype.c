/* Element types, 16-bit floats, hashes and random numbers: what every stored number rests on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "base/dtype.h"
#include "base/hash.h"
#include "base/rng.h"

/* ---- 16-bit floats ---- */

static float f32_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* By the definition of binary16, in double arithmetic. */
static double half_value(uint16_t half)
{
    int exponent = (half >> 10) & 31, mantissa = half & 1023;
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void test_f16_every_half(void **state)
{
    (void)state;
    static uint16_t halves[65536], back[65536];
    static float values[65536];
    for (int h = 0; h < 65536; h++) halves[h] = (uint16_t)h;
    qs_f32_from_f16_array(values, halves, 65536);
    qs_f16_from_f32_array(back, values, 65536);
    for (int h = 0; h < 65536; h++) {
        uint16_t half = (uint16_t)h;
        float value = qs_f32_from_f16(half);
        assert_int_equal(bits_of(value), bits_of(values[h])); /* the array form is the same function */
        if ((half & 0x7c00) != 0x7c00) {
            assert_true((double)value == half_value(half) && !signbit(value) == !(half & 0x8000));
            assert_int_equal(qs_f16_from_f32(value), half);
            assert_int_equal(back[h], half);
        } else if ((half & 0x3ff) == 0) {
            assert_true(isinf(value) && !signbit(value) == !(half & 0x8000));
            assert_int_equal(back[h], half);
        } else {
            assert_true(isnan(value));
            assert_true((back[h] & 0x7c00) == 0x7c00 && (back[h] & 0x3ff) != 0);
        }
    }
}

/* Around every midpoint of neighbours: ties to even, one float less rounds down, one more rounds up. This
 * covers each place where the result changes, subnormals and overflow included. */
static void test_f16_every_tie(void **state)
{
    (void)state;
    for (int h = 0; h < 0x7c00; h++) {
        /* The neighbour of the largest half is where the next one would be: 65536. */
        double above = h == 0x7bff ? 65536.0 : half_value((uint16_t)(h + 1));
        float middle = (float)((half_value((uint16_t)h) + above) / 2); /* exact: 12 significant bits */
        uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
        for (int sign = 0; sign < 2; sign++) {
            float s = sign ? -1.0f : 1.0f;
            uint16_t bit = (uint16_t)(sign << 15);
            assert_int_equal(qs_f16_from_f32(s * middle), even | bit);
            assert_int_equal(qs_f16_from_f32(s * nextafterf(middle, 0)), h | bit);
            assert_int_equal(qs_f16_from_f32(s * nextafterf(middle, INFINITY)), (h + 1) | bit);
        }
    }
    assert_int_equal(qs_f16_from_f32(65519.996f), 0x7bff);
    assert_int_equal(qs_f16_from_f32(65520.0f), 0x7c00);
    assert_int_equal(qs_f16_from_f32(3.4e38f), 0x7c00);
    assert_int_equal(qs_f16_from_f32(-INFINITY), 0xfc00);
    assert_int_equal(qs_f16_from_f32(8.94073e-08f), 0x0002); /* 1.5 steps: HDF5 1.10's conversion gives 1 */
    assert_int_equal(qs_f16_from_f32(2.98023e-08f), 0x0000); /* half a step */
    assert_int_equal(qs_f16_from_f32(-1e-40f), 0x8000);
}

static void test_bf16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float value = qs_f32_from_bf16((uint16_t)h);
        if (isnan(value))
            assert_true(isnan(qs_f32_from_bf16(qs_bf16_from_f32(value))));
        else
            assert_int_equal(qs_bf16_from_f32(value), h);
        uint32_t magnitude = h & 0x7fff;
        if (magnitude >= 0x7f80) continue;
        uint32_t tie = (h << 16) | 0x8000; /* the float in the middle of h and its neighbour */
        assert_int_equal(qs_bf16_from_f32(f32_of(tie)), h & 1 ? h + 1 : h);
        assert_int_equal(qs_bf16_from_f32(f32_of(tie - 1)), h);
        assert_int_equal(qs_bf16_from_f32(f32_of(tie + 1)), h + 1);
    }
    /* NaNs whose payload lies in the lost bits stay NaN and keep the sign. */
    assert_int_equal(qs_bf16_from_f32(f32_of(0x7f800001)) & 0xffc0, 0x7fc0);
    assert_int_equal(qs_bf16_from_f32(f32_of(0xffffffff)) & 0xffc0, 0xffc0);
    assert_int_equal(qs_f16_from_f32(f32_of(0x7f800001)) & 0xfe00, 0x7e00);
    assert_int_equal(qs_f16_from_f32(f32_of(0xff800001)) & 0xfe00, 0xfe00);
}

/* Other libraries in the process may switch subnormals off; stored halves must not change by that. */
static void test_f16_under_flush_to_zero(void **state)
{
    (void)state;
#ifndef __SSE__
    print_message("skipped: no control register of SSE on this machine\n");
    skip();
#else
    static uint16_t halves[1024];
    static float values[1024];
    for (int h = 0; h < 1024; h++) halves[h] = (uint16_t)h;
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040); /* flush to zero, subnormals are zero */
    qs_f32_from_f16_array(values, halves, 1024);
    int n_wrong = 0;
    for (int h = 0; h < 1024; h++) {
        uint16_t back = qs_f16_from_f32(values[h]);
        n_wrong += back != h || bits_of(qs_f32_from_f16(halves[h])) != bits_of(values[h]);
    }
    _mm_setcsr(saved);
    assert_int_equal(n_wrong, 0);
    for (int h = 0; h < 1024; h++) assert_true((double)values[h] == half_value((uint16_t)h));
#endif
}

static void test_arrays(void **state)
{
    (void)state;
    enum { N = 37 }; /* no multiple of a vector's width */
    float values[N + 1], back[N + 1];
    uint16_t halves[N + 1];
    for (int i = 0; i < N; i++) values[i] = (float)(i - 18) * 0.37f;
    halves[N] = 0xabcd;
    back[N] = 7;
    qs_bf16_from_f32_array(halves, values, N);
    qs_f32_from_bf16_array(back, halves, N);
    for (int i = 0; i < N; i++) assert_true(back[i] == qs_f32_from_bf16(qs_bf16_from_f32(values[i])));
    qs_f16_from_f32_array(halves, values, N);
    qs_f32_from_f16_array(back, halves, N);
    for (int i = 0; i < N; i++) assert_true(back[i] == qs_f32_from_f16(qs_f16_from_f32(values[i])));
    assert_true(halves[N] == 0xabcd && back[N] == 7.0f); /* nothing beyond n */
    qs_f32_from_f16_array(NULL, NULL, 0);
}

static void test_find_nonfinite(void **state)
{
    (void)state;
    float x[100] = {0};
    x[0] = 3.4e38f;
    x[1] = 1e-45f;
    assert_int_equal(qs_find_nonfinite(x, 100), -1);
    x[99] = NAN;
    assert_int_equal(qs_find_nonfinite(x, 100), 99);
    assert_int_equal(qs_find_nonfinite(x, 99), -1);
    x[42] = -INFINITY;
    assert_int_equal(qs_find_nonfinite(x, 100), 42);
    assert_int_equal(qs_find_nonfinite(x, 0), -1);
}

static void test_dtype_rows(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t bytes;
    } wanted[QS_N_DTYPES] = {{"f64", 8}, {"f32", 4}, {"f16", 2}, {"bf16", 2}, {"i64", 8}, {"i32", 4},
                             {"i16", 2}, {"i8", 1},  {"u64", 8}, {"u32", 4},  {"u16", 2}, {"u8", 1}};
    for (int i = 0; i < QS_N_DTYPES; i++) {
        assert_string_equal(qs_dtype_name((qs_dtype)i), wanted[i].name);
        assert_int_equal(qs_dtype_bytes((qs_dtype)i), wanted[i].bytes);
    }
}

/* ---- hashes ---- */

/* Of the bytes (7 i + 3) % 256, i < n, by the Python package xxhash 4.1.0 (xxh3_128_hexdigest); the lengths
 * cross every code path of XXH3. */
static const struct {
    int n;
    const char *hex;
} hash_vectors[] = {
    {0, "99aa06d3014798d86001c324468d497f"},
    {1, "22bbb76b211a39ba13e608bc156defed"},
    {3, "ce31763cbf8245a5a9088dda485b481c"},
    {4, "47197970590746b1788a609154b0fe20"},
    {8, "e3bc8a5f461715553cd024e3d63a1588"},
    {9, "c72c88247a9a56d7eafab1c7f123109f"},
    {16, "ce0b9647ab24f88460d75c5e47d40a24"},
    {17, "bfd327edcc2fbd12eeed7654312a26d7"},
    {128, "1b1962a096bac78bc580008b6c92ac53"},
    {129, "293e4968c4619023bd91ce7ace4d385b"},
    {240, "ad46c1021b076bc704e0b5f034bee80b"},
    {241, "ac6c3492c3d6b45d8beadd3a8874fe17"},
    {512, "1af3d0367ba5a0c4f58202b8d9019d1d"},
    {1024, "18bc0eaca9a336369b81661c641c72b1"},
    {1025, "bf447251cfa98d7c806c2072ed713576"},
    {5000, "c98ae385d09887cc799aaddd7339581d"},
};

static void test_hash_vectors(void **state)
{
    (void)state;
    uint8_t data[5000];
    for (int i = 0; i < 5000; i++) data[i] = (uint8_t)(7 * i + 3);
    for (size_t v = 0; v < sizeof hash_vectors / sizeof *hash_vectors; v++) {
        char hex[QS_DIGEST_TEXT_BYTES];
        size_t n = (size_t)hash_vectors[v].n;
        assert_string_equal(qs_digest_format(hex, qs_hash(data, n)), hash_vectors[v].hex);
        for (size_t step = 1; step <= 5000; step = step * 3 + 1) { /* any pieces give the same */
            qs_hasher *hasher;
            assert_int_equal(qs_hasher_create(&hasher), QS_OK);
            for (size_t at = 0; at < n; at += step)
                qs_hasher_add(hasher, data + at, n - at < step ? n - at : step);
            assert_string_equal(qs_digest_format(hex, qs_hasher_finish(hasher)), hash_vectors[v].hex);
        }
    }
}

/* ---- random numbers ---- */

/* Seeds name samples and windows in artifacts, so these values must never change. They come from a few lines
 * of Python that follow rng.h: mix(mix(key + golden) ^ (counter * golden + golden)). */
static void test_rng_is_fixed(void **state)
{
    (void)state;
    assert_true(qs_rng_u64(0u, 0u) == 0x0397ab29740681d9u);
    assert_true(qs_rng_u64(0u, 1u) == 0xc0737b7cf89e44abu);
    assert_true(qs_rng_u64(1u, 0u) == 0xddc1ed05282d1d64u);
    assert_true(qs_rng_u64(42u, 1234567u) == 0xe84cb459ad2ffed4u);
    assert_true(qs_rng_u64(18446744073709551615u, 18446744073709551615u) == 0x445018e305810b78u);
    assert_int_equal(qs_rng_below(1, 2, 1000), 754);
    assert_int_equal(qs_rng_below(3, 4, 7), 5);
    assert_int_equal(qs_rng_below(5, 6, 1099511627776), 215000581142);
    assert_true(qs_rng_unit(7, 9) == (double)(qs_rng_u64(7, 9) >> 11) / 9007199254740992.0);
}

static void test_rng_distributions(void **state)
{
    (void)state;
    enum { N = 200000 };
    double sum = 0, sum2 = 0, sum4 = 0, unit_sum = 0;
    int64_t bins[10] = {0};
    for (uint64_t i = 0; i < N; i++) {
        double x = qs_rng_normal(1, i), u = qs_rng_unit(2, i);
        int64_t below = qs_rng_below(3, i, 10);
        assert_true(isfinite(x) && u >= 0 && u < 1 && below >= 0 && below < 10);
        sum += x;
        sum2 += x * x;
        sum4 += x * x * x * x;
        unit_sum += u;
        bins[below]++;
    }
    /* Five standard errors each. */
    assert_true(fabs(sum / N) < 5 / sqrt(N) && fabs(sum2 / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(sum4 / N - 3) < 5 * sqrt(96.0 / N));
    assert_true(fabs(unit_sum / N - 0.5) < 5 / sqrt(12.0 * N));
    double chi2 = 0;
    for (int b = 0; b < 10; b++) chi2 += pow((double)bins[b] - N / 10.0, 2) / (N / 10.0);
    assert_true(chi2 < 33.7); /* 9 degrees of freedom, p = 1e-4 */
    assert_int_equal(qs_rng_below(5, 6, 1), 0);
}

/* Neighbouring keys and counters give unrelated streams: about half of the 64 bits differ. */
static void test_rng_avalanche(void **state)
{
    (void)state;
    int64_t by_key = 0, by_counter = 0;
    for (uint64_t i = 0; i < 4096; i++) {
        by_key += __builtin_popcountll(qs_rng_u64(i, 5) ^ qs_rng_u64(i + 1, 5));
        by_counter += __builtin_popcountll(qs_rng_u64(5, i) ^ qs_rng_u64(5, i + 1));
    }
    assert_in_range(by_key, 31 * 4096, 33 * 4096); /* 32 +- 16 standard errors */
    assert_in_range(by_counter, 31 * 4096, 33 * 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_every_half),
        cmocka_unit_test(test_f16_every_tie),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16_under_flush_to_zero),
        cmocka_unit_test(test_arrays),
        cmocka_unit_test(test_find_nonfinite),
        cmocka_unit_test(test_dtype_rows),
        cmocka_unit_test(test_hash_vectors),
        cmocka_unit_test(test_rng_is_fixed),
        cmocka_unit_test(test_rng_distributions),
        cmocka_unit_test(test_rng_avalanche),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
