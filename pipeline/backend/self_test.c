#include "backend/self_test.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

enum { BUFFERS_MAX = 12, OUT_MAX = 8192 };

/* One op on one backend: device memory that it was given, and its results on the host. */
typedef struct trial {
    qs_backend *backend;
    void *held[BUFFERS_MAX];
    int n_held;
    double out[OUT_MAX];
    int64_t n_out;
} trial;

/* ---- data ---- */

static qs_err put(trial *t, void *out_pointer, const void *data, size_t bytes)
{
    void *pointer;
    qs_err err = qs_backend_alloc(t->backend, &pointer, bytes, "data of the self-test");
    if (err != QS_OK) return err;
    t->held[t->n_held++] = pointer;
    memcpy(out_pointer, &pointer, sizeof pointer);
    return qs_backend_upload(t->backend, pointer, data, bytes);
}

static void fill(float *x, int64_t n, uint64_t key)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2.0 * qs_rng_unit(key, (uint64_t)i) - 1.0);
}

/* n values between -1 and 1; zeros for key 0. */
static qs_err put_floats(trial *t, float **out, int64_t n, uint64_t key)
{
    float x[OUT_MAX] = {0};
    if (key != 0) fill(x, n, key);
    return put(t, out, x, (size_t)n * sizeof *x);
}

static qs_err get(trial *t, const float *device, int64_t n)
{
    float x[OUT_MAX];
    qs_err err = qs_backend_download(t->backend, x, device, (size_t)n * sizeof *x);
    for (int64_t i = 0; i < n && err == QS_OK; i++) t->out[t->n_out++] = (double)x[i];
    return err;
}

/* ---- the ops ---- */

static qs_err run_embed(trial *t)
{
    static const int32_t tokens[] = {7, 0, 12, 7};
    float *table, *out;
    qs_err err;
    QS_TRY(put_floats(t, &table, 13 * 40, 1));
    QS_TRY(put_floats(t, &out, 4 * 40, 0));
    QS_TRY(qs_op_embed(t->backend, table, tokens, 4, 40, out));
    QS_TRY(get(t, out, 4 * 40));
out:
    return err;
}

static qs_err run_rmsnorm(trial *t)
{
    float *x, *weight;
    qs_err err;
    QS_TRY(put_floats(t, &x, 5 * 200, 1));
    QS_TRY(put_floats(t, &weight, 200, 2));
    QS_TRY(qs_op_rmsnorm(t->backend, x, weight, 5, 200, 1e-5, x));
    QS_TRY(get(t, x, 5 * 200));
out:
    return err;
}

static qs_err run_rope(trial *t)
{
    static const int32_t at[] = {0, 1, 500};
    float *x, *inv_freq;
    int32_t *positions;
    qs_err err;
    QS_TRY(put_floats(t, &x, 3 * 4 * 32, 1));
    QS_TRY(put_floats(t, &inv_freq, 16, 2));
    QS_TRY(put(t, &positions, at, sizeof at));
    QS_TRY(qs_op_rope(t->backend, x, positions, inv_freq, 3, 4, 32));
    QS_TRY(get(t, x, 3 * 4 * 32));
out:
    return err;
}

static const qs_attention_shape shape = {.n_heads = 4, .n_kv_heads = 2, .head_dim = 32};

static qs_err run_attention(trial *t)
{
    enum { N = 2 * 9 };
    float *q, *k, *v, *out;
    qs_err err;
    QS_TRY(put_floats(t, &q, N * 128, 1));
    QS_TRY(put_floats(t, &k, N * 64, 2));
    QS_TRY(put_floats(t, &v, N * 64, 3));
    QS_TRY(put_floats(t, &out, N * 128, 0));
    QS_TRY(qs_op_attention(t->backend, &shape, q, k, v, 2, 9, out));
    QS_TRY(get(t, out, N * 128));
out:
    return err;
}

