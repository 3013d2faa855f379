#include "rag/lexicon.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "rag/terms.h"

/* ---- building ---- */

static qs_err measure(const char *const *documents, int64_t n, int64_t *n_terms, size_t *bytes)
{
    qs_terms terms = {0};
    qs_err err = QS_OK;
    *n_terms = 0;
    *bytes = 0;
    for (int64_t d = 0; d < n; d++) {
        QS_TRY(qs_context(qs_terms_start(&terms, documents[d]), "document %lld", (long long)d));
        for (; qs_terms_next(&terms); ++*n_terms) *bytes += terms.bytes;
        qs_terms_end(&terms);
    }
out:
    qs_terms_end(&terms);
    return err;
}

/* The id of a term, a new one if need be. */
static qs_err id_of(qs_lexicon *lexicon, const qs_terms *terms, int32_t *id)
{
    *id = qs_vocab_find(&lexicon->terms, terms->term, terms->bytes);
    if (*id >= 0) return QS_OK;
    *id = (int32_t)lexicon->n_terms++;
    return qs_vocab_set(&lexicon->terms, *id, terms->term, terms->bytes, "lexicon");
}

/* entry_of[n_terms]: the last entry of each term, which is of this document if it is not before its first one. */
static qs_err add_document(qs_lexicon *lexicon, int64_t d, const char *text, int64_t *entry_of)
{
    qs_terms terms;
    qs_err err;
    QS_TRY(qs_terms_start(&terms, text));
    lexicon->first[d] = lexicon->n_entries;
    while (qs_terms_next(&terms)) {
        int32_t id;
        QS_TRY(id_of(lexicon, &terms, &id));
        bool known = lexicon->frequency[id] > 0 && entry_of[id] >= lexicon->first[d];
        if (!known) {
            entry_of[id] = lexicon->n_entries++;
            lexicon->term[entry_of[id]] = id;
            lexicon->frequency[id]++;
        }
        lexicon->count[entry_of[id]]++;
        lexicon->length[d]++;
    }
out:
    qs_terms_end(&terms);
    return err;
}

qs_err qs_lexicon_build(qs_lexicon *out, const char *const *documents, int64_t n)
{
    *out = (qs_lexicon){.n_documents = n};
    int64_t n_all, *entry_of = NULL;
    size_t bytes;
    qs_err err;
    if (n < 1) return qs_fail(QS_E_INPUT, "build lexicon: there are no documents");
    QS_TRY(measure(documents, n, &n_all, &bytes));
    if (n_all == 0) {
        err = qs_fail(QS_E_INPUT, "build lexicon: %lld documents hold no word", (long long)n);
        goto out;
    }
    QS_TRY(qs_vocab_init(&out->terms, n_all, bytes, "lexicon"));
    QS_TRY(QS_NEW(out->first, n + 1, "lexicon"));
    QS_TRY(QS_NEW(out->length, n, "lexicon"));
    QS_TRY(QS_NEW(out->term, n_all, "lexicon"));
    QS_TRY(QS_NEW(out->count, n_all, "lexicon"));
    QS_TRY(QS_NEW(out->frequency, n_all, "lexicon"));
    QS_TRY(QS_NEW(entry_of, n_all, "lexicon"));
    for (int64_t d = 0; d < n; d++) QS_TRY(add_document(out, d, documents[d], entry_of));
    out->first[n] = out->n_entries;
    out->mean_length = (double)n_all / (double)n;
out:
    qs_mem_free(entry_of);
    if (err != QS_OK) qs_lexicon_free(out);
    return err;
}

void qs_lexicon_free(qs_lexicon *lexicon)
{
    qs_vocab_fini(&lexicon->terms);
    qs_mem_free(lexicon->first);
    qs_mem_free(lexicon->term);
    qs_mem_free(lexicon->count);
    qs_mem_free(lexicon->length);
    qs_mem_free(lexicon->frequency);
    *lexicon = (qs_lexicon){0};
}

/* ---- weighing ---- */

qs_err qs_lexicon_count(const qs_lexicon *lexicon, const char *text, int32_t *counts)
{
    qs_terms terms;
    qs_err err = qs_terms_start(&terms, text);
    if (err != QS_OK) return err;
    memset(counts, 0, (size_t)lexicon->n_terms * sizeof *counts);
    while (qs_terms_next(&terms)) {
        int32_t id = qs_vocab_find(&lexicon->terms, terms.term, terms.bytes);
        if (id >= 0) counts[id]++;
    }
    qs_terms_end(&terms);
    return QS_OK;
}

void qs_bm25_scores(const qs_lexicon *lexicon, const int32_t *counts, double *scores)
{
    static const double k1 = 1.2, b = 0.75;
    for (int64_t d = 0; d < lexicon->n_documents; d++) {
        double norm = k1 * (1.0 - b + b * (double)lexicon->length[d] / lexicon->mean_length);
        scores[d] = 0.0;
        for (int64_t e = lexicon->first[d]; e < lexicon->first[d + 1]; e++) {
            int32_t asked = counts[lexicon->term[e]];
            if (asked == 0) continue;
            double tf = lexicon->count[e], n = (double)lexicon->frequency[lexicon->term[e]];
            double idf = log1p(((double)lexicon->n_documents - n + 0.5) / (n + 0.5));
            scores[d] += asked * idf * tf * (k1 + 1.0) / (tf + norm);
        }
    }
}

void qs_tfidf_vector(const qs_lexicon *lexicon, const int32_t *counts, float *vector)
{
    for (int64_t t = 0; t < lexicon->n_terms; t++) {
        double idf = 1.0 + log((1.0 + (double)lexicon->n_documents) / (1.0 + (double)lexicon->frequency[t]));
        vector[t] = counts[t] > 0 ? (float)((1.0 + log(counts[t])) * idf) : 0.0f;
    }
}
