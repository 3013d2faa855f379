/* Quality against cost, and bits x group size. */
#include <math.h>
#include <string.h>

#include "report/html.h"
#include "report/page_impl.h"
#include "report/svg.h"

/* ---- Pareto plots ---- */

typedef struct plot {
    const char *metric; /* NULL: bits per weight */
    const char *title;
    double factor;
} plot;

static const plot plots[] = {
    {NULL, "bits per weight", 1},
    {"decode_ms_tok_p50", "decoding, ms per token (median)", 1},
    {"mem_peak", "peak memory, MiB", 1.0 / (1 << 20)},
};

/* What stands for quality: the first that most points have. */
static const plot qualities[] = {{"kld_mean", "mean KL divergence, nats", 1},
                                 {"ppl_ratio", "perplexity over the reference's", 1}};

static double value_of(const plot *p, const qs_config_row *row)
{
    return p->metric == NULL ? row->bpw : qs_config_row_value(row, p->metric) * p->factor;
}

static const plot *choose_quality(const qs_sweep *sweep)
{
    int64_t n = 0;
    for (int64_t i = 0; i < sweep->n; i++)
        n += !sweep->configs[i].row.reference && qs_config_row_value(&sweep->configs[i].row, "kld_mean") > 0;
    return n > 0 ? &qualities[0] : &qualities[1];
}

static void put_key(const qs_page *page)
{
    const qs_sweep *sweep = page->sweep;
    (void)fputs("<p class=\"key small\">", page->stream);
    for (int64_t i = 0; i < sweep->n; i++) {
        const char *method = sweep->configs[i].row.method;
        bool again = false;
        for (int64_t j = 0; j < i && !again; j++) again = strcmp(sweep->configs[j].row.method, method) == 0;
        if (again) continue;
        (void)fprintf(page->stream, "<span class=\"%s\"><i></i>", qs_page_kind(method));
        qs_html_text(page->stream, method);
        (void)fputs("</span>", page->stream);
    }
    (void)fputs("a ring: no other passing point is as good in every cost and better in one (<a "
                "href=\"pareto.csv\">pareto.csv</a>)</p>\n", page->stream);
}

static bool on_front(const qs_selection *selection, const qs_sweep_config *config)
{
    for (int64_t i = 0; i < selection->n; i++)
        if (selection->points[i].config == config) return selection->front[i].on_front;
    return false;
}

static void put_plot(const qs_page *page, const plot *x, const plot *y)
{
    const qs_sweep *sweep = page->sweep;
    qs_axis across = qs_axis_open(x->title, false), up = qs_axis_open(y->title, true);
    qs_figure figure;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        double quality = value_of(y, row), cost = value_of(x, row);
        if (row->reference || !(quality > 0) || isnan(cost)) continue;
        qs_axis_hold(&across, cost);
        qs_axis_hold(&up, quality);
    }
    if (!qs_axis_close(&across) || !qs_axis_close(&up)) return;
    (void)fputs("<figure>\n", page->stream);
    qs_figure_begin(&figure, page->stream, y->title, across, up);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        qs_sentence title = {0};
        if (row->reference) continue;
        qs_sentence_add(&title, "%s: %.4g, %.4g", row->id, value_of(x, row), value_of(y, row));
        qs_figure_point(&figure, value_of(x, row), value_of(y, row), qs_page_kind(row->method),
                        on_front(page->selection, &sweep->configs[i]), title.text);
    }
    qs_figure_end(&figure);
    (void)fputs("</figure>\n", page->stream);
}

/* ---- bits x group ---- */

enum { MAX_SIDES = 16 };

static int64_t add_side(int64_t *sides, int64_t n, int64_t value)
{
    for (int64_t i = 0; i < n; i++)
        if (sides[i] == value) return n;
    if (n == MAX_SIDES) return n;
    int64_t at = n;
    for (; at > 0 && sides[at - 1] > value; at--) sides[at] = sides[at - 1];
    sides[at] = value;
    return n + 1;
}

