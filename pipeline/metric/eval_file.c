#include "metric/eval_file.h"

#include <string.h>

#include "base/file.h"
#include "base/mem.h"
#include "metric/metrics.h"
#include "model/model_record.h"

/* ---- writing ---- */

static qs_err put_protocol(qs_artifact *artifact, const qs_subject *subject)
{
    const qs_windows *w = subject->windows;
    char text[QS_DIGEST_TEXT_BYTES];
    qs_err err;
    QS_TRY(qs_artifact_put_text(artifact, "/protocol/@name", w->protocol->name));
    QS_TRY(qs_artifact_put_int(artifact, "/protocol/@n_ctx", w->n_ctx));
    QS_TRY(qs_artifact_put_int(artifact, "/protocol/@n_windows", w->n_windows));
    QS_TRY(qs_artifact_put_int(artifact, "/protocol/@n_scored", w->n_windows * w->n_scored));
    QS_TRY(qs_artifact_put_text(artifact, "/protocol/@bos", w->bos));
    QS_TRY(qs_artifact_put_text(artifact, "/protocol/@text", qs_digest_format(text, w->text)));
    QS_TRY(qs_artifact_put_text(artifact, "/protocol/@compute", qs_compute_name(subject->compute)));
    QS_TRY(qs_artifact_put_int(artifact, "/protocol/@seed", (int64_t)subject->seed));
    if (subject->questions != NULL)
        QS_TRY(qs_artifact_put_text(artifact, "/protocol/@questions", qs_digest_format(text, *subject->questions)));
    QS_TRY(qs_artifact_put(artifact, "/tokens/ids", QS_I32, 2, (int64_t[]){w->n_windows, w->n_ctx}, w->ids));
out:
    return err;
}

/* Facts of the calibration that the quant artifact carries, so that the report can gate on them. */
static qs_err copy_calibration(qs_artifact *artifact, const qs_artifact *quant)
{
    static const struct {
        const char *path;
        bool real;
    } rows[] = {
        {"/calibration/@n_samples", false},    {"/calibration/@seqlen", false},
        {"/calibration/@js_divergence", true}, {"/calibration/@median_chars_ratio", true},
        {"/calibration/@propagated", false},
    };
    qs_err err = QS_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t integer;
        double real;
        if (!qs_artifact_has(quant, rows[i].path)) continue;
        if (rows[i].real) {
            QS_TRY(qs_artifact_get_real(quant, rows[i].path, &real));
            QS_TRY(qs_artifact_put_real(artifact, rows[i].path, real));
        } else {
            QS_TRY(qs_artifact_get_int(quant, rows[i].path, &integer));
            QS_TRY(qs_artifact_put_int(artifact, rows[i].path, integer));
        }
    }
out:
    return err;
}

static qs_err copy_losses(qs_artifact *artifact, const qs_quant_file *quant, int64_t n_layers)
{
    double *losses = NULL;
    qs_err err;
    QS_TRY(QS_NEW(losses, n_layers * QS_N_LINEARS, "losses of the layers"));
    QS_TRY(qs_quant_file_losses(quant, losses));
    QS_TRY(qs_artifact_put(artifact, "/layers/loss", QS_F64, 2, (int64_t[]){n_layers, QS_N_LINEARS}, losses));
out:
    qs_mem_free(losses);
    return err;
}

static qs_err put_quant(qs_artifact *artifact, const qs_subject *subject, const qs_quant_file *quant)
{
    const qs_artifact *source = qs_quant_file_artifact(quant);
    qs_err err;
    QS_TRY(copy_calibration(artifact, source));
    QS_TRY(copy_losses(artifact, quant, qs_model_get_config(subject->model)->n_layers));
    if (qs_artifact_has(source, "/timing/@quantize_s")) {
        double seconds;
        QS_TRY(qs_artifact_get_real(source, "/timing/@quantize_s", &seconds));
        QS_TRY(qs_artifact_put_real(artifact, "/timing/@quantize_s", seconds));
    }
out:
    return err;
}

