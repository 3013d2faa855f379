/* Command lines and JSON: what is taken, and what is refused with which words. */
#include "scratch.h"

#include <omp.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/args.h"
#include "base/json.h"
#include "base/mem.h"

/* ---- command lines ---- */

typedef struct options {
    bool flag;
    const char *text;
    int64_t count;
    double share, any;
    qs_arg_list specs;
    qs_args args;
    qs_arg rows[8];
} options;

static void options_init(options *o, const char *positional)
{
    *o = (options){.text = "default", .count = 5, .share = 0.5};
    const qs_arg rows[] = {
        {"flag", QS_ARG_FLAG, &o->flag, NULL, "a flag", 0, 0, false},
        {"text", QS_ARG_STRING, &o->text, "NAME", "a text", 0, 0, false},
        {"count", QS_ARG_INT, &o->count, "N", "a number", 1, 100, false},
        {"share", QS_ARG_REAL, &o->share, "X", "a share", 0, 1, false},
        {"any", QS_ARG_REAL, &o->any, "X", "any number", 0, 0, false},
        {"spec", QS_ARG_LIST, &o->specs, "SPEC", "specs", 0, 0, false},
        {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false},
    };
    memcpy(o->rows, rows, sizeof rows);
    o->args =
        (qs_args){.program = "qsweep-test", .summary = "A test.", .positional = positional, .rows = o->rows};
}

/* Arguments are separated by blanks; "" is written as ~. */
static qs_err parse(options *o, const char *positional, const char *line, bool *done)
{
    static char text[512], *argv[64];
    int argc = 1;
    options_init(o, positional);
    (void)snprintf(text, sizeof text, "%s", line);
    argv[0] = (char *)(uintptr_t)"qsweep-test";
    for (char *rest = text, *word; (word = strtok_r(rest, " ", &rest)) != NULL;)
        argv[argc++] = strcmp(word, "~") == 0 ? text + sizeof text - 1 : word;
    return qs_args_parse(&o->args, argc, argv, stdout, done);
}

static void test_args_values(void **state)
{
    (void)state;
    options o;
    bool done;
    OK(parse(&o, NULL, "", &done));
    assert_true(!done && !o.flag && o.count == 5 && o.share == 0.5 && !o.rows[2].given && o.specs.n == 0);
    assert_string_equal(o.text, "default");
    qs_args_free(&o.args);

    OK(parse(&o, "FILE...",
             "one --flag --text a=b --count=7 --share 0.25 --spec x --spec=y two - -- --flag -z", &done));
    assert_true(o.flag && o.count == 7 && o.share == 0.25 && o.rows[2].given && !o.rows[4].given);
    assert_string_equal(o.text, "a=b");
    assert_int_equal(o.specs.n, 2);
    assert_string_equal(o.specs.items[1], "y");
    static const char *const rest[] = {"one", "two", "-", "--flag", "-z"};
    assert_int_equal(o.args.rest.n, 5);
    for (int i = 0; i < 5; i++) assert_string_equal(o.args.rest.items[i], rest[i]);
    qs_args_free(&o.args);
    assert_true(o.args.rest.n == 0 && o.specs.n == 0);

    /* the last one counts */
    OK(parse(&o, NULL, "--text= --count 1 --count 100 --any -1e300 --share=1", &done));
    assert_true(o.text[0] == '\0' && o.count == 100 && o.any == -1e300 && o.share == 1);
    qs_args_free(&o.args);
}

