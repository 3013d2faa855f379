/* Scales and tile kernels: every table gives what the plain C definition gives (the reference defines what is
 * correct). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "base/rng.h"
#include "quant/tile.h"

enum { R = QS_TILE_ROWS, N = 128 };

static float x[N * R], y[N * R], e[N * R], u[N * N], weight[N], scale[2][N * R], zero[2][N * R];
static uint8_t codes[2][N * R];

static const qs_tile_ops *const tables[] = {&qs_tile_reference, &qs_tile_avx2, &qs_tile_avx512};

static bool runs_here(const qs_tile_ops *ops)
{
    if (ops == &qs_tile_reference) return true;
    const qs_tile_ops *best = qs_tile_best();
    return ops->name != NULL && (best == ops || (best == &qs_tile_avx512 && ops == &qs_tile_avx2));
}

static void fill(float *dst, int64_t n, uint64_t key, float amplitude)
{
    for (int64_t i = 0; i < n; i++) dst[i] = amplitude * (float)qs_rng_normal(key, (uint64_t)i);
}

static void test_min_max(void **state)
{
    (void)state;
    float s, z;
    const float a[] = {-3, 1, 7.5f, 0};
    qs_scale_rule rule = {.bits = 4, .sym = true};
    qs_scale_find(&rule, a, 4, 1, NULL, &s, &z); /* 2 * 7.5 / 15 */
    assert_true(s == 1 && z == 8);
    assert_true(qs_scale_code(7.5f, s, z, 4) == 7); /* codes reach 7 above the zero point, 8 below */
    assert_true(qs_scale_code(-9, s, z, 4) == -8);
    rule.sym = false;
    qs_scale_find(&rule, a, 4, 1, NULL, &s, &z);
    assert_true(s == qs_f32_from_f16(qs_f16_from_f32(10.5f / 15)));
    assert_true(z == rintf(3 / s));
    const float positive[] = {1, 2, 15};
    qs_scale_find(&rule, positive, 3, 1, NULL, &s, &z); /* the range always holds 0 */
    assert_true(s == 1 && z == 0);
    rule.sym = true;
    qs_scale_find(&rule, positive, 3, 1, NULL, &s, &z); /* xmin = -xmax although nothing is negative */
    assert_true(s == 2 && z == 8);
    const float nothing[] = {0, 0};
    qs_scale_find(&rule, nothing, 2, 1, NULL, &s, &z);
    assert_true(s == qs_f32_from_f16(qs_f16_from_f32(2.0f / 15)) && qs_scale_code(0, s, z, 4) == 0);
    const float tiny[] = {1e-9f, -1e-9f}, huge[] = {3e38f, 1};
    qs_scale_find(&rule, tiny, 2, 1, NULL, &s, &z);
    assert_true(s == QS_SCALE_MIN);
    qs_scale_find(&rule, huge, 2, 1, NULL, &s, &z);
    assert_true(s == QS_SCALE_MAX);
}

static double squared_error(const float *w, int64_t n, float s, float z, int bits)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += pow(w[i] - s * qs_scale_code(w[i], s, z, bits), 2);
    return sum;
}

/* The search finds the minimum over its own candidates and never does worse than min-max. */
static void test_search_is_the_minimum(void **state)
{
    (void)state;
    for (int sym = 0; sym < 2; sym++) {
        for (uint64_t key = 0; key < 20; key++) {
            fill(x, 64, key, 0.1f);
            qs_scale_rule rule = {.bits = 3, .sym = sym == 1, .search = true};
            float s, z, s0, z0;
            qs_scale_find(&rule, x, 64, 1, NULL, &s, &z);
            rule.search = false;
            qs_scale_find(&rule, x, 64, 1, NULL, &s0, &z0);
            double found = squared_error(x, 64, s, z, 3);
            assert_true(found <= squared_error(x, 64, s0, z0, 3));
            if (sym == 0) continue;
            float base = 0;
            for (int i = 0; i < 64; i++) base = fmaxf(base, fabsf(x[i]));
            base = 2 * base / 7;
            for (int step = 0; step < QS_SCALE_STEPS; step++) {
                float other = qs_f32_from_f16(qs_f16_from_f32((1.10f - 0.01f * (float)step) * base));
                assert_true(found <= squared_error(x, 64, other, 4, 3) * (1 + 1e-5));
            }
        }
    }
}

/* A column of weight 0 has no say; equal weights are no weights. */
static void test_search_weights(void **state)
{
    (void)state;
    qs_scale_rule rule = {.bits = 4, .sym = true, .search = true};
    float w[] = {1, -0.5f, 0.25f, 4}, ones[] = {2, 2, 2, 2}, mask[] = {1, 1, 1, 0}, s, z, s1;
    qs_scale_find(&rule, w, 4, 1, NULL, &s, &z);
    qs_scale_find(&rule, w, 4, 1, ones, &s1, &z);
    assert_true(s == s1);
    qs_scale_find(&rule, w, 4, 1, mask, &s1, &z);
    assert_true(s1 < s);
}

