/* Vectors by the digest of their text, in memory and in an artifact. */
#ifndef QS_RAG_VECTORS_H
#define QS_RAG_VECTORS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

/* Open addressing: slots [n_slots], at most half of them taken, hold a row or -1. */
typedef struct qs_vectors {
    int64_t dim, n_rows, digest_capacity, row_capacity, n_slots;
    qs_digest *digests; /* [n_rows] */
    float *rows;        /* [n_rows, dim] */
    int64_t *slots;
} qs_vectors;

/* Room for n more rows; must come before finding and adding. */
QS_MUST_CHECK qs_err qs_vectors_reserve(qs_vectors *vectors, int64_t n);
/* [dim]; NULL = there is none. */
const float *qs_vectors_find(const qs_vectors *vectors, qs_digest digest);
/* A digest that is not there yet. */
QS_MUST_CHECK qs_err qs_vectors_add(qs_vectors *vectors, qs_digest digest, const float *vector);
void qs_vectors_free(qs_vectors *vectors);

/* What made vectors: they are of no use to another encoder, or to other kernels, whose last bits differ. */
typedef struct qs_vectors_source {
    const char *encoder, *kernels;
    qs_digest digest; /* of the encoder */
} qs_vectors_source;

/* Adds the rows of an artifact (kind embed) of the same source; of another source, damaged or missing ones none.
 * *n: rows added. QS_E_RESOURCE when memory runs out. */
QS_MUST_CHECK qs_err qs_vectors_recall(qs_vectors *vectors, const char *path, const qs_vectors_source *source,
                                       int64_t *n);
/* Writes all rows. */
QS_MUST_CHECK qs_err qs_vectors_keep(const qs_vectors *vectors, const char *path, const qs_vectors_source *source);

#endif
