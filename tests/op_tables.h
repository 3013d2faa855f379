/* Cases that every backend passes: each op over ragged shapes. */
#ifndef QS_TESTS_OP_TABLES_H
#define QS_TESTS_OP_TABLES_H

#include "attention_cases.h"
#include "op_compare.h"
#include "sanitized.h"

/* Products of up to 1600 terms with f32 sums. A sum of n terms is rounded n times, by 2^-25 of what it has come to on
 * average; a tensor core adds eight terms or more at a time, but cuts digits off: n / 8 times 2^-24. Either stays below
 * 1e-5 of the size of the sum, and so do factors that are given as two terms of 8 bits each (bf16). */
#define LINEAR 1e-5

static const op_case cases[] = {
    {"embed", 0.0, run_embed, {1, 1, 1}},
    {"embed", 0.0, run_embed, {37, 577, 301}},
    {"rmsnorm", 1e-6, run_rmsnorm, {1, 1}},
    {"rmsnorm", 1e-6, run_rmsnorm, {1, 576}},
    {"rmsnorm", 1e-6, run_rmsnorm, {67, 577}},
    {"rmsnorm", 1e-6, run_rmsnorm, {5, 31}},
    {"rmsnorm in place", 1e-6, run_rmsnorm, {9, 576, 1}},
    {"rope", 1e-6, run_rope, {1, 1, 2}},
    {"rope", 1e-6, run_rope, {33, 9, 64}},
    {"rope", 1e-6, run_rope, {7, 3, 80}},
    {"rope", 1e-6, run_rope, {3, 2, 10}},
    {"attention", 5e-6, run_attention, {1, 1, 1, 1, 2, 0}},
    {"attention", 5e-6, run_attention, {2, 77, 9, 3, 64, 0}},
    {"attention", 5e-6, run_attention, {1, 130, 4, 4, 80, 0}},
    {"attention", 5e-6, run_attention, {1, 97, 2, 1, 34, 13}},
    {"attention", 5e-6, run_attention, {3, 33, 2, 2, 128, 1}},
    {"attention", 5e-6, run_attention, {1, 300, 3, 1, 96, 64}},
    {"attention", 5e-6, run_attention, {1, 70, 2, 1, 256, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {1, 1, 1, 1, 2, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {3, 301, 9, 3, 64, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {1, 515, 4, 2, 80, 0}},
    {"attention_decode", 5e-6, run_attention_decode, {2, 90, 2, 1, 34, 17}},
    {"attention_decode", 5e-6, run_attention_decode, {8, 40, 2, 2, 128, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {3, 301, 9, 3, 64, 0}},
    {"rope and decode", 5e-6, run_rope_attention_decode, {2, 90, 2, 1, 34, 17}},
    {"silu_mul", 1e-6, run_silu_mul, {1}},
    {"silu_mul", 1e-6, run_silu_mul, {1537}},
    {"silu_mul", 1e-6, run_silu_mul, {70001}},
    {"add", 0.0, run_add, {1}},
    {"add", 0.0, run_add, {70001}},
    {"gram", 1e-6, run_gram, {1, 1}},
    {"gram", 1e-6, run_gram, {700, 65}},
    {"gram", 1e-6, run_gram, {257, 211}},
    {"gram", 1e-6, run_gram, {300, 130, 1}},
    {"abs_stats", 1e-12, run_abs_stats, {1, 1}},
    {"abs_stats", 1e-12, run_abs_stats, {300, 97}},
    {"abs_stats", 1e-12, run_abs_stats, {51, 577}},
    {"logit_stats", 1e-6, run_logit_stats, {1, 1}},
    {"logit_stats", 1e-6, run_logit_stats, {3, 15}},
    {"logit_stats", 1e-6, run_logit_stats, {2, 49152}},
    {"logit_stats", 1e-6, run_logit_stats, {2, 151937}},
    {"sample", 0.0, run_sample, {1, 1}},
    {"sample", 0.0, run_sample, {9, 15}},
    {"sample", 0.0, run_sample, {4, 49157}},
    {"sample", 0.0, run_sample, {5, 3001, 1}},
    {"kld", 3e-7, run_kld, {1, 1}},
    {"kld", 3e-7, run_kld, {3, 15}},
    {"kld", 3e-7, run_kld, {2, 49152}},
    {"kld", 3e-7, run_kld, {2, 151937}},
    {"gemm", 2e-6, run_gemm, {1, 1, 1, 0, 0, 1}},
    {"gemm", 2e-6, run_gemm, {37, 41, 19, 0, 3, 1}},
    {"gemm", 2e-6, run_gemm, {65, 130, 77, 1, 0, 0}},
    {"gemm", 2e-6, run_gemm, {200, 90, 33, 2, 5, 2}},
    {"gemm", 2e-6, run_gemm, {193, 390, 64, 3, 1, 0}},
    {"gemm", 2e-6, run_gemm, {5, 400, 0, 0, 1, 2}},
    {"linear gemv f32", LINEAR, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMV, 0}},
    {"linear gemv f32", LINEAR, run_linear_dense, {37, 577, 8, QS_MATRIX_F32, QS_USE_GEMV, 0}},
    {"linear gemv f16", LINEAR, run_linear_dense, {19, 35, 3, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv f16", LINEAR, run_linear_dense, {130, 576, 1, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv f16", LINEAR, run_linear_dense, {33, 1001, 7, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv bf16", LINEAR, run_linear_dense, {65, 577, 2, QS_MATRIX_BF16, QS_USE_GEMV, 0}},
    {"linear gemv bf16", LINEAR, run_linear_dense, {17, 96, 5, QS_MATRIX_BF16, QS_USE_GEMV, 0}},
    {"linear gemm f32", LINEAR, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", LINEAR, run_linear_dense, {100, 33, 129, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", LINEAR, run_linear_dense, {192, 576, 300, QS_MATRIX_F16, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", LINEAR, run_linear_dense, {577, 70, 9, QS_MATRIX_BF16, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", LINEAR, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", LINEAR, run_linear_dense, {100, 33, 129, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", LINEAR, run_linear_dense, {192, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", LINEAR, run_linear_dense, {577, 70, 9, QS_MATRIX_F16, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm int4", LINEAR, run_linear_int, {130, 97, 70, 4 + CASE_FLAGS * WITH_ZEROS, 32, QS_USE_GEMM}},
    {"linear gemm int3", LINEAR, run_linear_int,
     {67, 129, 10, 3 + CASE_FLAGS * (WITH_ZEROS | WITH_PERM), 40, QS_USE_GEMM}},
};

/* Packed products: every width, with and without zero points and permutation, over these shapes. */
static const int64_t int_shapes[][4] = {
    /* n_out, n_in, rows, group */
    {1, 1, 1, 1},     {17, 577, 1, 128}, {576, 576, 1, 32},  {192, 576, 3, 64}, {33, 96, 8, 96},
    {50, 131, 2, 24}, {16, 100, 4, 7},   {31, 1536, 5, 32},  {9, 33, 6, 5},     {64, 256, 7, 16},
    {20, 63, 8, 31},  {48, 160, 1, 160}, {35, 1000, 1, 48},
};

static const char *const code_names[] = {[2] = "linear gemv int2", [3] = "linear gemv int3",
                                         [4] = "linear gemv int4", [8] = "linear gemv int8"};

/* Calls visit() for every case, the packed products included. */
static inline void for_each_case(void (*visit)(const op_case *row, void *context), void *context)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) visit(&cases[i], context);
    static const int bits[] = {2, 3, 4, 8};
    for (size_t b = 0; b < 4; b++)
        for (size_t i = 0; i < sizeof int_shapes / sizeof *int_shapes; i++)
            for (int64_t flags = 0; flags < 4; flags++) {
                const int64_t *s = int_shapes[i];
                op_case row = {code_names[bits[b]], LINEAR, run_linear_int,
                               {s[0], s[1], s[2], bits[b] + CASE_FLAGS * flags, s[3], QS_USE_GEMV}};
                visit(&row, context);
            }
}

/* ---- what every backend does with matrices ---- */

/* Updating between formats re-uses the memory, and the product follows the new contents. */
static inline void check_update(const char *name)
{
    enum { N_OUT = 70, N_IN = 200, N = 50, N_FEW = 2 };
    qs_backend *backend;
    qs_backend_memory before, after;
    qs_packed packed;
    qs_matrix *matrix;
    OK(qs_backend_create(&backend, name, 0, 2));
    op_memory m = {.backend = backend};
    float *w = draw(&m, 40, N_OUT * N_IN, 1.0), *dense = on_host(&m, N_OUT * N_IN, sizeof *dense);
    float *x = drawn_on_device(&m, 41, N * N_IN, 1.0), *y = floats_on_device(&m, NULL, N * N_OUT);
    float *y_few = floats_on_device(&m, NULL, N_FEW * N_OUT), *expected = floats_on_device(&m, NULL, N * N_OUT);
    fill_packed(&packed, 3, N_OUT, N_IN, 64, WITH_ZEROS | WITH_PERM);
    qs_matrix_desc from_f32 = {.format = QS_MATRIX_F32, .n_out = N_OUT, .n_in = N_IN, .dense = w};
    qs_matrix_desc from_int = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    OK(qs_matrix_create(&matrix, backend, &from_f32, QS_USE_GEMM | QS_USE_GEMV, QS_COMPUTE_F32));
    OK(qs_matrix_update(matrix, &from_int));
    qs_backend_get_memory(backend, &before);
    OK(qs_matrix_update(matrix, &from_f32));
    OK(qs_matrix_update(matrix, &from_int));
    qs_backend_get_memory(backend, &after);
    assert_int_equal(before.used_bytes, after.used_bytes);
    assert_true(after.used_bytes >= qs_matrix_bytes(matrix));

    qs_packed_dequant_rows(&packed, 0, N_OUT, dense);
    OK(qs_op_gemm(backend, false, true, N, N_OUT, N_IN, 1.0f, x, N_IN, floats_on_device(&m, dense, N_OUT * N_IN), N_IN,
                  0.0f, expected, N_OUT));
    OK(qs_op_linear(backend, matrix, x, N, NULL, y));
    OK(qs_op_linear(backend, matrix, x, N_FEW, NULL, y_few));
    const float *got = to_host(&m, y, N * N_OUT), *few = to_host(&m, y_few, N_FEW * N_OUT);
    const float *wanted = to_host(&m, expected, N * N_OUT);
    for (int i = 0; i < N * N_OUT; i++) assert_true(fabsf(got[i] - wanted[i]) < 1e-3f);
    for (int i = 0; i < N_FEW * N_OUT; i++) assert_true(fabsf(few[i] - wanted[i]) < 1e-3f);

    qs_matrix_desc other = from_f32;
    other.n_out = N_OUT - 1;
    FAILS(QS_E_INPUT, qs_matrix_update(matrix, &other));
    qs_matrix_destroy(matrix);
    qs_packed_free(&packed);
    free_all(&m);
    qs_backend_destroy(backend);
}

/* The same products added to what is there. */
static inline void check_adding(qs_backend *backend, qs_linear_job *jobs, const int64_t *n_outs, float *const *products,
                                int n_jobs, const float *x, int64_t n)
{
    op_memory m = {.backend = backend};
    float *before[N_BLOCKS_MAX];
    for (int i = 0; i < n_jobs; i++) {
        int64_t n_y = n * n_outs[i];
        before[i] = draw(&m, 44, n_y, 3.0);
        jobs[i].add = true;
        OK(qs_backend_upload(backend, jobs[i].y, before[i], (size_t)n_y * sizeof(float)));
    }
    OK(qs_op_linears(backend, jobs, n_jobs, x, n));
    for (int i = 0; i < n_jobs; i++) {
        int64_t n_y = n * n_outs[i];
        const float *after = to_host(&m, jobs[i].y, n_y);
        for (int64_t j = 0; j < n_y; j++) {
            double start = (double)before[i][j], expected = start + (double)products[i][j];
            assert_true(fabs((double)after[j] - expected) <= 3e-6 * (fabs(start) + fabs(expected) + 1.0));
        }
    }
    free_all(&m);
}

/* Matrices of different widths and formats with one input: the same bits as one by one. */
static inline void check_linears(qs_backend *backend, int64_t n_in, int64_t n, unsigned zeros)
{
    enum { N_JOBS = 4 };
    static const int64_t n_outs[N_JOBS] = {48, 17, 33, 130};
    op_memory m = {.backend = backend};
    qs_matrix *matrices[N_JOBS];
    qs_linear_job jobs[N_JOBS];
    float *x = drawn_on_device(&m, 42, n * n_in, 1.0), *alone[N_JOBS];
    float *together = on_host(&m, n * 130, sizeof *together);
    for (int i = 0; i < N_JOBS; i++) {
        qs_packed packed;
        fill_packed(&packed, i == 3 ? 8 : 4, n_outs[i], n_in, 32, (zeros >> i & 1) != 0 ? WITH_ZEROS : 0);
        qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = n_outs[i], .n_in = n_in, .packed = &packed};
        OK(qs_matrix_create(&matrices[i], backend, &desc, QS_USE_GEMM | QS_USE_GEMV, QS_COMPUTE_F32));
        qs_packed_free(&packed);
        jobs[i] = (qs_linear_job){.matrix = matrices[i], .y = floats_on_device(&m, NULL, n * n_outs[i])};
        if (i < 2) jobs[i].bias = drawn_on_device(&m, 43, n_outs[i], 1.0);
        OK(qs_op_linear(backend, matrices[i], x, n, jobs[i].bias, jobs[i].y));
        alone[i] = to_host(&m, jobs[i].y, n * n_outs[i]);
    }
    for (int n_jobs = 1; n_jobs <= N_JOBS; n_jobs++) {
        for (int i = 0; i < n_jobs; i++) {
            memset(together, 0xFF, (size_t)(n * n_outs[i]) * sizeof *together);
            OK(qs_backend_upload(backend, jobs[i].y, together, (size_t)(n * n_outs[i]) * sizeof *together));
        }
        OK(qs_op_linears(backend, jobs, n_jobs, x, n));
        for (int i = 0; i < n_jobs; i++) {
            OK(qs_backend_download(backend, together, jobs[i].y, (size_t)(n * n_outs[i]) * sizeof *together));
            assert_memory_equal(together, alone[i], (size_t)(n * n_outs[i]) * sizeof *together);
        }
    }
    check_adding(backend, jobs, n_outs, alone, N_JOBS, x, n);
    for (int i = 0; i < N_JOBS; i++) qs_matrix_destroy(matrices[i]);
    free_all(&m);
}

#endif
