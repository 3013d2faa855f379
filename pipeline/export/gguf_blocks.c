#include "export/gguf_blocks.h"

#include <stdio.h>
#include <string.h>

#include "base/dtype.h"

/* From small to large, which is the order of choice. */
const qs_gguf_kind qs_gguf_kinds[] = {
    {.name = "q4_0", .storage = QS_STORE_Q4_0, .file_type = 2, .low = -8, .high = 7},
    {.name = "q4_1", .storage = QS_STORE_Q4_1, .file_type = 3, .affine = true, .high = 15},
    {.name = "q5_0", .storage = QS_STORE_Q5_0, .file_type = 8, .low = -16, .high = 15},
    {.name = "q5_1", .storage = QS_STORE_Q5_1, .file_type = 9, .affine = true, .high = 31},
    {.name = "q8_0", .storage = QS_STORE_Q8_0, .file_type = 7, .low = -128, .high = 127},
    {.name = "f16", .storage = QS_STORE_F16, .file_type = 1, .dense = true},
    {.name = "f32", .storage = QS_STORE_F32, .file_type = 0, .dense = true},
    {.name = NULL},
};

qs_err qs_gguf_kind_find(const qs_gguf_kind **out, const char *name)
{
    char names[128] = "";
    for (*out = qs_gguf_kinds; (*out)->name != NULL; ++*out) {
        if (strcmp((*out)->name, name) == 0) return QS_OK;
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", used == 0 ? "" : ", ", (*out)->name);
    }
    *out = NULL;
    return qs_fail(QS_E_USAGE, "--type %s: it is one of %s", name, names);
}

bool qs_gguf_kind_holds(const qs_gguf_kind *kind, int bits, bool sym)
{
    int most = (1 << bits) - 1, middle = 1 << (bits - 1);
    if (kind->dense) return true;
    if (kind->affine) return most <= kind->high;
    return sym ? -middle >= kind->low && most - middle <= kind->high : -most >= kind->low && most <= kind->high;
}

const qs_gguf_kind *qs_gguf_kind_choose(int bits, bool sym)
{
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++)
        if (!kind->dense && qs_gguf_kind_holds(kind, bits, sym)) return kind;
    return NULL;
}

static void put_half(uint8_t *dst, uint16_t half) { memcpy(dst, &half, sizeof half); }

/* Nibbles of element j in the low half of byte j, of element j + 16 in the high half of it. */
static void put_nibbles(uint8_t *dst, const uint8_t *q)
{
    for (int j = 0; j < QS_GGUF_BLOCK / 2; j++)
        dst[j] = (uint8_t)((q[j] & 15) | (q[j + QS_GGUF_BLOCK / 2] & 15) << 4);
}

/* The fifth bits, bit j of element j. */
static void put_fifths(uint8_t *dst, const uint8_t *q)
{
    uint32_t bits = 0;
    for (int j = 0; j < QS_GGUF_BLOCK; j++) bits |= (uint32_t)(q[j] >> 4 & 1) << j;
    memcpy(dst, &bits, sizeof bits);
}

/* q: codes of the kind, from 0. */
static uint8_t *put_block(const qs_gguf_kind *kind, uint8_t *dst, uint16_t scale, uint16_t minimum, const uint8_t *q)
{
    bool five = kind->storage == QS_STORE_Q5_0 || kind->storage == QS_STORE_Q5_1;
    put_half(dst, scale);
    dst += sizeof scale;
    if (kind->affine) {
        put_half(dst, minimum);
        dst += sizeof minimum;
    }
    if (kind->storage == QS_STORE_Q8_0) {
        for (int j = 0; j < QS_GGUF_BLOCK; j++) dst[j] = (uint8_t)(q[j] - 128); /* int8 */
        return dst + QS_GGUF_BLOCK;
    }
    if (five) {
        put_fifths(dst, q);
        dst += sizeof(uint32_t);
    }
    put_nibbles(dst, q);
    return dst + QS_GGUF_BLOCK / 2;
}

qs_err qs_gguf_put_row(const qs_gguf_kind *kind, const qs_packed *p, int64_t row, uint8_t *codes, uint8_t *dst)
{
    qs_packed_get_row(p, row, codes);
    for (int64_t at = 0; at < p->n_in; at += QS_GGUF_BLOCK) {
        int64_t group = row * p->n_groups + at / p->group_size;
        int zero = p->zeros != NULL ? p->zeros[group] : 1 << (p->bits - 1);
        uint16_t scale = p->scales[group], minimum = 0;
        uint8_t q[QS_GGUF_BLOCK];
        int shift = kind->affine ? 0 : -kind->low - zero;
        if (kind->affine) {
            minimum = qs_f16_from_f32(-qs_f32_from_f16(scale) * (float)zero);
            if ((minimum & 0x7C00) == 0x7C00)
                return qs_fail(QS_E_NUMERIC, "row %lld, group %lld: the minimum %g is beyond the range of f16",
                               (long long)row, (long long)(at / p->group_size),
                               (double)(-qs_f32_from_f16(scale) * (float)zero));
        }
        for (int j = 0; j < QS_GGUF_BLOCK; j++) q[j] = (uint8_t)(codes[at + j] + shift);
        dst = put_block(kind, dst, scale, minimum, q);
    }
    return QS_OK;
}
