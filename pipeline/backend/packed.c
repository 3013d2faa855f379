#include "backend/packed_exl2.h"

#include <math.h>
#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"

qs_err qs_packed_shape(qs_packed *out, int bits, int64_t n_out, int64_t n_in, int64_t group_size)
{
    memset(out, 0, sizeof *out);
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return qs_fail(QS_E_INPUT, "shape packed matrix: %d bits are not 2, 3, 4 or 8", bits);
    if (n_out < 1 || n_in < 1 || n_out > INT32_MAX || n_in > INT32_MAX)
        return qs_fail(QS_E_INPUT, "shape packed matrix: %lld x %lld is not a matrix size", (long long)n_out,
                       (long long)n_in);
    if (group_size == -1) group_size = n_in;
    if (group_size < 1 || group_size > n_in)
        return qs_fail(QS_E_INPUT, "shape packed matrix: group size %lld is not within 1 .. %lld",
                       (long long)group_size, (long long)n_in);
    out->bits = bits;
    out->n_out = n_out;
    out->n_in = n_in;
    out->group_size = group_size;
    out->n_groups = (n_in + group_size - 1) / group_size;
    out->row_bytes = (n_in * bits + 7) / 8;
    return QS_OK;
}

qs_err qs_packed_shape_blocks(qs_packed *out, qs_packed_format format, int64_t n_out, int64_t n_in, int64_t block,
                              qs_rounding compute)
{
    qs_err err = qs_packed_shape(out, qs_formats[format].bits, n_out, n_in, -1);
    if (err != QS_OK) return err;
    if (block < 32 || block > 4096 || (block & (block - 1)) != 0)
        return qs_fail(QS_E_INPUT, "shape packed matrix: block %lld is not a power of two from 32 to 4096",
                       (long long)block);
    out->format = format;
    out->compute = compute;
    out->group_size = block;
    out->n_groups = 0;
    out->n_absmax = (n_out * n_in + block - 1) / block;
    return QS_OK;
}

qs_err qs_packed_shape_int8(qs_packed *out, int64_t n_out, int64_t n_in, float threshold)
{
    qs_err err = qs_packed_shape(out, 8, n_out, n_in, -1);
    if (err != QS_OK) return err;
    if (n_in > QS_INT8_COLUMNS_MAX)
        return qs_fail(QS_E_INPUT, "shape packed matrix: sums over %lld columns of int8 leave 32 bits; %d are the most",
                       (long long)n_in, QS_INT8_COLUMNS_MAX);
    if (!(threshold >= 0))
        return qs_fail(QS_E_INPUT, "shape packed matrix: threshold %g is not 0 or more", (double)threshold);
    out->format = QS_PACKED_INT8;
    out->compute = QS_ROUND_F16;
    out->threshold = threshold;
    out->n_absmax = n_out;
    return QS_OK;
}

static void forget_pointers(qs_packed *packed)
{
    packed->codes = packed->zeros = packed->absmax_codes = NULL;
    packed->scales = NULL;
    packed->perm = NULL;
    packed->absmax = packed->nested_absmax = NULL;
    packed->groups = NULL;
    packed->scale_codes = NULL;
    packed->scale_max = NULL;
}

qs_err qs_packed_alloc(qs_packed *packed, bool with_zeros, bool with_perm)
{
    qs_err err = QS_OK;
    forget_pointers(packed);
    QS_TRY(QS_NEW(packed->codes, packed->n_out * packed->row_bytes, "packed codes"));
    QS_TRY(QS_NEW(packed->scales, packed->n_out * packed->n_groups, "packed scales"));
    if (with_zeros) QS_TRY(QS_NEW(packed->zeros, packed->n_out * packed->n_groups, "packed zero points"));
    if (with_perm) {
        QS_TRY(QS_NEW(packed->perm, packed->n_in, "packed permutation"));
        for (int64_t j = 0; j < packed->n_in; j++) packed->perm[j] = (int32_t)j;
    }
out:
    if (err != QS_OK) qs_packed_free(packed);
    return err;
}

