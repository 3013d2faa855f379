#include "report/verdict.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "metric/bootstrap.h"

static const char *const names[QS_N_VERDICTS] = {
    [QS_VERDICT_PASS] = "PASS",
    [QS_VERDICT_WARN] = "WARN",
    [QS_VERDICT_REVIEW] = "REVIEW",
    [QS_VERDICT_NOT_EVALUABLE] = "NOT_EVALUABLE",
    [QS_VERDICT_BASELINE_FAIL] = "BASELINE_FAIL",
    [QS_VERDICT_FAIL] = "FAIL",
};

/* A miss that stays below the certain failure is for a person to judge. */
static const struct {
    const char *metric;
    double certain;
} reviews[] = {{"dS_QE", 0.60}};
enum { N_REVIEWS = sizeof reviews / sizeof *reviews };

/* What may stand in when a metric was not measured: answers without citations leave only the retrieved
 * coverage. */
static const struct {
    const char *metric, *stand_in;
} stand_ins[] = {{"cov_cited", "cov_retr10"}};
enum { N_STAND_INS = sizeof stand_ins / sizeof *stand_ins };

const char *qs_verdict_name(qs_verdict verdict) { return names[verdict]; }

/* ---- one comparison ---- */

static const double wilson_tolerance = 1e-6;

typedef struct rule {
    const qs_budget_part *part;
    qs_budget_level level;
    bool reference_fails;
} rule;

static double certain_failure(const qs_budget_part *part)
{
    for (int i = 0; i < N_REVIEWS; i++)
        if (strcmp(reviews[i].metric, part->metric) == 0) return reviews[i].certain;
    return part->limit;
}

/* The verdict if the true value were x. */
static qs_verdict verdict_at(const rule *r, double x)
{
    if (qs_budget_meets(r->part, x)) return QS_VERDICT_PASS;
    if (r->level == QS_LEVEL_WARN) return QS_VERDICT_WARN;
    if (r->part->upper && x < certain_failure(r->part)) return QS_VERDICT_REVIEW;
    return r->reference_fails ? QS_VERDICT_BASELINE_FAIL : QS_VERDICT_FAIL;
}

/* The half width of an interval shrinks with 1 / sqrt(n). When a limit lies between the value and one end,
 * the interval clears it at n (half / distance)^2 samples. 0 = that end is clear already. */
static int64_t samples_to_clear(const qs_estimate *e, double end, double limit)
{
    double half = fabs(end - e->value), distance = fabs(limit - e->value);
    bool between = (limit - e->value) * (limit - end) <= 0.0;
    if (!between || half == 0.0) return 0;
    double n = (double)e->n * (half / distance) * (half / distance); /* distance 0 gives infinity */
    return n < 1e12 ? (int64_t)ceil(n) : QS_NEVER;
}

static int64_t samples_missing(const rule *r, const qs_estimate *e)
{
    const double limits[] = {r->part->limit, certain_failure(r->part)};
    int64_t wanted = e->n;
    for (int i = 0; i < 2; i++)
        for (int side = 0; side < 2; side++) {
            int64_t n = samples_to_clear(e, side == 0 ? e->lo : e->hi, limits[i]);
            if (n == QS_NEVER) return QS_NEVER;
            if (n > wanted) wanted = n;
        }
    return wanted > e->n ? wanted - e->n
                         : 1; /* an end that lies on the limit: any narrower interval will do */
}

/* What decides is wider than what is printed: percentiles of a bootstrap over n units are about sqrt((n - 1) / n) z
 * wide, where Student's t is called for, and more for skewed figures. With this factor configurations that lie
 * exactly on a budget are decided in at most 5 % of 1,000 simulated runs (tests/test_decided.c). Wilson's bounds
 * need none. */
static qs_estimate widened(const qs_estimate *e)
{
    double factor = e->n > 0 ? 1.05 + 6.0 / (double)e->n : 1.0, n = (double)e->n, lo = NAN, hi = NAN;
    qs_estimate wide = {e->value, e->value - factor * (e->value - e->lo), e->value + factor * (e->hi - e->value), e->n};
    if (e->value >= 0.0 && e->value <= 1.0) qs_wilson(e->value * n, n, &lo, &hi);
    if (fabs(e->lo - lo) < wilson_tolerance) wide.lo = e->lo;
    if (fabs(e->hi - hi) < wilson_tolerance) wide.hi = e->hi;
    return wide;
}

static void judge_part(qs_gate *gate, const rule *r, const qs_measure *measure)
{
    const qs_estimate *e = &measure->estimate;
    double compared = e->value;
    if (r->part->by_interval) compared = r->part->upper ? e->hi : e->lo;
    gate->part = r->part;
    gate->metric = measure->name;
    gate->estimate = *e;
    gate->verdict = verdict_at(r, compared);
    const qs_estimate wide = widened(e);
    gate->decided = verdict_at(r, wide.lo) == gate->verdict && verdict_at(r, wide.hi) == gate->verdict;
    gate->n_more = 0;
    if (!gate->decided) gate->n_more = samples_missing(r, &wide);
    if (!measure->fact && e->n <= 1 && e->lo == e->hi) { /* one sample has no spread to be certain by */
        gate->decided = false;
        gate->n_more = QS_NEVER;
    }
}

static void set_not_evaluable(qs_gate *gate, const qs_budget_part *part)
{
    gate->part = part;
    gate->metric = part->metric;
    gate->estimate = (qs_estimate){NAN, NAN, NAN, 0};
    gate->verdict = QS_VERDICT_NOT_EVALUABLE;
    gate->decided = false;
    gate->n_more = 0;
}

