/* Directories that appear whole or not at all, new ones and those that hold something already. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_new), cmocka_unit_test(test_within)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
