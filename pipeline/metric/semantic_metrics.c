/* The metrics of semantics.h as rows: a ratio of two sums over items each, resampled by items. */
#include <math.h>

#include "base/mem.h"
#include "metric/delta_s.h"
#include "metric/rank_distance.h"
#include "metric/semantics.h"

typedef qs_semantic_input input;

/* Adds an item's part to above and below of a ratio. `column`: offset of a distance in qs_semantic_row, or a state. */
typedef void (*item_sum)(const input *in, int64_t item, size_t column, double two[2]);

static double value_at(const qs_semantics *s, int64_t prompt, size_t column)
{
    return *(const double *)((const char *)&s->rows[prompt] + column);
}

static void sum_values(const input *in, int64_t item, size_t column, double two[2])
{
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        double value = value_at(in->own, i, column);
        if (isnan(value)) continue;
        two[0] += value;
        two[1] += 1.0;
    }
}

static void sum_transit(const input *in, int64_t item, size_t column, double two[2])
{
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        two[0] += qs_zone_of(value_at(in->own, i, column)) == QS_ZONE_TRANSIT;
        two[1] += 1.0;
    }
}

static void sum_risk(const input *in, int64_t item, size_t column, double two[2])
{
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        two[0] += qs_zone_of(value_at(in->own, i, column)) >= QS_ZONE_RISK;
        two[1] += 1.0;
    }
}

static bool has_states(const qs_semantics *s, int64_t item) { return s->states[item * QS_LAMBDA_RUNS] >= 0; }

static void sum_state(const input *in, int64_t item, size_t column, double two[2])
{
    if (!has_states(in->own, item)) return;
    for (int64_t i = 0; i < QS_LAMBDA_RUNS; i++)
        two[0] += in->own->states[item * QS_LAMBDA_RUNS + i] == (int32_t)column;
    two[1] += QS_LAMBDA_RUNS;
}

/* qs_lambda_flip_rate of the item, counted in runs. */
static void sum_flips(const input *in, int64_t item, size_t column, double two[2])
{
    (void)column;
    const int32_t *states = in->own->states + item * QS_LAMBDA_RUNS;
    qs_lambda runs[QS_LAMBDA_RUNS];
    if (!has_states(in->own, item)) return;
    for (int i = 0; i < QS_LAMBDA_RUNS; i++) runs[i] = (qs_lambda)states[i];
    two[0] += qs_lambda_flip_rate(runs, QS_LAMBDA_RUNS) * (QS_LAMBDA_RUNS - 1);
    two[1] += QS_LAMBDA_RUNS - 1;
}

static void sum_agreement(const input *in, int64_t item, size_t column, double two[2])
{
    (void)column;
    if (!has_states(in->own, item)) return;
    for (int64_t i = item * QS_LAMBDA_RUNS; i < (item + 1) * QS_LAMBDA_RUNS; i++)
        two[0] += in->own->states[i] == in->reference->states[i];
    two[1] += QS_LAMBDA_RUNS;
}

static void sum_change(const input *in, int64_t item, size_t column, double two[2])
{
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        double change = value_at(in->own, i, column) - value_at(in->reference, i, column);
        if (isnan(change)) continue;
        two[0] += change;
        two[1] += 1.0;
    }
}

static void sum_abs_change(const input *in, int64_t item, size_t column, double two[2])
{
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        double change = value_at(in->own, i, column) - value_at(in->reference, i, column);
        if (isnan(change)) continue;
        two[0] += fabs(change);
        two[1] += 1.0;
    }
}

static void sum_jaccard(const input *in, int64_t item, size_t column, double two[2])
{
    (void)column;
    int64_t k = in->answers->k, k_f = in->reference_answers->k;
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        two[0] += qs_jaccard_distance(in->answers->ranked + i * k, k, in->reference_answers->ranked + i * k_f, k_f);
        two[1] += 1.0;
    }
}

static void sum_tau(const input *in, int64_t item, size_t column, double two[2])
{
    (void)column;
    int64_t k = in->answers->k, k_f = in->reference_answers->k;
    for (int64_t i = item * QS_WORDINGS; i < (item + 1) * QS_WORDINGS; i++) {
        double tau = qs_kendall_tau(in->answers->ranked + i * k, k, in->reference_answers->ranked + i * k_f, k_f);
        if (isnan(tau)) continue;
        two[0] += tau;
        two[1] += 1.0;
    }
}

#define COLUMN(name) offsetof(qs_semantic_row, name)

static const struct {
    const char *name;
    item_sum sum;
    size_t column;
    bool share;
} ratios[] = {
    {"dS_QE", sum_values, COLUMN(dS_QE), false},
    {"dS_QE_transit", sum_transit, COLUMN(dS_QE), true},
    {"dS_QE_risk", sum_risk, COLUMN(dS_QE), true},
    {"dS_EA", sum_values, COLUMN(dS_EA), false},
    {"dS_QA", sum_values, COLUMN(dS_QA), false},
    {"dS_AR", sum_values, COLUMN(dS_AR), false},
    {"anchor_gap", sum_values, COLUMN(anchor_gap), false},
    {"anchor_drift", sum_abs_change, COLUMN(dS_EA), false},
    {"cov_retr10", sum_values, COLUMN(cov_retr10), false},
    {"snippet_jaccard", sum_jaccard, 0, false},
    {"snippet_tau", sum_tau, 0, false},
    {"lambda_conv", sum_state, QS_LAMBDA_CONVERGENT, true},
    {"lambda_recursive", sum_state, QS_LAMBDA_RECURSIVE, true},
    {"lambda_divergent", sum_state, QS_LAMBDA_DIVERGENT, true},
    {"lambda_chaotic", sum_state, QS_LAMBDA_CHAOTIC, true},
    {"lambda_flip_rate", sum_flips, 0, true},
    {"lambda_agree", sum_agreement, 0, true},
};

