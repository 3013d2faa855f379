/* Every op of the CPU backend against the plain-C reference, over ragged shapes, for each set of kernels that
 * this CPU has; and every op bit for bit the same with 1, 2 and 4 threads and from run to run.
 * Proves: kernels are right before they are fast (checklist G8, A22: kernel self-test against a scalar
 * reference; results do not depend on threads). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"

/* ---- cases: an op on one shape; outputs of any type come out as f64, which holds f32 and int32 exactly ---- */

enum { N_SHAPE = 6 };
typedef struct output {
    int64_t n;
    double *values;
} output;

typedef struct op_case {
    const char *op;
    double tolerance; /* largest difference over largest reference value */
    void (*run)(qs_backend *backend, const int64_t shape[N_SHAPE], output *out);
    int64_t shape[N_SHAPE];
} op_case;

static float *draw(uint64_t key, int64_t n, double scale)
{
    float *x;
    assert_int_equal(QS_NEW(x, n, "test data"), QS_OK);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * qs_rng_normal(key, (uint64_t)i));
    return x;
}

static void keep_f32(output *out, const float *values, int64_t n)
{
    out->n = n;
    assert_int_equal(QS_NEW(out->values, n, "test output"), QS_OK);
    for (int64_t i = 0; i < n; i++) out->values[i] = (double)values[i];
}

static void run_rmsnorm(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    float *x = draw(1, s[0] * s[1], 3.0), *w = draw(2, s[1], 1.0);
    assert_int_equal(qs_op_rmsnorm(backend, x, w, s[0], s[1], 1e-5, x), QS_OK);
    keep_f32(out, x, s[0] * s[1]);
    qs_mem_free(x);
    qs_mem_free(w);
}

static void run_rope(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    float *x = draw(3, s[0] * s[1] * s[2], 1.0), *inv_freq = draw(4, s[2] / 2, 0.0);
    int32_t *positions;
    assert_int_equal(QS_NEW(positions, s[0], "positions"), QS_OK);
    for (int64_t i = 0; i < s[0]; i++) positions[i] = (int32_t)(i * 37 % 1900);
    for (int64_t i = 0; i < s[2] / 2; i++) inv_freq[i] = (float)pow(10000.0, -2.0 * (double)i / (double)s[2]);
    assert_int_equal(qs_op_rope(backend, x, positions, inv_freq, s[0], s[1], s[2]), QS_OK);
    keep_f32(out, x, s[0] * s[1] * s[2]);
    qs_mem_free(x);
    qs_mem_free(inv_freq);
    qs_mem_free(positions);
}

/* shape: windows, context, heads, kv heads, head_dim, sliding window */
static void run_attention(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    qs_attention_shape shape = {s[2], s[3], s[4], s[5]};
    int64_t n = s[0] * s[1], q_width = s[2] * s[4], kv_width = s[3] * s[4];
    float *q = draw(5, n * q_width, 2.0), *k = draw(6, n * kv_width, 2.0), *v = draw(7, n * kv_width, 1.0);
    float *y = draw(0, n * q_width, 0.0);
    assert_int_equal(qs_op_attention(backend, &shape, q, k, v, s[0], s[1], y), QS_OK);
    keep_f32(out, y, n * q_width);
    float *all[] = {q, k, v, y};
    for (int i = 0; i < 4; i++) qs_mem_free(all[i]);
}

/* shape: batch, cache length, heads, kv heads, head_dim, sliding window; sequences at different positions */
static void run_attention_decode(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    qs_attention_shape shape = {s[2], s[3], s[4], s[5]};
    int64_t q_width = s[2] * s[4], kv_width = s[3] * s[4];
    float *q = draw(8, s[0] * q_width, 2.0), *k = draw(9, s[0] * kv_width, 2.0), *v = draw(10, s[0] * kv_width, 1.0);
    float *k_cache = draw(11, s[0] * s[1] * kv_width, 2.0), *v_cache = draw(12, s[0] * s[1] * kv_width, 1.0);
    float *y = draw(0, s[0] * q_width, 0.0);
    int32_t positions[8];
    for (int64_t b = 0; b < s[0]; b++) positions[b] = (int32_t)((s[1] - 1) * (b + 1) / s[0]);
    assert_int_equal(qs_op_attention_decode(backend, &shape, q, k, v, k_cache, v_cache, positions, s[0], s[1], y),
                     QS_OK);
    assert_true(k_cache[positions[0] * kv_width] == k[0]);
    keep_f32(out, y, s[0] * q_width);
    float *all[] = {q, k, v, k_cache, v_cache, y};
    for (int i = 0; i < 6; i++) qs_mem_free(all[i]);
}

