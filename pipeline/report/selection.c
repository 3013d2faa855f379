#include "report/selection.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "metric/bootstrap.h"
#include "report/text_table.h"

/* ---- halves ---- */

enum { SUM_CONFIG, SUM_REFERENCE, SUM_TOKENS, N_SUMS };

static double ppl_ratio_of(const double *sums)
{
    return sums[SUM_TOKENS] > 0 ? exp((sums[SUM_CONFIG] - sums[SUM_REFERENCE]) / sums[SUM_TOKENS]) : NAN;
}

/* Windows alternate, so that both halves see all of the text. */
qs_err qs_selection_half(const qs_config_row *config, const qs_config_row *reference, int parity,
                         uint64_t seed, qs_estimate *out, bool *present)
{
    double *sums = NULL;
    qs_err err = QS_OK;
    *present = false;
    if (reference == NULL || config->window_nll == NULL || reference->window_nll == NULL) return QS_OK;
    if (config->n_windows != reference->n_windows ||
        config->n_scored_per_window != reference->n_scored_per_window)
        return QS_OK;
    int64_t n = (config->n_windows + 1 - parity) / 2;
    if (n == 0) return QS_OK;
    QS_TRY(QS_NEW(sums, n * N_SUMS, "window sums"));
    for (int64_t i = 0; i < n; i++) {
        double *window = sums + i * N_SUMS;
        window[SUM_CONFIG] = config->window_nll[2 * i + parity];
        window[SUM_REFERENCE] = reference->window_nll[2 * i + parity];
        window[SUM_TOKENS] = (double)config->n_scored_per_window;
    }
    qs_bootstrap options = {.seed = seed};
    QS_TRY(qs_bootstrap_sums(&options, sums, n, N_SUMS, ppl_ratio_of, out));
    *present = true;
out:
    qs_mem_free(sums);
    return err;
}

static qs_err judge_half(const qs_sweep *sweep, const qs_budgets *budgets, const qs_config_row *row,
                         const qs_estimate *half, qs_verdict *verdict)
{
    qs_judgement judgement;
    qs_override override = {"ppl_ratio", *half};
    qs_err err = qs_judge(&judgement, budgets, row, sweep->reference, &override);
    *verdict = qs_judgement_verdict(&judgement, sweep->strict);
    qs_judgement_free(&judgement);
    return err;
}

static qs_err make_point(qs_selection_point *point, const qs_sweep *sweep, const qs_budgets *budgets,
                         uint64_t seed)
{
    const qs_config_row *row = &point->config->row;
    bool select, confirm;
    qs_err err;
    point->select_verdict = qs_judgement_verdict(&point->config->judgement, sweep->strict);
    point->confirm_verdict = point->select_verdict;
    QS_TRY(qs_selection_half(row, sweep->reference, 0, seed, &point->select, &select));
    QS_TRY(qs_selection_half(row, sweep->reference, 1, seed, &point->confirm, &confirm));
    point->halved = select && confirm;
    if (!point->halved) goto out;
    QS_TRY(judge_half(sweep, budgets, row, &point->select, &point->select_verdict));
    QS_TRY(judge_half(sweep, budgets, row, &point->confirm, &point->confirm_verdict));
out:
    return err;
}

/* ---- choice ---- */

/* Fewer doubts first, then fewer bits: whatever passes is good enough by the budgets, and size is what
 * quantisation is for. The remaining keys only make the order complete. */
static bool better_choice(const qs_selection *s, int64_t a, int64_t b)
{
    if (s->points[a].select_verdict != s->points[b].select_verdict)
        return s->points[a].select_verdict < s->points[b].select_verdict;
    const int order[] = {QS_COST_BPW, QS_COST_QUALITY, QS_COST_LATENCY};
    for (int i = 0; i < QS_PARETO_DIMS; i++) {
        double x = s->front[a].cost[order[i]], y = s->front[b].cost[order[i]];
        if (s->used[order[i]] && x != y) return x < y;
    }
    return strcmp(s->points[a].config->row.id, s->points[b].config->row.id) < 0;
}

static void choose(qs_selection *s)
{
    s->chosen = -1;
    for (int64_t i = 0; i < s->n; i++)
        if (s->front[i].on_front && (s->chosen < 0 || better_choice(s, i, s->chosen))) s->chosen = i;
    if (s->chosen < 0) return;
    const qs_selection_point *point = &s->points[s->chosen];
    s->confirmed = point->halved && point->confirm_verdict <= point->select_verdict;
}

