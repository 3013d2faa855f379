#include "metric/embeddings.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

typedef struct text_lines {
    char *data;
    const char **line; /* [n] into data */
    int64_t n;
} text_lines;

static qs_err read_lines(text_lines *out, const char *path, qs_digest *digest)
{
    static const size_t limit_bytes = (size_t)1 << 30;
    size_t bytes;
    int64_t n_ends = 0;
    qs_err err;
    *out = (text_lines){0};
    QS_TRY(qs_file_read(&out->data, &bytes, path, limit_bytes));
    if (bytes == 0 || memchr(out->data, '\0', bytes) != NULL) {
        err = qs_fail(QS_E_INPUT, "read %s: it %s", path, bytes == 0 ? "is empty" : "holds a NUL byte");
        goto out;
    }
    *digest = qs_hash(out->data, bytes);
    for (size_t i = 0; i < bytes; i++) n_ends += out->data[i] == '\n';
    QS_TRY(QS_NEW(out->line, n_ends + 1, "lines"));
    for (char *at = out->data; at < out->data + bytes;) {
        char *end = at + strcspn(at, "\n");
        out->line[out->n++] = at;
        at = end + 1;
        if (end > out->line[out->n - 1] && end[-1] == '\r') end[-1] = '\0';
        *end = '\0';
    }
out:
    return err;
}

qs_err qs_embeddings_make(qs_embeddings *out, const char *path, qs_encoder *encoder, const char *name,
                          const qs_encoder_options *options)
{
    text_lines lines;
    qs_encoder *own = NULL;
    qs_digest file;
    qs_err err;
    *out = (qs_embeddings){0};
    QS_TRY(read_lines(&lines, path, &file));
    if (encoder == NULL) {
        qs_encoder_options over_lines = *options;
        over_lines.documents = lines.line;
        over_lines.n_documents = lines.n;
        QS_TRY(qs_encoder_open(&own, name, &over_lines));
        encoder = own;
    }
    out->n = lines.n;
    out->dim = qs_encoder_dim(encoder);
    (void)snprintf(out->encoder, sizeof out->encoder, "%s", qs_encoder_name(encoder));
    qs_digest used = qs_encoder_digest(encoder);
    const uint64_t parts[] = {file.low, file.high, used.low, used.high};
    out->digest = qs_hash(parts, sizeof parts);
    QS_TRY(QS_NEW(out->vectors, out->n * out->dim, "embeddings"));
    QS_TRY(qs_encoder_encode(encoder, lines.line, lines.n, out->vectors));
out:
    qs_encoder_destroy(own);
    qs_mem_free((void *)lines.line);
    qs_mem_free(lines.data);
    if (err != QS_OK) qs_embeddings_free(out);
    return qs_context(err, "embed %s", path);
}

void qs_embeddings_free(qs_embeddings *embeddings)
{
    qs_mem_free(embeddings->vectors);
    *embeddings = (qs_embeddings){0};
}

qs_err qs_embeddings_put(qs_artifact *artifact, const qs_embeddings *e)
{
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_text(artifact, "/dump/@encoder", e->encoder));
    QS_TRY(qs_artifact_put_text(artifact, "/dump/@embedded", qs_digest_format(text, e->digest)));
    QS_TRY(qs_artifact_put(artifact, "/dump/embeddings", QS_F32, 2, (int64_t[]){e->n, e->dim}, e->vectors));
out:
    return err;
}
