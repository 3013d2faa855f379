#include "export/gguf_blocks.h"

#include <stdio.h>
#include <string.h>

#include "base/dtype.h"
#include "model/dequant.h"

enum { SUPER = 256 };

/* From small to large, which is the order of choice. What llama.cpp's own quantiser takes for rows that are no whole
 * blocks of 256 is `narrow`. */
const qs_gguf_kind qs_gguf_kinds[] = {
    {.name = "q2_k", .storage = QS_STORE_Q2_K, .file_type = 10, .grid = {2, true, 16, SUPER, 4}, .narrow = "q4_0"},
    {.name = "q3_k", .storage = QS_STORE_Q3_K, .file_type = 11, .grid = {3, false, 16, SUPER, 6}, .narrow = "q4_0"},
    {.name = "iq4_xs", .storage = QS_STORE_IQ4_XS, .file_type = 30, .grid = {4, false, 32, SUPER, 6, qs_iq4_values},
     .narrow = "iq4_nl"},
    {.name = "iq4_nl", .storage = QS_STORE_IQ4_NL, .file_type = 25, .grid = {4, false, 32, 32, 0, qs_iq4_values}},
    {.name = "q4_0", .storage = QS_STORE_Q4_0, .file_type = 2, .low = -8, .high = 7, .grid = {4, false, 32, 32, 0}},
    {.name = "q4_1", .storage = QS_STORE_Q4_1, .file_type = 3, .high = 15, .grid = {4, true, 32, 32, 0}},
    {.name = "q5_0", .storage = QS_STORE_Q5_0, .file_type = 8, .low = -16, .high = 15, .grid = {5, false, 32, 32, 0}},
    {.name = "q5_1", .storage = QS_STORE_Q5_1, .file_type = 9, .high = 31, .grid = {5, true, 32, 32, 0}},
    {.name = "q8_0", .storage = QS_STORE_Q8_0, .file_type = 7, .low = -128, .high = 127, .grid = {8, false, 32, 32, 0}},
    {.name = "q4_k", .storage = QS_STORE_Q4_K, .file_type = 14, .grid = {4, true, 32, SUPER, 6}, .narrow = "q5_0"},
    {.name = "q5_k", .storage = QS_STORE_Q5_K, .file_type = 16, .grid = {5, true, 32, SUPER, 6}, .narrow = "q5_1"},
    {.name = "q6_k", .storage = QS_STORE_Q6_K, .file_type = 18, .grid = {6, false, 16, SUPER, 8}, .narrow = "q8_0"},
    {.name = "f16", .storage = QS_STORE_F16, .file_type = 1, .dense = true},
    {.name = "f32", .storage = QS_STORE_F32, .file_type = 0, .dense = true},
    {.name = NULL},
};

const qs_gguf_kind *qs_gguf_kind_named(const char *name)
{
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++)
        if (strcmp(kind->name, name) == 0) return kind;
    return NULL;
}

qs_err qs_gguf_kind_find(const qs_gguf_kind **out, const char *option, const char *name, const char *more)
{
    char names[128] = "";
    *out = qs_gguf_kind_named(name);
    if (*out != NULL) return QS_OK;
    for (const qs_gguf_kind *kind = qs_gguf_kinds; kind->name != NULL; kind++) {
        size_t used = strlen(names);
        (void)snprintf(names + used, sizeof names - used, "%s%s", used == 0 ? "" : ", ", kind->name);
    }
    return qs_fail(QS_E_USAGE, "--%s %s: it is one of %s%s", option, name, names, more);
}

const qs_gguf_kind *qs_gguf_kind_for_row(const qs_gguf_kind *kind, int64_t n_in)
{
    if (kind->dense || n_in % kind->grid.unit == 0) return kind;
    if (kind->narrow == NULL || n_in % QS_GGUF_BLOCK != 0) return NULL;
    return qs_gguf_kind_named(kind->narrow);
}

bool qs_gguf_kind_holds(const qs_gguf_kind *kind, int bits, bool sym)
{
    int most = (1 << bits) - 1, middle = 1 << (bits - 1);
    if (kind->dense) return true;
    if (kind->low == kind->high) return false;
    if (kind->grid.affine) return most <= kind->high;
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
    if (kind->grid.affine) {
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
        int shift = kind->grid.affine ? 0 : -kind->low - zero;
        if (kind->grid.affine) {
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

/* ---- blocks of codes that were aimed ---- */

/* Level and low of eight subs, six bits each: those of the first four in a byte, of the last four in a byte's low and
 * high half, with their upper two bits above the first four's. */
static void put_levels(uint8_t dst[12], const qs_gguf_scales *scales, int row)
{
    for (int i = 0; i < 4; i++) {
        int level = scales->level[i + 4][row], low = scales->low[i + 4][row];
        dst[i] = (uint8_t)(scales->level[i][row] | level >> 4 << 6);
        dst[i + 4] = (uint8_t)(scales->low[i][row] | low >> 4 << 6);
        dst[i + 8] = (uint8_t)((level & 15) | (low & 15) << 4);
    }
}

/* Q4_K and Q5_K: 32 bytes hold two runs of 32, low halves first; the fifth bits of all runs in 32 bytes before. */
static void put_nibbles_k(uint8_t *dst, const uint8_t *q, bool five)
{
    if (five) {
        for (int j = 0; j < 32; j++) {
            int bits = 0;
            for (int run = 0; run < SUPER / 32; run++) bits |= (q[run * 32 + j] >> 4) << run;
            dst[j] = (uint8_t)bits;
        }
        dst += 32;
    }
    for (int run = 0; run < SUPER / 32; run += 2)
        for (int j = 0; j < 32; j++)
            dst[run * 16 + j] = (uint8_t)((q[run * 32 + j] & 15) | (q[run * 32 + 32 + j] & 15) << 4);
}

static void put_45_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q,
                     bool five)
{
    put_half(dst, halves[0]);
    put_half(dst + 2, halves[1]);
    put_levels(dst + 4, scales, row);
    put_nibbles_k(dst + 16, q, five);
}

static void put_q4_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    put_45_k(dst, scales, row, halves, q, false);
}

static void put_q5_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    put_45_k(dst, scales, row, halves, q, true);
}

