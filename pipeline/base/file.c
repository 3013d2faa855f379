#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static qs_err open_regular(int *fd, struct stat *info, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return qs_fail(QS_E_INPUT, "open %s: %s", path, strerror(errno));
    if (fstat(*fd, info) != 0 || !S_ISREG(info->st_mode)) {
        (void)close(*fd);
        return qs_fail(QS_E_INPUT, "open %s: not a regular file", path);
    }
    return QS_OK;
}

qs_err qs_file_map_open(qs_file_map *out, const char *path)
{
    *out = (qs_file_map){0};
    int fd;
    struct stat info;
    qs_err err = open_regular(&fd, &info, path);
    if (err != QS_OK) return err;
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            err = qs_fail(QS_E_RESOURCE, "map %s: %s", path, strerror(errno));
        else
            *out = (qs_file_map){.data = data, .bytes = (size_t)info.st_size};
    }
    (void)close(fd);
    return err;
}

void qs_file_map_release(const qs_file_map *map, const uint8_t *data, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = (size_t)(data - map->data);
    size_t first = (offset + page - 1) / page * page, last = (offset + bytes) / page * page;
    if (first < last) (void)madvise((void *)(uintptr_t)(map->data + first), last - first, MADV_DONTNEED);
}

void qs_file_map_close(qs_file_map *map)
{
    if (map->data != NULL) (void)munmap((void *)(uintptr_t)map->data, map->bytes);
    *map = (qs_file_map){0};
}

qs_err qs_file_read(char **out, size_t *bytes, const char *path, size_t limit_bytes)
{
    *out = NULL;
    int fd;
    struct stat info;
    qs_err err = open_regular(&fd, &info, path);
    if (err != QS_OK) return err;
    size_t size = (size_t)info.st_size, done = 0;
    if (size > limit_bytes) {
        err = qs_fail(QS_E_INPUT, "read %s: %zu bytes are over the limit of %zu", path, size, limit_bytes);
        goto out;
    }
    QS_TRY(qs_mem_alloc((void *)out, size + 1, path));
    while (done < size) {
        ssize_t got = read(fd, *out + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            err = qs_fail(QS_E_INPUT, "read %s: %s", path, got < 0 ? strerror(errno) : "the file shrank");
            goto out;
        }
        done += (size_t)got;
    }
    *bytes = size;
out:
    (void)close(fd);
    if (err != QS_OK) {
        qs_mem_free(*out);
        *out = NULL;
    }
    return err;
}

bool qs_file_exists(const char *path) { return access(path, F_OK) == 0; }

bool qs_path_is_dir(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

qs_err qs_dir_create(const char *path)
{
    char partial[QS_PATH_BYTES];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof partial)
        return qs_fail(QS_E_INPUT, "create directory: the path has %zu bytes", length);
    memcpy(partial, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (partial[i] != '/' && partial[i] != '\0') continue;
        char kept = partial[i];
        partial[i] = '\0';
        if (mkdir(partial, 0777) != 0 && !(errno == EEXIST && qs_path_is_dir(partial)))
            return qs_fail(QS_E_RESOURCE, "create directory %s: %s", partial, strerror(errno));
        partial[i] = kept;
    }
    return QS_OK;
}

