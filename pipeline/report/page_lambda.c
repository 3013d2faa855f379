/* λ run by run: the states of a few configurations beside the reference's, and the probe over k and headers. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "report/html.h"
#include "report/lambda_states.h"
#include "report/page_impl.h"

/* More than these cannot be taken in at once; items.csv has all. */
enum { MAX_SHOWN = 6, MAX_QUESTIONS = 24, MAX_PROBED = 12 };

typedef struct shown {
    const qs_sweep_config *config;
    qs_lambda_states states;
    int64_t counts[QS_N_LAMBDAS], n_runs, n_changed; /* over all items; changed: not the reference's state */
} shown;

typedef struct lambda_page {
    const qs_page *page;
    bool paired; /* the first of those shown is the reference */
    int64_t n, n_items;
    shown all[MAX_SHOWN];
} lambda_page;

/* ---- which ---- */

/* From what tells most: the reference, the recommended one, those that fail, each by how far its states are
 * from the reference's. */
static int rank_of(const qs_page *page, const qs_sweep_config *config)
{
    const qs_selection *selection = page->selection;
    if (config->row.reference) return 0;
    if (selection->chosen >= 0 && selection->points[selection->chosen].config == config) return 1;
    return config->judgement.n_by_verdict[QS_VERDICT_FAIL] > 0 ? 2 : 3;
}

static bool comes_first(const qs_page *page, const qs_sweep_config *a, const qs_sweep_config *b)
{
    int x = rank_of(page, a), y = rank_of(page, b);
    if (x != y) return x < y;
    double p = qs_config_row_value(&a->row, "lambda_agree"), q = qs_config_row_value(&b->row, "lambda_agree");
    return !isnan(p) && (isnan(q) || p < q);
}

/* list [MAX_SHOWN]: configurations that have λ, the first of that order. */
static int64_t choose(const qs_page *page, const qs_sweep_config **list)
{
    int64_t n = 0;
    for (int64_t i = 0; i < page->sweep->n; i++) {
        const qs_sweep_config *config = &page->sweep->configs[i];
        if (qs_config_row_find(&config->row, "lambda_conv") == NULL) continue;
        int64_t at = n < MAX_SHOWN ? n++ : MAX_SHOWN - 1;
        if (at == MAX_SHOWN - 1 && n == MAX_SHOWN && list[at] != NULL && !comes_first(page, config, list[at]))
            continue;
        for (; at > 0 && comes_first(page, config, list[at - 1]); at--) list[at] = list[at - 1];
        list[at] = config;
    }
    return n;
}

static bool same_items(const qs_lambda_states *a, const qs_lambda_states *b)
{
    if (a->n_items != b->n_items) return false;
    for (int64_t i = 0; i < a->n_items; i++)
        if (strcmp(a->qids.lines[i], b->qids.lines[i]) != 0) return false;
    return true;
}

static void count_states(shown *s, const shown *reference)
{
    for (int64_t i = 0; i < s->states.n_items * QS_LAMBDA_RUNS; i++) {
        int32_t state = s->states.runs[i];
        if (state < 0) continue;
        s->n_runs++;
        s->counts[state]++;
        s->n_changed += reference != NULL && state != reference->states.runs[i];
    }
}

/* What cannot be read any more, or is of other items than the first, is left out. */
static void load(lambda_page *l)
{
    const qs_sweep_config *list[MAX_SHOWN] = {NULL};
    int64_t n = choose(l->page, list);
    for (int64_t i = 0; i < n; i++) {
        shown *s = &l->all[l->n];
        qs_artifact *artifact;
        *s = (shown){.config = list[i]};
        if (qs_artifact_open(&artifact, list[i]->row.path, QS_KIND_EVAL) != QS_OK) continue;
        qs_err err = qs_lambda_states_read(&s->states, artifact);
        qs_artifact_close(artifact);
        bool usable = err == QS_OK && s->states.n_items > 0 &&
                      (l->n == 0 || same_items(&s->states, &l->all[0].states));
        if (!usable) {
            qs_lambda_states_free(&s->states);
            continue;
        }
        if (l->n++ == 0) l->paired = list[i]->row.reference;
        count_states(s, l->paired ? &l->all[0] : NULL);
    }
    l->n_items = l->n > 0 ? l->all[0].states.n_items : 0;
}

/* ---- cells ---- */