qs_err qs_eval_file_begin(qs_artifact **out, const char *path, const qs_subject *subject,
                          const qs_candidate *candidate)
{
    qs_artifact *artifact = NULL;
    qs_err err;
    *out = NULL;
    QS_TRY(qs_artifact_create(&artifact, path, QS_KIND_EVAL));
    QS_TRY(qs_model_record(subject->model, artifact));
    if (subject->baseline != NULL)
        QS_TRY(qs_artifact_add_parent(artifact, "baseline", "fp", *subject->baseline));
    QS_TRY(qs_artifact_put_text(artifact, "/config/@id", subject->id));
    QS_TRY(qs_candidate_put_config(candidate, subject->model, subject->text, subject->text_bytes, artifact));
    QS_TRY(put_protocol(artifact, subject));
    if (subject->quant != NULL) QS_TRY(qs_artifact_add_parent(artifact, "quant", subject->id, *subject->quant));
    if (candidate->quant != NULL) QS_TRY(put_quant(artifact, subject, candidate->quant));
    *out = artifact;
    artifact = NULL;
out:
    qs_artifact_abort(artifact);
    return err;
}

qs_err qs_eval_file_put_scores(qs_artifact *artifact, const qs_windows *windows,
                               const qs_token_scores *scores)
{
    int64_t dims[] = {windows->n_windows, windows->n_scored};
    qs_err err;
    QS_TRY(qs_artifact_put(artifact, "/tokens/nll", QS_F32, 2, dims, scores->nll));
    QS_TRY(qs_artifact_put(artifact, "/tokens/argmax", QS_I32, 2, dims, scores->argmax));
    QS_TRY(qs_artifact_put(artifact, "/tokens/entropy", QS_F32, 2, dims, scores->entropy));
    if (scores->kld != NULL) QS_TRY(qs_artifact_put(artifact, "/tokens/kld", QS_F32, 2, dims, scores->kld));
out:
    return err;
}

qs_err qs_eval_file_begin_dumps(qs_artifact *artifact, const qs_subject *subject, unsigned dumps)
{
    const qs_windows *w = subject->windows;
    const qs_model_config *config = qs_model_get_config(subject->model);
    qs_err err = QS_OK;
    if ((dumps & QS_DUMP_TOKENS) != 0)
        QS_TRY(qs_artifact_put(artifact, "/dump/tokens", QS_I32, 2, (int64_t[]){w->n_windows, w->n_ctx},
                               w->ids));
    if ((dumps & QS_DUMP_LOGITS) != 0)
        QS_TRY(qs_artifact_begin(artifact, "/dump/logits", QS_F32, 3,
                                 (int64_t[]){w->n_windows, w->n_ctx, config->n_vocab}));
    if ((dumps & QS_DUMP_HIDDEN) != 0)
        QS_TRY(qs_artifact_begin(artifact, "/dump/hidden", QS_F32, 3,
                                 (int64_t[]){w->n_windows, w->n_ctx, config->d_model}));
out:
    return err;
}

/* ---- comparing ---- */

static qs_err same_text(const qs_artifact *artifact, const char *path, const char *wanted, bool *same)
{
    char text[QS_PATH_BYTES];
    *same = false;
    if (!qs_artifact_has(artifact, path)) return QS_OK;
    qs_err err = qs_artifact_get_text(artifact, path, text, sizeof text);
    if (err == QS_OK) *same = strcmp(text, wanted) == 0;
    return err;
}

static qs_err same_int(const qs_artifact *artifact, const char *path, int64_t wanted, bool *same)
{
    int64_t value;
    *same = false;
    if (!qs_artifact_has(artifact, path)) return QS_OK;
    qs_err err = qs_artifact_get_int(artifact, path, &value);
    if (err == QS_OK) *same = value == wanted;
    return err;
}

/* wanted NULL: the artifact must have no such parent. */
static qs_err same_parent(const qs_artifact *artifact, const char *role, const qs_digest *wanted, bool *same)
{
    char path[QS_PATH_BYTES];
    qs_digest digest;
    qs_err err = qs_path_format(path, "/parents/@%s", role);
    if (err != QS_OK) return err;
    bool has = qs_artifact_has(artifact, path);
    *same = has == (wanted != NULL);
    if (!has || wanted == NULL) return QS_OK;
    err = qs_artifact_get_parent(artifact, role, &digest);
    if (err == QS_OK) *same = digest.low == wanted->low && digest.high == wanted->high;
    return err;
}

