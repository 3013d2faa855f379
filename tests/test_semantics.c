/* ΔS, coverage and λ of answers to a gold set: a stored table that was reckoned by other means, and metrics by hand
 * (checklist G1 G2 G3 G12 G13 G16 A4 A11 A18 B1 B3 E1 E3 E11 E16). */
#include "figures.h"

#include <math.h>

#include "base/log.h"
#include "data/csv.h"
#include "metric/semantics.h"

enum { N_ITEMS = 20 };

static qs_questions questions;
static qs_gold_frame frame;

static int setup(void **state)
{
    (void)state;
    qs_log_set_level(QS_LOG_WARN);
    qs_question_options options = {.gold = "datasets/world", .k = 5, .n_items = N_ITEMS, .n_tokens_max = 8};
    OK(qs_questions_load(&questions, &options));
    OK(qs_gold_frame_create(&frame, &questions, questions.encoder));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    qs_gold_frame_destroy(&frame);
    qs_questions_free(&questions);
    return 0;
}

typedef enum style { AS_RETRIEVED, GOLD, GOLD_AND_OTHER, NOTHING, BROKEN } style;

/* Every run gives the gold answer and cites the anchor, which takes the last place of a prompt where it was not
 * retrieved (not AS_RETRIEVED); of item 0, with GOLD_AND_OTHER, the runs with seed 1 answer
 * otherwise; of item 1 with NOTHING no run cites; BROKEN leaves item 2 without JSON. */
static void answer(qs_answers *a, style how)
{
    *a = (qs_answers){.n_runs = questions.n_runs, .n_prompts = questions.n_prompts, .k = 5};
    OK(QS_NEW(a->ranked, a->n_prompts * a->k, "ranked"));
    OK(QS_NEW(a->texts, a->n_runs, "texts"));
    OK(QS_NEW(a->rows, a->n_runs, "rows"));
    OK(QS_NEW(a->coverage, a->n_runs, "coverage"));
    qs_gold_frame_snippets(frame.rankings, &questions, a->ranked);
    for (int64_t i = 0; i < a->n_runs; i++) {
        qs_question_run run = qs_questions_run(i);
        const qs_gold_item *item = &questions.set.items[run.item];
        int64_t *ranked = a->ranked + run.prompt * a->k;
        bool offered = item->anchor < 0 || how == AS_RETRIEVED;
        for (int64_t j = 0; j < a->k; j++) offered = offered || ranked[j] == item->anchor;
        if (!offered) ranked[a->k - 1] = item->anchor;
        const char *cited = item->anchor >= 0 ? questions.set.snippets[item->anchor].id : "none",
                   *text = item->answer;
        if (how == GOLD_AND_OTHER && run.item == 0 && run.seed == 1) {
            text = "weir length";
            cited = questions.set.snippets[ranked[0] == item->anchor ? ranked[1] : ranked[0]].id;
        }
        OK(qs_mem_alloc(&a->texts[i], 512, "text"));
        if (how == NOTHING && run.item == 1)
            (void)snprintf(a->texts[i], 512, "{\"answer\":\"%s\",\"citations\":[]}", text);
        else if (how == BROKEN && run.item == 2) (void)snprintf(a->texts[i], 512, "%s", text);
        else
            (void)snprintf(a->texts[i], 512, "{\"answer\":\"%s\",\"citations\":[{\"snippet_id\":\"%s\"}]}",
                           text, cited);
        OK(qs_answer_score(&questions, &run, ranked, a->texts[i], &a->rows[i], &a->coverage[i]));
    }
}

/* ---- the stored table ---- */

typedef struct table {
    qs_answers answers;
    qs_semantics found;
    int64_t row;
} table;

static void assert_cell(const char *cell, double value, int64_t row, int column)
{
    if (cell[0] == '\0' ? isnan(value) : fabs(strtod(cell, NULL) - value) < 1e-6) return;
    fail_msg("row %lld, column %d: \"%s\", not %.9g", (long long)row, column, cell, value);
}

