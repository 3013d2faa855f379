/* The state of a sweep as read from its directory, and how long it says the rest will take. */
#include "artifact/part.h"
#include "scratch.h"
#include "sweep/sweep_state.h"

#include <sys/stat.h>
#include <unistd.h>

static void touch(const char *dir, const char *name, double seconds)
{
    scratch_path path;
    OK(qs_path_format(path, "%s/%s", dir, name));
    FILE *stream = fopen(path, "w");
    assert_non_null(stream);
    assert_int_equal(fclose(stream), 0);
    struct timespec times[2] = {{.tv_sec = (time_t)seconds}, {.tv_sec = (time_t)seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* Worked by hand: three points of this run took 30 s, one of an older run does not count. */
static void test_eta(void **state)
{
    (void)state;
    const double at[] = {50, 110, 120, 130};
    assert_true(qs_sweep_eta(at, 4, 100, 5) == 50);
    assert_true(qs_sweep_eta(at, 4, 100, 0) == 0);
    assert_true(qs_sweep_eta(at, 1, 100, 5) == -1);
    assert_true(qs_sweep_eta(at, 0, 100, 0) == 0);
}

static void test_states(void **state)
{
    (void)state;
    static const char *const specs[] = {"rtn:bits=2,group=32", "rtn:bits=3,group=32", "rtn:bits=4,group=32",
                                        "rtn:bits=8,group=32", "gptq:bits=8,group=32"};
    static const qs_point_state wanted[] = {QS_POINT_DONE, QS_POINT_QUANTIZED, QS_POINT_RUNNING,
                                            QS_POINT_FAILED, QS_POINT_MISSING};
    scratch_path dir, failed;
    char name[QS_PATH_BYTES];
    qs_grid grid;
    qs_sweep_state sweep;
    OK(qs_grid_from_specs(&grid, specs, 5));
    OK(qs_dir_create(scratch(dir, "states")));
    touch(dir, ".sweep", 1000);
    touch(dir, "calib.h5", 1010);
    touch(dir, "rtn-b2-g32-sym.quant.h5", 1012);
    touch(dir, "rtn-b3-g32-sym.quant.h5", 1014);
    touch(dir, "rtn-b4-g32-sym.quant.h5", 1016);
    touch(dir, "fp.eval.h5", 1030);
    touch(dir, "rtn-b2-g32-sym.eval.h5", 1040);
    OK(qs_path_format(name, "rtn-b4-g32-sym.eval.h5.part.%ld", (long)getpid()));
    touch(dir, name, 1040);
    OK(qs_path_format(failed, "%s/rtn-b8-g32-sym.quant.h5", dir));
    OK(qs_failure_record(failed, "rtn-b8-g32-sym", qs_fail(QS_E_NUMERIC, "layers.1.q: \"NaN\" at 7")));
    OK(qs_sweep_state_read(&sweep, dir, &grid));
    /* Our own number looks as if it had come round again, so that only a lock tells that the part is written. */
    assert_int_equal(sweep.points[2].state, QS_POINT_QUANTIZED);
    qs_sweep_state_free(&sweep);
    OK(qs_path_format(name, "rtn-b4-g32-sym.eval.h5.part.%ld", (long)getppid()));
    touch(dir, name, 1040);
    OK(qs_sweep_state_read(&sweep, dir, &grid));
    for (int i = 0; i < 5; i++) {
        assert_int_equal(sweep.points[i].state, wanted[i]);
        assert_int_equal(sweep.count[i], 1);
    }
    assert_string_equal(sweep.points[3].failure.error, "layers.1.q: \"NaN\" at 7");
    assert_int_equal(sweep.points[3].failure.status, QS_E_NUMERIC);
    /* 2 s for a point to quantise (one is left, besides the failed one), 10 s for each of three to evaluate. */
    assert_true(sweep.eta == 32);
    qs_sweep_state_free(&sweep);
    qs_failure_clear(failed);
    OK(qs_sweep_state_read(&sweep, dir, &grid));
    assert_int_equal(sweep.count[QS_POINT_MISSING], 2);
    qs_sweep_state_free(&sweep);
    qs_grid_free(&grid);
}

static void test_part_names(void **state)
{
    (void)state;
    size_t bytes = 0;
    assert_true(qs_part_is_name("a.part.b.quant.h5.part.17", &bytes));
    assert_int_equal(bytes, strlen("a.part.b.quant.h5"));
    static const char *const others[] = {"a.quant.h5", "a.quant.h5.part.", "a.h5.part.1x", "a.h5.part.-3",
                                         "a.h5.part.0"};
    for (int i = 0; i < 5; i++) assert_false(qs_part_is_name(others[i], &bytes));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_eta), cmocka_unit_test(test_states),
                                       cmocka_unit_test(test_part_names)};
    return cmocka_run_group_tests(tests, scratch_create, scratch_remove);
}
