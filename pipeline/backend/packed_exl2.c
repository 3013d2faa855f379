#include "backend/packed_exl2.h"

#include <string.h>

#include "base/dtype.h"
#include "base/mem.h"

static bool is_width(int64_t bits) { return (bits >= 2 && bits <= 6) || bits == QS_EXL2_BITS_MAX; }

/* Group g starts where the one before it ends, in whole units, and its codes are not wider. */
static qs_err check_group(const qs_packed_group *groups, int64_t g, int64_t n_in)
{
    int64_t first = groups[g].first, bits = groups[g].bits;
    if (!is_width(bits))
        return qs_fail(QS_E_INPUT, "shape packed matrix: group %lld has %lld bits, not 2, 3, 4, 5, 6 or 8",
                       (long long)g, (long long)bits);
    if (first < 0 || first >= n_in || first % QS_EXL2_UNIT != 0 || (g == 0) != (first == 0) ||
        (g > 0 && first <= groups[g - 1].first))
        return qs_fail(QS_E_INPUT,
                       "shape packed matrix: group %lld starts at column %lld; groups are multiples of %d columns one "
                       "behind the other, from 0 to %lld", (long long)g, (long long)first, QS_EXL2_UNIT,
                       (long long)n_in);
    if (g > 0 && bits > groups[g - 1].bits)
        return qs_fail(QS_E_INPUT,
                       "shape packed matrix: group %lld has %lld bits and the one before it %d; wider codes "
                       "come first",
                       (long long)g, (long long)bits, (int)groups[g - 1].bits);
    return QS_OK;
}

qs_err qs_packed_shape_exl2(qs_packed *out, int64_t n_out, int64_t n_in, const qs_packed_group *groups,
                            int64_t n_groups)
{
    qs_err err = qs_packed_shape(out, QS_EXL2_BITS_MAX, n_out, n_in, -1);
    if (err != QS_OK) return err;
    if (n_in % QS_EXL2_UNIT != 0)
        return qs_fail(QS_E_INPUT, "shape packed matrix: rows of %lld are no multiple of %d", (long long)n_in,
                       QS_EXL2_UNIT);
    if (n_groups < 1 || n_groups > n_in / QS_EXL2_UNIT)
        return qs_fail(QS_E_INPUT, "shape packed matrix: %lld groups in rows of %lld", (long long)n_groups,
                       (long long)n_in);
    int64_t row_bits = 0;
    for (int64_t g = 0; g < n_groups; g++) {
        err = check_group(groups, g, n_in);
        if (err != QS_OK) return err;
        row_bits += ((g + 1 < n_groups ? groups[g + 1].first : n_in) - groups[g].first) * groups[g].bits;
    }
    out->format = QS_PACKED_EXL2;
    out->bits = 0;
    out->group_size = 0;
    out->n_groups = n_groups;
    out->row_bytes = row_bits / 8;
    return QS_OK;
}

qs_err qs_packed_alloc_exl2(qs_packed *packed, const qs_packed_group *groups)
{
    qs_packed filled = *packed;
    int64_t n_groups = packed->n_groups;
    qs_err err;
    filled.groups = NULL;
    filled.codes = filled.scale_codes = NULL;
    filled.scale_max = NULL;
    filled.perm = NULL;
    QS_TRY(QS_NEW(filled.groups, n_groups, "groups"));
    QS_TRY(QS_NEW(filled.codes, packed->n_out * packed->row_bytes, "packed codes"));
    QS_TRY(QS_NEW(filled.scale_codes, packed->n_out * n_groups, "codes of scales"));
    QS_TRY(QS_NEW(filled.scale_max, n_groups, "largest scales"));
    QS_TRY(QS_NEW(filled.perm, packed->n_in, "packed permutation"));
    memcpy(filled.groups, groups, (size_t)n_groups * sizeof *groups);
    for (int64_t j = 0; j < packed->n_in; j++) filled.perm[j] = (int32_t)j;
    *packed = filled;
out:
    if (err != QS_OK) qs_packed_free(&filled);
    return err;
}

float qs_exl2_scale(uint16_t scale_max, int code)
{
    float step = qs_f32_from_f16(qs_f16_from_f32(qs_f32_from_f16(scale_max) * (1.0f / 256.0f)));
    return qs_f32_from_f16(qs_f16_from_f32((float)((code + 1) * (code + 1)) * step));
}

