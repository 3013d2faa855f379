/* Retrieval: questions to ranked snippets of a gold set's corpus (docs/retrieval.md).
 *
 * BM25 and cosine lists are fused by reciprocal ranks (Cormack, Clarke, Büttcher 2009, constant 60); the best 20
 * are the pool, which the model under test may re-rank.
 *
 * A list ranks the snippets whose score is above 0; a snippet's fused score is the sum of 1 / (60 + rank) over the
 * lists that it is in, ranks from 1. Ties everywhere: score downwards, then section id, then snippet id upwards,
 * bytewise. What is indexed of a snippet is its header, a line end and its text. */
#ifndef QS_RAG_RETRIEVE_H
#define QS_RAG_RETRIEVE_H

#include "data/goldset.h"
#include "rag/encoder.h"

enum { QS_POOL = 20 };

typedef struct qs_hit {
    int64_t snippet;              /* index into the gold set's snippets */
    double score;                 /* what the order rests on: of the re-ranker, else fused */
    double bm25, dense, fused;    /* dense: cosine */
    int32_t bm25_rank, dense_rank; /* from 1; 0 = not in that list */
    int32_t pool_rank;            /* from 1, before re-ranking */
} qs_hit;

/* The best n of the corpus, best first: the top k, for any k, are the first k of them. n is below QS_POOL where fewer
 * snippets than that have anything in common with the question. */
typedef struct qs_ranking {
    int64_t n;
    qs_hit hits[QS_POOL];
} qs_ranking;

/* Scores snippets by a model: scores[n_pairs] = mean log p(question | snippet), higher is better. All pairs come in one
 * call, so that they can be batched; a score must not depend on the other pairs. */
typedef struct qs_rerank_pair {
    const char *question;
    const qs_gold_snippet *snippet;
} qs_rerank_pair;
typedef struct qs_reranker {
    void *context;
    qs_err (*score)(void *context, const qs_rerank_pair *pairs, int64_t n_pairs, double *scores);
} qs_reranker;

/* What is indexed of each snippet: documents [n_snippets], freed with qs_documents_free. */
QS_MUST_CHECK qs_err qs_documents_make(char ***documents, const qs_goldset *set);
void qs_documents_free(char **documents, int64_t n);

/* An index over a corpus. Borrows set and encoder, which must outlive it. */
typedef struct qs_retriever qs_retriever;
QS_MUST_CHECK qs_err qs_retriever_create(qs_retriever **out, const qs_goldset *set, qs_encoder *encoder);
void qs_retriever_destroy(qs_retriever *retriever);

/* rankings[n] of questions[n]. reranker NULL keeps the fused order. QS_E_NUMERIC names question and snippet whose score
 * is not finite; else the errors of encoder and re-ranker. */
QS_MUST_CHECK qs_err qs_retrieve(qs_retriever *retriever, const char *const *questions, int64_t n,
                                 const qs_reranker *reranker, qs_ranking *rankings);

/* What qs_retrieve does with a re-ranker, to rankings[n] that are there already. */
QS_MUST_CHECK qs_err qs_rankings_rerank(const qs_goldset *set, const char *const *questions, int64_t n,
                                        const qs_reranker *reranker, qs_ranking *rankings);

/* Orders a pool anew by scores[ranking->n], given in its present order: what qs_retrieve does with a re-ranker. */
QS_MUST_CHECK qs_err qs_ranking_reorder(qs_ranking *ranking, const qs_goldset *set, const char *question,
                                        const double *scores);

/* Unit vector of each snippet: [n_snippets, dim of the encoder], borrowed. */
const float *qs_retriever_vectors(const qs_retriever *retriever);
/* What is indexed of a snippet, borrowed. */
const char *qs_retriever_document(const qs_retriever *retriever, int64_t snippet);
/* Of everything that decides rankings before the re-ranker: snippets with their revisions, encoder, rules. Results
 * of two runs are comparable when it is equal. */
qs_digest qs_retriever_index_hash(const qs_retriever *retriever);
/* Of the snippets with their revisions alone: of what an encoder that differs from point to point was shown. */
qs_digest qs_retriever_corpus_hash(const qs_retriever *retriever);

/* A snippet's place in the order of ties. */
int64_t qs_retriever_place(const qs_retriever *retriever, int64_t snippet);

/* The rule for ties: section id, then snippet id, bytewise; below 0 when a comes first. */
int qs_snippet_compare(const qs_gold_snippet *a, const qs_gold_snippet *b);

#endif