static qs_err run_attention_decode(trial *t)
{
    static const int32_t at[] = {30, 5};
    float *q, *k, *v, *inv_freq, *k_cache, *v_cache, *out;
    int32_t *positions;
    qs_err err;
    QS_TRY(put_floats(t, &q, 2 * 128, 1));
    QS_TRY(put_floats(t, &k, 2 * 64, 2));
    QS_TRY(put_floats(t, &v, 2 * 64, 3));
    QS_TRY(put_floats(t, &inv_freq, 16, 6));
    QS_TRY(put_floats(t, &k_cache, 2 * 40 * 64, 4));
    QS_TRY(put_floats(t, &v_cache, 2 * 40 * 64, 5));
    QS_TRY(put_floats(t, &out, 2 * 128, 0));
    QS_TRY(put(t, &positions, at, sizeof at));
    QS_TRY(qs_op_attention_decode(t->backend, &shape, q, k, v, inv_freq, k_cache, v_cache, positions, 2, 40, out));
    QS_TRY(get(t, out, 2 * 128));
    QS_TRY(get(t, k_cache + 30 * 64, 64));
out:
    return err;
}

static qs_err run_elementwise(trial *t)
{
    float *x, *y;
    qs_err err;
    QS_TRY(put_floats(t, &x, 1003, 1));
    QS_TRY(put_floats(t, &y, 1003, 2));
    QS_TRY(qs_op_silu_mul(t->backend, x, y, 1003, x));
    QS_TRY(qs_op_add(t->backend, x, y, 1003));
    QS_TRY(get(t, x, 1003));
out:
    return err;
}

static qs_err run_statistics(trial *t)
{
    enum { N = 65, D = 24 };
    static const double zeros[D * D];
    float *x, *most;
    double *gram, *sum, row[D];
    qs_err err;
    QS_TRY(put_floats(t, &x, N * D, 1));
    QS_TRY(put_floats(t, &most, D, 0));
    QS_TRY(put(t, &gram, zeros, sizeof zeros));
    QS_TRY(put(t, &sum, zeros, sizeof row));
    QS_TRY(qs_op_gram(t->backend, x, N, D, gram));
    QS_TRY(qs_op_abs_stats(t->backend, x, N, D, sum, most));
    QS_TRY(get(t, most, D));
    for (int i = 0; i <= D; i++) {
        int first = i < D ? i : 0;
        QS_TRY(qs_backend_download(t->backend, row, i < D ? gram + i * D : sum, sizeof row));
        for (int j = first; j < D; j++) t->out[t->n_out++] = row[j];
    }
out:
    return err;
}

static qs_err run_logits(trial *t)
{
    enum { N = 3, V = 1001 };
    static const int32_t targets[N] = {0, 17, V - 1};
    double lse[2][N];
    static const qs_sample_rule rules[N] = {{.banned = -1}, {.temperature = 0.7, .key = 5, .banned = 3},
                                            {.temperature = 2.0, .clamp = 0.1, .step = 9, .banned = -1}};
    float nll[N], entropy[N], kld[N], *f, *q;
    int32_t argmax[N], tokens[N];
    qs_logit_stats stats = {.lse = lse[0], .nll = nll, .argmax = argmax, .entropy = entropy};
    qs_err err;
    QS_TRY(put_floats(t, &f, N * V, 1));
    QS_TRY(put_floats(t, &q, N * V, 2));
    QS_TRY(qs_op_logit_stats(t->backend, f, targets, N, V, &stats));
    stats = (qs_logit_stats){.lse = lse[1]};
    QS_TRY(qs_op_logit_stats(t->backend, q, NULL, N, V, &stats));
    QS_TRY(qs_op_kld(t->backend, f, lse[0], q, lse[1], N, V, kld));
    QS_TRY(qs_op_sample(t->backend, f, rules, N, V, tokens));
    for (int i = 0; i < N; i++) {
        const double row[] = {lse[0][i], (double)nll[i], (double)argmax[i] / V, (double)entropy[i], (double)kld[i],
                              (double)tokens[i] / V};
        for (size_t j = 0; j < sizeof row / sizeof *row; j++) t->out[t->n_out++] = row[j];
    }
out:
    return err;
}

