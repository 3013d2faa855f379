#include "model/dequant.h"

#include <string.h>

#include "base/dtype.h"

/* Bytes only, so that the structs have no padding and no alignment: tensors of a file lie at any address. */
enum { SMALL = 32, SUPER = 256 };

typedef struct block_q8_0 {
    uint8_t d[2];
    int8_t qs[SMALL];
} block_q8_0;
typedef struct block_q4_0 {
    uint8_t d[2], qs[SMALL / 2];
} block_q4_0;
typedef struct block_q4_1 {
    uint8_t d[2], m[2], qs[SMALL / 2];
} block_q4_1;
typedef struct block_q5_0 {
    uint8_t d[2], qh[4], qs[SMALL / 2];
} block_q5_0;
typedef struct block_q5_1 {
    uint8_t d[2], m[2], qh[4], qs[SMALL / 2];
} block_q5_1;
typedef struct block_q2_k {
    uint8_t scales[SUPER / 16], qs[SUPER / 4], d[2], dmin[2];
} block_q2_k;
typedef struct block_q3_k {
    uint8_t hmask[SUPER / 8], qs[SUPER / 4], scales[12], d[2];
} block_q3_k;
typedef struct block_q4_k {
    uint8_t d[2], dmin[2], scales[12], qs[SUPER / 2];
} block_q4_k;
typedef struct block_q5_k {
    uint8_t d[2], dmin[2], scales[12], qh[SUPER / 8], qs[SUPER / 2];
} block_q5_k;
typedef struct block_q6_k {
    uint8_t ql[SUPER / 2], qh[SUPER / 4];
    int8_t scales[SUPER / 16];
    uint8_t d[2];
} block_q6_k;
typedef struct block_iq4_nl {
    uint8_t d[2], qs[SMALL / 2];
} block_iq4_nl;
typedef struct block_iq4_xs {
    uint8_t d[2], scales_h[2], scales_l[SUPER / 64], qs[SUPER / 2];
} block_iq4_xs;

_Static_assert(sizeof(block_q8_0) == 34, "Q8_0");
_Static_assert(sizeof(block_q4_0) == 18, "Q4_0");
_Static_assert(sizeof(block_q4_1) == 20, "Q4_1");
_Static_assert(sizeof(block_q5_0) == 22, "Q5_0");
_Static_assert(sizeof(block_q5_1) == 24, "Q5_1");
_Static_assert(sizeof(block_q2_k) == 84, "Q2_K");
_Static_assert(sizeof(block_q3_k) == 110, "Q3_K");
_Static_assert(sizeof(block_q4_k) == 144, "Q4_K");
_Static_assert(sizeof(block_q5_k) == 176, "Q5_K");
_Static_assert(sizeof(block_q6_k) == 210, "Q6_K");
_Static_assert(sizeof(block_iq4_nl) == 18, "IQ4_NL");
_Static_assert(sizeof(block_iq4_xs) == 136, "IQ4_XS");

const int8_t qs_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float half_at(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return qs_f32_from_f16(half);
}

static void from_f32(float *dst, const uint8_t *src, int64_t n) { memcpy(dst, src, (size_t)n * sizeof *dst); }

/* The array conversions want aligned elements; safetensors files of odd header length do not give them. */
static void from_halves(float *dst, const uint8_t *src, int64_t n,
                        void (*convert)(float *dst, const uint16_t *src, int64_t n))
{
    if ((uintptr_t)src % sizeof(uint16_t) == 0) {
        convert(dst, (const uint16_t *)(const void *)src, n);
        return;
    }
    uint16_t aligned[512];
    const int64_t step = sizeof aligned / sizeof aligned[0];
    for (int64_t i = 0; i < n; i += step) {
        int64_t count = n - i < step ? n - i : step;
        memcpy(aligned, src + (size_t)i * sizeof aligned[0], (size_t)count * sizeof aligned[0]);
        convert(dst + i, aligned, count);
    }
}

static void from_f16(float *dst, const uint8_t *src, int64_t n)
{
    from_halves(dst, src, n, qs_f32_from_f16_array);
}

static void from_bf16(float *dst, const uint8_t *src, int64_t n)
{
    from_halves(dst, src, n, qs_f32_from_bf16_array);
}

static void from_q8_0(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q8_0 *b = (const block_q8_0 *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) {
        float d = half_at(b->d);
        for (int j = 0; j < SMALL; j++) dst[j] = (float)b->qs[j] * d;
    }
}

static void from_q4_0(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q4_0 *b = (const block_q4_0 *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) {
        float d = half_at(b->d);
        for (int j = 0; j < SMALL / 2; j++) dst[j] = (float)((b->qs[j] & 15) - 8) * d;
        for (int j = 0; j < SMALL / 2; j++) dst[j + SMALL / 2] = (float)((b->qs[j] >> 4) - 8) * d;
    }
}

