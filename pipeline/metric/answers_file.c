/* Answers in eval artifacts. Texts are stored as lines: an answer ends where its line does. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metric/answers.h"
#include "metric/lines.h"

const char *const qs_answer_columns[QS_ANSWER_COLUMNS] = {
    "item",      "wording",  "seed",      "n_prompt", "n_tokens", "stop",    "json_ok",
    "n_citations", "n_known", "n_correct", "selected", "anchored", "correct", "refused"};

/* ---- writing ---- */

static const char *qid_of(const void *context, int64_t i) { return ((const qs_questions *)context)->set.items[i].qid; }

static const char *question_of(const void *context, int64_t i) { return qs_questions_text(context, i); }

static const char *line_of(const void *context, int64_t i) { return ((char *const *)context)[i]; }

static const char *text_of(const void *context, int64_t i) { return ((const qs_answers *)context)->texts[i]; }

static char *describe(const qs_gold_snippet *s)
{
    json_t *line = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:s}", "snippet_id", s->id, "section_id", s->section,
                             "source_url", s->source_url, "header", s->header, "start", (json_int_t)s->start, "end",
                             (json_int_t)s->end, "tokens", (json_int_t)s->n_tokens, "rev", s->rev);
    char *text = line != NULL ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    return text;
}

/* What a trace says of snippets (checklist G9, G15); their texts stay in the corpus. */
static qs_err put_snippets(qs_artifact *artifact, const qs_goldset *set)
{
    char **lines = NULL;
    qs_err err;
    QS_TRY(QS_NEW(lines, set->n_snippets, "snippets"));
    for (int64_t i = 0; i < set->n_snippets; i++) {
        lines[i] = describe(&set->snippets[i]);
        if (lines[i] != NULL) continue;
        err = qs_fail(QS_E_RESOURCE, "describe snippets: out of memory");
        goto out;
    }
    QS_TRY(qs_lines_put(artifact, "/qa/snippets", set->n_snippets, line_of, lines));
out:
    for (int64_t i = 0; lines != NULL && i < set->n_snippets; i++) free(lines[i]);
    qs_mem_free((void *)lines);
    return err;
}

static qs_err put_questions(qs_artifact *artifact, const qs_questions *q)
{
    qs_err err;
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@n_items", q->n_items));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@k", q->options.k));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@rerank", q->options.rerank));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@n_tokens_max", qs_questions_tokens_max(q)));
    QS_TRY(qs_artifact_put_text(artifact, "/qa/@headers", qs_headers_name(q->serving.headers)));
    QS_TRY(qs_artifact_put_real(artifact, "/qa/@temperature", q->serving.temperature));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@n_long_tokens", q->options.n_long_tokens));
    QS_TRY(qs_artifact_put_int(artifact, "/qa/@instruct", q->options.instruct));
    if (q->chat.row != NULL) QS_TRY(qs_artifact_put_text(artifact, "/qa/@chat", q->chat.row->name));
    QS_TRY(qs_lines_put(artifact, "/qa/qids", q->n_items, qid_of, q));
    QS_TRY(qs_lines_put(artifact, "/qa/questions", q->n_prompts, question_of, q));
    QS_TRY(put_snippets(artifact, &q->set));
out:
    return err;
}

/* Of each hit: snippet, place in the pool, ranks by BM25 and by the encoder; -1 behind the last. And what they rest on:
 * score, BM25, cosine, fused. */
enum { N_RANKS = 4, N_SCORES = 4 };

