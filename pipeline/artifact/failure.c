#include "artifact/failure.h"

#include <string.h>
#include <unistd.h>

#include "artifact/schema.h"
#include "base/json.h"
#include "base/log.h"

static qs_err failure_path(char path[QS_PATH_BYTES], const char *artifact_path)
{
    size_t bytes = strlen(artifact_path);
    if (bytes < 3 || strcmp(artifact_path + bytes - 3, ".h5") != 0)
        return qs_fail(QS_E_INPUT, "record a failure of %s: the name does not end in .h5", artifact_path);
    return qs_path_format(path, "%.*s.failed", (int)(bytes - 3), artifact_path);
}

bool qs_failure_is_of_point(qs_err code)
{
    return code == QS_E_INPUT || code == QS_E_UNSUPPORTED || code == QS_E_NUMERIC;
}

qs_err qs_failure_record(const char *artifact_path, const char *id, qs_err code)
{
    char path[QS_PATH_BYTES], error[QS_ERROR_TEXT_BYTES];
    qs_file_writer writer;
    bool eval = strstr(artifact_path, ".eval.h5") != NULL;
    (void)snprintf(error, sizeof error, "%s", qs_error_text());
    qs_log_warn("%s failed, the others go on: %s", id, error);
    qs_err err = failure_path(path, artifact_path);
    if (err == QS_OK) err = qs_file_writer_open(&writer, path);
    if (err != QS_OK) return err;
    json_t *root = json_pack("{s:s, s:s, s:i, s:s}", "id", id, "stage",
                             qs_artifact_kind_stage(eval ? QS_KIND_EVAL : QS_KIND_QUANT), "status", (int)code,
                             "error", error);
    if (root == NULL || json_dumpf(root, writer.stream, JSON_INDENT(1)) != 0 ||
        fputc('\n', writer.stream) == EOF) {
        err = qs_fail(QS_E_RESOURCE, "write %s: out of memory or disk", path);
        qs_file_writer_discard(&writer);
    } else {
        err = qs_file_writer_publish(&writer);
    }
    json_decref(root);
    return err;
}

void qs_failure_clear(const char *artifact_path)
{
    char path[QS_PATH_BYTES];
    qs_error_saved saved;
    qs_error_save(&saved);
    if (failure_path(path, artifact_path) == QS_OK) (void)unlink(path);
    qs_error_restore(&saved);
}

bool qs_failure_read(qs_failure *out, const char *artifact_path)
{
    char path[QS_PATH_BYTES];
    json_t *root = NULL;
    const char *text;
    int64_t status;
    if (failure_path(path, artifact_path) != QS_OK || !qs_file_exists(path)) return false;
    bool good = qs_json_load(&root, path) == QS_OK &&
                qs_json_get_int(&status, root, "status", QS_E_USAGE, QS_E_NUMERIC, path) == QS_OK &&
                qs_json_get_string(&text, root, "error", path) == QS_OK;
    if (good) {
        out->status = (qs_err)status;
        (void)snprintf(out->error, sizeof out->error, "%s", text);
    }
    json_decref(root);
    return good;
}
