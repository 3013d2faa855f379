#include "report/item_tables.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "data/answer.h"
#include "metric/answers.h"
#include "metric/entropy_curve.h"
#include "metric/lines.h"
#include "metric/lambda.h"
#include "metric/long_runs.h"
#include "metric/resonance.h"
#include "metric/wording_entropy.h"
#include "report/lambda_states.h"
#include "report/tables.h"
#include "report/text_entropy.h"

/* What an artifact says of its answers. */
typedef struct evidence {
    qs_answers answers;
    qs_lines qids, snippets, questions, probe_texts;
    int64_t n_probe_runs; /* of the probe over k and headers, QS_PROBE_CELLS an item */
    qs_answer_row *probe_rows;
    qs_lambda_states states;
    qs_wordings wordings; /* n_prompts = 0: their entropy was not measured */
    int32_t *stable;      /* [wordings.n_prompts]; NULL = of the reference */
    int64_t k;
    char headers[32];
} evidence;

static void evidence_free(evidence *e)
{
    qs_answers_free(&e->answers);
    qs_lines_free(&e->qids);
    qs_lines_free(&e->snippets);
    qs_lines_free(&e->questions);
    qs_lines_free(&e->probe_texts);
    qs_mem_free(e->probe_rows);
    qs_lambda_states_free(&e->states);
    qs_wordings_free(&e->wordings);
    qs_mem_free(e->stable);
}

static qs_err check_rows(const evidence *e)
{
    for (int64_t i = 0; i < e->answers.n_runs + e->n_probe_runs; i++) {
        const qs_answer_row *row =
            i < e->answers.n_runs ? &e->answers.rows[i] : &e->probe_rows[i - e->answers.n_runs];
        if (row->item < 0 || row->item >= e->qids.n || row->wording < 0 || row->wording >= QS_WORDINGS ||
            row->stop < 0 || row->stop >= QS_N_STOPS || row->selected < 0 || row->selected >= e->snippets.n)
            return qs_fail(QS_E_INPUT, "read answers: run %lld is of no item or snippet there is; re-run %s",
                           (long long)i, qs_artifact_kind_stage(QS_KIND_EVAL));
    }
    for (int64_t i = 0; i < e->answers.n_prompts * e->answers.k; i++)
        if (e->answers.ranked[i] < 0 || e->answers.ranked[i] >= e->snippets.n)
            return qs_fail(QS_E_INPUT, "read answers: a snippet that is not there was offered; re-run %s",
                           qs_artifact_kind_stage(QS_KIND_EVAL));
    for (int64_t i = 0; i < e->answers.n_prompts * QS_POOL; i++)
        if (i % QS_POOL < e->answers.rankings[i / QS_POOL].n &&
            e->answers.rankings[i / QS_POOL].hits[i % QS_POOL].snippet >= e->snippets.n)
            return qs_fail(QS_E_INPUT, "read answers: a snippet that is not there was retrieved; re-run %s",
                           qs_artifact_kind_stage(QS_KIND_EVAL));
    return QS_OK;
}

static qs_err probe_read(evidence *e, const qs_artifact *artifact)
{
    qs_dataset_info info;
    qs_err err;
    QS_TRY(qs_artifact_info(artifact, "/probe/runs", &info));
    if (info.rank != 2 || info.dims[1] != QS_ANSWER_COLUMNS || info.dims[0] % QS_PROBE_CELLS != 0)
        return qs_fail(QS_E_INPUT, "read /probe/runs: it has not the shape of answers; re-run %s",
                       qs_artifact_kind_stage(QS_KIND_EVAL));
    QS_TRY(QS_NEW(e->probe_rows, info.dims[0], "answers of the probe"));
    QS_TRY(qs_artifact_read(artifact, "/probe/runs", QS_I32, e->probe_rows, info.n));
    QS_TRY(qs_lines_read(&e->probe_texts, artifact, "/probe/texts", info.dims[0]));
    e->n_probe_runs = info.dims[0];
out:
    return err;
}

