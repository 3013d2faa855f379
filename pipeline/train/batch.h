/* What one step trains on: rows of n_ctx tokens, each filled with whole examples, one behind the other. An
 * example sees itself alone and counts its positions from 0, so that packing changes nothing but the speed. */
#ifndef QS_TRAIN_BATCH_H
#define QS_TRAIN_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct qs_segment {
    int64_t first, n; /* positions of its row */
} qs_segment;

typedef struct qs_batch {
    int64_t n_rows, n_ctx;
    int32_t *tokens;      /* [n_rows, n_ctx]; 0 behind the last segment */
    int32_t *targets;     /* [n_rows, n_ctx] the token that follows in the same example */
    float *weights;       /* [n_rows, n_ctx] of the target's loss; 0 where there is none */
    uint8_t *is_answer;   /* [n_rows, n_ctx] the target belongs to an answer */
    qs_segment *segments; /* [n_rows, n_segments_max], by position */
    int64_t *n_segments;  /* [n_rows] */
    int64_t n_segments_max;
    double weight;    /* sum of weights */
    int64_t n_tokens; /* positions inside segments */
} qs_batch;

QS_MUST_CHECK qs_err qs_batch_init(qs_batch *out, int64_t n_rows, int64_t n_ctx);
void qs_batch_fini(qs_batch *batch);
void qs_batch_clear(qs_batch *batch);

/* Puts an example of n >= 2 tokens into the first row that has room; false when none has. weights and
 * is_answer [n] belong to the tokens themselves; those of the first are not used, since nothing predicts it. */
bool qs_batch_add(qs_batch *batch, int64_t n, const int32_t *tokens, const float *weights,
                  const uint8_t *is_answer);

#endif
