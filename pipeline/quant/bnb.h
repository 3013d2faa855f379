/* What bitsandbytes stores for a matrix (Dettmers et al. 2022, 2023), byte for byte: the three methods nf4, fp4 and
 * int8 of methods.c. None needs calibration.
 *
 * NF4, FP4: t = w * (1 / absmax of the block), in f32; the code whose value is nearest, of two equally near ones the
 * lower (NF4) or smaller (FP4). Double quantisation: the maxima less their mean, in blocks of 256, by the nearest entry
 * of the dynamic map.
 * int8: w rounded to f16; code = round(w * (1 / absmax of the row * 127)), ties to even.
 *
 * Differences: a block of zeros gets code 0 in FP4 and 7 in NF4 (bitsandbytes on a GPU: 0; both mean zero), a magnitude
 * that FP4 rounds to zero keeps its sign (bitsandbytes on the CPU: not always), the mean is summed in f64, and the
 * entry of the map is the nearest (bitsandbytes on the CPU looks it up in 65,536 bins, which may give a neighbour). */
#ifndef QS_QUANT_BNB_H
#define QS_QUANT_BNB_H

#include "backend/packed.h"

/* Code of t in [-1, 1]; format NF4 or FP4. */
uint8_t qs_bnb_code(qs_packed_format format, float t);

/* weights [n] of block `block` of the flattened matrix: codes [n], returns the block's largest magnitude. */
float qs_bnb_quantise_block(qs_packed_format format, const float *weights, int64_t n, uint8_t *codes);

/* Fills absmax_codes, nested_absmax and nested_offset from absmax [packed->n_absmax], which is overwritten. */
void qs_bnb_double_quantise(qs_packed *packed, float *absmax);

/* One row of int8: weights [n_in], codes [n_in] (+ 128); returns the row's largest magnitude, an f16 number. */
float qs_bnb_quantise_row(const float *weights, int64_t n_in, uint8_t *codes);

/* The codes of NF4 or FP4 as bitsandbytes stores them, bytes [(n_out n_in + 1) / 2]: the flattened matrix, the first of
 * two codes in the high half; an odd last byte ends in 0. */
void qs_bnb_flat_codes(const qs_packed *packed, uint8_t *bytes);

#endif
