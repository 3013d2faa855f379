#include "metric/race.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

const double qs_race_error = 0.05;

/* The variance that the mixture gives to a mean in units of the windows' spread. */
static const double mixture = 1.0;

static const char *const decision_names[] = {
    [QS_RACE_OPEN] = "whole", [QS_RACE_ACCEPTED] = "accepted", [QS_RACE_DROPPED] = "dropped"};

const char *qs_race_decision_name(qs_race_decision decision) { return decision_names[decision]; }

void qs_race_test_add(qs_race_test *test, double excess)
{
    test->n++;
    test->sum += excess;
    test->squares += excess * excess;
}

double qs_race_test_evidence(const qs_race_test *test)
{
    double n = (double)test->n, widened = 1.0 + mixture * n;
    if (test->squares <= 0.0) return 0.0;
    /* S^2 <= n V, so the share is below 1. */
    double share = fmin(mixture * test->sum * test->sum / (widened * test->squares), mixture * n / widened);
    return -0.5 * log(widened) - 0.5 * n * log1p(-share);
}

static qs_err add_gate(qs_race *race, const qs_budget *budget, const qs_budget_part *part, unsigned tasks)
{
    const qs_metric *metric = qs_metric_find(part->metric);
    if (metric == NULL || (metric->task & tasks & (QS_TASK_PPL | QS_TASK_KLD)) == 0) return QS_OK; /* of no window */
    if (part->by_interval || !metric->needs_reference || !qs_quality_is_mean(part->metric, part->limit)) {
        race->needs_all = true;
        return QS_OK;
    }
    if (race->n_gates == QS_RACE_GATES_MAX)
        return qs_fail(QS_E_INPUT, "race: more than %d budgets of one profile are means over windows",
                       QS_RACE_GATES_MAX);
    race->gates[race->n_gates++] = (qs_race_gate){.part = part, .level = budget->level};
    return QS_OK;
}

qs_err qs_race_start(qs_race *race, const qs_budgets *budgets, const char *profile, unsigned tasks)
{
    const qs_budget **rows = NULL;
    int64_t n;
    qs_err err;
    *race = (qs_race){0};
    QS_TRY(QS_NEW(rows, budgets->n, "budgets of a race"));
    qs_budgets_select(budgets, profile, rows, &n);
    for (int64_t i = 0; i < n; i++)
        for (int p = 0; p < rows[i]->n_parts; p++) QS_TRY(add_gate(race, rows[i], &rows[i]->parts[p], tasks));
out:
    qs_mem_free((void *)rows);
    return err;
}

static bool is_missed(const qs_race_gate *gate) { return gate->side != 0 && (gate->side > 0) == gate->part->upper; }

/* A gate stays on the side that it was found on. */
static void look(qs_race *race, qs_race_gate *gate)
{
    double needed = log((double)race->n_gates / qs_race_error);
    if (gate->side == 0 && gate->test.n >= QS_RACE_WINDOWS_MIN && qs_race_test_evidence(&gate->test) >= needed)
        gate->side = gate->test.sum > 0.0 ? 1 : -1;
}

void qs_race_add(qs_race *race, const qs_quality_input *input, int64_t window)
{
    double sums[QS_QUALITY_SUMS];
    qs_quality_sum_window(input, window, sums);
    for (int64_t i = 0; i < race->n_gates; i++) {
        const qs_budget_part *part = race->gates[i].part;
        qs_race_test_add(&race->gates[i].test, qs_quality_excess(part->metric, part->limit, sums));
    }
}

qs_race_decision qs_race_decide(qs_race *race)
{
    int64_t n_decided = 0;
    for (int64_t i = 0; i < race->n_gates && race->decision == QS_RACE_OPEN; i++) {
        qs_race_gate *gate = &race->gates[i];
        look(race, gate);
        n_decided += gate->side != 0;
        if (gate->level != QS_LEVEL_FAIL || !is_missed(gate)) continue;
        race->decision = QS_RACE_DROPPED;
        race->missed = gate;
    }
    if (race->decision == QS_RACE_OPEN && race->n_gates > 0 && n_decided == race->n_gates && !race->needs_all)
        race->decision = QS_RACE_ACCEPTED;
    return race->decision;
}

void qs_race_order(int64_t *order, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = qs_rng_below(seed, (uint64_t)i, i + 1), held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
}

qs_digest qs_race_digest(const qs_race *race, uint64_t seed)
{
    /* Zeroed, since padding is hashed too. */
    struct {
        uint64_t seed, windows_min, needs_all, n_gates;
        double error, mixture;
        struct {
            char metric[QS_BUDGET_NAME_BYTES];
            double limit;
            uint64_t upper, level;
        } gates[QS_RACE_GATES_MAX];
    } what;
    memset(&what, 0, sizeof what);
    what.seed = seed;
    what.windows_min = QS_RACE_WINDOWS_MIN;
    what.needs_all = race->needs_all;
    what.n_gates = (uint64_t)race->n_gates;
    what.error = qs_race_error;
    what.mixture = mixture;
    for (int64_t i = 0; i < race->n_gates; i++) {
        const qs_race_gate *gate = &race->gates[i];
        (void)snprintf(what.gates[i].metric, sizeof what.gates[i].metric, "%s", gate->part->metric);
        what.gates[i].limit = gate->part->limit;
        what.gates[i].upper = gate->part->upper;
        what.gates[i].level = (uint64_t)gate->level;
    }
    return qs_hash(&what, sizeof what);
}
