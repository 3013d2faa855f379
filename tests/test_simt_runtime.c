/* The twin of CUDA on the CPU, tried by itself: what the runtime promises, and that mistakes which a GPU
 * would punish at random are reported every time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

#include "tests/simt_device.h"

/* ---- memory within a block ---- */

static void test_copies_in_the_background(void **state)
{
    (void)state;
    uint32_t in[256], got[256];
    for (uint32_t i = 0; i < 256; i++) in[i] = 1 + i;
    uint32_t *in_device = on_device(in, sizeof in), *out = on_device(NULL, sizeof in);
    assert_int_equal(qs_case_copy(stream, in_device, 0, out), 0);
    to_host(got, out, sizeof got);
    assert_memory_equal(got, in, sizeof in);
    /* The second half is still on its way: it was not waited for. */
    assert_int_equal(qs_case_copy(stream, in_device, 1, out), 0);
    to_host(got, out, sizeof got);
    assert_memory_equal(got, in, sizeof in / 2);
    for (int i = 128; i < 256; i++) assert_int_equal(got[i], UINT32_MAX);
    qs_rt_free(in_device);
    qs_rt_free(out);
}

static void test_unwritten_memory(void **state)
{
    (void)state;
    uint32_t got[64];
    uint32_t *out = on_device(NULL, sizeof got);
    to_host(got, out, sizeof got);
    for (int i = 0; i < 64; i++) assert_int_equal(got[i], UINT32_MAX); /* as allocated */
    use_order(0);
    assert_int_equal(qs_rt_fill_zero(out, sizeof got, stream), 0);
    assert_int_equal(qs_case_unwritten(stream, out), 0);
    to_host(got, out, sizeof got);
    use_order(2);
    for (int i = 0; i < 64; i++) assert_int_equal(got[i], UINT32_MAX);
    qs_rt_free(out);
}

/* ---- streams ---- */

static void test_streams_defer(void **state)
{
    (void)state;
    enum { N = 300 };
    float *pinned, x[N];
    for (int i = 0; i < N; i++) x[i] = (float)i;
    assert_int_equal(qs_rt_malloc_host((void **)&pinned, sizeof x), 0);
    memset(pinned, 0, sizeof x);
    float *device = on_device(x, sizeof x);
    qs_case_pair pair = {2, 1};
    assert_int_equal(qs_case_scale(stream, device, N, pair), 0);
    pair.factor = 100; /* the launch has its own */
    assert_int_equal(qs_rt_copy(pinned, device, sizeof x, QS_RT_TO_HOST, stream), 0);
    assert_true(pinned[N - 1] == 0.0f); /* nobody has waited yet */
    assert_int_equal(qs_rt_stream_sync(stream), 0);
    for (int i = 0; i < N; i++) assert_true(pinned[i] == 2.0f * (float)i + 1);
    /* From ordinary memory the copy is made at once. */
    assert_int_equal(qs_rt_copy(device, x, sizeof x, QS_RT_TO_DEVICE, stream), 0);
    memset(x, 0, sizeof x);
    to_host(x, device, sizeof x);
    assert_true(x[N - 1] == (float)(N - 1));
    assert_int_equal(qs_rt_free(device), 0);
    assert_int_equal(qs_rt_free_host(pinned), 0);
}

