#include "metric/rerank.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/prompt.h"

/* ---- pairs as tokens ---- */

/* The prompt up to the colon behind "Question": a blank belongs to the word that follows it. */
static qs_err snippet_prompt(const qs_tokenizer *tokenizer, const qs_gold_snippet *s, qs_token_list *list)
{
    static const char tail[] = " \nAnswer:\n";
    qs_prompt_snippet snippet = {.id = s->id, .header = s->header, .text = s->text};
    qs_prompt prompt = {.snippets = &snippet, .n_snippets = 1, .question = ""};
    char *text = NULL;
    qs_err err;
    QS_TRY(qs_prompt_build(&text, &prompt));
    QS_TRY(qs_tokenizer_begin(tokenizer, list));
    QS_TRY(qs_tokenizer_encode(tokenizer, text, strlen(text) - strlen(tail), false, list));
out:
    qs_mem_free(text);
    return err;
}

static qs_err question_tokens(const qs_tokenizer *tokenizer, const char *question, qs_token_list *list)
{
    char *text = NULL;
    size_t bytes = strlen(question);
    qs_err err;
    QS_TRY(qs_mem_alloc(&text, bytes + 2, "question"));
    text[0] = ' ';
    memcpy(text + 1, question, bytes);
    QS_TRY(qs_tokenizer_encode(tokenizer, text, bytes + 1, false, list));
    if (list->n == 0) err = qs_fail(QS_E_INPUT, "re-rank: the question \"%.80s\" has no tokens", question);
out:
    qs_mem_free(text);
    return err;
}

/* By snippet, then in the order given. */
static int compare_pairs(const void *a, const void *b, void *context)
{
    const qs_rerank_pair *pairs = context;
    int64_t i = *(const int64_t *)a, j = *(const int64_t *)b;
    if (pairs[i].snippet != pairs[j].snippet) return pairs[i].snippet < pairs[j].snippet ? -1 : 1;
    return i < j ? -1 : i > j;
}

qs_err qs_rerank_plan_make(qs_rerank_plan *out, const qs_tokenizer *tokenizer, const qs_rerank_pair *pairs, int64_t n)
{
    qs_err err;
    int64_t longest = 0;
    *out = (qs_rerank_plan){.n_pairs = n, .n_tokens_max = 1};
    QS_TRY(QS_NEW(out->order, n, "pairs to re-rank"));
    QS_TRY(QS_NEW(out->prompt_of, n, "pairs to re-rank"));
    QS_TRY(QS_NEW(out->prompts, n, "prompts to re-rank"));
    QS_TRY(QS_NEW(out->questions, n, "questions to re-rank"));
    for (int64_t i = 0; i < n; i++) out->order[i] = i;
    qsort_r(out->order, (size_t)n, sizeof *out->order, compare_pairs, (void *)pairs);
    for (int64_t i = 0; i < n; i++) {
        const qs_rerank_pair *pair = &pairs[out->order[i]];
        if (i == 0 || pair->snippet != pairs[out->order[i - 1]].snippet)
            QS_TRY(snippet_prompt(tokenizer, pair->snippet, &out->prompts[out->n_prompts++]));
        out->prompt_of[i] = out->n_prompts - 1;
        QS_TRY(question_tokens(tokenizer, pair->question, &out->questions[i]));
        if (out->questions[i].n > out->n_tokens_max) out->n_tokens_max = out->questions[i].n;
    }
    for (int64_t i = 0; i < out->n_prompts; i++)
        if (out->prompts[i].n > longest) longest = out->prompts[i].n;
    out->n_ctx = longest + out->n_tokens_max;
out:
    if (err != QS_OK) qs_rerank_plan_free(out);
    return err;
}

void qs_rerank_plan_free(qs_rerank_plan *plan)
{
    for (int64_t i = 0; plan->prompts != NULL && i < plan->n_pairs; i++) qs_token_list_free(&plan->prompts[i]);
    for (int64_t i = 0; plan->questions != NULL && i < plan->n_pairs; i++) qs_token_list_free(&plan->questions[i]);
    qs_mem_free(plan->order);
    qs_mem_free(plan->prompt_of);
    qs_mem_free(plan->prompts);
    qs_mem_free(plan->questions);
    *plan = (qs_rerank_plan){0};
}

/* ---- scores ---- */

typedef struct scorer {
    const qs_rerank_plan *plan;
    double *scores;
} scorer;

static qs_err add_token(void *context, int64_t run, int64_t step, const qs_generate_look *look)
{
    (void)step;
    scorer *s = context;
    s->scores[s->plan->order[run]] -= (double)look->nll / (double)s->plan->questions[run].n;
    return QS_OK;
}

qs_err qs_rerank_run(const qs_rerank_plan *plan, qs_decoder *decoder, const qs_tokenizer *tokenizer, double *scores)
{
    scorer s = {.plan = plan, .scores = scores};
    qs_generate_run *runs = NULL;
    qs_generation *generations = NULL;
    qs_err err;
    memset(scores, 0, (size_t)plan->n_pairs * sizeof *scores);
    QS_TRY(QS_NEW(runs, plan->n_pairs, "runs"));
    QS_TRY(QS_NEW(generations, plan->n_pairs, "runs"));
    for (int64_t i = 0; i < plan->n_pairs; i++)
        runs[i] = (qs_generate_run){.prompt = plan->prompt_of[i], .forced = &plan->questions[i]};
    qs_generate_job job = {.decoder = decoder, .tokenizer = tokenizer, .prompts = plan->prompts,
                           .n_prompts = plan->n_prompts, .runs = runs, .n_runs = plan->n_pairs,
                           .n_tokens_max = plan->n_tokens_max, .ending = QS_ENDS_NEVER,
                           .watch = {add_token, &s, false}};
    QS_TRY(qs_generate(&job, generations));
out:
    qs_generations_free(generations, plan->n_pairs);
    qs_mem_free(runs);
    return qs_context(err, "re-rank");
}
