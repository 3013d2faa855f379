#include "rag/vectors.h"

#include <string.h>

#include "artifact/artifact.h"
#include "base/file.h"
#include "base/mem.h"

/* ---- in memory ---- */

/* The slot that holds the digest, or the empty one where it belongs. */
static int64_t find_slot(const qs_vectors *v, qs_digest digest)
{
    int64_t slot = (int64_t)(digest.low & (uint64_t)(v->n_slots - 1));
    for (;; slot = (slot + 1) & (v->n_slots - 1)) {
        int64_t row = v->slots[slot];
        if (row < 0 || (v->digests[row].low == digest.low && v->digests[row].high == digest.high)) return slot;
    }
}

qs_err qs_vectors_reserve(qs_vectors *v, int64_t n)
{
    int64_t n_slots = v->n_slots > 0 ? v->n_slots : 64, *slots;
    while (n_slots < 2 * (v->n_rows + n)) n_slots *= 2;
    if (n_slots == v->n_slots) return QS_OK;
    qs_err err = QS_NEW(slots, n_slots, "kept embeddings");
    if (err != QS_OK) return err;
    memset(slots, -1, (size_t)n_slots * sizeof *slots);
    qs_mem_free(v->slots);
    v->slots = slots;
    v->n_slots = n_slots;
    for (int64_t row = 0; row < v->n_rows; row++) v->slots[find_slot(v, v->digests[row])] = row;
    return QS_OK;
}

const float *qs_vectors_find(const qs_vectors *v, qs_digest digest)
{
    int64_t row = v->n_slots > 0 ? v->slots[find_slot(v, digest)] : -1;
    return row >= 0 ? &v->rows[row * v->dim] : NULL;
}

qs_err qs_vectors_add(qs_vectors *v, qs_digest digest, const float *vector)
{
    size_t bytes = (size_t)v->dim * sizeof *vector;
    qs_err err = qs_mem_grow(&v->digests, v->n_rows, &v->digest_capacity, sizeof *v->digests, "kept embeddings");
    if (err == QS_OK) err = qs_mem_grow(&v->rows, v->n_rows, &v->row_capacity, bytes, "kept embeddings");
    if (err != QS_OK) return err;
    memcpy(&v->rows[v->n_rows * v->dim], vector, bytes);
    v->digests[v->n_rows] = digest;
    v->slots[find_slot(v, digest)] = v->n_rows;
    v->n_rows++;
    return QS_OK;
}

void qs_vectors_free(qs_vectors *v)
{
    qs_mem_free(v->digests);
    qs_mem_free(v->rows);
    qs_mem_free(v->slots);
    *v = (qs_vectors){.dim = v->dim};
}

/* ---- in an artifact ---- */

enum { SOURCE_BYTES = 256 };

static qs_err is_of(const qs_artifact *artifact, const qs_vectors_source *source, bool *same)
{
    char encoder[SOURCE_BYTES], kernels[SOURCE_BYTES], digest[QS_DIGEST_TEXT_BYTES], own[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_get_text(artifact, "/encoder/@name", encoder, sizeof encoder));
    QS_TRY(qs_artifact_get_text(artifact, "/encoder/@kernels", kernels, sizeof kernels));
    QS_TRY(qs_artifact_get_text(artifact, "/encoder/@digest", digest, sizeof digest));
    *same = strcmp(encoder, source->encoder) == 0 && strcmp(kernels, source->kernels) == 0 &&
            strcmp(digest, qs_digest_format(own, source->digest)) == 0;
out:
    return err;
}

/* digests [n, 2] and rows [n, dim] of a file that was just opened. */
static qs_err read_rows(const qs_artifact *artifact, int64_t dim, int64_t *n, int64_t **digests, float **rows)
{
    static const char *const vectors_path = "/embeddings/vectors", *const digests_path = "/embeddings/digests";
    qs_dataset_info vectors, keys;
    qs_err err;
    QS_TRY(qs_artifact_info(artifact, vectors_path, &vectors));
    QS_TRY(qs_artifact_info(artifact, digests_path, &keys));
    if (vectors.dims[1] != dim || keys.dims[1] != 2 || keys.dims[0] != vectors.dims[0])
        err = qs_fail(QS_E_INPUT, "%s and %s do not fit each other", vectors_path, digests_path);
    QS_TRY(err);
    *n = vectors.dims[0];
    QS_TRY(QS_NEW(*digests, keys.n, "kept embeddings"));
    QS_TRY(QS_NEW(*rows, vectors.n, "kept embeddings"));
    QS_TRY(qs_artifact_read(artifact, digests_path, QS_I64, *digests, keys.n));
    QS_TRY(qs_artifact_read(artifact, vectors_path, QS_F32, *rows, vectors.n));
out:
    return err;
}

qs_err qs_vectors_recall(qs_vectors *v, const char *path, const qs_vectors_source *source, int64_t *n_added)
{
    qs_artifact *artifact = NULL;
    int64_t *digests = NULL, n = 0;
    float *rows = NULL;
    bool same = false;
    qs_err err;
    *n_added = 0;
    if (!qs_file_exists(path)) return QS_OK;
    QS_TRY(qs_artifact_verify(path));
    QS_TRY(qs_artifact_open(&artifact, path, QS_KIND_EMBED));
    QS_TRY(is_of(artifact, source, &same));
    if (!same) goto out;
    QS_TRY(read_rows(artifact, v->dim, &n, &digests, &rows));
    QS_TRY(qs_vectors_reserve(v, n));
    for (int64_t i = 0; i < n; i++) {
        qs_digest digest = {.low = (uint64_t)digests[2 * i], .high = (uint64_t)digests[2 * i + 1]};
        if (qs_vectors_find(v, digest) != NULL) continue;
        QS_TRY(qs_vectors_add(v, digest, rows + i * v->dim));
        (*n_added)++;
    }
out:
    qs_artifact_close(artifact);
    qs_mem_free(digests);
    qs_mem_free(rows);
    return err == QS_E_RESOURCE ? err : QS_OK; /* what cannot be read is made again */
}

qs_err qs_vectors_keep(const qs_vectors *v, const char *path, const qs_vectors_source *source)
{
    char digest[QS_DIGEST_TEXT_BYTES];
    qs_artifact *artifact = NULL;
    int64_t *digests = NULL;
    qs_err err;
    QS_TRY(QS_NEW(digests, v->n_rows * 2, "kept embeddings"));
    for (int64_t i = 0; i < v->n_rows; i++) {
        digests[2 * i] = (int64_t)v->digests[i].low;
        digests[2 * i + 1] = (int64_t)v->digests[i].high;
    }
    QS_TRY(qs_artifact_create(&artifact, path, QS_KIND_EMBED));
    QS_TRY(qs_artifact_put_text(artifact, "/encoder/@name", source->encoder));
    QS_TRY(qs_artifact_put_text(artifact, "/encoder/@kernels", source->kernels));
    QS_TRY(qs_artifact_put_text(artifact, "/encoder/@digest", qs_digest_format(digest, source->digest)));
    QS_TRY(qs_artifact_put(artifact, "/embeddings/digests", QS_I64, 2, (const int64_t[]){v->n_rows, 2}, digests));
    QS_TRY(qs_artifact_put(artifact, "/embeddings/vectors", QS_F32, 2, (const int64_t[]){v->n_rows, v->dim}, v->rows));
    qs_artifact *sealed = artifact;
    artifact = NULL;
    err = qs_artifact_seal(sealed, NULL);
out:
    qs_artifact_abort(artifact);
    qs_mem_free(digests);
    return err;
}
