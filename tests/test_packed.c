/* Packed matrices: pack and unpack are inverse, the de-quantised values are those of the definition, and
 * bad contents are named. Proves: the layout every format importer and kernel shares (checklist G5, A20). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "backend/packed.h"
#include "base/dtype.h"
#include "base/mem.h"
#include "base/rng.h"

static const int all_bits[] = {2, 3, 4, 8};

/* Codes drawn at random in ragged shapes survive set and get, and rows do not disturb each other. */
static void test_pack_is_inverse(void **state)
{
    (void)state;
    static const int64_t widths[] = {1, 2, 3, 5, 7, 8, 10, 11, 31, 32, 33, 43, 96, 577};
    for (size_t b = 0; b < 4; b++) {
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
            qs_packed packed;
            int64_t n_in = widths[w], n_out = 3;
            assert_int_equal(qs_packed_shape(&packed, all_bits[b], n_out, n_in, -1), QS_OK);
            assert_int_equal(packed.row_bytes, (n_in * all_bits[b] + 7) / 8);
            assert_int_equal(qs_packed_alloc(&packed, false, false), QS_OK);
            uint8_t codes[3][577], back[577];
            for (int64_t o = n_out - 1; o >= 0; o--) {
                for (int64_t j = 0; j < n_in; j++)
                    codes[o][j] = (uint8_t)(qs_rng_u64(7, (uint64_t)(o * n_in + j)) & ((1u << all_bits[b]) - 1u));
                qs_packed_set_row(&packed, o, codes[o]);
            }
            for (int64_t o = 0; o < n_out; o++) {
                qs_packed_get_row(&packed, o, back);
                assert_memory_equal(back, codes[o], (size_t)n_in);
            }
            assert_int_equal(qs_packed_check(&packed, "random"), QS_OK);
            qs_packed_free(&packed);
        }
    }
}

/* 3-bit codes 1 2 3 4 5 6: bits, lowest first, 100 010 110 001 101 011, so bytes 0xD1 0x58 0x03. */
static void test_three_bits_straddle_bytes(void **state)
{
    (void)state;
    qs_packed packed;
    static const uint8_t codes[6] = {1, 2, 3, 4, 5, 6}, bytes[3] = {0xD1, 0x58, 0x03};
    assert_int_equal(qs_packed_shape(&packed, 3, 1, 6, 6), QS_OK);
    assert_int_equal(qs_packed_alloc(&packed, false, false), QS_OK);
    qs_packed_set_row(&packed, 0, codes);
    assert_memory_equal(packed.codes, bytes, 3);
    qs_packed_free(&packed);
}

/* By hand: 4 bits, 5 columns in groups of 2 (the last one short), zero points and a permutation. */
static void test_dequant_by_hand(void **state)
{
    (void)state;
    qs_packed packed;
    static const uint8_t codes[5] = {0, 15, 7, 9, 3}, zeros[3] = {8, 7, 1};
    static const int32_t perm[5] = {4, 2, 0, 1, 3};
    static const float expected[5] = {0.0f, 4.0f, 3.5f, -0.5f, -4.0f};
    float got[5];
    assert_int_equal(qs_packed_shape(&packed, 4, 2, 5, 2), QS_OK);
    assert_int_equal(packed.n_groups, 3);
    assert_int_equal(qs_packed_alloc(&packed, true, true), QS_OK);
    qs_packed_set_row(&packed, 1, codes);
    packed.scales[3] = qs_f16_from_f32(0.5f);
    packed.scales[4] = qs_f16_from_f32(2.0f);
    packed.scales[5] = qs_f16_from_f32(-0.25f);
    memcpy(packed.zeros + 3, zeros, sizeof zeros);
    memcpy(packed.perm, perm, sizeof perm);
    qs_packed_dequant_rows(&packed, 1, 1, got);
    for (int i = 0; i < 5; i++) assert_true(got[i] == expected[i]);
    assert_int_equal(qs_packed_stored_bits(&packed), 2 * (5 * 4 + 3 * (16 + 4)) + 5 * 32);
    qs_packed_free(&packed);
}

/* Without zero points the middle code is zero. */
static void test_symmetric_middle(void **state)
{
    (void)state;
    for (size_t b = 0; b < 4; b++) {
        qs_packed packed;
        float got[2];
        uint8_t codes[2] = {(uint8_t)(1u << (all_bits[b] - 1)), 0};
        assert_int_equal(qs_packed_shape(&packed, all_bits[b], 1, 2, 2), QS_OK);
        assert_int_equal(qs_packed_alloc(&packed, false, false), QS_OK);
        packed.scales[0] = qs_f16_from_f32(1.0f);
        qs_packed_set_row(&packed, 0, codes);
        qs_packed_dequant_rows(&packed, 0, 1, got);
        assert_true(got[0] == 0.0f);
        assert_true(got[1] == -(float)(1 << (all_bits[b] - 1)));
        qs_packed_free(&packed);
    }
}

static void test_shapes_refused(void **state)
{
    (void)state;
    qs_packed packed;
    assert_int_equal(qs_packed_shape(&packed, 5, 1, 8, 8), QS_E_INPUT);
    assert_int_equal(qs_packed_shape(&packed, 4, 0, 8, 8), QS_E_INPUT);
    assert_int_equal(qs_packed_shape(&packed, 4, 1, 8, 9), QS_E_INPUT);
    assert_int_equal(qs_packed_shape(&packed, 4, 1, 8, 0), QS_E_INPUT);
    assert_int_equal(qs_packed_shape(&packed, 4, 1, 8, -1), QS_OK);
    assert_int_equal(packed.group_size, 8);
}

static void test_contents_refused(void **state)
{
    (void)state;
    qs_packed packed;
    assert_int_equal(qs_packed_shape(&packed, 3, 2, 5, 2), QS_OK);
    assert_int_equal(qs_packed_alloc(&packed, true, true), QS_OK);
    assert_int_equal(qs_packed_check(&packed, "m"), QS_OK);
    packed.perm[2] = 1;
    assert_int_equal(qs_packed_check(&packed, "m"), QS_E_INPUT);
    assert_non_null(strstr(qs_error_text(), "twice"));
    packed.perm[2] = 5;
    assert_int_equal(qs_packed_check(&packed, "m"), QS_E_INPUT);
    packed.perm[2] = 2;
    packed.scales[4] = 0x7C00;
    assert_int_equal(qs_packed_check(&packed, "m"), QS_E_NUMERIC);
    assert_non_null(strstr(qs_error_text(), "row 1, group 1"));
    packed.scales[4] = 0;
    packed.codes[1] = 0x80; /* 5 codes of 3 bits fill 15 of 16 bits */
    assert_int_equal(qs_packed_check(&packed, "m"), QS_E_INPUT);
    packed.codes[1] = 0;
    packed.row_bytes = 3;
    assert_int_equal(qs_packed_check(&packed, "m"), QS_E_INPUT);
    packed.row_bytes = 2;
    assert_int_equal(qs_packed_check(&packed, "m"), QS_OK);
    qs_packed_free(&packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pack_is_inverse),      cmocka_unit_test(test_three_bits_straddle_bytes),
        cmocka_unit_test(test_dequant_by_hand),      cmocka_unit_test(test_symmetric_middle),
        cmocka_unit_test(test_shapes_refused),       cmocka_unit_test(test_contents_refused),
    };
    return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
