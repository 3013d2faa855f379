#include "metric/entropy_metrics.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "metric/entropy_curve.h"
#include "metric/lambda.h"

enum { N_RESAMPLES = 1000 };

static qs_err put_named(qs_metric_sink put, void *context, const char *name, const qs_estimate *estimate)
{
    return put(context, qs_metric_find(name), estimate);
}

/* ---- curves ---- */

typedef struct pooled {
    const qs_curve_pair *pair;
    int64_t n_steps;                           /* the first of them that are looked at */
    double *f, *q, *again_f, *again_q, *scratch; /* [n_steps] each, scratch [2 n_steps] */
} pooled;

static qs_err pooled_init(pooled *p, const qs_curve_pair *pair, int64_t n_steps)
{
    double *room = NULL;
    qs_err err = QS_NEW(room, 6 * n_steps, "mean curves");
    if (err != QS_OK) return err;
    *p = (pooled){.pair = pair, .n_steps = n_steps, .f = room, .q = room + n_steps, .again_f = room + 2 * n_steps,
                  .again_q = room + 3 * n_steps, .scratch = room + 4 * n_steps};
    return QS_OK;
}

static void pooled_fini(pooled *p) { qs_mem_free(p->f); }

/* The mean curves of the sequences, each counted as often as drawn, held against each other. */
static qs_curve_check check_pooled(const pooled *p, const int32_t *counts)
{
    const qs_curve_pair *pair = p->pair;
    double n = 0.0;
    bool again = pair->again != NULL;
    memset(p->f, 0, (size_t)(4 * p->n_steps) * sizeof *p->f);
    for (int64_t i = 0; i < pair->n; i++) {
        if (counts[i] == 0) continue;
        n += counts[i];
        for (int64_t t = 0; t < p->n_steps; t++) {
            p->f[t] += counts[i] * (double)pair->reference[i * pair->n_steps + t];
            p->q[t] += counts[i] * (double)pair->entropy[i * pair->n_steps + t];
            if (!again) continue;
            p->again_f[t] += counts[i] * pair->reference_again[i * pair->n_steps + t];
            p->again_q[t] += counts[i] * pair->again[i * pair->n_steps + t];
        }
    }
    for (int64_t t = 0; t < 4 * p->n_steps; t++) p->f[t] /= n; /* all four curves */
    qs_curve_side f = {p->f, again ? p->again_f : NULL}, q = {p->q, again ? p->again_q : NULL};
    return qs_curve_compare(&f, &q, p->n_steps, p->scratch);
}

static double stable(const void *context, const int32_t *counts) { return check_pooled(context, counts).stable; }
static double rms(const void *context, const int32_t *counts) { return check_pooled(context, counts).rms; }

/* Both curves must be stable, so the worse one speaks; and so with their differences. */
static void take_worse(qs_estimate *worst, const qs_estimate *e, bool higher_is_better)
{
    double sign = higher_is_better ? 1.0 : -1.0;
    bool first = worst->n == 0;
    if (first || sign * e->value < sign * worst->value) worst->value = e->value;
    if (first || sign * e->lo < sign * worst->lo) worst->lo = e->lo;
    if (first || sign * e->hi < sign * worst->hi) worst->hi = e->hi;
    if (first || e->n < worst->n) worst->n = e->n;
}

static qs_err judge_curves(const qs_entropy_input *in, const qs_curve_pair *pairs, int n_pairs, qs_metric_sink put,
                           void *context)
{
    qs_bootstrap options = {.seed = in->seed, .n_resamples = N_RESAMPLES};
    qs_estimate worst_stable = {0}, worst_rms = {0}, estimate;
    qs_err err = QS_OK;
    for (int i = 0; i < n_pairs; i++) {
        pooled p = {0};
        if (pairs[i].n == 0) continue;
        err = pooled_init(&p, &pairs[i], pairs[i].n_steps);
        if (err == QS_OK) err = qs_bootstrap_run(&options, stable, &p, pairs[i].n, &estimate);
        if (err == QS_OK) take_worse(&worst_stable, &estimate, true);
        if (err == QS_OK) err = qs_bootstrap_run(&options, rms, &p, pairs[i].n, &estimate);
        if (err == QS_OK) take_worse(&worst_rms, &estimate, false);
        pooled_fini(&p);
        if (err != QS_OK) return err;
    }
    if (worst_stable.n == 0) return QS_OK;
    QS_TRY(put_named(put, context, "entropy_stable", &worst_stable));
    QS_TRY(put_named(put, context, "entropy_rms", &worst_rms));
out:
    return err;
}

/* A greedy text of one length begins as a longer one does, and so do the entropies along it: one run tells of
 * every length. */
