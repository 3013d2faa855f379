#include "report/config_row.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metric/bootstrap.h"
#include "model/weights.h"
#include "train/compare.h"

/* Facts that gates judge and that are no metrics: where they stand in the artifact. */
static const struct {
    const char *name, *path;
    bool is_int;
} facts[] = {
    {"calibration_size", "/calibration/@n_samples", true},
    {"calibration_js", "/calibration/@js_divergence", false},
    {"calibration_median_ratio", "/calibration/@median_chars_ratio", false},
    {"qa_pairs", "/qa/@n_items", true},
};
enum { N_FACTS = sizeof facts / sizeof *facts };
static const char *const more_facts[] = {"tokenizer_same", "index_same", "build_same", "loss_attention"};
enum { N_MORE_FACTS = sizeof more_facts / sizeof *more_facts };

bool qs_config_row_is_fact(const char *name)
{
    bool found = false;
    for (int i = 0; i < N_FACTS; i++) found = found || strcmp(facts[i].name, name) == 0;
    for (int i = 0; i < N_MORE_FACTS; i++) found = found || strcmp(more_facts[i], name) == 0;
    return found;
}

bool qs_config_row_is_known(const char *name)
{
    for (const qs_metric *metric = qs_compare_metrics; metric->name != NULL; metric++)
        if (strcmp(metric->name, name) == 0) return true;
    return qs_metric_find(name) != NULL || qs_config_row_is_fact(name);
}

/* ---- single values ---- */

/* Texts go to tables and terminals: control characters would break lines or worse. */
static void make_printable(char *text)
{
    for (char *c = text; *c != '\0'; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f) *c = ' ';
}

static qs_err get_text(const qs_artifact *artifact, const char *path, bool needed,
                       char text[QS_CONFIG_TEXT_BYTES])
{
    text[0] = '\0';
    if (!needed && !qs_artifact_has(artifact, path)) return QS_OK;
    qs_err err = qs_artifact_get_text(artifact, path, text, QS_CONFIG_TEXT_BYTES);
    make_printable(text);
    return err;
}

static qs_err get_int(const qs_artifact *artifact, const char *path, int64_t *value)
{
    return qs_artifact_has(artifact, path) ? qs_artifact_get_int(artifact, path, value) : QS_OK;
}

static qs_err get_real(const qs_artifact *artifact, const char *path, double *value)
{
    *value = NAN;
    return qs_artifact_has(artifact, path) ? qs_artifact_get_real(artifact, path, value) : QS_OK;
}

/* The id becomes a name in tables, sentences and files. */
static qs_err check_id(const qs_config_row *row)
{
    bool plain = row->id[0] != '\0';
    for (const char *c = row->id; *c != '\0'; c++) plain = plain && *c > ' ' && *c <= '~' && *c != '/';
    if (plain) return QS_OK;
    return qs_fail(QS_E_INPUT, "read %s: the config id \"%s\" is not a plain name; re-run %s", row->path,
                   row->id, qs_artifact_kind_stage(QS_KIND_EVAL));
}

static qs_err read_config(qs_config_row *row, const qs_artifact *artifact)
{
    qs_err err;
    QS_TRY(get_text(artifact, "/config/@id", true, row->id));
    QS_TRY(check_id(row));
    QS_TRY(get_text(artifact, "/config/@method", true, row->method));
    QS_TRY(get_text(artifact, "/config/@variant", false, row->variant));
    QS_TRY(get_int(artifact, "/config/@bits", &row->bits));
    QS_TRY(get_int(artifact, "/config/@group_size", &row->group_size));
    QS_TRY(get_int(artifact, "/config/@bytes", &row->bytes));
    QS_TRY(get_real(artifact, "/config/@bpw", &row->bpw));
    QS_TRY(get_real(artifact, "/config/@bpw_total", &row->bpw_total));
    QS_TRY(get_text(artifact, "/timing/@backend", false, row->backend));
    QS_TRY(get_text(artifact, "/timing/@device", false, row->device));
    QS_TRY(get_text(artifact, "/timing/@kernel", false, row->kernel));
    QS_TRY(get_int(artifact, "/timing/@n_threads", &row->n_threads));
    QS_TRY(get_real(artifact, "/timing/@quantize_s", &row->quantize_s));
    row->reference = strcmp(row->method, "fp") == 0;
    row->packed =
        qs_artifact_has(artifact, "/parents/@quant") || qs_artifact_has(artifact, "/parents/@checkpoint");
    row->has_baseline = qs_artifact_has(artifact, "/parents/@baseline");
    if (row->has_baseline) QS_TRY(qs_artifact_get_parent(artifact, "baseline", &row->baseline));
    row->digest = qs_artifact_digest(artifact);
out:
    return err;
}

