#include "rag/encoder_impl.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "rag/vectors.h"

const qs_encoder_kind qs_encoder_kinds[] = {
    {"minilm", "a sentence-transformers directory: BERT, mean over tokens (all-MiniLM-L6-v2)", qs_minilm_open},
    {"self", "the model under test: mean of its final hidden states, centred with the reference's", qs_self_open},
    {"tfidf", "weights of terms over the corpus; no model takes part", qs_tfidf_open},
    {0},
};

struct qs_encoder {
    const char *name;
    qs_encoder_model model;
    qs_vectors kept;
    int64_t n_recalled; /* rows of kept that another process has encoded */
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
    **out = (qs_encoder){.name = name, .model = *model, .kept = {.dim = model->dim}};
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
    qs_vectors_free(&encoder->kept);
    qs_mem_free(encoder);
}

const char *qs_encoder_name(const qs_encoder *encoder) { return encoder->name; }
int64_t qs_encoder_dim(const qs_encoder *encoder) { return encoder->model.dim; }
qs_digest qs_encoder_digest(const qs_encoder *encoder) { return encoder->model.digest; }
int64_t qs_encoder_n_encoded(const qs_encoder *encoder) { return encoder->kept.n_rows - encoder->n_recalled; }

/* ---- from run to run ---- */

static qs_vectors_source source_of(const qs_encoder *encoder)
{
    return (qs_vectors_source){encoder->name, encoder->model.kernels, encoder->model.digest};
}

qs_err qs_encoder_recall(qs_encoder *encoder, const char *dir)
{
    char path[QS_PATH_BYTES];
    qs_vectors_source source = source_of(encoder);
    if (source.kernels == NULL) return QS_OK;
    qs_err err = qs_path_format(path, "%s/%s.embed.h5", dir, encoder->name);
    return err != QS_OK ? err : qs_vectors_recall(&encoder->kept, path, &source, &encoder->n_recalled);
}

qs_err qs_encoder_keep(qs_encoder *encoder, const char *dir)
{
    char path[QS_PATH_BYTES];
    qs_vectors_source source = source_of(encoder);
    if (source.kernels == NULL || encoder->kept.n_rows == encoder->n_recalled) return QS_OK;
    qs_err err = qs_path_format(path, "%s/%s.embed.h5", dir, encoder->name);
    return err != QS_OK ? err : qs_vectors_keep(&encoder->kept, path, &source);
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

/* Encodes those of texts[n] that are not kept yet, each once. */
static qs_err encode_missing(qs_encoder *encoder, const char *const *texts, const qs_digest *digests, int64_t n)
{
    qs_vectors *kept = &encoder->kept;
    const qs_encoder_model *model = &encoder->model;
    const char **missing = NULL;
    float *vectors = NULL;
    int64_t n_missing = 0;
    qs_err err;
    QS_TRY(qs_vectors_reserve(kept, n));
    QS_TRY(QS_NEW(missing, n, "texts to encode"));
    for (int64_t i = 0; i < n; i++)
        if (qs_vectors_find(kept, digests[i]) == NULL) missing[n_missing++] = texts[i];
    if (n_missing == 0) goto out;
    QS_TRY(QS_NEW(vectors, n_missing * model->dim, "embeddings"));
    QS_TRY(model->encode(model->state, missing, n_missing, vectors));
    for (int64_t i = 0; i < n_missing; i++) {
        float *vector = &vectors[i * model->dim];
        qs_digest digest = qs_hash(missing[i], strlen(missing[i]));
        if (qs_vectors_find(kept, digest) != NULL) continue; /* the same text, twice in one call */
        QS_TRY(make_unit(vector, model->dim, missing[i]));
        QS_TRY(qs_vectors_add(kept, digest, vector));
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
    QS_TRY(encode_missing(encoder, texts, digests, n));
    for (int64_t i = 0; i < n; i++)
        memcpy(&vectors[i * dim], qs_vectors_find(&encoder->kept, digests[i]), (size_t)dim * sizeof *vectors);
out:
    qs_mem_free(digests);
    return err;
}
