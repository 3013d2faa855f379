/* Ends a process whose work stands still: a kernel that does not return, a driver or a file system that hangs
 * (checklist G8). Artifacts are published whole, so nothing is lost but the point that hung; a sweep goes on from
 * there. */
#ifndef QS_BASE_WATCHDOG_H
#define QS_BASE_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* From now on the process ends with the exit status of QS_E_DEVICE, and says what it was doing, once limit_s
 * seconds pass without a beat. Time in which the process is stopped does not count. 0 = never. Once per process. */
QS_MUST_CHECK qs_err qs_watchdog_start(int64_t limit_s);

/* Something begins, or has moved on. `doing` is a constant text. Costs one relaxed store; from any thread. */
void qs_watchdog_beat(const char *doing);
int64_t qs_watchdog_n_beats(void);

/* Waiting for others (a lock, a child) is no standing still. Pairs do not nest. */
void qs_watchdog_pause(void);
void qs_watchdog_resume(void);

#endif
