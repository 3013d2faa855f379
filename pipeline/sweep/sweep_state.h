/* The state of a sweep, read from its directory alone: files that are there, records of failures, parts that
 * somebody is writing. Nothing is opened and nothing is locked, so it can be asked for while the sweep runs. */
#ifndef QS_SWEEP_SWEEP_STATE_H
#define QS_SWEEP_SWEEP_STATE_H

#include "artifact/failure.h"
#include "quant/grid.h"

typedef enum qs_point_state {
    QS_POINT_MISSING,
    QS_POINT_RUNNING,   /* being quantised or evaluated, or waiting in a pass with others */
    QS_POINT_FAILED,    /* the last attempt, that is; the record says why */
    QS_POINT_QUANTIZED, /* not evaluated yet */
    QS_POINT_DONE,      /* evaluated */
    QS_N_POINT_STATES
} qs_point_state;
const char *qs_point_state_name(qs_point_state state); /* "missing" */

typedef struct qs_sweep_point {
    const qs_spec *spec; /* borrowed */
    qs_point_state state;
    qs_failure failure;                /* of a failed one */
    double quantized_at, evaluated_at; /* seconds since the epoch; 0 = not there */
} qs_sweep_point;

typedef struct qs_sweep_state {
    int64_t n;
    qs_sweep_point *points; /* [n], as the grid has them */
    int64_t count[QS_N_POINT_STATES];
    bool calibrated, reference; /* calib.h5 and fp.eval.h5 are there */
    /* Seconds that are left at the pace of this run; -1 as long as nothing shows the pace. */
    double eta;
} qs_sweep_state;

/* QS_E_INPUT when `dir` is no directory. */
QS_MUST_CHECK qs_err qs_sweep_state_read(qs_sweep_state *out, const char *dir, const qs_grid *grid);
void qs_sweep_state_free(qs_sweep_state *state);

/* Seconds left of points of which some were published at at[n_done] and n_left are not, in a run that began
 * at `start`: the mean pace of those published since. -1 when none was. Exposed for its test. */
double qs_sweep_eta(const double *at, int64_t n_done, double start, int64_t n_left);

#endif
