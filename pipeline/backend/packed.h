/* Packed matrices: the layout of low-bit codes that artifacts store and kernels read, and its plain
 * reference. One description serves host memory, the quant artifact and matrix_create.
 *
 *   w[o][perm[j]] = scale[o][j / group_size] * (code[o][j] - zero[o][j / group_size])
 *
 * codes  [n_out, row_bytes]  row bit streams: code j of a row occupies bits [j*bits, (j+1)*bits), least
 *                            significant bit first; each row is padded with zero bits to a byte
 * scales [n_out, n_groups]   f16
 * zeros  [n_out, n_groups]   u8, NULL when symmetric: then the zero point is 2^(bits-1)
 * perm   [n_in]              NULL = identity; stored column j is input channel perm[j]
 * The last group of a row is shorter when group_size does not divide n_in.
 *
 * So far integers. The other formats (formats.h) keep the layout of codes, in natural column order; c is `compute`:
 *
 *   NF4, FP4   w = c(table[code] * absmax[block]),  block = (o n_in + j) / group_size: blocks of the flattened
 *              matrix, which may cross row ends; the last one may be shorter
 *              y = c(sum c(x) w + c(bias))
 *   int8       w = (code - 128) * absmax[o] / 127, and columns of a row of x with |c(x)| >= threshold are multiplied
 *              with c(w); the others, q = round(c(x) * qs_int8_factor(s)) with s their largest magnitude:
 *              y = c(sum q (code - 128) * s absmax[o] / 127^2 + sum over outliers of c(x) c(w) + c(bias))
 *
 *   EXL2       w[o][perm[j]] = f16((code[o][j] - 2^(bits_g - 1)) * scale[o][g]),   g the group of stored column j,
 *              scale[o][g] = f16((scale_codes[o][g] + 1)^2 * f16(scale_max[g] / 256)), which may be subnormal. Groups
 *              are the same for all rows: multiples of 32 columns, wider codes first. A row is one stream of bits,
 *              each group with its own width; row and group boundaries are multiples of 4 bytes. y in f32.
 *
 * absmax         [n_absmax] f32: of blocks, or of the n_out rows of int8
 * absmax_codes   [n_absmax] u8 instead of absmax when double-quantised: absmax[b] =
 *                qs_dynamic_map[absmax_codes[b]] * nested_absmax[b / 256] + nested_offset
 * nested_absmax  [ceil(n_absmax / 256)] f32
 * groups         [n_groups] of EXL2, with perm (always), scale_codes [n_out, n_groups] of 0 .. 15 and
 *                scale_max [n_groups] f16 */
#ifndef QS_BACKEND_PACKED_H
#define QS_BACKEND_PACKED_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/formats.h"
#include "base/error.h"

enum {
    QS_NESTED_BLOCK = 256,
    QS_INT8_MIDDLE = 128,
    QS_INT8_COLUMNS_MAX = 133144, /* 127^2 times as many fit 32 bits */
    QS_EXL2_UNIT = 32,            /* columns: n_in and groups are multiples */
    QS_EXL2_BITS_MAX = 8,
};

/* Columns of EXL2 with codes of one width and one scale for each row. */
typedef struct qs_packed_group {
    int32_t first; /* stored column */
    int32_t bits;  /* 2, 3, 4, 5, 6 or 8, never more than the group's before */
} qs_packed_group;

typedef struct qs_packed {
    qs_packed_format format;
    qs_rounding compute; /* QS_ROUND_F32 for integers, QS_ROUND_F16 for int8 */
    float threshold;     /* of int8; 0 = no column is an outlier */
    int bits;            /* 2, 3, 4 or 8; 0 of EXL2 */
    int64_t n_out, n_in;
    int64_t group_size; /* weights: of integers 1 .. n_in, of a block 32 .. 4096 in powers of two, of int8 n_in, of
                         * EXL2 0 */
    int64_t n_groups;   /* of a row: ceil(n_in / group_size) for integers, 1 for int8, 0 for blocks */
    int64_t row_bytes;  /* ceil(n_in * bits / 8); of EXL2 the sum over its groups */
    int64_t n_absmax;   /* 0 for integers */
    uint8_t *codes;
    uint16_t *scales;
    uint8_t *zeros;
    int32_t *perm;
    float *absmax;
    uint8_t *absmax_codes;
    float *nested_absmax;
    float nested_offset;
    qs_packed_group *groups;
    uint8_t *scale_codes;
    uint16_t *scale_max;
} qs_packed;

