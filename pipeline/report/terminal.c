#include "report/terminal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "report/diagnose.h"
#include "report/text_table.h"

/* ---- sentences ---- */

/* "ppl_ratio is 5.31, above 1.15 by 4.16 (362 %)" */
static void add_miss(qs_sentence *text, const qs_gate *gate)
{
    const qs_estimate *e = &gate->estimate;
    const qs_budget_part *part = gate->part;
    if (gate->budget->n_parts > 1) qs_sentence_add(text, "%s: ", gate->budget->name);
    if (part->by_interval && qs_budget_meets(part, e->value)) {
        qs_sentence_add(text, "the interval of %s, [%.4g, %.4g], is not all %s", gate->metric, e->lo, e->hi,
                        part->op);
        qs_sentence_add(text, " %.4g", part->limit);
        return;
    }
    double by = fabs(e->value - part->limit);
    qs_sentence_add(text, "%s is %.4g, ", gate->metric, e->value);
    if (by == 0.0) {
        qs_sentence_add(text, "which is not %s %.4g", part->op, part->limit);
        return;
    }
    qs_sentence_add(text, "%s %.4g by %.3g", part->upper ? "above" : "below", part->limit, by);
    if (part->limit != 0.0) qs_sentence_add(text, " (%.3g %%)", 100.0 * by / fabs(part->limit));
}

void qs_terminal_failure(qs_sentence *text, const qs_sweep_config *config)
{
    const qs_judgement *judgement = &config->judgement;
    int64_t n = judgement->n_by_verdict[QS_VERDICT_FAIL], seen = 0;
    if (n == 0) return;
    qs_sentence_add(text, "%s fails %" PRId64 " of %" PRId64 " measured gates: ", config->row.id, n,
                    judgement->n_measured);
    for (int64_t i = 0; i < judgement->n_gates; i++) {
        if (judgement->gates[i].verdict != QS_VERDICT_FAIL) continue;
        if (seen++ > 0) qs_sentence_add(text, "; ");
        add_miss(text, &judgement->gates[i]);
    }
    qs_sentence_add(text, ".");
}

/* "7" or "5 to 7". */
static void add_range(qs_sentence *text, int64_t low, int64_t high)
{
    qs_sentence_add(text, "%" PRId64, low);
    if (high > low) qs_sentence_add(text, " to %" PRId64, high);
}

void qs_terminal_headline(qs_sentence *text, const qs_sweep *sweep)
{
    int64_t low[2] = {INT64_MAX, INT64_MAX}, high[2] = {0, 0}; /* measured, missing */
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_judgement *judgement = &sweep->configs[i].judgement;
        if (sweep->configs[i].row.reference) continue;
        const int64_t counts[2] = {judgement->n_measured, judgement->n_by_verdict[QS_VERDICT_NOT_EVALUABLE]};
        for (int k = 0; k < 2; k++) {
            if (counts[k] < low[k]) low[k] = counts[k];
            if (counts[k] > high[k]) high[k] = counts[k];
        }
    }
    qs_sentence_add(text, "%" PRId64 " of %" PRId64 " configurations pass", sweep->n_passing,
                    qs_sweep_n_candidates(sweep));
    if (qs_sweep_n_candidates(sweep) == 0) return;
    qs_sentence_add(text, sweep->strict ? " every gate (strict; measured of each: "
                                        : " the gates that were measured (of each: ");
    add_range(text, low[0], high[0]);
    qs_sentence_add(text, "; not measured: ");
    add_range(text, low[1], high[1]);
    qs_sentence_add(text, sweep->strict ? ", which counts as not passed)." : ").");
}

/* ---- the table ---- */

enum { CONFIG, BPW, SIZE, PPL, RATIO, KLD, TOP1, ACC_LOSS, MS_TOKEN, GAIN, GATES, VERDICT, N_COLUMNS };

static const qs_text_column columns[N_COLUMNS] = {
    [CONFIG] = {"config", false, 0},
    [BPW] = {"bpw", true, 0},
    [SIZE] = {"size", true, 3},
    [PPL] = {"ppl", true, 2},
    [RATIO] = {"ppl ratio [95 % CI]", true, 0},
    [KLD] = {"KLD", true, 1},
    [TOP1] = {"top-1", true, 5},
    [ACC_LOSS] = {"acc loss", true, 6},
    [MS_TOKEN] = {"ms/tok", true, 0},
    [GAIN] = {"gain", true, 4},
    [GATES] = {"gates", true, 0},
    [VERDICT] = {"verdict", false, 0},
};

