#include "metric/quality_pass.h"

#include "base/clock.h"
#include "base/mem.h"

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
    qs_matrix *heads[QS_GROUP_MAX]; /* of candidates that do not have the model's; rotated ones share theirs */
    qs_progress progress;
} run;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

void qs_quality_plan(qs_pass_plan *out, const qs_quality_job *job, int64_t n_candidates)
{
    int64_t n_streams = n_candidates > 0 ? least(n_candidates, QS_GROUP_MAX) : 1;
    qs_pass_plan_make(out, qs_model_get_config(job->model), job->windows->n_ctx, job->windows->n_windows,
                      n_streams, job->budget_bytes);
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

static qs_err run_control(run *r, qs_control *control)
{
    const qs_windows *windows = r->job->windows;
    const qs_linear_source *reference = NULL;
    qs_err err;
    control->n_windows = least(r->plan.chunk_windows, windows->n_windows);
    QS_TRY(qs_token_scores_alloc(&control->scores, control->n_windows * windows->n_scored, true));
    QS_TRY(
        QS_NEW(r->control, control->n_windows * windows->n_ctx * r->d_model, "hidden states of the control"));
    QS_TRY(qs_pass_run(r->pass, &reference, 1, windows->ids, control->n_windows, NULL));
    QS_TRY(qs_backend_download(r->job->backend, r->control, qs_pass_hidden(r->pass, 0),
                               (size_t)control->n_windows * r->window_bytes));
out:
    return err;
}

static qs_err score_reference_window(run *r, qs_quality_stream *stream, qs_control *control, int64_t window,
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

qs_err qs_quality_reference(const qs_quality_job *job, qs_quality_stream *stream, qs_control *control)
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
        int64_t n = least(windows->n_windows - first, r.plan.batch_windows);
        QS_TRY(
            qs_pass_run(r.pass, &stream->linears, 1, windows->ids + first * windows->n_ctx, n, &r.progress));
        stream->forward_s += qs_pass_seconds(r.pass, 0);
        for (int64_t w = 0; w < n; w++)
            QS_TRY(score_reference_window(&r, stream, control, first + w, window_of(&r, 0, w)));
    }
out:
    run_fini(&r);
    return err;
}

/* ---- candidates ---- */

static qs_err score_candidates_window(run *r, const qs_baseline *baseline, qs_token_scores *reference_scores,
                                      qs_quality_stream *streams, int64_t n, int64_t window,
                                      int64_t window_in_batch)
{
    const qs_windows *windows = r->job->windows;
    qs_scored_rows candidates[QS_GROUP_MAX];
    double started = qs_clock_seconds();
    qs_err err;
    QS_TRY(qs_baseline_hidden(baseline, window, r->host_window));
    QS_TRY(qs_backend_upload(r->job->backend, r->device_window, r->host_window, r->window_bytes));
    qs_scored_rows reference = rows_of(r, "the reference", r->device_window, window, reference_scores);
    for (int64_t c = 0; c < n; c++) {
        candidates[c] = rows_of(r, streams[c].name, window_of(r, c, window_in_batch), window, &streams[c].scores);
        candidates[c].head = r->heads[c];
    }
    QS_TRY(qs_scorer_run(r->scorer, r->with_kld ? &reference : NULL, candidates, n,
                         qs_windows_targets(windows, window), windows->n_scored));
    double share = (qs_clock_seconds() - started) / (double)n;
    for (int64_t c = 0; c < n; c++) {
        streams[c].score_s += share;
        QS_TRY(dump_window(r, &streams[c], r->heads[c], window_of(r, c, window_in_batch)));
    }
out:
    return err;
}

/* A head that goes with the candidate's linears, if it is not the model's. */
static qs_err make_head(run *r, const qs_linear_source *const *sources, int64_t c)
{
    const qs_linear_source *own = sources[c];
    if (own == NULL || (own->outer == NULL && own->get_head == NULL)) return QS_OK;
    for (int64_t k = 0; own->get_head == NULL && k < c; k++) {
        if (sources[k] == NULL || sources[k]->outer != own->outer || sources[k]->get_head != NULL) continue;
        r->heads[c] = r->heads[k];
        return QS_OK;
    }
    return qs_scorer_make_head(&r->heads[c], r->job->backend, own->outer != NULL ? own->outer : r->job->model, own,
                               r->job->compute);
}

qs_err qs_quality_candidates(const qs_quality_job *job, const qs_baseline *baseline,
                             qs_quality_stream *streams, int64_t n)
{
    const qs_windows *windows = job->windows;
    const qs_linear_source *sources[QS_GROUP_MAX];
    qs_token_scores reference = {0};
    run r;
    qs_err err;
    if (n < 1 || n > QS_GROUP_MAX)
        return qs_fail(QS_E_USAGE, "evaluate a group of %lld candidates: 1 to %d are possible", (long long)n,
                       QS_GROUP_MAX);
    QS_TRY(run_init(&r, job, n, streams, n));
    /* Of the reference only the tiles of logits are needed; its NLL is made again as a check. */
    reference.n = windows->n_windows * windows->n_scored;
    QS_TRY(QS_NEW(reference.nll, reference.n, "NLL of the reference"));
    for (int64_t c = 0; c < n; c++) {
        sources[c] = streams[c].linears;
        QS_TRY(make_head(&r, sources, c));
    }
    start_progress(&r, "evaluate layers");
    for (int64_t first = 0; first < windows->n_windows; first += r.plan.batch_windows) {
        int64_t n_windows = least(windows->n_windows - first, r.plan.batch_windows);
        QS_TRY(
            qs_pass_run(r.pass, sources, n, windows->ids + first * windows->n_ctx, n_windows, &r.progress));
        for (int64_t c = 0; c < n; c++) streams[c].forward_s += qs_pass_seconds(r.pass, c);
        for (int64_t w = 0; w < n_windows; w++)
            QS_TRY(score_candidates_window(&r, baseline, &reference, streams, n, first + w, w));
    }
    if (r.with_kld) QS_TRY(qs_baseline_check(baseline, reference.nll));
out:
    run_fini(&r);
    qs_token_scores_free(&reference);
    return err;
}
