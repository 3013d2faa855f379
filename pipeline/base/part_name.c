#include "base/part_name.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* The process id that a text consists of; 0 when it is none. */
static long parse_pid(const char *text)
{
    char *end;
    errno = 0;
    long pid = strtol(text, &end, 10);
    return errno != 0 || end == text || *end != '\0' || pid <= 0 ? 0 : pid;
}

bool qs_part_is_name(const char *name, size_t *bytes)
{
    const char *mark = NULL;
    for (const char *next = name; (next = strstr(next, ".part.")) != NULL; next++) mark = next;
    if (mark == NULL || parse_pid(mark + strlen(".part.")) == 0) return false;
    *bytes = (size_t)(mark - name);
    return true;
}

bool qs_part_writer_is_gone(const char *part_path)
{
    size_t bytes;
    if (!qs_part_is_name(part_path, &bytes)) return false;
    long pid = parse_pid(part_path + bytes + strlen(".part."));
    return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

void qs_part_each_left(const char *path, void (*visit)(const char *part_path))
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    char dir[QS_PATH_BYTES], prefix[QS_PATH_BYTES], candidate[QS_PATH_BYTES];
    if (qs_path_format(dir, "%.*s", slash != NULL ? (int)(slash - path + 1) : 1,
                       slash != NULL ? path : ".") != QS_OK ||
        qs_path_format(prefix, "%s.part.", base) != QS_OK)
        return;
    DIR *stream = opendir(dir);
    if (stream == NULL) return;
    size_t prefix_bytes = strlen(prefix), bytes;
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;)
        if (strncmp(entry->d_name, prefix, prefix_bytes) == 0 && qs_part_is_name(entry->d_name, &bytes) &&
            bytes + strlen(".part.") == prefix_bytes &&
            qs_path_format(candidate, "%s/%s", dir, entry->d_name) == QS_OK && qs_part_writer_is_gone(candidate))
            visit(candidate);
    (void)closedir(stream);
}
