/* Stored size of a quantised model. */
#ifndef QS_QUANT_QUANT_SIZE_H
#define QS_QUANT_QUANT_SIZE_H

#include "model/weights.h"
#include "quant/spec.h"

/* Stored bits of the blocks' linears per weight, the head not counted, as ExLlamaV2 counts; of the whole model with the
 * embedding in f16, a head of its own (qs_quant_head_bits) and vectors (norms, biases) in f32; bytes of the whole. */
typedef struct qs_quant_size {
    double bpw, bpw_total;
    int64_t bytes;
} qs_quant_size;
qs_quant_size qs_quant_size_of(const qs_spec *spec,
                               const qs_model *model); /* NULL spec = the f16 reference */
/* The same from the stored bits of all linears and of the head; weights are counted as the model has them. */
qs_quant_size qs_quant_size_of_bits(int64_t linear_bits, int64_t head_bits, const qs_model *model);

/* A matrix of a point that need not have been made, without contents, as qs_matrix_need takes it; groups
 * [QS_MIX_GROUPS_MAX] are what *out points to, of EXL2. Of a budget: the smallest choice of the method that is not
 * below the mean share, or its largest. QS_E_INPUT as qs_spec_shape. */
QS_MUST_CHECK qs_err qs_quant_describe(const qs_spec *spec, int64_t n_out, int64_t n_in, qs_packed_group *groups,
                                       qs_packed *out);
/* Stored bits of one matrix: codes, scales, zeros and permutation; with a budget its mean share of that. */
int64_t qs_quant_matrix_bits(const qs_spec *spec, int64_t n_out, int64_t n_in);
/* Of a head that is not the embedding: in f16, or as the spec quantises it (NULL spec = the f16 reference). A point
 * that is rotated or quantises its head has one of its own; 0 = the embedding is the head. */
int64_t qs_quant_head_bits(const qs_spec *spec, const qs_model *model);
/* Of all linears. */
int64_t qs_quant_linear_bits(const qs_spec *spec, const qs_model *model);

#endif