static qs_err read_command(qs_config_row *row, const qs_artifact *artifact)
{
    enum { COMMAND_BYTES = 1 << 15 };
    qs_err err;
    if (!qs_artifact_has(artifact, "/provenance/@command")) return QS_OK;
    QS_TRY(qs_mem_alloc(&row->command, COMMAND_BYTES, "command line"));
    QS_TRY(qs_artifact_get_text(artifact, "/provenance/@command", row->command, COMMAND_BYTES));
    make_printable(row->command);
out:
    return err;
}

static qs_err read_build(qs_config_row *row, const qs_artifact *artifact)
{
    char version[QS_CONFIG_TEXT_BYTES], kernels[QS_CONFIG_TEXT_BYTES];
    qs_err err;
    QS_TRY(get_text(artifact, "/provenance/@version", false, version));
    QS_TRY(get_text(artifact, "/provenance/@kernels", false, kernels));
    if (version[0] != '\0' && kernels[0] != '\0')
        (void)snprintf(row->build, sizeof row->build, "%.100s, %.400s", version, kernels);
out:
    return err;
}

static qs_err read_frame(qs_frame *frame, const qs_artifact *artifact)
{
    int64_t lattice = 0;
    qs_err err;
    QS_TRY(get_text(artifact, "/model/@name", true, frame->model));
    QS_TRY(get_text(artifact, "/model/@architecture", false, frame->architecture));
    QS_TRY(get_text(artifact, "/model/@storage", false, frame->storage));
    QS_TRY(get_text(artifact, "/model/@tokenizer", false, frame->tokenizer));
    QS_TRY(get_int(artifact, "/model/@n_weights", &frame->n_weights));
    QS_TRY(get_int(artifact, "/model/@n_weights_total", &frame->n_weights_total));
    QS_TRY(get_int(artifact, "/model/@lattice", &lattice));
    frame->lattice = lattice != 0;
    QS_TRY(qs_artifact_get_parent(artifact, "model", &frame->model_digest));
    QS_TRY(get_text(artifact, "/protocol/@name", false, frame->protocol));
    QS_TRY(get_text(artifact, "/protocol/@bos", false, frame->bos));
    QS_TRY(get_text(artifact, "/protocol/@compute", false, frame->compute));
    QS_TRY(get_text(artifact, "/protocol/@text", false, frame->text));
    QS_TRY(get_text(artifact, "/semantic/@encoder", false, frame->encoder));
    if (qs_artifact_has(artifact, "/qa/@n_items")) (void)snprintf(frame->chat, sizeof frame->chat, "none");
    if (qs_artifact_has(artifact, "/qa/@chat")) QS_TRY(get_text(artifact, "/qa/@chat", true, frame->chat));
    QS_TRY(get_int(artifact, "/protocol/@n_ctx", &frame->n_ctx));
    QS_TRY(get_int(artifact, "/protocol/@n_windows", &frame->n_windows));
    QS_TRY(get_int(artifact, "/protocol/@n_scored", &frame->n_scored));
out:
    return err;
}

/* ---- measures ---- */

static qs_err add_measure(qs_config_row *row, const char *name, bool timing, qs_measure **out)
{
    if (strlen(name) >= QS_MEASURE_NAME_BYTES)
        return qs_fail(QS_E_INPUT, "read %s: the metric name %s is too long", row->path, name);
    qs_measure *measure = &row->measures[row->n_measures++];
    *measure = (qs_measure){.timing = timing};
    (void)snprintf(measure->name, sizeof measure->name, "%s", name);
    *out = measure;
    return QS_OK;
}

