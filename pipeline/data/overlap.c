#include "data/overlap.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

enum { WORD_BYTES = 64 };

/* The next run of letters and digits, in lower case; NULL at the end. */
static const char *next_word(const char *at, char word[WORD_BYTES])
{
    while (*at != '\0' && !isalnum((unsigned char)*at)) at++;
    if (*at == '\0') return NULL;
    size_t n = 0;
    for (; isalnum((unsigned char)*at); at++)
        if (n + 1 < WORD_BYTES) word[n++] = (char)tolower((unsigned char)*at);
    word[n] = '\0';
    return at;
}

static bool has_word(const char *text, const char *wanted)
{
    char word[WORD_BYTES];
    while ((text = next_word(text, word)) != NULL)
        if (strcmp(word, wanted) == 0) return true;
    return false;
}

static bool snippet_has(const qs_gold_snippet *s, const char *word)
{
    return has_word(s->header, word) || has_word(s->text, word);
}

/* Adds log(N / df) of every word of the question to the snippets that hold it. */
static void score_snippets(const qs_goldset *set, const char *question, double *scores)
{
    char word[WORD_BYTES];
    memset(scores, 0, (size_t)set->n_snippets * sizeof *scores);
    while ((question = next_word(question, word)) != NULL) {
        int64_t n = 0;
        for (int64_t i = 0; i < set->n_snippets; i++) n += snippet_has(&set->snippets[i], word);
        for (int64_t i = 0; n > 0 && i < set->n_snippets; i++)
            if (snippet_has(&set->snippets[i], word)) scores[i] += log((double)set->n_snippets / (double)n);
    }
}

void qs_overlap_rank(const qs_goldset *set, const char *question, int64_t k, int64_t *best, double *scores)
{
    score_snippets(set, question, scores);
    for (int64_t n = 0; n < k; n++) {
        best[n] = 0;
        for (int64_t i = 1; i < set->n_snippets; i++)
            if (scores[i] > scores[best[n]]) best[n] = i;
        scores[best[n]] = -1.0;
    }
}
