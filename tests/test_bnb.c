/* bitsandbytes: codes and largest magnitudes equal its own byte for byte, double quantisation within one code, int8
 * codes equal, de-quantised values equal, and products of packed matrices agree with its layers at every compute dtype
 * (checklist B0: nf4, fp4, int8, double quantisation; B5: compute dtype and quant type; B16: each flag by itself).
 * Fixtures: scripts/peers/make_bnb_fixtures.py. */
#include "tests/scratch.h"

#include <math.h>

#include "base/dtype.h"
#include "quant/bnb.h"
#include "quant/methods.h"

static qs_backend *backend;
static qs_workspace *workspace;

static int start(void **state)
{
    (void)state;
    OK(qs_backend_create(&backend, "cpu", 0, 2));
    OK(qs_workspace_create(&workspace, backend));
    return 0;
}

static int stop(void **state)
{
    (void)state;
    qs_workspace_destroy(workspace);
    qs_backend_destroy(backend);
    return 0;
}

/* ---- fixtures ---- */

typedef struct cursor {
    char *data;
    size_t n, at;
} cursor;

static cursor open_fixture(const char *name)
{
    cursor c = {0};
    char path[QS_PATH_BYTES];
    OK(qs_path_format(path, "tests/fixtures/bnb/%s.bin", name));
    OK(qs_file_read(&c.data, &c.n, path, 1 << 24));
    return c;
}

/* The next n elements, copied where they are aligned. */
static void *take(cursor *c, int64_t n, size_t element_bytes)
{
    size_t bytes = (size_t)n * element_bytes;
    void *copy = malloc(bytes);
    assert_true(copy != NULL && c->at + bytes <= c->n);
    memcpy(copy, c->data + c->at, bytes);
    c->at += bytes;
    return copy;
}

static int64_t take_int(cursor *c)
{
    int64_t value, *copy = take(c, 1, sizeof value);
    value = *copy;
    free(copy);
    return value;
}

static qs_quant_result quantise(const char *text, const float *w, int64_t n_out, int64_t n_in)
{
    qs_spec spec;
    qs_quant_result result;
    qs_quant_job job = {.name = "m", .weights = w, .n_out = n_out, .n_in = n_in, .backend = backend};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    OK(qs_spec_parse(&spec, text));
    OK(qs_quant_solve(workspace, &task, 1));
    OK(qs_packed_check(&result.packed, text));
    return result;
}

typedef struct fixture {
    const char *name;
    int64_t n_out, n_in, n;
    float *w;
    qs_rounding stored; /* type that bitsandbytes de-quantises to */
    bool zeros;         /* has blocks of zeros, where codes are a matter of taste */
} fixture;

/* Halfway between two magnitudes of FP4 bitsandbytes takes the smaller on a GPU, and so does qsweep; on the
 * CPU it takes the lower number, which is another one below zero. */
static bool is_negative_tie(const qs_packed *p, float weight, float absmax, int theirs)
{
    float t = weight * (1.0f / absmax);
    return p->format == QS_PACKED_FP4 && t < 0 && qs_bnb_code(QS_PACKED_FP4, nextafterf(t, -2)) == theirs;
}

/* A block of zeros may have any code for it; FP4 has two codes of zero. */
static void compare_codes(const fixture *m, const qs_packed *p, const uint8_t *theirs)
{
    int64_t n_bytes = (m->n + 1) / 2, n_ties = 0;
    uint8_t *ours = calloc((size_t)n_bytes, 1);
    qs_bnb_flat_codes(p, ours);
    for (int64_t i = 0; i < m->n; i++) {
        int shift = i % 2 == 0 ? 4 : 0, a = (ours[i / 2] >> shift) & 15, b = (theirs[i / 2] >> shift) & 15;
        float absmax = qs_packed_absmax(p, i / p->group_size);
        if (m->zeros && absmax == 0) continue;
        if (p->format == QS_PACKED_FP4 && a % 8 == 0 && b % 8 == 0) continue;
        if (a != b && is_negative_tie(p, m->w[i], absmax, b) && ++n_ties * 100 <= m->n) continue;
        if (a != b) fail_msg("%s: code %lld is %d, bitsandbytes has %d", m->name, (long long)i, a, b);
    }
    if (p->format == QS_PACKED_NF4 && !m->zeros && m->n % 2 == 0) assert_memory_equal(ours, theirs, (size_t)n_bytes);
    free(ours);
}

