/* What a configuration's retrieval and answers are worth in a frame: distances per wording, states per run, and their
 * metrics (docs/delta-s.md, docs/coverage.md, docs/lambda.md). */
#ifndef QS_METRIC_SEMANTICS_H
#define QS_METRIC_SEMANTICS_H

#include "metric/answers.h"
#include "metric/gold_frame.h"
#include "metric/lambda.h"
#include "metric/quality.h"

enum {
    QS_LAMBDA_RUNS = QS_GOLD_PARAPHRASES * QS_SEEDS, /* of an item, paraphrase by paraphrase */
    QS_RETR_K = 10,
};

/* Of one wording's greedy run. NaN: the item has no anchor. E, retrieved, is the unit mean of the snippets of the
 * prompt. */
typedef struct qs_semantic_row {
    double dS_QE, dS_EA; /* question to retrieved, retrieved to anchor */
    double dS_QA, dS_AR; /* question to answer, answer to the gold answer */
    double anchor_gap;   /* ΔS(E, nearest distractor section) - ΔS(E, anchor) */
    double cov_retr10;   /* share of the target section's words in the first 10 retrieved */
} qs_semantic_row;
enum { QS_SEMANTIC_COLUMNS = sizeof(qs_semantic_row) / sizeof(double) };

typedef struct qs_semantics {
    int64_t n_items, n_prompts;
    qs_semantic_row *rows; /* [n_prompts] */
    int32_t *states;       /* [n_items, QS_LAMBDA_RUNS] qs_lambda; -1 for items without an anchor */
    int64_t n_snippets, n_duplicates; /* of the corpus; 0 when read from an artifact */
} qs_semantics;

/* What answers say as vectors [n, dim]: the "answer" of a line, or the whole line where that cannot be read;
 * answered[n]: it can, and is not empty. All go to the encoder together, which for some costs a pass of a whole
 * model. */
QS_MUST_CHECK qs_err qs_answers_encode(qs_encoder *encoder, char *const *lines, int64_t n, float *vectors,
                                       bool *answered);

/* questions may be limited to fewer items than the frame's. Errors of the encoder. */
QS_MUST_CHECK qs_err qs_semantics_measure(qs_semantics *out, const qs_gold_frame *frame, const qs_questions *questions,
                                          const qs_answers *answers);
void qs_semantics_free(qs_semantics *semantics);

/* /semantic of an eval artifact. Reading checks shapes: QS_E_INPUT. */
QS_MUST_CHECK qs_err qs_semantics_put(qs_artifact *artifact, const qs_gold_frame *frame, const qs_semantics *semantics);
QS_MUST_CHECK qs_err qs_semantics_read(qs_semantics *out, const qs_artifact *artifact);

/* Metrics of a point, an item with its wordings and runs being one independent unit. */
typedef struct qs_semantic_input {
    const qs_semantics *own, *reference; /* the reference's first items are the same; NULL with QS_QUALITY_OWN */
    const qs_answers *answers, *reference_answers;
    qs_quality_part part;
    uint64_t seed;
} qs_semantic_input;
/* Calls `put` with each metric that is defined. QS_E_INPUT when the reference has fewer items. */
QS_MUST_CHECK qs_err qs_semantic_metrics(const qs_semantic_input *input, qs_metric_sink put, void *context);

#endif
