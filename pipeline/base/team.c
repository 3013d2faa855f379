#include "base/team.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

enum {
    /* Long enough to bridge the serial ops between two products of a decoding step (a few microseconds),
     * short against a scheduler quantum. A pause is 15 to 50 ns. */
    N_SPINS_IDLE = 1500,
    /* The caller waits only for chunks in progress, then lets others run. */
    N_SPINS_JOIN = 2000,
    /* Chunks per thread: the price of one is an atomic add, the gain is that nobody waits for long. */
    N_CHUNKS_PER_THREAD = 4,
    CACHE_LINE_BYTES = 64,
};

typedef struct member {
    qs_team *team;
    int index;
    pthread_t thread;
} member;

struct qs_team {
    int n_threads;
    int n_started; /* workers that run, without the caller */
    member *members;
    /* The job. Written by the caller while `is_open` is 0 and `n_inside` is 0, read in between. */
    qs_team_work work;
    void *context;
    int64_t n_items, chunk;
    atomic_bool stop;
    _Alignas(CACHE_LINE_BYTES) atomic_int generation; /* futex word: changes with each job */
    atomic_int n_sleeping;
    _Alignas(CACHE_LINE_BYTES) atomic_int is_open; /* the job may be joined */
    _Alignas(CACHE_LINE_BYTES) atomic_int n_inside; /* workers that joined and have not left */
    _Alignas(CACHE_LINE_BYTES) _Atomic int64_t next; /* first item not yet taken */
};

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_chunks(qs_team *team, int thread)
{
    for (;;) {
        int64_t first = atomic_fetch_add(&team->next, team->chunk);
        if (first >= team->n_items) return;
        int64_t last = first + team->chunk < team->n_items ? first + team->chunk : team->n_items;
        team->work(team->context, first, last, thread);
    }
}

/* Returns the generation that differs from `seen`. */
static int wait_for_job(qs_team *team, int seen)
{
    for (int spin = 0; spin < N_SPINS_IDLE; spin++) {
        int now = atomic_load_explicit(&team->generation, memory_order_acquire);
        if (now != seen) return now;
        spin_pause();
    }
    atomic_fetch_add(&team->n_sleeping, 1);
    int now;
    while ((now = atomic_load(&team->generation)) == seen)
        (void)syscall(SYS_futex, &team->generation, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&team->n_sleeping, 1);
    return now;
}

static void *worker_main(void *argument)
{
    member *self = argument;
    qs_team *team = self->team;
    /* oneDNN asks OpenMP for its thread count: inside the team every thread is its own. */
    omp_set_num_threads(1);
    int seen = 0;
    for (;;) {
        seen = wait_for_job(team, seen);
        if (atomic_load(&team->stop)) return NULL;
        /* Joining late is harmless: a closed job is left untouched, a newer one is just as welcome. */
        atomic_fetch_add(&team->n_inside, 1);
        if (atomic_load(&team->is_open)) take_chunks(team, self->index);
        atomic_fetch_sub(&team->n_inside, 1);
    }
}

qs_err qs_team_create(qs_team **out, int n_threads)
{
    qs_err err = QS_OK;
    qs_team *team = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(team, 1, "thread team"));
    team->n_threads = n_threads;
    QS_TRY(QS_NEW(team->members, n_threads, "thread team members"));
    for (int i = 1; i < n_threads; i++) {
        team->members[i] = (member){.team = team, .index = i};
        int status = pthread_create(&team->members[i].thread, NULL, worker_main, &team->members[i]);
        if (status != 0) {
            err = qs_fail(QS_E_RESOURCE, "start thread %d of %d: %s", i + 1, n_threads, strerror(status));
            goto out;
        }
        team->n_started = i;
    }
    *out = team;
    team = NULL;
out:
    qs_team_destroy(team);
    return err;
}

static void publish(qs_team *team)
{
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->n_sleeping) > 0)
        (void)syscall(SYS_futex, &team->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void qs_team_destroy(qs_team *team)
{
    if (team == NULL) return;
    atomic_store(&team->stop, true);
    publish(team);
    for (int i = 1; i <= team->n_started; i++) (void)pthread_join(team->members[i].thread, NULL);
    qs_mem_free(team->members);
    qs_mem_free(team);
}

int qs_team_n_threads(const qs_team *team) { return team->n_threads; }

void qs_team_run(qs_team *team, int64_t n_items, int64_t chunk_min, qs_team_work work, void *context)
{
    if (n_items <= 0) return;
    if (team->n_started == 0 || n_items <= chunk_min) {
        work(context, 0, n_items, 0);
        return;
    }
    team->work = work;
    team->context = context;
    team->n_items = n_items;
    int64_t n_chunks = (int64_t)team->n_threads * N_CHUNKS_PER_THREAD;
    int64_t chunk = (n_items + n_chunks - 1) / n_chunks;
    team->chunk = chunk > chunk_min ? chunk : chunk_min;
    atomic_store(&team->next, 0);
    atomic_store(&team->is_open, 1);
    publish(team);
    take_chunks(team, 0);
    atomic_store(&team->is_open, 0);
    for (int spin = 0; atomic_load(&team->n_inside) != 0; spin++) {
        if (spin < N_SPINS_JOIN)
            spin_pause();
        else
            (void)sched_yield();
    }
}

void qs_team_run_shared(int64_t n_items, int64_t chunk_min, qs_team_work work, void *context)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static qs_team *team; /* lives as long as the process */
    bool locked = pthread_mutex_trylock(&lock) == 0;
    if (locked && (team != NULL || qs_team_create(&team, omp_get_max_threads()) == QS_OK))
        qs_team_run(team, n_items, chunk_min, work, context);
    else if (n_items > 0)
        work(context, 0, n_items, 0);
    if (locked) (void)pthread_mutex_unlock(&lock);
}
