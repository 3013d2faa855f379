#include "data/corpus.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/rng.h"

static const size_t corpus_limit_bytes = (size_t)1 << 31;

static bool has_text_suffix(const char *name)
{
    size_t bytes = strlen(name);
    return (bytes > 3 && strcmp(name + bytes - 3, ".md") == 0) || (bytes > 4 && strcmp(name + bytes - 4, ".txt") == 0);
}

/* Appends one file, after a blank line when something stands before it. */
static qs_err append_file(qs_corpus *corpus, const char *path)
{
    char *text, *joined;
    size_t bytes;
    qs_err err = qs_file_read(&text, &bytes, path, corpus_limit_bytes);
    if (err != QS_OK) return err;
    size_t gap = corpus->bytes > 0 ? 2 : 0;
    err = qs_mem_alloc((void *)&joined, corpus->bytes + gap + bytes + 1, "text");
    if (err == QS_OK) {
        if (gap > 0) {
            memcpy(joined, corpus->text, corpus->bytes);
            memcpy(joined + corpus->bytes, "\n\n", gap);
        }
        memcpy(joined + corpus->bytes + gap, text, bytes);
        qs_mem_free(corpus->text);
        corpus->text = joined;
        corpus->bytes += gap + bytes;
    }
    qs_mem_free(text);
    return err;
}

static qs_err append_dir(qs_corpus *corpus, const char *dir)
{
    char **names;
    int64_t n_names;
    qs_err err = qs_dir_list(&names, &n_names, dir, "");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < n_names && err == QS_OK; i++) {
        char path[QS_PATH_BYTES];
        if (!has_text_suffix(names[i])) continue;
        err = qs_path_format(path, "%s/%s", dir, names[i]);
        if (err == QS_OK) err = append_file(corpus, path);
    }
    qs_dir_list_free(names, n_names);
    return err;
}

/* Validates UTF-8 and counts documents; with lengths != NULL also stores their code points. */
static qs_err scan_documents(const qs_corpus *corpus, const char *path, int64_t *n_documents, int64_t *lengths)
{
    const utf8proc_uint8_t *text = (const utf8proc_uint8_t *)corpus->text;
    int64_t n = 0, chars = 0;
    bool line_blank = true, in_document = false;
    for (size_t i = 0; i < corpus->bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t step = utf8proc_iterate(text + i, (utf8proc_ssize_t)(corpus->bytes - i), &point);
        if (step <= 0) return qs_fail(QS_E_INPUT, "read text %s: byte %zu is not valid UTF-8", path, i);
        i += (size_t)step;
        if (point == '\n') {
            if (line_blank && in_document) {
                if (lengths != NULL) lengths[n] = chars;
                n++;
                chars = 0;
                in_document = false;
            }
            line_blank = true;
        } else if (point > ' ') {
            line_blank = false;
            in_document = true;
        }
        chars += in_document && point != '\n';
    }
    if (in_document) {
        if (lengths != NULL) lengths[n] = chars;
        n++;
    }
    *n_documents = n;
    return QS_OK;
}

qs_err qs_corpus_load(qs_corpus *out, const char *path)
{
    qs_err err;
    *out = (qs_corpus){0};
    QS_TRY(qs_path_is_dir(path) ? append_dir(out, path) : append_file(out, path));
    QS_TRY(scan_documents(out, path, &out->n_documents, NULL));
    if (out->n_documents == 0) {
        err = qs_fail(QS_E_INPUT, "read text %s: it holds no text (a directory needs .md or .txt files)", path);
        goto out;
    }
    QS_TRY(QS_NEW(out->document_chars, out->n_documents, "document lengths"));
    QS_TRY(scan_documents(out, path, &out->n_documents, out->document_chars));
out:
    if (err != QS_OK) qs_corpus_free(out);
    return err;
}

void qs_corpus_free(qs_corpus *corpus)
{
    qs_mem_free(corpus->text);
    qs_mem_free(corpus->document_chars);
    *corpus = (qs_corpus){0};
}

qs_digest qs_corpus_digest(const qs_corpus *corpus) { return qs_hash(corpus->text, corpus->bytes); }

static int compare_lengths(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

qs_err qs_corpus_median_chars(const qs_corpus *corpus, double *median)
{
    int64_t n = corpus->n_documents, *sorted;
    qs_err err = QS_NEW(sorted, n, "sorted lengths");
    if (err != QS_OK) return err;
    memcpy(sorted, corpus->document_chars, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare_lengths);
    *median = 0.5 * (double)(sorted[(n - 1) / 2] + sorted[n / 2]);
    qs_mem_free(sorted);
    return QS_OK;
}

void qs_corpus_length_histogram(const qs_corpus *corpus, int64_t bins[QS_CORPUS_LENGTH_BINS])
{
    memset(bins, 0, QS_CORPUS_LENGTH_BINS * sizeof *bins);
    for (int64_t i = 0; i < corpus->n_documents; i++) {
        int bin = 0;
        for (int64_t n = corpus->document_chars[i]; n > 1 && bin < QS_CORPUS_LENGTH_BINS - 1; n >>= 1) bin++;
        bins[bin]++;
    }
}

static qs_err count_tokens(int64_t *counts, const int32_t *ids, int64_t n, int64_t n_vocab)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= n_vocab)
            return qs_fail(QS_E_INPUT, "count tokens: id %d is outside the vocabulary of %lld", ids[i],
                           (long long)n_vocab);
        counts[ids[i]]++;
    }
    return QS_OK;
}

qs_err qs_unigram_js(const int32_t *a, int64_t n_a, const int32_t *b, int64_t n_b, int64_t n_vocab, double *js)
{
    qs_err err;
    int64_t *counts = NULL;
    if (n_a <= 0 || n_b <= 0) return qs_fail(QS_E_INPUT, "compare unigrams: one of the texts has no tokens");
    QS_TRY(QS_NEW(counts, 2 * n_vocab, "token counts"));
    QS_TRY(count_tokens(counts, a, n_a, n_vocab));
    QS_TRY(count_tokens(counts + n_vocab, b, n_b, n_vocab));
    double sum = 0.0;
    for (int64_t t = 0; t < n_vocab; t++) {
        double p = (double)counts[t] / (double)n_a, q = (double)counts[n_vocab + t] / (double)n_b, m = 0.5 * (p + q);
        if (p > 0.0) sum += 0.5 * p * log2(p / m);
        if (q > 0.0) sum += 0.5 * q * log2(q / m);
    }
    *js = sum;
out:
    qs_mem_free(counts);
    return err;
}

qs_err qs_windows_stratified(int64_t n_tokens, int64_t window, int64_t n_windows, uint64_t seed, int64_t *starts)
{
    int64_t n_starts = n_tokens - window + 1;
    if (n_starts < 1)
        return qs_fail(QS_E_INPUT,
                       "cut windows: the text has %lld tokens, a window needs %lld; give more text or a "
                       "shorter --seqlen",
                       (long long)n_tokens, (long long)window);
    for (int64_t i = 0; i < n_windows; i++) {
        int64_t low = (int64_t)((__int128)n_starts * i / n_windows);
        int64_t high = (int64_t)((__int128)n_starts * (i + 1) / n_windows);
        starts[i] = low + (high > low ? qs_rng_below(seed, (uint64_t)i, high - low) : 0);
    }
    return QS_OK;
}
