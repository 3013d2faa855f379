/* evaluate --fix recalibrate: the same points from another calibration text (docs/fixes.md; checklist A11, G7, G12). */
#ifndef QS_STAGES_RECALIBRATE_H
#define QS_STAGES_RECALIBRATE_H

#include "base/args.h"
#include "base/file.h"

typedef struct stage_recalibration {
    const char *model, *text; /* text: the other calibration mix */
    const char *out;          /* directory of the evaluation */
    const char *baseline;     /* eval artifact of the reference; NULL = OUT/fp.eval.h5, which is made first */
    unsigned tasks;           /* of the evaluation */
    const qs_arg_list *quants;
    const qs_common_args *common;
    int argc; /* of the evaluation, whose other options the twins are evaluated with */
    char *const *argv;
} stage_recalibration;

/* Calibrates, quantises and evaluates by running these stages: of every quant artifact that rests on calibration a
 * twin, in OUT/recalibrated, with as many windows as the artifact's own calibration had. dir gets that directory.
 * What is current there stays. Twins are measured by all tasks but latency and memory, since their kernels and
 * bytes are the same. */
QS_MUST_CHECK qs_err stage_recalibrate(char dir[QS_PATH_BYTES], const stage_recalibration *r);

#endif
