/* Artifacts: what is written is read back, equal inputs have equal digests, and the schema holds. Faults of
 * files, disks and processes are in test_artifact_faults.c and test_artifact_crash.c. */
#include "artifact_content.h"

#include <math.h>

#include "artifact/finite.h"
#include "base/mem.h"

/* ---- round trips ---- */

static void test_round_trip(void **state)
{
    (void)state;
    scratch_path path;
    static content c, back;
    content_init(&c);
    qs_digest digest, probed;
    OK(content_write(scratch(path, "round.quant.h5"), &c, 0, &digest));
    OK(qs_artifact_verify(path));
    OK(content_read(path, &back));
    assert_memory_equal(&back, &c, sizeof c);

    qs_artifact_kind kind;
    OK(qs_artifact_probe(path, &kind, &probed));
    assert_int_equal(kind, QS_KIND_QUANT);
    assert_true(same_digest(probed, digest));

    qs_artifact *a;
    char text[64];
    int64_t value;
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    assert_int_equal(qs_artifact_get_kind(a), QS_KIND_QUANT);
    assert_true(same_digest(qs_artifact_digest(a), digest));
    OK(qs_artifact_get_text(a, "/model/@name", text, sizeof text));
    assert_string_equal(text, "");
    FAILS(QS_E_INPUT, qs_artifact_get_text(a, "/spec/@id", text, strlen(c.id)));
    OK(qs_artifact_get_text(a, "/spec/@id", text, strlen(c.id) + 1));
    OK(qs_artifact_get_int(a, "/spec/@group_size", &value));
    assert_int_equal(value, -1);
    OK(qs_artifact_get_text(a, "/provenance/parents/@model", text, sizeof text));
    assert_string_equal(text, "model.gguf");
    OK(qs_artifact_get_text(a, "/provenance/@version", text, sizeof text));
    OK(qs_artifact_get_int(a, "/provenance/@n_threads", &value));
    assert_true(value >= 1 && qs_artifact_has(a, "/provenance/@cpu") &&
                !qs_artifact_has(a, "/provenance/@command"));
    assert_true(qs_artifact_has(a, "/layers/0/q/codes") && qs_artifact_has(a, "/layers"));
    assert_false(qs_artifact_has(a, "/layers/0/q/zeros") || qs_artifact_has(a, "/nowhere/@x"));
    assert_false(qs_artifact_has(a, "/spec/@text") || qs_artifact_has(a, "") || qs_artifact_has(a, "layers"));
    qs_artifact_close(a);
}

static void test_info_and_rows(void **state)
{
    (void)state;
    scratch_path path;
    static content c;
    static uint8_t rows[CODES_BYTES];
    content_init(&c);
    OK(content_write(scratch(path, "rows.quant.h5"), &c, 0, NULL));
    qs_artifact *a;
    qs_dataset_info info;
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    OK(qs_artifact_info(a, "/layers/0/q/codes", &info));
    assert_true(info.dtype == QS_U8 && info.rank == 2 && info.dims[0] == N_OUT && info.dims[1] == N_IN / 2);
    assert_int_equal(info.n, CODES_BYTES);
    for (int64_t first = 0; first < N_OUT; first += 3) {
        int64_t n = first + 3 <= N_OUT ? 3 : N_OUT - first;
        OK(qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, first, n, rows + first * N_IN / 2));
    }
    assert_memory_equal(rows, c.codes, CODES_BYTES);
    OK(qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, N_OUT, 0, rows));
    FAILS(QS_E_INPUT, qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, N_OUT, 1, rows));
    FAILS(QS_E_INPUT, qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, -1, 1, rows));
    FAILS(QS_E_INPUT, qs_artifact_read_rows(a, "/layers/0/q/codes", QS_U8, 1, INT64_MAX, rows));
    FAILS(QS_E_INPUT, qs_artifact_read(a, "/layers/0/q/codes", QS_I8, rows, CODES_BYTES));
    TEXT_HOLDS("/layers/0/q/codes", "u8", "i8", "qsweep-quantize");
    FAILS(QS_E_INPUT, qs_artifact_read(a, "/layers/0/q/codes", QS_U8, rows, CODES_BYTES - 1));
    FAILS(QS_E_INPUT, qs_artifact_read(a, "/layers/0/q/zeros", QS_U8, rows, CODES_BYTES));
    TEXT_HOLDS(path, "/layers/0/q/zeros", "missing", "qsweep-quantize");
    FAILS(QS_E_INPUT, qs_artifact_read(a, "/layers/0/q", QS_U8, rows, CODES_BYTES));
    FAILS(QS_E_INPUT, qs_artifact_get_int(a, "/layers/0/q/@loss", &info.n));
    FAILS(QS_E_INPUT, qs_artifact_get_int(a, "/spec", &info.n));
    qs_digest digest;
    FAILS(QS_E_INPUT, qs_artifact_get_parent(a, "calib", &digest));
    TEXT_HOLDS("/parents/@calib", "missing");
    qs_artifact_close(a);
}

