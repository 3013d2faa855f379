#include "train/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/progress.h"
#include "train/start.h"

const char *qs_compare_setting_name(int setting)
{
    static const char *const names[QS_COMPARE_SETTINGS] = {"plain", "clip", "clamp", "clip-clamp"};
    return names[setting];
}

/* Limits of the runs with clip and clamp where the options name none. */
static const double clip_default = 1.0, clamp_default = 100.0;

int qs_compare_gated_setting(const qs_compare_options *options)
{
    return (options->trainer.clip > 0 ? 1 : 0) | (options->trainer.optimizer.adam.clamp > 0 ? 2 : 0);
}

static qs_trainer_options arm_options(const qs_compare_options *o, int setting, int bits)
{
    qs_trainer_options t = o->trainer;
    double clip = t.clip > 0 ? t.clip : clip_default,
           clamp = t.optimizer.adam.clamp > 0 ? t.optimizer.adam.clamp : clamp_default;
    t.clip = (setting & 1) != 0 ? clip : 0;
    t.optimizer.adam.clamp = (setting & 2) != 0 ? clamp : 0;
    t.optimizer.bits = bits;
    return t;
}

typedef struct job {
    qs_comparison *result;
    const qs_train_layout *layout;
    qs_examples *data, *validation;
    qs_batch batch;
    float *start, *before; /* [n] weights at step 0, and before the step at hand */
    float *base_end;       /* [n] of the gated baseline */
    float *m, *v;          /* [n] moments of the same */
    qs_progress progress;
    int64_t n_done;
} job;

/* ---- one run ---- */

typedef struct update_sums {
    double sum, squares;
    int64_t n;
} update_sums;

static void add_update(update_sums *sums, const float *before, const float *after, int64_t n)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        double u = (double)after[i] - before[i];
        sum += u;
        squares += u * u;
    }
    sums->sum += sum;
    sums->squares += squares;
    sums->n += n;
}

