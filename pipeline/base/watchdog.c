#include "base/watchdog.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

enum { TICKS_A_SECOND = 10 };

static _Atomic(int64_t) n_beats;
static _Atomic(const char *) last = "starting";
static atomic_bool paused;

/* Its own naps are the clock: a process that was stopped, or a laptop that slept, has not hung. */
static void *watch(void *argument)
{
    int64_t limit_s = *(int64_t *)argument, seen = -1, ticks = 0;
    const struct timespec nap = {.tv_nsec = 1000000000 / TICKS_A_SECOND};
    for (;;) {
        (void)nanosleep(&nap, NULL);
        int64_t now = atomic_load_explicit(&n_beats, memory_order_relaxed);
        bool moved = now != seen || atomic_load_explicit(&paused, memory_order_relaxed);
        seen = now;
        ticks = moved ? 0 : ticks + 1;
        if (ticks < limit_s * TICKS_A_SECOND) continue;
        qs_log_error("nothing has moved for %lld s, the last step that began: %s; a kernel, the driver or the file "
                     "system hangs. Look at qsweep doctor, go on with --backend cpu, or allow more with --watchdog",
                     (long long)limit_s, atomic_load_explicit(&last, memory_order_relaxed));
        _exit(QS_E_DEVICE);
    }
    return NULL;
}

qs_err qs_watchdog_start(int64_t limit_s)
{
    static int64_t limit;
    pthread_t thread;
    if (limit_s <= 0) return QS_OK;
    limit = limit_s;
    int failed = pthread_create(&thread, NULL, watch, &limit);
    if (failed == 0) failed = pthread_detach(thread);
    if (failed != 0) return qs_fail(QS_E_RESOURCE, "start the watchdog: %s", strerror(failed));
    return QS_OK;
}

void qs_watchdog_beat(const char *doing)
{
    atomic_store_explicit(&last, doing, memory_order_relaxed);
    (void)atomic_fetch_add_explicit(&n_beats, 1, memory_order_relaxed);
}

int64_t qs_watchdog_n_beats(void) { return atomic_load_explicit(&n_beats, memory_order_relaxed); }

void qs_watchdog_pause(void) { atomic_store_explicit(&paused, true, memory_order_relaxed); }

void qs_watchdog_resume(void)
{
    qs_watchdog_beat("waiting for others");
    atomic_store_explicit(&paused, false, memory_order_relaxed);
}
