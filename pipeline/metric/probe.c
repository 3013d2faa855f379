#include "metric/probe.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "metric/bootstrap.h"
#include "metric/delta_s.h"
#include "metric/lines.h"
#include "metric/semantics.h"

const int64_t qs_probe_ks[QS_PROBE_KS] = {5, 10, 20};
const char *const qs_probe_headers[QS_PROBE_HEADERS] = {"canonical", "shuffled-1", "shuffled-2", "removed"};
static const struct {
    qs_prompt_headers headers;
    uint64_t seed;
} headers[QS_PROBE_HEADERS] = {
    {QS_HEADERS_CANONICAL, 0}, {QS_HEADERS_SHUFFLED, 1}, {QS_HEADERS_SHUFFLED, 2}, {QS_HEADERS_REMOVED, 0}};

/* The questions as a cell asks them. */
static qs_questions cell_of(const qs_questions *q, int64_t cell)
{
    qs_questions asked = *q;
    int64_t k = qs_probe_ks[cell / QS_PROBE_HEADERS];
    asked.options.k = k < q->set.n_snippets ? k : q->set.n_snippets;
    asked.serving.headers = headers[cell % QS_PROBE_HEADERS].headers;
    asked.serving.header_seed = headers[cell % QS_PROBE_HEADERS].seed;
    return asked;
}

/* ---- asking ---- */

static qs_err prepare_item(qs_probe *p, const qs_questions *q, const qs_ranking *rankings,
                           const qs_tokenizer *tokenizer, int64_t item)
{
    int64_t *ranked = p->ranked + item * QS_QUESTION_SNIPPETS_MAX;
    qs_err err = QS_OK;
    qs_questions one = *q;
    one.n_prompts = 1;
    one.options.k = QS_QUESTION_SNIPPETS_MAX < q->set.n_snippets ? QS_QUESTION_SNIPPETS_MAX : q->set.n_snippets;
    qs_gold_frame_snippets(&rankings[item * QS_WORDINGS], &one, ranked);
    for (int64_t cell = 0; cell < QS_PROBE_CELLS; cell++) {
        qs_questions asked = cell_of(q, cell);
        qs_token_list *prompt = &p->prompts.lists[item * QS_PROBE_CELLS + cell];
        QS_TRY(qs_questions_prompt(&asked, tokenizer, item * QS_WORDINGS, ranked, asked.options.k, prompt));
    }
out:
    return err;
}

qs_err qs_probe_prepare(qs_probe *out, const qs_questions *q, const qs_ranking *rankings, const qs_tokenizer *tokenizer,
                        int64_t n_items)
{
    qs_err err;
    *out = (qs_probe){.n_items = n_items < q->n_items ? n_items : q->n_items};
    int64_t n = out->n_items * QS_PROBE_CELLS;
    QS_TRY(qs_prompts_init(&out->prompts, n));
    QS_TRY(QS_NEW(out->ranked, out->n_items * QS_QUESTION_SNIPPETS_MAX, "snippets of the probe"));
    QS_TRY(QS_NEW(out->texts, n, "answers of the probe"));
    QS_TRY(QS_NEW(out->rows, n, "answers of the probe"));
    QS_TRY(QS_NEW(out->states, n, "states of the probe"));
    for (int64_t item = 0; item < out->n_items; item++) QS_TRY(prepare_item(out, q, rankings, tokenizer, item));
    qs_prompts_fit(&out->prompts, qs_questions_tokens_max(q));
out:
    if (err != QS_OK) qs_probe_free(out);
    return err;
}

void qs_probe_free(qs_probe *p)
{
    int64_t n = p->n_items * QS_PROBE_CELLS;
    qs_prompts_free(&p->prompts);
    for (int64_t i = 0; p->texts != NULL && i < n; i++) qs_mem_free(p->texts[i]);
    qs_mem_free(p->ranked);
    qs_mem_free((void *)p->texts);
    qs_mem_free(p->rows);
    qs_mem_free(p->states);
    *p = (qs_probe){0};
}

static qs_err take_answers(qs_probe *p, const qs_questions *q, const qs_tokenizer *tokenizer,
                           const qs_generation *generations)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < p->n_items * QS_PROBE_CELLS; i++) {
        int64_t item = i / QS_PROBE_CELLS;
        qs_questions asked = cell_of(q, i % QS_PROBE_CELLS);
        qs_question_run run = {.item = item, .prompt = item * QS_WORDINGS, .seed = QS_GREEDY};
        qs_answer_row *row = &p->rows[i];
        double coverage;
        QS_TRY(qs_tokenizer_decode(tokenizer, generations[i].tokens, generations[i].n_tokens, true, &p->texts[i]));
        p->texts[i][strcspn(p->texts[i], "\r\n")] = '\0';
        row->n_prompt = (int32_t)p->prompts.lists[i].n;
        row->n_tokens = (int32_t)generations[i].n_tokens;
        row->stop = (int32_t)generations[i].stop;
        QS_TRY(qs_answer_score(&asked, &run, p->ranked + item * QS_QUESTION_SNIPPETS_MAX, p->texts[i], row, &coverage));
    }
out:
    return err;
}

/* ---- states ---- */

