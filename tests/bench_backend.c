/* Speed of the ops at the shapes of SmolLM2-135M, against the measured ceilings of this machine.
 *
 * usage: bench_backend [THREADS [BACKEND [ROW-PREFIX]]]
 *
 * Each row is checked against the reference before it is timed. A sample is one call on cold weights: products
 * walk through 30 layers' worth of matrices, as decoding does. Printed: median, quartiles, best and number
 * of samples, rate, and the share of the ceiling (read bandwidth, or f32 or bf16 GEMM rate). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

enum { N_LAYERS = 30, D_MODEL = 576, D_KV = 192, D_FF = 1536, N_VOCAB = 49152, N_HEADS = 9, N_KV_HEADS = 3,
       HEAD_DIM = 64, N_CTX = 512, N_SAMPLES = 61, N_SAMPLES_MAX = 301 };

typedef enum ceiling { READ, GEMM_F32, GEMM_BF16, NO_CEILING } ceiling;

typedef struct fixture fixture;
typedef struct bench_row {
    const char *op;
    int64_t shape[4];
    ceiling ceiling;
    /* Work of one call: bytes read from memory, or floating point operations. */
    double (*work)(const int64_t shape[4]);
    qs_err (*prepare)(fixture *f, qs_backend *backend, const int64_t shape[4]);
    qs_err (*call)(fixture *f, qs_backend *backend, const int64_t shape[4], int64_t i);
    double tolerance;
} bench_row;

/* What a row works on; filled by prepare, released by the caller. */
struct fixture {
    float *x, *y, *z, *w, *out;
    int64_t n_out; /* floats of `out` that are compared */
    double *wide;
    qs_matrix *matrices[N_LAYERS];
    int64_t n_matrices;
};

static qs_err draw(float **out, int64_t n, double scale)
{
    qs_err err = QS_NEW(*out, n, "bench data");
    for (int64_t i = 0; err == QS_OK && i < n; i++)
        (*out)[i] = (float)(scale * (qs_rng_unit(1, (uint64_t)i) + qs_rng_unit(2, (uint64_t)i) - 1.0));
    return err;
}

static void fixture_free(fixture *f)
{
    for (int64_t i = 0; i < f->n_matrices; i++) qs_matrix_destroy(f->matrices[i]);
    float *all[] = {f->x, f->y, f->z, f->w, f->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) qs_mem_free(all[i]);
    qs_mem_free(f->wide);
    *f = (fixture){0};
}

/* ---- products: shape n_out, n_in, rows, format (bits of codes; 16 = f16; 32 = f32 GEMM; 33 = bf16 GEMM; or one of
 * these) ---- */
enum { NF4_F32 = 5, NF4_BF16 = 6, LLM_INT8 = 9, NF4_BLOCK = 64 };

static double gemv_bytes(const int64_t s[4])
{
    double weights = (double)(s[0] * s[1]);
    if (s[3] == NF4_F32 || s[3] == NF4_BF16) return weights / 2 + weights / NF4_BLOCK; /* double-quantised */
    if (s[3] == LLM_INT8) return weights;
    return s[3] >= 16 ? weights * (double)s[3] / 8 : weights * (double)s[3] / 8 + weights / 32 * 2;
}

static double gemm_flops(const int64_t s[4]) { return 2.0 * (double)s[0] * (double)s[1] * (double)s[2]; }

