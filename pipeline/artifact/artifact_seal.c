/* What ends a writer: parents, provenance, digest, seal, publication. */
#include <string.h>

#include "artifact/artifact_impl.h"
#include "artifact/failure.h"
#include "base/args.h"

qs_err qs_artifact_add_parent(qs_artifact *artifact, const char *role, const char *name, qs_digest digest)
{
    char path[QS_PATH_BYTES], hex[QS_DIGEST_TEXT_BYTES];
    const qs_schema_row *row;
    qs_err err = qs_path_format(path, "/parents/@%s", role);
    if (err == QS_OK) err = qs_writer_check(artifact, path, QS_CELL_TEXT, &row);
    if (err == QS_OK) err = qs_writer_put_text(artifact, path, qs_digest_format(hex, digest));
    /* The name may change while the content stays, so it is no part of the identity. */
    if (err == QS_OK) err = qs_path_format(path, "/provenance/parents/@%s", role);
    if (err == QS_OK) err = qs_writer_put_text(artifact, path, name);
    return err;
}

qs_err qs_artifact_set_command(qs_artifact *artifact, int argc, char *const *argv)
{
    if (!artifact->writing)
        return qs_fail(QS_E_INPUT, "set the command of %s: it is open for reading", artifact->path);
    qs_provenance_quote(artifact->command, sizeof artifact->command, argc, argv);
    return QS_OK;
}

/* The stage may have put any of these itself. */
static qs_err put_text_once(qs_artifact *artifact, const char *path, const char *value)
{
    return qs_artifact_has(artifact, path) ? QS_OK : qs_artifact_put_text(artifact, path, value);
}

static qs_err put_provenance(qs_artifact *artifact)
{
    qs_provenance facts;
    qs_provenance_collect(&facts);
    qs_err err = put_text_once(artifact, "/provenance/@created", facts.created);
    if (err == QS_OK) err = put_text_once(artifact, "/provenance/@host", facts.host);
    if (err == QS_OK) err = put_text_once(artifact, "/provenance/@cpu", facts.cpu);
    if (err == QS_OK) err = put_text_once(artifact, "/provenance/@version", QS_VERSION);
    if (err == QS_OK && artifact->command[0] != '\0')
        err = put_text_once(artifact, "/provenance/@command", artifact->command);
    if (err == QS_OK && !qs_artifact_has(artifact, "/provenance/@n_threads"))
        err = qs_artifact_put_int(artifact, "/provenance/@n_threads", facts.n_threads);
    return err;
}

static qs_err put_seal(qs_artifact *artifact, qs_digest digest)
{
    char hex[QS_DIGEST_TEXT_BYTES];
    const int64_t version = QS_SCHEMA_VERSION, complete = 1;
    hid_t root = H5Gopen2(artifact->file, "/", H5P_DEFAULT), i64 = artifact->types[QS_I64];
    if (root < 0) return qs_h5_fail(artifact, "open", "the root");
    qs_err err = qs_h5_write_text(artifact, root, "/@kind", "kind", qs_artifact_kind_name(artifact->kind));
    if (err == QS_OK)
        err = qs_h5_write_attribute(artifact, root, "/@schema_version", "schema_version", i64, &version);
    if (err == QS_OK)
        err = qs_h5_write_text(artifact, root, "/@digest", "digest", qs_digest_format(hex, digest));
    if (err == QS_OK) err = qs_h5_write_attribute(artifact, root, "/@complete", "complete", i64, &complete);
    if (H5Gclose(root) < 0 && err == QS_OK) err = qs_h5_fail(artifact, "close", "the root");
    return err;
}

qs_err qs_artifact_seal(qs_artifact *artifact, qs_digest *out_digest)
{
    qs_h5_quiet();
    qs_err err = QS_OK;
    qs_digest digest = {0};
    const qs_stream *pending = artifact->streams;
    if (!artifact->writing) {
        err = qs_fail(QS_E_INPUT, "seal %s: it is open for reading", artifact->path);
    } else if (pending != NULL) {
        err = qs_fail(QS_E_INPUT, "seal %s: %s has %lld of its %lld rows", artifact->path, pending->path,
                      (long long)pending->n_rows_done, (long long)pending->info.dims[0]);
    }
    if (err != QS_OK) goto out;
    QS_TRY(put_provenance(artifact));
    QS_TRY(qs_manifest_digest(&artifact->manifest, artifact->kind, QS_SCHEMA_VERSION, &digest));
    QS_TRY(put_seal(artifact, digest));
    hid_t file = artifact->file;
    artifact->file = H5I_INVALID_HID;
    if (H5Fclose(file) < 0) { /* a full disk shows here at the latest */
        err = qs_h5_fail(artifact, "close", "the file");
        goto out;
    }
    QS_TRY(qs_part_publish(&artifact->part));
    qs_failure_clear(artifact->path);
    if (out_digest != NULL) *out_digest = digest;
out:
    qs_artifact_abort(artifact);
    return err;
}
