/* Times, losses of the layers, and lines as figures. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "model/weights.h"
#include "report/html.h"
#include "report/page_impl.h"
#include "report/svg.h"

/* ---- times ---- */

typedef struct time_column {
    const char *metric, *title, *fmt;
    bool interval;
} time_column;

static const time_column time_columns[] = {
    {"prefill_tok_s", "prompt, tokens/s", "%.0f", false},    {"decode_ms_tok_p50", "ms/token, median", "%.4g", true},
    {"decode_ms_tok_p90", "90th percentile", "%.4g", false}, {"decode_ms_tok_p95", "95th", "%.4g", false},
    {"latency_gain_pct", "gain, %", "%.1f", true},
};
enum { N_TIME_COLUMNS = sizeof time_columns / sizeof *time_columns };

static void put_time(FILE *stream, const qs_config_row *row, const time_column *c)
{
    const qs_measure *measure = qs_config_row_find(row, c->metric);
    (void)fputs("<td class=\"n\">", stream);
    if (measure != NULL && !isnan(measure->estimate.value)) {
        (void)fprintf(stream, c->fmt, measure->estimate.value);
        if (c->interval && measure->estimate.hi > measure->estimate.lo)
            (void)fprintf(stream, " [%.4g, %.4g]", measure->estimate.lo, measure->estimate.hi);
    }
    (void)fputs("</td>", stream);
}

static bool is_timed(const qs_config_row *row) { return qs_config_row_find(row, "decode_ms_tok_p50") != NULL; }

/* How the times of single tokens lie, on one scale for all. */
static void put_spread(const qs_page *page, const qs_config_row *row, double hi)
{
    const double *at = row->decode_ms_spread;
    qs_bar bar = {.value = at[QS_SPREAD_P50], .lo = at[QS_SPREAD_P05], .hi = at[QS_SPREAD_P95],
                  .box_lo = at[QS_SPREAD_P25], .box_hi = at[QS_SPREAD_P75], .limit = NAN};
    qs_page_bar(page, &bar, 0, hi);
}

static void put_times(const qs_page *page)
{
    FILE *stream = page->stream;
    int64_t n = 0;
    double slowest = 0;
    qs_page_heading(
        page, "times", "Times",
        "Batch 1, on packed weights, each configuration in turns with the reference; the gain is of their paired "
        "medians, with its 95 % interval. The bars are the times of single tokens: dot the median, box the middle "
        "half, line from the 5th to the 95th percentile.",
        "latency.csv");
    for (int64_t i = 0; i < page->sweep->n; i++) {
        n += is_timed(&page->sweep->configs[i].row);
        slowest = fmax(slowest, page->sweep->configs[i].row.decode_ms_spread[QS_SPREAD_P95]); /* NaN is ignored */
    }
    if (n == 0) {
        (void)fputs("<p>Nothing was timed.</p>\n", stream);
        return;
    }
    (void)fputs("<div class=\"wide\"><table><thead><tr><th>config</th>", stream);
    for (int c = 0; c < N_TIME_COLUMNS; c++) (void)fprintf(stream, "<th class=\"n\">%s</th>", time_columns[c].title);
    if (slowest > 0) (void)fprintf(stream, "<th class=\"s\"><span>0</span><span>%.3g ms</span></th>", slowest);
    (void)fputs("</tr></thead><tbody>\n", stream);
    for (int64_t i = 0; i < page->sweep->n; i++) {
        const qs_config_row *row = &page->sweep->configs[i].row;
        if (!is_timed(row)) continue;
        (void)fputs("<tr><td class=\"id\">", stream);
        qs_html_text(stream, row->id);
        (void)fputs("</td>", stream);
        for (int c = 0; c < N_TIME_COLUMNS; c++) put_time(stream, row, &time_columns[c]);
        if (slowest > 0) put_spread(page, row, slowest);
        (void)fputs("</tr>\n", stream);
    }
    (void)fputs("</tbody></table></div>\n", stream);
}

/* ---- lines ---- */

void qs_page_lines(const qs_page *page, const qs_page_line *lines, int64_t n_lines, const char *label, qs_axis across,
                   qs_axis up)
{
    qs_figure figure;
    for (int64_t i = 0; i < n_lines; i++) {
        if (lines[i].n > 0) qs_axis_hold(&across, (double)(lines[i].n - 1));
        for (int64_t t = 0; t < lines[i].n; t++) qs_axis_hold(&up, lines[i].y[t]);
    }
    qs_axis_hold(&across, 0);
    if (!qs_axis_close(&up) || !qs_axis_close(&across)) return;
    (void)fputs("<figure>\n", page->stream);
    qs_figure_begin(&figure, page->stream, label, across, up);
    for (int64_t i = 0; i < n_lines; i++)
        qs_figure_line(&figure, 0, 1, lines[i].y, lines[i].n, qs_page_kind(lines[i].row->method), lines[i].row->id);
    qs_figure_end(&figure);
    (void)fputs("</figure>\n", page->stream);
}

void qs_page_lines_end(const qs_page *page)
{
    (void)fputs("</div>\n<p class=\"small\">Colours are those of the methods above, the heavy line is the reference; "
                "the pointer on a line names it.</p>\n",
                page->stream);
}

void qs_page_lines_free(qs_page_line *lines, int64_t n)
{
    for (int64_t i = 0; i < n; i++) qs_mem_free(lines[i].y);
}

/* Mean of a layer's losses, on a logarithmic axis. */
static void put_layers(const qs_page *page)
{
    qs_page_line lines[QS_PAGE_LINES];
    int64_t n = 0;
    qs_page_heading(
        page, "layers", "Layers",
        "Share of the linears' output that is error on the calibration text, mean over the matrices of a layer.",
        "layers.csv");
    for (int64_t i = 0; i < page->sweep->n && n < QS_PAGE_LINES; i++) {
        const qs_config_row *row = &page->sweep->configs[i].row;
        if (row->loss == NULL || row->n_layers < 2) continue;
        qs_page_line *l = &lines[n];
        *l = (qs_page_line){.row = row, .n = row->n_layers};
        if (QS_NEW(l->y, l->n, "losses of layers") != QS_OK) continue;
        for (int64_t layer = 0; layer < l->n; layer++)
            for (int role = 0; role < QS_N_LINEARS; role++)
                l->y[layer] += row->loss[layer * QS_N_LINEARS + role] / QS_N_LINEARS;
        n++;
    }
    if (n == 0) {
        (void)fputs("<p>No losses are on record.</p>\n", page->stream);
        return;
    }
    (void)fputs("<div class=\"figures\">\n", page->stream);
    qs_page_lines(page, lines, n, "loss of each layer", qs_axis_open("layer", false), qs_axis_open("loss", true));
    qs_page_lines_end(page);
    qs_page_lines_free(lines, n);
}

void qs_page_curves(const qs_page *page)
{
    put_times(page);
    qs_page_entropy(page);
    put_layers(page);
}