static qs_err check_row(table *t, const qs_csv_row *row)
{
    const qs_semantic_row *s = &t->found.rows[t->row];
    char snippets[64] = "";
    for (int64_t i = 0; i < t->answers.k; i++) {
        if (i > 0) strcat(snippets, " ");
        strcat(snippets, questions.set.snippets[t->answers.ranked[t->row * t->answers.k + i]].id);
    }
    assert_string_equal(row->fields[0], questions.set.items[t->row / QS_WORDINGS].qid);
    if (strcmp(row->fields[2], snippets) != 0)
        fail_msg("row %lld: retrieved %s, not %s", (long long)t->row, snippets, row->fields[2]);
    const double values[] = {s->dS_QE, s->dS_EA, s->dS_QA, s->dS_AR, s->anchor_gap, s->cov_retr10};
    for (int i = 0; i < 6; i++) assert_cell(row->fields[3 + i], values[i], t->row, 3 + i);
    t->row++;
    return QS_OK;
}

static void the_table_is_reckoned_twice(void **state)
{
    (void)state;
    table t = {0};
    qs_csv csv;
    answer(&t.answers, AS_RETRIEVED);
    OK(qs_semantics_measure(&t.found, &frame, &questions, &t.answers));
    OK(qs_csv_load(&csv, "tests/fixtures/delta_s.csv"));
    for (int64_t i = 0; i < csv.n_rows; i++) OK(check_row(&t, &csv.rows[i]));
    assert_int_equal(t.row, N_ITEMS * QS_WORDINGS);
    qs_csv_free(&csv);
    qs_semantics_free(&t.found);
    qs_answers_free(&t.answers);
}

/* ---- metrics ---- */

static void expect(const figures *f, const char *name, double value)
{
    const qs_estimate *e = figure(f, name);
    if (!(fabs(e->value - value) < 1e-12)) fail_msg("%s = %.17g, not %.17g", name, e->value, value);
    assert_true(e->lo <= e->value && e->value <= e->hi);
}

static void measure(figures *f, const qs_answers *own, const qs_answers *reference)
{
    qs_semantics a, b;
    *f = (figures){0};
    OK(qs_semantics_measure(&a, &frame, &questions, own));
    OK(qs_semantics_measure(&b, &frame, &questions, reference));
    qs_semantic_input input = {.own = &a, .reference = &b, .answers = own, .reference_answers = reference,
                               .part = QS_QUALITY_ALL, .seed = 1};
    OK(qs_semantic_metrics(&input, take, f));
    qs_semantics_free(&a);
    qs_semantics_free(&b);
}

static int64_t n_answerable(void)
{
    int64_t n = 0;
    for (int64_t i = 0; i < questions.n_items; i++) n += questions.set.items[i].anchor >= 0;
    return n;
}

/* The reference against itself, every drift exactly 0, every state equal. */
static void nothing_drifts_from_itself(void **state)
{
    (void)state;
    qs_answers a;
    figures f;
    answer(&a, GOLD);
    measure(&f, &a, &a);
    static const char *const zero[] = {"dS_drift", "dS_drift_signed", "dS_drift_p95", "dS_drift_max", "anchor_drift",
                                       "snippet_jaccard", "lambda_chaotic", "lambda_divergent", "lambda_recursive",
                                       "lambda_flip_rate"};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++) expect(&f, zero[i], 0.0);
    /* "not stated" holds no word of the corpus: a zero vector, at 1 from everything. */
    if (fabs(figure(&f, "dS_AR")->value - 1.0 + (double)n_answerable() / N_ITEMS) > 1e-6)
        fail_msg("dS_AR is %g", figure(&f, "dS_AR")->value);
    expect(&f, "lambda_agree", 1.0);
    expect(&f, "snippet_tau", 1.0);
    expect(&f, "lambda_conv", 1.0);
    expect(&f, "lambda_runs", 6.0);
    assert_int_equal(figure(&f, "lambda_conv")->n, n_answerable());
    qs_answers_free(&a);
}

static void states_of_answers_by_hand(void **state)
{
    (void)state;
    qs_answers gold, other;
    figures f;
    double n = (double)n_answerable();
    answer(&gold, GOLD);
    assert_true(questions.set.items[0].anchor >= 0 && questions.set.items[1].anchor >= 0 &&
                questions.set.items[2].anchor >= 0);
    /* Item 0: the three runs with seed 0 hold the consensus or share it; those with seed 1 cite neither gold nor, being
     * of three wordings, more than the gold's three. */
    answer(&other, GOLD_AND_OTHER);
    measure(&f, &other, &gold);
    expect(&f, "lambda_chaotic", 3.0 / (6.0 * n));
    expect(&f, "lambda_conv", 1.0 - 3.0 / (6.0 * n));
    expect(&f, "lambda_agree", 1.0 - 3.0 / (6.0 * n));
    expect(&f, "lambda_flip_rate", 3.0 / (5.0 * n)); /* against paraphrase 0, seed 0 */
    qs_answers_free(&other);
    answer(&other, NOTHING); /* an item that is answered and never cited */
    measure(&f, &other, &gold);
    expect(&f, "lambda_divergent", 1.0 / n);
    expect(&f, "lambda_flip_rate", 0.0);
    qs_answers_free(&other);
    answer(&other, BROKEN);
    measure(&f, &other, &gold);
    expect(&f, "lambda_divergent", 1.0 / n);
    qs_answers_free(&other);
    qs_answers_free(&gold);
}

