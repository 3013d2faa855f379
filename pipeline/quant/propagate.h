/* A stream that goes through quantised layers while their second moments are collected (calibrate --propagate), for one
 * spec: each layer is quantised with the statistics of what reaches it.
 *
 * With rotate=1 the stream is the rotated model's (model/turned.h); what is collected is of the model itself, as in any
 * calibration, from a copy that is turned back. With a budget the layers are measured with full-precision statistics
 * first, since bits are shared out among all of them before the first one is quantised. */
#ifndef QS_QUANT_PROPAGATE_H
#define QS_QUANT_PROPAGATE_H

#include "quant/quant_run.h"
#include "stat/stats.h"

typedef struct qs_propagation qs_propagation;

/* What the spec cannot do with this model, before any work: as qs_quant_check, and QS_E_UNSUPPORTED of a rotation. */
QS_MUST_CHECK qs_err qs_propagation_check(qs_model *model, const qs_spec *spec);

/* windows[n_samples, seqlen]: of the calibration, for budgets. Everything is borrowed; the collector's sites are
 * those of the layer that is asked for. */
QS_MUST_CHECK qs_err qs_propagation_create(qs_propagation **out, qs_backend *backend, qs_model *model,
                                           const qs_spec *spec, qs_collector *collector, const int32_t *windows,
                                           int64_t n_samples, int64_t seqlen);
void qs_propagation_destroy(qs_propagation *propagation); /* NULL is fine */
/* On the host, at its peak, beside streams and blocks. */
int64_t qs_propagation_bytes(const qs_model *model, int n_threads, const qs_spec *spec);

/* A budget: every layer is measured, in order, after its full-precision statistics are collected; then bits are shared
 * out. */
bool qs_propagation_measures(const qs_propagation *propagation);
QS_MUST_CHECK qs_err qs_propagation_measure(qs_propagation *propagation, int64_t layer);
QS_MUST_CHECK qs_err qs_propagation_share(qs_propagation *propagation);

/* The stream's start, hidden[n, d_model] (device). */
QS_MUST_CHECK qs_err qs_propagation_embed(qs_propagation *propagation, const int32_t *tokens, int64_t n, float *hidden);
/* probe[n, d_model] (device): the stream as the model itself has it. */
QS_MUST_CHECK qs_err qs_propagation_probe(qs_propagation *propagation, const float *hidden, int64_t n, float *probe);
/* The layer as quantised with what the collector holds; qs_quant_layer_free. */
QS_MUST_CHECK qs_err qs_propagation_layer(qs_propagation *propagation, int64_t layer, qs_quant_layer *out);

#endif