static bool wanted(const input *in, const qs_metric *metric)
{
    return (in->part & (metric->needs_reference ? QS_QUALITY_PAIRED : QS_QUALITY_OWN)) != 0;
}

static qs_err put_ratios(const input *in, double *two, qs_metric_sink put, void *context)
{
    qs_bootstrap options = {.seed = in->seed};
    int64_t n = in->own->n_items;
    qs_err err = QS_OK;
    for (size_t r = 0; r < sizeof ratios / sizeof *ratios; r++) {
        const qs_metric *metric = qs_metric_find(ratios[r].name);
        qs_estimate estimate;
        bool defined;
        if (!wanted(in, metric)) continue;
        for (int64_t i = 0; i < n; i++) {
            two[2 * i] = two[2 * i + 1] = 0.0;
            ratios[r].sum(in, i, ratios[r].column, &two[2 * i]);
        }
        err = qs_bootstrap_ratio(&options, two, n, ratios[r].share, &defined, &estimate);
        QS_TRY(qs_context(err, "metric %s", ratios[r].name));
        if (defined) QS_TRY(put(context, metric, &estimate));
    }
out:
    return err;
}

/* ---- drift: the worse of two frames' changes ---- */

/* Sums of QE, its count, sums of EA, its count; EA is left out where no item has an anchor. */
static double worse(const double *s)
{
    double qe = s[1] > 0.0 ? s[0] / s[1] : NAN, ea = s[3] > 0.0 ? s[2] / s[3] : NAN;
    return fmax(qe, ea); /* fmax passes a NaN over */
}

static qs_err put_drift(const input *in, const char *name, item_sum sum, double *four, qs_metric_sink put,
                        void *context)
{
    qs_bootstrap options = {.seed = in->seed};
    qs_estimate estimate;
    for (int64_t i = 0; i < in->own->n_items; i++) {
        double *s = four + 4 * i;
        s[0] = s[1] = s[2] = s[3] = 0.0;
        sum(in, i, COLUMN(dS_QE), s);
        sum(in, i, COLUMN(dS_EA), s + 2);
    }
    qs_err err = qs_bootstrap_sums(&options, four, in->own->n_items, 4, worse, &estimate);
    if (err != QS_OK) return qs_context(err, "metric %s", name);
    return put(context, qs_metric_find(name), &estimate);
}

/* Quantiles over items of the larger mean change of an item. */
static qs_err put_spread(const input *in, double *values, qs_metric_sink put, void *context)
{
    static const struct {
        const char *name;
        double fraction;
    } rows[] = {{"dS_drift_p50", 0.5}, {"dS_drift_p95", 0.95}, {"dS_drift_max", 1.0}};
    qs_bootstrap options = {.seed = in->seed};
    qs_err err = QS_OK;
    for (int64_t i = 0; i < in->own->n_items; i++) {
        double s[4] = {0};
        sum_abs_change(in, i, COLUMN(dS_QE), s);
        sum_abs_change(in, i, COLUMN(dS_EA), s + 2);
        values[i] = worse(s);
    }
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        qs_estimate estimate;
        QS_TRY(qs_bootstrap_quantile(&options, values, in->own->n_items, 1, rows[r].fraction, &estimate));
        QS_TRY(put(context, qs_metric_find(rows[r].name), &estimate));
    }
out:
    return err;
}

static qs_err put_n_runs(const input *in, qs_metric_sink put, void *context)
{
    int64_t n = 0;
    for (int64_t i = 0; i < in->own->n_items; i++) n += has_states(in->own, i);
    qs_estimate estimate = {.value = QS_LAMBDA_RUNS, .lo = QS_LAMBDA_RUNS, .hi = QS_LAMBDA_RUNS, .n = n};
    return n > 0 ? put(context, qs_metric_find("lambda_runs"), &estimate) : QS_OK;
}

/* Every snippet was looked at: no interval. */
static qs_err put_duplicates(const input *in, qs_metric_sink put, void *context)
{
    if (in->own->n_snippets == 0) return QS_OK;
    double share = (double)in->own->n_duplicates / (double)in->own->n_snippets;
    qs_estimate estimate = {share, share, share, in->own->n_snippets};
    return put(context, qs_metric_find("index_duplicates"), &estimate);
}

qs_err qs_semantic_metrics(const qs_semantic_input *in, qs_metric_sink put, void *context)
{
    double *sums = NULL;
    qs_err err;
    if (in->reference != NULL && in->reference->n_items < in->own->n_items)
        return qs_fail(QS_E_INPUT, "compare distances: the reference has %lld items, this one %lld",
                       (long long)in->reference->n_items, (long long)in->own->n_items);
    QS_TRY(QS_NEW(sums, 4 * in->own->n_items, "sums of items"));
    QS_TRY(put_ratios(in, sums, put, context));
    if ((in->part & QS_QUALITY_OWN) != 0) QS_TRY(put_n_runs(in, put, context));
    if ((in->part & QS_QUALITY_OWN) != 0) QS_TRY(put_duplicates(in, put, context));
    if ((in->part & QS_QUALITY_PAIRED) != 0) {
        QS_TRY(put_drift(in, "dS_drift", sum_abs_change, sums, put, context));
        QS_TRY(put_drift(in, "dS_drift_signed", sum_change, sums, put, context));
        QS_TRY(put_spread(in, sums, put, context));
    }
out:
    qs_mem_free(sums);
    return err;
}
