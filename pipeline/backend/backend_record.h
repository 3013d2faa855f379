/* Where an artifact was computed, for the record: under /provenance, outside the content digest. */
#ifndef QS_BACKEND_BACKEND_RECORD_H
#define QS_BACKEND_BACKEND_RECORD_H

#include "artifact/artifact.h"
#include "backend/backend.h"

/* /provenance/@backend, @device, @kernels and, of a GPU whose driver tells, @clocks. `device` is the GPU's number. */
QS_MUST_CHECK qs_err qs_backend_record(qs_artifact *artifact, const qs_backend *backend, int64_t device);

/* The clocks alone, as they are now, into an attribute of that path; nothing where there is no GPU to ask. */
QS_MUST_CHECK qs_err qs_backend_record_clocks(qs_artifact *artifact, const char *path, const qs_backend *backend,
                                              int64_t device);

#endif
