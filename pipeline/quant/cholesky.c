#include "quant/cholesky.h"

#include <math.h>

#include "backend/solver_ops.h"
#include "base/minmax.h"

enum {
    LEAF = QS_FACTOR_LEAF, /* solved directly, in f64 */
    STRIP = 256, /* columns of a triangle multiplied at a time: less work on its zero half */
    DEVICE_STRIP = 512, /* enough to keep a GPU busy */
};

/* A and U [n, n] on the device; the functions below work on the diagonal block at .. at + size. */
typedef struct matrices {
    qs_backend *backend;
    float *a, *u;
    int64_t n, strip;
    bool positive;
    int32_t *status; /* device: not 0 once a leaf has failed; NULL where leaves are solved on the host */
} matrices;

static qs_err load_leaf(const matrices *m, int64_t at, int64_t size, float block[LEAF][LEAF])
{
    for (int64_t i = 0; i < size; i++) {
        qs_err err = qs_backend_download(m->backend, block[i], m->a + (at + i) * m->n + at,
                                         (size_t)size * sizeof(float));
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* r = upper triangular with block = r r^T, from the last column to the first. */
static bool factor_leaf(int64_t size, float block[LEAF][LEAF], double r[LEAF][LEAF])
{
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = i; j < size; j++) r[i][j] = block[i][j];
    for (int64_t k = size - 1; k >= 0; k--) {
        double pivot = r[k][k], column[LEAF];
        if (!(pivot > 0) || !isfinite(pivot)) return false;
        double root = sqrt(pivot);
        for (int64_t i = 0; i < k; i++) column[i] = r[i][k] /= root;
        r[k][k] = root;
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = i; j < k; j++) r[i][j] -= column[i] * column[j];
    }
    return true;
}

/* block = inv(r), row by row from the last: inv[i] = (e_i - sum over m > i of r[i][m] inv[m]) / r[i][i]. */
static void invert_leaf(int64_t size, double r[LEAF][LEAF], float block[LEAF][LEAF])
{
    static const double zero[LEAF] = {0};
    double inverse[LEAF][LEAF];
    for (int64_t i = size - 1; i >= 0; i--) {
        double row[LEAF];
        for (int64_t j = 0; j < size; j++) row[j] = zero[j];
        for (int64_t m = i + 1; m < size; m++)
            for (int64_t j = m; j < size; j++) row[j] -= r[i][m] * inverse[m][j];
        row[i] = 1;
        for (int64_t j = 0; j < size; j++) {
            inverse[i][j] = j < i ? 0 : row[j] / r[i][i];
            block[i][j] = (float)inverse[i][j];
        }
    }
}

static qs_err solve_leaf(matrices *m, int64_t at, int64_t size)
{
    float block[LEAF][LEAF];
    double r[LEAF][LEAF];
    if (m->status != NULL)
        return qs_backend_solver(m->backend)
            ->factor_leaf(m->backend, m->a + at * m->n + at, m->u + at * m->n + at, m->n, size, m->status);
    qs_err err = load_leaf(m, at, size, block);
    if (err != QS_OK) return err;
    m->positive = factor_leaf(size, block, r);
    if (!m->positive) return QS_OK;
    invert_leaf(size, r, block);
    for (int64_t i = 0; i < size && err == QS_OK; i++)
        err = qs_backend_upload(m->backend, m->u + (at + i) * m->n + at, block[i],
                                (size_t)size * sizeof(float));
    return err;
}

/* dst[rows, size] = src[rows, size] * U^T, U the upper triangular block at `at`: column j needs U's row j
 * from j on. */
