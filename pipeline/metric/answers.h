/* Answers of one configuration to the questions about a gold set, what they are worth run by run, and how they are kept
 * in eval artifacts (docs/answers.md). */
#ifndef QS_METRIC_ANSWERS_H
#define QS_METRIC_ANSWERS_H

#include "artifact/artifact.h"
#include "metric/gold_frame.h"
#include "metric/questions.h"

enum { QS_ANSWER_BATCH = 8 }; /* sequences that a decoder for answers works on */

/* What one run is worth. All are counts or indices, so that rows are stored as they are. */
typedef struct qs_answer_row {
    int32_t item, wording, seed; /* seed: QS_GREEDY, 0 or 1 */
    int32_t n_prompt, n_tokens;  /* tokens of the prompt and of the answer */
    int32_t stop;                /* qs_stop */
    int32_t json_ok;             /* parsed strictly */
    int32_t n_citations, n_known, n_correct; /* cited; of these in the prompt; of these the anchor's snippet */
    int32_t selected; /* snippet: the first one cited that is in the prompt, else the top-ranked */
    int32_t anchored; /* the anchor's snippet is in the prompt */
    int32_t correct;  /* an answerable item's claim is in the answer, or an unanswerable one is refused */
    int32_t refused;  /* the answer says that the snippets do not say */
} qs_answer_row;
enum { QS_ANSWER_COLUMNS = sizeof(qs_answer_row) / sizeof(int32_t) };
extern const char *const qs_answer_columns[QS_ANSWER_COLUMNS];

typedef struct qs_answers {
    int64_t n_runs, n_prompts, k;
    qs_ranking *rankings;   /* [n_prompts] what was retrieved, re-ranked */
    int64_t *ranked;        /* [n_prompts, k] snippets */
    qs_prompts prompts;     /* n_prompts of them; none when read from an artifact */
    char **texts;           /* [n_runs] the line that was answered */
    qs_generation *generations; /* [n_runs] its tokens; NULL when read from an artifact */
    qs_answer_row *rows;    /* [n_runs] */
    double *coverage;       /* [n_runs] share of the anchor's words in cited snippets; NaN for unanswerable items */
} qs_answers;

/* Builds the prompts over what the frame retrieved for them, re-ranked where there is a re-ranker. */
QS_MUST_CHECK qs_err qs_answers_prepare(qs_answers *out, const qs_questions *questions, const qs_gold_frame *frame,
                                        const qs_tokenizer *tokenizer, const qs_reranker *reranker);
/* The same over rankings [n_prompts] that are there already. */
QS_MUST_CHECK qs_err qs_answers_prepare_ranked(qs_answers *out, const qs_questions *questions,
                                               const qs_ranking *rankings, const qs_tokenizer *tokenizer);
/* Answers them with a decoder of any batch and at least prompts.n_ctx tokens, and scores the answers. Runs are
 * those of qs_questions_run; watch NULL = nobody watches. */
QS_MUST_CHECK qs_err qs_answers_generate(qs_answers *answers, const qs_questions *questions,
                                         const qs_tokenizer *tokenizer, qs_decoder *decoder, uint64_t seed,
                                         const qs_generate_watch *watch);
void qs_answers_free(qs_answers *answers);

/* Scores one run's text: fills row and coverage from run, ranked [k] and text. */
QS_MUST_CHECK qs_err qs_answer_score(const qs_questions *questions, const qs_question_run *run,
                                     const int64_t *ranked, const char *text, qs_answer_row *row, double *coverage);

/* /qa and /answers of an eval artifact. Reading checks shapes: QS_E_INPUT. */
QS_MUST_CHECK qs_err qs_answers_put(qs_artifact *artifact, const qs_questions *questions,
                                    const qs_answers *answers);
QS_MUST_CHECK qs_err qs_answers_read(qs_answers *out, const qs_artifact *artifact);
#endif
