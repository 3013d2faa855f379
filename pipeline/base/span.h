/* A stretch of a text. */
#ifndef QS_BASE_SPAN_H
#define QS_BASE_SPAN_H

#include <stddef.h>

typedef struct qs_span {
    size_t start, end; /* bytes; end is behind the last */
} qs_span;

#endif
