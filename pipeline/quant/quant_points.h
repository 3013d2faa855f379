/* Points of a grid on their way to artifacts: which are done, what the rest costs, and solving them pass by
 * pass. A pass takes many points through all layers at once and seals each of them at its end. */
#ifndef QS_QUANT_QUANT_POINTS_H
#define QS_QUANT_QUANT_POINTS_H

#include "base/progress.h"
#include "base/file.h"
#include "quant/quant_file.h"

/* Points solved in one pass over the model. More share more; fewer lose less when the run is killed. */
enum { QS_POINTS_PER_PASS = 32 };

typedef struct qs_quant_point {
    const qs_spec *spec;      /* borrowed */
    char path[QS_PATH_BYTES]; /* "<dir>/<id>.quant.h5" */
    bool current;             /* was there and up to date: nothing to do */
    bool failed;              /* and recorded as such */
    bool written;             /* by qs_quant_points_run, which fills the rest */
    double loss;              /* mean over matrices */
    double predicted;         /* the same as predicted, of a spec with a budget */
    int64_t linear_bits;      /* stored bits of the linears; a budget until it is written */
    double quantize_s;        /* its share of the pass */
    int64_t n_fallbacks;      /* matrices that were rounded to nearest because their factor failed */
    qs_digest digest;
} qs_quant_point;

/* points[n_specs]; looks which artifacts are there already. */
QS_MUST_CHECK qs_err qs_quant_points_find(qs_quant_point *points, const char *dir,
                                          const qs_quant_inputs *inputs, const qs_spec *specs,
                                          int64_t n_specs);

/* What the points that are not current cost; bytes are those of the largest pass, on the host and on the
 * backend's device. Measures the rate of the machine, which takes some milliseconds, or a second on a device.
 * QS_E_RESOURCE when the device's memory is too small. */
typedef struct qs_quant_plan {
    int64_t n_points;
    int64_t bytes, device_bytes;
    double seconds;
} qs_quant_plan;
QS_MUST_CHECK qs_err qs_quant_points_plan(qs_quant_plan *out, const qs_quant_point *points, int64_t n_points,
                                          const qs_quant_inputs *inputs, qs_backend *backend);

/* Solves and writes every point that is not current, with progress on stderr, and by the second layer, unless a point
 * has a budget, what the rest should take (foretold may be NULL). grams as in
 * qs_quantizer_create. On failure the points of finished passes stay. With inputs->keep_going what fails because
 * of a point is tried again in halves, until the point is alone. */
QS_MUST_CHECK qs_err qs_quant_points_run(qs_quant_point *points, int64_t n_points,
                                         const qs_quant_inputs *inputs, qs_backend *backend,
                                         const qs_gram_source *grams, qs_foretold *foretold);

#endif