static void test_args_misuse(void **state)
{
    (void)state;
    static const struct {
        const char *line, *word;
    } cases[] = {
        {"--unknown", "--unknown"},
        {"--unknown=3", "--unknown"},
        {"--fla", "--fla"},
        {"--flagg", "--flagg"},
        {"--flag=1", "no value"},
        {"--text", "NAME"},
        {"-f", "-f"},
        {"extra", "extra"},
        {"-- --flag", "--flag"},
        {"--count", "N"},
        {"--count x", "\"x\""},
        {"--count 1.5", "1.5"},
        {"--count 7x", "7x"},
        {"--count=", "number"},
        {"--count ~", "number"},
        {"--count 0", "1 to 100"},
        {"--count 101", "1 to 100"},
        {"--count -7", "1 to 100"},
        {"--share 1.01", "0 to 1"},
        {"--share nan", "share"},
        {"--any nan", "any"},
        {"--any inf", "any"},
        {"--any 1e999", "any"},
        {"--share 0,5", "0,5"},
        {"--count 99999999999999999999", "count"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options o;
        bool done;
        qs_err err = parse(&o, NULL, cases[i].line, &done);
        if (err != QS_E_USAGE) fail_msg("\"%s\" gave %s", cases[i].line, qs_err_name(err));
        TEXT_HOLDS(cases[i].word);
        qs_args_free(&o.args);
    }
}

/* Limits are said in full, and the file that grows beyond `ulimit -f` is an error of the write. */
static void test_args_limits(void **state)
{
    (void)state;
    options o;
    bool done;
    options_init(&o, NULL);
    qs_arg rows[] = {{"far", QS_ARG_INT, &o.count, "N", "a number", 2, 1e9, false},
                     {NULL, QS_ARG_FLAG, NULL, NULL, NULL, 0, 0, false}};
    qs_args args = {.program = "qsweep-test", .summary = "A test.", .rows = rows};
    char *argv[] = {(char *)(uintptr_t)"qsweep-test", (char *)(uintptr_t)"--far=1"};
    assert_int_equal(qs_args_parse(&args, 2, argv, stdout, &done), QS_E_USAGE);
    TEXT_HOLDS("2 to 1000000000");
    struct sigaction action;
    assert_int_equal(sigaction(SIGXFSZ, NULL, &action), 0);
    assert_true(action.sa_handler == SIG_IGN);
}

static void print_help(void)
{
    options o;
    bool done = false;
    OK(parse(&o, "FILE...", "--count 3 --help --unknown", &done));
    assert_true(done);
    qs_args_free(&o.args);
}

static void print_version(void)
{
    options o;
    bool done = false;
    OK(parse(&o, NULL, "--version", &done));
    assert_true(done);
}

static void test_args_help(void **state)
{
    (void)state;
    char *text = capture(stdout, print_help);
    static const char *const words[] = {
        "qsweep-test: A test.", "FILE...",    "--flag", "--text NAME", "[default]",
        "--spec SPEC",          "repeatable", "[0.5]",  "--version",   "exit status: 0 done"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strstr(text, words[i]) == NULL) fail_msg("--help lacks \"%s\"", words[i]);
    qs_mem_free(text);
    text = capture(stdout, print_version);
    assert_string_equal(text, "qsweep-test " QS_VERSION "\n");
    qs_mem_free(text);
}

static int exit_status_with_stdout(const char *path, qs_err err)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int fd = open(path, O_WRONLY), silent = open("/dev/null", O_WRONLY);
        if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(silent, STDERR_FILENO) < 0) _exit(100);
        (void)printf("a result\n");
        _exit(qs_args_exit(err));
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Output that nobody could write is no success. */
static void test_args_exit(void **state)
{
    (void)state;
    assert_int_equal(exit_status_with_stdout("/dev/null", QS_OK), 0);
    assert_int_equal(exit_status_with_stdout("/dev/null", QS_E_GATE), 3);
    assert_int_equal(exit_status_with_stdout("/dev/full", QS_OK), 6);
    assert_int_equal(exit_status_with_stdout("/dev/full", QS_E_INPUT), 4);
}

static void test_args_threads(void **state)
{
    (void)state;
    int before = omp_get_max_threads(), n;
    qs_common_args common = QS_COMMON_DEFAULTS;
    assert_int_equal(setenv("SLURM_CPUS_PER_TASK", "3", 1), 0);
    assert_int_equal(setenv("SLURM_CPUS_ON_NODE", "5", 1), 0);
    qs_args_apply_common(&common, &n);
    assert_int_equal(n, 3);
    assert_int_equal(unsetenv("SLURM_CPUS_PER_TASK"), 0);
    qs_args_apply_common(&common, &n);
    assert_int_equal(n, 5);
    common.n_threads = 2;
    qs_args_apply_common(&common, &n);
    assert_true(n == 2 && omp_get_max_threads() == 2);
    assert_int_equal(unsetenv("SLURM_CPUS_ON_NODE"), 0);
    omp_set_num_threads(before);
}

/* ---- JSON ---- */

static void test_json_parsing(void **state)
{
    (void)state;
    static const struct {
        const char *text, *word;
    } bad[] = {
        {"", "doc"},           {"{\"a\": 1,\n  \"b\": }", "line 2"}, {"{\"a\": 1, \"a\": 2}", "duplicate"},
        {"{} {}", "line 1"},   {"{\"a\": 01}", "doc"},              {"{\"a\": NaN}", "doc"},
        {"{'a': 1}", "doc"},   {"{\"a\": \"\xff\"}", "doc"},        {"{\"a\": 99999999999999999999}", "big"},
    };
    json_t *root;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        FAILS(QS_E_INPUT, qs_json_parse(&root, bad[i].text, strlen(bad[i].text), "doc"));
        TEXT_HOLDS("doc", bad[i].word);
        assert_null(root);
    }
    char deep[10000];
    memset(deep, '[', sizeof deep);
    FAILS(QS_E_INPUT, qs_json_parse(&root, deep, sizeof deep, "deep"));
    scratch_path path;
    FAILS(QS_E_INPUT, qs_json_load(&root, scratch(path, "absent.json")));
    text_write(scratch(path, "bad.json"), "{\n\n]");
    FAILS(QS_E_INPUT, qs_json_load(&root, path));
    TEXT_HOLDS(path, "line 3");
    assert_null(root);
    text_write(path, "{\"n\": 9007199254740993}");
    int64_t n;
    OK(qs_json_load(&root, path));
    OK(qs_json_get_int(&n, root, "n", 0, INT64_MAX, path));
    assert_true(n == 9007199254740993); /* not through a double */
    json_decref(root);
}