static qs_err run_gemm(trial *t)
{
    enum { M = 19, N = 33, K = 45 };
    float *a, *b, *c;
    qs_err err;
    QS_TRY(put_floats(t, &a, M * K, 1));
    QS_TRY(put_floats(t, &b, N * K, 2));
    QS_TRY(put_floats(t, &c, M * N, 3));
    QS_TRY(qs_op_gemm(t->backend, false, true, M, N, K, 0.5f, a, K, b, K, -1.0f, c, N));
    QS_TRY(get(t, c, M * N));
out:
    return err;
}

/* Two products of one input, one with a bias, one onto what is there. */
static qs_err run_linear(trial *t, const qs_matrix_desc *desc, unsigned uses, qs_compute compute, int64_t n)
{
    qs_matrix *matrices[2] = {NULL, NULL};
    float *x, *bias, *y[2];
    qs_err err;
    QS_TRY(put_floats(t, &x, n * desc->n_in, 1));
    QS_TRY(put_floats(t, &bias, desc->n_out, 2));
    for (int i = 0; i < 2; i++) {
        QS_TRY(put_floats(t, &y[i], n * desc->n_out, i == 0 ? 0 : 4));
        QS_TRY(qs_matrix_create(&matrices[i], t->backend, desc, uses, compute));
    }
    qs_linear_job jobs[] = {{.matrix = matrices[0], .bias = bias, .y = y[0]},
                            {.matrix = matrices[1], .y = y[1], .add = true}};
    QS_TRY(qs_op_linears(t->backend, jobs, 2, x, n));
    for (int i = 0; i < 2; i++) QS_TRY(get(t, y[i], n * desc->n_out));
out:
    qs_matrix_destroy(matrices[0]);
    qs_matrix_destroy(matrices[1]);
    return err;
}

enum { N_OUT = 48, N_IN = 160, FEW = 3, MANY = 40 };

static qs_err run_dense(trial *t, qs_matrix_format format, unsigned uses, qs_compute compute, int64_t n)
{
    float weights[N_OUT * N_IN];
    uint16_t half[N_OUT * N_IN];
    fill(weights, N_OUT * N_IN, 3);
    if (format == QS_MATRIX_F16) qs_f16_from_f32_array(half, weights, N_OUT * N_IN);
    else qs_bf16_from_f32_array(half, weights, N_OUT * N_IN);
    qs_matrix_desc desc = {.format = format, .n_out = N_OUT, .n_in = N_IN, .dense = half};
    if (format == QS_MATRIX_F32) desc.dense = weights;
    return run_linear(t, &desc, uses, compute, n);
}

static qs_err run_packed(trial *t, int bits, unsigned uses, qs_compute compute, int64_t n)
{
    qs_packed packed = {0};
    uint8_t codes[N_IN];
    qs_err err;
    QS_TRY(qs_packed_shape(&packed, bits, N_OUT, N_IN, 32));
    QS_TRY(qs_packed_alloc(&packed, true, false));
    for (int64_t row = 0; row < N_OUT; row++) {
        for (int64_t j = 0; j < N_IN; j++)
            codes[j] = (uint8_t)qs_rng_below(4, (uint64_t)(row * N_IN + j), (int64_t)1 << bits);
        qs_packed_set_row(&packed, row, codes);
    }
    for (int64_t i = 0; i < packed.n_out * packed.n_groups; i++) {
        packed.scales[i] = qs_f16_from_f32((float)(0.01 + 0.01 * qs_rng_unit(5, (uint64_t)i)));
        packed.zeros[i] = (uint8_t)qs_rng_below(6, (uint64_t)i, (int64_t)1 << bits);
    }
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    QS_TRY(run_linear(t, &desc, uses, compute, n));
out:
    qs_packed_free(&packed);
    return err;
}

