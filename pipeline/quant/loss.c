#include "quant/loss.h"

#include <math.h>
#include <string.h>

enum { STRIP = 256 }; /* columns of a product held at a time */

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

/* e[n_out, n_in] = W - Q, or W when packed is NULL; returns the sum of its squares. */
static double fill_errors(const qs_quant_job *job, const qs_packed *packed, float *e, double *row_sums, int n_threads)
{
    int64_t n_in = job->n_in;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < job->n_out; i++) {
        const float *w = job->weights + i * n_in;
        float *row = e + i * n_in;
        double sum = 0;
        if (packed != NULL)
            qs_packed_dequant_rows(packed, i, 1, row);
        else
            memset(row, 0, (size_t)n_in * sizeof *row);
        for (int64_t j = 0; j < n_in; j++) {
            row[j] = w[j] - row[j];
            sum += (double)row[j] * row[j];
        }
        row_sums[i] = sum;
    }
    double total = 0;
    for (int64_t i = 0; i < job->n_out; i++) total += row_sums[i];
    return total;
}

/* Sum over i of e[i][first + j] * product[i][j]. */
static double dot(const float *e, const float *product, int64_t n_out, int64_t n_in, int64_t first, int64_t width,
                  double *row_sums, int n_threads)
{
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n_out; i++) {
        double sum = 0;
        for (int64_t j = 0; j < width; j++) sum += (double)e[i * n_in + first + j] * product[i * width + j];
        row_sums[i] = sum;
    }
    double total = 0;
    for (int64_t i = 0; i < n_out; i++) total += row_sums[i];
    return total;
}

/* tr(E H E^T) for e[n_out, n_in]. H is symmetric: strips left of the diagonal count twice. */
static qs_err quadratic(qs_workspace *workspace, const qs_quant_job *job, const float *e, double *row_sums, double *out)
{
    qs_backend *backend = qs_workspace_backend(workspace);
    int64_t n_out = job->n_out, n_in = job->n_in, wide = min64(STRIP, n_in);
    int n_threads = qs_backend_n_threads(backend);
    const float *h = qs_factor_h(job->factors);
    float *product, *device_e, *device_h, *device_product;
    double total = 0;
    qs_err err;
    QS_TRY(qs_workspace_host(workspace, QS_HOST_PRODUCT, n_out * wide * (int64_t)sizeof *product, &product));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_PRODUCT, n_out * wide * (int64_t)sizeof *product, &device_product));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_ERRORS, n_out * n_in * (int64_t)sizeof *e, &device_e));
    QS_TRY(qs_workspace_device(workspace, QS_DEVICE_FACTOR, wide * n_in * (int64_t)sizeof *h, &device_h));
    QS_TRY(qs_backend_upload(backend, device_e, e, (size_t)(n_out * n_in) * sizeof *e));
    for (int64_t first = 0; first < n_in; first += wide) {
        int64_t width = min64(wide, n_in - first);
        QS_TRY(qs_backend_upload(backend, device_h, h + first * n_in, (size_t)(width * n_in) * sizeof *h));
        if (first > 0)
            QS_TRY(qs_op_gemm(backend, false, true, n_out, width, first, 2, device_e, n_in, device_h, n_in, 0,
                              device_product, width));
        QS_TRY(qs_op_gemm(backend, false, true, n_out, width, width, 1, device_e + first, n_in, device_h + first, n_in,
                          first > 0 ? 1 : 0, device_product, width));
        QS_TRY(qs_backend_download(backend, product, device_product, (size_t)(n_out * width) * sizeof *product));
        total += dot(e, product, n_out, n_in, first, width, row_sums, n_threads);
    }
    *out = total;
out:
    return err;
}

/* Rounding can leave a tiny negative value where the truth is 0. */
static double ratio(double part, double whole) { return whole > 0 && part > 0 ? part / whole : part > 0 ? INFINITY : 0; }

qs_err qs_loss_measure(qs_workspace *workspace, const qs_quant_task *tasks, int64_t n_tasks)
{
    int n_threads = qs_backend_n_threads(qs_workspace_backend(workspace));
    double weight_squares = 0, weight_form = 0;
    qs_err err = QS_OK;
    for (int64_t i = 0; i < n_tasks; i++) {
        const qs_quant_job *job = tasks[i].job;
        qs_quant_result *result = tasks[i].out;
        float *e;
        double *row_sums, form = 0;
        QS_TRY(qs_workspace_host(workspace, QS_HOST_ERRORS, job->n_out * job->n_in * (int64_t)sizeof *e, &e));
        QS_TRY(qs_workspace_host(workspace, QS_HOST_ROW_SUMS, job->n_out * (int64_t)sizeof *row_sums, &row_sums));
        if (i == 0 || job != tasks[i - 1].job) {
            weight_squares = fill_errors(job, NULL, e, row_sums, n_threads);
            if (job->factors != NULL) QS_TRY(quadratic(workspace, job, e, row_sums, &weight_form));
        }
        double squares = fill_errors(job, &result->packed, e, row_sums, n_threads);
        if (job->factors != NULL) QS_TRY(quadratic(workspace, job, e, row_sums, &form));
        result->weight_error = sqrt(ratio(squares, weight_squares));
        result->loss = job->factors != NULL ? ratio(form, weight_form) : ratio(squares, weight_squares);
        if (!isfinite(result->loss) || !isfinite(result->weight_error)) {
            err = qs_fail(QS_E_NUMERIC, "quantize %s with %s: the error is not finite", job->name, tasks[i].spec->id);
            goto out;
        }
    }
out:
    return err;
}
