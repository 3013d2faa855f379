/* Artifacts under faults: bad files are refused by name with the stage to re-run, damage never goes unseen, and
 * neither a kill nor a full disk leaves a wrong or partial file under the final name. */
#include "artifact_content.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/mem.h"

/* HDF5 1.10.8 loses some 370 bytes whenever an object header fails its checksum (H5C_protect, seen with full
 * stacks); nothing of ours is allocated there, and test_artifact.c runs without this exception. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

#define FIXTURES "tests/fixtures/artifact/"

static int64_t count_entries(const char *dir)
{
    DIR *stream = opendir(dir);
    assert_non_null(stream);
    int64_t n = 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) n += entry->d_name[0] != '.';
    (void)closedir(stream);
    return n;
}

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

/* ---- kills ---- */

static _Noreturn void write_for_ever(const char *path)
{
    static content c;
    content_init(&c);
    for (uint64_t seed = 0;; seed++)
        if (content_write(path, &c, seed, NULL) != QS_OK) _exit(1);
}

/* kill -9 at any moment: the final name is absent or verifies; the next writer clears the stale part. */
static void test_killed_writer(void **state)
{
    (void)state;
    enum { N_KILLS = 80 };
    scratch_path dir, path;
    static content c, back;
    content_init(&c);
    OK(qs_dir_create(scratch(dir, "killed")));
    OK(qs_path_format(path, "%s/x.quant.h5", dir));
    int n_absent = 0, n_stale = 0;
    for (uint64_t i = 0; i < N_KILLS; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) write_for_ever(path);
        (void)usleep((useconds_t)qs_rng_below(21, i, i % 2 == 0 ? 3000 : 40000));
        assert_int_equal(kill(child, SIGKILL), 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status)); /* it had not failed before */
        int64_t n_entries = count_entries(dir);
        if (qs_file_exists(path)) {
            OK(qs_artifact_verify(path));
            OK(content_read(path, &back));
            assert_memory_equal(&back, &c, sizeof c);
            n_entries--;
        } else {
            n_absent++;
        }
        assert_true(n_entries <= 1); /* parts of earlier kills were cleared */
        n_stale += (int)n_entries;
        if (i % 2 == 0) (void)unlink(path);
    }
    print_message("%d kills: %d without a final file, %d left a part\n", N_KILLS, n_absent, n_stale);
    assert_true(n_stale > 0);
    OK(content_write(path, &c, 0, NULL));
    assert_int_equal(count_entries(dir), 1);
}

/* Parts of live writers stay, parts of the dead and of our own number go. */
static void test_stale_parts(void **state)
{
    (void)state;
    scratch_path dir, path, part;
    qs_artifact *first, *second;
    OK(qs_dir_create(scratch(dir, "stale")));
    OK(qs_path_format(path, "%s/x.h5", dir));
    pid_t dead = fork();
    assert_true(dead >= 0);
    if (dead == 0) _exit(0);
    assert_int_equal(waitpid(dead, NULL, 0), dead);
    const char *const kept[] = {"x.h5.part.1", "x.h5.part.", "x.h5.part.7x", "x.h5.part.-7", "y.h5.part.0"};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        OK(qs_path_format(part, "%s/%s", dir, kept[i]));
        file_write(part, "z", 1);
    }
    OK(qs_path_format(part, "%s.part.%ld", path, (long)dead));
    file_write(part, "z", 1);
    OK(qs_path_format(part, "%s.part.%ld", path, (long)getpid()));
    file_write(part, "z", 1);
    OK(qs_artifact_create(&first, path, QS_KIND_CALIB));
    assert_int_equal(count_entries(dir), 5 + 1);
    FAILS(QS_E_RESOURCE, qs_artifact_create(&second, path, QS_KIND_CALIB)); /* our own live part is in the way */
    TEXT_HOLDS(path, "already");
    assert_null(second);
    pid_t child = fork(); /* another process may write the same path: the last one to finish wins */
    assert_true(child >= 0);
    if (child == 0) {
        qs_err err = qs_artifact_create(&second, path, QS_KIND_CALIB);
        if (err == QS_OK) err = qs_artifact_seal(second, NULL);
        _exit((int)err);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    OK(qs_artifact_verify(path));
    OK(qs_artifact_seal(first, NULL));
    OK(qs_artifact_verify(path));
    assert_int_equal(count_entries(dir), 5 + 1);
}

/* ---- no room, no right ---- */

/* Writes with every limit until one suffices; each failure is QS_E_RESOURCE and leaves nothing behind. Returns the
 * number of failures. Runs in a child, so it reports by text and not by assertion. */
