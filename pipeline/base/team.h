/* A team of threads that shares the rows of one op.
 *
 * Not OpenMP, by measurement: libgomp's workers spin between regions, and on a machine that others use too a
 * region of two spinning threads costs a scheduler quantum (4 ms for a product of 0.03 ms). Here a worker
 * spins for some microseconds and then sleeps, the caller works along and never waits for a worker that has
 * not started, and items are handed out in chunks, so a team is never slower than its caller alone.
 *
 * Which thread computes an item is left to chance; what it computes is not: items are whole rows or tiles,
 * cut by shape alone. One caller at a time. */
#ifndef QS_BASE_TEAM_H
#define QS_BASE_TEAM_H

#include <stdint.h>

#include "base/error.h"

typedef struct qs_team qs_team;

/* n_threads >= 1 counts the caller. */
QS_MUST_CHECK qs_err qs_team_create(qs_team **out, int n_threads);
void qs_team_destroy(qs_team *team);
int qs_team_n_threads(const qs_team *team);

/* Works on items [first, last); `thread` in [0, n_threads) picks per-thread scratch. Must not fail or
 * allocate. */
typedef void (*qs_team_work)(void *context, int64_t first, int64_t last, int thread);

/* Runs work over items [0, n_items) in chunks of at least `chunk_min` items, and returns when all are done. */
void qs_team_run(qs_team *team, int64_t n_items, int64_t chunk_min, qs_team_work work, void *context);

/* The same by a team of the process, for work without a backend: as many threads as OpenMP would take when it is first
 * asked for. Who comes while it is busy, or where threads cannot be had, works alone. */
void qs_team_run_shared(int64_t n_items, int64_t chunk_min, qs_team_work work, void *context);

#endif
