/* λ, how runs of one question hang together (docs/lambda.md). States, from best to worst:
 *   ->  convergent   <>  recursive (elsewhere, but not lost)   <-  divergent (no usable answer)   x  chaotic */
#ifndef QS_METRIC_LAMBDA_H
#define QS_METRIC_LAMBDA_H

#include <stdbool.h>
#include <stdint.h>

typedef enum qs_lambda {
    QS_LAMBDA_CONVERGENT, QS_LAMBDA_RECURSIVE, QS_LAMBDA_DIVERGENT, QS_LAMBDA_CHAOTIC, QS_N_LAMBDAS
} qs_lambda;
const char *qs_lambda_symbol(qs_lambda state); /* "->", "<>", "<-", "x" */
const char *qs_lambda_name(qs_lambda state); /* "convergent": in tables, where "->" would be a spreadsheet's formula */

/* ---- runs: one state per question, paraphrase and seed ---- */

typedef struct qs_lambda_run {
    bool finite;         /* no logit was NaN or Inf */
    bool answered;       /* parsed, and the answer is not empty */
    bool cited;          /* at least one snippet of the prompt */
    bool cites_gold;     /* the anchor's snippet */
    bool cites_consensus; /* what most runs of the question cite */
    double dS_medoid;    /* ΔS(answer, medoid of the question's answers) */
} qs_lambda_run;
qs_lambda qs_lambda_of_run(const qs_lambda_run *run);

/* What most of the runs cite: cited [n_runs] first citations, as places in the order of ties, -1 = none. Ties go to the
 * lower one; -1 when none cites. */
int64_t qs_lambda_consensus(const int64_t *cited, int64_t n_runs);

/* Share of states[1 .. n-1] that differ from states[0]; 0 for fewer than two. */
double qs_lambda_flip_rate(const qs_lambda *states, int64_t n);

/* counts[f][q] over n pairs of runs, reference's and candidate's; gives the share of equal states, 1 without runs. */
double qs_lambda_agreement(const qs_lambda *f, const qs_lambda *q, int64_t n,
                           int64_t counts[QS_N_LAMBDAS][QS_N_LAMBDAS]);

/* The probe over k and headers: states [n_k, n_headers] row by row, the first column being canonical headers. A
 * flip is a state that differs from the canonical one at the same k; gives flips / (n_k (n_headers - 1)). */
double qs_lambda_probe_flips(const qs_lambda *states, int64_t n_k, int64_t n_headers);

/* ---- steps: one state per 8 generated tokens ---- */

enum { QS_RESONANCE_WINDOW = 5 };

/* E resonance: e[t] = mean of delta over the last min(t, 5) steps. delta, e [n]; delta_t = ΔS(answer so far, question +
 * anchor). */
void qs_e_resonance(const double *delta, int64_t n, double *e);

/* Least-squares slope of e over its steps; 0 for fewer than two. */
double qs_slope(const double *e, int64_t n);

/* mean |e_q - e_f| over the steps that both have; NaN when they share none. */
double qs_e_resonance_drift(const double *e_f, int64_t n_f, const double *e_q, int64_t n_q);
/* slope_q - max(.02, slope_f + .02): above 0 is a rise that the reference has not. */
double qs_e_resonance_slope_excess(double slope_f, double slope_q);

/* states [n] of steps with distances delta [n] and resonance e [n]; contradicts [n] or NULL. Step 0 has no change and
 * counts as one of 0. */
void qs_lambda_of_steps(const double *delta, const double *e, const bool *contradicts, int64_t n, qs_lambda *states);

#endif
