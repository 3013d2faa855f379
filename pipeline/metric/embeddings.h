/* Embeddings of a file's lines, put into eval artifacts as they are (--embed, --dump embeddings), so that an
 * encoder can be held against another program's. */
#ifndef QS_METRIC_EMBEDDINGS_H
#define QS_METRIC_EMBEDDINGS_H

#include "artifact/artifact.h"
#include "rag/encoder.h"

typedef struct qs_embeddings {
    int64_t n, dim;
    char encoder[32];
    qs_digest digest; /* of the lines and the encoder */
    float *vectors;   /* [n, dim] */
} qs_embeddings;

/* A line ends with a line end, which may be CR LF; empty lines count. `encoder` NULL opens `name` for the call, the
 * lines being the documents of one that needs a corpus. QS_E_INPUT: no line, not UTF-8, a NUL byte. */
QS_MUST_CHECK qs_err qs_embeddings_make(qs_embeddings *out, const char *path, qs_encoder *encoder, const char *name,
                                        const qs_encoder_options *options);
void qs_embeddings_free(qs_embeddings *embeddings);

/* /dump/embeddings and what they are of. */
QS_MUST_CHECK qs_err qs_embeddings_put(qs_artifact *artifact, const qs_embeddings *embeddings);

#endif
