/* What the writer (quant_writer.c) and the reader (quant_file.c) of quant artifacts share. */
#ifndef QS_QUANT_QUANT_FILE_IMPL_H
#define QS_QUANT_QUANT_FILE_IMPL_H

#include <inttypes.h>
#include <stdio.h>

#include "quant/quant_file.h"

enum { QS_QUANT_NODE_BYTES = 96 };

/* Where a leaf of a matrix or vector lies; the head belongs to no layer. */
static inline void qs_quant_node_path(char path[QS_QUANT_NODE_BYTES], int64_t layer, int role, const char *leaf)
{
    if (role == QS_ROLE_HEAD) (void)snprintf(path, QS_QUANT_NODE_BYTES, "%s/%s", QS_QUANT_HEAD, leaf);
    else
        (void)snprintf(path, QS_QUANT_NODE_BYTES, "/layers/%" PRId64 "/%s/%s", layer, qs_role_name((qs_role)role),
                       leaf);
}

#endif
