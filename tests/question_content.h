/* What questions leave in the eval artifacts of the tests: answers, states, the probe, fixes, long texts and
 * times, of any number of items and by rules that can be followed by hand. */
#ifndef QS_TESTS_QUESTION_CONTENT_H
#define QS_TESTS_QUESTION_CONTENT_H

#include <math.h>

#include "base/mem.h"
#include "metric/lines.h"
#include "metric/probe.h"
#include "metric/semantics.h"
#include "metric/wording_entropy.h"
#include "tests/eval_content.h"

enum { Q_SNIPPETS = 8, Q_K = 2, Q_LONG_TEXTS = 2, Q_LONG_STEPS = 16, Q_ANSWER_STEPS = 8, Q_LINE_BYTES = 160 };

/* How far a configuration is from the reference: 0 to 4. */
static inline int q_harm(const eval_spec *s)
{
    return s->bits == 0 ? 0 : s->bits == 2 ? 4 : s->bits == 3 ? 2 : 1;
}

/* Every fifth item has no anchor; of the others the reference converges but for one run of every third item,
 * and the more a configuration is harmed, the more runs leave that state. */
static inline int32_t q_state(const eval_spec *s, int64_t item, int64_t run)
{
    if (item % 5 == 4) return -1;
    if ((item * 7 + run * 3) % 12 < q_harm(s)) return (int32_t)(1 + (item + run) % 3);
    return item % 3 == 2 && run == 5 ? QS_LAMBDA_RECURSIVE : QS_LAMBDA_CONVERGENT;
}

typedef struct q_lines {
    char (*lines)[Q_LINE_BYTES];
} q_lines;
static inline const char *q_line(const void *context, int64_t i)
{
    return ((const q_lines *)context)->lines[i];
}

/* Lines made by printf with the index. */
static inline qs_err q_put_lines(qs_artifact *a, const char *path, int64_t n,
                                 void (*make)(char *line, int64_t i))
{
    q_lines all = {0};
    qs_err err = QS_NEW(all.lines, n, "lines");
    for (int64_t i = 0; i < n && err == QS_OK; i++) make(all.lines[i], i);
    if (err == QS_OK) err = qs_lines_put(a, path, n, q_line, &all);
    qs_mem_free(all.lines);
    return err;
}

/* The second item's name is what no page may take for its own. */
static inline void q_qid(char *line, int64_t i)
{
    (void)snprintf(line, Q_LINE_BYTES, i == 1 ? "Q-%03lld</td><script>alert(\"x\")</script>" : "Q-%03lld",
                   (long long)i);
}
static inline void q_question(char *line, int64_t i)
{
    (void)snprintf(line, Q_LINE_BYTES, "What is %lld, in wording %lld?", (long long)(i / QS_WORDINGS),
                   (long long)(i % QS_WORDINGS));
}
static inline void q_snippet(char *line, int64_t i)
{
    (void)snprintf(line, Q_LINE_BYTES,
                   "{\"snippet_id\":\"S%lld\",\"section_id\":\"C%lld\",\"source_url\":\"u\",\"header\":\"h\","
                   "\"start\":%lld,\"end\":%lld,"
                   "\"tokens\":9,\"rev\":\"1\"}",
                   (long long)i, (long long)(i / 2), (long long)(i % 2 * 50), (long long)(i % 2 * 50 + 50));
}
static inline void q_answer(char *line, int64_t i)
{
    (void)snprintf(line, Q_LINE_BYTES, "{\"answer\":\"=%lld\",\"citations\":[{\"snippet_id\":\"S%lld\"}]}",
                   (long long)i, (long long)(i % Q_SNIPPETS));
}

