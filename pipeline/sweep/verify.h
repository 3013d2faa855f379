/* Looking through a sweep's directory for what is broken, as fsck does for a file system. */
#ifndef QS_SWEEP_VERIFY_H
#define QS_SWEEP_VERIFY_H

#include "artifact/schema.h"
#include "base/file.h"

typedef struct qs_bad_artifact {
    char path[QS_PATH_BYTES];
    qs_artifact_kind kind; /* by its name */
    char cause[QS_ERROR_TEXT_BYTES];
} qs_bad_artifact;

typedef struct qs_verification {
    int64_t n_artifacts, n_bad, n_removed,
        n_written;        /* removed: stale parts; written: parts of live processes */
    qs_bad_artifact *bad; /* [n_bad] */
    char sweep[4096];     /* the call that made the directory (".sweep"); "" = not known */
} qs_verification;

/* Opens every "*.h5" of `dir`, recomputes all digests and holds its kind against its name; removes stale
 * parts unless keep_parts. What is bad stays where it is. QS_E_INPUT when `dir` cannot be read. */
QS_MUST_CHECK qs_err qs_verify_dir(qs_verification *out, const char *dir, bool keep_parts);
void qs_verification_free(qs_verification *verification);

#endif
