#include "sweep/verify.h"

#include <string.h>
#include <unistd.h>

#include "artifact/artifact.h"
#include "artifact/part.h"
#include "base/mem.h"

static bool ends_in(const char *text, const char *end)
{
    size_t bytes = strlen(text), end_bytes = strlen(end);
    return bytes >= end_bytes && strcmp(text + bytes - end_bytes, end) == 0;
}

/* What a file of this name must be. */
static qs_artifact_kind kind_of_name(const char *name)
{
    return ends_in(name, ".quant.h5")   ? QS_KIND_QUANT
           : ends_in(name, ".eval.h5")  ? QS_KIND_EVAL
           : ends_in(name, ".train.h5") ? QS_KIND_TRAIN
           : ends_in(name, ".optim.h5") ? QS_KIND_OPTIM
           : ends_in(name, ".embed.h5") ? QS_KIND_EMBED
                                        : QS_KIND_CALIB;
}

static qs_err check(const char *path, qs_artifact_kind kind)
{
    qs_artifact *artifact;
    qs_err err = qs_artifact_open(&artifact, path, kind); /* says which kind it is instead */
    if (err != QS_OK) return err;
    qs_artifact_close(artifact);
    return qs_artifact_verify(path);
}

static void clear_part(qs_verification *v, const char *path, bool keep)
{
    if (!qs_part_is_stale(path)) v->n_written++;
    else if (!keep && unlink(path) == 0) v->n_removed++;
}

/* The first line of ".sweep". */
static void read_sweep(qs_verification *v, const char *dir)
{
    char path[QS_PATH_BYTES], *text;
    size_t bytes;
    if (qs_path_format(path, "%s/.sweep", dir) != QS_OK || !qs_file_exists(path) ||
        qs_file_read(&text, &bytes, path, 1 << 20) != QS_OK)
        return;
    text[strcspn(text, "\n")] = '\0';
    (void)snprintf(v->sweep, sizeof v->sweep, "%s", text);
    qs_mem_free(text);
}

qs_err qs_verify_dir(qs_verification *out, const char *dir, bool keep_parts)
{
    char **names = NULL;
    int64_t n = 0;
    size_t bytes;
    qs_err err;
    *out = (qs_verification){0};
    QS_TRY(qs_dir_list(&names, &n, dir, ""));
    QS_TRY(QS_NEW(out->bad, n > 0 ? n : 1, "bad artifacts"));
    for (int64_t i = 0; i < n; i++) {
        qs_bad_artifact *bad = &out->bad[out->n_bad];
        QS_TRY(qs_path_format(bad->path, "%s/%s", dir, names[i]));
        if (qs_part_is_name(names[i], &bytes)) clear_part(out, bad->path, keep_parts);
        if (!ends_in(names[i], ".h5")) continue;
        out->n_artifacts++;
        bad->kind = kind_of_name(names[i]);
        if (check(bad->path, bad->kind) == QS_OK) continue;
        (void)snprintf(bad->cause, sizeof bad->cause, "%s", qs_error_text());
        out->n_bad++;
    }
    read_sweep(out, dir);
out:
    qs_dir_list_free(names, n);
    if (err != QS_OK) qs_verification_free(out);
    return err;
}

void qs_verification_free(qs_verification *verification)
{
    qs_mem_free(verification->bad);
    verification->bad = NULL;
}
