#include "metric/answer_metrics.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

/* Sums over the greedy runs of an item; every metric is one sum over another. */
enum { RUNS, ANSWERABLE, RIGHT, PARSED, CITING, CITE_OK, CITED, CITED_RIGHT, UNANSWERABLE, REFUSED, REFUSED_WRONGLY,
       ANCHORED, CUT, N_SUMS };
/* Of an item as a whole, and of it beside the reference's. */
enum { ITEMS, COVERED, CRITICAL, COVERED_WELL, PAIRS, OTHER_SNIPPET, SAME_TEXT, RIGHT_CHANGE, ANSWERABLE_PAIRS,
       N_ITEM_SUMS };

static const double critical = 0.60, well = 0.70; /* of cov_cited: docs/coverage.md */

typedef struct metric_row {
    const char *name;
    bool of_items; /* the sums are of the second kind */
    int above, below;
    bool share; /* of counts: Wilson's interval applies */
} metric_row;

static const metric_row rows[] = {
    {"json_ok", false, PARSED, RUNS, true},
    {"answer_cut", false, CUT, RUNS, true},
    {"cite_ok", false, CITE_OK, CITING, true},
    {"cite_precision", false, CITED_RIGHT, CITED, true},
    {"qa_acc", false, RIGHT, ANSWERABLE, true},
    {"refusal_ok", false, REFUSED, UNANSWERABLE, true},
    {"refusal_wrong", false, REFUSED_WRONGLY, ANSWERABLE, true},
    {"anchor_offered", false, ANCHORED, ANSWERABLE, true},
    {"cov_cited", true, COVERED, ITEMS, false},
    {"cov_critical", true, CRITICAL, ITEMS, true},
    {"cov_pass_rate", true, COVERED_WELL, ITEMS, true},
    {"snippet_divergence", true, OTHER_SNIPPET, PAIRS, true},
    {"answer_agree", true, SAME_TEXT, PAIRS, true},
    {"qa_acc_change", true, RIGHT_CHANGE, ANSWERABLE_PAIRS, false},
};

static void add_run(const qs_gold_item *item, const qs_answer_row *row, double *s)
{
    bool citing = row->anchored != 0; /* without the anchor there is nothing right to cite */
    s[RUNS] += 1;
    s[PARSED] += row->json_ok;
    s[CUT] += row->stop == QS_STOP_LIMIT;
    s[CITING] += citing;
    s[CITE_OK] += citing && row->n_known > 0;
    s[CITED] += row->n_citations;
    s[CITED_RIGHT] += row->n_correct;
    if (item->answerable) {
        s[ANSWERABLE] += 1;
        s[RIGHT] += row->correct;
        s[REFUSED_WRONGLY] += row->refused;
        s[ANCHORED] += row->anchored;
    } else {
        s[UNANSWERABLE] += 1;
        s[REFUSED] += row->refused;
    }
}

static void add_pair(const qs_answer_input *in, const qs_gold_item *item, int64_t run, double *s)
{
    const qs_answer_row *q = &in->answers->rows[run], *f = &in->reference->rows[run];
    s[PAIRS] += 1;
    s[OTHER_SNIPPET] += q->selected != f->selected;
    s[SAME_TEXT] += strcmp(in->answers->texts[run], in->reference->texts[run]) == 0;
    if (!item->answerable) return;
    s[ANSWERABLE_PAIRS] += 1;
    s[RIGHT_CHANGE] += q->correct - f->correct;
}

static void sum_item(const qs_answer_input *in, int64_t index, double *runs, double *items)
{
    const qs_gold_item *item = &in->questions->set.items[index];
    double coverage = 0.0;
    int64_t n = 0;
    for (int64_t run = index * QS_RUNS_PER_ITEM; run < (index + 1) * QS_RUNS_PER_ITEM; run++) {
        if (in->answers->rows[run].seed != QS_GREEDY) continue;
        add_run(item, &in->answers->rows[run], runs);
        if (in->reference != NULL) add_pair(in, item, run, items);
        coverage += in->answers->coverage[run];
        n++;
    }
    if (!item->answerable) return;
    coverage /= (double)n;
    items[ITEMS] += 1;
    items[COVERED] += coverage;
    items[CRITICAL] += coverage < critical;
    items[COVERED_WELL] += coverage >= well;
}

static qs_err measure_row(const qs_answer_input *in, const metric_row *row, const double *sums, int width,
                          double *two, bool *defined, qs_estimate *estimate)
{
    qs_bootstrap options = {.seed = in->seed};
    for (int64_t i = 0; i < in->questions->n_items; i++) {
        two[2 * i] = sums[i * width + row->above];
        two[2 * i + 1] = sums[i * width + row->below];
    }
    /* Independent trials are items: their wordings are not. */
    qs_err err = qs_bootstrap_ratio(&options, two, in->questions->n_items, row->share, defined, estimate);
    return qs_context(err, "metric %s", row->name);
}

qs_err qs_answer_measure(const qs_answer_input *in, qs_metric_sink put, void *context)
{
    int64_t n = in->questions->n_items;
    double *runs = NULL, *items = NULL, *two = NULL;
    qs_err err;
    if (in->reference != NULL && in->reference->n_runs < in->answers->n_runs)
        return qs_fail(QS_E_INPUT, "compare answers: the reference has %lld, this one %lld",
                       (long long)in->reference->n_runs, (long long)in->answers->n_runs);
    QS_TRY(QS_NEW(runs, n * N_SUMS, "sums of items"));
    QS_TRY(QS_NEW(items, n * N_ITEM_SUMS, "sums of items"));
    QS_TRY(QS_NEW(two, n * 2, "sums of items"));
    for (int64_t i = 0; i < n; i++) sum_item(in, i, runs + i * N_SUMS, items + i * N_ITEM_SUMS);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const qs_metric *metric = qs_metric_find(rows[i].name);
        qs_quality_part part = metric->needs_reference ? QS_QUALITY_PAIRED : QS_QUALITY_OWN;
        qs_estimate estimate;
        bool defined;
        if ((metric->task & in->tasks) == 0 || (part & in->part) == 0) continue;
        QS_TRY(measure_row(in, &rows[i], rows[i].of_items ? items : runs, rows[i].of_items ? N_ITEM_SUMS : N_SUMS,
                           two, &defined, &estimate));
        if (defined) QS_TRY(put(context, metric, &estimate));
    }
out:
    qs_mem_free(runs);
    qs_mem_free(items);
    qs_mem_free(two);
    return err;
}