static const char *const glyphs[QS_N_LAMBDAS] = {[QS_LAMBDA_CONVERGENT] = "\xE2\x86\x92",
                                                 [QS_LAMBDA_RECURSIVE] = "\xE2\x97\x87",
                                                 [QS_LAMBDA_DIVERGENT] = "\xE2\x86\x90",
                                                 [QS_LAMBDA_CHAOTIC] = "\xC3\x97"};

/* `other` is what it is held against, -1 = nothing; the first of a group of cells has a line on its left. */
static void put_state(FILE *stream, int32_t state, int32_t other, bool first)
{
    if (state < 0) {
        (void)fprintf(stream, "<td%s></td>", first ? " class=\"f\"" : "");
        return;
    }
    (void)fprintf(stream, "<td class=\"l%d%s%s\">%s</td>", state, other >= 0 && other != state ? " d" : "",
                  first ? " f" : "", glyphs[state]);
}

static void put_legend(const lambda_page *l)
{
    static const char *const texts[QS_N_LAMBDAS] = {
        [QS_LAMBDA_CONVERGENT] =
            "convergent: cites the right snippet, and the answer agrees with the other runs'",
        [QS_LAMBDA_RECURSIVE] =
            "recursive: cites the wrong snippet with the others, or the right one with another answer",
        [QS_LAMBDA_DIVERGENT] = "divergent: no answer that could be read, or no citation",
        [QS_LAMBDA_CHAOTIC] = "chaotic: cites what no other run cites, or numbers broke down"};
    FILE *stream = l->page->stream;
    (void)fputs("<ul class=\"states small\">", stream);
    for (int state = 0; state < QS_N_LAMBDAS; state++)
        (void)fprintf(stream, "<li><b class=\"l%d\">%s</b> %s</li>\n", state, glyphs[state], texts[state]);
    (void)fprintf(stream, "<li><b class=\"l0 d\">%s</b> framed: not the state of %s</li></ul>\n", glyphs[0],
                  l->paired
                      ? "the reference in the same run, or, in the probe, of the canonical headers with the same k"
                      : "the canonical headers with the same k");
}

/* ---- runs ---- */

static void put_counts(const lambda_page *l)
{
    FILE *stream = l->page->stream;
    (void)fputs("<div class=\"wide\"><table><thead><tr><th>config</th><th class=\"n\">runs</th>", stream);
    for (int state = 0; state < QS_N_LAMBDAS; state++)
        (void)fprintf(stream, "<th class=\"n\">%s %s</th>", glyphs[state], qs_lambda_name((qs_lambda)state));
    if (l->paired) (void)fputs("<th class=\"n\">not the reference's</th>", stream);
    (void)fputs("</tr></thead><tbody>\n", stream);
    for (int64_t i = 0; i < l->n; i++) {
        const shown *s = &l->all[i];
        double n = s->n_runs > 0 ? (double)s->n_runs : 1.0;
        (void)fputs("<tr><td class=\"id\">", stream);
        qs_html_text(stream, s->config->row.id);
        (void)fprintf(stream, "</td><td class=\"n\">%lld</td>", (long long)s->n_runs);
        for (int state = 0; state < QS_N_LAMBDAS; state++)
            (void)fprintf(stream, "<td class=\"n\">%lld (%.0f %%)</td>", (long long)s->counts[state],
                          100.0 * (double)s->counts[state] / n);
        if (l->paired && i > 0)
            (void)fprintf(stream, "<td class=\"n\">%lld (%.0f %%)</td>", (long long)s->n_changed,
                          100.0 * (double)s->n_changed / n);
        else if (l->paired) (void)fputs("<td></td>", stream);
        (void)fputs("</tr>\n", stream);
    }
    (void)fputs("</tbody></table></div>\n", stream);
}

typedef struct question {
    int64_t item, weight;
} question;

/* Runs of an item that another than the reference's state has; without a reference those that are not
 * convergent. */
static int64_t weight_of(const lambda_page *l, int64_t item)
{
    int64_t n = 0;
    for (int64_t i = l->paired ? 1 : 0; i < l->n; i++)
        for (int64_t run = item * QS_LAMBDA_RUNS; run < (item + 1) * QS_LAMBDA_RUNS; run++) {
            int32_t state = l->all[i].states.runs[run];
            n += state >= 0 && state != (l->paired ? l->all[0].states.runs[run] : QS_LAMBDA_CONVERGENT);
        }
    return n;
}