static void compare_nested(const fixture *m, const qs_packed *p, cursor *c)
{
    uint8_t *codes = take(c, p->n_absmax, 1);
    float *nested = take(c, qs_packed_n_nested(p), sizeof *nested), *offset = take(c, 1, sizeof *offset);
    int64_t n_off = 0;
    assert_true(fabsf(p->nested_offset - *offset) <= 2e-7f * fabsf(*offset));
    for (int64_t i = 0; i < qs_packed_n_nested(p); i++)
        assert_true(fabsf(p->nested_absmax[i] - nested[i]) <= 1e-6f * fabsf(nested[i]));
    for (int64_t i = 0; i < p->n_absmax; i++) {
        int difference = p->absmax_codes[i] - codes[i];
        if (difference < -1 || difference > 1) fail_msg("%s: code of maximum %lld", m->name, (long long)i);
        n_off += difference != 0;
    }
    assert_true(n_off * 50 <= p->n_absmax);
    /* From here on with their state, so that values can be compared to the bit. */
    memcpy(p->absmax_codes, codes, (size_t)p->n_absmax);
    memcpy(p->nested_absmax, nested, (size_t)qs_packed_n_nested(p) * sizeof *nested);
    ((qs_packed *)(uintptr_t)p)->nested_offset = *offset;
    free(codes);
    free(nested);
    free(offset);
}

static void compare_4bit(const fixture *m, cursor *c, int64_t kind)
{
    int64_t block = take_int(c), nested = take_int(c), has_values = take_int(c);
    uint8_t *codes = take(c, (m->n + 1) / 2, 1);
    char text[96];
    (void)snprintf(text, sizeof text, "%s:block=%d,dq=%d,compute=%s", kind == 0 ? "nf4" : "fp4", (int)block,
                   (int)nested, qs_rounding_name(m->stored));
    qs_quant_result result = quantise(text, m->w, m->n_out, m->n_in);
    qs_packed *p = &result.packed;
    if (nested) {
        compare_nested(m, p, c);
    } else {
        float *absmax = take(c, p->n_absmax, sizeof *absmax);
        for (int64_t i = 0; i < p->n_absmax; i++) /* of an incomplete last block of zeros theirs is 1e-38 */
            if (absmax[i] != p->absmax[i]) fail_msg("%s %s: maximum %lld", m->name, text, (long long)i);
        free(absmax);
    }
    compare_codes(m, p, codes);
    if (has_values) {
        float *theirs = take(c, m->n, sizeof *theirs), *ours = malloc((size_t)m->n * sizeof *ours);
        qs_packed_dequant_rows(p, 0, m->n_out, ours);
        for (int64_t i = 0; i < m->n; i++) assert_true(ours[i] == theirs[i]);
        free(theirs);
        free(ours);
    }
    free(codes);
    qs_packed_free(p);
}

static void compare_int8(const fixture *m, cursor *c)
{
    for (int i = 0; i < 3; i++) (void)take_int(c);
    int8_t *codes = take(c, m->n, 1);
    float *absmax = take(c, m->n_out, sizeof *absmax);
    qs_quant_result result = quantise("int8", m->w, m->n_out, m->n_in);
    const qs_packed *p = &result.packed;
    assert_memory_equal(p->absmax, absmax, (size_t)m->n_out * sizeof *absmax);
    for (int64_t i = 0; i < m->n; i++) {
        if (absmax[i / m->n_in] == 0) continue; /* theirs are 0 times infinity */
        assert_int_equal(p->codes[i] - QS_INT8_MIDDLE, codes[i]);
    }
    free(codes);
    free(absmax);
    qs_packed_free(&result.packed);
}