qs_err qs_gate_judge(qs_gate *out, const qs_budget *budget, const qs_measure *measure, bool reference_fails)
{
    if (budget->n_parts != 1)
        return qs_fail(QS_E_INPUT, "judge %s: a joint gate needs one measure for each part", budget->name);
    rule r = {&budget->parts[0], budget->level, reference_fails};
    *out = (qs_gate){.budget = budget};
    if (measure == NULL)
        set_not_evaluable(out, r.part);
    else
        judge_part(out, &r, measure);
    return QS_OK;
}

/* ---- one gate of a configuration ---- */

typedef struct judge {
    const qs_config_row *config, *reference;
    const qs_override *override;
} judge;

static const qs_measure *find_measure(const qs_config_row *row, const qs_budget_part *part)
{
    const qs_measure *measure = qs_config_row_find(row, part->metric);
    for (int i = 0; measure == NULL && i < N_STAND_INS; i++)
        if (strcmp(stand_ins[i].metric, part->metric) == 0)
            measure = qs_config_row_find(row, stand_ins[i].stand_in);
    return measure;
}

/* Metrics that stand for themselves: a difference to the reference says nothing about the reference, and
 * times and bytes are no qualities of an answer. */
static bool is_absolute(const qs_measure *measure)
{
    const qs_metric *metric = qs_metric_find(measure->name);
    return !measure->timing && !measure->fact && (metric == NULL || !metric->needs_reference);
}

static bool reference_fails(const judge *j, const qs_budget_part *part)
{
    if (j->reference == NULL) return false;
    const qs_measure *measure = find_measure(j->reference, part);
    if (measure == NULL || !is_absolute(measure)) return false;
    rule r = {part, QS_LEVEL_FAIL, false};
    return verdict_at(&r, measure->estimate.value) == QS_VERDICT_FAIL;
}

/* The reference answers only for absolute metrics that it has. */
static bool concerns(const judge *j, const qs_budget *budget)
{
    if (!j->config->reference) return true;
    const qs_measure *measure = find_measure(j->config, &budget->parts[0]);
    return budget->n_parts == 1 && measure != NULL && is_absolute(measure);
}

static qs_gate judge_one(const judge *j, const qs_budget *budget, const qs_budget_part *part)
{
    qs_gate gate = {.budget = budget};
    const qs_measure *measure = find_measure(j->config, part);
    if (measure == NULL) {
        set_not_evaluable(&gate, part);
        return gate;
    }
    rule r = {part, budget->level, reference_fails(j, part)};
    qs_measure used = *measure;
    if (j->override != NULL && strcmp(j->override->metric, used.name) == 0)
        used.estimate = j->override->estimate;
    judge_part(&gate, &r, &used);
    gate.metric = measure->name;
    return gate;
}

/* A joint gate passes when all parts do: its verdict is that of the worst part. One certain failure decides
 * it; anything else is decided when all parts are. */
static void combine(qs_gate *gate, const qs_gate *one)
{
    bool fails_for_certain = (gate->verdict == QS_VERDICT_FAIL && gate->decided) ||
                             (one->verdict == QS_VERDICT_FAIL && one->decided);
    bool decided = fails_for_certain || (gate->decided && one->decided);
    bool tells_more =
        one->verdict == QS_VERDICT_FAIL ? one->decided && !gate->decided : gate->decided && !one->decided;
    bool worse = one->verdict > gate->verdict || (one->verdict == gate->verdict && tells_more);
    qs_gate shown = worse ? *one : *gate, other = worse ? *gate : *one;
    if (!decided && shown.decided) shown.n_more = other.n_more;
    shown.decided = decided;
    *gate = shown;
}

static void judge_gate(qs_gate *gate, const judge *j, const qs_budget *budget)
{
    *gate = judge_one(j, budget, &budget->parts[0]);
    for (int i = 1; i < budget->n_parts; i++) {
        qs_gate one = judge_one(j, budget, &budget->parts[i]);
        combine(gate, &one);
    }
}

qs_err qs_judge(qs_judgement *out, const qs_budgets *budgets, const qs_config_row *config,
                const qs_config_row *reference, const qs_override *override)
{
    *out = (qs_judgement){.measured = QS_VERDICT_NOT_EVALUABLE};
    const qs_budget **rows = NULL;
    int64_t n_rows;
    judge j = {config, reference, override};
    qs_verdict measured = QS_VERDICT_PASS;
    qs_err err;
    QS_TRY(QS_NEW(rows, budgets->n, "budget rows"));
    qs_budgets_select(budgets, qs_budgets_profile(config->method), rows, &n_rows);
    QS_TRY(QS_NEW(out->gates, n_rows, "gates"));
    for (int64_t i = 0; i < n_rows; i++) {
        if (!concerns(&j, rows[i])) continue;
        qs_gate *gate = &out->gates[out->n_gates++];
        judge_gate(gate, &j, rows[i]);
        out->n_by_verdict[gate->verdict]++;
        if (gate->verdict > out->worst) out->worst = gate->verdict;
        if (gate->verdict == QS_VERDICT_NOT_EVALUABLE) continue;
        out->n_measured++;
        if (gate->verdict > measured) measured = gate->verdict;
    }
    if (out->n_measured > 0) out->measured = measured;
out:
    qs_mem_free((void *)rows);
    return err;
}

void qs_judgement_free(qs_judgement *judgement)
{
    qs_mem_free(judgement->gates);
    *judgement = (qs_judgement){0};
}

bool qs_judgement_passes(const qs_judgement *judgement, bool strict)
{
    if (judgement->n_measured == 0) return false;
    return strict ? judgement->worst <= QS_VERDICT_WARN : judgement->measured != QS_VERDICT_FAIL;
}

qs_verdict qs_judgement_verdict(const qs_judgement *judgement, bool strict)
{
    return strict ? judgement->worst : judgement->measured;
}