qs_err qs_packed_alloc_absmax(qs_packed *packed, bool double_quantised)
{
    qs_err err = QS_OK;
    forget_pointers(packed);
    QS_TRY(QS_NEW(packed->codes, packed->n_out * packed->row_bytes, "packed codes"));
    if (double_quantised) {
        QS_TRY(QS_NEW(packed->absmax_codes, packed->n_absmax, "codes of block maxima"));
        QS_TRY(QS_NEW(packed->nested_absmax, qs_packed_n_nested(packed), "maxima of block maxima"));
    } else {
        QS_TRY(QS_NEW(packed->absmax, packed->n_absmax, "largest magnitudes"));
    }
out:
    if (err != QS_OK) qs_packed_free(packed);
    return err;
}

void qs_packed_free(qs_packed *packed)
{
    qs_mem_free(packed->codes);
    qs_mem_free(packed->scales);
    qs_mem_free(packed->zeros);
    qs_mem_free(packed->perm);
    qs_mem_free(packed->absmax);
    qs_mem_free(packed->absmax_codes);
    qs_mem_free(packed->nested_absmax);
    qs_mem_free(packed->groups);
    qs_mem_free(packed->scale_codes);
    qs_mem_free(packed->scale_max);
    forget_pointers(packed);
}

/* A bitmap of the channels seen finds both repeats and, by counting, omissions. */
qs_err qs_packed_check_perm(const qs_packed *packed, const char *name)
{
    qs_err err = QS_OK;
    uint8_t *seen = NULL;
    QS_TRY(QS_NEW(seen, packed->n_in, "permutation check"));
    for (int64_t j = 0; j < packed->n_in; j++) {
        int32_t channel = packed->perm[j];
        if (channel < 0 || channel >= packed->n_in || seen[channel]) {
            err = qs_fail(QS_E_INPUT, "check %s: entry %lld of the permutation is %d, %s", name, (long long)j, channel,
                          channel < 0 || channel >= packed->n_in ? "outside the row" : "which occurs twice");
            goto out;
        }
        seen[channel] = 1;
    }
out:
    qs_mem_free(seen);
    return err;
}

static qs_err check_shape(const qs_packed *packed, const char *name)
{
    qs_packed shape;
    qs_err err;
    if (packed->format == QS_PACKED_INT)
        err = qs_packed_shape(&shape, packed->bits, packed->n_out, packed->n_in, packed->group_size);
    else if (packed->format == QS_PACKED_INT8)
        err = qs_packed_shape_int8(&shape, packed->n_out, packed->n_in, packed->threshold);
    else if (packed->format == QS_PACKED_EXL2)
        err = packed->groups == NULL
                  ? qs_fail(QS_E_INPUT, "shape packed matrix: groups are missing")
                  : qs_packed_shape_exl2(&shape, packed->n_out, packed->n_in, packed->groups, packed->n_groups);
    else
        err = qs_packed_shape_blocks(&shape, packed->format, packed->n_out, packed->n_in, packed->group_size,
                                     packed->compute);
    if (err != QS_OK) return qs_context(err, "check %s", name);
    if (shape.bits != packed->bits || shape.n_groups != packed->n_groups || shape.row_bytes != packed->row_bytes ||
        shape.n_absmax != packed->n_absmax || shape.compute != packed->compute)
        return qs_fail(QS_E_INPUT, "check %s: %lld groups and %lld bytes a row do not follow from its shape", name,
                       (long long)packed->n_groups, (long long)packed->row_bytes);
    return QS_OK;
}

static qs_err check_scales(const qs_packed *packed, const char *name)
{
    if (packed->scales == NULL) return qs_fail(QS_E_INPUT, "check %s: scales are missing", name);
    for (int64_t i = 0; i < packed->n_out * packed->n_groups; i++)
        if ((packed->scales[i] & 0x7C00) == 0x7C00)
            return qs_fail(QS_E_NUMERIC, "check %s: the scale of row %lld, group %lld is not finite", name,
                           (long long)(i / packed->n_groups), (long long)(i % packed->n_groups));
    return packed->perm == NULL ? QS_OK : qs_packed_check_perm(packed, name);
}

