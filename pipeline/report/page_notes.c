/* What is wrong and what to run next; controls, environment, and how to read the numbers. */
#include <math.h>
#include <string.h>

#include "report/diagnose.h"
#include "report/html.h"
#include "report/page_impl.h"
#include "report/terminal.h"

/* ---- diagnosis ---- */

static void put_rule(const qs_page *page, const qs_sweep_config *config, const qs_rule *rule)
{
    FILE *stream = page->stream;
    qs_sentence evidence = {0}, next = {0};
    char row[32], link[256];
    qs_diagnosis_row(rule, config->row.method, row, sizeof row);
    qs_diagnosis_evidence(&evidence, page->sweep, config, rule);
    qs_diagnosis_next(&next, config, rule);
    (void)fputs("<p><b>", stream);
    qs_html_format(stream, "%s (%s).", rule->symptom, row);
    (void)fputs("</b> ", stream);
    qs_html_format(stream, "Seen: %s. Likely cause: %s. Fix: %s.", evidence.text, rule->cause, rule->fix);
    for (int i = 0; qs_rule_page(rule, i, link, sizeof link); i++) {
        (void)fputs(i == 0 ? " <span class=\"small\">(" : " ", stream);
        (void)fputs("<a href=\"", stream);
        qs_html_text(stream, link);
        (void)fprintf(stream, "\">page %d</a>", i + 1);
    }
    if (rule->pages != NULL) (void)fputs(")</span>", stream);
    (void)fputs("</p>\n<pre>", stream);
    qs_html_text(stream, next.text);
    (void)fputs("</pre>\n", stream);
}

void qs_page_diagnosis(const qs_page *page)
{
    const qs_sweep *sweep = page->sweep;
    int64_t n = 0;
    qs_page_heading(
        page, "why", "What is wrong, and what to run next",
        "Of configurations that fail, and of the system where the reference itself misses gates; the first symptom is "
        "the likeliest, others may follow from it.",
        "diagnosis.csv");
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_sweep_config *config = &sweep->configs[i];
        const qs_rule *rules[QS_RULES_MAX];
        qs_sentence failure = {0};
        int n_rules = qs_diagnosis_wanted(config) ? qs_diagnose(sweep, config, rules) : 0;
        if (n_rules == 0) continue;
        n++;
        (void)fputs("<details><summary>", page->stream);
        qs_html_format(page->stream, "%s: %s", config->row.id, rules[0]->symptom);
        if (n_rules > 1) (void)fprintf(page->stream, ", and %d more", n_rules - 1);
        (void)fputs("</summary>\n", page->stream);
        qs_terminal_failure(&failure, config);
        if (failure.used > 0) {
            (void)fputs("<p>", page->stream);
            qs_html_text(page->stream, failure.text);
            (void)fputs("</p>\n", page->stream);
        }
        for (int r = 0; r < n_rules; r++) put_rule(page, config, rules[r]);
        (void)fputs("</details>\n", page->stream);
    }
    if (n == 0) (void)fputs("<p>Nothing.</p>\n", page->stream);
    (void)fputs("<p class=\"small\">Answers one by one: "
                "<a href=\"items.csv\">items.csv</a>; retrievals: <a href=\"trace.jsonl\">trace.jsonl</a>.</p>\n",
                page->stream);
}

/* ---- controls and environment ---- */

static void put_controls(const qs_page *page)
{
    const qs_control *controls = page->controls;
    qs_page_heading(page, "controls", "Controls",
                    "What must come out in a certain way whatever the model is.", "metrics.csv");
    (void)fputs("<div class=\"wide\"><table><tbody>\n", page->stream);
    for (int i = 0; i < QS_N_CONTROLS; i++) {
        const char *kind = controls[i].status == QS_CONTROL_OK       ? "pass"
                           : controls[i].status == QS_CONTROL_FAILED ? "fail"
                                                                     : "warn";
        (void)fprintf(page->stream, "<tr><td>%s</td><td class=\"v %s\">%s</td><td>", controls[i].name, kind,
                      qs_control_status_name(controls[i].status));
        qs_html_text(page->stream, controls[i].text);
        (void)fputs("</td></tr>\n", page->stream);
    }
    (void)fputs("</tbody></table></div>\n", page->stream);
}

static bool same_environment(const qs_config_row *a, const qs_config_row *b)
{
    return strcmp(a->backend, b->backend) == 0 && strcmp(a->device, b->device) == 0 &&
           strcmp(a->kernel, b->kernel) == 0 && strcmp(a->build, b->build) == 0 && a->n_threads == b->n_threads;
}

static void put_environment(const qs_page *page)
{
    const qs_sweep *sweep = page->sweep;
    FILE *stream = page->stream;
    char digest[QS_DIGEST_TEXT_BYTES];
    qs_page_heading(page, "environment", "Environment and provenance",
                    "Where it was measured, from which files, by which command.", NULL);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        bool again = false;
        for (int64_t j = 0; j < i && !again; j++) again = same_environment(&sweep->configs[j].row, row);
        if (again) continue;
        (void)fputs("<p>", stream);
        qs_html_format(stream, "From %s on: backend %s, %s, %lld threads; kernels %s; build %s.", row->id,
                       row->backend[0] != '\0' ? row->backend : "not recorded",
                       row->device[0] != '\0' ? row->device : "not timed", (long long)row->n_threads,
                       row->kernel[0] != '\0' ? row->kernel : "not recorded",
                       row->build[0] != '\0' ? row->build : "not recorded");
        (void)fputs("</p>\n", stream);
    }
    (void)fputs("<details><summary>Files and commands</summary>\n", stream);
    for (int64_t i = 0; i < sweep->n; i++) {
        const qs_config_row *row = &sweep->configs[i].row;
        (void)fputs("<p class=\"small\">", stream);
        qs_html_format(stream, "%s: %s, digest %s", row->id, row->path, qs_digest_format(digest, row->digest));
        (void)fputs("</p>\n", stream);
        if (row->command == NULL) continue;
        (void)fputs("<pre>", stream);
        qs_html_text(stream, row->command);
        (void)fputs("</pre>\n", stream);
    }
    (void)fputs("</details>\n", stream);
}

/* Metrics that some configuration has. */
static void put_reading(const qs_page *page)
{
    static const char *const better[] = {
        [QS_BETTER_LOWER] = "lower is better", [QS_BETTER_HIGHER] = "higher is better", [QS_BETTER_NONE] = ""};
    FILE *stream = page->stream;
    qs_page_heading(page, "reading", "How to read each number", "What was measured here.", NULL);
    (void)fputs("<details><summary>Metrics</summary>\n<div class=\"wide\"><table><tbody>\n", stream);
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++) {
        bool measured = false;
        for (int64_t i = 0; i < page->sweep->n && !measured; i++)
            measured = qs_config_row_find(&page->sweep->configs[i].row, metric->name) != NULL;
        if (!measured) continue;
        (void)fprintf(stream, "<tr><td><code>%s</code></td><td>%s</td><td>%s</td><td>", metric->name, metric->unit,
                      better[metric->better]);
        qs_html_text(stream, metric->text);
        (void)fputs("</td></tr>\n", stream);
    }
    (void)fputs(
        "</tbody></table></div></details>\n"
        "<p class=\"small\">Intervals are 95 %, by resampling of windows or questions. PASS, WARN, REVIEW, FAIL: the "
        "value against its budget; BASELINE_FAIL: missed, and the reference misses it too, so that quantisation is not "
        "the cause.</p>\n",
        stream);
}

void qs_page_provenance(const qs_page *page)
{
    put_controls(page);
    put_environment(page);
    put_reading(page);
}
