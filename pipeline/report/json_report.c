#include "report/json_report.h"

#include <math.h>

#include "base/json.h"
#include "report/diagnose.h"

/* Unmeasured numbers become null. json_object_set_new reports a lack of memory through its result, which is
 * collected in `failed`. */
typedef struct builder {
    bool failed;
} builder;

static void set(builder *b, json_t *object, const char *key, json_t *value)
{
    b->failed = json_object_set_new(object, key, value) != 0 || b->failed;
}

static void push(builder *b, json_t *array, json_t *value)
{
    b->failed = json_array_append_new(array, value) != 0 || b->failed;
}

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }

/* Texts of artifacts need not be UTF-8. */
static json_t *estimate_of(builder *b, const qs_estimate *e)
{
    json_t *object = json_object();
    set(b, object, "value", number(e->value));
    set(b, object, "lo", number(e->lo));
    set(b, object, "hi", number(e->hi));
    set(b, object, "n", json_integer(e->n));
    return object;
}

static json_t *gate_of(builder *b, const qs_gate *gate)
{
    json_t *object = estimate_of(b, &gate->estimate);
    set(b, object, "gate", qs_json_text(gate->budget->name));
    set(b, object, "metric", qs_json_text(gate->metric));
    set(b, object, "op", qs_json_text(gate->part->op));
    set(b, object, "limit", number(gate->part->limit));
    set(b, object, "level", json_string(gate->budget->level == QS_LEVEL_FAIL ? "fail" : "warn"));
    set(b, object, "source", qs_json_text(gate->budget->source));
    set(b, object, "verdict", json_string(qs_verdict_name(gate->verdict)));
    set(b, object, "decided", json_boolean(gate->decided));
    set(b, object, "n_more", gate->n_more == QS_NEVER ? json_null() : json_integer(gate->n_more));
    return object;
}

static json_t *diagnosis_of(builder *b, const qs_sweep *sweep, const qs_sweep_config *config)
{
    const qs_rule *rules[QS_RULES_MAX];
    json_t *list = json_array();
    int n = qs_diagnose(sweep, config, rules);
    for (int i = 0; i < n; i++) {
        qs_sentence evidence = {0}, next = {0};
        char row[32];
        json_t *one = json_object();
        qs_diagnosis_row(rules[i], config->row.method, row, sizeof row);
        qs_diagnosis_evidence(&evidence, sweep, config, rules[i]);
        qs_diagnosis_next(&next, config, rules[i]);
        set(b, one, "rule", json_string(rules[i]->name));
        set(b, one, "row", json_string(row));
        set(b, one, "symptom", json_string(rules[i]->symptom));
        set(b, one, "evidence", qs_json_text(evidence.text));
        set(b, one, "cause", json_string(rules[i]->cause));
        set(b, one, "fix", json_string(rules[i]->fix));
        set(b, one, "next", qs_json_text(next.text));
        push(b, list, one);
    }
    return list;
}

static json_t *config_of(builder *b, const qs_sweep *sweep, const qs_sweep_config *config)
{
    const qs_config_row *row = &config->row;
    json_t *object = json_object(), *metrics = json_object(), *gates = json_array();
    set(b, object, "config", qs_json_text(row->id));
    set(b, object, "method", qs_json_text(row->method));
    set(b, object, "variant", qs_json_text(row->variant));
    set(b, object, "bits", json_integer(row->bits));
    set(b, object, "group_size", json_integer(row->group_size));
    set(b, object, "bytes", json_integer(row->bytes));
    set(b, object, "bpw", number(row->bpw));
    set(b, object, "bpw_total", number(row->bpw_total));
    set(b, object, "reference", json_boolean(row->reference));
    set(b, object, "verdict",
        json_string(qs_verdict_name(qs_judgement_verdict(&config->judgement, sweep->strict))));
    set(b, object, "passes", json_boolean(config->passes));
    if (row->raced.raced) {
        set(b, object, "race", json_string(qs_race_decision_name(row->raced.decision)));
        set(b, object, "partial", json_boolean(qs_raced_is_partial(&row->raced)));
        set(b, object, "tokens", json_integer(qs_config_row_tokens(row)));
    }
    set(b, object, "n_measured", json_integer(config->judgement.n_measured));
    set(b, object, "n_gates", json_integer(config->judgement.n_gates));
    for (int64_t i = 0; i < row->n_measures; i++)
        set(b, metrics, row->measures[i].name, estimate_of(b, &row->measures[i].estimate));
    for (int64_t i = 0; i < config->judgement.n_gates; i++)
        push(b, gates, gate_of(b, &config->judgement.gates[i]));
    set(b, object, "metrics", metrics);
    set(b, object, "gates", gates);
    set(b, object, "diagnosis", diagnosis_of(b, sweep, config));
    return object;
}

