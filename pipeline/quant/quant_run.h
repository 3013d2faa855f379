/* Quantising a model layer by layer: weights are read once, and every spec that shares a matrix and its
 * factors is solved together. */
#ifndef QS_QUANT_QUANT_RUN_H
#define QS_QUANT_QUANT_RUN_H

#include "model/block.h"
#include "quant/methods.h"
#include "quant/site.h"

/* All seven linears of a layer for one spec, and the norms and biases that a folded scaling changes. */
typedef struct qs_quant_layer {
    qs_quant_result linears[QS_N_LINEARS];
    float *vectors[QS_N_BLOCK_ROLES - QS_N_LINEARS]; /* by role; NULL = the model's own */
} qs_quant_layer;
void qs_quant_layer_free(qs_quant_layer *layer);

/* A layer as a source for blocks, whatever the number of the layer that is asked for. Borrowed. */
qs_linear_source qs_quant_layer_source(qs_quant_layer *layer);

/* Every group fits every row, every method has what it needs, and every budget can be met with this model. QS_E_USAGE
 * names spec and matrix; QS_E_UNSUPPORTED for rows that a format cannot hold. */
QS_MUST_CHECK qs_err qs_quant_check(const qs_model *model, const qs_spec *specs, int64_t n_specs,
                                    bool has_grams);

typedef struct qs_quantizer qs_quantizer;

/* Holds what layers share: weights of one site, factors, scratch. Specs with rotate=1 take a turned model and its grams
 * (quant/turned_grams.h), the others do not (QS_E_USAGE). Everything is borrowed; grams is NULL when
 * there are none, which is QS_E_USAGE when a spec needs them. With second moments every loss is weighted by
 * them, also RTN's. */
QS_MUST_CHECK qs_err qs_quantizer_create(qs_quantizer **out, const qs_model *model, qs_backend *backend,
                                         const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs);
void qs_quantizer_destroy(qs_quantizer *quantizer);

/* With a budget among the specs (bpw), every layer is measured first and then the bits are shared out; without one
 * there is nothing to measure. */
bool qs_quantizer_has_budgets(const qs_quantizer *quantizer);
QS_MUST_CHECK qs_err qs_quantizer_measure(qs_quantizer *quantizer, int64_t layer);
QS_MUST_CHECK qs_err qs_quantizer_share(qs_quantizer *quantizer);
/* Stored bits of all linears: as shared out, or as the spec says. */
int64_t qs_quantizer_linear_bits(const qs_quantizer *quantizer, int64_t spec);

/* out[n_specs], to be freed with qs_quant_layer_free; on failure none holds memory. */
QS_MUST_CHECK qs_err qs_quantizer_layer(qs_quantizer *quantizer, int64_t layer, qs_quant_layer *out);

/* The output head of specs that quantise it (qs_spec_head): out[n_specs], empty for the others; qs_packed_free. It is
 * no part of a budget. */
QS_MUST_CHECK qs_err qs_quantizer_head(qs_quantizer *quantizer, qs_quant_result *out);

/* The same for one layer alone. */
QS_MUST_CHECK qs_err qs_quantize_layer(const qs_model *model, qs_backend *backend, int64_t layer,
                                       const qs_gram_source *grams, const qs_spec *specs, int64_t n_specs,
                                       qs_quant_layer *out);

/* What quantising costs: bytes that a quantizer and one layer's results hold at their peak, and arithmetic of
 * all layers in multiply-adds (searches and packing counted as the multiply-adds that take as long). */
typedef struct qs_quant_cost {
    int64_t bytes;
    /* Instead, where the backend has a solver: on the host, on the device, and carried between them for all
     * layers. */
    int64_t solver_host_bytes, solver_device_bytes, solver_moved_bytes;
    double multiply_adds;
} qs_quant_cost;
qs_quant_cost qs_quant_cost_of(const qs_model *model, int n_threads, bool has_grams, const qs_spec *specs,
                               int64_t n_specs);

/* Multiply-adds per second that one thread's solver kernels reach; takes some milliseconds. */
QS_MUST_CHECK qs_err qs_quant_measure_rate(double *multiply_adds_per_s);

#endif
