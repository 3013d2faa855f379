#include "metric/coverage.h"

#include <string.h>

/* Offsets are of a file, and a URL is FILE#SECTION. */
static bool same_file(const qs_gold_snippet *a, const qs_gold_snippet *b)
{
    size_t bytes = strcspn(a->source_url, "#");
    return bytes == strcspn(b->source_url, "#") && memcmp(a->source_url, b->source_url, bytes) == 0;
}

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

/* Whether the snippets cover bytes [start, end) of the file of `of` together. */
static bool is_covered(const qs_goldset *set, const qs_gold_snippet *of, int64_t start, int64_t end, const int64_t *by,
                       int64_t n_by)
{
    for (int64_t at = start; at < end;) {
        int64_t reach = at;
        for (int64_t i = 0; i < n_by; i++) {
            const qs_gold_snippet *s = &set->snippets[by[i]];
            if (s->start <= at && s->end > reach && same_file(s, of)) reach = s->end;
        }
        if (reach == at) return false;
        at = reach;
    }
    return true;
}

void qs_coverage_add(qs_coverage *sum, const qs_goldset *set, int64_t snippet, int64_t start, int64_t end,
                     const int64_t *by, int64_t n_by)
{
    const qs_gold_snippet *of = &set->snippets[snippet];
    for (int64_t at = start; at < end;) {
        int64_t first = at;
        while (at < end && !is_blank(of->text[at - of->start])) at++;
        if (at > first) {
            sum->n_words++;
            sum->n_covered += is_covered(set, of, first, at, by, n_by);
        } else {
            at++;
        }
    }
}

qs_coverage qs_coverage_of_section(const qs_goldset *set, const char *section, const int64_t *by, int64_t n_by)
{
    qs_coverage sum = {0};
    for (int64_t i = 0; i < set->n_snippets; i++) {
        const qs_gold_snippet *s = &set->snippets[i];
        if (strcmp(s->section, section) == 0) qs_coverage_add(&sum, set, i, s->start, s->end, by, n_by);
    }
    return sum;
}

double qs_coverage_share(const qs_coverage *c)
{
    return c->n_words > 0 ? (double)c->n_covered / (double)c->n_words : 0.0;
}