static qs_err wordings_read(evidence *e, const qs_artifact *artifact)
{
    qs_err err;
    if (!qs_artifact_has(artifact, "/wordings/tokens")) return QS_OK;
    QS_TRY(qs_wordings_read(&e->wordings, artifact));
    if (e->wordings.n_prompts != e->answers.n_prompts)
        return qs_fail(QS_E_INPUT, "read /wordings: it is of %lld prompts, the answers are of %lld; re-run %s",
                       (long long)e->wordings.n_prompts, (long long)e->answers.n_prompts,
                       qs_artifact_kind_stage(QS_KIND_EVAL));
    if (!qs_artifact_has(artifact, "/wordings/stable")) return QS_OK;
    QS_TRY(QS_NEW(e->stable, e->wordings.n_prompts, "verdicts"));
    QS_TRY(qs_artifact_read(artifact, "/wordings/stable", QS_I32, e->stable, e->wordings.n_prompts));
out:
    return err;
}

/* *present is false when the artifact holds no answers. */
static qs_err evidence_read(evidence *e, const qs_artifact *artifact, bool *present)
{
    qs_err err;
    *e = (evidence){0};
    *present = qs_artifact_has(artifact, "/answers/runs");
    if (!*present) return QS_OK;
    QS_TRY(qs_answers_read(&e->answers, artifact));
    QS_TRY(qs_artifact_get_int(artifact, "/qa/@k", &e->k));
    (void)snprintf(e->headers, sizeof e->headers, "canonical"); /* of artifacts older than the choice */
    if (qs_artifact_has(artifact, "/qa/@headers"))
        QS_TRY(qs_artifact_get_text(artifact, "/qa/@headers", e->headers, sizeof e->headers));
    QS_TRY(qs_lines_read(&e->qids, artifact, "/qa/qids", e->answers.n_runs / QS_RUNS_PER_ITEM));
    QS_TRY(qs_lines_read(&e->questions, artifact, "/qa/questions", e->answers.n_prompts));
    QS_TRY(qs_lines_read(&e->snippets, artifact, "/qa/snippets", -1));
    if (qs_artifact_has(artifact, "/probe/runs")) QS_TRY(probe_read(e, artifact));
    QS_TRY(check_rows(e));
    QS_TRY(qs_lambda_states_read(&e->states, artifact));
    QS_TRY(wordings_read(e, artifact));
out:
    return err;
}

/* Calls `write` with the evidence of every configuration that answered. */
typedef qs_err (*write_one)(void *context, const qs_config_row *config, const evidence *e);

static qs_err for_each(const qs_sweep *sweep, write_one write, void *context)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < sweep->n && err == QS_OK; i++) {
        const qs_config_row *config = &sweep->configs[i].row;
        qs_artifact *artifact;
        evidence e = {0};
        bool present;
        err = qs_artifact_open(&artifact, config->path, QS_KIND_EVAL);
        if (err != QS_OK) return err;
        err = evidence_read(&e, artifact, &present);
        if (err == QS_OK && present) err = write(context, config, &e);
        evidence_free(&e);
        qs_artifact_close(artifact);
        err = qs_context(err, "tables of %s", config->path);
    }
    return err;
}

/* The id in a snippet's line. Borrowed from *line, which the caller releases. */
static qs_err snippet_id(const evidence *e, int64_t snippet, json_t **line, const char **id)
{
    *line = json_loads(e->snippets.lines[snippet], 0, NULL);
    *id = json_string_value(json_object_get(*line, "snippet_id"));
    if (*id != NULL) return QS_OK;
    json_decref(*line);
    return qs_fail(QS_E_INPUT, "read /qa/snippets: line %lld has no snippet_id", (long long)snippet + 1);
}

/* ---- items.csv ---- */

/* An answer, and how it was asked for. */
typedef struct asked {
    const qs_answer_row *row;
    int64_t k;
    const char *headers, *text;
    double coverage;
    int state;      /* qs_lambda; -1 = none */
    double entropy; /* mean along the reference's answer to this wording; NaN = not of this run */
    int stable;     /* -1 = no verdict */
} asked;

