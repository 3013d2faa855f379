/* The terms of a set of documents: which there are, how often each stands in which document. BM25 and the tfidf
 * encoder weigh the same counts. */
#ifndef QS_RAG_LEXICON_H
#define QS_RAG_LEXICON_H

#include "model/vocab.h"

typedef struct qs_lexicon {
    qs_vocab terms; /* ids 0 .. n_terms - 1 in order of first appearance */
    int64_t n_terms, n_documents, n_entries;
    int64_t *first;     /* [n_documents + 1]: entries of document d are first[d] .. first[d + 1] - 1 */
    int32_t *term;      /* [n_entries] a term of the document, each once, in order of first appearance */
    int32_t *count;     /* [n_entries] how often */
    int64_t *length;    /* [n_documents] terms, repeated ones counted */
    int64_t *frequency; /* [n_terms] documents that hold the term */
    double mean_length;
} qs_lexicon;

/* documents[n] are copied from. QS_E_INPUT: none, or one that is not UTF-8 (with its number). */
QS_MUST_CHECK qs_err qs_lexicon_build(qs_lexicon *out, const char *const *documents, int64_t n);
void qs_lexicon_free(qs_lexicon *lexicon);

/* counts[n_terms] = how often each known term stands in the text; unknown ones are left out. */
QS_MUST_CHECK qs_err qs_lexicon_count(const qs_lexicon *lexicon, const char *text, int32_t *counts);

/* scores[n_documents] = BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) with the idf that is never negative,
 * ln(1 + (N - n + .5) / (n + .5)); a term asked for twice counts twice. 0 = no common term. */
void qs_bm25_scores(const qs_lexicon *lexicon, const int32_t *counts, double *scores);

/* vector[n_terms] = (1 + ln count) (1 + ln((1 + N) / (1 + n))) of each term, not normalised. */
void qs_tfidf_vector(const qs_lexicon *lexicon, const int32_t *counts, float *vector);

#endif