static void test_list(void **state)
{
    (void)state;
    scratch_path path;
    static content c;
    content_init(&c);
    OK(content_write(scratch(path, "list.quant.h5"), &c, 3, NULL));
    qs_artifact *a;
    char **names;
    int64_t n;
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    OK(qs_artifact_list(a, "/layers/0/q", &names, &n));
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "codes");
    assert_string_equal(names[1], "perm");
    assert_string_equal(names[2], "scales");
    qs_dir_list_free(names, n);
    OK(qs_artifact_list(a, "/spec", &names, &n));
    assert_int_equal(n, 0);
    qs_dir_list_free(names, n);
    FAILS(QS_E_INPUT, qs_artifact_list(a, "/metrics", &names, &n));
    qs_artifact_close(a);
}

/* Shapes on both sides of every limit: header or chunks, whole rows or parts of one, one chunk or many. */
static void test_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        qs_dtype dtype;
        int rank;
        int64_t dims[3];
    } cases[] = {
        {"/timing/decode_ms", QS_F64, 1, {0}},
        {"/timing/reference_decode_ms", QS_F64, 1, {511}},
        {"/tokens/ids", QS_I32, 2, {0, 7}},
        {"/tokens/argmax", QS_I32, 2, {7, 0}},
        {"/dump/tokens", QS_I32, 2, {1, 1024}},
        {"/tokens/nll", QS_F32, 2, {1, 1023}},
        {"/tokens/kld", QS_F32, 2, {300000, 1}},
        {"/tokens/entropy", QS_F32, 2, {3, 300000}},
        {"/reference/hidden", QS_F32, 3, {5, 7, 1000}},
        {"/dump/logits", QS_F32, 3, {2, 3, 100003}},
        {"/dump/hidden", QS_F32, 3, {2, 600, 500}},
        {"/layers/loss", QS_F64, 2, {30, 7}},
    };
    enum { N_CASES = sizeof cases / sizeof *cases };
    scratch_path path;
    float *data, *back;
    const int64_t n_max = 1200000;
    OK(QS_NEW(data, n_max, "test data"));
    OK(QS_NEW(back, n_max, "test data"));
    for (int64_t i = 0; i < n_max; i++) data[i] = (float)qs_rng_normal(5, (uint64_t)i);
    qs_artifact *a;
    OK(qs_artifact_create(&a, scratch(path, "shapes.eval.h5"), QS_KIND_EVAL));
    for (int i = 0; i < N_CASES; i++)
        OK(qs_artifact_put(a, cases[i].path, cases[i].dtype, cases[i].rank, cases[i].dims, data));
    OK(qs_artifact_seal(a, NULL));
    OK(qs_artifact_verify(path));
    OK(qs_artifact_open(&a, path, QS_KIND_EVAL));
    for (int i = 0; i < N_CASES; i++) {
        qs_dataset_info info;
        OK(qs_artifact_info(a, cases[i].path, &info));
        assert_int_equal(info.rank, cases[i].rank);
        assert_memory_equal(info.dims, cases[i].dims, sizeof cases[i].dims);
        memset(back, 0xff, (size_t)n_max * sizeof *back);
        OK(qs_artifact_read(a, cases[i].path, cases[i].dtype, back, info.n));
        assert_memory_equal(back, data, (size_t)info.n * qs_dtype_bytes(info.dtype));
    }
    qs_artifact_close(a);
    qs_mem_free(back);
    qs_mem_free(data);
}

