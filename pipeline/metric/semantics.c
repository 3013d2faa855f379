#include "metric/semantics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "metric/coverage.h"
#include "metric/delta_s.h"

/* Answers as vectors. */
typedef struct said {
    float *vectors; /* [n_runs, dim] */
    bool *answered; /* [n_runs] parsed, and not empty */
} said;

static void said_free(said *s)
{
    qs_mem_free(s->vectors);
    qs_mem_free(s->answered);
}

qs_err qs_answers_encode(qs_encoder *encoder, char *const *lines, int64_t n, float *vectors, bool *answered)
{
    qs_answer *parsed = NULL;
    const char **texts = NULL;
    qs_err err;
    QS_TRY(QS_NEW(parsed, n, "answers"));
    QS_TRY(QS_NEW(texts, n, "answers"));
    for (int64_t i = 0; i < n; i++) {
        bool readable = qs_answer_parse(&parsed[i], lines[i]);
        texts[i] = readable ? parsed[i].text : lines[i];
        answered[i] = readable && texts[i][strspn(texts[i], " \t")] != '\0';
    }
    QS_TRY(qs_encoder_encode(encoder, texts, n, vectors));
out:
    for (int64_t i = 0; parsed != NULL && i < n; i++) qs_answer_free(&parsed[i]);
    qs_mem_free(parsed);
    qs_mem_free((void *)texts);
    return err;
}

static qs_err encode_answers(const qs_gold_frame *f, const qs_questions *q, const qs_answers *a, said *out)
{
    qs_err err;
    QS_TRY(QS_NEW(out->vectors, q->n_runs * f->dim, "vectors of answers"));
    QS_TRY(QS_NEW(out->answered, q->n_runs, "answers"));
    QS_TRY(qs_answers_encode(f->encoder, a->texts, q->n_runs, out->vectors, out->answered));
out:
    return err;
}

/* ---- wordings ---- */

static void measure_wording(const qs_gold_frame *f, const qs_questions *q, const qs_answers *a, int64_t prompt,
                            const float *answer, float *retrieved, qs_semantic_row *row)
{
    int64_t item = prompt / QS_WORDINGS, top[QS_RETR_K], n_top = 0, dim = f->dim;
    const qs_gold_item *gold = &q->set.items[item];
    const float *asked = f->asked + prompt * dim, *anchor = f->anchors + item * dim;
    const qs_ranking *ranking = a->rankings != NULL ? &a->rankings[prompt] : &f->rankings[prompt];
    qs_unit_mean(qs_retriever_vectors(f->retriever), a->ranked + prompt * a->k, a->k, dim, retrieved);
    *row = (qs_semantic_row){.dS_QE = qs_delta_s(asked, retrieved, dim),
                             .dS_QA = qs_delta_s(asked, answer, dim),
                             .dS_AR = qs_delta_s(answer, f->claims + item * dim, dim),
                             .dS_EA = NAN, .anchor_gap = NAN, .cov_retr10 = NAN};
    if (gold->anchor < 0) return;
    row->dS_EA = qs_delta_s(retrieved, anchor, dim);
    row->anchor_gap = qs_gold_frame_distractor(f, q, item, retrieved) - row->dS_EA;
    for (; n_top < QS_RETR_K && n_top < ranking->n; n_top++) top[n_top] = ranking->hits[n_top].snippet;
    qs_coverage coverage = qs_coverage_of_section(&q->set, gold->target_section, top, n_top);
    row->cov_retr10 = qs_coverage_share(&coverage);
}

/* ---- runs with seeds ---- */

/* vectors [QS_LAMBDA_RUNS, dim] is scratch. */
static void measure_runs(const qs_gold_frame *f, const qs_answers *a, int64_t item, const said *all, float *vectors,
                         int32_t *states)
{
    int64_t runs[QS_LAMBDA_RUNS], cited[QS_LAMBDA_RUNS], n = 0, dim = f->dim;
    for (int64_t i = item * QS_RUNS_PER_ITEM; i < (item + 1) * QS_RUNS_PER_ITEM; i++) {
        const qs_answer_row *row = &a->rows[i];
        if (row->seed == QS_GREEDY) continue;
        memcpy(vectors + n * dim, all->vectors + i * dim, (size_t)dim * sizeof *vectors);
        cited[n] = row->n_known > 0 ? qs_retriever_place(f->retriever, row->selected) : -1;
        runs[n++] = i;
    }
    int64_t medoid = qs_medoid(vectors, n, dim), consensus = qs_lambda_consensus(cited, n);
    for (int64_t i = 0; i < n; i++) {
        const qs_answer_row *row = &a->rows[runs[i]];
        qs_lambda_run run = {.finite = row->stop != QS_STOP_NONFINITE,
                             .answered = all->answered[runs[i]],
                             .cited = row->n_known > 0,
                             .cites_gold = row->n_correct > 0,
                             .cites_consensus = cited[i] >= 0 && cited[i] == consensus,
                             .dS_medoid = qs_delta_s(vectors + i * dim, vectors + medoid * dim, dim)};
        states[i] = (int32_t)qs_lambda_of_run(&run);
    }
}

static void no_states(int32_t *states)
{
    for (int i = 0; i < QS_LAMBDA_RUNS; i++) states[i] = -1;
}

