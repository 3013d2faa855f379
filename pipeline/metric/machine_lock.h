/* Time is measured alone: processes that compute for one output directory hold its lock together, one that
 * measures time holds it by itself and so waits until the others are between their computations. */
#ifndef QS_METRIC_MACHINE_LOCK_H
#define QS_METRIC_MACHINE_LOCK_H

#include <stdbool.h>

#include "base/file.h"

typedef struct qs_machine_lock {
    int fd; /* -1: the file system has no locks, said once */
    char path[QS_PATH_BYTES];
} qs_machine_lock;

/* "<dir>/.latency.<host>.lock": on a shared file system, other machines do not disturb. */
QS_MUST_CHECK qs_err qs_machine_lock_path(char path[QS_PATH_BYTES], const char *dir);
/* QS_E_RESOURCE when it cannot be made. */
QS_MUST_CHECK qs_err qs_machine_lock_open(qs_machine_lock *out, const char *dir);
/* Waits; says so when it has to. Going from one to the other gives other processes their turn. */
QS_MUST_CHECK qs_err qs_machine_lock_share(qs_machine_lock *lock);
QS_MUST_CHECK qs_err qs_machine_lock_own(qs_machine_lock *lock);
void qs_machine_lock_release(qs_machine_lock *lock);
void qs_machine_lock_close(qs_machine_lock *lock);

#endif
