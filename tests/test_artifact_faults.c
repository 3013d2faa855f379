/* Artifacts of bad origin and damaged ones: refused by name with the stage to re-run, and damage never goes
 * unseen. */
#include "artifact_content.h"

/* HDF5 1.10.8 loses some 370 bytes whenever an object header fails its checksum (H5C_protect, seen with full
 * stacks); nothing of ours is allocated there, and test_artifact.c runs without this exception. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

#define FIXTURES "tests/fixtures/artifact/"

/* ---- files of others ---- */

/* Every element type and rank, as h5py writes them. The bytes are a formula that the script states. */
static void test_all_types(void **state)
{
    (void)state;
    static const int64_t n_elems[] = {9, 15, 24, 12};
    qs_artifact *a;
    double real;
    int64_t integer;
    uint8_t back[24 * 8];
    OK(qs_artifact_verify(FIXTURES "all_types.quant.h5"));
    OK(qs_artifact_open(&a, FIXTURES "all_types.quant.h5", QS_KIND_QUANT));
    for (int t = 0; t < QS_N_DTYPES; t++) {
        size_t elem_bytes = qs_dtype_bytes((qs_dtype)t);
        for (int rank = 1; rank <= 4; rank++) {
            char path[64];
            qs_dataset_info info;
            (void)snprintf(path, sizeof path, "/layers/%s/rank%d", qs_dtype_name((qs_dtype)t), rank);
            OK(qs_artifact_info(a, path, &info));
            assert_true(info.dtype == (qs_dtype)t && info.rank == rank && info.n == n_elems[rank - 1]);
            OK(qs_artifact_read(a, path, (qs_dtype)t, back, info.n));
            for (size_t j = 0; j < (size_t)info.n * elem_bytes; j++)
                assert_int_equal(back[j], (167 * j + 31 * (size_t)t + 5) % 256);
        }
    }
    OK(qs_artifact_read(a, "/layers/u8/empty", QS_U8, back, 0));
    OK(qs_artifact_get_real(a, "/layers/@loss", &real));
    OK(qs_artifact_get_int(a, "/layers/u8/@bits", &integer));
    assert_true(real == -0.5 && integer == -((int64_t)1 << 62));
    qs_artifact_close(a);
}

typedef enum fails_at { AT_OPEN, AT_READ, AT_VERIFY } fails_at;

