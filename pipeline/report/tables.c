#include "report/tables.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "data/csv.h"
#include "model/weights.h"
#include "report/diagnose.h"
#include "report/fix_table.h"
#include "report/item_tables.h"
#include "report/page.h"
#include "report/table_columns.h"

enum { TEXT_BYTES = 2048 }; /* of the longest cell */

void qs_table_put_text(qs_csv_writer *writer, const char *text)
{
    char safe[TEXT_BYTES + 2];
    if (text[0] == '\0' || strchr("=+-@\t\r", text[0]) == NULL) {
        qs_csv_put_text(writer, text);
        return;
    }
    (void)snprintf(safe, sizeof safe, "'%s", text);
    qs_csv_put_text(writer, safe);
}

void qs_table_gates(char *text, size_t bytes, const qs_judgement *judgement, qs_verdict verdict)
{
    size_t used = 0;
    text[0] = '\0';
    for (int64_t i = 0; i < judgement->n_gates; i++) {
        const qs_gate *gate = &judgement->gates[i];
        bool again = false;
        for (int64_t j = 0; j < i; j++)
            again = again || (judgement->gates[j].verdict == verdict &&
                              strcmp(judgement->gates[j].budget->name, gate->budget->name) == 0);
        if (gate->verdict != verdict || again) continue;
        int n = snprintf(text + used, bytes - used, "%s%s", used > 0 ? ";" : "", gate->budget->name);
        if (n < 0 || (size_t)n >= bytes - used) {
            (void)snprintf(text + (bytes > 4 ? bytes - 4 : 0), 4, "...");
            return;
        }
        used += (size_t)n;
    }
}

/* ---- summary.csv ---- */

static void put_variant(qs_csv_writer *w, const qs_sweep_config *c) { qs_table_put_text(w, c->row.variant); }
static void put_id(qs_csv_writer *w, const qs_sweep_config *c) { qs_table_put_text(w, c->row.id); }
static void put_method(qs_csv_writer *w, const qs_sweep_config *c) { qs_table_put_text(w, c->row.method); }
static void put_backend(qs_csv_writer *w, const qs_sweep_config *c) { qs_table_put_text(w, c->row.backend); }
static void put_device(qs_csv_writer *w, const qs_sweep_config *c) { qs_table_put_text(w, c->row.device); }
static void put_bpw(qs_csv_writer *w, const qs_sweep_config *c) { qs_csv_put_real(w, c->row.bpw); }
static void put_bpw_total(qs_csv_writer *w, const qs_sweep_config *c)
{
    qs_csv_put_real(w, c->row.bpw_total);
}
static void put_quantize_s(qs_csv_writer *w, const qs_sweep_config *c)
{
    qs_csv_put_real(w, c->row.quantize_s);
}

/* 0 stands for "has none": the reference is not quantised. */
static void put_count(qs_csv_writer *w, int64_t value)
{
    if (value == 0)
        qs_csv_put_text(w, "");
    else
        qs_csv_put_int(w, value);
}
static void put_bits(qs_csv_writer *w, const qs_sweep_config *c) { put_count(w, c->row.bits); }
static void put_group(qs_csv_writer *w, const qs_sweep_config *c) { put_count(w, c->row.group_size); }
static void put_bytes(qs_csv_writer *w, const qs_sweep_config *c) { put_count(w, c->row.bytes); }

static void put_ratio_lo(qs_csv_writer *w, const qs_sweep_config *c)
{
    const qs_measure *measure = qs_config_row_find(&c->row, "ppl_ratio");
    qs_csv_put_real(w, measure != NULL ? measure->estimate.lo : NAN);
}
static void put_ratio_hi(qs_csv_writer *w, const qs_sweep_config *c)
{
    const qs_measure *measure = qs_config_row_find(&c->row, "ppl_ratio");
    qs_csv_put_real(w, measure != NULL ? measure->estimate.hi : NAN);
}

