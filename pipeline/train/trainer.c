#include "train/trainer.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "base/mem.h"

enum { SUM_ELEMENTS = 16384 }; /* of the gradient, summed over the lanes at a time */

struct qs_trainer {
    const qs_train_layout *layout;
    qs_trainer_options options;
    qs_team *team;
    qs_train_pass_plan *plan;
    qs_train_pass **passes; /* [n_threads] */
    qs_optimizer *optimizer;
    float *parameters;     /* [n] */
    uint16_t *narrow;      /* [n] bf16; NULL in f32 */
    float *gradients;      /* [n_lanes, n]; the sum ends up in the first */
    double *squares;       /* [n_sums] of each part of the sum */
    qs_train_loss *losses; /* [n_rows_max] */
    int64_t n_rows_max;
};

double qs_schedule_lr(const qs_schedule *s, int64_t step)
{
    const double pi = 3.14159265358979323846;
    if (step <= s->n_warmup) return s->lr * (double)step / (double)s->n_warmup;
    double span = (double)(s->n_steps - s->n_warmup),
           done = span > 0 ? (double)(step - s->n_warmup) / span : 1;
    done = done < 1 ? done : 1;
    return s->lr * (s->last_share + (1 - s->last_share) * 0.5 * (1 + cos(pi * done)));
}

static int64_t n_sums_of(int64_t n) { return (n + SUM_ELEMENTS - 1) / SUM_ELEMENTS; }

qs_err qs_trainer_create(qs_trainer **out, const qs_train_layout *layout, const qs_trainer_options *options)
{
    qs_err err;
    qs_trainer *t = NULL;
    *out = NULL;
    QS_TRY(QS_NEW(t, 1, "trainer"));
    t->layout = layout;
    t->options = *options;
    if (t->options.n_threads > t->options.n_lanes) t->options.n_threads = (int)t->options.n_lanes;
    QS_TRY(qs_train_pass_plan_create(&t->plan, layout, options->n_ctx, t->options.n_threads, options->compute,
                                     options->reference_kernels));
    QS_TRY(QS_NEW(t->passes, t->options.n_threads, "passes"));
    for (int i = 0; i < t->options.n_threads; i++) QS_TRY(qs_train_pass_create(&t->passes[i], t->plan));
    QS_TRY(qs_optimizer_create(&t->optimizer, layout, qs_train_pass_plan_kernels(t->plan), &options->optimizer));
    QS_TRY(QS_NEW(t->parameters, layout->n, "parameters"));
    if (options->compute == QS_COMPUTE_BF16) QS_TRY(QS_NEW(t->narrow, layout->n, "parameters in bf16"));
    QS_TRY(QS_NEW(t->gradients, layout->n * options->n_lanes, "gradients"));
    QS_TRY(QS_NEW(t->squares, n_sums_of(layout->n), "sums of squares"));
    QS_TRY(qs_team_create(&t->team, t->options.n_threads));
    *out = t;
    t = NULL;
out:
    qs_trainer_destroy(t);
    return err;
}

void qs_trainer_destroy(qs_trainer *t)
{
    if (t == NULL) return;
    qs_team_destroy(t->team);
    for (int i = 0; t->passes != NULL && i < t->options.n_threads; i++) qs_train_pass_destroy(t->passes[i]);
    qs_train_pass_plan_destroy(t->plan);
    qs_optimizer_destroy(t->optimizer);
    void *all[] = {t->passes, t->parameters, t->narrow, t->gradients, t->squares, t->losses};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) qs_mem_free(all[i]);
    qs_mem_free(t);
}

const char *qs_trainer_describe(const qs_trainer *t) { return qs_train_pass_plan_describe(t->plan); }
const qs_train_layout *qs_trainer_layout(const qs_trainer *t) { return t->layout; }
float *qs_trainer_parameters(qs_trainer *t) { return t->parameters; }
const float *qs_trainer_gradient(const qs_trainer *t) { return t->gradients; }
qs_optimizer *qs_trainer_optimizer(qs_trainer *t) { return t->optimizer; }

void qs_trainer_refresh(qs_trainer *t)
{
    if (t->narrow != NULL) qs_train_pass_plan_kernels(t->plan)->to_bf16(t->parameters, t->layout->n, t->narrow);
}