/* NF4, FP4 (double-quantised) and int8, some of whose inputs are outliers. */
static qs_err run_format(trial *t, qs_packed_format format, qs_rounding compute, unsigned uses, int64_t n)
{
    const float threshold = 0.95f;
    bool is_int8 = format == QS_PACKED_INT8, nested = format == QS_PACKED_FP4;
    qs_packed packed = {0};
    qs_err err;
    QS_TRY(is_int8 ? qs_packed_shape_int8(&packed, N_OUT, N_IN, threshold)
                   : qs_packed_shape_blocks(&packed, format, N_OUT, N_IN, 64, compute));
    QS_TRY(qs_packed_alloc_absmax(&packed, nested));
    for (int64_t i = 0; i < packed.n_out * packed.row_bytes; i++)
        packed.codes[i] = (uint8_t)(1 + qs_rng_below(4, (uint64_t)i, 255));
    for (int64_t i = 0; i < packed.n_absmax; i++) {
        if (nested) packed.absmax_codes[i] = (uint8_t)qs_rng_below(5, (uint64_t)i, 256);
        else packed.absmax[i] = (float)(0.1 + 0.1 * qs_rng_unit(5, (uint64_t)i));
    }
    if (nested) packed.nested_absmax[0] = 0.05f, packed.nested_offset = 0.1f; /* there are fewer than 256 blocks */
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    QS_TRY(run_linear(t, &desc, uses, QS_COMPUTE_F32, n));
out:
    qs_packed_free(&packed);
    return err;
}

/* EXL2: every width, and groups that begin within a block of columns. */
static qs_err run_exl2(trial *t, unsigned uses, int64_t n)
{
    static const qs_packed_group groups[] = {{0, 8}, {32, 6}, {64, 5}, {96, 4}, {128, 2}};
    enum { N_GROUPS = sizeof groups / sizeof *groups };
    qs_packed packed = {0};
    qs_err err;
    QS_TRY(qs_packed_shape_exl2(&packed, N_OUT, N_IN, groups, N_GROUPS));
    QS_TRY(qs_packed_alloc_exl2(&packed, groups));
    for (int64_t i = 0; i < N_OUT * packed.row_bytes; i++) packed.codes[i] = (uint8_t)qs_rng_below(4, (uint64_t)i, 256);
    for (int64_t i = 0; i < N_OUT * N_GROUPS; i++) packed.scale_codes[i] = (uint8_t)qs_rng_below(5, (uint64_t)i, 16);
    for (int64_t g = 0; g < N_GROUPS; g++) packed.scale_max[g] = qs_f16_from_f32(0.5f / (float)(1 << groups[g].bits));
    for (int64_t j = 0; j < N_IN; j++) packed.perm[j] = (int32_t)(j * 7 % N_IN);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = N_OUT, .n_in = N_IN, .packed = &packed};
    QS_TRY(run_linear(t, &desc, uses, QS_COMPUTE_F32, n));
out:
    qs_packed_free(&packed);
    return err;
}

