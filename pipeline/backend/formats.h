/* Formats of packed matrices: what a code means, beside the layout that packed.h describes.
 *
 * NF4 and FP4 (bitsandbytes): blocks of the flattened matrix share a largest magnitude, codes look their fraction of
 * it up in a table. int8 (LLM.int8): rows share one. EXL2 (ExLlamaV2): integers of several
 * widths in one row, scales of 4 bits. A format is a row of qs_formats. */
#ifndef QS_BACKEND_FORMATS_H
#define QS_BACKEND_FORMATS_H

#include <stdint.h>

typedef enum qs_packed_format {
    QS_PACKED_INT,  /* scale * (code - zero), f16 scales of groups of a row */
    QS_PACKED_NF4,  /* absmax of the block * table[code] */
    QS_PACKED_FP4,  /* the same, another table */
    QS_PACKED_INT8, /* absmax of the row / 127 * (code - 128); inputs are quantised too (packed.h) */
    QS_PACKED_EXL2, /* scale * (code - 2^(bits-1)), bits of each group, scales in 4 bits (packed.h) */
    QS_N_PACKED_FORMATS
} qs_packed_format;

/* What inputs, weights and results of a product are rounded to; sums are f32. */
typedef enum qs_rounding { QS_ROUND_F32, QS_ROUND_BF16, QS_ROUND_F16, QS_N_ROUNDINGS } qs_rounding;
const char *qs_rounding_name(qs_rounding rounding); /* "fp32", "bf16", "fp16" */

/* Ties to even. f16 saturates at its largest finite number; NaN stays NaN. */
float qs_round_to(float x, qs_rounding rounding);

typedef struct qs_format {
    const char *name;    /* "nf4" */
    int bits;            /* of a code; 0 = several (packed.h) */
    const float *values; /* [16] by code, the largest magnitude 1; NULL = codes are integers */
} qs_format;

extern const qs_format qs_formats[QS_N_PACKED_FORMATS];

/* bitsandbytes' signed dynamic map [256], ascending: what the codes of double-quantised block maxima mean. Index 127 is
 * 0; every positive number but 1 has its negative. */
extern const float qs_dynamic_map[256];

/* The nearest entry's index; halfway between two, the lower one's. A NaN gives 0. */
uint8_t qs_dynamic_code(float x);

#endif
