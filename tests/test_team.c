/* Teams of threads: every item is worked on once, whoever asks, and however many ask at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/team.h"

enum { N_ITEMS_MAX = 1000, N_THREADS = 4, N_ROUNDS = 200 };

typedef struct tally {
    atomic_int count[N_ITEMS_MAX];
    atomic_int wrong; /* chunks that are empty, or threads out of range */
    int n_threads;
} tally;

static void count(void *context, int64_t first, int64_t last, int thread)
{
    tally *t = context;
    if (first >= last || thread < 0 || thread >= t->n_threads) atomic_fetch_add(&t->wrong, 1);
    for (int64_t i = first; i < last; i++) atomic_fetch_add(&t->count[i], 1);
}

static void assert_each_once(const tally *t, int64_t n_items, int times)
{
    assert_int_equal(t->wrong, 0);
    for (int64_t i = 0; i < N_ITEMS_MAX; i++) assert_int_equal(t->count[i], i < n_items ? times : 0);
}

static void test_every_item_once(void **state)
{
    (void)state;
    static const int64_t sizes[] = {0, 1, 3, 64, 999, N_ITEMS_MAX}, chunks[] = {1, 7, 2000};
    for (int n_threads = 1; n_threads <= N_THREADS; n_threads++) {
        qs_team *team;
        assert_int_equal(qs_team_create(&team, n_threads), QS_OK);
        assert_int_equal(qs_team_n_threads(team), n_threads);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
                tally t = {.n_threads = n_threads};
                qs_team_run(team, sizes[s], chunks[c], count, &t);
                assert_each_once(&t, sizes[s], 1);
            }
        qs_team_destroy(team);
    }
}

/* Jobs one after the other: nobody works on the last one again. */
static void test_many_jobs(void **state)
{
    (void)state;
    qs_team *team;
    tally t = {.n_threads = N_THREADS};
    assert_int_equal(qs_team_create(&team, N_THREADS), QS_OK);
    for (int i = 0; i < N_ROUNDS; i++) qs_team_run(team, 50, 1, count, &t);
    assert_each_once(&t, 50, N_ROUNDS);
    qs_team_destroy(team);
}

static void ask_again(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    for (int64_t i = first; i < last; i++) qs_team_run_shared(10, 1, count, context);
}

static void *ask(void *context)
{
    for (int i = 0; i < N_ROUNDS; i++) qs_team_run_shared(100, 1, count, context);
    return NULL;
}

/* From inside its own work, and by several threads at once, the team of the process is busy: they work alone. */
static void test_shared(void **state)
{
    (void)state;
    pthread_t threads[N_THREADS];
    tally t[N_THREADS] = {0}, nested = {.n_threads = 64};
    qs_team_run_shared(20, 1, ask_again, &nested);
    assert_each_once(&nested, 10, 20);
    for (int i = 0; i < N_THREADS; i++) {
        t[i].n_threads = 64;
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &t[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < N_THREADS; i++) assert_each_once(&t[i], 100, N_ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_item_once), cmocka_unit_test(test_many_jobs),
                                       cmocka_unit_test(test_shared)};
    return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
