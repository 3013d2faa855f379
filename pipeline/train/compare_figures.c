/* What the runs of a comparison say: paired figures with intervals, the table, the artifact. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "artifact/artifact.h"
#include "base/mem.h"
#include "train/compare.h"

#define LOWER QS_BETTER_LOWER
#define HIGHER QS_BETTER_HIGHER
#define NONE QS_BETTER_NONE

/* By name, as gates and columns know them. */
const qs_metric qs_compare_metrics[] = {
    {"opt_var_pct", "%", LOWER, 0, false, true,
     "difference of the variance of the last 50 updates to the 32-bit run's, paired by seed"},
    {"opt_loss_pct", "%", LOWER, 0, false, true, "the same of the mean loss of these steps"},
    {"opt_nonfinite", "", LOWER, 0, false, false, "runs that ended with NaN, Inf or divergence"},
    {"opt_ppl_pct", "%", LOWER, 0, false, true, "difference of the held-out perplexity, paired by seed"},
    {"opt_step_error", "", LOWER, 0, false, true,
     "mean |difference| over mean |update| of one step from the same moments"},
    {"opt_drift", "", LOWER, 0, false, true,
     "distance of the final weights over the length of the 32-bit run's way"},
    {"opt_cosine", "", HIGHER, 0, false, true, "cosine of the two ways"},
    {"opt_state_ratio", "", LOWER, 0, false, true, "bytes of optimizer state over the 32-bit optimizer's"},
    {"opt_starved", "", LOWER, 0, false, false,
     "weights whose second moment is 0 while the first is not, at the end"},
    {"opt_jump", "", LOWER, 0, false, false, "largest loss over the median of the 50 before it"},
    {"opt_var_noise_pct", "%", NONE, 0, false, false,
     "noise floor: opt_var_pct of two 32-bit runs with different seeds"},
    {"opt_loss_noise_pct", "%", NONE, 0, false, false, "noise floor: opt_loss_pct of the same"},
    {0},
};

/* ---- estimates ---- */

/* 97.5 % quantile of Student's t with n - 1 degrees of freedom, n >= 2. */
static double student_t(int64_t n)
{
    static const double quantiles[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                       2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131};
    return quantiles[n - 2];
}

static const qs_estimate unknown = {NAN, NAN, NAN, 0};

static qs_estimate mean_of(const double *x, int64_t n)
{
    double mean = 0, squares = 0;
    if (n < 2) return unknown;
    for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    double half = student_t(n) * sqrt(squares / (double)(n - 1) / (double)n);
    return (qs_estimate){mean, mean - half, mean + half, n};
}

/* The interval of a mean's magnitude: down to 0 when the mean's own has both signs. */
static qs_estimate magnitude(qs_estimate e)
{
    double low = fabs(e.lo), high = fabs(e.hi);
    if (!isfinite(e.value)) return unknown;
    return (qs_estimate){fabs(e.value), e.lo * e.hi <= 0 ? 0 : fmin(low, high), fmax(low, high), e.n};
}

static qs_estimate fact(double value, int64_t n) { return (qs_estimate){value, value, value, n}; }

typedef enum figure { FIGURE_VARIANCE, FIGURE_LOSS, FIGURE_PPL, FIGURE_STARVED, FIGURE_JUMP } figure;

static double figure_of(const qs_compare_arm *arm, figure which)
{
    const double values[] = {[FIGURE_VARIANCE] = arm->update_variance,
                             [FIGURE_LOSS] = arm->loss_last,
                             [FIGURE_PPL] = arm->ppl,
                             [FIGURE_STARVED] = (double)arm->n_starved,
                             [FIGURE_JUMP] = arm->largest_jump};
    return values[which];
}

/* Seeds of which one of the two runs failed say nothing. */
static qs_estimate paired(const qs_comparison *c, int setting, figure which)
{
    double x[QS_COMPARE_SEEDS_MAX];
    int64_t n = 0;
    for (int64_t seed = 0; seed < c->options.n_seeds; seed++) {
        const qs_compare_arm *base = &c->arms[seed][setting][0], *other = &c->arms[seed][setting][1];
        if (base->failed || other->failed) return unknown;
        double b = figure_of(base, which);
        x[n++] = 100 * (figure_of(other, which) - b) / b;
    }
    return magnitude(mean_of(x, n));
}

