/* One row of x on the CUDA backend: by bulk copies (cuda/linear_row.h, QS_BULK_ROWS=1) the bits that the other kernels
 * give, in every form of weights, with ragged slices, runs and groups, norms, gates, bias and what is there already;
 * codes of 4 bits by few copies (cuda/linear_turns.h, QS_BULK_ROWS=2) the same but for the order of sums; and NF4 and
 * FP4 in 16-bit activations with bitsandbytes' arithmetic for one row, both ways.
 * Proves: products of one row on a GPU are what the formats say (checklist A22). */
#include <math.h>
#include <stdlib.h>

#include "backend/formats.h"
#include "cuda_backends.h"
#include "format_data.h"
#include "op_cases.h"
#include "sanitized.h"

enum { N_WAYS = 3 };
typedef struct all_ways {
    qs_backend *ways[N_WAYS]; /* without bulk copies, with them, with few */
    char why_not[512];
} all_ways;

static int create_all(void **state)
{
    static all_ways a;
    *state = &a;
    for (int i = 0; i < N_WAYS && a.why_not[0] == '\0'; i++) {
        const char way[] = {(char)('0' + i), '\0'};
        (void)setenv("QS_BULK_ROWS", way, 1);
        if (qs_backend_create(&a.ways[i], "cuda", 0, 2) != QS_OK)
            (void)snprintf(a.why_not, sizeof a.why_not, "%s", qs_error_text());
    }
    (void)unsetenv("QS_BULK_ROWS");
    return 0;
}

static int destroy_all(void **state)
{
    all_ways *a = *state;
    for (int i = 0; i < N_WAYS; i++) qs_backend_destroy(a->ways[i]);
    return 0;
}

static all_ways *take_all(void **state)
{
    all_ways *a = *state;
    if (a->why_not[0] != '\0') {
        printf("SKIP: %s\n", a->why_not);
        skip();
    }
    return a;
}

typedef struct form {
    qs_matrix_format format;
    int bits;                /* of integers */
    qs_packed_format packed; /* of others, with blocks of `group` */
    int64_t n_out, n_in, group, flags;
} form;

#define DENSE(format, n_out, n_in) {QS_MATRIX_##format, 0, QS_PACKED_INT, n_out, n_in, 0, 0}
#define INTS(bits, n_out, n_in, group, flags) {QS_MATRIX_INT, bits, QS_PACKED_INT, n_out, n_in, group, flags}
#define OTHER(kind, n_out, n_in, block) {QS_MATRIX_INT, 0, QS_PACKED_##kind, n_out, n_in, block, 0}

/* Slices of one chunk and of several runs, the last of them short or empty; groups that begin and end within runs, at
 * their ends, and that many runs share; more tiles than a ring has stages. */
static const form forms[] = {
    DENSE(F16, 40, 576), DENSE(BF16, 300, 260), DENSE(F16, 17, 4),
    INTS(2, 50, 1000, 64, 0), INTS(2, 33, 2560, 32, WITH_ZEROS), INTS(2, 17, 260, 16, WITH_ZEROS),
    INTS(3, 300, 2048, 128, 0), INTS(3, 20, 640, 48, WITH_ZEROS), INTS(3, 35, 576, 64, WITH_ZEROS),
    INTS(4, 300, 5120, 128, 0), INTS(4, 70, 2112, 192, 0), INTS(4, 40, 1536, 96, 0), INTS(4, 33, 4352, -1, 0),
    INTS(4, 50, 2304, 32, WITH_ZEROS), INTS(4, 21, 516, 512, WITH_ZEROS), INTS(4, 9, 64, 16, 0),
    INTS(8, 300, 1088, 64, 0), INTS(8, 40, 700, -1, WITH_ZEROS), INTS(8, 31, 1040, 80, 0),
    OTHER(NF4, 300, 2304, 64), OTHER(FP4, 40, 1088, 128), OTHER(NF4, 33, 576, 4096), OTHER(INT8, 50, 577, 1),
    OTHER(INT8, 70, 1184, 1),
};