/* Codes at random; scales need only be sane. */
static qs_err draw_packed(qs_packed *packed, const int64_t s[4])
{
    bool nf4 = s[3] == NF4_F32 || s[3] == NF4_BF16;
    qs_err err;
    if (nf4)
        QS_TRY(qs_packed_shape_blocks(packed, QS_PACKED_NF4, s[0], s[1], NF4_BLOCK,
                                      s[3] == NF4_F32 ? QS_ROUND_F32 : QS_ROUND_BF16));
    else if (s[3] == LLM_INT8)
        QS_TRY(qs_packed_shape_int8(packed, s[0], s[1], 6));
    else
        QS_TRY(qs_packed_shape(packed, (int)s[3], s[0], s[1], 32));
    QS_TRY(packed->format == QS_PACKED_INT ? qs_packed_alloc(packed, false, false)
                                           : qs_packed_alloc_absmax(packed, nf4));
    for (int64_t i = 0; i < s[0] * packed->row_bytes; i++) packed->codes[i] = (uint8_t)qs_rng_u64(3, (uint64_t)i);
    for (int64_t i = 0; packed->scales != NULL && i < s[0] * packed->n_groups; i++)
        packed->scales[i] = qs_f16_from_f32(0.01f);
    for (int64_t i = 0; packed->absmax != NULL && i < packed->n_absmax; i++) packed->absmax[i] = 0.1f;
    for (int64_t i = 0; nf4 && i < packed->n_absmax; i++) packed->absmax_codes[i] = (uint8_t)(i % 256);
    for (int64_t i = 0; nf4 && i < qs_packed_n_nested(packed); i++) packed->nested_absmax[i] = 0.05f;
    packed->nested_offset = nf4 ? 0.1f : 0.0f;
out:
    return err;
}

static qs_err add_matrix(fixture *f, qs_backend *backend, const int64_t s[4])
{
    qs_err err = QS_OK;
    qs_packed packed = {0};
    uint16_t *half = NULL;
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = s[0], .n_in = s[1], .dense = f->w};
    if (s[3] == 16) {
        QS_TRY(QS_NEW(half, s[0] * s[1], "half weights"));
        qs_f16_from_f32_array(half, f->w, s[0] * s[1]);
        desc.format = QS_MATRIX_F16;
        desc.dense = half;
    } else if (s[3] < 16) {
        QS_TRY(draw_packed(&packed, s));
        desc.format = QS_MATRIX_INT;
        desc.packed = &packed;
    }
    QS_TRY(qs_matrix_create(&f->matrices[f->n_matrices], backend, &desc, s[3] >= 32 ? QS_USE_GEMM : QS_USE_GEMV,
                            s[3] == 33 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32));
    f->n_matrices++;
out:
    qs_packed_free(&packed);
    qs_mem_free(half);
    return err;
}

static qs_err prepare_linear(fixture *f, qs_backend *backend, const int64_t s[4])
{
    qs_err err = QS_OK;
    QS_TRY(draw(&f->x, s[1] * s[2], 1.0));
    QS_TRY(draw(&f->w, s[0] * s[1], 0.1));
    QS_TRY(draw(&f->out, s[0] * s[2], 0.0));
    f->n_out = s[0] * s[2];
    /* The reference checks one matrix; one head is a layer's worth by itself. */
    int64_t n = strcmp(qs_backend_name(backend), "reference") == 0 || s[0] == N_VOCAB ? 1 : N_LAYERS;
    for (int64_t i = 0; i < n; i++) QS_TRY(add_matrix(f, backend, s));
out:
    return err;
}

static qs_err call_linear(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    return qs_op_linear(backend, f->matrices[i % f->n_matrices], f->x, s[2], NULL, f->out);
}

/* Packing for GEMM: from 4-bit codes and from f16 into the f32 and bf16 layouts. */
static double update_bytes(const int64_t s[4]) { return 4.0 * (double)(s[0] * s[1]); }

static qs_err prepare_update(fixture *f, qs_backend *backend, const int64_t s[4])
{
    qs_err err = QS_OK;
    int64_t gemm[4] = {s[0], s[1], s[2], s[3]};
    QS_TRY(prepare_linear(f, backend, gemm));
out:
    return err;
}

static qs_err call_update(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    qs_matrix_desc desc = {.format = QS_MATRIX_F32, .n_out = s[0], .n_in = s[1], .dense = f->w};
    qs_err err = qs_matrix_update(f->matrices[i % f->n_matrices], &desc);
    return err != QS_OK ? err : i > 0 ? QS_OK : call_linear(f, backend, s, i);
}

/* ---- attention: shape context ---- */

static const qs_attention_shape heads = {N_HEADS, N_KV_HEADS, HEAD_DIM, 0, QS_COMPUTE_F32};

static double attention_flops(const int64_t s[4])
{
    return 4.0 * N_HEADS * HEAD_DIM * (double)s[0] * ((double)s[0] + 1.0) / 2.0;
}