/* Each seed's baseline against the next one's. */
static qs_estimate noise(const qs_comparison *c, int setting, figure which)
{
    double sum = 0;
    int64_t n = c->options.n_seeds;
    for (int64_t seed = 0; seed < n; seed++) {
        const qs_compare_arm *a = &c->arms[seed][setting][0], *b = &c->arms[(seed + 1) % n][setting][0];
        if (a->failed || b->failed) return unknown;
        sum += 100 * fabs(figure_of(b, which) - figure_of(a, which)) / figure_of(a, which);
    }
    return fact(sum / (double)n, n);
}

/* The largest of the second optimizer's runs. */
static qs_estimate largest(const qs_comparison *c, int setting, figure which)
{
    double value = 0;
    for (int64_t seed = 0; seed < c->options.n_seeds; seed++) {
        if (c->arms[seed][setting][1].failed) return unknown;
        value = fmax(value, figure_of(&c->arms[seed][setting][1], which));
    }
    return fact(value, c->options.n_seeds);
}

static qs_estimate of_gated(const qs_comparison *c, int setting, const double *values)
{
    if (setting != qs_compare_gated_setting(&c->options)) return unknown;
    for (int64_t seed = 0; seed < c->options.n_seeds; seed++)
        if (!isfinite(values[seed])) return unknown;
    return mean_of(values, c->options.n_seeds);
}

qs_estimate qs_compare_estimate(const qs_comparison *c, const char *name, int setting)
{
    double n_failed = 0;
    for (int64_t seed = 0; seed < c->options.n_seeds; seed++) n_failed += c->arms[seed][setting][1].failed;
    if (strcmp(name, "opt_var_pct") == 0) return paired(c, setting, FIGURE_VARIANCE);
    if (strcmp(name, "opt_loss_pct") == 0) return paired(c, setting, FIGURE_LOSS);
    if (strcmp(name, "opt_nonfinite") == 0) return fact(n_failed, c->options.n_seeds);
    if (strcmp(name, "opt_ppl_pct") == 0) return paired(c, setting, FIGURE_PPL);
    if (strcmp(name, "opt_step_error") == 0) return of_gated(c, setting, c->step_error);
    if (strcmp(name, "opt_drift") == 0) return of_gated(c, setting, c->drift);
    if (strcmp(name, "opt_cosine") == 0) return of_gated(c, setting, c->cosine);
    if (strcmp(name, "opt_state_ratio") == 0)
        return fact((double)c->state_bytes[1] / (double)c->state_bytes[0], 1);
    if (strcmp(name, "opt_starved") == 0) return largest(c, setting, FIGURE_STARVED);
    if (strcmp(name, "opt_jump") == 0) return largest(c, setting, FIGURE_JUMP);
    if (strcmp(name, "opt_var_noise_pct") == 0) return noise(c, setting, FIGURE_VARIANCE);
    if (strcmp(name, "opt_loss_noise_pct") == 0) return noise(c, setting, FIGURE_LOSS);
    return unknown;
}

/* ---- the artifact ---- */

static qs_err put_metrics(qs_artifact *artifact, const qs_comparison *c)
{
    char path[QS_SCHEMA_PATH_BYTES];
    qs_err err = QS_OK;
    for (int setting = 0; setting < QS_COMPARE_SETTINGS; setting++) {
        for (const qs_metric *metric = qs_compare_metrics; metric->name != NULL; metric++) {
            qs_estimate e = qs_compare_estimate(c, metric->name, setting);
            if (!isfinite(e.value)) continue;
            const struct {
                const char *name;
                double value;
            } rows[] = {{"value", e.value}, {"lo", e.lo}, {"hi", e.hi}};
            for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
                (void)snprintf(path, sizeof path, "/settings/%s/%s/@%s", qs_compare_setting_name(setting),
                               metric->name, rows[i].name);
                QS_TRY(qs_artifact_put_real(artifact, path, rows[i].value));
            }
            if (setting == qs_compare_gated_setting(&c->options)) QS_TRY(qs_metric_put(artifact, metric, &e));
        }
    }
out:
    return err;
}

enum { N_SUMMARY = 7 };