/* Sets the numbers (not the pointers). group_size -1 means the whole row. QS_E_INPUT when they do not fit. */
QS_MUST_CHECK qs_err qs_packed_shape(qs_packed *out, int bits, int64_t n_out, int64_t n_in, int64_t group_size);
/* The same for NF4 and FP4, and for int8. */
QS_MUST_CHECK qs_err qs_packed_shape_blocks(qs_packed *out, qs_packed_format format, int64_t n_out, int64_t n_in,
                                            int64_t block, qs_rounding compute);
QS_MUST_CHECK qs_err qs_packed_shape_int8(qs_packed *out, int64_t n_out, int64_t n_in, float threshold);

/* EXL2: sets the numbers from groups [n_groups], which are not kept. QS_E_INPUT names the group that does not fit. */
QS_MUST_CHECK qs_err qs_packed_shape_exl2(qs_packed *out, int64_t n_out, int64_t n_in, const qs_packed_group *groups,
                                          int64_t n_groups);

/* Allocates codes, scales and, as asked, zeros and perm; of other formats than integers codes and absmax, or its
 * double-quantised form (blocks only). */
QS_MUST_CHECK qs_err qs_packed_alloc(qs_packed *packed, bool with_zeros, bool with_perm);
QS_MUST_CHECK qs_err qs_packed_alloc_absmax(qs_packed *packed, bool double_quantised);
/* All of EXL2: groups [n_groups] are copied, perm is the identity. */
QS_MUST_CHECK qs_err qs_packed_alloc_exl2(qs_packed *packed, const qs_packed_group *groups);
void qs_packed_free(qs_packed *packed);

/* First column behind a group of EXL2. */
static inline int64_t qs_packed_group_end(const qs_packed *packed, int64_t group)
{
    return group + 1 < packed->n_groups ? packed->groups[group + 1].first : packed->n_in;
}

/* The scale that a code 0 .. 15 means, exact in f16; scale_max is f16. Every product is rounded to f16, as the runtime
 * has it: the first one is often subnormal and loses bits there. */
float qs_exl2_scale(uint16_t scale_max, int code);

/* Entry i of absmax, in whichever form it is. */
static inline float qs_packed_absmax(const qs_packed *packed, int64_t i)
{
    if (packed->absmax_codes == NULL) return packed->absmax[i];
    float fraction = qs_dynamic_map[packed->absmax_codes[i]];
    return fraction * packed->nested_absmax[i / QS_NESTED_BLOCK] + packed->nested_offset;
}

static inline int64_t qs_packed_n_nested(const qs_packed *packed)
{
    return (packed->n_absmax + QS_NESTED_BLOCK - 1) / QS_NESTED_BLOCK;
}

/* A weight of int8, before it is rounded to 16 bits. */
static inline float qs_int8_weight(uint8_t code, float absmax)
{
    return (float)(code - QS_INT8_MIDDLE) * absmax * (1.0f / 127.0f);
}

/* What a number is multiplied by before it is rounded to a code; `largest` 0 gives 0. A division would round otherwise
 * than bitsandbytes does. */
static inline float qs_int8_factor(float largest) { return largest > 0 ? 1.0f / largest * 127.0f : 0.0f; }

/* What a sum of products of codes stands for; `scale` of the row of x. */
static inline float qs_int8_product(float sum, float scale, float absmax)
{
    return sum * (scale * absmax) * (1.0f / (127.0f * 127.0f));
}

/* Checks pointers' contents: codes in range by construction, perm a permutation, scales and maxima finite. */
QS_MUST_CHECK qs_err qs_packed_check(const qs_packed *packed, const char *name);

/* Writes / reads the codes of one row, stored column order; codes[n_in]. */
void qs_packed_set_row(qs_packed *packed, int64_t row, const uint8_t *codes);
void qs_packed_get_row(const qs_packed *packed, int64_t row, uint8_t *codes);

/* dst [n_rows, n_in] f32 in input-channel order: the definition of what a packed matrix means. */
void qs_packed_dequant_rows(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst);

/* Stored bits: codes, scales, zeros (bits each, as a checkpoint packs them) and permutation (32 each); absmax in its
 * form, with nested maxima and offset. */
int64_t qs_packed_stored_bits(const qs_packed *packed);

#endif
