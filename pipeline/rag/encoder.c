#include "rag/encoder_impl.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

const qs_encoder_kind qs_encoder_kinds[] = {
    {"minilm", "a sentence-transformers directory: BERT, mean over tokens (all-MiniLM-L6-v2)", qs_minilm_open},
    {"self", "the model under test: mean of its final hidden states, centred with the reference's", qs_self_open},
    {"tfidf", "weights of terms over the corpus; no model takes part", qs_tfidf_open},
    {0},
};

/* Vectors by digest of their text: open addressing, slots [n_slots] hold a row or -1. */
typedef struct cache {
    int64_t n_rows, digest_capacity, row_capacity, n_slots;
    qs_digest *digests; /* [n_rows] */
    float *rows;        /* [n_rows, dim] */
    int64_t *slots;
} cache;

struct qs_encoder {
    const char *name;
    qs_encoder_model model;
    cache cache;
};

qs_err qs_encoder_open(qs_encoder **out, const char *name, const qs_encoder_options *options)
{
    *out = NULL;
    if (strcmp(name, "auto") == 0)
        name = options->directory != NULL && qs_path_is_dir(options->directory) ? "minilm"
               : options->model != NULL                                          ? "self"
                                                                                 : "tfidf";
    for (const qs_encoder_kind *kind = qs_encoder_kinds; kind->name != NULL; kind++)
        if (strcmp(kind->name, name) == 0)
            return qs_context(kind->open(out, options), "open encoder %s", name);
    return qs_fail(QS_E_USAGE, "open encoder: \"%s\" is not one; see qsweep-evaluate --list", name);
}

qs_err qs_encoder_create(qs_encoder **out, const char *name, const qs_encoder_model *model)
{
    qs_err err = QS_NEW(*out, 1, "encoder");
    if (err != QS_OK) {
        model->destroy(model->state);
        return err;
    }
    **out = (qs_encoder){.name = name, .model = *model};
    return QS_OK;
}

bool qs_encoder_follows(const qs_encoder *encoder) { return encoder->model.follow != NULL; }

qs_err qs_encoder_follow(qs_encoder **out, const qs_encoder *reference, const qs_model *model,
                         const qs_linear_source *linears)
{
    qs_encoder_model own = reference->model;
    *out = NULL;
    if (own.follow == NULL) return QS_OK;
    qs_err err = own.follow(reference->model.state, model, linears, &own);
    return err != QS_OK ? err : qs_encoder_create(out, reference->name, &own);
}

void qs_encoder_destroy(qs_encoder *encoder)
{
    if (encoder == NULL) return;
    encoder->model.destroy(encoder->model.state);
    qs_mem_free(encoder->cache.digests);
    qs_mem_free(encoder->cache.rows);
    qs_mem_free(encoder->cache.slots);
    qs_mem_free(encoder);
}

const char *qs_encoder_name(const qs_encoder *encoder) { return encoder->name; }
int64_t qs_encoder_dim(const qs_encoder *encoder) { return encoder->model.dim; }
qs_digest qs_encoder_digest(const qs_encoder *encoder) { return encoder->model.digest; }
int64_t qs_encoder_n_encoded(const qs_encoder *encoder) { return encoder->cache.n_rows; }

/* ---- the cache ---- */

/* The slot that holds the digest, or the empty one where it belongs. */
static int64_t find_slot(const cache *c, qs_digest digest)
{
    int64_t slot = (int64_t)(digest.low & (uint64_t)(c->n_slots - 1));
    for (;; slot = (slot + 1) & (c->n_slots - 1)) {
        int64_t row = c->slots[slot];
        if (row < 0 || (c->digests[row].low == digest.low && c->digests[row].high == digest.high)) return slot;
    }
}