static double attention_decode_bytes(const int64_t s[4]) { return 2.0 * 4.0 * N_KV_HEADS * HEAD_DIM * (double)s[0]; }

static qs_err prepare_attention(fixture *f, qs_backend *backend, const int64_t s[4])
{
    (void)backend;
    qs_err err = QS_OK;
    QS_TRY(draw(&f->x, s[0] * N_HEADS * HEAD_DIM, 2.0));
    QS_TRY(draw(&f->y, s[0] * N_KV_HEADS * HEAD_DIM, 2.0));
    QS_TRY(draw(&f->z, s[0] * N_KV_HEADS * HEAD_DIM, 1.0));
    QS_TRY(draw(&f->out, s[0] * N_HEADS * HEAD_DIM, 0.0));
    f->n_out = s[0] * N_HEADS * HEAD_DIM;
out:
    return err;
}

static qs_err call_attention(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    return qs_op_attention(backend, &heads, f->x, f->y, f->z, 1, s[0], f->out);
}

static qs_err call_attention_decode(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    int32_t position = (int32_t)s[0] - 1;
    return qs_op_attention_decode(backend, &heads, f->x, f->y, f->z, f->y, f->z, &position, 1, s[0], f->out);
}

/* ---- rows: shape n, d ---- */

static double read_bytes(const int64_t s[4]) { return 4.0 * (double)(s[0] * s[1]); }

static qs_err prepare_rows(fixture *f, qs_backend *backend, const int64_t s[4])
{
    (void)backend;
    qs_err err = QS_OK;
    QS_TRY(draw(&f->x, s[0] * s[1], 4.0));
    QS_TRY(draw(&f->y, s[0] * s[1], 1.0));
    QS_TRY(draw(&f->w, s[1], 1.0));
    QS_TRY(draw(&f->out, s[0] * s[1], 0.0));
    QS_TRY(QS_NEW(f->wide, s[1] * s[1] > 4 * s[0] ? (s[1] > 4096 ? 4 * s[0] : s[1] * s[1]) : 4 * s[0], "wide"));
    f->n_out = s[0] * s[1];
out:
    return err;
}

static qs_err call_rmsnorm(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    return qs_op_rmsnorm(backend, f->x, f->w, s[0], s[1], 1e-5, f->out);
}

static qs_err call_silu(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    return qs_op_silu_mul(backend, f->x, f->y, s[0] * s[1], f->out);
}

static qs_err call_rope(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    int32_t positions[N_CTX];
    float inv_freq[HEAD_DIM / 2];
    for (int p = 0; p < N_CTX; p++) positions[p] = p;
    for (int k = 0; k < HEAD_DIM / 2; k++) inv_freq[k] = (float)pow(10000.0, -2.0 * k / HEAD_DIM);
    memcpy(f->out, f->x, (size_t)f->n_out * sizeof *f->out);
    return qs_op_rope(backend, f->out, positions, inv_freq, s[0], s[1] / HEAD_DIM, HEAD_DIM);
}

static qs_err call_logit_stats(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    int32_t targets[N_CTX] = {0}, argmax[N_CTX];
    qs_logit_stats stats = {f->wide, f->out, argmax, f->out + s[0]};
    f->n_out = 2 * s[0];
    return qs_op_logit_stats(backend, f->x, targets, s[0], s[1], &stats);
}

static qs_err call_kld(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    for (int64_t r = 0; r < 2 * s[0]; r++) f->wide[r] = 11.0;
    f->n_out = s[0];
    return qs_op_kld(backend, f->x, f->wide, f->y, f->wide + s[0], s[0], s[1], f->out);
}

static double gram_flops(const int64_t s[4]) { return (double)s[0] * (double)s[1] * ((double)s[1] + 1.0); }

static qs_err call_gram(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    qs_err err = qs_op_gram(backend, f->x, s[0], s[1], f->wide);
    f->n_out = s[0] < s[1] ? s[0] : s[1];
    for (int64_t k = 0; i == 0 && k < f->n_out; k++) f->out[k] = (float)f->wide[k];
    return err;
}

