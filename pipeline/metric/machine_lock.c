#include "metric/machine_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/log.h"
#include "base/watchdog.h"

qs_err qs_machine_lock_path(char path[QS_PATH_BYTES], const char *dir)
{
    char host[256] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') (void)snprintf(host, sizeof host, "localhost");
    return qs_path_format(path, "%s/.latency.%s.lock", dir, host);
}

qs_err qs_machine_lock_open(qs_machine_lock *out, const char *dir)
{
    out->fd = -1;
    qs_err err = qs_machine_lock_path(out->path, dir);
    if (err != QS_OK) return err;
    out->fd = open(out->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (out->fd < 0) return qs_fail(QS_E_RESOURCE, "create %s: %s", out->path, strerror(errno));
    return QS_OK;
}

static qs_err take(qs_machine_lock *lock, int kind)
{
    if (lock->fd < 0) return QS_OK;
    int rc = flock(lock->fd, kind | LOCK_NB);
    if (rc != 0 && errno == EWOULDBLOCK) {
        qs_log_info("waiting for %s: another evaluation of this directory %s", lock->path,
                    kind == LOCK_EX ? "computes" : "measures time");
        qs_watchdog_pause();
        do rc = flock(lock->fd, kind);
        while (rc != 0 && errno == EINTR);
        qs_watchdog_resume();
    }
    if (rc == 0) return QS_OK;
    /* Some network file systems have no locks; a measurement that may be disturbed is better than none. */
    qs_log_warn("%s cannot be locked (%s): times may be disturbed by other processes", lock->path,
                strerror(errno));
    qs_machine_lock_close(lock);
    return QS_OK;
}

qs_err qs_machine_lock_share(qs_machine_lock *lock) { return take(lock, LOCK_SH); }

qs_err qs_machine_lock_own(qs_machine_lock *lock) { return take(lock, LOCK_EX); }

void qs_machine_lock_release(qs_machine_lock *lock)
{
    if (lock->fd >= 0) (void)flock(lock->fd, LOCK_UN);
}

void qs_machine_lock_close(qs_machine_lock *lock)
{
    if (lock->fd >= 0) (void)close(lock->fd);
    lock->fd = -1;
}
