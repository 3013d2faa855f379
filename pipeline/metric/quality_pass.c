#include "metric/quality_pass.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/minmax.h"

enum { CONTROL_TOKENS = 512 };

/* What a pass over all windows holds. */
typedef struct run {
    const qs_quality_job *job;
    qs_pass_plan plan;
    qs_pass *pass;
    qs_scorer *scorer;
    int64_t d_model, n_vocab;
    bool with_kld;        /* any stream wants it */
    size_t window_bytes;  /* of hidden states */
    float *host_window;   /* [n_ctx, d_model] */
    float *device_window; /* [n_ctx, d_model]: the other side of a comparison */
    float *control;       /* host [control windows, n_ctx, d_model]; reference only */
    float *logits;        /* host [n_ctx, n_vocab]; with a dump of logits */
    int32_t *ids;         /* [batch_windows, n_ctx], of a race: gathered */
    qs_matrix *heads[QS_GROUP_MAX]; /* of candidates that do not have the model's; rotated ones share theirs */
    qs_progress progress;
} run;

void qs_quality_plan(qs_pass_plan *out, const qs_quality_job *job, int64_t n_candidates)
{
    int64_t n_streams = n_candidates > 0 ? qs_min64(n_candidates, QS_GROUP_MAX) : 1;
    qs_pass_plan_make(out, qs_model_get_config(job->model), job->windows->n_ctx, job->windows->n_windows,
                      n_streams, job->budget_bytes);
    if (job->order == NULL || n_candidates == 0) return;
    /* A race looks after every chunk. */
    out->stream_bytes = out->stream_bytes / (size_t)out->batch_windows * (size_t)out->chunk_windows;
    out->batch_windows = out->chunk_windows;
}

static void run_fini(run *r)
{
    qs_progress_finish(&r->progress);
    qs_pass_destroy(r->pass);
    qs_scorer_destroy(r->scorer);
    for (int c = QS_GROUP_MAX - 1; c >= 0; c--) {
        bool again = false;
        for (int k = 0; k < c; k++) again = again || r->heads[k] == r->heads[c];
        if (!again) qs_matrix_destroy(r->heads[c]);
    }
    qs_backend_free(r->job->backend, r->device_window);
    qs_mem_free(r->host_window);
    qs_mem_free(r->control);
    qs_mem_free(r->logits);
    qs_mem_free(r->ids);
}

static qs_err run_init(run *r, const qs_quality_job *job, int64_t n_candidates, qs_quality_stream *streams,
                       int64_t n_streams)
{
    const qs_windows *windows = job->windows;
    const qs_model_config *config = qs_model_get_config(job->model);
    unsigned dumps = 0;
    qs_err err;
    *r = (run){.job = job, .d_model = config->d_model, .n_vocab = config->n_vocab};
    qs_quality_plan(&r->plan, job, n_candidates);
    r->window_bytes = (size_t)(windows->n_ctx * r->d_model) * sizeof(float);
    QS_TRY(qs_pass_create(&r->pass, job->backend, job->model, job->compute, &r->plan));
    QS_TRY(qs_scorer_create(&r->scorer, job->backend, job->model, job->compute));
    QS_TRY(qs_backend_alloc(job->backend, &r->device_window, r->window_bytes, "hidden states of a window"));
    QS_TRY(QS_NEW(r->host_window, windows->n_ctx * r->d_model, "hidden states of a window"));
    for (int64_t s = 0; s < n_streams; s++) {
        bool with_kld = streams[s].with_kld && n_candidates > 0;
        QS_TRY(qs_token_scores_alloc(&streams[s].scores, windows->n_windows * windows->n_scored, with_kld));
        r->with_kld |= with_kld;
        dumps |= streams[s].dumps;
    }
    if ((dumps & QS_DUMP_LOGITS) != 0)
        QS_TRY(QS_NEW(r->logits, windows->n_ctx * r->n_vocab, "logits of a window"));
out:
    return err;
}

static void start_progress(run *r, const char *label)
{
    int64_t n_batches = (r->job->windows->n_windows + r->plan.batch_windows - 1) / r->plan.batch_windows;
    qs_progress_start(&r->progress, label, n_batches * qs_model_get_config(r->job->model)->n_layers);
}

static const float *window_of(const run *r, int64_t stream, int64_t window_in_batch)
{
    return qs_pass_hidden(r->pass, stream) + window_in_batch * r->job->windows->n_ctx * r->d_model;
}

/* The scored rows of a window of hidden states. */
static qs_scored_rows rows_of(const run *r, const char *name, const float *hidden, int64_t window,
                              qs_token_scores *scores)
{
    const qs_windows *windows = r->job->windows;
    return (qs_scored_rows){.name = name,
                            .hidden = hidden + windows->first * r->d_model,
                            .scores = scores,
                            .offset = window * windows->n_scored};
}