/* Prompts of one item get other snippets: the drift is that item's, spread over all. */
static void other_snippets_are_a_drift(void **state)
{
    (void)state;
    qs_answers gold, other;
    figures f;
    qs_semantics a, b;
    answer(&gold, GOLD);
    answer(&other, GOLD);
    for (int64_t i = 0; i < QS_WORDINGS * other.k; i++) other.ranked[i] = 200 + i % other.k;
    OK(qs_semantics_measure(&a, &frame, &questions, &gold));
    OK(qs_semantics_measure(&b, &frame, &questions, &other));
    double qe = 0.0, ea = 0.0;
    for (int i = 0; i < QS_WORDINGS; i++) {
        qe += fabs(b.rows[i].dS_QE - a.rows[i].dS_QE);
        ea += fabs(b.rows[i].dS_EA - a.rows[i].dS_EA);
    }
    qe /= QS_WORDINGS * N_ITEMS;
    ea /= QS_WORDINGS * (double)n_answerable();
    assert_true(qe > 0.01 && ea > 0.01);
    measure(&f, &other, &gold);
    expect(&f, "anchor_drift", ea);
    expect(&f, "dS_drift", fmax(qe, ea));
    expect(&f, "dS_drift_signed", fmax(qe, ea)); /* it only got worse */
    expect(&f, "snippet_jaccard", 1.0 / N_ITEMS);
    qs_semantics_free(&a);
    qs_semantics_free(&b);
    qs_answers_free(&gold);
    qs_answers_free(&other);
}

/* A question that shares no word with the corpus still gets k snippets, in the order of ties. */
static void prompts_are_filled_up(void **state)
{
    (void)state;
    int64_t n = frame.rankings[0].n, ranked[N_ITEMS * QS_WORDINGS * 5];
    frame.rankings[0].n = 1;
    qs_gold_frame_snippets(frame.rankings, &questions, ranked);
    frame.rankings[0].n = n;
    assert_int_equal(ranked[0], frame.rankings[0].hits[0].snippet);
    for (int i = 2; i < 5; i++)
        assert_true(qs_snippet_compare(&questions.set.snippets[ranked[i - 1]], &questions.set.snippets[ranked[i]]) < 0);
    for (int i = 1; i < 5; i++) assert_true(ranked[i] != ranked[0]);
}

/* The world's corpus repeats nothing; a third snippet with the words of another makes 2 of 240 (checklist E7). */
static void repeated_snippets_are_counted(void **state)
{
    (void)state;
    qs_gold_snippet *third = &questions.set.snippets[2], held = *third;
    qs_answers a;
    qs_semantics own;
    qs_gold_frame twice;
    answer(&a, GOLD);
    OK(qs_semantics_measure(&own, &frame, &questions, &a));
    assert_int_equal(own.n_snippets, 240);
    assert_int_equal(own.n_duplicates, 0);
    qs_semantics_free(&own);
    third->header = questions.set.snippets[0].header;
    third->text = questions.set.snippets[0].text;
    OK(qs_gold_frame_create(&twice, &questions, questions.encoder));
    OK(qs_semantics_measure(&own, &twice, &questions, &a));
    assert_int_equal(own.n_duplicates, 2);
    *third = held;
    qs_semantics_free(&own);
    qs_answers_free(&a);
    qs_gold_frame_destroy(&twice);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table_is_reckoned_twice), cmocka_unit_test(nothing_drifts_from_itself),
        cmocka_unit_test(states_of_answers_by_hand),   cmocka_unit_test(other_snippets_are_a_drift),
        cmocka_unit_test(prompts_are_filled_up),       cmocka_unit_test(repeated_snippets_are_counted),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