/* Any slabs give the digest of a single put. */
static void test_append(void **state)
{
    (void)state;
    enum { ROWS = 301, ROW = 2500 };
    static const int64_t slabs[] = {1, 7, 100, ROWS, 150};
    const int64_t dims[3] = {ROWS, ROW, 1};
    scratch_path path;
    static float data[ROWS * ROW];
    for (int64_t i = 0; i < ROWS * ROW; i++) data[i] = (float)i;
    qs_artifact *a;
    qs_digest whole, streamed;
    OK(qs_artifact_create(&a, scratch(path, "whole.eval.h5"), QS_KIND_EVAL));
    OK(qs_artifact_put(a, "/reference/hidden", QS_F32, 3, dims, data));
    OK(qs_artifact_put(a, "/tokens/nll", QS_F32, 2, dims, data));
    OK(qs_artifact_seal(a, &whole));
    for (size_t s = 0; s < sizeof slabs / sizeof *slabs; s++) {
        OK(qs_artifact_create(&a, scratch(path, "streamed.eval.h5"), QS_KIND_EVAL));
        OK(qs_artifact_begin(a, "/reference/hidden", QS_F32, 3, dims));
        OK(qs_artifact_begin(a, "/tokens/nll", QS_F32, 2, dims)); /* two at a time */
        for (int64_t first = 0; first < ROWS; first += slabs[s]) {
            int64_t n = first + slabs[s] < ROWS ? slabs[s] : ROWS - first;
            OK(qs_artifact_append(a, "/reference/hidden", n, data + first * ROW));
            OK(qs_artifact_append(a, "/tokens/nll", 0, NULL));
            OK(qs_artifact_append(a, "/tokens/nll", n, data + first * ROW));
        }
        OK(qs_artifact_seal(a, &streamed));
        assert_true(same_digest(whole, streamed));
        OK(qs_artifact_verify(path));
    }
}

/* ---- digests ---- */

static void test_digest_ignores_order(void **state)
{
    (void)state;
    scratch_path path;
    static content c, back;
    content_init(&c);
    qs_digest first, digest;
    OK(content_write(scratch(path, "order.quant.h5"), &c, 0, &first));
    for (uint64_t seed = 1; seed <= 20; seed++) {
        OK(content_write(path, &c, seed, &digest));
        assert_true(same_digest(first, digest));
        OK(qs_artifact_verify(path));
        OK(content_read(path, &back));
        assert_memory_equal(&back, &c, sizeof c);
    }
}

/* The same puts in the same order give the same bytes at another time, once the provenance is the same. */
static void test_files_are_equal(void **state)
{
    (void)state;
    scratch_path path[2];
    char *bytes[2];
    size_t n_bytes[2];
    static content c;
    content_init(&c);
    for (int i = 0; i < 2; i++) {
        if (i == 1) (void)usleep(1100000); /* HDF5 would store whole seconds */
        OK(content_write(scratch(path[i], i == 0 ? "a.quant.h5" : "b.quant.h5"), &c, 0, NULL));
        OK(qs_file_read(&bytes[i], &n_bytes[i], path[i], (size_t)1 << 24));
    }
    assert_int_equal(n_bytes[0], n_bytes[1]);
    assert_memory_equal(bytes[0], bytes[1], n_bytes[0]);
    qs_mem_free(bytes[0]);
    qs_mem_free(bytes[1]);
}

static void test_digest_sees_every_change(void **state)
{
    (void)state;
    enum { N_CHANGES = 8 };
    scratch_path path;
    static content c;
    qs_digest digests[N_CHANGES];
    for (int change = 0; change < N_CHANGES; change++) {
        content_init(&c);
        if (change == 1) c.codes[CODES_BYTES - 1] ^= 1;
        if (change == 2) c.scales[0] ^= 1;
        if (change == 3) c.perm[N_IN / 2] ^= 1;
        if (change == 4) c.loss = nextafter(c.loss, 1.0);
        if (change == 5) c.bits = 5;
        if (change == 6) c.id[3] = '_';
        if (change == 7) c.parent.high ^= 1;
        OK(content_write(scratch(path, "change.quant.h5"), &c, 0, &digests[change]));
        for (int other = 0; other < change; other++)
            assert_false(same_digest(digests[change], digests[other]));
    }
}

typedef enum variant {
    PLAIN,
    OTHER_PATH,
    OTHER_SHAPE,
    OTHER_ROLE,
    ONE_MORE,
    OTHER_TIME,
    OTHER_NAME,
    N_VARIANTS
} variant;

static qs_digest write_variant(variant v)
{
    scratch_path path;
    const int64_t dims[2] = {v == OTHER_SHAPE ? 2 : 4, v == OTHER_SHAPE ? 4 : 2};
    static const uint8_t codes[8] = {1, 2, 3};
    qs_artifact *a;
    qs_digest digest;
    OK(qs_artifact_create(&a, scratch(path, "variant.quant.h5"), QS_KIND_QUANT));
    OK(qs_artifact_put(a, v == OTHER_PATH ? "/layers/1/q/codes" : "/layers/0/q/codes", QS_U8, 2, dims,
                       codes));
    OK(qs_artifact_add_parent(a, v == OTHER_ROLE ? "calib" : "model", v == OTHER_NAME ? "b" : "a",
                              (qs_digest){1, 2}));
    if (v == ONE_MORE) OK(qs_artifact_put_int(a, "/spec/@bits", 0));
    OK(qs_artifact_put_real(a, "/timing/@quantize_s", v == OTHER_TIME ? 2.0 : 1.0));
    OK(qs_artifact_seal(a, &digest));
    return digest;
}

