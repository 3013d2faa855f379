/* RTN: exact where the matrix is representable, right on a case done by hand, at every bit width, group size
 * and symmetry (a group that does not divide the row leaves a shorter last group). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/solver_fixture.h"

static void test_by_hand(void **state)
{
    (void)state;
    /* 2-bit, groups of 2; asym: the range with 0 over 3, zero = round(-min / scale) */
    const float w[] = {-1, 2, /**/ 0, 3, /**/ -0.75f};
    uint8_t codes[5];
    float q[5];
    qs_quant_result r = solve("rtn:bits=2,group=2,sym=0", w, 1, 5, NULL);
    assert_int_equal(r.packed.n_groups, 3);
    assert_int_equal(r.packed.bits, 2);
    qs_packed_get_row(&r.packed, 0, codes);
    const uint8_t asym[] = {0, 3, /**/ 0, 3, /**/ 0}, zeros[] = {1, 0, 3};
    assert_memory_equal(codes, asym, 5);
    assert_memory_equal(r.packed.zeros, zeros, 3);
    qs_packed_dequant_rows(&r.packed, 0, 1, q);
    const float back[] = {-1, 2, 0, 3, -0.75f};
    for (int i = 0; i < 5; i++) assert_true(q[i] == back[i]);
    assert_true(r.loss == 0 && r.weight_error == 0 && r.damping == 0 && !r.fallback && r.packed.perm == NULL);
    qs_packed_free(&r.packed);
    /* sym: scale = 2 max|w| / 3, codes around 2 */
    const float v[] = {-1.5f, 0.6f, /**/ 3, -2, /**/ 0};
    r = solve("rtn:bits=2,group=2", v, 1, 5, NULL);
    qs_packed_get_row(&r.packed, 0, codes);
    const uint8_t sym[] = {0, 3, /**/ 3, 1,
                           /**/ 2}; /* scales 1, 2, 2/3: -1.5 rounds to even -2, 3 is clipped to 1 */
    assert_memory_equal(codes, sym, 5);
    assert_null(r.packed.zeros);
    qs_packed_dequant_rows(&r.packed, 0, 1, q);
    const float sym_back[] = {-2, 1, 2, -2, 0};
    for (int i = 0; i < 5; i++) assert_true(q[i] == sym_back[i]);
    double e2 = 0.25 + 0.16 + 1, w2 = 2.25 + 0.36 + 9 + 4; /* no H: plain Frobenius */
    assert_true(fabs(r.loss - e2 / w2) < 1e-6);
    assert_true(fabs(r.weight_error - sqrt(e2 / w2)) < 1e-6);
    qs_packed_free(&r.packed);
}

/* w = scale * (code - zero), with both ends of the code range in every group, comes back exactly. */
static void test_representable_is_exact(void **state)
{
    (void)state;
    static const int bits[] = {2, 3, 4, 8};
    static const int groups[] = {16, 24, 100, -1};
    enum { N_OUT = 70, N_IN = 100 };
    float w[N_OUT * N_IN], q[N_OUT * N_IN];
    uint8_t codes[N_IN];
    for (int c = 0; c < 16; c++) {
        int b = bits[c / 4], g = groups[c % 4] > 0 ? groups[c % 4] : N_IN, maxq = (1 << b) - 1;
        for (int i = 0; i < N_OUT * N_IN; i++) {
            int at = i % N_IN % g, group = i / N_IN * 100 + i % N_IN / g;
            int zero = (int)qs_rng_below(1, (uint64_t)group, maxq + 1),
                scale = 1 + (int)qs_rng_below(2, (uint64_t)group, 1000);
            int code = at == 0 ? 0 : at == 1 ? maxq : (int)qs_rng_below(3, (uint64_t)i, maxq + 1);
            w[i] = (float)(code - zero) * (float)scale / 1024;
        }
        char text[64];
        (void)snprintf(text, sizeof text, "rtn:bits=%d,group=%d,sym=0", b, groups[c % 4]);
        qs_quant_result r = solve(text, w, N_OUT, N_IN, NULL);
        qs_packed_dequant_rows(&r.packed, 0, N_OUT, q);
        for (int i = 0; i < N_OUT * N_IN; i++) assert_true(w[i] == q[i]);
        assert_true(r.loss == 0);
        qs_packed_get_row(&r.packed, 0, codes);
        assert_true(codes[0] == 0 && codes[1] == maxq);
        qs_packed_free(&r.packed);
    }
}

/* Every weight is within half a step, except where symmetric codes end half a step early; more bits, smaller
 * groups, zero points and the search each lower the error. */