static void run_silu_mul(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    float *gate = draw(13, s[0], 8.0), *up = draw(14, s[0], 1.0);
    gate[0] = -200.0f; /* exp overflows in the naive form */
    if (s[0] > 1) gate[1] = 200.0f;
    assert_int_equal(qs_op_silu_mul(backend, gate, up, s[0], gate), QS_OK);
    keep_f32(out, gate, s[0]);
    qs_mem_free(gate);
    qs_mem_free(up);
}

static void run_add(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    float *x = draw(15, s[0], 1.0), *y = draw(16, s[0], 1.0);
    assert_int_equal(qs_op_add(backend, x, y, s[0]), QS_OK);
    keep_f32(out, x, s[0]);
    qs_mem_free(x);
    qs_mem_free(y);
}

static void run_gram(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    int64_t d = s[1];
    float *x = draw(17, s[0] * d, 1.0);
    double *gram;
    assert_int_equal(QS_NEW(gram, d * d, "gram"), QS_OK);
    for (int64_t i = 0; i < d * d; i++) gram[i] = 1.0;
    assert_int_equal(qs_op_gram(backend, x, s[0], d, gram), QS_OK);
    out->n = d * (d + 1) / 2;
    assert_int_equal(QS_NEW(out->values, out->n, "test output"), QS_OK);
    for (int64_t i = 0, to = 0; i < d; i++)
        for (int64_t j = i; j < d; j++) out->values[to++] = gram[i * d + j];
    qs_mem_free(x);
    qs_mem_free(gram);
}

static void run_abs_stats(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    int64_t d = s[1];
    float *x = draw(18, s[0] * d, 1.0), *abs_max = draw(0, d, 0.0);
    out->n = 2 * d;
    assert_int_equal(QS_NEW(out->values, out->n, "test output"), QS_OK);
    for (int pass = 0; pass < 2; pass++) /* sums go on from what is there */
        assert_int_equal(qs_op_abs_stats(backend, x, s[0], d, out->values, abs_max), QS_OK);
    for (int64_t i = 0; i < d; i++) out->values[d + i] = (double)abs_max[i];
    qs_mem_free(x);
    qs_mem_free(abs_max);
}

static void run_logit_stats(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    int64_t n = s[0], n_vocab = s[1];
    float *logits = draw(19, n * n_vocab, 4.0);
    double lse[8];
    float nll[8], entropy[8];
    int32_t argmax[8], targets[8];
    for (int64_t i = 0; i < n; i++) targets[i] = (int32_t)((i * 7919) % n_vocab);
    if (n_vocab > 3) { /* two equal maxima: the lower index counts; and a token that is ruled out */
        logits[n_vocab - 1] = logits[n_vocab / 2] = 50.0f;
        logits[1] = -INFINITY;
    }
    qs_logit_stats stats = {lse, nll, argmax, entropy};
    assert_int_equal(qs_op_logit_stats(backend, logits, targets, n, n_vocab, &stats), QS_OK);
    out->n = 4 * n;
    assert_int_equal(QS_NEW(out->values, out->n, "test output"), QS_OK);
    for (int64_t i = 0; i < n; i++) {
        out->values[4 * i] = lse[i];
        out->values[4 * i + 1] = (double)nll[i];
        out->values[4 * i + 2] = (double)entropy[i];
        /* Scaled up, so that an argmax off by one is far outside any tolerance. */
        out->values[4 * i + 3] = (double)argmax[i] * 10.0;
    }
    if (n_vocab > 3) assert_int_equal(argmax[0], n_vocab / 2);
    qs_mem_free(logits);
}