/* AT_READ: opens, but the dataset is refused, also by verify. AT_VERIFY: only verify sees it. */
static void test_bad_fixtures(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        fails_at at;
        const char *words[3];
    } cases[] = {
        {"plain", AT_OPEN, {"no sealed artifact"}},
        {"unsealed", AT_OPEN, {"not sealed"}},
        {"incomplete", AT_OPEN, {"not sealed"}},
        {"newer", AT_OPEN, {"schema version 2"}},
        {"older", AT_OPEN, {"schema version 0"}},
        {"strange_kind", AT_OPEN, {"\"train\"", "\"quant\""}},
        {"kind_number", AT_OPEN, {"/@kind"}},
        {"kind_variable", AT_OPEN, {"/@kind", "fixed length"}},
        {"kind_array", AT_OPEN, {"/@kind", "scalar"}},
        {"no_digest", AT_OPEN, {"/@digest", "missing"}},
        {"digest_not_hex", AT_OPEN, {"/@digest", "hex"}},
        {"digest_long", AT_OPEN, {"/@digest"}},
        {"missing_filter", AT_READ, {"filter 32000", "not available"}},
        {"changed_data", AT_READ, {"/layers/0/q/codes", "stored digest"}},
        {"changed_data_and_digest", AT_VERIFY, {"sealed digest"}},
        {"changed_attribute", AT_VERIFY, {"sealed digest"}},
        {"real_for_int", AT_VERIFY, {"sealed digest"}},
        {"extra_attribute", AT_VERIFY, {"sealed digest"}},
        {"extra_root_attribute", AT_VERIFY, {"sealed digest"}},
        {"extra_dataset", AT_VERIFY, {"sealed digest"}},
        {"lost_dataset", AT_READ, {NULL}}, /* a read says missing, verify says digest */
        {"lost_data_digest", AT_READ, {"/layers/0/q/codes", "missing"}},
        {"second_name", AT_VERIFY, {"no artifact has"}},
        {"soft_link", AT_READ, {NULL}},
        {"external_link", AT_READ, {NULL}},
        {"external_data", AT_READ, {"another file"}},
        {"virtual_data", AT_READ, {"another file"}},
        {"named_type", AT_VERIFY, {"/layers/t"}},
        {"big_endian", AT_READ, {"element type"}},
        {"compound", AT_READ, {"element type"}},
        {"rank0", AT_READ, {"rank"}},
        {"rank5", AT_READ, {"rank"}},
        {"empty_space", AT_READ, {"/layers/0/q/codes"}},
        {"huge", AT_READ, {"never written"}},
        {"hole", AT_READ, {"never written"}},
        {"wrong_chunk_size", AT_READ, {"chunk size"}},
        {"unstated_chunk_size", AT_READ, {"chunk size"}},
        {"gzip", AT_READ, {"filters"}},
        {"wrong_filter_order", AT_READ, {"filters"}},
        {"short_frame", AT_READ, {"zstd", "chunk's size"}},
        {"long_frame", AT_READ, {"zstd", "chunk's size"}},
    };
    enum { N_CASES = sizeof cases / sizeof *cases };
    char **names;
    int64_t n_names;
    OK(qs_dir_list(&names, &n_names, FIXTURES, ".bad.h5"));
    qs_dir_list_free(names, n_names);
    assert_int_equal(n_names, N_CASES);
    for (int i = 0; i < N_CASES; i++) {
        scratch_path path;
        qs_artifact *a;
        uint8_t codes[4096];
        OK(qs_path_format(path, FIXTURES "%s.bad.h5", cases[i].name));
        qs_err err = qs_artifact_open(&a, path, QS_KIND_QUANT);
        if ((err != QS_OK) != (cases[i].at == AT_OPEN)) fail_msg("open %s: %s", path, qs_error_text());
        if (err == QS_OK) {
            err = qs_artifact_read(a, "/layers/0/q/codes", QS_U8, codes, sizeof codes);
            if ((err != QS_OK) != (cases[i].at == AT_READ)) fail_msg("read %s: %s", path, qs_error_text());
            qs_artifact_close(a);
        }
        if (cases[i].at != AT_VERIFY) {
            assert_int_equal(err, QS_E_INPUT);
            assert_text_holds(cases[i].words);
            TEXT_HOLDS(path, "qsweep-quantize");
        }
        FAILS(QS_E_INPUT, qs_artifact_verify(path));
        /* A file whose own kind is unknown cannot name its stage to verify. */
        if (cases[i].at != AT_OPEN) {
            assert_text_holds(cases[i].words);
            TEXT_HOLDS(path, "qsweep-quantize");
        }
    }
}

static void test_what_is_no_file(void **state)
{
    (void)state;
    scratch_path path;
    qs_artifact *a;
    static content c;
    content_init(&c);
    FAILS(QS_E_INPUT, qs_artifact_open(&a, scratch(path, "absent.h5"), QS_KIND_CALIB));
    TEXT_HOLDS(path, "No such file", "run qsweep-calibrate");
    assert_null(a);
    FAILS(QS_E_INPUT, qs_artifact_open(&a, scratch_dir, QS_KIND_CALIB));
    TEXT_HOLDS(scratch_dir, "directory", "qsweep-calibrate");
    FAILS(QS_E_INPUT, qs_artifact_open(&a, "/dev/null", QS_KIND_CALIB));
    TEXT_HOLDS("/dev/null", "not a regular file");
    file_write(scratch(path, "empty.h5"), "", 0);
    FAILS(QS_E_INPUT, qs_artifact_open(&a, path, QS_KIND_QUANT));
    TEXT_HOLDS(path, "empty", "re-run qsweep-quantize");
    file_write(scratch(path, "text.h5"), "config,method\n", 14);
    FAILS(QS_E_INPUT, qs_artifact_open(&a, path, QS_KIND_EVAL));
    TEXT_HOLDS(path, "not an HDF5 file", "re-run qsweep-evaluate");
    OK(content_write(scratch(path, "quant.h5"), &c, 0, NULL));
    FAILS(QS_E_INPUT, qs_artifact_open(&a, path, QS_KIND_EVAL));
    TEXT_HOLDS(path, "\"quant\"", "\"eval\"", "qsweep-evaluate");
    OK(qs_artifact_create(&a, scratch(path, "open.h5"), QS_KIND_QUANT)); /* a part is no artifact either */
    OK(content_put_one(a, &c, 0));
    scratch_path part;
    OK(qs_path_format(part, "%s.part.%ld", path, (long)getpid()));
    assert_true(qs_file_exists(part));
    FAILS(QS_E_INPUT, qs_artifact_verify(part));
    qs_artifact_abort(a);
    assert_false(qs_file_exists(part) || qs_file_exists(path));
}