/* The reference is no candidate: a PASS of it would be read as one. */
static qs_verdict shown_verdict(const qs_sweep_config *c, bool strict, bool *shown)
{
    qs_verdict verdict = qs_judgement_verdict(&c->judgement, strict);
    *shown = !c->row.reference || verdict == QS_VERDICT_BASELINE_FAIL;
    return verdict;
}

static void put_failed(qs_csv_writer *w, const qs_sweep_config *c)
{
    char failed[TEXT_BYTES];
    qs_table_gates(failed, sizeof failed, &c->judgement, QS_VERDICT_FAIL);
    qs_table_put_text(w, failed);
}

static void put_tokens(qs_csv_writer *w, const qs_sweep_config *c) { put_count(w, qs_config_row_tokens(&c->row)); }
static void put_race(qs_csv_writer *w, const qs_sweep_config *c)
{
    qs_csv_put_text(w, c->row.raced.raced ? qs_race_decision_name(c->row.raced.decision) : "");
}

/* Columns without a function are the metrics of that name. */
typedef struct summary_column {
    const char *name;
    void (*put)(qs_csv_writer *writer, const qs_sweep_config *config);
} summary_column;
static const summary_column summary_columns[] = {
    {"config", put_id},
    {"method", put_method},
    {"bits", put_bits},
    {"group_size", put_group},
    {"variant", put_variant},
    {"bpw", put_bpw},
    {"bpw_total", put_bpw_total},
    {"bytes", put_bytes},
    {"ppl", NULL},
    {"ppl_ratio", NULL},
    {"ppl_ratio_lo", put_ratio_lo},
    {"ppl_ratio_hi", put_ratio_hi},
    {"kld_mean", NULL},
    {"kld_p99", NULL},
    {"top1_agree", NULL},
    {"acc_loss_pct", NULL},
    {"qa_acc", NULL},
    {"dS_QE", NULL},
    {"dS_EA", NULL},
    {"dS_drift", NULL},
    {"anchor_drift", NULL},
    {"anchor_gap", NULL},
    {"cov_retr10", NULL},
    {"cov_cited", NULL},
    {"lambda_conv", NULL},
    {"lambda_flip_rate", NULL},
    {"snippet_divergence", NULL},
    {"e_resonance_drift", NULL},
    {"entropy_stable", NULL},
    {"json_ok", NULL},
    {"cite_ok", NULL},
    {"prefill_tok_s", NULL},
    {"decode_ms_tok_p50", NULL},
    {"decode_ms_tok_p95", NULL},
    {"latency_gain_pct", NULL},
    {"mem_before", NULL},
    {"mem_after_load", NULL},
    {"mem_peak", NULL},
    {"savings_visible", NULL},
    {"quantize_s", put_quantize_s},
    {"backend", put_backend},
    {"device", put_device},
    {"verdict", NULL},
    {"failed", put_failed},
    {"tokens", put_tokens},
    {"race", put_race},
};
/* The last two are there where something raced. */
enum { N_SUMMARY = sizeof summary_columns / sizeof *summary_columns, N_RACE = 2 };

/* Bytes stay exact. */
static void put_value(qs_csv_writer *w, const char *name, double value)
{
    const qs_metric *metric = qs_metric_find(name);
    if (metric != NULL && strcmp(metric->unit, "byte") == 0 && !isnan(value))
        qs_csv_put_int(w, (int64_t)llround(value));
    else
        qs_csv_put_real(w, value);
}

static qs_err write_summary(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)selection;
    const char *header[N_SUMMARY];
    qs_csv_writer w;
    int64_t n_raced, n_partial;
    qs_sweep_count_raced(sweep, &n_raced, &n_partial);
    int n_columns = n_raced > 0 ? N_SUMMARY : N_SUMMARY - N_RACE;
    for (int i = 0; i < n_columns; i++) header[i] = summary_columns[i].name;
    qs_csv_begin(&w, stream, header, n_columns);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_sweep_config *config = &sweep->configs[i];
        for (int column = 0; column < n_columns; column++) {
            bool shown;
            if (summary_columns[column].put != NULL)
                summary_columns[column].put(&w, config);
            else if (strcmp(header[column], "verdict") != 0)
                put_value(&w, header[column], qs_config_row_value(&config->row, header[column]));
            else {
                qs_verdict verdict = shown_verdict(config, sweep->strict, &shown);
                qs_csv_put_text(&w, shown ? qs_verdict_name(verdict) : "");
            }
        }
        qs_err err = qs_csv_end_row(&w);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* ---- metrics.csv ---- */

