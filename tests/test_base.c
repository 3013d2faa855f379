/* base/: errors, memory, files, log and progress. Numbers are in test_dtype.c, command lines and JSON in
 * test_args.c. */
#include "scratch.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"

/* ---- errors ---- */

static void test_error_text(void **state)
{
    (void)state;
    assert_int_equal(qs_fail(QS_E_INPUT, "read %s: %d", "x", 7), QS_E_INPUT);
    assert_string_equal(qs_error_text(), "read x: 7");
    assert_int_equal(qs_context(QS_E_INPUT, "layer %d", 3), QS_E_INPUT);
    assert_string_equal(qs_error_text(), "layer 3: read x: 7");
    assert_int_equal(qs_context(QS_OK, "nothing"), QS_OK);
    assert_string_equal(qs_error_text(), "layer 3: read x: 7");
    /* the text as an argument of the next */
    assert_int_equal(qs_fail(QS_E_DEVICE, "again: %s", qs_error_text()), QS_E_DEVICE);
    assert_string_equal(qs_error_text(), "again: layer 3: read x: 7");
    char *huge = malloc(5000);
    assert_non_null(huge);
    memset(huge, 'h', 4999);
    huge[4999] = '\0';
    (void)qs_fail(QS_E_INPUT, "%s", huge);
    assert_int_equal(strlen(qs_error_text()), QS_ERROR_TEXT_BYTES - 1);
    (void)qs_context(QS_E_INPUT, "%s", huge);
    assert_int_equal(strlen(qs_error_text()), QS_ERROR_TEXT_BYTES - 1);
    free(huge);
    static const qs_err codes[] = {QS_OK, QS_E_USAGE, QS_E_GATE, QS_E_INPUT, QS_E_UNSUPPORTED, QS_E_RESOURCE,
                                   QS_E_DEVICE, QS_E_NUMERIC};
    static const int statuses[] = {0, 2, 3, 4, 5, 6, 7, 8}; /* exit statuses */
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        assert_int_equal(codes[i], statuses[i]);
        for (size_t j = 0; j < i; j++) assert_string_not_equal(qs_err_name(codes[i]), qs_err_name(codes[j]));
    }
}

static void *fail_in_thread(void *unused)
{
    (void)unused;
    const char *fresh = qs_error_text();
    bool was_empty = strcmp(fresh, "no error was recorded") == 0;
    (void)qs_fail(QS_E_INPUT, "of the thread");
    return was_empty ? fail_in_thread : NULL;
}

static void test_error_is_per_thread(void **state)
{
    (void)state;
    pthread_t thread;
    void *was_empty;
    (void)qs_fail(QS_E_INPUT, "of main");
    assert_int_equal(pthread_create(&thread, NULL, fail_in_thread, NULL), 0);
    assert_int_equal(pthread_join(thread, &was_empty), 0);
    assert_non_null(was_empty);
    assert_string_equal(qs_error_text(), "of main");
}

static int n_cleanups;

static qs_err clean_up(qs_err result)
{
    n_cleanups++;
    return result == QS_OK ? QS_OK : qs_fail(result, "clean-up failed");
}

static qs_err work(qs_err first, qs_err cleanup)
{
    qs_err err = QS_OK;
    QS_TRY(first == QS_OK ? QS_OK : qs_fail(first, "work failed"));
    QS_TRY(QS_OK);
out:
    QS_CLEANUP(clean_up(cleanup));
    QS_CLEANUP(clean_up(QS_OK));
    return err;
}

static void test_cleanup_keeps_first_error(void **state)
{
    (void)state;
    n_cleanups = 0;
    OK(work(QS_OK, QS_OK));
    FAILS(QS_E_INPUT, work(QS_E_INPUT, QS_E_RESOURCE));
    assert_string_equal(qs_error_text(), "work failed");
    FAILS(QS_E_RESOURCE, work(QS_OK, QS_E_RESOURCE));
    assert_string_equal(qs_error_text(), "clean-up failed");
    FAILS(QS_E_INPUT, work(QS_E_INPUT, QS_OK));
    assert_string_equal(qs_error_text(), "work failed");
    assert_int_equal(n_cleanups, 8); /* every path ran both */
}

/* ---- memory ---- */