static qs_err put_rankings(qs_artifact *artifact, const qs_answers *a)
{
    int32_t *ranks = NULL;
    double *scores = NULL;
    int64_t n = a->n_prompts * QS_POOL;
    qs_err err;
    QS_TRY(QS_NEW(ranks, n * N_RANKS, "ranks"));
    QS_TRY(QS_NEW(scores, n * N_SCORES, "scores"));
    for (int64_t i = 0; i < n; i++) {
        const qs_ranking *ranking = &a->rankings[i / QS_POOL];
        const qs_hit *hit = &ranking->hits[i % QS_POOL];
        bool there = i % QS_POOL < ranking->n;
        const int32_t r[N_RANKS] = {(int32_t)hit->snippet, hit->pool_rank, hit->bm25_rank, hit->dense_rank};
        const double s[N_SCORES] = {hit->score, hit->bm25, hit->dense, hit->fused};
        for (int j = 0; j < N_RANKS; j++) ranks[i * N_RANKS + j] = there ? r[j] : -1;
        for (int j = 0; j < N_SCORES; j++) scores[i * N_SCORES + j] = there ? s[j] : 0.0;
    }
    QS_TRY(qs_artifact_put(artifact, "/answers/ranks", QS_I32, 3, (int64_t[]){a->n_prompts, QS_POOL, N_RANKS}, ranks));
    QS_TRY(qs_artifact_put(artifact, "/answers/scores", QS_F64, 3, (int64_t[]){a->n_prompts, QS_POOL, N_SCORES},
                           scores));
out:
    qs_mem_free(ranks);
    qs_mem_free(scores);
    return err;
}

qs_err qs_answers_put(qs_artifact *artifact, const qs_questions *q, const qs_answers *a)
{
    qs_err err;
    QS_TRY(put_questions(artifact, q));
    QS_TRY(put_rankings(artifact, a));
    QS_TRY(qs_artifact_put(artifact, "/answers/ranked", QS_I64, 2, (int64_t[]){a->n_prompts, a->k}, a->ranked));
    QS_TRY(qs_artifact_put(artifact, "/answers/runs", QS_I32, 2, (int64_t[]){a->n_runs, QS_ANSWER_COLUMNS}, a->rows));
    QS_TRY(qs_artifact_put(artifact, "/answers/coverage", QS_F64, 1, &a->n_runs, a->coverage));
    QS_TRY(qs_lines_put(artifact, "/answers/texts", a->n_runs, text_of, a));
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
    qs_lines lines;
    qs_err err;
    QS_TRY(qs_lines_read(&lines, artifact, "/answers/texts", out->n_runs));
    QS_TRY(QS_NEW(out->texts, out->n_runs, "answers"));
    for (int64_t i = 0; i < out->n_runs; i++) {
        size_t bytes = strlen(lines.lines[i]) + 1;
        QS_TRY(qs_mem_alloc(&out->texts[i], bytes, "answer"));
        memcpy(out->texts[i], lines.lines[i], bytes);
    }
out:
    qs_lines_free(&lines);
    return err;
}

static qs_err read_rankings(qs_answers *out, const qs_artifact *artifact)
{
    int64_t n = out->n_prompts * QS_POOL;
    int32_t *ranks = NULL;
    double *scores = NULL;
    qs_err err;
    QS_TRY(QS_NEW(out->rankings, out->n_prompts, "rankings"));
    QS_TRY(QS_NEW(ranks, n * N_RANKS, "ranks"));
    QS_TRY(QS_NEW(scores, n * N_SCORES, "scores"));
    QS_TRY(qs_artifact_read(artifact, "/answers/ranks", QS_I32, ranks, n * N_RANKS));
    QS_TRY(qs_artifact_read(artifact, "/answers/scores", QS_F64, scores, n * N_SCORES));
    for (int64_t i = 0; i < n; i++) {
        qs_ranking *ranking = &out->rankings[i / QS_POOL];
        const int32_t *r = &ranks[i * N_RANKS];
        const double *s = &scores[i * N_SCORES];
        if (r[0] < 0) continue;
        ranking->hits[ranking->n++] = (qs_hit){.snippet = r[0], .pool_rank = r[1], .bm25_rank = r[2],
                                               .dense_rank = r[3], .score = s[0], .bm25 = s[1], .dense = s[2],
                                               .fused = s[3]};
    }
out:
    qs_mem_free(ranks);
    qs_mem_free(scores);
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
    QS_TRY(read_rankings(out, artifact));
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
