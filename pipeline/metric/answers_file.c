/* Answers in eval artifacts. Texts are stored as lines: an answer ends where its line does. */
#include <string.h>

#include "base/mem.h"
#include "metric/answers.h"

const char *const qs_answer_columns[QS_ANSWER_COLUMNS] = {
    "item",      "wording",  "seed",      "n_prompt", "n_tokens", "stop",    "json_ok",
    "n_citations", "n_known", "n_correct", "selected", "anchored", "correct", "refused"};

/* ---- lines ---- */

typedef const char *(*line_of)(const void *context, int64_t i);

static qs_err put_lines(qs_artifact *artifact, const char *path, int64_t n, line_of line, const void *context)
{
    char *blob = NULL, *at;
    int64_t bytes = 0;
    qs_err err;
    for (int64_t i = 0; i < n; i++) bytes += (int64_t)strlen(line(context, i)) + 1;
    QS_TRY(QS_NEW(blob, bytes, "lines"));
    at = blob;
    for (int64_t i = 0; i < n; i++) {
        size_t n_line = strlen(line(context, i));
        memcpy(at, line(context, i), n_line);
        at[n_line] = '\n';
        at += n_line + 1;
    }
    QS_TRY(qs_artifact_put(artifact, path, QS_U8, 1, &bytes, blob));
out:
    qs_mem_free(blob);
    return err;
}

qs_err qs_lines_read(const qs_artifact *artifact, const char *path, int64_t n, char **blob, char ***lines,
                     int64_t *n_lines)
{
    qs_dataset_info info;
    int64_t n_found = 0;
    qs_err err;
    *blob = NULL;
    *lines = NULL;
    QS_TRY(qs_artifact_info(artifact, path, &info));
    QS_TRY(QS_NEW(*blob, info.n + 1, "lines"));
    QS_TRY(qs_artifact_read(artifact, path, QS_U8, *blob, info.n));
    for (int64_t i = 0; i < info.n; i++) n_found += (*blob)[i] == '\n';
    if (n >= 0 && n_found != n) {
        err = qs_fail(QS_E_INPUT, "read %s: %lld lines, expected %lld; re-run %s", path, (long long)n_found,
                      (long long)n, qs_artifact_kind_stage(QS_KIND_EVAL));
        goto out;
    }
    QS_TRY(QS_NEW(*lines, n_found, "lines"));
    char *at = *blob;
    for (int64_t i = 0; i < n_found; i++) {
        char *end = strchr(at, '\n');
        if (end == NULL) { /* a NUL in between */
            err = qs_fail(QS_E_INPUT, "read %s: it holds no text; re-run %s", path,
                          qs_artifact_kind_stage(QS_KIND_EVAL));
            goto out;
        }
        *end = '\0';
        (*lines)[i] = at;
        at = end + 1;
    }
    if (n_lines != NULL) *n_lines = n_found;
out:
    if (err != QS_OK) {
        qs_mem_free(*blob);
        qs_mem_free((void *)*lines);
        *blob = NULL;
        *lines = NULL;
    }
    return err;
}

/* ---- writing ---- */

static const char *qid_of(const void *context, int64_t i) { return ((const qs_questions *)context)->set.items[i].qid; }

static const char *snippet_id_of(const void *context, int64_t i)
{
    return ((const qs_questions *)context)->set.snippets[i].id;
}

static const char *text_of(const void *context, int64_t i) { return ((const qs_answers *)context)->texts[i]; }

static qs_err put_questions(qs_artifact *artifact, const qs_questions *q)
{
    qs_err err;
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@n_items", q->n_items));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@k", q->options.k));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@n_tokens_max", q->options.n_tokens_max));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@instruct", q->options.instruct));
    QS_TRY(put_lines(artifact, "/qa/qids", q->n_items, qid_of, q));
    QS_TRY(put_lines(artifact, "/qa/snippet_ids", q->set.n_snippets, snippet_id_of, q));
out:
    return err;
}

qs_err qs_answers_put(qs_artifact *artifact, const qs_questions *q, const qs_answers *a)
{
    qs_err err;
    QS_TRY(put_questions(artifact, q));
    QS_TRY(qs_artifact_put(artifact, "/answers/ranked", QS_I64, 2, (int64_t[]){a->n_prompts, a->k}, a->ranked));
    QS_TRY(qs_artifact_put(artifact, "/answers/runs", QS_I32, 2, (int64_t[]){a->n_runs, QS_ANSWER_COLUMNS}, a->rows));
    QS_TRY(qs_artifact_put(artifact, "/answers/coverage", QS_F64, 1, &a->n_runs, a->coverage));
    QS_TRY(put_lines(artifact, "/answers/texts", a->n_runs, text_of, a));
out:
    return err;
}

/* ---- reading ---- */

static qs_err broken(const char *path)
{
    return qs_fail(QS_E_INPUT, "read %s: it has not the shape of answers; re-run %s", path,
                   qs_artifact_kind_stage(QS_KIND_EVAL));
}

static qs_err read_texts(qs_answers *out, const qs_artifact *artifact)
{
    char *blob = NULL, **lines = NULL;
    qs_err err;
    QS_TRY(qs_lines_read(artifact, "/answers/texts", out->n_runs, &blob, &lines, NULL));
    QS_TRY(QS_NEW(out->texts, out->n_runs, "answers"));
    for (int64_t i = 0; i < out->n_runs; i++) {
        size_t bytes = strlen(lines[i]) + 1;
        QS_TRY(qs_mem_alloc(&out->texts[i], bytes, "answer"));
        memcpy(out->texts[i], lines[i], bytes);
    }
out:
    qs_mem_free(blob);
    qs_mem_free((void *)lines);
    return err;
}

qs_err qs_answers_read(qs_answers *out, const qs_artifact *artifact)
{
    qs_dataset_info runs, ranked, coverage;
    qs_err err;
    *out = (qs_answers){0};
    QS_TRY(qs_artifact_info(artifact, "/answers/runs", &runs));
    QS_TRY(qs_artifact_info(artifact, "/answers/ranked", &ranked));
    QS_TRY(qs_artifact_info(artifact, "/answers/coverage", &coverage));
    if (runs.rank != 2 || runs.dims[1] != QS_ANSWER_COLUMNS || runs.dims[0] % QS_RUNS_PER_ITEM != 0 ||
        coverage.n != runs.dims[0] || ranked.rank != 2 ||
        ranked.dims[0] != runs.dims[0] / QS_RUNS_PER_ITEM * QS_WORDINGS) {
        err = broken("/answers/runs");
        goto out;
    }
    out->n_runs = runs.dims[0];
    out->n_prompts = ranked.dims[0];
    out->k = ranked.dims[1];
    QS_TRY(QS_NEW(out->rows, out->n_runs, "answers"));
    QS_TRY(QS_NEW(out->ranked, ranked.n, "ranked snippets"));
    QS_TRY(QS_NEW(out->coverage, out->n_runs, "coverage"));
    QS_TRY(qs_artifact_read(artifact, "/answers/runs", QS_I32, out->rows, runs.n));
    QS_TRY(qs_artifact_read(artifact, "/answers/ranked", QS_I64, out->ranked, ranked.n));
    QS_TRY(qs_artifact_read(artifact, "/answers/coverage", QS_F64, out->coverage, out->n_runs));
    QS_TRY(read_texts(out, artifact));
    for (int64_t i = 0; i < out->n_runs; i++)
        if (out->rows[i].item != i / QS_RUNS_PER_ITEM) {
            err = broken("/answers/runs");
            goto out;
        }
out:
    if (err != QS_OK) qs_answers_free(out);
    return err;
}
