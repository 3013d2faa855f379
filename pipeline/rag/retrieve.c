#include "rag/retrieve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "rag/lexicon.h"

/* Raised when rankings of an unchanged corpus change: part of the index hash. */
static const char rules[] = "bm25 1.2 0.75 + dense, rrf 60, pool 20, header and text, 1";
static const double rrf_constant = 60.0;

struct qs_retriever {
    const qs_goldset *set;
    qs_encoder *encoder;
    char **documents; /* [n_snippets] */
    qs_lexicon lexicon;
    float *vectors;     /* [n_snippets, dim] */
    int64_t *tie_order; /* [n_snippets] place of a snippet in the order of ties */
    int32_t *counts;    /* [n_terms] scratch */
    qs_hit *hits;       /* [n_snippets] scratch */
    int64_t *order;     /* [n_snippets] scratch */
    qs_digest index_hash, corpus_hash;
};

/* ---- order ---- */

int qs_snippet_compare(const qs_gold_snippet *a, const qs_gold_snippet *b)
{
    int sections = strcmp(a->section, b->section);
    return sections != 0 ? sections : strcmp(a->id, b->id);
}

static int compare_snippets(const void *a, const void *b, void *set)
{
    const qs_gold_snippet *snippets = ((const qs_goldset *)set)->snippets;
    return qs_snippet_compare(&snippets[*(const int64_t *)a], &snippets[*(const int64_t *)b]);
}

typedef struct ordering {
    const qs_retriever *retriever;
    size_t score_offset; /* of the score in qs_hit */
} ordering;

static int compare_hits(const void *a, const void *b, void *context)
{
    const ordering *o = context;
    const qs_hit *x = &o->retriever->hits[*(const int64_t *)a], *y = &o->retriever->hits[*(const int64_t *)b];
    double sx, sy;
    memcpy(&sx, (const char *)x + o->score_offset, sizeof sx);
    memcpy(&sy, (const char *)y + o->score_offset, sizeof sy);
    if (sx != sy) return sx > sy ? -1 : 1;
    int64_t tx = o->retriever->tie_order[x->snippet], ty = o->retriever->tie_order[y->snippet];
    return (tx > ty) - (tx < ty);
}

/* Leaves indices of hits by one of their scores, best first, in `order`. */
static void sort_hits(qs_retriever *r, size_t score_offset)
{
    ordering o = {r, score_offset};
    for (int64_t i = 0; i < r->set->n_snippets; i++) r->order[i] = i;
    qsort_r(r->order, (size_t)r->set->n_snippets, sizeof *r->order, compare_hits, &o);
}

/* ---- the index ---- */

static void add_text(qs_hasher *hasher, const char *text) { qs_hasher_add(hasher, text, strlen(text) + 1); }

static qs_err hash_corpus(const qs_goldset *set, qs_digest *digest)
{
    qs_hasher *hasher;
    qs_err err = qs_hasher_create(&hasher);
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < set->n_snippets; i++) {
        const qs_gold_snippet *s = &set->snippets[i];
        const char *texts[] = {s->id, s->section, s->source_url, s->header, s->rev, s->text};
        for (size_t j = 0; j < sizeof texts / sizeof *texts; j++) add_text(hasher, texts[j]);
        qs_hasher_add(hasher, &s->start, sizeof s->start);
        qs_hasher_add(hasher, &s->end, sizeof s->end);
    }
    *digest = qs_hasher_finish(hasher);
    return QS_OK;
}

static qs_err hash_index(qs_retriever *r)
{
    qs_hasher *hasher = NULL;
    qs_digest encoder = qs_encoder_digest(r->encoder);
    qs_err err;
    QS_TRY(hash_corpus(r->set, &r->corpus_hash));
    QS_TRY(qs_hasher_create(&hasher));
    add_text(hasher, rules);
    add_text(hasher, qs_encoder_name(r->encoder));
    qs_hasher_add(hasher, &encoder, sizeof encoder);
    qs_hasher_add(hasher, &r->corpus_hash, sizeof r->corpus_hash);
    r->index_hash = qs_hasher_finish(hasher);
out:
    return err;
}

