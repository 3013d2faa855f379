#include "report/diagnose.h"

#include <math.h>
#include <string.h>

#include "report/tables.h"

/* ---- conditions ---- */

static bool names_metric(const qs_gate *gate, const char *metric)
{
    for (int i = 0; i < gate->budget->n_parts; i++)
        if (strcmp(gate->budget->parts[i].metric, metric) == 0) return true;
    return strcmp(gate->metric, metric) == 0;
}

static bool is_missed(qs_verdict verdict)
{
    return verdict == QS_VERDICT_FAIL || verdict == QS_VERDICT_REVIEW || verdict == QS_VERDICT_WARN;
}

/* The worst gate on a metric that is in the state that a condition asks for, or NULL. Of a joint gate only the part
 * that decides it counts. */
static const qs_gate *find_gate(const qs_sweep_config *config, const qs_condition *c)
{
    const qs_gate *found = NULL;
    for (int64_t i = 0; i < config->judgement.n_gates; i++) {
        const qs_gate *gate = &config->judgement.gates[i];
        bool wanted = c->kind == QS_IF_MISSED ? is_missed(gate->verdict) : gate->verdict == QS_VERDICT_BASELINE_FAIL;
        if (!wanted || !names_metric(gate, c->metric)) continue;
        if (gate->budget->n_parts > 1 && strcmp(gate->part->metric, c->metric) != 0) continue;
        if (found == NULL || gate->verdict > found->verdict) found = gate;
    }
    return found;
}

static double reference_value(const qs_sweep *sweep, const char *metric)
{
    return sweep->reference != NULL ? qs_config_row_value(sweep->reference, metric) : NAN;
}

/* Comparisons with a NaN are false: what was not measured is no evidence. */
static bool holds(const qs_sweep *sweep, const qs_sweep_config *config, const qs_condition *c)
{
    double value = qs_config_row_value(&config->row, c->metric);
    switch (c->kind) {
    case QS_IF_MISSED:
    case QS_IF_BASELINE: return find_gate(config, c) != NULL;
    case QS_IF_ABOVE: return value > c->limit;
    case QS_IF_BELOW: return value < c->limit;
    case QS_IF_NOT_ABOVE: return isnan(value) || value <= c->limit;
    case QS_IF_ROSE: return value - reference_value(sweep, c->metric) > c->limit;
    case QS_IF_FELL: return reference_value(sweep, c->metric) - value > c->limit;
    case QS_IF_NONE: break;
    }
    return false;
}

static bool is_listed(const char *list, const char *word)
{
    size_t bytes = strlen(word);
    for (const char *at = list;; at++) {
        if (strncmp(at, word, bytes) == 0 && (at[bytes] == ' ' || at[bytes] == '\0')) return true;
        at = strchr(at, ' ');
        if (at == NULL) return false;
    }
}

static bool concerns(const qs_rule *rule, const qs_config_row *row)
{
    if (row->reference) return rule->profiles != NULL && is_listed(rule->profiles, "fp");
    return rule->profiles == NULL || is_listed(rule->profiles, qs_budgets_profile(row->method));
}

static bool fires(const qs_sweep *sweep, const qs_sweep_config *config, const qs_rule *rule)
{
    bool any = rule->any[0].kind == QS_IF_NONE;
    for (int i = 0; i < QS_RULE_CONDITIONS && rule->all[i].kind != QS_IF_NONE; i++)
        if (!holds(sweep, config, &rule->all[i])) return false;
    for (int i = 0; i < QS_RULE_CONDITIONS && rule->any[i].kind != QS_IF_NONE; i++)
        any = any || holds(sweep, config, &rule->any[i]);
    return any;
}

int qs_diagnose(const qs_sweep *sweep, const qs_sweep_config *config, const qs_rule *out[QS_RULES_MAX])
{
    int n = 0;
    for (const qs_rule *rule = qs_rules; rule->name != NULL && n < QS_RULES_MAX; rule++)
        if (concerns(rule, &config->row) && fires(sweep, config, rule)) out[n++] = rule;
    return n;
}

bool qs_diagnosis_wanted(const qs_sweep_config *config)
{
    qs_verdict wanted = config->row.reference ? QS_VERDICT_BASELINE_FAIL : QS_VERDICT_FAIL;
    return config->judgement.n_by_verdict[wanted] > 0;
}

/* ---- words ---- */

void qs_diagnosis_row(const qs_rule *rule, const char *method, char *text, size_t bytes)
{
    static const struct {
        const char *profile;
        char page;
    } pages[] = {{"gptq", 'G'}, {"awq", 'A'}, {"bnb", 'B'}, {"exl2", 'E'}};
    const char *profile = qs_budgets_profile(method), *at = rule->rows;
    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++)
        for (const char *row = rule->rows; strcmp(pages[i].profile, profile) == 0 && row != NULL;
             row = strchr(row, ' '), row = row != NULL ? row + 1 : NULL)
            if (*row == pages[i].page) {
                at = row;
                break;
            }
    (void)snprintf(text, bytes, "%.*s", (int)strcspn(at, " "), at);
}

