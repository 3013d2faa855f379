#include "backend/backend_record.h"

#include "backend/clocks.h"

qs_err qs_backend_record_clocks(qs_artifact *artifact, const char *path, const qs_backend *backend, int64_t device)
{
    char text[QS_CLOCKS_TEXT_BYTES];
    if (!qs_backend_has_device(backend) || !qs_clocks_read(text, device)) return QS_OK;
    return qs_artifact_put_text(artifact, path, text);
}

qs_err qs_backend_record(qs_artifact *artifact, const qs_backend *backend, int64_t device)
{
    qs_err err;
    QS_TRY(qs_artifact_put_text(artifact, "/provenance/@backend", qs_backend_name(backend)));
    QS_TRY(qs_artifact_put_text(artifact, "/provenance/@device", qs_backend_device(backend)));
    QS_TRY(qs_artifact_put_text(artifact, "/provenance/@kernels", qs_backend_describe(backend)));
    QS_TRY(qs_backend_record_clocks(artifact, "/provenance/@clocks", backend, device));
out:
    return err;
}
