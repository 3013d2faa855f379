/* Running an evaluation: the reference, then groups of candidates; each group takes one pass, then every
 * point of it is deployed, timed and published. */
#include <string.h>

#include "artifact/failure.h"
#include "backend/backend_record.h"
#include "base/log.h"
#include "metric/evaluation_parts.h"
#include "metric/load_check.h"
#include "metric/machine_lock.h"
#include "metric/memory.h"
#include "metric/quality.h"

typedef struct runner {
    qs_evaluation *e;
    qs_machine_lock lock;
    qs_deployment reference; /* created when first needed, kept for all points */
} runner;

/* ---- deployed: latency and memory ---- */

static qs_err need_reference(runner *r)
{
    if (r->reference.decoder != NULL) return QS_OK;
    qs_deployed what = qs_deployed_reference(r->e);
    return qs_deploy_timed(r->e, &r->reference, &what, qs_latency_ctx(&r->e->options.latency));
}

static qs_err put_machine(qs_artifact *artifact, const qs_deployment *deployment, int64_t device)
{
    const qs_backend *backend = deployment->backend;
    char text[QS_PLACEMENT_TEXT_BYTES];
    qs_err err;
    if (qs_backend_has_device(backend))
        QS_TRY(qs_artifact_put_text(artifact, "/timing/@placement", qs_placement_format(text, &deployment->placement)));
    QS_TRY(qs_artifact_put_text(artifact, "/timing/@backend", qs_backend_name(backend)));
    QS_TRY(qs_artifact_put_text(artifact, "/timing/@device", qs_backend_device(backend)));
    QS_TRY(qs_artifact_put_text(artifact, "/timing/@kernel", qs_backend_describe(backend)));
    QS_TRY(qs_artifact_put_int(artifact, "/timing/@n_threads", qs_backend_n_threads(backend)));
    QS_TRY(qs_backend_record_clocks(artifact, "/timing/@clocks", backend, device));
out:
    return err;
}

static qs_err time_deployment(const runner *r, qs_deployment *deployment, qs_deployment *reference,
                              unsigned tasks, qs_artifact *artifact)
{
    const qs_eval_options *o = &r->e->options;
    /* Memory needs a decoder that has worked, not one that was timed. */
    static const qs_latency_options one_round = {
        .n_prompt = 64, .n_prefills = 1, .n_rounds = 1, .round_tokens = 8};
    bool timed = (tasks & QS_TASK_LATENCY) != 0;
    qs_latency latency = {0};
    qs_err err;
    QS_TRY(qs_latency_measure(&latency, deployment->decoder,
                              timed && reference != NULL ? reference->decoder : NULL,
                              qs_model_get_config(r->e->model)->n_vocab, o->windows->ids,
                              o->windows->n_windows * o->windows->n_ctx, timed ? &o->latency : &one_round));
    qs_deployment_measure(deployment);
    if (timed) QS_TRY(qs_latency_put(artifact, &latency, o->seed));
    if ((tasks & QS_TASK_MEMORY) != 0) QS_TRY(qs_memory_put(artifact, &deployment->use));
    QS_TRY(put_machine(artifact, deployment, o->device));
out:
    qs_latency_free(&latency);
    return err;
}

/* candidate NULL = the reference itself. */
static qs_err measure_deployed(runner *r, const qs_eval_point *point, const qs_candidate *candidate,
                               qs_artifact *artifact)
{
    qs_deployment own = {0};
    bool timed = (point->tasks & QS_TASK_LATENCY) != 0;
    qs_err err;
    if ((point->tasks & (QS_TASK_LATENCY | QS_TASK_MEMORY)) == 0) return QS_OK;
    QS_TRY(qs_machine_lock_own(&r->lock));
    if (candidate == NULL || timed) QS_TRY(need_reference(r));
    if (candidate == NULL) {
        QS_TRY(time_deployment(r, &r->reference, NULL, point->tasks, artifact));
    } else {
        qs_deployed what = qs_deployed_candidate(r->e, candidate);
        QS_TRY(qs_deploy_timed(r->e, &own, &what, qs_latency_ctx(&r->e->options.latency)));
        QS_TRY(time_deployment(r, &own, &r->reference, point->tasks, artifact));
    }
    QS_TRY(qs_machine_lock_share(&r->lock));
out:
    qs_deployment_destroy(&own);
    return err;
}

/* ---- one point's artifact ---- */

static qs_err put_metric(void *context, const qs_metric *metric, const qs_estimate *estimate)
{
    return qs_metric_put(context, metric, estimate);
}