/* The best of a cell's variants, or NULL. */
static const qs_config_row *best_of(const qs_sweep *sweep, const char *method, int64_t bits, int64_t group,
                                    const plot *quality)
{
    const qs_config_row *best = NULL;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        double value = value_of(quality, row);
        if (strcmp(row->method, method) != 0 || row->bits != bits || row->group_size != group || isnan(value)) continue;
        if (best == NULL || value < value_of(quality, best)) best = row;
    }
    return best;
}

static void put_cell(const qs_page *page, const qs_config_row *row, const plot *quality, double low, double high)
{
    if (row == NULL) {
        (void)fputs("<td class=\"n\"></td>", page->stream);
        return;
    }
    double value = value_of(quality, row);
    double share = high > low && value > 0 ? log(value / low) / log(high / low) : 0;
    (void)fprintf(page->stream, "<td class=\"n\" style=\"background:hsl(%.0f 65%% 76%%)\" title=\"", 130 - 130 * share);
    qs_html_text(page->stream, row->id);
    (void)fprintf(page->stream, "\">%.3g</td>", value);
}

static void put_heat(const qs_page *page, const char *method, const plot *quality)
{
    const qs_sweep *sweep = page->sweep;
    int64_t bits[MAX_SIDES], groups[MAX_SIDES], n_bits = 0, n_groups = 0;
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        double value = value_of(quality, row);
        if (strcmp(row->method, method) != 0 || row->bits <= 0 || !(value > 0)) continue;
        n_bits = add_side(bits, n_bits, row->bits);
        n_groups = add_side(groups, n_groups, row->group_size);
        low = fmin(low, value);
        high = fmax(high, value);
    }
    if (n_bits * n_groups < 2) return;
    (void)fputs("<div><h3>", page->stream);
    qs_html_text(page->stream, method);
    (void)fputs("</h3>\n<div class=\"wide\"><table class=\"heat\"><thead><tr><th>bits</th>", page->stream);
    for (int64_t g = 0; g < n_groups; g++)
        (void)fprintf(page->stream, groups[g] < 0 ? "<th class=\"n\">row</th>" : "<th class=\"n\">g %lld</th>",
                      (long long)groups[g]);
    (void)fputs("</tr></thead><tbody>\n", page->stream);
    for (int64_t b = 0; b < n_bits; b++) {
        (void)fprintf(page->stream, "<tr><th>%lld</th>", (long long)bits[b]);
        for (int64_t g = 0; g < n_groups; g++)
            put_cell(page, best_of(sweep, method, bits[b], groups[g], quality), quality, low, high);
        (void)fputs("</tr>\n", page->stream);
    }
    (void)fputs("</tbody></table></div></div>\n", page->stream);
}

void qs_page_figures(const qs_page *page)
{
    const qs_sweep *sweep = page->sweep;
    const plot *quality = choose_quality(sweep);
    qs_page_heading(page, "trade", "Quality and cost",
                    "Lower and further left is better; the pointer on a dot names it.", "summary.csv");
    put_key(page);
    (void)fputs("<div class=\"figures\">\n", page->stream);
    for (size_t i = 0; i < sizeof plots / sizeof *plots; i++) put_plot(page, &plots[i], quality);
    (void)fputs("</div>\n", page->stream);
    (void)fputs("<p class=\"small\">Bits by group size: ", page->stream);
    qs_html_text(page->stream, quality->title);
    (void)fputs(", the best variant of each (<a href=\"summary.csv\">summary.csv</a>); methods with one point have no "
                "table.</p>\n"
                "<div class=\"figures\">\n",
                page->stream);
    for (int64_t i = 0; i < sweep->n; i++) {
        bool again = false;
        for (int64_t j = 0; j < i && !again; j++)
            again = strcmp(sweep->configs[j].row.method, sweep->configs[i].row.method) == 0;
        if (!again && !sweep->configs[i].row.reference) put_heat(page, sweep->configs[i].row.method, quality);
    }
    (void)fputs("</div>\n", page->stream);
}
