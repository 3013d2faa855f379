/* Figures of configurations as bars on one scale, a row each: the anchor gap. */
#include <math.h>

#include "report/html.h"
#include "report/page_impl.h"

void qs_page_bar(const qs_page *page, const qs_bar *bar, double lo, double hi)
{
    FILE *stream = page->stream;
    double span = hi - lo;
    if (!(span > 0) || !isfinite(span) || !isfinite(bar->value)) {
        (void)fputs("<td></td>", stream);
        return;
    }
    (void)fputs("<td><div class=\"g w\">", stream);
    if (bar->hi >= bar->lo)
        (void)fprintf(stream, "<i style=\"left:%.1f%%;width:%.1f%%\"></i>", 100 * (bar->lo - lo) / span,
                      100 * (bar->hi - bar->lo) / span);
    if (bar->box_hi > bar->box_lo)
        (void)fprintf(stream, "<em style=\"left:%.1f%%;width:%.1f%%\"></em>", 100 * (bar->box_lo - lo) / span,
                      100 * (bar->box_hi - bar->box_lo) / span);
    (void)fprintf(stream, "<b style=\"left:%.1f%%\"></b>", 100 * (bar->value - lo) / span);
    if (isfinite(bar->limit) && bar->limit >= lo && bar->limit <= hi)
        (void)fprintf(stream, "<u style=\"left:%.1f%%\"></u>", 100 * (bar->limit - lo) / span);
    (void)fputs("</div></td>", stream);
}

/* Below it boundaries between sections are flattened (anchor_gap; docs/columns.md). */
static const double anchor_gap_min = 0.05;

void qs_page_gaps(const qs_page *page)
{
    static const char metric[] = "anchor_gap";
    FILE *stream = page->stream;
    double lo = 0, hi = anchor_gap_min;
    int64_t n = 0;
    qs_page_heading(page, "gap", "Anchor gap",
                    "How much farther what was retrieved is from the nearest wrong section than from the right one, "
                    "with its 95 % interval; at 0.05 (upright bar) and below, boundaries between sections are "
                    "flattened. Where the reference's own gap is that small, blame encoder or gold set, not "
                    "quantisation.",
                    "metrics.csv");
    for (int64_t i = 0; i < page->sweep->n; i++) {
        const qs_measure *m = qs_config_row_find(&page->sweep->configs[i].row, metric);
        if (m == NULL || isnan(m->estimate.value)) continue;
        n++;
        lo = fmin(lo, fmin(m->estimate.lo, m->estimate.value));
        hi = fmax(hi, fmax(m->estimate.hi, m->estimate.value));
    }
    if (n == 0) {
        (void)fputs("<p>Not measured here: <code>qsweep evaluate --qa DIR --tasks semantic</code> measures it.</p>\n",
                    stream);
        return;
    }
    (void)fputs("<div class=\"wide\"><table><thead><tr><th>config</th><th class=\"n\">gap</th><th "
                "class=\"n\">95 %</th>",
                stream);
    (void)fprintf(stream, "<th class=\"s\"><span>%.3g</span><span>%.3g</span></th></tr></thead><tbody>\n", lo,
                  hi);
    for (int64_t i = 0; i < page->sweep->n; i++) {
        const qs_config_row *row = &page->sweep->configs[i].row;
        const qs_measure *m = qs_config_row_find(row, metric);
        if (m == NULL || isnan(m->estimate.value)) continue;
        const qs_estimate *e = &m->estimate;
        qs_bar bar = {.value = e->value, .lo = e->lo, .hi = e->hi, .limit = anchor_gap_min};
        (void)fputs("<tr><td class=\"id\">", stream);
        qs_html_text(stream, row->id);
        (void)fprintf(stream, "</td><td class=\"n\">%.3g</td><td class=\"n\">", e->value);
        if (e->hi > e->lo) (void)fprintf(stream, "[%.3g, %.3g]", e->lo, e->hi);
        (void)fputs("</td>", stream);
        qs_page_bar(page, &bar, lo, hi);
        (void)fputs("</tr>\n", stream);
    }
    (void)fputs("</tbody></table></div>\n", stream);
}