static void from_q4_1(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q4_1 *b = (const block_q4_1 *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) {
        float d = half_at(b->d), m = half_at(b->m);
        for (int j = 0; j < SMALL / 2; j++) dst[j] = (float)(b->qs[j] & 15) * d + m;
        for (int j = 0; j < SMALL / 2; j++) dst[j + SMALL / 2] = (float)(b->qs[j] >> 4) * d + m;
    }
}

/* Bit j of the little-endian word is the fifth bit of element j. */
static void codes_q5(int codes[SMALL], const uint8_t qh[4], const uint8_t qs[SMALL / 2])
{
    uint32_t high;
    memcpy(&high, qh, sizeof high);
    for (int j = 0; j < SMALL / 2; j++) {
        codes[j] = (qs[j] & 15) | (int)(high >> j & 1u) << 4;
        codes[j + SMALL / 2] = (qs[j] >> 4) | (int)(high >> (j + SMALL / 2) & 1u) << 4;
    }
}

static void from_q5_0(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q5_0 *b = (const block_q5_0 *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) {
        float d = half_at(b->d);
        int codes[SMALL];
        codes_q5(codes, b->qh, b->qs);
        for (int j = 0; j < SMALL; j++) dst[j] = (float)(codes[j] - 16) * d;
    }
}

static void from_q5_1(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q5_1 *b = (const block_q5_1 *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) {
        float d = half_at(b->d), m = half_at(b->m);
        int codes[SMALL];
        codes_q5(codes, b->qh, b->qs);
        for (int j = 0; j < SMALL; j++) dst[j] = (float)codes[j] * d + m;
    }
}

/* Two halves of 128; in each, 32 bytes hold four runs of 32 elements at shifts 0, 2, 4, 6; a scale per 16. */
static void from_q2_k(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q2_k *b = (const block_q2_k *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SUPER) {
        float d = half_at(b->d), dmin = half_at(b->dmin);
        for (int run = 0; run < SUPER / 16; run++) {
            const uint8_t *qs = b->qs + run / 8 * 32 + run % 2 * 16;
            int shift = run % 8 / 2 * 2;
            float scale = d * (float)(b->scales[run] & 15), minimum = dmin * (float)(b->scales[run] >> 4);
            for (int j = 0; j < 16; j++) dst[run * 16 + j] = scale * (float)(qs[j] >> shift & 3) - minimum;
        }
    }
}

/* Six bits per scale: low nibbles of bytes 0-7, then their high nibbles; the upper two bits of scale j are in
 * byte 8 + j % 4 at bit 2 * (j / 4). */
static int scale_q3_k(const uint8_t scales[12], int j)
{
    int low = j < 8 ? scales[j] & 15 : scales[j - 8] >> 4;
    int high = scales[8 + j % 4] >> (2 * (j / 4)) & 3;
    return (low | high << 4) - 32;
}

/* As Q2_K; the mask's bit k belongs to the k-th run of 32 of the whole block, and a clear bit subtracts 4. */
static void from_q3_k(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q3_k *b = (const block_q3_k *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SUPER) {
        float d = half_at(b->d);
        for (int run = 0; run < SUPER / 16; run++) {
            const uint8_t *qs = b->qs + run / 8 * 32 + run % 2 * 16, *mask = b->hmask + run % 2 * 16;
            int shift = run % 8 / 2 * 2, bit = run / 2;
            float scale = d * (float)scale_q3_k(b->scales, run);
            for (int j = 0; j < 16; j++)
                dst[run * 16 + j] = scale * (float)((qs[j] >> shift & 3) - (mask[j] >> bit & 1 ? 0 : 4));
        }
    }
}

/* Scale and minimum of sub-block j (of 32), six bits each, packed in 12 bytes. */
static void scale_q4_k(int *scale, int *minimum, const uint8_t s[12], int j)
{
    if (j < 4) {
        *scale = s[j] & 63;
        *minimum = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
        *minimum = (s[j + 4] >> 4) | (s[j] >> 6) << 4;
    }
}

/* Q4_K, and Q5_K with its fifth bits in qh (NULL for Q4_K): 32 bytes hold two runs of 32, low nibbles first. */
static void from_nibbles_k(float *dst, float d, float dmin, const uint8_t scales[12], const uint8_t *qs,
                           const uint8_t *qh)
{
    for (int run = 0; run < SUPER / 32; run++) {
        int sc, m, shift = run % 2 * 4;
        scale_q4_k(&sc, &m, scales, run);
        float scale = d * (float)sc, minimum = dmin * (float)m;
        const uint8_t *q = qs + run / 2 * 32;
        for (int j = 0; j < 32; j++) {
            int code = (q[j] >> shift & 15) | (qh == NULL ? 0 : (qh[j] >> run & 1) << 4);
            dst[run * 32 + j] = scale * (float)code - minimum;
        }
    }
}

static void from_q4_k(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q4_k *b = (const block_q4_k *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SUPER)
        from_nibbles_k(dst, half_at(b->d), half_at(b->dmin), b->scales, b->qs, NULL);
}

static void from_q5_k(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q5_k *b = (const block_q5_k *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SUPER)
        from_nibbles_k(dst, half_at(b->d), half_at(b->dmin), b->scales, b->qs, b->qh);
}