static qs_err write_item(qs_csv_writer *w, const qs_config_row *config, const evidence *e, const asked *a)
{
    const qs_answer_row *row = a->row;
    json_t *line;
    const char *selected;
    qs_err err = snippet_id(e, row->selected, &line, &selected);
    if (err != QS_OK) return err;
    qs_table_put_text(w, config->id);
    qs_table_put_text(w, e->qids.lines[row->item]);
    qs_csv_put_int(w, row->wording);
    if (row->seed == QS_GREEDY) qs_csv_put_text(w, "greedy");
    else qs_csv_put_int(w, row->seed);
    qs_csv_put_int(w, a->k);
    qs_csv_put_text(w, a->headers);
    qs_csv_put_int(w, row->n_prompt);
    qs_csv_put_int(w, row->n_tokens);
    qs_csv_put_text(w, qs_stop_name((qs_stop)row->stop));
    qs_csv_put_int(w, row->json_ok);
    qs_csv_put_int(w, row->n_citations);
    qs_csv_put_int(w, row->n_known);
    qs_csv_put_int(w, row->n_correct);
    qs_table_put_text(w, selected);
    qs_csv_put_int(w, row->anchored);
    qs_csv_put_int(w, row->correct);
    qs_csv_put_int(w, row->refused);
    qs_csv_put_real(w, a->coverage);
    qs_csv_put_text(w, a->state >= 0 ? qs_lambda_name((qs_lambda)a->state) : "");
    qs_csv_put_real(w, a->entropy);
    if (a->stable >= 0) qs_csv_put_int(w, a->stable);
    else qs_csv_put_text(w, "");
    qs_table_put_text(w, a->text);
    json_decref(line);
    return qs_csv_end_row(w);
}

static qs_err write_config_items(void *context, const qs_config_row *config, const evidence *e)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < e->answers.n_runs && err == QS_OK; i++) {
        const qs_answer_row *row = &e->answers.rows[i];
        asked a = {row, e->k, e->headers, e->answers.texts[i], e->answers.coverage[i],
                   qs_lambda_states_of_run(&e->states, row->item, row->wording, row->seed), NAN, -1};
        if (row->seed == QS_GREEDY && e->wordings.n_prompts > 0) {
            int64_t prompt = (int64_t)row->item * QS_WORDINGS + row->wording;
            a.entropy = qs_wordings_mean(&e->wordings, prompt);
            a.stable = e->stable != NULL ? e->stable[prompt] : -1;
        }
        err = write_item(context, config, e, &a);
    }
    for (int64_t i = 0; i < e->n_probe_runs && err == QS_OK; i++) {
        int64_t cell = i % QS_PROBE_CELLS;
        asked a = {&e->probe_rows[i], qs_probe_ks[cell / QS_PROBE_HEADERS], qs_probe_headers[cell % QS_PROBE_HEADERS],
                   e->probe_texts.lines[i], NAN,
                   i < e->states.n_probed * QS_PROBE_CELLS ? e->states.probe[i] : -1, NAN, -1};
        err = write_item(context, config, e, &a);
    }
    return err;
}

qs_err qs_write_items(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    qs_csv_writer w;
    (void)selection;
    qs_columns_begin(&w, stream, qs_items_columns, false);
    return for_each(sweep, write_config_items, &w);
}

/* ---- trace.jsonl ---- */

/* The ids that the greedy answer to a prompt cites. */
static json_t *citations(const char *text)
{
    json_t *list = json_array();
    qs_answer answer;
    if (qs_answer_parse(&answer, text))
        for (int64_t i = 0; i < answer.n_citations; i++)
            (void)json_array_append_new(list, json_string(qs_answer_citation(&answer, i)));
    qs_answer_free(&answer);
    return list;
}

/* The snippets retrieved for a prompt, best first, as the corpus describes them, with ranks and scores. */
static json_t *retrieved(const evidence *e, int64_t prompt)
{
    const qs_ranking *ranking = &e->answers.rankings[prompt];
    json_t *list = json_array();
    for (int64_t i = 0; i < ranking->n; i++) {
        const qs_hit *hit = &ranking->hits[i];
        json_t *snippet = json_loads(e->snippets.lines[hit->snippet], 0, NULL),
               *ranks = json_pack("{s:I, s:b, s:i, s:i, s:i, s:f, s:f, s:f, s:f}", "rank", (json_int_t)(i + 1),
                                  "offered", i < e->k, "pool_rank", (int)hit->pool_rank, "bm25_rank",
                                  (int)hit->bm25_rank, "dense_rank", (int)hit->dense_rank, "score", hit->score,
                                  "bm25", hit->bm25, "dense", hit->dense, "fused", hit->fused);
        (void)json_object_update(snippet, ranks);
        json_decref(ranks);
        (void)json_array_append_new(list, snippet);
    }
    return list;
}