static qs_err times_u_transposed(const matrices *m, int64_t rows, const float *src, int64_t at, int64_t size,
                                 float *dst)
{
    const float *u = m->u + at * m->n + at;
    for (int64_t j = 0; j < size; j += m->strip) {
        qs_err err = qs_op_gemm(m->backend, false, true, rows, qs_min64(m->strip, size - j), size - j, 1,
                                src + j, m->n, u + j * m->n + j, m->n, 0, dst + j, m->n);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* dst[rows, size] = src[rows, size] * U: column j needs src up to j. */
static qs_err times_u(const matrices *m, int64_t rows, const float *src, int64_t at, int64_t size, float *dst)
{
    const float *u = m->u + at * m->n + at;
    for (int64_t j = 0; j < size; j += m->strip) {
        int64_t width = qs_min64(m->strip, size - j);
        qs_err err = qs_op_gemm(m->backend, false, false, rows, width, j + width, 1, src, m->n, u + j, m->n,
                                0, dst + j, m->n);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* dst[size, columns] = -U * src[size, columns]: row i of U starts at i. */
static qs_err minus_u_times(const matrices *m, int64_t at, int64_t size, const float *src, int64_t columns,
                            float *dst)
{
    const float *u = m->u + at * m->n + at;
    for (int64_t i = 0; i < size; i += m->strip) {
        qs_err err = qs_op_gemm(m->backend, false, false, qs_min64(m->strip, size - i), columns, size - i, -1,
                                u + i * m->n + i, m->n, src + i * m->n, m->n, 0, dst + i * m->n, m->n);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* The upper triangle of A's block at `at` -= t t^T, t [size, k]. */
static qs_err subtract_square(const matrices *m, int64_t at, int64_t size, const float *t, int64_t k)
{
    float *a = m->a + at * m->n + at;
    for (int64_t j = 0; j < size; j += m->strip) {
        int64_t width = qs_min64(m->strip, size - j);
        qs_err err = qs_op_gemm(m->backend, false, true, j + width, width, k, -1, t, m->n, t + j * m->n, m->n,
                                1, a + j, m->n);
        if (err != QS_OK) return err;
    }
    return QS_OK;
}

/* With A = [A1 B; B^T A2] and T = B U2^T:  U2 = f(A2), U1 = f(A1 - T T^T), U12 = -U1 T U2. T waits where U12
 * will be. */
static qs_err solve(matrices *m, int64_t at, int64_t size)
{
    if (size <= LEAF) return solve_leaf(m, at, size);
    int64_t low = (size / 2 + LEAF - 1) / LEAF * LEAF, high = size - low;
    float *b = m->a + at * m->n + at + low, *t = m->u + at * m->n + at + low;
    qs_err err;
    QS_TRY(solve(m, at + low, high));
    if (!m->positive) goto out;
    QS_TRY(times_u_transposed(m, low, b, at + low, high, t));
    QS_TRY(subtract_square(m, at, low, t, high));
    QS_TRY(solve(m, at, low));
    if (!m->positive) goto out;
    QS_TRY(minus_u_times(m, at, low, t, high, b));
    QS_TRY(times_u(m, low, b, at + low, high, t));
out:
    return err;
}

/* On a device nothing waits for a leaf: a failed one spoils what follows, and the status tells at the end. */
static qs_err solve_on_device(matrices *m, const qs_solver_ops *solver)
{
    int32_t status = 0;
    qs_err err;
    QS_TRY(qs_backend_alloc(m->backend, &m->status, sizeof status, "Cholesky factor"));
    QS_TRY(qs_backend_upload(m->backend, m->status, &status, sizeof status));
    QS_TRY(solve(m, 0, m->n));
    QS_TRY(solver->check_factor(m->backend, m->u, m->n, m->status));
    QS_TRY(qs_backend_download(m->backend, &status, m->status, sizeof status));
    m->positive = status == 0;
out:
    qs_backend_free(m->backend, m->status);
    return err;
}

qs_err qs_cholesky_inverse_factor(qs_backend *backend, float *a, float *u, int64_t n, bool *positive)
{
    const qs_solver_ops *solver = qs_backend_solver(backend);
    matrices m = {.backend = backend, .a = a, .u = u, .n = n, .positive = true,
                  .strip = solver != NULL ? DEVICE_STRIP : STRIP};
    qs_err err = solver != NULL ? solve_on_device(&m, solver) : solve(&m, 0, n);
    *positive = m.positive;
    return err;
}