static inline qs_err q_put_states(qs_artifact *a, const eval_spec *s)
{
    int64_t n = s->n_items;
    qs_semantic_row *rows = NULL;
    int32_t *states = NULL, *probe = NULL;
    qs_err err;
    QS_TRY(QS_NEW(rows, n * QS_WORDINGS, "rows"));
    QS_TRY(QS_NEW(states, n * QS_LAMBDA_RUNS, "states"));
    QS_TRY(QS_NEW(probe, s->n_probed * QS_PROBE_CELLS, "states"));
    for (int64_t i = 0; i < n * QS_LAMBDA_RUNS; i++)
        states[i] = q_state(s, i / QS_LAMBDA_RUNS, i % QS_LAMBDA_RUNS);
    for (int64_t i = 0; i < s->n_probed * QS_PROBE_CELLS; i++)
        probe[i] = q_state(s, i / QS_PROBE_CELLS, i % QS_PROBE_HEADERS);
    QS_TRY(q_put_lines(a, "/qa/qids", n, q_qid));
    QS_TRY(qs_artifact_put(a, "/semantic/rows", QS_F64, 2, (int64_t[]){n * QS_WORDINGS, QS_SEMANTIC_COLUMNS},
                           rows));
    QS_TRY(qs_artifact_put(a, "/semantic/lambda", QS_I32, 2, (int64_t[]){n, QS_LAMBDA_RUNS}, states));
    if (s->n_probed > 0)
        QS_TRY(qs_artifact_put(a, "/probe/states", QS_I32, 3,
                               (int64_t[]){s->n_probed, QS_PROBE_KS, QS_PROBE_HEADERS}, probe));
out:
    qs_mem_free(rows);
    qs_mem_free(states);
    qs_mem_free(probe);
    return err;
}

static inline qs_err q_put_metric(qs_artifact *a, const char *name, double value, double half, int64_t n)
{
    return qs_metric_put(a, qs_metric_find(name), &(qs_estimate){value, value - half, value + half, n});
}

static inline qs_err q_put_metrics(qs_artifact *a, const eval_spec *s)
{
    double harm = q_harm(s);
    qs_err err;
    QS_TRY(q_put_metric(a, "lambda_conv", 0.9 - 0.1 * harm, 0.05, s->n_items));
    QS_TRY(q_put_metric(a, "anchor_gap", 0.3 - 0.0625 * harm, 0.02, s->n_items));
    if (s->bits == 0) goto out;
    QS_TRY(q_put_metric(a, "lambda_agree", 1 - 0.1 * harm, 0.05, s->n_items));
    QS_TRY(q_put_metric(a, "cov_cited", 0.9 - 0.1 * harm, 0.05, s->n_items));
    QS_TRY(q_put_metric(a, "entropy_stable", s->bits > 2, 0, Q_LONG_TEXTS));
    QS_TRY(q_put_metric(a, "entropy_paraphrase_2", q_harm(s) < 2, 0, s->n_items));
    QS_TRY(q_put_metric(a, "mttf", 64 - 8 * harm, 0, Q_LONG_TEXTS));
out:
    return err;
}

