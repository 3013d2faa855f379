#include "base/out_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/part_name.h"

/* tokenizer.json of a vocabulary of 250,000 is about 20 MB. */
static const size_t copy_bytes_max = (size_t)256 << 20;

qs_err qs_out_dir_check(const char *path)
{
    char **names;
    int64_t n;
    struct stat info;
    if (lstat(path, &info) != 0) return QS_OK;
    if (S_ISDIR(info.st_mode)) {
        qs_err err = qs_dir_list(&names, &n, path, "");
        if (err != QS_OK) return err;
        qs_dir_list_free(names, n);
        if (n == 0) return QS_OK;
    }
    return qs_fail(QS_E_USAGE, "write %s: it is there already; remove it or choose another --out", path);
}

/* With the files in it; best effort. */
static void remove_part(const char *part_path)
{
    char **names, path[QS_PATH_BYTES];
    int64_t n;
    if (qs_dir_list(&names, &n, part_path, "") == QS_OK) {
        for (int64_t i = 0; i < n; i++)
            if (qs_path_format(path, "%s/%s", part_path, names[i]) == QS_OK) (void)unlink(path);
        qs_dir_list_free(names, n);
    }
    (void)rmdir(part_path);
}

static int open_to_lock(const char *part_path)
{
    return open(part_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

static void remove_if_unlocked(const char *part_path)
{
    int fd = open_to_lock(part_path);
    if (fd < 0) return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) remove_part(part_path);
    (void)close(fd);
}

/* A part that is there already is somebody's whose number is ours: of another host, or without locks. */
static qs_err make_part(qs_out_dir *out)
{
    qs_err err = qs_dir_create_for(out->part_path);
    if (err != QS_OK) return err;
    if (mkdir(out->part_path, 0777) != 0)
        return errno == EEXIST ? qs_fail(QS_E_RESOURCE, "write %s: it is being written already (%s); remove that if "
                                         "nobody writes it", out->path, out->part_path)
                               : qs_fail(QS_E_RESOURCE, "create directory %s: %s", out->part_path, strerror(errno));
    out->lock = open_to_lock(out->part_path);
    if (out->lock >= 0) (void)flock(out->lock, LOCK_SH | LOCK_NB); /* file systems without locks go without */
    out->open = true;
    return QS_OK;
}

/* Only the name of the part differs. */
static qs_err open_part(qs_out_dir *out, const char *path, bool within)
{
    char parts_of[QS_PATH_BYTES];
    size_t end = strlen(path);
    qs_err err;
    *out = (qs_out_dir){.within = within, .lock = -1};
    while (end > 1 && path[end - 1] == '/') end--;
    QS_TRY(qs_path_format(out->path, "%.*s", (int)end, path));
    QS_TRY(qs_path_format(parts_of, "%s%s", out->path, within ? "/new" : ""));
    QS_TRY(qs_path_format(out->part_path, "%s.part.%ld", parts_of, (long)getpid()));
    if (!within) QS_TRY(qs_out_dir_check(out->path));
    qs_part_each_left(parts_of, remove_if_unlocked);
    QS_TRY(make_part(out));
out:
    return err;
}

qs_err qs_out_dir_open(qs_out_dir *out, const char *path) { return open_part(out, path, false); }
qs_err qs_out_dir_open_within(qs_out_dir *out, const char *path) { return open_part(out, path, qs_path_is_dir(path)); }

/* Each file of the part to its place; looked at first, and then done. */
static qs_err move_files(const qs_out_dir *dir)
{
    char **names, part[QS_PATH_BYTES], path[QS_PATH_BYTES];
    int64_t n;
    qs_err err = qs_dir_list(&names, &n, dir->part_path, "");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_path_format(path, "%s/%s", dir->path, names[i]));
        if (qs_path_is_dir(path)) {
            err = qs_fail(QS_E_RESOURCE, "write %s: a directory has this name; remove it or choose another --out",
                          path);
            goto out;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_path_format(part, "%s/%s", dir->part_path, names[i]));
        QS_TRY(qs_path_format(path, "%s/%s", dir->path, names[i]));
        QS_TRY(qs_file_publish(part, path));
    }
out:
    qs_dir_list_free(names, n);
    return err;
}

/* Its files are on the disk already; rename replaces an empty directory. */
static qs_err rename_whole(const qs_out_dir *dir)
{
    qs_err err = qs_out_dir_check(dir->path);
    if (err == QS_OK && rename(dir->part_path, dir->path) != 0)
        err = qs_fail(QS_E_RESOURCE, "rename %s to %s: %s", dir->part_path, dir->path, strerror(errno));
    return err;
}

/* Afterwards nothing is open. */
static void let_go(qs_out_dir *dir)
{
    if (dir->lock >= 0) (void)close(dir->lock);
    dir->lock = -1;
    dir->open = false;
}

qs_err qs_out_dir_publish(qs_out_dir *dir)
{
    qs_err err = dir->within ? move_files(dir) : rename_whole(dir);
    if (err == QS_OK && !dir->within) let_go(dir);
    qs_out_dir_discard(dir); /* what is left of the part */
    return err;
}

void qs_out_dir_discard(qs_out_dir *dir)
{
    if (!dir->open) return;
    qs_error_saved saved;
    qs_error_save(&saved); /* the cause that led here is what is to be told */
    remove_part(dir->part_path);
    let_go(dir);
    qs_error_restore(&saved);
}

static qs_err put_bytes(const qs_out_dir *dir, const char *name, const void *data, size_t bytes)
{
    char path[QS_PATH_BYTES];
    qs_err err = qs_path_format(path, "%s/%s", dir->part_path, name);
    return err == QS_OK ? qs_file_write(path, data, bytes) : err;
}

qs_err qs_out_dir_put_json(const qs_out_dir *dir, const char *name, const json_t *root)
{
    /* Nine digits bring back every f32, seventeen every f64: 0.1 stays 0.1 where it was meant. */
    char *text = json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    if (text == NULL) return qs_fail(QS_E_RESOURCE, "write %s: no memory for the document", name);
    qs_err err = put_bytes(dir, name, text, strlen(text));
    free(text);
    return err;
}

qs_err qs_out_dir_copy(const qs_out_dir *dir, const char *from_dir, const char *name)
{
    char path[QS_PATH_BYTES], *data = NULL;
    size_t bytes;
    qs_err err;
    QS_TRY(qs_path_format(path, "%s/%s", from_dir, name));
    if (!qs_file_exists(path)) goto out;
    QS_TRY(qs_file_read(&data, &bytes, path, copy_bytes_max));
    err = put_bytes(dir, name, data, bytes);
out:
    qs_mem_free(data);
    return err;
}