static void test_tables_agree_on_scales(void **state)
{
    (void)state;
    fill(weight, N, 7, 1);
    for (int i = 0; i < N; i++) weight[i] = weight[i] * weight[i] + 0.01f;
    for (size_t t = 1; t < 3; t++) {
        if (!runs_here(tables[t])) {
            print_message("skipped: this CPU or compiler has no %zu. table\n", t);
            continue;
        }
        int64_t n_different = 0, n_all = 0;
        for (int variant = 0; variant < 24; variant++) {
            static const int bits[] = {2, 3, 4, 8};
            qs_scale_rule rule = {
                .bits = bits[variant % 4], .sym = variant / 4 % 2 == 0, .search = variant / 8 > 0};
            const float *columns = variant / 8 == 2 ? weight : NULL;
            int64_t n = variant % 3 == 0 ? 64 : 37;
            fill(x, N * R, (uint64_t)variant, 0.05f);
            for (int64_t i = 0; i < n; i++) x[i * R + 3] = 0;            /* an empty row */
            for (int64_t i = 0; i < n; i++) x[i * R + 5] = fabsf(x[i * R + 5]); /* one side only */
            for (int64_t i = 0; i < n; i++) x[i * R + 6] *= 1e-7f;       /* below what f16 scales reach */
            for (int64_t i = 0; i < n; i++) x[i * R + 7] *= 1e30f;       /* squared errors are infinite */
            for (int i = 0; i < R; i++) scale[0][i] = zero[0][i] = NAN;
            qs_tile_reference.scales(&rule, x, n, columns, scale[0], zero[0]);
            tables[t]->scales(&rule, x, n, columns, scale[1], zero[1]);
            for (int r = 0; r < R; r++, n_all++) {
                assert_true(scale[1][r] == qs_f32_from_f16(qs_f16_from_f32(scale[1][r])));
                if (scale[0][r] == scale[1][r] && zero[0][r] == zero[1][r]) continue;
                assert_true(
                    rule.search); /* min-max agrees exactly; a search may break a near-tie otherwise */
                n_different++;
            }
        }
        print_message("%s: %lld of %lld searches differ\n", tables[t]->name, (long long)n_different,
                      (long long)n_all);
        assert_true(n_different * 200 <= n_all);
    }
}

static void test_tables_agree_on_updates_and_codes(void **state)
{
    (void)state;
    fill(e, N * R, 1, 1);
    fill(u, N * N, 2, 0.1f);
    for (int i = 0; i < N; i++) u[i * N + i] = 1.0f + 0.01f * (float)i;
    for (size_t t = 1; t < 3; t++) {
        if (!runs_here(tables[t])) continue;
        for (int64_t n = 1; n <= 17; n++) {
            fill(x, N * R, 3, 1);
            memcpy(y, x, sizeof y);
            qs_tile_reference.update(x, n, e, 29, u + 5, N);
            tables[t]->update(y, n, e, 29, u + 5, N);
            for (int i = 0; i < N * R; i++) {
                assert_true(fabsf(x[i] - y[i]) < 2e-5f);
                if (i >= n * R) assert_true(x[i] == y[i]); /* nothing beyond column n is touched */
            }
        }
        for (int with_u = 0; with_u < 2; with_u++) {
            int32_t group[32];
            for (int i = 0; i < 32; i++) group[i] = i / 11;
            for (int i = 0; i < 3 * R; i++) {
                scale[0][i] = 0.2f + 0.01f * (float)(i % 17);
                zero[0][i] = (float)(i % 16);
            }
            fill(x, N * R, 4, 1);
            memcpy(y, x, sizeof y);
            qs_tile_reference.code(x, 31, 4, scale[0], zero[0], group, with_u ? u : NULL, N, codes[0]);
            tables[t]->code(y, 31, 4, scale[0], zero[0], group, with_u ? u : NULL, N, codes[1]);
            int64_t n_different = 0;
            for (int i = 0; i < 31 * R; i++) n_different += codes[0][i] != codes[1][i];
            assert_true(with_u ? n_different <= 2 : n_different == 0);
        }
    }
}

static void test_tables_agree_on_errors(void **state)
{
    (void)state;
    static float column_weight[N], error[2][R];
    fill(x, N * R, 6, 1);
    for (int i = 0; i < N; i++) column_weight[i] = 0.5f + 0.1f * (float)(i % 9);
    for (size_t t = 1; t < 3; t++) {
        if (!runs_here(tables[t])) continue;
        for (int bits = 2; bits <= 8; bits++) {
            for (int r = 0; r < R; r++) scale[0][r] = (0.3f + 0.02f * (float)r) / (float)(1 << bits);
            for (int weighted = 0; weighted < 2; weighted++) {
                qs_tile_reference.errors(x, 37, weighted ? column_weight : NULL, bits, scale[0], error[0]);
                tables[t]->errors(x, 37, weighted ? column_weight : NULL, bits, scale[0], error[1]);
                for (int r = 0; r < R; r++)
                    assert_true(fabsf(error[1][r] - error[0][r]) <= 1e-4f * error[0][r] + 1e-9f);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_min_max),
        cmocka_unit_test(test_search_is_the_minimum),
        cmocka_unit_test(test_search_weights),
        cmocka_unit_test(test_tables_agree_on_scales),
        cmocka_unit_test(test_tables_agree_on_updates_and_codes),
        cmocka_unit_test(test_tables_agree_on_errors),
    };
    return cmocka_run_group_tests_name("scale", tests, NULL, NULL);
}
