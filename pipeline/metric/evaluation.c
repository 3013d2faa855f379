#include "metric/evaluation.h"

#include <string.h>

#include "artifact/failure.h"
#include "backend/cpu/arena.h"
#include "base/mem.h"
#include "model/model_record.h"

/* ---- what is asked ---- */

/* The artifact of the fixes that change weights, where there is one: what the point's own holds of it follows
 * from it. */
static qs_err take_twin(const qs_evaluation *e, qs_eval_point *point)
{
    qs_artifact *artifact = NULL;
    qs_err err = QS_OK;
    point->served = e->served;
    if (e->options.requantised == NULL || point->kind != QS_CANDIDATE_QUANT) return QS_OK;
    QS_TRY(qs_path_format(point->twin_path, "%s/%s.eval.h5", e->options.requantised, point->id));
    if (!qs_file_exists(point->twin_path)) {
        point->twin_path[0] = '\0';
        goto out;
    }
    QS_TRY(qs_artifact_open(&artifact, point->twin_path, QS_KIND_EVAL));
    qs_digest twin = qs_artifact_digest(artifact);
    const uint64_t parts[] = {e->served.low, e->served.high, twin.low, twin.high};
    point->served = qs_hash(parts, sizeof parts);
out:
    qs_artifact_close(artifact);
    return err;
}

static qs_err take_candidate(qs_evaluation *e, qs_eval_point *point, qs_candidate_kind kind, const char *path)
{
    qs_err err;
    point->kind = kind;
    point->quant_path = path;
    QS_TRY(qs_candidate_identify(kind, path, e->model, point->id, &point->quant, &point->head));
    if (strcmp(point->id, e->reference.id) == 0)
        return qs_fail(QS_E_USAGE, "evaluate %s: the id %s is the reference's; rename it", path, point->id);
    QS_TRY(qs_path_format(point->path, "%s/%s.eval.h5", e->options.out_dir, point->id));
    QS_TRY(take_twin(e, point));
out:
    return err;
}

/* Without its artifact a point is known by the name of the file. */
static qs_err record_unreadable(qs_evaluation *e, const char *quant_path, qs_err code)
{
    const char *slash = strrchr(quant_path, '/'), *name = slash != NULL ? slash + 1 : quant_path,
               *end = strstr(name, ".quant.h5");
    int bytes = end != NULL ? (int)(end - name) : (int)strlen(name);
    char path[QS_PATH_BYTES], id[QS_PATH_BYTES];
    qs_err err;
    QS_TRY(qs_path_format(id, "%.*s", bytes, name));
    QS_TRY(qs_path_format(path, "%s/%s.eval.h5", e->options.out_dir, id));
    QS_TRY(qs_failure_record(path, id, code));
    e->n_failed++;
out:
    return err;
}

static qs_err take_points(qs_evaluation *e, const char *const *quants, int64_t n_quants)
{
    qs_err err;
    e->own_reference = e->options.baseline == NULL;
    (void)snprintf(e->reference.id, sizeof e->reference.id, "fp");
    e->reference.tasks = e->options.tasks;
    QS_TRY(qs_path_format(e->reference.path, "%s/fp.eval.h5", e->options.out_dir));
    int64_t n = n_quants + e->options.n_checkpoints;
    QS_TRY(QS_NEW(e->points, n, "points"));
    e->n_points = 0;
    for (int64_t taken = 0; taken < n; taken++) {
        qs_eval_point *point = &e->points[e->n_points];
        bool quant = taken < n_quants;
        const char *path = quant ? quants[taken] : e->options.checkpoints[taken - n_quants];
        err = take_candidate(e, point, quant ? QS_CANDIDATE_QUANT : QS_CANDIDATE_CHECKPOINT, path);
        if (err != QS_OK && quant && e->options.keep_going && qs_failure_is_of_point(err)) {
            QS_TRY(record_unreadable(e, path, err));
            continue;
        }
        if (err != QS_OK) goto out;
        for (int64_t i = 0; i < e->n_points; i++)
            if (strcmp(e->points[i].id, point->id) == 0)
                return qs_fail(QS_E_USAGE, "evaluate %s: %s has the same id (%s)", point->quant_path,
                               e->points[i].quant_path, point->id);
        e->n_points++;
    }
    if (n == 0 && !e->own_reference)
        err = qs_fail(QS_E_USAGE, "evaluate: a baseline, and neither --quant nor --checkpoint, leave nothing to do");
out:
    return err;
}

/* ---- what is there ---- */