static int compare_reals(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Largest loss over the median of those before it (B6: a spike is three times the median). */
static double largest_jump(const double *loss, int64_t n)
{
    double window[QS_COMPARE_LAST], largest = 0;
    for (int64_t i = QS_COMPARE_LAST; i < n; i++) {
        memcpy(window, loss + i - QS_COMPARE_LAST, sizeof window);
        qsort(window, QS_COMPARE_LAST, sizeof *window, compare_reals);
        double jump = loss[i] / window[QS_COMPARE_LAST / 2];
        largest = jump > largest ? jump : largest;
    }
    return largest;
}

static qs_err held_out(job *j, qs_trainer *trainer, double *ppl)
{
    int64_t cursor = 0, end = qs_examples_n(j->validation);
    qs_train_loss sum = {0}, part;
    qs_err err = QS_OK;
    if (j->result->options.n_validation < end) end = j->result->options.n_validation;
    while (cursor < end) {
        QS_TRY(qs_examples_fill(j->validation, &cursor, end, &j->batch));
        if (j->batch.n_tokens == 0) break;
        QS_TRY(qs_trainer_evaluate(trainer, &j->batch, &part));
        qs_train_loss_add(&sum, &part);
    }
    if (sum.n == 0) err = qs_fail(QS_E_INPUT, "compare optimizers: no held-out example fits into --seqlen");
    *ppl = exp(sum.nll / (double)sum.n);
out:
    return err;
}

static qs_err run_steps(job *j, qs_trainer *trainer, qs_compare_arm *arm, int64_t *cursor)
{
    const qs_compare_options *o = &j->result->options;
    int64_t n_steps = o->schedule.n_steps;
    float *p = qs_trainer_parameters(trainer);
    update_sums sums = {0};
    qs_loss_guard guard = {0};
    qs_step_report report;
    qs_err err = QS_OK;
    for (int64_t step = 1; step <= n_steps; step++) {
        bool is_last = step > n_steps - QS_COMPARE_LAST;
        QS_TRY(qs_examples_fill(j->data, cursor, -1, &j->batch));
        if (is_last) memcpy(j->before, p, (size_t)j->layout->n * sizeof *p);
        QS_TRY(qs_trainer_step(trainer, &j->batch, qs_schedule_lr(&o->schedule, step), step, &report));
        arm->loss[step - 1] = report.mean;
        arm->gradient_norm[step - 1] = report.gradient_norm;
        if (is_last) add_update(&sums, j->before, p, j->layout->n);
        if (is_last) arm->loss_last += report.mean / QS_COMPARE_LAST;
        QS_TRY(qs_loss_guard_add(&guard, report.mean, j->layout->config.n_vocab, step));
        qs_progress_note(&j->progress, "loss %.4f", report.mean);
        qs_progress_update(&j->progress, ++j->n_done);
    }
    arm->update_mean = sums.sum / (double)sums.n;
    arm->update_variance = sums.squares / (double)sums.n - arm->update_mean * arm->update_mean;
    arm->largest_jump = largest_jump(arm->loss, n_steps);
    arm->n_starved = qs_optimizer_n_starved(qs_trainer_optimizer(trainer));
    QS_TRY(held_out(j, trainer, &arm->ppl));
out:
    return err;
}

/* One more batch, and the step that either optimizer makes of its gradient from the baseline's moments. */
static qs_err measure_step_error(job *j, qs_trainer *base, int64_t seed, int64_t *cursor)
{
    const qs_compare_options *o = &j->result->options;
    int64_t n = j->layout->n, step = o->schedule.n_steps + 1;
    double lr = qs_schedule_lr(&o->schedule, step), difference = 0, size = 0;
    qs_trainer_options other = arm_options(o, qs_compare_gated_setting(o), o->bits[1]);
    qs_optimizer *optimizer = NULL;
    qs_team *team = NULL;
    qs_step_report report;
    float *p = NULL;
    qs_err err;
    QS_TRY(QS_NEW(p, n, "parameters"));
    QS_TRY(qs_optimizer_create(&optimizer, j->layout, qs_train_kernels_get(o->trainer.reference_kernels),
                               &other.optimizer));
    QS_TRY(qs_team_create(&team, 1));
    qs_optimizer_moments(qs_trainer_optimizer(base), 0, n, j->m, j->v);
    qs_optimizer_set_moments(optimizer, qs_trainer_optimizer(base), j->m, j->v);
    memcpy(p, qs_trainer_parameters(base), (size_t)n * sizeof *p);
    memcpy(j->before, p, (size_t)n * sizeof *p);
    QS_TRY(qs_examples_fill(j->data, cursor, -1, &j->batch));
    QS_TRY(qs_trainer_step(base, &j->batch, lr, step, &report));
    qs_optimizer_step(optimizer, team, lr, report.clip, step, qs_trainer_gradient(base), p, NULL);
    const float *q = qs_trainer_parameters(base);
    for (int64_t i = 0; i < n; i++) {
        difference += fabs((double)p[i] - q[i]);
        size += fabs((double)q[i] - j->before[i]);
    }
    j->result->step_error[seed] = difference / size;
out:
    qs_optimizer_destroy(optimizer);
    qs_team_destroy(team);
    qs_mem_free(p);
    return err;
}

/* How far apart the two runs of a pair ended, against how far the baseline came. */
static void measure_drift(job *j, const float *end, int64_t seed)
{
    double apart = 0, base = 0, other = 0, dot = 0;
    for (int64_t i = 0; i < j->layout->n; i++) {
        double b = (double)j->base_end[i] - j->start[i], o = (double)end[i] - j->start[i];
        apart += (o - b) * (o - b);
        base += b * b;
        other += o * o;
        dot += o * b;
    }
    j->result->drift[seed] = sqrt(apart / base);
    j->result->cosine[seed] = dot / sqrt(base * other);
}

static qs_err run_arm(job *j, int64_t seed, int setting, int which)
{
    const qs_compare_options *o = &j->result->options;
    qs_compare_arm *arm = &j->result->arms[seed][setting][which];
    qs_trainer_options options = arm_options(o, setting, o->bits[which]);
    bool is_gated = setting == qs_compare_gated_setting(o);
    int64_t cursor = 0, n_steps = o->schedule.n_steps, n_before = j->n_done;
    qs_trainer *trainer = NULL;
    qs_err err;
    QS_TRY(QS_NEW(arm->loss, n_steps, "losses"));
    QS_TRY(QS_NEW(arm->gradient_norm, n_steps, "gradient norms"));
    for (int64_t i = 0; i < n_steps; i++) arm->loss[i] = arm->gradient_norm[i] = NAN;
    QS_TRY(qs_trainer_create(&trainer, j->layout, &options));
    memcpy(qs_trainer_parameters(trainer), j->start, (size_t)j->layout->n * sizeof(float));
    qs_trainer_refresh(trainer);
    err = run_steps(j, trainer, arm, &cursor);
    if (err == QS_E_NUMERIC) {
        qs_log_warn("seed %lld, %s, %d bits: %s", (long long)seed, qs_compare_setting_name(setting),
                    o->bits[which], qs_error_text());
        arm->failed = true;
        j->n_done = n_before + n_steps;
        err = QS_OK;
        goto out;
    }
    if (err != QS_OK || !is_gated) goto out;
    if (which == 0) {
        memcpy(j->base_end, qs_trainer_parameters(trainer), (size_t)j->layout->n * sizeof(float));
        QS_TRY(measure_step_error(j, trainer, seed, &cursor));
    } else if (!j->result->arms[seed][setting][0].failed) {
        measure_drift(j, qs_trainer_parameters(trainer), seed);
    }
out:
    qs_trainer_destroy(trainer);
    return err;
}

/* ---- all of them ---- */

static qs_err allocate(job *j)
{
    const qs_compare_options *o = &j->result->options;
    qs_err err;
    QS_TRY(QS_NEW(j->start, j->layout->n, "initial weights"));
    QS_TRY(QS_NEW(j->before, j->layout->n, "weights before a step"));
    QS_TRY(QS_NEW(j->base_end, j->layout->n, "final weights"));
    QS_TRY(QS_NEW(j->m, j->layout->n, "first moments"));
    QS_TRY(QS_NEW(j->v, j->layout->n, "second moments"));
    QS_TRY(qs_batch_init(&j->batch, o->n_rows, o->trainer.n_ctx));
out:
    return err;
}

static void check_options(const qs_compare_options *o, qs_err *err)
{
    if (o->n_seeds < 2 || o->n_seeds > QS_COMPARE_SEEDS_MAX)
        *err = qs_fail(QS_E_USAGE, "compare optimizers: %lld seeds; 2 to %d are possible",
                       (long long)o->n_seeds, QS_COMPARE_SEEDS_MAX);
    else if (o->schedule.n_steps <= QS_COMPARE_LAST)
        *err = qs_fail(QS_E_USAGE, "compare optimizers: %lld steps; more than %d are needed",
                       (long long)o->schedule.n_steps, QS_COMPARE_LAST);
}

qs_err qs_compare_run(qs_comparison *out, const qs_train_layout *layout, qs_examples *data,
                      qs_examples *validation, const qs_compare_options *options)
{
    qs_err err = QS_OK;
    *out = (qs_comparison){.options = *options, .n_parameters = layout->n};
    job j = {.result = out, .layout = layout, .data = data, .validation = validation};
    check_options(options, &err);
    if (err != QS_OK) return err;
    for (int which = 0; which < QS_COMPARE_OPTIMIZERS; which++) {
        qs_trainer_options gated =
            arm_options(options, qs_compare_gated_setting(options), options->bits[which]);
        out->state_bytes[which] = qs_optimizer_plan_bytes(layout, &gated.optimizer);
    }
    qs_progress_start(&j.progress, "compare optimizers",
                      options->n_seeds * QS_COMPARE_SETTINGS * QS_COMPARE_OPTIMIZERS *
                          options->schedule.n_steps);
    QS_TRY(allocate(&j));
    for (int64_t seed = 0; seed < options->n_seeds; seed++) {
        out->step_error[seed] = out->drift[seed] = out->cosine[seed] = NAN;
        QS_TRY(qs_train_start_draw(layout, QS_START_PLAIN, options->seed + (uint64_t)seed, options->init_std,
                                   j.start));
        qs_examples_reorder(data, options->seed + (uint64_t)seed);
        for (int setting = 0; setting < QS_COMPARE_SETTINGS; setting++)
            for (int which = 0; which < QS_COMPARE_OPTIMIZERS; which++)
                QS_TRY(run_arm(&j, seed, setting, which));
    }
out:
    qs_progress_finish(&j.progress);
    float *all[] = {j.start, j.before, j.base_end, j.m, j.v};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) qs_mem_free(all[i]);
    qs_batch_fini(&j.batch);
    if (err != QS_OK) qs_comparison_free(out);
    return err;
}

void qs_comparison_free(qs_comparison *comparison)
{
    for (int64_t seed = 0; seed < QS_COMPARE_SEEDS_MAX; seed++) {
        for (int setting = 0; setting < QS_COMPARE_SETTINGS; setting++) {
            for (int which = 0; which < QS_COMPARE_OPTIMIZERS; which++) {
                qs_compare_arm *arm = &comparison->arms[seed][setting][which];
                qs_mem_free(arm->loss);
                qs_mem_free(arm->gradient_norm);
                arm->loss = arm->gradient_norm = NULL;
            }
        }
    }
}
