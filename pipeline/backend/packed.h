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
 * The last group of a row is shorter when group_size does not divide n_in. */
#ifndef QS_BACKEND_PACKED_H
#define QS_BACKEND_PACKED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct qs_packed {
    int bits; /* 2, 3, 4 or 8 */
    int64_t n_out, n_in;
    int64_t group_size; /* weights, 1 .. n_in */
    int64_t n_groups;   /* ceil(n_in / group_size) */
    int64_t row_bytes;  /* ceil(n_in * bits / 8) */
    uint8_t *codes;
    uint16_t *scales;
    uint8_t *zeros;
    int32_t *perm;
} qs_packed;

/* Sets the numbers (not the pointers). group_size -1 means the whole row. QS_E_INPUT when they do not fit. */
QS_MUST_CHECK qs_err qs_packed_shape(qs_packed *out, int bits, int64_t n_out, int64_t n_in, int64_t group_size);

/* Allocates codes, scales and, as asked, zeros and perm. */
QS_MUST_CHECK qs_err qs_packed_alloc(qs_packed *packed, bool with_zeros, bool with_perm);
void qs_packed_free(qs_packed *packed);

/* Checks pointers' contents: codes in range by construction, perm a permutation, scales finite. */
QS_MUST_CHECK qs_err qs_packed_check(const qs_packed *packed, const char *name);

/* Writes / reads the codes of one row, stored column order; codes[n_in]. */
void qs_packed_set_row(qs_packed *packed, int64_t row, const uint8_t *codes);
void qs_packed_get_row(const qs_packed *packed, int64_t row, uint8_t *codes);

/* dst [n_rows, n_in] f32 in input-channel order: the definition of what a packed matrix means. */
void qs_packed_dequant_rows(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst);

/* Stored bits: codes, scales, zeros (bits each, as a checkpoint packs them) and permutation (32 each). */
int64_t qs_packed_stored_bits(const qs_packed *packed);

#endif