static json_t *frame_of(builder *b, const qs_frame *frame)
{
    json_t *object = json_object();
    set(b, object, "model", qs_json_text(frame->model));
    set(b, object, "architecture", qs_json_text(frame->architecture));
    set(b, object, "storage", qs_json_text(frame->storage));
    set(b, object, "lattice", json_boolean(frame->lattice));
    set(b, object, "protocol", qs_json_text(frame->protocol));
    set(b, object, "bos", qs_json_text(frame->bos));
    set(b, object, "compute", qs_json_text(frame->compute));
    set(b, object, "text", qs_json_text(frame->text));
    set(b, object, "tokenizer", qs_json_text(frame->tokenizer));
    set(b, object, "n_ctx", json_integer(frame->n_ctx));
    set(b, object, "n_windows", json_integer(frame->n_windows));
    set(b, object, "n_scored", json_integer(frame->n_scored));
    return object;
}

static json_t *selection_of(builder *b, const qs_selection *selection)
{
    json_t *object = json_object(), *front = json_array();
    bool chosen = selection->chosen >= 0;
    for (int64_t i = 0; i < selection->n; i++)
        if (selection->front[i].on_front) push(b, front, qs_json_text(selection->points[i].config->row.id));
    set(b, object, "config",
        chosen ? qs_json_text(selection->points[selection->chosen].config->row.id) : json_null());
    set(b, object, "confirmed", json_boolean(selection->confirmed));
    set(b, object, "reason", qs_json_text(selection->reason.text));
    set(b, object, "front", front);
    return object;
}

qs_err qs_json_report_print(FILE *stream, const qs_sweep *sweep, const qs_selection *selection,
                            const qs_control controls[QS_N_CONTROLS])
{
    builder b = {0};
    json_t *object = frame_of(&b, &sweep->configs[0].row.frame), *configs = json_array(),
           *unreadable = json_array(), *all_controls = json_array();
    for (int64_t i = 0; i < sweep->n; i++) push(&b, configs, config_of(&b, sweep, &sweep->configs[i]));
    for (int64_t i = 0; i < sweep->n_unreadable; i++) {
        json_t *one = json_object();
        set(&b, one, "path", qs_json_text(sweep->unreadable[i].path));
        set(&b, one, "cause", qs_json_text(sweep->unreadable[i].cause));
        push(&b, unreadable, one);
    }
    for (int i = 0; i < QS_N_CONTROLS; i++) {
        json_t *one = json_object();
        set(&b, one, "name", qs_json_text(controls[i].name));
        set(&b, one, "status", qs_json_text(qs_control_status_name(controls[i].status)));
        set(&b, one, "text", qs_json_text(controls[i].text));
        push(&b, all_controls, one);
    }
    set(&b, object, "strict", json_boolean(sweep->strict));
    set(&b, object, "n_passing", json_integer(sweep->n_passing));
    set(&b, object, "configs", configs);
    set(&b, object, "unreadable", unreadable);
    set(&b, object, "controls", all_controls);
    set(&b, object, "recommended", selection_of(&b, selection));
    bool written = !b.failed && json_dumpf(object, stream, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 &&
                   fputc('\n', stream) != EOF;
    json_decref(object);
    return written ? QS_OK : qs_fail(QS_E_RESOURCE, "write the report as JSON: out of memory or disk");
}