static void test_events(void **state)
{
    (void)state;
    void *events[2], *other;
    float ms = -1;
    for (int i = 0; i < 2; i++) assert_int_equal(qs_rt_event_create(&events[i]), 0);
    assert_int_equal(qs_rt_event_ms(&ms, events[0], events[1]), 400);
    assert_int_equal(qs_rt_event_record(events[0], stream), 0);
    assert_int_equal(qs_case_empty(stream, 100, 1, 256, 1, 0), 0);
    assert_int_equal(qs_rt_event_record(events[1], stream), 0);
    assert_int_equal(qs_rt_event_ms(&ms, events[0], events[1]), 600);
    assert_int_equal(qs_rt_stream_create(&other), 0);
    assert_int_equal(qs_rt_stream_wait(other, events[1]), 0);
    assert_int_equal(qs_rt_event_sync(events[1]), 0);
    assert_int_equal(qs_rt_event_ms(&ms, events[0], events[1]), 0);
    assert_true(ms > 0);
    assert_int_equal(qs_rt_stream_destroy(other), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(qs_rt_event_destroy(events[i]), 0);
}

static void test_recording(void **state)
{
    (void)state;
    float x = 1, y[2];
    float *device = on_device(NULL, 2 * sizeof x);
    void *graph;
    qs_case_pair pair = {2, 3};
    assert_int_equal(qs_rt_record_start(stream), 0);
    assert_int_equal(qs_case_scale(stream, device, 1, pair), 0);
    pair.factor = -1;
    assert_int_equal(qs_rt_copy(device + 1, device, sizeof x, QS_RT_ON_DEVICE, stream), 0);
    assert_int_equal(qs_rt_fill_zero(device, 1, stream), 0); /* one byte of the mantissa, which is 0 already */
    assert_int_equal(qs_rt_record_stop(stream, &graph), 0);
    assert_int_equal(qs_rt_copy(device, &x, sizeof x, QS_RT_TO_DEVICE, stream), 0);
    to_host(y, device, sizeof y);
    assert_true(y[0] == 1.0f); /* nothing has run */
    for (int play = 0; play < 2; play++) {
        assert_int_equal(qs_rt_graph_play(graph, stream), 0);
        to_host(y, device, sizeof y);
        x = 2 * x + 3;
        assert_true(y[0] == x && y[1] == x);
    }
    assert_int_equal(qs_rt_graph_destroy(graph), 0);

    /* Waiting cannot be recorded, and neither can a launch that fails. */
    assert_int_equal(qs_rt_record_start(stream), 0);
    assert_int_equal(qs_rt_stream_sync(stream), 900);
    assert_int_equal(qs_rt_record_stop(stream, &graph), 901);
    assert_null(graph);
    assert_int_equal(qs_rt_record_start(stream), 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 1025, 1, 0), 9);
    assert_int_equal(qs_rt_record_stop(stream, &graph), 901);
    assert_int_equal(qs_rt_record_stop(stream, &graph), 903);
    assert_int_equal(qs_rt_free(device), 0);
}

static void test_invalid_launches(void **state)
{
    (void)state;
    assert_int_equal(qs_case_empty(stream, 1, 1, 1024, 1, 0), 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 1025, 1, 0), 9);
    assert_int_equal(qs_case_empty(stream, 1, 1, 64, 17, 0), 9);
    assert_int_equal(qs_case_empty(stream, 1, 1, 0, 1, 0), 9);
    assert_int_equal(qs_case_empty(stream, 0, 1, 32, 1, 0), 9);
    assert_int_equal(qs_case_empty(stream, 1, 65535, 1, 1, 0), 0);
    assert_int_equal(qs_case_empty(stream, 1, 65536, 1, 1, 0), 9);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 48 << 10), 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, (48 << 10) + 1), 1); /* more must be asked for */
    assert_int_equal(qs_case_empty_allow((227 << 10) + 1), 1);
    assert_int_equal(qs_case_empty_allow(100 << 10), 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 100 << 10), 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 101 << 10), 1);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, (227 << 10) + 1), 9);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 0), 0); /* a status is told once */
}

/* ---- devices, memory, ordered failures ---- */

static void test_memory(void **state)
{
    (void)state;
    size_t free_bytes, total_bytes;
    void *a, *b;
    qs_rt_simt_set_memory(1000);
    assert_int_equal(qs_rt_malloc(&a, 600), 0);
    assert_int_equal(qs_rt_malloc(&b, 401), QS_RT_OUT_OF_MEMORY);
    assert_null(b);
    assert_int_equal(qs_rt_memory(&free_bytes, &total_bytes), 0);
    assert_int_equal(free_bytes, 400);
    assert_int_equal(total_bytes, 1000);
    assert_int_equal(qs_rt_malloc(&b, 400), 0);
    assert_int_equal(qs_rt_copy(a, b, 401, QS_RT_ON_DEVICE, stream), 1); /* beyond b */
    assert_int_equal(qs_rt_fill_zero(a, 601, stream), 1);
    assert_int_equal(qs_rt_free(b), 0);
    assert_int_equal(qs_rt_free(b), 1);
    assert_int_equal(qs_rt_free(a), 0);
    assert_int_equal(qs_rt_free(NULL), 0);
    qs_rt_simt_set_memory((size_t)8 << 30);
}

static void test_ordered_failures(void **state)
{
    (void)state;
    void *a, *b;
    qs_rt_simt_fail_malloc(1, QS_RT_OUT_OF_MEMORY);
    assert_int_equal(qs_rt_malloc(&a, 8), 0);
    assert_int_equal(qs_rt_malloc(&b, 8), QS_RT_OUT_OF_MEMORY);
    assert_int_equal(qs_rt_malloc_host(&b, 8), QS_RT_OUT_OF_MEMORY);
    qs_rt_simt_fail_malloc(0, 0);
    assert_int_equal(qs_rt_malloc_host(&b, 8), 0);
    assert_int_equal(qs_rt_free_host(b), 0);
    assert_int_equal(qs_rt_free(a), 0);

    qs_rt_simt_fail_launch(2, QS_RT_LAUNCH_FAILURE);
    for (int i = 0; i < 4; i++)
        assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 0), i < 2 ? 0 : QS_RT_LAUNCH_FAILURE);
    qs_rt_simt_fail_launch(0, 0);
    assert_int_equal(qs_case_empty(stream, 1, 1, 32, 1, 0), 0);
}