static qs_err check_absmax(const qs_packed *packed, const char *name)
{
    bool nested = packed->absmax_codes != NULL;
    if (nested ? packed->nested_absmax == NULL || packed->format == QS_PACKED_INT8 : packed->absmax == NULL)
        return qs_fail(QS_E_INPUT, "check %s: the largest magnitudes are missing", name);
    if (packed->scales != NULL || packed->zeros != NULL || packed->perm != NULL)
        return qs_fail(QS_E_INPUT, "check %s: %s has neither scales nor zero points nor a permutation", name,
                       qs_formats[packed->format].name);
    for (int64_t i = 0; i < packed->n_absmax; i++)
        if (!isfinite(qs_packed_absmax(packed, i)))
            return qs_fail(QS_E_NUMERIC, "check %s: the largest magnitude of %s %lld is not finite", name,
                           packed->format == QS_PACKED_INT8 ? "row" : "block", (long long)i);
    return QS_OK;
}

qs_err qs_packed_check(const qs_packed *packed, const char *name)
{
    qs_err err = check_shape(packed, name);
    if (err != QS_OK) return err;
    if (packed->codes == NULL) return qs_fail(QS_E_INPUT, "check %s: codes are missing", name);
    if (packed->format == QS_PACKED_EXL2) return qs_exl2_check(packed, name);
    int used_bits = (int)(packed->n_in * packed->bits % 8);
    for (int64_t o = 0; used_bits != 0 && o < packed->n_out; o++)
        if (packed->codes[(o + 1) * packed->row_bytes - 1] >> used_bits != 0)
            return qs_fail(QS_E_INPUT, "check %s: row %lld has bits set behind its last code", name, (long long)o);
    return packed->format == QS_PACKED_INT ? check_scales(packed, name) : check_absmax(packed, name);
}

/* Eight codes beside each other: bytes become pairs, pairs fours, fours one number. */
static uint64_t join_eight(const uint8_t *codes, int bits)
{
    uint64_t word;
    memcpy(&word, codes, sizeof word);
    word &= 0x0101010101010101u * ((1u << bits) - 1u);
    word = (word & 0x00ff00ff00ff00ffu) | (word >> 8 & 0x00ff00ff00ff00ffu) << bits;
    word = (word & 0x0000ffff0000ffffu) | (word >> 16 & 0x0000ffff0000ffffu) << (2 * bits);
    return (word & 0x00000000ffffffffu) | word >> 32 << (4 * bits);
}

void qs_packed_set_row(qs_packed *packed, int64_t row, const uint8_t *codes)
{
    if (packed->format == QS_PACKED_EXL2) {
        qs_exl2_set_row(packed, row, codes);
        return;
    }
    uint8_t *dst = packed->codes + row * packed->row_bytes;
    unsigned mask = (1u << packed->bits) - 1u, pending = 0;
    int n_pending = 0;
    int64_t j = 0;
    for (; j + 8 <= packed->n_in; j += 8, dst += packed->bits) { /* eight codes are `bits` whole bytes */
        uint64_t word = join_eight(codes + j, packed->bits);
        for (int k = 0; k < packed->bits; k++) dst[k] = (uint8_t)(word >> (8 * k));
    }
    for (; j < packed->n_in; j++) {
        pending |= (codes[j] & mask) << n_pending;
        n_pending += packed->bits;
        if (n_pending >= 8) {
            *dst++ = (uint8_t)pending;
            pending >>= 8;
            n_pending -= 8;
        }
    }
    if (n_pending > 0) *dst = (uint8_t)pending;
}

void qs_packed_get_row(const qs_packed *packed, int64_t row, uint8_t *codes)
{
    if (packed->format == QS_PACKED_EXL2) {
        qs_exl2_get_row(packed, row, codes);
        return;
    }
    const uint8_t *src = packed->codes + row * packed->row_bytes;
    unsigned mask = (1u << packed->bits) - 1u, pending = 0;
    int n_pending = 0;
    for (int64_t j = 0; j < packed->n_in; j++) {
        if (n_pending < packed->bits) {
            pending |= (unsigned)*src++ << n_pending;
            n_pending += 8;
        }
        codes[j] = (uint8_t)(pending & mask);
        pending >>= packed->bits;
        n_pending -= packed->bits;
    }
}

