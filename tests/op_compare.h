/* Holds what a backend makes of a case (op_cases.h) against the reference, and prints a line of each. */
#ifndef QS_TESTS_OP_COMPARE_H
#define QS_TESTS_OP_COMPARE_H

#include "tests/op_cases.h"

typedef struct parity {
    qs_backend *reference, *tested;
    const char *entry;
    int64_t n_cases, n_failed, n_left_out;
} parity;

static inline double residual(const output *got, const output *expected)
{
    double largest = 0.0, worst = 0.0;
    for (int64_t i = 0; i < expected->n; i++) largest = fmax(largest, fabs(expected->values[i]));
    for (int64_t i = 0; i < expected->n; i++) {
        if (!isfinite(got->values[i])) return INFINITY;
        double difference = fabs(got->values[i] - expected->values[i]);
        double size = expected->sizes != NULL ? expected->sizes[i] : largest;
        if (difference > 0.0) worst = fmax(worst, difference / size);
    }
    return worst;
}

/* Holds what the tested backend made of a case against the reference and prints its line. */
static inline void judge(parity *p, const op_case *row, const output *got)
{
    output expected = {0};
    char shape[96];
    int at = 0;
    for (int i = 0; i < N_SHAPE; i++)
        at += snprintf(shape + at, sizeof shape - (size_t)at, " %lld", (long long)row->shape[i]);
    if (got->n == 0) {
        printf("%-10s %-18s%-34s not supported\n", p->entry, row->op, shape);
        if (p->n_left_out++ == 0) printf("%-10s %s\n", p->entry, qs_error_text());
        return;
    }
    row->run(p->reference, row->shape, &expected);
    assert_int_equal(got->n, expected.n);
    double r = residual(got, &expected);
    bool good = r <= row->tolerance;
    printf("%-10s %-18s%-34s residual %.1e of %.0e %s\n", p->entry, row->op, shape, r, row->tolerance,
           good ? "PASS" : "FAIL");
    p->n_cases++;
    if (!good) p->n_failed++;
    output_free(&expected);
}

/* Runs a case on both backends. */
static inline void compare(const op_case *row, void *context)
{
    parity *p = context;
    output got = {0};
    row->run(p->tested, row->shape, &got);
    judge(p, row, &got);
    output_free(&got);
}

#endif