static qs_err write_measure(qs_csv_writer *w, const char *id, const qs_measure *measure)
{
    const qs_metric *metric = qs_metric_find(measure->name);
    qs_table_put_text(w, id);
    qs_table_put_text(w, measure->name);
    qs_csv_put_text(w, metric != NULL ? metric->unit : "");
    put_value(w, measure->name, measure->estimate.value);
    put_value(w, measure->name, measure->estimate.lo);
    put_value(w, measure->name, measure->estimate.hi);
    put_count(w, measure->estimate.n);
    return qs_csv_end_row(w);
}

static qs_err write_metrics(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    qs_csv_writer w;
    (void)selection;
    qs_columns_begin(&w, stream, qs_metrics_columns, false);
    for (int64_t i = 0; i < sweep->n; i++)
        for (int64_t j = 0; j < sweep->configs[i].row.n_measures; j++) {
            qs_err err = write_measure(&w, sweep->configs[i].row.id, &sweep->configs[i].row.measures[j]);
            if (err != QS_OK) return err;
        }
    return QS_OK;
}

/* ---- verdicts.csv ---- */

/* Whether a figure is one of windows, and those of this row are a part. */
static bool is_partial(const qs_config_row *row, const char *name)
{
    const qs_metric *metric = qs_metric_find(name);
    return qs_raced_is_partial(&row->raced) && metric != NULL && (metric->task & (QS_TASK_PPL | QS_TASK_KLD)) != 0;
}

static qs_err write_gate(qs_csv_writer *w, const qs_config_row *row, const qs_gate *gate, bool any_raced)
{
    bool measured = gate->verdict != QS_VERDICT_NOT_EVALUABLE;
    /* A stand-in is named, so that nobody takes its figure for the gate's metric. A joint gate keeps its
     * name. */
    bool stand_in = strcmp(gate->metric, gate->part->metric) != 0;
    qs_table_put_text(w, row->id);
    qs_table_put_text(w, stand_in ? gate->metric : gate->budget->name);
    qs_csv_put_real(w, gate->estimate.value);
    qs_csv_put_real(w, gate->estimate.lo);
    qs_csv_put_real(w, gate->estimate.hi);
    qs_table_put_text(w, gate->part->op);
    qs_csv_put_real(w, gate->part->limit);
    qs_table_put_text(w, gate->budget->source);
    qs_csv_put_int(w, gate->estimate.n);
    qs_csv_put_text(w, qs_verdict_name(gate->verdict));
    qs_csv_put_text(w, !measured ? "" : gate->decided ? "yes" : "no");
    if (any_raced) qs_csv_put_text(w, !measured ? "" : is_partial(row, gate->metric) ? "yes" : "no");
    return qs_csv_end_row(w);
}

static qs_err write_verdicts(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)selection;
    qs_csv_writer w;
    int64_t n_raced, n_partial;
    qs_sweep_count_raced(sweep, &n_raced, &n_partial);
    qs_columns_begin(&w, stream, qs_verdicts_columns, n_raced > 0);
    for (int64_t i = 0; i < sweep->n; i++)
        for (int64_t j = 0; j < sweep->configs[i].judgement.n_gates; j++) {
            qs_err err = write_gate(&w, &sweep->configs[i].row, &sweep->configs[i].judgement.gates[j], n_raced > 0);
            if (err != QS_OK) return err;
        }
    return QS_OK;
}

/* ---- layers.csv ---- */

