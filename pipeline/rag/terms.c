#include "rag/terms.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "model/unicode.h"

qs_err qs_terms_start(qs_terms *terms, const char *text)
{
    *terms = (qs_terms){0};
    size_t bytes = strlen(text), valid = qs_utf8_valid_prefix(text, bytes);
    if (valid != bytes) return qs_fail(QS_E_INPUT, "split text: byte %zu is not UTF-8", valid);
    terms->folded = (char *)utf8proc_NFKC_Casefold((const utf8proc_uint8_t *)text);
    if (terms->folded == NULL) return qs_fail(QS_E_RESOURCE, "split text: no memory for %zu bytes", bytes);
    terms->next = terms->folded;
    return QS_OK;
}

/* The character at text and whether it belongs to a term; the folded form is valid by construction. */
static bool word_at(const char *text, size_t *bytes)
{
    uint32_t code;
    *bytes = qs_utf8_decode(text, qs_utf8_length(text), &code);
    return qs_unicode_is_word(code);
}

bool qs_terms_next(qs_terms *terms)
{
    const char *at = terms->next;
    size_t bytes;
    while (*at != '\0' && !word_at(at, &bytes)) at += bytes;
    terms->term = at;
    while (*at != '\0' && word_at(at, &bytes)) at += bytes;
    terms->bytes = (size_t)(at - terms->term);
    terms->next = at;
    return terms->bytes > 0;
}

void qs_terms_end(qs_terms *terms)
{
    free(terms->folded);
    *terms = (qs_terms){0};
}