qs_err qs_documents_make(char ***documents, const qs_goldset *set)
{
    char **all;
    qs_err err = QS_NEW(all, set->n_snippets, "documents");
    for (int64_t i = 0; i < set->n_snippets && err == QS_OK; i++) {
        const qs_gold_snippet *s = &set->snippets[i];
        size_t header_bytes = strlen(s->header), text_bytes = strlen(s->text);
        err = qs_mem_alloc(&all[i], header_bytes + text_bytes + 2, "document");
        if (err != QS_OK) break;
        memcpy(all[i], s->header, header_bytes);
        all[i][header_bytes] = '\n';
        memcpy(&all[i][header_bytes + 1], s->text, text_bytes);
    }
    if (err != QS_OK) qs_documents_free(all, set->n_snippets);
    *documents = err == QS_OK ? all : NULL;
    return err;
}

void qs_documents_free(char **documents, int64_t n)
{
    for (int64_t i = 0; documents != NULL && i < n; i++) qs_mem_free(documents[i]);
    qs_mem_free((void *)documents);
}

static void order_ties(qs_retriever *r)
{
    int64_t n = r->set->n_snippets;
    for (int64_t i = 0; i < n; i++) r->order[i] = i;
    qsort_r(r->order, (size_t)n, sizeof *r->order, compare_snippets, (void *)r->set);
    for (int64_t i = 0; i < n; i++) r->tie_order[r->order[i]] = i;
}

qs_err qs_retriever_create(qs_retriever **out, const qs_goldset *set, qs_encoder *encoder)
{
    qs_retriever *r;
    int64_t n = set->n_snippets;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(r, 1, "retriever"));
    *r = (qs_retriever){.set = set, .encoder = encoder};
    QS_TRY(qs_documents_make(&r->documents, set));
    QS_TRY(qs_lexicon_build(&r->lexicon, (const char *const *)r->documents, n));
    QS_TRY(QS_NEW(r->vectors, n * qs_encoder_dim(encoder), "vectors of snippets"));
    QS_TRY(QS_NEW(r->tie_order, n, "retriever"));
    QS_TRY(QS_NEW(r->counts, r->lexicon.n_terms, "retriever"));
    QS_TRY(QS_NEW(r->hits, n, "retriever"));
    QS_TRY(QS_NEW(r->order, n, "retriever"));
    order_ties(r);
    QS_TRY(qs_encoder_encode(encoder, (const char *const *)r->documents, n, r->vectors));
    QS_TRY(hash_index(r));
    *out = r;
out:
    if (err != QS_OK) qs_retriever_destroy(r);
    return qs_context(err, "index the corpus");
}

void qs_retriever_destroy(qs_retriever *r)
{
    if (r == NULL) return;
    qs_documents_free(r->documents, r->set->n_snippets);
    qs_lexicon_free(&r->lexicon);
    qs_mem_free(r->vectors);
    qs_mem_free(r->tie_order);
    qs_mem_free(r->counts);
    qs_mem_free(r->hits);
    qs_mem_free(r->order);
    qs_mem_free(r);
}

const float *qs_retriever_vectors(const qs_retriever *r) { return r->vectors; }
const char *qs_retriever_document(const qs_retriever *r, int64_t snippet) { return r->documents[snippet]; }
int64_t qs_retriever_place(const qs_retriever *r, int64_t snippet) { return r->tie_order[snippet]; }
qs_digest qs_retriever_index_hash(const qs_retriever *r) { return r->index_hash; }

qs_digest qs_retriever_corpus_hash(const qs_retriever *r) { return r->corpus_hash; }

/* ---- one question ---- */

/* Both lists: scores of every snippet, then ranks of those above 0 and what they add to the fused score. */
static qs_err score_snippets(qs_retriever *r, const char *question, const float *vector, double *bm25)
{
    int64_t n = r->set->n_snippets, dim = qs_encoder_dim(r->encoder);
    qs_err err = qs_lexicon_count(&r->lexicon, question, r->counts);
    if (err != QS_OK) return err;
    qs_bm25_scores(&r->lexicon, r->counts, bm25);
    for (int64_t i = 0; i < n; i++) {
        double dot = 0.0;
        for (int64_t d = 0; d < dim; d++) dot += (double)vector[d] * r->vectors[i * dim + d];
        r->hits[i] = (qs_hit){.snippet = i, .bm25 = bm25[i], .dense = dot};
    }
    sort_hits(r, offsetof(qs_hit, bm25));
    for (int64_t i = 0; i < n && r->hits[r->order[i]].bm25 > 0.0; i++) {
        qs_hit *hit = &r->hits[r->order[i]];
        hit->bm25_rank = (int32_t)(i + 1);
        hit->fused += 1.0 / (rrf_constant + (double)hit->bm25_rank);
    }
    sort_hits(r, offsetof(qs_hit, dense));
    for (int64_t i = 0; i < n && r->hits[r->order[i]].dense > 0.0; i++) {
        qs_hit *hit = &r->hits[r->order[i]];
        hit->dense_rank = (int32_t)(i + 1);
        hit->fused += 1.0 / (rrf_constant + (double)hit->dense_rank);
    }
    return QS_OK;
}

