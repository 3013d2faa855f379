/* The weights that training starts from. Both ways are functions of the seed and of an element's index alone.
 *
 * "plain": matrices N(0, std^2), those that write into the residual stream with std / sqrt(2 n_layers), gains 1.
 *
 * "reading": for small models that are to find things in their context. What they lack longest when they start from
 * plain noise is heads that look a fixed distance back: attention by distance alone needs a direction that all
 * tokens share, and random embeddings have none (there are no biases in a Llama). So here
 *   - all embeddings share a direction (which a tied head does not see: it adds the same to all logits),
 *   - heads of the first two layers look back by the distances of a table, by that direction and the rotary embedding,
 *   - other heads begin with like attending to like (W_q close to W_k) and with copying (W_o a multiple of W_v^T; the
 *     idea of both is the mimetic initialization of Trockman and Kolter, 2023, arXiv:2305.09828),
 *   - the MLPs write nothing at first.
 * docs/demo-model.md has what difference it makes. */
#ifndef QS_TRAIN_START_H
#define QS_TRAIN_START_H

#include "train/layout.h"

typedef enum qs_train_start { QS_START_PLAIN, QS_START_READING } qs_train_start;
extern const char *const qs_train_start_names[]; /* by number, ends with NULL */

/* `std`: of "plain". parameters [layout->n]. QS_E_RESOURCE without memory. */
QS_MUST_CHECK qs_err qs_train_start_draw(const qs_train_layout *layout, qs_train_start start, uint64_t seed,
                                         double std, float *parameters);

#endif