static qs_err same_tokens(const qs_artifact *artifact, const qs_windows *windows, bool *same)
{
    qs_dataset_info info;
    int32_t *ids = NULL;
    qs_err err = QS_OK;
    *same = false;
    if (!qs_artifact_has(artifact, "/tokens/ids")) return QS_OK;
    QS_TRY(qs_artifact_info(artifact, "/tokens/ids", &info));
    if (info.dtype != QS_I32 || info.rank != 2 || info.dims[0] != windows->n_windows ||
        info.dims[1] != windows->n_ctx)
        goto out;
    QS_TRY(QS_NEW(ids, info.n, "tokens of an artifact"));
    QS_TRY(qs_artifact_read(artifact, "/tokens/ids", QS_I32, ids, info.n));
    *same = memcmp(ids, windows->ids, (size_t)info.n * sizeof *ids) == 0;
out:
    qs_mem_free(ids);
    return err;
}

/* An artifact without the digest differs only where it is needed. */
static qs_err same_digest(const qs_artifact *artifact, const char *path, const qs_digest *wanted, bool needed,
                          bool *same)
{
    char text[QS_DIGEST_TEXT_BYTES];
    *same = true;
    if (wanted == NULL || (!needed && !qs_artifact_has(artifact, path))) return QS_OK;
    return same_text(artifact, path, qs_digest_format(text, *wanted), same);
}

qs_err qs_eval_file_differs(const qs_artifact *artifact, const qs_subject *subject, bool as_baseline,
                            const char **what)
{
    const qs_windows *w = subject->windows;
    char text[QS_DIGEST_TEXT_BYTES];
    qs_digest model;
    bool same;
    qs_err err;
    QS_TRY(qs_model_digest(subject->model, &model));
    *what = "the model";
    QS_TRY(same_parent(artifact, "model", &model, &same));
    if (!same) goto out;
    *what = "the protocol";
    QS_TRY(same_text(artifact, "/protocol/@name", w->protocol->name, &same));
    if (same) QS_TRY(same_text(artifact, "/protocol/@bos", w->bos, &same));
    if (!same) goto out;
    *what = "the tokens (text, --ctx or --windows)";
    QS_TRY(same_tokens(artifact, w, &same));
    if (!same) goto out;
    *what = "the precision of products (--compute)";
    QS_TRY(same_text(artifact, "/protocol/@compute", qs_compute_name(subject->compute), &same));
    if (!same) goto out;
    *what = "what is embedded (--embed, --encoder)";
    if (!as_baseline) QS_TRY(same_digest(artifact, "/dump/@embedded", subject->embedded, false, &same));
    if (!same) goto out;
    *what = "what is asked, or how (--qa, --corpus, --encoder, --k, --items, --instruct, --chat, --probe, --headers, "
            "--temperature, --answer-tokens, --fix)";
    QS_TRY(same_digest(artifact, "/protocol/@questions", subject->questions, as_baseline, &same));
    if (!same || as_baseline) goto out;
    *what = "the text";
    QS_TRY(same_text(artifact, "/protocol/@text", qs_digest_format(text, w->text), &same));
    if (!same) goto out;
    *what = "the seed";
    QS_TRY(same_int(artifact, "/protocol/@seed", (int64_t)subject->seed, &same));
    if (!same) goto out;
    *what = "the quantised weights";
    QS_TRY(same_parent(artifact, "quant", subject->quant, &same));
    if (!same || subject->baseline == NULL) goto out;
    *what = "the reference";
    QS_TRY(same_parent(artifact, "baseline", subject->baseline, &same));
out:
    if (err == QS_OK && same) *what = NULL;
    return err;
}

unsigned qs_eval_file_tasks(const qs_artifact *artifact)
{
    unsigned tasks = 0;
    char path[QS_PATH_BYTES];
    for (const qs_metric *metric = qs_metrics; metric->name != NULL; metric++)
        if (qs_path_format(path, "/%s/%s/@value", metric->timing ? "timing" : "metrics", metric->name) ==
                QS_OK &&
            qs_artifact_has(artifact, path))
            tasks |= metric->task;
    return tasks;
}

unsigned qs_eval_file_dumps(const qs_artifact *artifact)
{
    return (qs_artifact_has(artifact, "/dump/tokens") ? (unsigned)QS_DUMP_TOKENS : 0) |
           (qs_artifact_has(artifact, "/dump/logits") ? (unsigned)QS_DUMP_LOGITS : 0) |
           (qs_artifact_has(artifact, "/dump/hidden") ? (unsigned)QS_DUMP_HIDDEN : 0) |
           (qs_artifact_has(artifact, "/dump/embeddings") ? (unsigned)QS_DUMP_EMBEDDINGS : 0);
}