/* vectors [QS_PROBE_HEADERS, dim] of the answers of one k, states [QS_PROBE_HEADERS]. */
static void find_states(const qs_probe *p, const qs_gold_frame *f, int64_t first, const float *vectors,
                        const bool *answered, int32_t *states)
{
    int64_t cited[QS_PROBE_HEADERS];
    for (int i = 0; i < QS_PROBE_HEADERS; i++) {
        const qs_answer_row *row = &p->rows[first + i];
        cited[i] = row->n_known > 0 ? qs_retriever_place(f->retriever, row->selected) : -1;
    }
    int64_t medoid = qs_medoid(vectors, QS_PROBE_HEADERS, f->dim),
            consensus = qs_lambda_consensus(cited, QS_PROBE_HEADERS);
    for (int i = 0; i < QS_PROBE_HEADERS; i++) {
        const qs_answer_row *row = &p->rows[first + i];
        qs_lambda_run run = {.finite = row->stop != QS_STOP_NONFINITE,
                             .answered = answered[i],
                             .cited = row->n_known > 0,
                             .cites_gold = row->n_correct > 0,
                             .cites_consensus = cited[i] >= 0 && cited[i] == consensus,
                             .dS_medoid = qs_delta_s(vectors + i * f->dim, vectors + medoid * f->dim, f->dim)};
        states[i] = (int32_t)qs_lambda_of_run(&run);
    }
}

static qs_err find_all_states(qs_probe *p, const qs_questions *q, const qs_gold_frame *f)
{
    int64_t n = p->n_items * QS_PROBE_CELLS;
    float *vectors = NULL;
    bool *answered = NULL;
    qs_err err;
    QS_TRY(QS_NEW(vectors, n * f->dim, "vectors of answers"));
    QS_TRY(QS_NEW(answered, n, "answers"));
    QS_TRY(qs_answers_encode(f->encoder, p->texts, n, vectors, answered));
    for (int64_t i = 0; i < n; i += QS_PROBE_HEADERS) {
        int32_t *states = p->states + i;
        if (q->set.items[i / QS_PROBE_CELLS].anchor >= 0)
            find_states(p, f, i, vectors + i * f->dim, answered + i, states);
        else
            for (int j = 0; j < QS_PROBE_HEADERS; j++) states[j] = -1;
    }
out:
    qs_mem_free(vectors);
    qs_mem_free(answered);
    return err;
}

qs_err qs_probe_run(qs_probe *p, const qs_questions *q, const qs_gold_frame *frame, const qs_tokenizer *tokenizer,
                    qs_decoder *decoder)
{
    int64_t n = p->n_items * QS_PROBE_CELLS;
    qs_generate_run *runs = NULL;
    qs_generation *generations = NULL;
    qs_err err;
    QS_TRY(QS_NEW(runs, n, "runs"));
    QS_TRY(QS_NEW(generations, n, "generations"));
    for (int64_t i = 0; i < n; i++) runs[i] = (qs_generate_run){.prompt = i};
    qs_generate_job job = {.decoder = decoder,
                           .tokenizer = tokenizer,
                           .prompts = p->prompts.lists,
                           .n_prompts = n,
                           .runs = runs,
                           .n_runs = n,
                           .n_tokens_max = qs_questions_tokens_max(q),
                           .ending = QS_ENDS_LINE,
                           .stops = qs_chat_stops(&q->chat, tokenizer)};
    QS_TRY(qs_generate(&job, generations));
    QS_TRY(take_answers(p, q, tokenizer, generations));
    QS_TRY(find_all_states(p, q, frame));
out:
    qs_generations_free(generations, n);
    qs_mem_free(runs);
    return qs_context(err, "probe k and headers");
}

/* ---- what is kept ---- */

static const char *text_of(const void *context, int64_t i) { return ((const qs_probe *)context)->texts[i]; }

static qs_err put_flips(const qs_probe *p, uint64_t seed, qs_artifact *artifact)
{
    qs_bootstrap options = {.seed = seed};
    double *two = NULL;
    qs_estimate estimate;
    bool defined;
    qs_err err;
    QS_TRY(QS_NEW(two, 2 * p->n_items, "flips of items"));
    for (int64_t item = 0; item < p->n_items; item++) {
        qs_lambda states[QS_PROBE_CELLS];
        const int32_t *own = p->states + item * QS_PROBE_CELLS;
        two[2 * item] = two[2 * item + 1] = 0.0;
        if (own[0] < 0) continue;
        for (int i = 0; i < QS_PROBE_CELLS; i++) states[i] = (qs_lambda)own[i];
        two[2 * item] = qs_lambda_probe_flips(states, QS_PROBE_KS, QS_PROBE_HEADERS);
        two[2 * item + 1] = 1.0;
    }
    QS_TRY(qs_bootstrap_ratio(&options, two, p->n_items, true, &defined, &estimate));
    if (defined) QS_TRY(qs_metric_put(artifact, qs_metric_find("lambda_probe_flips"), &estimate));
out:
    qs_mem_free(two);
    return err;
}

qs_err qs_probe_put(const qs_probe *p, uint64_t seed, qs_artifact *artifact)
{
    int64_t n = p->n_items * QS_PROBE_CELLS;
    qs_err err;
    QS_TRY(qs_artifact_put(artifact, "/probe/states", QS_I32, 3,
                           (int64_t[]){p->n_items, QS_PROBE_KS, QS_PROBE_HEADERS}, p->states));
    QS_TRY(qs_artifact_put(artifact, "/probe/runs", QS_I32, 2, (int64_t[]){n, QS_ANSWER_COLUMNS}, p->rows));
    QS_TRY(qs_lines_put(artifact, "/probe/texts", n, text_of, p));
    QS_TRY(put_flips(p, seed, artifact));
out:
    return err;
}
