/* Memory that solvers use again and again. Buffers grow to the largest request and stay: a model has dozens
 * of layers of the same shapes, and fresh pages cost more than the arithmetic on them. */
#ifndef QS_QUANT_WORKSPACE_H
#define QS_QUANT_WORKSPACE_H

#include "backend/backend.h"
#include "base/team.h"

typedef enum qs_host_slot {
    QS_HOST_LANES,   /* scratch of each thread */
    QS_HOST_PANELS,  /* live columns of wide matrices */
    QS_HOST_CODES,
    QS_HOST_ITEMS,   /* work list */
    QS_HOST_ORDERS,
    QS_HOST_COLUMN_WEIGHTS,
    QS_HOST_FOLDED,  /* weights of a site, scaled */
    QS_HOST_SCALES,  /* candidates of a scale search */
    QS_HOST_FACTOR,  /* U of a device */
    QS_N_HOST_SLOTS
} qs_host_slot;

typedef enum qs_device_slot {
    QS_DEVICE_ERRORS, /* of formats that the device does not know */
    QS_DEVICE_SOLVER,   /* all that one matrix needs, where the backend has a solver */
    QS_N_DEVICE_SLOTS
} qs_device_slot;

typedef struct qs_workspace qs_workspace;

QS_MUST_CHECK qs_err qs_workspace_create(qs_workspace **out, qs_backend *backend);
void qs_workspace_destroy(qs_workspace *workspace);
qs_backend *qs_workspace_backend(const qs_workspace *workspace);
/* As many threads as the backend has, for work on host memory. */
qs_team *qs_workspace_team(const qs_workspace *workspace);

/* Columns that the host's solver takes as one panel (quant/solver.h): 512 KiB of a tile stay in a core's cache, and
 * U in that of all cores. Other widths give results that differ by rounding. */
enum { QS_WHOLE_PANEL = 2048 };
int64_t qs_workspace_whole_panel(const qs_workspace *workspace);
void qs_workspace_set_whole_panel(qs_workspace *workspace, int64_t columns);

/* At least `bytes` of the slot; what it held is lost when it grows, and it is not cleared. */
QS_MUST_CHECK qs_err qs_workspace_host(qs_workspace *workspace, qs_host_slot slot, int64_t bytes,
                                       void *out_pointer);
QS_MUST_CHECK qs_err qs_workspace_device(qs_workspace *workspace, qs_device_slot slot, int64_t bytes,
                                         void *out_pointer);

/* The device's copy of weights [n] on the host, made at the first call since qs_workspace_forget_weights, so
 * that specs and the measurement of their losses share it. */
QS_MUST_CHECK qs_err qs_workspace_weights(qs_workspace *workspace, const float *weights, int64_t n,
                                          const float **out);
/* The host's weights may change from now on. Keeps the memory. */
void qs_workspace_forget_weights(qs_workspace *workspace);

/* Index of the first element that is NaN or Inf, or -1; by all threads. */
int64_t qs_workspace_find_nonfinite(qs_team *team, const float *x, int64_t n);

#endif