static int compare_questions(const void *a, const void *b)
{
    const question *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    return (x->item > y->item) - (x->item < y->item);
}

static void put_group_heads(const lambda_page *l)
{
    FILE *stream = l->page->stream;
    (void)fputs("<thead><tr><th rowspan=\"2\">question</th>", stream);
    for (int64_t i = 0; i < l->n; i++) {
        (void)fprintf(stream, "<th colspan=\"%d\" class=\"f\" title=\"", QS_LAMBDA_RUNS);
        qs_html_text(stream, l->all[i].config->row.id);
        (void)fputs("\"><div>", stream);
        qs_html_text(stream, l->all[i].config->row.id);
        (void)fputs("</div></th>", stream);
    }
    (void)fputs("</tr><tr>", stream);
    for (int64_t i = 0; i < l->n; i++)
        for (int run = 0; run < QS_LAMBDA_RUNS; run++)
            (void)fprintf(stream, "<th%s>%d%c</th>", run == 0 ? " class=\"f\"" : "", 1 + run / QS_SEEDS,
                          'a' + run % QS_SEEDS);
    (void)fputs("</tr></thead><tbody>\n", stream);
}

static void put_question(const lambda_page *l, int64_t item)
{
    FILE *stream = l->page->stream;
    (void)fputs("<tr><th>", stream);
    qs_html_text(stream, l->all[0].states.qids.lines[item]);
    (void)fputs("</th>", stream);
    for (int64_t i = 0; i < l->n; i++)
        for (int run = 0; run < QS_LAMBDA_RUNS; run++) {
            int64_t at = item * QS_LAMBDA_RUNS + run;
            put_state(stream, l->all[i].states.runs[at], l->paired && i > 0 ? l->all[0].states.runs[at] : -1,
                      run == 0);
        }
    (void)fputs("</tr>\n", stream);
}

static void put_matrix(const lambda_page *l)
{
    FILE *stream = l->page->stream;
    question *questions = NULL;
    int64_t n = l->n_items < MAX_QUESTIONS ? l->n_items : MAX_QUESTIONS;
    if (QS_NEW(questions, l->n_items, "questions") != QS_OK) return;
    for (int64_t i = 0; i < l->n_items; i++) questions[i] = (question){i, weight_of(l, i)};
    qsort(questions, (size_t)l->n_items, sizeof *questions, compare_questions);
    (void)fprintf(stream,
                  "<p class=\"small\">%s%lld of %lld questions, those first where most runs %s; the others are in <a "
                  "href=\"items.csv\">items.csv</a>. 1a is the first paraphrase with the first seed; an empty cell has "
                  "no right snippet to cite.</p>\n",
                  n < l->n_items ? "The first " : "", (long long)n, (long long)l->n_items,
                  l->paired ? "have another state than the reference's" : "are not convergent");
    (void)fputs("<div class=\"wide\"><table class=\"lambda\">\n", stream);
    put_group_heads(l);
    for (int64_t i = 0; i < n; i++) put_question(l, questions[i].item);
    (void)fputs("</tbody></table></div>\n", stream);
    qs_mem_free(questions);
}

/* ---- probe ---- */

/* Convergent states of a cell over the items, and those that are not canonical headers' at the same k. */
static int64_t count_cell(const qs_lambda_states *states, int cell, int64_t *n_convergent, int64_t *n_flips)
{
    int64_t n = 0;
    *n_convergent = *n_flips = 0;
    for (int64_t i = 0; i < states->n_probed; i++) {
        const int32_t *own = states->probe + i * QS_PROBE_CELLS;
        if (own[cell] < 0) continue;
        n++;
        *n_convergent += own[cell] == QS_LAMBDA_CONVERGENT;
        *n_flips += own[cell] != own[cell - cell % QS_PROBE_HEADERS];
    }
    return n;
}

static void put_probe_heads(FILE *stream, const char *first)
{
    (void)fprintf(stream, "<thead><tr><th rowspan=\"2\">%s</th>", first);
    for (int k = 0; k < QS_PROBE_KS; k++)
        (void)fprintf(stream, "<th colspan=\"%d\" class=\"f\">%lld snippets</th>", QS_PROBE_HEADERS,
                      (long long)qs_probe_ks[k]);
    (void)fputs("</tr><tr>", stream);
    for (int cell = 0; cell < QS_PROBE_CELLS; cell++)
        (void)fprintf(stream, "<th%s>%s</th>", cell % QS_PROBE_HEADERS == 0 ? " class=\"f\"" : "",
                      qs_probe_headers[cell % QS_PROBE_HEADERS]);
    (void)fputs("</tr></thead><tbody>\n", stream);
}

