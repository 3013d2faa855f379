/* Values of every storage type equal gguf-py's bit for bit; array conversions equal the element-wise ones on
 * every bit pattern. Vectors: scripts/peers/make_gguf_vectors.py. */
#include "model_files.h"

#include "base/dtype.h"
#include "model/dequant.h"

enum { N_ROWS = 3, N_COLS = 512 };

static void test_vectors(void **state)
{
    (void)state;
    for (int i = 0; i < QS_N_STORAGES; i++) {
        qs_storage storage = (qs_storage)i;
        char path[QS_PATH_BYTES];
        assert_ok(qs_path_format(path, "tests/fixtures/gguf/%s.bytes", qs_storage_name(storage)));
        bytes stored = load_file(path);
        assert_ok(qs_path_format(path, "tests/fixtures/gguf/%s.f32", qs_storage_name(storage)));
        bytes expected = load_file(path);
        assert_int_equal(stored.n, N_ROWS * qs_storage_bytes(storage, N_COLS));
        assert_int_equal(expected.n, N_ROWS * N_COLS * sizeof(float));
        /* Tensors may lie at any address: the same from an odd one. */
        uint8_t *shifted = malloc(stored.n + 1);
        assert_non_null(shifted);
        memcpy(shifted + 1, stored.data, stored.n);
        const uint8_t *sources[] = {(const uint8_t *)stored.data, shifted + 1};
        for (size_t s = 0; s < 2; s++) {
            float values[N_ROWS * N_COLS];
            memset(values, 0xff, sizeof values);
            for (int64_t row = 0; row < N_ROWS; row++)
                qs_storage_to_f32(storage, values + row * N_COLS,
                                  sources[s] + (size_t)row * qs_storage_bytes(storage, N_COLS), N_COLS);
            for (int64_t j = 0; j < N_ROWS * N_COLS; j++)
                if (memcmp(&values[j], expected.data + j * 4, 4) != 0)
                    fail_msg("%s: element %lld is %.9g", qs_storage_name(storage), (long long)j,
                             (double)values[j]);
        }
        free(shifted);
        qs_mem_free(stored.data);
        qs_mem_free(expected.data);
    }
}

static void test_every_half(void **state)
{
    (void)state;
    enum { N = 65536 };
    uint16_t *halves = malloc(N * sizeof *halves);
    float *values = malloc(N * sizeof *values);
    assert_true(halves != NULL && values != NULL);
    for (int i = 0; i < N; i++) halves[i] = (uint16_t)i;
    qs_f32_from_f16_array(values, halves, N);
    for (int i = 0; i < N; i++) {
        float one = qs_f32_from_f16(halves[i]);
        if (memcmp(&values[i], &one, sizeof one) != 0)
            fail_msg("f16 0x%04x: the array gives another value", i);
    }
    qs_f32_from_bf16_array(values, halves, N);
    for (int i = 0; i < N; i++) {
        float one = qs_f32_from_bf16(halves[i]);
        if (memcmp(&values[i], &one, sizeof one) != 0)
            fail_msg("bf16 0x%04x: the array gives another value", i);
    }
    free(halves);
    free(values);
}

/* Bits per weight as the format's documents state them. */
static void test_sizes(void **state)
{
    (void)state;
    static const double bits[QS_N_STORAGES] = {32,    16,     16,  8.5, 4.5,    5,   5.5, 6,
                                               2.625, 3.4375, 4.5, 5.5, 6.5625, 4.5, 4.25};
    for (int i = 0; i < QS_N_STORAGES; i++) {
        assert_true(qs_storage_bits_per_weight((qs_storage)i) == bits[i]);
        assert_true((double)qs_storage_bytes((qs_storage)i, 1024) * 8 == bits[i] * 1024);
        assert_true(qs_storage_get((qs_storage)i)->lattice == (bits[i] < 6.5 && i != QS_STORE_F16));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_every_half),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests_name("dequant", tests, NULL, NULL);
}