static void run_kld(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    int64_t n = s[0], n_vocab = s[1];
    float *f = draw(20, n * n_vocab, 4.0), *q = draw(21, n * n_vocab, 0.05), kld[8];
    double lse_f[8], lse_q[8];
    for (int64_t i = 0; i < n * n_vocab; i++) q[i] += f[i];
    qs_logit_stats stats_f = {.lse = lse_f}, stats_q = {.lse = lse_q};
    assert_int_equal(qs_op_logit_stats(backend, f, NULL, n, n_vocab, &stats_f), QS_OK);
    assert_int_equal(qs_op_logit_stats(backend, q, NULL, n, n_vocab, &stats_q), QS_OK);
    assert_int_equal(qs_op_kld(backend, f, lse_f, q, lse_q, n, n_vocab, kld), QS_OK);
    /* Both lse carry the rounding of f32 exponentials, so the error of a divergence is absolute: the 1 makes the
     * scale of the comparison 1 nat. */
    out->n = n + 1;
    assert_int_equal(QS_NEW(out->values, out->n, "test output"), QS_OK);
    for (int64_t i = 0; i < n; i++) out->values[i] = (double)kld[i];
    out->values[n] = 1.0;
    assert_int_equal(qs_op_kld(backend, f, lse_f, f, lse_f, n, n_vocab, kld), QS_OK);
    for (int64_t i = 0; i < n; i++) assert_true(kld[i] == 0.0f);
    qs_mem_free(f);
    qs_mem_free(q);
}

/* shape: m, n, k, transpositions (bit 0: a, bit 1: b), extra leading dimension, beta */
static void run_gemm(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    int64_t m = s[0], n = s[1], k = s[2], extra = s[4];
    bool trans_a = s[3] & 1, trans_b = s[3] & 2;
    int64_t lda = (trans_a ? m : k) + extra, ldb = (trans_b ? k : n) + extra, ldc = n + extra;
    float *a = draw(22, (trans_a ? k : m) * lda, 1.0), *b = draw(23, (trans_b ? n : k) * ldb, 1.0);
    float *c = draw(24, m * ldc, 1.0);
    assert_int_equal(qs_op_gemm(backend, trans_a, trans_b, m, n, k, -0.5f, a, lda, b, ldb, (float)s[5], c, ldc), QS_OK);
    keep_f32(out, c, m * ldc);
    qs_mem_free(a);
    qs_mem_free(b);
    qs_mem_free(c);
}

/* ---- linear: dense and packed, few and many rows ---- */

static void multiply(qs_backend *backend, const qs_matrix_desc *desc, unsigned uses, qs_compute compute, int64_t n,
                     output *out)
{
    qs_matrix *matrix;
    float *x = draw(25, n * desc->n_in, 1.0), *bias = draw(26, desc->n_out, 1.0), *y = draw(0, n * desc->n_out, 0.0);
    assert_int_equal(qs_matrix_create(&matrix, backend, desc, uses, compute), QS_OK);
    assert_int_equal(qs_op_linear(backend, matrix, x, n, bias, y), QS_OK);
    keep_f32(out, y, n * desc->n_out);
    /* Without bias, and after an update with the same contents: the same product. */
    assert_int_equal(qs_matrix_update(matrix, desc), QS_OK);
    assert_int_equal(qs_op_linear(backend, matrix, x, n, NULL, y), QS_OK);
    for (int64_t i = 0; i < n * desc->n_out; i++) {
        double without = out->values[i] - (double)bias[i % desc->n_out];
        assert_true(fabs((double)y[i] - without) <= 1e-5 * (fabs(without) + 1.0));
    }
    qs_matrix_destroy(matrix);
    qs_mem_free(x);
    qs_mem_free(bias);
    qs_mem_free(y);
}

/* shape: n_out, n_in, rows, format, uses, compute */
static void run_linear_dense(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    float *w = draw(27, s[0] * s[1], 0.1);
    uint16_t *half;
    assert_int_equal(QS_NEW(half, s[0] * s[1], "half weights"), QS_OK);
    qs_matrix_desc desc = {.format = (qs_matrix_format)s[3], .n_out = s[0], .n_in = s[1], .dense = half};
    if (desc.format == QS_MATRIX_F32) desc.dense = w;
    if (desc.format == QS_MATRIX_F16) qs_f16_from_f32_array(half, w, s[0] * s[1]);
    if (desc.format == QS_MATRIX_BF16) qs_bf16_from_f32_array(half, w, s[0] * s[1]);
    multiply(backend, &desc, (unsigned)s[4], (qs_compute)s[5], s[2], out);
    qs_mem_free(w);
    qs_mem_free(half);
}

enum { WITH_ZEROS = 1, WITH_PERM = 2 };

