/* Shared by tests: calls that must succeed or fail with a code, and a scratch directory that goes away at the
 * end. */
#ifndef QS_TESTS_SCRATCH_H
#define QS_TESTS_SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <ftw.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/mem.h"

#define OK(call) assert_code((call), QS_OK, #call, __LINE__)
#define FAILS(code, call) assert_code((call), (code), #call, __LINE__)

static inline void assert_code(qs_err err, qs_err wanted, const char *what, int line)
{
    if (err != wanted)
        fail_msg("line %d: %s: %s, not %s: %s", line, what, qs_err_name(err), qs_err_name(wanted),
                 err != QS_OK ? qs_error_text() : "");
}

/* The last error's text must hold every one of the words. */
static inline void assert_text_holds(const char *const *words)
{
    for (; *words != NULL; words++)
        if (strstr(qs_error_text(), *words) == NULL)
            fail_msg("\"%s\" is not in \"%s\"", *words, qs_error_text());
    assert_null(strchr(qs_error_text(), '\n'));
}
#define TEXT_HOLDS(...) assert_text_holds((const char *const[]){__VA_ARGS__, NULL})

/* ---- scratch directory ---- */

static char scratch_dir[256];

static inline int scratch_create(void **state)
{
    (void)state;
    const char *base = getenv("TMPDIR");
    (void)snprintf(scratch_dir, sizeof scratch_dir, "%s/qsweep-test-XXXXXX", base != NULL ? base : "/tmp");
    return mkdtemp(scratch_dir) == NULL;
}

static inline int scratch_remove_entry(const char *path, const struct stat *info, int type, struct FTW *at)
{
    (void)info;
    (void)type;
    (void)at;
    return remove(path);
}

static inline int scratch_remove(void **state)
{
    (void)state;
    return nftw(scratch_dir, scratch_remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

typedef char scratch_path[QS_PATH_BYTES];

static inline const char *scratch(scratch_path path, const char *name)
{
    assert_true(scratch_dir[0] != '\0'); /* else it would be the root */
    OK(qs_path_format(path, "%s/%s", scratch_dir, name));
    return path;
}

static inline void file_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static inline void text_write(const char *path, const char *text) { file_write(path, text, strlen(text)); }

/* ---- output ---- */

/* Runs `body` with a stream redirected into a file and gives what was printed; to be freed with
 * qs_mem_free. */
static inline char *capture(FILE *stream, void (*body)(void))
{
    scratch_path path;
    char *text;
    size_t bytes;
    int stream_fd = fileno(stream),
        file_fd = open(scratch(path, "captured"), O_RDWR | O_CREAT | O_TRUNC, 0666);
    assert_true(file_fd >= 0 && fflush(stream) == 0);
    int saved = dup(stream_fd);
    assert_true(saved >= 0 && dup2(file_fd, stream_fd) >= 0);
    body();
    (void)fflush(stream);
    assert_true(dup2(saved, stream_fd) >= 0 && close(saved) == 0 && close(file_fd) == 0);
    OK(qs_file_read(&text, &bytes, path, 1 << 20));
    return text;
}

#endif