static void test_mem_counts(void **state)
{
    (void)state;
    size_t before = qs_mem_bytes();
    char *a, *b;
    double *c;
    OK(qs_mem_alloc(&a, 1000, "a"));
    OK(qs_mem_alloc(&b, 0, "b"));
    OK(QS_NEW(c, 3, "c"));
    assert_true(a != NULL && b != NULL && b != a);
    assert_true((uintptr_t)a % QS_MEM_ALIGN == 0 && (uintptr_t)b % QS_MEM_ALIGN == 0 &&
                (uintptr_t)c % QS_MEM_ALIGN == 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(a[i], 0);
    assert_int_equal(qs_mem_bytes(), before + 1024);
    assert_true(qs_mem_bytes_peak() >= before + 1024);
    qs_mem_free(a);
    assert_int_equal(qs_mem_bytes(), before + 24);
    assert_true(qs_mem_bytes_peak() >= before + 1024);
    qs_mem_reset_peak();
    assert_int_equal(qs_mem_bytes_peak(), before + 24);
    qs_mem_free(b);
    qs_mem_free(c);
    qs_mem_free(NULL);
    assert_int_equal(qs_mem_bytes(), before);
    assert_int_equal(qs_mem_bytes_peak(), before + 24);
}

static void test_memory_grows(void **state)
{
    (void)state;
    size_t before = qs_mem_bytes();
    int32_t *table = NULL;
    int64_t capacity = 0;
    for (int32_t n = 0; n < 300; n++) {
        OK(qs_mem_grow(&table, n, &capacity, sizeof *table, "table"));
        assert_true(capacity > n);
        table[n] = 7 * n;
    }
    for (int32_t n = 0; n < 300; n++) assert_int_equal(table[n], 7 * n);
    int32_t *full = table;
    int64_t room = capacity;
    qs_mem_set_limit(qs_mem_bytes() + 4);
    FAILS(QS_E_RESOURCE, qs_mem_grow(&table, capacity, &capacity, sizeof *table, "table"));
    qs_mem_set_limit(0);
    assert_ptr_equal(table, full);
    assert_int_equal(capacity, room);
    qs_mem_free(table);
    assert_int_equal(qs_mem_bytes(), before);
}

static void test_mem_refuses(void **state)
{
    (void)state;
    size_t before = qs_mem_bytes();
    char *a, *b = (char *)1;
    qs_mem_set_limit(before + 1000);
    OK(qs_mem_alloc(&a, 600, "first"));
    FAILS(QS_E_RESOURCE, qs_mem_alloc(&b, 401, "second buffer"));
    TEXT_HOLDS("second buffer", "401 B");
    assert_null(b);
    OK(qs_mem_alloc(&b, 400, "exactly the limit"));
    qs_mem_free(b);
    qs_mem_free(a);
    FAILS(QS_E_RESOURCE, qs_mem_alloc(&a, SIZE_MAX, "all"));
    FAILS(QS_E_RESOURCE, qs_mem_alloc(&a, SIZE_MAX - 200, "nearly all")); /* the sum wraps round */
    qs_mem_set_limit(0);
    FAILS(QS_E_RESOURCE, qs_mem_alloc(&a, SIZE_MAX - 200, "nearly all"));
    FAILS(QS_E_RESOURCE, qs_mem_array(&a, INT64_MAX, 8, "overflow"));
    TEXT_HOLDS("overflow");
    FAILS(QS_E_RESOURCE, qs_mem_array(&a, -1, 8, "negative"));
    assert_null(a);
    assert_int_equal(qs_mem_bytes(), before);
    OK(qs_mem_array(&a, 0, 8, "none"));
    assert_non_null(a);
    qs_mem_free(a);
}

static void test_mem_facts(void **state)
{
    (void)state;
    size_t rss = qs_mem_rss_bytes(), peak = qs_mem_rss_bytes_peak(), available = qs_mem_available_bytes();
    assert_true(rss > 100 * 1024 && peak >= rss / 2 && available > 1024 * 1024);
    char text[QS_MEM_TEXT_BYTES];
    assert_string_equal(qs_mem_format(text, 0), "0 B");
    assert_string_equal(qs_mem_format(text, 1023), "1023 B");
    assert_string_equal(qs_mem_format(text, 1536), "1.5 KiB");
    assert_string_equal(qs_mem_format(text, (size_t)3 << 30), "3.0 GiB");
    assert_string_equal(qs_mem_format(text, (size_t)5000 << 40), "5000.0 TiB");
}

/* ---- files ---- */

static void test_file_reads(void **state)
{
    (void)state;
    scratch_path path;
    qs_file_map map;
    char *text;
    size_t bytes;
    text_write(scratch(path, "hello"), "hello");
    OK(qs_file_map_open(&map, path));
    assert_int_equal(map.bytes, 5);
    assert_memory_equal(map.data, "hello", 5);
    qs_file_map_close(&map);
    assert_true(map.data == NULL && map.bytes == 0);
    qs_file_map_close(&map);
    OK(qs_file_read(&text, &bytes, path, 5));
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "hello"); /* with its NUL */
    qs_mem_free(text);
    FAILS(QS_E_INPUT, qs_file_read(&text, &bytes, path, 4));
    TEXT_HOLDS(path, "5 bytes", "limit of 4");
    assert_null(text);

    text_write(scratch(path, "nothing"), "");
    OK(qs_file_map_open(&map, path));
    assert_true(map.data == NULL && map.bytes == 0);
    qs_file_map_close(&map);
    OK(qs_file_read(&text, &bytes, path, 0));
    assert_true(bytes == 0 && text[0] == '\0');
    qs_mem_free(text);

    FAILS(QS_E_INPUT, qs_file_map_open(&map, scratch(path, "absent")));
    TEXT_HOLDS(path, "No such file");
    FAILS(QS_E_INPUT, qs_file_map_open(&map, scratch_dir));
    TEXT_HOLDS(scratch_dir, "not a regular file");
    FAILS(QS_E_INPUT, qs_file_read(&text, &bytes, "/dev/null", 10));
    TEXT_HOLDS("not a regular file");
}