static void test_states_are_equal(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        qs_rounding stored;
        bool zeros;
        int n_records;
    } rows[] = {
        {"blocks", QS_ROUND_BF16, false, 17}, {"ragged_f16", QS_ROUND_F16, false, 5},
        {"ragged_bf16", QS_ROUND_BF16, false, 5}, {"odd", QS_ROUND_F32, false, 3},
        {"zeros", QS_ROUND_F32, true, 3}, {"nested", QS_ROUND_F16, false, 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        cursor c = open_fixture(rows[i].name);
        fixture m = {.name = rows[i].name, .stored = rows[i].stored, .zeros = rows[i].zeros};
        m.n_out = take_int(&c);
        m.n_in = take_int(&c);
        m.n = m.n_out * m.n_in;
        m.w = take(&c, m.n, sizeof *m.w);
        int n = 0;
        for (; c.at < c.n; n++) {
            int64_t kind = take_int(&c);
            if (kind == 2)
                compare_int8(&m, &c);
            else
                compare_4bit(&m, &c, kind);
        }
        assert_int_equal(n, rows[i].n_records);
        free(m.w);
        qs_mem_free(c.data);
    }
}

/* ---- products ---- */

typedef struct products {
    int64_t n_out, n_in, n;
    float *w, *bias, *x;
} products;

/* On packed codes (few rows at once, one by one) and on the de-quantised copy (many), against theirs. `unit` is the
 * spacing of results relative to them: sums in another order may round the other way; `rest` what their usual size
 * adds to it. */
static void compare_products(const products *p, const char *text, const float *theirs, float unit, float rest)
{
    float *y = malloc((size_t)(p->n * p->n_out) * sizeof *y), *single = malloc((size_t)p->n_out * sizeof *single);
    static const unsigned uses[] = {QS_USE_GEMV, QS_USE_GEMM};
    qs_quant_result result = quantise(text, p->w, p->n_out, p->n_in);
    qs_matrix_desc desc = {.format = QS_MATRIX_INT, .n_out = p->n_out, .n_in = p->n_in, .packed = &result.packed};
    for (size_t u = 0; u < 2; u++) {
        qs_matrix *matrix;
        double squares = 0, worst = 0;
        OK(qs_matrix_create(&matrix, backend, &desc, uses[u], QS_COMPUTE_F32));
        OK(qs_op_linear(backend, matrix, p->x, p->n, p->bias, y));
        for (int64_t i = 0; i < p->n * p->n_out; i++) squares += (double)theirs[i] * (double)theirs[i];
        double size = sqrt(squares / (double)(p->n * p->n_out));
        for (int64_t i = 0; i < p->n * p->n_out; i++) {
            double difference = fabs((double)y[i] - (double)theirs[i]);
            worst = fmax(worst, difference / ((double)unit * fabs((double)theirs[i]) + (double)rest * size));
        }
        if (!(worst <= 1)) fail_msg("%s, use %u: %g times the tolerance", text, uses[u], worst);
        /* No row depends on the rows beside it. */
        for (int64_t r = 0; u == 0 && r < p->n; r++) {
            OK(qs_op_linear(backend, matrix, p->x + r * p->n_in, 1, p->bias, single));
            assert_memory_equal(single, y + r * p->n_out, (size_t)p->n_out * sizeof *y);
        }
        qs_matrix_destroy(matrix);
    }
    free(y);
    free(single);
    qs_packed_free(&result.packed);
}

