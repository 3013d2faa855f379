/* Do two tokenizers give the same tokens? Their digests tell when they are made alike; a tokenizer.json and a GGUF
 * vocabulary of one model are not, so they are tried on text. */
#ifndef QS_MODEL_TOKENIZER_COMPARE_H
#define QS_MODEL_TOKENIZER_COMPARE_H

#include "model/tokenizer.h"

enum { QS_TOKENIZER_DIFFERENCE_BYTES = 192 };

/* difference is "" when b does as a on a built-in text and on text[0..bytes) (NULL = none), else a phrase. */
QS_MUST_CHECK qs_err qs_tokenizer_compare(const qs_tokenizer *a, const qs_tokenizer *b, const char *text, size_t bytes,
                                          char difference[QS_TOKENIZER_DIFFERENCE_BYTES]);

#endif