qs_subject qs_evaluation_subject(const qs_evaluation *e, const qs_eval_point *point)
{
    bool compared = point->quant_path != NULL && (point->tasks & QS_TASKS_COMPARED) != 0 && e->has_baseline;
    const qs_questions *questions = e->options.questions;
    const qs_digest *asked = questions == NULL || (point->tasks & QS_TASKS_ASKED) == 0 ? NULL
                             : point->quant_path != NULL                               ? &point->served
                                                                                       : &questions->digest;
    return (qs_subject){
        .model = e->model,
        .windows = e->options.windows,
        .compute = e->options.compute,
        .seed = e->options.seed,
        .id = point->id,
        .text = e->options.text,
        .text_bytes = e->options.text_bytes,
        .questions = asked,
        .embedded = e->options.embeddings != NULL ? &e->options.embeddings->digest : NULL,
        .quant = point->quant_path != NULL ? &point->quant : NULL,
        .baseline = compared ? &e->baseline.digest : NULL,
    };
}

/* The race that a candidate would run, by the method that its artifact says. */
static qs_err race_rules(const qs_evaluation *e, const qs_artifact *artifact, unsigned tasks, qs_digest *rules)
{
    char method[QS_SPEC_ID_BYTES];
    qs_race race;
    qs_err err;
    QS_TRY(qs_artifact_get_text(artifact, "/config/@method", method, sizeof method));
    QS_TRY(qs_race_start(&race, e->options.race, qs_budgets_profile(method), tasks));
    *rules = qs_race_digest(&race, e->options.seed);
out:
    return err;
}

/* A point that stopped early is held against the windows it saw, which a race by other rules would not have left it. */
static qs_err check_raced(const qs_evaluation *e, qs_eval_point *point, const qs_artifact *artifact,
                          qs_subject *subject)
{
    const qs_windows *all = e->options.windows;
    qs_raced_part part = {0};
    qs_digest rules;
    qs_err err;
    QS_TRY(qs_raced_get(artifact, &point->raced));
    if (e->options.race == NULL || !qs_raced_is_partial(&point->raced)) {
        err = qs_eval_file_differs(artifact, subject, false, &point->stale);
        goto out;
    }
    QS_TRY(race_rules(e, artifact, point->tasks, &rules));
    if (point->raced.n_windows_all != all->n_windows || rules.low != point->raced.rules.low ||
        rules.high != point->raced.rules.high) {
        point->stale = "the race (budgets, tasks, seed or windows)";
        goto out;
    }
    QS_TRY(qs_raced_part_make(&part, all, NULL, NULL, e->order, point->raced.n_windows));
    subject->windows = &part.windows;
    QS_TRY(qs_eval_file_differs(artifact, subject, false, &point->stale));
out:
    qs_raced_part_free(&part);
    return err;
}

/* A reference that has got more tasks is another one to its candidates, and what they had is measured again: else two
 * calls with other --tasks would leave what the second asked for alone.
 * Quality cannot be compared before the baseline is known, so such a point is not current yet. */
static qs_err check_point(const qs_evaluation *e, qs_eval_point *point)
{
    qs_artifact *artifact = NULL;
    bool same_but_reference = false;
    qs_err err;
    point->tasks = e->options.tasks;
    point->dumps = e->options.dumps;
    point->current = false;
    point->stale = NULL;
    if (!qs_file_exists(point->path)) return QS_OK;
    /* Read whole: small beside its evaluation, and what is damaged is made again. */
    if (qs_artifact_verify(point->path) != QS_OK ||
        qs_artifact_open(&artifact, point->path, QS_KIND_EVAL) != QS_OK) {
        point->stale = "the file (damaged, or of another version)";
        return QS_OK;
    }
    unsigned tasks = qs_eval_file_tasks(artifact), dumps = qs_eval_file_dumps(artifact);
    qs_subject subject = qs_evaluation_subject(e, point);
    QS_TRY(check_raced(e, point, artifact, &subject));
    if (point->stale != NULL && subject.baseline != NULL && !qs_raced_is_partial(&point->raced)) {
        const char *otherwise;
        subject.baseline = NULL;
        QS_TRY(qs_eval_file_differs(artifact, &subject, false, &otherwise));
        same_but_reference = otherwise == NULL;
    }
    if (point->stale == NULL || same_but_reference) {
        point->current = point->stale == NULL && (point->tasks & ~tasks) == 0 && (point->dumps & ~dumps) == 0;
        /* Nothing more is asked of what was dropped. */
        point->current |= point->raced.decision == QS_RACE_DROPPED;
        /* Answers that nothing is asked about any more cannot be had again, nor can embeddings. */
        if (!point->current && e->options.embeddings == NULL) dumps &= ~(unsigned)QS_DUMP_EMBEDDINGS;
        if (!point->current && e->options.questions == NULL) tasks &= ~(unsigned)QS_TASKS_ASKED;
        point->tasks |= tasks;
        point->dumps |= dumps;
    }
    if (point->quant_path != NULL && (point->tasks & QS_TASKS_COMPARED) != 0 && !e->has_baseline)
        point->current = false;
out:
    qs_artifact_close(artifact);
    return err;
}