/* Two halves of 128: in each, 32 bytes hold the lower two bits of four runs of 32, upwards. */
static void put_twos(uint8_t *dst, const uint8_t *q)
{
    memset(dst, 0, SUPER / 4);
    for (int i = 0; i < SUPER; i++) dst[i / 128 * 32 + i % 32] |= (uint8_t)((q[i] & 3) << i % 128 / 32 * 2);
}

/* Q2_K: level and low of a sub in a byte, codes, d and dmin. */
static void put_q2_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    uint8_t *twos = dst + SUPER / 16;
    for (int i = 0; i < SUPER / 16; i++) dst[i] = (uint8_t)(scales->level[i][row] | scales->low[i][row] << 4);
    put_twos(twos, q);
    put_half(twos + SUPER / 4, halves[0]);
    put_half(twos + SUPER / 4 + 2, halves[1]);
}

/* Q3_K: the third bits, bit k of byte j of element j of run k of 32; the lower two; levels, 32 more than they are: the
 * lower four bits of 0 .. 7 in the low halves of eight bytes, of 8 .. 15 in the high ones, then the upper two of levels
 * j, j + 4, j + 8 and j + 12 in byte j of four; d. */
static void put_q3_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    uint8_t *twos = dst + SUPER / 8, *levels = twos + SUPER / 4, *upper = levels + 8;
    memset(dst, 0, SUPER / 8);
    for (int i = 0; i < SUPER; i++) dst[i % 32] |= (uint8_t)(q[i] >> 2 << i / 32);
    put_twos(twos, q);
    memset(levels, 0, 12);
    for (int i = 0; i < SUPER / 16; i++) {
        int level = scales->level[i][row] + 32;
        levels[i % 8] |= (uint8_t)((level & 15) << i / 8 * 4);
        upper[i % 4] |= (uint8_t)(level >> 4 << i / 4 * 2);
    }
    put_half(upper + 4, halves[0]);
}

/* Two halves of 128: quarters 0 and 1 of a half have their lower four bits in the low halves of 64 bytes, 2 and 3 in
 * the high ones; upper two bits of all four quarters in 32 bytes. */
static void put_q6_k(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    uint8_t *high = dst + SUPER / 2, *levels = high + SUPER / 4;
    memset(dst, 0, SUPER / 2 + SUPER / 4);
    for (int i = 0; i < SUPER; i++) {
        int half = i / 128, quarter = i % 128 / 32, j = i % 32;
        dst[half * 64 + quarter % 2 * 32 + j] |= (uint8_t)((q[i] & 15) << quarter / 2 * 4);
        high[half * 32 + j] |= (uint8_t)(q[i] >> 4 << 2 * quarter);
    }
    for (int i = 0; i < SUPER / 16; i++) levels[i] = (uint8_t)scales->level[i][row]; /* int8 */
    put_half(levels + SUPER / 16, halves[0]);
}

/* IQ4_XS: d; levels, 32 more than they are, their upper two bits in a word and their lower four in four bytes; codes of
 * runs of 32. */
static void put_iq4_xs(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q)
{
    uint8_t *upper = dst + 2, *lower = upper + 2, *nibbles = lower + SUPER / 64;
    put_half(dst, halves[0]);
    memset(upper, 0, 2 + SUPER / 64);
    for (int run = 0; run < SUPER / QS_GGUF_BLOCK; run++) {
        int level = scales->level[run][row] + 32;
        upper[run / 4] |= (uint8_t)(level >> 4 << run % 4 * 2);
        lower[run / 2] |= (uint8_t)((level & 15) << run % 2 * 4);
        put_nibbles(nibbles + run * (QS_GGUF_BLOCK / 2), q + run * QS_GGUF_BLOCK);
    }
}

/* Blocks of 256, from d, dmin and the codes of row `row` of 64. */
static const struct {
    qs_storage storage;
    void (*put)(uint8_t *dst, const qs_gguf_scales *scales, int row, const uint16_t halves[2], const uint8_t *q);
} supers[] = {
    {QS_STORE_Q2_K, put_q2_k}, {QS_STORE_Q3_K, put_q3_k}, {QS_STORE_Q4_K, put_q4_k},
    {QS_STORE_Q5_K, put_q5_k}, {QS_STORE_Q6_K, put_q6_k}, {QS_STORE_IQ4_XS, put_iq4_xs},
};

void qs_gguf_put_block(const qs_gguf_kind *kind, const qs_gguf_scales *scales, int row, const uint8_t *codes,
                       uint8_t *dst)
{
    const uint16_t halves[2] = {qs_f16_from_f32(scales->d[row]), qs_f16_from_f32(scales->dmin[row])};
    if (kind->grid.unit == QS_GGUF_BLOCK) (void)put_block(kind, dst, halves[0], halves[1] ^ 0x8000, codes); /* -m */
    for (size_t i = 0; i < sizeof supers / sizeof *supers; i++)
        if (supers[i].storage == kind->storage) supers[i].put(dst, scales, row, halves, codes);
}