static void test_json_members(void **state)
{
    (void)state;
    static const char text[] =
        "{\"int\": -3, \"real\": 0.5, \"text\": \"t\", \"yes\": true, \"none\": null, \"list\": []}";
    json_t *root;
    int64_t integer = 11;
    double real = 11;
    bool flag = false;
    const char *string = "kept";
    OK(qs_json_parse(&root, text, strlen(text), "config.json"));
    OK(qs_json_get_int(&integer, root, "int", -3, -3, "config.json"));
    OK(qs_json_get_real(&real, root, "real", "config.json"));
    OK(qs_json_get_string(&string, root, "text", "config.json"));
    OK(qs_json_opt_bool(&flag, root, "yes", "config.json"));
    assert_true(integer == -3 && real == 0.5 && strcmp(string, "t") == 0 && flag);
    OK(qs_json_get_real(&real, root, "int", "config.json"));
    assert_true(real == -3);

    static const char *const absent[] = {"none", "nowhere"};
    for (int i = 0; i < 2; i++) { /* null counts as missing */
        OK(qs_json_opt_int(&integer, root, absent[i], 0, 1, "config.json"));
        OK(qs_json_opt_real(&real, root, absent[i], "config.json"));
        OK(qs_json_opt_bool(&flag, root, absent[i], "config.json"));
        OK(qs_json_opt_string(&string, root, absent[i], "config.json"));
        assert_true(integer == -3 && real == -3 && strcmp(string, "t") == 0 && flag);
        FAILS(QS_E_INPUT, qs_json_get_int(&integer, root, absent[i], 0, 1, "config.json"));
        TEXT_HOLDS("config.json", absent[i], "missing");
        FAILS(QS_E_INPUT, qs_json_get_real(&real, root, absent[i], "config.json"));
        FAILS(QS_E_INPUT, qs_json_get_string(&string, root, absent[i], "config.json"));
    }
    FAILS(QS_E_INPUT, qs_json_get_int(&integer, root, "int", -2, 5, "config.json"));
    TEXT_HOLDS("config.json", "\"int\"", "-2 to 5");
    FAILS(QS_E_INPUT, qs_json_opt_int(&integer, root, "int", -9, -4, "config.json"));
    FAILS(QS_E_INPUT, qs_json_get_int(&integer, root, "real", -9, 9, "config.json"));
    FAILS(QS_E_INPUT, qs_json_opt_int(&integer, root, "text", -9, 9, "config.json"));
    FAILS(QS_E_INPUT, qs_json_get_real(&real, root, "text", "config.json"));
    FAILS(QS_E_INPUT, qs_json_opt_bool(&flag, root, "int", "config.json"));
    FAILS(QS_E_INPUT, qs_json_get_string(&string, root, "list", "config.json"));
    TEXT_HOLDS("config.json", "\"list\"", "string");
    FAILS(QS_E_INPUT, qs_json_get_int(&integer, json_object_get(root, "list"), "int", 0, 1, "a list"));
    assert_true(integer == -3 && real == -3 && strcmp(string, "t") == 0 && flag); /* left alone */
    json_decref(root);
}

/* A mapped file that is cut off while it is read ends a program with a text and the status of bad input. */
static void test_mapped_file_shrinks(void **state)
{
    (void)state;
    scratch_path path;
    char said[256];
    int ends[2];
    enum { BYTES = 1 << 16 };
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *argv[] = {"test", NULL};
        qs_arg none[] = {{0}};
        qs_args args = {.program = "test", .summary = "", .rows = none};
        bool done;
        qs_file_map map;
        FILE *stream = fopen(scratch(path, "shrinks"), "w");
        if (dup2(ends[1], STDERR_FILENO) < 0 || qs_args_parse(&args, 1, argv, stdout, &done) != QS_OK ||
            stream == NULL)
            _exit(1);
        if (ftruncate(fileno(stream), BYTES) != 0 || qs_file_map_open(&map, path) != QS_OK) _exit(1);
        if (ftruncate(fileno(stream), 0) != 0) _exit(1);
        _exit(((const volatile uint8_t *)map.data)[BYTES - 1]);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), QS_E_INPUT);
    (void)close(ends[1]);
    ssize_t bytes = read(ends[0], said, sizeof said - 1);
    (void)close(ends[0]);
    assert_true(bytes > 0);
    said[bytes] = '\0';
    assert_non_null(strstr(said, "became shorter"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_args_values),
        cmocka_unit_test(test_args_misuse), cmocka_unit_test(test_args_limits),
        cmocka_unit_test(test_args_help),
        cmocka_unit_test(test_args_exit),
        cmocka_unit_test(test_args_threads),
        cmocka_unit_test(test_mapped_file_shrinks),
        cmocka_unit_test(test_json_parsing),
        cmocka_unit_test(test_json_members),
    };
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