qs_err qs_evaluation_check_points(qs_evaluation *e)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < e->n_points; i++) QS_TRY(check_point(e, &e->points[i]));
out:
    return err;
}

qs_err qs_evaluation_open_baseline(qs_evaluation *e)
{
    qs_subject subject = qs_evaluation_subject(e, &e->reference);
    qs_err err =
        qs_baseline_open(&e->baseline, e->own_reference ? e->reference.path : e->options.baseline, &subject);
    e->has_baseline = err == QS_OK;
    return err;
}

/* A candidate to be compared needs the reference's hidden states, whatever was asked of the reference; which
 * figures the reference has does not depend on whether candidates came in the same call. */
static void require_reference(qs_evaluation *e)
{
    for (int64_t i = 0; i < e->n_points && !e->has_baseline; i++)
        if (!e->points[i].current && (e->points[i].tasks & QS_TASKS_COMPARED) != 0) {
            e->reference.tasks |= QS_TASK_PPL | (e->points[i].tasks & QS_TASKS_COMPARED);
            e->reference.current = false;
        }
}

qs_err qs_evaluation_create(qs_evaluation *out, qs_backend *backend, qs_model *model,
                            const char *const *quants, int64_t n_quants, const qs_eval_options *options)
{
    qs_backend_memory memory;
    qs_err err;
    *out = (qs_evaluation){.options = *options, .backend = backend, .model = model};
    if (options->questions != NULL) out->served = qs_serving_digest(&options->serving, options->questions->digest);
    if (options->questions != NULL && options->fixes != 0) {
        const uint64_t parts[] = {out->served.low, out->served.high, options->fixes};
        out->served = qs_hash(parts, sizeof parts);
    }
    if (out->options.budget_bytes == 0) {
        qs_backend_get_memory(backend, &memory);
        out->options.budget_bytes = memory.free_bytes / 2;
    }
    if (options->race != NULL) {
        QS_TRY(QS_NEW(out->order, options->windows->n_windows, "order of windows"));
        qs_race_order(out->order, options->windows->n_windows, options->seed);
    }
    if (options->keep_going) QS_TRY(qs_dir_create(options->out_dir));
    QS_TRY(take_points(out, quants, n_quants));
    if (out->own_reference) {
        QS_TRY(check_point(out, &out->reference));
        if (out->reference.current && (out->reference.tasks & QS_TASKS_QUALITY) != 0)
            QS_TRY(qs_evaluation_open_baseline(out));
    } else {
        QS_TRY(qs_evaluation_open_baseline(out));
    }
    QS_TRY(qs_evaluation_check_points(out));
    require_reference(out);
out:
    if (err != QS_OK) qs_evaluation_destroy(out);
    return err;
}

void qs_evaluation_destroy(qs_evaluation *e)
{
    if (e->has_baseline) qs_baseline_close(&e->baseline);
    qs_gold_frame_destroy(&e->frame);
    qs_encoder_destroy(e->own_encoder);
    qs_mem_free(e->points);
    qs_mem_free(e->order);
    *e = (qs_evaluation){0};
}

/* ---- what it takes ---- */

qs_quality_job qs_evaluation_job(const qs_evaluation *e)
{
    return (qs_quality_job){.backend = e->backend,
                            .model = e->model,
                            .windows = e->options.windows,
                            .compute = e->options.compute,
                            .budget_bytes = e->options.budget_bytes,
                            .order = e->order};
}

/* Twice the multiply-adds of all windows through the blocks and of the scored positions through the head: once
 * its own, and for the KL divergence its share of the reference's. */
static double pass_flops(const qs_evaluation *e, double n_heads)
{
    const qs_windows *w = e->options.windows;
    const qs_model_config *c = qs_model_get_config(e->model);
    double n_tokens = (double)(w->n_windows * w->n_ctx), n_scored = (double)(w->n_windows * w->n_scored);
    double attention =
        (double)(c->n_layers * c->n_heads * c->head_dim) * (double)w->n_ctx; /* q k and p v, half masked */
    double head = (double)(c->n_vocab * c->d_model) * n_heads;
    return 2.0 * (n_tokens * ((double)qs_model_n_linear_weights(e->model) + attention) + n_scored * head);
}

