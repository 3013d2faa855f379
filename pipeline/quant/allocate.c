/* For every price of a bit, the cheapest choice (loss + price * bits) takes one corner of each matrix's lower convex
 * hull of (bits, loss). Lowering the price walks all hulls from their left ends, step by step in the order of what a
 * step saves per bit: at each point of the walk no other choice of so many bits has less loss (Everett 1963). Where the
 * next step does not fit, the line to it is the bound; smaller steps of other matrices are still taken, and then any
 * option that fits what is left. */
#include "quant/allocate.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/mem.h"

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

/* The option of any matrix that saves the most within the bits left, again and again. */
static void fill_up(const qs_allocate_job *job, int64_t left, int64_t *choice)
{
    for (;;) {
        int64_t matrix = -1, option = 0;
        double most = 0;
        for (int64_t m = 0; m < job->n_matrices; m++) {
            int64_t at = m * job->n_options, now = at + choice[m];
            for (int64_t o = 0; o < job->n_options; o++) {
                double saved = job->loss[now] - job->loss[at + o];
                if (job->bits[at + o] - job->bits[now] > left || !(saved > most)) continue;
                most = saved;
                matrix = m;
                option = o;
            }
        }
        if (matrix < 0) return;
        left -= job->bits[matrix * job->n_options + option] - job->bits[matrix * job->n_options + choice[matrix]];
        choice[matrix] = option;
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
    fill_up(job, left, choice);
out:
    qs_mem_free(steps);
    qs_mem_free(stuck);
    return err;
}