static qs_err judge_lengths(const qs_entropy_input *in, const qs_curve_pair *pair, qs_metric_sink put, void *context)
{
    static const struct {
        const char *metric;
        int64_t n_steps;
    } lengths[] = {{"entropy_stable_64", 64},
                   {"entropy_stable_128", 128},
                   {"entropy_stable_256", 256},
                   {"entropy_stable_512", 512}};
    qs_bootstrap options = {.seed = in->seed, .n_resamples = N_RESAMPLES};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        if (lengths[i].n_steps > pair->n_steps || pair->n <= 0) break;
        pooled p = {0};
        qs_estimate estimate;
        qs_err err = pooled_init(&p, pair, lengths[i].n_steps);
        if (err == QS_OK) err = qs_bootstrap_run(&options, stable, &p, pair->n, &estimate);
        if (err == QS_OK) err = put_named(put, context, lengths[i].metric, &estimate);
        pooled_fini(&p);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* ---- long texts one by one ---- */

enum { RUNS, STEPS, ENTROPY, KLD, DIVERGED_AT, STABLE, SLOPE, N_SUMS };

static double mean_entropy(const double *s) { return s[ENTROPY] / s[STEPS]; }
static double mean_kld(const double *s) { return s[KLD] / s[STEPS]; }
static double sum_kld(const double *s) { return s[KLD] / s[RUNS]; }
static double diverged_at(const double *s) { return s[DIVERGED_AT] / s[RUNS]; }
static double stable_share(const double *s) { return s[STABLE] / s[RUNS]; }
static double slope_change(const double *s) { return s[SLOPE] / s[RUNS]; }

static const struct {
    const char *name;
    double (*of)(const double *sums);
} rows[] = {
    {"entropy_mean", mean_entropy},       {"kld_long", mean_kld},
    {"kld_cumulative", sum_kld},          {"first_divergence_step", diverged_at},
    {"entropy_stable_share", stable_share}, {"entropy_slope_change", slope_change},
};

static int64_t first_difference(const int32_t *a, const int32_t *b, int64_t n)
{
    for (int64_t t = 0; t < n; t++)
        if (a[t] != b[t]) return t;
    return n;
}

/* pair: the long texts; room [4 n_steps] */
static void sum_run(const qs_entropy_input *in, const qs_curve_pair *pair, int64_t run, double *s, double *room)
{
    const qs_long_runs *q = in->runs, *f = in->reference;
    int64_t n = q->n_steps, at = run * n;
    s[RUNS] = 1;
    s[STEPS] = (double)n;
    for (int64_t t = 0; t < n; t++) s[ENTROPY] += (double)q->entropy[at + t];
    if (f == NULL) return;
    for (int64_t t = 0; t < n; t++) {
        s[KLD] += (double)q->kld[at + t];
        room[t] = (double)f->entropy[at + t];
        room[n + t] = (double)q->entropy[at + t];
    }
    s[DIVERGED_AT] = (double)first_difference(q->tokens + at, f->tokens + at, n);
    s[SLOPE] = 100.0 * (qs_slope(room + n, n) - qs_slope(room, n));
    s[STABLE] = qs_curve_compare(&(qs_curve_side){room, pair->reference_again + at},
                                 &(qs_curve_side){room + n, pair->again + at}, n, room + 2 * n).stable;
}

static qs_err measure_runs(const qs_entropy_input *in, const qs_curve_pair *pair, qs_metric_sink put, void *context)
{
    const qs_long_runs *q = in->runs;
    qs_bootstrap options = {.seed = in->seed};
    double *sums = NULL, *room = NULL;
    qs_err err;
    QS_TRY(QS_NEW(sums, q->n * N_SUMS, "sums of long texts"));
    QS_TRY(QS_NEW(room, 4 * q->n_steps, "curves"));
    for (int64_t i = 0; i < q->n; i++) sum_run(in, pair, i, sums + i * N_SUMS, room);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const qs_metric *metric = qs_metric_find(rows[i].name);
        qs_quality_part part = metric->needs_reference ? QS_QUALITY_PAIRED : QS_QUALITY_OWN;
        qs_estimate estimate;
        if ((part & in->part) == 0) continue;
        QS_TRY(qs_bootstrap_sums(&options, sums, q->n, N_SUMS, rows[i].of, &estimate));
        QS_TRY(put(context, metric, &estimate));
    }
out:
    qs_mem_free(sums);
    qs_mem_free(room);
    return err;
}

/* again [2, n, n_steps]: of the configuration, then of the reference. */
static void find_repetitions(const qs_long_runs *q, const qs_long_runs *f, double *again)
{
    for (int64_t i = 0; i < 2 * q->n; i++) {
        const int32_t *tokens = i < q->n ? q->tokens + i * q->n_steps : f->tokens + (i - q->n) * q->n_steps;
        qs_curve_repetitions(tokens, q->n_steps, again + i * q->n_steps);
    }
}

qs_err qs_entropy_measure(const qs_entropy_input *in, qs_metric_sink put, void *context)
{
    const qs_long_runs *q = in->runs, *f = in->reference;
    qs_curve_pair pairs[2] = {in->text};
    double *again = NULL;
    qs_err err = QS_OK;
    if (q != NULL && f != NULL) {
        if (f->n < q->n || f->n_steps != q->n_steps)
            return qs_fail(QS_E_INPUT, "compare long texts: %lld of %lld steps, the reference has %lld of %lld",
                           (long long)q->n, (long long)q->n_steps, (long long)f->n, (long long)f->n_steps);
        QS_TRY(QS_NEW(again, 2 * q->n * q->n_steps, "repetitions"));
        find_repetitions(q, f, again);
        pairs[1] = (qs_curve_pair){q->n, q->n_steps, q->entropy, f->entropy, again, again + q->n * q->n_steps};
    }
    if ((in->part & QS_QUALITY_PAIRED) != 0) QS_TRY(judge_curves(in, pairs, 2, put, context));
    if ((in->part & QS_QUALITY_PAIRED) != 0) QS_TRY(judge_lengths(in, &pairs[1], put, context));
    if (q != NULL) QS_TRY(measure_runs(in, &pairs[1], put, context));
out:
    qs_mem_free(again);
    return err;
}