static qs_err put_arm(qs_artifact *artifact, const qs_comparison *c, int setting, int which)
{
    int64_t n_steps = c->options.schedule.n_steps, n_seeds = c->options.n_seeds;
    int64_t curve_dims[2] = {n_seeds, n_steps}, summary_dims[2] = {n_seeds, N_SUMMARY};
    char path[QS_SCHEMA_PATH_BYTES], group[64];
    double *curve = NULL, summary[QS_COMPARE_SEEDS_MAX][N_SUMMARY];
    qs_err err;
    (void)snprintf(group, sizeof group, "/arms/adam%d-%s", c->options.bits[which],
                   qs_compare_setting_name(setting));
    QS_TRY(QS_NEW(curve, n_seeds * n_steps, "curves"));
    for (int is_norm = 0; is_norm < 2; is_norm++) {
        for (int64_t seed = 0; seed < n_seeds; seed++) {
            const qs_compare_arm *arm = &c->arms[seed][setting][which];
            memcpy(curve + seed * n_steps, is_norm ? arm->gradient_norm : arm->loss,
                   (size_t)n_steps * sizeof *curve);
        }
        (void)snprintf(path, sizeof path, "%s/%s", group, is_norm ? "gradient_norm" : "loss");
        QS_TRY(qs_artifact_put(artifact, path, QS_F64, 2, curve_dims, curve));
    }
    for (int64_t seed = 0; seed < n_seeds; seed++) {
        const qs_compare_arm *a = &c->arms[seed][setting][which];
        const double row[N_SUMMARY] = {a->loss_last,       a->ppl,          a->update_mean,
                                       a->update_variance, a->largest_jump, (double)a->n_starved,
                                       a->failed};
        memcpy(summary[seed], row, sizeof row);
    }
    (void)snprintf(path, sizeof path, "%s/summary", group);
    QS_TRY(qs_artifact_put(artifact, path, QS_F64, 2, summary_dims, summary));
out:
    qs_mem_free(curve);
    return err;
}

qs_err qs_comparison_write(const qs_comparison *c, const char *path, const char *settings, int argc,
                           char *const *argv)
{
    const struct {
        const char *path;
        int64_t value;
    } counts[] = {{"/comparison/@n_seeds", c->options.n_seeds},
                  {"/comparison/@n_steps", c->options.schedule.n_steps},
                  {"/comparison/@n_last", QS_COMPARE_LAST},
                  {"/comparison/@n_parameters", c->n_parameters},
                  {"/comparison/@base_bits", c->options.bits[0]},
                  {"/comparison/@bits", c->options.bits[1]},
                  {"/comparison/@base_state_bytes", (int64_t)c->state_bytes[0]},
                  {"/comparison/@state_bytes", (int64_t)c->state_bytes[1]}};
    qs_artifact *artifact = NULL;
    qs_err err;
    QS_TRY(qs_artifact_create(&artifact, path, QS_KIND_OPTIM));
    if (argv != NULL) QS_TRY(qs_artifact_set_command(artifact, argc, argv));
    QS_TRY(qs_artifact_put_text(artifact, "/comparison/@settings", settings));
    QS_TRY(qs_artifact_put_text(artifact, "/comparison/@gated",
                                qs_compare_setting_name(qs_compare_gated_setting(&c->options))));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        QS_TRY(qs_artifact_put_int(artifact, counts[i].path, counts[i].value));
    for (int setting = 0; setting < QS_COMPARE_SETTINGS; setting++)
        for (int which = 0; which < QS_COMPARE_OPTIMIZERS; which++)
            QS_TRY(put_arm(artifact, c, setting, which));
    QS_TRY(put_metrics(artifact, c));
    return qs_artifact_seal(artifact, NULL); /* which takes it, also where it fails */
out:
    qs_artifact_abort(artifact);
    return err;
}

/* ---- the table ---- */

void qs_comparison_print(const qs_comparison *c, FILE *stream)
{
    int gated = qs_compare_gated_setting(&c->options);
    (void)fprintf(stream,
                  "adam%d against adam%d, %lld seeds, %lld steps, %lld parameters; state %zu and %zu "
                  "bytes\n\n| figure |",
                  c->options.bits[1], c->options.bits[0], (long long)c->options.n_seeds,
                  (long long)c->options.schedule.n_steps, (long long)c->n_parameters, c->state_bytes[1],
                  c->state_bytes[0]);
    for (int s = 0; s < QS_COMPARE_SETTINGS; s++)
        (void)fprintf(stream, " %s%s |", qs_compare_setting_name(s), s == gated ? " (gated)" : "");
    (void)fprintf(stream, "\n|---|---|---|---|---|\n");
    for (const qs_metric *metric = qs_compare_metrics; metric->name != NULL; metric++) {
        (void)fprintf(stream, "| %s |", metric->name);
        for (int s = 0; s < QS_COMPARE_SETTINGS; s++) {
            qs_estimate e = qs_compare_estimate(c, metric->name, s);
            if (!isfinite(e.value))
                (void)fprintf(stream, " |");
            else if (e.lo == e.hi)
                (void)fprintf(stream, " %.4g |", e.value);
            else
                (void)fprintf(stream, " %.4g [%.4g, %.4g] |", e.value, e.lo, e.hi);
        }
        (void)fprintf(stream, "\n");
    }
}