static inline qs_err q_put_answers(qs_artifact *a, const eval_spec *s)
{
    int64_t n_runs = s->n_items * QS_RUNS_PER_ITEM, n_prompts = s->n_items * QS_WORDINGS,
            n_hits = n_prompts * QS_POOL;
    qs_answer_row *rows = NULL;
    double *coverage = NULL, *scores = NULL;
    int64_t *ranked = NULL;
    int32_t *ranks = NULL;
    qs_err err;
    QS_TRY(QS_NEW(rows, n_runs, "answers"));
    QS_TRY(QS_NEW(coverage, n_runs, "coverage"));
    QS_TRY(QS_NEW(ranked, n_prompts * Q_K, "ranked"));
    QS_TRY(QS_NEW(ranks, n_hits * 4, "ranks"));
    QS_TRY(QS_NEW(scores, n_hits * 4, "scores"));
    for (int64_t i = 0; i < n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        rows[i] = (qs_answer_row){.item = (int32_t)run.item,
                                  .wording = (int32_t)run.wording,
                                  .seed = run.seed,
                                  .n_prompt = 50,
                                  .n_tokens = 9,
                                  .json_ok = 1,
                                  .n_citations = 1,
                                  .n_known = 1,
                                  .selected = (int32_t)(i % Q_SNIPPETS),
                                  .anchored = 1,
                                  .correct = i % 3 != 0};
        coverage[i] = run.item % 5 == 4 ? NAN : 0.5;
    }
    for (int64_t i = 0; i < n_prompts * Q_K; i++) ranked[i] = i % Q_SNIPPETS;
    for (int64_t i = 0; i < n_hits; i++)
        for (int j = 0; j < 4; j++)
            ranks[i * 4 + j] = i % QS_POOL < Q_K ? (int32_t)(j == 0 ? i % Q_SNIPPETS : i % QS_POOL + 1) : -1;
    QS_TRY(qs_artifact_put_int(a, "/qa/@k", Q_K));
    QS_TRY(q_put_lines(a, "/qa/questions", n_prompts, q_question));
    QS_TRY(q_put_lines(a, "/qa/snippets", Q_SNIPPETS, q_snippet));
    QS_TRY(qs_artifact_put(a, "/answers/ranks", QS_I32, 3, (int64_t[]){n_prompts, QS_POOL, 4}, ranks));
    QS_TRY(qs_artifact_put(a, "/answers/scores", QS_F64, 3, (int64_t[]){n_prompts, QS_POOL, 4}, scores));
    QS_TRY(qs_artifact_put(a, "/answers/ranked", QS_I64, 2, (int64_t[]){n_prompts, Q_K}, ranked));
    QS_TRY(qs_artifact_put(a, "/answers/runs", QS_I32, 2, (int64_t[]){n_runs, QS_ANSWER_COLUMNS}, rows));
    QS_TRY(qs_artifact_put(a, "/answers/coverage", QS_F64, 1, &n_runs, coverage));
    QS_TRY(q_put_lines(a, "/answers/texts", n_runs, q_answer));
    int64_t n = s->n_probed * QS_PROBE_CELLS;
    if (n > 0) QS_TRY(qs_artifact_put(a, "/probe/runs", QS_I32, 2, (int64_t[]){n, QS_ANSWER_COLUMNS}, rows));
    if (n > 0) QS_TRY(q_put_lines(a, "/probe/texts", n, q_answer));
out:
    qs_mem_free(rows);
    qs_mem_free(coverage);
    qs_mem_free(ranked);
    qs_mem_free(ranks);
    qs_mem_free(scores);
    return err;
}

/* header-lock mends citations and nothing else changes; rerank mends them too and costs convergence. */
static inline qs_err q_put_fixes(qs_artifact *a, const eval_spec *s)
{
    double cited = 0.9 - 0.1 * q_harm(s), conv = cited;
    const struct {
        const char *path;
        double value;
    } rows[] = {{"/fixes/header-lock/cov_cited/@value", cited + 0.15},
                {"/fixes/header-lock/lambda_conv/@value", conv},
                {"/fixes/rerank/cov_cited/@value", cited + 0.1},
                {"/fixes/rerank/lambda_conv/@value", conv - 0.25}};
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows && err == QS_OK && s->bits > 0; i++)
        err = qs_artifact_put_real(a, rows[i].path, rows[i].value);
    return err;
}

