#include "metric/lambda.h"

#include <math.h>
#include <string.h>

const char *qs_lambda_symbol(qs_lambda state)
{
    static const char *const symbols[QS_N_LAMBDAS] = {"->", "<>", "<-", "x"};
    return symbols[state];
}

const char *qs_lambda_name(qs_lambda state)
{
    static const char *const names[QS_N_LAMBDAS] = {
        [QS_LAMBDA_CONVERGENT] = "convergent", [QS_LAMBDA_RECURSIVE] = "recursive",
        [QS_LAMBDA_DIVERGENT] = "divergent", [QS_LAMBDA_CHAOTIC] = "chaotic"};
    return names[state];
}

/* ---- runs ---- */

qs_lambda qs_lambda_of_run(const qs_lambda_run *run)
{
    static const double apart = 0.60;
    if (!run->finite) return QS_LAMBDA_CHAOTIC;
    if (!run->answered || !run->cited) return QS_LAMBDA_DIVERGENT;
    if (!run->cites_gold && !run->cites_consensus) return QS_LAMBDA_CHAOTIC;
    return run->cites_gold && run->dS_medoid < apart ? QS_LAMBDA_CONVERGENT : QS_LAMBDA_RECURSIVE;
}

int64_t qs_lambda_consensus(const int64_t *cited, int64_t n_runs)
{
    int64_t best = -1, n_best = 0;
    for (int64_t i = 0; i < n_runs; i++) {
        int64_t n = 0;
        if (cited[i] < 0) continue;
        for (int64_t j = 0; j < n_runs; j++) n += cited[j] == cited[i];
        if (n > n_best || (n == n_best && cited[i] < best)) {
            best = cited[i];
            n_best = n;
        }
    }
    return best;
}

double qs_lambda_flip_rate(const qs_lambda *states, int64_t n)
{
    int64_t n_flips = 0;
    for (int64_t i = 1; i < n; i++) n_flips += states[i] != states[0];
    return n > 1 ? (double)n_flips / (double)(n - 1) : 0.0;
}

double qs_lambda_agreement(const qs_lambda *f, const qs_lambda *q, int64_t n,
                           int64_t counts[QS_N_LAMBDAS][QS_N_LAMBDAS])
{
    int64_t n_equal = 0;
    memset(counts, 0, sizeof(int64_t[QS_N_LAMBDAS][QS_N_LAMBDAS]));
    for (int64_t i = 0; i < n; i++) {
        counts[f[i]][q[i]]++;
        n_equal += f[i] == q[i];
    }
    return n > 0 ? (double)n_equal / (double)n : 1.0;
}

double qs_lambda_probe_flips(const qs_lambda *states, int64_t n_k, int64_t n_headers)
{
    double sum = 0.0;
    for (int64_t k = 0; k < n_k; k++) sum += qs_lambda_flip_rate(states + k * n_headers, n_headers);
    return n_k > 0 ? sum / (double)n_k : 0.0;
}

/* ---- steps ---- */

void qs_e_resonance(const double *delta, int64_t n, double *e)
{
    for (int64_t t = 0; t < n; t++) {
        int64_t width = t + 1 < QS_RESONANCE_WINDOW ? t + 1 : QS_RESONANCE_WINDOW;
        double sum = 0.0;
        for (int64_t i = t + 1 - width; i <= t; i++) sum += delta[i];
        e[t] = sum / (double)width;
    }
}

double qs_slope(const double *e, int64_t n)
{
    double middle = (double)(n - 1) / 2.0, above = 0.0, below = 0.0;
    for (int64_t t = 0; t < n; t++) {
        above += ((double)t - middle) * e[t];
        below += ((double)t - middle) * ((double)t - middle);
    }
    return below > 0.0 ? above / below : 0.0;
}

double qs_e_resonance_drift(const double *e_f, int64_t n_f, const double *e_q, int64_t n_q)
{
    int64_t n = n_f < n_q ? n_f : n_q;
    double sum = 0.0;
    for (int64_t t = 0; t < n; t++) sum += fabs(e_q[t] - e_f[t]);
    return n > 0 ? sum / (double)n : NAN;
}

double qs_e_resonance_slope_excess(double slope_f, double slope_q)
{
    static const double slack = 0.02;
    return slope_q - fmax(slack, slope_f + slack);
}

static const double small = 0.02, large = 0.04, near_enough = 0.35;
/* What a change of .02 in one of five steps makes of their mean: less is flat. */
static const double flat = 0.02 / QS_RESONANCE_WINDOW;

/* The last three changes take turns in sign, and none of them is small. */
static bool oscillates(const double *delta, int64_t t)
{
    if (t < 3) return false;
    for (int64_t i = 0; i < 3; i++)
        if (!(fabs(delta[t - i] - delta[t - i - 1]) >= small)) return false;
    return (delta[t] > delta[t - 1]) != (delta[t - 1] > delta[t - 2]) &&
           (delta[t - 1] > delta[t - 2]) != (delta[t - 2] > delta[t - 3]);
}

static qs_lambda state_of_step(const double *delta, const double *e, bool contradicts, int64_t t)
{
    double change = t > 0 ? delta[t] - delta[t - 1] : 0.0, rise = t > 0 ? e[t] - e[t - 1] : 0.0;
    if (!isfinite(delta[t]) || !isfinite(change) || contradicts || change > large) return QS_LAMBDA_CHAOTIC;
    if (change <= -small) return rise <= flat ? QS_LAMBDA_CONVERGENT : QS_LAMBDA_RECURSIVE;
    if (oscillates(delta, t)) return QS_LAMBDA_DIVERGENT;
    if (fabs(change) < small) {
        if (rise < -flat) return QS_LAMBDA_CONVERGENT;
        if (rise > flat) return QS_LAMBDA_DIVERGENT;
        return delta[t] < near_enough ? QS_LAMBDA_CONVERGENT : QS_LAMBDA_RECURSIVE;
    }
    return QS_LAMBDA_DIVERGENT;
}

void qs_lambda_of_steps(const double *delta, const double *e, const bool *contradicts, int64_t n, qs_lambda *states)
{
    for (int64_t t = 0; t < n; t++)
        states[t] = state_of_step(delta, e, contradicts != NULL && contradicts[t], t);
}
