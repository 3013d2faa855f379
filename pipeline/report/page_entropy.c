/* Entropy along held-out text, long texts and the answers to paraphrases. */
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "metric/entropy_curve.h"
#include "metric/long_runs.h"
#include "metric/wording_entropy.h"
#include "report/html.h"
#include "report/page_impl.h"
#include "report/text_entropy.h"

/* ---- curves: *mean [*n] is freed by the caller; NULL where the artifact holds none ---- */

static qs_err text_curve(const qs_artifact *artifact, double **mean, int64_t *n)
{
    return qs_text_entropy(artifact, mean, n);
}

/* Mean over the reference's long texts, which every configuration is forced along. */
static qs_err long_curve(const qs_artifact *artifact, double **mean, int64_t *n)
{
    qs_long_runs runs = {0};
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/longform/tokens")) return QS_OK;
    QS_TRY(qs_long_read(&runs, artifact));
    QS_TRY(QS_NEW(*mean, runs.n_steps, "a mean curve"));
    for (int64_t i = 0; i < runs.n * runs.n_steps; i++)
        (*mean)[i % runs.n_steps] += (double)runs.entropy[i] / (double)runs.n;
    *n = runs.n_steps;
out:
    qs_long_free(&runs);
    return err;
}

static qs_err wording_curve(const qs_artifact *artifact, int64_t wording, double **mean, int64_t *n)
{
    qs_wordings wordings = {0};
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/wordings/tokens")) return QS_OK;
    QS_TRY(qs_wordings_read(&wordings, artifact));
    QS_TRY(QS_NEW(*mean, wordings.n_steps, "a mean curve"));
    *n = qs_wordings_reach(&wordings, wording);
    qs_wordings_curve(&wordings, wordings.n_prompts / QS_WORDINGS, wording, NULL, *n, *mean);
out:
    qs_wordings_free(&wordings);
    return err;
}
static qs_err first_curve(const qs_artifact *artifact, double **mean, int64_t *n)
{
    return wording_curve(artifact, 1, mean, n);
}
static qs_err second_curve(const qs_artifact *artifact, double **mean, int64_t *n)
{
    return wording_curve(artifact, 2, mean, n);
}
static qs_err third_curve(const qs_artifact *artifact, double **mean, int64_t *n)
{
    return wording_curve(artifact, 3, mean, n);
}

typedef struct source {
    const char *label, *across;
    qs_err (*curve)(const qs_artifact *artifact, double **mean, int64_t *n);
} source;

static const source sources[] = {
    {"entropy along held-out text", "held-out text: position in the window", text_curve},
    {"entropy along the reference's long texts", "the reference's long texts: token", long_curve},
    {"entropy along answers to the first paraphrases", "answers to first paraphrases: token", first_curve},
    {"entropy along answers to the second paraphrases", "answers to second paraphrases: token", second_curve},
    {"entropy along answers to the third paraphrases", "answers to third paraphrases: token", third_curve},
};

/* An artifact that has gone since the sweep was read, or holds no such entropies, makes no line. */
static bool make_line(qs_page_line *out, const qs_config_row *row, const source *s)
{
    qs_artifact *artifact;
    double *mean = NULL;
    *out = (qs_page_line){.row = row};
    if (qs_artifact_open(&artifact, row->path, QS_KIND_EVAL) != QS_OK) return false;
    if (s->curve(artifact, &mean, &out->n) == QS_OK && out->n > 0 &&
        QS_NEW(out->y, out->n, "a curve") == QS_OK)
        qs_curve_smooth(mean, out->n, qs_curve_width(out->n), out->y);
    qs_mem_free(mean);
    qs_artifact_close(artifact);
    return out->y != NULL;
}

/* The recommended one, and the others in their order, of which the reference is the first. */
static int64_t choose(const qs_page *page, const qs_config_row *rows[QS_PAGE_LINES])
{
    const qs_selection *selection = page->selection;
    const qs_config_row *chosen = selection->chosen >= 0 ? &selection->points[selection->chosen].config->row
                                                         : NULL;
    int64_t n = 0;
    if (chosen != NULL) rows[n++] = chosen;
    for (int64_t i = 0; i < page->sweep->n && n < QS_PAGE_LINES; i++)
        if (&page->sweep->configs[i].row != chosen) rows[n++] = &page->sweep->configs[i].row;
    return n;
}

