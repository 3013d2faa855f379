#include "metric/load_check.h"

#include <inttypes.h>
#include <math.h>

#include "base/file.h"
#include "base/mem.h"
#include "metric/bootstrap.h"

/* Above what two orders of summing make of one error, and far below what another code makes. */
static const double tolerance = 1e-3;
enum { ROWS = 64 };

typedef struct checker {
    const qs_model *model;
    qs_linear_source source;
    float *own, *read; /* [ROWS, n_in] of the widest matrix */
} checker;

static bool is_folded(const checker *c, int64_t n_layers)
{
    const qs_model_config *config = qs_model_get_config(c->model);
    float *norm = c->own; /* at least d_model long */
    bool found = false;
    for (int64_t layer = 0; layer < n_layers && !found && c->source.get_vector != NULL; layer++)
        if (c->source.get_vector(c->source.context, layer, QS_ROLE_ATTN_NORM, config->d_model, norm, &found) != QS_OK)
            return true;
    return found;
}

/* |W - Q|^2 and |W|^2. */
static qs_err measure(const checker *c, int64_t layer, qs_role role, const qs_matrix_desc *desc, double squares[2])
{
    qs_err err = QS_OK;
    squares[0] = squares[1] = 0.0;
    for (int64_t first = 0; first < desc->n_out; first += ROWS) {
        int64_t n = desc->n_out - first < ROWS ? desc->n_out - first : ROWS;
        QS_TRY(qs_model_read_rows_f32(c->model, role, layer, first, n, c->own));
        qs_packed_dequant_rows(desc->packed, first, n, c->read);
        for (int64_t i = 0; i < n * desc->n_in; i++) {
            double own = (double)c->own[i], error = own - (double)c->read[i];
            squares[0] += error * error;
            squares[1] += own * own;
        }
    }
out:
    return err;
}

static qs_err written_down(const qs_candidate *candidate, int64_t layer, qs_role role, double *error, bool *present)
{
    char path[QS_PATH_BYTES];
    const qs_artifact *artifact = candidate->quant != NULL ? qs_quant_file_artifact(candidate->quant) : NULL;
    qs_err err = qs_path_format(path, "/layers/%" PRId64 "/%s/@weight_error", layer, qs_role_name(role));
    *present = err == QS_OK && artifact != NULL && qs_artifact_has(artifact, path);
    return *present ? qs_artifact_get_real(artifact, path, error) : err;
}

/* sums [n_matrices, 2] of squares, others [n_matrices, 2]: one where the error is another, and one where it is known. */
static qs_err check_all(checker *c, const qs_candidate *candidate, int64_t n_layers, double *sums, double *others)
{
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_layers * QS_N_LINEARS; i++) {
        int64_t layer = i / QS_N_LINEARS;
        qs_role role = (qs_role)(i % QS_N_LINEARS);
        qs_matrix_desc desc;
        double wanted;
        bool present;
        sums[2 * i] = sums[2 * i + 1] = others[2 * i] = others[2 * i + 1] = 0.0;
        QS_TRY(c->source.get(c->source.context, layer, role, &desc));
        if (desc.packed == NULL) continue; /* a linear of a checkpoint that is not quantised */
        QS_TRY(measure(c, layer, role, &desc, sums + 2 * i));
        QS_TRY(written_down(candidate, layer, role, &wanted, &present));
        double error = sums[2 * i + 1] > 0.0 ? sqrt(sums[2 * i] / sums[2 * i + 1]) : 0.0;
        others[2 * i] = present && !(fabs(error - wanted) <= tolerance * (1.0 + wanted));
        others[2 * i + 1] = present;
    }
out:
    return err;
}

static double relative_error(const double *s) { return sqrt(s[0] / s[1]); }

static qs_err put_both(const double *sums, const double *others, int64_t n, uint64_t seed, qs_metric_sink put,
                       void *context)
{
    qs_bootstrap options = {.seed = seed};
    qs_estimate error;
    double known = 0.0, weights = 0.0, other = 0.0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n; i++) {
        weights += sums[2 * i + 1];
        known += others[2 * i + 1];
        other += others[2 * i];
    }
    if (weights > 0.0) {
        QS_TRY(qs_bootstrap_sums(&options, sums, n, 2, relative_error, &error));
        QS_TRY(put(context, qs_metric_find("load_error"), &error));
    }
    if (known == 0.0) goto out;
    /* Every matrix was looked at, so that nothing is left to chance. */
    qs_estimate share = {other / known, other / known, other / known, (int64_t)known};
    QS_TRY(put(context, qs_metric_find("load_error_share"), &share));
out:
    return err;
}

qs_err qs_load_check(const qs_candidate *candidate, const qs_model *model, uint64_t seed, qs_metric_sink put,
                     void *context)
{
    int64_t n_layers = qs_model_get_config(model)->n_layers, n = n_layers * QS_N_LINEARS,
            widest = qs_model_get_config(model)->d_model;
    checker c = {.model = model, .source = qs_candidate_source(candidate)};
    double *sums = NULL, *others = NULL;
    qs_err err;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(model, (qs_role)role, 0);
        if (info.n_in > widest) widest = info.n_in;
    }
    QS_TRY(QS_NEW(c.own, ROWS * widest, "weights"));
    QS_TRY(QS_NEW(c.read, ROWS * widest, "weights"));
    QS_TRY(QS_NEW(sums, 2 * n, "errors of matrices"));
    QS_TRY(QS_NEW(others, 2 * n, "errors of matrices"));
    if (is_folded(&c, n_layers)) goto out;
    QS_TRY(check_all(&c, candidate, n_layers, sums, others));
    QS_TRY(put_both(sums, others, n, seed, put, context));
out:
    qs_mem_free(c.own);
    qs_mem_free(c.read);
    qs_mem_free(sums);
    qs_mem_free(others);
    return qs_context(err, "check what was loaded");
}