static qs_err check_estimate(const qs_config_row *row, const qs_measure *measure)
{
    const qs_estimate *e = &measure->estimate;
    if (isfinite(e->value) && isfinite(e->lo) && isfinite(e->hi) && e->lo <= e->hi) return QS_OK;
    return qs_fail(QS_E_NUMERIC, "read %s: %s = %g [%g, %g] is not a number with an interval", row->path,
                   measure->name, e->value, e->lo, e->hi);
}

/* All of a group, also metrics that this version has no row for: gates may name them. */
static qs_err read_group(qs_config_row *row, const qs_artifact *artifact, const char *group,
                         char *const *names, int64_t n_names)
{
    bool timing = strcmp(group, "/timing") == 0;
    for (int64_t i = 0; i < n_names; i++) {
        char path[QS_PATH_BYTES];
        qs_err err = qs_path_format(path, "%s/%s/@value", group, names[i]);
        if (err != QS_OK) return err;
        if (!qs_artifact_has(artifact, path)) continue; /* the raw samples of /timing */
        qs_metric metric = {.name = names[i], .timing = timing};
        qs_measure *measure;
        bool present;
        err = add_measure(row, names[i], timing, &measure);
        if (err == QS_OK) err = qs_metric_get(artifact, &metric, &measure->estimate, &present);
        if (err == QS_OK) err = check_estimate(row, measure);
        if (err != QS_OK) return err;
        /* A median has an interval; a count of bytes or a yes has none. */
        measure->fact = timing && measure->estimate.lo == measure->estimate.hi;
    }
    return QS_OK;
}

static qs_err add_fact(qs_config_row *row, const char *name, double value)
{
    qs_measure *measure;
    qs_err err = add_measure(row, name, false, &measure);
    if (err != QS_OK) return err;
    measure->fact = true;
    measure->estimate = (qs_estimate){value, value, value, 1};
    return QS_OK;
}

static qs_err read_facts(qs_config_row *row, const qs_artifact *artifact)
{
    for (int i = 0; i < N_FACTS; i++) {
        double value = NAN;
        int64_t integer = 0;
        if (!qs_artifact_has(artifact, facts[i].path)) continue;
        qs_err err = facts[i].is_int ? qs_artifact_get_int(artifact, facts[i].path, &integer)
                                     : qs_artifact_get_real(artifact, facts[i].path, &value);
        if (err == QS_OK) err = add_fact(row, facts[i].name, facts[i].is_int ? (double)integer : value);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* A quant artifact is of this model, whose tokenizer its digest holds; a checkpoint brings its own. */
static qs_err read_tokenizer_fact(qs_config_row *row, const qs_artifact *artifact)
{
    char text[QS_CONFIG_TEXT_BYTES];
    qs_err err = get_text(artifact, "/checkpoint/@tokenizer", false, text);
    if (err != QS_OK || row->reference || strcmp(text, "none") == 0) return err;
    if (text[0] == '\0' && !qs_artifact_has(artifact, "/parents/@quant")) return QS_OK;
    return add_fact(row, "tokenizer_same", text[0] == '\0' || strcmp(text, "same") == 0);
}

void qs_config_row_compare(qs_config_row *row, const qs_config_row *reference)
{
    const struct {
        const char *name, *own, *other;
    } pairs[] = {{"index_same", row->corpus, reference->corpus}, {"build_same", row->build, reference->build}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (pairs[i].own[0] == '\0' || pairs[i].other[0] == '\0' || row == reference) continue;
        /* read_measures has left room, and the names are short. */
        qs_err err = add_fact(row, pairs[i].name, strcmp(pairs[i].own, pairs[i].other) == 0);
        (void)err;
    }
}

static qs_err read_measures(qs_config_row *row, const qs_artifact *artifact)
{
    static const char *const groups[] = {"/metrics", "/timing"};
    char **names[2] = {NULL, NULL};
    int64_t n_names[2] = {0, 0};
    qs_err err = QS_OK;
    for (int g = 0; g < 2; g++)
        if (qs_artifact_has(artifact, groups[g]))
            QS_TRY(qs_artifact_list(artifact, groups[g], &names[g], &n_names[g]));
    QS_TRY(QS_NEW(row->measures, n_names[0] + n_names[1] + N_FACTS + N_MORE_FACTS, "measures"));
    for (int g = 0; g < 2; g++) QS_TRY(read_group(row, artifact, groups[g], names[g], n_names[g]));
    QS_TRY(read_facts(row, artifact));
    QS_TRY(read_tokenizer_fact(row, artifact));
out:
    for (int g = 0; g < 2; g++) qs_dir_list_free(names[g], n_names[g]);
    return err;
}

/* ---- arrays ---- */

static qs_err read_tokens(qs_config_row *row, const qs_artifact *artifact)
{
    qs_dataset_info info;
    int32_t *ids = NULL;
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/tokens/ids")) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, "/tokens/ids", &info));
    QS_TRY(QS_NEW(ids, info.n, "token ids"));
    QS_TRY(qs_artifact_read(artifact, "/tokens/ids", QS_I32, ids, info.n));
    row->frame.tokens = qs_hash(ids, (size_t)info.n * sizeof *ids);
    row->frame.has_tokens = true;
out:
    qs_mem_free(ids);
    return err;
}

static qs_err read_nll(qs_config_row *row, const qs_artifact *artifact)
{
    qs_dataset_info info;
    float *nll = NULL;
    qs_err err = QS_OK;
    if (!qs_artifact_has(artifact, "/tokens/nll")) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, "/tokens/nll", &info));
    if (info.rank != 2) {
        err = qs_fail(QS_E_INPUT, "read %s: /tokens/nll is no matrix; re-run %s", row->path,
                      qs_artifact_kind_stage(QS_KIND_EVAL));
        goto out;
    }
    QS_TRY(QS_NEW(nll, info.n, "token NLL"));
    QS_TRY(QS_NEW(row->window_nll, info.dims[0], "window NLL"));
    QS_TRY(qs_artifact_read(artifact, "/tokens/nll", QS_F32, nll, info.n));
    row->n_windows = info.dims[0];
    row->n_scored_per_window = info.dims[1];
    for (int64_t window = 0; window < info.dims[0]; window++)
        for (int64_t i = 0; i < info.dims[1]; i++)
            row->window_nll[window] += (double)nll[window * info.dims[1] + i];
out:
    qs_mem_free(nll);
    return err;
}

