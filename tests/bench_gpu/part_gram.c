/* Second moments of the two widths of a layer's inputs: rate and error against f64. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "tests/bench_gpu/bench_cuda.h"

enum { CHECKED_ROWS = 24, CHECKED_COLUMNS = 24 };
#define TOLERANCE 1e-6

typedef struct moments {
    bench *b;
    int64_t n, d;
    float *x;     /* device [n, d] */
    double *gram; /* device [d, d] */
} moments;

static qs_err run_gram(void *context)
{
    moments *m = context;
    return qs_op_gram(m->b->backend, m->x, m->n, m->d, m->gram);
}

/* A sample of the upper triangle after the first call. The error of an element is relative to the root of the product
 * of its two diagonal elements: off the diagonal sums cancel. */
static qs_err check(moments *m, double *error)
{
    qs_err err = QS_OK;
    const float *pattern = m->b->normal;
    double *row = NULL;
    *error = 0.0;
    QS_TRY(QS_NEW(row, m->d, "a row of second moments"));
    for (int64_t i = 0; i < CHECKED_ROWS; i++) {
        int64_t r = qs_rng_below(5, (uint64_t)i, m->d);
        QS_TRY(qs_backend_download(m->b->backend, row, m->gram + r * m->d, (size_t)m->d * sizeof *row));
        for (int64_t k = 0; k < CHECKED_COLUMNS; k++) {
            int64_t c = k == 0 ? r : r + qs_rng_below(6, (uint64_t)(i * CHECKED_COLUMNS + k), m->d - r);
            double product = 0.0, squares[2] = {0};
            for (int64_t t = 0; t < m->n; t++) {
                double x = pattern[(t * m->d + r) % BENCH_PATTERN], y = pattern[(t * m->d + c) % BENCH_PATTERN];
                product += x * y;
                squares[0] += x * x;
                squares[1] += y * y;
            }
            double e = fabs(row[c] - product) / sqrt(squares[0] * squares[1]);
            if (!(e <= *error)) *error = e;
        }
    }
    if (!(*error <= TOLERANCE)) m->b->wrong = true;
out:
    qs_mem_free(row);
    return err;
}

static qs_err measure(bench *b, int64_t d)
{
    qs_err err = QS_OK;
    moments m = {.b = b, .n = b->shape.gram_rows, .d = d};
    bench_row row = {.part = "gram", .name = d == b->shape.d_model ? "d_model" : "d_ff", .format = "f32", .rows = m.n,
                     .flops = 2.0 * (double)m.n * (double)d * (double)d};
    QS_TRY(bench_normal(b, &m.x, m.n * d, 1.0f, "activations"));
    QS_TRY(qs_backend_alloc(b->backend, &m.gram, (size_t)(d * d) * sizeof *m.gram, "second moments"));
    QS_TRY(bench_zero(b, m.gram, d * d));
    QS_TRY(run_gram(&m));
    QS_TRY(check(&m, &row.error));
    QS_TRY(bench_measure(b, run_gram, &m, false, 1.0, &row.time));
    bench_print(b, &row);
out:
    qs_backend_free(b->backend, m.x);
    qs_backend_free(b->backend, m.gram);
    return err;
}

qs_err bench_part_gram(bench *b)
{
    qs_err err = measure(b, b->shape.d_model);
    return err != QS_OK ? err : measure(b, b->shape.d_ff);
}