static void fill_packed(qs_packed *packed, int bits, int64_t n_out, int64_t n_in, int64_t group, int64_t flags)
{
    assert_int_equal(qs_packed_shape(packed, bits, n_out, n_in, group), QS_OK);
    assert_int_equal(qs_packed_alloc(packed, flags & WITH_ZEROS, flags & WITH_PERM), QS_OK);
    uint8_t *codes;
    assert_int_equal(QS_NEW(codes, n_in, "codes"), QS_OK);
    for (int64_t o = 0; o < n_out; o++) {
        for (int64_t j = 0; j < n_in; j++) codes[j] = (uint8_t)qs_rng_below(28, (uint64_t)(o * n_in + j), 1 << bits);
        qs_packed_set_row(packed, o, codes);
    }
    for (int64_t i = 0; i < n_out * packed->n_groups; i++) {
        packed->scales[i] = qs_f16_from_f32((float)(0.02 + 0.1 * qs_rng_unit(29, (uint64_t)i)));
        if (packed->zeros != NULL) packed->zeros[i] = (uint8_t)qs_rng_below(30, (uint64_t)i, 1 << bits);
    }
    for (int64_t j = n_in - 1; packed->perm != NULL && j > 0; j--) {
        int64_t other = qs_rng_below(31, (uint64_t)j, j + 1);
        int32_t kept = packed->perm[j];
        packed->perm[j] = packed->perm[other];
        packed->perm[other] = kept;
    }
    qs_mem_free(codes);
}

/* shape: n_out, n_in, rows, bits + 16 * flags, group, uses (compute f32) */
static void run_linear_int(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    qs_packed packed;
    fill_packed(&packed, (int)(s[3] & 15), s[0], s[1], s[4], s[3] >> 4);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = s[0], .n_in = s[1], .packed = &packed};
    multiply(backend, &desc, (unsigned)s[5], QS_COMPUTE_F32, s[2], out);
    qs_packed_free(&packed);
}