static qs_err run_f32_few(trial *t) { return run_dense(t, QS_MATRIX_F32, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_f16_few(trial *t) { return run_dense(t, QS_MATRIX_F16, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_bf16_few(trial *t) { return run_dense(t, QS_MATRIX_BF16, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_f32_many(trial *t) { return run_dense(t, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_F32, MANY); }
static qs_err run_products_16(trial *t) { return run_dense(t, QS_MATRIX_F32, QS_USE_GEMM, QS_COMPUTE_BF16, MANY); }
static qs_err run_int2_few(trial *t) { return run_packed(t, 2, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_int3_few(trial *t) { return run_packed(t, 3, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_int4_few(trial *t) { return run_packed(t, 4, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_int8_few(trial *t) { return run_packed(t, 8, QS_USE_GEMV, QS_COMPUTE_F32, FEW); }
static qs_err run_int4_many(trial *t) { return run_packed(t, 4, QS_USE_GEMM, QS_COMPUTE_F32, MANY); }
static qs_err run_nf4_few(trial *t) { return run_format(t, QS_PACKED_NF4, QS_ROUND_F32, QS_USE_GEMV, FEW); }
static qs_err run_nf4_bf16(trial *t) { return run_format(t, QS_PACKED_NF4, QS_ROUND_BF16, QS_USE_GEMV, FEW); }
static qs_err run_nf4_many(trial *t) { return run_format(t, QS_PACKED_NF4, QS_ROUND_F32, QS_USE_GEMM, MANY); }
static qs_err run_fp4_few(trial *t) { return run_format(t, QS_PACKED_FP4, QS_ROUND_F32, QS_USE_GEMV, FEW); }
static qs_err run_outliers_few(trial *t) { return run_format(t, QS_PACKED_INT8, QS_ROUND_F16, QS_USE_GEMV, FEW); }
static qs_err run_outliers_many(trial *t) { return run_format(t, QS_PACKED_INT8, QS_ROUND_F16, QS_USE_GEMM, MANY); }
static qs_err run_exl2_one(trial *t) { return run_exl2(t, QS_USE_GEMV, 1); }
static qs_err run_exl2_few(trial *t) { return run_exl2(t, QS_USE_GEMV, FEW); }
static qs_err run_exl2_many(trial *t) { return run_exl2(t, QS_USE_GEMM, MANY); }

/* Many rows in 16 bits on what a decoder holds: stored weights, where a backend takes so many rows of them. */
static unsigned stored_uses(const trial *t)
{
    return qs_backend_gemv_rows(t->backend) >= MANY ? QS_USE_GEMV : QS_USE_GEMM;
}
static qs_err run_f16_stored(trial *t) { return run_dense(t, QS_MATRIX_F16, stored_uses(t), QS_COMPUTE_BF16, MANY); }
static qs_err run_int4_stored(trial *t) { return run_packed(t, 4, stored_uses(t), QS_COMPUTE_BF16, MANY); }

/* An op by itself, then recorded and played with other data; where nothing is recorded the op runs again. */
static qs_err run_recording(trial *t)
{
    enum { N = 64 };
    float *x, *y, other[N];
    qs_recording *recording = NULL;
    qs_err err;
    QS_TRY(put_floats(t, &x, N, 1));
    QS_TRY(put_floats(t, &y, N, 2));
    QS_TRY(qs_op_add(t->backend, x, y, N));
    if (qs_backend_can_record(t->backend)) {
        QS_TRY(qs_backend_record_start(t->backend));
        err = qs_op_add(t->backend, x, y, N);
        if (err == QS_OK) err = qs_backend_record_stop(t->backend, &recording);
        else QS_CLEANUP(qs_backend_record_stop(t->backend, NULL));
        if (err != QS_OK) goto out;
    }
    fill(other, N, 3);
    QS_TRY(qs_backend_upload(t->backend, y, other, sizeof other));
    if (recording != NULL) QS_TRY(qs_recording_play(recording));
    else QS_TRY(qs_op_add(t->backend, x, y, N));
    QS_TRY(get(t, x, N));
out:
    qs_recording_destroy(recording);
    return err;
}

static const struct {
    const char *name;
    qs_err (*run)(trial *t);
    double limit; /* of the largest difference over the largest value */
} rows[] = {
    {"embed", run_embed, 0.0},
    {"rmsnorm", run_rmsnorm, 1e-5},
    {"rope", run_rope, 1e-5},
    {"attention", run_attention, 1e-5},
    {"rope, attention_decode", run_attention_decode, 1e-5},
    {"silu_mul, add", run_elementwise, 1e-5},
    {"gram, abs_stats", run_statistics, 2e-6},
    {"logit_stats, sample, kld", run_logits, 1e-5},
    {"gemm", run_gemm, 1e-5},
    {"linear f32, few rows", run_f32_few, 1e-5},
    {"linear f16, few rows", run_f16_few, 1e-5},
    {"linear bf16, few rows", run_bf16_few, 1e-5},
    {"linear int2, few rows", run_int2_few, 1e-5},
    {"linear int3, few rows", run_int3_few, 1e-5},
    {"linear int4, few rows", run_int4_few, 1e-5},
    {"linear int8, few rows", run_int8_few, 1e-5},
    {"linear nf4, few rows", run_nf4_few, 1e-5},
    {"linear nf4 in bf16, few rows", run_nf4_bf16, 0x1p-7}, /* results may lie one place apart, here and below */
    {"linear fp4, few rows", run_fp4_few, 1e-5},
    {"linear llmint8, few rows", run_outliers_few, 0x1p-10},
    {"linear exl2, one row", run_exl2_one, 1e-3}, /* the CPU's kernels leave the weights' rounding to f16 out */
    {"linear exl2, few rows", run_exl2_few, 1e-3},
    {"linear f32, many rows", run_f32_many, 1e-5},
    {"linear int4, many rows", run_int4_many, 1e-5},
    {"linear nf4, many rows", run_nf4_many, 1e-5},
    {"linear llmint8, many rows", run_outliers_many, 0x1p-10},
    {"linear exl2, many rows", run_exl2_many, 1e-5},
    {"linear, 16-bit products", run_products_16, 2e-2},
    {"linear f16, a prompt", run_f16_stored, 2e-2},
    {"linear int4, a prompt", run_int4_stored, 2e-2},
    {"recording", run_recording, 1e-6},
};

static qs_err run(qs_backend *backend, qs_err (*op)(trial *t), trial *t)
{
    t->backend = backend;
    t->n_held = 0;
    t->n_out = 0;
    qs_err err = op(t);
    for (int i = 0; i < t->n_held; i++) qs_backend_free(backend, t->held[i]);
    return err;
}

static double difference(const trial *got, const trial *expected)
{
    double worst = 0.0, largest = 0.0;
    for (int64_t i = 0; i < expected->n_out; i++) {
        double diff = fabs(got->out[i] - expected->out[i]);
        if (!(diff <= worst)) worst = diff; /* a NaN sticks */
        largest = fmax(largest, fabs(expected->out[i]));
    }
    return worst / largest;
}

qs_err qs_backend_self_test(qs_backend *backend, qs_self_test_visit visit, void *context)
{
    qs_backend *reference = NULL;
    trial *trials = NULL;
    int n_wrong = 0;
    qs_err err;
    QS_TRY(QS_NEW(trials, 2, "results of the self-test"));
    QS_TRY(qs_backend_create(&reference, "reference", 0, 1));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        QS_TRY(qs_context(run(backend, rows[i].run, &trials[0]), "self-test of %s", rows[i].name));
        QS_TRY(qs_context(run(reference, rows[i].run, &trials[1]), "self-test of %s, reference", rows[i].name));
        double worst = difference(&trials[0], &trials[1]);
        const qs_self_test_row row = {rows[i].name, worst, rows[i].limit, worst <= rows[i].limit};
        visit(context, &row);
        n_wrong += !row.ok;
    }
    if (n_wrong > 0)
        err = qs_fail(QS_E_DEVICE, "self-test of %s: %d of %zu ops differ from the reference; trust no result of this "
                      "backend on this machine, and use --backend cpu",
                      qs_backend_name(backend), n_wrong, sizeof rows / sizeof *rows);
out:
    qs_backend_destroy(reference);
    qs_mem_free(trials);
    return err;
}