static qs_err dump_window(run *r, const qs_quality_stream *stream, const qs_matrix *head, const float *hidden)
{
    qs_err err = QS_OK;
    if ((stream->dumps & QS_DUMP_HIDDEN) != 0) {
        QS_TRY(qs_backend_download(r->job->backend, r->host_window, hidden, r->window_bytes));
        QS_TRY(qs_artifact_append(stream->artifact, "/dump/hidden", 1, r->host_window));
    }
    if ((stream->dumps & QS_DUMP_LOGITS) != 0) {
        QS_TRY(qs_scorer_logits(r->scorer, head, hidden, r->job->windows->n_ctx, r->logits));
        QS_TRY(qs_artifact_append(stream->artifact, "/dump/logits", 1, r->logits));
    }
out:
    return err;
}

/* ---- the reference ---- */

static qs_err run_control(run *r, qs_reference_control *control)
{
    const qs_windows *windows = r->job->windows;
    const qs_linear_source *reference = NULL;
    qs_err err;
    control->n_windows = qs_min64((CONTROL_TOKENS + windows->n_ctx - 1) / windows->n_ctx,
                                  qs_min64(r->plan.chunk_windows, windows->n_windows));
    QS_TRY(qs_token_scores_alloc(&control->scores, control->n_windows * windows->n_scored, true));
    QS_TRY(QS_NEW(r->control, control->n_windows * windows->n_ctx * r->d_model, "hidden states of the control"));
    QS_TRY(qs_pass_run(r->pass, &reference, 1, windows->ids, control->n_windows, NULL));
    QS_TRY(qs_backend_download(r->job->backend, r->control, qs_pass_hidden(r->pass, 0),
                               (size_t)control->n_windows * r->window_bytes));
out:
    return err;
}

static qs_err score_reference_window(run *r, qs_quality_stream *stream, qs_reference_control *control, int64_t window,
                                     const float *hidden)
{
    const qs_windows *windows = r->job->windows;
    qs_scored_rows rows = rows_of(r, stream->name, hidden, window, &stream->scores);
    const int32_t *targets = qs_windows_targets(windows, window);
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(qs_scorer_run(r->scorer, &rows, NULL, 0, targets, windows->n_scored));
    stream->score_s += qs_clock_seconds() - started;
    if (window < control->n_windows) {
        const float *again = r->control + window * windows->n_ctx * r->d_model;
        QS_TRY(qs_backend_upload(r->job->backend, r->device_window, again, r->window_bytes));
        qs_scored_rows candidate = rows_of(r, "the control", r->device_window, window, &control->scores);
        QS_TRY(qs_scorer_run(r->scorer, &rows, &candidate, 1, targets, windows->n_scored));
    }
    QS_TRY(qs_backend_download(r->job->backend, r->host_window, hidden, r->window_bytes));
    QS_TRY(qs_artifact_append(stream->artifact, "/reference/hidden", 1, r->host_window));
    QS_TRY(dump_window(r, stream, NULL, hidden));
out:
    return err;
}

qs_err qs_quality_reference(const qs_quality_job *job, qs_quality_stream *stream, qs_reference_control *control)
{
    const qs_windows *windows = job->windows;
    run r;
    qs_err err;
    QS_TRY(run_init(&r, job, 0, stream, 1));
    QS_TRY(run_control(&r, control));
    QS_TRY(qs_artifact_begin(stream->artifact, "/reference/hidden", QS_F32, 3,
                             (int64_t[]){windows->n_windows, windows->n_ctx, r.d_model}));
    start_progress(&r, "evaluate layers of the reference");
    for (int64_t first = 0; first < windows->n_windows; first += r.plan.batch_windows) {
        int64_t n = qs_min64(windows->n_windows - first, r.plan.batch_windows);
        QS_TRY(qs_pass_run(r.pass, &stream->linears, 1, windows->ids + first * windows->n_ctx, n, &r.progress));
        stream->forward_s += qs_pass_seconds(r.pass, 0);
        for (int64_t w = 0; w < n; w++)
            QS_TRY(score_reference_window(&r, stream, control, first + w, window_of(&r, 0, w)));
    }
out:
    run_fini(&r);
    return err;
}

/* ---- candidates ---- */

/* A group on its way: which of its streams still advance. */
typedef struct candidates {
    run r;
    const qs_baseline *baseline;
    qs_token_scores reference; /* only the tiles of its logits are needed; its NLL is made again as a check */
    qs_quality_stream *streams;
    int64_t n, active[QS_GROUP_MAX];
    const qs_linear_source *sources[QS_GROUP_MAX]; /* of the active ones */
} candidates;

static qs_err score_candidates_window(candidates *g, int64_t window, int64_t window_in_batch)
{
    run *r = &g->r;
    const qs_windows *windows = r->job->windows;
    qs_scored_rows rows[QS_GROUP_MAX];
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(qs_baseline_hidden(g->baseline, window, r->host_window));
    QS_TRY(qs_backend_upload(r->job->backend, r->device_window, r->host_window, r->window_bytes));
    qs_scored_rows reference = rows_of(r, "the reference", r->device_window, window, &g->reference);
    for (int64_t c = 0; c < g->n; c++) {
        qs_quality_stream *stream = &g->streams[g->active[c]];
        rows[c] = rows_of(r, stream->name, window_of(r, c, window_in_batch), window, &stream->scores);
        rows[c].head = r->heads[g->active[c]];
    }
    QS_TRY(qs_scorer_run(r->scorer, r->with_kld ? &reference : NULL, rows, g->n, qs_windows_targets(windows, window),
                         windows->n_scored));
    double share = (qs_clock_seconds() - started) / (double)g->n;
    for (int64_t c = 0; c < g->n; c++) {
        qs_quality_stream *stream = &g->streams[g->active[c]];
        stream->score_s += share;
        QS_TRY(dump_window(r, stream, rows[c].head, window_of(r, c, window_in_batch)));
    }
out:
    return err;
}

