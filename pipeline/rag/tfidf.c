#include "base/mem.h"
#include "rag/encoder_impl.h"
#include "rag/lexicon.h"

typedef struct tfidf {
    qs_lexicon lexicon;
    int32_t *counts; /* [n_terms] scratch */
} tfidf;

static qs_err encode(void *state, const char *const *texts, int64_t n, float *vectors)
{
    tfidf *t = state;
    for (int64_t i = 0; i < n; i++) {
        qs_err err = qs_lexicon_count(&t->lexicon, texts[i], t->counts);
        if (err != QS_OK) return err;
        qs_tfidf_vector(&t->lexicon, t->counts, &vectors[i * t->lexicon.n_terms]);
    }
    return QS_OK;
}

static void destroy(void *state)
{
    tfidf *t = state;
    qs_lexicon_free(&t->lexicon);
    qs_mem_free(t->counts);
    qs_mem_free(t);
}

/* Terms in order and their frequencies determine every vector. */
static qs_err digest_of(qs_digest *digest, const qs_lexicon *lexicon)
{
    qs_hasher *hasher;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    qs_hasher_add(hasher, &lexicon->n_documents, sizeof lexicon->n_documents);
    for (int64_t t = 0; t < lexicon->n_terms; t++) {
        size_t bytes;
        const char *text = qs_vocab_text(&lexicon->terms, t, &bytes);
        qs_hasher_add(hasher, &bytes, sizeof bytes);
        qs_hasher_add(hasher, text, bytes);
        qs_hasher_add(hasher, &lexicon->frequency[t], sizeof *lexicon->frequency);
    }
    *digest = qs_hasher_finish(hasher);
    return QS_OK;
}

qs_err qs_tfidf_open(qs_encoder **out, const qs_encoder_options *options)
{
    tfidf *t;
    qs_encoder_model model = {.encode = encode, .destroy = destroy};
    qs_err err;
    QS_TRY(QS_NEW(t, 1, "tfidf encoder"));
    model.state = t;
    QS_TRY(qs_lexicon_build(&t->lexicon, options->documents, options->n_documents));
    model.dim = t->lexicon.n_terms;
    QS_TRY(QS_NEW(t->counts, model.dim, "tfidf encoder"));
    QS_TRY(digest_of(&model.digest, &t->lexicon));
    return qs_encoder_create(out, "tfidf", &model);
out:
    if (t != NULL) destroy(t);
    return err;
}
