/* Confidence intervals. Tokens of one window are not independent, so whole blocks (windows, questions, rounds
 * of timing) are resampled (cluster bootstrap: Davison and Hinkley 1997, section 2.4 and 3.8), with the
 * percentile interval. The draws depend on seed, resample and block number alone: every metric and every
 * configuration sees the same resamples, which is what makes them paired. */
#ifndef QS_METRIC_BOOTSTRAP_H
#define QS_METRIC_BOOTSTRAP_H

#include "metric/metrics.h"

enum { QS_BOOTSTRAP_RESAMPLES = 2000 };

typedef struct qs_bootstrap {
    uint64_t seed;
    int64_t n_resamples; /* 0 = QS_BOOTSTRAP_RESAMPLES */
} qs_bootstrap;

/* A statistic of blocks, each counted counts[b] times; the plain value has every count 1. NaN = not defined
 * for this draw, which is then left out. */
typedef double (*qs_statistic)(const void *context, const int32_t *counts);

/* value = the plain statistic; lo, hi = its 2.5 and 97.5 % percentiles over the resamples; n = n_blocks. One
 * block has no spread: then lo = hi = value. QS_E_NUMERIC when the plain value is not finite. */
QS_MUST_CHECK qs_err qs_bootstrap_run(const qs_bootstrap *options, qs_statistic statistic,
                                      const void *context, int64_t n_blocks, qs_estimate *out);

/* A statistic that is a function of sums over blocks: sums [n_blocks, n_sums], row by row. */
enum { QS_BOOTSTRAP_MAX_SUMS = 16 };
QS_MUST_CHECK qs_err qs_bootstrap_sums(const qs_bootstrap *options, const double *sums, int64_t n_blocks,
                                       int n_sums, double (*of)(const double *sums), qs_estimate *out);

/* Sum over sum: ratios [n_blocks, 2], row by row, above and below. `share`: of counts, so that Wilson's interval of
 * as many trials as there are blocks with something below applies too; the wider bound counts. n = these blocks.
 * *defined = false when nothing is below, and *out is untouched. */
QS_MUST_CHECK qs_err qs_bootstrap_ratio(const qs_bootstrap *options, const double *ratios, int64_t n_blocks, bool share,
                                        bool *defined, qs_estimate *out);

/* The f-quantile (0 .. 1) of values [n_blocks, n_per_block]: interpolated at f (n - 1) of the sorted. */
QS_MUST_CHECK qs_err qs_bootstrap_quantile(const qs_bootstrap *options, const double *values,
                                           int64_t n_blocks, int64_t n_per_block, double f, qs_estimate *out);

/* 100 (median a - median b) / median a of two series of the same blocks: a, b [n_blocks, n_per_block]. */
QS_MUST_CHECK qs_err qs_bootstrap_median_gain(const qs_bootstrap *options, const double *a, const double *b,
                                              int64_t n_blocks, int64_t n_per_block, qs_estimate *out);

/* The quantile of sorted values, as above. n >= 1. */
double qs_quantile_sorted(const double *sorted, int64_t n, double f);

/* Score interval of a share (Wilson 1927), 95 %. n = 0 gives 0 .. 1. */
void qs_wilson(double n_successes, double n, double *lo, double *hi);

#endif