static void test_paths(void **state)
{
    (void)state;
    scratch_path path;
    char **names;
    int64_t n;
    char longest[QS_PATH_BYTES + 1];
    memset(longest, 'p', sizeof longest);
    longest[QS_PATH_BYTES - 1] = '\0';
    OK(qs_path_format(path, "%s", longest));
    assert_int_equal(strlen(path), QS_PATH_BYTES - 1);
    FAILS(QS_E_INPUT, qs_path_format(path, "%sx", longest));

    OK(qs_dir_create(scratch(path, "a/b/c")));
    OK(qs_dir_create(path)); /* again is fine */
    assert_true(qs_path_is_dir(path) && qs_file_exists(path));
    OK(qs_dir_create_for(scratch(path, "d/e/file.h5")));
    assert_true(qs_path_is_dir(scratch(path, "d/e")) && !qs_file_exists(scratch(path, "d/e/file.h5")));
    OK(qs_dir_create_for("file.h5"));
    OK(qs_dir_create_for("/file.h5"));
    text_write(scratch(path, "a/z.csv"), "");
    text_write(scratch(path, "a/B.csv"), "");
    text_write(scratch(path, "a/b.csv"), "");
    text_write(scratch(path, "a/b.txt"), "");
    text_write(scratch(path, "a/.hidden.csv"), "");
    OK(qs_dir_list(&names, &n, scratch(path, "a"), ".csv"));
    assert_int_equal(n, 3);
    assert_string_equal(names[0], "B.csv"); /* bytewise */
    assert_string_equal(names[1], "b.csv");
    assert_string_equal(names[2], "z.csv");
    qs_dir_list_free(names, n);
    OK(qs_dir_list(&names, &n, scratch(path, "a/b/c"), ""));
    assert_int_equal(n, 0);
    qs_dir_list_free(names, n);
    FAILS(QS_E_INPUT, qs_dir_list(&names, &n, scratch(path, "absent"), ""));
    FAILS(QS_E_RESOURCE, qs_dir_create(scratch(path, "a/b.txt")));
    FAILS(QS_E_RESOURCE, qs_dir_create(scratch(path, "a/b.txt/under")));
    FAILS(QS_E_INPUT, qs_dir_create(""));
}

static void assert_file(const char *path, const char *wanted)
{
    char *text;
    size_t bytes;
    OK(qs_file_read(&text, &bytes, path, 1 << 20));
    assert_string_equal(text, wanted);
    qs_mem_free(text);
}

static void test_writer_is_atomic(void **state)
{
    (void)state;
    scratch_path path, part;
    qs_file_writer writer;
    OK(qs_file_writer_open(&writer, scratch(path, "table.csv")));
    OK(qs_path_format(part, "%s.part.%ld", path, (long)getpid()));
    assert_true(fputs("a,b\n", writer.stream) >= 0 && fflush(writer.stream) == 0);
    assert_true(qs_file_exists(part) && !qs_file_exists(path));
    OK(qs_file_writer_publish(&writer));
    assert_false(qs_file_exists(part));
    assert_file(path, "a,b\n");
    qs_file_writer_discard(&writer); /* a no-op now */
    assert_file(path, "a,b\n");

    OK(qs_file_writer_open(&writer, path)); /* the old file stays until the new one is whole */
    assert_true(fputs("new", writer.stream) >= 0);
    assert_file(path, "a,b\n");
    qs_file_writer_discard(&writer);
    assert_false(qs_file_exists(part));
    assert_file(path, "a,b\n");
    OK(qs_file_writer_open(&writer, path));
    assert_true(fputs("new", writer.stream) >= 0);
    OK(qs_file_writer_publish(&writer));
    assert_file(path, "new");

    FAILS(QS_E_RESOURCE, qs_file_writer_open(&writer, scratch(path, "absent/table.csv")));
    TEXT_HOLDS(path, "No such file");
    FAILS(QS_E_RESOURCE, qs_file_publish(scratch(part, "absent"), scratch(path, "table.csv")));
    OK(qs_dir_create(scratch(path, "taken")));
    OK(qs_file_writer_open(&writer, path));
    FAILS(QS_E_RESOURCE, qs_file_writer_publish(&writer)); /* a directory has the name */
    OK(qs_path_format(part, "%s.part.%ld", path, (long)getpid()));
    assert_false(qs_file_exists(part));
}

