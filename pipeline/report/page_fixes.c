/* Fixes that were tried: what each made of the gates it is meant for, and of the others. */
#include "base/mem.h"
#include "report/fix_table.h"
#include "report/html.h"
#include "report/page_impl.h"

enum { MAX_ROWS = 80 }; /* fixes.csv has all */

typedef struct fixes_page {
    const qs_page *page;
    int64_t n_rows, n_counting; /* those of the table, and of all tried those that count */
} fixes_page;

static void put_change(FILE *stream, const qs_fix_change *c, bool more)
{
    const char *change = qs_fix_improves(c->lower_is_better, c->before, c->after)  ? "better"
                         : qs_fix_worsens(c->lower_is_better, c->before, c->after) ? "worse"
                                                                                   : "as before";
    if (more) (void)fputs("<br>", stream);
    qs_html_format(stream, "%s %.4g \xE2\x86\x92 %.4g (%s)", c->metric, c->before, c->after, change);
}

static bool triggers(const qs_fix_change *c) { return c->missed && c->aimed; }

static void put_changes(FILE *stream, const qs_fix_change *changes, int64_t n, bool aimed)
{
    int64_t n_put = 0, n_same = 0;
    (void)fputs("<td>", stream);
    for (int64_t i = 0; i < n; i++) {
        const qs_fix_change *c = &changes[i];
        bool notable = qs_fix_improves(c->lower_is_better, c->before, c->after) ||
                       qs_fix_worsens(c->lower_is_better, c->before, c->after);
        if (triggers(c) != aimed) continue;
        if (aimed || notable) put_change(stream, c, n_put++ > 0);
        else n_same++;
    }
    if (aimed && n_put == 0) (void)fputs("none", stream);
    if (n_same > 0) (void)fprintf(stream, "%s%lld within 3 %%", n_put > 0 ? "<br>" : "", (long long)n_same);
    (void)fputs("</td>", stream);
}

static void put_row(fixes_page *f, const qs_sweep_config *config, const qs_fix *fix,
                    const qs_fix_change *changes, int64_t n)
{
    FILE *stream = f->page->stream;
    bool counts = qs_fix_counts(changes, n);
    f->n_counting += counts;
    if (f->n_rows++ >= MAX_ROWS) return;
    if (f->n_rows == 1)
        (void)fputs("<div class=\"wide\"><table><thead><tr><th>config</th><th>fix</th><th>counts</th><th>missed gates "
                    "that it is meant for, before \xE2\x86\x92 after</th><th>other gates</th></tr></thead><tbody>\n",
                    stream);
    (void)fputs("<tr><td class=\"id\">", stream);
    qs_html_text(stream, config->row.id);
    (void)fputs("</td><td title=\"", stream);
    qs_html_text(stream, fix->text);
    (void)fputs("\">", stream);
    qs_html_text(stream, fix->name);
    (void)fprintf(stream, "</td><td class=\"v %s\">%s</td>", counts ? "pass" : "", counts ? "yes" : "no");
    put_changes(stream, changes, n, true);
    put_changes(stream, changes, n, false);
    (void)fputs("</tr>\n", stream);
}

/* What cannot be read any more is left out; fixes.csv, written from the same artifacts, would have said so. */
static void put_config(fixes_page *f, const qs_sweep_config *config)
{
    qs_artifact *artifact = NULL;
    qs_fix_change *changes = NULL;
    int64_t n;
    if (qs_artifact_open(&artifact, config->row.path, QS_KIND_EVAL) != QS_OK) return;
    if (qs_artifact_has(artifact, "/fixes") &&
        QS_NEW(changes, config->judgement.n_gates, "changes of gates") == QS_OK)
        for (const qs_fix *fix = qs_fixes; fix->name != NULL; fix++)
            if (qs_fix_changes_read(config, artifact, fix, changes, &n) == QS_OK && n > 0)
                put_row(f, config, fix, changes, n);
    qs_mem_free(changes);
    qs_artifact_close(artifact);
}

void qs_page_fixes(const qs_page *page)
{
    fixes_page f = {.page = page};
    FILE *stream = page->stream;
    qs_page_heading(page, "fixes", "Fixes that were tried",
                    "A fix counts when a gate that it is meant for, and that was missed, gets better by it and no "
                    "other gate gets worse by more than 3 %.",
                    "fixes.csv");
    for (int64_t i = 0; i < page->sweep->n; i++) put_config(&f, &page->sweep->configs[i]);
    if (f.n_rows == 0) {
        (void)fputs("<p>None: <code>qsweep evaluate --fix header-lock,rerank</code> tries these two beside what a "
                    "configuration answers as it is.</p>\n",
                    stream);
        return;
    }
    (void)fputs("</tbody></table></div>\n", stream);
    (void)fprintf(stream, "<p class=\"small\">%lld of %lld count", (long long)f.n_counting,
                  (long long)f.n_rows);
    if (f.n_rows > MAX_ROWS) (void)fprintf(stream, "; the first %d are above", MAX_ROWS);
    (void)fputs(".</p>\n", stream);
}