static const op_case cases[] = {
    {"rmsnorm", 1e-6, run_rmsnorm, {1, 1}},
    {"rmsnorm", 1e-6, run_rmsnorm, {1, 576}},
    {"rmsnorm", 1e-6, run_rmsnorm, {67, 577}},
    {"rmsnorm", 1e-6, run_rmsnorm, {5, 31}},
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
    {"silu_mul", 1e-6, run_silu_mul, {1}},
    {"silu_mul", 1e-6, run_silu_mul, {1537}},
    {"silu_mul", 1e-6, run_silu_mul, {70001}},
    {"add", 0.0, run_add, {1}},
    {"add", 0.0, run_add, {70001}},
    {"gram", 1e-6, run_gram, {1, 1}},
    {"gram", 1e-6, run_gram, {700, 65}},
    {"gram", 1e-6, run_gram, {257, 211}},
    {"abs_stats", 1e-12, run_abs_stats, {1, 1}},
    {"abs_stats", 1e-12, run_abs_stats, {300, 97}},
    {"abs_stats", 1e-12, run_abs_stats, {51, 577}},
    {"logit_stats", 1e-6, run_logit_stats, {1, 1}},
    {"logit_stats", 1e-6, run_logit_stats, {3, 15}},
    {"logit_stats", 1e-6, run_logit_stats, {2, 49152}},
    {"logit_stats", 1e-6, run_logit_stats, {2, 151937}},
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
    {"linear gemv f32", 5e-6, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMV, 0}},
    {"linear gemv f32", 5e-6, run_linear_dense, {37, 577, 8, QS_MATRIX_F32, QS_USE_GEMV, 0}},
    {"linear gemv f16", 5e-6, run_linear_dense, {19, 35, 3, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv f16", 5e-6, run_linear_dense, {130, 576, 1, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv f16", 5e-6, run_linear_dense, {33, 1001, 7, QS_MATRIX_F16, QS_USE_GEMV, 0}},
    {"linear gemv bf16", 5e-6, run_linear_dense, {65, 577, 2, QS_MATRIX_BF16, QS_USE_GEMV, 0}},
    {"linear gemv bf16", 5e-6, run_linear_dense, {17, 96, 5, QS_MATRIX_BF16, QS_USE_GEMV, 0}},
    {"linear gemm f32", 5e-6, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", 5e-6, run_linear_dense, {100, 33, 129, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", 5e-6, run_linear_dense, {192, 576, 300, QS_MATRIX_F16, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm f32", 5e-6, run_linear_dense, {577, 70, 9, QS_MATRIX_BF16, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", 5e-6, run_linear_dense, {1, 1, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", 5e-6, run_linear_dense, {100, 33, 129, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", 5e-6, run_linear_dense, {192, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm bf16", 5e-6, run_linear_dense, {577, 70, 9, QS_MATRIX_F16, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm int4", 5e-6, run_linear_int, {130, 97, 70, 4 + 16 * WITH_ZEROS, 32, QS_USE_GEMM}},
    {"linear gemm int3", 5e-6, run_linear_int, {67, 129, 10, 3 + 16 * (WITH_ZEROS | WITH_PERM), 40, QS_USE_GEMM}},
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
static void for_each_case(void (*visit)(const op_case *row, void *context), void *context)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) visit(&cases[i], context);
    static const int bits[] = {2, 3, 4, 8};
    for (size_t b = 0; b < 4; b++)
        for (size_t i = 0; i < sizeof int_shapes / sizeof *int_shapes; i++)
            for (int64_t flags = 0; flags < 4; flags++) {
                const int64_t *s = int_shapes[i];
                op_case row = {code_names[bits[b]], 5e-6, run_linear_int,
                               {s[0], s[1], s[2], bits[b] + 16 * flags, s[3], QS_USE_GEMV}};
                visit(&row, context);
            }
}

/* ---- parity ---- */

typedef struct parity {
    qs_backend *reference, *tested;
    const char *entry;
    int64_t n_cases, n_failed;
} parity;

static double residual(const output *got, const output *expected)
{
    double largest = 0.0, difference = 0.0;
    for (int64_t i = 0; i < expected->n; i++) {
        if (!isfinite(got->values[i])) return INFINITY;
        largest = fmax(largest, fabs(expected->values[i]));
        difference = fmax(difference, fabs(got->values[i] - expected->values[i]));
    }
    return difference == 0.0 ? 0.0 : difference / largest;
}

static void compare(const op_case *row, void *context)
{
    parity *p = context;
    output got = {0}, expected = {0};
    row->run(p->tested, row->shape, &got);
    row->run(p->reference, row->shape, &expected);
    assert_int_equal(got.n, expected.n);
    double r = residual(&got, &expected);
    bool good = r <= row->tolerance;
    char shape[96];
    int at = 0;
    for (int i = 0; i < N_SHAPE; i++) at += snprintf(shape + at, sizeof shape - (size_t)at, " %lld", (long long)row->shape[i]);
    printf("%-10s %-18s%-34s residual %.1e of %.0e %s\n", p->entry, row->op, shape, r, row->tolerance,
           good ? "PASS" : "FAIL");
    p->n_cases++;
    if (!good) p->n_failed++;
    qs_mem_free(got.values);
    qs_mem_free(expected.values);
}

static const char *const entries[] = {"cpu", "cpu-avx2"};

static void test_parity(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        parity p = {.entry = entries[i]};
        assert_int_equal(qs_backend_create(&p.reference, "reference", 0, 2), QS_OK);
        qs_err err = qs_backend_create(&p.tested, entries[i], 0, 2);
        if (err == QS_E_UNSUPPORTED) {
            printf("%-10s SKIP: %s\n", entries[i], qs_error_text());
        } else {
            assert_int_equal(err, QS_OK);
            printf("%-10s %s: %s\n", entries[i], qs_backend_device(p.tested), qs_backend_describe(p.tested));
            for_each_case(compare, &p);
            printf("%-10s %lld cases, %lld failed\n", entries[i], (long long)p.n_cases, (long long)p.n_failed);
            assert_int_equal(p.n_failed, 0);
        }
        qs_backend_destroy(p.tested);
        qs_backend_destroy(p.reference);
    }
}

/* ---- threads ---- */

enum { N_TEAMS = 4 };
static const int team_sizes[N_TEAMS] = {1, 2, 4, 2};

typedef struct teams {
    qs_backend *backends[N_TEAMS];
    int64_t n_cases;
} teams;

static void compare_teams(const op_case *row, void *context)
{
    teams *t = context;
    output first = {0};
    row->run(t->backends[0], row->shape, &first);
    for (int i = 0; i < N_TEAMS; i++) {
        output again = {0};
        row->run(t->backends[i], row->shape, &again);
        assert_int_equal(again.n, first.n);
        if (memcmp(again.values, first.values, (size_t)first.n * sizeof *first.values) != 0)
            fail_msg("%s differs between 1 and %d threads", row->op, team_sizes[i]);
        qs_mem_free(again.values);
    }
    t->n_cases++;
    qs_mem_free(first.values);
}

/* Large enough that the rows are really shared out. */
static const op_case large_cases[] = {
    {"rmsnorm", 0, run_rmsnorm, {300, 576}},
    {"rope", 0, run_rope, {256, 9, 64}},
    {"attention", 0, run_attention, {2, 200, 9, 3, 64, 0}},
    {"attention_decode", 0, run_attention_decode, {4, 700, 9, 3, 64, 0}},
    {"gram", 0, run_gram, {600, 576}},
    {"abs_stats", 0, run_abs_stats, {600, 576}},
    {"logit_stats", 0, run_logit_stats, {8, 49152}},
    {"gemm", 0, run_gemm, {600, 800, 300, 1, 0, 1}},
    {"linear gemm f32", 0, run_linear_dense, {576, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", 0, run_linear_dense, {1536, 576, 300, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemm f32", 0, run_linear_dense, {1536, 576, 37, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32}},
    {"linear gemm bf16", 0, run_linear_dense, {576, 1536, 1, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16}},
    {"linear gemv f16", 0, run_linear_dense, {5000, 576, 1, QS_MATRIX_F16, QS_USE_GEMV, 0}},
};

static void test_threads_do_not_matter(void **state)
{
    (void)state;
    teams t = {0};
    for (int i = 0; i < N_TEAMS; i++)
        assert_int_equal(qs_backend_create(&t.backends[i], "cpu", 0, team_sizes[i]), QS_OK);
    for_each_case(compare_teams, &t);
    for (size_t i = 0; i < sizeof large_cases / sizeof *large_cases; i++) compare_teams(&large_cases[i], &t);
    printf("%lld cases, bit for bit equal with 1, 2 and 4 threads\n", (long long)t.n_cases);
    for (int i = 0; i < N_TEAMS; i++) qs_backend_destroy(t.backends[i]);
}

/* ---- memory and updates ---- */

/* Updating between formats re-uses the memory, and the product follows the new contents. */
static void test_update_replaces_contents(void **state)
{
    (void)state;
    enum { N_OUT = 70, N_IN = 200 };
    qs_backend *backend;
    qs_backend_memory before, after;
    qs_packed packed;
    qs_matrix *matrix;
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 2), QS_OK);
    float *w = draw(40, N_OUT * N_IN, 1.0), *x = draw(41, 9 * N_IN, 1.0), *dense = draw(0, N_OUT * N_IN, 0.0);
    float y[9 * N_OUT], y_few[2 * N_OUT], expected[9 * N_OUT];
    fill_packed(&packed, 3, N_OUT, N_IN, 64, WITH_ZEROS | WITH_PERM);
    qs_matrix_desc from_f32 = {.format = QS_MATRIX_F32, .n_out = N_OUT, .n_in = N_IN, .dense = w};
    qs_matrix_desc from_int = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    assert_int_equal(qs_matrix_create(&matrix, backend, &from_f32, QS_USE_GEMM | QS_USE_GEMV, QS_COMPUTE_F32), QS_OK);
    assert_int_equal(qs_matrix_update(matrix, &from_int), QS_OK);
    qs_backend_get_memory(backend, &before);
    assert_int_equal(qs_matrix_update(matrix, &from_f32), QS_OK);
    assert_int_equal(qs_matrix_update(matrix, &from_int), QS_OK);
    qs_backend_get_memory(backend, &after);
    assert_int_equal(before.used_bytes, after.used_bytes);
    assert_true(after.used_bytes >= qs_matrix_bytes(matrix));

    qs_packed_dequant_rows(&packed, 0, N_OUT, dense);
    assert_int_equal(qs_op_gemm(backend, false, true, 9, N_OUT, N_IN, 1.0f, x, N_IN, dense, N_IN, 0.0f, expected,
                                N_OUT), QS_OK);
    assert_int_equal(qs_op_linear(backend, matrix, x, 9, NULL, y), QS_OK);
    assert_int_equal(qs_op_linear(backend, matrix, x, 2, NULL, y_few), QS_OK);
    for (int i = 0; i < 9 * N_OUT; i++) assert_true(fabsf(y[i] - expected[i]) < 1e-3f);
    for (int i = 0; i < 2 * N_OUT; i++) assert_true(fabsf(y_few[i] - expected[i]) < 1e-3f);

    qs_matrix_desc other = from_f32;
    other.n_out = N_OUT - 1;
    assert_int_equal(qs_matrix_update(matrix, &other), QS_E_INPUT);
    qs_matrix_destroy(matrix);
    qs_packed_free(&packed);
    qs_mem_free(w);
    qs_mem_free(x);
    qs_mem_free(dense);
    qs_backend_destroy(backend);
}

