#include "report/run_compare.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "report/tables.h"
#include "report/text_table.h"

static const char *const kind_names[] = {
    [QS_CHANGE_SAME] = "same", [QS_CHANGE_BETTER] = "better", [QS_CHANGE_WORSE] = "worse"};

static double half_width(const qs_estimate *e) { return e->hi > e->lo ? (e->hi - e->lo) / 2 : 0; }

qs_change_kind qs_change_of(const qs_estimate *before, const qs_estimate *after, bool lower_is_better)
{
    double change = after->value - before->value, noise = hypot(half_width(before), half_width(after));
    double rounding = 1e-9 * fmax(fabs(before->value), fabs(after->value));
    if (!(fabs(change) > fmax(noise, rounding))) return QS_CHANGE_SAME;
    return (change < 0) == lower_is_better ? QS_CHANGE_BETTER : QS_CHANGE_WORSE;
}

static const qs_sweep_config *find_config(const qs_sweep *sweep, const char *id)
{
    for (int64_t i = 0; i < sweep->n; i++)
        if (strcmp(sweep->configs[i].row.id, id) == 0) return &sweep->configs[i];
    return NULL;
}

/* Several gates on one metric, with other limits, hold the same figure: the worst of those that were measured speaks.
 */
static const qs_gate *find_gate(const qs_judgement *judgement, const char *metric)
{
    const qs_gate *worst = NULL;
    for (int64_t i = 0; i < judgement->n_gates; i++) {
        const qs_gate *gate = &judgement->gates[i];
        if (gate->verdict == QS_VERDICT_NOT_EVALUABLE || strcmp(gate->metric, metric) != 0) continue;
        if (worst == NULL || gate->verdict > worst->verdict) worst = gate;
    }
    return worst;
}

static void compare_config(qs_run_changes *out, const qs_sweep_config *before, const qs_sweep_config *after)
{
    for (int64_t i = 0; i < after->judgement.n_gates; i++) {
        const qs_gate *is = &after->judgement.gates[i];
        if (find_gate(&after->judgement, is->metric) != is) continue;
        const qs_gate *was = find_gate(&before->judgement, is->metric);
        if (was == NULL) continue;
        qs_change_kind kind = qs_change_of(&was->estimate, &is->estimate, is->part->upper);
        out->changes[out->n++] = (qs_run_change){before, after, was, is, kind};
        out->n_better += kind == QS_CHANGE_BETTER;
        out->n_worse += kind == QS_CHANGE_WORSE;
    }
}

qs_err qs_runs_compare(qs_run_changes *out, const qs_sweep *before, const qs_sweep *after)
{
    int64_t n_most = 0;
    qs_err err;
    *out = (qs_run_changes){0};
    QS_TRY(qs_config_row_check_same_frame(&before->configs[0].row, &after->configs[0].row));
    for (int64_t i = 0; i < after->n; i++) n_most += after->configs[i].judgement.n_gates;
    QS_TRY(QS_NEW(out->changes, n_most, "changes"));
    for (int64_t i = 0; i < after->n; i++) {
        const qs_sweep_config *config = &after->configs[i], *was = find_config(before, config->row.id);
        if (was != NULL) compare_config(out, was, config);
        out->n_only_after += was == NULL;
    }
    for (int64_t i = 0; i < before->n; i++) out->n_only_before += find_config(after, before->configs[i].row.id) == NULL;
out:
    if (err != QS_OK) qs_run_changes_free(out);
    return err;
}

void qs_run_changes_free(qs_run_changes *changes)
{
    qs_mem_free(changes->changes);
    *changes = (qs_run_changes){0};
}

/* ---- for people ---- */

enum { CONFIG, GATE, BEFORE, AFTER, CHANGE, VERDICTS, N_COLUMNS };

static const qs_text_column columns[N_COLUMNS] = {
    [CONFIG] = {"config", false, 0},        [GATE] = {"gate", false, 0},     [BEFORE] = {"before [95 % CI]", true, 0},
    [AFTER] = {"after [95 % CI]", true, 0}, [CHANGE] = {"change", false, 0}, [VERDICTS] = {"verdict", false, 1},
};

static void put_estimate(qs_text_cell *cell, const qs_estimate *e)
{
    if (e->hi > e->lo) (void)snprintf(cell->text, sizeof cell->text, "%.4g [%.4g, %.4g]", e->value, e->lo, e->hi);
    else (void)snprintf(cell->text, sizeof cell->text, "%.4g", e->value);
}