/* ---- damage ---- */

typedef struct damage_counts {
    int refused, harmless;
} damage_counts;

/* Either the file is refused as bad input, or every value is what was written. */
static void check_damaged(const char *path, const content *c, damage_counts *counts, const char *what)
{
    static content back;
    qs_err verified = qs_artifact_verify(path), read = content_read(path, &back);
    if (verified != QS_OK) assert_int_equal(verified, QS_E_INPUT);
    if (read != QS_OK) assert_int_equal(read, QS_E_INPUT);
    if (read == QS_OK && memcmp(&back, c, sizeof back) != 0) fail_msg("%s: read gave other data", what);
    if (read == QS_OK && verified == QS_OK)
        counts->harmless++;
    else
        counts->refused++;
}

static void test_truncations(void **state)
{
    (void)state;
    scratch_path whole, path;
    static content c;
    char *bytes;
    size_t n_bytes;
    content_init(&c);
    OK(content_write(scratch(whole, "whole.h5"), &c, 0, NULL));
    OK(qs_file_read(&bytes, &n_bytes, whole, (size_t)1 << 24));
    damage_counts counts = {0};
    check_damaged(whole, &c, &counts, "undamaged");
    assert_int_equal(counts.harmless, 1);
    for (int i = 0; i < 200; i++) {
        size_t kept = i < 20 ? (size_t)i * 8 : (size_t)qs_rng_below(11, (uint64_t)i, (int64_t)n_bytes);
        if (i == 199) kept = n_bytes - 1;
        file_write(scratch(path, "cut.h5"), bytes, kept);
        check_damaged(path, &c, &counts, "truncation");
    }
    assert_int_equal(counts.refused, 200); /* no proper prefix is an artifact */
    qs_mem_free(bytes);
}

static void test_bit_flips(void **state)
{
    (void)state;
    enum { N_FLIPS = 600 };
    scratch_path whole, path;
    static content c;
    char *bytes;
    size_t n_bytes;
    content_init(&c);
    OK(content_write(scratch(whole, "whole.h5"), &c, 0, NULL));
    OK(qs_file_read(&bytes, &n_bytes, whole, (size_t)1 << 24));
    char *damaged = malloc(n_bytes);
    assert_non_null(damaged);
    damage_counts counts = {0};
    for (uint64_t i = 0; i < N_FLIPS; i++) {
        memcpy(damaged, bytes, n_bytes);
        /* A third goes to the first 4 KiB and a third to the last 24 KiB, where structure is dense. */
        int64_t start = i % 3 == 1 ? (int64_t)n_bytes - 24576 : 0;
        int64_t range = i % 3 == 0 ? 4096 : i % 3 == 1 ? 24576 : (int64_t)n_bytes;
        int n_bits = i % 5 == 4 ? 8 : 1;
        for (int b = 0; b < n_bits; b++) {
            uint64_t draw = i * 16 + (uint64_t)b;
            int64_t at = start + qs_rng_below(12, draw, range);
            damaged[at] = (char)(damaged[at] ^ (1 << qs_rng_below(13, draw, 8)));
        }
        if (i % 7 == 6) { /* a lost sector instead */
            memcpy(damaged, bytes, n_bytes);
            memset(damaged + qs_rng_below(14, i, (int64_t)n_bytes / 512) * 512, 0, 512);
        }
        char what[64];
        (void)snprintf(what, sizeof what, "mutation %d", (int)i);
        file_write(scratch(path, "flip.h5"), damaged, n_bytes);
        check_damaged(path, &c, &counts, what);
    }
    print_message("%d mutations refused, %d without effect on the data\n", counts.refused, counts.harmless);
    assert_true(counts.refused > N_FLIPS / 2); /* the test has bitten */
    free(damaged);
    qs_mem_free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_types),
        cmocka_unit_test(test_bad_fixtures),
        cmocka_unit_test(test_what_is_no_file),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_bit_flips),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
