#include "artifact/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

bool qs_manifest_counts(const char *path)
{
    static const char *const run_varying[] = {"/provenance/", "/timing/"};
    for (size_t i = 0; i < sizeof run_varying / sizeof *run_varying; i++)
        if (strncmp(path, run_varying[i], strlen(run_varying[i])) == 0) return false;
    return true;
}

qs_err qs_manifest_add(qs_manifest *manifest, const char *path, const char *type, int rank,
                       const int64_t *dims, qs_digest digest)
{
    if (!qs_manifest_counts(path)) return QS_OK;
    char shape[128] = "", hex[QS_DIGEST_TEXT_BYTES];
    for (int i = 0, used = 0; i < rank && used < (int)sizeof shape; i++)
        used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%lld", i > 0 ? "," : "",
                         (long long)dims[i]);
    (void)qs_digest_format(hex, digest);
    qs_err err = qs_mem_grow(&manifest->lines, manifest->n, &manifest->capacity, sizeof *manifest->lines,
                             "manifest of the artifact");
    if (err != QS_OK) return err;
    int bytes = snprintf(NULL, 0, "%s %s [%s] %s\n", path, type, shape, hex);
    char *line;
    err = QS_NEW(line, bytes + 1, "manifest of the artifact");
    if (err != QS_OK) return err;
    (void)snprintf(line, (size_t)bytes + 1, "%s %s [%s] %s\n", path, type, shape, hex);
    manifest->lines[manifest->n++] = line;
    return QS_OK;
}

static int compare_lines(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

qs_err qs_manifest_digest(qs_manifest *manifest, qs_artifact_kind kind, int64_t schema_version,
                          qs_digest *out)
{
    char head[64];
    qs_hasher *hasher;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    (void)snprintf(head, sizeof head, "qsweep %s schema %lld\n", qs_artifact_kind_name(kind),
                   (long long)schema_version);
    qs_hasher_add(hasher, head, strlen(head));
    if (manifest->n > 0) qsort(manifest->lines, (size_t)manifest->n, sizeof *manifest->lines, compare_lines);
    for (int64_t i = 0; i < manifest->n; i++)
        qs_hasher_add(hasher, manifest->lines[i], strlen(manifest->lines[i]));
    *out = qs_hasher_finish(hasher);
    return QS_OK;
}

void qs_manifest_free(qs_manifest *manifest)
{
    for (int64_t i = 0; i < manifest->n; i++) qs_mem_free(manifest->lines[i]);
    qs_mem_free(manifest->lines);
    *manifest = (qs_manifest){0};
}