/* Room for n more rows, with at most half of the slots taken. */
static qs_err grow_slots(cache *c, int64_t n)
{
    int64_t n_slots = c->n_slots > 0 ? c->n_slots : 64, *slots;
    while (n_slots < 2 * (c->n_rows + n)) n_slots *= 2;
    if (n_slots == c->n_slots) return QS_OK;
    qs_err err = QS_NEW(slots, n_slots, "cache of embeddings");
    if (err != QS_OK) return err;
    memset(slots, -1, (size_t)n_slots * sizeof *slots);
    qs_mem_free(c->slots);
    c->slots = slots;
    c->n_slots = n_slots;
    for (int64_t row = 0; row < c->n_rows; row++) c->slots[find_slot(c, c->digests[row])] = row;
    return QS_OK;
}

static qs_err add_row(cache *c, qs_digest digest, const float *vector, int64_t dim)
{
    size_t bytes = (size_t)dim * sizeof *vector;
    qs_err err = qs_mem_grow(&c->digests, c->n_rows, &c->digest_capacity, sizeof *c->digests, "cache of embeddings");
    if (err == QS_OK) err = qs_mem_grow(&c->rows, c->n_rows, &c->row_capacity, bytes, "cache of embeddings");
    if (err != QS_OK) return err;
    memcpy(&c->rows[c->n_rows * dim], vector, bytes);
    c->digests[c->n_rows] = digest;
    c->slots[find_slot(c, digest)] = c->n_rows;
    c->n_rows++;
    return QS_OK;
}

/* ---- encoding ---- */

/* Length 1, or zero where it was zero. */
static qs_err make_unit(float *vector, int64_t dim, const char *text)
{
    double sum = 0.0;
    for (int64_t i = 0; i < dim; i++) sum += (double)vector[i] * vector[i];
    if (!isfinite(sum)) return qs_fail(QS_E_NUMERIC, "encode \"%.60s\": its vector is not finite", text);
    double scale = sum > 0.0 ? 1.0 / sqrt(sum) : 0.0;
    for (int64_t i = 0; i < dim; i++) vector[i] = (float)(vector[i] * scale);
    return QS_OK;
}

/* Encodes those of texts[n] that the cache lacks, each once. */
static qs_err fill_cache(qs_encoder *encoder, const char *const *texts, const qs_digest *digests, int64_t n)
{
    cache *c = &encoder->cache;
    const qs_encoder_model *model = &encoder->model;
    const char **missing = NULL;
    float *vectors = NULL;
    int64_t n_missing = 0;
    qs_err err;
    QS_TRY(grow_slots(c, n));
    QS_TRY(QS_NEW(missing, n, "texts to encode"));
    for (int64_t i = 0; i < n; i++)
        if (c->slots[find_slot(c, digests[i])] < 0) missing[n_missing++] = texts[i];
    if (n_missing == 0) goto out;
    QS_TRY(QS_NEW(vectors, n_missing * model->dim, "embeddings"));
    QS_TRY(model->encode(model->state, missing, n_missing, vectors));
    for (int64_t i = 0; i < n_missing; i++) {
        float *vector = &vectors[i * model->dim];
        qs_digest digest = qs_hash(missing[i], strlen(missing[i]));
        if (c->slots[find_slot(c, digest)] >= 0) continue; /* the same text, twice in one call */
        QS_TRY(make_unit(vector, model->dim, missing[i]));
        QS_TRY(add_row(c, digest, vector, model->dim));
    }
out:
    qs_mem_free(missing);
    qs_mem_free(vectors);
    return err;
}

qs_err qs_encoder_encode(qs_encoder *encoder, const char *const *texts, int64_t n, float *vectors)
{
    int64_t dim = encoder->model.dim;
    qs_digest *digests = NULL;
    qs_err err;
    QS_TRY(QS_NEW(digests, n, "digests of texts"));
    for (int64_t i = 0; i < n; i++) digests[i] = qs_hash(texts[i], strlen(texts[i]));
    QS_TRY(fill_cache(encoder, texts, digests, n));
    const cache *c = &encoder->cache;
    for (int64_t i = 0; i < n; i++)
        memcpy(&vectors[i * dim], &c->rows[c->slots[find_slot(c, digests[i])] * dim], (size_t)dim * sizeof *vectors);
out:
    qs_mem_free(digests);
    return err;
}
