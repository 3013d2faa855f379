/* The λ probe over k and headers (docs/lambda.md; checklist A12, B11, E12): the first items' questions, asked
 * greedily with 5, 10 and 20 snippets, each with canonical headers, headers shuffled with seeds 1 and 2, and none.
 * A state comes from the rules of runs (metric/lambda.h), consensus and medoid being of the four cells with the
 * same k. */
#ifndef QS_METRIC_PROBE_H
#define QS_METRIC_PROBE_H

#include "metric/gold_frame.h"
#include "metric/quality.h"
#include "metric/answers.h"

enum { QS_PROBE_KS = 3, QS_PROBE_HEADERS = 4, QS_PROBE_CELLS = QS_PROBE_KS * QS_PROBE_HEADERS };
extern const int64_t qs_probe_ks[QS_PROBE_KS];
extern const char *const qs_probe_headers[QS_PROBE_HEADERS]; /* "canonical", "shuffled-1" ... */

typedef struct qs_probe {
    int64_t n_items;
    qs_prompts prompts;     /* n_items * QS_PROBE_CELLS of them */
    int64_t *ranked;        /* [n_items, QS_QUESTION_SNIPPETS_MAX] snippets; a cell's are the first k */
    char **texts;           /* [n_items * QS_PROBE_CELLS] */
    qs_answer_row *rows;    /* [n_items * QS_PROBE_CELLS] */
    int32_t *states;        /* [n_items, QS_PROBE_KS, QS_PROBE_HEADERS]; -1 for items without an anchor */
} qs_probe;

/* Prompts over the configuration's own rankings [n_prompts of the questions]. Fewer items and smaller k where there
 * are no more items and snippets. */
QS_MUST_CHECK qs_err qs_probe_prepare(qs_probe *out, const qs_questions *questions, const qs_ranking *rankings,
                                      const qs_tokenizer *tokenizer, int64_t n_items);
/* Answers with a decoder of any batch and at least prompts.n_ctx tokens, and finds the states. */
QS_MUST_CHECK qs_err qs_probe_run(qs_probe *probe, const qs_questions *questions, const qs_gold_frame *frame,
                                  const qs_tokenizer *tokenizer, qs_decoder *decoder);
void qs_probe_free(qs_probe *probe);

/* lambda_probe_flips, and /semantic/probe with what was answered. */
QS_MUST_CHECK qs_err qs_probe_put(const qs_probe *probe, uint64_t seed, qs_artifact *artifact);

#endif
