/* For every price of a bit, the cheapest choice (loss + price * bits) takes one corner of each matrix's lower convex
 * hull of (bits, loss). Lowering the price walks all hulls from their left ends, step by step in the order of what a
 * step saves per bit: at each point of the walk no other choice of so many bits has less loss (Everett 1963). Where the
 * next step does not fit, the line to it is the bound; smaller steps of other matrices are still taken, and then
 * options are exchanged two at a time. */
#include "quant/allocate.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

enum { EXCHANGES_MAX = 64 };

/* From one corner of a matrix's hull to the next. */
typedef struct hull_step {
    int64_t matrix, option; /* that it leads to */
    int64_t bits;           /* more */
    double saved;           /* of the loss */
} hull_step;

static int compare_steps(const void *left, const void *right)
{
    const hull_step *a = left, *b = right;
    double x = a->saved * (double)b->bits, y = b->saved * (double)a->bits;
    if (x != y) return x > y ? -1 : 1;
    if (a->matrix != b->matrix) return a->matrix < b->matrix ? -1 : 1;
    return a->bits < b->bits ? -1 : a->bits > b->bits;
}

/* The option with the fewest bits, of equals the one with the least loss. */
static int64_t smallest(const qs_allocate_job *job, int64_t matrix)
{
    const int64_t *bits = job->bits + matrix * job->n_options;
    const double *loss = job->loss + matrix * job->n_options;
    int64_t best = 0;
    for (int64_t o = 1; o < job->n_options; o++)
        if (bits[o] < bits[best] || (bits[o] == bits[best] && loss[o] < loss[best])) best = o;
    return best;
}

/* Steps of one matrix from its smallest option on: each leads where the most is saved per bit. */
static int64_t walk_hull(const qs_allocate_job *job, int64_t matrix, int64_t from, hull_step *steps)
{
    const int64_t *bits = job->bits + matrix * job->n_options;
    const double *loss = job->loss + matrix * job->n_options;
    int64_t n = 0;
    for (int64_t next = from; next >= 0; from = next) {
        next = -1;
        for (int64_t o = 0; o < job->n_options; o++) {
            if (bits[o] <= bits[from] || !(loss[o] < loss[from])) continue;
            double saved = loss[from] - loss[o];
            double best = next < 0 ? 0 : (loss[from] - loss[next]) * (double)(bits[o] - bits[from]);
            double mine = next < 0 ? 1 : saved * (double)(bits[next] - bits[from]);
            if (mine > best || (mine == best && bits[o] > bits[next])) next = o;
        }
        if (next >= 0) steps[n++] = (hull_step){matrix, next, bits[next] - bits[from], loss[from] - loss[next]};
    }
    return n;
}

/* Takes steps in order; returns the bits that are left. */
static int64_t take_steps(const hull_step *steps, int64_t n_steps, int64_t left, double loss,
                          bool *stuck, int64_t *choice, double *bound)
{
    bool bounded = false;
    for (int64_t i = 0; i < n_steps; i++) {
        const hull_step *s = &steps[i];
        if (stuck[s->matrix]) continue;
        if (s->bits > left) {
            if (!bounded) *bound = loss - s->saved * (double)left / (double)s->bits;
            bounded = true;
            stuck[s->matrix] = true;
            continue;
        }
        left -= s->bits;
        loss -= s->saved;
        choice[s->matrix] = s->option;
    }
    if (!bounded) *bound = loss;
    return left;
}

/* Other options for one or two matrices. */
typedef struct exchange {
    int64_t matrices[2], options[2];
    double saved;
} exchange;

static double saved_by(const qs_allocate_job *job, const int64_t *choice, int64_t matrix, int64_t option)
{
    return job->loss[matrix * job->n_options + choice[matrix]] - job->loss[matrix * job->n_options + option];
}

static int64_t bits_more(const qs_allocate_job *job, const int64_t *choice, int64_t matrix, int64_t option)
{
    return job->bits[matrix * job->n_options + option] - job->bits[matrix * job->n_options + choice[matrix]];
}

/* The best partner for a change of matrix m; the change alone is one with m itself. */
static void find_partner(const qs_allocate_job *job, const int64_t *choice, int64_t left, int64_t m, int64_t o,
                         exchange *best)
{
    double saved = saved_by(job, choice, m, o);
    left -= bits_more(job, choice, m, o);
    if (left >= 0 && saved > best->saved) *best = (exchange){{m, m}, {o, o}, saved};
    for (int64_t n = 0; n < job->n_matrices; n++) {
        if (n == m) continue;
        for (int64_t p = 0; p < job->n_options; p++)
            if (bits_more(job, choice, n, p) <= left && saved + saved_by(job, choice, n, p) > best->saved)
                *best = (exchange){{m, n}, {o, p}, saved + saved_by(job, choice, n, p)};
    }
}

/* What a walk along hulls leaves: the exchange of one or two matrices' options that saves the most, again and again. */
static void improve(const qs_allocate_job *job, int64_t left, int64_t *choice)
{
    for (int i = 0; i < EXCHANGES_MAX; i++) {
        exchange best = {.saved = 0};
        for (int64_t m = 0; m < job->n_matrices; m++)
            for (int64_t o = 0; o < job->n_options; o++)
                if (bits_more(job, choice, m, o) > 0) find_partner(job, choice, left, m, o, &best);
        if (!(best.saved > 0)) return;
        for (int k = 0; k < 2; k++) {
            left -= bits_more(job, choice, best.matrices[k], best.options[k]);
            choice[best.matrices[k]] = best.options[k];
        }
    }
}

qs_err qs_allocate(const qs_allocate_job *job, int64_t *choice, double *bound)
{
    hull_step *steps = NULL;
    bool *stuck = NULL;
    int64_t n_steps = 0, left = job->budget;
    double loss = 0;
    qs_err err;
    QS_TRY(QS_NEW(steps, job->n_matrices * job->n_options, "steps of an allocation"));
    QS_TRY(QS_NEW(stuck, job->n_matrices, "steps of an allocation"));
    for (int64_t m = 0; m < job->n_matrices; m++) {
        choice[m] = smallest(job, m);
        left -= job->bits[m * job->n_options + choice[m]];
        loss += job->loss[m * job->n_options + choice[m]];
        n_steps += walk_hull(job, m, choice[m], steps + n_steps);
    }
    if (left < 0) {
        err = qs_fail(QS_E_INPUT, "share out bits: the smallest options need %lld bits more than the budget",
                      (long long)-left);
        goto out;
    }
    qsort(steps, (size_t)n_steps, sizeof *steps, compare_steps);
    left = take_steps(steps, n_steps, left, loss, stuck, choice, bound);
    improve(job, left, choice);
out:
    qs_mem_free(steps);
    qs_mem_free(stuck);
    return err;
}
