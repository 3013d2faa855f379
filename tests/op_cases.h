/* Cases of every op, for any backend: inputs are drawn on the host, put on the backend's device and results taken back,
 * so that nothing follows a device pointer. Device memory begins as NaN: what a kernel does not write shows.
 *
 * An output holds f64, which holds f32 and int32 exactly. Where a result is a sum, sizes[i] says how large the sum of
 * independent terms would be (the root of the sum of their squares), and differences are measured against that; else
 * against the largest value. */
#ifndef QS_TESTS_OP_CASES_H
#define QS_TESTS_OP_CASES_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backend/backend.h"
#include "base/mem.h"
#include "base/rng.h"
#include "format_data.h"
#include "scratch.h"

enum { N_SHAPE = 6, N_BLOCKS_MAX = 12 };

typedef struct output {
    int64_t n;
    double *values, *sizes; /* [n]; sizes NULL: the largest value is the size of all */
} output;

typedef struct op_case {
    const char *op;
    double tolerance; /* largest difference over size */
    void (*run)(qs_backend *backend, const int64_t shape[N_SHAPE], output *out);
    int64_t shape[N_SHAPE];
} op_case;

static inline void output_new(output *out, int64_t n)
{
    out->n = n;
    OK(QS_NEW(out->values, n, "test output"));
}

static inline void output_free(output *out)
{
    qs_mem_free(out->values);
    qs_mem_free(out->sizes);
    *out = (output){0};
}

/* ---- memory on both sides; all of it goes at the end of a case ---- */

typedef struct op_memory {
    qs_backend *backend;
    void *device[N_BLOCKS_MAX], *host[N_BLOCKS_MAX];
    int n_device, n_host;
} op_memory;

static inline void *on_host(op_memory *memory, int64_t n, size_t element_bytes)
{
    void *pointer;
    assert_true(memory->n_host < N_BLOCKS_MAX);
    OK(qs_mem_array(&pointer, n, element_bytes, "test data"));
    memory->host[memory->n_host++] = pointer;
    return pointer;
}