/* Block by block, since its sixteen weights are rounded once. */
static void dequant_row_blocks(const qs_packed *packed, int64_t row, float *dst)
{
    const uint8_t *codes = packed->codes + row * packed->row_bytes;
    const float *values = qs_formats[packed->format].values;
    int64_t flat = row * packed->n_in;
    for (int64_t j = 0; j < packed->n_in;) {
        int64_t block = (flat + j) / packed->group_size, end = (block + 1) * packed->group_size - flat;
        float absmax = qs_packed_absmax(packed, block), table[16];
        for (int i = 0; i < 16; i++) table[i] = qs_round_to(values[i] * absmax, packed->compute);
        if (end > packed->n_in) end = packed->n_in;
        for (; j < end; j++) dst[j] = table[(codes[j / 2] >> (j % 2 * 4)) & 15];
    }
}

static void dequant_row_int8(const qs_packed *packed, int64_t row, float *dst)
{
    const uint8_t *codes = packed->codes + row * packed->row_bytes;
    for (int64_t j = 0; j < packed->n_in; j++) dst[j] = qs_int8_weight(codes[j], packed->absmax[row]);
}

static void dequant_rows_int(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst)
{
    unsigned mask = (1u << packed->bits) - 1u;
    for (int64_t r = 0; r < n_rows; r++) {
        const uint8_t *src = packed->codes + (first_row + r) * packed->row_bytes;
        const uint16_t *scales = packed->scales + (first_row + r) * packed->n_groups;
        const uint8_t *zeros = packed->zeros == NULL ? NULL : packed->zeros + (first_row + r) * packed->n_groups;
        float *out = dst + r * packed->n_in;
        unsigned pending = 0;
        int n_pending = 0;
        for (int64_t g = 0, j = 0; g < packed->n_groups; g++) {
            int64_t end = j + packed->group_size < packed->n_in ? j + packed->group_size : packed->n_in;
            int zero = zeros == NULL ? 1 << (packed->bits - 1) : zeros[g];
            float scale = qs_f32_from_f16(scales[g]);
            for (; j < end; j++) {
                if (n_pending < packed->bits) {
                    pending |= (unsigned)*src++ << n_pending;
                    n_pending += 8;
                }
                int code = (int)(pending & mask);
                pending >>= packed->bits;
                n_pending -= packed->bits;
                out[packed->perm == NULL ? j : packed->perm[j]] = scale * (float)(code - zero);
            }
        }
    }
}

void qs_packed_dequant_rows(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst)
{
    if (packed->format == QS_PACKED_INT) {
        dequant_rows_int(packed, first_row, n_rows, dst);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++) {
        if (packed->format == QS_PACKED_INT8)
            dequant_row_int8(packed, first_row + r, dst + r * packed->n_in);
        else if (packed->format == QS_PACKED_EXL2)
            qs_exl2_dequant_row(packed, first_row + r, dst + r * packed->n_in);
        else
            dequant_row_blocks(packed, first_row + r, dst + r * packed->n_in);
    }
}

int64_t qs_packed_stored_bits(const qs_packed *packed)
{
    if (packed->format == QS_PACKED_EXL2) return qs_exl2_stored_bits(packed);
    if (packed->format != QS_PACKED_INT) {
        int64_t maxima = packed->absmax_codes == NULL ? 32 * packed->n_absmax
                                                      : 8 * packed->n_absmax + 32 * qs_packed_n_nested(packed) + 32;
        return packed->n_out * packed->n_in * packed->bits + maxima;
    }
    int64_t group_bits = 16 + (packed->zeros != NULL ? packed->bits : 0);
    return packed->n_out * (packed->n_in * packed->bits + packed->n_groups * group_bits) +
           (packed->perm != NULL ? packed->n_in * 32 : 0);
}