/* A head that goes with the candidate's linears, if it is not the model's. */
static qs_err make_head(run *r, const qs_quality_stream *streams, int64_t c)
{
    const qs_linear_source *own = streams[c].linears;
    if (own == NULL || (own->outer == NULL && own->get_head == NULL)) return QS_OK;
    for (int64_t k = 0; own->get_head == NULL && k < c; k++) {
        const qs_linear_source *other = streams[k].linears;
        if (other == NULL || other->outer != own->outer || other->get_head != NULL) continue;
        r->heads[c] = r->heads[k];
        return QS_OK;
    }
    return qs_scorer_make_head(&r->heads[c], r->job->backend, own->outer != NULL ? own->outer : r->job->model, own,
                               r->job->compute);
}

static int64_t window_at(const qs_quality_job *job, int64_t place)
{
    return job->order != NULL ? job->order[place] : place;
}

/* Token ids of the windows at places first .. first + n - 1. */
static const int32_t *gather_ids(run *r, int64_t first, int64_t n)
{
    const qs_windows *w = r->job->windows;
    if (r->job->order == NULL) return w->ids + first * w->n_ctx;
    for (int64_t i = 0; i < n; i++)
        memcpy(r->ids + i * w->n_ctx, w->ids + r->job->order[first + i] * w->n_ctx, (size_t)w->n_ctx * sizeof *w->ids);
    return r->ids;
}

/* Those that are decided leave the group. */
static void look(candidates *g, int64_t first, int64_t n_windows)
{
    int64_t n_left = 0;
    for (int64_t c = 0; c < g->n; c++) {
        qs_quality_stream *stream = &g->streams[g->active[c]];
        qs_quality_input input = {
            .windows = g->r.job->windows, .scores = &stream->scores, .reference = &g->baseline->scores};
        for (int64_t w = 0; w < n_windows; w++) qs_race_add(&stream->race, &input, g->r.job->order[first + w]);
        if (qs_race_decide(&stream->race) == QS_RACE_OPEN) g->active[n_left++] = g->active[c];
    }
    g->n = n_left;
}

static qs_err run_batch(candidates *g, int64_t first, int64_t n_windows)
{
    run *r = &g->r;
    qs_err err;
    for (int64_t c = 0; c < g->n; c++) g->sources[c] = g->streams[g->active[c]].linears;
    QS_TRY(qs_pass_run(r->pass, g->sources, g->n, gather_ids(r, first, n_windows), n_windows, &r->progress));
    for (int64_t c = 0; c < g->n; c++) {
        g->streams[g->active[c]].forward_s += qs_pass_seconds(r->pass, c);
        g->streams[g->active[c]].n_windows = first + n_windows;
    }
    for (int64_t w = 0; w < n_windows; w++) QS_TRY(score_candidates_window(g, window_at(r->job, first + w), w));
    if (r->job->order != NULL) look(g, first, n_windows);
out:
    return err;
}

qs_err qs_quality_candidates(const qs_quality_job *job, const qs_baseline *baseline,
                             qs_quality_stream *streams, int64_t n)
{
    const qs_windows *windows = job->windows;
    candidates g = {.baseline = baseline, .streams = streams, .n = n};
    qs_err err;
    if (n < 1 || n > QS_GROUP_MAX)
        return qs_fail(QS_E_USAGE, "evaluate a group of %lld candidates: 1 to %d are possible", (long long)n,
                       QS_GROUP_MAX);
    QS_TRY(run_init(&g.r, job, n, streams, n));
    g.reference.n = windows->n_windows * windows->n_scored;
    QS_TRY(QS_NEW(g.reference.nll, g.reference.n, "NLL of the reference"));
    for (int64_t i = 0; i < g.reference.n; i++) g.reference.nll[i] = NAN;
    if (job->order != NULL) QS_TRY(QS_NEW(g.r.ids, g.r.plan.batch_windows * windows->n_ctx, "windows of a race"));
    for (int64_t c = 0; c < n; c++) {
        g.active[c] = c;
        QS_TRY(make_head(&g.r, streams, c));
    }
    start_progress(&g.r, "evaluate layers");
    for (int64_t first = 0; first < windows->n_windows && g.n > 0; first += g.r.plan.batch_windows)
        QS_TRY(run_batch(&g, first, qs_min64(windows->n_windows - first, g.r.plan.batch_windows)));
    if (g.r.with_kld) QS_TRY(qs_baseline_check(baseline, g.reference.nll));
out:
    run_fini(&g.r);
    qs_token_scores_free(&g.reference);
    return err;
}