static qs_err read_loss(qs_config_row *row, const qs_artifact *artifact)
{
    qs_dataset_info info;
    qs_err err;
    if (!qs_artifact_has(artifact, "/layers/loss")) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, "/layers/loss", &info));
    if (info.rank != 2 || info.dims[1] != QS_N_LINEARS) {
        err = qs_fail(QS_E_INPUT, "read %s: /layers/loss has not %d columns; re-run %s", row->path,
                      QS_N_LINEARS, qs_artifact_kind_stage(QS_KIND_EVAL));
        goto out;
    }
    QS_TRY(QS_NEW(row->loss, info.n, "losses"));
    QS_TRY(qs_artifact_read(artifact, "/layers/loss", QS_F64, row->loss, info.n));
    row->n_layers = info.dims[0];
out:
    return err;
}

/* How much more the matrices of attention lost than the others, as the solver wrote it down: mean over mean. */
static qs_err add_attention_fact(qs_config_row *row)
{
    double sums[2] = {0.0, 0.0}, counts[2] = {0.0, 0.0};
    for (int64_t i = 0; row->loss != NULL && i < row->n_layers * QS_N_LINEARS; i++) {
        int mlp = i % QS_N_LINEARS >= QS_ROLE_GATE;
        sums[mlp] += row->loss[i];
        counts[mlp] += 1.0;
    }
    if (sums[1] <= 0.0) return QS_OK;
    return add_fact(row, "loss_attention", sums[0] / counts[0] / (sums[1] / counts[1]));
}

static int compare_reals(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

const double qs_spread_shares[QS_N_SPREAD] = {0.05, 0.25, 0.50, 0.75, 0.95};

/* *ms [*n] in ascending order, freed with qs_mem_free; NULL and 0 where there are none. */
static qs_err read_times(const qs_artifact *artifact, const char *path, double **ms, int64_t *n)
{
    qs_dataset_info info;
    qs_err err;
    *n = 0;
    if (!qs_artifact_has(artifact, path)) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, path, &info));
    QS_TRY(QS_NEW(*ms, info.n, "times"));
    QS_TRY(qs_artifact_read(artifact, path, QS_F64, *ms, info.n));
    qsort(*ms, (size_t)info.n, sizeof **ms, compare_reals);
    *n = info.n;