static void add_condition(qs_sentence *text, const qs_sweep *sweep, const qs_sweep_config *config,
                          const qs_condition *c)
{
    static const char *const words[] = {[QS_IF_ABOVE] = "above",
                                        [QS_IF_BELOW] = "below",
                                        [QS_IF_NOT_ABOVE] = "not above",
                                        [QS_IF_ROSE] = "above the reference's by more than",
                                        [QS_IF_FELL] = "below the reference's by more than"};
    const qs_gate *gate = c->kind == QS_IF_MISSED || c->kind == QS_IF_BASELINE ? find_gate(config, c) : NULL;
    double reference = reference_value(sweep, c->metric), value = qs_config_row_value(&config->row, c->metric);
    if (gate == NULL && isnan(value)) return;
    if (text->used > 0) qs_sentence_add(text, "; ");
    if (gate != NULL)
        qs_sentence_add(text, "%s %.4g (budget %s %.4g", gate->metric, gate->estimate.value, gate->part->op,
                        gate->part->limit);
    else qs_sentence_add(text, "%s %.4g (%s %.4g", c->metric, value, words[c->kind], c->limit);
    if (!isnan(reference) && !config->row.reference) qs_sentence_add(text, ", reference %.4g", reference);
    qs_sentence_add(text, ")");
}

void qs_diagnosis_evidence(qs_sentence *text, const qs_sweep *sweep, const qs_sweep_config *config, const qs_rule *rule)
{
    qs_sentence own = {0};
    for (int i = 0; i < QS_RULE_CONDITIONS && rule->all[i].kind != QS_IF_NONE; i++)
        add_condition(&own, sweep, config, &rule->all[i]);
    for (int i = 0; i < QS_RULE_CONDITIONS && rule->any[i].kind != QS_IF_NONE; i++)
        if (holds(sweep, config, &rule->any[i])) add_condition(&own, sweep, config, &rule->any[i]);
    qs_sentence_add(text, "%s", own.text);
}

/* ---- sentences ---- */

void qs_diagnosis_tell(qs_sentence *text, const qs_sweep *sweep, const qs_sweep_config *config)
{
    const qs_rule *rules[QS_RULES_MAX];
    char row[32], page[256];
    int n = qs_diagnose(sweep, config, rules);
    if (n == 0) return;
    qs_diagnosis_row(rules[0], config->row.method, row, sizeof row);
    qs_sentence_add(text, "diagnosis of %s: %s (%s, %s): ", config->row.id, rules[0]->symptom, row, rules[0]->name);
    qs_diagnosis_evidence(text, sweep, config, rules[0]);
    qs_sentence_add(text, ". Likely cause: %s. Fix: %s. Next: ", rules[0]->cause, rules[0]->fix);
    qs_diagnosis_next(text, config, rules[0]);
    for (int i = 0; qs_rule_page(rules[0], i, page, sizeof page); i++) 
        qs_sentence_add(text, "%s%s", i == 0 ? ". See " : " ", page);
    for (int i = 1; i < n; i++) {
        qs_diagnosis_row(rules[i], config->row.method, row, sizeof row);
        qs_sentence_add(text, "%s%s (%s)", i == 1 ? " . It may explain these too: " : ", ", rules[i]->name, row);
    }
    if (n > 1) qs_sentence_add(text, ".");
}

/* ---- diagnosis.csv ---- */

static qs_err write_finding(qs_csv_writer *w, const qs_sweep *sweep, const qs_sweep_config *config, const qs_rule *rule,
                            int rank)
{
    qs_sentence evidence = {0}, next = {0};
    char row[32], page[256] = "";
    qs_diagnosis_row(rule, config->row.method, row, sizeof row);
    qs_diagnosis_evidence(&evidence, sweep, config, rule);
    qs_diagnosis_next(&next, config, rule);
    (void)qs_rule_page(rule, 0, page, sizeof page);
    qs_table_put_text(w, config->row.id);
    qs_csv_put_int(w, rank);
    qs_csv_put_text(w, rule->name);
    qs_csv_put_text(w, row);
    qs_table_put_text(w, rule->symptom);
    qs_table_put_text(w, evidence.text);
    qs_table_put_text(w, rule->cause);
    qs_table_put_text(w, rule->fix);
    qs_table_put_text(w, next.text);
    qs_table_put_text(w, page);
    return qs_csv_end_row(w);
}

qs_err qs_write_diagnosis(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    const qs_rule *rules[QS_RULES_MAX];
    qs_csv_writer w;
    (void)selection;
    qs_columns_begin(&w, stream, qs_diagnosis_columns, false);
    for (int64_t i = 0; i < sweep->n; i++) {
        int n = qs_diagnose(sweep, &sweep->configs[i], rules);
        for (int j = 0; j < n; j++) {
            qs_err err = write_finding(&w, sweep, &sweep->configs[i], rules[j], j + 1);
            if (err != QS_OK) return err;
        }
    }
    return QS_OK;
}