/* How the verdicts look on a terminal: green, yellow, red. */
static const char *const paints[QS_N_VERDICTS] = {
    [QS_VERDICT_PASS] = "\033[32m",          [QS_VERDICT_WARN] = "\033[33m",
    [QS_VERDICT_REVIEW] = "\033[33m",        [QS_VERDICT_NOT_EVALUABLE] = "\033[33m",
    [QS_VERDICT_BASELINE_FAIL] = "\033[31m", [QS_VERDICT_FAIL] = "\033[31m",
};

static void put_number(qs_text_table *table, int64_t row, int column, const char *fmt, double value)
    __attribute__((format(printf, 4, 0)));
static void put_number(qs_text_table *table, int64_t row, int column, const char *fmt, double value)
{
    qs_text_cell *cell = qs_text_table_cell(table, row, column);
    if (isnan(value)) return;
    (void)snprintf(cell->text, sizeof cell->text, fmt, value);
}

static bool is_undecided(const qs_gate *gate)
{
    return gate->verdict != QS_VERDICT_NOT_EVALUABLE && !gate->decided;
}

static void put_verdict(qs_text_cell *cell, const qs_sweep *sweep, const qs_sweep_config *config, bool color)
{
    qs_verdict verdict = qs_judgement_verdict(&config->judgement, sweep->strict);
    bool undecided = false;
    if (config->row.reference && verdict != QS_VERDICT_BASELINE_FAIL) {
        (void)snprintf(cell->text, sizeof cell->text, "reference");
        return;
    }
    for (int64_t i = 0; i < config->judgement.n_gates; i++)
        undecided = undecided || is_undecided(&config->judgement.gates[i]);
    /* Dropped by other budgets than these: it does not pass here either. */
    bool dropped = !config->passes && config->row.raced.decision == QS_RACE_DROPPED && verdict != QS_VERDICT_FAIL;
    (void)snprintf(cell->text, sizeof cell->text, "%s%s%s%s", qs_verdict_name(verdict), dropped ? ", dropped" : "",
                   undecided ? " ?" : "",
                   qs_raced_is_partial(&config->row.raced) ? " *" : "");
    if (color) cell->paint = paints[verdict];
}

static void put_row(qs_text_table *table, int64_t row, const qs_sweep *sweep, const qs_sweep_config *config,
                    bool color)
{
    const qs_config_row *c = &config->row;
    const qs_judgement *judgement = &config->judgement;
    const qs_measure *ratio = qs_config_row_find(c, "ppl_ratio");
    double ppl = qs_config_row_value(c, "ppl");
    qs_text_cell *size = qs_text_table_cell(table, row, SIZE),
                 *interval = qs_text_table_cell(table, row, RATIO),
                 *gates = qs_text_table_cell(table, row, GATES);
    (void)snprintf(qs_text_table_cell(table, row, CONFIG)->text, QS_TEXT_CELL_BYTES, "%.*s",
                   QS_TEXT_CELL_BYTES - 1, c->id);
    put_number(table, row, BPW, "%.2f", c->bpw);
    if (c->bytes > 0) (void)qs_mem_format(size->text, (size_t)c->bytes);
    put_number(table, row, PPL, ppl < 1000 ? "%.2f" : "%.3g", ppl);
    if (ratio != NULL && !c->reference)
        (void)snprintf(interval->text, sizeof interval->text,
                       ratio->estimate.value < 100 ? "%.3f [%.3f, %.3f]" : "%.3g [%.3g, %.3g]",
                       ratio->estimate.value, ratio->estimate.lo, ratio->estimate.hi);
    if (!c->reference) {
        put_number(table, row, KLD, "%.4f", qs_config_row_value(c, "kld_mean"));
        put_number(table, row, TOP1, "%.1f%%", 100.0 * qs_config_row_value(c, "top1_agree"));
        put_number(table, row, ACC_LOSS, "%+.1f%%", qs_config_row_value(c, "acc_loss_pct"));
        put_number(table, row, GAIN, "%+.0f%%", qs_config_row_value(c, "latency_gain_pct"));
        (void)snprintf(gates->text, sizeof gates->text, "%" PRId64 "/%" PRId64 "/%" PRId64,
                       judgement->n_by_verdict[QS_VERDICT_PASS], judgement->n_measured, judgement->n_gates);
    }
    put_number(table, row, MS_TOKEN, "%.2f", qs_config_row_value(c, "decode_ms_tok_p50"));
    put_verdict(qs_text_table_cell(table, row, VERDICT), sweep, config, color);
}

