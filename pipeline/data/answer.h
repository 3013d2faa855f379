/* Reading the answers that prompt.h asks for: strictly, as a program that uses them would. */
#ifndef QS_DATA_ANSWER_H
#define QS_DATA_ANSWER_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Strings are borrowed from `root`. */
typedef struct qs_answer {
    const char *text;
    int64_t n_citations;
    json_t *root;
} qs_answer;

/* True when text is one JSON object with exactly the members "answer", a string, and "citations", an array of objects
 * with exactly the member "snippet_id", a string; no member twice, nothing behind it but blanks. To be freed with
 * qs_answer_free in any case. */
bool qs_answer_parse(qs_answer *out, const char *text);
const char *qs_answer_citation(const qs_answer *answer, int64_t i); /* 0 <= i < n_citations */
void qs_answer_free(qs_answer *answer);

#endif
