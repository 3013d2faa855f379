#include "metric/pass.h"

#include "base/clock.h"
#include "base/mem.h"
#include "model/feed.h"

/* Enough rows for the matrix products to reach their rate, few enough for the activations to stay small. */
enum { CHUNK_TOKENS = 2048 };

struct qs_pass {
    qs_backend *backend;
    const qs_model *model;
    qs_pass_plan plan;
    qs_feed feed;
    qs_scratch *scratch;
    float *states;                  /* device [n_streams, batch_windows * n_ctx, d_model] */
    double *seconds;                /* [n_streams] */
    int64_t d_model, n_layers_done; /* of all runs, for the progress */
};

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

void qs_pass_plan_make(qs_pass_plan *out, const qs_model_config *config, int64_t n_ctx, int64_t n_windows,
                       int64_t n_streams_max, size_t budget_bytes)
{
    int64_t chunk = clamp(CHUNK_TOKENS / n_ctx, 1, n_windows);
    int64_t n_chunks = (n_windows + chunk - 1) / chunk,
            wanted = clamp(QS_PASS_BATCH_TOKENS / (chunk * n_ctx), 1, n_chunks);
    size_t chunk_bytes = (size_t)(chunk * n_ctx * config->d_model) * sizeof(float);
    int64_t affordable = (int64_t)(budget_bytes / chunk_bytes);
    *out = (qs_pass_plan){.n_ctx = n_ctx, .chunk_windows = chunk};
    out->n_streams = clamp(affordable / wanted, 1, n_streams_max);
    int64_t batch_chunks = clamp(affordable / out->n_streams, 1, n_chunks);
    out->batch_windows = clamp(batch_chunks * chunk, 1, n_windows);
    out->stream_bytes =
        (size_t)(out->n_streams * out->batch_windows * n_ctx * config->d_model) * sizeof(float);
    out->scratch_bytes = qs_scratch_bytes(config, chunk * n_ctx);
}

qs_err qs_pass_create(qs_pass **out, qs_backend *backend, const qs_model *model, qs_compute compute,
                      const qs_pass_plan *plan)
{
    qs_pass *pass = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(QS_NEW(pass, 1, "pass"));
    pass->backend = backend;
    pass->model = model;
    pass->plan = *plan;
    pass->d_model = qs_model_get_config(model)->d_model;
    qs_feed_init(&pass->feed, backend, model,
                 &(qs_block_options){.uses = QS_USE_GEMM, .compute = compute, .dense_dtype = QS_F32});
    QS_TRY(QS_NEW(pass->seconds, plan->n_streams, "times of the streams"));
    QS_TRY(qs_backend_alloc(backend, &pass->states, plan->stream_bytes, "residual states of the streams"));
    QS_TRY(qs_scratch_create(&pass->scratch, backend, model, plan->chunk_windows * plan->n_ctx));
    *out = pass;
    pass = NULL;
out:
    qs_pass_destroy(pass);
    return err;
}

void qs_pass_destroy(qs_pass *pass)
{
    if (pass == NULL) return;
    qs_feed_fini(&pass->feed);
    qs_scratch_destroy(pass->scratch);
    qs_backend_free(pass->backend, pass->states);
    qs_mem_free(pass->seconds);
    qs_mem_free(pass);
}

/* Whose embedding and final norm a stream has. */
static const qs_model *outer_of(const qs_pass *pass, const qs_linear_source *source)
{
    return source != NULL && source->outer != NULL ? source->outer : pass->model;
}

static float *stream_states(const qs_pass *pass, int64_t stream)
{
    return pass->states + stream * pass->plan.batch_windows * pass->plan.n_ctx * pass->d_model;
}

const float *qs_pass_hidden(const qs_pass *pass, int64_t stream) { return stream_states(pass, stream); }

double qs_pass_seconds(const qs_pass *pass, int64_t stream) { return pass->seconds[stream]; }

/* Moves one stream through one layer, whose weights are loaded, and loads what the next step (a stream and a layer)
 * needs beside that. `next` NULL = the model's own weights; next_layer -1 = there is no further step. */
static qs_err advance(qs_pass *pass, int64_t stream, int64_t n_windows, const qs_linear_source *next,
                      int64_t next_layer)
{
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(qs_feed_mark(&pass->feed));
    QS_TRY(qs_block_forward(qs_feed_block(&pass->feed), pass->scratch, stream_states(pass, stream), n_windows,
                            pass->plan.n_ctx, NULL));
    if (next_layer >= 0 && pass->feed.pair) QS_TRY(qs_feed_load_next(&pass->feed, next, next_layer));
    QS_TRY(qs_backend_sync(pass->backend));
    pass->seconds[stream] += qs_clock_seconds() - started;
out:
    return err;
}

/* What cannot be loaded beside the step before is loaded in front of its own, whose time that is. */
static qs_err load_first(qs_pass *pass, const qs_linear_source *linears, int64_t stream, int64_t layer)
{
    double started = qs_clock_seconds();
    qs_err err = qs_feed_load(&pass->feed, linears, layer);
    pass->seconds[stream] += qs_clock_seconds() - started;
    return err;
}

qs_err qs_pass_run(qs_pass *pass, const qs_linear_source *const *sources, int64_t n, const int32_t *ids,
                   int64_t n_windows, qs_progress *progress)
{
    qs_err err = QS_OK;
    const qs_pass_plan *plan = &pass->plan;
    int64_t n_layers = qs_model_get_config(pass->model)->n_layers, n_rows = n_windows * plan->n_ctx;
    if (n < 1 || n > plan->n_streams || n_windows < 1 || n_windows > plan->batch_windows)
        return qs_fail(QS_E_USAGE, "run pass: %lld streams of %lld windows, planned were %lld of %lld",
                       (long long)n, (long long)n_windows, (long long)plan->n_streams,
                       (long long)plan->batch_windows);
    for (int64_t s = 0, same; s < n; s++) {
        pass->seconds[s] = 0.0;
        for (same = 0; outer_of(pass, sources[same]) != outer_of(pass, sources[s]);) same++;
        if (same < s)
            QS_TRY(qs_backend_copy(pass->backend, stream_states(pass, s), stream_states(pass, same),
                                   (size_t)(n_rows * pass->d_model) * sizeof(float)));
        else
            QS_TRY(qs_forward_embed(pass->backend, outer_of(pass, sources[s]), ids, n_rows, stream_states(pass, s)));
    }
    for (int64_t layer = 0; layer < n_layers; layer++) {
        for (int64_t s = 0; s < n; s++) {
            bool last = s + 1 == n;
            int64_t next_layer = !last ? layer : layer + 1 < n_layers ? layer + 1 : -1;
            if (!pass->feed.pair || (layer == 0 && s == 0)) QS_TRY(load_first(pass, sources[s], s, layer));
            QS_TRY(advance(pass, s, n_windows, sources[last ? 0 : s + 1], next_layer));
        }
        if (progress != NULL) qs_progress_update(progress, ++pass->n_layers_done);
    }
    for (int64_t s = 0; s < n; s++)
        QS_TRY(qs_forward_final_norm(pass->backend, outer_of(pass, sources[s]), stream_states(pass, s), n_rows));
out:
    return err;
}
