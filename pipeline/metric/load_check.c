#include "metric/load_check.h"

#include <inttypes.h>
#include <math.h>

#include "base/team.h"
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

/* |W - Q|^2 and |W|^2 of a row, which is the i-th of those read. */
static void measure_row(const checker *c, const qs_matrix_desc *desc, int64_t row, int64_t i, double squares[2])
{
    int64_t n = desc->n_in;
    const float *own = c->own + i * n;
    float *read = c->read + i * n;
    qs_packed_dequant_rows(desc->packed, row, 1, read);
    squares[0] = squares[1] = 0.0;
    for (int64_t j = 0; j < n; j++) {
        double w = (double)own[j], error = w - (double)read[j];
        squares[0] += error * error;
        squares[1] += w * w;
    }
}

typedef struct measuring {
    const checker *checker;
    const qs_matrix_desc *desc;
    int64_t first;
    double rows[ROWS][2];
} measuring;

static void measure_rows(void *context, int64_t first, int64_t last, int thread)
{
    (void)thread;
    measuring *work = context;
    for (int64_t i = first; i < last; i++) measure_row(work->checker, work->desc, work->first + i, i, work->rows[i]);
}

/* The same of a matrix. */
static qs_err measure(const checker *c, int64_t layer, qs_role role, const qs_matrix_desc *desc, double squares[2])
{
    qs_err err = QS_OK;
    squares[0] = squares[1] = 0.0;
    for (int64_t first = 0; first < desc->n_out; first += ROWS) {
        int64_t n = desc->n_out - first < ROWS ? desc->n_out - first : ROWS;
        measuring work = {.checker = c, .desc = desc, .first = first};
        QS_TRY(qs_model_read_rows_f32(c->model, role, layer, first, n, c->own));
        qs_team_run_shared(n, 1, measure_rows, &work);
        /* In the order of rows, however many threads there are. */
        for (int64_t i = 0; i < n; i++) {
            squares[0] += work.rows[i][0];
            squares[1] += work.rows[i][1];
        }
    }
out:
    return err;
}

static qs_err written_down(const qs_candidate *candidate, int64_t layer, qs_role role, double *error)
{
    char path[QS_PATH_BYTES];
    qs_err err = role == QS_ROLE_HEAD
                     ? qs_path_format(path, "%s/@weight_error", QS_QUANT_HEAD)
                     : qs_path_format(path, "/layers/%" PRId64 "/%s/@weight_error", layer, qs_role_name(role));
    return err == QS_OK ? qs_artifact_get_real(qs_quant_file_artifact(candidate->quant), path, error) : err;
}

/* sums [n_matrices, 2] of squares; *n_others: matrices whose error is another. */
static qs_err check_all(checker *c, const qs_candidate *candidate, int64_t n, double *sums, int64_t *n_others)
{
    const int64_t n_layers = qs_model_get_config(c->model)->n_layers;
    qs_err err = QS_OK;
    *n_others = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t layer = i / QS_N_LINEARS;
        qs_role role = (qs_role)(i % QS_N_LINEARS);
        qs_matrix_desc desc;
        double wanted;
        if (layer == n_layers) role = QS_ROLE_HEAD; /* behind all others */
        QS_TRY(role == QS_ROLE_HEAD ? c->source.get_head(c->source.context, &desc)
                                    : c->source.get(c->source.context, layer, role, &desc));
        QS_TRY(measure(c, layer, role, &desc, sums + 2 * i));
        QS_TRY(written_down(candidate, layer, role, &wanted));
        double error = sums[2 * i + 1] > 0.0 ? sqrt(sums[2 * i] / sums[2 * i + 1]) : 0.0;
        *n_others += !(fabs(error - wanted) <= tolerance * (1.0 + wanted));
    }
out:
    return err;
}

static double relative_error(const double *s) { return s[1] > 0.0 ? sqrt(s[0] / s[1]) : NAN; }

qs_err qs_load_check(const qs_candidate *candidate, const qs_model *model, uint64_t seed, qs_metric_sink put,
                     void *context)
{
    int64_t n = qs_model_get_config(model)->n_layers * QS_N_LINEARS, widest = 0;
    /* Of a rotated point the rotated weights are what was quantised. */
    checker c = {.model = qs_candidate_model(candidate, model), .source = qs_candidate_source(candidate)};
    qs_bootstrap options = {.seed = seed};
    qs_estimate error;
    int64_t n_others;
    double *sums = NULL;
    qs_err err;
    if (candidate->quant == NULL || qs_quant_file_spec(candidate->quant)->method->folds) return QS_OK;
    for (int role = 0; role < QS_N_LINEARS; role++) {
        qs_tensor_info info = qs_model_info(c.model, (qs_role)role, 0);
        if (info.n_in > widest) widest = info.n_in;
    }
    n += c.source.get_head != NULL;
    QS_TRY(QS_NEW(c.own, ROWS * widest, "weights"));
    QS_TRY(QS_NEW(c.read, ROWS * widest, "weights"));
    QS_TRY(QS_NEW(sums, 2 * n, "errors of matrices"));
    QS_TRY(check_all(&c, candidate, n, sums, &n_others));
    QS_TRY(qs_bootstrap_sums(&options, sums, n, 2, relative_error, &error));
    QS_TRY(put(context, qs_metric_find("load_error"), &error));
    /* Every matrix was looked at, so that nothing is left to chance. */
    double value = (double)n_others / (double)n;
    qs_estimate share = {value, value, value, n};
    QS_TRY(put(context, qs_metric_find("load_error_share"), &share));
out:
    qs_mem_free(c.own);
    qs_mem_free(c.read);
    qs_mem_free(sums);
    return qs_context(err, "check what was loaded");
}
