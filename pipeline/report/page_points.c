/* The table of all configurations, and each configuration's gates. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/budgets.h"
#include "report/html.h"
#include "report/page_impl.h"
#include "report/terminal.h"

/* How a verdict looks. */
static const char *const verdict_kinds[QS_N_VERDICTS] = {
    [QS_VERDICT_PASS] = "pass",          [QS_VERDICT_WARN] = "warn",          [QS_VERDICT_REVIEW] = "warn",
    [QS_VERDICT_NOT_EVALUABLE] = "warn", [QS_VERDICT_BASELINE_FAIL] = "warn", [QS_VERDICT_FAIL] = "fail",
};

/* ---- all configurations ---- */

typedef struct column {
    const char *title, *text;
    const char *metric; /* NULL: a figure of the row itself */
    double factor;
    const char *fmt; /* of the value times the factor */
    bool interval;
} column;

static const column columns[] = {
    {"PPL", "perplexity", "ppl", 1, "%.4g", false},
    {"ratio", "perplexity over the reference's, 95 % interval", "ppl_ratio", 1, "%.3f", true},
    {"KLD", "mean KL divergence from the reference, nats", "kld_mean", 1, "%.2g", false},
    {"same token", "positions with the same most probable token, %", "top1_agree", 100, "%.1f", false},
    {"answers", "questions answered rightly, %", "qa_acc", 100, "%.1f", false},
    {"cited", "share of the right sections that citations cover", "cov_cited", 1, "%.3g", false},
    {"JSON", "answers that are the JSON asked for, %", "json_ok", 100, "%.1f", false},
    {"drift", "mean change of distances in meaning", "dS_drift", 1, "%.3g", false},
    {"\xCE\xBB", "runs of a question that converge, share", "lambda_conv", 1, "%.3g", false},
    {"ms/token", "decoding, median", "decode_ms_tok_p50", 1, "%.4g", false},
    {"gain", "decoding time saved against the reference, %", "latency_gain_pct", 1, "%.0f", true},
};
enum { N_COLUMNS = sizeof columns / sizeof *columns };

static void put_value(FILE *stream, const qs_config_row *row, const column *c)
{
    const qs_measure *measure = qs_config_row_find(row, c->metric);
    if (measure == NULL || isnan(measure->estimate.value)) {
        (void)fputs("<td class=\"n\"></td>", stream);
        return;
    }
    const qs_estimate *e = &measure->estimate;
    const char *fmt = e->hi * c->factor >= 1e4 ? "%.3g" : c->fmt; /* a column stays as narrow for what is unusable */
    (void)fprintf(stream, "<td class=\"n\" data-v=\"%.6g\">", e->value * c->factor);
    (void)fprintf(stream, fmt, e->value * c->factor);
    if (c->interval && e->hi > e->lo) {
        (void)fputs(" [", stream);
        (void)fprintf(stream, fmt, e->lo * c->factor);
        (void)fputs(", ", stream);
        (void)fprintf(stream, fmt, e->hi * c->factor);
        (void)fputc(']', stream);
    }
    (void)fputs("</td>", stream);
}

static void put_verdict(FILE *stream, const qs_sweep *sweep, const qs_sweep_config *config)
{
    qs_verdict verdict = qs_judgement_verdict(&config->judgement, sweep->strict);
    bool reference = config->row.reference && verdict != QS_VERDICT_BASELINE_FAIL;
    (void)fprintf(stream, "<td class=\"v %s\">%s%s</td>", reference ? "" : verdict_kinds[verdict],
                  reference ? "reference" : qs_verdict_name(verdict),
                  qs_raced_is_partial(&config->row.raced) ? " *" : "");
}

static bool is_measured(const qs_sweep *sweep, const column *c)
{
    for (int64_t i = 0; i < sweep->n; i++)
        if (!isnan(qs_config_row_value(&sweep->configs[i].row, c->metric))) return true;
    return false;
}

