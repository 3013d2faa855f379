#include "metric/answers.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "data/claim.h"
#include "data/prompt.h"
#include "metric/coverage.h"

/* ---- scoring ---- */

static int64_t find_snippet(const qs_questions *q, const int64_t *ranked, const char *id)
{
    for (int64_t i = 0; i < q->options.k; i++)
        if (strcmp(q->set.snippets[ranked[i]].id, id) == 0) return ranked[i];
    return -1;
}

/* Share of the words of the anchor span that cited snippets hold. */
static double coverage_of(const qs_questions *q, const qs_gold_item *item, const int64_t *cited, int64_t n_cited)
{
    qs_coverage coverage = {0};
    qs_coverage_add(&coverage, &q->set, item->anchor, item->anchor_start, item->anchor_end, cited, n_cited);
    return qs_coverage_share(&coverage);
}

/* Counts citations into the row and keeps those in the prompt, cited [k], each once. */
static int64_t take_citations(const qs_questions *q, const qs_gold_item *item, const int64_t *ranked,
                              const qs_answer *answer, qs_answer_row *row, int64_t *cited)
{
    int64_t n_cited = 0;
    row->n_citations = (int32_t)answer->n_citations;
    for (int64_t i = 0; i < answer->n_citations; i++) {
        int64_t snippet = find_snippet(q, ranked, qs_answer_citation(answer, i));
        bool again = false;
        if (snippet < 0) continue;
        row->n_known++;
        row->n_correct += snippet == item->anchor;
        for (int64_t j = 0; j < n_cited; j++) again = again || cited[j] == snippet;
        if (!again) cited[n_cited++] = snippet;
    }
    return n_cited;
}

qs_err qs_answer_score(const qs_questions *q, const qs_question_run *run, const int64_t *ranked, const char *text,
                       qs_answer_row *row, double *coverage)
{
    const qs_gold_item *item = &q->set.items[run->item];
    int64_t cited[QS_QUESTION_SNIPPETS_MAX], n_cited = 0;
    qs_answer answer;
    bool refused, correct;
    qs_err err;
    row->item = (int32_t)run->item;
    row->wording = (int32_t)run->wording;
    row->seed = run->seed;
    row->n_citations = row->n_known = row->n_correct = row->anchored = 0;
    row->json_ok = qs_answer_parse(&answer, text);
    if (row->json_ok) n_cited = take_citations(q, item, ranked, &answer, row, cited);
    row->selected = (int32_t)(n_cited > 0 ? cited[0] : ranked[0]);
    for (int64_t i = 0; i < q->options.k; i++) row->anchored |= item->answerable && ranked[i] == item->anchor;
    *coverage = item->answerable ? coverage_of(q, item, cited, n_cited) : NAN;
    /* What a broken line says still counts as said; json_ok tells that it is broken. */
    const char *said = row->json_ok ? answer.text : text;
    QS_TRY(qs_claim_holds(said, QS_ANSWER_UNKNOWN, &refused));
    QS_TRY(qs_claim_holds(said, item->answer, &correct));
    row->refused = refused;
    row->correct = correct;
out:
    qs_answer_free(&answer);
    return qs_context(err, "score an answer to %s", item->qid);
}

/* ---- asking ---- */

/* The configuration's own order of the frame's pools. */
static qs_err rank(qs_answers *a, const qs_questions *q, const qs_gold_frame *frame, const qs_reranker *reranker)
{
    const char **asked = NULL;
    qs_err err = QS_OK;
    memcpy(a->rankings, frame->rankings, (size_t)a->n_prompts * sizeof *a->rankings);
    if (reranker == NULL) goto out;
    QS_TRY(QS_NEW(asked, a->n_prompts, "questions"));
    for (int64_t i = 0; i < a->n_prompts; i++) asked[i] = qs_questions_text(q, i);
    QS_TRY(qs_rankings_rerank(&q->set, asked, a->n_prompts, reranker, a->rankings));
out:
    qs_mem_free((void *)asked);
    return err;
}

static qs_err answers_alloc(qs_answers *out, const qs_questions *q)
{
    qs_err err;
    *out = (qs_answers){.n_runs = q->n_runs, .n_prompts = q->n_prompts, .k = q->options.k};
    QS_TRY(QS_NEW(out->rankings, out->n_prompts, "rankings"));
    QS_TRY(QS_NEW(out->ranked, out->n_prompts * out->k, "ranked snippets"));
    QS_TRY(QS_NEW(out->texts, out->n_runs, "answers"));
    QS_TRY(QS_NEW(out->generations, out->n_runs, "generations"));
    QS_TRY(QS_NEW(out->rows, out->n_runs, "answers"));
    QS_TRY(QS_NEW(out->coverage, out->n_runs, "coverage"));
out:
    return err;
}

