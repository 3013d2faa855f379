#include "metric/raced.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* ---- artifacts ---- */

qs_err qs_raced_put(qs_artifact *artifact, const qs_raced *raced)
{
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_int(artifact, "/race/@n_windows", raced->n_windows));
    QS_TRY(qs_artifact_put_int(artifact, "/race/@n_windows_all", raced->n_windows_all));
    QS_TRY(qs_artifact_put_text(artifact, "/race/@decision", qs_race_decision_name(raced->decision)));
    QS_TRY(qs_artifact_put_text(artifact, "/race/@missed", raced->missed));
    QS_TRY(qs_artifact_put_real(artifact, "/race/@error", qs_race_error));
    QS_TRY(qs_artifact_put_text(artifact, "/race/@tokens", qs_digest_format(text, raced->tokens)));
    QS_TRY(qs_artifact_put_text(artifact, "/race/@rules", qs_digest_format(text, raced->rules)));
out:
    return err;
}

static qs_err get_digest(const qs_artifact *artifact, const char *path, qs_digest *digest)
{
    char text[2 * QS_DIGEST_TEXT_BYTES];
    qs_err err = qs_artifact_get_text(artifact, path, text, sizeof text);
    if (err != QS_OK || qs_digest_parse(digest, text)) return err;
    return qs_fail(QS_E_INPUT, "read %s: not a digest; re-run %s", path, qs_artifact_kind_stage(QS_KIND_EVAL));
}

static qs_err get_decision(const qs_artifact *artifact, qs_race_decision *decision)
{
    char text[16];
    qs_err err = qs_artifact_get_text(artifact, "/race/@decision", text, sizeof text);
    if (err != QS_OK) return err;
    for (*decision = QS_RACE_OPEN; *decision <= QS_RACE_DROPPED; (*decision)++)
        if (strcmp(text, qs_race_decision_name(*decision)) == 0) return QS_OK;
    return qs_fail(QS_E_INPUT, "read /race: \"%s\" is no decision; re-run %s", text,
                   qs_artifact_kind_stage(QS_KIND_EVAL));
}

qs_err qs_raced_get(const qs_artifact *artifact, qs_raced *out)
{
    qs_err err;
    *out = (qs_raced){0};
    if (!qs_artifact_has(artifact, "/race/@n_windows")) return QS_OK;
    out->raced = true;
    QS_TRY(qs_artifact_get_int(artifact, "/race/@n_windows", &out->n_windows));
    QS_TRY(qs_artifact_get_int(artifact, "/race/@n_windows_all", &out->n_windows_all));
    QS_TRY(get_decision(artifact, &out->decision));
    QS_TRY(qs_artifact_get_text(artifact, "/race/@missed", out->missed, sizeof out->missed));
    QS_TRY(get_digest(artifact, "/race/@tokens", &out->tokens));
    QS_TRY(get_digest(artifact, "/race/@rules", &out->rules));
    if (out->n_windows < 1 || out->n_windows > out->n_windows_all)
        err = qs_fail(QS_E_INPUT, "read /race: %lld windows of %lld; re-run %s", (long long)out->n_windows,
                      (long long)out->n_windows_all, qs_artifact_kind_stage(QS_KIND_EVAL));
out:
    return err;
}

bool qs_raced_is_partial(const qs_raced *raced) { return raced->raced && raced->n_windows < raced->n_windows_all; }

/* ---- parts ---- */

static int compare_windows(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

qs_err qs_raced_part_make(qs_raced_part *out, const qs_windows *windows, const qs_token_scores *scores,
                          const qs_token_scores *reference, const int64_t *order, int64_t n)
{
    int64_t *which = NULL;
    qs_err err;
    *out = (qs_raced_part){0};
    QS_TRY(QS_NEW(which, n, "windows of a race"));
    memcpy(which, order, (size_t)n * sizeof *which);
    qsort(which, (size_t)n, sizeof *which, compare_windows);
    QS_TRY(qs_windows_pick(&out->windows, windows, which, n));
    if (scores != NULL) QS_TRY(qs_token_scores_pick(&out->scores, scores, windows->n_scored, which, n));
    if (reference != NULL) QS_TRY(qs_token_scores_pick(&out->reference, reference, windows->n_scored, which, n));
out:
    qs_mem_free(which);
    return err;
}

void qs_raced_part_free(qs_raced_part *part)
{
    qs_windows_free(&part->windows);
    qs_token_scores_free(&part->scores);
    qs_token_scores_free(&part->reference);
}
