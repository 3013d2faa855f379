/* Products that share their input, in one call and one by one (checklist A8): q, k, v and gate, up of a token, in
 * turns, so that whatever else runs disturbs both alike. The numbers are the same (tests/test_backend.c).
 *
 * usage: bench_fused [THREADS] */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "quant/methods.h"
#include "tests/quant_data.h"

enum { N_ROUNDS = 401, N_MATRICES = 3, N_CALLS = 4 };

typedef struct set {
    const char *name, *spec;          /* spec NULL = f16 */
    int64_t n_in, n_outs[N_MATRICES]; /* 0 = fewer */
} set;

static const set sets[] = {
    {"q, k, v of 135M, 4 bits", "rtn:bits=4,group=64", 576, {576, 192, 192}},
    {"gate, up of 135M, 4 bits", "rtn:bits=4,group=64", 576, {1536, 1536}},
    {"q, k, v of 135M, f16", NULL, 576, {576, 192, 192}},
    {"q, k, v of 1B, 4 bits", "rtn:bits=4,group=64", 2048, {2048, 512, 512}},
    {"gate, up of 1B, 4 bits", "rtn:bits=4,group=64", 2048, {8192, 8192}},
};

static void must(qs_err err)
{
    if (err == QS_OK) return;
    (void)fprintf(stderr, "%s\n", qs_error_text());
    exit((int)err);
}

static qs_matrix *make(qs_backend *backend, qs_workspace *workspace, const set *s, int i)
{
    float *w = data_normal(s->n_outs[i] * s->n_in, (uint64_t)i, 0.05f);
    qs_matrix *matrix;
    qs_matrix_desc desc = {.format = QS_MATRIX_F16, .n_out = s->n_outs[i], .n_in = s->n_in};
    if (s->spec != NULL) {
        qs_spec spec;
        qs_quant_result result;
        must(qs_spec_parse(&spec, s->spec));
        qs_quant_job job = {.name = "m", .weights = w, .n_out = s->n_outs[i], .n_in = s->n_in, .backend = backend};
        must(qs_quant_solve(workspace, &(qs_quant_task){.spec = &spec, .job = &job, .out = &result}, 1));
        desc.format = QS_MATRIX_INT;
        desc.packed = &result.packed;
        must(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32));
        qs_packed_free(&result.packed);
    } else {
        uint16_t *half = calloc((size_t)(s->n_outs[i] * s->n_in), sizeof *half); /* zeros take as long */
        desc.dense = half;
        must(qs_matrix_create(&matrix, backend, &desc, QS_USE_GEMV, QS_COMPUTE_F32));
        free(half);
    }
    free(w);
    return matrix;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(qs_backend *backend, qs_workspace *workspace, const set *s)
{
    qs_linear_job jobs[N_MATRICES];
    double seconds[2][N_ROUNDS];
    float *x = data_normal(s->n_in, 9, 1.0f);
    int64_t n = 0;
    for (; n < N_MATRICES && s->n_outs[n] != 0; n++)
        jobs[n] = (qs_linear_job){.matrix = make(backend, workspace, s, (int)n),
                                  .y = malloc((size_t)s->n_outs[n] * sizeof(float))};
    for (int round = 0; round < N_ROUNDS; round++)
        for (int fused = 0; fused < 2; fused++) {
            double start = qs_clock_seconds();
            for (int call = 0; call < N_CALLS; call++) {
                if (fused != 0) must(qs_op_linears(backend, jobs, n, x, 1));
                for (int64_t i = 0; fused == 0 && i < n; i++)
                    must(qs_op_linear(backend, jobs[i].matrix, x, 1, NULL, jobs[i].y));
            }
            seconds[fused][round] = (qs_clock_seconds() - start) / N_CALLS;
        }
    for (int fused = 0; fused < 2; fused++) qsort(seconds[fused], N_ROUNDS, sizeof **seconds, compare);
    const double *one = seconds[0], *all = seconds[1];
    (void)printf("%-26s one by one %7.1f us [%7.1f %7.1f], fused %7.1f us [%7.1f %7.1f], %.2f x\n", s->name,
                 1e6 * one[N_ROUNDS / 2], 1e6 * one[N_ROUNDS / 4], 1e6 * one[3 * N_ROUNDS / 4], 1e6 * all[N_ROUNDS / 2],
                 1e6 * all[N_ROUNDS / 4], 1e6 * all[3 * N_ROUNDS / 4], one[N_ROUNDS / 2] / all[N_ROUNDS / 2]);
    for (int64_t i = 0; i < n; i++) {
        qs_matrix_destroy((qs_matrix *)(uintptr_t)jobs[i].matrix);
        free(jobs[i].y);
    }
    free(x);
}

int main(int argc, char **argv)
{
    qs_backend *backend;
    qs_workspace *workspace;
    must(qs_backend_create(&backend, "cpu", 0, argc > 1 ? (int)strtol(argv[1], NULL, 10) : 0));
    must(qs_workspace_create(&workspace, backend));
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) measure(backend, workspace, &sets[i]);
    qs_workspace_destroy(workspace);
    qs_backend_destroy(backend);
    return 0;
}