static qs_err build_prompts(qs_answers *out, const qs_questions *q, const qs_tokenizer *tokenizer)
{
    qs_gold_frame_snippets(out->rankings, q, out->ranked);
    for (int64_t i = 0; q->serving.by_place && i < out->n_prompts; i++)
        qs_questions_order(q, QS_ORDER_PLACE, out->ranked + i * out->k, out->k);
    return qs_questions_prompts(&out->prompts, q, tokenizer, out->ranked);
}

qs_err qs_answers_prepare(qs_answers *out, const qs_questions *q, const qs_gold_frame *frame,
                          const qs_tokenizer *tokenizer, const qs_reranker *reranker)
{
    qs_err err;
    QS_TRY(answers_alloc(out, q));
    QS_TRY(rank(out, q, frame, reranker));
    QS_TRY(build_prompts(out, q, tokenizer));
out:
    if (err != QS_OK) qs_answers_free(out);
    return err;
}

qs_err qs_answers_prepare_ranked(qs_answers *out, const qs_questions *q, const qs_ranking *rankings,
                                 const qs_tokenizer *tokenizer)
{
    qs_err err;
    QS_TRY(answers_alloc(out, q));
    memcpy(out->rankings, rankings, (size_t)q->n_prompts * sizeof *rankings);
    QS_TRY(build_prompts(out, q, tokenizer));
out:
    if (err != QS_OK) qs_answers_free(out);
    return err;
}

static qs_err take_answer(qs_answers *a, const qs_questions *q, const qs_tokenizer *tokenizer, int64_t i)
{
    qs_question_run run = qs_questions_run(i);
    const qs_generation *generation = &a->generations[i];
    qs_answer_row *row = &a->rows[i];
    qs_err err;
    QS_TRY(qs_tokenizer_decode(tokenizer, generation->tokens, generation->n_tokens, true, &a->texts[i]));
    a->texts[i][strcspn(a->texts[i], "\r\n")] = '\0';
    row->n_prompt = (int32_t)a->prompts.lists[run.prompt].n;
    row->n_tokens = (int32_t)generation->n_tokens;
    row->stop = (int32_t)generation->stop;
    QS_TRY(qs_answer_score(q, &run, a->ranked + run.prompt * a->k, a->texts[i], row, &a->coverage[i]));
out:
    return err;
}

qs_err qs_answers_generate(qs_answers *a, const qs_questions *q, const qs_tokenizer *tokenizer, qs_decoder *decoder,
                           uint64_t seed, const qs_generate_watch *watch)
{
    qs_generate_run *runs = NULL;
    qs_err err;
    QS_TRY(QS_NEW(runs, a->n_runs, "runs"));
    for (int64_t i = 0; i < a->n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        bool greedy = run.seed == QS_GREEDY;
        runs[i] = (qs_generate_run){.prompt = run.prompt, .temperature = greedy ? 0.0 : q->serving.temperature,
                                    .clamp = q->serving.clamp, .key = greedy ? 0 : qs_questions_key(q, &run, seed)};
    }
    qs_generate_job job = {.decoder = decoder, .tokenizer = tokenizer, .prompts = a->prompts.lists,
                           .n_prompts = a->prompts.n, .runs = runs, .n_runs = a->n_runs,
                           .n_tokens_max = qs_questions_tokens_max(q), .ending = QS_ENDS_LINE,
                           .stops = qs_chat_stops(&q->chat, tokenizer)};
    if (watch != NULL) job.watch = *watch;
    QS_TRY(qs_generate(&job, a->generations));
    for (int64_t i = 0; i < a->n_runs; i++) QS_TRY(take_answer(a, q, tokenizer, i));
out:
    qs_mem_free(runs);
    return err;
}

void qs_answers_free(qs_answers *a)
{
    qs_prompts_free(&a->prompts);
    qs_generations_free(a->generations, a->n_runs);
    for (int64_t i = 0; a->texts != NULL && i < a->n_runs; i++) qs_mem_free(a->texts[i]);
    qs_mem_free(a->rankings);
    qs_mem_free(a->ranked);
    qs_mem_free((void *)a->texts);
    qs_mem_free(a->rows);
    qs_mem_free(a->coverage);
    *a = (qs_answers){0};
}