static void put_change(qs_text_table *table, int64_t row, const qs_run_change *change)
{
    qs_text_cell *cells = qs_text_table_cell(table, row, 0);
    const char *was = qs_verdict_name(change->was->verdict), *is = qs_verdict_name(change->is->verdict);
    (void)snprintf(cells[CONFIG].text, QS_TEXT_CELL_BYTES, "%.*s", QS_TEXT_CELL_BYTES - 1, change->after->row.id);
    (void)snprintf(cells[GATE].text, QS_TEXT_CELL_BYTES, "%.*s", QS_TEXT_CELL_BYTES - 1, change->is->metric);
    put_estimate(&cells[BEFORE], &change->was->estimate);
    put_estimate(&cells[AFTER], &change->is->estimate);
    (void)snprintf(cells[CHANGE].text, QS_TEXT_CELL_BYTES, "%s", kind_names[change->kind]);
    bool same = strcmp(was, is) == 0;
    (void)snprintf(cells[VERDICTS].text, QS_TEXT_CELL_BYTES, "%s%s%s", was, same ? "" : " -> ", same ? "" : is);
}

qs_err qs_run_changes_print(FILE *stream, const qs_run_changes *changes, bool markdown)
{
    qs_text_table table = {0};
    qs_sentence text = {0};
    int64_t n_shown = changes->n_better + changes->n_worse, row = 0;
    qs_err err = QS_OK;
    if (n_shown > 0) {
        QS_TRY(qs_text_table_init(&table, columns, N_COLUMNS, n_shown));
        for (int64_t i = 0; i < changes->n; i++)
            if (changes->changes[i].kind != QS_CHANGE_SAME) put_change(&table, row++, &changes->changes[i]);
        (markdown ? qs_text_table_print_markdown : qs_text_table_print)(&table, stream);
        (void)fputs("\n", stream);
    }
    qs_sentence_add(
        &text, "%" PRId64 " gates compared: %" PRId64 " worse beyond noise, %" PRId64 " better, %" PRId64 " the same.",
        changes->n, changes->n_worse, changes->n_better, changes->n - n_shown);
    if (changes->n_only_before > 0)
        qs_sentence_add(&text, " Configurations in the first run alone: %" PRId64 ".", changes->n_only_before);
    if (changes->n_only_after > 0) qs_sentence_add(&text, " In the second alone: %" PRId64 ".", changes->n_only_after);
    qs_text_wrap(stream, text.text);
out:
    qs_text_table_fini(&table);
    return err;
}

/* ---- compare.csv ---- */

qs_err qs_run_changes_write(FILE *stream, const qs_run_changes *changes)
{
    static const char *const header[] = {"config",         "gate",          "before",   "before_lo",
                                         "before_hi",      "after",         "after_lo", "after_hi",
                                         "before_verdict", "after_verdict", "change"};
    qs_csv_writer w;
    qs_csv_begin(&w, stream, header, sizeof header / sizeof *header);
    for (int64_t i = 0; i < changes->n; i++) {
        const qs_run_change *change = &changes->changes[i];
        const qs_estimate *both[] = {&change->was->estimate, &change->is->estimate};
        qs_table_put_text(&w, change->after->row.id);
        qs_csv_put_text(&w, change->is->metric);
        for (int k = 0; k < 2; k++) {
            qs_csv_put_real(&w, both[k]->value);
            qs_csv_put_real(&w, both[k]->lo);
            qs_csv_put_real(&w, both[k]->hi);
        }
        qs_csv_put_text(&w, qs_verdict_name(change->was->verdict));
        qs_csv_put_text(&w, qs_verdict_name(change->is->verdict));
        qs_csv_put_text(&w, kind_names[change->kind]);
        qs_err err = qs_csv_end_row(&w);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

static json_t *estimate_json(const qs_gate *gate)
{
    const double values[] = {gate->estimate.value, gate->estimate.lo, gate->estimate.hi};
    static const char *const names[] = {"value", "lo", "hi"};
    json_t *object = json_pack("{s:s}", "verdict", qs_verdict_name(gate->verdict));
    for (int i = 0; i < 3; i++)
        (void)json_object_set_new(object, names[i], isfinite(values[i]) ? json_real(values[i]) : json_null());
    return object;
}

json_t *qs_run_changes_json(const qs_run_changes *changes)
{
    json_t *gates = json_array();
    for (int64_t i = 0; i < changes->n; i++) {
        const qs_run_change *change = &changes->changes[i];
        (void)json_array_append_new(
            gates, json_pack("{s:s, s:s, s:o, s:o, s:s}", "config", change->after->row.id, "gate", change->is->metric,
                             "before", estimate_json(change->was), "after", estimate_json(change->is), "change",
                             kind_names[change->kind]));
    }
    return json_pack("{s:I, s:I, s:o}", "better", (json_int_t)changes->n_better, "worse", (json_int_t)changes->n_worse,
                     "gates", gates);
}
