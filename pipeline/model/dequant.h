/* How stored elements become f32: one row per storage type. Block layouts: ggml's (docs/gguf.md and
 * ggml-common.h of ggml); element order and arithmetic follow its reference dequantisers, so that values are
 * equal bit for bit. */
#ifndef QS_MODEL_DEQUANT_H
#define QS_MODEL_DEQUANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/weights.h"

typedef struct qs_storage_row {
    const char *name;    /* "q4_k" */
    int64_t block_elems; /* rows are whole blocks */
    size_t block_bytes;
    bool lattice; /* 2 to 5 bits: few enough levels that a quantiser may hit them again */
    /* n_blocks of src, of any alignment, to dst[n_blocks * block_elems]. */
    void (*to_f32)(float *dst, const uint8_t *src, int64_t n_blocks);
} qs_storage_row;

/* What the 16 codes of IQ4_NL and IQ4_XS stand for, in units of the scale; upwards. */
extern const int8_t qs_iq4_values[16];

const qs_storage_row *qs_storage_get(qs_storage storage);

/* n elements, a multiple of block_elems. */
size_t qs_storage_bytes(qs_storage storage, int64_t n);
void qs_storage_to_f32(qs_storage storage, float *dst, const uint8_t *src, int64_t n);

#endif