size_t qs_trainer_plan_bytes(const qs_train_layout *layout, const qs_trainer_options *options)
{
    size_t n = (size_t)layout->n, n_threads = (size_t)options->n_threads, n_lanes = (size_t)options->n_lanes;
    if (n_threads > n_lanes) n_threads = n_lanes;
    size_t narrow = options->compute == QS_COMPUTE_BF16 ? n * sizeof(uint16_t) : 0;
    return n * sizeof(float) * (1 + n_lanes) + narrow + qs_optimizer_plan_bytes(layout, &options->optimizer) +
           n_threads * qs_train_pass_bytes(layout, options->n_ctx, options->compute);
}

/* ---- rows ---- */

typedef struct rows_job {
    qs_trainer *trainer;
    const qs_batch *batch;
    float scale;
    bool with_gradient;
} rows_job;

static void run_lanes(void *context, int64_t first, int64_t last, int thread)
{
    const rows_job *job = context;
    qs_trainer *t = job->trainer;
    int64_t n_lanes = t->options.n_lanes, n_rows = job->batch->n_rows;
    const qs_pass_weights weights = {.f32 = t->parameters,
                                     .products = t->narrow != NULL ? (const void *)t->narrow : t->parameters};
    for (int64_t lane = first; lane < last; lane++) {
        float *gradient = job->with_gradient ? t->gradients + lane * t->layout->n : NULL;
        if (gradient != NULL) memset(gradient, 0, (size_t)t->layout->n * sizeof *gradient);
        for (int64_t row = lane * n_rows / n_lanes; row < (lane + 1) * n_rows / n_lanes; row++)
            t->losses[row] =
                qs_train_pass_run(t->passes[thread], thread, &weights, job->batch, row, job->scale, gradient);
    }
}

typedef struct sum_job {
    qs_trainer *trainer;
} sum_job;

static void sum_lanes(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    qs_trainer *t = ((const sum_job *)context)->trainer;
    const qs_train_kernels *kernels = qs_train_pass_plan_kernels(t->plan);
    int64_t n_all = t->layout->n;
    for (int64_t part = first; part < last; part++) {
        int64_t at = part * SUM_ELEMENTS, n = n_all - at < SUM_ELEMENTS ? n_all - at : SUM_ELEMENTS;
        for (int64_t lane = 1; lane < t->options.n_lanes; lane++)
            kernels->add(t->gradients + at, t->gradients + lane * n_all + at, n);
        t->squares[part] = kernels->sum_squares(t->gradients + at, n);
    }
}

void qs_train_loss_add(qs_train_loss *sum, const qs_train_loss *row)
{
    sum->weighted += row->weighted;
    sum->nll += row->nll;
    sum->answer_nll += row->answer_nll;
    sum->n += row->n;
    sum->n_answer += row->n_answer;
    sum->n_hits += row->n_hits;
    sum->n_answer_hits += row->n_answer_hits;
    sum->n_examples += row->n_examples;
    sum->n_examples_hit += row->n_examples_hit;
}

static qs_err run_rows(qs_trainer *t, const qs_batch *batch, bool with_gradient, qs_train_loss *sum)
{
    qs_err err = QS_OK;
    if (batch->n_rows > t->n_rows_max) {
        qs_mem_free(t->losses);
        t->losses = NULL;
        QS_TRY(QS_NEW(t->losses, batch->n_rows, "losses of rows"));
        t->n_rows_max = batch->n_rows;
    }
    rows_job job = {
        .trainer = t, .batch = batch, .scale = (float)(1 / batch->weight), .with_gradient = with_gradient};
    qs_team_run(t->team, t->options.n_lanes, 1, run_lanes, &job);
    *sum = (qs_train_loss){0};
    for (int64_t row = 0; row < batch->n_rows; row++) qs_train_loss_add(sum, &t->losses[row]);
    QS_TRY(qs_train_pass_plan_status(t->plan));
out:
    return err;
}

/* ---- steps ---- */