static qs_err put_times(qs_evaluation *e, qs_artifact *artifact, const qs_quality_stream *stream)
{
    qs_err err;
    e->pass_s += stream->forward_s + stream->score_s;
    QS_TRY(qs_artifact_put_real(artifact, "/timing/@forward_s", stream->forward_s));
    QS_TRY(qs_artifact_put_real(artifact, "/timing/@score_s", stream->score_s));
out:
    return err;
}

static void name_stream(qs_quality_stream *stream, const qs_eval_point *point)
{
    stream->name = point->id;
    stream->dumps = point->dumps;
    stream->with_kld = (point->tasks & QS_TASK_KLD) != 0;
}

/* windows NULL = all of them. */
static qs_err begin_point(const runner *r, const qs_eval_point *point, const qs_candidate *candidate,
                          const qs_windows *windows, qs_quality_stream *stream)
{
    const qs_eval_options *o = &r->e->options;
    qs_subject subject = qs_evaluation_subject(r->e, point);
    qs_err err;
    if (windows != NULL) subject.windows = windows;
    QS_TRY(qs_eval_file_begin(&stream->artifact, point->path, &subject, candidate));
    QS_TRY(qs_artifact_set_command(stream->artifact, o->argc, o->argv));
    QS_TRY(qs_backend_record(stream->artifact, r->e->backend, o->device));
    QS_TRY(qs_eval_file_begin_dumps(stream->artifact, &subject, point->dumps));
    if ((point->dumps & QS_DUMP_EMBEDDINGS) != 0) QS_TRY(qs_embeddings_put(stream->artifact, o->embeddings));
    if (point->kind != QS_CANDIDATE_NONE)
        QS_TRY(qs_load_check(candidate, r->e->model, o->seed, put_metric, stream->artifact));
out:
    return err;
}

static qs_err seal_point(qs_eval_point *point, qs_quality_stream *stream)
{
    qs_artifact *artifact = stream->artifact;
    stream->artifact = NULL;
    qs_err err = qs_artifact_seal(artifact, NULL);
    point->current = err == QS_OK;
    return err;
}

/* ---- telling ---- */

static void add_metric(char *text, size_t bytes, const qs_artifact *artifact, const char *name,
                       const char *fmt)
{
    qs_estimate estimate;
    bool present;
    size_t used = strlen(text);
    if (qs_metric_get(artifact, qs_metric_find(name), &estimate, &present) != QS_OK || !present) return;
    if (used == 0 && *fmt == ',') fmt++;
    (void)snprintf(text + used, bytes - used, fmt, estimate.value);
}

/* What this point alone has cost. */
static void add_time(char *text, size_t bytes, const qs_artifact *artifact, const char *path, const char *fmt)
{
    double seconds;
    size_t used = strlen(text);
    if (!qs_artifact_has(artifact, path) || qs_artifact_get_real(artifact, path, &seconds) != QS_OK) return;
    (void)snprintf(text + used, bytes - used, fmt, seconds);
}

static void tell_point(const qs_eval_point *point, const qs_quality_stream *stream)
{
    static const struct {
        const char *name, *fmt;
    } rows[] = {
        {"ppl", " ppl %.4f"},
        {"ppl_ratio", " (x%.4f)"},
        {"kld_mean", ", KLD %.3g"},
        {"top1_agree", ", top-1 %.4f"},
        {"decode_ms_tok_p50", ", %.2f ms/token"},
        {"latency_gain_pct", " (gain %.1f %%)"},
        {"qa_acc", ", answers %.3f right"},
        {"json_ok", ", JSON %.3f"},
        {"cov_cited", ", cited %.3f"},
        {"snippet_divergence", ", snippets differ in %.3f"},
        {"first_divergence_step", ", long texts part at token %.1f"},
    };
    char text[512] = "";
    qs_artifact *artifact;
    if (qs_artifact_open(&artifact, point->path, QS_KIND_EVAL) != QS_OK) return;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        add_metric(text, sizeof text, artifact, rows[i].name, rows[i].fmt);
    add_time(text, sizeof text, artifact, "/timing/@answers_s", "; answers %.1f s");
    add_time(text, sizeof text, artifact, "/timing/@entropy_s", "; long texts %.1f s");
    qs_artifact_close(artifact);
    if ((point->tasks & QS_TASKS_QUALITY) == 0) qs_log_info("%s:%s", point->id, text);
    else
        qs_log_info("%s:%s; blocks %.2f s, head and statistics %.2f s", point->id, text, stream->forward_s,
                    stream->score_s);
}

