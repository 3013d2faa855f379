#include "stages/children.h"

#include <errno.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/watchdog.h"

extern char **environ;

enum { ARGUMENTS_MAX = 4200 }; /* more than a list of specs can hold */

qs_err stage_find(char path[QS_PATH_BYTES], const char *name)
{
    char self[QS_PATH_BYTES];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0) return qs_fail(QS_E_UNSUPPORTED, "find the stages: %s", strerror(errno));
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL) *slash = '\0';
    if (strchr(name, '/') != NULL) return qs_fail(QS_E_USAGE, "\"%s\" is not a stage; see qsweep --help", name);
    qs_err err = qs_path_format(path, "%s/qsweep-%s", self, name);
    if (err != QS_OK) return err;
    if (access(path, X_OK) != 0) return qs_fail(QS_E_USAGE, "\"%s\" is not a stage; see qsweep --help", name);
    return QS_OK;
}

/* Statuses of base/error.h are codes; a signal or another status is nobody's fault that is known. */
static qs_err code_of(int status)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
    return code >= QS_E_USAGE && code <= QS_E_NUMERIC ? (qs_err)code : QS_E_UNSUPPORTED;
}

qs_err stage_run(const char *name, const char *const *arguments)
{
    char path[QS_PATH_BYTES];
    char *argv[ARGUMENTS_MAX + 2] = {path}; /* ends with NULL */
    pid_t child;
    int status;
    qs_err err = stage_find(path, name);
    if (err != QS_OK) return err;
    for (int n = 0; arguments[n] != NULL; n++) {
        if (n == ARGUMENTS_MAX) return qs_fail(QS_E_USAGE, "run qsweep-%s: too many arguments", name);
        argv[n + 1] = (char *)arguments[n];
    }
    int failed = posix_spawn(&child, path, NULL, NULL, argv, environ);
    if (failed != 0) return qs_fail(QS_E_RESOURCE, "run %s: %s", path, strerror(failed));
    qs_watchdog_pause();
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) return qs_fail(QS_E_RESOURCE, "wait for %s: %s", path, strerror(errno));
    qs_watchdog_resume();
    if (status == 0) return QS_OK;
    if (WIFSIGNALED(status))
        return qs_fail(code_of(status), "run qsweep-%s: ended by signal %d", name, WTERMSIG(status));
    return qs_fail(code_of(status), "run qsweep-%s: it ended with exit status %d, see above", name,
                   WEXITSTATUS(status));
}
