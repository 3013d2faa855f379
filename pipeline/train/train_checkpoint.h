/* A training run on disk: everything that the next step depends on. Written whole or not at all, so that a
 * run that was killed at any point goes on from the last one with the same bytes. */
#ifndef QS_TRAIN_TRAIN_CHECKPOINT_H
#define QS_TRAIN_TRAIN_CHECKPOINT_H

#include "train/trainer.h"

enum { QS_CURVE_COLUMNS = 3, QS_VALIDATION_COLUMNS = 5 };

/* What a run has seen so far. */
typedef struct qs_train_state {
    int64_t step;   /* steps done */
    int64_t cursor; /* next example */
    int64_t n_tokens;
    double *curve; /* [step, QS_CURVE_COLUMNS] loss, lr, gradient norm */
    int64_t curve_capacity;
    int64_t n_validations, validation_capacity;
    double *validation; /* [n_validations, QS_VALIDATION_COLUMNS] step, ppl, answer ppl, token share, answer
                           share */
} qs_train_state;

void qs_train_state_fini(qs_train_state *state);
QS_MUST_CHECK qs_err qs_train_state_add(qs_train_state *state, double loss, double lr, double gradient_norm);
QS_MUST_CHECK qs_err qs_train_state_add_validation(qs_train_state *state, const qs_train_loss *loss);

/* `settings`: one "name value" a line. */
QS_MUST_CHECK qs_err qs_train_checkpoint_write(const char *path, const char *settings, const qs_train_state *state,
                                               qs_trainer *trainer, int argc, char *const *argv);

/* Loads parameters, optimizer and state. QS_E_INPUT when the file is broken, of another model, or made with
 * other settings; the text then names the first that differs. */
QS_MUST_CHECK qs_err qs_train_checkpoint_read(const char *path, const char *settings, qs_train_state *state,
                                              qs_trainer *trainer);

#endif