static void tell_stale(const qs_eval_point *point)
{
    if (point->stale != NULL) qs_log_info("%s: evaluated again, since %s changed", point->id, point->stale);
}

/* What the promise "one more point costs little more than its own arithmetic" comes to here. */
static void tell_cost(const qs_evaluation *e, const qs_quality_stream *streams, int64_t n)
{
    double reference = e->baseline.forward_s + e->baseline.score_s, own = 0.0;
    for (int64_t i = 0; i < n; i++) own += streams[i].forward_s + streams[i].score_s;
    if (reference > 0.0)
        qs_log_info("%.2f s for each of %lld points: %.2f of the reference's forward pass (%.2f s)",
                    own / (double)n, (long long)n, own / (double)n / reference, reference);
}

/* ---- the reference ---- */

/* Its own numbers, then the negative control: the second pass of the first windows against the first. */
static qs_err put_reference_quality(const runner *r, const qs_eval_point *point,
                                    const qs_quality_stream *stream, const qs_reference_control *control)
{
    const qs_eval_options *o = &r->e->options;
    qs_windows some = *o->windows;
    some.n_windows = control->n_windows;
    qs_quality_input input = {.windows = o->windows,
                              .scores = &stream->scores,
                              .reference = &stream->scores,
                              .tasks = point->tasks,
                              .part = QS_QUALITY_OWN,
                              .seed = o->seed};
    qs_err err;
    QS_TRY(qs_eval_file_put_scores(stream->artifact, o->windows, &stream->scores));
    QS_TRY(qs_quality_measure(&input, put_metric, stream->artifact));
    input = (qs_quality_input){.windows = &some,
                               .scores = &control->scores,
                               .reference = &stream->scores,
                               .tasks = point->tasks,
                               .part = QS_QUALITY_PAIRED,
                               .seed = o->seed};
    QS_TRY(qs_quality_measure(&input, put_metric, stream->artifact));
out:
    return err;
}

static qs_err run_reference(runner *r)
{
    qs_evaluation *e = r->e;
    qs_eval_point *point = &e->reference;
    qs_quality_stream stream = {0};
    qs_reference_control control = {0};
    qs_candidate none = {0};
    qs_curve_pair text = {0};
    qs_quality_job job = qs_evaluation_job(e);
    qs_err err;
    tell_stale(point);
    name_stream(&stream, point);
    QS_TRY(begin_point(r, point, &none, NULL, &stream));
    if ((point->tasks & QS_TASKS_QUALITY) != 0) {
        QS_TRY(qs_quality_reference(&job, &stream, &control));
        QS_TRY(put_reference_quality(r, point, &stream, &control));
        text = (qs_curve_pair){.n = control.n_windows, .n_steps = e->options.windows->n_scored,
                               .entropy = control.scores.entropy, .reference = stream.scores.entropy};
        QS_TRY(put_times(e, stream.artifact, &stream));
    }
    QS_TRY(qs_evaluate_answers(e, point, NULL, stream.artifact));
    QS_TRY(qs_evaluate_entropy(e, point, NULL, &text, stream.artifact));
    QS_TRY(measure_deployed(r, point, NULL, stream.artifact));
    QS_TRY(seal_point(point, &stream));
    tell_point(point, &stream);
out:
    qs_artifact_abort(stream.artifact);
    qs_token_scores_free(&stream.scores);
    qs_token_scores_free(&control.scores);
    return qs_context(err, "evaluate the reference");
}

/* ---- candidates ---- */

typedef struct group {
    int64_t n;
    bool quality;
    qs_eval_point *points[QS_GROUP_MAX];
    qs_candidate candidates[QS_GROUP_MAX];
    qs_linear_source sources[QS_GROUP_MAX];
    qs_quality_stream streams[QS_GROUP_MAX];
} group;

static void group_fini(group *g)
{
    for (int64_t i = 0; i < g->n; i++) {
        qs_artifact_abort(g->streams[i].artifact);
        qs_token_scores_free(&g->streams[i].scores);
        qs_candidate_close(&g->candidates[i]);
    }
}