static void test_memory_is_counted(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_backend_memory start, held, end;
    void *pointer, *other;
    char text[16] = "";
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 1), QS_OK);
    qs_backend_get_memory(backend, &start);
    assert_int_equal(qs_backend_alloc(backend, &pointer, 1000, "test"), QS_OK);
    qs_backend_get_memory(backend, &held);
    assert_int_equal(held.used_bytes, start.used_bytes + 1000);
    assert_int_equal(qs_backend_alloc(backend, &other, 16, "test"), QS_OK);
    assert_int_equal(qs_backend_upload(backend, pointer, "through the seam", 16), QS_OK);
    assert_int_equal(qs_backend_sync(backend), QS_OK);
    assert_int_equal(qs_backend_copy(backend, other, pointer, 16), QS_OK);
    assert_int_equal(qs_backend_download(backend, text, other, 16), QS_OK);
    assert_memory_equal(text, "through the seam", 16);
    qs_backend_free(backend, pointer);
    qs_backend_free(backend, other);
    qs_backend_get_memory(backend, &end);
    assert_int_equal(end.used_bytes, start.used_bytes);
    assert_true(end.peak_bytes >= held.used_bytes);
    assert_true(end.total_bytes > end.used_bytes && end.free_bytes > 0);
    qs_backend_destroy(backend);
}

