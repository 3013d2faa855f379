/* A training run from files to files: plan, start or resume, steps, checkpoints, the model. */
#ifndef QS_TRAIN_TRAIN_RUN_H
#define QS_TRAIN_TRAIN_RUN_H

#include "train/compare.h"
#include "train/start.h"

typedef struct qs_train_options {
    const char *config, *tokenizer, *data; /* config.json, tokenizer.json, corpus */
    const char *validation;                /* corpus, or NULL */
    const char *init;                      /* model to start from, or NULL: drawn */
    qs_train_start start;                  /* how they are drawn */
    const char *out, *checkpoint;          /* model directory; checkpoint file */
    int64_t n_rows, n_ctx, n_steps, n_lanes, n_warmup;
    int64_t checkpoint_every, validate_every, n_validation; /* steps, steps, examples */
    double lr, last_share, init_std, answer_weight, clip;
    qs_optimizer_options optimizer;
    qs_compute compute;
    bool shuffle;
    uint64_t seed;
    int n_threads;
    int64_t stop_after; /* steps of this call, for tests; 0 = all */
    int argc;
    char **argv;
} qs_train_options;

typedef struct qs_train_run qs_train_run;

/* Opens everything and checks it: QS_E_INPUT, QS_E_UNSUPPORTED, QS_E_USAGE. Options are borrowed. */
QS_MUST_CHECK qs_err qs_train_run_open(qs_train_run **out, const qs_train_options *options);
void qs_train_run_close(qs_train_run *run);

typedef struct qs_train_plan {
    int64_t n_parameters, n_examples, tokens_per_step;
    size_t bytes; /* while training */
    bool is_done; /* checkpoint and model are those of the last step */
    int64_t steps_done;
} qs_train_plan;
void qs_train_run_plan(const qs_train_run *run, qs_train_plan *plan);

typedef struct qs_train_result {
    int64_t n_steps, n_tokens; /* of this call */
    double seconds, loss;      /* mean weighted loss of the last steps */
    qs_train_loss validation;  /* of the last one; n = 0 when there was none */
} qs_train_result;
/* Trains, writes checkpoints and models, logs. A model appears whole or not at all; the one before it stays until then.
 * QS_E_NUMERIC on NaN, Inf and divergence: the last checkpoint stays. QS_E_RESOURCE says where the run goes on once
 * there is room. QS_E_USAGE when `out` is no directory. */
QS_MUST_CHECK qs_err qs_train_run_all(qs_train_run *run, qs_train_result *result);

/* The same options as a comparison of two optimizers (compare.h), by the bits of their moments; `out` names
 * the artifact. The model's own files are not written. */
QS_MUST_CHECK qs_err qs_train_run_compare(qs_train_run *run, int base_bits, int bits, int64_t n_seeds,
                                          qs_comparison *comparison);

#endif