static void test_device(void **state)
{
    (void)state;
    int n = 0;
    qs_rt_device device;
    assert_int_equal(qs_rt_n_devices(&n), 0);
    assert_int_equal(n, 1);
    assert_int_equal(qs_rt_open(1, &device), 101);
    assert_int_equal(qs_rt_open(0, &device), 0);
    assert_true(device.emulated && device.n_sms > 0 && device.name[0] != 0);
    assert_int_equal(device.total_bytes, (size_t)8 << 30);
    assert_string_equal(qs_rt_architectures(), "cpu");
    assert_non_null(strstr(qs_rt_error_text(QS_RT_OUT_OF_MEMORY), "cudaErrorMemoryAllocation: "));
    assert_non_null(strstr(qs_rt_error_text(12345), "unknown"));
}

/* ---- mistakes ---- */

/* Runs a kernel in a process of its own, which must die and say why and where. */
static void expect_report(int mistake, const char *what)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int *out;
        dup2(ends[1], STDERR_FILENO);
        for (int signal_number = 1; signal_number < 32; signal_number++) signal(signal_number, SIG_DFL);
        if (qs_rt_malloc((void **)&out, 32 * sizeof *out) != 0 || qs_case_mistake(stream, mistake, out) != 0 ||
            qs_rt_stream_sync(stream) != 0)
            _exit(1);
        _exit(0);
    }
    close(ends[1]);
    char text[16384];
    size_t n = 0;
    for (ssize_t got = 1; got > 0; n += (size_t)(got > 0 ? got : 0)) {
        got = read(ends[0], text + n, sizeof text - 1 - n);
        if (n == sizeof text - 1) break;
    }
    text[n] = 0;
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (strstr(text, what) == NULL || strstr(text, "simt_cases.cu:") == NULL)
        print_error("mistake %d, wanted \"%s\", got:\n%s\n", mistake, what, text);
    assert_non_null(strstr(text, what));
    assert_non_null(strstr(text, "simt_cases.cu:"));
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) <= 1 && strstr(text, "AddressSanitizer") == NULL);
}

static void test_mistakes(void **state)
{
    (void)state;
    expect_report(QS_CASE_ABSENT_LANE, "not reached by every lane");
    expect_report(QS_CASE_OTHER_MASK, "not reached by every lane");
    expect_report(QS_CASE_TWO_BARRIERS, "__syncthreads reached at different places");
    expect_report(QS_CASE_BARRIER_AND_VOTE, "not reached by every lane");
    expect_report(QS_CASE_OUTSIDE, "lane outside of its mask");
    expect_report(QS_CASE_MMA_HALF_WARP, "not reached by every lane");
    expect_report(QS_CASE_BAD_COPY, "not aligned to 16");
    expect_report(QS_CASE_LONELY_BARRIER, "nobody completes the phase");
}

#ifdef __SANITIZE_ADDRESS__
/* Of device memory and of dynamic shared memory, and the host where only the device may be. */
static void test_overruns(void **state)
{
    (void)state;
    expect_report(QS_CASE_OVERRUN, "heap-buffer-overflow");
    expect_report(QS_CASE_DYNAMIC_OVERRUN, "heap-buffer-overflow");
    int *device;
    assert_int_equal(qs_rt_malloc((void **)&device, 40), 0);
    assert_true(__asan_address_is_poisoned(device));
    assert_int_equal(qs_rt_fill_zero(device, 40, stream), 0);
    assert_int_equal(qs_rt_stream_sync(stream), 0);
    assert_true(__asan_address_is_poisoned(device + 9));
    assert_int_equal(qs_rt_free(device), 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_copies_in_the_background, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unwritten_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_streams_defer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_events, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_recording, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_invalid_launches, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_ordered_failures, set_up, tear_down),
        cmocka_unit_test(test_device),
        cmocka_unit_test_setup_teardown(test_mistakes, set_up, tear_down),
#ifdef __SANITIZE_ADDRESS__
        cmocka_unit_test_setup_teardown(test_overruns, set_up, tear_down),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