static qs_err write_trace(FILE *stream, const qs_config_row *config, const evidence *e, int64_t run)
{
    const qs_answer_row *row = &e->answers.rows[run];
    int64_t prompt = row->item * QS_WORDINGS + row->wording;
    json_t *line;
    const char *selected;
    qs_err err = snippet_id(e, row->selected, &line, &selected);
    if (err != QS_OK) return err;
    json_t *trace = json_pack("{s:s, s:s, s:i, s:s, s:I, s:s, s:o, s:s, s:o}", "config", config->id, "qid",
                              e->qids.lines[row->item], "wording", (int)row->wording, "question",
                              e->questions.lines[prompt], "k", (json_int_t)e->k, "headers", e->headers, "retrieved",
                              retrieved(e, prompt), "selected", selected, "cited", citations(e->answers.texts[run]));
    if (trace == NULL || json_dumpf(trace, stream, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
        fputc('\n', stream) == EOF)
        err = qs_fail(QS_E_RESOURCE, "write trace of %s: out of memory or disk", config->id);
    json_decref(trace);
    json_decref(line);
    return err;
}

static qs_err write_config_trace(void *context, const qs_config_row *config, const evidence *e)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < e->answers.n_runs && err == QS_OK; i++)
        if (e->answers.rows[i].seed == QS_GREEDY) err = write_trace(context, config, e, i);
    return err;
}

qs_err qs_write_trace(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    (void)selection;
    return for_each(sweep, write_config_trace, stream);
}

/* ---- entropy.csv ---- */

/* One curve: NaN and NULL where there is nothing. */
typedef struct curve {
    const char *config, *source, *sequence;
    int64_t n;
    const double *entropy; /* [n] */
    const float *kld;      /* [n] or NULL */
    const double *delta;   /* [n / 8] or NULL, with states */
    const int32_t *states;
} curve;

static qs_err write_curve(qs_csv_writer *w, const curve *c)
{
    double *mean = NULL, sum = 0.0;
    qs_err err;
    QS_TRY(QS_NEW(mean, c->n, "trailing means"));
    qs_curve_smooth(c->entropy, c->n, qs_curve_width(c->n), mean);
    for (int64_t t = 0; t < c->n; t++) {
        if (c->kld != NULL) sum += (double)c->kld[t];
        qs_table_put_text(w, c->config);
        qs_csv_put_text(w, c->source);
        qs_table_put_text(w, c->sequence);
        qs_csv_put_int(w, t);
        qs_csv_put_real(w, c->entropy[t]);
        qs_csv_put_real(w, mean[t]);
        qs_csv_put_real(w, c->kld != NULL ? (double)c->kld[t] : NAN);
        qs_csv_put_real(w, c->kld != NULL ? sum : NAN);
        int64_t step = (t + 1) % QS_RESONANCE_TOKENS == 0 && c->delta != NULL ? t / QS_RESONANCE_TOKENS : -1;
        qs_csv_put_real(w, step >= 0 ? c->delta[step] : NAN);
        qs_csv_put_text(w, step >= 0 ? qs_lambda_name((qs_lambda)c->states[step]) : "");
        QS_TRY(qs_csv_end_row(w));
    }
out:
    qs_mem_free(mean);
    return err;
}

static qs_err write_text_curve(qs_csv_writer *w, const char *config, const qs_artifact *artifact)
{
    double *mean = NULL;
    int64_t n;
    qs_err err;
    QS_TRY(qs_text_entropy(artifact, &mean, &n));
    if (n > 0) QS_TRY(write_curve(w, &(curve){config, "text", "mean", n, mean, NULL, NULL, NULL}));
out:
    qs_mem_free(mean);
    return err;
}

