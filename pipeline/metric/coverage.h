/* How much of a text some snippets hold: its words (between blanks), found by offsets in the source file and
 * counted once however many snippets hold them, never by comparing words (docs/coverage.md). */
#ifndef QS_METRIC_COVERAGE_H
#define QS_METRIC_COVERAGE_H

#include "data/goldset.h"

typedef struct qs_coverage {
    int64_t n_words, n_covered;
} qs_coverage;

/* Adds the words of bytes [start, end) of a snippet's source file, which lie inside the snippet; a word counts as
 * covered when snippets by[n_by] hold all of it together. */
void qs_coverage_add(qs_coverage *sum, const qs_goldset *set, int64_t snippet, int64_t start, int64_t end,
                     const int64_t *by, int64_t n_by);

/* Of all snippets of a section. */
qs_coverage qs_coverage_of_section(const qs_goldset *set, const char *section, const int64_t *by, int64_t n_by);

/* n_covered / n_words; 0 without words. */
double qs_coverage_share(const qs_coverage *coverage);

#endif
