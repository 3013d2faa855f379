/* The watchdog (checklist G8): what stands still ends with exit status 7, what moves, waits or is stopped goes on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backend/backend.h"
#include "base/watchdog.h"

static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&t, &t) != 0) continue;
}

/* A child with a limit of one second; each gives its exit status. */
static void stand_still(void)
{
    qs_watchdog_beat("second moments");
    nap(4);
}

static void move_on(void)
{
    for (int i = 0; i < 8; i++) {
        qs_watchdog_beat("second moments");
        nap(0.25);
    }
}

static void wait_for_others(void)
{
    qs_watchdog_pause();
    nap(2);
    qs_watchdog_resume();
}

static void be_stopped(void) { nap(0.5); }

static pid_t start(void (*work)(void), FILE *told)
{
    pid_t child = fork();
    if (child != 0) return child;
    (void)dup2(fileno(told), STDERR_FILENO);
    if (qs_watchdog_start(1) != QS_OK) _exit(99);
    work();
    _exit(0);
}

static int finish(pid_t child)
{
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* At once, since they sleep. */
static void test_children(void **state)
{
    (void)state;
    void (*works[])(void) = {stand_still, move_on, wait_for_others, be_stopped};
    FILE *told[4];
    pid_t children[4];
    char text[512];
    for (int i = 0; i < 4; i++) {
        told[i] = tmpfile();
        assert_non_null(told[i]);
        children[i] = start(works[i], told[i]);
    }
    nap(0.2);
    assert_int_equal(kill(children[3], SIGSTOP), 0);
    nap(2);
    assert_int_equal(kill(children[3], SIGCONT), 0);
    assert_int_equal(finish(children[0]), QS_E_DEVICE);
    for (int i = 1; i < 4; i++) assert_int_equal(finish(children[i]), 0);
    rewind(told[0]);
    text[fread(text, 1, sizeof text - 1, told[0])] = '\0';
    assert_non_null(strstr(text, "nothing has moved for 1 s"));
    assert_non_null(strstr(text, "second moments"));
    for (int i = 0; i < 4; i++) (void)fclose(told[i]);
}

/* What a backend is asked to compute counts as moving. */
static void test_backend_beats(void **state)
{
    (void)state;
    const float a[4] = {1, 2, 3, 4}, b[4] = {1, 0, 0, 1};
    float c[4];
    qs_backend *backend;
    assert_int_equal(qs_backend_create(&backend, "cpu", 0, 1), QS_OK);
    int64_t before = qs_watchdog_n_beats();
    assert_int_equal(qs_op_gemm(backend, false, false, 2, 2, 2, 1, a, 2, b, 2, 0, c, 2), QS_OK);
    assert_true(qs_watchdog_n_beats() > before);
    assert_true(c[0] == 1 && c[3] == 4);
    qs_backend_destroy(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_children), cmocka_unit_test(test_backend_beats)};
    return cmocka_run_group_tests_name("watchdog", tests, NULL, NULL);
}