static void put_row(const qs_page *page, int64_t index, const bool *measured)
{
    FILE *stream = page->stream;
    const qs_sweep_config *config = &page->sweep->configs[index];
    const qs_config_row *row = &config->row;
    const qs_selection *selection = page->selection;
    const qs_judgement *judgement = &config->judgement;
    char size[QS_MEM_TEXT_BYTES];
    bool chosen = selection->chosen >= 0 && selection->points[selection->chosen].config == config;
    (void)fprintf(stream, "<tr%s data-method=\"", chosen ? " class=\"chosen\"" : "");
    qs_html_text(stream, row->method);
    (void)fprintf(stream, "\" data-verdict=\"%s\"><td class=\"id\" title=\"",
                  qs_verdict_name(qs_judgement_verdict(judgement, page->sweep->strict)));
    qs_html_text(stream, row->id);
    (void)fputs("\">", stream);
    qs_html_text(stream, row->id);
    (void)fputs("</td>", stream);
    put_verdict(stream, page->sweep, config);
    (void)fprintf(stream, "<td class=\"n\" data-v=\"%lld\">%lld/%lld</td>",
                  (long long)judgement->n_by_verdict[QS_VERDICT_PASS],
                  (long long)judgement->n_by_verdict[QS_VERDICT_PASS], (long long)judgement->n_measured);
    (void)fprintf(stream, "<td class=\"n\" data-v=\"%.6g\">%.2f</td>", row->bpw, row->bpw);
    if (row->bytes > 0)
        (void)fprintf(stream, "<td class=\"n\" data-v=\"%lld\">%s</td>", (long long)row->bytes,
                      qs_mem_format(size, (size_t)row->bytes));
    else (void)fputs("<td class=\"n\"></td>", stream);
    for (int c = 0; c < N_COLUMNS; c++)
        if (measured[c]) put_value(stream, row, &columns[c]);
    (void)fputs("</tr>\n", stream);
}

static const char *filter_text(const qs_sweep *sweep, int64_t i, bool by_method)
{
    const qs_sweep_config *config = &sweep->configs[i];
    return by_method ? config->row.method : qs_verdict_name(qs_judgement_verdict(&config->judgement, sweep->strict));
}

/* Options: the different texts of all rows. */
static void put_filter(const qs_page *page, const char *id, const char *label, bool by_method)
{
    const qs_sweep *sweep = page->sweep;
    (void)fprintf(page->stream, "<label>%s <select id=\"%s\"><option value=\"\">all</option>", label, id);
    for (int64_t i = 0; i < sweep->n; i++) {
        const char *text = filter_text(sweep, i, by_method);
        bool again = false;
        for (int64_t j = 0; j < i && !again; j++) again = strcmp(filter_text(sweep, j, by_method), text) == 0;
        if (again) continue;
        (void)fputs("<option>", page->stream);
        qs_html_text(page->stream, text);
        (void)fputs("</option>", page->stream);
    }
    (void)fputs("</select></label>\n", page->stream);
}

/* What the stars mean. */
static void put_race(const qs_page *page)
{
    qs_sentence text = {0};
    qs_terminal_race(&text, page->sweep);
    if (text.used == 0) return;
    (void)fputs("<p class=\"small\">", page->stream);
    qs_html_text(page->stream, text.text);
    (void)fputs("</p>\n", page->stream);
}

void qs_page_points(const qs_page *page)
{
    FILE *stream = page->stream;
    bool measured[N_COLUMNS];
    for (int c = 0; c < N_COLUMNS; c++) measured[c] = is_measured(page->sweep, &columns[c]);
    qs_page_heading(page, "all", "All points",
                    "Empty: not measured. Gates: passed of those that were measured. BASELINE_FAIL: misses gates that "
                    "the reference misses too; judged by its drift, it passes. A click on a heading sorts.",
                    "summary.csv");
    (void)fputs("<div class=\"tools\">", stream);
    put_filter(page, "by-method", "Method", true);
    put_filter(page, "by-verdict", "Verdict", false);
    (void)fputs("</div>\n<div class=\"wide\">\n<table id=\"points\">\n<thead><tr><th>config</th>"
                "<th>verdict</th><th class=\"n\">gates</th>"
                "<th class=\"n\" title=\"bits per weight\">bpw</th><th class=\"n\" title=\"of the weights\">size</th>",
                stream);
    for (int c = 0; c < N_COLUMNS; c++)
        if (measured[c])
            (void)fprintf(stream, "<th class=\"n\" title=\"%s\">%s</th>", columns[c].text, columns[c].title);
    (void)fputs("</tr></thead>\n<tbody>\n", stream);
    for (int64_t i = 0; i < page->sweep->n; i++) put_row(page, i, measured);
    (void)fputs("</tbody></table>\n</div>\n", stream);
    put_race(page);
    int n_missing = 0;
    for (int c = 0; c < N_COLUMNS; c++) {
        if (measured[c]) continue;
        (void)fprintf(stream, "%s%s", n_missing++ == 0 ? "<p class=\"small\">Not measured here: " : ", ",
                      columns[c].title);
    }
    if (n_missing > 0) (void)fputs(".</p>\n", stream);
}

