#include "metric/bootstrap.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "base/rng.h"

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double qs_quantile_sorted(const double *sorted, int64_t n, double f)
{
    double at = f * (double)(n - 1);
    int64_t low = (int64_t)at;
    if (low >= n - 1) return sorted[n - 1];
    return sorted[low] + (at - (double)low) * (sorted[low + 1] - sorted[low]);
}

void qs_wilson(double n_successes, double n, double *lo, double *hi)
{
    const double z = 1.959963984540054; /* the normal's 97.5 % point */
    *lo = 0.0;
    *hi = 1.0;
    if (n <= 0.0) return;
    double p = n_successes / n, zz = z * z / n;
    double centre = (p + 0.5 * zz) / (1.0 + zz);
    double half = z * sqrt(p * (1.0 - p) / n + 0.25 * zz / n) / (1.0 + zz);
    /* At the ends of the scale the exact limit is the end itself; rounding must not pass it. */
    if (n_successes > 0.0) *lo = fmax(0.0, centre - half);
    if (n_successes < n) *hi = fmin(1.0, centre + half);
}

qs_err qs_bootstrap_run(const qs_bootstrap *options, qs_statistic statistic, const void *context,
                        int64_t n_blocks, qs_estimate *out)
{
    int64_t n_resamples = options->n_resamples > 0 ? options->n_resamples : QS_BOOTSTRAP_RESAMPLES,
            n_defined = 0;
    int32_t *counts = NULL;
    double *values = NULL;
    qs_err err;
    QS_TRY(QS_NEW(counts, n_blocks, "counts of a resample"));
    QS_TRY(QS_NEW(values, n_resamples, "resampled statistics"));
    for (int64_t b = 0; b < n_blocks; b++) counts[b] = 1;
    double value = statistic(context, counts);
    if (!isfinite(value)) {
        err = qs_fail(QS_E_NUMERIC, "estimate a statistic of %lld blocks: it is NaN or infinite",
                      (long long)n_blocks);
        goto out;
    }
    *out = (qs_estimate){.value = value, .lo = value, .hi = value, .n = n_blocks};
    for (int64_t r = 0; r < n_resamples && n_blocks > 1; r++) {
        for (int64_t b = 0; b < n_blocks; b++) counts[b] = 0;
        for (int64_t b = 0; b < n_blocks; b++)
            counts[qs_rng_below(options->seed, (uint64_t)(r * n_blocks + b), n_blocks)]++;
        values[n_defined] = statistic(context, counts);
        n_defined += isfinite(values[n_defined]);
    }
    if (n_defined > 0) {
        qsort(values, (size_t)n_defined, sizeof *values, compare_doubles);
        out->lo = qs_quantile_sorted(values, n_defined, 0.025);
        out->hi = qs_quantile_sorted(values, n_defined, 0.975);
    }
out:
    qs_mem_free(counts);
    qs_mem_free(values);
    return err;
}

/* ---- functions of sums ---- */

typedef struct sums_context {
    const double *sums;
    int64_t n_blocks;
    int n_sums;
    double (*of)(const double *sums);
} sums_context;

static double statistic_of_sums(const void *context, const int32_t *counts)
{
    const sums_context *c = context;
    double total[QS_BOOTSTRAP_MAX_SUMS] = {0};
    for (int64_t b = 0; b < c->n_blocks; b++)
        for (int i = 0; i < c->n_sums; i++) total[i] += (double)counts[b] * c->sums[b * c->n_sums + i];
    return c->of(total);
}

qs_err qs_bootstrap_sums(const qs_bootstrap *options, const double *sums, int64_t n_blocks, int n_sums,
                         double (*of)(const double *sums), qs_estimate *out)
{
    if (n_sums < 1 || n_sums > QS_BOOTSTRAP_MAX_SUMS)
        return qs_fail(QS_E_USAGE, "bootstrap of %d sums: 1 to %d are possible", n_sums,
                       QS_BOOTSTRAP_MAX_SUMS);
    sums_context context = {.sums = sums, .n_blocks = n_blocks, .n_sums = n_sums, .of = of};
    return qs_bootstrap_run(options, statistic_of_sums, &context, n_blocks, out);
}

static double ratio_of(const double *sums) { return sums[1] > 0.0 ? sums[0] / sums[1] : NAN; }

