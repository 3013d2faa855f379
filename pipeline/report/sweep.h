/* A sweep: the reference and its configurations, read together and judged by one set of budgets. */
#ifndef QS_REPORT_SWEEP_H
#define QS_REPORT_SWEEP_H

#include "report/optimizer_figures.h"
#include "report/verdict.h"

typedef struct qs_sweep_config {
    qs_config_row row;
    qs_judgement judgement;
    bool passes; /* false for the reference, which is no candidate */
} qs_sweep_config;

typedef struct qs_unreadable {
    char path[QS_PATH_BYTES];
    char cause[QS_ERROR_TEXT_BYTES];
} qs_unreadable;

typedef struct qs_sweep {
    bool strict;
    int64_t n;
    qs_sweep_config *configs;       /* [n]; the reference first when there is one, then in the order given */
    const qs_config_row *reference; /* NULL when not among the files */
    int64_t n_passing;
    qs_optimizer_figures optimizer; /* n = 0 when no comparison of optimizers was given */
    int64_t n_unreadable;
    qs_unreadable *unreadable; /* [n_unreadable] */
} qs_sweep;

/* Eval artifacts, and at most one comparison of optimizers. Files that are missing or broken are listed in
 * `unreadable` and the rest is loaded; a file given twice counts once. QS_E_INPUT when none can be read, when
 * two files hold different measurements of one configuration, or when model, tokens or protocol differ. The
 * budgets must outlive the sweep. */
QS_MUST_CHECK qs_err qs_sweep_load(qs_sweep *out, const char *const *paths, int64_t n_paths,
                                   const qs_budgets *budgets, bool strict);
void qs_sweep_free(qs_sweep *sweep);

/* How many raced, and of these how many were decided on a part of the windows. */
void qs_sweep_count_raced(const qs_sweep *sweep, int64_t *n_raced, int64_t *n_partial);

/* Configurations besides the reference. */
int64_t qs_sweep_n_candidates(const qs_sweep *sweep);

/* True when all configurations that were timed ran on one backend and device with as many threads. */
bool qs_sweep_same_device(const qs_sweep *sweep);

#endif
