#include "artifact/part.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

bool qs_part_is_stale(const char *part_path)
{
    size_t bytes;
    struct stat info;
    if (!qs_part_is_name(part_path, &bytes) || lstat(part_path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    if (!qs_part_writer_is_gone(part_path)) return false;
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

static void remove_if_unlocked(const char *part_path)
{
    int fd = open(part_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) (void)unlink(part_path);
    (void)close(fd);
}

qs_err qs_part_create(qs_part *part, const char *path)
{
    *part = (qs_part){.fd = -1};
    qs_err err = qs_path_format(part->path, "%s", path);
    if (err == QS_OK) err = qs_path_format(part->part_path, "%s.part.%ld", path, (long)getpid());
    if (err != QS_OK) return err;
    /* Found now, not after hours of work when the rename fails. */
    if (qs_path_is_dir(path)) return qs_fail(QS_E_RESOURCE, "create %s: a directory has this name", path);
    qs_part_each_left(path, remove_if_unlocked);
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