/* The mean curve of each wording. */
static qs_err write_wording_curves(qs_csv_writer *w, const char *config, const qs_artifact *artifact)
{
    qs_wordings wordings = {0};
    double *mean = NULL;
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/wordings/tokens")) return QS_OK;
    QS_TRY(qs_wordings_read(&wordings, artifact));
    QS_TRY(QS_NEW(mean, wordings.n_steps, "a mean curve"));
    for (int wording = 0; wording < QS_WORDINGS; wording++) {
        char name[16];
        int64_t n = qs_wordings_reach(&wordings, wording);
        (void)snprintf(name, sizeof name, "%d", wording);
        qs_wordings_curve(&wordings, wordings.n_prompts / QS_WORDINGS, wording, NULL, n, mean);
        if (n > 0) QS_TRY(write_curve(w, &(curve){config, "wording", name, n, mean, NULL, NULL, NULL}));
    }
out:
    qs_wordings_free(&wordings);
    qs_mem_free(mean);
    return err;
}

/* Distances and states of steps; both stay NULL where there are none. */
static qs_err read_steps(const qs_artifact *artifact, const qs_long_runs *runs, double **delta, int32_t **states)
{
    int64_t n = runs->n * (runs->n_steps / QS_RESONANCE_TOKENS);
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/longform/delta")) return QS_OK;
    QS_TRY(QS_NEW(*delta, n, "distances of steps"));
    QS_TRY(QS_NEW(*states, n, "states of steps"));
    QS_TRY(qs_artifact_read(artifact, "/longform/delta", QS_F64, *delta, n));
    QS_TRY(qs_artifact_read(artifact, "/longform/lambda", QS_I32, *states, n));
    for (int64_t i = 0; i < n; i++)
        if ((*states)[i] < 0 || (*states)[i] >= QS_N_LAMBDAS)
            return qs_fail(QS_E_INPUT, "read /longform/lambda: %d is no state; re-run %s", (*states)[i],
                           qs_artifact_kind_stage(QS_KIND_EVAL));
out:
    return err;
}

static qs_err write_long_curves(qs_csv_writer *w, const char *config, const qs_artifact *artifact)
{
    qs_long_runs runs = {0};
    qs_lines qids = {0};
    double *room = NULL, *delta = NULL;
    int32_t *states = NULL;
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/longform/tokens")) return QS_OK;
    QS_TRY(qs_long_read(&runs, artifact));
    QS_TRY(qs_lines_read(&qids, artifact, "/longform/qids", runs.n));
    QS_TRY(QS_NEW(room, runs.n_steps, "entropies"));
    QS_TRY(read_steps(artifact, &runs, &delta, &states));
    for (int64_t i = 0; i < runs.n; i++)
        for (int source = 0; source < 2; source++) {
            const float *values = source == 0 ? runs.entropy : runs.free_entropy;
            if (values == NULL) continue; /* the reference's own text is the one it is forced along */
            for (int64_t t = 0; t < runs.n_steps; t++) room[t] = (double)values[i * runs.n_steps + t];
            const float *kld = source == 0 && runs.kld != NULL ? runs.kld + i * runs.n_steps : NULL;
            curve c = {config, source == 0 ? "forced" : "free", qids.lines[i], runs.n_steps, room, kld, NULL, NULL};
            if (delta != NULL && (source == 1 || runs.free_entropy == NULL)) { /* of what the configuration wrote */
                c.delta = delta + i * (runs.n_steps / QS_RESONANCE_TOKENS);
                c.states = states + i * (runs.n_steps / QS_RESONANCE_TOKENS);
            }
            QS_TRY(write_curve(w, &c));
        }
out:
    qs_long_free(&runs);
    qs_lines_free(&qids);
    qs_mem_free(room);
    qs_mem_free(delta);
    qs_mem_free(states);
    return err;
}

qs_err qs_write_entropy(FILE *stream, const qs_sweep *sweep, const qs_selection *selection)
{
    qs_csv_writer w;
    qs_err err = QS_OK;
    (void)selection;
    qs_columns_begin(&w, stream, qs_entropy_columns, false);
    for (int64_t i = 0; i < sweep->n && err == QS_OK; i++) {
        const qs_config_row *config = &sweep->configs[i].row;
        qs_artifact *artifact;
        err = qs_artifact_open(&artifact, config->path, QS_KIND_EVAL);
        if (err != QS_OK) return err;
        err = write_text_curve(&w, config->id, artifact);
        if (err == QS_OK) err = write_wording_curves(&w, config->id, artifact);
        if (err == QS_OK) err = write_long_curves(&w, config->id, artifact);
        qs_artifact_close(artifact);
        err = qs_context(err, "tables of %s", config->path);
    }
    return err;
}
