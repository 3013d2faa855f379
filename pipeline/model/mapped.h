/* A memory-mapped file that notices when somebody changes it under the map. */
#ifndef QS_MODEL_MAPPED_H
#define QS_MODEL_MAPPED_H

#include "base/file.h"

typedef struct qs_mapped {
    qs_file_map map;
    int fd;              /* -1 when closed */
    int64_t modified_ns; /* at open */
    char path[QS_PATH_BYTES];
} qs_mapped;

/* Errors as qs_file_map_open. On failure *out is closed. */
QS_MUST_CHECK qs_err qs_mapped_open(qs_mapped *out, const char *path);
void qs_mapped_close(qs_mapped *file); /* a no-op on a closed or zeroed one */

/* To be called before reading: QS_E_INPUT when the file shrank, grew or was written since it was opened. */
QS_MUST_CHECK qs_err qs_mapped_check(const qs_mapped *file);

#endif
