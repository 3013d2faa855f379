/* Chains of products on the CUDA backend (qs_op_linears_chain) against the calls one by one: every format, formats that
 * differ between the calls and within one, biases, one row and several; the same bits in the reverse order of threads,
 * as a recording, and of a row alone.
 * Proves: a decoding step in fewer launches is the same step (checklist A22). */
#include "cuda_backends.h"
#include "chain_cases.h"
#include "sanitized.h"

enum { F32, F16, INT4, INT3, INT8, NF4, EXL2, N_FORMATS, F16_F32 = N_FORMATS, INT4_F32, EXL2_F32, N_KINDS };
static const chain_kind kinds[N_KINDS] = {
    [F32] = {.name = "f32", .format = QS_MATRIX_F32},
    [F16] = {.name = "f16", .format = QS_MATRIX_F16, .compute = QS_COMPUTE_BF16},
    [INT4] = {"int4 g128", QS_MATRIX_INT, QS_PACKED_INT, 4, 128, 0, QS_COMPUTE_BF16},
    [INT3] = {"int3 permuted", QS_MATRIX_INT, QS_PACKED_INT, 3, 64, WITH_PERM, QS_COMPUTE_BF16},
    [INT8] = {"int8 zeros g32", QS_MATRIX_INT, QS_PACKED_INT, 8, 32, WITH_ZEROS, QS_COMPUTE_BF16},
    [NF4] = {.name = "nf4", .format = QS_MATRIX_INT, .packed = QS_PACKED_NF4, .group = 64},
    [EXL2] = {.name = "exl2", .format = QS_MATRIX_INT, .packed = QS_PACKED_EXL2, .compute = QS_COMPUTE_BF16},
    [F16_F32] = {.name = "f16, x as f32", .format = QS_MATRIX_F16},
    [INT4_F32] = {"int4 g128, x as f32", QS_MATRIX_INT, QS_PACKED_INT, 4, 128, 0, QS_COMPUTE_F32},
    [EXL2_F32] = {.name = "exl2, x as f32", .format = QS_MATRIX_INT, .packed = QS_PACKED_EXL2},
};

/* o, gate, up, down, q, k, v, head. */
static const int mixes[][CHAIN_N_MATRICES] = {
    {INT4, F16, F16, EXL2, INT3, INT3, INT3, F16},
    {NF4, INT4_F32, INT4_F32, INT8, EXL2_F32, EXL2_F32, EXL2_F32, F32},
    {INT4, INT4, INT3, INT4, INT4, INT4, INT8, F16_F32}, /* calls of two formats */
};
enum { N_MIXES = sizeof mixes / sizeof *mixes };

static void other_order(bool other)
{
    const char *asked = getenv("QS_SIMT_ORDER");
    bool reverse = asked != NULL && strcmp(asked, "reverse") == 0;
    qs_rt_simt_set_reverse(reverse != other);
}

static chain_case case_of(void **state, int i)
{
    return (chain_case){.backend = take(state)->cuda, .tolerance = 2e-6, .with_biases = i % 2 == 1, .rows_are_alike = true,
                        .reverse = qs_rt_simt_set_reverse != NULL ? other_order : NULL};
}

static const int64_t rows[] = {1, 3};

static void test_formats(void **state)
{
    for (int i = SANITIZED ? N_FORMATS : 0; i < N_FORMATS; i++) check_chain_alike(case_of(state, i), &kinds[i], rows, 2);
}

static void test_mixed_formats(void **state)
{
    for (int i = 0; i < N_MIXES; i++) {
        const chain_kind *mixed[CHAIN_N_MATRICES];
        for (int k = 0; k < CHAIN_N_MATRICES; k++) mixed[k] = &kinds[mixes[i][k]];
        chain_case c = case_of(state, i);
        c.name = "mixed";
        check_chain_of(c, mixed, rows, SANITIZED ? 1 : 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_mixed_formats),
    };
    return cmocka_run_group_tests_name("cuda chain", tests, create_backends, destroy_backends);
}