qs_err qs_bootstrap_ratio(const qs_bootstrap *options, const double *ratios, int64_t n_blocks, bool share,
                          bool *defined, qs_estimate *out)
{
    double above = 0.0, below = 0.0;
    int64_t n_with = 0;
    for (int64_t i = 0; i < n_blocks; i++) {
        above += ratios[2 * i];
        below += ratios[2 * i + 1];
        n_with += ratios[2 * i + 1] > 0.0;
    }
    *defined = below > 0.0;
    if (!*defined) return QS_OK;
    qs_err err = qs_bootstrap_sums(options, ratios, n_blocks, 2, ratio_of, out);
    if (err != QS_OK) return err;
    out->n = n_with;
    if (share) {
        double lo, hi;
        qs_wilson(above / below * (double)n_with, (double)n_with, &lo, &hi);
        out->lo = fmin(out->lo, lo);
        out->hi = fmax(out->hi, hi);
    }
    return QS_OK;
}

/* ---- quantiles: sorted once, then walked with the multiplicities of a resample ---- */

typedef struct ranked {
    double value;
    int64_t block;
} ranked;

typedef struct ranked_series {
    ranked *items; /* [n], ascending */
    int64_t n;
} ranked_series;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->value != y->value) return (x->value > y->value) - (x->value < y->value);
    return (x->block > y->block) - (x->block < y->block);
}

static qs_err rank_series(ranked_series *out, const double *values, int64_t n_blocks, int64_t n_per_block)
{
    out->n = n_blocks * n_per_block;
    qs_err err = QS_NEW(out->items, out->n, "sorted values");
    if (err != QS_OK) return err;
    for (int64_t i = 0; i < out->n; i++)
        out->items[i] = (ranked){.value = values[i], .block = i / n_per_block};
    qsort(out->items, (size_t)out->n, sizeof *out->items, compare_ranked);
    return QS_OK;
}

/* All blocks are equally long, so a resample has exactly n values. Walks from the nearer end. */
static double ranked_quantile(const ranked_series *series, const int32_t *counts, double f)
{
    double at = f * (double)(series->n - 1);
    int64_t low = (int64_t)at, high = low + 1 < series->n ? low + 1 : low;
    double values[2] = {0.0, 0.0}; /* at ranks low and high */
    if (2 * low < series->n) {
        int64_t seen = 0;
        for (int64_t i = 0; i < series->n && seen <= high; i++) {
            int64_t before = seen;
            seen += counts[series->items[i].block];
            if (before <= low && low < seen) values[0] = series->items[i].value;
            if (before <= high && high < seen) values[1] = series->items[i].value;
        }
    } else {
        int64_t left = series->n; /* ranks left .. n - 1 were walked */
        for (int64_t i = series->n - 1; i >= 0 && left > low; i--) {
            int64_t before = left;
            left -= counts[series->items[i].block];
            if (left <= low && low < before) values[0] = series->items[i].value;
            if (left <= high && high < before) values[1] = series->items[i].value;
        }
    }
    return values[0] + (at - (double)low) * (values[1] - values[0]);
}

typedef struct quantile_context {
    ranked_series a, b; /* b only for the gain */
    double f;
} quantile_context;

static double statistic_quantile(const void *context, const int32_t *counts)
{
    const quantile_context *c = context;
    return ranked_quantile(&c->a, counts, c->f);
}

static double statistic_gain(const void *context, const int32_t *counts)
{
    const quantile_context *c = context;
    double a = ranked_quantile(&c->a, counts, 0.5), b = ranked_quantile(&c->b, counts, 0.5);
    return 100.0 * (a - b) / a;
}

qs_err qs_bootstrap_quantile(const qs_bootstrap *options, const double *values, int64_t n_blocks,
                             int64_t n_per_block, double f, qs_estimate *out)
{
    quantile_context context = {.f = f};
    qs_err err;
    QS_TRY(rank_series(&context.a, values, n_blocks, n_per_block));
    QS_TRY(qs_bootstrap_run(options, statistic_quantile, &context, n_blocks, out));
out:
    qs_mem_free(context.a.items);
    return err;
}

qs_err qs_bootstrap_median_gain(const qs_bootstrap *options, const double *a, const double *b,
                                int64_t n_blocks, int64_t n_per_block, qs_estimate *out)
{
    quantile_context context = {0};
    qs_err err;
    QS_TRY(rank_series(&context.a, a, n_blocks, n_per_block));
    QS_TRY(rank_series(&context.b, b, n_blocks, n_per_block));
    QS_TRY(qs_bootstrap_run(options, statistic_gain, &context, n_blocks, out));
out:
    qs_mem_free(context.a.items);
    qs_mem_free(context.b.items);
    return err;
}
