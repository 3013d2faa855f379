/* Where an artifact comes from: facts of the run, stored under /provenance and outside the digest. */
#ifndef QS_ARTIFACT_PROVENANCE_H
#define QS_ARTIFACT_PROVENANCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

enum { QS_PROVENANCE_TEXT_BYTES = 256, QS_COMMAND_BYTES = 32768 };

typedef struct qs_provenance {
    char created[QS_CLOCK_TEXT_BYTES];
    char host[QS_PROVENANCE_TEXT_BYTES];
    char cpu[QS_PROVENANCE_TEXT_BYTES]; /* model name, or "unknown" */
    int64_t n_threads;                  /* OpenMP's setting */
} qs_provenance;

void qs_provenance_collect(qs_provenance *out);

/* The command line, quoted so that a shell reads it back; cut with "..." when it does not fit. */
void qs_provenance_quote(char *text, size_t bytes, int argc, char *const *argv);

#endif
