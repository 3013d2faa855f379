/* Artifacts and what can happen to their writer: neither a kill nor a full disk nor a missing right leaves a
 * wrong or partial file under the final name, or anything else behind. */
#include "artifact_content.h"

#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int64_t count_entries(const char *dir)
{
    DIR *stream = opendir(dir);
    assert_non_null(stream);
    int64_t n = 0;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) n += entry->d_name[0] != '.';
    (void)closedir(stream);
    return n;
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
    FAILS(QS_E_RESOURCE, qs_artifact_create(&second, path, QS_KIND_CALIB)); /* our own part is in the way */
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

/* Writes with every limit until one suffices; each failure is QS_E_RESOURCE and leaves nothing behind.
 * Returns the number of failures. Runs in a child, so it reports by text and not by assertion. */
static int write_under_limits(const char *dir, bool (*set_limit)(const char *dir, int64_t bytes),
                              int64_t step_bytes)
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
        if (err != QS_E_RESOURCE || strstr(qs_error_text(), path) == NULL ||
            strchr(qs_error_text(), '\n') != NULL) {
            (void)fprintf(stderr, "%lld bytes: %s: %s\n", (long long)bytes, qs_err_name(err),
                          qs_error_text());
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
        cmocka_unit_test(test_killed_writer),
        cmocka_unit_test(test_stale_parts),
        cmocka_unit_test(test_file_size_limit),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_read_only_directory),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
