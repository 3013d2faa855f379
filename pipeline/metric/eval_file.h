/* Eval artifacts: what is written about a point, and whether a file that is there says the same thing. */
#ifndef QS_METRIC_EVAL_FILE_H
#define QS_METRIC_EVAL_FILE_H

#include "metric/score.h"
#include "metric/windows.h"
#include "metric/candidate.h"

/* Bits of --dump. */
enum { QS_DUMP_TOKENS = 1, QS_DUMP_LOGITS = 2, QS_DUMP_HIDDEN = 4, QS_DUMP_EMBEDDINGS = 8 };

/* What an evaluation is about: two with equal subjects give equal artifacts. */
typedef struct qs_subject {
    qs_model *model;
    const qs_windows *windows;
    qs_compute compute;
    uint64_t seed;
    const char *id;             /* "fp" for the reference */
    const char *text;           /* on which the tokenizers of checkpoints are tried; NULL = a built-in one */
    size_t text_bytes;
    const qs_digest *questions; /* what is asked; NULL = nothing */
    const qs_digest *embedded;  /* lines and encoder of embeddings; NULL = none */
    const qs_digest *quant;     /* NULL for the reference */
    const qs_digest *baseline;  /* NULL: not compared with one, or it does not matter which */
} qs_subject;

/* Creates the artifact with /model, /config, /protocol, /tokens/ids, parents and, from the candidate (of
 * neither kind for the reference), /checkpoint or /layers/loss, /calibration and /timing/@quantize_s. */
QS_MUST_CHECK qs_err qs_eval_file_begin(qs_artifact **out, const char *path, const qs_subject *subject,
                                        const qs_candidate *candidate);

/* /tokens/nll, argmax, entropy and, when there, kld. */
QS_MUST_CHECK qs_err qs_eval_file_put_scores(qs_artifact *artifact, const qs_windows *windows,
                                             const qs_token_scores *scores);

/* Streams whose rows are windows. */
QS_MUST_CHECK qs_err qs_eval_file_begin_dumps(qs_artifact *artifact, const qs_subject *subject,
                                              unsigned dumps);

/* What differs between an artifact and a subject: a phrase such as "the tokens", or NULL. `as_baseline`
 * compares what must be equal for a baseline: model, protocol, tokens and compute. */
QS_MUST_CHECK qs_err qs_eval_file_differs(const qs_artifact *artifact, const qs_subject *subject,
                                          bool as_baseline, const char **what);

/* The tasks and dumps whose results an artifact holds. */
unsigned qs_eval_file_tasks(const qs_artifact *artifact);
unsigned qs_eval_file_dumps(const qs_artifact *artifact);

#endif