/* Paths, shapes and roles are content; times and names are not. */
static void test_digest_is_identity(void **state)
{
    (void)state;
    qs_digest plain = write_variant(PLAIN);
    for (variant v = PLAIN; v < N_VARIANTS; v++)
        assert_true(same_digest(plain, write_variant(v)) ==
                    (v == PLAIN || v == OTHER_TIME || v == OTHER_NAME));
    scratch_path path;
    qs_artifact *a;
    qs_digest empty[2];
    for (int kind = 0; kind < 2; kind++) { /* the kind is content too */
        OK(qs_artifact_create(&a, scratch(path, "empty.h5"), kind == 0 ? QS_KIND_CALIB : QS_KIND_EVAL));
        OK(qs_artifact_seal(a, &empty[kind]));
    }
    assert_false(same_digest(empty[0], empty[1]));
}

/* ---- refusals ---- */

static void test_schema_mismatch_is_refused(void **state)
{
    (void)state;
    scratch_path path;
    const int64_t dims[4] = {2, 2, 1, 1}, bad_dims[2] = {-1, 2}, huge[2] = {INT64_MAX, 4};
    static const uint8_t data[64];
    qs_artifact *a;
    OK(qs_artifact_create(&a, scratch(path, "mismatch.quant.h5"), QS_KIND_QUANT));
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/code", QS_U8, 2, dims, data));
    TEXT_HOLDS("/layers/0/q/code", "quant");
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/gram", QS_F32, 1, dims, data)); /* of another kind */
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/codes", QS_I8, 2, dims, data));
    TEXT_HOLDS("u8 of rank 2", "i8 of rank 2");
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 3, dims, data));
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, bad_dims, data));
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, huge, data));
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/@loss", QS_F64, 1, dims, data));
    FAILS(QS_E_INPUT, qs_artifact_put_int(a, "/layers/0/q/@loss", 1));
    TEXT_HOLDS("real", "int");
    FAILS(QS_E_INPUT, qs_artifact_put_int(a, "/layers/0/q/codes", 1));
    FAILS(QS_E_INPUT, qs_artifact_put_int(a, "/@complete", 1));
    TEXT_HOLDS("seal");
    FAILS(QS_E_INPUT, qs_artifact_put_text(a, "/parents/@model", "x"));
    FAILS(QS_E_INPUT, qs_artifact_add_parent(a, "a/b", "x", (qs_digest){0}));
    FAILS(QS_E_INPUT, qs_artifact_append(a, "/layers/0/q/codes", 1, data));
    OK(qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, dims, data));
    FAILS(QS_E_INPUT, qs_artifact_put(a, "/layers/0/q/codes", QS_U8, 2, dims, data));
    TEXT_HOLDS("before");
    OK(qs_artifact_put_int(a, "/spec/@bits", 4));
    FAILS(QS_E_INPUT, qs_artifact_put_int(a, "/spec/@bits", 4));
    OK(qs_artifact_begin(a, "/layers/1/q/codes", QS_U8, 2, dims));
    OK(qs_artifact_append(a, "/layers/1/q/codes", 1, data));
    FAILS(QS_E_INPUT, qs_artifact_append(a, "/layers/1/q/codes", 2, data));
    FAILS(QS_E_INPUT, qs_artifact_append(a, "/layers/1/q/codes", -1, data));
    FAILS(QS_E_INPUT, qs_artifact_seal(a, NULL)); /* a row is missing */
    TEXT_HOLDS("/layers/1/q/codes", "1 of its 2 rows");
    assert_false(qs_file_exists(path));

    OK(qs_artifact_create(&a, path, QS_KIND_QUANT));
    char *text = malloc(40000);
    assert_non_null(text);
    memset(text, 'x', 39999);
    text[39999] = '\0';
    FAILS(QS_E_INPUT, qs_artifact_put_text(a, "/spec/@text", text));
    text[32767] = '\0';
    OK(qs_artifact_put_text(a, "/spec/@text", text));
    free(text);
    OK(qs_artifact_seal(a, NULL));
    OK(qs_artifact_verify(path));
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    FAILS(QS_E_INPUT, qs_artifact_put_int(a, "/spec/@bits", 4)); /* a reader */
    qs_artifact_close(a);
}

