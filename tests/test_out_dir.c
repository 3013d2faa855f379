/* Directories that appear whole or not at all, new ones and those that hold something already. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/out_dir.h"
#include "tests/scratch.h"

static void assert_file(const char *dir, const char *name, const char *wanted)
{
    scratch_path path;
    char *text;
    size_t bytes;
    OK(qs_path_format(path, "%s/%s", dir, name));
    OK(qs_file_read(&text, &bytes, path, 1 << 20));
    assert_string_equal(text, wanted);
    qs_mem_free(text);
}

static void put(const qs_out_dir *dir, const char *name, const char *text)
{
    scratch_path path;
    OK(qs_path_format(path, "%s/%s", dir->part_path, name));
    text_write(path, text);
}

static void assert_n_entries(const char *dir, int64_t wanted)
{
    char **names;
    int64_t n;
    OK(qs_dir_list(&names, &n, dir, ""));
    qs_dir_list_free(names, n);
    assert_int_equal(n, wanted);
}

static void test_new(void **state)
{
    (void)state;
    scratch_path path;
    qs_out_dir dir;
    qs_err (*const opens[])(qs_out_dir *, const char *) = {qs_out_dir_open, qs_out_dir_open_within};
    for (int i = 0; i < 2; i++) {
        (void)scratch(path, i == 0 ? "a/new" : "b/new");
        OK(opens[i](&dir, path));
        put(&dir, "x", "1");
        qs_out_dir_discard(&dir);
        assert_false(qs_file_exists(path) || qs_file_exists(dir.part_path));
        qs_out_dir_discard(&dir); /* once more is nothing */

        OK(opens[i](&dir, path));
        put(&dir, "x", "1");
        put(&dir, "y", "2");
        assert_false(qs_file_exists(path));
        OK(qs_out_dir_publish(&dir));
        assert_file(path, "x", "1");
        assert_file(path, "y", "2");
        assert_n_entries(path, 2);
        assert_false(qs_file_exists(dir.part_path));
    }
    FAILS(QS_E_USAGE, qs_out_dir_open(&dir, path));
    TEXT_HOLDS(path, "there already", "--out");
    text_write(scratch(path, "file"), "x");
    FAILS(QS_E_USAGE, qs_out_dir_open_within(&dir, path));
    TEXT_HOLDS(path, "there already");
}

/* What is not written stays, what is written appears at the end; also through a link, in place of which nothing else
 * is put. */
static void test_within(void **state)
{
    (void)state;
    scratch_path path, link, inner;
    qs_out_dir dir;
    struct stat info;
    OK(qs_dir_create(scratch(inner, "held/inner")));
    OK(qs_path_format(path, "%s/held", scratch_dir));
    text_write(scratch(inner, "held/x"), "old");
    text_write(scratch(inner, "held/other"), "stays");
    assert_int_equal(symlink("held", scratch(link, "link")), 0);

    OK(qs_out_dir_open_within(&dir, link));
    put(&dir, "x", "new");
    put(&dir, "y", "more");
    assert_file(path, "x", "old");
    qs_out_dir_discard(&dir);
    assert_file(path, "x", "old");
    assert_n_entries(path, 3);

    OK(qs_out_dir_open_within(&dir, link));
    put(&dir, "x", "new");
    put(&dir, "y", "more");
    OK(qs_out_dir_publish(&dir));
    assert_true(lstat(link, &info) == 0 && S_ISLNK(info.st_mode));
    assert_file(path, "x", "new");
    assert_file(path, "y", "more");
    assert_file(path, "other", "stays");
    assert_n_entries(path, 4);

    /* A directory has the name of a file: none of the others appears either. */
    OK(qs_out_dir_open_within(&dir, path));
    put(&dir, "a", "file");
    put(&dir, "inner", "file");
    FAILS(QS_E_RESOURCE, qs_out_dir_publish(&dir));
    TEXT_HOLDS("inner");
    assert_n_entries(path, 4);
}

/* What killed writers left goes when the next one begins: of a process that is gone, and of our own number come round
 * again, whose files must not be taken for ours. Parts of live processes, of other names and locked ones stay. */
static void test_left_behind(void **state)
{
    (void)state;
    scratch_path path, file, part;
    qs_out_dir dir;
    pid_t gone = fork();
    if (gone == 0) _exit(0);
    assert_int_equal(waitpid(gone, NULL, 0), gone);
    const long owners[] = {(long)gone, (long)getpid(), (long)getppid()};
    for (int within = 0; within < 2; within++) {
        const char *of = within == 1 ? "kept/new" : "exported";
        if (within == 1) OK(qs_dir_create(scratch(path, "kept")));
        else (void)scratch(path, "exported");
        for (int i = 0; i < 3; i++) {
            OK(qs_path_format(part, "%s/%s.part.%ld", scratch_dir, of, owners[i]));
            OK(qs_dir_create(part));
            OK(qs_path_format(file, "%s/stale", part));
            text_write(file, "x");
        }
        OK(qs_path_format(file, "%s/%s.other.part.%ld", scratch_dir, of, (long)gone));
        OK(qs_dir_create(file));
        OK(qs_path_format(part, "%s/%s.part.%ld", scratch_dir, of, (long)gone));
        int held = open(part, O_RDONLY | O_DIRECTORY); /* of another host, say */
        assert_true(held >= 0 && flock(held, LOCK_SH) == 0);
        OK(within == 1 ? qs_out_dir_open_within(&dir, path) : qs_out_dir_open(&dir, path));
        assert_true(qs_path_is_dir(part));
        (void)close(held);
        qs_out_dir_discard(&dir);
        OK(within == 1 ? qs_out_dir_open_within(&dir, path) : qs_out_dir_open(&dir, path));
        assert_false(qs_file_exists(part));
        assert_n_entries(dir.part_path, 0);
        qs_out_dir again = {0};
        FAILS(QS_E_RESOURCE, within == 1 ? qs_out_dir_open_within(&again, path) : qs_out_dir_open(&again, path));
        TEXT_HOLDS("being written already", dir.part_path);
        put(&dir, "x", "1");
        OK(qs_out_dir_publish(&dir));
        OK(qs_path_format(part, "%s/%s.part.%ld", scratch_dir, of, (long)getppid()));
        assert_true(qs_path_is_dir(part) && qs_path_is_dir(file));
        assert_file(path, "x", "1");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_new), cmocka_unit_test(test_within),
                                       cmocka_unit_test(test_left_behind)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
