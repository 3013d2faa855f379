#include "artifact/part.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static bool process_is_gone(long pid)
{
    if (pid == (long)getpid()) return true; /* a number that came round again; the lock tells */
    return kill((pid_t)pid, 0) != 0 && errno == ESRCH;
}

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

bool qs_part_is_stale(const char *part_path)
{
    size_t bytes;
    struct stat info;
    if (!qs_part_is_name(part_path, &bytes) || lstat(part_path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    if (!process_is_gone(parse_pid(part_path + bytes + strlen(".part.")))) return false;
    time_t age = time(NULL) - info.st_mtime;
    bool artifact = bytes >= 3 && strncmp(part_path + bytes - 3, ".h5", 3) == 0;
    /* A part that was just created is not locked yet, and must not find the lock taken. */
    if (age < (artifact ? 2 : 60)) return false;
    int fd = open(part_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false;
    bool stale = flock(fd, LOCK_EX | LOCK_NB) == 0;
    (void)close(fd);
    return stale;
}

static void remove_if_stale(const char *part_path, const char *pid_text)
{
    long pid = parse_pid(pid_text);
    if (pid == 0 || !process_is_gone(pid)) return;
    int fd = open(part_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) (void)unlink(part_path);
    (void)close(fd);
}

/* Best effort: a directory that cannot be listed will fail to take the new part, with a better text. */
static void remove_stale_parts(const char *path)
{
    const char *slash = strrchr(path, '/'), *base = slash != NULL ? slash + 1 : path;
    char dir[QS_PATH_BYTES], prefix[QS_PATH_BYTES], candidate[QS_PATH_BYTES];
    if (qs_path_format(dir, "%.*s", slash != NULL ? (int)(slash - path + 1) : 1,
                       slash != NULL ? path : ".") != QS_OK ||
        qs_path_format(prefix, "%s.part.", base) != QS_OK)
        return;
    DIR *stream = opendir(dir);
    if (stream == NULL) return;
    size_t prefix_bytes = strlen(prefix);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        if (strncmp(entry->d_name, prefix, prefix_bytes) != 0) continue;
        if (qs_path_format(candidate, "%s/%s", dir, entry->d_name) != QS_OK) continue;
        remove_if_stale(candidate, entry->d_name + prefix_bytes);
    }
    (void)closedir(stream);
}

qs_err qs_part_create(qs_part *part, const char *path)
{
    *part = (qs_part){.fd = -1};
    qs_err err = qs_path_format(part->path, "%s", path);
    if (err == QS_OK) err = qs_path_format(part->part_path, "%s.part.%ld", path, (long)getpid());
    if (err != QS_OK) return err;
    /* Found now, not after hours of work when the rename fails. */
    if (qs_path_is_dir(path)) return qs_fail(QS_E_RESOURCE, "create %s: a directory has this name", path);
    remove_stale_parts(path);
    part->fd = open(part->part_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (part->fd >= 0) return QS_OK;
    if (errno == EEXIST)
        return qs_fail(QS_E_RESOURCE, "create %s: it is being written already (%s)", path, part->part_path);
    return qs_fail(QS_E_RESOURCE, "create %s: %s", part->part_path, strerror(errno));
}

void qs_part_lock(qs_part *part)
{
    (void)flock(part->fd, LOCK_SH | LOCK_NB); /* file systems without locks go without */
}

static void release(qs_part *part)
{
    (void)close(part->fd);
    part->fd = -1;
}

qs_err qs_part_publish(qs_part *part)
{
    qs_err err = qs_file_publish(part->part_path, part->path);
    if (err != QS_OK) (void)unlink(part->part_path);
    release(part);
    return err;
}

void qs_part_discard(qs_part *part)
{
    if (part->fd < 0) return;
    /* Give the space back at once: HDF5 may still hold the file open, and on a full disk it needs room to
     * close. */
    (void)!ftruncate(part->fd, 0);
    (void)unlink(part->part_path);
    release(part);
}