void qs_terminal_race(qs_sentence *text, const qs_sweep *sweep)
{
    int64_t n_raced, n_partial, n_dropped = 0, n_all = 0, n_read = 0;
    qs_sweep_count_raced(sweep, &n_raced, &n_partial);
    if (n_raced == 0) return;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_raced *raced = &sweep->configs[i].row.raced;
        n_dropped += raced->raced && raced->decision == QS_RACE_DROPPED;
        n_all += raced->raced ? raced->n_windows_all : 0;
        n_read += raced->raced ? raced->n_windows : 0;
    }
    qs_sentence_add(text, "*: raced, and decided before all windows were read: its figures are means over a part of "
                          "them and do not compare with those of other rows to their last digits. ");
    qs_sentence_add(text,
                    "Of %" PRId64 " that raced %" PRId64 " were dropped, %" PRId64 " accepted early; %.0f %% of the "
                    "windows were read.",
                    n_raced, n_dropped, n_partial - n_dropped, 100.0 * (double)n_read / (double)n_all);
}

static qs_err print_table(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    qs_text_table table;
    qs_sentence race = {0};
    qs_err err;
    QS_TRY(qs_text_table_init(&table, columns, N_COLUMNS, sweep->n));
    for (int64_t i = 0; i < sweep->n; i++)
        put_row(&table, i, sweep, &sweep->configs[i], options->color && !options->markdown);
    if (options->markdown)
        qs_text_table_print_markdown(&table, stream);
    else
        qs_text_table_print(&table, stream);
    (void)fputs("\n", stream);
    qs_text_wrap(stream, "gates: passed / measured / all of the profile. ?: an interval reaches over a budget, so more "
                         "samples could change a gate's verdict.");
    qs_terminal_race(&race, sweep);
    if (race.used > 0) qs_text_wrap(stream, race.text);
out:
    qs_text_table_fini(&table);
    return err;
}

/* ---- paragraphs ---- */

static void say(FILE *stream, const qs_terminal_options *options, const char *text)
{
    if (text[0] == '\0') return;
    if (options->markdown)
        (void)fprintf(stream, "- %s\n", text);
    else
        qs_text_wrap(stream, text);
}

static void print_warnings(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    qs_sentence text = {0};
    for (int64_t i = 0; sweep->reference != NULL && i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        qs_digest other = row->baseline, ours = sweep->reference->digest;
        if (!row->has_baseline || (other.low == ours.low && other.high == ours.high)) continue;
        qs_sentence_add(&text, "%s%s",
                        text.used == 0
                            ? "WARNING: compared with another reference artifact than the one shown: "
                            : ", ",
                        row->id);
    }
    say(stream, options, text.text);
    if (!qs_sweep_same_device(sweep))
        say(stream, options,
            "WARNING: configurations were timed on different devices or thread counts; their times do "
            "not compare and take no part in the selection.");
    if (sweep->reference == NULL) say(stream, options, "WARNING: the reference (fp) is not among the files.");
    for (int64_t i = 0; i < sweep->n_unreadable; i++) {
        text = (qs_sentence){0};
        qs_sentence_add(&text, "not reported: %s", sweep->unreadable[i].cause);
        say(stream, options, text.text);
    }
}

