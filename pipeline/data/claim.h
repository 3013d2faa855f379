/* Claims: short texts compared by what they say, not by how they are spelled (qa_acc; docs/answers.md).
 *
 * Canonical form: NFKC, case folded; letters and digits make words, everything else parts them, except a point or comma
 * between digits (a comma then becomes a point), and percent and degree signs and slashes, which are words; a digit
 * next to a letter parts words ("44bar" = "44 bar"); units and the numbers up to twelve have one spelling each, from a
 * table. */
#ifndef QS_DATA_CLAIM_H
#define QS_DATA_CLAIM_H

#include <stdbool.h>

#include "base/error.h"

/* " word word ", to be freed with qs_mem_free; QS_E_INPUT when text is not UTF-8. */
QS_MUST_CHECK qs_err qs_claim_canonical(char **out, const char *text);

/* Whether `text` holds `claim` as whole words, one after another. An empty claim is held by nothing. */
QS_MUST_CHECK qs_err qs_claim_holds(const char *text, const char *claim, bool *holds);

#endif