static void test_errors_are_bounded_and_ordered(void **state)
{
    (void)state;
    enum { N_OUT = 65, N_IN = 200 };
    float *w = data_normal(N_OUT * N_IN, 1, 0.02f), q[N_IN];
    static const char *const better[][2] = {
        {"rtn:bits=3,group=64", "rtn:bits=2,group=64"},
        {"rtn:bits=8,group=64", "rtn:bits=4,group=64"},
        {"rtn:bits=4,group=32", "rtn:bits=4,group=-1"},
        {"rtn:bits=4,group=64,sym=0", "rtn:bits=4,group=64"},
        {"rtn:bits=3,group=64,search=1", "rtn:bits=3,group=64"},
        {"rtn:bits=3,sym=0,search=1", "rtn:bits=3,sym=0"},
    };
    for (size_t i = 0; i < sizeof better / sizeof *better; i++) {
        qs_quant_result a = solve(better[i][0], w, N_OUT, N_IN, NULL),
                        b = solve(better[i][1], w, N_OUT, N_IN, NULL);
        assert_true(a.loss < b.loss);
        assert_true(fabs(a.loss - a.weight_error * a.weight_error) < 1e-12);
        qs_packed_free(&a.packed);
        qs_packed_free(&b.packed);
    }
    qs_quant_result r = solve("rtn:bits=4,group=64", w, N_OUT, N_IN, NULL);
    assert_int_equal(r.packed.n_groups, 4); /* 64, 64, 64 and 8 */
    for (int64_t i = 0; i < N_OUT; i++) {
        qs_packed_dequant_rows(&r.packed, i, 1, q);
        for (int64_t j = 0; j < N_IN; j++) {
            float scale = qs_f32_from_f16(r.packed.scales[i * 4 + j / 64]);
            assert_true(fabsf(w[i * N_IN + j] - q[j]) <= 0.505f * scale);
        }
    }
    qs_packed_free(&r.packed);
    free(w);
}

/* With second moments the loss is theirs, and H = identity gives the Frobenius one. */
static void test_loss_uses_second_moments(void **state)
{
    (void)state;
    enum { N_OUT = 20, N_IN = 300 };
    float *w = data_normal(N_OUT * N_IN, 1, 0.02f), *gram = data_gram(N_IN, 100, 2),
          *identity = data_identity_gram(N_IN, 7);
    qs_factor_cache *cache;
    assert_int_equal(qs_factor_cache_create(&cache, workspace, identity, N_IN, 100, "t"), QS_OK);
    qs_quant_result plain = solve("rtn", w, N_OUT, N_IN, NULL), same = solve("rtn", w, N_OUT, N_IN, cache);
    assert_true(fabs(plain.loss - same.loss) < 1e-6 * plain.loss);
    assert_int_equal(qs_factor_cache_load(cache, gram, 100, "t"), QS_OK);
    qs_quant_result weighted = solve("rtn", w, N_OUT, N_IN, cache);
    const float *h = qs_factor_h(cache);
    float q[N_IN];
    double part = 0, whole = 0;
    for (int64_t i = 0; i < N_OUT; i++) {
        qs_packed_dequant_rows(&weighted.packed, i, 1, q);
        for (int64_t j = 0; j < N_IN; j++)
            for (int64_t k = 0; k < N_IN; k++) {
                const float *row = w + i * N_IN;
                part += ((double)row[j] - q[j]) * h[j * N_IN + k] * ((double)row[k] - q[k]);
                whole += (double)row[j] * h[j * N_IN + k] * row[k];
            }
    }
    assert_true(fabs(weighted.loss - part / whole) < 1e-5 * weighted.loss);
    qs_packed_free(&plain.packed);
    qs_packed_free(&same.packed);
    qs_packed_free(&weighted.packed);
    qs_factor_cache_destroy(cache);
    free(w);
    free(gram);
    free(identity);
}

static void test_refused(void **state)
{
    (void)state;
    float w[64] = {0};
    qs_spec spec;
    qs_quant_result result;
    qs_quant_job job = {.name = "layers.3.q_proj", .weights = w, .n_out = 2, .n_in = 32, .backend = backend};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    assert_int_equal(qs_spec_parse(&spec, "rtn:group=64"), QS_OK);
    assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_E_USAGE);
    assert_non_null(strstr(qs_error_text(), "layers.3.q_proj"));
    assert_int_equal(qs_spec_parse(&spec, "rtn:group=32"), QS_OK);
    w[35] = NAN;
    assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_E_NUMERIC);
    assert_non_null(strstr(qs_error_text(), "layers.3.q_proj: weight [1, 3]"));
    assert_null(result.packed.codes);
    w[35] = 0;
    assert_int_equal(qs_quant_solve(workspace, &task, 1), QS_OK); /* all zero: loss 0, not 0 / 0 */
    assert_true(result.loss == 0 && result.weight_error == 0);
    qs_packed_free(&result.packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_representable_is_exact),
        cmocka_unit_test(test_errors_are_bounded_and_ordered),
        cmocka_unit_test(test_loss_uses_second_moments),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("rtn", tests, solver_start, solver_stop);
}