static qs_err name_nonfinite(const qs_trainer *t, int64_t step)
{
    int64_t index = qs_find_nonfinite(t->gradients, t->layout->n);
    if (index < 0) /* finite, but their squares are not */
        return qs_fail(QS_E_NUMERIC,
                       "train step %lld: the norm of the gradient overflows; use a smaller --lr",
                       (long long)step);
    const qs_train_tensor *tensor = qs_train_layout_find(t->layout, index);
    return qs_fail(QS_E_NUMERIC, "train step %lld: the gradient of %s[%lld] is %g; use a smaller --lr or --clip",
                   (long long)step, tensor->name, (long long)(index - tensor->first), (double)t->gradients[index]);
}

static qs_err check_losses(const qs_trainer *t, const qs_batch *batch, int64_t step)
{
    for (int64_t row = 0; row < batch->n_rows; row++)
        if (!isfinite(t->losses[row].weighted))
            return qs_fail(QS_E_NUMERIC,
                           "train step %lld: the loss of row %lld is %g; use a smaller --lr or --clip",
                           (long long)step, (long long)row, t->losses[row].weighted);
    return QS_OK;
}

/* A product runs on its own thread alone; oneDNN asks OpenMP how many it may use. */
static int single_thread(void)
{
    int saved = omp_get_max_threads();
    omp_set_num_threads(1);
    return saved;
}

qs_err qs_trainer_gradient_step(qs_trainer *t, const qs_batch *batch, int64_t step, qs_step_report *report)
{
    qs_err err;
    int saved_threads = single_thread();
    *report = (qs_step_report){.n_tokens = batch->n_tokens, .clip = 1};
    if (!(batch->weight > 0)) {
        err = qs_fail(QS_E_INPUT, "train step %lld: nothing in the batch has a weight", (long long)step);
        goto out;
    }
    QS_TRY(run_rows(t, batch, true, &report->loss));
    QS_TRY(check_losses(t, batch, step));
    report->mean = report->loss.weighted / batch->weight;
    sum_job job = {.trainer = t};
    qs_team_run(t->team, n_sums_of(t->layout->n), 1, sum_lanes, &job);
    double squares = 0;
    for (int64_t i = 0; i < n_sums_of(t->layout->n); i++) squares += t->squares[i];
    report->gradient_norm = sqrt(squares);
    if (!isfinite(report->gradient_norm)) {
        err = name_nonfinite(t, step);
        goto out;
    }
    if (t->options.clip > 0 && report->gradient_norm > t->options.clip)
        report->clip = t->options.clip / report->gradient_norm;
out:
    omp_set_num_threads(saved_threads);
    return err;
}

qs_err qs_trainer_step(qs_trainer *t, const qs_batch *batch, double lr, int64_t step, qs_step_report *report)
{
    qs_err err = qs_trainer_gradient_step(t, batch, step, report);
    if (err != QS_OK) return err;
    qs_optimizer_step(t->optimizer, t->team, lr, report->clip, step, t->gradients, t->parameters, t->narrow);
    return QS_OK;
}

qs_err qs_trainer_evaluate(qs_trainer *t, const qs_batch *batch, qs_train_loss *sum)
{
    int saved_threads = single_thread();
    qs_err err = run_rows(t, batch, false, sum);
    omp_set_num_threads(saved_threads);
    return err;
}

/* ---- divergence ---- */

qs_err qs_loss_guard_add(qs_loss_guard *guard, double loss, int64_t n_vocab, int64_t step)
{
    guard->last[guard->n++ % QS_GUARD_STEPS] = loss;
    if (guard->n < QS_GUARD_STEPS) return QS_OK;
    double sum = 0, uniform = log((double)n_vocab);
    for (int i = 0; i < QS_GUARD_STEPS; i++) sum += guard->last[i];
    double mean = sum / QS_GUARD_STEPS;
    if (guard->n == QS_GUARD_STEPS || mean < guard->lowest) guard->lowest = mean;
    if (mean > guard->lowest + 0.5 * uniform || mean > 1.3 * uniform)
        return qs_fail(
            QS_E_NUMERIC,
            "train step %lld: diverged: the mean loss of the last %d steps is %.3f, the lowest was %.3f, and "
            "guessing gives %.3f; use a smaller --lr or more --warmup",
            (long long)step, QS_GUARD_STEPS, mean, guard->lowest, uniform);
    return QS_OK;
}