static void print_heading(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    const qs_config_row *row = &sweep->configs[0].row;
    const qs_frame *frame = &row->frame;
    qs_sentence text = {0};
    qs_sentence_add(&text,
                    "%s (%s, %s): protocol %s, %" PRId64 " windows of %" PRId64 " tokens, %" PRId64
                    " scored, %s",
                    frame->model, frame->architecture, frame->storage, frame->protocol, frame->n_windows,
                    frame->n_ctx, frame->n_scored, frame->compute);
    if (frame->encoder[0] != '\0') qs_sentence_add(&text, "; distances by the encoder %s", frame->encoder);
    if (qs_frame_is_chat(frame)) qs_sentence_add(&text, "; prompts by the chat template %s", frame->chat);
    const qs_config_row *timed = row;
    for (int64_t i = 0; i < sweep->n && timed->backend[0] == '\0'; i++) timed = &sweep->configs[i].row;
    if (timed->backend[0] != '\0')
        qs_sentence_add(&text, "; timed on %s, %s, %" PRId64 " thread%s", timed->backend, timed->device,
                        timed->n_threads, timed->n_threads == 1 ? "" : "s");
    qs_sentence_add(&text, ".");
    say(stream, options, text.text);
    if (frame->lattice) {
        text = (qs_sentence){0};
        qs_sentence_add(&text,
                        "WARNING: the reference's weights sit on a low-bit lattice (%s) already: every "
                        "degradation below is understated, since the loss of that first quantisation is not in it.",
                        frame->storage);
        say(stream, options, text.text);
    }
    print_warnings(stream, sweep, options);
    (void)fputs("\n", stream);
}

static void print_reference_failures(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    qs_sentence text = {0};
    if (sweep->reference == NULL) return;
    const qs_judgement *judgement = &sweep->configs[0].judgement;
    for (int64_t i = 0; i < judgement->n_gates; i++) {
        if (judgement->gates[i].verdict != QS_VERDICT_BASELINE_FAIL) continue;
        qs_sentence_add(&text, text.used == 0 ? "The system fails before any quantisation: of the reference, "
                                              : "; ");
        add_miss(&text, &judgement->gates[i]);
    }
    if (text.used > 0)
        qs_sentence_add(&text, ". Where that is so, configurations are judged on drift alone.");
    say(stream, options, text.text);
}

enum { MAX_DIAGNOSES = 12 };

/* Of what fails; diagnosis.csv has those of warnings too. */
static void print_diagnoses(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    int64_t n = 0;
    for (int64_t i = 0; i < sweep->n; i++) {
        qs_sentence text = {0};
        if (!qs_diagnosis_wanted(&sweep->configs[i])) continue;
        if (++n > MAX_DIAGNOSES) continue;
        qs_diagnosis_tell(&text, sweep, &sweep->configs[i]);
        say(stream, options, text.text);
    }
    if (n > MAX_DIAGNOSES) {
        qs_sentence text = {0};
        qs_sentence_add(&text, "diagnoses: %" PRId64 " more configurations, see diagnosis.csv", n - MAX_DIAGNOSES);
        say(stream, options, text.text);
    }
}

enum { MAX_UNDECIDED = 6 };

static void print_undecided(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    int64_t n = 0;
    for (int64_t i = 0; i < sweep->n; i++)
        for (int64_t j = 0; j < sweep->configs[i].judgement.n_gates; j++) {
            const qs_gate *gate = &sweep->configs[i].judgement.gates[j];
            qs_sentence text = {0};
            if (!is_undecided(gate) || ++n > MAX_UNDECIDED) continue;
            qs_sentence_add(&text, "undecided: %s %s %.4g [%.4g, %.4g] against %s %.4g (n = %" PRId64 "); ",
                            sweep->configs[i].row.id, gate->metric, gate->estimate.value, gate->estimate.lo,
                            gate->estimate.hi, gate->part->op, gate->part->limit, gate->estimate.n);
            if (gate->n_more == QS_NEVER)
                qs_sentence_add(&text,
                                gate->estimate.n <= 1 ? "one sample has no spread" : "it lies on the budget");
            else
                qs_sentence_add(&text, "about %" PRId64 " more would decide", gate->n_more);
            say(stream, options, text.text);
        }
    if (n > MAX_UNDECIDED) {
        qs_sentence text = {0};
        qs_sentence_add(&text, "undecided: %" PRId64 " more gates, see verdicts.csv", n - MAX_UNDECIDED);
        say(stream, options, text.text);
    }
}