/* ---- refusals ---- */

static void test_refusals(void **state)
{
    (void)state;
    qs_backend *backend;
    qs_matrix *matrix;
    float w[6] = {1, 2, 3, 4, 5, 6}, x[9 * 3] = {0}, y[9 * 2];
    assert_int_equal(qs_backend_create(&backend, "tpu", 0, 1), QS_E_USAGE);
    assert_null(backend);
    qs_err err = qs_backend_create(&backend, "cuda", 0, 1);
    if (err == QS_OK) qs_backend_destroy(backend);
    else {
        assert_int_equal(err, QS_E_UNSUPPORTED);
        assert_non_null(strstr(qs_error_text(), "CUDA"));
    }
    assert_int_equal(qs_backend_create(&backend, "auto", 0, 1), QS_OK);
    assert_non_null(strstr(qs_backend_describe(backend), "auto"));
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = 2, .n_in = 3, .dense = w};
    assert_int_equal(qs_matrix_create(&matrix, backend, &desc, 0, QS_COMPUTE_F32), QS_E_USAGE);
    assert_int_equal(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32), QS_OK);
    /* Nine rows are no longer few: the matrix was not prepared for that, and no slower path is taken. */
    assert_int_equal(qs_op_linear(backend, matrix, x, 9, NULL, y), QS_E_USAGE);
    assert_int_equal(qs_op_linear(backend, matrix, x, 0, NULL, y), QS_OK);
    qs_matrix_destroy(matrix);
    int32_t position = 4, target = 7;
    qs_attention_shape shape = {3, 2, 2, 0};
    assert_int_equal(qs_op_attention(backend, &shape, x, x, x, 1, 1, y), QS_E_USAGE);
    shape.n_kv_heads = 3;
    assert_int_equal(qs_op_attention_decode(backend, &shape, x, x, x, y, y, &position, 1, 4, y), QS_E_USAGE);
    qs_logit_stats stats = {.nll = y};
    assert_int_equal(qs_op_logit_stats(backend, x, &target, 1, 7, &stats), QS_E_USAGE);
    qs_backend_destroy(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parity),
        cmocka_unit_test(test_threads_do_not_matter),
        cmocka_unit_test(test_update_replaces_contents),
        cmocka_unit_test(test_memory_is_counted),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("backend", tests, NULL, NULL);
}