static void take_pool(qs_retriever *r, qs_ranking *ranking)
{
    sort_hits(r, offsetof(qs_hit, fused));
    ranking->n = 0;
    for (int64_t i = 0; i < r->set->n_snippets && ranking->n < QS_POOL; i++) {
        qs_hit *hit = &r->hits[r->order[i]];
        if (hit->fused <= 0.0) break;
        hit->score = hit->fused;
        hit->pool_rank = (int32_t)(i + 1);
        ranking->hits[ranking->n++] = *hit;
    }
}

/* ---- re-ranking ---- */

static int compare_ranked(const void *a, const void *b, void *set)
{
    const qs_hit *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    const qs_gold_snippet *snippets = ((const qs_goldset *)set)->snippets;
    return qs_snippet_compare(&snippets[x->snippet], &snippets[y->snippet]);
}

qs_err qs_ranking_reorder(qs_ranking *ranking, const qs_goldset *set, const char *question, const double *scores)
{
    for (int64_t i = 0; i < ranking->n; i++)
        if (!isfinite(scores[i]))
            return qs_fail(QS_E_NUMERIC, "re-rank for \"%.80s\": the score of snippet %s is %g", question,
                           set->snippets[ranking->hits[i].snippet].id, scores[i]);
    for (int64_t i = 0; i < ranking->n; i++) ranking->hits[i].score = scores[i];
    qsort_r(ranking->hits, (size_t)ranking->n, sizeof *ranking->hits, compare_ranked, (void *)set);
    return QS_OK;
}

qs_err qs_rankings_rerank(const qs_goldset *set, const char *const *questions, int64_t n,
                          const qs_reranker *reranker, qs_ranking *rankings)
{
    qs_rerank_pair *pairs = NULL;
    double *scores = NULL;
    int64_t n_pairs = 0, at = 0;
    qs_err err;
    for (int64_t i = 0; i < n; i++) n_pairs += rankings[i].n;
    QS_TRY(QS_NEW(pairs, n_pairs, "pairs to re-rank"));
    QS_TRY(QS_NEW(scores, n_pairs, "pairs to re-rank"));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < rankings[i].n; j++)
            pairs[at++] = (qs_rerank_pair){questions[i], &set->snippets[rankings[i].hits[j].snippet]};
    QS_TRY(reranker->score(reranker->context, pairs, n_pairs, scores));
    at = 0;
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_ranking_reorder(&rankings[i], set, questions[i], &scores[at]));
        at += rankings[i].n;
    }
out:
    qs_mem_free(pairs);
    qs_mem_free(scores);
    return err;
}

qs_err qs_retrieve(qs_retriever *r, const char *const *questions, int64_t n, const qs_reranker *reranker,
                   qs_ranking *rankings)
{
    int64_t dim = qs_encoder_dim(r->encoder);
    float *vectors = NULL;
    double *bm25 = NULL;
    qs_err err;
    QS_TRY(QS_NEW(vectors, n * dim, "vectors of questions"));
    QS_TRY(QS_NEW(bm25, r->set->n_snippets, "scores of snippets"));
    QS_TRY(qs_encoder_encode(r->encoder, questions, n, vectors));
    for (int64_t i = 0; i < n; i++) {
        QS_TRY(qs_context(score_snippets(r, questions[i], &vectors[i * dim], bm25), "question %lld", (long long)i));
        take_pool(r, &rankings[i]);
    }
    if (reranker != NULL) QS_TRY(qs_rankings_rerank(r->set, questions, n, reranker, rankings));
out:
    qs_mem_free(vectors);
    qs_mem_free(bm25);
    return qs_context(err, "retrieve");
}
