#include "metric/lines.h"

#include <string.h>

#include "base/mem.h"

qs_err qs_lines_put(qs_artifact *artifact, const char *path, int64_t n, qs_line_of line, const void *context)
{
    char *blob = NULL, *at;
    int64_t bytes = 0;
    qs_err err;
    for (int64_t i = 0; i < n; i++) bytes += (int64_t)strlen(line(context, i)) + 1;
    QS_TRY(QS_NEW(blob, bytes, "lines"));
    at = blob;
    for (int64_t i = 0; i < n; i++) {
        size_t n_line = strlen(line(context, i));
        memcpy(at, line(context, i), n_line);
        at[n_line] = '\n';
        at += n_line + 1;
    }
    QS_TRY(qs_artifact_put(artifact, path, QS_U8, 1, &bytes, blob));
out:
    qs_mem_free(blob);
    return err;
}

static qs_err broken(const char *path, const char *what)
{
    return qs_fail(QS_E_INPUT, "read %s: %s; re-run %s", path, what, qs_artifact_kind_stage(QS_KIND_EVAL));
}

/* Cuts the blob at its line ends. */
static qs_err cut(qs_lines *lines, const char *path)
{
    char *at = lines->blob;
    for (int64_t i = 0; i < lines->n; i++) {
        char *end = strchr(at, '\n');
        if (end == NULL) return broken(path, "there is a NUL in it");
        *end = '\0';
        lines->lines[i] = at;
        at = end + 1;
    }
    return QS_OK;
}

qs_err qs_lines_read(qs_lines *out, const qs_artifact *artifact, const char *path, int64_t n_expected)
{
    qs_dataset_info info;
    qs_err err;
    *out = (qs_lines){0};
    QS_TRY(qs_artifact_info(artifact, path, &info));
    QS_TRY(QS_NEW(out->blob, info.n + 1, "lines"));
    QS_TRY(qs_artifact_read(artifact, path, QS_U8, out->blob, info.n));
    for (int64_t i = 0; i < info.n; i++) out->n += out->blob[i] == '\n';
    if (n_expected >= 0 && out->n != n_expected) {
        err = broken(path, "it has another number of lines than it should");
        goto out;
    }
    QS_TRY(QS_NEW(out->lines, out->n, "lines"));
    QS_TRY(cut(out, path));
out:
    if (err != QS_OK) qs_lines_free(out);
    return err;
}

void qs_lines_free(qs_lines *lines)
{
    qs_mem_free(lines->blob);
    qs_mem_free((void *)lines->lines);
    *lines = (qs_lines){0};
}
