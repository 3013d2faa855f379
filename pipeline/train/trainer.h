/* A model in training: parameters, gradients, optimizer state, and one step at a time.
 *
 * The rows of a batch are divided into n_lanes parts, by number alone; each part sums its gradient row by
 * row, and the parts are summed in order. So a step gives the same bytes for any number of threads up to
 * n_lanes, beyond which more threads have nothing to do. */
#ifndef QS_TRAIN_TRAINER_H
#define QS_TRAIN_TRAINER_H

#include "train/optimizer.h"
#include "train/train_pass.h"

typedef struct qs_trainer_options {
    int64_t n_ctx;   /* multiple of QS_TRAIN_ROWS */
    int64_t n_lanes; /* >= 1 */
    int n_threads;
    qs_compute compute;
    qs_optimizer_options optimizer;
    double clip; /* limit of the gradient's norm; 0 = none */
    bool reference_kernels;
} qs_trainer_options;

/* Cosine from lr, after a linear rise over n_warmup steps, to lr * last_share at step n_steps. */
typedef struct qs_schedule {
    double lr, last_share;
    int64_t n_warmup, n_steps;
} qs_schedule;
double qs_schedule_lr(const qs_schedule *schedule, int64_t step); /* step counts from 1 */

typedef struct qs_step_report {
    qs_train_loss loss;   /* summed over the batch */
    double mean;          /* weighted loss over the sum of weights */
    double gradient_norm; /* before clipping */
    double clip;          /* factor in (0, 1] */
    int64_t n_tokens;
} qs_step_report;

typedef struct qs_trainer qs_trainer;
/* Parameters start as 0: qs_train_init or a checkpoint fills them, then qs_trainer_refresh. The layout is
 * borrowed. */
QS_MUST_CHECK qs_err qs_trainer_create(qs_trainer **out, const qs_train_layout *layout,
                                       const qs_trainer_options *options);
void qs_trainer_destroy(qs_trainer *trainer);

const char *qs_trainer_describe(const qs_trainer *trainer);
const qs_train_layout *qs_trainer_layout(const qs_trainer *trainer);
float *qs_trainer_parameters(qs_trainer *trainer);           /* [n] */
const float *qs_trainer_gradient(const qs_trainer *trainer); /* [n] of the last step, before clipping */
qs_optimizer *qs_trainer_optimizer(qs_trainer *trainer);
/* After parameters were changed from outside. */
void qs_trainer_refresh(qs_trainer *trainer);
/* Bytes that training of this layout needs, activations included. */
size_t qs_trainer_plan_bytes(const qs_train_layout *layout, const qs_trainer_options *options);

/* Gradient of the batch's weighted mean loss. QS_E_NUMERIC names the row or the tensor with a NaN or Inf. */
QS_MUST_CHECK qs_err qs_trainer_gradient_step(qs_trainer *trainer, const qs_batch *batch, int64_t step,
                                              qs_step_report *report);
/* That, then the optimizer; step counts from 1. Parameters are unchanged on failure. */
QS_MUST_CHECK qs_err qs_trainer_step(qs_trainer *trainer, const qs_batch *batch, double lr, int64_t step,
                                     qs_step_report *report);
/* Loss alone. */
QS_MUST_CHECK qs_err qs_trainer_evaluate(qs_trainer *trainer, const qs_batch *batch, qs_train_loss *sum);

void qs_train_loss_add(qs_train_loss *sum, const qs_train_loss *row);

/* Stops what no longer learns: the mean of the last QS_GUARD_STEPS losses lies above the lowest such mean by
 * more than half of ln(n_vocab), or above 1.3 ln(n_vocab) at all. The weights of losses do not matter: both
 * are means. */
enum { QS_GUARD_STEPS = 20 };
typedef struct qs_loss_guard {
    double last[QS_GUARD_STEPS];
    double lowest; /* mean */
    int64_t n;
} qs_loss_guard;
/* QS_E_NUMERIC says at which step and what to do. */
QS_MUST_CHECK qs_err qs_loss_guard_add(qs_loss_guard *guard, double loss, int64_t n_vocab, int64_t step);

#endif