static void test_products_agree(void **state)
{
    (void)state;
    cursor c = open_fixture("products");
    products p = {.n_out = take_int(&c), .n_in = 0};
    p.n_in = take_int(&c);
    p.n = take_int(&c);
    p.w = take(&c, p.n_out * p.n_in, sizeof(float));
    p.bias = take(&c, p.n_out, sizeof(float));
    p.x = take(&c, p.n * p.n_in, sizeof(float));
    static const struct {
        const char *text;
        float unit, rest;
    } rows[] = {
        {"nf4:compute=fp32", 1e-6f, 2e-5f},
        {"nf4:compute=bf16", 0x1p-7f, 2e-5f},
        {"nf4:compute=fp16", 0x1p-10f, 2e-5f},
        {"int8", 0x1p-10f, 0x1p-11f}, /* theirs is rounded before outliers are added, too */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float *theirs = take(&c, p.n * p.n_out, sizeof *theirs);
        compare_products(&p, rows[i].text, theirs, rows[i].unit, rows[i].rest);
        free(theirs);
    }
    assert_int_equal(c.at, c.n);
    free(p.w);
    free(p.bias);
    free(p.x);
    qs_mem_free(c.data);
}

/* ---- by hand ---- */

/* Values of the table times a power of two come back as they are, at any block and with any flag but dq. */
static void test_exact_where_representable(void **state)
{
    (void)state;
    static const char *const texts[] = {"nf4:dq=0,compute=fp32,block=32", "fp4:dq=0,compute=fp32,block=128"};
    enum { N_OUT = 3, N_IN = 50 };
    for (size_t t = 0; t < 2; t++) {
        const qs_format *format = &qs_formats[t == 0 ? QS_PACKED_NF4 : QS_PACKED_FP4];
        float w[N_OUT * N_IN], back[N_OUT * N_IN];
        for (int i = 0; i < N_OUT * N_IN; i++) w[i] = 0.25f * format->values[i * 7 % 16];
        qs_quant_result result = quantise(texts[t], w, N_OUT, N_IN);
        qs_packed_dequant_rows(&result.packed, 0, N_OUT, back);
        for (int i = 0; i < N_OUT * N_IN; i++) assert_true(back[i] == w[i]);
        assert_true(result.loss == 0 && result.weight_error == 0);
        qs_packed_free(&result.packed);
    }
}

/* Midpoints go to the lower value (NF4) or to the smaller magnitude (FP4). */
static void test_ties(void **state)
{
    (void)state;
    const float *nf4 = qs_formats[QS_PACKED_NF4].values;
    for (int i = 0; i < 15; i++) {
        float middle = (nf4[i] + nf4[i + 1]) * 0.5f;
        assert_int_equal(qs_bnb_code(QS_PACKED_NF4, middle), i);
        assert_int_equal(qs_bnb_code(QS_PACKED_NF4, nextafterf(middle, 2)), i + 1);
    }
    assert_int_equal(qs_bnb_code(QS_PACKED_FP4, 0.0859375f), 1);
    assert_int_equal(qs_bnb_code(QS_PACKED_FP4, nextafterf(0.0859375f, 1)), 6);
    assert_int_equal(qs_bnb_code(QS_PACKED_FP4, -0.0859375f), 9);
    assert_int_equal(qs_bnb_code(QS_PACKED_FP4, -1e-4f), 8);
    assert_int_equal(qs_bnb_code(QS_PACKED_FP4, -1), 11);
}

/* 8 x 3 weights in blocks of 32: one block; dq keeps its only maximum in the offset. */
static void test_sizes(void **state)
{
    (void)state;
    float w[24] = {0};
    w[5] = -3;
    qs_quant_result result = quantise("nf4:block=32", w, 8, 3);
    assert_int_equal(result.packed.n_absmax, 1);
    assert_true(qs_packed_absmax(&result.packed, 0) == 3);
    assert_int_equal(qs_packed_stored_bits(&result.packed), 24 * 4 + 8 + 32 + 32);
    qs_packed_free(&result.packed);
    result = quantise("int8", w, 8, 3);
    assert_int_equal(qs_packed_stored_bits(&result.packed), 24 * 8 + 8 * 32);
    qs_packed_free(&result.packed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_states_are_equal),
        cmocka_unit_test(test_products_agree),
        cmocka_unit_test(test_exact_where_representable),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