/* A file that may not grow beyond 4 KiB, in a child, stands for a full disk. */
static void test_writer_without_room(void **state)
{
    (void)state;
    scratch_path path, part;
    (void)scratch(path, "full.csv");
    /* The failure shows at the flush, or before it. */
    for (int n_bytes = 4000; n_bytes <= 70000; n_bytes += 22000) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            const struct rlimit limit = {4096, RLIM_INFINITY};
            (void)signal(SIGXFSZ, SIG_IGN);
            qs_file_writer writer;
            if (setrlimit(RLIMIT_FSIZE, &limit) != 0 || qs_file_writer_open(&writer, path) != QS_OK)
                _exit(100);
            for (int i = 0; i < n_bytes; i++) (void)fputc('x', writer.stream);
            qs_err err = qs_file_writer_publish(&writer);
            if (err != QS_OK && strstr(qs_error_text(), "File too large") == NULL) _exit(101);
            _exit((int)err);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), n_bytes <= 4096 ? QS_OK : QS_E_RESOURCE);
        assert_true(qs_file_exists(path) == (n_bytes <= 4096));
        OK(qs_path_format(part, "%s.part.%ld", path, (long)child));
        assert_false(qs_file_exists(part));
        (void)unlink(path);
    }
}

/* ---- log, progress, clock ---- */

static qs_log_level level;

static void log_three(void)
{
    qs_log_set_level(level);
    qs_log_info("i %d", 1);
    qs_log_warn("w");
    qs_log_error("e");
    qs_log_set_level(QS_LOG_INFO);
}

static void test_log_levels(void **state)
{
    (void)state;
    static const char *const wanted[] = {"error: e\n", "warning: w\nerror: e\n",
                                         "i 1\nwarning: w\nerror: e\n"};
    for (int i = 0; i < 3; i++) {
        level = (qs_log_level)i;
        char *text = capture(stderr, log_three);
        assert_string_equal(text, wanted[i]);
        qs_mem_free(text);
    }
    assert_int_equal(qs_log_get_level(), QS_LOG_INFO);
}

static void progress_of_two_minutes(void)
{
    qs_progress progress;
    qs_log_set_level(level);
    qs_progress_start(&progress, "layers", 10);
    progress.terminal = false;
    qs_progress_update(&progress, 1); /* too early to say */
    progress.started -= 120;          /* as if two minutes had gone by */
    progress.shown -= 120;
    qs_progress_update(&progress, 4);
    qs_progress_update(&progress, 5); /* within the same minute */
    qs_progress_finish(&progress);
    qs_log_set_level(QS_LOG_INFO);
}

static void test_progress_in_a_log(void **state)
{
    (void)state;
    level = QS_LOG_INFO;
    char *text = capture(stderr, progress_of_two_minutes);
    assert_string_equal(text, "layers 4/10  120 s, 180 s left\n");
    qs_mem_free(text);
    level = QS_LOG_WARN; /* --quiet */
    text = capture(stderr, progress_of_two_minutes);
    assert_string_equal(text, "");
    qs_mem_free(text);
}

static void test_clock(void **state)
{
    (void)state;
    int64_t before = qs_clock_ns();
    double seconds = qs_clock_seconds();
    (void)usleep(2000);
    assert_true(qs_clock_ns() - before >= 2000000 && qs_clock_seconds() - seconds >= 0.002);
    char text[QS_CLOCK_TEXT_BYTES];
    int year, month, day, hour, minute, second, used = 0;
    assert_int_equal(sscanf(qs_clock_utc(text), "%4d-%2d-%2dT%2d:%2d:%2dZ%n", &year, &month, &day, &hour,
                            &minute, &second, &used),
                     6);
    assert_true(used == 20 && strlen(text) == 20 && year >= 2024 && month <= 12 && day <= 31);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_text),
        cmocka_unit_test(test_error_is_per_thread),
        cmocka_unit_test(test_cleanup_keeps_first_error),
        cmocka_unit_test(test_mem_counts),
        cmocka_unit_test(test_memory_grows),
        cmocka_unit_test(test_mem_refuses),
        cmocka_unit_test(test_mem_facts),
        cmocka_unit_test(test_file_reads),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_writer_is_atomic),
        cmocka_unit_test(test_writer_without_room),
        cmocka_unit_test(test_log_levels),
        cmocka_unit_test(test_progress_in_a_log),
        cmocka_unit_test(test_clock),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