static bool put_source(const qs_page *page, const qs_config_row *const *rows, int64_t n_rows, const source *s)
{
    qs_page_line lines[QS_PAGE_LINES];
    int64_t n = 0;
    for (int64_t i = 0; i < n_rows; i++)
        if (make_line(&lines[n], rows[i], s)) n++;
    if (n > 0)
        qs_page_lines(page, lines, n, s->label, qs_axis_open(s->across, false),
                      qs_axis_open("entropy, nats", false));
    qs_page_lines_free(lines, n);
    return n > 0;
}

/* ---- table ---- */

static const char *const metrics[] = {"entropy_stable",
                                      "entropy_rms",
                                      "entropy_stable_64",
                                      "entropy_stable_128",
                                      "entropy_stable_256",
                                      "entropy_stable_512",
                                      "entropy_paraphrases",
                                      "entropy_paraphrase_1",
                                      "entropy_paraphrase_2",
                                      "entropy_paraphrase_3",
                                      "first_divergence_step",
                                      "kld_cumulative",
                                      "mttf",
                                      "mttf_margin",
                                      "e_resonance_drift",
                                      "lambda_step_conv"};
enum { N_METRICS = sizeof metrics / sizeof *metrics };

static bool is_measured(const qs_sweep *sweep, const char *metric)
{
    for (int64_t i = 0; i < sweep->n; i++)
        if (qs_config_row_find(&sweep->configs[i].row, metric) != NULL) return true;
    return false;
}

static void put_entropy_table(const qs_page *page)
{
    FILE *stream = page->stream;
    bool measured[N_METRICS], any = false;
    for (int m = 0; m < N_METRICS; m++) any = (measured[m] = is_measured(page->sweep, metrics[m])) || any;
    if (!any) return;
    (void)fputs("<p class=\"small\">Whether curves are stable (1), in all, along the first "
                "tokens of long texts, and paraphrase by paraphrase; where long texts part from the reference's, and "
                "how long they hold together: <a href=\"metrics.csv\">metrics.csv</a>; what each column means is <a "
                "href=\"#reading\">below</a>.</p>\n",
                stream);
    (void)fputs("<div class=\"wide\"><table><thead><tr><th>config</th>", stream);
    for (int m = 0; m < N_METRICS; m++)
        if (measured[m]) (void)fprintf(stream, "<th class=\"n\">%s</th>", metrics[m]);
    (void)fputs("</tr></thead><tbody>\n", stream);
    for (int64_t i = 0; i < page->sweep->n; i++) {
        const qs_config_row *row = &page->sweep->configs[i].row;
        (void)fputs("<tr><td class=\"id\">", stream);
        qs_html_text(stream, row->id);
        (void)fputs("</td>", stream);
        for (int m = 0; m < N_METRICS; m++) {
            if (!measured[m]) continue;
            double value = qs_config_row_value(row, metrics[m]);
            (void)fputs("<td class=\"n\">", stream);
            if (!isnan(value)) qs_html_number(stream, value, 4);
            (void)fputs("</td>", stream);
        }
        (void)fputs("</tr>\n", stream);
    }
    (void)fputs("</tbody></table></div>\n", stream);
}

void qs_page_entropy(const qs_page *page)
{
    const qs_config_row *rows[QS_PAGE_LINES];
    int64_t n_rows = choose(page, rows);
    bool any = false;
    qs_page_heading(page, "entropy", "Entropy",
                    "How unsure a configuration is of the next token, step by step: mean over windows, texts or "
                    "questions, smoothed.",
                    "entropy.csv");
    if (page->sweep->n > QS_PAGE_LINES)
        (void)fprintf(page->stream,
                      "<p class=\"small\">The figures show %d of %lld configurations, the recommended one "
                      "among them.</p>\n",
                      QS_PAGE_LINES, (long long)page->sweep->n);
    (void)fputs("<div class=\"figures\">\n", page->stream);
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++)
        any = put_source(page, rows, n_rows, &sources[i]) || any;
    if (any) qs_page_lines_end(page);
    else (void)fputs("</div>\n<p>No entropies were measured (--tasks entropy).</p>\n", page->stream);
    put_entropy_table(page);
}