static inline float *draw(op_memory *memory, uint64_t key, int64_t n, double scale)
{
    float *x = on_host(memory, n, sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(scale * qs_rng_normal(key, (uint64_t)i));
    return x;
}

/* A copy on the device; NULL: bytes 0xFF, a NaN as f32 and as f64. */
static inline void *on_device(op_memory *memory, const void *host, size_t bytes)
{
    void *pointer, *poison = NULL;
    assert_true(memory->n_device < N_BLOCKS_MAX);
    OK(qs_backend_alloc(memory->backend, &pointer, bytes, "test data"));
    memory->device[memory->n_device++] = pointer;
    if (host == NULL) {
        OK(qs_mem_array(&poison, (int64_t)bytes, 1, "poison"));
        host = memset(poison, 0xFF, bytes);
    }
    OK(qs_backend_upload(memory->backend, pointer, host, bytes));
    qs_mem_free(poison);
    return pointer;
}

static inline float *floats_on_device(op_memory *memory, const float *host, int64_t n)
{
    return on_device(memory, host, (size_t)n * sizeof *host);
}

/* Drawn and put on the device at once. */
static inline float *drawn_on_device(op_memory *memory, uint64_t key, int64_t n, double scale)
{
    return floats_on_device(memory, draw(memory, key, n, scale), n);
}

static inline float *to_host(op_memory *memory, const float *device, int64_t n)
{
    float *values = on_host(memory, n, sizeof *values);
    OK(qs_backend_download(memory->backend, values, device, (size_t)n * sizeof *values));
    return values;
}

static inline void free_all(op_memory *memory)
{
    for (int i = 0; i < memory->n_device; i++) qs_backend_free(memory->backend, memory->device[i]);
    for (int i = 0; i < memory->n_host; i++) qs_mem_free(memory->host[i]);
}

/* Takes a result and ends the case. */
static inline void keep_f32(op_memory *memory, const float *device, int64_t n, output *out)
{
    const float *values = to_host(memory, device, n);
    output_new(out, n);
    for (int64_t i = 0; i < n; i++) out->values[i] = (double)values[i];
    free_all(memory);
}

/* ---- ops on rows ---- */

/* shape: tokens, width, vocabulary */
static inline void run_embed(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *table = drawn_on_device(&m, 1, s[2] * s[1], 1.0), *y = floats_on_device(&m, NULL, s[0] * s[1]);
    int32_t *tokens = on_host(&m, s[0], sizeof *tokens);
    for (int64_t i = 0; i < s[0]; i++) tokens[i] = (int32_t)((i * 7919 + s[2] - 1) % s[2]);
    OK(qs_op_embed(backend, table, tokens, s[0], s[1], y));
    keep_f32(&m, y, s[0] * s[1], out);
}

/* shape: rows, width, 1 = in place */
static inline void run_rmsnorm(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *x = drawn_on_device(&m, 1, s[0] * s[1], 3.0), *w = drawn_on_device(&m, 2, s[1], 1.0);
    float *y = s[2] ? x : floats_on_device(&m, NULL, s[0] * s[1]);
    OK(qs_op_rmsnorm(backend, x, w, s[0], s[1], 1e-5, y));
    keep_f32(&m, y, s[0] * s[1], out);
}

static inline float *rope_frequencies(op_memory *m, int64_t half)
{
    float *inv_freq = on_host(m, half, sizeof *inv_freq);
    for (int64_t i = 0; i < half; i++) inv_freq[i] = (float)pow(10000.0, -(double)i / (double)half);
    return floats_on_device(m, inv_freq, half);
}

static inline void run_rope(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *x = drawn_on_device(&m, 3, s[0] * s[1] * s[2], 1.0), *inv_freq = rope_frequencies(&m, s[2] / 2);
    int32_t *positions = on_host(&m, s[0], sizeof *positions);
    for (int64_t i = 0; i < s[0]; i++) positions[i] = (int32_t)(i * 37 % 1900);
    OK(qs_op_rope(backend, x, on_device(&m, positions, (size_t)s[0] * sizeof *positions), inv_freq, s[0], s[1], s[2]));
    keep_f32(&m, x, s[0] * s[1] * s[2], out);
}

static inline void run_silu_mul(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *gate = draw(&m, 13, s[0], 8.0), *up = drawn_on_device(&m, 14, s[0], 1.0);
    gate[0] = -200.0f; /* exp overflows in the naive form */
    if (s[0] > 1) gate[1] = 200.0f;
    float *y = floats_on_device(&m, gate, s[0]);
    OK(qs_op_silu_mul(backend, y, up, s[0], y));
    keep_f32(&m, y, s[0], out);
}

static inline void run_add(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *x = drawn_on_device(&m, 15, s[0], 1.0), *y = drawn_on_device(&m, 16, s[0], 1.0);
    OK(qs_op_add(backend, x, y, s[0]));
    keep_f32(&m, x, s[0], out);
}

/* ---- statistics ---- */

/* shape: rows, width, 1 = columns of very different sizes */
static inline void run_gram(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    int64_t n = s[0], d = s[1];
    float *x = draw(&m, 17, n * d, 1.0);
    for (int64_t i = 0; s[2] && i < n * d; i++) x[i] *= ldexpf(1.0f, (int)(i % d * 29 % 60) - 30);
    double *gram = on_host(&m, d * d, sizeof *gram);
    for (int64_t i = 0; i < d * d; i++) /* a sum to go on from, no larger than an element's square */
        gram[i] = s[2] ? (double)x[i / d] * (double)x[i % d] : 1.0;
    double *device = on_device(&m, gram, (size_t)(d * d) * sizeof *gram);
    OK(qs_op_gram(backend, floats_on_device(&m, x, n * d), n, d, device));
    OK(qs_backend_download(backend, gram, device, (size_t)(d * d) * sizeof *gram));
    output_new(out, d * (d + 1) / 2);
    OK(QS_NEW(out->sizes, out->n, "test output"));
    for (int64_t i = 0, to = 0; i < d; i++)
        for (int64_t j = i; j < d; j++, to++) {
            out->values[to] = gram[i * d + j];
            out->sizes[to] = sqrt(gram[i * d + i] * gram[j * d + j]);
        }
    free_all(&m);
}

static inline void run_abs_stats(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    int64_t d = s[1];
    float *x = drawn_on_device(&m, 18, s[0] * d, 1.0), *abs_max = floats_on_device(&m, draw(&m, 0, d, 0.0), d);
    double *abs_sum = on_device(&m, on_host(&m, d, sizeof *abs_sum), (size_t)d * sizeof *abs_sum);
    for (int pass = 0; pass < 2; pass++) /* sums go on from what is there */
        OK(qs_op_abs_stats(backend, x, s[0], d, abs_sum, abs_max));
    output_new(out, 2 * d);
    OK(qs_backend_download(backend, out->values, abs_sum, (size_t)d * sizeof *abs_sum));
    const float *maxima = to_host(&m, abs_max, d);
    for (int64_t i = 0; i < d; i++) out->values[d + i] = (double)maxima[i];
    free_all(&m);
}

/* Rows of logits with two equal maxima and, in the first row, a token that is ruled out. */
static inline float *draw_logits(op_memory *memory, int64_t n, int64_t n_vocab)
{
    float *logits = draw(memory, 19, n * n_vocab, 4.0);
    for (int64_t i = 0; n_vocab > 3 && i < n; i++) {
        float *row = logits + i * n_vocab, largest = row[0];
        for (int64_t j = 1; j < n_vocab; j++) largest = fmaxf(largest, row[j]);
        row[n_vocab - 1] = row[n_vocab / 2] = largest + 0.25f;
    }
    if (n_vocab > 3) logits[1] = -INFINITY;
    return logits;
}

static inline void run_logit_stats(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    int64_t n = s[0], n_vocab = s[1];
    float *logits = floats_on_device(&m, draw_logits(&m, n, n_vocab), n * n_vocab);
    double *lse = on_host(&m, n, sizeof *lse);
    float *nll = on_host(&m, n, sizeof *nll), *entropy = on_host(&m, n, sizeof *entropy);
    int32_t *argmax = on_host(&m, n, sizeof *argmax), *targets = on_host(&m, n, sizeof *targets);
    for (int64_t i = 0; i < n; i++) targets[i] = (int32_t)((i * 7919) % n_vocab);
    OK(qs_op_logit_stats(backend, logits, targets, n, n_vocab, &(qs_logit_stats){lse, nll, argmax, entropy}));
    output_new(out, 4 * n);
    OK(QS_NEW(out->sizes, 4 * n, "test output"));
    for (int64_t i = 0; i < n; i++) {
        const double row[4] = {lse[i], (double)nll[i], (double)entropy[i], (double)argmax[i]};
        memcpy(out->values + 4 * i, row, sizeof row);
        /* Rounding of f32 exponentials is an error of so many nats, that of a float goes with its value. */
        for (int k = 0; k < 4; k++) out->sizes[4 * i + k] = k == 3 ? 1.0 : 1.0 + fabs(row[k]);
        if (n_vocab > 3) assert_int_equal(argmax[i], n_vocab / 2);
    }
    /* One statistic alone is the same as with all. */
    double kept = lse[n - 1];
    OK(qs_op_logit_stats(backend, logits, NULL, n, n_vocab, &(qs_logit_stats){.lse = lse}));
    assert_true(lse[n - 1] == kept);
    free_all(&m);
}

/* Greedy, at several temperatures, clamped, with the best token banned: the rules of sampler.h row by row; a row that
 * is not finite gives -1. s[2]: rows are flat, so that noise decides. */
static inline void run_sample(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    int64_t n = s[0], n_vocab = s[1];
    float *logits = draw_logits(&m, n, n_vocab);
    qs_sample_rule *rules = on_host(&m, n, sizeof *rules);
    int32_t *tokens = on_host(&m, n, sizeof *tokens);
    if (n_vocab > 3) logits[1] = 0.5f; /* finite, but for the last row */
    for (int64_t i = 0; s[2] != 0 && i < n * n_vocab; i++) logits[i] *= 0.05f;
    if (n > 2) logits[n * n_vocab - 1] = NAN;
    for (int64_t i = 0; i < n; i++)
        rules[i] = (qs_sample_rule){.temperature = i % 3 == 0 ? 0.0 : 0.4 * (double)(i % 7),
                                    .clamp = i % 4 == 1 ? 0.1 : 0.0,
                                    .key = (uint64_t)(77 + i), .step = 5 * i,
                                    .banned = i % 5 == 3 ? (int32_t)(n_vocab / 2) : -1};
    const float *on_device = floats_on_device(&m, logits, n * n_vocab);
    OK(qs_op_sample(backend, on_device, rules, n, n_vocab, tokens));
    output_new(out, n);
    for (int64_t i = 0; i < n; i++) {
        out->values[i] = (double)tokens[i];
        assert_int_equal(tokens[i], qs_sample_by(logits + i * n_vocab, n_vocab, &rules[i]));
        if (i % 5 == 3) assert_int_not_equal(tokens[i], n_vocab / 2);
    }
    if (n > 2) assert_int_equal(tokens[n - 1], -1);
    /* A row does not depend on those beside it. */
    int32_t alone;
    OK(qs_op_sample(backend, on_device + (n / 2) * n_vocab, rules + n / 2, 1, n_vocab, &alone));
    assert_int_equal(alone, tokens[n / 2]);
    free_all(&m);
}

static inline void run_kld(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    int64_t n = s[0], n_vocab = s[1];
    float *f = draw(&m, 20, n * n_vocab, 4.0), *q = draw(&m, 21, n * n_vocab, 0.05), *kld = on_host(&m, n, sizeof *kld);
    double *lse_f = on_host(&m, n, sizeof *lse_f), *lse_q = on_host(&m, n, sizeof *lse_q);
    for (int64_t i = 0; i < n * n_vocab; i++) q[i] += f[i];
    if (n_vocab > 3) q[2] = f[2] = -INFINITY; /* ruled out by both */
    f = floats_on_device(&m, f, n * n_vocab);
    q = floats_on_device(&m, q, n * n_vocab);
    OK(qs_op_logit_stats(backend, f, NULL, n, n_vocab, &(qs_logit_stats){.lse = lse_f}));
    OK(qs_op_logit_stats(backend, q, NULL, n, n_vocab, &(qs_logit_stats){.lse = lse_q}));
    OK(qs_op_kld(backend, f, lse_f, q, lse_q, n, n_vocab, kld));
    /* Both lse carry the rounding of f32 exponentials, so the error of a divergence is absolute: the 1 makes the
     * scale of the comparison 1 nat. */
    output_new(out, n + 1);
    for (int64_t i = 0; i < n; i++) out->values[i] = (double)kld[i];
    out->values[n] = 1.0;
    OK(qs_op_kld(backend, f, lse_f, f, lse_f, n, n_vocab, kld));
    for (int64_t i = 0; i < n; i++) assert_true(kld[i] == 0.0f);
    free_all(&m);
}

/* ---- products ---- */

/* shape: m, n, k, transpositions (bit 0: a, bit 1: b), extra leading dimension, beta */
static inline void run_gemm(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory mem = {.backend = backend};
    int64_t m = s[0], n = s[1], k = s[2], extra = s[4];
    bool trans_a = s[3] & 1, trans_b = s[3] & 2;
    int64_t lda = (trans_a ? m : k) + extra, ldb = (trans_b ? k : n) + extra, ldc = n + extra;
    int64_t n_a = (trans_a ? k : m) * lda, n_b = (trans_b ? n : k) * ldb;
    float *a = drawn_on_device(&mem, 22, n_a > 0 ? n_a : 1, 1.0);
    float *b = drawn_on_device(&mem, 23, n_b > 0 ? n_b : 1, 1.0);
    float *c = draw(&mem, 24, m * ldc, 1.0);
    for (int64_t i = 0; s[5] == 0 && i < m * ldc; i++) /* beta = 0 does not read C */
        if (i % ldc < n) c[i] = NAN;
    c = floats_on_device(&mem, c, m * ldc);
    OK(qs_op_gemm(backend, trans_a, trans_b, m, n, k, -0.5f, a, lda, b, ldb, (float)s[5], c, ldc));
    keep_f32(&mem, c, m * ldc, out);
}

/* The sizes of the elements of a product: roots of sums of squares. w [n_out, n_in] in input order. */
static inline void product_sizes(const float *w, const float *x, const float *bias, int64_t n, int64_t n_out,
                                 int64_t n_in, output *out)
{
    OK(QS_NEW(out->sizes, n * n_out, "test output"));
    for (int64_t r = 0; r < n; r++)
        for (int64_t o = 0; o < n_out; o++) {
            double sum = (double)bias[o] * (double)bias[o];
            for (int64_t j = 0; j < n_in; j++) {
                double term = (double)w[o * n_in + j] * (double)x[r * n_in + j];
                sum += term * term;
            }
            out->sizes[r * n_out + o] = sqrt(sum);
        }
}

/* w: the weights that desc means, for the sizes; spacing: of results, over their size. QS_E_UNSUPPORTED from creation
 * leaves out empty. */
static inline void multiply(qs_backend *backend, const qs_matrix_desc *desc, const float *w, double spacing,
                            unsigned uses, qs_compute compute, int64_t n, output *out)
{
    op_memory m = {.backend = backend};
    qs_matrix *matrix;
    int64_t n_in = desc->n_in, n_out = desc->n_out;
    qs_err err = qs_matrix_create(&matrix, backend, desc, uses, compute);
    if (err == QS_E_UNSUPPORTED) return;
    assert_int_equal(err, QS_OK);
    float *x = draw(&m, 25, n * n_in, 1.0), *bias = draw(&m, 26, n_out, 1.0);
    float *x_device = floats_on_device(&m, x, n * n_in), *y = floats_on_device(&m, NULL, n * n_out);
    OK(qs_op_linear(backend, matrix, x_device, n, floats_on_device(&m, bias, n_out), y));
    const float *with = to_host(&m, y, n * n_out);
    product_sizes(w, x, bias, n, n_out, n_in, out);
    /* Without bias, and after an update with the same contents: the same product. */
    OK(qs_matrix_update(matrix, desc));
    y = floats_on_device(&m, NULL, n * n_out);
    OK(qs_op_linear(backend, matrix, x_device, n, NULL, y));
    const float *without = to_host(&m, y, n * n_out);
    for (int64_t i = 0; i < n * n_out; i++) {
        double b = (double)bias[i % n_out], expected = (double)with[i] - b;
        double slack = spacing * (fabs(expected) + fabs(b) + fabs((double)with[i]));
        assert_true(fabs((double)without[i] - expected) <= 1e-5 * (fabs(expected) + 1.0) + slack);
    }
    qs_matrix_destroy(matrix);
    output_new(out, n * n_out);
    for (int64_t i = 0; i < n * n_out; i++) out->values[i] = (double)with[i];
    free_all(&m);
}

/* shape: n_out, n_in, rows, format, uses, compute */
static inline void run_linear_dense(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    float *w = draw(&m, 27, s[0] * s[1], 0.1);
    uint16_t *half = on_host(&m, s[0] * s[1], sizeof *half);
    qs_matrix_desc desc = {.format = (qs_matrix_format)s[3], .n_out = s[0], .n_in = s[1], .dense = half};
    if (desc.format == QS_MATRIX_F32) desc.dense = w;
    if (desc.format == QS_MATRIX_F16) qs_f16_from_f32_array(half, w, s[0] * s[1]);
    if (desc.format == QS_MATRIX_BF16) qs_bf16_from_f32_array(half, w, s[0] * s[1]);
    multiply(backend, &desc, w, 0.0, (unsigned)s[4], (qs_compute)s[5], s[2], out);
    free_all(&m);
}

enum { WITH_ZEROS = 1, WITH_PERM = 2, CASE_FLAGS = 16, CASE_BF16 = 256 };

static inline void fill_packed(qs_packed *packed, int bits, int64_t n_out, int64_t n_in, int64_t group, int64_t flags)
{
    OK(qs_packed_shape(packed, bits, n_out, n_in, group));
    OK(qs_packed_alloc(packed, flags & WITH_ZEROS, flags & WITH_PERM));
    uint8_t *codes;
    OK(QS_NEW(codes, n_in, "codes"));
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

/* shape: n_out, n_in, rows, bits + CASE_FLAGS * flags (+ CASE_BF16), group, uses */
static inline void run_linear_int(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    qs_packed packed;
    fill_packed(&packed, (int)(s[3] & 15), s[0], s[1], s[4], s[3] / CASE_FLAGS & 3);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = s[0], .n_in = s[1], .packed = &packed};
    float *w = on_host(&m, s[0] * s[1], sizeof *w);
    qs_packed_dequant_rows(&packed, 0, s[0], w);
    multiply(backend, &desc, w, 0.0, (unsigned)s[5], s[3] & CASE_BF16 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32, s[2], out);
    qs_packed_free(&packed);
    free_all(&m);
}

/* shape: n_out, n_in, rows, format + CASE_ROUND * rounding (+ CASE_NESTED, CASE_BF16), block, uses. Results are
 * rounded: they may lie in the next place where sums differ in their last bits, but only few of them do. */
enum { CASE_ROUND = 16, CASE_NESTED = 128 };

static inline void run_linear_format(qs_backend *backend, const int64_t s[N_SHAPE], output *out)
{
    op_memory m = {.backend = backend};
    qs_packed packed;
    draw_packed(&packed, (qs_packed_format)(s[3] & 15), s[0], s[1], s[4], s[3] & CASE_NESTED,
                (qs_rounding)(s[3] / CASE_ROUND & 3));
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = s[0], .n_in = s[1], .packed = &packed};
    double spacing = format_spacing(packed.compute);
    float *w = on_host(&m, s[0] * s[1], sizeof *w);
    qs_packed_dequant_rows(&packed, 0, s[0], w);
    multiply(backend, &desc, w, spacing, (unsigned)s[5], s[3] & CASE_BF16 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32,
             s[2], out);
    qs_packed_free(&packed);
    free_all(&m);
}

#endif