static qs_err write_layers(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)selection;
    qs_csv_writer w;
    qs_columns_begin(&w, stream, qs_layers_columns, false);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        for (int64_t j = 0; row->loss != NULL && j < row->n_layers * QS_N_LINEARS; j++) {
            qs_table_put_text(&w, row->id);
            qs_csv_put_int(&w, j / QS_N_LINEARS);
            qs_csv_put_text(&w, qs_role_name((qs_role)(j % QS_N_LINEARS)));
            qs_csv_put_real(&w, row->loss[j]);
            qs_err err = qs_csv_end_row(&w);
            if (err != QS_OK) return err;
        }
    }
    return QS_OK;
}

/* ---- latency.csv ---- */

static qs_err put_latency(qs_csv_writer *w, const qs_config_row *row, const char *metric, const char *unit,
                          const qs_estimate *e)
{
    qs_table_put_text(w, row->id);
    qs_csv_put_text(w, metric);
    qs_csv_put_text(w, unit);
    qs_csv_put_real(w, e->value);
    qs_csv_put_real(w, e->lo);
    qs_csv_put_real(w, e->hi);
    put_count(w, e->n);
    qs_table_put_text(w, row->backend);
    qs_table_put_text(w, row->device);
    qs_table_put_text(w, row->kernel);
    put_count(w, row->n_threads);
    return qs_csv_end_row(w);
}

/* A quantile of the times of single tokens, as they were: no estimate, and no interval. */
static qs_err put_spread(qs_csv_writer *w, const qs_config_row *row, int q)
{
    char name[QS_MEASURE_NAME_BYTES];
    qs_estimate e = {row->decode_ms_spread[q], NAN, NAN, row->n_decoded};
    (void)snprintf(name, sizeof name, "decode_ms_sample_p%02.0f", 100 * qs_spread_shares[q]);
    return put_latency(w, row, name, "ms", &e);
}

static qs_err write_latency(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)selection;
    qs_csv_writer w;
    qs_columns_begin(&w, stream, qs_latency_columns, false);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        qs_estimate paired = {row->reference_decode_ms_p50, NAN, NAN, 0};
        qs_err err = QS_OK;
        for (const qs_metric *metric = qs_metrics; metric->name != NULL && err == QS_OK; metric++) {
            const qs_measure *measure = qs_config_row_find(row, metric->name);
            if (metric->task == QS_TASK_LATENCY && measure != NULL)
                err = put_latency(&w, row, metric->name, metric->unit, &measure->estimate);
        }
        for (int q = 0; q < QS_N_SPREAD && row->n_decoded > 0 && err == QS_OK; q++)
            err = put_spread(&w, row, q);
        if (err == QS_OK && !isnan(paired.value))
            err = put_latency(&w, row, "reference_decode_ms_tok_p50", "ms", &paired);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* ---- pareto.csv ---- */

static const char *yes(bool value) { return value ? "yes" : "no"; }

