/* The probe after loading (checklist G5, G18): is what was read back what the solver wrote? Every matrix is decoded
 * and held against the model's weights; its error must be the one that the solver has written down. */
#ifndef QS_METRIC_LOAD_CHECK_H
#define QS_METRIC_LOAD_CHECK_H

#include "metric/candidate.h"
#include "metric/quality.h"

/* Calls `put` with load_error, |W - Q| / |W| of all matrices together, and with load_error_share, the share of
 * matrices whose error is not the one written down. Neither for a checkpoint of others, which writes nothing down,
 * nor where scalings are folded into other matrices (AWQ), since codes then stand for other weights. A matrix is an
 * independent unit. */
QS_MUST_CHECK qs_err qs_load_check(const qs_candidate *candidate, const qs_model *model, uint64_t seed,
                                   qs_metric_sink put, void *context);

#endif
