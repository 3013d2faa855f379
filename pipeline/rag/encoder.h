/* Sentence encoders: texts to unit vectors, in whose space ΔS is measured and dense retrieval works
 * (docs/retrieval.md). A number made with one encoder means nothing beside a number made with another: tables name it.
 *
 *   minilm   a sentence-transformers directory (BERT, mean over tokens): the fixed frame
 *   self     the model under test: mean of its final hidden states, minus a frozen mean of the reference's
 *   tfidf    weights of terms over a corpus: no model, so nothing that quantisation could change (a control)
 *
 * An embedding depends on its text alone, not on what else is encoded with it, and is kept by the text's digest. */
#ifndef QS_RAG_ENCODER_H
#define QS_RAG_ENCODER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "model/block.h"

/* What opening an encoder may need; borrowed during the call only, if a field does not say otherwise. */
typedef struct qs_encoder_options {
    const char *const *documents; /* [n_documents] the corpus; tfidf takes terms and weights from it */
    int64_t n_documents;
    const char *directory; /* of sentence-transformers; minilm */
    int n_threads;         /* minilm; 0 = OpenMP's default */
    /* self: the reference, and where it runs; both must outlive the encoder. NULL = self cannot be opened. */
    qs_model *model;
    qs_backend *backend;
} qs_encoder_options;

typedef struct qs_encoder qs_encoder;

typedef struct qs_encoder_kind {
    const char *name, *text;
    qs_err (*open)(qs_encoder **out, const qs_encoder_options *options);
} qs_encoder_kind;
extern const qs_encoder_kind qs_encoder_kinds[]; /* ends with name == NULL */

/* "auto" is minilm where its directory is, else self, else tfidf. QS_E_USAGE names the encoders there are; else the
 * errors of the kind: QS_E_INPUT for files, QS_E_RESOURCE. */
QS_MUST_CHECK qs_err qs_encoder_open(qs_encoder **out, const char *name, const qs_encoder_options *options);
void qs_encoder_destroy(qs_encoder *encoder);

const char *qs_encoder_name(const qs_encoder *encoder);
int64_t qs_encoder_dim(const qs_encoder *encoder);
/* Of what determines the vectors: weights, vocabulary, rules. */
qs_digest qs_encoder_digest(const qs_encoder *encoder);

/* vectors[n, dim] of texts[n], each of length 1 in f32, or zero where a text holds nothing that the encoder knows.
 * QS_E_INPUT: a text that is not UTF-8; QS_E_NUMERIC names the text whose vector is not finite. */
QS_MUST_CHECK qs_err qs_encoder_encode(qs_encoder *encoder, const char *const *texts, int64_t n, float *vectors);

/* Encoders that are the model under test have one for each candidate; for the others *out = NULL, and `reference`
 * is the one for all. linears NULL = model's own; what they point to must outlive the encoder's use. */
QS_MUST_CHECK qs_err qs_encoder_follow(qs_encoder **out, const qs_encoder *reference, const qs_model *model,
                                       const qs_linear_source *linears);
bool qs_encoder_follows(const qs_encoder *encoder);

/* Vectors from run to run, in DIR/ENCODER.embed.h5: of encoders that cost more than reading a file (minilm), found
 * again by text, weights and kernels. A file of another encoder, or a damaged one, counts as none. Nothing is
 * written that was recalled. */
QS_MUST_CHECK qs_err qs_encoder_recall(qs_encoder *encoder, const char *dir);
QS_MUST_CHECK qs_err qs_encoder_keep(qs_encoder *encoder, const char *dir);

/* Texts that were encoded, as against found again, since the encoder was opened. */
int64_t qs_encoder_n_encoded(const qs_encoder *encoder);

#endif