static int compare_documents(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Snippets that are indexed under the same words as another (checklist E7). */
static qs_err count_duplicates(qs_semantics *out, const qs_gold_frame *f, const qs_questions *q)
{
    const char **documents = NULL;
    int64_t n = q->set.n_snippets;
    qs_err err = QS_NEW(documents, n, "documents");
    for (int64_t i = 0; err == QS_OK && i < n; i++) documents[i] = qs_retriever_document(f->retriever, i);
    if (err == QS_OK) qsort((void *)documents, (size_t)n, sizeof *documents, compare_documents);
    out->n_snippets = n;
    for (int64_t i = 0; err == QS_OK && i < n; i++)
        out->n_duplicates += (i > 0 && strcmp(documents[i], documents[i - 1]) == 0) ||
                             (i + 1 < n && strcmp(documents[i], documents[i + 1]) == 0);
    qs_mem_free((void *)documents);
    return err;
}

qs_err qs_semantics_measure(qs_semantics *out, const qs_gold_frame *f, const qs_questions *q, const qs_answers *a)
{
    said all = {0};
    float *retrieved = NULL, *vectors = NULL;
    qs_err err;
    *out = (qs_semantics){.n_items = q->n_items, .n_prompts = q->n_prompts};
    QS_TRY(QS_NEW(out->rows, q->n_prompts, "distances"));
    QS_TRY(QS_NEW(out->states, q->n_items * QS_LAMBDA_RUNS, "states"));
    QS_TRY(QS_NEW(vectors, QS_LAMBDA_RUNS * f->dim, "vectors of answers"));
    QS_TRY(QS_NEW(retrieved, f->dim, "vector of what was retrieved"));
    QS_TRY(count_duplicates(out, f, q));
    QS_TRY(encode_answers(f, q, a, &all));
    for (int64_t item = 0; item < q->n_items; item++) {
        int32_t *states = out->states + item * QS_LAMBDA_RUNS;
        for (int64_t i = item * QS_RUNS_PER_ITEM; i < (item + 1) * QS_RUNS_PER_ITEM; i++) {
            qs_question_run run = qs_questions_run(i);
            if (run.seed == QS_GREEDY)
                measure_wording(f, q, a, run.prompt, all.vectors + i * f->dim, retrieved, &out->rows[run.prompt]);
        }
        if (q->set.items[item].anchor >= 0) measure_runs(f, a, item, &all, vectors, states);
        else no_states(states);
    }
out:
    said_free(&all);
    qs_mem_free(vectors);
    qs_mem_free(retrieved);
    if (err != QS_OK) qs_semantics_free(out);
    return qs_context(err, "measure answers in the frame of %s", qs_encoder_name(f->encoder));
}

void qs_semantics_free(qs_semantics *s)
{
    qs_mem_free(s->rows);
    qs_mem_free(s->states);
    *s = (qs_semantics){0};
}

/* ---- artifacts ---- */

qs_err qs_semantics_put(qs_artifact *artifact, const qs_gold_frame *f, const qs_semantics *s)
{
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_text(artifact, "/semantic/@encoder", qs_encoder_name(f->encoder)));
    QS_TRY(qs_artifact_put_text(artifact, "/semantic/@encoder_digest",
                                qs_digest_format(text, qs_encoder_digest(f->encoder))));
    QS_TRY(qs_artifact_put_text(artifact, "/semantic/@index_hash",
                                qs_digest_format(text, qs_retriever_index_hash(f->retriever))));
    QS_TRY(qs_artifact_put_text(artifact, "/semantic/@corpus_hash",
                                qs_digest_format(text, qs_retriever_corpus_hash(f->retriever))));
    QS_TRY(qs_artifact_put(artifact, "/semantic/rows", QS_F64, 2, (int64_t[]){s->n_prompts, QS_SEMANTIC_COLUMNS},
                           s->rows));
    QS_TRY(qs_artifact_put(artifact, "/semantic/lambda", QS_I32, 2, (int64_t[]){s->n_items, QS_LAMBDA_RUNS},
                           s->states));
out:
    return err;
}

qs_err qs_semantics_read(qs_semantics *out, const qs_artifact *artifact)
{
    qs_dataset_info rows, states;
    qs_err err;
    *out = (qs_semantics){0};
    QS_TRY(qs_artifact_info(artifact, "/semantic/rows", &rows));
    QS_TRY(qs_artifact_info(artifact, "/semantic/lambda", &states));
    if (rows.rank != 2 || rows.dims[1] != QS_SEMANTIC_COLUMNS || states.rank != 2 || states.dims[1] != QS_LAMBDA_RUNS ||
        rows.dims[0] != states.dims[0] * QS_WORDINGS)
        return qs_fail(QS_E_INPUT, "read /semantic: it has not the shape of distances and states; re-run %s",
                       qs_artifact_kind_stage(QS_KIND_EVAL));
    out->n_items = states.dims[0];
    out->n_prompts = rows.dims[0];
    QS_TRY(QS_NEW(out->rows, out->n_prompts, "distances"));
    QS_TRY(QS_NEW(out->states, states.n, "states"));
    QS_TRY(qs_artifact_read(artifact, "/semantic/rows", QS_F64, out->rows, rows.n));
    QS_TRY(qs_artifact_read(artifact, "/semantic/lambda", QS_I32, out->states, states.n));
    for (int64_t i = 0; i < states.n; i++)
        if (out->states[i] < -1 || out->states[i] >= QS_N_LAMBDAS) {
            err = qs_fail(QS_E_INPUT, "read /semantic/lambda: %d is no state; re-run %s", out->states[i],
                          qs_artifact_kind_stage(QS_KIND_EVAL));
            break;
        }
out:
    if (err != QS_OK) qs_semantics_free(out);
    return err;
}
