/* Terms of a text, for lexical retrieval: runs of word characters (\w of UTS 18) of its NFKC case-folded form. */
#ifndef QS_RAG_TERMS_H
#define QS_RAG_TERMS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Walks the terms: start, then next until it gives false, then end. */
typedef struct qs_terms {
    char *folded;     /* owned */
    const char *next; /* into it */
    const char *term; /* the current term, not NUL-terminated */
    size_t bytes;
} qs_terms;

/* QS_E_INPUT for a text that is not UTF-8. After a failure end may be called and does nothing. */
QS_MUST_CHECK qs_err qs_terms_start(qs_terms *terms, const char *text);
bool qs_terms_next(qs_terms *terms);
void qs_terms_end(qs_terms *terms);

#endif