qs_err qs_exl2_check(const qs_packed *packed, const char *name)
{
    if (packed->groups == NULL || packed->scale_codes == NULL || packed->scale_max == NULL || packed->perm == NULL)
        return qs_fail(QS_E_INPUT, "check %s: groups, scales or the permutation are missing", name);
    if (packed->scales != NULL || packed->zeros != NULL || packed->absmax != NULL || packed->absmax_codes != NULL)
        return qs_fail(QS_E_INPUT, "check %s: exl2 has neither scales of 16 bits nor zero points nor maxima", name);
    for (int64_t g = 0; g < packed->n_groups; g++)
        if ((packed->scale_max[g] & 0x7C00) == 0x7C00)
            return qs_fail(QS_E_NUMERIC, "check %s: the largest scale of group %lld is not finite", name, (long long)g);
    for (int64_t i = 0; i < packed->n_out * packed->n_groups; i++)
        if (packed->scale_codes[i] > 15)
            return qs_fail(QS_E_INPUT, "check %s: the scale of row %lld, group %lld is code %d, beyond 15", name,
                           (long long)(i / packed->n_groups), (long long)(i % packed->n_groups),
                           packed->scale_codes[i]);
    return qs_packed_check_perm(packed, name);
}

void qs_exl2_set_row(qs_packed *packed, int64_t row, const uint8_t *codes)
{
    uint8_t *dst = packed->codes + row * packed->row_bytes;
    unsigned pending = 0;
    int n_pending = 0;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        int bits = packed->groups[g].bits;
        for (int64_t j = packed->groups[g].first; j < qs_packed_group_end(packed, g); j++) {
            pending |= (codes[j] & ((1u << bits) - 1u)) << n_pending;
            n_pending += bits;
            if (n_pending < 8) continue;
            *dst++ = (uint8_t)pending;
            pending >>= 8;
            n_pending -= 8;
        }
    }
}

void qs_exl2_get_row(const qs_packed *packed, int64_t row, uint8_t *codes)
{
    const uint8_t *src = packed->codes + row * packed->row_bytes;
    unsigned pending = 0;
    int n_pending = 0;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        int bits = packed->groups[g].bits;
        for (int64_t j = packed->groups[g].first; j < qs_packed_group_end(packed, g); j++) {
            if (n_pending < bits) {
                pending |= (unsigned)*src++ << n_pending;
                n_pending += 8;
            }
            codes[j] = (uint8_t)(pending & ((1u << bits) - 1u));
            pending >>= bits;
            n_pending -= bits;
        }
    }
}

static float weight_of(int code, int bits, float scale)
{
    return qs_f32_from_f16(qs_f16_from_f32((float)(code - (1 << (bits - 1))) * scale));
}

/* Narrow codes are looked up: there are fewer of them than columns. */
void qs_exl2_dequant_row(const qs_packed *packed, int64_t row, float *dst)
{
    const uint8_t *src = packed->codes + row * packed->row_bytes;
    float table[1 << QS_EXL2_BITS_MAX];
    unsigned pending = 0;
    int n_pending = 0;
    for (int64_t g = 0; g < packed->n_groups; g++) {
        int bits = packed->groups[g].bits, n_codes = 1 << bits;
        int64_t first = packed->groups[g].first, end = qs_packed_group_end(packed, g);
        float scale = qs_exl2_scale(packed->scale_max[g], packed->scale_codes[row * packed->n_groups + g]);
        bool look_up = n_codes <= end - first;
        for (int c = 0; look_up && c < n_codes; c++) table[c] = weight_of(c, bits, scale);
        for (int64_t j = first; j < end; j++) {
            if (n_pending < bits) {
                pending |= (unsigned)*src++ << n_pending;
                n_pending += 8;
            }
            int code = (int)(pending & (unsigned)(n_codes - 1));
            dst[packed->perm[j]] = look_up ? table[code] : weight_of(code, bits, scale);
            pending >>= bits;
            n_pending -= bits;
        }
    }
}

/* As the checkpoint has it: 4 bits a scale, 16 a largest scale, 32 a group and 32 a channel's place. */
int64_t qs_exl2_stored_bits(const qs_packed *packed)
{
    return packed->n_out * (packed->row_bytes * 8 + packed->n_groups * 4) + packed->n_groups * (16 + 32) +
           packed->n_in * 32;
}