out:
    return err;
}

static qs_err read_decode_times(qs_config_row *row, const qs_artifact *artifact)
{
    double *own = NULL, *reference = NULL;
    int64_t n;
    qs_err err;
    row->reference_decode_ms_p50 = NAN;
    for (int i = 0; i < QS_N_SPREAD; i++) row->decode_ms_spread[i] = NAN;
    QS_TRY(read_times(artifact, "/timing/reference_decode_ms", &reference, &n));
    if (n > 0) row->reference_decode_ms_p50 = qs_quantile_sorted(reference, n, 0.5);
    QS_TRY(read_times(artifact, "/timing/decode_ms", &own, &n));
    for (int i = 0; i < QS_N_SPREAD && n > 0; i++)
        row->decode_ms_spread[i] = qs_quantile_sorted(own, n, qs_spread_shares[i]);
    row->n_decoded = n;
out:
    qs_mem_free(own);
    qs_mem_free(reference);
    return err;
}

/* A part of the windows stands in the frame of all of them. */
static qs_err read_race(qs_config_row *row, const qs_artifact *artifact)
{
    qs_frame *frame = &row->frame;
    qs_err err;
    QS_TRY(qs_raced_get(artifact, &row->raced));
    if (!qs_raced_is_partial(&row->raced)) goto out;
    if (frame->n_windows != row->raced.n_windows || frame->n_scored % row->raced.n_windows != 0) {
        err = qs_fail(QS_E_INPUT, "read %s: its race was of other windows; re-run %s", row->path,
                      qs_artifact_kind_stage(QS_KIND_EVAL));
        goto out;
    }
    frame->n_scored = frame->n_scored / row->raced.n_windows * row->raced.n_windows_all;
    frame->n_windows = row->raced.n_windows_all;
    frame->tokens = row->raced.tokens;
out:
    return err;
}

/* ---- the whole ---- */

qs_err qs_config_row_load(qs_config_row *out, const char *path)
{
    *out = (qs_config_row){0};
    qs_artifact *artifact = NULL;
    qs_err err;
    QS_TRY(qs_path_format(out->path, "%s", path));
    QS_TRY(qs_artifact_open(&artifact, path, QS_KIND_EVAL));
    QS_TRY(read_config(out, artifact));
    QS_TRY(read_command(out, artifact));
    QS_TRY(read_build(out, artifact));
    QS_TRY(get_text(artifact, "/semantic/@corpus_hash", false, out->corpus));
    QS_TRY(read_frame(&out->frame, artifact));
    QS_TRY(read_measures(out, artifact));
    QS_TRY(read_tokens(out, artifact));
    QS_TRY(read_race(out, artifact));
    QS_TRY(read_nll(out, artifact));
    QS_TRY(read_loss(out, artifact));
    QS_TRY(add_attention_fact(out));
    QS_TRY(read_decode_times(out, artifact));
out:
    qs_artifact_close(artifact);
    return err;
}

void qs_config_row_free(qs_config_row *row)
{
    qs_mem_free(row->measures);
    qs_mem_free(row->command);
    qs_mem_free(row->window_nll);
    qs_mem_free(row->loss);
    *row = (qs_config_row){0};
}

int64_t qs_config_row_tokens(const qs_config_row *row)
{
    return qs_raced_is_partial(&row->raced) ? row->frame.n_scored / row->raced.n_windows_all * row->raced.n_windows
                                            : row->frame.n_scored;
}

const qs_measure *qs_config_row_find(const qs_config_row *row, const char *name)
{
    for (int64_t i = 0; i < row->n_measures; i++)
        if (strcmp(row->measures[i].name, name) == 0) return &row->measures[i];
    return NULL;
}

double qs_config_row_value(const qs_config_row *row, const char *name)
{
    const qs_measure *measure = qs_config_row_find(row, name);
    return measure != NULL ? measure->estimate.value : NAN;
}