/* Weights times `factor`. */
static qs_matrix *create_form(qs_backend *backend, const form *f, float factor, qs_compute compute)
{
    op_memory m = {.backend = backend};
    qs_matrix *matrix;
    qs_packed packed = {0};
    int64_t n = f->n_out * f->n_in;
    qs_matrix_desc desc = {.format = f->format, .n_out = f->n_out, .n_in = f->n_in};
    if (f->format != QS_MATRIX_INT) {
        float *w = draw(&m, 90, n, 0.1 * (double)factor);
        uint16_t *half = on_host(&m, n, sizeof *half);
        if (f->format == QS_MATRIX_F16) qs_f16_from_f32_array(half, w, n);
        else qs_bf16_from_f32_array(half, w, n);
        desc.dense = half;
    } else if (f->bits != 0) {
        fill_packed(&packed, f->bits, f->n_out, f->n_in, f->group, f->flags);
        for (int64_t i = 0; i < f->n_out * packed.n_groups; i++)
            packed.scales[i] = qs_f16_from_f32(factor * qs_f32_from_f16(packed.scales[i]));
        desc.packed = &packed;
    } else {
        draw_packed(&packed, f->packed, f->n_out, f->n_in, f->group, false, QS_ROUND_BF16);
        for (int64_t i = 0; i < packed.n_absmax; i++) packed.absmax[i] *= factor;
        desc.packed = &packed;
    }
    OK(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, compute));
    qs_packed_free(&packed);
    free_all(&m);
    return matrix;
}

enum { N_RESULTS = 4 };

/* Results of two matrices of a form: with a bias each; added to what is there; behind a norm; behind a norm, gated. */
static float *results_of(op_memory *m, const form *f, qs_compute compute, bool reverse)
{
    int64_t n = 2 * f->n_out;
    float *out = on_host(m, N_RESULTS * n, sizeof *out);
    float *x = drawn_on_device(m, 91, f->n_in, 3.0), *norm = drawn_on_device(m, 92, f->n_in, 1.0);
    float *bias = drawn_on_device(m, 93, f->n_out, 1.0), *normed = floats_on_device(m, NULL, f->n_in);
    qs_matrix *matrices[2];
    for (int i = 0; i < 2; i++) matrices[i] = create_form(m->backend, f, i == 0 ? 1.0f : 0.5f, compute);
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(reverse);
    for (int r = 0; r < N_RESULTS; r++) {
        qs_linear_job jobs[2];
        qs_linear_with with = {.norm = norm, .norm_eps = 1e-5, .normed = normed, .is_gated = r == 3};
        for (int i = 0; i < 2; i++)
            jobs[i] = (qs_linear_job){.matrix = matrices[i], .y = drawn_on_device(m, 94, f->n_out, 1.0),
                                      .bias = r == 0 ? bias : NULL, .add = r == 1};
        if (r < 2) OK(qs_op_linears(m->backend, jobs, 2, x, 1));
        else OK(qs_op_linears_with(m->backend, &with, jobs, 2, x, 1));
        for (int i = 0; i < (r == 3 ? 1 : 2); i++) /* what a gate has multiplied is scratch */
            OK(qs_backend_download(m->backend, out + r * n + i * f->n_out, jobs[i].y, (size_t)f->n_out * sizeof *out));
    }
    if (qs_rt_simt_set_reverse != NULL) qs_rt_simt_set_reverse(false);
    for (int i = 0; i < 2; i++) qs_matrix_destroy(matrices[i]);
    return out;
}

static void test_bits(void **state)
{
    all_ways *a = take_all(state);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (int k = 0; k < (SANITIZED ? 1 : 2); k++) {
            const form *f = &forms[i];
            op_memory m[2] = {{.backend = a->ways[0]}, {.backend = a->ways[1]}};
            qs_compute compute = (k + (int)i) % 2 == 0 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32;
            const float *got = results_of(&m[1], f, compute, (i + (size_t)k) % 3 == 1);
            const float *expected = results_of(&m[0], f, compute, false);
            double largest = 0.0;
            for (int64_t j = 0; j < 2 * N_RESULTS * f->n_out; j++) {
                largest = fmax(largest, fabs((double)expected[j]));
                if (memcmp(&got[j], &expected[j], sizeof *got) != 0)
                    fail_msg("form %d, compute %d: result %lld is %.9g, not %.9g", (int)i, (int)compute, (long long)j,
                             (double)got[j], (double)expected[j]);
            }
            assert_true(largest > 0.1 && isfinite(largest));
            for (int w = 0; w < 2; w++) free_all(&m[w]);
        }
}

/* Stages and rounds of them that are whole, ragged and empty; spans of one chunk and of two; groups that many stages
 * share, that begin within them and that end a row. */
static const form four_bits[] = {
    INTS(4, 300, 4096, 128, 0), INTS(4, 40, 14336, 64, WITH_ZEROS), INTS(4, 300, 2048, -1, WITH_ZEROS),
    INTS(4, 50, 5120, 192, 0), INTS(4, 70, 2112, 192, WITH_ZEROS), INTS(4, 33, 4352, 640, 0), INTS(4, 40, 100, -1, 0),
    INTS(4, 21, 3336, 384, WITH_ZEROS), INTS(4, 17, 64, 64, 0), INTS(4, 35, 6216, 256, 0), INTS(4, 9, 8192, 4096, 0),
};

