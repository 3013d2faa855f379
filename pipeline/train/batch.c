#include "train/batch.h"

#include <string.h>

#include "base/mem.h"

enum { SEGMENT_TOKENS_MIN = 2 };

qs_err qs_batch_init(qs_batch *out, int64_t n_rows, int64_t n_ctx)
{
    qs_err err;
    int64_t n = n_rows * n_ctx;
    *out = (qs_batch){.n_rows = n_rows, .n_ctx = n_ctx, .n_segments_max = n_ctx / SEGMENT_TOKENS_MIN + 1};
    QS_TRY(QS_NEW(out->tokens, n, "tokens of a batch"));
    QS_TRY(QS_NEW(out->targets, n, "targets of a batch"));
    QS_TRY(QS_NEW(out->weights, n, "weights of a batch"));
    QS_TRY(QS_NEW(out->is_answer, n, "answers of a batch"));
    QS_TRY(QS_NEW(out->segments, n_rows * out->n_segments_max, "segments of a batch"));
    QS_TRY(QS_NEW(out->n_segments, n_rows, "segments of a batch"));
out:
    if (err != QS_OK) qs_batch_fini(out);
    return err;
}

void qs_batch_fini(qs_batch *batch)
{
    qs_mem_free(batch->tokens);
    qs_mem_free(batch->targets);
    qs_mem_free(batch->weights);
    qs_mem_free(batch->is_answer);
    qs_mem_free(batch->segments);
    qs_mem_free(batch->n_segments);
    *batch = (qs_batch){0};
}

void qs_batch_clear(qs_batch *batch)
{
    size_t n = (size_t)(batch->n_rows * batch->n_ctx);
    memset(batch->tokens, 0, n * sizeof *batch->tokens);
    memset(batch->targets, 0, n * sizeof *batch->targets);
    memset(batch->weights, 0, n * sizeof *batch->weights);
    memset(batch->is_answer, 0, n * sizeof *batch->is_answer);
    memset(batch->n_segments, 0, (size_t)batch->n_rows * sizeof *batch->n_segments);
    batch->weight = 0;
    batch->n_tokens = 0;
}

bool qs_batch_add(qs_batch *batch, int64_t n, const int32_t *tokens, const float *weights,
                  const uint8_t *is_answer)
{
    for (int64_t row = 0; row < batch->n_rows; row++) {
        qs_segment *segments = batch->segments + row * batch->n_segments_max;
        int64_t n_segments = batch->n_segments[row];
        int64_t first = n_segments > 0 ? segments[n_segments - 1].first + segments[n_segments - 1].n : 0;
        if (batch->n_ctx - first < n) continue;
        segments[n_segments] = (qs_segment){.first = first, .n = n};
        batch->n_segments[row]++;
        int64_t at = row * batch->n_ctx + first;
        memcpy(batch->tokens + at, tokens, (size_t)n * sizeof *tokens);
        for (int64_t i = 0; i + 1 < n; i++) {
            batch->targets[at + i] = tokens[i + 1];
            batch->weights[at + i] = weights[i + 1];
            batch->is_answer[at + i] = is_answer[i + 1];
            batch->weight += weights[i + 1];
        }
        batch->n_tokens += n;
        return true;
    }
    return false;
}
