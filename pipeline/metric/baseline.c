#include "metric/baseline.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* Kernels of different machines differ by rounding, about 1e-6 of a logit; more is another model. */
static const double nll_tolerance = 1e-4;

static qs_err check_subject(const qs_baseline *baseline, const qs_subject *subject)
{
    const char *what, *path = baseline->path;
    char id[QS_SPEC_ID_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_get_text(baseline->artifact, "/config/@id", id, sizeof id));
    if (strcmp(id, "fp") != 0)
        return qs_fail(QS_E_INPUT, "use baseline %s: it is of %s, not of the reference (fp)", path, id);
    QS_TRY(qs_eval_file_differs(baseline->artifact, subject, true, &what));
    if (what != NULL)
        return qs_fail(QS_E_INPUT,
                       "use baseline %s: it was made otherwise than what is to be evaluated: %s; make it again, or "
                       "leave --baseline out",
                       path, what);
    if (!qs_artifact_has(baseline->artifact, "/reference/hidden"))
        return qs_fail(QS_E_INPUT,
                       "use baseline %s: it holds no hidden states; evaluate the reference with --tasks ppl",
                       path);
out:
    return err;
}

static qs_err read_time(const qs_baseline *baseline, const char *path, double *seconds)
{
    return qs_artifact_has(baseline->artifact, path) ? qs_artifact_get_real(baseline->artifact, path, seconds)
                                                     : QS_OK;
}

qs_err qs_baseline_open(qs_baseline *out, const char *path, const qs_subject *subject)
{
    int64_t n = subject->windows->n_windows * subject->windows->n_scored;
    qs_err err;
    *out = (qs_baseline){0};
    QS_TRY(qs_path_format(out->path, "%s", path));
    QS_TRY(qs_artifact_open(&out->artifact, path, QS_KIND_EVAL));
    QS_TRY(check_subject(out, subject));
    out->digest = qs_artifact_digest(out->artifact);
    QS_TRY(qs_token_scores_alloc(&out->scores, n, false));
    QS_TRY(qs_artifact_read(out->artifact, "/tokens/nll", QS_F32, out->scores.nll, n));
    QS_TRY(qs_artifact_read(out->artifact, "/tokens/argmax", QS_I32, out->scores.argmax, n));
    QS_TRY(qs_artifact_read(out->artifact, "/tokens/entropy", QS_F32, out->scores.entropy, n));
    QS_TRY(read_time(out, "/timing/@forward_s", &out->forward_s));
    QS_TRY(read_time(out, "/timing/@score_s", &out->score_s));
out:
    if (err != QS_OK) qs_baseline_close(out);
    return err;
}

void qs_baseline_close(qs_baseline *baseline)
{
    qs_artifact_close(baseline->artifact);
    qs_token_scores_free(&baseline->scores);
    *baseline = (qs_baseline){0};
}

qs_err qs_baseline_hidden(const qs_baseline *baseline, int64_t window, float *hidden)
{
    return qs_artifact_read_rows(baseline->artifact, "/reference/hidden", QS_F32, window, 1, hidden);
}

qs_err qs_baseline_check(const qs_baseline *baseline, const float *nll)
{
    double difference = 0.0, n = 0.0;
    const qs_token_scores *stored = &baseline->scores;
    for (int64_t i = 0; i < stored->n; i++) {
        if (isnan(nll[i])) continue;
        difference += fabs((double)nll[i] - (double)stored->nll[i]);
        n += 1.0;
    }
    difference /= n;
    if (difference <= nll_tolerance) return QS_OK;
    return qs_fail(QS_E_INPUT,
                   "use baseline %s: its hidden states give another NLL than it says, by %.3g nats on "
                   "average; make it again",
                   baseline->path, difference);
}
