#include "metric/entropy_curve.h"

#include <math.h>
#include <string.h>

/* Below this a reference is certain of every token, and a change of a fifth means nothing. */
static const double base_min = 0.05;
enum { PERSIST = 5, NEAR = 5, REPEAT_TOKENS = 64, GRAM = 4 };

int64_t qs_curve_width(int64_t n)
{
    if (n >= 200) return 50;
    return n / 8 > 5 ? n / 8 : 5;
}

void qs_curve_smooth(const double *h, int64_t n, int64_t width, double *out)
{
    for (int64_t t = 0; t < n; t++) {
        int64_t first = t + 1 > width ? t + 1 - width : 0;
        double sum = 0.0;
        for (int64_t i = first; i <= t; i++) sum += h[i];
        out[t] = sum / (double)(t + 1 - first);
    }
}

double qs_curve_repetition(const int32_t *tokens, int64_t n)
{
    int64_t n_grams = n - GRAM + 1, n_again = 0;
    for (int64_t i = 1; i < n_grams; i++)
        for (int64_t j = 0; j < i; j++)
            if (memcmp(tokens + i, tokens + j, GRAM * sizeof *tokens) == 0) {
                n_again++;
                break;
            }
    return n_grams > 0 ? (double)n_again / (double)n_grams : 0.0;
}

void qs_curve_repetitions(const int32_t *tokens, int64_t n, double *out)
{
    for (int64_t t = 0; t < n; t++)
        out[t] = t + 1 < REPEAT_TOKENS ? 0.0 : qs_curve_repetition(tokens + t + 1 - REPEAT_TOKENS, REPEAT_TOKENS);
}

/* The first of PERSIST steps from `first` on that lie on one side of the limit; n = none. */
static int64_t onset(const double *e, int64_t first, int64_t n, double limit, bool above)
{
    int64_t run = 0;
    for (int64_t t = first; t < n; t++) {
        run = (above ? e[t] >= limit : e[t] <= limit) ? run + 1 : 0;
        if (run == PERSIST) return t - PERSIST + 1;
    }
    return n;
}

static int64_t repetition_onset(const double *repetition, int64_t n)
{
    for (int64_t t = 0; repetition != NULL && t < n; t++)
        if (repetition[t] >= 0.5) return t;
    return n;
}

static int64_t earlier(int64_t a, int64_t b) { return a < b ? a : b; }

/* A peak of the reference a few steps away is the same peak. */
static int64_t spike(const double *f, const double *q, int64_t first, int64_t n, double limit)
{
    for (int64_t t = first; t < n; t++) {
        bool shared = q[t] < limit;
        for (int64_t i = t - NEAR; i <= t + NEAR && !shared; i++) shared = i >= 0 && i < n && f[i] >= limit;
        if (!shared) return t;
    }
    return n;
}

qs_curve_check qs_curve_compare(const qs_curve_side *f, const qs_curve_side *q, int64_t n, double *scratch)
{
    int64_t width = qs_curve_width(n), first = earlier(width, n) - 1;
    double *e_f = scratch, *e_q = scratch + n, sum = 0.0, slack = fmax(5.0, 0.10 * (double)n);
    qs_curve_smooth(f->entropy, n, width, e_f);
    qs_curve_smooth(q->entropy, n, width, e_q);
    qs_curve_check c = {.base = fmax(e_f[first], base_min)};
    c.rise_f = onset(e_f, first, n, 1.2 * c.base, true);
    c.rise_q = onset(e_q, first, n, 1.2 * c.base, true);
    c.collapse_f = earlier(onset(e_f, first, n, 0.8 * c.base, false), repetition_onset(f->repetition, n));
    c.collapse_q = earlier(onset(e_q, first, n, 0.8 * c.base, false), repetition_onset(q->repetition, n));
    c.spike = spike(e_f, e_q, first, n, 2.0 * c.base);
    for (int64_t t = 0; t < n; t++) sum += (e_q[t] - e_f[t]) * (e_q[t] - e_f[t]);
    c.rms = sqrt(sum / (double)n) / c.base;
    c.stable = (double)(c.rise_f - c.rise_q) <= slack && (double)(c.collapse_f - c.collapse_q) <= slack &&
               c.spike == n && c.rms <= 0.20;
    return c;
}
