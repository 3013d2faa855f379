/* Text in: a file, or a directory of .md/.txt files taken in name order, as one UTF-8 text and as documents.
 * A document is a run of lines between blank lines (a paragraph or a heading). */
#ifndef QS_DATA_CORPUS_H
#define QS_DATA_CORPUS_H

#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

typedef struct qs_corpus {
    char *text; /* NUL-terminated; files of a directory are joined by a blank line */
    size_t bytes;
    int64_t n_documents;
    int64_t *document_chars; /* [n_documents] code points */
} qs_corpus;

/* QS_E_INPUT: missing, empty (no visible character), not UTF-8 (with the byte offset), no .md/.txt inside. */
QS_MUST_CHECK qs_err qs_corpus_load(qs_corpus *out, const char *path);
void qs_corpus_free(qs_corpus *corpus);

qs_digest qs_corpus_digest(const qs_corpus *corpus);

/* Median of document_chars. */
QS_MUST_CHECK qs_err qs_corpus_median_chars(const qs_corpus *corpus, double *median);

/* Documents by length: bin i counts those with 2^i .. 2^(i+1) - 1 characters. */
enum { QS_CORPUS_LENGTH_BINS = 24 };
void qs_corpus_length_histogram(const qs_corpus *corpus, int64_t bins[QS_CORPUS_LENGTH_BINS]);

/* Jensen-Shannon divergence, base 2, of the unigram distributions of two token sequences: 0 = equal, 1 =
 * disjoint. Ids lie in [0, n_vocab). */
QS_MUST_CHECK qs_err qs_unigram_js(const int32_t *a, int64_t n_a, const int32_t *b, int64_t n_b, int64_t n_vocab,
                                   double *js);

/* Stratified window starts: the text is cut into n_windows equal strata and window i starts at a seeded random
 * place of stratum i, so that every part of the text is represented. QS_E_INPUT when the text is shorter than
 * one window. starts[n_windows]. */
QS_MUST_CHECK qs_err qs_windows_stratified(int64_t n_tokens, int64_t window, int64_t n_windows, uint64_t seed,
                                           int64_t *starts);

#endif