static void put_probe_row(FILE *stream, const shown *s)
{
    (void)fputs("<tr><td class=\"id\">", stream);
    qs_html_text(stream, s->config->row.id);
    (void)fputs("</td>", stream);
    for (int cell = 0; cell < QS_PROBE_CELLS; cell++) {
        int64_t n_convergent, n_flips, n = count_cell(&s->states, cell, &n_convergent, &n_flips);
        (void)fprintf(stream, "<td class=\"n%s\">", cell % QS_PROBE_HEADERS == 0 ? " f" : "");
        if (n > 0) (void)fprintf(stream, "%lld/%lld", (long long)n_convergent, (long long)n);
        if (n_flips > 0) (void)fprintf(stream, " <b>(%lld)</b>", (long long)n_flips);
        (void)fputs("</td>", stream);
    }
    (void)fputs("</tr>\n", stream);
}

static void put_probe_cells(FILE *stream, const shown *s)
{
    int64_t n = s->states.n_probed < MAX_PROBED ? s->states.n_probed : MAX_PROBED;
    (void)fputs("<details><summary>", stream);
    qs_html_text(stream, s->config->row.id);
    (void)fprintf(stream, ": the cells of %lld of %lld questions</summary>\n", (long long)n,
                  (long long)s->states.n_probed);
    (void)fputs("<div class=\"wide\"><table class=\"lambda\">\n", stream);
    put_probe_heads(stream, "question");
    for (int64_t i = 0; i < n; i++) {
        const int32_t *own = s->states.probe + i * QS_PROBE_CELLS;
        (void)fputs("<tr><th>", stream);
        qs_html_text(stream, s->states.qids.lines[i]);
        (void)fputs("</th>", stream);
        for (int cell = 0; cell < QS_PROBE_CELLS; cell++)
            put_state(stream, own[cell], own[cell - cell % QS_PROBE_HEADERS], cell % QS_PROBE_HEADERS == 0);
        (void)fputs("</tr>\n", stream);
    }
    (void)fputs("</tbody></table></div></details>\n", stream);
}

static void put_probe(const lambda_page *l)
{
    FILE *stream = l->page->stream;
    int64_t n = 0;
    for (int64_t i = 0; i < l->n; i++) n += l->all[i].states.n_probed > 0;
    (void)fputs("<h3>Other numbers of snippets, other headers</h3>\n<p class=\"small\">", stream);
    if (n == 0) {
        (void)fputs("Not measured here: <code>qsweep evaluate --probe N</code> asks the first N questions so.</p>\n",
                    stream);
        return;
    }
    (void)fputs("Questions asked greedily with 5, 10 and 20 snippets, their headers as they are, dealt out anew "
                "(twice), or removed: convergent of all, and in brackets how many have another state than with "
                "canonical headers at the same k. Numbers: <a href=\"items.csv\">items.csv</a>, <a "
                "href=\"metrics.csv\">metrics.csv</a> (lambda_probe_flips).</p>\n<div class=\"wide\"><table>\n",
                stream);
    put_probe_heads(stream, "config");
    for (int64_t i = 0; i < l->n; i++)
        if (l->all[i].states.n_probed > 0) put_probe_row(stream, &l->all[i]);
    (void)fputs("</tbody></table></div>\n", stream);
    for (int64_t i = 0; i < l->n; i++)
        if (l->all[i].states.n_probed > 0) put_probe_cells(stream, &l->all[i]);
}

void qs_page_lambda(const qs_page *page)
{
    lambda_page *l = NULL;
    qs_page_heading(page, "lambda", "Answers run by run (\xCE\xBB)",
                    "Each question in three paraphrases with two seeds each: do the runs of a question hang together?",
                    "items.csv");
    if (QS_NEW(l, 1, "states") != QS_OK) return;
    l->page = page;
    load(l);
    if (l->n == 0)
        (void)fputs("<p>No questions were asked: <code>qsweep evaluate --qa DIR</code> asks them.</p>\n",
                    page->stream);
    else {
        put_legend(l);
        put_counts(l);
        put_matrix(l);
        put_probe(l);
    }
    for (int64_t i = 0; i < l->n; i++) qs_lambda_states_free(&l->all[i].states);
    qs_mem_free(l);
}