static qs_err group_add(const runner *r, group *g, qs_eval_point *point)
{
    const qs_eval_options *o = &r->e->options;
    qs_quality_stream *stream = &g->streams[g->n];
    qs_candidate *candidate = &g->candidates[g->n];
    qs_err err;
    g->points[g->n] = point;
    g->n++; /* from here on the group cleans up */
    QS_TRY(qs_candidate_open(candidate, point->kind, point->quant_path, r->e->model));
    g->sources[g->n - 1] = qs_candidate_source(candidate);
    stream->linears = &g->sources[g->n - 1];
    name_stream(stream, point);
    /* On which windows it stands shows at the end of a race. */
    if (r->e->order != NULL && g->quality)
        QS_TRY(qs_race_start(&stream->race, o->race, qs_budgets_profile(qs_candidate_method(candidate)), point->tasks));
    else QS_TRY(begin_point(r, point, candidate, NULL, stream));
out:
    return err;
}

/* Scores and metrics of a candidate on some windows, and of them its curve of entropies. */
static qs_err put_quality(runner *r, const qs_eval_point *point, qs_quality_stream *stream, const qs_windows *windows,
                          const qs_token_scores *scores, const qs_token_scores *reference)
{
    qs_quality_input input = {.windows = windows,
                              .scores = scores,
                              .reference = reference,
                              .tasks = point->tasks,
                              .part = QS_QUALITY_ALL,
                              .seed = r->e->options.seed};
    qs_err err;
    QS_TRY(qs_eval_file_put_scores(stream->artifact, windows, scores));
    QS_TRY(qs_quality_measure(&input, put_metric, stream->artifact));
    QS_TRY(put_times(r->e, stream->artifact, stream));
out:
    return err;
}

static qs_raced result_of_race(const qs_evaluation *e, const qs_quality_stream *stream)
{
    const qs_windows *w = e->options.windows;
    const qs_race_gate *missed = stream->race.missed;
    qs_raced raced = {.raced = true,
                      .n_windows = stream->n_windows,
                      .n_windows_all = w->n_windows,
                      .decision = stream->race.decision,
                      .tokens = qs_hash(w->ids, (size_t)(w->n_windows * w->n_ctx) * sizeof *w->ids),
                      .rules = qs_race_digest(&stream->race, e->options.seed)};
    if (missed != NULL) (void)snprintf(raced.missed, sizeof raced.missed, "%s", missed->part->metric);
    return raced;
}

/* The artifact of a candidate that raced begins here, on the windows that it was read on. */
static qs_err finish_race(runner *r, qs_eval_point *point, const qs_candidate *candidate, qs_quality_stream *stream,
                          qs_raced_part *part)
{
    const qs_evaluation *e = r->e;
    qs_err err;
    QS_TRY(qs_raced_part_make(part, e->options.windows, &stream->scores, &e->baseline.scores, e->order,
                              stream->n_windows));
    QS_TRY(begin_point(r, point, candidate, &part->windows, stream));
    point->raced = result_of_race(e, stream);
    QS_TRY(qs_raced_put(stream->artifact, &point->raced));
    if (point->raced.decision != QS_RACE_OPEN)
        qs_log_info("%s: %s after %lld of %lld windows%s%s", point->id, qs_race_decision_name(point->raced.decision),
                    (long long)point->raced.n_windows, (long long)point->raced.n_windows_all,
                    point->raced.missed[0] != '\0' ? " for " : "", point->raced.missed);
out:
    return err;
}

static qs_err finish_candidate(runner *r, group *g, int64_t i)
{
    const qs_eval_options *o = &r->e->options;
    qs_eval_point *point = g->points[i];
    qs_quality_stream *stream = &g->streams[i];
    qs_candidate *candidate = &g->candidates[i];
    qs_curve_pair text = {0};
    qs_raced_part part = {0};
    bool raced = g->quality && r->e->order != NULL;
    qs_err err;
    if (raced) QS_TRY(finish_race(r, point, candidate, stream, &part));
    if (g->quality) {
        const qs_windows *windows = raced ? &part.windows : o->windows;
        const qs_token_scores *scores = raced ? &part.scores : &stream->scores,
                              *reference = raced ? &part.reference : &r->e->baseline.scores;
        text = (qs_curve_pair){.n = windows->n_windows, .n_steps = windows->n_scored, .entropy = scores->entropy,
                               .reference = reference->entropy};
        QS_TRY(put_quality(r, point, stream, windows, scores, reference));
    }
    if (!raced || point->raced.decision != QS_RACE_DROPPED) {
        QS_TRY(qs_evaluate_answers(r->e, point, candidate, stream->artifact));
        QS_TRY(qs_evaluate_entropy(r->e, point, candidate, &text, stream->artifact));
        QS_TRY(measure_deployed(r, point, candidate, stream->artifact));
    }
    QS_TRY(seal_point(point, stream));
    tell_point(point, stream);
out:
    qs_raced_part_free(&part);
    return qs_context(err, "evaluate %s", point->id);
}