static void test_nan_is_refused(void **state)
{
    (void)state;
    scratch_path path;
    enum { ROWS = 3, ROW = 5000 };
    static float data[ROWS * ROW];
    static uint16_t halves[ROWS * ROW];
    static double doubles[ROWS * 7];
    const int64_t dims[2] = {ROWS, ROW}, loss_dims[2] = {ROWS, 7};
    qs_artifact *a;
    OK(qs_artifact_create(&a, scratch(path, "nan.eval.h5"), QS_KIND_EVAL));
    data[1 * ROW + 4321] = NAN;
    FAILS(QS_E_NUMERIC, qs_artifact_put(a, "/tokens/nll", QS_F32, 2, dims, data));
    TEXT_HOLDS("/tokens/nll", "[1, 4321]");
    data[1 * ROW + 4321] = 0;
    data[2 * ROW + 9] = -INFINITY; /* in the third row, appended second */
    OK(qs_artifact_begin(a, "/tokens/kld", QS_F32, 2, dims));
    OK(qs_artifact_append(a, "/tokens/kld", 1, data));
    FAILS(QS_E_NUMERIC, qs_artifact_append(a, "/tokens/kld", 2, data + ROW));
    TEXT_HOLDS("/tokens/kld", "[2, 9]");
    doubles[20] = INFINITY;
    FAILS(QS_E_NUMERIC, qs_artifact_put(a, "/layers/loss", QS_F64, 2, loss_dims, doubles));
    TEXT_HOLDS("[2, 6]");
    FAILS(QS_E_NUMERIC, qs_artifact_put_real(a, "/metrics/ppl/@value", NAN));
    FAILS(QS_E_NUMERIC, qs_artifact_put_real(a, "/metrics/ppl/@value", -INFINITY));
    TEXT_HOLDS("/metrics/ppl/@value");
    OK(qs_artifact_put_real(a, "/metrics/ppl/@value", 1.7976931348623157e308));
    qs_artifact_abort(a);
    OK(qs_artifact_create(&a, path, QS_KIND_QUANT));
    halves[ROW] = 0x7c00;
    FAILS(QS_E_NUMERIC, qs_artifact_put(a, "/layers/0/q/scales", QS_F16, 2, dims, halves));
    TEXT_HOLDS("/layers/0/q/scales", "[1, 0]");
    halves[ROW] = 0x7bff;
    OK(qs_artifact_put(a, "/layers/1/q/scales", QS_F16, 2, dims, halves));
    qs_artifact_abort(a);

    const uint16_t bf16[3] = {0x7f7f, 0xff80, 0};
    assert_int_equal(qs_find_nonfinite_any(QS_BF16, bf16, 3), 1);
    assert_int_equal(qs_find_nonfinite_any(QS_BF16, bf16, 1), -1);
    assert_int_equal(qs_find_nonfinite_any(QS_U16, bf16, 3), -1);
}

static void test_command_is_quoted(void **state)
{
    (void)state;
    scratch_path path;
    char *const argv[] = {"qsweep-quantize", "--spec", "rtn:bits=4,group=64", "it's", "", "a b", NULL};
    char text[256];
    qs_artifact *a;
    OK(qs_artifact_create(&a, scratch(path, "command.quant.h5"), QS_KIND_QUANT));
    OK(qs_artifact_set_command(a, 6, argv));
    OK(qs_artifact_seal(a, NULL));
    OK(qs_artifact_open(&a, path, QS_KIND_QUANT));
    OK(qs_artifact_get_text(a, "/provenance/@command", text, sizeof text));
    assert_string_equal(text, "qsweep-quantize --spec rtn:bits=4,group=64 'it'\\''s' '' 'a b'");
    qs_artifact_close(a);
}

/* Neither a full run nor a refused one may leave memory behind (HDF5's own is its own affair). */
static void test_memory_is_returned(void **state)
{
    (void)state;
    scratch_path path;
    static content c;
    content_init(&c);
    size_t before = qs_mem_bytes();
    OK(content_write(scratch(path, "memory.quant.h5"), &c, 0, NULL));
    OK(qs_artifact_verify(path));
    OK(content_read(path, &c));
    FAILS(QS_E_INPUT, qs_artifact_verify(scratch(path, "absent.quant.h5")));
    assert_int_equal(qs_mem_bytes(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_info_and_rows),
        cmocka_unit_test(test_list),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_digest_ignores_order),
        cmocka_unit_test(test_files_are_equal),
        cmocka_unit_test(test_digest_sees_every_change),
        cmocka_unit_test(test_digest_is_identity),
        cmocka_unit_test(test_schema_mismatch_is_refused),
        cmocka_unit_test(test_nan_is_refused),
        cmocka_unit_test(test_command_is_quoted),
        cmocka_unit_test(test_memory_is_returned),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