static void append_halves(qs_selection *s, const qs_selection_point *point)
{
    const qs_raced *raced = &point->config->row.raced;
    if (qs_raced_is_partial(raced)) {
        qs_sentence_add(&s->reason, "; NOT confirmed: it raced, and its figures are means of %" PRId64 " of %" PRId64
                        " windows; evaluate it without --race before shipping it", raced->n_windows,
                        raced->n_windows_all);
        return;
    }
    if (!point->halved) {
        qs_sentence_add(&s->reason,
                        "; not confirmed, because there are no two halves of windows with the reference's NLL");
        return;
    }
    qs_sentence_add(&s->reason, "; ppl ratio %.4f [%.4f, %.4f] on the %" PRId64 " windows that chose it",
                    point->select.value, point->select.lo, point->select.hi, point->select.n);
    qs_sentence_add(&s->reason, ", %.4f [%.4f, %.4f] on the other %" PRId64 ": %s", point->confirm.value,
                    point->confirm.lo, point->confirm.hi, point->confirm.n,
                    s->confirmed ? "confirmed" : "NOT confirmed");
    if (!s->confirmed)
        qs_sentence_add(&s->reason, " (%s there); evaluate more windows before shipping it",
                        qs_verdict_name(point->confirm_verdict));
}

static void explain_none(qs_selection *s, const qs_sweep *sweep)
{
    bool any_candidate = false;
    for (int64_t i = 0; i < s->n; i++) any_candidate = any_candidate || s->front[i].candidate;
    if (s->n == 0)
        qs_sentence_add(&s->reason, "there is no configuration besides the reference");
    else if (sweep->n_passing == 0)
        qs_sentence_add(&s->reason, "no configuration passes");
    else if (!any_candidate)
        qs_sentence_add(&s->reason,
                        "%" PRId64 " pass, but none of them on the half of the windows that chooses",
                        sweep->n_passing);
    else
        qs_sentence_add(&s->reason,
                        "of those that pass neither quality nor size nor latency is known for all");
}

static void explain(qs_selection *s, const qs_sweep *sweep)
{
    if (s->chosen < 0) {
        explain_none(s, sweep);
        return;
    }
    const qs_selection_point *point = &s->points[s->chosen];
    const qs_config_row *row = &point->config->row;
    int64_t n_front = 0, n_class = 0;
    for (int64_t i = 0; i < s->n; i++) {
        n_front += s->front[i].on_front;
        n_class += s->front[i].on_front && s->points[i].select_verdict == point->select_verdict;
    }
    const char *quality = point->select_verdict == QS_VERDICT_PASS ? "pass without a warning" : "pass";
    qs_sentence_add(&s->reason, "%s: ", row->id);
    if (n_class == 1)
        qs_sentence_add(&s->reason, "the only one of %" PRId64 " on the Pareto front to %s", n_front,
                        quality);
    else
        qs_sentence_add(&s->reason, "the fewest bits of the %" PRId64 " on the Pareto front that %s", n_class,
                        quality);
    if (point->select_verdict != QS_VERDICT_PASS)
        qs_sentence_add(&s->reason, " (%s)", qs_verdict_name(point->select_verdict));
    if (!isnan(row->bpw)) qs_sentence_add(&s->reason, ", %.3g bits per weight", row->bpw);
    double gain = qs_config_row_value(row, "latency_gain_pct");
    if (!isnan(gain))
        qs_sentence_add(&s->reason, ", %.1f %% %s than the reference", fabs(gain),
                        gain < 0 ? "slower" : "faster");
    append_halves(s, point);
}

qs_err qs_selection_make(qs_selection *out, const qs_sweep *sweep, const qs_budgets *budgets, uint64_t seed)
{
    *out = (qs_selection){.chosen = -1};
    bool same_device = qs_sweep_same_device(sweep);
    qs_err err;
    QS_TRY(QS_NEW(out->points, qs_sweep_n_candidates(sweep), "selection points"));
    QS_TRY(QS_NEW(out->front, qs_sweep_n_candidates(sweep), "pareto points"));
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_sweep_config *config = &sweep->configs[i];
        if (config->row.reference) continue;
        qs_selection_point *point = &out->points[out->n];
        point->config = config;
        QS_TRY(make_point(point, sweep, budgets, seed));
        qs_pareto_point *front = &out->front[out->n++];
        front->cost[QS_COST_QUALITY] =
            point->halved ? point->select.value : qs_config_row_value(&config->row, "ppl_ratio");
        front->cost[QS_COST_BPW] = config->row.bpw;
        /* Times of different machines do not compare. */
        front->cost[QS_COST_LATENCY] =
            same_device ? qs_config_row_value(&config->row, "decode_ms_tok_p50") : NAN;
        front->candidate = config->passes && point->select_verdict != QS_VERDICT_FAIL;
    }
    qs_pareto_front(out->front, out->n, out->used);
    choose(out);
    explain(out, sweep);
out:
    return err;
}

void qs_selection_free(qs_selection *selection)
{
    qs_mem_free(selection->points);
    qs_mem_free(selection->front);
    *selection = (qs_selection){0};
}
