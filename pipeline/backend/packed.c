#include "backend/packed.h"

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

qs_err qs_packed_alloc(qs_packed *packed, bool with_zeros, bool with_perm)
{
    qs_err err = QS_OK;
    packed->codes = NULL;
    packed->scales = NULL;
    packed->zeros = NULL;
    packed->perm = NULL;
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

void qs_packed_free(qs_packed *packed)
{
    qs_mem_free(packed->codes);
    qs_mem_free(packed->scales);
    qs_mem_free(packed->zeros);
    qs_mem_free(packed->perm);
    packed->codes = NULL;
    packed->scales = NULL;
    packed->zeros = NULL;
    packed->perm = NULL;
}

/* A bitmap of the channels seen finds both repeats and, by counting, omissions. */
static qs_err check_perm(const qs_packed *packed, const char *name)
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

qs_err qs_packed_check(const qs_packed *packed, const char *name)
{
    qs_packed shape;
    qs_err err = qs_packed_shape(&shape, packed->bits, packed->n_out, packed->n_in, packed->group_size);
    if (err != QS_OK) return qs_context(err, "check %s", name);
    if (shape.n_groups != packed->n_groups || shape.row_bytes != packed->row_bytes)
        return qs_fail(QS_E_INPUT, "check %s: %lld groups and %lld bytes a row do not follow from its shape", name,
                       (long long)packed->n_groups, (long long)packed->row_bytes);
    if (packed->codes == NULL || packed->scales == NULL)
        return qs_fail(QS_E_INPUT, "check %s: codes or scales are missing", name);
    int used_bits = (int)(packed->n_in * packed->bits % 8);
    for (int64_t o = 0; used_bits != 0 && o < packed->n_out; o++)
        if (packed->codes[(o + 1) * packed->row_bytes - 1] >> used_bits != 0)
            return qs_fail(QS_E_INPUT, "check %s: row %lld has bits set behind its last code", name, (long long)o);
    for (int64_t i = 0; i < packed->n_out * packed->n_groups; i++)
        if ((packed->scales[i] & 0x7C00) == 0x7C00)
            return qs_fail(QS_E_NUMERIC, "check %s: the scale of row %lld, group %lld is not finite", name,
                           (long long)(i / packed->n_groups), (long long)(i % packed->n_groups));
    return packed->perm == NULL ? QS_OK : check_perm(packed, name);
}

void qs_packed_set_row(qs_packed *packed, int64_t row, const uint8_t *codes)
{
    uint8_t *dst = packed->codes + row * packed->row_bytes;
    unsigned mask = (1u << packed->bits) - 1u, pending = 0;
    int n_pending = 0;
    for (int64_t j = 0; j < packed->n_in; j++) {
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

void qs_packed_dequant_rows(const qs_packed *packed, int64_t first_row, int64_t n_rows, float *dst)
{
    unsigned mask = (1u << packed->bits) - 1u;
    for (int64_t r = 0; r < n_rows; r++) {
        const uint8_t *src = packed->codes + (first_row + r) * packed->row_bytes;
        const uint16_t *scales = packed->scales + (first_row + r) * packed->n_groups;
        const uint8_t *zeros = packed->zeros == NULL ? NULL : packed->zeros + (first_row + r) * packed->n_groups;
        float *out = dst + r * packed->n_in;
        unsigned pending = 0;
        int n_pending = 0;
        for (int64_t j = 0; j < packed->n_in; j++) {
            if (n_pending < packed->bits) {
                pending |= (unsigned)*src++ << n_pending;
                n_pending += 8;
            }
            int code = (int)(pending & mask);
            pending >>= packed->bits;
            n_pending -= packed->bits;
            int64_t g = j / packed->group_size;
            int zero = zeros == NULL ? 1 << (packed->bits - 1) : zeros[g];
            out[packed->perm == NULL ? j : packed->perm[j]] = qs_f32_from_f16(scales[g]) * (float)(code - zero);
        }
    }
}

int64_t qs_packed_stored_bits(const qs_packed *packed)
{
    int64_t group_bits = 16 + (packed->zeros != NULL ? packed->bits : 0);
    return packed->n_out * (packed->n_in * packed->bits + packed->n_groups * group_bits) +
           (packed->perm != NULL ? packed->n_in * 32 : 0);
}
