/* Stored size of a quantised model. */
#ifndef QS_QUANT_QUANT_SIZE_H
#define QS_QUANT_QUANT_SIZE_H

#include "model/weights.h"
#include "quant/spec.h"

/* Stored bits of the linears per weight; of the whole model with embeddings and head in f16 (once when tied)
 * and vectors (norms, biases) in f32; bytes of the whole. */
typedef struct qs_quant_size {
    double bpw, bpw_total;
    int64_t bytes;
} qs_quant_size;
qs_quant_size qs_quant_size_of(const qs_spec *spec,
                               const qs_model *model); /* NULL spec = the f16 reference */
/* The same from the stored bits of all linears. A rotated point has a head of its own; weights are counted as the model
 * has them. */
qs_quant_size qs_quant_size_of_bits(int64_t linear_bits, const qs_model *model, const qs_spec *spec);

/* Stored bits of one matrix: codes, scales, zeros and permutation; with a budget its mean share of that. */
int64_t qs_quant_matrix_bits(const qs_spec *spec, int64_t n_out, int64_t n_in);
/* Of all linears. */
int64_t qs_quant_linear_bits(const qs_spec *spec, const qs_model *model);

#endif