static qs_err call_abs_stats(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    f->n_out = s[1];
    return qs_op_abs_stats(backend, f->x, s[0], s[1], f->wide, f->out);
}

static qs_err prepare_gemm(fixture *f, qs_backend *backend, const int64_t s[4])
{
    (void)backend;
    qs_err err = QS_OK;
    QS_TRY(draw(&f->x, s[0] * s[2], 1.0));
    QS_TRY(draw(&f->y, s[1] * s[2], 1.0));
    QS_TRY(draw(&f->out, s[0] * s[1], 0.0));
    f->n_out = s[0] * s[1];
out:
    return err;
}

static qs_err call_gemm(fixture *f, qs_backend *backend, const int64_t s[4], int64_t i)
{
    (void)i;
    return qs_op_gemm(backend, false, true, s[0], s[1], s[2], 1.0f, f->x, s[2], f->y, s[2], 0.0f, f->out, s[1]);
}

#define GEMV(name, n_out, n_in, format) \
    {name, {n_out, n_in, 1, format}, READ, gemv_bytes, prepare_linear, call_linear, 1e-5}
#define GEMV_16(name, n_out, n_in, format) /* whose results are rounded to 16 bits */ \
    {name, {n_out, n_in, 1, format}, READ, gemv_bytes, prepare_linear, call_linear, 8e-3}
#define GEMM(name, n_out, n_in, rows, format) \
    {name, {n_out, n_in, rows, format}, (format) == 33 ? GEMM_BF16 : GEMM_F32, gemm_flops, prepare_linear, \
     call_linear, 1e-5}

static const bench_row rows[] = {
    GEMV("gemv int4", D_MODEL, D_MODEL, 4),
    GEMV("gemv int4", D_KV, D_MODEL, 4),
    GEMV("gemv int4", D_FF, D_MODEL, 4),
    GEMV("gemv int4", D_MODEL, D_FF, 4),
    GEMV("gemv nf4, fp32", D_MODEL, D_MODEL, NF4_F32),
    GEMV("gemv nf4, fp32", D_FF, D_MODEL, NF4_F32),
    GEMV("gemv nf4, fp32", D_MODEL, D_FF, NF4_F32),
    GEMV_16("gemv nf4, bf16", D_FF, D_MODEL, NF4_BF16),
    GEMV_16("gemv nf4, bf16", D_MODEL, D_FF, NF4_BF16),
    GEMV_16("gemv LLM.int8", D_FF, D_MODEL, LLM_INT8),
    GEMV("gemv int2", D_FF, D_MODEL, 2),
    GEMV("gemv int3", D_FF, D_MODEL, 3),
    GEMV("gemv int8", D_FF, D_MODEL, 8),
    GEMV("gemv f16", D_FF, D_MODEL, 16),
    GEMV("gemv f16 head", N_VOCAB, D_MODEL, 16),
    GEMV("gemv int4 head", N_VOCAB, D_MODEL, 4),
    {"gemv int4 x 8 rows", {D_FF, D_MODEL, 8, 4}, GEMM_F32, gemm_flops, prepare_linear, call_linear, 1e-5},
    GEMM("gemm f32", D_MODEL, D_MODEL, 512, 32),
    GEMM("gemm f32", D_KV, D_MODEL, 512, 32),
    GEMM("gemm f32", D_FF, D_MODEL, 512, 32),
    GEMM("gemm f32", D_MODEL, D_FF, 512, 32),
    GEMM("gemm f32", D_FF, D_MODEL, 33, 32),
    GEMM("gemm f32 head", N_VOCAB, D_MODEL, 64, 32),
    GEMM("gemm bf16", D_MODEL, D_MODEL, 512, 33),
    GEMM("gemm bf16", D_FF, D_MODEL, 512, 33),
    GEMM("gemm bf16", D_MODEL, D_FF, 512, 33),
    GEMM("gemm bf16 head", N_VOCAB, D_MODEL, 64, 33),
    {"pack f32", {D_FF, D_MODEL, 1, 32}, READ, update_bytes, prepare_update, call_update, 1e-5},
    {"pack bf16", {D_FF, D_MODEL, 1, 33}, READ, update_bytes, prepare_update, call_update, 1e-5},
    {"attention", {N_CTX}, GEMM_F32, attention_flops, prepare_attention, call_attention, 1e-5},
    {"attention", {2048}, GEMM_F32, attention_flops, prepare_attention, call_attention, 1e-5},
    {"attention_decode", {64}, READ, attention_decode_bytes, prepare_attention, call_attention_decode, 1e-5},
    {"attention_decode", {N_CTX}, READ, attention_decode_bytes, prepare_attention, call_attention_decode, 1e-5},
    {"rmsnorm", {1, D_MODEL}, NO_CEILING, read_bytes, prepare_rows, call_rmsnorm, 1e-5},
    {"rmsnorm", {N_CTX, D_MODEL}, NO_CEILING, read_bytes, prepare_rows, call_rmsnorm, 1e-5},
    {"silu_mul", {1, D_FF}, NO_CEILING, read_bytes, prepare_rows, call_silu, 1e-5},
    {"silu_mul", {N_CTX, D_FF}, NO_CEILING, read_bytes, prepare_rows, call_silu, 1e-5},
    {"rope", {N_CTX, D_MODEL}, NO_CEILING, read_bytes, prepare_rows, call_rope, 1e-5},
    {"logit_stats", {16, N_VOCAB}, NO_CEILING, read_bytes, prepare_rows, call_logit_stats, 1e-5},
    {"kld", {16, N_VOCAB}, NO_CEILING, read_bytes, prepare_rows, call_kld, 1e-4},
    {"gram", {N_CTX, D_MODEL}, GEMM_F32, gram_flops, prepare_rows, call_gram, 1e-5},
    {"gram", {N_CTX, D_FF}, GEMM_F32, gram_flops, prepare_rows, call_gram, 1e-5},
    {"abs_stats", {N_CTX, D_FF}, NO_CEILING, read_bytes, prepare_rows, call_abs_stats, 1e-5},
    {"gemm", {D_MODEL, D_MODEL, D_MODEL}, GEMM_F32, gemm_flops, prepare_gemm, call_gemm, 1e-5},
    {"gemm", {128, D_FF, D_FF}, GEMM_F32, gemm_flops, prepare_gemm, call_gemm, 1e-5},
};

