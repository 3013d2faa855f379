/* Forward and backward pass of one row of a batch on one thread.
 *
 * Everything between two products is f32; what enters a product is kept in the engine's type, f32 or bf16. A
 * pass keeps the activations of all layers of one row (qs_train_pass_bytes); attention is computed 64 queries
 * at a time against all keys before them and again in the backward pass, so its probabilities are not kept. */
#ifndef QS_TRAIN_TRAIN_PASS_H
#define QS_TRAIN_TRAIN_PASS_H

#include "backend/cpu/product.h"
#include "train/batch.h"
#include "train/layout.h"
#include "train/row_kernels.h"

typedef struct qs_train_pass_plan qs_train_pass_plan;   /* the products and tables that all threads share */
typedef struct qs_train_pass qs_train_pass; /* the memory of one thread */

/* n_ctx is a multiple of QS_TRAIN_ROWS. The layout is borrowed. */
enum { QS_TRAIN_ROWS = 64 };
QS_MUST_CHECK qs_err qs_train_pass_plan_create(qs_train_pass_plan **out, const qs_train_layout *layout, int64_t n_ctx,
                                               int n_threads, qs_compute compute, bool reference_kernels);
void qs_train_pass_plan_destroy(qs_train_pass_plan *plan);
const char *qs_train_pass_plan_describe(const qs_train_pass_plan *plan); /* "avx512 rows, oneDNN 2.6.3 ..." */
const qs_train_kernels *qs_train_pass_plan_kernels(const qs_train_pass_plan *plan);
size_t qs_train_pass_bytes(const qs_train_layout *layout, int64_t n_ctx, qs_compute compute);
/* The first refusal of oneDNN since the start. */
QS_MUST_CHECK qs_err qs_train_pass_plan_status(const qs_train_pass_plan *plan);

QS_MUST_CHECK qs_err qs_train_pass_create(qs_train_pass **out, const qs_train_pass_plan *plan);
void qs_train_pass_destroy(qs_train_pass *pass);

typedef struct qs_pass_weights {
    const float *f32;     /* [layout n] */
    const void *products; /* the same in the type of the products: bf16 bits, or f32 itself */
} qs_pass_weights;

typedef struct qs_train_loss {
    double weighted;                    /* sum of weight * nll */
    double nll, answer_nll;             /* sums over all targets, and over those of answers */
    int64_t n, n_answer;                /* targets */
    int64_t n_hits, n_answer_hits;      /* targets with the largest logit */
    int64_t n_examples, n_examples_hit; /* segments with an answer; those where every token of it is a hit */
} qs_train_loss;

/* Adds the gradient of scale * (weighted loss of the row) to gradient [layout n]; NULL: loss alone. */
qs_train_loss qs_train_pass_run(qs_train_pass *pass, int thread, const qs_pass_weights *weights,
                                const qs_batch *batch, int64_t row, float scale, float *gradient);

#endif