static qs_err write_pareto(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)sweep;
    qs_csv_writer w;
    qs_columns_begin(&w, stream, qs_pareto_columns, false);
    for (int64_t i = 0; i < selection->n; i++) {
        const qs_selection_point *point = &selection->points[i];
        const qs_config_row *row = &point->config->row;
        bool chosen = i == selection->chosen;
        qs_table_put_text(&w, row->id);
        qs_csv_put_text(&w, yes(point->config->passes));
        qs_csv_put_text(&w, yes(selection->front[i].on_front));
        qs_csv_put_text(&w, yes(chosen));
        qs_csv_put_text(&w, chosen ? yes(selection->confirmed) : "");
        qs_csv_put_real(&w, row->bpw);
        put_count(&w, row->bytes);
        qs_csv_put_real(&w, qs_config_row_value(row, "decode_ms_tok_p50"));
        qs_csv_put_real(&w, point->halved ? point->select.value : NAN);
        qs_csv_put_text(&w, point->halved ? qs_verdict_name(point->select_verdict) : "");
        qs_csv_put_real(&w, point->halved ? point->confirm.value : NAN);
        qs_csv_put_real(&w, point->halved ? point->confirm.lo : NAN);
        qs_csv_put_real(&w, point->halved ? point->confirm.hi : NAN);
        qs_csv_put_text(&w, point->halved ? qs_verdict_name(point->confirm_verdict) : "");
        qs_err err = qs_csv_end_row(&w);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

const qs_table qs_tables[] = {
    {"summary.csv", "a configuration", write_summary, qs_summary_facts},
    {"verdicts.csv", "a gate of a configuration", write_verdicts, qs_verdicts_columns},
    {"layers.csv", "the loss of a matrix", write_layers, qs_layers_columns},
    {"latency.csv", "a time or rate of a configuration", write_latency, qs_latency_columns},
    {"pareto.csv", "a configuration as a candidate", write_pareto, qs_pareto_columns},
    {"metrics.csv", "a figure of a configuration with its 95 % interval: everything that was measured", write_metrics,
     qs_metrics_columns},
    {"diagnosis.csv", "a symptom of a configuration: figures, likely cause, fix and next command (docs/symptoms.md)",
     qs_write_diagnosis, qs_diagnosis_columns},
    {"fixes.csv", "a gate's figure before and after a fix that was tried (docs/fixes.md)", qs_write_fixes,
     qs_fixes_columns},
    {"items.csv", "an answer: a question in one wording, greedily or with a seed", qs_write_items, qs_items_columns},
    {"entropy.csv", "a step of a text: the mean over held-out windows, or one long text", qs_write_entropy,
     qs_entropy_columns},
    {"report.html", "the page for people: not a table, and all of them", qs_write_page, NULL},
    {"trace.jsonl", "a retrieval: a question in one wording, the snippets offered, and those selected", qs_write_trace,
     NULL},
    {0},
};

void qs_tables_print_markdown(FILE *stream)
{
    (void)fprintf(stream, "| file | a row is |\n|---|---|\n");
    for (const qs_table *table = qs_tables; table->file != NULL; table++)
        (void)fprintf(stream, "| `%s` | %s |\n", table->file, table->text);
    (void)fprintf(stream, "\nColumns of `summary.csv`, in this order:");
    for (int i = 0; i < N_SUMMARY; i++)
        (void)fprintf(stream, "%s`%s`", i % 8 == 0 ? "\n" : " ", summary_columns[i].name);
    (void)fprintf(stream, "\n\nOf these, besides the metrics above:\n\n");
    qs_columns_print_markdown(stream, qs_summary_facts);
    for (const qs_table *table = qs_tables + 1; table->file != NULL; table++) {
        if (table->columns == NULL) continue;
        (void)fprintf(stream, "\n## Columns of %s\n\n", table->file);
        qs_columns_print_markdown(stream, table->columns);
    }
}

/* None appears before all are written: a disk that fills up leaves the old ones together. */
qs_err qs_tables_write(const qs_sweep *sweep, const qs_selection *selection, const char *dir)
{
    qs_file_writer writers[sizeof qs_tables / sizeof *qs_tables];
    int n = 0, n_published = 0;
    qs_err err;
    QS_TRY(qs_dir_create(dir));
    for (const qs_table *table = qs_tables; table->file != NULL; table++) {
        char path[QS_PATH_BYTES];
        QS_TRY(qs_path_format(path, "%s/%s", dir, table->file));
        QS_TRY(qs_file_writer_open(&writers[n], path));
        n++;
        QS_TRY(table->write(writers[n - 1].stream, sweep, selection));
        if (fflush(writers[n - 1].stream) != 0 || ferror(writers[n - 1].stream) != 0) {
            err = qs_fail(QS_E_RESOURCE, "write %s: %s", path, strerror(errno));
            goto out;
        }
    }
    for (; n_published < n; n_published++) QS_TRY(qs_file_writer_publish(&writers[n_published]));
out:
    for (int i = n_published; i < n; i++) qs_file_writer_discard(&writers[i]);
    return err;
}
