#include "model/mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int64_t modified_ns(const struct stat *info)
{
    return (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec;
}

qs_err qs_mapped_open(qs_mapped *out, const char *path)
{
    *out = (qs_mapped){.fd = -1};
    qs_err err;
    QS_TRY(qs_path_format(out->path, "%s", path));
    QS_TRY(qs_file_map_open(&out->map, path));
    struct stat info;
    out->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (out->fd < 0 || fstat(out->fd, &info) != 0) {
        err = qs_fail(QS_E_INPUT, "open %s: %s", path, strerror(errno));
    } else {
        out->modified_ns = modified_ns(&info);
        if ((size_t)info.st_size != out->map.bytes)
            err = qs_fail(QS_E_INPUT, "open %s: the file is being written", path);
    }
out:
    if (err != QS_OK) qs_mapped_close(out);
    return err;
}

void qs_mapped_close(qs_mapped *file)
{
    if (file->path[0] == '\0') return;
    qs_file_map_close(&file->map);
    if (file->fd >= 0) (void)close(file->fd);
    *file = (qs_mapped){.fd = -1};
}

/* Reading a map beyond the end of its file is SIGBUS, not an error code. This check turns the common case, a
 * model replaced or truncated between two uses, into a clear text; what remains is the time between the check
 * and the read of one tensor. A handler of SIGBUS closes it, which is process-wide state that a library must not
 * own: the programs have one (base/args.c). */
qs_err qs_mapped_check(const qs_mapped *file)
{
    struct stat info;
    if (fstat(file->fd, &info) != 0) return qs_fail(QS_E_INPUT, "read %s: %s", file->path, strerror(errno));
    if ((size_t)info.st_size != file->map.bytes)
        return qs_fail(QS_E_INPUT, "read %s: the file had %zu bytes when it was opened and has %lld now",
                       file->path, file->map.bytes, (long long)info.st_size);
    if (modified_ns(&info) != file->modified_ns)
        return qs_fail(QS_E_INPUT, "read %s: the file was written to after it was opened", file->path);
    return QS_OK;
}