/* Per half of 128: run r of 32 has its low nibbles in ql[32 * (r % 2) ..] (high nibbles for r >= 2), its
 * upper two bits at bit 2r of qh, and a scale per 16. */
static void from_q6_k(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_q6_k *b = (const block_q6_k *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SUPER) {
        float d = half_at(b->d);
        for (int run = 0; run < SUPER / 16; run++) {
            int half = run / 8, quarter = run % 8 / 2, first = run % 2 * 16;
            const uint8_t *ql = b->ql + half * 64 + quarter % 2 * 32 + first, *qh = b->qh + half * 32 + first;
            float scale = d * (float)b->scales[run];
            for (int j = 0; j < 16; j++) {
                int code = (ql[j] >> (quarter / 2 * 4) & 15) | (qh[j] >> (2 * quarter) & 3) << 4;
                dst[run * 16 + j] = scale * (float)(code - 32);
            }
        }
    }
}

static void from_iq4(float dst[SMALL], float d, const uint8_t qs[SMALL / 2])
{
    for (int j = 0; j < SMALL / 2; j++) dst[j] = d * (float)qs_iq4_values[qs[j] & 15];
    for (int j = 0; j < SMALL / 2; j++) dst[j + SMALL / 2] = d * (float)qs_iq4_values[qs[j] >> 4];
}

static void from_iq4_nl(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_iq4_nl *b = (const block_iq4_nl *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++, dst += SMALL) from_iq4(dst, half_at(b->d), b->qs);
}

/* Runs of 32 like blocks of IQ4_NL, each with a scale of six bits, 32 more than it is: the lower four in a nibble of
 * scales_l, the upper two in scales_h, a little-endian word. */
static void from_iq4_xs(float *dst, const uint8_t *src, int64_t n_blocks)
{
    const block_iq4_xs *b = (const block_iq4_xs *)src;
    for (int64_t i = 0; i < n_blocks; i++, b++) {
        float d = half_at(b->d);
        for (int run = 0; run < SUPER / SMALL; run++, dst += SMALL) {
            int low = b->scales_l[run / 2] >> (run % 2 * 4) & 15, high = b->scales_h[run / 4] >> (run % 4 * 2) & 3;
            from_iq4(dst, d * (float)((low | high << 4) - 32), b->qs + run * (SMALL / 2));
        }
    }
}

static const qs_storage_row rows[QS_N_STORAGES] = {
    [QS_STORE_F32] = {"f32", 1, sizeof(float), false, from_f32},
    [QS_STORE_F16] = {"f16", 1, sizeof(uint16_t), false, from_f16},
    [QS_STORE_BF16] = {"bf16", 1, sizeof(uint16_t), false, from_bf16},
    [QS_STORE_Q8_0] = {"q8_0", SMALL, sizeof(block_q8_0), false, from_q8_0},
    [QS_STORE_Q4_0] = {"q4_0", SMALL, sizeof(block_q4_0), true, from_q4_0},
    [QS_STORE_Q4_1] = {"q4_1", SMALL, sizeof(block_q4_1), true, from_q4_1},
    [QS_STORE_Q5_0] = {"q5_0", SMALL, sizeof(block_q5_0), true, from_q5_0},
    [QS_STORE_Q5_1] = {"q5_1", SMALL, sizeof(block_q5_1), true, from_q5_1},
    [QS_STORE_Q2_K] = {"q2_k", SUPER, sizeof(block_q2_k), true, from_q2_k},
    [QS_STORE_Q3_K] = {"q3_k", SUPER, sizeof(block_q3_k), true, from_q3_k},
    [QS_STORE_Q4_K] = {"q4_k", SUPER, sizeof(block_q4_k), true, from_q4_k},
    [QS_STORE_Q5_K] = {"q5_k", SUPER, sizeof(block_q5_k), true, from_q5_k},
    [QS_STORE_Q6_K] = {"q6_k", SUPER, sizeof(block_q6_k), false, from_q6_k},
    [QS_STORE_IQ4_NL] = {"iq4_nl", SMALL, sizeof(block_iq4_nl), true, from_iq4_nl},
    [QS_STORE_IQ4_XS] = {"iq4_xs", SUPER, sizeof(block_iq4_xs), true, from_iq4_xs},
};

const qs_storage_row *qs_storage_get(qs_storage storage) { return &rows[storage]; }

const char *qs_storage_name(qs_storage storage) { return rows[storage].name; }

double qs_storage_bits_per_weight(qs_storage storage)
{
    return 8.0 * (double)rows[storage].block_bytes / (double)rows[storage].block_elems;
}

size_t qs_storage_bytes(qs_storage storage, int64_t n)
{
    return (size_t)(n / rows[storage].block_elems) * rows[storage].block_bytes;
}

void qs_storage_to_f32(qs_storage storage, float *dst, const uint8_t *src, int64_t n)
{
    rows[storage].to_f32(dst, src, n / rows[storage].block_elems);
}