static inline qs_err q_put_long_texts(qs_artifact *a, const eval_spec *s)
{
    const int64_t dims[] = {Q_LONG_TEXTS, Q_LONG_STEPS}, windows[] = {EVAL_WINDOWS, EVAL_SCORED};
    int32_t tokens[Q_LONG_TEXTS * Q_LONG_STEPS];
    float entropy[Q_LONG_TEXTS * Q_LONG_STEPS], kld[Q_LONG_TEXTS * Q_LONG_STEPS],
        text[EVAL_WINDOWS * EVAL_SCORED];
    qs_err err;
    for (int i = 0; i < Q_LONG_TEXTS * Q_LONG_STEPS; i++) {
        tokens[i] = i;
        entropy[i] = 2.0f + 0.25f * (float)(i % 4) + 0.125f * (float)q_harm(s);
        kld[i] = 0.0078125f * (float)q_harm(s);
    }
    for (int i = 0; i < EVAL_WINDOWS * EVAL_SCORED; i++) text[i] = 3.0f - 0.25f * (float)(i % EVAL_SCORED);
    QS_TRY(q_put_lines(a, "/longform/qids", Q_LONG_TEXTS, q_qid));
    QS_TRY(qs_artifact_put(a, "/tokens/entropy", QS_F32, 2, windows, text));
    QS_TRY(qs_artifact_put(a, "/longform/tokens", QS_I32, 2, dims, tokens));
    QS_TRY(qs_artifact_put(a, "/longform/entropy", QS_F32, 2, dims, entropy));
    if (s->bits > 0) QS_TRY(qs_artifact_put(a, "/longform/kld", QS_F32, 2, dims, kld));
    if (s->bits > 0) QS_TRY(qs_artifact_put(a, "/longform/free_entropy", QS_F32, 2, dims, entropy));
out:
    return err;
}

/* Answers of 8 tokens, of the second question 5; along the second paraphrase harm adds to entropy. */
static inline qs_err q_put_wordings(qs_artifact *a, const eval_spec *s)
{
    int64_t n = s->n_items * QS_WORDINGS;
    qs_wordings w = {.n_prompts = n, .n_steps = Q_ANSWER_STEPS};
    int32_t *stable = NULL;
    qs_err err;
    QS_TRY(QS_NEW(w.tokens, n * Q_ANSWER_STEPS, "answers"));
    QS_TRY(QS_NEW(w.entropy, n * Q_ANSWER_STEPS, "entropies"));
    QS_TRY(QS_NEW(stable, n, "verdicts"));
    for (int64_t i = 0; i < n * Q_ANSWER_STEPS; i++) {
        int64_t prompt = i / Q_ANSWER_STEPS, t = i % Q_ANSWER_STEPS;
        bool there = prompt / QS_WORDINGS != 1 || t < 5;
        w.tokens[i] = there ? (int32_t)t : -1;
        w.entropy[i] = there ? 1.0f + 0.125f * (float)t +
                                   (prompt % QS_WORDINGS == 2 ? 0.25f * (float)q_harm(s) : 0.0f)
                             : NAN;
        stable[prompt] = prompt % QS_WORDINGS != 2 || q_harm(s) < 2;
    }
    QS_TRY(qs_wordings_put(a, &w, s->bits > 0 ? stable : NULL));
out:
    qs_wordings_free(&w);
    qs_mem_free(stable);
    return err;
}

/* 21 tokens from 1 ms below the median to 1 ms above it. */
static inline qs_err q_put_times(qs_artifact *a, const eval_spec *s)
{
    enum { N = 21 };
    double ms[N];
    for (int i = 0; i < N; i++) ms[i] = s->decode_ms.value + 0.1 * (i - N / 2);
    return qs_artifact_put(a, "/timing/decode_ms", QS_F64, 1, &(int64_t){N}, ms);
}

/* States alone: as many items as one likes. */
static inline qs_err q_put_many(qs_artifact *a, const eval_spec *s)
{
    qs_err err = q_put_states(a, s);
    return err != QS_OK ? err : q_put_metrics(a, s);
}

static inline qs_err q_put_all(qs_artifact *a, const eval_spec *s)
{
    qs_err err;
    QS_TRY(q_put_many(a, s));
    QS_TRY(q_put_answers(a, s));
    QS_TRY(q_put_fixes(a, s));
    QS_TRY(q_put_long_texts(a, s));
    QS_TRY(q_put_wordings(a, s));
    QS_TRY(q_put_times(a, s));
out:
    return err;
}

#endif
