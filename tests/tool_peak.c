/* Runs a command and holds the most memory that it had at once (resident, mapped files included) against a limit.
 *
 * usage: tool_peak LIMIT_MIB COMMAND...     exit status 1 when the command fails or the peak is above the limit */
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int status = 0;
    struct rusage usage = {0};
    if (argc < 3) {
        (void)fprintf(stderr, "usage: tool_peak LIMIT_MIB COMMAND...\n");
        return 2;
    }
    pid_t child = fork();
    if (child == 0) {
        (void)execvp(argv[2], argv + 2);
        perror(argv[2]);
        _exit(127);
    }
    if (child < 0 || wait4(child, &status, 0, &usage) != child) {
        perror("tool_peak");
        return 1;
    }
    long peak = usage.ru_maxrss / 1024, limit = atol(argv[1]);
    (void)printf("%s: peak %ld MiB of %ld, %ld s of CPU time\n", argv[2], peak, limit,
                 (long)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 && peak <= limit ? 0 : 1;
}