/* Gates measured of each profile, once for each pair of counts: "rtn 5 of 28, gptq 7 of 32". */
static void add_counts(qs_sentence *text, const qs_sweep *sweep)
{
    int64_t n = 0;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_sweep_config *config = &sweep->configs[i];
        const char *profile = qs_budgets_profile(config->row.method);
        bool again = config->row.reference;
        for (int64_t j = 0; j < i; j++)
            again = again || (!sweep->configs[j].row.reference &&
                              strcmp(qs_budgets_profile(sweep->configs[j].row.method), profile) == 0 &&
                              sweep->configs[j].judgement.n_measured == config->judgement.n_measured);
        if (again) continue;
        qs_sentence_add(text, "%s%s %" PRId64 " of %" PRId64, n++ == 0 ? "" : ", ", profile,
                        config->judgement.n_measured, config->judgement.n_gates);
    }
}

static bool is_missing(const qs_gate *gate, bool known)
{
    return gate->verdict == QS_VERDICT_NOT_EVALUABLE && qs_config_row_is_known(gate->metric) == known;
}

static bool is_missing_before(const qs_sweep *sweep, int64_t config, int64_t gate, bool known)
{
    const char *name = sweep->configs[config].judgement.gates[gate].budget->name;
    for (int64_t i = 0; i <= config; i++) {
        const qs_judgement *judgement = &sweep->configs[i].judgement;
        for (int64_t j = 0; j < (i < config ? judgement->n_gates : gate); j++)
            if (is_missing(&judgement->gates[j], known) &&
                strcmp(judgement->gates[j].budget->name, name) == 0)
                return true;
    }
    return false;
}

/* Names of the gates that were not evaluated in some configuration. Those that this version cannot measure at
 * all stand apart: among them are all misspelt names of a budgets file. */
static void print_missing_gates(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options,
                                bool known)
{
    qs_sentence text = {0};
    for (int64_t i = 0; i < sweep->n; i++)
        for (int64_t j = 0; j < sweep->configs[i].judgement.n_gates; j++) {
            const qs_gate *gate = &sweep->configs[i].judgement.gates[j];
            if (!is_missing(gate, known) || is_missing_before(sweep, i, j, known)) continue;
            const char *lead = known ? "not measured in this run: " : "not measured by this version: ";
            qs_sentence_add(&text, "%s%s", text.used == 0 ? lead : ", ", gate->budget->name);
        }
    say(stream, options, text.text);
}

static void print_missing(FILE *stream, const qs_sweep *sweep, const qs_terminal_options *options)
{
    qs_sentence text = {0};
    if (qs_sweep_n_candidates(sweep) == 0) return;
    qs_sentence_add(&text, "gates measured: ");
    add_counts(&text, sweep);
    say(stream, options, text.text);
    print_missing_gates(stream, sweep, options, true);
    print_missing_gates(stream, sweep, options, false);
}

static void print_controls(FILE *stream, const qs_control *controls, const qs_terminal_options *options)
{
    for (int i = 0; i < QS_N_CONTROLS; i++) {
        qs_sentence text = {0};
        qs_sentence_add(&text, "control: %s: %s (%s)", controls[i].name,
                        qs_control_status_name(controls[i].status), controls[i].text);
        say(stream, options, text.text);
    }
}

static void print_conclusion(FILE *stream, const qs_sweep *sweep, const qs_selection *selection,
                             const qs_terminal_options *options)
{
    qs_sentence headline = {0}, choice = {0};
    (void)fputs("\n", stream);
    qs_terminal_headline(&headline, sweep);
    say(stream, options, headline.text);
    qs_sentence_add(&choice, "%s: %s.", selection->chosen >= 0 ? "Recommended" : "No recommendation",
                    selection->reason.text);
    say(stream, options, choice.text);
}

qs_err qs_terminal_print(FILE *stream, const qs_sweep *sweep, const qs_selection *selection,
                         const qs_control controls[QS_N_CONTROLS], const qs_terminal_options *options)
{
    print_heading(stream, sweep, options);
    qs_err err = print_table(stream, sweep, options);
    if (err != QS_OK) return err;
    (void)fputs("\n", stream);
    print_reference_failures(stream, sweep, options);
    for (int64_t i = 0; i < sweep->n; i++) {
        qs_sentence text = {0};
        qs_terminal_failure(&text, &sweep->configs[i]);
        say(stream, options, text.text);
    }
    print_diagnoses(stream, sweep, options);
    print_undecided(stream, sweep, options);
    print_missing(stream, sweep, options);
    print_controls(stream, controls, options);
    print_conclusion(stream, sweep, selection, options);
    return QS_OK;
}