static size_t point_artifact_bytes(const qs_evaluation *e, const qs_eval_point *point)
{
    const qs_windows *w = e->options.windows;
    const qs_model_config *c = qs_model_get_config(e->model);
    size_t n = (size_t)(w->n_windows * w->n_ctx), row = (size_t)c->d_model * sizeof(float),
           bytes = n * 5 * sizeof(float);
    if (point->quant_path == NULL && (point->tasks & QS_TASKS_QUALITY) != 0) bytes += n * row;
    if ((point->dumps & QS_DUMP_HIDDEN) != 0) bytes += n * row;
    if ((point->dumps & QS_DUMP_LOGITS) != 0) bytes += n * (size_t)c->n_vocab * sizeof(float);
    return bytes;
}

static void add_point(const qs_evaluation *e, const qs_eval_point *point, int64_t n_streams, qs_evaluation_cost *cost)
{
    bool shares = point->quant_path != NULL && (point->tasks & QS_TASK_KLD) != 0;
    if (point->current) return;
    cost->n_todo++;
    cost->artifact_bytes += point_artifact_bytes(e, point);
    if ((point->tasks & QS_TASKS_QUALITY) != 0)
        cost->flops += pass_flops(e, shares ? 1.0 + 1.0 / (double)n_streams : 1.0);
    if ((point->tasks & (QS_TASK_LATENCY | QS_TASK_MEMORY)) != 0)
        cost->deployed_bytes =
            3 * (size_t)qs_model_n_weights(e->model); /* 16 bits, and up to 8 beside them */
}

/* What matrices and scratch of so many bytes take: the CPU has them in slabs. */
static size_t in_slabs(const qs_evaluation *e, size_t bytes)
{
    size_t slab = qs_backend_has_device(e->backend) ? 1 : QS_ARENA_SLAB_BYTES;
    return (bytes + slab - 1) / slab * slab;
}

/* Whether any point that is to do brings a head besides the reference's; never are two of them there at a time. */
static bool has_second_head(const qs_evaluation *e)
{
    bool second = false;
    for (int64_t i = 0; i < e->n_points; i++)
        second = second || (!e->points[i].current && (e->points[i].tasks & QS_TASKS_QUALITY) != 0 &&
                            e->points[i].head != QS_HEAD_REFERENCE);
    return second;
}

/* The most that the passes hold: while a head is laid out, which is there twice then, or while they run. */
static size_t pass_bytes(const qs_evaluation *e, const qs_pass_plan *plan)
{
    const qs_model_config *c = qs_model_get_config(e->model);
    size_t row = (size_t)c->d_model * sizeof(float), head = (size_t)c->n_vocab * row;
    /* On a device the next block is loaded beside the one that computes. */
    size_t n_blocks = qs_backend_has_device(e->backend) ? 2 : 1;
    /* Products of a chunk on their way to the sum, and a layer of every stream as it is stored: codes and scales. */
    size_t block = (size_t)qs_model_n_block_weights(e->model) * sizeof(float),
           rest = (size_t)(plan->chunk_windows * plan->n_ctx) * row + n_blocks * block,
           stored = (size_t)plan->n_streams * block / 7, windows = 2 * (size_t)plan->n_ctx * row;
    size_t small_head = head < in_slabs(e, 1) ? head : 0;
    size_t always = plan->stream_bytes + plan->scratch_bytes + windows + stored + head - small_head;
    size_t laid_out = in_slabs(e, small_head + 1) + head,
           running = in_slabs(e, small_head + rest) + qs_scorer_tile_bytes(c);
    if (has_second_head(e)) { /* laid out beside what the scorer has by then */
        size_t second = small_head > 0 ? in_slabs(e, head) : head;
        laid_out += second + qs_scorer_tile_bytes(c);
        running += second;
    }
    return always + (laid_out > running ? laid_out : running);
}

void qs_evaluation_plan(const qs_evaluation *e, qs_evaluation_cost *cost)
{
    qs_quality_job job = qs_evaluation_job(e);
    qs_pass_plan plan;
    *cost = (qs_evaluation_cost){0};
    qs_quality_plan(&plan, &job, e->n_points);
    if (e->own_reference) add_point(e, &e->reference, plan.n_streams, cost);
    for (int64_t i = 0; i < e->n_points; i++) add_point(e, &e->points[i], plan.n_streams, cost);
    if (cost->flops > 0.0) cost->pass_bytes = pass_bytes(e, &plan);
}
