/* The reference's side of every comparison, from an eval artifact of the reference: its final hidden states
 * (which with the head give its logits again) and its scores per position. A later point needs no pass of the
 * reference. */
#ifndef QS_METRIC_BASELINE_H
#define QS_METRIC_BASELINE_H

#include "base/file.h"
#include "metric/eval_file.h"

typedef struct qs_baseline {
    qs_artifact *artifact;
    char path[QS_PATH_BYTES];
    qs_digest digest;
    qs_token_scores scores;    /* all but KL */
    double forward_s, score_s; /* what the reference's own pass took; 0 when unknown */
} qs_baseline;

/* Refuses (QS_E_INPUT) an artifact that is not of the reference, that holds no hidden states, or that differs
 * from the subject in model, protocol, tokens or compute, and names which. */
QS_MUST_CHECK qs_err qs_baseline_open(qs_baseline *out, const char *path, const qs_subject *subject);
void qs_baseline_close(qs_baseline *baseline);

/* hidden [n_ctx, d_model] (host) of one window. */
QS_MUST_CHECK qs_err qs_baseline_hidden(const qs_baseline *baseline, int64_t window, float *hidden);

/* The scores made again from the hidden states must be those that are stored: a damaged file, another head or
 * another arithmetic must not pass for a quantisation effect. nll [n] of all scored positions; NaN where it was
 * not made. */
QS_MUST_CHECK qs_err qs_baseline_check(const qs_baseline *baseline, const float *nll);

#endif
