/* Oniguruma syntax (as tokenizer.json files use it) to PCRE2 syntax. */
#ifndef QS_MODEL_PATTERN_TRANSLATE_H
#define QS_MODEL_PATTERN_TRANSLATE_H

#include "model/textbuf.h"

/* Longest expression taken, bytes. Those of real models are below 1,000. */
enum { QS_PATTERN_BYTES_MAX = 4096 };

/* Appends to `out`. Errors: QS_E_UNSUPPORTED names the construct that has no exact counterpart. */
QS_MUST_CHECK qs_err qs_pattern_translate(qs_textbuf *out, const char *source, size_t bytes,
                                          const char *name);

#endif