static qs_err run_group(runner *r, group *g)
{
    qs_quality_job job = qs_evaluation_job(r->e);
    qs_err err = QS_OK;
    if (g->quality) QS_TRY(qs_quality_candidates(&job, &r->e->baseline, g->streams, g->n));
    for (int64_t i = 0; i < g->n; i++) QS_TRY(finish_candidate(r, g, i));
    if (g->quality) tell_cost(r->e, g->streams, g->n);
out:
    return err;
}

/* Points of one group, opened, passed and published. What fails because of one of them is tried again one by one. */
static qs_err run_points(runner *r, qs_eval_point *const *points, int64_t n, bool quality)
{
    qs_evaluation *e = r->e;
    group g = {.quality = quality};
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n && err == QS_OK; i++) err = group_add(r, &g, points[i]);
    if (err == QS_OK) err = run_group(r, &g);
    group_fini(&g);
    if (err == QS_OK || !e->options.keep_going || !qs_failure_is_of_point(err)) return err;
    if (n == 1) {
        e->n_failed++;
        return qs_failure_record(points[0]->path, points[0]->id, err);
    }
    err = QS_OK;
    for (int64_t i = 0; i < n && err == QS_OK; i++)
        if (!points[i]->current) err = run_points(r, &points[i], 1, quality);
    return err;
}

/* The next points with work of the same kind, as many as the plan lets advance together. */
static qs_err run_next_group(runner *r, int64_t *first)
{
    qs_evaluation *e = r->e;
    qs_quality_job job = qs_evaluation_job(e);
    qs_pass_plan plan;
    qs_eval_point *points[QS_GROUP_MAX];
    int64_t n = 0;
    bool group_quality = false;
    qs_quality_plan(&plan, &job, e->n_points - *first);
    for (; *first < e->n_points && n < plan.n_streams; (*first)++) {
        qs_eval_point *point = &e->points[*first];
        bool quality = (point->tasks & QS_TASKS_QUALITY) != 0;
        if (point->current) {
            qs_log_info("%s: current, skipped", point->id);
            qs_failure_clear(point->path);
            continue;
        }
        /* Heads are large: whoever brings its own goes alone. */
        bool alone = point->head == QS_HEAD_OWN || (n > 0 && points[0]->head == QS_HEAD_OWN);
        if (n > 0 && (alone || quality != group_quality)) break;
        tell_stale(point);
        group_quality = quality;
        points[n++] = point;
    }
    return n > 0 ? run_points(r, points, n, group_quality) : QS_OK;
}

/* By the rate of what was passed first. */
static void foretell(qs_evaluation *e, double planned_flops)
{
    qs_evaluation_cost rest;
    if (e->foretold.first_s > 0.0 || e->pass_s <= 0.0 || e->order != NULL) return;
    qs_evaluation_plan(e, &rest);
    e->foretold.first_s = e->pass_s;
    if (rest.flops <= 0.0 || rest.flops >= planned_flops) return;
    e->foretold.foretold_s = e->pass_s * rest.flops / (planned_flops - rest.flops);
    if (e->foretold.foretold_s >= 10.0)
        qs_log_info("passes of the rest: about %.0f s, by the rate of the first", e->foretold.foretold_s);
}

qs_err qs_evaluation_run(qs_evaluation *e)
{
    runner r = {.e = e, .lock.fd = -1};
    qs_evaluation_cost planned;
    qs_err err;
    qs_evaluation_plan(e, &planned);
    QS_TRY(qs_dir_create(e->options.out_dir));
    QS_TRY(qs_machine_lock_open(&r.lock, e->options.out_dir));
    QS_TRY(qs_machine_lock_share(&r.lock));
    if (e->own_reference && e->reference.current) qs_log_info("fp: current, skipped");
    if (e->own_reference && !e->reference.current) {
        QS_TRY(run_reference(&r));
        if (e->n_points > 0 && (e->reference.tasks & QS_TASKS_QUALITY) != 0) {
            QS_TRY(qs_evaluation_open_baseline(e));
            QS_TRY(qs_evaluation_check_points(e));
        }
    }
    foretell(e, planned.flops);
    for (int64_t i = 0; i < e->n_points;) {
        QS_TRY(run_next_group(&r, &i));
        foretell(e, planned.flops);
    }
out:
    qs_deployment_destroy(&r.reference);
    qs_machine_lock_close(&r.lock);
    return err;
}
