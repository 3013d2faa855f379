/* Re-ranking by the model under test: how probable the question is behind each snippet (docs/retrieval.md; the format
 * is that of data/prompt.h with one snippet, without instruction). So which snippets are offered depends on the
 * quantised weights. */
#ifndef QS_METRIC_RERANK_H
#define QS_METRIC_RERANK_H

#include "model/generate.h"
#include "rag/retrieve.h"

/* Pairs as tokens. A snippet's prompt is computed once for all its questions. */
typedef struct qs_rerank_plan {
    int64_t n_pairs, n_prompts, n_tokens_max, n_ctx; /* n_ctx: tokens that a decoder needs room for */
    int64_t *order;         /* [n_pairs] pairs, those of one snippet side by side */
    int64_t *prompt_of;     /* [n_pairs] by place in order */
    qs_token_list *prompts; /* [n_pairs], n_prompts of them used: up to "Question:" */
    qs_token_list *questions; /* [n_pairs] by place in order */
} qs_rerank_plan;

QS_MUST_CHECK qs_err qs_rerank_plan_make(qs_rerank_plan *out, const qs_tokenizer *tokenizer,
                                         const qs_rerank_pair *pairs, int64_t n_pairs);
void qs_rerank_plan_free(qs_rerank_plan *plan);

/* scores[n_pairs] = mean ln p of the question's tokens, NaN where a logit is not finite. */
QS_MUST_CHECK qs_err qs_rerank_run(const qs_rerank_plan *plan, qs_decoder *decoder, const qs_tokenizer *tokenizer,
                                   double *scores);

#endif
