#include "metric/quality.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* Sums over the scored positions of a window; every metric but the quantiles is a function of them. */
enum { N, NLL_F, NLL_Q, RIGHT_F, RIGHT_Q, AGREE, FLIP, KLD, DP2, N_SUMS };
_Static_assert((int)N_SUMS == (int)QS_QUALITY_SUMS, "sums of a window");

static double ppl(const double *s) { return exp(s[NLL_Q] / s[N]); }
static double ppl_ratio(const double *s) { return exp((s[NLL_Q] - s[NLL_F]) / s[N]); }
static double token_acc(const double *s) { return s[RIGHT_Q] / s[N]; }
static double acc_loss_pct(const double *s) { return 100.0 * (s[RIGHT_F] - s[RIGHT_Q]) / s[RIGHT_F]; }
static double kld_mean(const double *s) { return s[KLD] / s[N]; }
static double top1_agree(const double *s) { return s[AGREE] / s[N]; }
static double flip_rate(const double *s) { return s[FLIP] / s[N]; }
static double dp_rms(const double *s) { return sqrt(s[DP2] / s[N]); }

static double ratio_excess(const double *s, double limit) { return (s[NLL_Q] - s[NLL_F]) / s[N] - log(limit); }
static double kld_excess(const double *s, double limit) { return s[KLD] / s[N] - limit; }
static double agree_excess(const double *s, double limit) { return s[AGREE] / s[N] - limit; }
static double flip_excess(const double *s, double limit) { return s[FLIP] / s[N] - limit; }
/* 100 (f - q) / f > L where f - q - L f / 100 > 0, and that adds up over windows. */
static double acc_excess(const double *s, double limit)
{
    return (s[RIGHT_F] - s[RIGHT_Q] - 0.01 * limit * s[RIGHT_F]) / s[N];
}

typedef struct quality_row {
    const char *name;
    double (*of)(const double *sums); /* NULL: a quantile of the KL divergence */
    double (*excess)(const double *sums, double limit); /* NULL: no mean over windows */
    double quantile;
    int share;    /* it is the share of positions that this sum counts; 0 = no share */
    int relative; /* it is relative to this sum, and not defined when that is 0; 0 = always defined */
} quality_row;

static const quality_row rows[] = {
    {.name = "ppl", .of = ppl},
    {.name = "ppl_ratio", .of = ppl_ratio, .excess = ratio_excess},
    {.name = "token_acc", .of = token_acc, .share = RIGHT_Q},
    {.name = "acc_loss_pct", .of = acc_loss_pct, .excess = acc_excess, .relative = RIGHT_F},
    {.name = "kld_mean", .of = kld_mean, .excess = kld_excess},
    {.name = "kld_p99", .quantile = 0.99},
    {.name = "kld_max", .quantile = 1.0},
    {.name = "top1_agree", .of = top1_agree, .excess = agree_excess, .share = AGREE},
    {.name = "flip_rate", .of = flip_rate, .excess = flip_excess, .share = FLIP},
    {.name = "dp_rms", .of = dp_rms},
};

void qs_quality_sum_window(const qs_quality_input *input, int64_t window, double sums[QS_QUALITY_SUMS])
{
    int64_t n = input->windows->n_scored;
    const int32_t *targets = qs_windows_targets(input->windows, window);
    const qs_token_scores *q = input->scores, *f = input->reference;
    memset(sums, 0, N_SUMS * sizeof *sums);
    sums[N] = (double)n;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = window * n + i;
        double dp = exp(-(double)q->nll[at]) - exp(-(double)f->nll[at]);
        sums[NLL_F] += (double)f->nll[at];
        sums[NLL_Q] += (double)q->nll[at];
        sums[RIGHT_F] += f->argmax[at] == targets[i];
        sums[RIGHT_Q] += q->argmax[at] == targets[i];
        sums[AGREE] += q->argmax[at] == f->argmax[at];
        sums[FLIP] += q->argmax[at] != f->argmax[at];
        sums[DP2] += dp * dp;
        if (q->kld != NULL) sums[KLD] += (double)q->kld[at];
    }
}

/* The windows may all agree, which makes the bootstrap's interval a point; Wilson's never is one. The wider
 * of the two at each end allows for both clustering and the discreteness of a share. */
static void widen_share(double n_successes, double n, qs_estimate *estimate)
{
    double lo, hi;
    qs_wilson(n_successes, n, &lo, &hi);
    estimate->lo = fmin(estimate->lo, lo);
    estimate->hi = fmax(estimate->hi, hi);
}

static qs_err measure_row(const qs_quality_input *input, const quality_row *row, const double *sums,
                          const double *kld, bool *defined, qs_estimate *estimate)
{
    const qs_windows *windows = input->windows;
    qs_bootstrap options = {.seed = input->seed};
    double total[N_SUMS] = {0};
    for (int64_t w = 0; w < windows->n_windows; w++)
        for (int i = 0; i < N_SUMS; i++) total[i] += sums[w * N_SUMS + i];
    *defined = row->relative == 0 || total[row->relative] > 0.0;
    if (!*defined) return QS_OK;
    qs_err err;
    if (row->of == NULL)
        QS_TRY(qs_bootstrap_quantile(&options, kld, windows->n_windows, windows->n_scored, row->quantile,
                                     estimate));
    else QS_TRY(qs_bootstrap_sums(&options, sums, windows->n_windows, N_SUMS, row->of, estimate));
    if (row->share > 0) widen_share(total[row->share], total[N], estimate);
    if (row->quantile == 1.0)
        estimate->lo = estimate->hi = estimate->value; /* a maximum has no bootstrap interval */
out:
    return qs_context(err, "metric %s", row->name);
}

qs_err qs_quality_measure(const qs_quality_input *input, qs_metric_sink put, void *context)
{
    const qs_windows *windows = input->windows;
    double *sums = NULL, *kld = NULL;
    qs_err err;
    QS_TRY(QS_NEW(sums, windows->n_windows * N_SUMS, "sums of windows"));
    for (int64_t w = 0; w < windows->n_windows; w++) qs_quality_sum_window(input, w, sums + w * N_SUMS);
    if (input->scores->kld != NULL) {
        QS_TRY(QS_NEW(kld, input->scores->n, "KL divergences"));
        for (int64_t i = 0; i < input->scores->n; i++) kld[i] = (double)input->scores->kld[i];
    }
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const qs_metric *metric = qs_metric_find(rows[i].name);
        qs_estimate estimate;
        bool defined;
        qs_quality_part part = metric->needs_reference ? QS_QUALITY_PAIRED : QS_QUALITY_OWN;
        if ((metric->task & input->tasks) == 0 || (part & input->part) == 0) continue;
        QS_TRY(measure_row(input, &rows[i], sums, kld, &defined, &estimate));
        if (defined) QS_TRY(put(context, metric, &estimate));
    }
out:
    qs_mem_free(sums);
    qs_mem_free(kld);
    return err;
}

static const quality_row *find_row(const char *metric)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, metric) == 0) return &rows[i];
    return NULL;
}

bool qs_quality_is_mean(const char *metric, double limit)
{
    static const double one_token[QS_QUALITY_SUMS] = {[N] = 1.0};
    const quality_row *row = find_row(metric);
    /* A ratio that must be below 0 has no logarithm. */
    return row != NULL && row->excess != NULL && isfinite(row->excess(one_token, limit));
}

double qs_quality_excess(const char *metric, double limit, const double sums[QS_QUALITY_SUMS])
{
    return find_row(metric)->excess(sums, limit);
}