/* Against sums in another order: x is rounded to the same terms, products are exact in both. */
static void test_turns(void **state)
{
    all_ways *a = take_all(state);
    double furthest = 0.0;
    for (size_t i = 0; i < sizeof four_bits / sizeof *four_bits; i++)
        for (int k = 0; k < (SANITIZED ? 1 : 2); k++) {
            const form *f = &four_bits[i];
            op_memory m[2] = {{.backend = a->ways[0]}, {.backend = a->ways[2]}};
            qs_compute compute = (k + (int)i) % 2 == 0 ? QS_COMPUTE_BF16 : QS_COMPUTE_F32;
            const float *got = results_of(&m[1], f, compute, (i + (size_t)k) % 3 == 1);
            const float *expected = results_of(&m[0], f, compute, false);
            for (int r = 0; r < N_RESULTS; r++) {
                double largest = 0.0, apart = 0.0;
                for (int64_t j = 2 * r * f->n_out; j < 2 * (r + 1) * f->n_out; j++) {
                    assert_true(isfinite(got[j]));
                    largest = fmax(largest, fabs((double)expected[j]));
                    apart = fmax(apart, fabs((double)got[j] - (double)expected[j]));
                }
                if (!(largest > 0.1 && apart <= 4e-6 * largest))
                    fail_msg("form %d, compute %d, result %d: %g apart, of %g", (int)i, (int)compute, r, apart,
                             largest);
                furthest = fmax(furthest, apart / largest);
            }
            for (int w = 0; w < 2; w++) free_all(&m[w]);
        }
    assert_true(furthest > 0.0); /* they are not the same kernel */
}

static float to_bf16(float x) { return qs_f32_from_bf16(qs_bf16_from_f32(x)); }

/* y = bf16(sum of bf16(bf16(table) bf16(absmax)) bf16(x)). The last rounding is one of 2^-8; sums differ before it. */
static void check_as_bitsandbytes(qs_backend *backend, qs_packed_format format, int64_t n_out, int64_t n_in,
                                  int64_t block)
{
    op_memory m = {.backend = backend};
    const form f = {QS_MATRIX_INT, 0, format, n_out, n_in, block, 0};
    const float *table = qs_formats[format].values;
    float *x = draw(&m, 95, n_in, 1.0), *y = floats_on_device(&m, NULL, n_out);
    uint8_t *codes = on_host(&m, n_in, sizeof *codes);
    qs_matrix *matrix = create_form(backend, &f, 1.0f, QS_COMPUTE_BF16);
    qs_packed packed;
    double apart = 0.0;
    OK(qs_op_linear(backend, matrix, floats_on_device(&m, x, n_in), 1, NULL, y));
    const float *got = to_host(&m, y, n_out);
    draw_packed(&packed, format, n_out, n_in, block, false, QS_ROUND_BF16);
    for (int64_t o = 0; o < n_out; o++) {
        double sum = 0.0, as_defined = 0.0, size = 0.0;
        qs_packed_get_row(&packed, o, codes);
        for (int64_t j = 0; j < n_in; j++) {
            float absmax = packed.absmax[(o * n_in + j) / block], value = table[codes[j]];
            double input = (double)to_bf16(x[j]), product = (double)to_bf16(to_bf16(value) * to_bf16(absmax)) * input;
            sum += product;
            size += fabs(product);
            as_defined += (double)to_bf16(value * absmax) * input;
        }
        double slack = 0x1p-8 * fabs(sum) + 1e-6 * size;
        if (!(fabs((double)got[o] - sum) <= slack))
            fail_msg("%d, %lld x %lld: result %lld is %.9g, not %.9g", (int)format, (long long)n_out, (long long)n_in,
                     (long long)o, (double)got[o], sum);
        apart = fmax(apart, fabs(sum - as_defined) - 2.0 * slack);
    }
    assert_true(apart > 0.0); /* weights as packed.h has them would be seen */
    qs_packed_free(&packed);
    qs_matrix_destroy(matrix);
    free_all(&m);
}

static void test_one_row_as_bitsandbytes(void **state)
{
    all_ways *a = take_all(state);
    for (int i = 0; i < 2; i++) {
        check_as_bitsandbytes(a->ways[i], QS_PACKED_NF4, 300, 576, 64);
        check_as_bitsandbytes(a->ways[i], QS_PACKED_NF4, 70, 1088, 128);
        check_as_bitsandbytes(a->ways[i], QS_PACKED_FP4, 130, 2304, 64);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_one_row_as_bitsandbytes),
    };
    return cmocka_run_group_tests_name("cuda row", tests, create_all, destroy_all);
}
