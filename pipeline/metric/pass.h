/* One pass of several streams through the model, layer by layer: the weights of a layer are loaded into the
 * memory of one block, move a stream's windows on, and make room for the next stream's. A stream is a source
 * of linears (NULL = the model's own weights) with residual states of its own. */
#ifndef QS_METRIC_PASS_H
#define QS_METRIC_PASS_H

#include "base/progress.h"
#include "model/forward.h"

/* How a pass is cut to fit into memory. Chunks (what goes through a block at once) depend on n_ctx alone and
 * batches are whole chunks, so that no result depends on how much memory there was. */
typedef struct qs_pass_plan {
    int64_t n_ctx, chunk_windows;
    int64_t batch_windows; /* windows whose states are held at once */
    int64_t n_streams;     /* streams that advance together */
    size_t stream_bytes;   /* residual states of all streams */
    size_t scratch_bytes;
} qs_pass_plan;

/* Streams first get whole batches of QS_PASS_BATCH_TOKENS, below which loading weights would weigh; what is
 * left of the budget goes to more streams at once (up to n_streams_max), then to longer batches. */
enum { QS_PASS_BATCH_TOKENS = 16384 };
void qs_pass_plan_make(qs_pass_plan *out, const qs_model_config *config, int64_t n_ctx, int64_t n_windows,
                       int64_t n_streams_max, size_t budget_bytes);

typedef struct qs_pass qs_pass;
QS_MUST_CHECK qs_err qs_pass_create(qs_pass **out, qs_backend *backend, const qs_model *model,
                                    qs_compute compute, const qs_pass_plan *plan);
void qs_pass_destroy(qs_pass *pass);

/* ids [n_windows, n_ctx] through all layers and the final norm; n_windows <= batch_windows, n <= n_streams.
 * The progress (NULL = none) moves on by one per layer. */
QS_MUST_CHECK qs_err qs_pass_run(qs_pass *pass, const qs_linear_source *const *sources, int64_t n,
                                 const int32_t *ids, int64_t n_windows, qs_progress *progress);

/* Final hidden states of a stream after qs_pass_run: device [n_windows, n_ctx, d_model]. */
const float *qs_pass_hidden(const qs_pass *pass, int64_t stream);

/* Time that the last qs_pass_run spent on a stream: loading its weights and moving it on. */
double qs_pass_seconds(const qs_pass *pass, int64_t stream);

#endif