/* ---- checking and timing ---- */

static qs_err check(const bench_row *row, qs_backend *backend, qs_backend *reference, double *residual)
{
    qs_err err = QS_OK;
    fixture got = {0}, expected = {0};
    double largest = 0.0, difference = 0.0;
    QS_TRY(row->prepare(&got, backend, row->shape));
    QS_TRY(row->call(&got, backend, row->shape, 0));
    QS_TRY(row->prepare(&expected, reference, row->shape));
    QS_TRY(row->call(&expected, reference, row->shape, 0));
    for (int64_t i = 0; i < expected.n_out; i++) {
        largest = fmax(largest, fabs((double)expected.out[i]));
        difference = fmax(difference, fabs((double)got.out[i] - (double)expected.out[i]));
    }
    *residual = largest > 0.0 ? difference / largest : difference;
out:
    fixture_free(&got);
    fixture_free(&expected);
    return err;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static qs_err measure(const bench_row *row, qs_backend *backend, double seconds[N_SAMPLES_MAX], int *n_samples)
{
    qs_err err = QS_OK;
    fixture f = {0};
    QS_TRY(row->prepare(&f, backend, row->shape));
    for (int64_t i = 0; i < 5; i++) QS_TRY(row->call(&f, backend, row->shape, i));
    double begin = qs_clock_seconds();
    int n = 0;
    /* Short calls get more samples; long ones at least nine, a second in all. */
    for (; n < N_SAMPLES_MAX && (n < 9 || qs_clock_seconds() - begin < 1.0); n++) {
        double started = qs_clock_seconds();
        QS_TRY(row->call(&f, backend, row->shape, n + 5));
        seconds[n] = qs_clock_seconds() - started;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, compare_doubles);
    *n_samples = n;
out:
    fixture_free(&f);
    return err;
}

static void print_row(const bench_row *row, const qs_backend_peaks *peaks, const double *seconds, int n,
                      double residual)
{
    char shape[64];
    int at = snprintf(shape, sizeof shape, "%lld", (long long)row->shape[0]);
    for (int i = 1; i < 3 && row->shape[i] != 0; i++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, " x %lld", (long long)row->shape[i]);
    const double ceilings[] = {peaks->read_bytes, peaks->gemm_f32_flops, peaks->gemm_bf16_flops, 0.0};
    double rate = row->work(row->shape) / seconds[n / 2], top = ceilings[row->ceiling];
    bool bytes = row->ceiling == READ || row->ceiling == NO_CEILING;
    printf("%-20s %-18s %9.1f us  [%8.1f %8.1f] best %8.1f n=%-3d %7.1f %s", row->op, shape, seconds[n / 2] * 1e6,
           seconds[n / 4] * 1e6, seconds[n * 3 / 4] * 1e6, seconds[0] * 1e6, n, rate * 1e-9,
           bytes ? "GB/s " : "GFLOP/s");
    if (top > 0.0) printf(" %4.0f %%", 100.0 * rate / top);
    printf("  residual %.1e\n", residual);
}

/* What the products of one token cost with 4-bit linears and an f16 head, from the rows above. */
static void print_token(const double medians[], const char *what)
{
    double layer = 2 * medians[0] + 2 * medians[1] + 2 * medians[2] + medians[3];
    double token = N_LAYERS * layer + medians[8];
    printf("%s: 30 layers %.2f ms + head %.2f ms = %.2f ms, %.0f tokens/s from products alone\n", what,
           N_LAYERS * layer * 1e3, medians[8] * 1e3, token * 1e3, 1.0 / token);
}

int main(int argc, char **argv)
{
    enum { N_ROWS = sizeof rows / sizeof *rows };
    qs_err err = QS_OK;
    qs_backend *backend = NULL, *reference = NULL;
    qs_backend_peaks peaks;
    double seconds[N_SAMPLES_MAX], medians[N_ROWS], best[N_ROWS];
    const char *prefix = argc > 3 ? argv[3] : "";
    QS_TRY(qs_backend_create(&backend, argc > 2 ? argv[2] : "cpu", 0, argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0));
    QS_TRY(qs_backend_create(&reference, "reference", 0, qs_backend_n_threads(backend)));
    QS_TRY(qs_backend_measure_peaks(backend, QS_PEAKS_ALL, &peaks));
    printf("%s, %d threads, %s\n", qs_backend_device(backend), qs_backend_n_threads(backend),
           qs_backend_describe(backend));
    printf("ceilings: read %.1f GB/s, f32 %.0f GFLOP/s, bf16 %.0f GFLOP/s\n", peaks.read_bytes * 1e-9,
           peaks.gemm_f32_flops * 1e-9, peaks.gemm_bf16_flops * 1e-9);
    int n_done = 0;
    for (int i = 0; i < N_ROWS; i++) {
        double residual = 0.0;
        int n = 0;
        if (strncmp(rows[i].op, prefix, strlen(prefix)) != 0) continue;
        QS_TRY(check(&rows[i], backend, reference, &residual));
        if (!(residual <= rows[i].tolerance)) {
            err = qs_fail(QS_E_NUMERIC, "bench %s: residual %.1e against the reference, not timed",
                          rows[i].op, residual);
            goto out;
        }
        QS_TRY(measure(&rows[i], backend, seconds, &n));
        print_row(&rows[i], &peaks, seconds, n, residual);
        medians[i] = seconds[n / 2];
        best[i] = seconds[0];
        n_done++;
        fflush(stdout);
    }
    if (n_done == N_ROWS || strncmp("gemv int4", prefix, strlen("gemv ")) == 0) {
        if (n_done > 8) print_token(medians, "token, medians");
        if (n_done > 8) print_token(best, "token, best");
    }
out:
    qs_backend_destroy(backend);
    qs_backend_destroy(reference);
    if (err != QS_OK) fprintf(stderr, "%s\n", qs_error_text());
    return (int)err;
}
