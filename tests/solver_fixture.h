/* A CPU backend with a solver's workspace, and one matrix solved with it. Include after cmocka.h. */
#ifndef QS_TESTS_SOLVER_FIXTURE_H
#define QS_TESTS_SOLVER_FIXTURE_H

#include "quant/methods.h"
#include "tests/quant_data.h"

static qs_backend *backend;
static qs_workspace *workspace;

static inline int solver_start(void **state)
{
    (void)state;
    bool made = qs_backend_create(&backend, "cpu", 0, 2) == QS_OK && qs_workspace_create(&workspace, backend) == QS_OK;
    return made ? 0 : -1;
}

static inline int solver_stop(void **state)
{
    (void)state;
    qs_workspace_destroy(workspace);
    qs_backend_destroy(backend);
    return 0;
}

static inline qs_spec parse(const char *text)
{
    qs_spec spec;
    if (qs_spec_parse(&spec, text) != QS_OK) fail_msg("%s", qs_error_text());
    return spec;
}

/* w [n_out, n_in] */
static inline qs_quant_result solve_in(qs_workspace *ws, const char *text, const float *w, int64_t n_out, int64_t n_in,
                                       qs_factor_cache *factors)
{
    qs_spec spec = parse(text);
    qs_quant_result result;
    qs_quant_job job = {.name = "m", .weights = w, .n_out = n_out, .n_in = n_in, .factors = factors,
                        .backend = qs_workspace_backend(ws)};
    qs_quant_task task = {.spec = &spec, .job = &job, .out = &result};
    if (qs_quant_solve(ws, &task, 1) != QS_OK) fail_msg("%s", qs_error_text());
    return result;
}

static inline qs_quant_result solve(const char *text, const float *w, int64_t n_out, int64_t n_in,
                                    qs_factor_cache *factors)
{
    return solve_in(workspace, text, w, n_out, n_in, factors);
}

#endif
