/* What is asked of a model about a gold set: every item in four wordings (the question itself and its paraphrases),
 * each answered greedily, and the paraphrases twice more with random numbers (3 paraphrases x 2 seeds,
 * docs/answers.md). */
#ifndef QS_METRIC_QUESTIONS_H
#define QS_METRIC_QUESTIONS_H

#include "data/goldset.h"
#include "model/generate.h"
#include "base/file.h"
#include "base/hash.h"
#include "metric/serving.h"
#include "model/chat_prompt.h"
#include "rag/encoder.h"

enum {
    QS_WORDINGS = 1 + QS_GOLD_PARAPHRASES, /* 0 = the question */
    QS_SEEDS = 2,
    QS_GREEDY = -1, /* in place of a seed */
    QS_RUNS_PER_ITEM = QS_WORDINGS + QS_GOLD_PARAPHRASES * QS_SEEDS,
    QS_QUESTION_SNIPPETS_MAX = 20,
};

typedef struct qs_question_options {
    const char *gold, *corpus; /* a directory with gold.jsonl, corpus.jsonl and, perhaps, longform.jsonl; or files */
    int64_t k;                 /* snippets in a prompt */
    int64_t n_items;           /* the first ones only; 0 = all */
    int64_t n_tokens_max;      /* of an answer */
    int64_t n_long_tokens;     /* of a long text */
    int64_t n_probe;           /* items of the probe over k and headers (metric/probe.h); 0 = none */
    bool rerank;               /* by the model under test */
    bool instruct;             /* begin prompts with the instruction for models not trained on the format */
    const char *chat;          /* none, auto or a row of qs_chat_rows; NULL = none; others need the model */
    const char *encoder;       /* a name of qs_encoder_kinds; NULL = tfidf */
    const char *encoder_dir;   /* of minilm */
    const char *keep_dir;      /* where vectors of the gold set's texts are kept from run to run; NULL = nowhere */
    int n_threads;             /* of the encoder; 0 = OpenMP's default */
    qs_model *model;           /* of chats and of the encoder self; both NULL = neither can be chosen */
    qs_backend *backend;
} qs_question_options;

/* Settings and gold set; the same for every configuration. */
typedef struct qs_questions {
    qs_question_options options;
    qs_chat chat;       /* how prompts are written: without a row plainly */
    qs_serving serving; /* plain, until a configuration's is put here */
    qs_goldset set;
    qs_encoder *encoder; /* owned; the frame that ΔS is measured in, and dense retrieval */
    int64_t n_items, n_prompts, n_runs;
    int64_t n_longforms; /* long-form prompts asked; 0 where the gold set has none */
    qs_digest digest; /* of all that determines what is asked */
} qs_questions;

typedef struct qs_question_run {
    int64_t item, wording, prompt; /* prompt = item * QS_WORDINGS + wording */
    int seed;                      /* QS_GREEDY, 0 or 1 */
} qs_question_run;

/* QS_E_INPUT for a gold set that is missing or broken, QS_E_USAGE for fewer snippets than k; errors of the encoder. */
QS_MUST_CHECK qs_err qs_questions_load(qs_questions *out, const qs_question_options *options);
void qs_questions_free(qs_questions *questions);

/* Only the first n items, where there are more; the digest stays that of the whole. */
void qs_questions_limit(qs_questions *questions, int64_t n);

/* Runs in their order: item after item, wording after wording, greedy first. 0 <= run < n_runs. */
qs_question_run qs_questions_run(int64_t run);
const char *qs_questions_text(const qs_questions *questions, int64_t prompt); /* the wording's */
const char *qs_questions_chat(const qs_questions *questions); /* the chat template's name, "none" for plain prompts */
int64_t qs_questions_tokens_max(const qs_questions *questions); /* of an answer */

/* Prompts as tokens, and what a decoder needs to answer them. */
typedef struct qs_prompts {
    int64_t n;
    qs_token_list *lists; /* [n] */
    int64_t n_ctx;        /* tokens of the longest with what may be written behind it */
} qs_prompts;
/* n empty ones; qs_prompts_fit finds their n_ctx when they are there. */
QS_MUST_CHECK qs_err qs_prompts_init(qs_prompts *out, int64_t n);
void qs_prompts_fit(qs_prompts *prompts, int64_t n_tokens_max);
void qs_prompts_free(qs_prompts *prompts);

/* All of them, over ranked [n_prompts, k]. Nothing to free after failure, here and below. */
QS_MUST_CHECK qs_err qs_questions_prompts(qs_prompts *out, const qs_questions *questions,
                                          const qs_tokenizer *tokenizer, const int64_t *ranked);

/* One of them, over any number of snippets. */
QS_MUST_CHECK qs_err qs_questions_prompt(const qs_questions *questions, const qs_tokenizer *tokenizer, int64_t prompt,
                                         const int64_t *snippets, int64_t n_snippets, qs_token_list *list);

/* Orders of the snippets of one prompt: as they come, in reverse, by section and id. */
typedef enum qs_snippet_order { QS_ORDER_GIVEN, QS_ORDER_REVERSED, QS_ORDER_PLACE, QS_N_ORDERS } qs_snippet_order;
void qs_questions_order(const qs_questions *questions, qs_snippet_order order, int64_t *snippets, int64_t n);

/* The long-form prompts, each with room for n_tokens. */
QS_MUST_CHECK qs_err qs_questions_long_prompts(qs_prompts *out, const qs_questions *questions,
                                               const qs_tokenizer *tokenizer, qs_snippet_order order,
                                               int64_t n_tokens);

/* Key of a run's random numbers: a function of seed, qid and wording alone. */
uint64_t qs_questions_key(const qs_questions *questions, const qs_question_run *run, uint64_t seed);

#endif