/* ---- gates ---- */

/* Value, interval and budget on a scale of their own. */
static void put_scale(FILE *stream, const qs_gate *gate)
{
    const qs_estimate *e = &gate->estimate;
    double limit = gate->part->limit, lo = fmin(fmin(e->lo, e->value), limit), hi = fmax(fmax(e->hi, e->value), limit);
    double span = hi - lo;
    if (!(span > 0) || !isfinite(span)) {
        (void)fputs("<td></td>", stream);
        return;
    }
    lo -= 0.06 * span;
    span *= 1.12;
    (void)fprintf(stream,
                  "<td><div class=\"g\"><i style=\"left:%.0f%%;width:%.0f%%\"></i><b style=\"left:%.0f%%\"></b>"
                  "<u style=\"left:%.0f%%\"></u></div></td>",
                  100 * (e->lo - lo) / span, 100 * (e->hi - e->lo) / span, 100 * (e->value - lo) / span,
                  100 * (limit - lo) / span);
}

static void put_gate(FILE *stream, const qs_gate *gate)
{
    const qs_estimate *e = &gate->estimate;
    (void)fputs("<tr><td>", stream);
    qs_html_text(stream, gate->budget->name);
    (void)fprintf(stream, "</td><td class=\"n\">%.4g</td><td class=\"n\">", e->value);
    if (e->hi > e->lo) (void)fprintf(stream, "[%.4g, %.4g]", e->lo, e->hi);
    (void)fputs("</td><td class=\"n\">", stream);
    qs_html_format(stream, "%s %.4g", gate->part->op, gate->part->limit);
    (void)fputs("</td>", stream);
    put_scale(stream, gate);
    (void)fprintf(stream, "<td class=\"v %s\">%s%s</td><td class=\"n\">%lld</td><td>", verdict_kinds[gate->verdict],
                  qs_verdict_name(gate->verdict), gate->decided ? "" : " ?", (long long)e->n);
    qs_html_text(stream, gate->budget->source);
    (void)fputs("</td></tr>\n", stream);
}

static void put_config_gates(const qs_page *page, const qs_sweep_config *config)
{
    FILE *stream = page->stream;
    const qs_judgement *judgement = &config->judgement;
    int64_t n_missing = 0;
    if (judgement->n_gates == 0) return;
    (void)fputs("<details><summary>", stream);
    qs_html_format(stream, "%s: %lld of %lld measured gates passed", config->row.id,
                   (long long)judgement->n_by_verdict[QS_VERDICT_PASS], (long long)judgement->n_measured);
    (void)fputs("</summary>\n", stream);
    if (judgement->n_measured > 0) {
        (void)fputs(
            "<div class=\"wide\"><table><thead><tr><th>gate</th><th class=\"n\">value</th><th class=\"n\">95 %</th>"
            "<th class=\"n\">budget</th><th></th><th>verdict</th><th "
            "class=\"n\">n</th><th>source</th></tr></thead><tbody>\n",
            stream);
        for (int64_t i = 0; i < judgement->n_gates; i++)
            if (judgement->gates[i].verdict != QS_VERDICT_NOT_EVALUABLE) put_gate(stream, &judgement->gates[i]);
        (void)fputs("</tbody></table></div>\n", stream);
    }
    for (int64_t i = 0; i < judgement->n_gates; i++) {
        if (judgement->gates[i].verdict != QS_VERDICT_NOT_EVALUABLE) continue;
        (void)fputs(n_missing++ == 0 ? "<p class=\"small\">Not measured: " : ", ", stream);
        qs_html_text(stream, judgement->gates[i].budget->name);
    }
    if (n_missing > 0) (void)fputs(".</p>\n", stream);
    (void)fputs("</details>\n", stream);
}

void qs_page_gates(const qs_page *page)
{
    qs_page_heading(page, "gates", "Gates",
                    "Each measured gate with its 95 % interval (line), value (dot) and budget (upright bar), on a "
                    "scale of its own. A ? marks a verdict that more samples could change.",
                    "verdicts.csv");
    for (int64_t i = 0; i < page->sweep->n; i++) put_config_gates(page, &page->sweep->configs[i]);
}
