/* Products with a norm before them and a gate behind them (qs_op_linears_with), for any backend: the same as the ops
 * one by one. */
#ifndef QS_TESTS_WITH_CASES_H
#define QS_TESTS_WITH_CASES_H

#include "tests/op_cases.h"
#include "tests/sanitized.h"

typedef struct with_case {
    qs_backend *backend;
    const qs_matrix *first, *second; /* [n_out, n_in] both */
    int64_t n_out, n_in, n;
    double tolerance; /* over the largest value */
    bool rows_are_alike; /* a row alone gives the bits that it gives in a batch */
} with_case;

/* y of both jobs, poisoned before; the second y is scratch where there is a gate. */
static inline void run_with(const with_case *c, const qs_linear_with *with, qs_linear_job jobs[2], const float *x,
                            int64_t n, float *y)
{
    size_t bytes = (size_t)(n * c->n_out) * sizeof *y;
    memset(y, 0xFF, 2 * bytes);
    for (int i = 0; i < 2; i++) OK(qs_backend_upload(c->backend, jobs[i].y, y, bytes));
    OK(qs_op_linears_with(c->backend, with, jobs, 2, x, n));
    for (int i = 0; i < (with->is_gated ? 1 : 2); i++)
        OK(qs_backend_download(c->backend, y + i * n * c->n_out, jobs[i].y, bytes));
}

/* gate_tolerance: with a gate, instead of the case's. */
static inline void check_with_gate(const with_case *c, double gate_tolerance)
{
    op_memory m = {.backend = c->backend};
    int64_t n_y = c->n * c->n_out, n_x = c->n * c->n_in;
    float *x = drawn_on_device(&m, 81, n_x, 3.0), *norm = drawn_on_device(&m, 82, c->n_in, 1.0);
    float *normed = floats_on_device(&m, NULL, n_x);
    float *expected = on_host(&m, 2 * n_y, sizeof *expected), *got = on_host(&m, 2 * n_y, sizeof *got);
    float *alone = on_host(&m, 2 * c->n_out, sizeof *alone);
    const float *x_before = to_host(&m, x, n_x);
    qs_linear_job jobs[2] = {{.matrix = c->first, .y = floats_on_device(&m, NULL, n_y)},
                             {.matrix = c->second, .y = floats_on_device(&m, NULL, n_y)}};
    jobs[0].bias = drawn_on_device(&m, 83, c->n_out, 1.0);
    for (int mode = 0; mode < 4; mode++) {
        qs_linear_with with = {
            .norm = mode & 1 ? norm : NULL, .norm_eps = 1e-5, .normed = normed, .is_gated = (mode & 2) != 0};
        const float *from = x;
        if (mode & 1) {
            OK(qs_op_rmsnorm(c->backend, x, norm, c->n, c->n_in, 1e-5, normed));
            from = normed;
        }
        OK(qs_op_linears(c->backend, jobs, 2, from, c->n));
        if (with.is_gated) OK(qs_op_silu_mul(c->backend, jobs[0].y, jobs[1].y, n_y, jobs[0].y));
        int64_t n_values = with.is_gated ? n_y : 2 * n_y;
        for (int i = 0; i < 2; i++)
            OK(qs_backend_download(c->backend, expected + i * n_y, jobs[i].y, (size_t)n_y * sizeof *expected));
        run_with(c, &with, jobs, x, c->n, got);
        double largest = 0.0, worst = 0.0, tolerance = with.is_gated ? gate_tolerance : c->tolerance;
        for (int64_t i = 0; i < n_values; i++) {
            if (!isfinite(got[i]))
                fail_msg("mode %d, %lld rows: element %lld is not finite", mode, (long long)c->n, (long long)i);
            largest = fmax(largest, fabs((double)expected[i]));
            worst = fmax(worst, fabs((double)got[i] - (double)expected[i]));
        }
        if (worst > tolerance * largest)
            fail_msg("norm %d gate %d, %lld rows of %lld x %lld: %g from the ops one by one, largest %g", mode & 1,
                     mode >> 1, (long long)c->n, (long long)c->n_out, (long long)c->n_in, worst, largest);
        for (int64_t row = 0; c->rows_are_alike && row < c->n; row++) {
            run_with(c, &with, jobs, x + row * c->n_in, 1, alone);
            for (int i = 0; i < (with.is_gated ? 1 : 2); i++)
                if (memcmp(alone + i * c->n_out, got + i * n_y + row * c->n_out, (size_t)c->n_out * sizeof *alone) != 0)
                    fail_msg("norm %d gate %d: row %lld of %lld is another alone", mode & 1, mode >> 1, (long long)row,
                             (long long)c->n);
        }
    }
    assert_memory_equal(to_host(&m, x, n_x), x_before, (size_t)n_x * sizeof *x_before);
    free_all(&m);
}

static inline void check_with(const with_case *c) { check_with_gate(c, c->tolerance); }

/* A gate that is left to the product behind it: the bits of the ops one by one. matrices: gate, up [n_ff, n_in], down
 * [n_in, n_ff]. */
static inline void check_left_gate(qs_backend *backend, qs_matrix *const matrices[3], int64_t n_in, int64_t n_ff,
                                   int64_t n, bool is_left)
{
    op_memory m = {.backend = backend};
    float *x = drawn_on_device(&m, 85, n * n_in, 2.0), *norm = drawn_on_device(&m, 86, n_in, 1.0);
    float *normed = floats_on_device(&m, NULL, n * n_in), *y[2];
    qs_linear_job jobs[2] = {{.matrix = matrices[0], .y = floats_on_device(&m, NULL, n * n_ff)},
                             {.matrix = matrices[1], .y = floats_on_device(&m, NULL, n * n_ff)}};
    for (int i = 0; i < 2; i++) y[i] = floats_on_device(&m, NULL, n * n_in);
    OK(qs_op_rmsnorm(backend, x, norm, n, n_in, 1e-5, normed));
    OK(qs_op_linears(backend, jobs, 2, normed, n));
    OK(qs_op_silu_mul(backend, jobs[0].y, jobs[1].y, n * n_ff, jobs[0].y));
    OK(qs_op_linear(backend, matrices[2], jobs[0].y, n, NULL, y[0]));
    bool leaves = true; /* as it is not by itself */
    qs_linear_with first = {.norm = norm, .norm_eps = 1e-5, .normed = normed, .is_gated = true, .leaves_gate = &leaves};
    OK(qs_op_linears_with(backend, &first, jobs, 2, x, n));
    assert_int_equal(leaves, is_left);
    if (!leaves) { /* any backend takes what is left, though this one leaves nothing here */
        OK(qs_op_rmsnorm(backend, x, norm, n, n_in, 1e-5, normed));
        OK(qs_op_linears(backend, jobs, 2, normed, n));
    }
    qs_linear_with second = {.gate = jobs[0].y, .up = jobs[1].y};
    OK(qs_op_linears_with(backend, &second, &(qs_linear_job){.matrix = matrices[2], .y = y[1]}, 1, jobs[0].y, n));
    assert_memory_equal(to_host(&m, y[1], n * n_in), to_host(&m, y[0], n * n_in), (size_t)(n * n_in) * sizeof(float));
    free_all(&m);
}

#endif