qs_err qs_dir_create_for(const char *file)
{
    char dir[QS_PATH_BYTES];
    const char *slash = strrchr(file, '/');
    if (slash == NULL || slash == file) return QS_OK;
    qs_err err = qs_path_format(dir, "%.*s", (int)(slash - file), file);
    return err != QS_OK ? err : qs_dir_create(dir);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

qs_err qs_dir_list(char ***out_names, int64_t *n_names, const char *dir, const char *suffix)
{
    *out_names = NULL;
    *n_names = 0;
    DIR *stream = opendir(dir);
    if (stream == NULL) return qs_fail(QS_E_INPUT, "list %s: %s", dir, strerror(errno));
    qs_err err = QS_OK;
    char **names = NULL;
    int64_t n = 0, capacity = 0;
    size_t suffix_bytes = strlen(suffix);
    for (struct dirent *entry; (entry = readdir(stream)) != NULL;) {
        size_t bytes = strlen(entry->d_name);
        if (entry->d_name[0] == '.' || bytes < suffix_bytes ||
            strcmp(entry->d_name + bytes - suffix_bytes, suffix) != 0)
            continue;
        if (n == capacity) {
            capacity = capacity == 0 ? 16 : 2 * capacity;
            char **grown = realloc(names, (size_t)capacity * sizeof *names);
            if (grown == NULL) {
                err = qs_fail(QS_E_RESOURCE, "list %s: out of memory", dir);
                break;
            }
            names = grown;
        }
        names[n] = strdup(entry->d_name);
        if (names[n] == NULL) {
            err = qs_fail(QS_E_RESOURCE, "list %s: out of memory", dir);
            break;
        }
        n++;
    }
    (void)closedir(stream);
    if (err != QS_OK) {
        qs_dir_list_free(names, n);
        return err;
    }
    if (n > 0) qsort(names, (size_t)n, sizeof *names, compare_names);
    *out_names = names;
    *n_names = n;
    return QS_OK;
}

void qs_dir_list_free(char **names, int64_t n_names)
{
    for (int64_t i = 0; i < n_names; i++) free(names[i]);
    free(names);
}

qs_err qs_path_format(char path[QS_PATH_BYTES], const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(path, QS_PATH_BYTES, fmt, args);
    va_end(args);
    if (length < 0 || length >= QS_PATH_BYTES)
        return qs_fail(QS_E_INPUT, "build path: %d bytes are over the limit of %d", length, QS_PATH_BYTES - 1);
    return QS_OK;
}

qs_err qs_file_writer_open(qs_file_writer *out, const char *path)
{
    *out = (qs_file_writer){0};
    qs_err err = qs_path_format(out->path, "%s", path);
    if (err == QS_OK) err = qs_path_format(out->part_path, "%s.part.%ld", path, (long)getpid());
    if (err != QS_OK) return err;
    out->stream = fopen(out->part_path, "we");
    if (out->stream == NULL) return qs_fail(QS_E_RESOURCE, "create %s: %s", out->part_path, strerror(errno));
    return QS_OK;
}

qs_err qs_file_publish(const char *part_path, const char *path)
{
    int fd = open(part_path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        int cause = errno;
        if (fd >= 0) (void)close(fd);
        return qs_fail(QS_E_RESOURCE, "flush %s: %s", part_path, strerror(cause));
    }
    (void)close(fd);
    if (rename(part_path, path) != 0)
        return qs_fail(QS_E_RESOURCE, "rename %s to %s: %s", part_path, path, strerror(errno));

    /* The rename itself must reach the disk too. Some file systems refuse fsync on a directory; that
     * costs durability after a power cut, not correctness, so it is not an error. */
    char dir[QS_PATH_BYTES];
    (void)snprintf(dir, sizeof dir, "%s", path);
    char *slash = strrchr(dir, '/');
    if (slash == NULL)
        (void)snprintf(dir, sizeof dir, ".");
    else
        slash[slash == dir ? 1 : 0] = '\0';
    int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd >= 0) {
        (void)fsync(dir_fd);
        (void)close(dir_fd);
    }
    return QS_OK;
}

qs_err qs_file_writer_publish(qs_file_writer *writer)
{
    bool bad = ferror(writer->stream) != 0;
    bad = fflush(writer->stream) != 0 || bad;
    int cause = errno;
    bad = fclose(writer->stream) != 0 || bad;
    writer->stream = NULL;
    qs_err err = bad ? qs_fail(QS_E_RESOURCE, "write %s: %s", writer->part_path, strerror(cause))
                     : qs_file_publish(writer->part_path, writer->path);
    if (err != QS_OK) (void)unlink(writer->part_path);
    return err;
}

void qs_file_writer_discard(qs_file_writer *writer)
{
    if (writer->stream == NULL) return;
    (void)fclose(writer->stream);
    (void)unlink(writer->part_path);
    writer->stream = NULL;
}

qs_err qs_file_write(const char *path, const void *data, size_t bytes)
{
    qs_file_writer writer = {0};
    qs_err err;
    QS_TRY(qs_file_writer_open(&writer, path));
    if (fwrite(data, 1, bytes, writer.stream) != bytes) {
        err = qs_fail(QS_E_RESOURCE, "write %s: %s", path, strerror(errno));
        goto out;
    }
    QS_TRY(qs_file_writer_publish(&writer));
out:
    qs_file_writer_discard(&writer);
    return err;
}
