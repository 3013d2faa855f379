/* Snippets against the files they were cut from. */
#include "data/goldset.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

/* The last "## NAME" line that begins before `start` names `section`. */
static bool lies_in_section(const char *text, int64_t start, const char *section)
{
    const char *heading = NULL;
    for (const char *at = text; at != NULL && at - text < start;) {
        if (strncmp(at, "## ", 3) == 0) heading = at + 3;
        at = strchr(at, '\n');
        if (at != NULL) at++;
    }
    size_t bytes = strlen(section);
    return heading != NULL && strncmp(heading, section, bytes) == 0 && strchr(" \n", heading[bytes]) != NULL;
}

static qs_err check_snippet(const qs_gold_snippet *s, const char *text, size_t bytes, const char *path)
{
    size_t length = strlen(s->text);
    if ((size_t)s->end > bytes)
        return qs_fail(QS_E_INPUT, "check snippet %s: %s has %zu bytes, the snippet ends at %lld", s->id,
                       path, bytes, (long long)s->end);
    if (memcmp(text + s->start, s->text, length) != 0) {
        int line = (int)strcspn(text + s->start, "\n"); /* an error is one line */
        if (line > 40) line = 40;
        const char *found = strstr(text, s->text);
        char there[160];
        (void)snprintf(there, sizeof there, "%lld to %lld stands \"%.*s...\"", (long long)s->start,
                       (long long)s->end, line, text + s->start);
        if (found == NULL)
            return qs_fail(QS_E_INPUT, "check snippet %s: in %s at %s, and its text \"%.40s...\" is nowhere",
                           s->id, path, there, s->text);
        return qs_fail(QS_E_INPUT,
                       "check snippet %s: in %s at %s; its text stands at %lld to %lld: correct the offsets", s->id,
                       path, there, (long long)(found - text), (long long)(found - text) + (long long)length);
    }
    if (!lies_in_section(text, s->start, s->section))
        return qs_fail(QS_E_INPUT, "check snippet %s: byte %lld of %s does not lie in section %s", s->id,
                       (long long)s->start, path, s->section);
    return QS_OK;
}

qs_err qs_goldset_check_sources(const qs_goldset *set, const char *dir)
{
    char path[QS_PATH_BYTES], loaded[QS_PATH_BYTES] = "", *text = NULL;
    size_t bytes = 0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < set->n_snippets; i++) {
        const qs_gold_snippet *s = &set->snippets[i];
        const char *mark = strchr(s->source_url, '#');
        if (mark == NULL || strcmp(mark + 1, s->section) != 0) {
            err = qs_fail(QS_E_INPUT, "check snippet %s: source_url %s does not end in #%s", s->id,
                          s->source_url, s->section);
            goto out;
        }
        QS_TRY(qs_path_format(path, "%s/%.*s", dir, (int)(mark - s->source_url), s->source_url));
        if (strcmp(path, loaded) != 0) {
            qs_mem_free(text);
            text = NULL;
            QS_TRY(qs_file_read(&text, &bytes, path, (size_t)64 << 20));
            memcpy(loaded, path, sizeof loaded);
        }
        QS_TRY(check_snippet(s, text, bytes, path));
    }
out:
    qs_mem_free(text);
    return err;
}