static int write_under_limits(const char *dir, bool (*set_limit)(const char *dir, int64_t bytes), int64_t step_bytes)
{
    static content c;
    content_init(&c);
    scratch_path path;
    if (qs_path_format(path, "%s/x.quant.h5", dir) != QS_OK) return -1;
    int n_failures = 0;
    for (int64_t bytes = step_bytes;; bytes += step_bytes) {
        if (!set_limit(dir, bytes)) return -1;
        size_t held = qs_mem_bytes();
        qs_err err = content_write(path, &c, 0, NULL);
        if (err == QS_OK) break;
        n_failures++;
        if (err != QS_E_RESOURCE || strstr(qs_error_text(), path) == NULL || strchr(qs_error_text(), '\n') != NULL) {
            (void)fprintf(stderr, "%lld bytes: %s: %s\n", (long long)bytes, qs_err_name(err), qs_error_text());
            return -1;
        }
        if (qs_mem_bytes() != held || count_entries(dir) != 0) {
            (void)fprintf(stderr, "%lld bytes: something stayed behind\n", (long long)bytes);
            return -1;
        }
    }
    return qs_artifact_verify(path) == QS_OK ? n_failures : -1;
}

static bool limit_file_size(const char *dir, int64_t bytes)
{
    (void)dir;
    const struct rlimit limit = {(rlim_t)bytes, RLIM_INFINITY};
    return setrlimit(RLIMIT_FSIZE, &limit) == 0;
}

static bool limit_disk(const char *dir, int64_t bytes)
{
    char options[64];
    (void)snprintf(options, sizeof options, "size=%lld", (long long)bytes);
    (void)umount(dir); /* fails the first time, and when a file was left open */
    return mount("tmpfs", dir, "tmpfs", 0, options) == 0;
}

static void expect_failures(int status)
{
    assert_true(WIFEXITED(status));
    assert_in_range(WEXITSTATUS(status), 3, 250); /* 251 and more: the child saw a fault */
}

/* A limit on the size of files cuts the write at every 512 bytes, so each step of the writer fails once. */
static void test_file_size_limit(void **state)
{
    (void)state;
    scratch_path dir;
    OK(qs_dir_create(scratch(dir, "limit")));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)signal(SIGXFSZ, SIG_IGN);
        int n = write_under_limits(dir, limit_file_size, 512);
        _exit(n < 0 ? 251 : n > 250 ? 250 : n);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    expect_failures(status);
    print_message("limits on the file size: %d failures or more, nothing left behind\n", WEXITSTATUS(status));
}

enum { CANNOT_MOUNT = 252 };

/* In a mount namespace of its own; 0 when the machine allows that. */
static int enter_namespace(void)
{
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWNS | CLONE_NEWUSER) != 0) return -1;
    return mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
}

static void test_full_disk(void **state)
{
    (void)state;
    scratch_path dir;
    OK(qs_dir_create(scratch(dir, "disk")));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (enter_namespace() != 0 || !limit_disk(dir, 4096)) _exit(CANNOT_MOUNT);
        int n = write_under_limits(dir, limit_disk, 4096);
        _exit(n < 0 ? 251 : n);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT_MOUNT) {
        print_message("skipped: no right to mount a small tmpfs here\n");
        skip();
    }
    expect_failures(status);
    print_message("full disks: %d failures, nothing left behind\n", WEXITSTATUS(status));
}

static void test_no_directory(void **state)
{
    (void)state;
    scratch_path path, dir;
    qs_artifact *a;
    FAILS(QS_E_RESOURCE, qs_artifact_create(&a, scratch(path, "absent/x.h5"), QS_KIND_QUANT));
    TEXT_HOLDS(path, "No such file or directory");
    assert_null(a);
    OK(qs_dir_create(scratch(dir, "taken.h5")));
    FAILS(QS_E_RESOURCE, qs_artifact_create(&a, dir, QS_KIND_QUANT));
    TEXT_HOLDS(dir, "directory");
    OK(qs_dir_create(scratch(dir, "vanishes")));
    OK(qs_artifact_create(&a, scratch(path, "vanishes/x.h5"), QS_KIND_QUANT));
    assert_int_equal(nftw(dir, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    FAILS(QS_E_RESOURCE, qs_artifact_seal(a, NULL)); /* the directory went away meanwhile */
    TEXT_HOLDS(path);
}

/* As a plain user when the tests run as root, whom a read-only directory does not stop. */
static void test_read_only_directory(void **state)
{
    (void)state;
    scratch_path dir, path;
    OK(qs_dir_create(scratch(dir, "read-only")));
    OK(qs_path_format(path, "%s/x.h5", dir));
    assert_int_equal(chmod(scratch_dir, 0755), 0);
    assert_int_equal(chmod(dir, 0555), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        qs_artifact *a;
        if (getuid() == 0 && setuid(65534) != 0) _exit(1);
        qs_err err = qs_artifact_create(&a, path, QS_KIND_QUANT);
        _exit(err == QS_E_RESOURCE && strstr(qs_error_text(), "Permission denied") != NULL ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(count_entries(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_types),
        cmocka_unit_test(test_bad_fixtures),
        cmocka_unit_test(test_what_is_no_file),
        cmocka_unit_test(test_truncations),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_stale_parts),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_read_only_directory),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
